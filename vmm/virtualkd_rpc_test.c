// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vmm/virtualkd_rpc.h"
#include "wire/le.h"

// ---- Guest memory -------------------------------------------------------------------------------

#define LOW_GPA 0x100000u
#define LOW_SIZE 0x40000u
#define HIGH_SIZE 0x2000u
#define P (LOW_GPA + 0x123u) // nobody promises that the buffer is aligned
#define FOUR_GIB 0x100000000ull
#define UNTOUCHED 0xEE

static uint8_t low[LOW_SIZE], high1[HIGH_SIZE], high3[HIGH_SIZE];
static const struct gpa_range ranges[] = {
	{ .gpa = LOW_GPA, .size = LOW_SIZE, .host = low },
	{ .gpa = FOUR_GIB + LOW_GPA, .size = HIGH_SIZE, .host = high1 },
	{ .gpa = 3 * FOUR_GIB + LOW_GPA, .size = HIGH_SIZE, .host = high3 },
};
static const struct gpa_map map = { .ranges = ranges, .count = 3 };

static uint8_t *at_p(uint32_t offset)
{
	return low + (P - LOW_GPA) + offset;
}

static int wipe(void **state)
{
	(void)state;
	memset(low, UNTOUCHED, sizeof(low));
	memset(high1, 0, sizeof(high1));
	memset(high3, 0, sizeof(high3));
	return 0;
}

// Text of hexadecimal bytes, blanks ignored. -> how many.
static uint32_t bytes_of(const char *hex, uint8_t *ret)
{
	uint32_t count = 0;
	for (char *end; *hex; hex = end) {
		ret[count] = (uint8_t)strtoul(hex, &end, 16);
		if (end == hex)
			break;
		count++;
	}
	return count;
}

static uint32_t place(uint8_t *to, const char *hex)
{
	return bytes_of(hex, to);
}

static void assert_bytes(const char *hex)
{
	uint8_t wanted[1024];
	uint32_t len = bytes_of(hex, wanted);
	assert_memory_equal(at_p(0), wanted, len);
	assert_int_equal(get_le32(wanted) + 4, len); // the example is whole
}

static void assert_untouched(uint32_t from)
{
	for (uint32_t i = from; i < from + 64; i++)
		assert_int_equal(*at_p(i), UNTOUCHED);
}

static struct vkd_request r;

static void read_at_p(const char *hex)
{
	(void)place(at_p(0), hex);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_OK);
}

// ---- The worked examples of the VirtualKD reference, section 6 -------------------------------------

static const char version_2024[] = "0D 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76 03 00 E8 07";
static const char version_2024_reply[] = "0F 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 03 00 E8 07";
static const char version_30[] = "0D 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76 01 01 00 00";
static const char version_30_reply[] = "0F 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 01 01 00 00";
static const char test_start[] = "09 02 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 "
                                 "74 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E";
static const char test_reply_start[] = "0B 02 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 55 "
                                       "54 57 56 51 50 53 52 5D 5C 5F 5E 59 58 5B 5A 45 44 47 46 41 40 43 42 4D 4C 4F 4E 49 48 4B 4A 75";
static const char send_print[] = "3A 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 "
                                 "73 10 00 10 00 03 00 00 10 14 00 00 00 00 00 03 00 00 00 10 00 00 00 03 00 00 00 04 03 00 00 30 "
                                 "32 00 00 06 00 00 00 03 00 00 00 00 00 00 00 68 69 0A";
static const char send_delivered[] = "16 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 73 14 00 00 00 00 00 04 03 00 00";
static const char send_dropped[] = "16 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 73 14 00 00 00 00 00 05 01 00 00";
static const char send_again[] = "16 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 73 14 00 00 00 00 00 07 03 00 00";
static const char receive[] = "1F 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 "
                              "72 02 00 00 00 04 03 00 00 00 00 38 00 00 00 00 10 14 00 00 00 00 00";
static const char receive_timeout[] = "2E 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 72 "
                                      "00 00 38 00 00 00 00 10 14 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04 03 00 00";
static const char receive_data_start[] = "6A 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 72 "
                                         "38 00 38 00 04 00 00 10 14 00 00 00 00 00 00 00 00 00 04 00 00 00 38 00 00 00 04 00 00 00 04 03 "
                                         "00 00 46 31 00 00 00 00 00 00 03 01 00 00 00 00";
