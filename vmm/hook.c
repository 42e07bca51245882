// SPDX-License-Identifier: MIT
// libvmkd-vmm.so: the interposed ioctl. What KVM is told about memory and vCPUs is noted, what comes out of KVM_RUN is looked at, and
// a port call of ours, or a request of VirtualKD's, is answered right there. Everything else passes.
#include "vmm/hook.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmm/freeze.h"
#include "vmm/link.h"
#include "vmm/park.h"

// Linux 6.8; the first 32 bytes are those of KVM_SET_USER_MEMORY_REGION.
#define SET_USER_MEMORY_REGION2 _IOC(_IOC_WRITE, KVMIO, 0x49, 160)

#define CR0_PE 1u
#define EFER_LMA (1u << 10)
// How long the VMM's exit is held up by a broker that does not take the guest's last words.
#define EXIT_PATIENCE_MS 2000u
#define SYNC_REGS ((uint64_t)(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS))

struct hook hook = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake_fd = -1, .ram_version = 1 };

static hook_ioctl_fn *next_ioctl;
static bool is_wanted; // VMKD_NAME is set: follow the VMs
static pid_t owner_pid;

uint64_t hook_now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int hook_next_ioctl(int fd, unsigned long request, void *arg)
{
	if (next_ioctl)
		return next_ioctl(fd, request, arg);
	return (int)syscall(SYS_ioctl, fd, request, arg); // before our constructor: somebody else's
}

// ---- Ending a registration ----------------------------------------------------------------------

static void note_guest(void)
{
	__atomic_store_n(&hook.has_guest, hook.call.area.is_registered, __ATOMIC_RELAXED);
}

// What the guest has left in its ring is collected as far as the socket takes it; what is `at_once` ends there.
static void end_locked(const struct vm *vm, uint32_t gone, bool at_once)
{
	if (vm != hook.owner)
		return;
	call_end(&hook.call, gone);
	link_settle();
	if (at_once)
		call_cut(&hook.call, gone);
	note_guest();
	park_wake();
}

static void end(const struct vm *vm, uint32_t gone)
{
	pthread_mutex_lock(&hook.lock);
	end_locked(vm, gone, false);
	pthread_mutex_unlock(&hook.lock);
}

// ---- The port call ------------------------------------------------------------------------------

enum port_outcome { PORT_NOT_OURS, PORT_ANSWERED, PORT_KICKED };

// Ordinary exits end at the first compare or the second.
static bool is_port_exit(const struct vcpu *v)
{
	uint16_t port = v->run->io.port;
	return (port | 1) == VKD_RPC_PORT || (v->is_vkd_stray_due && port == VKD_STRAY_PORT);
}
_Static_assert((PORTCALL_PORT | 1) == VKD_RPC_PORT, "both ports in one compare");

static bool is_cpl0(const struct kvm_sregs *s)
{
	return s->ss.dpl == 0 && (s->cs.selector & 3) == 0;
}

static struct call_args args_of(const struct vcpu *v, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	return (struct call_args){
		.fn = (uint32_t)r->rcx >> 16,
		.head = { (uint64_t)(uint32_t)r->rsi << 32 | (uint32_t)r->rbx },
		.version = (uint32_t)r->rdi,
		.seq = (uint32_t)r->rbx,
		.vcpu = v->index,
		.has_regs = true, .cr0 = s->cr0, .cr3 = s->cr3, .cr4 = s->cr4, .efer = s->efer,
	};
}

// The guest of one VM has the link at a time.
static bool is_another_owner(const struct vcpu *v)
{
	return hook.owner && hook.owner != v->vm && hook.call.area.is_registered;
}

// A call that is refused because another one is open must not become the caller.
static void note_caller(struct vcpu *v, bool is_pending)
{
	if (!is_pending && hook.has_sleeper)
		return;
	if (hook.owner != v->vm)
		link_ram_changes(false);
	hook.owner = v->vm;
	hook.caller = v;
}

static uint32_t answer_locked(struct vcpu *v, const struct call_args *args, bool *ret_is_kicked)
{
	if (is_another_owner(v)) {
		hook.call.stats.refused++;
		return CODE_REFUSED;
	}
	const struct gpa_map map = vm_map(v->vm);
	uint32_t code = call_begin(&hook.call, &map, args, hook_now_ms());
	note_caller(v, code == CALL_PENDING);
	if (code == CALL_PENDING)
		code = park_call(v, ret_is_kicked);
	link_settle();
	note_guest();
	return code;
}

