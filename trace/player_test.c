// SPDX-License-Identifier: MIT
// A trace as a target: what is no trace, what was not recorded, and what was.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trace/player.h"
#include "wire/le.h"

#define GUEST 0u
#define CLIENT 1u

static uint8_t file[256 * 1024];
static size_t file_len;
static struct player *player;
static uint32_t next_id;

static void put(uint32_t interface, enum trace_direction direction, const uint8_t *bytes, size_t len, const char *comment)
{
	const struct pcapng_packet packet = { .interface = interface, .time_ns = file_len, .flags = trace_flags_of(direction, KDCOM_WHOLE), .data = bytes,
					      .len = (uint32_t)len, .comment = comment, .comment_len = comment ? (uint32_t)strlen(comment) : 0 };
	size_t done = pcapng_put_packet(file + file_len, sizeof(file) - file_len, &packet);

	assert_true(done > 0);
	file_len += done;
}

static void put_data(uint32_t interface, enum trace_direction direction, uint16_t type, const uint8_t *body, size_t len)
{
	uint8_t frame[KDCOM_FRAME_MAX];

	put(interface, direction, frame, trace_frame_make(type, 0x80800000 | (next_id++ & 1), body, len, frame), NULL);
}

static void begin(const char *first)
{
	file_len = pcapng_put_section(file, sizeof(file), "test");
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, first, "");
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, "client 1", "");
}

static void stop(uint32_t interface, uint64_t pc)
{
	const struct kd_state_change change = { .state = KD_STATE_EXCEPTION, .processor_count = 1, .pc = pc, .u.exception.code = KD_STATUS_BREAKPOINT };
	uint8_t body[KD_STATE_CHANGE_SIZE];

	assert_int_equal(kd_state_change_encode(&change, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	put_data(interface, TRACE_FROM_TARGET, KD_PACKET_STATE_CHANGE, body, sizeof(body));
}

static void say(uint32_t interface, uint32_t api, const char *text)
{
	const struct kd_debug_io io = { .api = api, .length = (uint32_t)strlen(text) };
	uint8_t body[256];

	assert_int_equal(kd_debug_io_encode(&io, body, sizeof(body)), KD_OK);
	memcpy(body + KD_DEBUG_IO_SIZE, text, strlen(text));
	put_data(interface, TRACE_FROM_TARGET, KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + strlen(text));
}

static size_t encode(const struct kd_manipulate *m, const void *data, size_t len, uint8_t *to)
{
	assert_int_equal(kd_manipulate_encode(m, KD_MACHINE_X64, to, KD_MANIPULATE_SIZE), KD_OK);
	if (len)
		memcpy(to + KD_MANIPULATE_SIZE, data, len);
	return KD_MANIPULATE_SIZE + len;
}

static void talk(uint32_t interface, enum trace_direction direction, const struct kd_manipulate *m, const void *data, size_t len)
{
	uint8_t body[KD_BODY_MAX];

	put_data(interface, direction, KD_PACKET_MANIPULATE, body, encode(m, data, len, body));
}

static void go(uint32_t interface)
{
	const struct kd_manipulate m = { .api = KD_API_CONTINUE2 };
	talk(interface, TRACE_TO_TARGET, &m, NULL, 0);
}

// Somebody read `len` bytes there and got this.
static void record_read(uint32_t interface, uint64_t address, const char *bytes, uint32_t len)
{
	struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL, .u.memory = { .address = address, .count = len } };

	talk(interface, TRACE_TO_TARGET, &m, NULL, 0);
	m.u.memory.actual_bytes = bytes ? len : 0;
	m.status = bytes ? 0 : KD_STATUS_UNSUCCESSFUL;
	talk(interface, TRACE_FROM_TARGET, &m, bytes, bytes ? len : 0);
}

static void record_context(uint16_t processor, char what)
{
	struct kd_manipulate m = { .api = KD_API_GET_CONTEXT, .processor = processor };

	talk(CLIENT, TRACE_TO_TARGET, &m, NULL, 0);
	talk(CLIENT, TRACE_FROM_TARGET, &m, &what, 1);
}

static void open_trace(void)
{
	const char *problem;

	assert_int_equal(player_create(file, file_len, &player, &problem), PLAYER_OK);
}

static enum player_event_kind next(void)
{
	struct player_event event;

	player_next(player, &event);
	return event.kind;
}

static uint64_t next_pc(void)
{
	struct player_event event;

	player_next(player, &event);
	assert_int_equal(event.kind, PLAYER_STOP);
	return get_le64(event.body + 0x18);
}

// What the player says to a read: the bytes, and how.
static enum player_answer ask_memory(uint64_t address, uint32_t len, char ret[64], uint32_t *ret_status)
{
	const struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL, .u.memory = { .address = address, .count = len } };
	uint8_t body[KD_BODY_MAX], reply[KD_BODY_MAX];
	struct kd_manipulate got;
	uint32_t reply_len;
	enum player_answer answer = player_request(player, body, encode(&m, NULL, 0, body), reply, &reply_len);

	assert_int_equal(kd_manipulate_decode(reply, reply_len, KD_MACHINE_X64, &got), KD_OK);
	assert_int_equal(got.u.memory.actual_bytes, got.data_len);
	memcpy(ret, got.data, got.data_len);
	ret[got.data_len] = '\0';
	*ret_status = got.status;
	return answer;
}

