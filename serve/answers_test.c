// SPDX-License-Identifier: MIT
// Requests of a debugger against a small machine of the test's own: RAM with holes, page tables built here, and a guest whose answers are
// written down. What must be left to the guest comes first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/answers.h"
#include "wire/le.h"

#define PAGE 4096u
#define RAM_SIZE (8u << 20)
#define HOLE 0xA0000u // [HOLE, HOLE_END) is no RAM
#define HOLE_END 0x100000u
#define HIGH (1ull << 32) // one more page is here
#define PRESENT 3u

static uint8_t memory[RAM_SIZE] __attribute__((aligned(4096)));
static uint8_t high_page[PAGE] __attribute__((aligned(4096)));
static struct ram ram;
static struct answers a;
static uint64_t next_table;
static const uint8_t *reply;
static uint32_t reply_len;

static struct walk_regs long_mode(void)
{
	return (struct walk_regs){ .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x20, .efer = 0xD00 };
}

// The kernel's part of the address space, as a 32-bit processor with 4 MiB pages has it.
static const struct walk_regs flat = { .cr0 = 0x11 };

static void map(uint64_t va, uint64_t gpa)
{
	uint64_t table = 0x1000;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint8_t *entry = memory + table + (va >> shift & 511) * 8;

		if (!get_le64(entry)) {
			put_le64(entry, next_table | PRESENT);
			next_table += PAGE;
		}
		table = get_le64(entry) & 0xFFFFFFFFFF000u;
	}
	put_le64(memory + table + (va >> 12 & 511) * 8, gpa | PRESENT);
}

#define VA 0xFFFFF80000400000u
#define GPA 0x300000u

static void start(enum answers_mode mode)
{
	struct walk_regs regs = long_mode();

	answers_init(&a, mode, &ram);
	answers_sleep(&a, &regs, false);
}

static int setup(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < RAM_SIZE; i++)
		memory[i] = i >= 0x200000 ? (uint8_t)(i * 7 + (i >> 8) * 13 + (i >> 16)) : 0;
	memset(high_page, 0x77, sizeof(high_page));
	ram_init(&ram);
	ram.piece_count = 3;
	ram.pieces[0] = (struct ram_piece){ .gpa = 0, .size = HOLE, .host = memory };
	ram.pieces[1] = (struct ram_piece){ .gpa = HOLE_END, .size = RAM_SIZE - HOLE_END, .host = memory + HOLE_END };
	ram.pieces[2] = (struct ram_piece){ .gpa = HIGH, .size = PAGE, .host = high_page };
	next_table = 0x2000;
	map(VA, GPA);
	map(VA + PAGE, GPA + 5 * PAGE); // the next one is elsewhere
	map(VA + 3 * PAGE, GPA + PAGE); // VA + 2 * PAGE is absent
	map(VA + 4 * PAGE, HOLE);
	map(VA + 5 * PAGE, RAM_SIZE);   // beyond its end
	start(ANSWERS_ON);
	return 0;
}

// ---- Requests -------------------------------------------------------------------------------------------

static uint8_t request[KD_BODY_MAX];
static uint32_t request_len;

// Every byte that is not a field is set: what is echoed shows.
static void ask(uint32_t api)
{
	memset(request, 0xEE, sizeof(request));
	put_le32(request, api);
	put_le16(request + 4, 0x1234); // ProcessorLevel
	put_le16(request + 6, 1);      // Processor
	put_le32(request + 8, 0xDDDDDDDD);
	request_len = KD_MANIPULATE_SIZE;
}

static void ask_read(uint32_t api, uint64_t address, uint32_t count, uint32_t actual)
{
	ask(api);
	put_le64(request + 0x10, address);
	put_le32(request + 0x18, count);
	put_le32(request + 0x1C, actual);
}

static void ask_search(uint64_t address, uint64_t len, const void *pattern, uint32_t pattern_len)
{
	ask(KD_API_SEARCH_MEMORY);
	put_le64(request + 0x10, address);
	put_le64(request + 0x18, len);
	put_le32(request + 0x20, pattern_len);
	memcpy(request + KD_MANIPULATE_SIZE, pattern, pattern_len);
	request_len += pattern_len;
}

static bool make(void)
{
	return answers_make(&a, request, request_len, &reply, &reply_len);
}

// The guest must, for this reason and no other.
static void must_ask(enum answers_reason reason)
{
	struct answers_counters before = a.counters;

	assert_false(make());
	before.asked[reason]++;
	assert_memory_equal(&before, &a.counters, sizeof(before));
}

// The reply is the request with status and ActualBytes changed, then these bytes.
static void must_read(const uint8_t *data, uint32_t len)
{
	uint64_t bytes = a.counters.answered_bytes;

	assert_true(make());
	put_le32(request + 8, KD_STATUS_SUCCESS);
	put_le32(request + 0x1C, len);
	assert_int_equal(reply_len, KD_MANIPULATE_SIZE + len);
	assert_memory_equal(reply, request, KD_MANIPULATE_SIZE);
	assert_memory_equal(reply + KD_MANIPULATE_SIZE, data, len);
	assert_int_equal(a.counters.answered_bytes, bytes + len);
}

