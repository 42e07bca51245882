// SPDX-License-Identifier: MIT
// For tests: programs around wire/kdcom in virtual time, as its header tells them to be. One that owns the debugger role and has a user (fake_ends.h); one
// that owns the target role and has a kernel.
#ifndef WIRE_FAKE_OURS_H
#define WIRE_FAKE_OURS_H

#include "wire/fake_ends.h"
#include "wire/fake_wire.h"

// How patient a debugger's program is, ours and the stock one.
#define FAKE_ATTACH_MS 1000u  // between RESETs
#define FAKE_ANSWER_MS 6000u  // for the answer to an acknowledged request
#define FAKE_QUIET_MS 20000u  // of a running target, before it is broken into
#define FAKE_ATTACH_MAX 60u   // RESETs in vain, then a clean error
#define FAKE_RESYNC_MAX 40u   // starts anew in one conversation

struct fake_debugger {
	struct kdcom kdcom;
	struct fake_wire *in, *out;
	struct fake_user *user;
	bool is_attaching;
	uint32_t attempts, resyncs;
	uint64_t again_at; // what is waited for is overdue
};

// first_reset_ms: when it stops listening for a target that starts, and asks.
void fake_debugger_init(struct fake_debugger *d, struct fake_wire *in, struct fake_wire *out, struct fake_user *user, uint64_t first_reset_ms);
bool fake_debugger_turn(struct fake_debugger *d, uint64_t now_ms); // -> true: something moved
uint64_t fake_debugger_deadline(const struct fake_debugger *d);    // when to call it at the latest

struct fake_target {
	struct kdcom kdcom;
	struct fake_wire *in, *out;
	struct fake_kernel *kernel;
	enum { TARGET_RUNS, TARGET_TELLS, TARGET_WAITS, TARGET_ANSWERS } phase;
	bool has_breakin;
	uint64_t quiet_until;
	uint32_t failures; // packets that could not be sent: must stay 0
};

// At its boot. All is borrowed.
void fake_target_init(struct fake_target *t, struct fake_wire *in, struct fake_wire *out, struct fake_kernel *kernel);
bool fake_target_turn(struct fake_target *t, uint64_t now_ms); // -> true: something moved
uint64_t fake_target_deadline(const struct fake_target *t);    // when to call it at the latest

#endif
