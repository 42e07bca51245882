// SPDX-License-Identifier: MIT
#include "guest/driver/hold.h"
#include "wire/order.h"

// The word: three counts of a byte each, then two bits.
#define GATHERED 0u
#define STANDING 8u
#define LEFT 16u
#define DONE (1u << 24)
#define GIVEN_UP (1u << 25)

static uint32_t count_of(uint32_t word, uint32_t which)
{
	return word >> which & 0xFF;
}

static uint32_t load(const struct hold *h)
{
	return order_load_acquire(&h->word); // partner: order_replace of every other processor
}

// -> the new word.
static uint32_t add(struct hold *h, uint32_t value)
{
	uint32_t word;
	do
		word = load(h);
	while (!order_replace(&h->word, word, word + value));
	return word + value;
}

struct spin {
	uint64_t last, passed; // cycles
	uint32_t turns;
};

// One turn. -> true: it takes too long.
static bool spin(struct spin *s, uint64_t limit, const struct hold_cpu *cpu, void *ctx)
{
	uint64_t now = cpu->cycles(ctx);
	if (s->turns && now - s->last < HOLD_LEAP_CYCLES)
		s->passed += now - s->last;
	s->last = now;
	cpu->pause(ctx);
	return ++s->turns >= HOLD_SPIN_MAX || s->passed > limit;
}

// -> true: everybody has come.
static bool gather(struct hold *h, const struct hold_cpu *cpu, void *ctx)
{
	struct spin s = { .turns = 0 };
	(void)add(h, 1u << GATHERED); // the loop looks
	for (;;) {
		uint32_t word = load(h);
		if (word & GIVEN_UP)
			return false;
		if (count_of(word, GATHERED) == h->count)
			return true;
		if (spin(&s, HOLD_GATHER_CYCLES, cpu, ctx) && order_replace(&h->word, word, word | GIVEN_UP))
			return false;
	}
}

// Interrupts off. -> true: the deed is done; false: stepped back, others take too long.
static bool stand(struct hold *h, const struct hold_cpu *cpu, void *ctx)
{
	struct spin s = { .turns = 0 };
	if (count_of(add(h, 1u << STANDING), STANDING) == h->count) {
		h->deed(h->arg);
		(void)add(h, DONE); // nobody else sets it
		return true;
	}
	for (;;) {
		uint32_t word = load(h);
		if (word & DONE)
			return true;
		// Once all stand, nobody may step back: the deed is under way.
		if (spin(&s, HOLD_STAND_CYCLES, cpu, ctx) && count_of(word, STANDING) < h->count &&
		    order_replace(&h->word, word, word - (1u << STANDING)))
			return false;
	}
}

void hold_init(struct hold *h, uint32_t count, void (*deed)(void *arg), void *arg)
{
	*h = (struct hold){ .count = count, .deed = deed, .arg = arg };
}

void hold_enter(struct hold *h, const struct hold_cpu *cpu, void *ctx)
{
	bool is_over = !gather(h, cpu, ctx);
	while (!is_over) {
		cpu->interrupts(ctx, false);
		is_over = stand(h, cpu, ctx);
		cpu->interrupts(ctx, true);
	}
	(void)add(h, 1u << LEFT); // *h may be gone from here on
}

enum hold_state hold_state(const struct hold *h)
{
	uint32_t word = load(h);
	if (count_of(word, LEFT) != h->count)
		return HOLD_PENDING;
	return word & DONE ? HOLD_DONE : HOLD_GIVEN_UP;
}