static void must_find(uint64_t address)
{
	assert_true(make());
	put_le32(request + 8, KD_STATUS_SUCCESS);
	put_le64(request + 0x10, address);
	assert_int_equal(reply_len, KD_MANIPULATE_SIZE);
	assert_memory_equal(reply, request, KD_MANIPULATE_SIZE);
}

// ---- What is the guest's ----------------------------------------------------------------------------------

static void test_other_requests(void **state)
{
	static const uint32_t apis[] = {
		KD_API_WRITE_VIRTUAL, KD_API_SET_CONTEXT, KD_API_CONTINUE2, KD_API_READ_CONTROL_SPACE, KD_API_WRITE_PHYSICAL, KD_API_READ_MSR,
		KD_API_QUERY_MEMORY, KD_API_SWITCH_PROCESSOR, KD_API_READ_IO, KD_API_SET_CONTEXT_EX, 0, 0x314A, 0x3161, UINT32_MAX,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(apis) / sizeof(apis[0]); i++) {
		ask_read(apis[i], VA, 4, 0);
		must_ask(ANSWERS_KIND);
	}
}

static void test_forms(void **state)
{
	(void)state;
	ask_read(KD_API_READ_VIRTUAL, VA, 0, 0);
	must_ask(ANSWERS_FORM);
	ask_read(KD_API_READ_VIRTUAL, VA, 4, 0);
	request_len++; // data where none belongs
	must_ask(ANSWERS_FORM);
	ask_read(KD_API_READ_PHYSICAL, GPA, 0, 0);
	must_ask(ANSWERS_FORM);
	for (uint32_t cache = KD_CACHE_UNCACHED; cache < 6; cache++) {
		ask_read(KD_API_READ_PHYSICAL, GPA, 4, cache);
		must_ask(ANSWERS_FORM);
	}
	ask(KD_API_GET_VERSION);
	request_len++;
	must_ask(ANSWERS_FORM);
	ask(KD_API_GET_CONTEXT);
	request_len++;
	must_ask(ANSWERS_FORM);
}

static void test_no_sleep_no_answer(void **state)
{
	struct walk_regs regs = long_mode(), unknown = { 0 };

	(void)state;
	ask_read(KD_API_READ_VIRTUAL, VA, 4, 0);
	answers_wake(&a);
	must_ask(ANSWERS_AWAKE);
	answers_sleep(&a, &regs, true);
	must_ask(ANSWERS_NESTED);
	answers_sleep(&a, &unknown, false);
	must_ask(ANSWERS_MODE);
	ask_read(KD_API_READ_PHYSICAL, GPA, 4, 0);
	must_ask(ANSWERS_MODE);
	answers_sleep(&a, &regs, false);
	assert_true(make());
	answers_forget_boot(&a);
	must_ask(ANSWERS_AWAKE);
}

static void test_off_and_check_answer_nothing(void **state)
{
	(void)state;
	ask_read(KD_API_READ_VIRTUAL, VA, 4, 0);
	start(ANSWERS_OFF);
	assert_false(make());
	start(ANSWERS_CHECK);
	assert_false(make());
}

static void test_virtual_refusals(void **state)
{
	static const struct { uint64_t address; uint32_t count; enum answers_reason reason; } cases[] = {
		{ VA + 2 * PAGE, 1, ANSWERS_ABSENT },
		{ VA + 2 * PAGE - 1, 2, ANSWERS_ABSENT },            // a part is there
		{ VA + PAGE, 4000, ANSWERS_ABSENT + 100 },           // clipped to 3944: all of it is there
		{ VA + PAGE + 200, 4000, ANSWERS_ABSENT },           // also clipped, and beyond
		{ 0, 1, ANSWERS_ABSENT },
		{ 0x0000800000000000u, 1, ANSWERS_ABSENT },          // not canonical
		{ 0xFFFF7FFFFFFFFFFFu, 8, ANSWERS_ABSENT },
		{ UINT64_MAX, 1, ANSWERS_ABSENT },
		{ UINT64_MAX, 8, ANSWERS_ABSENT },                   // wraps
		{ VA + 4 * PAGE, 4, ANSWERS_NOT_RAM },
		{ VA + 4 * PAGE - 4, 8, ANSWERS_NOT_RAM },
		{ VA + 5 * PAGE, 4, ANSWERS_NOT_RAM },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ask_read(KD_API_READ_VIRTUAL, cases[i].address, cases[i].count, 0);
		if (cases[i].reason > ANSWERS_REASON_COUNT)
			assert_true(make());
		else
			must_ask(cases[i].reason);
	}
}

