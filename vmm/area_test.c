// SPDX-License-Identifier: MIT
// Hostile and unlucky areas: what area_register refuses, what is never written, what scanning believes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vmm/area.h"
#include "vmm/fake_guest.h"
#include "wire/kdapi.h"

// RAM at 64 KiB and, behind a hole that stands for ROM and MMIO, at 4 GiB + 64 KiB: a guest-physical address is no offset.
#define LOW_GPA 0x10000u
#define HIGH_GPA 0x100010000ull
#define PART_SIZE (64u * AREA_PAGE_SIZE)
#define NONCE 0xA5A5000011112222ull

struct fixture {
	uint8_t *low, *high;
	struct gpa_range ranges[2];
	struct gpa_map map;
	struct fake_guest guest;
	struct area area;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->low = aligned_alloc(AREA_PAGE_SIZE, PART_SIZE);
	f->high = aligned_alloc(AREA_PAGE_SIZE, PART_SIZE);
	memset(f->low, 0xCC, PART_SIZE);
	memset(f->high, 0xCC, PART_SIZE);
	f->ranges[0] = (struct gpa_range){ LOW_GPA, PART_SIZE, f->low };
	f->ranges[1] = (struct gpa_range){ HIGH_GPA, PART_SIZE, f->high };
	f->map = (struct gpa_map){ f->ranges, 2 };
	fake_guest_init(&f->guest, f->high, HIGH_GPA, 1, 3, 2, NONCE);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	free(f->low);
	free(f->high);
	free(f);
	return 0;
}

static int try_register(struct fixture *f)
{
	return area_register(&f->area, &f->map, fake_guest_head(&f->guest));
}

// ---- The map ------------------------------------------------------------------------------------

