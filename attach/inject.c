// SPDX-License-Identifier: MIT
#include "attach/inject.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// <asm/sigcontext.h> and <asm/ucontext.h>, which do not go together with the C library's headers
#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define UC_FP_XSTATE 1u
#define UC_SIGCONTEXT_SS 2u
#define UC_STRICT_RESTORE_SS 4u
// <linux/errno.h>: what an interrupted system call has in RAX while it is decided whether it begins again
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

#define DATA_MAX 65536u
#define RED_ZONE 128u
#define XSTATE_MAX 16384u   // with AMX it has 11008 bytes
#define XSTATE_LEGACY 576u  // FXSAVE's area and the header of XSAVE's
#define XSTATE_SW 464u      // in the former, for software
#define FEATURE_PKRU 9u
#define STACK_MAX (8u << 20) // as far below the top of the main thread's stack as it may be: the usual limit
#define CALL_S 60    // dlopen may have to read from a slow disk
#define STOP_S 5     // a thread in the kernel stops when it comes out of there
#define EFLAGS_TF 0x100u
#define EFLAGS_DF 0x400u

struct frame {
	uint64_t restorer;
	ucontext_t context; // of which the kernel knows the first FRAME_SIZE bytes
};
#define FRAME_SIZE (offsetof(struct frame, context.uc_sigmask) + 8)
_Static_assert(offsetof(ucontext_t, uc_mcontext) == 40 && offsetof(ucontext_t, uc_sigmask) == 296, "the kernel's layout");

struct inject {
	const struct target *target;
	struct inject_call *call;
	struct user_regs_struct regs; // as they were
	uint64_t mask;
	uint8_t xstate[XSTATE_MAX];
	size_t xstate_len;  // bytes of it that count
	uint64_t xfeatures; // in it
	uint64_t frame_at, xstate_at, data_at, top; // ascending
	bool is_stopped;
};

enum stop { STOP_TRAP, STOP_GROUP, STOP_CALL, STOP_SIGNAL, STOP_ENDED, STOP_NONE };

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap_us(long us)
{
	nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL);
}

static long trace(struct inject *in, enum __ptrace_request request, uintptr_t address, uintptr_t data)
{
	return ptrace(request, in->target->pid, (void *)address, (void *)data);
}

static void resume(struct inject *in, enum __ptrace_request request, int signal_number)
{
	in->is_stopped = false;
	(void)trace(in, request, 0, (uintptr_t)signal_number); // ESRCH: it has just been killed, and the next wait says so
}

// ---- Stops ------------------------------------------------------------------------------------------------

static enum stop kind_of(int status)
{
	int number = WSTOPSIG(status);

	if (!WIFSTOPPED(status))
		return STOP_ENDED;
	if (status >> 16 == PTRACE_EVENT_STOP)
		return number == SIGTRAP ? STOP_TRAP : STOP_GROUP;
	return number == (SIGTRAP | 0x80) ? STOP_CALL : STOP_SIGNAL;
}

// The next time the thread stops; STOP_NONE: not before `deadline` (now_ms).
static enum stop next_stop(struct inject *in, int64_t deadline, int *ret_signal)
{
	int status;

	for (;;) {
		pid_t got = waitpid(in->target->pid, &status, WNOHANG | __WALL);

		if (got < 0 && errno != EINTR)
			return STOP_ENDED;
		if (got > 0)
			break;
		if (now_ms() >= deadline)
			return STOP_NONE;
		nap_us(100);
	}
	in->is_stopped = WIFSTOPPED(status);
	*ret_signal = in->is_stopped ? WSTOPSIG(status) : 0;
	return kind_of(status);
}

static struct error *has_ended(const struct inject *in)
{
	return error_create(ESRCH, "process %d has ended meanwhile", (int)in->target->pid);
}

// Stopped by our own interruption; signals that come before it are passed on.
static struct error *interrupt(struct inject *in, int64_t deadline)
{
	int number = 0;

	if (trace(in, PTRACE_INTERRUPT, 0, 0))
		return has_ended(in);
	for (;;) {
		switch (next_stop(in, deadline, &number)) {
		case STOP_TRAP:
			return NULL;
		case STOP_SIGNAL:
			resume(in, PTRACE_CONT, number);
			break;
		case STOP_CALL:
			resume(in, PTRACE_CONT, 0);
			break;
		case STOP_GROUP:
			return error_create(EBUSY, "process %d has been stopped; let it run first: kill -CONT %d", (int)in->target->pid, (int)in->target->pid);
		case STOP_ENDED:
			return has_ended(in);
		case STOP_NONE:
			return error_create(ETIMEDOUT, "the main thread of process %d does not stop: it waits for a device or a network", (int)in->target->pid);
		}
	}
}

