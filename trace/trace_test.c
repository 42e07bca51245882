// SPDX-License-Identifier: MIT
// pcapng blocks, frames and text: what cannot be is refused, what was written is read. Whether fields are decoded rightly is held against
// another decoder by tests/test_trace.py.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trace/decode.h"
#include "wire/kdapi.h"
#include "wire/le.h"

static struct pcapng_reader reader;
static uint8_t file[64 * 1024];
static size_t file_len;

static void begin(void)
{
	file_len = pcapng_put_section(file, sizeof(file), "test");
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, "guest", "a kernel");
	pcapng_reader_init(&reader);
}

static void put(const struct pcapng_packet *packet)
{
	size_t len = pcapng_put_packet(file + file_len, sizeof(file) - file_len, packet);

	assert_true(len > 0);
	file_len += len;
}

// Reads to the end. Returns what the last call said.
static enum pcapng_outcome read_all(struct pcapng_packet *ret_last)
{
	enum pcapng_outcome outcome;
	size_t at = 0, used;

	do {
		// From memory of its own, so that a sanitizer sees every byte too far.
		uint8_t *rest = malloc(file_len - at + !(file_len - at));
		memcpy(rest, file + at, file_len - at);
		outcome = pcapng_read(&reader, rest, file_len - at, &used, ret_last);
		if (outcome == PCAPNG_PACKET) { // inside `file`, which stays
			ret_last->data = file + at + (ret_last->data - rest);
			ret_last->comment = ret_last->comment_len ? (const char *)file + at + (ret_last->comment - (const char *)rest) : NULL;
		}
		free(rest);
		at += used;
	} while (outcome == PCAPNG_PACKET || outcome == PCAPNG_OTHER);
	return outcome;
}

static void must_be_bad(void)
{
	struct pcapng_packet packet;

	pcapng_reader_init(&reader);
	assert_int_equal(read_all(&packet), PCAPNG_BAD);
	assert_true(strlen(reader.problem) > 10);
}

// ---- Refusals ----------------------------------------------------------------------------------------------

static void test_no_pcapng(void **state)
{
	(void)state;
	static const char *const texts[] = { "\xD4\xC3\xB2\xA1 an old capture", "GIF89a..........", "\n\r\r\n\x1C\0\0\0abcd............" };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		file_len = 16;
		memcpy(file, texts[i], file_len);
		must_be_bad();
	}
	file_len = 0;
	struct pcapng_packet packet;
	pcapng_reader_init(&reader);
	assert_int_equal(read_all(&packet), PCAPNG_MORE);
	assert_false(reader.has_section);
}

// Every field that says how long something is, with what it must not be.
static void test_lengths(void **state)
{
	(void)state;
	static const struct { size_t at; uint32_t value; } lies[] = {
		{ 4, 0 }, { 4, 4 }, { 4, 11 }, { 4, PCAPNG_BLOCK_MAX + 4 }, { 4, 0x80000000 }, // the block
		{ 20, 9 }, { 20, 0x10000 }, { 20, UINT32_MAX }, { 20, UINT32_MAX - 3 },              // the captured bytes
		{ 8, 1 }, { 8, UINT32_MAX },                                                    // the interface
	};
	const struct pcapng_packet packet = { .data = (const uint8_t *)"four", .len = 4 };

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		begin();
		size_t at = file_len;
		put(&packet);
		put_le32(file + at + lies[i].at, lies[i].value);
		must_be_bad();
	}
	begin();
	put(&packet);
	put_le32(file + file_len - 4, 44); // the second length
	must_be_bad();
}

static void test_short_blocks(void **state)
{
	(void)state;
	for (uint32_t type = 1; type <= 6; type++) {
		begin();
		put_le32(file + file_len, type);
		put_le32(file + file_len + 4, 16);
		put_le32(file + file_len + 8, 0);
		put_le32(file + file_len + 12, 16);
		file_len += 16;
		struct pcapng_packet packet;
		pcapng_reader_init(&reader);
		bool is_known = type == 1 || type >= 5;
		assert_int_equal(read_all(&packet), is_known ? PCAPNG_BAD : PCAPNG_MORE);
	}
}

static void test_statistics_of_nobody(void **state)
{
	(void)state;
	begin();
	file_len += pcapng_put_statistics(file + file_len, sizeof(file) - file_len, 1, 0, 0, 0);
	must_be_bad();
}

