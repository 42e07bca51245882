// SPDX-License-Identifier: MIT
// Calls into another process, whose main thread notices the least change in its registers; and a tracer that is killed at any step.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "attach/inject.h"

#define HANG_S 60
#define ANSWER 0x600DF00Du
#define TRACER_KILLED 99

// ---- A tracer that dies -------------------------------------------------------------------------

static int steps, die_at; // 0: does not; -n: just before the nth call of ptrace, n: just after it

static long ptrace_raw(enum __ptrace_request request, pid_t pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

// In place of the C library's.
long ptrace(enum __ptrace_request request, ...)
{
	va_list list;
	va_start(list, request);
	pid_t pid = va_arg(list, pid_t);
	void *address = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);
	steps++;
	if (steps == -die_at)
		kill(getpid(), SIGKILL);
	long result = ptrace_raw(request, pid, address, data);
	if (steps == die_at)
		kill(getpid(), SIGKILL);
	return result;
}

// ---- The victim ---------------------------------------------------------------------------------

struct registers {
	uint8_t vectors[16][32];
	uint64_t general[9];  // 512: rbx rbp r8 r9 r10 r12 r13 r14 r15
	uint64_t red_zone[3]; // 584: at -8, -64 and -128 of the stack pointer
	uint32_t mxcsr;       // 608
	uint16_t x87;         // 612
	uint16_t has_avx;     // 614: the vectors count
};

// poll(fds, 1, -1) with `before` in the registers; *after: as they were when it came back. -> its result
long poll_with_registers(struct pollfd *fds, const struct registers *before, struct registers *after);
__asm__(".text\n.globl poll_with_registers\n.hidden poll_with_registers\n.type poll_with_registers, @function\npoll_with_registers:\n"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdx\n"
	"cmpw $0, 614(%rsi); je 1f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups 32*\\n(%rsi), %ymm\\n\n .endr\n"
	"1: ldmxcsr 608(%rsi); fldcw 612(%rsi)\n"
	"mov 512(%rsi), %rbx; mov 520(%rsi), %rbp; mov 528(%rsi), %r8; mov 536(%rsi), %r9; mov 544(%rsi), %r10\n"
	"mov 552(%rsi), %r12; mov 560(%rsi), %r13; mov 568(%rsi), %r14; mov 576(%rsi), %r15\n"
	"mov 584(%rsi), %rcx; mov %rcx, -8(%rsp); mov 592(%rsi), %rcx; mov %rcx, -64(%rsp)\n"
	"mov 600(%rsi), %rcx; mov %rcx, -128(%rsp)\n"
	"mov $1, %esi; mov $-1, %rdx; mov $7, %eax; syscall\n"
	"mov (%rsp), %rcx\n"
	"mov %rbx, 512(%rcx); mov %rbp, 520(%rcx); mov %r8, 528(%rcx); mov %r9, 536(%rcx); mov %r10, 544(%rcx)\n"
	"mov %r12, 552(%rcx); mov %r13, 560(%rcx); mov %r14, 568(%rcx); mov %r15, 576(%rcx)\n"
	"mov -8(%rsp), %rbx; mov %rbx, 584(%rcx); mov -64(%rsp), %rbx; mov %rbx, 592(%rcx)\n"
	"mov -128(%rsp), %rbx; mov %rbx, 600(%rcx)\n"
	"stmxcsr 608(%rcx); fnstcw 612(%rcx)\n"
	"cmpw $0, 614(%rcx); je 2f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups %ymm\\n, 32*\\n(%rcx)\n .endr\n"
	"vzeroupper\n"
	"2: pop %rdx; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"ret\n.size poll_with_registers, .-poll_with_registers\n");

enum habit { SLEEPS, SPINS, NAPS, ELSEWHERE };

// Seen by the victim and by the test.
static struct shared {
	volatile uint32_t begun, ended; // calls of called()
	volatile uint32_t polls;        // that came back with something to read
	volatile uint32_t changed;      // ... and with a register, the red zone or the mask other than before
	volatile uint32_t interrupted;  // EINTR
	volatile uint32_t handled, handled_in_call;
} *shared;

static struct victim {
	pid_t pid;
	int pipe; // for writing
	struct target target;
	uint64_t restorer;
} victim;

static void on_signal(int number)
{
	(void)number;
	shared->handled++;
	shared->handled_in_call += shared->begun != shared->ended;
}

static void sleep_and_compare(int fd)
{
	static struct registers before, after;
	uint64_t mask_before = 0, mask_after = 0;
	uint32_t default_mxcsr = 0x1F80;
	uint16_t default_x87 = 0x37F;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	memset(&before, 0x5A, sizeof(before));
	for (unsigned i = 0; i < 512; i++)
		before.vectors[i / 32][i % 32] = (uint8_t)i;
	before.mxcsr = 0x7F80; // rounds to zero
	before.x87 = 0x027F;   // double precision
	before.has_avx = __builtin_cpu_supports("avx") != 0;
	after = before;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask_before, sizeof(mask_before));
	long result = poll_with_registers(&p, &before, &after);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask_after, sizeof(mask_after));
	__asm__ volatile("ldmxcsr %0; fldcw %1" ::"m"(default_mxcsr), "m"(default_x87));
	shared->changed += memcmp(&before, &after, sizeof(before)) != 0 || mask_before != mask_after;
	if (result == 1)
		shared->polls++;
	else
		shared->interrupted++;
}

