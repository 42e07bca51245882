// SPDX-License-Identifier: MIT
// Maps of QEMU 7.2's `info mtree -f`, recorded from pc and q35 with 6 GiB (testdata/), and texts that nobody should believe.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/memory_map.h"

#define GIB (UINT64_C(1) << 30)

static struct memory_map map;

static int parse(const char *text)
{
	return memory_map_parse(text, strlen(text), "vmkd-ram", 6 * GIB, &map);
}

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = calloc(1, 65536);

	if (!file)
		fail_msg("%s is missing (run from the root of the tree)", path);
	assert_non_null(text);
	assert_true(fread(text, 1, 65535, file) > 1000);
	fclose(file);
	return text;
}

static void piece_is(uint32_t i, uint64_t gpa, uint64_t size, uint64_t offset)
{
	assert_true(i < map.count);
	assert_true(map.pieces[i].gpa == gpa);
	assert_true(map.pieces[i].size == size);
	assert_true(map.pieces[i].offset == offset);
}

static void test_pc(void **state)
{
	char *text = read_file("serve/testdata/mtree-pc-6g.txt");

	(void)state;
	assert_int_equal(parse(text), MEMORY_MAP_OK);
	assert_int_equal(map.count, 3);
	piece_is(0, 0, 0xA0000, 0);
	piece_is(1, 0x100000, 3 * GIB - 0x100000, 0x100000);
	piece_is(2, 4 * GIB, 3 * GIB, 3 * GIB);
	free(text);
}

static void test_q35(void **state)
{
	char *text = read_file("serve/testdata/mtree-q35-6g.txt");

	(void)state;
	assert_int_equal(parse(text), MEMORY_MAP_OK);
	assert_int_equal(map.count, 3);
	piece_is(1, 0x100000, 2 * GIB - 0x100000, 0x100000);
	piece_is(2, 4 * GIB, 4 * GIB, 2 * GIB); // not where -m alone would put it
	free(text);
}

static void test_cut_anywhere(void **state)
{
	char *text = read_file("serve/testdata/mtree-pc-6g.txt");
	size_t len = strlen(text);

	(void)state;
	for (size_t i = 0; i < len; i++) {
		int outcome = memory_map_parse(text, i, "vmkd-ram", 6 * GIB, &map);

		assert_in_range(outcome, MEMORY_MAP_OK, MEMORY_MAP_E_TEXT);
	}
	free(text);
}

#define HEAD "FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n"

static void refuses(const char *lines, int outcome)
{
	char text[4096];

	snprintf(text, sizeof(text), HEAD "%s", lines);
	map.count = 77;
	assert_int_equal(parse(text), outcome);
	assert_int_equal(map.count, 77);
}

static void test_no_view(void **state)
{
	(void)state;
	assert_int_equal(parse(""), MEMORY_MAP_E_VIEW);
	assert_int_equal(parse("FlatView #0\n AS \"I/O\", root: io\n  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram\n"), MEMORY_MAP_E_VIEW);
	assert_int_equal(parse(" AS \"memory\", root: system\n"), MEMORY_MAP_E_VIEW);
	assert_int_equal(memory_map_parse(HEAD, strlen(HEAD), "", GIB, &map), MEMORY_MAP_E_VIEW);
}

static void test_smm_view_is_not_ours(void **state)
{
	(void)state;
	assert_int_equal(parse("FlatView #0\n AS \"cpu-smm-0\", root: memory\n Root memory region: memory\n"
			       "  00000000000a0000-00000000000bffff (prio 0, ram): vmkd-ram @00000000000a0000\n\n"
			       "FlatView #1\n AS \"cpu-memory-0\", root: system\n AS \"memory\", root: system\n Root memory region: system\n"
			       "  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram\n"), MEMORY_MAP_OK);
	assert_int_equal(map.count, 1);
	piece_is(0, 0, 0xA0000, 0);
}

static void test_only_ram_of_the_backend(void **state)
{
	(void)state;
	refuses("", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-000000000009ffff (prio 0, rom): vmkd-ram\n", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-000000000009ffff (prio 0, romd): vmkd-ram\n", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-000000000009ffff (prio 0, i/o): vmkd-ram\n", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram2\n", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-000000000009ffff (prio 0, ram): vga.vram\n", MEMORY_MAP_E_EMPTY);
	refuses("  000000000009ffff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_EMPTY);
	refuses("  0000000000000000-00000000000000ff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_EMPTY); // less than a page
}

static void test_impossible_numbers(void **state)
{
	(void)state;
	refuses("  0000000000100000-00000000000fffff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000001000-0000000000000000 (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000000000-ffffffffffffffff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_TEXT);
	refuses("  0010000000000000-0010000000000fff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram @0000000180000000\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram @fffffffffffff000\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram @0000000000000123\n", MEMORY_MAP_E_TEXT);
	refuses("  0000000000000000-00000000ffffffff (prio 0, ram): vmkd-ram\n"
		"  0000000000100000-00000000001fffff (prio 0, ram): vmkd-ram\n", MEMORY_MAP_E_TEXT); // overlapping
}

static void test_too_many(void **state)
{
	char text[32768] = HEAD;

	(void)state;
	for (unsigned i = 0; i <= MEMORY_MAP_MAX; i++)
		snprintf(text + strlen(text), 128, "  %016x-%016x (prio 0, ram): vmkd-ram\n", i * 0x2000, i * 0x2000 + 0xFFF);
	assert_int_equal(parse(text), MEMORY_MAP_E_TEXT);
}

static void test_accelerator_names_and_carriage_returns(void **state)
{
	(void)state;
	assert_int_equal(parse("FlatView #0\r\n AS \"memory\", root: system\r\n Root memory region: system\r\n"
			       "  0000000000000000-000000000009ffff (prio 0, ram): vmkd-ram KVM\r\n"
			       "  0000000000100000-000000003fffffff (prio 0, ram): vmkd-ram @0000000000100000 KVM\r\n"), MEMORY_MAP_OK);
	assert_int_equal(map.count, 2);
	piece_is(1, 0x100000, GIB - 0x100000, 0x100000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pc),
		cmocka_unit_test(test_q35),
		cmocka_unit_test(test_cut_anywhere),
		cmocka_unit_test(test_no_view),
		cmocka_unit_test(test_smm_view_is_not_ours),
		cmocka_unit_test(test_only_ram_of_the_backend),
		cmocka_unit_test(test_impossible_numbers),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_accelerator_names_and_carriage_returns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
