// SPDX-License-Identifier: MIT
// One function call in the main thread of another process, by ptrace.
//
// The thread is interrupted only where it sleeps in poll or ppoll: there it holds no lock of the C library's, and its system call can be begun again. What the
// tracer leaves behind when it lets the thread go is what the kernel leaves behind for a signal handler: below the thread's stack pointer (and the red zone) a frame
// with all its registers, the vector ones too, and its signal mask, and the return address of the function is the C library's own way back from a handler.
//
// Or all of this stands on a stack of its own (`stack_top`), and the thread's is not touched. What is dead there need not be: QEMU 7.2 goes on reading the head of an ELF
// file given with -kernel, at each reset, from where it had it on the main thread's stack when it started (docs/evidence.md). So the thread's own is for a call that is a system call and no more.
//
//    stack, growing down
//    | what the thread had            |  <- its stack pointer
//    | red zone, 128 bytes            |
//    | the call's data                |
//    | vector registers (XSAVE form)  |
//    | registers, mask                |
//    | address of `rt_sigreturn`      |  <- stack pointer at the function's first instruction
//
// So the call comes to its end and the thread gets back to its poll without the tracer, wherever that is killed: before the registers are set, nothing has
// happened but bytes below the stack; after it, all that is needed is in the process itself. No code is written, nothing is allocated.
//
// Rules: one call at a time, all from one thread. The other threads of the process are not touched and run on. Its signals are blocked for the thread during the call.
#ifndef ATTACH_INJECT_H
#define ATTACH_INJECT_H

#include "attach/target.h"

#define INJECT_HOLD_S 20u

struct inject_call {
	uint64_t function;
	uint64_t arguments[6]; // integers; with data the first is the data's address in the process
	void *data;         // copied there and, when the call has ended, back
	size_t data_len;    // up to 64 KiB; 0 = none
	uint64_t restorer;  // inject_find_restorer
	uint64_t stack_top; // of a stack for it, a multiple of 64; 0 = the thread's own
	unsigned hold_s;    // how long to look for the main thread asleep; 0 = INJECT_HOLD_S
	// Out: the last system call in it that failed, and how (a positive errno); 0, 0 = none. Valid when it has ended.
	long failed_call;
	int failed_errno;
	int64_t result; // of the last system call in it that succeeded
};

// How the C library mapped at `libc` comes back from a signal handler: mov $15,%rax; syscall. -> 0: not found.
uint64_t inject_find_restorer(const struct target *t, const struct target_mapping *libc);

// Make the call and wait for its end. -> NULL; or an error, after which the process goes on as if nothing had been: it may not be traced, it was never asleep in its main loop (EAGAIN),
// it has ended, or the call has not come back in time (ETIMEDOUT: it goes on by itself, `data` is untouched).
ERROR_MUST_CHECK struct error *inject_call(const struct target *t, struct inject_call *call);

#endif
