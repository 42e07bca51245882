// SPDX-License-Identifier: MIT
// The debug registers' books: what no processor can watch, other people's registers, then the bits.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "target/debugregs.h"

#define FREE_DR7 0x400u // bit 10 reads as 1

static struct bptable table;
static uint32_t own;
static bool changed;

static int setup(void **state)
{
	(void)state;
	bptable_init(&table);
	own = 0;
	changed = false;
	return 0;
}

static uint32_t add(enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address)
{
	uint32_t id = 99;
	assert_int_equal(bptable_add_processor(&table, kind, size, address, false, &id), BPTABLE_OK);
	return id;
}

static uint64_t dr7_now(uint64_t dr7, uint32_t without)
{
	assert_int_equal(debugregs_assign(&table, dr7, &own, &changed), BPTABLE_MAX);
	return debugregs_dr7(&table, dr7, own, without);
}

static void what_no_processor_can_watch(void **state)
{
	(void)state;
	static const uint32_t bad[] = { 0, 3, 5, 6, 7, 9, 16 };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_non_null(debugregs_problem(VMKD_BREAKPOINT_WRITE, bad[i], 0, false));
	for (uint32_t size = 1; size <= 8; size *= 2) {
		assert_null(debugregs_problem(VMKD_BREAKPOINT_WRITE, size, 0x1000, false));
		for (uint32_t off = 1; off < size; off++)
			assert_non_null(debugregs_problem(VMKD_BREAKPOINT_READ_WRITE, size, 0x1000 + off, false));
	}
	assert_non_null(debugregs_problem(VMKD_BREAKPOINT_WRITE, 8, 0x1000, true));
	assert_null(debugregs_problem(VMKD_BREAKPOINT_WRITE, 4, 0x1000, true));
	for (uint32_t size = 2; size <= 8; size *= 2)
		assert_non_null(debugregs_problem(VMKD_BREAKPOINT_EXECUTE, size, 0x1000, false));
	assert_null(debugregs_problem(VMKD_BREAKPOINT_EXECUTE, 1, 0x1001, false));
}

static void a_fifth_has_no_register(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000 + i), i);
	assert_int_equal(debugregs_assign(&table, FREE_DR7, &own, &changed), 4);
	assert_true(changed);
	assert_int_equal(own, 0xF);
	table.entries[2].is_enabled = table.entries[2].has_register = false;
	assert_int_equal(debugregs_assign(&table, FREE_DR7, &own, &changed), BPTABLE_MAX);
	assert_int_equal(table.entries[4].reg, 2);
	changed = false;
	assert_int_equal(debugregs_assign(&table, FREE_DR7, &own, &changed), BPTABLE_MAX);
	assert_false(changed);
}

static void the_registers_of_others_are_left_alone(void **state)
{
	(void)state;
	uint64_t others = FREE_DR7 | 1 | 2 << 4 | 0x3u << 16 | 0xFu << 24; // 0 by its local, 2 by its global bit
	add(VMKD_BREAKPOINT_WRITE, 2, 0x1000);
	add(VMKD_BREAKPOINT_EXECUTE, 1, 0x2000);
	assert_int_equal(dr7_now(others, 0), others | 1u << 2 | 0x5u << 20 | 1u << 6);
	assert_int_equal(own, 0xA);
	add(VMKD_BREAKPOINT_EXECUTE, 1, 0x3000);
	assert_int_equal(debugregs_assign(&table, others, &own, &changed), 2);
}

// What DR7 says of a register of ours is what we gave it, or what an older kernel of ours had: it is neither kept nor in the way.
static void own_registers_are_no_others(void **state)
{
	(void)state;
	uint32_t id = add(VMKD_BREAKPOINT_READ_WRITE, 4, 0x1000);
	uint64_t dr7 = dr7_now(FREE_DR7, 0);
	assert_int_equal(dr7, FREE_DR7 | 1 | 0xFu << 16);
	assert_int_equal(debugregs_part(dr7, own), 1 | 0xFu << 16);
	assert_int_equal(debugregs_part(dr7, 0), 0);
	bptable_remove(&table, id);
	assert_int_equal(dr7_now(dr7, 0), FREE_DR7);
	add(VMKD_BREAKPOINT_EXECUTE, 1, 0x2000);
	assert_int_equal(dr7_now(dr7, 0), FREE_DR7 | 1);
}

static void every_kind_and_size_has_its_bits(void **state)
{
	(void)state;
	static const struct {
		enum vmkd_breakpoint_kind kind;
		uint32_t size, bits;
	} all[] = {
		{ VMKD_BREAKPOINT_EXECUTE, 1, 0x0 }, { VMKD_BREAKPOINT_WRITE, 1, 0x1 },      { VMKD_BREAKPOINT_WRITE, 2, 0x5 },
		{ VMKD_BREAKPOINT_WRITE, 4, 0xD },   { VMKD_BREAKPOINT_WRITE, 8, 0x9 },      { VMKD_BREAKPOINT_READ_WRITE, 1, 0x3 },
		{ VMKD_BREAKPOINT_READ_WRITE, 2, 0x7 }, { VMKD_BREAKPOINT_READ_WRITE, 4, 0xF }, { VMKD_BREAKPOINT_READ_WRITE, 8, 0xB },
	};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		uint32_t id = add(all[i].kind, all[i].size, 0x1000);
		assert_int_equal(dr7_now(FREE_DR7, 0), FREE_DR7 | 1 | (uint64_t)all[i].bits << 16);
		bptable_remove(&table, id);
	}
}