static void must_read(uint64_t address, uint32_t len, const char *text, enum player_answer how)
{
	char got[64];
	uint32_t status;

	assert_int_equal(ask_memory(address, len, got, &status), how);
	assert_string_equal(got, text);
	assert_int_equal(status, how == PLAYER_RECORDED ? 0 : KD_STATUS_UNSUCCESSFUL);
}

static char ask_context(uint16_t processor)
{
	const struct kd_manipulate m = { .api = KD_API_GET_CONTEXT, .processor = processor, .processor_level = 99, .u.context_flags = 7 };
	uint8_t body[KD_BODY_MAX], reply[KD_BODY_MAX];
	uint32_t len;
	enum player_answer answer = player_request(player, body, encode(&m, NULL, 0, body), reply, &len);

	if (answer == PLAYER_NOT_RECORDED) {
		assert_int_equal(len, KD_MANIPULATE_SIZE);
		assert_int_equal(get_le32(reply + 8), KD_STATUS_UNSUCCESSFUL);
		return '-';
	}
	assert_int_equal(answer, PLAYER_RECORDED);
	return len > KD_MANIPULATE_SIZE ? (char)reply[KD_MANIPULATE_SIZE] : '?';
}

static int teardown(void **state)
{
	(void)state;
	player_destroy(player);
	player = NULL;
	return 0;
}

// ---- Refusals ----------------------------------------------------------------------------------------------

static void test_no_trace(void **state)
{
	(void)state;
	const char *problem = NULL;

	assert_int_equal(player_create((const uint8_t *)"no trace at all", 15, &player, &problem), PLAYER_BAD_FILE);
	assert_non_null(problem);
	problem = NULL;
	assert_int_equal(player_create(file, 0, &player, &problem), PLAYER_BAD_FILE);
	assert_non_null(problem);
	begin(TRACE_GUEST);
	assert_int_equal(player_create(file, file_len, &player, &problem), PLAYER_NO_TARGET);
	go(GUEST); // requests alone make no target
	put(GUEST, TRACE_FROM_TARGET, (const uint8_t *)"0000xxxx", 8, NULL);
	assert_int_equal(player_create(file, file_len, &player, &problem), PLAYER_NO_TARGET);
	memcpy(file + file_len, "\6\0\0\0\5\0\0\0\0\0\0\0", 12); // a block of 5 bytes
	assert_int_equal(player_create(file, file_len + 12, &player, &problem), PLAYER_BAD_FILE);
	assert_null(player);
}

