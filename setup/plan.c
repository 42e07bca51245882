// SPDX-License-Identifier: MIT
#include "setup/job.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "setup/bootini.h"
#include "setup/hive.h"
#include "setup/service.h"
#include "util/cleanup.h"
#include "util/installed.h"

#define MODULE_MAX (16u << 20)
#define ROOM_SPARE (1u << 20) // folders, the journal, NTFS' own records
#define KDCOM "kdcom.dll"
#define KDCOM_KEPT "kdcom_vmkd_original.dll"

// ---- What there is -------------------------------------------------------------------------------------------

static struct error *check_no_journal(const struct job *job)
{
	int root = job->windows_volume.root;

	if (files_exists(root, job_own_path(job, JOURNAL_FILE)))
		return error_create(EEXIST, "it is set up already, or an earlier set-up was interrupted; nothing was changed. `vmkd setup --undo` puts it back");
	if (files_exists(root, job_own_path(job, "journal.txt")))
		return error_create(EEXIST, "it was prepared by install.cmd, whose journal is in \\%s\\" JOURNAL_FOLDER "; uninstall.cmd in the guest undoes that", job->windows.folder);
	if (files_exists(root, job_own_path(job, "")))
		return error_create(EEXIST, "there is a folder \\%s\\" JOURNAL_FOLDER " without a journal; `vmkd setup --undo` removes what an interrupted set-up left", job->windows.folder);
	return NULL;
}

struct error *plan_check_hive(const struct mounted *m, const char *path, const struct bytes *hive)
{
	static const char *const logs[] = { "LOG", "LOG1", "LOG2" };
	struct error *error = hive_check(hive);

	for (size_t i = 0; !error && i < 3; i++) {
		char name[FILES_PATH_MAX];
		struct bytes log = { 0 };
		snprintf(name, sizeof(name), "%s.%s", path, logs[i]);
		error = volumes_read(m, name, HIVE_SIZE_MAX, &log);
		if (!error) {
			error = hive_check_log(hive, &log);
		} else if (error->code == ENOENT) {
			error_free(error);
			error = NULL;
		}
		bytes_deinit(&log);
	}
	return error_prefix(error, "%s", path);
}

static struct error *read_hive(const struct mounted *m, const char *path, struct bytes *ret)
{
	struct bytes hive = { 0 };
	struct error *error = volumes_read(m, path, HIVE_SIZE_MAX, &hive);

	if (!error)
		error = plan_check_hive(m, path, &hive);
	if (error)
		bytes_deinit(&hive);
	else
		*ret = hive;
	return error;
}

// A file of ours on the host: signed, from the guest medium's folder, if that has been built or installed.
static struct error *read_ours(const struct job *job, const char *name, struct bytes *ret)
{
	const char *arch = job->windows.is_x64 ? "x64" : "x86";
	char signed_one[64], plain[64];
	char *path = NULL;
	uint16_t machine = 0;

	snprintf(signed_one, sizeof(signed_one), "guest/medium/%s/%s", arch, name);
	snprintf(plain, sizeof(plain), "guest/%s/%s", arch, name);
	struct error *error = installed_find(signed_one, &path);
	if (error) {
		error_free(error);
		error = installed_find(plain, &path);
	}
	if (error)
		return error;
	int folder CLEANUP_CLOSE = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	error = files_read(folder, path + 1, MODULE_MAX, ret);
	free(path);
	if (!error && (!windows_pe_machine(ret, &machine) || machine != (job->windows.is_x64 ? WINDOWS_MACHINE_X64 : WINDOWS_MACHINE_X86))) {
		bytes_deinit(ret);
		return error_create(EINVAL, "our own %s is not for %s; build or install vmkd anew", name, arch);
	}
	return error;
}

// ---- The changes ---------------------------------------------------------------------------------------------

static struct change *next_change(struct plan *plan, enum journal_op op, char volume)
{
	struct change *change = &plan->changes[plan->count++];

	*change = (struct change){ .step = { .op = op, .volume = volume } };
	return change;
}

static struct content content_of(const struct bytes *bytes)
{
	return (struct content){ .size = bytes->len, .sum = bytes_sum(bytes->data, bytes->len) };
}