static void one_can_be_left_out(void **state)
{
	(void)state;
	add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000);
	add(VMKD_BREAKPOINT_WRITE, 1, 0x1000);
	assert_int_equal(dr7_now(FREE_DR7, 1), FREE_DR7 | 4 | 1u << 20);
	assert_int_equal(dr7_now(FREE_DR7, 3), FREE_DR7);
	assert_int_equal(dr7_now(FREE_DR7, 0), FREE_DR7 | 5 | 1u << 20);
}

static void the_one_in_front_of_an_instruction_is_found(void **state)
{
	(void)state;
	uint32_t code;
	add(VMKD_BREAKPOINT_WRITE, 1, 0x1000);
	assert_int_equal(bptable_add(&table, 0x1000, false, &code), BPTABLE_OK);
	assert_null(debugregs_find(&table, 0x1000));
	uint32_t id = add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000);
	assert_ptr_equal(debugregs_find(&table, 0x1000), &table.entries[id]);
	assert_null(debugregs_find(&table, 0x1001));
	table.entries[id].is_enabled = false;
	assert_null(debugregs_find(&table, 0x1000));
}

static void dr6_tells_who_hit(void **state)
{
	(void)state;
	uint32_t id[3] = { add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000), add(VMKD_BREAKPOINT_WRITE, 4, 0x2000), add(VMKD_BREAKPOINT_WRITE, 4, 0x3000) };
	(void)dr7_now(FREE_DR7, 0);
	assert_int_equal(debugregs_hits(&table, 1, 0), 1u << id[0]);
	assert_int_equal(debugregs_hits(&table, 0xFFFF0FF6, 0), 1u << id[1] | 1u << id[2]);
	assert_int_equal(debugregs_hits(&table, 0x4002, 0), 1u << id[1]); // the step's instruction wrote it
	assert_int_equal(debugregs_hits(&table, 8, 0x1000), 0);           // a register of somebody else
	assert_int_equal(debugregs_hits(&table, 0x4000, 0x1000), 0);      // a step that ends there: it was not executed
	table.entries[id[1]].has_register = false;
	assert_int_equal(debugregs_hits(&table, 2, 0), 0); // disabled since
}

static void a_lost_dr6_is_made_up_for(void **state)
{
	(void)state;
	uint32_t execute = add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000);
	(void)dr7_now(FREE_DR7, 0);
	assert_int_equal(debugregs_hits(&table, 0, 0x1000), 1u << execute);
	assert_int_equal(debugregs_hits(&table, 0, 0x5000), 0);
	uint32_t data = add(VMKD_BREAKPOINT_WRITE, 4, 0x2000);
	(void)dr7_now(FREE_DR7, 0);
	assert_int_equal(debugregs_hits(&table, 0, 0x5000), 1u << data);
	assert_int_equal(debugregs_hits(&table, 0, 0x1000), 1u << execute);
	add(VMKD_BREAKPOINT_WRITE, 4, 0x3000);
	(void)dr7_now(FREE_DR7, 0);
	assert_int_equal(debugregs_hits(&table, 0, 0x5000), 0); // one of two
}

static void a_new_kernel_has_none_of_them(void **state)
{
	(void)state;
	uint32_t code;
	add(VMKD_BREAKPOINT_EXECUTE, 1, 0x1000);
	assert_int_equal(bptable_add(&table, 0x2000, false, &code), BPTABLE_OK);
	assert_false(bptable_is_any_written(&table));
	(void)dr7_now(FREE_DR7, 0);
	assert_true(bptable_is_any_written(&table));
	bptable_written(&table, code, 1);
	assert_int_equal(bptable_forget_table(&table), 1);
	assert_true(bptable_is_any_written(&table));
	assert_int_equal(bptable_forget_kernel(&table), 1);
	assert_false(bptable_is_any_written(&table));
}

#define TEST(function) cmocka_unit_test_setup(function, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_no_processor_can_watch),
		TEST(a_fifth_has_no_register),
		TEST(the_registers_of_others_are_left_alone),
		TEST(own_registers_are_no_others),
		TEST(every_kind_and_size_has_its_bits),
		TEST(one_can_be_left_out),
		TEST(the_one_in_front_of_an_instruction_is_found),
		TEST(dr6_tells_who_hit),
		TEST(a_lost_dr6_is_made_up_for),
		TEST(a_new_kernel_has_none_of_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
