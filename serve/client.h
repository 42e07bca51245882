// SPDX-License-Identifier: MIT
// One debugger on a KDCOM byte stream (Unix or TCP), the broker being the target: socket and framing (wire/kdcom) on one side,
// packets and events on the other.
//
// Rules: one thread, on the broker's loop. Functions never call events back before they return, except client_destroy, which calls none.
// Memory is bounded by struct kdcom and one read buffer: a client that reads nothing is not read from either.
#ifndef SERVE_CLIENT_H
#define SERVE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"
#include "wire/kdcom.h"

#define CLIENT_NAME_MAX 96u

struct client;

struct client_events {
	void (*packet)(void *arg, uint16_t kd_type, const uint8_t *body, uint32_t body_len);
	void (*sent)(void *arg);     // the packet in flight was acknowledged
	void (*given_up)(void *arg); // ... never was
	void (*reset)(void *arg);
	void (*resend)(void *arg);
	void (*breakin)(void *arg);
	// A request has been handed on and its answer is near: the ACK may wait for it, so that both make one write and one wake-up.
	bool (*is_reply_near)(void *arg);
	void (*turn)(void *arg); // after each batch of the above, before anything is written: time to look at deadlines
	void (*left)(void *arg); // the stream has ended; call client_destroy, now or later
};

// Take over the connected, non-blocking `fd` (closed by client_destroy, and on failure too). Stale input does not exist on a new
// connection, and framing starts with the SYNC id. -> NULL and *ret, or an error (memory, descriptors).
ERROR_MUST_CHECK struct error *client_create(struct loop *loop, int fd, const struct client_events *events, void *arg,
					     struct client **ret);
void client_destroy(struct client *client); // NULL is fine

const char *client_name(const struct client *client); // "pid 12 (windbg)", "192.0.2.1:4711"

int client_pid(const struct client *client); // of the process at the other end, 0 = unknown

// As session_ops of the same names. Nothing is written before the batch ends or client_flush is called.
void client_send(struct client *client, uint16_t kd_type, const uint8_t *body, uint32_t body_len, bool is_droppable);
void client_expect(struct client *client, uint16_t kd_type);
void client_restart(struct client *client);
void client_cancel(struct client *client);

// Write what is due, after events that did not come from this client.
void client_flush(struct client *client);

// Somebody looks on at its frames from now on; borrowed, NULL = nobody.
void client_observe(struct client *client, const struct kdcom_observer *observer);

// Since this client came; borrowed, valid until it has left.
const struct kdcom_counters *client_counters(const struct client *client);

// If the other end has hung up, take what it still said and call events.left now: a debugger that comes back at once must not find
// its own old connection in the way.
void client_notice_end(struct client *client);

// Say one line to a debugger that is not wanted, as a debug print, and hang up once it has had a chance to read it. Takes `fd`.
// A client that cannot be told is simply hung up on.
void client_turn_away(struct loop *loop, int fd, const char *text);

#endif