static void test_physical_refusals(void **state)
{
	static const struct { uint64_t address; uint32_t count; } cases[] = {
		{ HOLE, 1 }, { HOLE - 1, 2 }, { HOLE_END - 1, 2 }, { 0xFEE00000, 4 }, { RAM_SIZE, 1 }, { RAM_SIZE - 3, 4 }, { HIGH + PAGE, 1 },
		{ HIGH + PAGE - 1, 2 }, { HIGH - 1, 2 }, { UINT64_MAX, 1 }, { UINT64_MAX - 3, 8 }, { 0xFFFFFFFF80000000u, 4 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ask_read(KD_API_READ_PHYSICAL, cases[i].address, cases[i].count, 0);
		must_ask(ANSWERS_NOT_RAM);
	}
	ask_read(KD_API_READ_PHYSICAL, HIGH, 4, 0);
	assert_true(make());
	answers_sleep(&a, &flat, false); // physical addresses end at 4 GiB
	must_ask(ANSWERS_NOT_RAM);
}

static void test_without_a_map(void **state)
{
	(void)state;
	ram_init(&ram);
	answers_forget_map(&a);
	ask_read(KD_API_READ_VIRTUAL, VA, 4, 0);
	must_ask(ANSWERS_NOT_RAM);
	ask_read(KD_API_READ_PHYSICAL, GPA, 4, 0);
	must_ask(ANSWERS_NOT_RAM);
}

// ---- Reads ------------------------------------------------------------------------------------------------

static void test_reads(void **state)
{
	static const uint32_t counts[] = { 1, 2, 3, 4, 8, 100, 3943, 3944 };
	uint8_t both[2 * PAGE];

	(void)state;
	memcpy(both, memory + GPA, PAGE);
	memcpy(both + PAGE, memory + GPA + 5 * PAGE, PAGE);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		ask_read(KD_API_READ_VIRTUAL, VA + 300, counts[i], 0);
		must_read(both + 300, counts[i]);
		ask_read(KD_API_READ_VIRTUAL, VA + 2 * PAGE - counts[i], counts[i], 0xAAAA); // its field is for the reply
		must_read(both + 2 * PAGE - counts[i], counts[i]);
		ask_read(KD_API_READ_PHYSICAL, RAM_SIZE - counts[i], counts[i], KD_CACHE_DEFAULT);
		must_read(memory + RAM_SIZE - counts[i], counts[i]);
		ask_read(KD_API_READ_PHYSICAL, HOLE - counts[i], counts[i], KD_CACHE_CACHED);
		must_read(memory + HOLE - counts[i], counts[i]);
	}
	ask_read(KD_API_READ_VIRTUAL, VA + PAGE - 3, 7, 0);
	must_read(both + PAGE - 3, 7);
	assert_int_equal(a.counters.answered, 4 * 8 + 1);
}

// More than a packet holds is clipped, and that is a success.
static void test_clipping(void **state)
{
	static const uint32_t counts[] = { 3945, 4000, 65536, UINT32_MAX };

	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		ask_read(KD_API_READ_VIRTUAL, VA, counts[i], 0);
		must_read(memory + GPA, KD_DATA_MAX);
		ask_read(KD_API_READ_PHYSICAL, GPA + 1, counts[i], 0);
		must_read(memory + GPA + 1, KD_DATA_MAX);
	}
}

// What a write of the guest has changed is seen: in a page, and in the tables that lead to it.
static void test_ram_is_read_anew(void **state)
{
	struct walk_regs regs = long_mode();

	(void)state;
	ask_read(KD_API_READ_VIRTUAL, VA, 16, 0);
	must_read(memory + GPA, 16);
	memory[GPA + 3] ^= 0x40;
	must_read(memory + GPA, 16);
	answers_wake(&a);
	map(VA, GPA + 9 * PAGE);
	answers_sleep(&a, &regs, false);
	must_read(memory + GPA + 9 * PAGE, 16);
}

// ---- Search -----------------------------------------------------------------------------------------------

static void test_search_refusals(void **state)
{
	(void)state;
	ask_search(VA, 100, "", 0);
	must_ask(ANSWERS_FORM);
	ask_search(VA, 3, "abcd", 4); // longer than the range
	must_ask(ANSWERS_FORM);
	ask_search(VA, 100, "abcd", 4);
	put_le32(request + 0x20, 5); // longer than the packet
	must_ask(ANSWERS_FORM);
	put_le32(request + 0x20, 3);
	must_ask(ANSWERS_FORM);
	ask_search(UINT64_MAX - 10, 100, "abcd", 4);
	must_ask(ANSWERS_FORM);
	memset(memory + GPA, 0, PAGE);
	ask_search(VA, 100, "abcd", 4);
	must_ask(ANSWERS_NOT_FOUND);
	memcpy(memory + GPA + 97, "abcd", 4); // its last byte is outside
	must_ask(ANSWERS_NOT_FOUND);
	memcpy(memory + GPA + PAGE, "abcd", 4); // behind an absent page
	ask_search(VA + PAGE, 3 * PAGE, "abcd", 4);
	must_ask(ANSWERS_ABSENT);
	ask_search(VA + 4 * PAGE, 100, "abcd", 4);
	must_ask(ANSWERS_NOT_RAM);
}

static void test_search(void **state)
{
	(void)state;
	memset(memory + GPA, 'a', PAGE);
	memset(memory + GPA + 5 * PAGE, 'a', PAGE);
	memcpy(memory + GPA + PAGE - 2, "xy", 2);
	memcpy(memory + GPA + 5 * PAGE, "zw", 2);
	ask_search(VA, 2 * PAGE, "xyzw", 4); // across pages that are apart
	must_find(VA + PAGE - 2);
	ask_search(VA, 2 * PAGE, "xyza", 4);
	must_ask(ANSWERS_NOT_FOUND);
	ask_search(VA, 3 * PAGE, "wa", 2); // before an absent page
	must_find(VA + PAGE + 1);
	memcpy(memory + GPA + 100, "aab", 3);
	ask_search(VA, 2 * PAGE, "aab", 3); // begins within what looked like it
	must_find(VA + 100);
	ask_search(VA + 100, 3, "aab", 3); // the whole range
	must_find(VA + 100);
	ask_search(VA + 101, 2, "b", 1);
	must_find(VA + 102);
}

