// SPDX-License-Identifier: MIT
// The kernel's print buffer over a kernel of bytes: what a broken or hostile one may say first, then text in every position of the ring.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "serve/print_buffer.h"
#include "wire/kdapi.h"
#include "wire/le.h"

// Offsets in the kernel's memory.
#define LIST 0x100u
#define BLOCK 0x200u
#define START_VAR 0x800u
#define SIZE_VAR 0x810u
#define WRITE_VAR 0x820u
#define ROLLOVER_VAR 0x830u
#define RING 0x1000u
#define RING_MAX (0x30000u)
#define MEMORY (RING + RING_MAX)

static struct kernel {
	uint32_t machine;
	uint16_t flags;
	uint64_t base;
	uint32_t fails_at; // number of the request that fails, 1 = first; 0 = none
	uint32_t short_at; // ... that gets half of what it asks for
	uint32_t requests;
	uint8_t memory[MEMORY];
} k;
static struct print_buffer p;

static uint64_t at(uint32_t offset)
{
	return k.base + offset;
}

static void put_pointer(uint32_t offset, uint64_t value)
{
	if (k.machine == KD_MACHINE_X64)
		put_le64(k.memory + offset, value);
	else
		put_le32(k.memory + offset, (uint32_t)value);
}

static void put_field(enum kd_data_field field, uint64_t value)
{
	put_le64(k.memory + BLOCK + field, value);
}

// A ring of `size` bytes that `text` was printed into, as the kernel does (KD reference, section 7.2).
static void print_all(const char *text, size_t len, uint32_t size)
{
	uint32_t write = 0, rollover = 0;

	for (size_t i = 0; i < len; i++) {
		k.memory[RING + write++] = (uint8_t)text[i];
		if (write == size) {
			write = 0;
			rollover++;
		}
	}
	put_le32(k.memory + SIZE_VAR, size);
	put_pointer(WRITE_VAR, at(RING + write));
	put_le32(k.memory + ROLLOVER_VAR, rollover);
	put_field(KD_DATA_KdPrintCircularBufferEnd, at(RING + size));
}

static void build(uint32_t machine)
{
	memset(&k, 0, sizeof(k));
	k.machine = machine;
	k.flags = KD_VERSION_DATA;
	k.base = machine == KD_MACHINE_X64 ? 0xFFFFF80000200000u : 0xFFFFFFFF80200000u;
	put_pointer(LIST, at(BLOCK));
	put_pointer(BLOCK, at(LIST));
	put_le32(k.memory + BLOCK + 0x10, KD_DATA_TAG);
	put_le32(k.memory + BLOCK + 0x14, 0x340);
	put_field(KD_DATA_KdPrintCircularBuffer, at(RING));
	put_field(KD_DATA_KdPrintWritePointer, at(WRITE_VAR));
	put_field(KD_DATA_KdPrintRolloverCount, at(ROLLOVER_VAR));
	put_field(KD_DATA_KdPrintCircularBufferPtr, at(START_VAR));
	put_field(KD_DATA_KdPrintBufferSize, at(SIZE_VAR));
	put_pointer(START_VAR, at(RING));
	print_all("one\ntwo\n", 8, 0x1000);
}

static uint32_t reply_to(const uint8_t *body, uint8_t *reply)
{
	struct kd_manipulate m;
	uint32_t len = 0;

	assert_int_equal(kd_manipulate_decode(body, KD_MANIPULATE_SIZE, KD_MACHINE_X64, &m), KD_OK);
	if (m.api == KD_API_GET_VERSION) {
		m.u.version = (struct kd_version){ .machine = (uint16_t)k.machine, .flags = k.flags, .debugger_data_list = at(LIST) };
	} else {
		assert_int_equal(m.api, KD_API_READ_VIRTUAL);
		assert_in_range(m.u.memory.count, 1, KD_DATA_MAX);
		uint64_t offset = m.u.memory.address - k.base;
		len = k.requests == k.short_at ? m.u.memory.count / 2 : m.u.memory.count;
		len = offset >= MEMORY ? 0 : len < MEMORY - offset ? len : (uint32_t)(MEMORY - offset);
		m.u.memory.actual_bytes = len;
		m.status = len == 0 ? KD_STATUS_UNSUCCESSFUL : KD_STATUS_SUCCESS;
		memcpy(reply + KD_MANIPULATE_SIZE, k.memory + (len ? offset : 0), len);
	}
	assert_int_equal(kd_manipulate_encode(&m, KD_MACHINE_X64, reply, KD_MANIPULATE_SIZE), KD_OK);
	return KD_MANIPULATE_SIZE + len;
}