// Whatever happens next happens without us.
static void let_go(struct inject *in)
{
	if (!in->is_stopped)
		error_free(interrupt(in, now_ms() + STOP_S * 1000)); // if it does not stop, our end lets it go
	if (in->is_stopped)
		resume(in, PTRACE_DETACH, 0);
}

// ---- The right moment -------------------------------------------------------------------------------------

static bool is_on_main_stack(const struct inject *in)
{
	const struct target *t = in->target;

	for (size_t i = 0; i < t->mapping_count; i++)
		if (strcmp(t->mappings[i].path, "[stack]") == 0)
			return in->regs.rsp < t->mappings[i].end && in->regs.rsp > t->mappings[i].end - STACK_MAX / 2;
	return false;
}

static bool is_syscall_before(const struct inject *in, uint64_t address)
{
	static const uint8_t expected[2] = { 0x0F, 0x05 };
	uint8_t code[2];

	return pread(in->target->mem_fd, code, sizeof(code), (off_t)(address - sizeof(code))) == sizeof(code) && memcmp(code, expected, sizeof(code)) == 0;
}

// In a system call that sleeps until something happens (a poll that goes on after an interruption is called restart_syscall, as others are, and not meant), called from 64-bit code on its own stack (a coroutine has another, which may be small).
static bool is_asleep(const struct inject *in)
{
	const struct user_regs_struct *r = &in->regs;
	int64_t result = (int64_t)r->rax;

	return (r->orig_rax == SYS_poll || r->orig_rax == SYS_ppoll) && (result == -ERESTARTNOHAND || result == -ERESTART_RESTARTBLOCK) && r->cs == 0x33 &&
	       is_on_main_stack(in) && is_syscall_before(in, r->rip);
}

static struct error *read_registers(struct inject *in)
{
	if (!trace(in, PTRACE_GETREGS, 0, (uintptr_t)&in->regs))
		return NULL;
	return error_create(errno, "the registers of process %d cannot be read: %s", (int)in->target->pid, strerror(errno));
}

static struct error *hold_asleep(struct inject *in)
{
	unsigned seconds = in->call->hold_s ? in->call->hold_s : INJECT_HOLD_S;
	int64_t deadline = now_ms() + seconds * 1000;

	for (long pause_us = 500;; pause_us = pause_us < 50000 ? pause_us * 2 : pause_us) {
		struct error *error = interrupt(in, now_ms() + STOP_S * 1000);

		if (!error)
			error = read_registers(in);
		if (error || is_asleep(in))
			return error;
		if (now_ms() >= deadline)
			return error_create(EAGAIN, "the main thread of process %d was never found asleep in poll within %u s, so it could not be called safely; try again when the VM is less busy",
					    (int)in->target->pid, seconds);
		resume(in, PTRACE_CONT, 0);
		nap_us(pause_us);
	}
}

// ---- The frame --------------------------------------------------------------------------------------------

static void put32(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value));
}

static void put64(uint8_t *at, uint64_t value)
{
	memcpy(at, &value, sizeof(value));
}

// PKRU is always written, but marked as present only when the processor says so; without the mark it would be reset.
static void mark_pkru(struct inject *in, size_t len)
{
	uint32_t size, offset, flags, reserved, value = 0;

	if (!__get_cpuid_count(0xD, FEATURE_PKRU, &size, &offset, &flags, &reserved) || size != 8 || offset > len || len - offset < size)
		return;
	memcpy(&value, in->xstate + offset, sizeof(value));
	if (value)
		in->xfeatures |= 1u << FEATURE_PKRU;
}

// Up to the last component in use: a frame may not be larger than what the kernel would have made for this process, which has no room for AMX unless it asked.
static struct error *measure_xstate(struct inject *in, size_t len)
{
	size_t end = XSTATE_LEGACY;

	memcpy(&in->xfeatures, in->xstate + 512, sizeof(in->xfeatures));
	mark_pkru(in, len);
	in->xfeatures |= 3; // x87 and SSE, which are always there
	for (uint32_t i = 2; i < 63; i++) {
		uint32_t size, offset, flags, reserved;

		if (!(in->xfeatures >> i & 1))
			continue;
		if (!__get_cpuid_count(0xD, i, &size, &offset, &flags, &reserved) || !size || offset > len || size > len - offset)
			return error_create(ENOTSUP, "the vector registers of process %d have a part %u that this processor does not describe", (int)in->target->pid, i);
		end = offset + size > end ? offset + size : end;
	}
	in->xstate_len = end;
	return NULL;
}

static struct error *read_xstate(struct inject *in)
{
	struct iovec io = { .iov_base = in->xstate, .iov_len = sizeof(in->xstate) };