static struct error *must_be_free(const struct job *job, const char *path)
{
	if (!files_exists(job->windows_volume.root, path))
		return NULL;
	return error_create(EEXIST, "%s is there already, and no journal of vmkd; if you know where it is from, remove it in the guest", path);
}

static struct error *plan_file(struct job *job, struct plan *plan, const char *name, const char *place)
{
	struct change *change = next_change(plan, JOURNAL_CREATE, 'w');

	snprintf(change->step.path, sizeof(change->step.path), "%s/System32/%s", job->windows.folder, place);
	struct error *error = read_ours(job, name, &change->after);
	if (error)
		return error;
	change->step.after = content_of(&change->after);
	if (!windows_pe_is_signed(&change->after) && job->windows.is_x64)
		printf("note: our %s has no signature; `make guest-iso` makes signed ones\n", name);
	return NULL;
}

// Windows 8 and later load the transport by the name kdcom.dll alone; the original keeps its place in the folder under another name.
static struct error *plan_kdcom(struct job *job, struct plan *plan)
{
	char kept[FILES_PATH_MAX];
	struct change *change = next_change(plan, JOURNAL_RENAME, 'w');

	snprintf(change->step.path, sizeof(change->step.path), "%s/System32/" KDCOM, job->windows.folder);
	snprintf(change->step.name, sizeof(change->step.name), KDCOM_KEPT);
	snprintf(kept, sizeof(kept), "%s/System32/" KDCOM_KEPT, job->windows.folder);
	if (!files_exists(job->windows_volume.root, change->step.path))
		return error_create(ENOENT, "%s is missing; expected the transport of every Windows", change->step.path);
	struct error *error = must_be_free(job, kept);
	return error ? error : plan_file(job, plan, "kdvmkd.dll", KDCOM);
}

static struct error *plan_module(struct job *job, struct plan *plan)
{
	char path[FILES_PATH_MAX];
	struct error *error;

	snprintf(path, sizeof(path), "%s/System32/kdvmkd.dll", job->windows.folder);
	error = must_be_free(job, path);
	if (error)
		return error;
	return job->windows.generation >= WINDOWS_8 ? plan_kdcom(job, plan) : plan_file(job, plan, "kdvmkd.dll", "kdvmkd.dll");
}

static struct error *plan_driver(struct job *job, struct plan *plan)
{
	char path[FILES_PATH_MAX];
	struct error *error;

	snprintf(path, sizeof(path), "%s/System32/drivers/vmkd.sys", job->windows.folder);
	error = must_be_free(job, path);
	return error ? error : plan_file(job, plan, "vmkd.sys", "drivers/vmkd.sys");
}

static struct change *plan_replace(struct plan *plan, enum journal_kind kind, char volume, const char *path)
{
	struct change *change = next_change(plan, JOURNAL_REPLACE, volume);

	change->step.kind = kind;
	change->step.number = plan->count;
	snprintf(change->step.path, sizeof(change->step.path), "%s", path);
	return change;
}

static struct error *add_service(hive_h *h, void *arg)
{
	(void)arg;
	return service_add(h);
}

static struct error *plan_service(struct job *job, struct plan *plan)
{
	char path[FILES_PATH_MAX];

	snprintf(path, sizeof(path), "%s/System32/config/SYSTEM", job->windows.folder);
	struct change *change = plan_replace(plan, JOURNAL_SYSTEM, 'w', path);
	struct error *error = read_hive(&job->windows_volume, path, &change->before);
	if (!error)
		error = error_prefix(hive_edit(sandbox_folder(job->sandbox), &change->before, add_service, NULL, &change->after), "%s", path);
	return error;
}

static struct error *make_guid(char ret[static BCD_GUID_SIZE])
{
	uint8_t r[16];

	if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r))
		return error_create(errno, "no random numbers: %s", strerror(errno));
	r[6] = (r[6] & 0x0f) | 0x40; // version 4 (RFC 4122)
	r[8] = (r[8] & 0x3f) | 0x80;
	snprintf(ret, BCD_GUID_SIZE, "{%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x}", r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10],
	         r[11], r[12], r[13], r[14], r[15]);
	return NULL;
}

struct entry_job {
	const struct job *job;
	struct plan *plan;
};

