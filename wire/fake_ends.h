// SPDX-License-Identifier: MIT
// For tests of KDCOM: what the two ends want of each other, and the judgement. A kernel that prints, stops, answers reads of memory whose bytes tell their
// addresses and counts writes; a user of a debugger with a seeded programme of reads, writes and Continues. Neither knows of frames.
#ifndef WIRE_FAKE_ENDS_H
#define WIRE_FAKE_ENDS_H

#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/selftest.h"

#define FAKE_WRITES_MAX 256u

struct fake_kernel {
	uint32_t stops, prints_per_stop; // in all; 1 to 255, 0 to 255
	uint32_t stop;                   // number of the present or next stop, from 0
	uint32_t printed;                // prints so far
	uint32_t requests;               // executed, Continues not counted
	uint8_t executed[FAKE_WRITES_MAX]; // by the write's number
};

// Before its first print, with nothing executed.
void fake_kernel_init(struct fake_kernel *k, uint32_t stops, uint32_t prints_per_stop);
bool fake_kernel_has_print(const struct fake_kernel *k);                // before the present stop
uint32_t fake_kernel_print(struct fake_kernel *k, uint8_t body[KDCOM_BODY_MAX]); // the next one; its length
void fake_kernel_stop(const struct fake_kernel *k, uint8_t body[KD_STATE_CHANGE_SIZE]);
// -> length of the reply, 0 = a Continue: it runs on to the next stop.
uint32_t fake_kernel_execute(struct fake_kernel *k, const uint8_t *request, uint32_t len, uint8_t reply[KDCOM_BODY_MAX]);
bool fake_kernel_is_over(const struct fake_kernel *k); // past the last stop

enum fake_write { WRITE_NONE, WRITE_SENT, WRITE_DONE, WRITE_UNKNOWN };

struct fake_user {
	struct dice dice;
	uint32_t stops, prints_per_stop, requests_per_stop;
	uint32_t stops_seen, asked, prints_seen, prints_doubled;
	bool is_stopped, is_asking;
	uint32_t writes;
	uint8_t write_state[FAKE_WRITES_MAX];
	uint8_t request[KDCOM_BODY_MAX]; // being asked, or to be asked again
	uint32_t request_len;            // 0 = none
	const char *wrong; // what must not be: the first one; NULL = nothing
	bool has_lost_print;
	const char *error; // why the user has given up, cleanly
	bool is_lossy;     // there was a start anew since the last stop, or a late SYNC packet: prints may be lost or come again
};

// Before the first stop; the seed tells what is asked.
void fake_user_init(struct fake_user *u, uint32_t seed, uint32_t stops, uint32_t prints_per_stop, uint32_t requests_per_stop);
// The link starts anew, by the debugger's will or the target's.
void fake_user_starts_anew(struct fake_user *u);
void fake_user_wrong(struct fake_user *u, const char *what);
void fake_user_give_up(struct fake_user *u, const char *why);
// A stop is reported. -> true: a new one; false: the present one again, or one that the user thinks is past.
bool fake_user_on_stop(struct fake_user *u, const uint8_t *body, uint32_t len);
void fake_user_on_print(struct fake_user *u, const uint8_t *body, uint32_t len);
// -> true: it answers the question; false: it belongs to an earlier one, which cannot be told to be wrong.
bool fake_user_on_reply(struct fake_user *u, const uint8_t *body, uint32_t len);
// What to do next at a stop: -> length of a request; 0: Continue. The request is open until answered or lost.
uint32_t fake_user_next(struct fake_user *u, const uint8_t **ret);
// Nobody knows whether the open request was executed: a read is asked again, a write is given up.
void fake_user_lost(struct fake_user *u);
bool fake_user_is_done(const struct fake_user *u); // every stop seen and continued
// The end: *u wrong if what the kernel has done is not what the user asked for.
void fake_user_judge(struct fake_user *u, const struct fake_kernel *k);

// The body of a Continue2.
uint32_t fake_continue(uint8_t body[KDCOM_BODY_MAX]);

#endif