static void test_too_many_interfaces(void **state)
{
	(void)state;
	begin();
	for (uint32_t i = 0; i < PCAPNG_INTERFACES_MAX - 1; i++)
		file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, "x", "");
	struct pcapng_packet packet;
	assert_int_equal(read_all(&packet), PCAPNG_MORE);
	assert_int_equal(reader.interface_count, PCAPNG_INTERFACES_MAX);
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, "x", "");
	must_be_bad();
}

// Options that do not end, or reach beyond their block, are left alone; the packet stands.
static void test_options(void **state)
{
	(void)state;
	const struct pcapng_packet packet = { .data = (const uint8_t *)"four", .len = 4, .flags = 2, .comment = "why", .comment_len = 3 };
	struct pcapng_packet got;

	begin();
	size_t at = file_len;
	put(&packet);
	put_le16(file + at + 8 + 20 + 4 + 2, 0xFFF0); // the flags' length
	pcapng_reader_init(&reader);
	assert_int_equal(read_all(&got), PCAPNG_MORE);
	assert_int_equal(got.len, 4);
	assert_int_equal(got.flags, 0);
	assert_int_equal(got.comment_len, 0);
	begin();
	at = file_len;
	put(&packet);
	put_le16(file + at + 8 + 20 + 4 + 8 + 2, 0xFFF0); // the comment's
	pcapng_reader_init(&reader);
	assert_int_equal(read_all(&got), PCAPNG_MORE);
	assert_int_equal(got.flags, 2);
	assert_int_equal(got.comment_len, 0);
}

static void test_no_room(void **state)
{
	(void)state;
	uint8_t all[256];
	const struct pcapng_packet packet = { .data = (const uint8_t *)"four", .len = 4, .flags = 2, .drop_count = 3, .comment = "why", .comment_len = 3 };
	size_t need = pcapng_put_packet(all, sizeof(all), &packet);

	for (size_t size = 0; size < need; size++) {
		uint8_t *to = malloc(size + 1);
		to[size] = 0xA5;
		assert_int_equal(pcapng_put_packet(to, size, &packet), 0);
		assert_int_equal(to[size], 0xA5);
		free(to);
	}
	assert_int_equal(pcapng_put_section(all, 20, "x"), 0);
	assert_int_equal(pcapng_put_interface(all, 20, "x", "y"), 0);
	assert_int_equal(pcapng_put_statistics(all, 20, 0, 0, 0, 0), 0);
}

// ---- What was written is read ------------------------------------------------------------------------------

static void test_packet(void **state)
{
	(void)state;
	const struct pcapng_packet packet = { .time_ns = 1700000000123456789u, .flags = PCAPNG_OUTBOUND | PCAPNG_ERROR_CRC, .drop_count = 77,
					      .data = (const uint8_t *)"some bytes!", .len = 11, .comment = "a word", .comment_len = 6 };
	struct pcapng_packet got;

	begin();
	put(&packet);
	file_len += pcapng_put_statistics(file + file_len, sizeof(file) - file_len, 0, 1, 100, 23);
	assert_int_equal(read_all(&got), PCAPNG_MORE);
	assert_true(got.time_ns == packet.time_ns && got.flags == packet.flags && got.drop_count == 77);
	assert_int_equal(got.len, 11);
	assert_int_equal(got.original_len, 11);
	assert_memory_equal(got.data, packet.data, 11);
	assert_int_equal(got.comment_len, 6);
	assert_memory_equal(got.comment, "a word", 6);
	assert_string_equal(reader.interfaces[0].name, "guest");
	assert_string_equal(reader.interfaces[0].description, "a kernel");
	assert_int_equal(reader.interfaces[0].linktype, PCAPNG_LINKTYPE_USER0);
	assert_true(reader.interfaces[0].has_statistics);
	assert_int_equal(reader.interfaces[0].received, 100);
	assert_int_equal(reader.interfaces[0].dropped, 23);
}

// However a stream is cut, the packets are the same.
static void test_pieces(void **state)
{
	(void)state;
	struct pcapng_packet packet = { .data = (const uint8_t *)"0123456789", .flags = 1 };

	begin();
	for (uint32_t i = 0; i < 10; i++) {
		packet.len = i;
		put(&packet);
	}
	for (size_t piece = 1; piece < 70; piece++) {
		size_t have = 0, at = 0, used = 0, count = 0;
		pcapng_reader_init(&reader);
		while (have < file_len) {
			have = have + piece < file_len ? have + piece : file_len;
			enum pcapng_outcome outcome;
			while ((outcome = pcapng_read(&reader, file + at, have - at, &used, &packet)) != PCAPNG_MORE) {
				assert_int_not_equal(outcome, PCAPNG_BAD);
				if (outcome == PCAPNG_PACKET)
					assert_int_equal(packet.len, count++);
				at += used;
			}
			assert_int_equal(used, 0);
		}
		assert_int_equal(count, 10);
		assert_int_equal(at, file_len);
		assert_int_equal(reader.offset, file_len);
	}
}

