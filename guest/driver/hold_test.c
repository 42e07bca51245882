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
	atomic_uint turns;     // of anybody's waiting
	uint32_t freezes_wanted;
	uint32_t late_turns;   // the last processor comes after so many, or when it is to freeze
	bool is_late_freeze;   // the first one meets a break-in when another stands already
	uint64_t gather_step, stand_step; // cycles of a turn
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
	atomic_fetch_add(&p->m->turns, 1);
	if (p->m->is_late_freeze && p->index == 0 && p->is_on && atomic_load(&p->m->freezes) == 0) {
		while (atomic_load(&p->m->standing) == 0)
			sched_yield();
		break_in(p);
	}
	p->dice = p->dice * 1103515245u + 12345;
	if (p->dice >> 30 == 0 && atomic_load(&p->m->freezes) < p->m->freezes_wanted)
		break_in(p);
	meet_interrupts(p);
	sched_yield();
}

static uint64_t cycles(void *ctx)
{
	struct processor *p = ctx;
	return p->cycles += p->is_on ? p->m->gather_step : p->m->stand_step;
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

static void start(pthread_t *thread, struct processor *p, uint32_t index)
{
	*p = (struct processor){ .m = &machine, .index = index, .is_on = true, .dice = index * 7919 + machine.freezes_wanted + machine.count };
	assert_int_equal(pthread_create(thread, NULL, run, p), 0);
}

// comers: the others come only when these have lost their patience.
static void hold_all(uint32_t comers)
{
	struct processor processors[THREADS_MAX];
	pthread_t threads[THREADS_MAX];
	uint32_t count = machine.count;
	hold_init(&machine.hold, count, deed, &machine);
	for (uint32_t i = 0; i < count; i++) {
		while (i == count - 1 && atomic_load(&machine.turns) < machine.late_turns && !atomic_load(&machine.freezer))
			sched_yield();
		while (i == 1 && machine.is_late_freeze && !atomic_load(&machine.turns))
			sched_yield(); // the first one waits already
		while (i == comers && (__atomic_load_n(&machine.hold.word, __ATOMIC_ACQUIRE) >> 16 & 0xFF) != comers)
			sched_yield();
		if (i == comers)
			assert_int_equal(hold_state(&machine.hold), HOLD_PENDING);
		start(&threads[i], &processors[i], i);
	}
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_false(atomic_load(&machine.was_loose));
	assert_int_equal(atomic_load(&machine.standing), 0);
}

static void build(uint32_t count, uint64_t gather_step, uint64_t stand_step)
{
	memset(&machine, 0, sizeof(machine));
	machine.count = count;
	machine.gather_step = gather_step;
	machine.stand_step = stand_step;
}

static void who_does_not_come_is_not_waited_for(void **state)
{
	(void)state; // none
	for (uint32_t count = 2; count <= THREADS_MAX; count++) {
		build(count, HOLD_GATHER_CYCLES / 100, 1);
		hold_all(count - 1);
		assert_int_equal(hold_state(&machine.hold), HOLD_GIVEN_UP);
		assert_int_equal(atomic_load(&machine.deeds), 0);
	}
}

static void all_stand_still_once(void **state)
{
	(void)state; // none
	for (uint32_t round = 0; round < 200; round++) {
		build(1 + round % THREADS_MAX, 1, 1);
		hold_all(THREADS_MAX);
		assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
		assert_int_equal(atomic_load(&machine.deeds), 1);
	}
}

// Break-ins at any turn of anybody.
static void break_ins_are_let_through(void **state)
{
	(void)state; // none
	uint32_t freezes = 0;
	for (uint32_t round = 0; round < 200; round++) {
		build(2 + round % (THREADS_MAX - 1), 1, HOLD_STAND_CYCLES / 16);
		machine.freezes_wanted = 20;
		machine.late_turns = 30;
		hold_all(THREADS_MAX);
		freezes += atomic_load(&machine.freezes);
		assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
		assert_int_equal(atomic_load(&machine.deeds), 1);
	}
	assert_true(freezes > 100);
}

// The one that is still awake freezes those who stand already: who did not step back would hang here for ever.
static void who_stands_steps_back_for_a_break_in(void **state)
{
	(void)state; // none
	for (uint32_t count = 2; count <= THREADS_MAX; count++) {
		build(count, 1, HOLD_STAND_CYCLES / 16);
		machine.is_late_freeze = true;
		hold_all(THREADS_MAX);
		assert_int_equal(atomic_load(&machine.freezes), 1);
		assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
		assert_int_equal(atomic_load(&machine.deeds), 1);
	}
}

// What passes while a processor is frozen is not its patience.
static void a_long_stop_does_not_count(void **state)
{
	(void)state; // none
	build(4, HOLD_LEAP_CYCLES, 1);
	machine.late_turns = 10 * 4 * (HOLD_GATHER_CYCLES / HOLD_LEAP_CYCLES);
	hold_all(THREADS_MAX);
	assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
}

// A counter that stands still does not make a wait endless, nor end it early.
static void a_dead_counter_ends_nothing_early(void **state)
{
	(void)state; // none
	build(4, 0, 0);
	machine.freezes_wanted = 5;
	machine.late_turns = 1000;
	hold_all(THREADS_MAX);
	assert_int_equal(hold_state(&machine.hold), HOLD_DONE);
}

int main(void)
{
	alarm(100); // a hang is a failure
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_does_not_come_is_not_waited_for),
		cmocka_unit_test(all_stand_still_once),
		cmocka_unit_test(break_ins_are_let_through),
		cmocka_unit_test(who_stands_steps_back_for_a_break_in),
		cmocka_unit_test(a_long_stop_does_not_count),
		cmocka_unit_test(a_dead_counter_ends_nothing_early),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