#define FIELD 0xFFFFF90000000000u // a long stretch of RAM at 0x400000 and on

static void make_field(uint8_t **ret)
{
	for (uint32_t i = 0; i < 0x400000; i += PAGE)
		map(FIELD + i, 0x400000 + i);
	*ret = memory + 0x400000;
	memset(*ret, 0, 0x400000);
}

// Wherever it lies with respect to the pieces that are read.
static void test_search_across_chunks(void **state)
{
	uint8_t *field;
	static uint8_t pattern[KD_DATA_MAX];

	(void)state;
	make_field(&field);
	memset(pattern, 0x5A, sizeof(pattern));
	for (uint32_t len = 1; len <= sizeof(pattern); len = len * 3 + 1) {
		for (int shift = -(int)len - 1; shift <= 1; shift++) {
			uint32_t at = (uint32_t)(2 * (int)ANSWERS_CHUNK + shift);

			if (len > 40 && shift % 97)
				continue;
			memcpy(field + at, pattern, len);
			ask_search(FIELD + 5, 0x100000, pattern, len);
			must_find(FIELD + at);
			memset(field + at, 0, len);
		}
	}
}

static void test_search_is_bounded(void **state)
{
	uint8_t *field;

	(void)state;
	make_field(&field);
	memcpy(field + ANSWERS_SEARCH_MAX - 4, "abcd", 4);
	ask_search(FIELD, 0x400000, "abcd", 4);
	must_find(FIELD + ANSWERS_SEARCH_MAX - 4);
	memset(field + ANSWERS_SEARCH_MAX - 4, 0, 4);
	memcpy(field + ANSWERS_SEARCH_MAX - 3, "abcd", 4);
	ask_search(FIELD, 0x400000, "abcd", 4);
	must_ask(ANSWERS_TOO_LONG);
	ask_search(FIELD, UINT64_MAX / 2 - FIELD / 2, "abcd", 4);
	must_ask(ANSWERS_TOO_LONG);
}

// A 32-bit target's addresses come plain or sign-extended; what is found is sign-extended.
static void test_search_in_32_bits(void **state)
{
	static uint8_t there[] = { 1, 2, 3, 4, 0xF1, 0xF2, 0xF3 };

	(void)state;
	ram.pieces[2] = (struct ram_piece){ .gpa = 0x80400000, .size = PAGE, .host = high_page };
	memcpy(high_page + 77, there, sizeof(there));
	answers_sleep(&a, &flat, false);
	ask_search(0x80400000, PAGE, there, sizeof(there));
	must_find(0xFFFFFFFF80400000u + 77);
	ask_search(0xFFFFFFFF80400000u, PAGE, there, sizeof(there));
	must_find(0xFFFFFFFF80400000u + 77);
	memcpy(memory + GPA + 9, there, sizeof(there));
	ask_search(GPA, PAGE, there, sizeof(there));
	must_find(GPA + 9);
	ask_read(KD_API_READ_VIRTUAL, 0x80400000 + 77, sizeof(there), 0);
	must_read(there, sizeof(there));
	ask_read(KD_API_READ_VIRTUAL, 0xFFFFFFFF80400000u + 77, sizeof(there), 0);
	must_read(there, sizeof(there));
}

// ---- What the guest has said ------------------------------------------------------------------------------

static uint8_t guest_reply[KD_BODY_MAX];

// The guest is given the request that was made up last and answers it with data_len bytes of `fill`.
static const struct answers_difference *guest_answers(uint32_t status, uint8_t fill, uint32_t data_len)
{
	struct walk_regs regs = long_mode();

	answers_asked(&a, request, request_len);
	answers_wake(&a);
	memcpy(guest_reply, request, KD_MANIPULATE_SIZE);
	put_le32(guest_reply + 8, status);
	memset(guest_reply + 0x20, fill, 24); // somewhere in the union
	memset(guest_reply + KD_MANIPULATE_SIZE, fill, data_len);
	answers_sleep(&a, &regs, false);
	return answers_replied(&a, guest_reply, KD_MANIPULATE_SIZE + data_len);
}

// The guest's own answer is given again, byte for byte, for whoever asks now.
static void must_repeat(uint32_t data_len)
{
	uint64_t repeated = a.counters.repeated;

	assert_true(make());
	memcpy(guest_reply, request, 16);
	put_le32(guest_reply + 8, KD_STATUS_SUCCESS);
	assert_int_equal(reply_len, KD_MANIPULATE_SIZE + data_len);
	assert_memory_equal(reply, guest_reply, reply_len);
	assert_int_equal(a.counters.repeated, repeated + 1);
}