// Registers by ioctl cost as much as the rest of a call, those that KVM leaves in kvm_run almost nothing; but KVM writes them
// at every exit, so it is asked to only while there is a guest module.
// -> true: the next exit brings the registers.
static bool want_registers(struct vcpu *v)
{
	uint64_t valid = v->run->kvm_valid_regs;
	if (v->vm->has_sync_regs && __atomic_load_n(&hook.has_guest, __ATOMIC_RELAXED)) {
		v->sync_added |= SYNC_REGS & ~valid;
		if (~valid & SYNC_REGS)
			v->run->kvm_valid_regs = valid | SYNC_REGS;
		return true;
	}
	if (v->sync_added) {
		v->run->kvm_valid_regs = valid & ~v->sync_added;
		v->sync_added = 0;
	}
	return false;
}

static bool read_registers(const struct vcpu *v, bool has_registers, struct kvm_regs *ret)
{
	if (has_registers)
		*ret = v->run->s.regs.regs;
	return has_registers || !hook_next_ioctl(v->fd, KVM_GET_REGS, ret);
}

static bool read_sregs(const struct vcpu *v, bool has_registers, struct kvm_sregs *ret)
{
	if (has_registers)
		*ret = v->run->s.regs.sregs;
	return has_registers || !hook_next_ioctl(v->fd, KVM_GET_SREGS, ret);
}

// The exit's operand of 4 bytes.
static uint32_t *operand(const struct vcpu *v)
{
	return (uint32_t *)((uint8_t *)v->run + v->run->io.data_offset);
}

// Whoever is not in ring 0 is nobody's guest module; and without its slots no guest can be answered. Under the lock.
static bool may_call(const struct vcpu *v, const struct kvm_sregs *sregs)
{
	if (v->vm->is_blind)
		return false;
	bool is_ours = is_cpl0(sregs) && hook.is_active;
	if (!is_ours) {
		hook.call.stats.refused++;
		hook.call.stats.refused_cpl++;
	}
	return is_ours;
}

static enum port_outcome port_call(struct vcpu *v, bool has_registers, const struct kvm_regs *regs)
{
	struct kvm_sregs sregs;
	if (!read_sregs(v, has_registers, &sregs))
		return PORT_NOT_OURS;
	bool is_kicked = false;
	uint32_t code = 0;
	pthread_mutex_lock(&hook.lock);
	bool is_ours = may_call(v, &sregs);
	if (is_ours) {
		const struct call_args args = args_of(v, regs, &sregs);
		code = answer_locked(v, &args, &is_kicked);
	}
	pthread_mutex_unlock(&hook.lock);
	if (!is_ours)
		return PORT_NOT_OURS;
	*operand(v) = RESULT_TAG | code;
	return is_kicked ? PORT_KICKED : PORT_ANSWERED;
}

// ---- VirtualKD (vmm/virtualkd.h) ----------------------------------------------------------------

// Other programs look for VMware at this port, too, and QEMU answers them: only the very registers of VirtualKD's module count (VirtualKD reference, section 1.2).
static enum port_outcome vkd_probe(struct vcpu *v, bool has_registers)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	v->is_vkd_probed = false;
	if (*operand(v) != VKD_PROBE_MAGIC || !read_registers(v, has_registers, &regs) || (uint32_t)regs.rbx != VKD_PROBE_EBX ||
	    (uint32_t)regs.rcx != VKD_PROBE_ECX || !read_sregs(v, has_registers, &sregs))
		return PORT_NOT_OURS;
	pthread_mutex_lock(&hook.lock);
	v->is_vkd_probed = may_call(v, &sregs);
	pthread_mutex_unlock(&hook.lock);
	return v->is_vkd_probed ? PORT_ANSWERED : PORT_NOT_OURS;
}

static enum port_outcome vkd_probe_answer(struct vcpu *v)
{
	*operand(v) = VKD_PROBE_ANSWER;
	v->is_vkd_stray_due = true;
	return PORT_ANSWERED;
}

static struct virtualkd_exit vkd_exit_of(const struct vcpu *v, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	return (struct virtualkd_exit){
		.value = *operand(v), .rax = r->rax, .vcpu = v->index,
		.arch = s->efer & EFER_LMA && s->cs.l ? ARCH_X64 : ARCH_X86,
		.cr0 = s->cr0, .cr3 = s->cr3, .cr4 = s->cr4, .efer = s->efer,
	};
}

