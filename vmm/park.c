// SPDX-License-Identifier: MIT
#include "vmm/park.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "vmm/freeze.h"
#include "vmm/link.h"
#include "vmm/nested.h"

// How long a call that need not wait is held up by a broker that reads nothing at all: as long as the broker waits for a debugger that
// acknowledges nothing (serve/broker.c), and as the module waits for an answer by debugcon. Prints are lost after that. It counts from the first message
// that found no room, so a stopped broker costs a running guest this once, and not at every call.
#define STALL_MS 1000u

void park_wake(void)
{
	if (hook.has_sleeper)
		(void)eventfd_write(hook.wake_fd, 1); // fails only when it is set 2^64 - 2 times over: awake then
}

// Faults stay deliverable: a VMM handles SIGBUS of its guest's memory in the vCPU thread.
void park_block_signals(sigset_t *ret_old)
{
	sigset_t all;
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &all, ret_old);
}

bool park_is_exit_wanted(const struct vcpu *v)
{
	return __atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE);
}

static struct timespec until(uint64_t deadline_ms)
{
	uint64_t now = hook_now_ms();
	uint64_t ms = deadline_ms > now ? deadline_ms - now : 0;
	return (struct timespec){ .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };
}

// Sleep until the broker's socket is ready for `events`, somebody calls park_wake, or the deadline. Signals are blocked except
// inside ppoll, so a kick between the look at immediate_exit and the sleep is not lost; what the broker
// sent is read afterwards. -> true: kicked.
static bool sleep_unlocked(const struct vcpu *v, short events, uint64_t deadline_ms)
{
	struct pollfd fds[2] = {
		{ .fd = hook.wake_fd, .events = POLLIN },
		{ .fd = link_fd(), .events = events }, // -1 without a broker: ignored
	};
	bool has_deadline = deadline_ms != UINT64_MAX;
	struct timespec timeout = has_deadline ? until(deadline_ms) : (struct timespec){ 0 };
	sigset_t mask;
	hook.has_sleeper = true;
	pthread_mutex_unlock(&hook.lock);
	park_block_signals(&mask);
	bool is_kicked = park_is_exit_wanted(v) ||
	                 (ppoll(fds, 2, has_deadline ? &timeout : NULL, &mask) < 0 && errno == EINTR);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	pthread_mutex_lock(&hook.lock);
	hook.has_sleeper = false;
	eventfd_t ignored;
	(void)eventfd_read(hook.wake_fd, &ignored); // EAGAIN: nobody woke us
	link_receive();
	return is_kicked || park_is_exit_wanted(v);
}

// How long to wait for a broker that does not take a message: a wait goes on, a droppable one for a
// while, and a call of a running guest is answered soon.
static uint64_t room_deadline(void)
{
	switch (call_patience(&hook.call)) {
	case CALL_WAITS_ON:
		return UINT64_MAX;
	case CALL_WAITS_SOME:
		return link_full_since_ms() + CALL_GRACE_MS;
	default:
		return link_full_since_ms() + STALL_MS;
	}
}

// -> true: kicked.
static bool wait_for_room(const struct vcpu *v)
{
	uint64_t deadline = room_deadline();
	if (hook_now_ms() >= deadline) {
		call_stall(&hook.call);
		return false;
	}
	if (!link_is_starved())
		return sleep_unlocked(v, POLLIN | POLLOUT, deadline);
	uint64_t retry_at = hook_now_ms() + LINK_STARVED_MS;
	return sleep_unlocked(v, POLLIN, retry_at < deadline ? retry_at : deadline);
}

// The first moments of a wait are short, as most are; then the other vCPUs are put to sleep as well.
// -> true: kicked.
static bool wait_for_packet(const struct vcpu *v)
{
	uint64_t deadline = call_deadline(&hook.call);
	if (freeze_is_on(v->vm) || !call_is_awaited(&hook.call))
		return sleep_unlocked(v, POLLIN, deadline);
	uint64_t freeze_at = hook_now_ms() + FREEZE_AFTER_MS;
	bool is_kicked = sleep_unlocked(v, POLLIN, freeze_at < deadline ? freeze_at : deadline);
	if (!is_kicked && call_is_awaited(&hook.call) && hook_now_ms() >= freeze_at)
		freeze_others(v);
	return is_kicked;
}

// -> true: kicked.
static bool send_or_sleep(const struct vcpu *v, struct call_message *message)
{
	if (link_is_wait(&message->head) && nested_is_on(v, message->head.cr4, message->head.efer))
		message->head.flags |= LINK_F_NESTED;
	switch (link_send(message)) {
	case LINK_FULL:
		return wait_for_room(v);
	case LINK_HELD:
		return sleep_unlocked(v, POLLIN, call_deadline(&hook.call));
	default:
		return false;
	}
}

uint32_t park_call(const struct vcpu *v, bool *ret_is_kicked)
{
	struct call *c = &hook.call;
	struct call_message message;
	*ret_is_kicked = false;
	while (!call_is_answered(c)) {
		bool is_kicked = false;
		switch (call_step(c, hook_now_ms(), &message)) {
		case CALL_SEND:
			is_kicked = send_or_sleep(v, &message);
			break;
		case CALL_SLEEP:
			is_kicked = wait_for_packet(v);
			break;
		default: // CALL_ANSWER: the loop's condition sees it
			break;
		}
		if (is_kicked) {
			*ret_is_kicked = true;
			call_kick(c);
		}
	}
	freeze_end();
	return call_answer(c);
}

bool park_rest(const struct vcpu *v, uint32_t ms)
{
	return !hook.has_sleeper && sleep_unlocked(v, POLLIN, hook_now_ms() + ms);
}