static void test_version_is_repeated(void **state)
{
	struct walk_regs regs = long_mode();

	(void)state;
	ask(KD_API_GET_VERSION);
	must_ask(ANSWERS_FIRST);
	guest_answers(KD_STATUS_UNSUCCESSFUL, 1, 0);
	must_ask(ANSWERS_FIRST);
	guest_answers(KD_STATUS_SUCCESS, 2, 4); // with data: not what it should be
	must_ask(ANSWERS_FIRST);
	guest_answers(KD_STATUS_SUCCESS, 3, 0);
	must_repeat(0);
	put_le16(request + 6, 7); // for another processor, with another union
	memset(request + 0x10, 0, 40);
	must_repeat(0);
	answers_stopped(&a);
	must_repeat(0);
	answers_forget_boot(&a);
	answers_sleep(&a, &regs, false);
	must_ask(ANSWERS_FIRST);
}

// An answer that comes after the kernel has gone is nobody's.
static void test_version_of_the_boot_before(void **state)
{
	struct walk_regs regs = long_mode();

	(void)state;
	ask(KD_API_GET_VERSION);
	answers_asked(&a, request, request_len);
	answers_forget_boot(&a);
	answers_sleep(&a, &regs, false);
	put_le32(request + 8, KD_STATUS_SUCCESS);
	answers_replied(&a, request, request_len);
	must_ask(ANSWERS_FIRST);
}

static void learn_context(uint32_t api, uint16_t processor, uint8_t fill)
{
	ask(api);
	put_le16(request + 6, processor);
	guest_answers(KD_STATUS_SUCCESS, fill, 1232);
}

static void test_contexts_are_repeated(void **state)
{
	(void)state;
	learn_context(KD_API_GET_CONTEXT, 1, 0x11);
	put_le16(request + 4, 0x4321);
	must_repeat(1232);
	put_le16(request + 6, 2); // another processor
	must_ask(ANSWERS_FIRST);
	learn_context(KD_API_GET_CONTEXT, 2, 0x22);
	must_repeat(1232);
	learn_context(KD_API_GET_CONTEXT, 2, 0x23); // the guest was asked again: that holds
	must_repeat(1232);
	ask(KD_API_GET_CONTEXT_EX);
	must_ask(ANSWERS_FIRST);
	learn_context(KD_API_GET_CONTEXT_EX, 1, 0x33);
	must_repeat(1232);
	put_le32(request + 0x10, 8); // another window
	must_ask(ANSWERS_FIRST);
	ask(KD_API_GET_CONTEXT);
	guest_answers(KD_STATUS_UNSUCCESSFUL, 0, 0); // a failure changes nothing
	assert_true(make());
	assert_int_equal(reply[KD_MANIPULATE_SIZE], 0x11);
}

static void test_a_large_context_is_the_guests(void **state)
{
	(void)state;
	ask(KD_API_GET_CONTEXT_EX);
	guest_answers(KD_STATUS_SUCCESS, 1, ANSWERS_CONTEXT_MAX);
	must_repeat(ANSWERS_CONTEXT_MAX);
	put_le16(request + 6, 2);
	guest_answers(KD_STATUS_SUCCESS, 1, ANSWERS_CONTEXT_MAX + 1);
	must_ask(ANSWERS_FIRST);
}

static void test_what_makes_contexts_stale(void **state)
{
	static const uint32_t stale[] = {
		KD_API_SET_CONTEXT, KD_API_SET_CONTEXT_EX, KD_API_SWITCH_PROCESSOR, KD_API_CONTINUE, KD_API_CONTINUE2, KD_API_REBOOT,
		KD_API_WRITE_CONTROL_SPACE, KD_API_WRITE_VIRTUAL, KD_API_WRITE_PHYSICAL, KD_API_FILL_MEMORY, KD_API_CAUSE_BUGCHECK,
		KD_API_WRITE_IO, KD_API_SWITCH_PARTITION, 0x4000,
	};
	static const uint32_t harmless[] = {
		KD_API_READ_VIRTUAL, KD_API_READ_PHYSICAL, KD_API_SEARCH_MEMORY, KD_API_GET_VERSION, KD_API_READ_CONTROL_SPACE, KD_API_READ_MSR,
		KD_API_QUERY_MEMORY, KD_API_WRITE_BREAKPOINT, KD_API_RESTORE_BREAKPOINT,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(stale) / sizeof(stale[0]); i++) {
		learn_context(KD_API_GET_CONTEXT, 1, 0x11);
		assert_true(make());
		ask(stale[i]);
		guest_answers(KD_STATUS_UNSUCCESSFUL, 0, 0); // whether it succeeds or not
		ask(KD_API_GET_CONTEXT);
		must_ask(ANSWERS_FIRST);
	}
	learn_context(KD_API_GET_CONTEXT, 1, 0x11);
	for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
		ask(harmless[i]);
		guest_answers(KD_STATUS_SUCCESS, 0, 0);
		ask(KD_API_GET_CONTEXT);
		assert_true(make());
	}
	answers_stopped(&a);
	must_ask(ANSWERS_FIRST);
}

// An answer to a question that the stop has overtaken.
static void test_context_of_the_stop_before(void **state)
{
	(void)state;
	ask(KD_API_GET_CONTEXT);
	answers_asked(&a, request, request_len);
	answers_stopped(&a);
	put_le32(request + 8, KD_STATUS_SUCCESS);
	answers_replied(&a, request, request_len);
	must_ask(ANSWERS_FIRST);
}