	if (trace(in, PTRACE_GETREGSET, NT_X86_XSTATE, (uintptr_t)&io) || io.iov_len < XSTATE_LEGACY || io.iov_len >= sizeof(in->xstate) ||
	    trace(in, PTRACE_GETSIGMASK, sizeof(in->mask), (uintptr_t)&in->mask))
		return error_create(ENOTSUP, "the vector registers or the signal mask of process %d cannot be read: %s", (int)in->target->pid, strerror(errno));
	return measure_xstate(in, io.iov_len);
}

// From the top down; the vector registers at a multiple of 64, the stack at the function's entry as after a call.
static size_t xstate_room(const struct inject *in)
{
	return in->xstate_len + sizeof(uint32_t);
}

static void lay_out(struct inject *in)
{
	in->top = in->call->stack_top ? in->call->stack_top : in->regs.rsp - RED_ZONE;
	in->data_at = (in->top - in->call->data_len) & ~UINT64_C(63);
	in->xstate_at = (in->data_at - xstate_room(in)) & ~UINT64_C(63);
	in->frame_at = ((in->xstate_at - FRAME_SIZE) & ~UINT64_C(15)) - 8;
}

// As the kernel writes it for a handler.
static void fill_xstate(const struct inject *in, uint8_t *at)
{
	memcpy(at, in->xstate, in->xstate_len);
	memset(at + XSTATE_SW, 0, 512 - XSTATE_SW);
	put32(at + XSTATE_SW, XSTATE_MAGIC1);
	put32(at + XSTATE_SW + 4, (uint32_t)xstate_room(in));
	put64(at + XSTATE_SW + 8, in->xfeatures);
	put32(at + XSTATE_SW + 16, (uint32_t)in->xstate_len);
	put64(at + 512, in->xfeatures);
	put32(at + in->xstate_len, XSTATE_MAGIC2);
}

// The thread comes back to the system call's instruction, and begins it again.
static void fill_frame(const struct inject *in, struct frame *ret)
{
	const struct user_regs_struct *r = &in->regs;
	greg_t *g = ret->context.uc_mcontext.gregs;

	ret->restorer = in->call->restorer;
	ret->context.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	ret->context.uc_stack.ss_flags = 0xFF; // no such flag: the kernel leaves the alternate stack as it is
	g[REG_R8] = (greg_t)r->r8, g[REG_R9] = (greg_t)r->r9, g[REG_R10] = (greg_t)r->r10, g[REG_R11] = (greg_t)r->r11;
	g[REG_R12] = (greg_t)r->r12, g[REG_R13] = (greg_t)r->r13, g[REG_R14] = (greg_t)r->r14, g[REG_R15] = (greg_t)r->r15;
	g[REG_RDI] = (greg_t)r->rdi, g[REG_RSI] = (greg_t)r->rsi, g[REG_RBP] = (greg_t)r->rbp, g[REG_RBX] = (greg_t)r->rbx;
	g[REG_RDX] = (greg_t)r->rdx, g[REG_RCX] = (greg_t)r->rcx, g[REG_RSP] = (greg_t)r->rsp, g[REG_EFL] = (greg_t)r->eflags;
	g[REG_RAX] = (greg_t)r->orig_rax;
	g[REG_RIP] = (greg_t)(r->rip - 2);
	g[REG_CSGSFS] = (greg_t)(r->cs | r->ss << 48);
	ret->context.uc_mcontext.fpregs = (fpregset_t)(uintptr_t)in->xstate_at; // an address over there
	memcpy(&ret->context.uc_sigmask, &in->mask, sizeof(in->mask));
}

static struct error *write_stack(const struct inject *in)
{
	size_t len = (size_t)(in->top - in->frame_at);
	struct frame frame = { 0 };
	uint8_t *bytes = calloc(1, len);
	ssize_t written;

	if (!bytes)
		return error_create(ENOMEM, "out of memory");
	fill_frame(in, &frame);
	memcpy(bytes, &frame, FRAME_SIZE);
	fill_xstate(in, bytes + (in->xstate_at - in->frame_at));
	if (in->call->data_len)
		memcpy(bytes + (in->data_at - in->frame_at), in->call->data, in->call->data_len);
	written = pwrite(in->target->mem_fd, bytes, len, (off_t)in->frame_at);
	free(bytes);
	if (written == (ssize_t)len)
		return NULL;
	return error_create(EFAULT, "the stack of process %d has no room for the call", (int)in->target->pid);
}

// From here on the thread makes the call, and comes back from it, with us or without.
static struct error *set_registers(struct inject *in)
{
	const uint64_t *args = in->call->arguments;
	struct user_regs_struct r = in->regs;
	uint64_t all = ~UINT64_C(0);

