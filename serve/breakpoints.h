// SPDX-License-Identifier: MIT
// Breakpoint handles of many clients on one kernel's table. The kernel has 32 places (handles 1 to 32), knows one debugger, and drops entries by itself
// at a stop near them (KD reference, sections 3.2 and 4.4). A handle is the kernel's number, and means something only to the clients that were given it.
// Sans I/O: a client's request goes through breakpoints_ask, the kernel's reply through breakpoints_answer.
//
//   two clients, one address   the kernel refuses the second: that client is given a handle of the same place, which is taken out when the last of them
//                              restores it. Every write goes to the kernel first: it alone knows whether it has dropped an entry
//   a place given out anew     the kernel had dropped the old entry: handles that meant another address are dead, restoring them fails as it does in a kernel
//   a client has left          its places are orphans, unless others use them: breakpoints_next_orphan, one after the other
//   another kernel, or time    breakpoints_forget: every handle of every client is dead
//   a broker that came late    places nobody told it of may be in use: a RestoreBreakPoint of such a handle goes to the kernel, which knows
//
// The Ex forms (KD reference, section 4.4; layout of their elements inferred there) are handled as so many single ones; one that would have to be split, since
// the kernel may take out only some of its handles, or that names handles in a write, whose meaning is not known, is refused whole.
//
// Rules: one thread, no allocation, no I/O. Requests and replies are hostile.
#ifndef SERVE_BREAKPOINTS_H
#define SERVE_BREAKPOINTS_H

#include <stdbool.h>
#include <stdint.h>

#define BREAKPOINTS_PLACES 32u

enum breakpoints_verdict {
	BREAKPOINTS_PASS,   // to the kernel; the reply goes through breakpoints_answer
	BREAKPOINTS_ANSWER, // body holds the reply, as long as the request was
};

struct breakpoints_client {
	uint32_t generations[BREAKPOINTS_PLACES]; // by handle - 1: the place's when it was given out; another one = it is dead; 0 = never, or restored
};

enum breakpoints_use { BREAKPOINTS_FREE, BREAKPOINTS_USED, BREAKPOINTS_ORPHAN, BREAKPOINTS_UNKNOWN };

struct breakpoints {
	struct {
		enum breakpoints_use use;
		uint32_t generation; // of what stands there, from 1
		uint32_t users;      // USED: clients that have a living handle of it
		uint64_t address;    // USED, ORPHAN
		uint64_t set_at;     // in `sets`: of two places with one address the kernel has dropped the older one, or it is another process's
	} places[BREAKPOINTS_PLACES];
	uint64_t sets;
};

// Every place UNKNOWN.
void breakpoints_init(struct breakpoints *b);
// A kernel that was seen from its first packet on: every place FREE, every handle dead.
void breakpoints_booted(struct breakpoints *b);
// Another kernel, or another time of this one: every place UNKNOWN, every handle dead.
void breakpoints_forget(struct breakpoints *b);

// It has no handle yet.
void breakpoints_client_init(struct breakpoints_client *c);
// Its places become orphans, unless others use them. To be called before its memory goes.
void breakpoints_client_left(struct breakpoints *b, struct breakpoints_client *c);

// A manipulate packet of this client, of any API: body_len bytes at body, changed in place (RestoreBreakPoint, and the Ex forms; others pass as they are).
enum breakpoints_verdict breakpoints_ask(struct breakpoints *b, struct breakpoints_client *c, uint8_t *body, uint32_t body_len);
// The kernel's reply to `request` as it went to the kernel, changed in place; anything but a reply of that API is left alone. c NULL: the client has
// left meanwhile; what it got is an orphan.
void breakpoints_answer(struct breakpoints *b, struct breakpoints_client *c, const uint8_t *request, uint32_t request_len, uint8_t *body, uint32_t body_len);

// A client that may not ask the kernel restores a breakpoint of its own, of the time when it might: its place is an orphan, unless others use it. Any other
// number: nothing happens.
void breakpoints_release(struct breakpoints *b, struct breakpoints_client *c, uint32_t handle);

// A place to be taken out of the kernel: its handle; 0 = none. It is FREE from then on.
uint32_t breakpoints_next_orphan(struct breakpoints *b);

#endif