static void test_answers_to_other_questions(void **state)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	(void)state;
	put_le32(body, KD_API_GET_VERSION);
	answers_replied(&a, body, sizeof(body)); // nothing was asked
	ask(KD_API_GET_CONTEXT);
	answers_asked(&a, request, request_len);
	answers_replied(&a, body, sizeof(body)); // something else was
	answers_replied(&a, body, sizeof(body) - 1);
	ask(KD_API_GET_VERSION);
	must_ask(ANSWERS_FIRST);
}

// More of them than are kept: some are asked for again, none is wrong.
static void test_many_processors(void **state)
{
	unsigned repeated = 0;

	(void)state;
	for (uint16_t i = 0; i < 3 * ANSWERS_CONTEXTS; i++)
		learn_context(KD_API_GET_CONTEXT, i, (uint8_t)i);
	for (uint16_t i = 0; i < 3 * ANSWERS_CONTEXTS; i++) {
		ask(KD_API_GET_CONTEXT);
		put_le16(request + 6, i);
		if (!make())
			continue;
		repeated++;
		assert_int_equal(reply[KD_MANIPULATE_SIZE + 5], (uint8_t)i);
	}
	assert_int_equal(repeated, ANSWERS_CONTEXTS);
}

// ---- --check-ram ------------------------------------------------------------------------------------------

// The guest's honest answer to the read that was made up last.
static uint32_t honest(uint64_t gpa, uint32_t len)
{
	memcpy(guest_reply, request, KD_MANIPULATE_SIZE);
	put_le32(guest_reply + 8, KD_STATUS_SUCCESS);
	put_le32(guest_reply + 0x1C, len);
	memcpy(guest_reply + KD_MANIPULATE_SIZE, memory + gpa, len);
	return KD_MANIPULATE_SIZE + len;
}

static void ask_guest(void)
{
	answers_asked(&a, request, request_len);
	answers_wake(&a);
}

static const struct answers_difference *guest_is_back(uint32_t len)
{
	struct walk_regs regs = long_mode();

	answers_sleep(&a, &regs, false);
	return answers_replied(&a, guest_reply, len);
}

static void test_check_agrees(void **state)
{
	(void)state;
	start(ANSWERS_CHECK);
	ask_read(KD_API_READ_VIRTUAL, VA, 100, 0);
	ask_guest();
	assert_null(guest_is_back(honest(GPA, 100)));
	ask_read(KD_API_READ_PHYSICAL, GPA + 50, 8, 0);
	ask_guest();
	assert_null(guest_is_back(honest(GPA + 50, 8)));
	assert_int_equal(a.counters.checked, 2);
	assert_int_equal(a.counters.checked_bytes, 108);
	assert_int_equal(a.counters.differences, 0);
	ask_read(KD_API_READ_VIRTUAL, VA + 2 * PAGE, 4, 0); // RAM has no say
	ask_guest();
	assert_null(guest_is_back(honest(GPA, 0)));
	assert_int_equal(a.counters.checked, 2);
	assert_int_equal(a.counters.asked[ANSWERS_ABSENT], 1);
}

static void test_check_finds_a_wrong_byte(void **state)
{
	const struct answers_difference *d;
	uint32_t len;

	(void)state;
	start(ANSWERS_CHECK);
	ask_read(KD_API_READ_VIRTUAL, VA + 7, 100, 0);
	ask_guest();
	len = honest(GPA + 7, 100);
	guest_reply[KD_MANIPULATE_SIZE + 60] ^= 0x08;
	guest_reply[KD_MANIPULATE_SIZE + 99] ^= 0x80;
	d = guest_is_back(len);
	assert_non_null(d);
	assert_int_equal(d->api, KD_API_READ_VIRTUAL);
	assert_int_equal(d->address, VA + 67);
	assert_int_equal(d->ram, memory[GPA + 67]);
	assert_int_equal(d->guest, memory[GPA + 67] ^ 0x08);
	assert_false(d->is_form);
	assert_int_equal(a.counters.differences, 2);
	assert_int_equal(a.counters.checked_bytes, 100);
}

// The guest answers a read of `len` bytes at FIELD + `at`, lying in the byte in the middle, while the byte at FIELD + `moving` changes.
static const struct answers_difference *lie(uint8_t *field, uint32_t at, uint32_t len, uint32_t moving)
{
	uint32_t reply_size;

	ask_read(KD_API_READ_VIRTUAL, FIELD + at, len, 0);
	ask_guest();
	reply_size = honest(0x400000 + at, len);
	guest_reply[KD_MANIPULATE_SIZE + len / 2] ^= 1;
	field[moving]++;
	return guest_is_back(reply_size);
}

