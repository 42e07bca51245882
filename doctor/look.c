// SPDX-License-Identifier: MIT
#include "doctor/look.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "doctor/machine.h"
#include "util/cleanup.h"
#include "util/error.h"
#include "util/rundir.h"
#include "util/sock.h"
#include "wire/link.h"

#define GREETING_MS 2000 // it is sent by a thread that does nothing else

// ---- The process ------------------------------------------------------------------------------------------------

static void find_age(struct doctor_vm *vm)
{
	char path[64], text[1024];
	unsigned long long start = 0;
	struct timespec now;
	const char *rest;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", vm->pid);
	file = fopen(path, "re");
	if (!file)
		return;
	rest = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL; // what stands before may be anything
	fclose(file);
	// Field 22; the parenthesis ends field 2.
	if (!rest || sscanf(rest, ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &start) != 1)
		return;
	clock_gettime(CLOCK_BOOTTIME, &now);
	start /= (unsigned long long)sysconf(_SC_CLK_TCK);
	if ((unsigned long long)now.tv_sec > start)
		vm->age_s = (unsigned)((unsigned long long)now.tv_sec - start);
}

static void find_library(struct doctor_vm *vm)
{
	char path[64], line[1024];
	bool is_empty = true;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", vm->pid);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		is_empty = false;
		if (strstr(line, "/libvmkd-vmm.so"))
			vm->is_library_mapped = FACT_YES;
	}
	fclose(file);
	if (!is_empty && vm->is_library_mapped == FACT_UNKNOWN) // another user's is shown as empty, or not at all
		vm->is_library_mapped = FACT_NO;
}

void look_at_process(struct doctor_vm *vm)
{
	char path[64];
	ssize_t len;

	if (vm->pid <= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/exe", vm->pid);
	len = readlink(path, vm->program, sizeof(vm->program) - 1);
	vm->program[len > 0 ? len : 0] = 0;
	if (len > 0)
		vm->program_version = machine_ask_version(vm->program);
	find_age(vm);
	find_library(vm);
}

// ---- The library's greeting ---------------------------------------------------------------------------------------

static void set_guest(struct doctor_vm *vm, const struct link_guest *guest)
{
	static const char *const dialects[] = { [LINK_DIALECT_VMKD] = "vmkd", [LINK_DIALECT_VIRTUALKD] = "virtualkd", [LINK_DIALECT_KDCOM] = "kdcom" };
	const char *dialect = guest->dialect < sizeof(dialects) / sizeof(dialects[0]) ? dialects[guest->dialect] : "?";

	vm->is_registered = true;
	vm->booted_alone = guest->state & GUEST_BOOTED_ALONE ? FACT_YES : FACT_NO;
	snprintf(vm->arch, sizeof(vm->arch), "%s", guest->arch == ARCH_X64 ? "x64" : "x86");
	snprintf(vm->dialect, sizeof(vm->dialect), "%s", dialect);
	snprintf(vm->guest_version, sizeof(vm->guest_version), "%u.%u", guest->version >> 16, guest->version & 0xFFFFu);
}

bool look_take_greeting(struct doctor_vm *vm, const void *message, size_t len, uint64_t now_ms)
{
	struct {
		struct link_head head;
		struct link_hello hello;
	} in = { 0 };

	if (len < sizeof(in.head) + sizeof(in.hello.version))
		return false;
	memcpy(&in, message, len < sizeof(in) ? len : sizeof(in));
	if (in.head.type != LINK_HELLO || in.head.body_len != len - sizeof(in.head))
		return false;
	vm->library_version = in.hello.version;
	if (in.hello.version != LINK_VERSION)
		return true; // nothing else of it is known
	if (len != sizeof(in))
		return false;
	vm->has_calls = true;
	vm->calls = in.hello.port_calls;
	vm->call_ms = in.hello.last_call_ms < now_ms ? now_ms - in.hello.last_call_ms : 0;
	vm->is_waiting = in.hello.is_waiting;
	if (in.hello.is_registered)
		set_guest(vm, &in.hello.guest);
	if (in.hello.refused_version)
		snprintf(vm->refused_version, sizeof(vm->refused_version), "%u.%u", in.hello.refused_version >> 16, in.hello.refused_version & 0xFFFFu);
	return true;
}

void look_at_greeting(struct doctor_vm *vm)
{
	uint8_t message[sizeof(struct link_head) + LINK_BODY_MAX];
	char path[RUNDIR_PATH_MAX];
	struct timespec now;
	int fd CLEANUP_CLOSE = -1;
	struct pollfd ready = { .events = POLLIN };
	struct error *error = rundir_path(vm->name, "vmm.sock", path);
	ssize_t len;

	if (!error)
		error = sock_connect_unix(path, SOCK_SEQPACKET, SOCK_NONBLOCK, &fd); // a stopped VMM lets nobody in
	error_free(error); // who does not listen says nothing
	if (fd < 0)
		return;
	ready.fd = fd;
	len = poll(&ready, 1, GREETING_MS) > 0 ? recv(fd, message, sizeof(message), MSG_DONTWAIT) : -1;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (len > 0 && !look_take_greeting(vm, message, (size_t)len, (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u))
		vm->has_calls = false;
}

// ---- The broker's words -----------------------------------------------------------------------------------------

static const cJSON *member(const cJSON *json, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(json, name);
}

static void copy_text(const cJSON *json, const char *name, char *ret, size_t size)
{
	const char *text = cJSON_GetStringValue(member(json, name));

	if (text)
		snprintf(ret, size, "%s", text);
}
#define COPY(json, name, to) copy_text(json, name, to, sizeof(to))

static uint64_t number_of(const cJSON *json, const char *name)
{
	const cJSON *item = member(json, name);

	return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e15 ? (uint64_t)item->valuedouble : 0;
}

static enum fact fact_of(const cJSON *json, const char *name)
{
	const cJSON *item = member(json, name);

	return !cJSON_IsBool(item) ? FACT_UNKNOWN : cJSON_IsTrue(item) ? FACT_YES : FACT_NO;
}

static void take_clients(struct doctor_vm *vm, const cJSON *clients)
{
	const cJSON *client;

	cJSON_ArrayForEach(client, clients) {
		const char *role = cJSON_GetStringValue(member(client, "role"));

		if (!vm->client_count++ || (role && strcmp(role, "controller") == 0))
			COPY(client, "name", vm->client);
	}
}

static void take_remarks(struct doctor_vm *vm, const cJSON *remarks)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, remarks) {
		const char *text = cJSON_GetStringValue(item);

		if (!text)
			continue;
		if (!vm->remark[0])
			snprintf(vm->remark, sizeof(vm->remark), "%s", text);
		if (strncmp(text, "no answers from RAM", 19) == 0)
			snprintf(vm->ram_remark, sizeof(vm->ram_remark), "%s", text);
	}
}