static struct error *add_entry(hive_h *h, void *arg)
{
	struct entry_job *e = arg;
	struct plan *plan = e->plan;
	char from[BCD_GUID_SIZE];
	struct error *error = bcd_find_entry(h, from);

	if (error)
		return error;
	if (e->job->windows.generation >= WINDOWS_8 && bcd_has_debugging(h, from))
		return error_create(EEXIST, "the boot entry %s has debugging on, through kdcom.dll; that is replaced, so the entry would not start any more. Turn it off first: `bcdedit /debug off`", from);
	if (!bcd_default(h, plan->former))
		memcpy(plan->former, from, BCD_GUID_SIZE);
	error = make_guid(plan->guid);
	return error ? error : bcd_add_entry(h, from, plan->guid, e->job->windows.generation, e->job->options->make_default);
}

static struct error *plan_entry(struct job *job, struct plan *plan)
{
	bool is_xp = job->windows.generation == WINDOWS_XP;
	struct change *change = plan_replace(plan, is_xp ? JOURNAL_BOOTINI : JOURNAL_BCD, 'b', job->boot_path);
	const struct mounted *m = job_volume(job, 'b');
	struct entry_job e = { job, plan };

	if (is_xp) {
		struct error *error = volumes_read(m, job->boot_path, BOOTINI_SIZE_MAX, &change->before);
		return error ? error : error_prefix(bootini_add(&change->before, job->options->make_default, &change->after), "boot.ini");
	}
	struct error *error = read_hive(m, job->boot_path, &change->before);
	return error ? error : error_prefix(hive_edit(sandbox_folder(job->sandbox), &change->before, add_entry, &e, &change->after), "%s", job->boot_path);
}

// ---- Room ----------------------------------------------------------------------------------------------------

static struct error *check_room(const struct job *job, const struct plan *plan)
{
	struct statvfs fs;
	uint64_t needed = ROOM_SPARE;

	for (unsigned i = 0; i < plan->count; i++) {
		const struct change *c = &plan->changes[i];
		needed += c->before.len + (c->after.len > c->before.len ? c->after.len - c->before.len : 0); // the kept copy, and what grows
	}
	if (fstatvfs(job->windows_volume.root, &fs) < 0)
		return error_create(errno, "cannot tell the room on the volume of Windows: %s", strerror(errno));
	if (needed > (uint64_t)fs.f_bavail * fs.f_frsize)
		return error_create(ENOSPC, "%" PRIu64 " bytes are needed on the volume of Windows, and %" PRIu64 " are free", needed, (uint64_t)fs.f_bavail * fs.f_frsize);
	return NULL;
}

// ---- All of it -----------------------------------------------------------------------------------------------

struct error *plan_make(struct job *job, struct plan *ret)
{
	struct error *error = check_no_journal(job);

	*ret = (struct plan){ 0 };
	if (!error)
		error = plan_module(job, ret);
	if (!error)
		error = plan_driver(job, ret);
	if (!error)
		error = plan_service(job, ret);
	if (!error)
		error = plan_entry(job, ret); // last: it makes the rest count
	for (unsigned i = 0; !error && i < ret->count; i++) {
		struct change *c = &ret->changes[i];
		c->step.before = content_of(&c->before);
		c->step.after = content_of(&c->after);
	}
	return error ? error : check_room(job, ret);
}

void plan_deinit(struct plan *plan)
{
	for (unsigned i = 0; i < plan->count; i++) {
		bytes_deinit(&plan->changes[i].before);
		bytes_deinit(&plan->changes[i].after);
	}
	plan->count = 0;
}

void plan_show(const struct job *job, const struct plan *plan)
{
	const char *will = job->options->is_dry_run ? "would be " : "";

	for (unsigned i = 0; i < plan->count; i++) {
		const struct journal_step *s = &plan->changes[i].step;
		if (s->op == JOURNAL_RENAME)
			printf("%s: %skept as %s\n", s->path, will, s->name);
		else if (s->op == JOURNAL_CREATE)
			printf("%s: %sours now, %" PRIu64 " bytes\n", s->path, will, s->after.size);
		else
			printf("%s: %schanged: %s\n", s->path, will, s->kind == JOURNAL_SYSTEM ? "the service vmkd" : "a boot entry \"" BCD_NAME "\"");
	}
}