// Bytes that change while the guest answers say nothing, whoever is right, and neither do their neighbours: it is a stack or a buffer. The rest does.
static void test_check_leaves_out_what_moves(void **state)
{
	uint8_t *field;

	(void)state;
	make_field(&field);
	start(ANSWERS_CHECK);
	assert_null(lie(field, 5 * PAGE + 100, 100, 5 * PAGE + 150)); // that very byte
	assert_null(lie(field, 5 * PAGE + 100, 100, 5 * PAGE + 4000)); // its page
	assert_null(lie(field, 5 * PAGE + 100, 100, 4 * PAGE));         // the page before
	assert_null(lie(field, 5 * PAGE + 100, 100, 7 * PAGE - 1));     // the page behind
	assert_null(lie(field, 5 * PAGE - 1000, 3900, 6 * PAGE + 1));   // ... of the second page of two
	assert_int_equal(a.counters.checked, 5);
	assert_int_equal(a.counters.checked_bytes, 1000); // of the first page of two, where it did not lie
	assert_int_equal(a.counters.differences, 0);
	assert_non_null(lie(field, 5 * PAGE + 100, 100, 4 * PAGE - 1)); // further away
	assert_non_null(lie(field, 5 * PAGE + 100, 100, 7 * PAGE));
	assert_non_null(lie(field, 5 * PAGE - 100, 110, 6 * PAGE + 1)); // the lie is in the first page of two
	assert_int_equal(a.counters.checked_bytes, 1000 + 100 + 100 + 100);
	assert_int_equal(a.counters.differences, 3);
}

// The page is gone when the guest has answered, or the guest runs on: there is no second reading.
static void test_check_without_a_second_reading(void **state)
{
	uint32_t len;

	(void)state;
	start(ANSWERS_CHECK);
	ask_read(KD_API_READ_VIRTUAL, VA, 100, 0);
	ask_guest();
	len = honest(GPA, 100);
	guest_reply[KD_MANIPULATE_SIZE] ^= 1;
	assert_null(answers_replied(&a, guest_reply, len)); // it does not wait
	ask_guest();
	answers_forget_map(&a);
	ram.piece_count = 0;
	assert_null(guest_is_back(len));
	assert_int_equal(a.counters.checked, 0);
}

static void test_check_of_the_form(void **state)
{
	const struct answers_difference *d;

	(void)state;
	start(ANSWERS_CHECK);
	ask_read(KD_API_READ_VIRTUAL, VA, 100, 0);
	ask_guest();
	honest(GPA, 50);
	put_le32(guest_reply + 8, KD_STATUS_UNSUCCESSFUL);
	d = guest_is_back(KD_MANIPULATE_SIZE + 50);
	assert_non_null(d);
	assert_true(d->is_form);
	assert_int_equal(d->status, KD_STATUS_UNSUCCESSFUL);
	assert_int_equal(d->guest, KD_MANIPULATE_SIZE + 50);
	assert_int_equal(d->ram, KD_MANIPULATE_SIZE + 100);
	ask_read(KD_API_READ_VIRTUAL, VA, 4, 0);
	ask_guest();
	guest_is_back(honest(GPA, 4));
	assert_int_equal(a.counters.differences, 1);
	ask_guest();
	honest(GPA, 4);
	guest_reply[6] ^= 1; // the header, too
	d = guest_is_back(KD_MANIPULATE_SIZE + 4);
	assert_non_null(d);
	assert_int_equal(d->address, 6);
}

static void test_check_of_a_search(void **state)
{
	(void)state;
	start(ANSWERS_CHECK);
	memcpy(memory + GPA + 5, "\xF0\x0D\xF0\x0D", 4);
	ask_search(VA, 100, "\xF0\x0D\xF0\x0D", 4);
	ask_guest();
	memcpy(guest_reply, request, KD_MANIPULATE_SIZE);
	put_le32(guest_reply + 8, KD_STATUS_UNSUCCESSFUL); // a kernel without SearchMemory
	assert_null(guest_is_back(KD_MANIPULATE_SIZE));
	assert_int_equal(a.counters.checked, 0);
	ask_guest();
	put_le32(guest_reply + 8, KD_STATUS_NOT_FOUND);
	assert_non_null(guest_is_back(KD_MANIPULATE_SIZE));
	ask_guest();
	put_le32(guest_reply + 8, KD_STATUS_SUCCESS);
	put_le64(guest_reply + 0x10, VA + 5);
	assert_null(guest_is_back(KD_MANIPULATE_SIZE));
	ask_guest();
	put_le64(guest_reply + 0x10, VA + 6);
	assert_non_null(guest_is_back(KD_MANIPULATE_SIZE));
}

// The caches are held against the guest as well.
static void test_check_of_a_context(void **state)
{
	(void)state;
	start(ANSWERS_CHECK);
	ask(KD_API_GET_CONTEXT);
	assert_null(guest_answers(KD_STATUS_SUCCESS, 0x11, 1232));
	assert_null(guest_answers(KD_STATUS_SUCCESS, 0x11, 1232));
	assert_int_equal(a.counters.checked_bytes, 1232);
	assert_non_null(guest_answers(KD_STATUS_SUCCESS, 0x12, 1232));
}

// ---- Recorded sessions --------------------------------------------------------------------------------------

struct stream {
	size_t len;
	uint8_t bytes[65536];
};

// Take the first packet out of the stream. -> false: there is none yet. A body_len of 0: a control packet.
static bool take_packet(struct stream *s, uint16_t *ret_type, uint8_t *ret_body, uint32_t *ret_len)
{
	size_t at = 0, len;

	while (at + 16 <= s->len && get_le32(s->bytes + at) != 0x30303030 && get_le32(s->bytes + at) != 0x69696969)
		at++;
	if (at + 16 > s->len)
		return false;
	*ret_type = get_le16(s->bytes + at + 4);
	*ret_len = get_le32(s->bytes + at) == 0x30303030 ? get_le16(s->bytes + at + 6) : 0;
	len = 16 + *ret_len + (*ret_len != 0);
	if (at + len > s->len)
		return false;
	memcpy(ret_body, s->bytes + at + 16, *ret_len);
	s->len -= at + len;
	memmove(s->bytes, s->bytes + at + len, s->len);
	return true;
}