static uint64_t time_with(uint8_t resolution, uint64_t units)
{
	const struct pcapng_packet packet = { .time_ns = units };
	struct pcapng_packet got;

	begin();
	for (size_t i = 0; i + 4 < file_len; i++) // the interface's if_tsresol
		if (get_le32(file + i) == (9u | 1u << 16) && file[i + 4] == 9)
			file[i + 4] = resolution;
	put(&packet);
	assert_int_equal(read_all(&got), PCAPNG_MORE);
	return got.time_ns;
}

static void test_times(void **state)
{
	(void)state;
	assert_true(time_with(9, 1700000000123456789u) == 1700000000123456789u);
	assert_true(time_with(6, 1700000000123456u) == 1700000000123456000u);
	assert_true(time_with(0, 1700000000u) == 1700000000000000000u);
	assert_true(time_with(12, 1700000000123456789u) == 1700000000123456u);
	assert_true(time_with(0x80 | 1, 3) == 1500000000u);
	assert_true(time_with(0x80 | 10, 1024) == 1000000000u);
	assert_true(time_with(127, UINT64_MAX) == 0);
	assert_true(time_with(0xFF, UINT64_MAX) == 0);
	assert_true(time_with(0, UINT64_MAX) == UINT64_MAX); // cannot be told in nanoseconds
}

// Names are printed on terminals.
static void test_names(void **state)
{
	(void)state;
	struct pcapng_packet packet;
	char longer[2 * PCAPNG_NAME_MAX];

	memset(longer, 'n', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	file_len = pcapng_put_section(file, sizeof(file), "test");
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, "a\x1B[2Jb\xFF", longer);
	pcapng_reader_init(&reader);
	assert_int_equal(read_all(&packet), PCAPNG_MORE);
	assert_string_equal(reader.interfaces[0].name, "a?[2Jb?");
	assert_int_equal(strlen(reader.interfaces[0].description), PCAPNG_NAME_MAX - 1);
}

// ---- Frames ------------------------------------------------------------------------------------------------

static void test_frames(void **state)
{
	(void)state;
	uint8_t bytes[KDCOM_FRAME_MAX], body[KDCOM_BODY_MAX + 1] = { 1, 2, 3 };
	struct trace_frame f;

	assert_int_equal(trace_frame_make(2, 1, body, sizeof(body), bytes), 0);
	assert_int_equal(trace_frame_make(2, 1, body, KDCOM_BODY_MAX, bytes), KDCOM_FRAME_MAX);
	size_t len = trace_frame_make(2, 0x80800001, body, 3, bytes);
	assert_int_equal(len, 20);
	trace_frame_read(bytes, len, &f);
	assert_true(f.kind == TRACE_DATA && f.damage == KDCOM_WHOLE && f.type == 2 && f.id == 0x80800001 && f.checksum == 6);
	assert_true(f.body_len == 3 && f.said_len == 3 && f.body == bytes + 16);
	// Cut anywhere it is no whole frame, and nothing behind the cut is looked at.
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *part = malloc(cut + !cut);
		memcpy(part, bytes, cut);
		trace_frame_read(part, cut, &f);
		assert_true(cut == 0 ? f.kind == TRACE_NOTHING : f.kind == TRACE_JUNK || f.damage == KDCOM_TRUNCATED);
		assert_true(f.body_len <= (cut > 16 ? cut - 16 : 0));
		free(part);
	}
	bytes[len - 1] = 0xAB;
	trace_frame_read(bytes, len, &f);
	assert_int_equal(f.damage, KDCOM_BAD_TRAILER);
	bytes[len - 1] = 0xAA;
	bytes[17]++;
	trace_frame_read(bytes, len, &f);
	assert_int_equal(f.damage, KDCOM_BAD_CHECKSUM);
	put_le16(bytes + 6, KDCOM_BODY_MAX + 1);
	trace_frame_read(bytes, len, &f);
	assert_int_equal(f.damage, KDCOM_BAD_SIZE);
}