__attribute__((noreturn)) static void live(enum habit habit, int fd)
{
	sigset_t set;
	char what = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	signal(SIGUSR1, on_signal);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while (habit == SPINS)
		shared->polls++;
	while (habit == NAPS)
		nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	do {
		sleep_and_compare(fd);
		(void)!read(fd, &what, 1); // not blocking: after EINTR there is nothing
	} while (what != 'q');
	_exit(0);
}

static void live_elsewhere(int fd)
{
	live(ELSEWHERE, fd);
}

// On a stack of its own, as QEMU's coroutines.
__attribute__((noreturn)) static void live_on_another_stack(int fd)
{
	static ucontext_t there, back;
	getcontext(&there);
	there.uc_stack.ss_size = 1 << 20;
	there.uc_stack.ss_sp = mmap(NULL, there.uc_stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	there.uc_link = &back;
	makecontext(&there, (void (*)(void))(uintptr_t)live_elsewhere, 1, fd);
	swapcontext(&back, &there);
	_exit(1);
}

// ---- What is called -----------------------------------------------------------------------------

struct data {
	uint32_t answer;
	uint64_t argument, mask;
	char text[20000]; // as much as vmm/late.h has
};

enum argument { CALL_PLAIN = 1, CALL_SIGNALS = 2, CALL_ENDS = 3 };

// In the victim. Leaves nothing of the registers as it was that a function may change, and more.
static void called(struct data *d, uint64_t argument)
{
	uint32_t mxcsr = 0x1FC0;
	uint16_t x87 = 0x0F7F;
	shared->begun++;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &d->mask, sizeof(d->mask));
	if (argument == CALL_SIGNALS)
		kill(getpid(), SIGUSR1);
	if (argument == CALL_ENDS)
		_exit(7);
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	(void)close(-1);
	d->answer = ANSWER;
	d->argument = argument;
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroall");
	__asm__ volatile("ldmxcsr %0; fldcw %1" ::"m"(mxcsr), "m"(x87));
	shared->ended++;
}

// ---- The test's side ----------------------------------------------------------------------------

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

// Bounded only against a hang.
#define WAIT_UNTIL(condition) \
	do { \
		for (int n_ = 0; !(condition); n_++) { \
			if (n_ > HANG_S * 1000) \
				fail_msg("never: %s", #condition); \
			nap(); \
		} \
	} while (0)

static void start_victim(enum habit habit)
{
	const struct target_mapping *libc;
	int ends[2];
	memset((void *)shared, 0, sizeof(*shared));
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	victim = (struct victim){ .pid = fork(), .pipe = ends[1] };
	if (victim.pid == 0 && habit == ELSEWHERE)
		live_on_another_stack(ends[0]);
	if (victim.pid == 0)
		live(habit, ends[0]);
	close(ends[0]);
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)victim.pid);
	victim.target.pid = victim.pid;
	victim.target.mem_fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(victim.target.mem_fd >= 0);
	assert_null(target_refresh(&victim.target));
	libc = target_find_file(&victim.target, "libc.so.");
	assert_non_null(libc);
	victim.restorer = inject_find_restorer(&victim.target, libc);
	assert_int_not_equal(victim.restorer, 0);
}

static void poke(char what)
{
	assert_int_equal(write(victim.pipe, &what, 1), 1);
}

