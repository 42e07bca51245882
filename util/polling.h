// SPDX-License-Identifier: MIT
// When to look again at once instead of sleeping. In a conversation the answer comes within microseconds, and falling asleep for it
// costs more than it takes; a silent peer is worth no look at all. How long to look is learned from the gaps seen, per conversation:
//
//   a gap that the window covered          the window stays
//   a longer one, below POLLING_MAX_NS     the window doubles (from nothing: POLLING_START_NS)
//   a longer one than that                 the window halves, below POLLING_START_NS to nothing
//
// so an idle program does not poll, and each gap costs at most POLLING_MAX_NS. Between two looks the owner offers the processor to whoever
// wants it (sched_yield), most likely the peer that is waited for. Where somebody keeps it instead, sleeping is better, since the kernel
// wakes a sleeper at once: such a loss makes the next gaps ones without polling, twice as many each time.
//
// Rules: one thread; only polling_init makes a system call. Time is passed in.
#ifndef UTIL_POLLING_H
#define UTIL_POLLING_H

#include <stdbool.h>
#include <stdint.h>

// Measured with two processes and a bare echo: a sleep and its wake-up cost 5 us (same processor) to 50 us (another one that sleeps itself).
#define POLLING_MAX_NS 100000u
#define POLLING_START_NS 10000u
// A peer that answers needs less; one that computes takes a time slice of Linux, 3 ms.
#define POLLING_LOST_NS 250000u
#define POLLING_SKIP_MIN 16u // gaps
#define POLLING_SKIP_MAX 256u // a lost slice of 3 ms, shared out, is then about what a sleep and its wake-up cost

struct polling {
	bool is_off;        // for good
	uint32_t window_ns; // 0 = do not poll
	uint32_t skip;      // so many gaps more without polling
	uint32_t penalty;   // what the next loss will cost, in gaps
	uint32_t kept;      // gaps covered since the last loss
};

// Nothing learned. Off where the process may run on one processor only: there a look is time taken from the peer.
void polling_init(struct polling *p);

// A gap begins. -> how long to look before going to sleep, in nanoseconds; 0 = sleep at once.
uint32_t polling_begin(struct polling *p);

// It is over: something came after gap_ns, whether it was found by a look or by a wake-up.
void polling_end(struct polling *p, uint64_t gap_ns);

// Offering the processor in this gap took POLLING_LOST_NS or more: somebody keeps it. Do not look again in this gap.
void polling_lost(struct polling *p);

#endif
