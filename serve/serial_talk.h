// SPDX-License-Identifier: MIT
// The talk with a stock target: KDCOM in role debugger (wire/kdcom.h) on one side, the events and ops of a guest link on the other. Sans I/O:
// bytes in and out, time passed in.
//
// What the session wants and KDCOM does not say:
//   seq       counted here, from 1 for each boot that is seen, from 2 for a connection. A SYNC packet on a connection that has brought others is a new boot (KD reference, section 1.4).
//             A target that dropped a print after 20 retries begins with it, too; nobody can tell the two apart.
//   waits     follow from packets: a state change or a reply waits for type 2, a prompt for 3, a file request for 11, a control request for 10.
//   in step   a target that runs hears no RESET, so what it says first may have any id. A packet that waits and comes out of step is not
//             passed on: a RESET makes the target say it again, with ids that both know (KD reference, sections 1.5 and 1.11).
//   repeated  a report that says the same again while the target waits for the same is dropped.
//
// One request at a time, executed at most once:
//
//   NONE --deliver--> DUE --written--> IN_FLIGHT --ACK--> ACKED --reply--> NONE
//                      ^                   |                |
//                      |                   +---- RESET -----+--> DOUBT --reply--> NONE
//                      +--- the target waits again; never written, or a read --+
//                                                     anything else: fails, KD_STATUS_UNSUCCESSFUL
//
// Without an ACK (20 repetitions, KD reference, section 1.9), or without a reply for SERIAL_TALK_REPLY_MS, a RESET is sent. In DOUBT the target may have
// executed the request, so only what changes nothing is asked again. A packet that lets the target run and was lost is over: the report that
// follows is a stop like any other.
//
// Rules: one thread. The ops note and write into the KDCOM output; events are called from _start, _feed and _timer alone. Everything from the
// target is hostile: bounded, refused, counted.
#ifndef SERVE_SERIAL_TALK_H
#define SERVE_SERIAL_TALK_H

#include "serve/guest_link.h"
#include "wire/kdcom.h"

// A RESET that is not answered is repeated so soon, then after twice that, and so on, so often. What is in the line of a paused VM is answered all at once.
#define SERIAL_TALK_RESET_MS 1000u
#define SERIAL_TALK_RESETS_MAX 4u
// A target that reports something out of step is stopped and listens by now: it did not hear the last RESET, unless that is on its way just now.
#define SERIAL_TALK_AGAIN_MS 100u
// A stopped target answers a RESET in so long. A break-in byte before that would stay in its line and stop it once more.
#define SERIAL_TALK_ANSWER_MS 700u
// A break-in byte may be swallowed (a boot loader, a UART that is being set up) and is repeated as above: each one that is not swallowed stops
// the target once more.
#define SERIAL_TALK_BREAKIN_MS 2000u
#define SERIAL_TALK_BREAKINS_MAX 4u
// A module notice has taken the byte with it; the target that goes on from there may still remember it.
#define SERIAL_TALK_NOTICE_MS 500u
#define SERIAL_TALK_REPLY_MS 10000u
#define SERIAL_TALK_REDO_MAX 3u // times that one read is asked again

enum serial_ask { SERIAL_ASK_NONE, SERIAL_ASK_DUE, SERIAL_ASK_IN_FLIGHT, SERIAL_ASK_ACKED, SERIAL_ASK_DOUBT };

struct serial_packet {
	uint16_t kd_type; // 0 = there is none
	uint16_t hdr_len;
	uint32_t body_len;
	uint8_t body[LINK_BODY_MAX];
};

// The owner reads kdcom's output and counters, `stats` and `has_spoken`; all else is private.
struct serial_talk {
	const struct guest_link_events *events; // registered, gone, packet, waits
	void *arg;
	struct kdcom kdcom;
	uint64_t now_ms;
	bool is_open;             // between _start and _stop
	bool has_spoken;          // a packet came on this connection
	struct link_guest guest;
	uint32_t seq;             // of the last packet passed on

	uint16_t want;            // type that the target waits for; 0 = it runs, or nobody knows
	bool is_told;             // ... and the session knows
	struct serial_packet report; // what it waits on

	bool is_reset_due;        // it is to be resynchronised, and has not answered
	unsigned resets;          // sent since then
	uint64_t reset_at;        // the next one
	uint64_t reset_sent;      // the last one
	uint64_t listen_until;    // no break-in byte before that

	enum serial_ask ask;
	struct serial_packet asked;
	bool asked_resumes;
	bool was_written;
	unsigned redone;          // times that it was asked again, or its reply missed
	uint64_t reply_at;

	bool wants_breakin;
	unsigned breakins;        // bytes sent for it
	uint64_t breakin_at;      // the next one

	struct link_stats stats;
};

// Nothing is open. events and arg are borrowed. The struct must not move afterwards; it is about 25 KiB.
void serial_talk_init(struct serial_talk *t, const struct guest_link_events *events, void *arg);

// A connection is there: a guest is registered, and a RESET is sent. retry_ms: without an ACK for so long a packet is sent again, at least
// KDCOM_DEBUGGER_RETRY_MS (a slow line needs more).
void serial_talk_start(struct serial_talk *t, uint64_t now_ms, uint32_t retry_ms);
// It is gone, and all that was under way with it; the owner says `down`.
void serial_talk_stop(struct serial_talk *t);

// Bytes of the target. -> how many were taken; not all of them while kdcom's output is full: write it, then feed the rest.
size_t serial_talk_feed(struct serial_talk *t, const uint8_t *bytes, size_t len, uint64_t now_ms);

// Once in each turn behind _feed, and at the deadline (0 = at once, UINT64_MAX = nothing is waited for).
void serial_talk_timer(struct serial_talk *t, uint64_t now_ms);
uint64_t serial_talk_deadline(const struct serial_talk *t);

// As struct guest_link_ops words them. A packet that the target does not wait for is dropped and counted.
void serial_talk_deliver(struct serial_talk *t, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes);
void serial_talk_breakin(struct serial_talk *t);
void serial_talk_breakin_cancel(struct serial_talk *t); // a byte that was sent cannot be called back
void serial_talk_resend(struct serial_talk *t);         // by a RESET: it works whatever the target is at

// The target was given something and has not answered: its bytes must be read, however far behind the clients are.
bool serial_talk_is_asking(const struct serial_talk *t);

#endif