static void test_nothing_recorded(void **state)
{
	(void)state;
	uint8_t body[KD_BODY_MAX + 1] = { 0x30, 0x31 }, reply[KD_BODY_MAX];
	uint32_t len = 1;

	begin(TRACE_GUEST);
	say(GUEST, KD_DEBUG_IO_PRINT, "hello");
	stop(GUEST, 1);
	open_trace();
	assert_int_equal(player_request(player, body, KD_MANIPULATE_SIZE, reply, &len), PLAYER_IMPOSSIBLE); // before the stop
	assert_int_equal(next(), PLAYER_PRINT);
	assert_int_equal(player_request(player, body, KD_MANIPULATE_SIZE, reply, &len), PLAYER_IMPOSSIBLE);
	assert_int_equal(next(), PLAYER_STOP);
	assert_int_equal(player_request(player, body, KD_MANIPULATE_SIZE - 1, reply, &len), PLAYER_IMPOSSIBLE);
	assert_int_equal(player_request(player, body, sizeof(body), reply, &len), PLAYER_IMPOSSIBLE);
	assert_int_equal(len, 1);
	must_read(0x1000, 4, "", PLAYER_NOT_RECORDED);
	must_read(UINT64_MAX, 16, "", PLAYER_NOT_RECORDED);
	must_read(0x1000, 0, "", PLAYER_NOT_RECORDED);
	must_read(0x1000, UINT32_MAX, "", PLAYER_NOT_RECORDED);
	assert_int_equal(ask_context(0), '-');
	for (uint32_t api = 0x3100; api < 0x3200; api++) {
		put_le32(body, api);
		assert_int_equal(player_request(player, body, KD_MANIPULATE_SIZE, reply, &len), PLAYER_NOT_RECORDED);
	}
}

// A reply whose count lies has the bytes that are there.
static void test_lying_reply(void **state)
{
	(void)state;
	struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL, .u.memory = { .address = 0x1000, .count = 0x100 } };

	begin(TRACE_GUEST);
	stop(GUEST, 1);
	talk(CLIENT, TRACE_TO_TARGET, &m, NULL, 0);
	m.u.memory.actual_bytes = UINT32_MAX;
	talk(CLIENT, TRACE_FROM_TARGET, &m, "abcd", 4);
	open_trace();
	assert_int_equal(next(), PLAYER_STOP);
	must_read(0x1002, 2, "cd", PLAYER_RECORDED);
	must_read(0x1002, 3, "cd", PLAYER_IN_PART);
	must_read(0x1004, 1, "", PLAYER_NOT_RECORDED);
}

// ---- Memory ------------------------------------------------------------------------------------------------

static void test_memory(void **state)
{
	(void)state;
	begin(TRACE_GUEST);
	stop(GUEST, 1);
	record_read(CLIENT, 0x1000, "0123456789", 10);
	record_read(GUEST, 0x100A, "abcdef", 6);
	record_read(CLIENT, 0x100E, "EF", 2);
	record_read(CLIENT, 0x2000, NULL, 4);
	open_trace();
	assert_int_equal(next(), PLAYER_STOP);
	must_read(0x1000, 10, "0123456789", PLAYER_RECORDED);
	must_read(0x1008, 4, "89ab", PLAYER_RECORDED); // two of them
	must_read(0x1000, 16, "0123456789abcdef", PLAYER_RECORDED);
	must_read(0x100F, 2, "f", PLAYER_IN_PART);
	must_read(0x0FFF, 2, "", PLAYER_NOT_RECORDED);
	must_read(0x2000, 2, "", PLAYER_NOT_RECORDED);
	char text[64];
	uint32_t status;
	assert_int_equal(ask_memory(0x2000, 4, text, &status), PLAYER_RECORDED); // that it failed was recorded
	assert_int_equal(status, KD_STATUS_UNSUCCESSFUL);
}