static enum virtualkd_next vkd_answer_locked(struct vcpu *v, const struct virtualkd_exit *x, bool *ret_is_kicked)
{
	struct virtualkd_rpc rpc;
	struct gpa_map map = vm_map(v->vm);
	enum virtualkd_next next = virtualkd_begin(&hook.virtualkd, &hook.call, &map, x, &rpc, hook_now_ms());
	if (next == VIRTUALKD_NOT_OURS)
		return next;
	note_caller(v, next == VIRTUALKD_CALL);
	if (next == VIRTUALKD_CALL) {
		uint32_t code = park_call(v, ret_is_kicked);
		map = vm_map(v->vm);
		next = virtualkd_end(&hook.virtualkd, &hook.call, &map, &rpc, code);
	}
	if (next == VIRTUALKD_REST && !*ret_is_kicked)
		*ret_is_kicked = park_rest(v, VIRTUALKD_REST_MS);
	link_settle();
	note_guest();
	return next;
}

static enum port_outcome vkd_request(struct vcpu *v, bool has_registers)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	if (!read_registers(v, has_registers, &regs) || !read_sregs(v, has_registers, &sregs))
		return PORT_NOT_OURS;
	const struct virtualkd_exit x = vkd_exit_of(v, &regs, &sregs);
	enum virtualkd_next next = VIRTUALKD_NOT_OURS;
	bool is_kicked = false;
	pthread_mutex_lock(&hook.lock);
	if (may_call(v, &sregs) && !is_another_owner(v))
		next = vkd_answer_locked(v, &x, &is_kicked);
	pthread_mutex_unlock(&hook.lock);
	if (next == VIRTUALKD_NOT_OURS)
		return PORT_NOT_OURS;
	return is_kicked ? PORT_KICKED : PORT_ANSWERED;
}

// ---- An exit at one of the ports ----------------------------------------------------------------

static enum port_outcome port_in(struct vcpu *v, bool has_registers)
{
	struct kvm_regs regs;
	bool is_probed = v->is_vkd_probed;
	v->is_vkd_probed = false;
	if (!read_registers(v, has_registers, &regs) || (uint32_t)regs.rax != PORTCALL_MAGIC)
		return PORT_NOT_OURS;
	if ((uint16_t)regs.rcx == PORTCALL_COMMAND)
		return port_call(v, has_registers, &regs);
	return is_probed ? vkd_probe_answer(v) : PORT_NOT_OURS;
}

static enum port_outcome port_exit(struct vcpu *v, bool has_registers)
{
	const struct kvm_run *run = v->run;
	bool is_in = run->io.direction == KVM_EXIT_IO_IN;
	if (run->io.size != 4 || run->io.count != 1)
		return PORT_NOT_OURS;
	if (run->io.port == PORTCALL_PORT)
		return is_in ? port_in(v, has_registers) : vkd_probe(v, has_registers);
	if (is_in)
		return PORT_NOT_OURS;
	if (run->io.port == VKD_RPC_PORT)
		return vkd_request(v, has_registers);
	v->is_vkd_stray_due = false; // VKD_STRAY_PORT
	return *operand(v) == VKD_PROBE_MAGIC ? PORT_ANSWERED : PORT_NOT_OURS;
}

// The VMM wants the vCPU. KVM_RUN with immediate_exit completes the port read and runs no guest code, so that the
// registers that the VMM sees (and may save) are those after the call.
static int leave_for_kick(struct vcpu *v, void *arg)
{
	uint8_t was = __atomic_exchange_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	int result = hook_next_ioctl(v->fd, KVM_RUN, arg);
	int error = errno;
	if (!was) // a kick that was lost by this is the one we report
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	freeze_forget_kick(v);
	errno = error;
	return result;
}

static void guest_ended(const struct vcpu *v, uint32_t reason)
{
	int error = errno;
	if (reason == KVM_EXIT_SHUTDOWN)
		end(v->vm, LINK_GONE_SHUTDOWN);
	else if (reason == KVM_EXIT_SYSTEM_EVENT)
		end(v->vm, LINK_GONE_RESET);
	errno = error;
}

