// SPDX-License-Identifier: MIT
#include "util/polling.h"

#include <sched.h>

void polling_init(struct polling *p)
{
	cpu_set_t mine;

	*p = (struct polling){ .penalty = POLLING_SKIP_MIN };
	// Fails on machines of more than 1024 processors, which is an answer, too.
	p->is_off = sched_getaffinity(0, sizeof(mine), &mine) == 0 && CPU_COUNT(&mine) == 1;
}

uint32_t polling_begin(struct polling *p)
{
	if (p->is_off)
		return 0;
	if (p->skip) {
		p->skip--;
		return 0;
	}
	return p->window_ns;
}

static void grow(struct polling *p)
{
	uint32_t twice = p->window_ns ? p->window_ns * 2 : POLLING_START_NS;

	p->window_ns = twice < POLLING_MAX_NS ? twice : POLLING_MAX_NS;
}

static void shrink(struct polling *p)
{
	p->window_ns /= 2;
	if (p->window_ns < POLLING_START_NS)
		p->window_ns = 0;
}

void polling_end(struct polling *p, uint64_t gap_ns)
{
	if (gap_ns > POLLING_MAX_NS)
		shrink(p);
	else if (gap_ns > p->window_ns)
		grow(p);
	else if (++p->kept >= POLLING_SKIP_MAX)
		p->penalty = POLLING_SKIP_MIN;
}

void polling_lost(struct polling *p)
{
	p->skip = p->penalty;
	p->penalty = p->penalty * 2 < POLLING_SKIP_MAX ? p->penalty * 2 : POLLING_SKIP_MAX;
	p->kept = 0;
}
