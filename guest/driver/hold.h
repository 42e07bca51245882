// SPDX-License-Identifier: MIT
// Hold all processors at the same moment and do something while nothing else runs. Each processor enters by itself, from a DPC.
//
//   1. gather: DISPATCH_LEVEL, interrupts on, until every processor has come. From then on nobody waits for anybody's interprocessor
//      interrupt, except a debugger's.
//   2. stand: interrupts off. The last one to stand does the deed and lets all go.
//
// A processor that meets a break-in while it gathers freezes the others and needs their interrupts for that, for as long as somebody
// sits at the debugger. So whoever stands for long steps back, lets its interrupts in, and stands again: the deed is done when all
// stand at once. While some do not come at all, gathering is given up: the kernel counts how long a DPC takes.
//
// Rules: hold_enter runs once on each of `count` processors, at DISPATCH_LEVEL with interrupts on; so it returns. It allocates nothing
// and calls nothing but struct hold_cpu and the deed. One word is the whole state; memory that the deed wrote is visible to all when they
// return.
#ifndef GUEST_DRIVER_HOLD_H
#define GUEST_DRIVER_HOLD_H

#include "wire/compiler.h"

#define HOLD_PROCESSORS_MAX 64u

// Cycles of a counter of unknown rate, 1 to 5 GHz in practice; the remarks say what 3 GHz makes of them.
#define HOLD_GATHER_CYCLES 6000000000ull // 2 s; Windows 8 and later end a DPC that takes 20 s with bug check 133h (documented)
#define HOLD_STAND_CYCLES 30000000ull    // 10 ms: how long a freeze is kept waiting at most
#define HOLD_LEAP_CYCLES 300000000ull    // 100 ms between two turns: this processor was frozen meanwhile, and that does not count
#define HOLD_SPIN_MAX 200000000u         // turns of either where the counter stands still

struct hold_cpu {
	void (*interrupts)(void *ctx, bool is_on);
	void (*pause)(void *ctx); // one turn of a spin
	uint64_t (*cycles)(void *ctx);
};

enum hold_state { HOLD_PENDING, HOLD_DONE, HOLD_GIVEN_UP };

struct hold {
	volatile uint32_t word; // how many gather, stand, have left; done; given up
	uint32_t count;
	void (*deed)(void *arg); // interrupts off everywhere
	void *arg;
};

// count: 1 to HOLD_PROCESSORS_MAX. h must not be in use.
void hold_init(struct hold *h, uint32_t count, void (*deed)(void *arg), void *arg);

// What each processor does. Touches *h as its last act.
void hold_enter(struct hold *h, const struct hold_cpu *cpu, void *ctx);

// HOLD_DONE: the deed was done once; HOLD_GIVEN_UP: it was not and will not be. Both only when every processor has left *h.
enum hold_state hold_state(const struct hold *h);

#endif