static const char poll[] = "1F 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 "
                           "72 08 00 00 00 04 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00";
static const char poll_no[] = "2E 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 72 "
                              "00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04 03 00 00";
static const char poll_yes[] = "2E 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 72 "
                               "00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04 03 00 00";

static void example_version(void **state)
{
	(void)state;
	read_at_p(version_2024);
	assert_int_equal(r.command, VKD_VERSION);
	assert_int_equal(r.version, 0x07E80003);
	assert_true(vkd_reply_version(&map, &r, r.version));
	assert_bytes(version_2024_reply);
	read_at_p(version_30);
	assert_int_equal(r.version, 0x101);
	assert_true(vkd_reply_version(&map, &r, r.version));
	assert_bytes(version_30_reply);
	assert_untouched(0x15);
}

static void example_test(void **state)
{
	(void)state;
	uint8_t start[0x30];
	read_at_p(test_start); // the rest of the 512 bytes is of no interest to the host
	assert_int_equal(r.command, VKD_TEST);
	assert_true(vkd_reply_test(&map, &r));
	assert_int_equal(bytes_of(test_reply_start, start), sizeof(start));
	assert_memory_equal(at_p(0), start, sizeof(start));
	for (uint32_t i = 0; i < 512; i++)
		assert_int_equal(*at_p(0x0F + i), (i ^ 0x55) & 0xFF);
	assert_untouched(0x0F + 512);
}

static void example_send(void **state)
{
	(void)state;
	read_at_p(send_print);
	assert_int_equal(r.command, VKD_SEND);
	assert_int_equal(r.kd_type, 3);
	assert_true(r.first.length == 16 && r.first.max_length == 16 && r.second.length == 3 && r.second.max_length == 0x1000);
	assert_int_equal(r.globals, 0x304);
	assert_int_equal(r.body_len, 19);
	assert_memory_equal(r.body, "\x30\x32\0\0\x06\0\0\0\x03\0\0\0\0\0\0\0hi\n", 19);
	assert_memory_equal(r.context, "\x14\0\0\0\0\0", 6);
	assert_true(vkd_reply_send(&map, &r, VKD_GLOBALS_PRESENT));
	assert_bytes(send_delivered);
	assert_true(vkd_reply_send(&map, &r, VKD_GLOBALS_DROPPED));
	assert_bytes(send_dropped);
	assert_true(vkd_reply_send(&map, &r, VKD_GLOBALS_AGAIN));
	assert_bytes(send_again);
}

static void example_receive(void **state)
{
	(void)state;
	read_at_p(receive);
	assert_int_equal(r.command, VKD_RECEIVE);
	assert_int_equal(r.kd_type, 2);
	assert_true(r.first.length == 0 && r.first.max_length == 56 && r.second.length == 0 && r.second.max_length == 0x1000);
	assert_true(vkd_reply_code(&map, &r, VKD_TIMED_OUT, VKD_GLOBALS_PRESENT));
	assert_bytes(receive_timeout);
}

static void example_receive_with_data(void **state)
{
	(void)state;
	uint8_t body[60] = { 0x46, 0x31, 0, 0, 0, 0, 0, 0, 0x03, 0x01 }, start[0x40];
	memcpy(body + 56, "\xDE\xAD\xBE\xEF", 4);
	read_at_p(receive);
	assert_true(vkd_has_room(&r, sizeof(body)));
	assert_true(vkd_reply_packet(&map, &r, VKD_GLOBALS_PRESENT, body, sizeof(body)));
	assert_int_equal(bytes_of(receive_data_start, start), sizeof(start));
	assert_memory_equal(at_p(0), start, sizeof(start));
	for (uint32_t i = 0x40; i < 0x6A; i++)
		assert_int_equal(*at_p(i), 0);
	assert_memory_equal(at_p(0x6A), "\xDE\xAD\xBE\xEF", 4);
	assert_untouched(0x6E);
}