static void test_flags(void **state)
{
	(void)state;
	for (enum trace_direction d = TRACE_UNKNOWN; d <= TRACE_TO_TARGET; d++)
		for (enum kdcom_damage damage = KDCOM_WHOLE; damage <= KDCOM_TRUNCATED; damage++) {
			uint32_t flags = trace_flags_of(d, damage);
			assert_int_equal(trace_direction_of(flags), d);
			assert_int_equal(flags >> 24 != 0, damage != KDCOM_WHOLE);
			assert_int_equal(strlen(trace_damage_name(damage)) > 0, damage != KDCOM_WHOLE);
		}
	assert_int_equal(trace_direction_of(3), TRACE_UNKNOWN);
}

// ---- Text --------------------------------------------------------------------------------------------------

static void test_escape(void **state)
{
	(void)state;
	static const uint8_t bytes[] = "a\n\\\x1B\xFF\0b";
	char text[64];

	assert_int_equal(trace_escape(bytes, 7, text, sizeof(text)), 18);
	assert_string_equal(text, "a\\n\\\\\\x1B\\xFF\\x00b");
	assert_int_equal(trace_escape_utf16((const uint8_t *)"a\0\xAC\x20\n\0x", 7, text, sizeof(text)), 9);
	assert_string_equal(text, "a\\u20AC\\n"); // half a character is none
	// Never half an escape, never beyond the end.
	for (size_t size = 0; size < 20; size++) {
		memset(text, 'Z', sizeof(text));
		size_t len = trace_escape((const uint8_t *)"\xFF\xFF\xFF", 3, text, size);
		assert_int_equal(len, size == 0 ? 0 : (size - 1) / 4 > 3 ? 12 : (size - 1) / 4 * 4);
		assert_int_equal(text[size], 'Z');
	}
}

static void count_field(void *arg, const struct trace_field *field)
{
	char text[100], tiny[4];

	trace_field_text(field, text, sizeof(text));
	trace_field_text(field, tiny, sizeof(tiny));
	assert_true(strlen(text) < sizeof(text) && strlen(tiny) < sizeof(tiny));
	assert_int_equal(strncmp(field->name, "kd.", 3), 0);
	(*(unsigned *)arg)++;
}

// A machine that was learnt decides how Continue2 reads; damaged packets teach nothing.
static void find_dr7(void *arg, const struct trace_field *field)
{
	if (strcmp(field->name, "kd.symbol_start") == 0)
		*(uint64_t *)arg = field->value;
}

static uint64_t symbol_start(struct trace_decoder *d)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 }, bytes[KDCOM_FRAME_MAX];
	uint64_t found = 0;

	put_le32(body, KD_API_CONTINUE2);
	put_le32(body + 16 + 12, 0x80001000);
	put_le64(body + 16 + 16, 0x1111222233334444);
	trace_decode(d, bytes, trace_frame_make(2, 0, body, sizeof(body), bytes), TRACE_TO_TARGET, find_dr7, &found);
	return found;
}

static void test_machine(void **state)
{
	(void)state;
	struct trace_decoder d;
	struct kd_manipulate version = { .api = KD_API_GET_VERSION, .u.version.machine = KD_MACHINE_X86 };
	uint8_t body[KD_MANIPULATE_SIZE], bytes[KDCOM_FRAME_MAX];
	unsigned count = 0;

	trace_decoder_init(&d);
	assert_true(symbol_start(&d) == 0x1111222233334444);
	assert_int_equal(kd_manipulate_encode(&version, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	size_t len = trace_frame_make(2, 0, body, sizeof(body), bytes);
	trace_decode(&d, bytes, len, TRACE_TO_TARGET, count_field, &count); // a request tells nothing
	assert_true(symbol_start(&d) == 0x1111222233334444);
	bytes[len - 1] = 0;
	trace_decode(&d, bytes, len, TRACE_FROM_TARGET, count_field, &count);
	assert_true(symbol_start(&d) == 0x1111222233334444);
	bytes[len - 1] = KDCOM_TRAILER;
	trace_decode(&d, bytes, len, TRACE_FROM_TARGET, count_field, &count);
	assert_true(symbol_start(&d) == 0xFFFFFFFF80001000);
	assert_true(count > 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_pcapng),	    cmocka_unit_test(test_lengths), cmocka_unit_test(test_short_blocks),
		cmocka_unit_test(test_statistics_of_nobody), cmocka_unit_test(test_too_many_interfaces), cmocka_unit_test(test_options),
		cmocka_unit_test(test_no_room),		    cmocka_unit_test(test_packet),  cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_times),		    cmocka_unit_test(test_names),   cmocka_unit_test(test_frames),
		cmocka_unit_test(test_flags),		    cmocka_unit_test(test_escape),  cmocka_unit_test(test_machine),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
