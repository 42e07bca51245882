// SPDX-License-Identifier: MIT
// A byte stream to a KD target: descriptor, KDCOM state machine and clock together, so that the rest of target/ sees packets and no bytes.
//
// Rules: one thread, but for stream_wake. The descriptor is non-blocking. Nothing here decides what a packet means.
#ifndef TARGET_STREAM_H
#define TARGET_STREAM_H

#include "vmkd/vmkd.h"
#include "wire/kdcom.h"

struct stream;

enum stream_event_kind {
	STREAM_NONE,     // the deadline is over
	STREAM_PACKET,   // packet: type, body, body_len, is_sync, is_lost
	STREAM_SENT,     // the packet in flight was acknowledged
	STREAM_RESET,    // resynchronised; what was in flight is forgotten
	STREAM_GIVEN_UP, // nobody acknowledged
	STREAM_WOKEN,    // stream_wake was called
	STREAM_SIGNAL,   // a signal interrupted the wait
	STREAM_CLOSED,   // the other end is gone; os_error = 0 for an orderly end
};

struct stream_event {
	enum stream_event_kind kind;
	struct kdcom_event packet; // PACKET; its body is valid until the next stream_next
	int os_error;              // CLOSED
};

#define STREAM_FOREVER UINT64_MAX

// Milliseconds of the clock that deadlines mean.
uint64_t stream_now(void);

// fd belongs to the stream on success; it is made non-blocking. resend_ms: see vmkd_open_options.
// Return NULL and *ret; OS, NO_MEMORY.
struct vmkd_error *stream_create(int fd, uint32_t resend_ms, struct stream **ret);
// NULL is fine.
void stream_destroy(struct stream *stream);

// The framing, to send with. What it wants written goes out in stream_next, or at once with stream_flush.
struct kdcom *stream_kdcom(struct stream *stream);

// Writes what can be written without blocking. Failures show as CLOSED in stream_next.
void stream_flush(struct stream *stream);

// The next event; waits until `deadline` (of stream_now) at most. 0 = do not wait.
void stream_next(struct stream *stream, uint64_t deadline, struct stream_event *ret);

// Makes a stream_next that waits, or the next one, return STREAM_WOKEN. Any thread, async-signal-safe.
void stream_wake(struct stream *stream);

// Readable when stream_next would have something to do, as far as the kernel can know; stream_mark_pending makes it readable for what
// only the owner knows (events in a queue), until the next stream_next.
int stream_poll_fd(const struct stream *stream);
void stream_mark_pending(struct stream *stream);
// Bytes were read but not yet looked at.
bool stream_has_input(const struct stream *stream);
// Nothing came that was not looked at, as far as this host can know: one system call.
bool stream_is_quiet(const struct stream *stream);

// Milliseconds until the framing wants its timer; -1 = no need.
int stream_poll_timeout(const struct stream *stream);

#endif