// What was read at another stop may have changed since.
static void test_stops_are_apart(void **state)
{
	(void)state;
	begin(TRACE_GUEST);
	stop(GUEST, 1);
	record_read(CLIENT, 0x1000, "one", 3);
	record_context(0, 'a');
	go(GUEST);
	say(GUEST, KD_DEBUG_IO_PRINT, "between");
	record_read(CLIENT, 0x3000, "now", 3); // of a client that does not know that it runs
	stop(GUEST, 2);
	record_context(1, 'b');
	open_trace();
	assert_int_equal(next_pc(), 1);
	assert_int_equal(next_pc(), 1); // until it is resumed
	must_read(0x1000, 3, "one", PLAYER_RECORDED);
	must_read(0x3000, 3, "", PLAYER_NOT_RECORDED);
	assert_int_equal(ask_context(0), 'a');
	assert_int_equal(ask_context(1), '-');
	player_resume(player);
	assert_int_equal(next(), PLAYER_PRINT);
	assert_int_equal(next_pc(), 2);
	must_read(0x1000, 3, "", PLAYER_NOT_RECORDED);
	assert_int_equal(ask_context(0), '-');
	assert_int_equal(ask_context(1), 'b');
	player_resume(player);
	assert_int_equal(next(), PLAYER_END);
	assert_int_equal(next(), PLAYER_END);
}

// A write that is repeated shows what was read behind it, and not before.
static void test_writes(void **state)
{
	(void)state;
	struct kd_manipulate m = { .api = KD_API_WRITE_VIRTUAL, .u.memory = { .address = 0x1000, .count = 3 } };
	uint8_t body[KD_BODY_MAX], reply[KD_BODY_MAX];
	uint32_t len;

	begin(TRACE_GUEST);
	stop(GUEST, 1);
	record_read(CLIENT, 0x1000, "old", 3);
	talk(CLIENT, TRACE_TO_TARGET, &m, "new", 3);
	m.u.memory.actual_bytes = 3;
	talk(CLIENT, TRACE_FROM_TARGET, &m, NULL, 0);
	record_read(CLIENT, 0x1000, "new", 3);
	open_trace();
	assert_int_equal(next(), PLAYER_STOP);
	must_read(0x1000, 3, "old", PLAYER_RECORDED);
	must_read(0x1000, 2, "ol", PLAYER_RECORDED);
	assert_int_equal(player_request(player, body, encode(&m, "NEW", 3, body), reply, &len), PLAYER_NOT_RECORDED); // other bytes
	must_read(0x1000, 3, "old", PLAYER_RECORDED);
	assert_int_equal(player_request(player, body, encode(&m, "new", 3, body), reply, &len), PLAYER_RECORDED);
	must_read(0x1000, 3, "new", PLAYER_RECORDED);
	must_read(0x1001, 2, "ew", PLAYER_RECORDED);
}

// ---- Events ------------------------------------------------------------------------------------------------

static void put_version(uint16_t minor)
{
	struct kd_manipulate m = { .api = KD_API_GET_VERSION };

	talk(CLIENT, TRACE_TO_TARGET, &m, NULL, 0);
	m.u.version.minor = minor;
	talk(CLIENT, TRACE_FROM_TARGET, &m, NULL, 0);
}

static uint16_t ask_version(void)
{
	const struct kd_manipulate m = { .api = KD_API_GET_VERSION, .processor = 3, .u.version.major = 9 };
	uint8_t body[KD_BODY_MAX], reply[KD_BODY_MAX];
	uint32_t len;

	return player_request(player, body, encode(&m, NULL, 0, body), reply, &len) == PLAYER_RECORDED ? get_le16(reply + 18) : 0;
}

static void test_boots(void **state)
{
	(void)state;
	begin(TRACE_GUEST);
	put(GUEST, TRACE_UNKNOWN, NULL, 0, TRACE_NOTE_REGISTERED); // the first one is no restart
	stop(GUEST, 1);
	put_version(100);
	go(GUEST);
	stop(GUEST, 2);
	put(GUEST, TRACE_UNKNOWN, NULL, 0, TRACE_NOTE_GONE);
	put(GUEST, TRACE_UNKNOWN, NULL, 0, TRACE_NOTE_REGISTERED);
	stop(GUEST, 3);
	go(GUEST);
	stop(GUEST, 4);
	put_version(200);
	open_trace();
	assert_int_equal(next_pc(), 1);
	assert_int_equal(ask_version(), 100);
	player_resume(player);
	assert_int_equal(next_pc(), 2);
	assert_int_equal(ask_version(), 100);
	player_resume(player);
	assert_int_equal(next(), PLAYER_RESTART);
	assert_int_equal(next_pc(), 3);
	assert_int_equal(ask_version(), 200);
}

