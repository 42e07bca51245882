// SPDX-License-Identifier: MIT
#include "attach/attach.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "attach/inject.h"
#include "attach/hmp.h"
#include "attach/remote_elf.h"
#include "attach/slots.h"
#include "attach/target.h"
#include "vmm/late.h"

#define LIBRARY "libvmkd-vmm.so"
// The slots change only when devices come and go, when firmware moves a window, at a reset: now and then, not again and again.
#define MEMORY_TRIES 20
#define STACK_SIZE 262144u // dlopen takes some 10 KB, struct late_args 18 KB
#define SEEN_TRIES 40 // with 50 ms between them

struct attach {
	const struct attach_options *options;
	struct target target;
	struct hmp monitor;
	uint64_t dlopen, mmap, munmap, restorer, entry;
	uint64_t stack; // STACK_SIZE bytes over there, 0 = none
	struct late_args args; // of the last call
};

static void nap_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

// ---- The library ------------------------------------------------------------------------------------------

// What this file lacks, another has: the value stays.
static void note_functions(struct attach *a, const struct target_mapping *m)
{
	if (!a->restorer)
		a->restorer = inject_find_restorer(&a->target, m);
	(void)!target_find_function(&a->target, m, "mmap", &a->mmap);
	(void)!target_find_function(&a->target, m, "munmap", &a->munmap);
	(void)!target_find_function(&a->target, m, "dlopen", &a->dlopen);
}

// Which files have dlopen: glibc since 2.34; before that libdl; under their old names; musl.
static struct error *find_functions(struct attach *a)
{
	static const char *const prefixes[] = { "libc.so.", "libc-2.", "ld-musl-", "libdl.so.", "libdl-2." };

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		const struct target_mapping *m = target_find_file(&a->target, prefixes[i]);

		if (m)
			note_functions(a, m);
	}
	if (a->dlopen && a->mmap && a->munmap && a->restorer)
		return NULL;
	return error_create(ENOTSUP, "process %d has no C library with dlopen (a static program?), so no library can be loaded into it; start the VM with `vmkd run --link debugcon`",
			    (int)a->target.pid);
}

static const struct target_mapping *loaded_library(const struct attach *a)
{
	return target_find_file(&a->target, LIBRARY);
}

static struct error *find_entry(struct attach *a)
{
	const struct target_mapping *m = loaded_library(a);

	if (target_find_function(&a->target, m, LATE_SYMBOL, &a->entry) == REMOTE_ELF_OK)
		return NULL;
	return error_create(ENOTSUP, "process %d has loaded %s, which does not know of attaching: it is of another version, and stays until that process ends", (int)a->target.pid, m->path);
}

static struct error *why_not_loaded(const struct attach *a, const struct inject_call *call)
{
	if (call->failed_errno)
		return error_create(call->failed_errno, "the dynamic linker of process %d refused %s (its system call %ld failed: %s); is it readable for that process, and in a folder from which it may run programs (AppArmor, SELinux, noexec)?",
				    (int)a->target.pid, a->options->library, call->failed_call, strerror(call->failed_errno));
	return error_create(ENOEXEC, "the dynamic linker of process %d refused %s; its C library may be older than the one that the library was made for", (int)a->target.pid, a->options->library);
}

static struct error *check_library(const struct attach *a)
{
	if (target_sees_file(&a->target, a->options->library))
		return NULL;
	return error_create(ENOENT, "process %d does not see %s: it lives in another mount namespace (a container, a chroot); put the library where both see the same file",
			    (int)a->target.pid, a->options->library);
}

static struct error *load_library(struct attach *a)
{
	const char *path = a->options->library;
	struct inject_call call = { .function = a->dlopen, .arguments = { 0, RTLD_NOW }, .data_len = strlen(path) + 1, .restorer = a->restorer, .stack_top = a->stack + STACK_SIZE };
	struct error *error;

	call.data = strdup(path); // it is written back
	if (!call.data)
		return error_create(ENOMEM, "out of memory");
	error = inject_call(&a->target, &call);
	free(call.data);
	if (!error)
		error = target_refresh(&a->target);
	if (!error && !loaded_library(a))
		error = why_not_loaded(a, &call);
	return error;
}

// A stack for what is more than a system call: see inject.h.
static struct error *make_stack(struct attach *a)
{
	struct inject_call call = { .function = a->mmap, .restorer = a->restorer,
				    .arguments = { 0, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, UINT64_MAX, 0 } };
	struct error *error = inject_call(&a->target, &call);

	if (!error)
		error = target_refresh(&a->target);
	if (error)
		return error;
	if (call.failed_errno || !target_is_writable(&a->target, (uint64_t)call.result, STACK_SIZE))
		return error_create(ENOMEM, "process %d has no memory for a stack: %s", (int)a->target.pid, strerror(call.failed_errno));
	a->stack = (uint64_t)call.result;
	return NULL;
}

// Where this cannot be done, an unused mapping stays.
static void drop_stack(struct attach *a)
{
	struct inject_call call = { .function = a->munmap, .restorer = a->restorer, .arguments = { a->stack, STACK_SIZE } };

	if (a->stack)
		error_free(inject_call(&a->target, &call)); // not while a call is on it: the thread is not on its own stack then
}