// It goes on as if nothing had been.
static void assert_unharmed(void)
{
	uint32_t polls = shared->polls;
	poke('x');
	WAIT_UNTIL(shared->polls == polls + 1);
	assert_int_equal(shared->changed, 0);
	assert_int_equal(shared->interrupted, 0);
}

static void end_victim(void)
{
	int status;
	target_close(&victim.target);
	close(victim.pipe);
	kill(victim.pid, SIGKILL);
	assert_int_equal(waitpid(victim.pid, &status, 0), victim.pid);
}

static struct inject_call call_of(struct data *d, enum argument argument)
{
	memset(d, 0x11, sizeof(*d));
	return (struct inject_call){ .function = (uint64_t)(uintptr_t)called, .arguments = { 0, argument }, .data = d, .data_len = sizeof(*d), .restorer = victim.restorer, .hold_s = HANG_S };
}

// The victim is traced and asleep in poll: what is below its stack, and it is let go. False: not asleep yet.
static bool read_sleepers_stack(struct user_regs_struct *regs, void *ret, size_t len)
{
	int status;
	assert_int_equal(ptrace_raw(PTRACE_INTERRUPT, victim.pid, NULL, NULL), 0);
	assert_int_equal(waitpid(victim.pid, &status, __WALL), victim.pid);
	assert_int_equal(ptrace_raw(PTRACE_GETREGS, victim.pid, NULL, regs), 0);
	bool is_asleep = regs->orig_rax == SYS_poll;
	if (is_asleep)
		assert_int_equal(pread(victim.target.mem_fd, ret, len, (off_t)(regs->rsp - len)), len);
	assert_int_equal(ptrace_raw(is_asleep ? PTRACE_DETACH : PTRACE_CONT, victim.pid, NULL, NULL), 0);
	return is_asleep;
}

static void assert_error(struct error *error, int code)
{
	assert_non_null(error);
	if (error->code != code)
		fail_msg("%s", error->text);
	error_free(error);
}

static void assert_success(struct error *error)
{
	if (error)
		fail_msg("%s", error->text);
}

static void assert_never_asleep(enum habit habit)
{
	static struct data d;
	start_victim(habit);
	struct inject_call call = call_of(&d, CALL_PLAIN);
	call.hold_s = 1;
	assert_error(inject_call(&victim.target, &call), EAGAIN);
	assert_int_equal(shared->begun, 0);
	assert_int_equal(kill(victim.pid, 0), 0);
}

// ---- Tests --------------------------------------------------------------------------------------

static void who_never_sleeps_in_poll_is_not_called(void **state)
{
	(void)state;
	assert_never_asleep(SPINS);
	uint32_t turns = shared->polls;
	WAIT_UNTIL(shared->polls != turns);
	end_victim();
	assert_never_asleep(NAPS);
	end_victim();
}

static void who_is_on_another_stack_is_not_called(void **state)
{
	(void)state;
	assert_never_asleep(ELSEWHERE);
	assert_unharmed();
	end_victim();
}

static void who_has_ended_is_not_called(void **state)
{
	static struct data d;
	(void)state;
	start_victim(SLEEPS);
	struct inject_call call = call_of(&d, CALL_PLAIN);
	kill(victim.pid, SIGKILL);
	waitid(P_PID, (id_t)victim.pid, NULL, WEXITED | WNOWAIT);
	struct error *error = inject_call(&victim.target, &call);
	assert_non_null(error);
	error_free(error);
	end_victim();
}

static void who_ends_during_the_call_is_told(void **state)
{
	static struct data d;
	(void)state;
	start_victim(SLEEPS);
	struct inject_call call = call_of(&d, CALL_ENDS);
	assert_error(inject_call(&victim.target, &call), ESRCH);
	target_close(&victim.target); // the tracer has its status
	close(victim.pipe);
}

static void too_much_data_is_refused(void **state)
{
	static struct data d;
	(void)state;
	start_victim(SLEEPS);
	struct inject_call call = call_of(&d, CALL_PLAIN);
	call.data_len = 65537;
	assert_error(inject_call(&victim.target, &call), EINVAL);
	assert_unharmed();
	end_victim();
}