// It has the VM at the other end of its link, this moment.
static bool is_connected(const char *state)
{
	return state[0] && strcmp(state, "no VMM") != 0 && strcmp(state, "no target") != 0 && strncmp(state, "no client", 9) != 0;
}

static bool is_wait(const char *state)
{
	return strcmp(state, "broken in") == 0 || strcmp(state, "waiting for a debugger") == 0;
}

void look_take_status(struct doctor_vm *vm, const cJSON *status)
{
	const cJSON *ram = member(status, "ram");

	if (!vm->pid)
		vm->pid = (int)number_of(status, "pid");
	vm->broker_version = (uint32_t)number_of(status, "link_version");
	vm->library_version = (uint32_t)number_of(status, "library_version");
	vm->calls_before = number_of(status, "calls_before");
	vm->booted_alone = fact_of(status, "booted_alone");
	COPY(status, "link", vm->link);
	COPY(status, "state", vm->state);
	COPY(status, "arch", vm->arch);
	COPY(status, "dialect", vm->dialect);
	COPY(status, "guest_version", vm->guest_version);
	COPY(status, "refused_version", vm->refused_version);
	COPY(status, "gone", vm->gone);
	vm->is_registered = vm->dialect[0];
	vm->is_waiting = is_wait(vm->state);
	if (is_connected(vm->state)) // whatever /proc says: the VM may be in another namespace
		vm->is_alive = vm->is_vmm_listening = true;
	COPY(ram, "mode", vm->ram_mode);
	COPY(ram, "way", vm->ram_way);
	vm->is_nested = fact_of(ram, "nested");
	take_clients(vm, member(status, "clients"));
	take_remarks(vm, member(status, "remarks"));
}

void look_take_stats(struct doctor_vm *vm, const cJSON *stats)
{
	uint64_t bells = number_of(stats, "doorbells");

	vm->broker_s = (unsigned)number_of(stats, "seconds");
	vm->calls = number_of(stats, "port_calls");
	if (bells > vm->calls)
		vm->calls = bells;
	vm->call_ms = number_of(stats, "ms_since_call");
	vm->has_calls = cJSON_IsNumber(member(stats, "port_calls")) && is_connected(vm->state); // else they are of some time ago
}
