// SPDX-License-Identifier: MIT
#include "vmm/late.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/folder.h"
#include "vmm/hook.h"
#include "vmm/link.h"

#define PAGE 4096u
#define FD_FOLDER "/proc/self/fd"
#define VCPU_PREFIX "anon_inode:kvm-vcpu:"
#define KVM_API 12 // KVM_GET_API_VERSION has said so since 2.6.22
#define PLACES_MAX 256u // objects of a process that call ioctl: QEMU with everything has 15

static struct {
	struct vm *vm;    // NULL: not followed, or from its first ioctl on
	char folder[108]; // the link keeps it
} late;

// -> false, so that a refusal is one line.
__attribute__((format(printf, 2, 3))) static bool refuse(struct late_args *args, const char *format, ...)
{
	va_list list;
	va_start(list, format);
	vsnprintf(args->text, sizeof(args->text), format, list);
	va_end(list);
	return false;
}

// ---- KVM's descriptors --------------------------------------------------------------------------

struct descriptors {
	int kvm, vm; // -1: none
	uint32_t vm_count;
	bool is_adding; // second look: add the vCPUs that are missing to late.vm
	bool has_failed;
};

static void note_descriptor(struct descriptors *d, int fd, const char *what)
{
	if (strcmp(what, "/dev/kvm") == 0 && hook_next_ioctl(fd, KVM_GET_API_VERSION, NULL) == KVM_API) {
		d->kvm = fd;
	} else if (strcmp(what, "anon_inode:kvm-vm") == 0) {
		d->vm = fd;
		d->vm_count++;
	} else if (d->is_adding && strncmp(what, VCPU_PREFIX, strlen(VCPU_PREFIX)) == 0 && !vcpu_find(fd)) {
		pthread_mutex_lock(&hook.lock);
		vcpu_add(late.vm, fd, (uint32_t)strtoul(what + strlen(VCPU_PREFIX), NULL, 10));
		pthread_mutex_unlock(&hook.lock);
		d->has_failed |= !vcpu_find(fd);
	}
}

static bool each_descriptor(struct late_args *args, struct descriptors *d)
{
	char what[64];
	DIR *folder = opendir(FD_FOLDER);
	if (!folder)
		return refuse(args, "this process cannot read its " FD_FOLDER ": %s", strerror(errno));
	for (const struct dirent *e = readdir(folder); e; e = readdir(folder)) {
		ssize_t len = readlinkat(dirfd(folder), e->d_name, what, sizeof(what) - 1);
		if (len <= 0)
			continue;
		what[len] = 0;
		note_descriptor(d, atoi(e->d_name), what);
	}
	closedir(folder);
	return true;
}

static bool find_vm(struct late_args *args, struct descriptors *d)
{
	if (!each_descriptor(args, d))
		return false;
	if (d->vm_count != 1)
		return refuse(args, "this process has %u virtual machines of KVM, expected one", d->vm_count);
	if (d->kvm < 0)
		return refuse(args, "this process has closed /dev/kvm, which says how large a vCPU's page is");
	if (late.vm && late.vm->fd != d->vm)
		return refuse(args, "this process has another virtual machine than before");
	return true;
}

static bool add_vcpus(struct late_args *args, struct descriptors *d)
{
	d->is_adding = true;
	if (!each_descriptor(args, d))
		return false;
	return !d->has_failed || refuse(args, "a vCPU's page cannot be mapped, or its descriptor is above %u", VCPU_FD_MAX);
}

// ---- Who calls ioctl ----------------------------------------------------------------------------

// Where the address of the libc's ioctl stands, in all objects but our own.
struct places {
	void *expected; // the libc's, or that of somebody who has come before it; NULL: ours, which was preloaded without a name
	void **at[PLACES_MAX];
	uint32_t count;
	bool is_full;
};

struct object {
	uintptr_t base, start, end; // load bias; what is mapped of it
	const ElfW(Sym) *symbols;
	const char *strings;
	const ElfW(Rela) *tables[2]; // DT_RELA, DT_JMPREL
	size_t sizes[2]; // bytes
};

// The dynamic linker has added the base to the addresses already; musl's has not.
static const void *dynamic_address(const struct object *o, uintptr_t value)
{
	return (const void *)(value >= o->start && value < o->end ? value : o->base + value);
}

