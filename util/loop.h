// SPDX-License-Identifier: MIT
// A thin epoll loop: descriptors and timers that call back. The structs live in the caller's memory, so adding
// one allocates nothing, and the loop holds only borrowed pointers.
//
// Rules: one thread. A callback may add, change or remove any source or timer, its own included; a removed source
// is not called any more, not even for events that were already fetched with it. Level-triggered: read as much as
// one system call gives and return.
#ifndef UTIL_LOOP_H
#define UTIL_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "util/error.h"

#define LOOP_BATCH 16 // events fetched with one epoll_wait

struct loop_source {
	int fd;          // borrowed; -1 while not in a loop
	uint32_t events; // EPOLLIN | EPOLLOUT | ... asked for
	void (*fn)(struct loop_source *source, uint32_t events);
	void *arg; // for fn
};

struct loop_timer {
	bool is_armed;
	uint64_t due_ns; // CLOCK_MONOTONIC
	void (*fn)(struct loop_timer *timer);
	void *arg; // for fn
	struct loop_timer *next;
};

struct loop {
	int epoll_fd;
	bool is_stopped;
	struct loop_timer *timers; // armed ones, earliest first
	struct epoll_event batch[LOOP_BATCH];
	int batch_count;
};

// -> NULL, or an error (descriptors exhausted); on failure *loop needs no deinit.
ERROR_MUST_CHECK struct error *loop_init(struct loop *loop);
void loop_deinit(struct loop *loop); // sources and timers are simply forgotten

// Nanoseconds of CLOCK_MONOTONIC.
uint64_t loop_now_ns(void);

// Start watching `fd` for `events`. source->fd must be -1 or the struct zeroed. -> NULL or an error.
ERROR_MUST_CHECK struct error *loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
					     void (*fn)(struct loop_source *, uint32_t), void *arg);
// Ask for other events. No system call when they are the same.
void loop_change(struct loop *loop, struct loop_source *source, uint32_t events);
// Stop watching; call before close(fd). Fine for a source that is not in the loop (fd < 0).
void loop_remove(struct loop *loop, struct loop_source *source);

// (Re)arm a timer `delay_ms` from now; fires once. fn and arg must be set.
void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms);
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer); // fine when not armed

// Run until loop_stop, or until waiting fails.
ERROR_MUST_CHECK struct error *loop_run(struct loop *loop);
// One turn: wait at most timeout_ms (-1 = until something happens), then dispatch.
ERROR_MUST_CHECK struct error *loop_turn(struct loop *loop, int timeout_ms);
void loop_stop(struct loop *loop); // loop_run returns after the current callback

#endif