static int run_vcpu(struct vcpu *v, void *arg)
{
	freeze_note_thread(v);
	for (;;) {
		if (freeze_is_on(v->vm) && freeze_sleep(v))
			return leave_for_kick(v, arg);
		bool has_registers = want_registers(v);
		int result = hook_next_ioctl(v->fd, KVM_RUN, arg);
		if (result) {
			if (errno == EINTR)
				freeze_forget_kick(v);
			return result;
		}
		if (v->run->exit_reason != KVM_EXIT_IO) {
			guest_ended(v, v->run->exit_reason);
			return result;
		}
		if (!is_port_exit(v))
			return result;
		switch (port_exit(v, has_registers)) {
		case PORT_NOT_OURS:
			return result;
		case PORT_KICKED:
			return leave_for_kick(v, arg);
		case PORT_ANSWERED:
			break;
		}
	}
}

// ---- What the VMM tells KVM ---------------------------------------------------------------------

static void start_once(void)
{
	if (owner_pid)
		return;
	owner_pid = getpid();
	hook.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	call_init(&hook.call, hook_now_ms());
	virtualkd_init(&hook.virtualkd);
	hook.is_active = hook.wake_fd >= 0 && link_start();
	if (hook.is_active)
		freeze_prepare();
}

static void vm_created(int kvm_fd, int vm_fd)
{
	int run_size = hook_next_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	int sync = hook_next_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_SYNC_REGS);
	bool has_sync_regs = sync > 0 && ((unsigned)sync & SYNC_REGS) == SYNC_REGS;
	int nested_size = hook_next_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NESTED_STATE);
	pthread_mutex_lock(&hook.lock);
	start_once();
	struct vm *vm = hook.is_active ? vm_add(vm_fd, run_size, has_sync_regs) : NULL;
	if (vm) {
		end_locked(vm, LINK_GONE_AREA, true); // an earlier VM of this descriptor
		link_ram_changes(true);
		vm->nested_size = nested_size > 0 ? (uint32_t)nested_size : 0;
	}
	pthread_mutex_unlock(&hook.lock);
}

static void vcpu_created(int vm_fd, int vcpu_fd, uint32_t index)
{
	pthread_mutex_lock(&hook.lock);
	struct vm *vm = vm_find(vm_fd);
	if (vm)
		vcpu_add(vm, vcpu_fd, index);
	pthread_mutex_unlock(&hook.lock);
}

// Slots of a late library: one goes of which nobody can say which. Until they are told anew there is no guest.
static void lose_sight(struct vm *vm)
{
	if (hook.owner == vm) {
		end_locked(vm, LINK_GONE_AREA, true);
		link_ram_changes(true);
	}
	vm->is_blind = true;
	(void)vm_slots_tell(vm, NULL, 0); // there is room for none
}

// The lock is held across the ioctl: no handler copies from memory that the VMM is about to unmap, and nobody looks for RAM between the two.
static int set_memory(int fd, unsigned long request, void *arg)
{
	struct kvm_userspace_memory_region region;
	memcpy(&region, arg, sizeof(region));
	bool is_normal_space = region.slot >> 16 == 0; // 1 is SMRAM
	pthread_mutex_lock(&hook.lock);
	struct vm *vm = is_normal_space ? vm_find(fd) : NULL;
	if (vm) {
		vm->slot_changes++;
		if (!vm_slot_recognise(vm, &region))
			lose_sight(vm);
		const struct vm_slot *lost = vm_slot_lost(vm, &region);
		if (lost && hook.owner == vm && area_overlaps(&hook.call.area, lost->gpa, lost->size))
			end_locked(vm, LINK_GONE_AREA, true);
		if (hook.owner == vm && vm_slot_changes_ram(vm, &region))
			link_ram_changes(lost != NULL);
	}
	int result = hook_next_ioctl(fd, request, arg);
	int error = errno;
	if (vm && !result)
		(void)vm_slot_set(vm, &region); // without memory for the table the slot stays unknown: refused, not wrong
	pthread_mutex_unlock(&hook.lock);
	errno = error;
	return result;
}

// The registers of a vCPU that has been reset: x86 starts in real mode at F000:FFF0.
static bool is_reset_state(unsigned long request, const void *arg)
{
	if (request == KVM_SET_REGS) {
		const struct kvm_regs *r = arg;
		return r->rip == 0xFFF0 && r->rflags == 2;
	}
	if (request == KVM_SET_SREGS) {
		const struct kvm_sregs *s = arg;
		return !(s->cr0 & CR0_PE) && s->cs.selector == 0xF000;
	}
	const struct kvm_sregs2 *s = arg;
	return !(s->cr0 & CR0_PE) && s->cs.selector == 0xF000;
}