// The same stop again is the same stop; a client's view of the stops is not the guest's.
static void test_repetitions(void **state)
{
	(void)state;
	begin(TRACE_GUEST);
	stop(GUEST, 1);
	stop(CLIENT, 1);
	stop(GUEST, 1);
	record_context(0, 'x');
	say(CLIENT, KD_DEBUG_IO_PRINT, "a word of the broker");
	go(CLIENT);
	go(GUEST);
	stop(GUEST, 1); // a loop: here again
	say(GUEST, KD_DEBUG_IO_PROMPT, "well?");
	open_trace();
	assert_int_equal(next_pc(), 1);
	assert_int_equal(ask_context(0), 'x');
	player_resume(player);
	assert_int_equal(next_pc(), 1);
	assert_int_equal(ask_context(0), '-');
	player_resume(player);
	assert_int_equal(next(), PLAYER_PROMPT);
	assert_int_equal(next(), PLAYER_END);
}

// A trace of a plain KDCOM line: frames that were not acknowledged come twice, damaged ones again, SYNC is another boot.
static void test_plain_line(void **state)
{
	(void)state;
	uint8_t frame[KDCOM_FRAME_MAX], body[KD_DEBUG_IO_SIZE + 2] = { 0x30, 0x32, 0, 0, 0, 0, 0, 0, 2 };
	size_t len = trace_frame_make(KD_PACKET_DEBUG_IO, 0x80800800, body, sizeof(body), frame);

	begin("some line");
	put(0, TRACE_FROM_TARGET, frame, len, NULL);
	put(0, TRACE_FROM_TARGET, frame, len, NULL);
	stop(0, 1);
	frame[20] ^= 1;
	put(0, TRACE_FROM_TARGET, frame, len, NULL);
	frame[20] ^= 1;
	record_read(0, 0x1000, "abc", 3);
	put(0, TRACE_FROM_TARGET, frame, len, NULL);
	open_trace();
	assert_int_equal(next(), PLAYER_PRINT);
	assert_int_equal(next(), PLAYER_STOP);
	must_read(0x1000, 3, "abc", PLAYER_RECORDED);
	player_resume(player);
	assert_int_equal(next(), PLAYER_RESTART);
	assert_int_equal(next(), PLAYER_PRINT);
	assert_int_equal(next(), PLAYER_END);
}

static void test_first_talker(void **state)
{
	(void)state;
	begin("said only");
	say(GUEST, KD_DEBUG_IO_PRINT, "nobody asks");
	stop(CLIENT, 5);
	record_context(0, 'q');
	open_trace();
	assert_int_equal(next_pc(), 5);
	assert_int_equal(ask_context(0), 'q');
}

// A file that ends in the middle of a block is played as far as it goes.
static void test_cut_file(void **state)
{
	(void)state;
	begin(TRACE_GUEST);
	stop(GUEST, 1);
	size_t whole = file_len;
	go(GUEST);
	stop(GUEST, 2);
	for (size_t len = whole; len < file_len; len++) {
		const char *problem;
		uint8_t *part = malloc(len);
		memcpy(part, file, len);
		assert_int_equal(player_create(part, len, &player, &problem), PLAYER_OK);
		assert_int_equal(next_pc(), 1);
		player_resume(player);
		assert_int_equal(next(), PLAYER_END);
		teardown(NULL);
		free(part);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, teardown)
	const struct CMUnitTest tests[] = { T(test_no_trace), T(test_nothing_recorded), T(test_lying_reply), T(test_memory), T(test_stops_are_apart),
					    T(test_writes),   T(test_boots),		 T(test_repetitions), T(test_plain_line), T(test_first_talker),
					    T(test_cut_file) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