static void example_poll(void **state)
{
	(void)state;
	read_at_p(poll);
	assert_int_equal(r.kd_type, VKD_TYPE_POLL);
	assert_true(vkd_reply_code(&map, &r, VKD_TIMED_OUT, VKD_GLOBALS_PRESENT));
	assert_bytes(poll_no);
	assert_true(vkd_reply_code(&map, &r, VKD_RECEIVED, VKD_GLOBALS_PRESENT));
	assert_bytes(poll_yes);
}

// The context's last byte is garbage that the guest wants back; so are unknown lengths.
static void what_is_the_guests_is_echoed(void **state)
{
	(void)state;
	read_at_p("1F 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 72 03 00 00 00 05 01 00 00 01 02 10 00 03 04 00 20 A1 A2 A3 A4 A5 A6");
	assert_true(vkd_reply_code(&map, &r, VKD_RESEND, 0x105));
	assert_bytes("2E 00 00 00 31 20 2B 2B 6B 64 56 4D 76 41 20 72 00 00 10 00 00 00 00 20 A1 A2 A3 A4 A5 A6 02 00 00 00 "
	             "00 00 00 00 00 00 00 00 00 00 00 00 05 01 00 00");
	assert_true(vkd_refuse(&map, &r));
	assert_bytes("02 00 00 00 31 20");
}

// ---- Refusals -----------------------------------------------------------------------------------

static void assert_read(const char *hex, int wanted)
{
	(void)wipe(NULL);
	(void)place(at_p(0), hex);
	uint8_t before[256];
	memcpy(before, at_p(0), sizeof(before));
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), wanted);
	assert_memory_equal(before, at_p(0), sizeof(before));
}

static void requests_that_cannot_be(void **state)
{
	(void)state;
	// Nothing there: another signature, lengths below 9 and above the buffer's, a capacity that is smaller than the request.
	assert_read("0D 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 21 76 03 00 E8 07", VKD_E_NONE);
	assert_read("00 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76 03 00 E8 07", VKD_E_NONE);
	assert_read("08 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76 03 00 E8 07", VKD_E_NONE);
	assert_read("F9 03 02 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 73", VKD_E_NONE); // 132089
	assert_read("FF FF FF FF FF FF FF FF 7E 6B 64 56 4D 76 41 20 73", VKD_E_NONE);
	assert_read("0D 00 00 00 14 00 00 00 7E 6B 64 56 4D 76 41 20 76 03 00 E8 07", VKD_E_NONE);
	assert_read("0D 00 00 00 00 00 00 00 7E 6B 64 56 4D 76 41 20 76 03 00 E8 07", VKD_E_NONE);
	// A request, but no known one, or of another length than it has.
	assert_read("0D 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 78 03 00 E8 07", VKD_E_REFUSED);
	assert_read("09 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76", VKD_E_REFUSED);
	assert_read("0C 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 76", VKD_E_REFUSED);
	assert_read("1E 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 72", VKD_E_REFUSED);
	assert_read("20 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 72", VKD_E_REFUSED);
	assert_read("08 02 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 74", VKD_E_REFUSED);
	assert_read("26 00 00 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 73", VKD_E_REFUSED);
	assert_read("F8 03 02 00 00 04 02 00 7E 6B 64 56 4D 76 41 20 73", VKD_E_REFUSED); // 132088, and its packet is not that long
	assert_read(version_2024, VKD_OK);
}

// The two lengths of a send are told three times over.
static void lengths_that_do_not_agree(void **state)
{
	(void)state;
	static const struct { uint32_t offset; uint8_t value; } lies[] = {
		{ 0x00, 0x39 }, { 0x00, 0x3B }, { 0x11, 0x0F }, { 0x12, 0x01 }, { 0x15, 0x04 }, { 0x16, 0xFF }, { 0x23, 0x11 }, { 0x25, 0x01 },
		{ 0x26, 0x80 }, { 0x27, 0x02 }, { 0x28, 0x10 }, { 0x2A, 0xFF },
	};
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		(void)place(at_p(0), send_print);
		*at_p(lies[i].offset) = lies[i].value;
		assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_E_REFUSED);
	}
	(void)place(at_p(0), send_print);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_OK);
}

static void place_send(uint16_t first, uint16_t second)
{
	(void)place(at_p(0), send_print);
	put_le32(at_p(0), 39u + first + second);
	put_le16(at_p(0x11), first);
	put_le16(at_p(0x15), second);
	put_le32(at_p(0x23), first);
	put_le32(at_p(0x27), second);
}