// Application processors stand in the reset state until they are started: only the boot processor's reset, or that of the vCPU
// that made the last call, is the guest's.
static void vcpu_state_set(int fd, unsigned long request, const void *arg)
{
	struct vcpu *v = vcpu_find(fd);
	if (!v || !is_reset_state(request, arg))
		return;
	pthread_mutex_lock(&hook.lock);
	if (v->index == 0 || v == hook.caller)
		end_locked(v->vm, LINK_GONE_RESET, false);
	pthread_mutex_unlock(&hook.lock);
}

static int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int result, error;
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
	case SET_USER_MEMORY_REGION2:
		return arg ? set_memory(fd, request, arg) : hook_next_ioctl(fd, request, arg);
	case KVM_SET_REGS:
	case KVM_SET_SREGS:
	case KVM_SET_SREGS2:
		if (arg)
			vcpu_state_set(fd, request, arg);
		return hook_next_ioctl(fd, request, arg);
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		result = hook_next_ioctl(fd, request, arg);
		error = errno;
		if (result >= 0 && request == KVM_CREATE_VM)
			vm_created(fd, result);
		else if (result >= 0)
			vcpu_created(fd, result, (uint32_t)(uintptr_t)arg);
		errno = error;
		return result;
	default:
		return hook_next_ioctl(fd, request, arg);
	}
}

int hook_ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *arg = va_arg(list, void *);
	va_end(list);
	if (request == KVM_RUN) {
		struct vcpu *v = vcpu_find(fd);
		return v ? run_vcpu(v, arg) : hook_next_ioctl(fd, request, arg);
	}
	if (_IOC_TYPE(request) != KVMIO || !is_wanted)
		return hook_next_ioctl(fd, request, arg);
	return kvm_ioctl(fd, request, arg);
}

__attribute__((visibility("default"), alias("hook_ioctl"))) hook_ioctl_fn ioctl;

// ---- Life ---------------------------------------------------------------------------------------

// A forked child has neither the thread nor the guest. Before the first VM there is neither to have: then the child may
// be the VMM itself, which makes itself a daemon. Only async-signal-safe calls here.
static void after_fork_in_child(void)
{
	if (!owner_pid)
		return;
	is_wanted = hook.is_active = false;
	link_abandon();
}

__attribute__((constructor)) static void hook_load(void)
{
	*(void **)&next_ioctl = dlsym(RTLD_NEXT, "ioctl");
	is_wanted = link_prepare(NULL, NULL);
	if (is_wanted)
		pthread_atfork(NULL, NULL, after_fork_in_child);
}

bool hook_is_following(void)
{
	return is_wanted;
}

struct vm *hook_follow_late(const char *name, const char *folder, int kvm_fd, int vm_fd, hook_ioctl_fn *next)
{
	if (!link_prepare(name, folder))
		return NULL;
	if (next)
		next_ioctl = next;
	vm_created(kvm_fd, vm_fd);
	struct vm *vm = vm_find(vm_fd);
	if (!vm) { // the link did not start: the next try may have a better folder
		close(hook.wake_fd);
		hook.wake_fd = -1;
		owner_pid = 0;
		return NULL;
	}
	pthread_mutex_lock(&hook.lock);
	vm->is_blind = true;
	is_wanted = true;
	pthread_mutex_unlock(&hook.lock);
	pthread_atfork(NULL, NULL, after_fork_in_child);
	return vm;
}

// The VMM exits, perhaps with vCPUs in the middle of things: collect what there is, but do not insist. What a broker that does not read leaves in the
// ring it may find in the guest's RAM itself, where that is a file: it has had no goodbye then.
__attribute__((destructor)) static void hook_unload(void)
{
	struct timespec soon;
	if (!hook.is_active || getpid() != owner_pid)
		return;
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec++;
	if (pthread_mutex_timedlock(&hook.lock, &soon))
		return;
	hook.is_active = false;
	end_locked(hook.owner, LINK_GONE_BYE, false);
	link_drain(EXIT_PATIENCE_MS);
	end_locked(hook.owner, LINK_GONE_BYE, true);
	link_settle();
	link_stop();
	pthread_mutex_unlock(&hook.lock);
}