static void the_map_knows_whole_pages_of_ram_only(void **state)
{
	struct fixture *f = *state;
	assert_ptr_equal(gpa_map_page(&f->map, (gpa_t){ LOW_GPA }), f->low);
	assert_ptr_equal(gpa_map_page(&f->map, (gpa_t){ HIGH_GPA + PART_SIZE - AREA_PAGE_SIZE }),
	                 f->high + PART_SIZE - AREA_PAGE_SIZE);
	static const uint64_t bad[] = {
		0, LOW_GPA - AREA_PAGE_SIZE, LOW_GPA + 8, LOW_GPA + PART_SIZE, LOW_GPA + PART_SIZE - 8,
		HIGH_GPA + PART_SIZE, HIGH_GPA - AREA_PAGE_SIZE, UINT64_MAX, UINT64_MAX & ~0xFFFull,
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_null(gpa_map_page(&f->map, (gpa_t){ bad[i] }));
	// A piece that is no whole page, and one that ends with the address space.
	const struct gpa_range odd[] = { { 0, AREA_PAGE_SIZE - 1, f->low }, { 0xFFFFFFFFFFFFF000, AREA_PAGE_SIZE, f->high } };
	const struct gpa_map odd_map = { odd, 2 };
	assert_null(gpa_map_page(&odd_map, (gpa_t){ 0 }));
	assert_ptr_equal(gpa_map_page(&odd_map, (gpa_t){ 0xFFFFFFFFFFFFF000 }), f->high);
}

// ---- Registration -------------------------------------------------------------------------------

static void a_good_area_is_taken_and_nothing_is_written(void **state)
{
	struct fixture *f = *state;
	uint8_t *before = malloc(PART_SIZE);
	memcpy(before, f->high, PART_SIZE);
	assert_int_equal(try_register(f), AREA_OK);
	assert_memory_equal(before, f->high, PART_SIZE);
	free(before);
	assert_int_equal(f->area.page_count, 6);
	assert_true(area_owns_page(&f->area, 0));
	assert_true(area_owns_page(&f->area, 5));
	assert_false(area_owns_page(&f->area, 6));
}

static void unknown_features_are_not_accepted(void **state)
{
	struct fixture *f = *state;
	f->guest.head->features = AREA_FEATURE_PRINT_BATCH | 1u << 31;
	assert_int_equal(try_register(f), AREA_OK);
	assert_int_equal(f->area.features, AREA_FEATURE_PRINT_BATCH);
}

static void addresses_that_are_no_head_are_refused(void **state)
{
	struct fixture *f = *state;
	static const uint64_t bad[] = { 0, 1, LOW_GPA, HIGH_GPA, HIGH_GPA + AREA_PAGE_SIZE + 8, UINT64_MAX, ~0xFFFull };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(area_register(&f->area, &f->map, (gpa_t){ bad[i] }), AREA_E_ADDRESS);
	assert_false(f->area.is_registered);
}

// One word of a good head made bad.
struct bad_word {
	uint32_t offset, size;
	uint64_t value;
	int outcome;
};

#define WORD(field, bad, out) \
	{ offsetof(struct area_head, field), sizeof(((struct area_head *)0)->field), bad, out }
#define BYTE_AT(at, out) { at, 1, 1, out }

static const struct bad_word bad_words[] = {
	WORD(magic, 0, AREA_E_ADDRESS),
	WORD(page.nonce, 0, AREA_E_ADDRESS),
	WORD(page.index, 1, AREA_E_ADDRESS),
	WORD(page_gpa[0], 0, AREA_E_ADDRESS),
	WORD(page_gpa[0], LOW_GPA, AREA_E_ADDRESS),
	WORD(version, 0, AREA_E_VERSION),
	WORD(version, 2u << 16, AREA_E_VERSION),
	WORD(version, UINT32_MAX, AREA_E_VERSION),
	WORD(page_count, 0, AREA_E_HEAD),
	WORD(page_count, 1, AREA_E_HEAD),
	WORD(page_count, 5, AREA_E_HEAD),
	WORD(page_count, 7, AREA_E_HEAD),
	WORD(page_count, AREA_PAGES_MAX + 1, AREA_E_HEAD),
	WORD(page_count, UINT32_MAX, AREA_E_HEAD),
	WORD(tx_pages, 0, AREA_E_HEAD),
	WORD(tx_pages, 1, AREA_E_HEAD),
	WORD(tx_pages, 0xFFFFFFFC, AREA_E_HEAD),
	WORD(rx_pages, 1, AREA_E_HEAD),
	WORD(rx_pages, UINT32_MAX, AREA_E_HEAD),
	WORD(arch, 0, AREA_E_HEAD),
	WORD(arch, 0xAA64, AREA_E_HEAD),
	WORD(reserved38, 1, AREA_E_HEAD),
	WORD(reserved78, 1, AREA_E_HEAD),
	BYTE_AT(0xA0, AREA_E_HEAD), BYTE_AT(0xBF, AREA_E_HEAD), BYTE_AT(0xE4, AREA_E_HEAD), BYTE_AT(0xFF, AREA_E_HEAD),
	BYTE_AT(0x104, AREA_E_HEAD), BYTE_AT(0x1FF, AREA_E_HEAD), BYTE_AT(0x400, AREA_E_HEAD), BYTE_AT(0xFFF, AREA_E_HEAD),
	WORD(tx_base, 4, AREA_E_HEAD),
	WORD(tx_base, UINT32_MAX, AREA_E_HEAD),
	WORD(tx_base, 0x80000000, AREA_E_HEAD),
	WORD(tx_head, 7, AREA_E_HEAD),
	WORD(tx_head, 3 * AREA_PAGE_PAYLOAD + 8, AREA_E_HEAD),
	WORD(tx_head, 0x7FFFFFF8, AREA_E_HEAD),
	WORD(rx_tail, 1, AREA_E_HEAD),
	WORD(rx_tail, 0xFFFFFFF8, AREA_E_HEAD),
	WORD(page_gpa[1], 0, AREA_E_PAGES),
	WORD(page_gpa[1], UINT64_MAX, AREA_E_PAGES),
	WORD(page_gpa[2], LOW_GPA + PART_SIZE, AREA_E_PAGES),      // the hole
	WORD(page_gpa[2], HIGH_GPA + PART_SIZE, AREA_E_PAGES),     // behind the RAM
	WORD(page_gpa[3], HIGH_GPA + AREA_PAGE_SIZE, AREA_E_PAGES), // the head once more
	WORD(page_gpa[4], HIGH_GPA + 3 * AREA_PAGE_SIZE, AREA_E_PAGES), // page 1 once more: both rings in one page
	WORD(page_gpa[5], HIGH_GPA + 11 * AREA_PAGE_SIZE + 16, AREA_E_PAGES),
	WORD(page_gpa[5], HIGH_GPA, AREA_E_PAGES), // RAM without our nonce
};

static void each_bad_word_is_refused(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < sizeof(bad_words) / sizeof(bad_words[0]); i++) {
		const struct bad_word *w = &bad_words[i];
		fake_guest_init(&f->guest, f->high, HIGH_GPA, 1, 3, 2, NONCE);
		memcpy(f->guest.pages[0] + w->offset, &w->value, w->size);
		int outcome = area_register(&f->area, &f->map, (gpa_t){ HIGH_GPA + AREA_PAGE_SIZE });
		if (outcome != w->outcome)
			fail_msg("word %zu at 0x%x: %d instead of %d", i, w->offset, outcome, w->outcome);
		assert_false(f->area.is_registered);
	}
}