// KD's packets have 4000 bytes at most; sums are not taken in 16 bits.
static void packets_that_are_too_long(void **state)
{
	(void)state;
	place_send(16, 3984);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_OK);
	assert_int_equal(r.body_len, 4000);
	assert_int_equal(r.body[3999], UNTOUCHED);
	place_send(16, 3985);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_E_REFUSED);
	place_send(0xFFFF, 0xFFFF);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_E_REFUSED);
	place_send(0xFFF0, 0x0020);
	assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_E_REFUSED);
}

static void addresses_that_are_no_ram(void **state)
{
	(void)state;
	static const uint64_t bad[] = { 0, LOW_GPA - 1, LOW_GPA - 16, LOW_GPA + LOW_SIZE, LOW_GPA + LOW_SIZE - 16, 0xFFFFFFFF, UINT64_MAX, UINT64_MAX - 16 };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(vkd_read(&map, (gpa_t){ bad[i] }, &r), VKD_E_NONE);
}

// RAM ends within the request, or within the reply, which is longer.
static void the_end_of_ram(void **state)
{
	(void)state;
	uint8_t copy[64];
	uint32_t len = bytes_of(receive, copy);
	for (uint32_t missing = 0; missing <= len; missing++) {
		(void)wipe(NULL);
		uint8_t *start = low + LOW_SIZE - len + missing;
		memcpy(start, copy, len - missing);
		int outcome = vkd_read(&map, (gpa_t){ LOW_GPA + LOW_SIZE - len + missing }, &r);
		assert_int_equal(outcome, missing ? VKD_E_NONE : VKD_OK);
		if (outcome == VKD_OK)
			assert_false(vkd_reply_code(&map, &r, VKD_TIMED_OUT, 0)); // 50 bytes, and 39 are there
		assert_memory_equal(start, copy, len - missing); // nothing of it
	}
	(void)wipe(NULL);
	(void)place(low + LOW_SIZE - 50, receive);
	assert_int_equal(vkd_read(&map, (gpa_t){ LOW_GPA + LOW_SIZE - 50 }, &r), VKD_OK);
	assert_true(vkd_reply_code(&map, &r, VKD_TIMED_OUT, 0));
	assert_int_equal(get_le32(low + LOW_SIZE - 50), 46);
}

// The memory went away between request and reply.
static void ram_that_goes_away(void **state)
{
	(void)state;
	read_at_p(receive);
	const struct gpa_map nothing = { .ranges = ranges + 1, .count = 2 };
	assert_false(vkd_reply_code(&nothing, &r, VKD_TIMED_OUT, 0));
	assert_int_equal(get_le32(at_p(0)), 31);
}

static void a_capacity_that_lies(void **state)
{
	(void)state;
	uint8_t body[4000];
	memset(body, 0x77, sizeof(body));
	static const struct { uint32_t capacity; bool has_room; } cases[] = { { 39, false }, { 49, false }, { 50, true }, { 0x20400, true }, { 0xFFFFFFFF, true } };
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		(void)wipe(NULL);
		(void)place(at_p(0), receive);
		put_le32(at_p(4), cases[i].capacity);
		assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_OK);
		assert_true(r.capacity <= VKD_BUFFER_SIZE);
		assert_int_equal(vkd_reply_code(&map, &r, VKD_TIMED_OUT, 0), cases[i].has_room);
		assert_untouched(cases[i].has_room ? 50 : 39);
	}
	// The reply with the longest packet: never past the capacity, which is counted from P.
	for (uint32_t capacity = 50 + 3999; capacity <= 50 + 4000; capacity++) {
		(void)wipe(NULL);
		(void)place(at_p(0), receive);
		put_le32(at_p(4), capacity);
		assert_int_equal(vkd_read(&map, (gpa_t){ P }, &r), VKD_OK);
		assert_int_equal(vkd_reply_packet(&map, &r, 0, body, sizeof(body)), capacity == 50 + 4000);
		assert_untouched(50 + 4000);
	}
}