static void read_dynamic(struct object *o, const ElfW(Dyn) *d)
{
	for (; d->d_tag != DT_NULL; d++) {
		switch (d->d_tag) {
		case DT_SYMTAB: o->symbols = dynamic_address(o, d->d_un.d_ptr); break;
		case DT_STRTAB: o->strings = dynamic_address(o, d->d_un.d_ptr); break;
		case DT_RELA: o->tables[0] = dynamic_address(o, d->d_un.d_ptr); break;
		case DT_JMPREL: o->tables[1] = dynamic_address(o, d->d_un.d_ptr); break;
		case DT_RELASZ: o->sizes[0] = d->d_un.d_val; break;
		case DT_PLTRELSZ: o->sizes[1] = d->d_un.d_val; break;
		default: break;
		}
	}
}

static struct object object_of(const struct dl_phdr_info *info)
{
	struct object o = { .base = info->dlpi_addr, .start = UINTPTR_MAX };
	const ElfW(Dyn) *dynamic = NULL;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = o.base + p->p_vaddr;
		if (p->p_type == PT_DYNAMIC)
			dynamic = (const ElfW(Dyn) *)start;
		if (p->p_type != PT_LOAD)
			continue;
		o.start = start < o.start ? start : o.start;
		o.end = start + p->p_memsz > o.end ? start + p->p_memsz : o.end;
	}
	if (dynamic)
		read_dynamic(&o, dynamic);
	return o;
}

static bool is_within(const struct object *o, const void *address)
{
	return (uintptr_t)address >= o->start && (uintptr_t)address < o->end;
}

// A slot that nobody has called through yet leads back into its own object.
static bool is_callers_slot(const struct object *o, const ElfW(Rela) *r, const void *expected)
{
	uint64_t type = ELF64_R_TYPE(r->r_info);
	if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT && !(type == R_X86_64_64 && !r->r_addend))
		return false;
	if (strcmp(o->strings + o->symbols[ELF64_R_SYM(r->r_info)].st_name, "ioctl") != 0)
		return false;
	const void *now = *(void **)(o->base + r->r_offset);
	return now == expected || (type == R_X86_64_JUMP_SLOT && is_within(o, now));
}

static int note_places(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct places *p = arg;
	const struct object o = object_of(info);
	(void)size;
	if (is_within(&o, (const void *)(uintptr_t)hook_ioctl) || !o.symbols || !o.strings)
		return 0;
	for (int t = 0; t < 2; t++) {
		for (size_t i = 0; o.tables[t] && i < o.sizes[t] / sizeof(ElfW(Rela)); i++) {
			const ElfW(Rela) *r = &o.tables[t][i];
			if (!is_callers_slot(&o, r, p->expected))
				continue;
			p->is_full |= p->count == PLACES_MAX;
			if (!p->is_full)
				p->at[p->count++] = (void **)(o.base + r->r_offset);
		}
	}
	return 0;
}

// How the page of `at` is mapped. -> -1: cannot tell.
static int protection_of(const void *at)
{
	char *line = NULL;
	size_t size = 0;
	int result = -1;
	FILE *maps = fopen("/proc/self/maps", "re");
	while (maps && result < 0 && getline(&line, &size, maps) > 0) {
		uintptr_t start, end;
		char how[5];
		if (sscanf(line, "%zx-%zx %4s", &start, &end, how) == 3 && (uintptr_t)at >= start && (uintptr_t)at < end)
			result = (how[0] == 'r' ? PROT_READ : 0) | (how[1] == 'w' ? PROT_WRITE : 0) | (how[2] == 'x' ? PROT_EXEC : 0);
	}
	free(line);
	if (maps)
		fclose(maps);
	return result;
}

