// SPDX-License-Identifier: MIT
// Snapshots of a VM, through the QMP monitor that `vmkd run` adds.
//
// savevm, loadvm and delvm by human-monitor-command: they choose disks and the place of the VM's state by themselves, in every QEMU. The
// jobs snapshot-save and -load would have to be given node names, which only the VM's command line knows. What exists is asked of
// query-named-block-nodes, since that is JSON, and `info snapshots` is a table for people.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/error.h"
#include "target/snapshot.h"
#include "target/stream.h"
#include "target/target.h"
#include "util/rundir.h"

#define TIMEOUT_MS 300000u // a snapshot writes all of the guest's memory
#define REVERT_MS 3000u    // a guest of another time is found again within a second or so
#define SAID_MAX 400u

// ---- names ---------------------------------------------------------------------------------------------------------------------

// What needs no quotes in a monitor's line and cannot be taken for an option.
static struct vmkd_error *check_name(const char *name)
{
	static const char LEGAL[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strlen(name);

	if (len > 0 && len < VMKD_SNAPSHOT_NAME_MAX && strspn(name, LEGAL) == len && name[0] != '-' && name[0] != '.')
		return NULL;
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected a snapshot's name of 1 to %u letters, digits, '.', '_' and '-', got '%.40s'",
				 VMKD_SNAPSHOT_NAME_MAX - 1, name);
}

// ---- the monitor ---------------------------------------------------------------------------------------------------------------

static struct vmkd_error *open_monitor(const struct vmkd_target *target, uint64_t deadline, struct monitor **ret)
{
	char path[RUNDIR_PATH_MAX];

	if (target->vm_name[0] == '\0')
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "%s is not a vm:NAME: snapshots are taken by the VM that `vmkd run` has started",
					 target->name);
	struct error *error = rundir_path(target->vm_name, "qmp.sock", path);
	return error ? error_import(VMKD_E_ARGUMENT, error) : monitor_open(path, target->vm_name, deadline, ret);
}

static bool says(const char *said, const char *const *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strstr(said, words[i]))
			return true;
	return false;
}

// QEMU's words, and what to do about them.
static struct vmkd_error *explain(const char *vm_name, const char *what, const char *said)
{
	static const char *const NO_DISK[] = { "No block device", "no block device", "does not support snapshots", "can store vmstate" };
	static const char *const NO_SUCH[] = { "does not exist", "not have the requested snapshot", "can't find snapshot", "No such snapshot" };
	const char *advice = "";

	if (strncmp(said, "Error: ", strlen("Error: ")) == 0)
		said += strlen("Error: ");
	if (says(said, NO_DISK, sizeof(NO_DISK) / sizeof(NO_DISK[0])))
		advice = "; the VM needs a qcow2 disk, and no writable disk of another format: qemu-img create -f qcow2 FILE 1G, then "
			 "-drive if=none,id=vmstate,file=FILE";
	bool is_missing = says(said, NO_SUCH, sizeof(NO_SUCH) / sizeof(NO_SUCH[0]));
	return vmkd_error_create(is_missing ? VMKD_E_NOT_FOUND : VMKD_E_TARGET, "QEMU of %s cannot %s: %s%s", vm_name, what, said, advice);
}

struct vmkd_error *snapshot_command(struct monitor *monitor, const char *vm_name, const char *what, const char *command, const char *name,
				    uint64_t deadline)
{
	char line[32 + VMKD_SNAPSHOT_NAME_MAX], said[SAID_MAX];

	snprintf(line, sizeof(line), "%s %s", command, name);
	struct vmkd_error *error = monitor_human(monitor, line, deadline, said, sizeof(said));
	if (!error && said[0] != '\0')
		error = explain(vm_name, what, said);
	return error;
}

// ---- what there is -------------------------------------------------------------------------------------------------------------

// A number that the monitor sent, as far as it can be one of these. 0 stands for one that cannot.
static uint64_t number(const cJSON *object, const char *key)
{
	double value = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(object, key));

	return value >= 0 && value < 9e15 ? (uint64_t)value : 0;
}

// -> false: not a snapshot of a VM.
static bool decode(const cJSON *item, struct vmkd_snapshot *ret)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));

	*ret = (struct vmkd_snapshot){ .size = number(item, "vm-state-size"), .taken_at = number(item, "date-sec") };
	ret->vm_clock_ms = number(item, "vm-clock-sec") % 1000000000u * 1000 + number(item, "vm-clock-nsec") % 1000000000u / 1000000u;
	if (!name || !name[0] || ret->size == 0)
		return false;
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	for (char *c = ret->name; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7F)
			*c = '?';
	return true;
}

// A node and what lies on top of it tell of the same ones.
static void add(struct vmkd_snapshot *list, size_t *count, const struct vmkd_snapshot *snapshot)
{
	for (size_t i = 0; i < *count; i++)
		if (strcmp(list[i].name, snapshot->name) == 0)
			return;
	if (*count < SNAPSHOTS_MAX)
		list[(*count)++] = *snapshot;
}

static int by_time(const void *a, const void *b)
{
	const struct vmkd_snapshot *left = a, *right = b;

	if (left->taken_at != right->taken_at)
		return left->taken_at < right->taken_at ? -1 : 1;
	return left->vm_clock_ms < right->vm_clock_ms ? -1 : left->vm_clock_ms > right->vm_clock_ms;
}

static size_t collect(const cJSON *nodes, struct vmkd_snapshot *list)
{
	const cJSON *node, *item;
	struct vmkd_snapshot snapshot;
	size_t count = 0;

	cJSON_ArrayForEach(node, nodes) {
		const cJSON *image = cJSON_GetObjectItemCaseSensitive(node, "image");
		cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(image, "snapshots"))
			if (decode(item, &snapshot))
				add(list, &count, &snapshot);
	}
	qsort(list, count, sizeof(list[0]), by_time);
	return count;
}

