// SPDX-License-Identifier: MIT
#include "serve/fake_loop.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 16u

static uint64_t now_ns;
static struct loop_source *sources[COUNT_MAX];
static struct loop_timer *timers[COUNT_MAX];

void fake_loop_start(uint64_t now_ms)
{
	memset(sources, 0, sizeof(sources));
	memset(timers, 0, sizeof(timers));
	fake_loop_set_time(now_ms);
}

void fake_loop_set_time(uint64_t now_ms)
{
	now_ns = now_ms * 1000000u;
}

uint64_t loop_now_ns(void)
{
	return now_ns;
}

struct error *loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events, void (*fn)(struct loop_source *, uint32_t), void *arg)
{
	(void)loop; // there is one
	for (size_t i = 0; i < COUNT_MAX; i++)
		if (!sources[i]) {
			*source = (struct loop_source){ .fd = fd, .events = events, .fn = fn, .arg = arg };
			sources[i] = source;
			return NULL;
		}
	abort(); // more than a test needs
}

void loop_change(struct loop *loop, struct loop_source *source, uint32_t events)
{
	(void)loop; // as above
	source->events = events;
}

void loop_poll(struct loop *loop, struct loop_source *source, const struct loop_polling *how)
{
	(void)loop; // polling is for speed
	(void)source;
	(void)how;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	(void)loop; // as above
	for (size_t i = 0; i < COUNT_MAX; i++)
		if (sources[i] == source)
			sources[i] = NULL;
	source->fd = -1;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	(void)loop; // as above
	for (size_t i = 0; i < COUNT_MAX; i++)
		if (timers[i] == timer)
			timers[i] = NULL;
	timer->is_armed = false;
}

void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms)
{
	loop_timer_cancel(loop, timer);
	for (size_t i = 0; i < COUNT_MAX; i++)
		if (!timers[i]) {
			timer->is_armed = true;
			timer->due_ns = now_ns + delay_ms * 1000000u;
			timers[i] = timer;
			return;
		}
	abort(); // as above
}

bool fake_loop_turn(void)
{
	bool has_moved = false;
	for (size_t i = 0; i < COUNT_MAX; i++) {
		struct loop_source *source = sources[i];
		struct pollfd state = { .fd = source ? source->fd : -1, .events = source ? (short)source->events : 0 };
		if (source && poll(&state, 1, 0) > 0) {
			source->fn(source, (uint32_t)state.revents);
			has_moved = true;
		}
	}
	for (size_t i = 0; i < COUNT_MAX; i++) {
		struct loop_timer *timer = timers[i];
		if (timer && timer->due_ns <= now_ns) {
			loop_timer_cancel(NULL, timer);
			timer->fn(timer);
			has_moved = true;
		}
	}
	return has_moved;
}

uint64_t fake_loop_deadline_ms(void)
{
	uint64_t deadline = UINT64_MAX;
	for (size_t i = 0; i < COUNT_MAX; i++)
		if (timers[i] && timers[i]->due_ns < deadline)
			deadline = timers[i]->due_ns;
	return deadline == UINT64_MAX ? deadline : (deadline + 999999u) / 1000000u;
}
