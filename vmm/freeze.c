// SPDX-License-Identifier: MIT
#include "vmm/freeze.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/park.h"

#define FAST_TLS __attribute__((tls_model("initial-exec"))) // the library is preloaded; a handler must not allocate

static struct {
	int signal_number;    // 0: none was free, nothing is ever frozen
	int thaw_fd;          // eventfd, readable while nothing is frozen: one write wakes all
	const struct vm *vm;  // whose vCPUs are frozen, or NULL
} freeze = { .thaw_fd = -1 };

static __thread FAST_TLS struct vcpu *my_vcpu;
static __thread FAST_TLS volatile sig_atomic_t is_kicked_by_us;

static void on_signal(int number)
{
	(void)number; // there is one
	if (!my_vcpu)
		return;
	is_kicked_by_us = 1;
	__atomic_store_n(&my_vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void freeze_prepare(void)
{
	struct sigaction old, ours = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	freeze.thaw_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (freeze.thaw_fd < 0)
		return;
	for (int n = SIGRTMAX - 1; n > SIGRTMIN && !freeze.signal_number; n--) {
		if (!sigaction(n, NULL, &old) && old.sa_handler == SIG_DFL && !sigaction(n, &ours, NULL))
			freeze.signal_number = n;
	}
}

void freeze_note_thread(struct vcpu *v)
{
	if (my_vcpu == v || !freeze.signal_number)
		return;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, freeze.signal_number);
	my_vcpu = v;
	__atomic_store_n(&v->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

bool freeze_is_on(const struct vm *vm)
{
	return __atomic_load_n(&freeze.vm, __ATOMIC_ACQUIRE) == vm;
}

bool freeze_sleep(const struct vcpu *v)
{
	struct pollfd fd = { .fd = freeze.thaw_fd, .events = POLLIN };
	sigset_t mask;
	bool is_kicked = false;
	park_block_signals(&mask);
	while (freeze_is_on(v->vm) && !is_kicked)
		is_kicked = park_is_exit_wanted(v) || (ppoll(&fd, 1, NULL, &mask) < 0 && errno == EINTR);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	return is_kicked;
}

void freeze_forget_kick(const struct vcpu *v)
{
	if (!is_kicked_by_us)
		return;
	is_kicked_by_us = 0;
	// A kick of the VMM's that is lost by this is reported by the EINTR that is on its way.
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

void freeze_others(const struct vcpu *waiter)
{
	if (!freeze.signal_number || !waiter->vm->vcpus->next)
		return;
	eventfd_t ignored;
	(void)eventfd_read(freeze.thaw_fd, &ignored); // now nobody passes
	// A thread that has not seen this yet is on its way into KVM_RUN, and the signal finds it there or before.
	__atomic_store_n(&freeze.vm, waiter->vm, __ATOMIC_SEQ_CST);
	for (const struct vcpu *v = waiter->vm->vcpus; v; v = v->next) {
		pid_t tid = __atomic_load_n(&v->tid, __ATOMIC_ACQUIRE);
		if (v != waiter && tid)
			(void)syscall(SYS_tgkill, getpid(), tid, freeze.signal_number); // gone: nothing to freeze
	}
}

void freeze_end(void)
{
	if (!freeze.vm)
		return;
	__atomic_store_n(&freeze.vm, NULL, __ATOMIC_SEQ_CST);
	(void)eventfd_write(freeze.thaw_fd, 1); // it was 0: there is room
}
