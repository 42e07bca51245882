// SPDX-License-Identifier: MIT
// A thin epoll loop: descriptors and timers that call back. The structs live in the caller's memory, so adding
// one allocates nothing, and the loop holds only borrowed pointers.
//
// Rules: one thread. A callback may add, change or remove any source or timer, its own included; a removed source
// is not called any more, not even for events that were already fetched with it. Level-triggered: read as much as
// one system call gives and return.
//
// Sources of a conversation (loop_poll) are looked at directly for a short while before the loop goes to sleep, as each one's gaps
// suggest (util/polling.h): in a burst a packet costs its own system call and no other. Every LOOP_STRAIGHT packets all the others get their turn.
#ifndef UTIL_LOOP_H
#define UTIL_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "util/error.h"
#include "util/polling.h"

#define LOOP_BATCH 16 // events fetched with one epoll_wait
#define LOOP_POLLED_MAX 4 // sources that are polled; more of them sleep as all others do
#define LOOP_STRAIGHT 64 // packets found by looking before epoll_wait is asked what else there is

struct loop_source;

// How a source is looked at directly.
struct loop_polling {
	bool (*is_expected)(struct loop_source *source); // may something come now? Without system calls
	bool (*take)(struct loop_source *source);        // take what is there, as fn does, without waiting. -> true: there was something
	void (*settle)(struct loop_source *source);      // before the loop asks epoll: what take has put off. NULL = nothing
};

struct loop_source {
	int fd;          // borrowed; -1 while not in a loop
	uint32_t events; // EPOLLIN | EPOLLOUT | ... asked for
	void (*fn)(struct loop_source *source, uint32_t events);
	void *arg; // for fn
	const struct loop_polling *how; // loop_poll; NULL = not polled
	bool is_hot;                    // looked at in the present gap
	struct polling polling;
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
	struct loop_source *polled[LOOP_POLLED_MAX];
	unsigned polled_count;
	unsigned polled_next; // who is looked at first: the one behind the last that had something
	unsigned straight;  // polls in a row that found something
	bool is_quiet;      // nothing came since quiet_ns
	uint64_t quiet_ns;
	uint64_t sleeps, looks, rewarded; // for people: calls of epoll_wait; looks taken, and those that found something
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
// Look at the source directly in a burst, while EPOLLIN is asked for; ends with loop_remove. how: borrowed.
void loop_poll(struct loop *loop, struct loop_source *source, const struct loop_polling *how);
// Stop watching; call before close(fd). Fine for a source that is not in the loop (fd < 0).
void loop_remove(struct loop *loop, struct loop_source *source);

// (Re)arm a timer `delay_ms` from now; fires once. fn and arg must be set.
void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms);
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer); // fine when not armed

// Run until loop_stop, or until waiting fails.
ERROR_MUST_CHECK struct error *loop_run(struct loop *loop);
// One turn: wait at most timeout_ms (-1 = until something happens), then dispatch. 0 also means: do not poll.
ERROR_MUST_CHECK struct error *loop_turn(struct loop *loop, int timeout_ms);
void loop_stop(struct loop *loop); // loop_run returns after the current callback

#endif