static void run(void)
{
	uint8_t body[KD_MANIPULATE_SIZE], again[KD_MANIPULATE_SIZE], reply[KD_BODY_MAX];

	print_buffer_start(&p);
	k.requests = 0;
	while (print_buffer_request(&p, body)) {
		assert_int_equal(print_buffer_request(&p, again), KD_MANIPULATE_SIZE);
		assert_memory_equal(body, again, sizeof(body));
		assert_true(++k.requests <= PRINT_BUFFER_REQUESTS_MAX);
		uint32_t len = k.requests == k.fails_at ? 0 : reply_to(body, reply);
		print_buffer_reply(&p, reply, len);
	}
	assert_true(print_buffer_is_done(&p));
}

static void expect(const char *text, size_t len)
{
	size_t got;
	run();
	const uint8_t *bytes = print_buffer_text(&p, &got);
	assert_int_equal(got, len);
	assert_memory_equal(bytes, text, len);
}

static void expect_nothing(void)
{
	expect("", 0);
}

#define BOTH for (uint32_t i = 0, machine = KD_MACHINE_X64; i < 2; i++, machine = KD_MACHINE_X86)

// ---- Refusals -------------------------------------------------------------------------------------------

static void kernels_without_a_block_have_no_text(void **state)
{
	(void)state;
	build(KD_MACHINE_X64);
	k.flags = 0;
	expect_nothing();
	build(KD_MACHINE_X64);
	k.machine = 0xAA64;
	expect_nothing();
	BOTH {
		build(machine);
		put_pointer(LIST, 0);
		expect_nothing();
		put_pointer(LIST, at(LIST)); // an empty list
		expect_nothing();
	}
}

static void every_failed_request_ends_it(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		expect("one\ntwo\n", 8);
		uint32_t all = k.requests;
		assert_int_equal(all, 9);
		for (k.fails_at = 1; k.fails_at <= all; k.fails_at++) {
			expect_nothing();
			assert_int_equal(k.requests, k.fails_at);
		}
		k.fails_at = 0;
		for (k.short_at = 2; k.short_at < all; k.short_at++)
			expect_nothing();
		expect("one\n", 4); // half of the text is a text
	}
}

static void replies_to_something_else_end_it(void **state)
{
	(void)state;
	uint8_t body[KD_MANIPULATE_SIZE];
	struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL };

	print_buffer_start(&p);
	assert_int_equal(kd_manipulate_encode(&m, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	print_buffer_reply(&p, body, sizeof(body));
	assert_true(print_buffer_is_done(&p));
	print_buffer_start(&p);
	print_buffer_reply(&p, body, 55);
	assert_true(print_buffer_is_done(&p));
	print_buffer_reply(&p, body, sizeof(body)); // one too many
	assert_int_equal(print_buffer_request(&p, body), 0);
	memset(&p, 0, sizeof(p));
	print_buffer_reply(&p, body, sizeof(body)); // never begun
	assert_int_equal(print_buffer_request(&p, body), 0);
}

static void a_list_of_foreign_blocks_ends(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		put_le32(k.memory + BLOCK + 0x10, 0x12345678);
		expect_nothing(); // back at the head
		put_pointer(BLOCK, at(BLOCK)); // a loop that never meets the head
		expect_nothing();
		assert_int_equal(k.requests, 2 + PRINT_BUFFER_BLOCKS_MAX);
	}
}

static void a_block_that_is_too_small_tells_nothing(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		static const uint32_t sizes[] = { 0, KD_DATA_HEADER_SIZE, 0x1F0, 0x1FF };
		for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
			put_le32(k.memory + BLOCK + 0x14, sizes[s]);
			expect_nothing();
		}
		put_le32(k.memory + BLOCK + 0x14, 0xFFFFFFFF); // more than anybody knows is fine
		expect("one\ntwo\n", 8);
	}
}

static void a_write_pointer_outside_the_ring_is_refused(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		put_pointer(WRITE_VAR, at(RING) - 1);
		expect_nothing();
		put_pointer(WRITE_VAR, at(RING) + 0x1001);
		expect_nothing();
		put_pointer(WRITE_VAR, 0);
		expect_nothing();
		put_pointer(START_VAR, 0);
		expect_nothing();
		build(machine);
		put_le32(k.memory + SIZE_VAR, 0);
		expect_nothing();
	}
}

static void an_old_block_with_a_ring_that_ends_before_it_begins(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		put_le32(k.memory + BLOCK + 0x14, 0x290);
		put_field(KD_DATA_KdPrintCircularBufferEnd, at(RING));
		expect_nothing();
		put_field(KD_DATA_KdPrintCircularBufferEnd, 0);
		expect_nothing();
	}
}

// ---- Text -----------------------------------------------------------------------------------------------

static void a_kernel_before_server_2003_has_a_fixed_ring(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		put_le32(k.memory + BLOCK + 0x14, 0x290);
		expect("one\ntwo\n", 8);
		assert_int_equal(k.requests, 7);
	}
}

