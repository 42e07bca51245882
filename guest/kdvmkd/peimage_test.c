// SPDX-License-Identifier: MIT
// The kernel's image and an export in it, found in made-up images: damaged ones first.
#include "guest/kdvmkd/peimage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define PAGES 64
#define IMAGE_AT 8 // pages
#define IMAGE_PAGES 40

static uint8_t memory[PAGES * 4096] __attribute__((aligned(4096)));
static bool is_hole[PAGES];

static bool is_mapped(const void *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)memory;
	return offset < sizeof(memory) && !is_hole[offset / 4096];
}

static void put32(uint32_t rva, uint32_t value)
{
	memcpy(&memory[IMAGE_AT * 4096 + rva], &value, sizeof(value));
}

static void put16(uint32_t rva, uint16_t value)
{
	memcpy(&memory[IMAGE_AT * 4096 + rva], &value, sizeof(value));
}

static void put_name(uint32_t rva, const char *name)
{
	strcpy((char *)&memory[IMAGE_AT * 4096 + rva], name);
}

enum { PE = 0x80, OPTIONAL = PE + 0x18, DIR_RVA = 0x2000, DIR_LEN = 0x400, FUNCTION_RVA = 0x5010 };

static int build(void **state)
{
	bool is_64 = *state != NULL;
	memset(memory, 0, sizeof(memory));
	memset(is_hole, 0, sizeof(is_hole));
	put16(0, 0x5A4D);
	put32(0x3C, PE);
	put32(PE, 0x4550);
	put16(OPTIONAL, is_64 ? 0x20B : 0x10B);
	put32(OPTIONAL + 0x38, IMAGE_PAGES * 4096);
	put32(OPTIONAL + (is_64 ? 0x6C : 0x5C), 16);
	put32(OPTIONAL + (is_64 ? 0x70 : 0x60), DIR_RVA);
	put32(OPTIONAL + (is_64 ? 0x74 : 0x64), DIR_LEN);
	put32(DIR_RVA + 0x14, 4); // functions
	put32(DIR_RVA + 0x18, 3); // names
	put32(DIR_RVA + 0x1C, DIR_RVA + 0x100);
	put32(DIR_RVA + 0x20, DIR_RVA + 0x140);
	put32(DIR_RVA + 0x24, DIR_RVA + 0x180);
	put32(DIR_RVA + 0x100 + 4 * 1, 0x4000);
	put32(DIR_RVA + 0x100 + 4 * 2, FUNCTION_RVA);
	put32(DIR_RVA + 0x100 + 4 * 3, DIR_RVA + 0x200); // a forwarder's text
	put32(DIR_RVA + 0x140, DIR_RVA + 0x220);
	put32(DIR_RVA + 0x144, DIR_RVA + 0x240);
	put32(DIR_RVA + 0x148, DIR_RVA + 0x260);
	put16(DIR_RVA + 0x180, 1);
	put16(DIR_RVA + 0x182, 2);
	put16(DIR_RVA + 0x184, 3);
	put_name(DIR_RVA + 0x220, "First");
	put_name(DIR_RVA + 0x240, "Wanted");
	put_name(DIR_RVA + 0x260, "WantedElsewhere");
	return 0;
}

static const void *inside(void) { return &memory[(IMAGE_AT + IMAGE_PAGES - 1) * 4096 + 77]; }
static void *function(void) { return &memory[IMAGE_AT * 4096 + FUNCTION_RVA]; }

static void *find(const char *name)
{
	struct peimage image;
	return peimage_find(inside(), is_mapped, &image) ? peimage_export(&image, name) : NULL;
}

static void damaged_headers_are_no_image(void **state)
{
	static const uint32_t at[] = { 0, 0x3C, 0x3F, PE, PE + 1, OPTIONAL, OPTIONAL + 0x3B };
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		build(state);
		memory[IMAGE_AT * 4096 + at[i]] ^= 0xFF;
		assert_null(find("Wanted"));
	}
	build(state);
	put32(OPTIONAL + 0x38, (IMAGE_PAGES - 1) * 4096); // does not cover the address
	assert_null(find("Wanted"));
	build(state);
	is_hole[IMAGE_AT] = true;
	assert_null(find("Wanted"));
}

static void damaged_tables_have_no_exports(void **state)
{
	static const uint32_t fields[] = { 0x14, 0x18, 0x1C, 0x20, 0x24 };
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		build(state);
		put32(DIR_RVA + fields[i], 0xFFFFFFF0);
		assert_null(find("Wanted"));
	}
	build(state);
	put16(DIR_RVA + 0x182, 4); // no such function
	assert_null(find("Wanted"));
	build(state);
	put32(DIR_RVA + 0x108, IMAGE_PAGES * 4096); // outside
	assert_null(find("Wanted"));
	build(state);
	put32(DIR_RVA + 0x108, 0);
	assert_null(find("Wanted"));
	build(state);
	put32(DIR_RVA + 0x144, IMAGE_PAGES * 4096 - 3); // the name runs out of the image
	put_name(IMAGE_PAGES * 4096 - 3, "Wa");
	assert_null(find("Wanted"));
	build(state);
	is_hole[IMAGE_AT + DIR_RVA / 4096] = true; // discarded after the boot
	assert_null(find("Wanted"));
	build(state);
	is_hole[IMAGE_AT + FUNCTION_RVA / 4096] = true;
	assert_null(find("Wanted"));
}

static void names_match_whole(void **state)
{
	build(state);
	assert_null(find("Want"));
	assert_null(find("WantedX"));
	assert_null(find(""));
	assert_null(find("WantedElsewhere")); // a forwarder
}

static void export_is_found(void **state)
{
	build(state);
	for (uint32_t page = IMAGE_AT + 6; page < IMAGE_AT + IMAGE_PAGES; page += 2)
		is_hole[page] = true; // holes between the address and the header are stepped over
	assert_ptr_equal(find("Wanted"), function());
}

static void nearest_image_wins(void **state)
{
	build(state);
	uint8_t small[4096]; // a header in the middle of the image that does not reach the address
	memcpy(small, &memory[IMAGE_AT * 4096], sizeof(small));
	memcpy(&memory[(IMAGE_AT + 20) * 4096], small, sizeof(small));
	uint32_t size = 4096;
	memcpy(&memory[(IMAGE_AT + 20) * 4096 + OPTIONAL + 0x38], &size, sizeof(size));
	assert_ptr_equal(find("Wanted"), function());
}

int main(void)
{
	static int is_64;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(damaged_headers_are_no_image, NULL),
		cmocka_unit_test_prestate(damaged_headers_are_no_image, &is_64),
		cmocka_unit_test_prestate(damaged_tables_have_no_exports, NULL),
		cmocka_unit_test_prestate(damaged_tables_have_no_exports, &is_64),
		cmocka_unit_test_prestate(names_match_whole, NULL),
		cmocka_unit_test_prestate(names_match_whole, &is_64),
		cmocka_unit_test_prestate(export_is_found, NULL),
		cmocka_unit_test_prestate(export_is_found, &is_64),
		cmocka_unit_test_prestate(nearest_image_wins, NULL),
		cmocka_unit_test_prestate(nearest_image_wins, &is_64),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