	r.rip = in->call->function;
	r.rsp = in->frame_at;
	r.rdi = in->call->data_len ? in->data_at : args[0];
	r.rsi = args[1], r.rdx = args[2], r.rcx = args[3], r.r8 = args[4], r.r9 = args[5];
	r.rax = 0;
	r.orig_rax = ~UINT64_C(0); // it is not in a system call any more
	r.eflags &= ~(uint64_t)(EFLAGS_TF | EFLAGS_DF);
	if (trace(in, PTRACE_SETREGS, 0, (uintptr_t)&r))
		return error_create(errno, "the registers of process %d cannot be set: %s", (int)in->target->pid, strerror(errno));
	(void)trace(in, PTRACE_SETSIGMASK, sizeof(all), (uintptr_t)&all); // if not: its handlers run on top of the call, as on top of anything
	return NULL;
}

// ---- The call ---------------------------------------------------------------------------------------------

// -> true: the thread is about to come back.
static bool note_syscall(struct inject *in, long *number)
{
	struct __ptrace_syscall_info info = { .op = PTRACE_SYSCALL_INFO_NONE };

	if (trace(in, PTRACE_GET_SYSCALL_INFO, sizeof(info), (uintptr_t)&info) <= 0)
		return false;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		*number = (long)info.entry.nr;
		return *number == SYS_rt_sigreturn && info.stack_pointer == in->frame_at + sizeof(uint64_t);
	}
	if (info.op == PTRACE_SYSCALL_INFO_EXIT && info.exit.is_error) {
		in->call->failed_call = *number;
		in->call->failed_errno = (int)-info.exit.rval;
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
		in->call->result = info.exit.rval;
	}
	return false;
}

static struct error *wait_for_end(struct inject *in)
{
	int64_t deadline = now_ms() + CALL_S * 1000;
	long number = 0;
	int signal_number = 0;

	resume(in, PTRACE_SYSCALL, 0);
	for (;;) {
		switch (next_stop(in, deadline, &signal_number)) {
		case STOP_CALL:
			if (note_syscall(in, &number))
				return NULL;
			resume(in, PTRACE_SYSCALL, 0);
			break;
		case STOP_SIGNAL:
			resume(in, PTRACE_SYSCALL, signal_number);
			break;
		case STOP_TRAP:
			resume(in, PTRACE_SYSCALL, 0);
			break;
		case STOP_GROUP:
			resume(in, PTRACE_LISTEN, 0);
			break;
		case STOP_ENDED:
			return has_ended(in);
		case STOP_NONE:
			return error_create(ETIMEDOUT, "process %d has not come back from the call within %d s; it was left alone, and goes on when it can", (int)in->target->pid, CALL_S);
		}
	}
}

static struct error *make_call(struct inject *in)
{
	struct error *error = hold_asleep(in);

	if (!error)
		error = read_xstate(in);
	if (error)
		return error;
	lay_out(in);
	error = write_stack(in);
	if (!error)
		error = set_registers(in);
	if (!error)
		error = wait_for_end(in);
	if (!error && in->call->data_len && pread(in->target->mem_fd, in->call->data, in->call->data_len, (off_t)in->data_at) != (ssize_t)in->call->data_len)
		error = error_create(EFAULT, "the answer of process %d cannot be read", (int)in->target->pid);
	return error;
}

static struct error *seize(const struct inject *in)
{
	if (!ptrace(PTRACE_SEIZE, in->target->pid, NULL, (void *)(uintptr_t)PTRACE_O_TRACESYSGOOD))
		return NULL;
	return error_create(errno, "process %d may not be traced: %s; attach as root (Yama's kernel.yama.ptrace_scope lets nobody else trace a process that is not his child)",
			    (int)in->target->pid, strerror(errno));
}

struct error *inject_call(const struct target *t, struct inject_call *call)
{
	struct inject in = { .target = t, .call = call };
	struct error *error;

	if (call->data_len > DATA_MAX)
		return error_create(EINVAL, "a call with %zu bytes of data; at most %u", call->data_len, DATA_MAX);
	call->failed_call = call->failed_errno = 0;
	call->result = 0;
	error = seize(&in);
	if (error)
		return error;
	error = make_call(&in);
	let_go(&in);
	return error;
}

uint64_t inject_find_restorer(const struct target *t, const struct target_mapping *libc)
{
	static const uint8_t code[] = { 0x48, 0xC7, 0xC0, SYS_rt_sigreturn, 0, 0, 0, 0x0F, 0x05 };

	return target_find_code(t, libc, code, sizeof(code));
}
