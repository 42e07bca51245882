// SPDX-License-Identifier: MIT
// The books of breakpoints against a model: a plain list of what the user wants, and a kernel's table beside it. After every random step both
// must agree on what is set, what is missing, and what must never be in two places.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <string.h>

#include "target/bptable.h"

#define ADDRESSES 48u // few, so that they meet
#define STEPS 200000u

struct model {
	bool is_wanted[ADDRESSES], is_enabled[ADDRESSES];
	uint32_t handle[ADDRESSES]; // 0 = not in the kernel
	bool is_handle_used[BPTABLE_MAX + 1];
};

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static uint32_t count_wanted(const struct model *model)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < ADDRESSES; i++)
		count += model->is_wanted[i];
	return count;
}

static void drop(struct model *model, uint32_t address)
{
	model->is_handle_used[model->handle[address]] = false;
	model->handle[address] = 0;
}

static void step_add(struct bptable *table, struct model *model, uint32_t address)
{
	uint32_t id = 99;
	int outcome = bptable_add(table, address, false, &id);

	if (model->is_wanted[address]) {
		assert_int_equal(outcome, BPTABLE_E_EXISTS);
		assert_int_equal(bptable_get(table, id)->address, address);
		return;
	}
	if (count_wanted(model) == BPTABLE_MAX) {
		assert_int_equal(outcome, BPTABLE_E_FULL);
		assert_int_equal(id, 99);
		return;
	}
	assert_int_equal(outcome, BPTABLE_OK);
	model->is_wanted[address] = model->is_enabled[address] = true;
}

static void step_remove(struct bptable *table, struct model *model, uint32_t address)
{
	struct bp *bp = bptable_find(table, address);

	assert_int_equal(bp != NULL, model->is_wanted[address]);
	if (!bp)
		return;
	if (bp->handle)
		drop(model, address);
	bptable_remove(table, (uint32_t)(bp - table->entries));
	model->is_wanted[address] = model->is_enabled[address] = false;
}

static void step_write_missing(struct bptable *table, struct model *model)
{
	for (uint32_t id = 0; (id = bptable_next_missing(table, id, NULL)) < BPTABLE_MAX; id++) {
		uint32_t handle = 1, address = (uint32_t)bptable_get(table, id)->address;
		while (model->is_handle_used[handle])
			handle++;
		assert_true(bptable_handle_is_free(table, handle));
		assert_int_equal(model->handle[address], 0);
		bptable_written(table, id, handle);
		model->handle[address] = handle;
		model->is_handle_used[handle] = true;
	}
}

static void step_stop(struct bptable *table, struct model *model, uint32_t pc)
{
	bptable_stopped(table, pc, 16);
	for (uint32_t address = pc; address < pc + 16 && address < ADDRESSES; address++) {
		struct bp *bp = bptable_find(table, address);
		if (bp)
			assert_int_equal(bp->was_dropped, model->handle[address] != 0);
		if (model->handle[address])
			drop(model, address);
	}
}

static void agree(struct bptable *table, const struct model *model)
{
	for (uint32_t address = 0; address < ADDRESSES; address++) {
		struct bp *bp = bptable_find(table, address);
		assert_int_equal(bp != NULL, model->is_wanted[address]);
		if (!bp)
			continue;
		assert_int_equal(bp->is_enabled, model->is_enabled[address]);
		assert_int_equal(bp->handle, model->handle[address]);
	}
}

static void random_walk_agrees_with_the_model(void **state)
{
	struct bptable table;
	struct model model = { .handle = { 0 } };
	uint32_t seed = 1;

	(void)state;
	bptable_init(&table);
	for (uint32_t i = 0; i < STEPS; i++) {
		uint32_t address = next_random(&seed) % ADDRESSES;
		struct bp *bp = bptable_find(&table, address);
		switch (next_random(&seed) % 8) {
		case 0:
		case 1: step_add(&table, &model, address); break;
		case 2: step_remove(&table, &model, address); break;
		case 3: step_write_missing(&table, &model); break;
		case 4: step_stop(&table, &model, address); break;
		case 5:
			if (bp && bp->handle == 0)
				bp->is_enabled = model.is_enabled[address] = !bp->is_enabled;
			break;
		case 6:
			if (bp && bp->handle) {
				bptable_restored(&table, (uint32_t)(bp - table.entries));
				drop(&model, address);
			}
			break;
		default:
			if (next_random(&seed) % 50 == 0) {
				(void)bptable_forget_kernel(&table);
				for (uint32_t a = 0; a < ADDRESSES; a++)
					drop(&model, a);
			}
			break;
		}
		agree(&table, &model);
	}
}

static void the_code_window_has_exact_ends(void **state)
{
	struct bptable table;
	uint32_t id;

	(void)state;
	bptable_init(&table);
	static const uint64_t ADDRESS[] = { 0xFFF, 0x1000, 0x100F, 0x1010, UINT64_MAX };
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(bptable_add(&table, ADDRESS[i], false, &id), BPTABLE_OK);
		assert_int_equal(id, i);
		bptable_written(&table, id, i + 1);
	}
	bptable_stopped(&table, 0x1000, 16);
	static const bool DROPPED[] = { false, true, true, false, false };
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(table.entries[i].was_dropped, DROPPED[i]);
	bptable_stopped(&table, 0x1010, 0); // no code was copied, so nothing was dropped
	assert_int_equal(table.entries[3].handle, 4);
	assert_false(table.entries[1].was_dropped);
}

static void what_is_missing_leaves_out_the_exception(void **state)
{
	struct bptable table;
	uint32_t id;
	uint64_t except = 0x2000;

	(void)state;
	bptable_init(&table);
	assert_int_equal(bptable_next_missing(&table, 0, NULL), BPTABLE_MAX);
	assert_int_equal(bptable_add(&table, 0x2000, false, &id), BPTABLE_OK);
	assert_int_equal(bptable_next_missing(&table, 0, &except), BPTABLE_MAX);
	assert_int_equal(bptable_next_missing(&table, 0, NULL), 0);
	table.entries[0].is_enabled = false;
	assert_int_equal(bptable_next_missing(&table, 0, NULL), BPTABLE_MAX);
	assert_null(bptable_get(&table, 1));
	assert_null(bptable_get(&table, BPTABLE_MAX));
	assert_null(bptable_get(&table, UINT32_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_code_window_has_exact_ends),
		cmocka_unit_test(what_is_missing_leaves_out_the_exception),
		cmocka_unit_test(random_walk_agrees_with_the_model),
	};

	return cmocka_run_group_tests_name("bptable", tests, NULL, NULL);
}
