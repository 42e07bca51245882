// SPDX-License-Identifier: MIT
// Threads as processors: they are held together once, while any of them meets break-ins (and then waits for all the others' interrupts), and
// when one does not come nothing is done.
#include "guest/driver/hold.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define THREADS_MAX 8u

// A machine: any processor with interrupts on may stop all others, which takes effect only where interrupts are on.
struct machine {
	struct hold hold;
	uint32_t count;
	atomic_uint freezer;  // 1 + index of who stops the others; 0: nobody
	atomic_uint frozen;   // how many have stopped
	atomic_uint deeds, standing, freezes;
	atomic_bool was_loose; // somebody ran during the deed
	uint32_t freezes_wanted;
	uint64_t step; // cycles of a turn
};

struct processor {
	struct machine *m;
	uint32_t index;
	bool is_on;
	uint64_t cycles;
	uint32_t dice;
};

static struct machine machine;

static void meet_interrupts(struct processor *p)
{
	struct machine *m = p->m;
	unsigned freezer = atomic_load(&m->freezer);
	if (!p->is_on || !freezer || freezer == p->index + 1)
		return;
	atomic_fetch_add(&m->frozen, 1);
	while (atomic_load(&m->freezer) == freezer)
		sched_yield();
}

// A break-in: everybody else has to be stopped before the debugger begins, however long that takes.
static void break_in(struct processor *p)
{
	struct machine *m = p->m;
	unsigned nobody = 0;
	if (!p->is_on || !atomic_compare_exchange_strong(&m->freezer, &nobody, p->index + 1))
		return;
	while (atomic_load(&m->frozen) != m->count - 1)
		sched_yield();
	atomic_fetch_add(&m->freezes, 1);
	atomic_store(&m->frozen, 0);
	atomic_store(&m->freezer, 0);
}

static void interrupts(void *ctx, bool is_on)
{
	struct processor *p = ctx;
	assert_int_not_equal(p->is_on, is_on);
	if (!is_on)
		meet_interrupts(p); // what came before is taken before
	p->is_on = is_on;
	atomic_fetch_add(&p->m->standing, is_on ? -1u : 1u);
	meet_interrupts(p);
}

static void pause_cpu(void *ctx)
{
	struct processor *p = ctx;
	p->dice = p->dice * 1103515245u + 12345;
	if (p->dice >> 30 == 0 && atomic_load(&p->m->freezes) < p->m->freezes_wanted)
		break_in(p);
	meet_interrupts(p);
	sched_yield();
}

static uint64_t cycles(void *ctx)
{
	struct processor *p = ctx;
	return p->cycles += p->m->step;
}

static const struct hold_cpu cpu = { .interrupts = interrupts, .pause = pause_cpu, .cycles = cycles };

static void deed(void *arg)
{
	struct machine *m = arg;
	if (atomic_load(&m->standing) != m->count)
		atomic_store(&m->was_loose, true);
	atomic_fetch_add(&m->deeds, 1);
}

static void *run(void *arg)
{
	struct processor *p = arg;
	hold_enter(&p->m->hold, &cpu, p);
	// As a processor does that goes on with something else: it still takes interrupts.
	while (hold_state(&p->m->hold) == HOLD_PENDING || atomic_load(&p->m->freezer)) {
		meet_interrupts(p);
		sched_yield();
	}
	return NULL;
}

static void hold_all(uint32_t count, uint32_t comers, uint32_t freezes, uint64_t step)
{
	struct processor processors[THREADS_MAX];
	pthread_t threads[THREADS_MAX];
	memset(&machine, 0, sizeof(machine));
	machine.count = count;
	machine.freezes_wanted = freezes;
	machine.step = step;
	hold_init(&machine.hold, count, deed, &machine);
	for (uint32_t i = 0; i < comers; i++) {
		processors[i] = (struct processor){ .m = &machine, .index = i, .is_on = true, .dice = i * 7919 + freezes + count };
		assert_int_equal(pthread_create(&threads[i], NULL, run, &processors[i]), 0);
	}
	if (comers < count) { // who comes when all others have lost their patience
		while ((machine.hold.word >> 16 & 0xFF) != comers)
			sched_yield();
		assert_int_equal(hold_state(&machine.hold), HOLD_PENDING);
		for (uint32_t i = comers; i < count; i++) {
			processors[i] = (struct processor){ .m = &machine, .index = i, .is_on = true };
			assert_int_equal(pthread_create(&threads[i], NULL, run, &processors[i]), 0);
		}
	}
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_false(atomic_load(&machine.was_loose));
	assert_int_equal(atomic_load(&machine.standing), 0);
}

static void who_does_not_come_is_not_waited_for(void **state)
{
	(void)state; // none
	for (uint32_t count = 2; count <= THREADS_MAX; count++) {
		hold_all(count, count - 1, 0, HOLD_GATHER_CYCLES / 100);
		assert_int_equal(hold_state(&machine.hold), HOLD_GIVEN_UP);
		assert_int_equal(atomic_load(&machine.deeds), 0);
	}
}

static void all_stand_still_once(void **state)
{
	(void)state; // none
	for (uint32_t round = 0; round < 200; round++) {
		uint32_t count = 1 + round % THREADS_MAX;
		hold_all(count, count, 0, 1);
		assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
		assert_int_equal(atomic_load(&machine.deeds), 1);
	}
}

// Each processor takes break-ins while it gathers and while it stands; a standing one that did not step back would hang here for ever.
static void break_ins_are_let_through(void **state)
{
	(void)state; // none
	uint32_t freezes = 0;
	for (uint32_t round = 0; round < 200; round++) {
		uint32_t count = 2 + round % (THREADS_MAX - 1);
		hold_all(count, count, 20, HOLD_STAND_CYCLES / 16);
		freezes += atomic_load(&machine.freezes);
		if (hold_state(&machine.hold) == HOLD_GIVEN_UP) { // a debugger's turn may use the patience up
			assert_int_equal(atomic_load(&machine.deeds), 0);
			continue;
		}
		assert_int_equal(atomic_load(&machine.deeds), 1);
	}
	assert_true(freezes > 100);
}

// What passes while a processor is frozen is not its patience.
static void a_long_stop_does_not_count(void **state)
{
	(void)state; // none
	for (uint32_t round = 0; round < 20; round++) {
		hold_all(THREADS_MAX, THREADS_MAX, 5, HOLD_LEAP_CYCLES);
		assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
	}
}

// A counter that stands still does not make a wait endless.
static void a_dead_counter_ends_nothing_early(void **state)
{
	(void)state; // none
	hold_all(4, 4, 5, 0);
	assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
}

int main(void)
{
	alarm(300); // a hang is a failure
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_does_not_come_is_not_waited_for),
		cmocka_unit_test(all_stand_still_once),
		cmocka_unit_test(break_ins_are_let_through),
		cmocka_unit_test(a_long_stop_does_not_count),
		cmocka_unit_test(a_dead_counter_ends_nothing_early),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