static void pages_that_are_not_the_modules_are_refused(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 1; i < 6; i++) {
		fake_guest_init(&f->guest, f->high, HIGH_GPA, 1, 3, 2, NONCE);
		f->guest.pages[i][0] ^= 1; // nonce
		assert_int_equal(try_register(f), AREA_E_PAGES);
		f->guest.pages[i][0] ^= 1;
		f->guest.pages[i][8] ^= 1; // index
		assert_int_equal(try_register(f), AREA_E_PAGES);
	}
}

// Two guest-physical pages may be one page of memory (an alias in the VM's map); its one index gives it away.
static void aliased_pages_are_refused(void **state)
{
	struct fixture *f = *state;
	f->ranges[0].host = f->high;
	f->guest.head->page_gpa[3] = LOW_GPA + (f->guest.head->page_gpa[2] - HIGH_GPA);
	assert_int_equal(try_register(f), AREA_E_PAGES);
}

static void the_largest_area_is_taken(void **state)
{
	struct fixture *f = *state;
	free(f->high);
	f->high = aligned_alloc(AREA_PAGE_SIZE, 4 * PART_SIZE);
	f->ranges[1] = (struct gpa_range){ HIGH_GPA, 4 * PART_SIZE, f->high };
	fake_guest_init(&f->guest, f->high, HIGH_GPA, 0, AREA_PAGES_MAX - 3, 2, NONCE);
	assert_int_equal(try_register(f), AREA_OK);
	assert_int_equal(f->area.page_count, AREA_PAGES_MAX);
}

// ---- Pages that change hands --------------------------------------------------------------------

static void a_lost_head_is_never_written(void **state)
{
	struct fixture *f = *state;
	struct area_words words;
	uint8_t before[AREA_PAGE_SIZE];
	assert_int_equal(try_register(f), AREA_OK);
	memset(f->guest.pages[0], 0x5A, AREA_PAGE_SIZE);
	memcpy(before, f->guest.pages[0], sizeof(before));
	assert_int_equal(area_read_words(&f->area, &words), AREA_E_LOST);
	assert_int_equal(area_write_reply(&f->area, 0, CODE_OK, 1), AREA_E_LOST);
	assert_int_equal(area_write_taken(&f->area), AREA_E_LOST);
	assert_int_equal(area_attention_set(&f->area, ATTENTION_BREAKIN), AREA_E_LOST);
	assert_int_equal(area_attention_clear(&f->area, ATTENTION_BREAKIN), AREA_E_LOST);
	assert_int_equal(area_ring_seen(&f->area, 1), AREA_E_LOST);
	assert_int_equal(area_write_refusal(&f->map, (gpa_t){ HIGH_GPA + AREA_PAGE_SIZE }, CODE_REFUSED), AREA_E_ADDRESS);
	assert_int_equal(area_attention(&f->area), 0);
	assert_int_equal(area_poll_count(&f->area), 0);
	assert_memory_equal(before, f->guest.pages[0], sizeof(before));
}