struct vmkd_error *snapshot_list(struct monitor *monitor, uint64_t deadline, struct vmkd_snapshot *ret, size_t *ret_count)
{
	cJSON *arguments = cJSON_CreateObject(), *nodes = NULL;

	if (!cJSON_AddTrueToObject(arguments, "flat")) {
		cJSON_Delete(arguments);
		return error_no_memory();
	}
	struct vmkd_error *error = monitor_execute(monitor, "query-named-block-nodes", arguments, deadline, &nodes);
	if (!error)
		*ret_count = collect(nodes, ret);
	cJSON_Delete(nodes);
	return error;
}

// Into memory of its own: *ret is the caller's to free, also after a failure.
static struct vmkd_error *find(struct monitor *monitor, uint64_t deadline, struct vmkd_snapshot **ret, size_t *ret_count)
{
	*ret = calloc(SNAPSHOTS_MAX, sizeof(**ret));
	return *ret ? snapshot_list(monitor, deadline, *ret, ret_count) : error_no_memory();
}

static struct vmkd_error *check_exists(const struct vmkd_target *target, struct monitor *monitor, const char *name, uint64_t deadline)
{
	struct vmkd_snapshot *list;
	size_t count = 0;
	struct vmkd_error *error = find(monitor, deadline, &list, &count);
	bool is_there = false;

	for (size_t i = 0; i < count; i++)
		is_there |= strcmp(list[i].name, name) == 0;
	free(list);
	if (error || is_there)
		return error;
	return vmkd_error_create(VMKD_E_NOT_FOUND, "%s has no snapshot '%s': `snapshots` lists its %zu", target->vm_name, name, count);
}

// ---- the API -------------------------------------------------------------------------------------------------------------------

static uint64_t deadline_of(uint32_t timeout_ms)
{
	return stream_now() + (timeout_ms ? timeout_ms : TIMEOUT_MS);
}

struct vmkd_error *vmkd_snapshot_take(struct vmkd_target *target, const char *name, uint32_t timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	struct monitor *monitor = NULL;
	struct vmkd_error *error = check_name(name);

	if (!error)
		error = open_monitor(target, deadline, &monitor);
	if (!error)
		error = snapshot_command(monitor, target->vm_name, "take a snapshot", "savevm", name, deadline);
	monitor_close(monitor);
	return error;
}

// What is told of a revert: once that the target has started over, and nothing of a reboot.
struct vmkd_error *target_revert_hidden(struct vmkd_target *target, const struct vmkd_event *event, bool *ret_is_hidden)
{
	*ret_is_hidden = false;
	if (target->revert_until == 0 || event->kind == VMKD_EVENT_NONE)
		return NULL;
	if (stream_now() >= target->revert_until) {
		target->revert_until = 0;
	} else if (event->kind == VMKD_EVENT_RESTARTED) {
		*ret_is_hidden = target->is_revert_told;
		target->is_revert_told = true;
	} else if (event->kind == VMKD_EVENT_SHUTDOWN) {
		*ret_is_hidden = true;
		// It may have been withdrawn meanwhile, by the answer to our RESET.
		return target->backend->ops->state(target->backend) == VMKD_STATE_STOPPED ? target_resume_reboot(target) : NULL;
	} else if (event->kind != VMKD_EVENT_PRINT) {
		target->revert_until = 0;
	}
	return NULL;
}

static struct vmkd_error *start_over(struct vmkd_target *target)
{
	struct vmkd_error *error = target->backend->ops->start_over(target->backend);

	target->is_revert_told = false;
	target->revert_until = stream_now() + REVERT_MS;
	return error;
}

struct vmkd_error *vmkd_snapshot_revert(struct vmkd_target *target, const char *name, uint32_t timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	struct monitor *monitor = NULL;
	struct vmkd_error *error = check_name(name);

	if (!error)
		error = open_monitor(target, deadline, &monitor);
	// QEMU pauses the VM before it looks, and leaves it so.
	if (!error)
		error = check_exists(target, monitor, name, deadline);
	if (!error)
		error = snapshot_command(monitor, target->vm_name, "load the snapshot (the VM may be paused now)", "loadvm", name, deadline);
	monitor_close(monitor);
	return error ? error : start_over(target);
}

struct vmkd_error *vmkd_snapshot_delete(struct vmkd_target *target, const char *name, uint32_t timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	struct monitor *monitor = NULL;
	struct vmkd_error *error = check_name(name);

	if (!error)
		error = open_monitor(target, deadline, &monitor);
	if (!error)
		error = check_exists(target, monitor, name, deadline);
	if (!error)
		error = snapshot_command(monitor, target->vm_name, "delete the snapshot", "delvm", name, deadline);
	monitor_close(monitor);
	return error;
}

struct vmkd_error *vmkd_snapshots_read(struct vmkd_target *target, struct vmkd_snapshot *buffer, size_t max, size_t *ret_count)
{
	uint64_t deadline = deadline_of(0);
	struct vmkd_snapshot *list = NULL;
	struct monitor *monitor = NULL;
	size_t count = 0;
	struct vmkd_error *error = open_monitor(target, deadline, &monitor);

	if (!error)
		error = find(monitor, deadline, &list, &count);
	if (!error) {
		memcpy(buffer, list, (count < max ? count : max) * sizeof(*buffer));
		*ret_count = count;
	}
	free(list);
	monitor_close(monitor);
	return error;
}
