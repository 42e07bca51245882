// SPDX-License-Identifier: MIT
// Breakpoint handles of many clients on one kernel's table. The kernel has 32 places (handles 1 to 32), knows one debugger, and drops entries by itself
// at a stop near them (KD reference, section 4.5); each client sees a table of 32 of its own. Sans I/O: a client's request goes through
// breakpoints_ask, the kernel's reply through breakpoints_answer.
//
//   two clients, one address   one place in the kernel, taken out when the last of them restores it
//   a place given out anew     the kernel had dropped the old entry: handles that meant it are dead, restoring them fails as it does in a kernel
//   a client has left          its places are orphans: breakpoints_next_orphan, one after the other
//   another kernel, or time    breakpoints_forget: every handle of every client is dead
//   a broker that came late    places nobody told it of may be in use: a RestoreBreakPoint of such a handle goes to the kernel, which knows
//
// Rules: one thread, no allocation, no I/O. Requests and replies are hostile.
#ifndef SERVE_BREAKPOINTS_H
#define SERVE_BREAKPOINTS_H

#include <stdbool.h>
#include <stdint.h>

#define BREAKPOINTS_PLACES 32u

enum breakpoints_verdict {
	BREAKPOINTS_PASS,   // to the kernel, with handles as it knows them; the reply goes through breakpoints_answer
	BREAKPOINTS_ANSWER, // body holds the reply
};

struct breakpoints_client {
	uint8_t place[BREAKPOINTS_PLACES]; // handle - 1 -> place 1 to 32; 0 = free, BREAKPOINTS_DEAD = given out, and the kernel has it no more
};
#define BREAKPOINTS_DEAD 0xFFu

enum breakpoints_use { BREAKPOINTS_FREE, BREAKPOINTS_USED, BREAKPOINTS_ORPHAN, BREAKPOINTS_UNKNOWN };

struct breakpoints {
	struct {
		enum breakpoints_use use;
		uint64_t address; // USED, ORPHAN
		uint32_t users;   // clients that have a handle of it
	} places[BREAKPOINTS_PLACES];
};

// Every place UNKNOWN.
void breakpoints_init(struct breakpoints *b);
// A kernel that was seen from its first packet on: every place FREE.
void breakpoints_booted(struct breakpoints *b);
// Another kernel, or another time of this one; places UNKNOWN. The clients' tables are the caller's to clear with breakpoints_client_forget.
void breakpoints_forget(struct breakpoints *b);

void breakpoints_client_init(struct breakpoints_client *c);
void breakpoints_client_forget(struct breakpoints_client *c);          // its handles are dead
void breakpoints_client_left(struct breakpoints *b, struct breakpoints_client *c); // its places become orphans, unless others use them

// A manipulate packet of this client, of any API: body_len bytes at body, changed in place (WriteBreakPoint, RestoreBreakPoint, and their Ex forms; others pass as they are).
enum breakpoints_verdict breakpoints_ask(struct breakpoints *b, struct breakpoints_client *c, uint8_t *body, uint32_t body_len);
// The kernel's reply to `request` as it went to the kernel, changed in place. c NULL: the client has left meanwhile; what it got is an orphan.
void breakpoints_answer(struct breakpoints *b, struct breakpoints_client *c, const uint8_t *request, uint32_t request_len, uint8_t *body, uint32_t body_len);

// A place to be taken out of the kernel: its handle; 0 = none. It is FREE from then on.
uint32_t breakpoints_next_orphan(struct breakpoints *b);

#endif