// One step over there. -> NULL: a->args has the answer.
static struct error *step(struct attach *a, enum late_step what)
{
	struct inject_call call = { .function = a->entry, .data = &a->args, .data_len = sizeof(a->args), .restorer = a->restorer, .stack_top = a->stack + STACK_SIZE };
	struct error *error;

	a->args.version = LATE_VERSION;
	a->args.step = what;
	a->args.outcome = LATE_UNANSWERED;
	snprintf(a->args.name, sizeof(a->args.name), "%s", a->options->name);
	snprintf(a->args.folder, sizeof(a->args.folder), "%s", a->options->folder);
	error = inject_call(&a->target, &call);
	a->args.text[sizeof(a->args.text) - 1] = a->args.name[sizeof(a->args.name) - 1] = 0;
	if (error || (a->args.outcome != LATE_REFUSED && a->args.outcome != LATE_UNANSWERED))
		return error;
	return error_create(ENOTSUP, "process %d: %s", (int)a->target.pid, a->args.outcome == LATE_REFUSED ? a->args.text : "the library has not answered");
}

// ---- The steps --------------------------------------------------------------------------------------------

static struct error *hook(struct attach *a)
{
	bool is_loaded = loaded_library(a);
	struct error *error = is_loaded ? NULL : check_library(a);

	if (!error)
		error = make_stack(a);
	if (!error && !is_loaded)
		error = load_library(a);
	if (!error)
		error = find_entry(a);
	if (!error)
		error = step(a, LATE_HOOK);
	if (!error && strcmp(a->args.name, a->options->name) != 0)
		error = error_create(EBUSY, "process %d has the name %s already: `vmkd serve %s`", (int)a->target.pid, a->args.name, a->args.name);
	return error;
}

static struct error *tell_memory(struct attach *a, uint32_t *ret_count)
{
	struct error *error = NULL;

	for (int i = 0; i < MEMORY_TRIES; i++) {
		error = slots_ask(&a->monitor, &a->target, a->args.slots, &a->args.slot_count);
		if (error && error->code == EAGAIN && i + 1 < MEMORY_TRIES) { // a range has gone between two questions
			error_free(error);
			continue;
		}
		if (error)
			return error;
		*ret_count = a->args.slot_count;
		error = step(a, LATE_MEMORY); // args.changes is the count of the call before
		if (error || a->args.outcome == LATE_DONE)
			return error;
	}
	return error_create(EAGAIN, "the VM's memory slots change again and again; try again when it has booted");
}

static struct error *is_vm_paused(struct attach *a, bool *ret)
{
	char *text;
	struct error *error = hmp_ask(&a->monitor, "info status", &text);

	if (error)
		return error;
	*ret = !strstr(text, "running");
	free(text);
	return NULL;
}

// QEMU has to call each vCPU out of the guest to look at its registers. In again it goes through us.
static struct error *kick_vcpus(struct attach *a, struct attach_result *r)
{
	char *text;
	struct error *error = is_vm_paused(a, &r->is_paused);

	for (int i = 0; !error && i < SEEN_TRIES; i++) {
		error = hmp_ask(&a->monitor, "info registers -a", &text);
		if (error)
			break;
		free(text);
		error = step(a, LATE_STATUS);
		r->vcpu_count = a->args.vcpu_count;
		r->vcpus_seen = a->args.vcpus_seen;
		if (r->is_paused || r->vcpus_seen == r->vcpu_count)
			break;
		nap_ms(50);
	}
	if (!error && !r->is_paused && !r->vcpus_seen)
		error = error_create(ENOTSUP, "the library is in process %d, but no vCPU comes through it; start the VM with `vmkd run`", (int)a->target.pid);
	return error;
}

static struct error *attach_with_monitor(struct attach *a, struct attach_result *r)
{
	struct error *error = slots_check_monitor(&a->monitor, &a->target);

	if (!error)
		error = hook(a);
	r->was_attached = !error && a->args.outcome == LATE_ALREADY && !a->args.is_blind;
	r->vcpu_count = a->args.vcpu_count;
	r->vcpus_seen = a->args.vcpus_seen;
	if (!error && !r->was_attached)
		error = tell_memory(a, &r->slot_count);
	if (!error && !r->was_attached)
		error = kick_vcpus(a, r);
	return error;
}

static struct error *open_monitor(const struct attach_options *o, struct hmp *ret)
{
	if (o->qmp)
		return hmp_open_qmp(o->qmp, ret);
	hmp_open_libvirt(o->domain, o->connect, ret);
	return NULL;
}

struct error *attach_run(const struct attach_options *o, struct attach_result *ret)
{
	struct attach *a = calloc(1, sizeof(*a));
	struct attach_result result = { 0 };
	struct error *error = a ? NULL : error_create(ENOMEM, "out of memory");

	if (error)
		return error;
	a->options = o;
	a->monitor.fd = -1;
	error = target_open(o->pid, &a->target);
	if (!error) {
		error = find_functions(a);
		if (!error)
			error = open_monitor(o, &a->monitor);
		if (!error)
			error = attach_with_monitor(a, &result);
		drop_stack(a);
		hmp_close(&a->monitor);
		target_close(&a->target);
	}
	free(a);
	if (!error)
		*ret = result;
	return error;
}
