// SPDX-License-Identifier: MIT
#include "util/loop.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct error *loop_init(struct loop *loop)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return error_create(errno, "cannot create an epoll instance: %s", strerror(errno));
	*loop = (struct loop){ .epoll_fd = fd };
	return NULL;
}

void loop_deinit(struct loop *loop)
{
	close(loop->epoll_fd);
}

uint64_t loop_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct error *loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
			    void (*fn)(struct loop_source *, uint32_t), void *arg)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return error_create(errno, "cannot watch a descriptor: %s", strerror(errno));
	*source = (struct loop_source){ .fd = fd, .events = events, .fn = fn, .arg = arg };
	return NULL;
}

void loop_change(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (source->fd < 0 || source->events == events)
		return;
	source->events = events;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event); // cannot fail for a watched descriptor
}

void loop_poll(struct loop *loop, struct loop_source *source, const struct loop_polling *how)
{
	if (source->how || loop->polled_count == LOOP_POLLED_MAX)
		return;
	source->how = how;
	polling_init(&source->polling);
	loop->polled[loop->polled_count++] = source;
}

static void stop_polling(struct loop *loop, struct loop_source *source)
{
	for (unsigned i = 0; i < loop->polled_count; i++)
		if (loop->polled[i] == source)
			loop->polled[i--] = loop->polled[--loop->polled_count];
	source->how = NULL;
	source->is_hot = false;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	if (source->fd < 0)
		return;
	stop_polling(loop, source);
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL); // fails only if it is gone already
	source->fd = -1;
	for (int i = 0; i < loop->batch_count; i++)
		if (loop->batch[i].data.ptr == source)
			loop->batch[i].data.ptr = NULL;
}

void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms)
{
	struct loop_timer **at = &loop->timers;

	loop_timer_cancel(loop, timer);
	timer->due_ns = loop_now_ns() + delay_ms * 1000000u;
	while (*at && (*at)->due_ns <= timer->due_ns)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
	timer->is_armed = true;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct loop_timer **at = &loop->timers;

	if (!timer->is_armed)
		return;
	while (*at != timer)
		at = &(*at)->next;
	*at = timer->next;
	timer->is_armed = false;
}

// Milliseconds until the first timer, rounded up so that it is due when we wake; at most `limit` (-1: none).
static int wait_ms(const struct loop *loop, int limit)
{
	uint64_t now, ms;

	if (!loop->timers)
		return limit;
	now = loop_now_ns();
	ms = loop->timers->due_ns <= now ? 0 : (loop->timers->due_ns - now + 999999u) / 1000000u;
	if (limit >= 0 && ms > (uint64_t)limit)
		return limit;
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

static void run_timers(struct loop *loop)
{
	uint64_t now;

	if (!loop->timers)
		return;
	// One reading of the clock: a timer that re-arms itself with 0 ms gets its turn in the next round.
	now = loop_now_ns();
	while (loop->timers && loop->timers->due_ns <= now && !loop->is_stopped) {
		struct loop_timer *timer = loop->timers;

		loop_timer_cancel(loop, timer);
		timer->fn(timer);
	}
}

// A gap begins: who is worth looking at? -> for how long, 0 = nobody is.
static uint32_t begin_gap(struct loop *loop)
{
	uint32_t longest = 0;

	for (unsigned i = 0; i < loop->polled_count; i++) {
		struct loop_source *source = loop->polled[i];
		bool may_come = source->events & EPOLLIN && source->how->is_expected(source);
		uint32_t window = may_come ? polling_begin(&source->polling) : 0;

		source->is_hot = window > 0;
		longest = window > longest ? window : longest;
	}
	return longest;
}

// Something came: what `who` teaches, and in vain was looked at the others. who: NULL = none of the polled.
static void end_gap(struct loop *loop, struct loop_source *who, uint64_t now)
{
	uint64_t gap = now - loop->quiet_ns;

	if (!loop->is_quiet)
		return;
	loop->is_quiet = false;
	for (unsigned i = 0; i < loop->polled_count; i++) {
		struct loop_source *source = loop->polled[i];

		if (source == who || (source->is_hot && gap > POLLING_MAX_NS))
			polling_end(&source->polling, gap);
	}
}

static struct loop_source *find_news(struct loop *loop)
{
	unsigned first = loop->polled_next;

	loop->looks++;
	for (unsigned i = 0; i < loop->polled_count; i++) {
		struct loop_source *source = loop->polled[(first + i) % loop->polled_count];

		if (!source->is_hot || !source->how->take(source))
			continue;
		loop->polled_next = first + i + 1;
		return source;
	}
	return NULL;
}

// Offers the processor, most likely to the peer that is waited for. -> false: somebody else has kept it.
static bool yield(struct loop *loop, uint64_t *now)
{
	uint64_t before = *now;

	sched_yield();
	*now = loop_now_ns();
	if (*now - before < POLLING_LOST_NS)
		return true;
	for (unsigned i = 0; i < loop->polled_count; i++)
		if (loop->polled[i]->is_hot)
			polling_lost(&loop->polled[i]->polling);
	return false;
}

// Each gap is polled once, at its beginning. -> true: something was found and handled.
static bool poll_gap(struct loop *loop)
{
	struct loop_source *source;
	uint64_t now, until;

	if (!loop->polled_count || loop->is_quiet)
		return false;
	loop->is_quiet = true;
	loop->quiet_ns = now = loop_now_ns();
	until = now + begin_gap(loop);
	while (now < until) {
		source = find_news(loop);
		if (source) {
			loop->rewarded++;
			end_gap(loop, source, now);
			return true;
		}
		if (!yield(loop, &now))
			break;
	}
	return false;
}

static void dispatch(struct loop *loop, struct loop_source *source, uint32_t events)
{
	if (!source)
		return;
	if (loop->is_quiet)
		end_gap(loop, source, loop_now_ns());
	source->fn(source, events);
}

static void settle(struct loop *loop)
{
	for (unsigned i = 0; i < loop->polled_count; i++)
		if (loop->polled[i]->how->settle)
			loop->polled[i]->how->settle(loop->polled[i]);
}

struct error *loop_turn(struct loop *loop, int timeout_ms)
{
	bool others_first = loop->straight >= LOOP_STRAIGHT;
	int count;

	if (!others_first && timeout_ms && poll_gap(loop)) {
		loop->straight++;
		run_timers(loop);
		return NULL;
	}
	loop->straight = 0;
	settle(loop);
	loop->sleeps++;
	count = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, others_first ? 0 : wait_ms(loop, timeout_ms));
	if (count < 0 && errno != EINTR)
		return error_create(errno, "waiting for events: %s", strerror(errno));
	loop->batch_count = count > 0 ? count : 0;
	for (int i = 0; i < loop->batch_count && !loop->is_stopped; i++)
		dispatch(loop, loop->batch[i].data.ptr, loop->batch[i].events);
	loop->batch_count = 0;
	run_timers(loop);
	return NULL;
}

struct error *loop_run(struct loop *loop)
{
	struct error *error = NULL;

	while (!loop->is_stopped && !error)
		error = loop_turn(loop, -1);
	return error;
}

void loop_stop(struct loop *loop)
{
	loop->is_stopped = true;
}