// Most slots are in memory that was made read-only when the program had been linked. Other threads go on reading it meanwhile, and find the one or the other.
static bool set_place(void **at)
{
	int was = protection_of(at);
	void *page = (void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
	if (was < 0 || (!(was & PROT_WRITE) && mprotect(page, PAGE, was | PROT_WRITE)))
		return false;
	__atomic_store_n(at, (void *)(uintptr_t)hook_ioctl, __ATOMIC_SEQ_CST);
	if (!(was & PROT_WRITE))
		(void)mprotect(page, PAGE, was); // it was so before; if not, it stays writable and everything works
	return true;
}

// A second time there is nothing to find.
static bool find_places(struct late_args *args, struct places *p)
{
	p->expected = dlsym(RTLD_DEFAULT, "ioctl");
	if (p->expected == (void *)(uintptr_t)hook_ioctl)
		p->expected = NULL;
	if (p->expected)
		dl_iterate_phdr(note_places, p);
	if (p->is_full)
		return refuse(args, "more than %u objects of this process call ioctl", PLACES_MAX);
	if (p->expected && !p->count && !late.vm)
		return refuse(args, "nothing in this process calls the C library's ioctl through a table");
	return true;
}

static bool set_places(struct late_args *args, const struct places *p)
{
	for (uint32_t i = 0; i < p->count; i++) {
		if (!set_place(p->at[i]))
			return refuse(args, "the table at %p cannot be made writable: %s", (void *)p->at[i], strerror(errno));
	}
	return true;
}

// ---- The steps ----------------------------------------------------------------------------------

static void tell_state(struct late_args *args)
{
	snprintf(args->name, sizeof(args->name), "%s", link_name());
	pthread_mutex_lock(&hook.lock);
	args->vcpu_count = args->vcpus_seen = 0;
	for (const struct vcpu *v = late.vm ? late.vm->vcpus : NULL; v; v = v->next) {
		args->vcpu_count++;
		args->vcpus_seen += __atomic_load_n(&v->tid, __ATOMIC_ACQUIRE) != 0;
	}
	args->changes = late.vm ? late.vm->slot_changes : 0;
	args->is_blind = late.vm && late.vm->is_blind;
	pthread_mutex_unlock(&hook.lock);
}

static bool follow(struct late_args *args, const struct descriptors *d, const struct places *p)
{
	hook_ioctl_fn *next;
	if (late.vm)
		return true;
	*(void **)&next = p->expected;
	memcpy(late.folder, args->folder, sizeof(late.folder));
	late.vm = hook_follow_late(args->name, late.folder, d->kvm, d->vm, next);
	return late.vm || refuse(args, "%s", folder_complaint());
}

static enum late_outcome step_hook(struct late_args *args)
{
	struct descriptors d = { .kvm = -1, .vm = -1 };
	struct places p = { .count = 0 };
	if (hook_is_following() && !late.vm) {
		tell_state(args);
		return LATE_ALREADY;
	}
	bool was_there = late.vm != NULL;
	if (!find_vm(args, &d) || !find_places(args, &p) || !follow(args, &d, &p) || !add_vcpus(args, &d) || !set_places(args, &p))
		return LATE_REFUSED;
	tell_state(args);
	return was_there ? LATE_ALREADY : LATE_DONE;
}

static bool is_slot_possible(const struct late_slot *s)
{
	return !s->reserved && s->size && !((s->gpa | s->size | s->host) % PAGE) && s->gpa + s->size > s->gpa && s->host + s->size > s->host;
}

static enum late_outcome step_memory(struct late_args *args)
{
	static struct vm_slot slots[LATE_SLOTS_MAX]; // under the lock
	enum late_outcome outcome = LATE_CHANGED;
	if (!late.vm || args->slot_count > LATE_SLOTS_MAX) {
		(void)refuse(args, "slots without LATE_HOOK, or more than %u", LATE_SLOTS_MAX);
		return LATE_REFUSED;
	}
	pthread_mutex_lock(&hook.lock);
	for (uint32_t i = 0; i < args->slot_count; i++) {
		const struct late_slot *s = &args->slots[i];
		if (!is_slot_possible(s))
			outcome = LATE_REFUSED;
		slots[i] = (struct vm_slot){ .flags = s->flags & LATE_READONLY ? KVM_MEM_READONLY : 0, .gpa = s->gpa, .size = s->size, .host = s->host };
	}
	if (outcome == LATE_REFUSED)
		(void)refuse(args, "a slot of memory that is not made of whole pages");
	else if (args->changes == late.vm->slot_changes && vm_slots_tell(late.vm, slots, args->slot_count))
		outcome = LATE_DONE;
	if (outcome == LATE_DONE)
		late.vm->is_blind = false;
	pthread_mutex_unlock(&hook.lock);
	tell_state(args);
	return outcome;
}

static enum late_outcome do_step(struct late_args *args)
{
	args->name[sizeof(args->name) - 1] = args->folder[sizeof(args->folder) - 1] = 0;
	if (args->version != LATE_VERSION) {
		(void)refuse(args, "the library speaks version %u of this call, vmkd version %u; use both of one build", LATE_VERSION, args->version);
		return LATE_REFUSED;
	}
	switch (args->step) {
	case LATE_HOOK:
		return step_hook(args);
	case LATE_MEMORY:
		return step_memory(args);
	default: // LATE_STATUS
		tell_state(args);
		return LATE_DONE;
	}
}

__attribute__((visibility("default"))) void vmkd_vmm_attach(struct late_args *args)
{
	int error = errno;
	enum late_outcome outcome = do_step(args);
	__atomic_store_n(&args->outcome, outcome, __ATOMIC_RELEASE);
	errno = error;
}