static void append_hex(struct stream *s, const char *hex)
{
	unsigned byte;

	for (; sscanf(hex, "%2x", &byte) == 1; hex += 2) {
		assert_true(s->len < sizeof(s->bytes));
		s->bytes[s->len++] = (uint8_t)byte;
	}
}

// Put the data of a recorded reply where the request's address leads, in pages of its own.
static void plant(uint64_t va, const uint8_t *data, uint32_t len)
{
	memset(memory, 0, 0x80000);
	next_table = 0x2000;
	for (uint64_t page = va & ~(uint64_t)(PAGE - 1), i = 0; page < va + len; page += PAGE, i++)
		map(page, GPA + 2 * i * PAGE);
	for (uint32_t i = 0; i < len; i++) {
		uint64_t offset = (va & (PAGE - 1)) + i;

		memory[GPA + 2 * (offset & ~(uint64_t)(PAGE - 1)) + (offset & (PAGE - 1))] = data[i];
	}
}

static void replay_reply(const uint8_t *body, uint32_t len)
{
	struct walk_regs regs = long_mode();

	if (get_le32(body) == KD_API_READ_VIRTUAL) {
		// The page tables are this test's, so the addresses of a 32-bit session are sign-extended here.
		uint64_t va = get_le64(body + 0x10);

		if (va >> 31 == 1)
			va |= 0xFFFFFFFF00000000u;
		plant(va, body + KD_MANIPULATE_SIZE, len - KD_MANIPULATE_SIZE);
		put_le64(request + 0x10, va);
		answers_sleep(&a, &regs, false);
		assert_true(make());
		put_le64(a.reply + 0x10, get_le64(body + 0x10));
	} else {
		if (!make()) {
			answers_asked(&a, request, request_len);
			answers_replied(&a, body, len);
		}
		assert_true(make());
	}
	assert_int_equal(reply_len, len);
	assert_memory_equal(reply, body, len);
}

// Every request of the session that is answered here gets the very bytes that the recorded kernel gave.
static unsigned replay(const char *path)
{
	static struct stream target, debugger;
	static uint8_t body[65536];
	FILE *f = fopen(path, "r");
	unsigned count = 0;
	char *line = NULL;
	size_t size = 0;
	uint16_t type;
	uint32_t len;

	if (!f)
		fail_msg("%s: run this from the root of the tree", path);
	target.len = debugger.len = 0;
	while (getline(&line, &size, f) > 0) {
		if (line[0] == 'D')
			append_hex(&debugger, line + 2);
		else if (line[0] == 'T')
			append_hex(&target, line + 2);
		while (take_packet(&debugger, &type, body, &len)) {
			if (type != KD_PACKET_MANIPULATE || !len)
				continue;
			memcpy(request, body, len);
			request_len = len;
		}
		while (take_packet(&target, &type, body, &len)) {
			if (type != KD_PACKET_MANIPULATE || !len || get_le32(body + 8) || get_le32(body) != get_le32(request))
				continue;
			switch (get_le32(body)) {
			case KD_API_READ_VIRTUAL:
			case KD_API_GET_VERSION:
			case KD_API_GET_CONTEXT:
				replay_reply(body, len);
				answers_stopped(&a);
				count++;
			}
		}
	}
	free(line);
	fclose(f);
	return count;
}

static void test_recorded_sessions(void **state)
{
	(void)state;
	assert_int_equal(replay("wire/testdata/x64-boot.txt"), 147);
	start(ANSWERS_ON);
	assert_int_equal(replay("wire/testdata/i386-boot.txt"), 143);
	start(ANSWERS_ON);
	assert_int_equal(replay("wire/testdata/x64-attached.txt"), 4);
}

static void test_reasons_have_names(void **state)
{
	(void)state;
	assert_string_equal(answers_reason_name(ANSWERS_NOT_RAM), "not_ram");
	assert_string_equal(answers_reason_name(ANSWERS_FIRST), "first");
}

#define T(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_other_requests), T(test_forms), T(test_no_sleep_no_answer), T(test_off_and_check_answer_nothing), T(test_virtual_refusals),
		T(test_physical_refusals), T(test_without_a_map), T(test_reads), T(test_clipping), T(test_ram_is_read_anew),
		T(test_search_refusals), T(test_search), T(test_search_across_chunks), T(test_search_is_bounded), T(test_search_in_32_bits),
		T(test_version_is_repeated), T(test_version_of_the_boot_before), T(test_contexts_are_repeated),
		T(test_a_large_context_is_the_guests), T(test_what_makes_contexts_stale), T(test_context_of_the_stop_before),
		T(test_answers_to_other_questions), T(test_many_processors), T(test_check_agrees), T(test_check_finds_a_wrong_byte),
		T(test_check_leaves_out_what_moves), T(test_check_without_a_second_reading), T(test_check_of_the_form), T(test_check_of_a_search),
		T(test_check_of_a_context), T(test_recorded_sessions), T(test_reasons_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