static void a_lost_ring_page_is_never_written(void **state)
{
	struct fixture *f = *state;
	static const uint8_t body[KD_MANIPULATE_SIZE];
	assert_int_equal(try_register(f), AREA_OK);
	memset(f->guest.pages[5], 0x5A, AREA_PAGE_SIZE); // the second receive page
	uint8_t *before = malloc(PART_SIZE);
	memcpy(before, f->high, PART_SIZE);
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, sizeof(body)), AREA_E_LOST);
	assert_memory_equal(before, f->high, PART_SIZE);
	free(before);
}

static void nothing_is_written_without_a_registration(void **state)
{
	struct fixture *f = *state;
	static const uint8_t body[KD_MANIPULATE_SIZE];
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, sizeof(body)), AREA_E_LOST);
	assert_int_equal(area_attention_set(&f->area, ATTENTION_CALL), AREA_E_LOST);
	assert_false(area_overlaps(&f->area, 0, UINT64_MAX));
}

static void the_receive_ring_is_bounded(void **state)
{
	struct fixture *f = *state;
	static const uint8_t body[RECORD_BODY_MAX];
	assert_int_equal(try_register(f), AREA_OK);
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, RECORD_BODY_MAX), AREA_OK);
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, RECORD_BODY_MAX), AREA_OK);
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, RECORD_BODY_MAX), AREA_E_HEAD);
	assert_int_equal(area_put(&f->area, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, KD_MANIPULATE_SIZE - 1),
	                 AREA_E_HEAD); // header longer than the body
	assert_int_equal(f->area.rx_seq, 2);
}

static void overlap_is_by_page(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(try_register(f), AREA_OK);
	uint64_t head = HIGH_GPA + AREA_PAGE_SIZE;
	assert_true(area_overlaps(&f->area, head, 1));
	assert_true(area_overlaps(&f->area, head + AREA_PAGE_SIZE - 1, 1));
	assert_false(area_overlaps(&f->area, head + AREA_PAGE_SIZE, AREA_PAGE_SIZE)); // the page between two of ours
	assert_false(area_overlaps(&f->area, HIGH_GPA, AREA_PAGE_SIZE));
	assert_true(area_overlaps(&f->area, 0, UINT64_MAX));
	assert_false(area_overlaps(&f->area, LOW_GPA, PART_SIZE));
	assert_false(area_overlaps(&f->area, head, 0));
}

static void a_refusal_is_written_into_a_head_only(void **state)
{
	struct fixture *f = *state;
	f->guest.head->call_seq = 77;
	f->guest.head->version = 9u << 16;
	assert_int_equal(area_write_refusal(&f->map, fake_guest_head(&f->guest), CODE_VERSION), AREA_OK);
	assert_int_equal(f->guest.head->reply_code, RESULT_TAG | CODE_VERSION);
	assert_int_equal(f->guest.head->reply_seq, 77);
	assert_int_equal(f->guest.head->host_version, AREA_VERSION);
	assert_int_equal(area_write_refusal(&f->map, (gpa_t){ LOW_GPA }, CODE_VERSION), AREA_E_ADDRESS);
	assert_int_equal(area_write_refusal(&f->map, (gpa_t){ UINT64_MAX }, CODE_VERSION), AREA_E_ADDRESS);
}