static void a_call_changes_nothing_but_its_data(void **state)
{
	static struct data d;
	(void)state;
	start_victim(SLEEPS);
	for (int i = 0; i < 20; i++) {
		struct inject_call call = call_of(&d, CALL_PLAIN);
		assert_success(inject_call(&victim.target, &call));
		assert_int_equal(d.answer, ANSWER);
		assert_int_equal(d.argument, CALL_PLAIN);
		assert_int_equal(d.text[sizeof(d.text) - 1], 0x11);
		assert_true(d.mask == ~(UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1)));
		assert_int_equal(call.failed_call, SYS_close);
		assert_int_equal(call.failed_errno, EBADF);
		assert_unharmed();
	}
	assert_int_equal(shared->begun, 20);
	assert_int_equal(shared->ended, 20);
	end_victim();
}

static void a_call_may_have_a_stack_of_its_own(void **state)
{
	static struct data d;
	static uint8_t stack[65536] __attribute__((aligned(64)));
	(void)state;
	start_victim(SLEEPS);
	struct inject_call call = call_of(&d, CALL_PLAIN);
	call.stack_top = (uint64_t)(uintptr_t)stack + sizeof(stack);
	assert_unharmed(); // what it binds at its first turn is on its stack
	uint64_t below[4096 / 8] = { 0 }, after[4096 / 8];
	struct user_regs_struct regs;
	assert_int_equal(ptrace_raw(PTRACE_SEIZE, victim.pid, NULL, NULL), 0);
	WAIT_UNTIL(read_sleepers_stack(&regs, below, sizeof(below)));
	assert_unharmed(); // a poll that was interrupted goes on as restart_syscall, which is let alone: this one is new
	assert_success(inject_call(&victim.target, &call));
	assert_int_equal(d.answer, ANSWER);
	assert_unharmed();
	assert_int_equal(ptrace_raw(PTRACE_SEIZE, victim.pid, NULL, NULL), 0);
	WAIT_UNTIL(read_sleepers_stack(&regs, after, sizeof(after)));
	assert_memory_equal(below, after, sizeof(below));
	assert_unharmed();
	end_victim();
}

static void a_signal_waits_for_the_end_of_the_call(void **state)
{
	static struct data d;
	(void)state;
	start_victim(SLEEPS);
	struct inject_call call = call_of(&d, CALL_SIGNALS);
	assert_success(inject_call(&victim.target, &call));
	WAIT_UNTIL(shared->handled == 1);
	assert_int_equal(shared->handled_in_call, 0);
	assert_unharmed();
	end_victim();
}

static int attempt(int when)
{
	static struct data d;
	pid_t tracer = fork();
	if (tracer == 0) {
		struct inject_call call = call_of(&d, CALL_PLAIN);
		steps = 0;
		die_at = when;
		struct error *error = inject_call(&victim.target, &call);
		_exit(error || d.answer != ANSWER);
	}
	int status;
	assert_int_equal(waitpid(tracer, &status, 0), tracer);
	return WIFSIGNALED(status) ? TRACER_KILLED : WEXITSTATUS(status);
}

// Before and after each of its calls of ptrace, until it has come to its end without being killed. The victim may be stopped for a moment by then, but not longer.
static void a_tracer_may_die_at_any_step(void **state)
{
	uint32_t calls = 0, without = 0;
	(void)state;
	start_victim(SLEEPS);
	for (int sign = -1; sign <= 1; sign += 2) {
		int outcome = TRACER_KILLED;
		for (int step = 1; outcome == TRACER_KILLED; step++) {
			uint32_t before = shared->begun;
			outcome = attempt(sign * step);
			assert_unharmed();
			WAIT_UNTIL(shared->begun == shared->ended);
			calls += shared->begun != before;
			without += shared->begun == before;
		}
		assert_int_equal(outcome, 0);
	}
	print_message("a tracer died %u times before the call and %u times in it\n", without, calls);
	assert_true(without >= 10 && calls >= 10);
	end_victim();
}

static int make_shared(void **state)
{
	(void)state;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_never_sleeps_in_poll_is_not_called),
		cmocka_unit_test(who_is_on_another_stack_is_not_called),
		cmocka_unit_test(who_has_ended_is_not_called),
		cmocka_unit_test(who_ends_during_the_call_is_told),
		cmocka_unit_test(too_much_data_is_refused),
		cmocka_unit_test(a_call_changes_nothing_but_its_data),
		cmocka_unit_test(a_call_may_have_a_stack_of_its_own),
		cmocka_unit_test(a_signal_waits_for_the_end_of_the_call),
		cmocka_unit_test(a_tracer_may_die_at_any_step),
	};
	return cmocka_run_group_tests(tests, make_shared, NULL);
}
