// SPDX-License-Identifier: MIT
// The debuggers of one VM: who they are (ids, names, roles), how fast they read, what is written to them when, and their places in the session.
//
//   hold back    any client that reads and is behind holds the guest back; one that acknowledged nothing for CONNECTIONS_STALL_MS counts no more
//   write        what an event makes the session say to somebody is written at the end of that event, in one piece for each client
//
// Rules: one thread, on the broker's loop.
#ifndef SERVE_CONNECTIONS_H
#define SERVE_CONNECTIONS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "serve/ctl.h"
#include "serve/session.h"
#include "serve/tap.h"
#include "util/loop.h"

#define CONNECTIONS_STALL_MS 1000u

// Sums over all clients since the broker started, by the names of struct kdcom_counters.
#define CLIENT_COUNTER_LIST(X) \
	X(packets_in) X(packets_out) X(acks_in) X(acks_out) X(resends_in) X(resends_out) X(resets_in) X(resets_out) X(breakins) \
	X(retransmissions) X(given_up) X(implied_acks) X(duplicates) X(unwanted) X(bad_size) X(bad_trailer) X(bad_checksum) \
	X(bad_control) X(truncated) X(noise) X(blocked)

struct connections_events {
	void (*hold)(void *arg, bool is_held); // take no more from the guest, or again
	void (*turn)(void *arg);               // the session has heard something of a client: its deadline may be another one
};

struct client_sums {
#define X(name) uint64_t name;
	CLIENT_COUNTER_LIST(X)
#undef X
	uint64_t connections, turned_away;
};

struct connection; // one debugger; the closure of the session's client ops

struct connections {
	struct loop *loop;
	struct session *session;
	struct tap *tap;
	const struct connections_events *events;
	void *arg; // for events
	struct connection *first, **end;
	uint32_t count;
	uint32_t last_id;
	bool is_held;
	bool is_flushing;
	struct connection *leaving; // freed by the reaper, outside of their own callbacks
	struct loop_timer reaper;
	struct client_sums sums; // of clients that have left
};

// Nobody is there. Everything is borrowed; the struct must not move afterwards.
void connections_init(struct connections *cs, struct loop *loop, struct session *session, struct tap *tap, const struct connections_events *events,
		      void *arg);
// Hang up on all of them.
void connections_deinit(struct connections *cs);

// Take over the connected, non-blocking `fd`: one more client, which the session is told of. Without memory or descriptors it is hung up on, with a line on stderr.
void connections_add(struct connections *cs, int fd);
// Say one line to a debugger that is not wanted and hang up. Takes `fd`.
void connections_turn_away(struct connections *cs, int fd, const char *text);
// Those whose other end has hung up leave now: a debugger that comes back at once must not find its old connection in its way.
void connections_notice_ends(struct connections *cs);

// Somebody records: the tap sees every frame of all of them from now on.
void connections_observe(struct connections *cs);

// After an event that did not come from a client: hold the guest back if need be, and write what the session has said.
void connections_flush(struct connections *cs);
// Something is on its way to a client that listens.
bool connections_are_owed(const struct connections *cs);

// ---- The session's way out: struct session_ops, client_* -----------------------------------------------------
void connection_send(void *connection, uint16_t kd_type, const uint8_t *body, uint32_t body_len, bool is_droppable);
void connection_expect(void *connection, uint16_t kd_type);
void connection_restart(void *connection);
void connection_cancel(void *connection);

// ---- The control socket's --------------------------------------------------------------------------------------
// Add "clients", who is who.
void connections_add_status(const struct connections *cs, cJSON *ret);
// Add "clients", the sums.
void connections_add_stats(const struct connections *cs, cJSON *ret);
// {"cmd":"control"}, asked by the process asker_pid, 0 = unknown: "clients" as above when it is done, "client" and "result" ("taken", "held", "given", "free"), or "error".
void connections_control(struct connections *cs, const struct ctl_request *request, int asker_pid, cJSON *ret);

#endif