static void attention_bits_come_and_go_alone(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(try_register(f), AREA_OK);
	assert_int_equal(area_attention_set(&f->area, ATTENTION_BREAKIN), AREA_OK);
	assert_int_equal(area_attention_set(&f->area, ATTENTION_CALL), AREA_OK);
	assert_int_equal(area_attention_clear(&f->area, ATTENTION_BREAKIN), AREA_OK);
	assert_int_equal(f->guest.head->attention, ATTENTION_CALL);
	assert_int_equal(area_attention(&f->area), ATTENTION_CALL);
}

// ---- Candidates ---------------------------------------------------------------------------------

static void scanning_finds_heads_within_its_budget(void **state)
{
	struct fixture *f = *state;
	struct area_cursor cursor = { 0 };
	struct area_candidate found;
	assert_int_equal(area_scan(&f->map, &cursor, 10, &found), AREA_E_MORE);
	assert_int_equal(area_scan(&f->map, &cursor, 1000, &found), AREA_OK);
	assert_int_equal(found.head.v, HIGH_GPA + AREA_PAGE_SIZE);
	assert_int_equal(found.nonce, NONCE);
	assert_int_equal(area_scan(&f->map, &cursor, 1000, &found), AREA_E_NONE);
	f->ranges[0].size = 100; // less than a page
	cursor = (struct area_cursor){ 0 };
	assert_int_equal(area_scan(&f->map, &cursor, 1000, &found), AREA_OK);
}

static void copies_and_damaged_heads_are_no_candidates(void **state)
{
	struct fixture *f = *state;
	struct area_candidate found;
	memcpy(f->low, f->guest.pages[0], AREA_PAGE_SIZE); // a stale copy: page_gpa[0] is another page
	f->guest.head->page_count = 99;
	struct area_cursor cursor = { 0 };
	assert_int_equal(area_scan(&f->map, &cursor, 1000, &found), AREA_E_NONE);
}

static void only_a_live_candidate_is_called(void **state)
{
	struct fixture *f = *state;
	struct area_cursor cursor = { 0 };
	struct area_candidate found;
	f->guest.head->poll_count = 5;
	assert_int_equal(area_scan(&f->map, &cursor, 1000, &found), AREA_OK);
	assert_false(area_candidate_is_alive(&found));
	assert_int_equal(area_candidate_call(&found), AREA_E_LOST);
	assert_int_equal(f->guest.head->attention, 0);
	f->guest.head->poll_count = 6;
	assert_true(area_candidate_is_alive(&found));
	assert_int_equal(area_candidate_call(&found), AREA_OK);
	assert_int_equal(f->guest.head->attention, ATTENTION_CALL);
	f->guest.head->page.nonce++;
	assert_int_equal(area_candidate_call(&found), AREA_E_LOST);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_map_knows_whole_pages_of_ram_only),
		TEST(unknown_features_are_not_accepted),
		TEST(addresses_that_are_no_head_are_refused),
		TEST(each_bad_word_is_refused),
		TEST(pages_that_are_not_the_modules_are_refused),
		TEST(aliased_pages_are_refused),
		TEST(a_good_area_is_taken_and_nothing_is_written),
		TEST(the_largest_area_is_taken),
		TEST(a_lost_head_is_never_written),
		TEST(a_lost_ring_page_is_never_written),
		TEST(nothing_is_written_without_a_registration),
		TEST(the_receive_ring_is_bounded),
		TEST(overlap_is_by_page),
		TEST(a_refusal_is_written_into_a_head_only),
		TEST(attention_bits_come_and_go_alone),
		TEST(scanning_finds_heads_within_its_budget),
		TEST(copies_and_damaged_heads_are_no_candidates),
		TEST(only_a_live_candidate_is_called),
	};
	return cmocka_run_group_tests_name("area", tests, NULL, NULL) ? 1 : 0;
}