// What does not fit into the guest's two buffers would be left over, or damage them.
static void packets_that_do_not_fit(void **state)
{
	(void)state;
	read_at_p(receive); // 56 and 4096
	assert_false(vkd_has_room(&r, 0));
	assert_false(vkd_has_room(&r, 55));
	assert_true(vkd_has_room(&r, 56));
	assert_true(vkd_has_room(&r, 4000));
	assert_false(vkd_has_room(&r, 4001));
	r.second.max_length = 8;
	assert_true(vkd_has_room(&r, 64));
	assert_false(vkd_has_room(&r, 65));
	r.first.max_length = 0; // none was given
	assert_false(vkd_has_room(&r, 56));
}

// ---- Where the buffer is --------------------------------------------------------------------------

static int find(uint64_t wide, uint32_t *high, uint64_t *ret)
{
	gpa_t at = { 0 };
	int outcome = vkd_find(&map, P, wide, high, &at);
	*ret = at.v;
	return outcome;
}

static void the_buffer_is_where_the_guest_says(void **state)
{
	(void)state;
	uint32_t high = 0;
	uint64_t at;
	assert_int_equal(find(P, &high, &at), VKD_E_NONE);
	(void)place(at_p(0), poll);
	(void)place(high1 + (P - LOW_GPA), poll); // a copy from another boot
	assert_int_equal(find(P, &high, &at), VKD_OK);
	assert_int_equal(at, P);
	assert_int_equal(high, 0);
}

static void a_buffer_above_4_gib_is_found(void **state)
{
	(void)state;
	uint32_t high = 0;
	uint64_t at;
	(void)place(high3 + (P - LOW_GPA), poll);
	assert_int_equal(find(P, &high, &at), VKD_OK);
	assert_int_equal(at, 3 * FOUR_GIB + P);
	assert_int_equal(high, 3);
	// It is looked for there first, next time, and is looked for anew where it is not there.
	(void)place(high1 + (P - LOW_GPA), poll);
	assert_int_equal(find(P, &high, &at), VKD_OK);
	assert_int_equal(high, 3);
	memset(high3, 0, sizeof(high3));
	assert_int_equal(find(P, &high, &at), VKD_OK);
	assert_int_equal(at, FOUR_GIB + P);
	// Only what is a request beyond doubt: the right capacity, a length that its letter has.
	high = 0;
	put_le32(high1 + (P - LOW_GPA) + 4, 0x20404);
	assert_int_equal(find(P, &high, &at), VKD_E_NONE);
	put_le32(high1 + (P - LOW_GPA) + 4, 0x20400);
	put_le32(high1 + (P - LOW_GPA), 32);
	assert_int_equal(find(P, &high, &at), VKD_E_NONE);
	assert_int_equal(high, 0);
}

// One module of 64 bits leaves the whole address in RAX. Believed only where there is a request.
static void the_whole_address_in_rax(void **state)
{
	(void)state;
	uint32_t high = 0;
	uint64_t at;
	(void)place(at_p(0), poll);
	(void)place(high1 + (P - LOW_GPA), poll);
	assert_int_equal(find(FOUR_GIB + P, &high, &at), VKD_OK);
	assert_int_equal(at, FOUR_GIB + P);
	high = 0;
	assert_int_equal(find(3 * FOUR_GIB + P, &high, &at), VKD_OK); // nothing there
	assert_int_equal(at, P);
	assert_int_equal(find(UINT64_MAX, &high, &at), VKD_OK);
	assert_int_equal(at, P);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup(name, wipe)
	const struct CMUnitTest tests[] = {
		T(requests_that_cannot_be), T(lengths_that_do_not_agree), T(packets_that_are_too_long), T(addresses_that_are_no_ram),
		T(the_end_of_ram), T(ram_that_goes_away), T(a_capacity_that_lies), T(packets_that_do_not_fit),
		T(example_version), T(example_test), T(example_send), T(example_receive), T(example_receive_with_data), T(example_poll),
		T(what_is_the_guests_is_echoed), T(the_buffer_is_where_the_guest_says), T(a_buffer_above_4_gib_is_found),
		T(the_whole_address_in_rax),
	};
	return cmocka_run_group_tests_name("virtualkd_rpc", tests, NULL, NULL) ? 1 : 0;
}
