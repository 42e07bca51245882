// SPDX-License-Identifier: MIT
// Who records what passes through the broker: for each reader a pcapng file (trace/record.h) on a connection that the control socket has
// handed over. Each endpoint (the guest's link, each client) is an interface of it.
//
// While nobody reads, a tap costs its callers one branch (tap_is_on) and has no memory but its own struct. A reader that is slower than the packets loses its own records and nobody
// else's: its buffer is TAP_BUFFER_MAX, what does not fit is left out, and the next packet of that endpoint that does fit carries their number (epb_dropcount); the
// statistics at the end have the sums. A reader ends the recording by shutting down its direction: it then gets the statistics and the end of the stream. One that closes gets nothing more.
//
// Rules: one thread, on the broker's loop. Nothing calls back.
#ifndef SERVE_TAP_H
#define SERVE_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trace/record.h"
#include "util/error.h"
#include "util/loop.h"

#define TAP_READERS_MAX 8u
#define TAP_BUFFER_MAX (4u * 1024u * 1024u) // about 1000 of the largest packets
#define TAP_ENDPOINTS_MAX 65u               // the guest, SESSION_CLIENTS_MAX clients
#define TAP_NO_ENDPOINT UINT32_MAX

struct tap;

// -> NULL and *ret, or an error (memory).
ERROR_MUST_CHECK struct error *tap_create(struct loop *loop, struct tap **ret);
void tap_destroy(struct tap *tap); // every reader gets its statistics, as far as they can be written at once, and the end; NULL is fine

// Takes the connected socket `fd`: from now on every packet goes there, too. -> false: TAP_READERS_MAX read already, or out of memory; fd is closed.
bool tap_add_reader(struct tap *tap, int fd);
bool tap_is_on(const struct tap *tap); // somebody reads; NULL is fine: false
unsigned tap_reader_count(const struct tap *tap);

// A new endpoint, whether anybody reads or not. name, description: copied. -> its number, to be given back with tap_endpoint_gone;
// TAP_NO_ENDPOINT: there are too many, and what it says is not recorded. All functions below take that number, too, and do nothing.
uint32_t tap_endpoint(struct tap *tap, const char *name, const char *description);
void tap_endpoint_gone(struct tap *tap, uint32_t endpoint);

// A frame as it is on a wire, in two parts (the second may be empty).
void tap_frame(struct tap *tap, uint32_t endpoint, enum trace_direction direction, enum kdcom_damage damage, const uint8_t *head, size_t head_len,
	       const uint8_t *rest, size_t rest_len);
// A packet that comes without framing: gets it, with ids that alternate for each direction.
void tap_packet(struct tap *tap, uint32_t endpoint, enum trace_direction direction, uint16_t kd_type, const uint8_t *body, size_t body_len);
// The same for the reader that came last alone: something of before its time that it needs, and is marked so.
void tap_packet_before(struct tap *tap, uint32_t endpoint, enum trace_direction direction, uint16_t kd_type, const uint8_t *body, size_t body_len);
// What is no packet: a control packet, a break-in, a line of text.
void tap_control(struct tap *tap, uint32_t endpoint, enum trace_direction direction, enum kdcom_control type);
void tap_breakin(struct tap *tap, uint32_t endpoint);
void tap_note(struct tap *tap, uint32_t endpoint, const char *text);

#endif
