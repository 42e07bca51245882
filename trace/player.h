// SPDX-License-Identifier: MIT
// A trace as a target: what the kernel said comes again in its order, and a request is answered by what was answered to it then.
//
// Events are those of the endpoint "guest"; a trace without one (of a plain KDCOM line) has the events of its first
// endpoint that got an answer, or heard a target at all. Answers
// are those of every endpoint, but only the ones given at the stop that the player is at:
//   memory           from all reads of this stop together that cover the bytes, whoever made them; the first byte that nobody read ends the answer
//   GetVersion       from any stop of the same boot
//   everything else  the same request of this stop. A request that changed the target moves the player on to what was answered behind it
// What was not asked then is answered as a target does that cannot: KD_STATUS_UNSUCCESSFUL.
//
// Rules: one thread. No I/O. The file's bytes are hostile, borrowed, and must stay while the player lives.
#ifndef TRACE_PLAYER_H
#define TRACE_PLAYER_H

#include "trace/record.h"
#include "wire/kdapi.h"

struct player;

enum player_outcome {
	PLAYER_OK,
	PLAYER_NO_MEMORY,
	PLAYER_BAD_FILE,  // no pcapng: *ret_problem says why (a constant)
	PLAYER_NO_TARGET, // nothing in it that a target said
};

// Reads the whole file. One that stops in the middle of a block is played as far as it goes. -> PLAYER_OK and *ret.
WIRE_MUST_CHECK enum player_outcome player_create(const uint8_t *file, size_t len, struct player **ret, const char **ret_problem);
void player_destroy(struct player *player); // NULL is fine

enum player_event_kind {
	PLAYER_END,     // nothing follows
	PLAYER_STOP,    // a state change: nothing follows before player_resume
	PLAYER_PRINT,
	PLAYER_PROMPT,  // a prompt; the answer given then is part of the past, so nothing waits for one
	PLAYER_RESTART, // another kernel talks from here on
};

struct player_event {
	enum player_event_kind kind;
	uint64_t time_ns;
	const uint8_t *body; // STOP: packet type 7; PRINT, PROMPT: type 3; inside the file
	uint32_t body_len;
};

// What the target says next. At a stop that was not resumed: that stop again.
void player_next(struct player *player, struct player_event *ret);
// From the stop on. Without effect elsewhere.
void player_resume(struct player *player);

enum player_answer {
	PLAYER_RECORDED,     // the reply is what was recorded, or put together from that
	PLAYER_IN_PART,      // memory: the first bytes of it
	PLAYER_NOT_RECORDED, // a failure of ours
	PLAYER_IMPOSSIBLE,   // not at a stop, or no request: nothing was written
};

// Answers a request (body of packet type 2); reply: KD_BODY_MAX bytes. Requests that let the target run are for player_resume.
enum player_answer player_request(struct player *player, const uint8_t *request, size_t request_len, uint8_t *reply, uint32_t *ret_reply_len);

#endif