static void the_upper_half_of_a_32_bit_address_may_be_zero(void **state)
{
	(void)state;
	build(KD_MACHINE_X86);
	for (uint32_t offset = KD_DATA_KdPrintCircularBuffer; offset <= KD_DATA_KdPrintRolloverCount; offset += 8)
		put_le32(k.memory + BLOCK + offset + 4, 0);
	expect("one\ntwo\n", 8);
}

static void foreign_blocks_in_front_are_passed(void **state)
{
	(void)state;
	BOTH {
		build(machine);
		put_pointer(LIST, at(0x40));
		put_pointer(0x40, at(BLOCK));
		expect("one\ntwo\n", 8);
	}
}

// Every amount of text in a small ring: never wrapped, wrapped once, often, exactly full.
static void the_ring_is_read_in_order(void **state)
{
	(void)state;
	char text[4096], whole[4096];
	uint32_t size = 100;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i % 26);
	BOTH {
		build(machine);
		for (size_t len = 0; len < 450; len++) {
			memcpy(whole, text, len);
			print_all(whole, len, size);
			size_t have = len < size ? len : size;
			expect(text + len - have, have);
		}
	}
}

static void a_text_that_was_cut_begins_with_a_line(void **state)
{
	(void)state;
	char text[8192];
	size_t len = 0;

	for (int i = 0; i < 500; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "line %04d\n", i);
	BOTH {
		build(machine);
		print_all(text, len, 0x1000);
		// 4096 bytes are 409 lines and the last 6 bytes of another.
		expect(text + len - 4090, 4090);
	}
}

static void of_a_large_ring_the_last_part_is_taken(void **state)
{
	(void)state;
	static char text[200000];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 64 == 63 ? '\n' : (char)('A' + i / 64 % 26);
	static const size_t lengths[] = { 65536, 65600, 70016, 131072, 131136, 196608, 199936 };
	for (size_t n = 0; n < sizeof(lengths) / sizeof(lengths[0]); n++) {
		build(KD_MACHINE_X64);
		print_all(text, lengths[n], 0x20000);
		size_t len = lengths[n] > 65536 ? 65536 - 64 : 65536; // the first line may have been cut: it is not shown
		expect(text + lengths[n] - len, len);
		assert_in_range(k.requests, 8 + 17, PRINT_BUFFER_REQUESTS_MAX);
	}
}

// ---- Fitting ----------------------------------------------------------------------------------------------

static void fit(const char *text, const char *heard, size_t old_len, size_t new_len)
{
	struct print_buffer_fit f =
		print_buffer_fit((const uint8_t *)text, strlen(text), (const uint8_t *)heard, strlen(heard));
	assert_int_equal(f.old_len, old_len);
	assert_int_equal(f.new_len, new_len);
}

static void what_was_heard_is_not_told_twice(void **state)
{
	(void)state;
	fit("", "", 0, 0);
	fit("a\nb\n", "", 0, 4);          // nothing was heard
	fit("", "a\n", 2, 0);             // a kernel without a text
	fit("a\nb\nc\n", "b\nc\n", 0, 2); // the end was heard
	fit("a\nb\n", "a\nb\n", 0, 0);    // all of it
	fit("b\nc\n", "a\nb\nc\n", 2, 0); // more than all: the text is a small ring
	// Some at the boot, then nobody was there, then the end.
	fit("boot\ngap\nend\n", "boot\nend\n", 0, 9);
	// The same, and the boot's lines have gone from the ring.
	fit("gap\nend\n", "boot\nend\n", 5, 4);
	// Nothing in common but the newline at the end.
	fit("new\n", "old\n", 4, 4);
	// Lines that only look alike at their ends.
	fit("12: end\n", "2: end\n", 0, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernels_without_a_block_have_no_text),
		cmocka_unit_test(every_failed_request_ends_it),
		cmocka_unit_test(replies_to_something_else_end_it),
		cmocka_unit_test(a_list_of_foreign_blocks_ends),
		cmocka_unit_test(a_block_that_is_too_small_tells_nothing),
		cmocka_unit_test(a_write_pointer_outside_the_ring_is_refused),
		cmocka_unit_test(an_old_block_with_a_ring_that_ends_before_it_begins),
		cmocka_unit_test(a_kernel_before_server_2003_has_a_fixed_ring),
		cmocka_unit_test(the_upper_half_of_a_32_bit_address_may_be_zero),
		cmocka_unit_test(foreign_blocks_in_front_are_passed),
		cmocka_unit_test(the_ring_is_read_in_order),
		cmocka_unit_test(a_text_that_was_cut_begins_with_a_line),
		cmocka_unit_test(of_a_large_ring_the_last_part_is_taken),
		cmocka_unit_test(what_was_heard_is_not_told_twice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
