// SPDX-License-Identifier: MIT
// Readers that do not read, hang up or come too many; endpoints that come and go; what is in the file then.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "serve/tap.h"

#define FILE_MAX (8u * 1024u * 1024u)

static struct loop loop;
static struct tap *tap;
static uint8_t file[FILE_MAX];
static size_t file_len;
static struct pcapng_reader reader;

static int setup(void **state)
{
	(void)state;
	assert_null(loop_init(&loop));
	assert_null(tap_create(&loop, &tap));
	assert_int_equal(tap_endpoint(tap, TRACE_GUEST, "a kernel"), 0);
	file_len = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tap_destroy(tap);
	loop_deinit(&loop);
	return 0;
}

// The end that a program has of a trace.
static int add_reader(void)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	if (tap_add_reader(tap, ends[0]))
		return ends[1];
	close(ends[1]);
	return -1;
}

static void turn(void)
{
	for (int i = 0; i < 4; i++)
		assert_null(loop_turn(&loop, 0));
}

// -> false: the end.
static bool take(int fd)
{
	ssize_t len = recv(fd, file + file_len, sizeof(file) - file_len, MSG_DONTWAIT);

	if (len > 0)
		file_len += (size_t)len;
	return len > 0 || (len < 0 && errno == EAGAIN);
}

static void read_to_end(int fd)
{
	shutdown(fd, SHUT_WR);
	do
		turn();
	while (take(fd));
	close(fd);
}

struct found {
	unsigned packets, notes;
	uint64_t dropped; // told by packets
	uint64_t last_drop_count;
	struct pcapng_packet last;
};

static struct found look(void)
{
	struct found f = { 0 };
	struct pcapng_packet p;
	size_t at = 0, used;

	pcapng_reader_init(&reader);
	for (;; at += used) {
		enum pcapng_outcome outcome = pcapng_read(&reader, file + at, file_len - at, &used, &p);
		assert_int_not_equal(outcome, PCAPNG_BAD);
		if (outcome == PCAPNG_MORE)
			break;
		if (outcome == PCAPNG_OTHER)
			continue;
		f.packets += p.len > 0;
		f.notes += p.len == 0;
		f.dropped += p.drop_count;
		f.last = p;
	}
	assert_int_equal(at, file_len); // no half block
	return f;
}

static void say(uint32_t endpoint, const char *text)
{
	tap_frame(tap, endpoint, TRACE_FROM_TARGET, KDCOM_WHOLE, (const uint8_t *)text, strlen(text), NULL, 0);
}

static void flood(uint32_t endpoint, unsigned count)
{
	static const uint8_t body[KDCOM_BODY_MAX];

	while (count--)
		tap_packet(tap, endpoint, TRACE_FROM_TARGET, 2, body, sizeof(body));
}

// ---- Refusals ----------------------------------------------------------------------------------------------

static void test_nobody(void **state)
{
	(void)state;
	assert_false(tap_is_on(NULL));
	assert_false(tap_is_on(tap));
	say(0, "x");
	flood(TAP_NO_ENDPOINT, 1);
	tap_endpoint_gone(tap, TAP_NO_ENDPOINT);
	assert_int_equal(tap_reader_count(tap), 0);
}

static void test_too_many_readers(void **state)
{
	(void)state;
	int fds[TAP_READERS_MAX];

	for (unsigned i = 0; i < TAP_READERS_MAX; i++)
		assert_true((fds[i] = add_reader()) >= 0);
	assert_int_equal(add_reader(), -1);
	close(fds[3]);
	turn();
	assert_int_equal(tap_reader_count(tap), TAP_READERS_MAX - 1);
	assert_true((fds[3] = add_reader()) >= 0);
	for (unsigned i = 0; i < TAP_READERS_MAX; i++)
		close(fds[i]);
	turn();
	assert_false(tap_is_on(tap));
}

static void test_too_many_endpoints(void **state)
{
	(void)state;
	int fd = add_reader();

	for (uint32_t i = 1; i < TAP_ENDPOINTS_MAX; i++)
		assert_int_equal(tap_endpoint(tap, "client", ""), i);
	assert_int_equal(tap_endpoint(tap, "one more", ""), TAP_NO_ENDPOINT);
	flood(TAP_NO_ENDPOINT, 3);
	tap_endpoint_gone(tap, 5);
	assert_int_equal(tap_endpoint(tap, "again", ""), 5);
	say(5, "here");
	read_to_end(fd);
	assert_int_equal(look().packets, 1);
	assert_string_equal(reader.interfaces[look().last.interface].name, "again");
}

// What cannot be a frame is not written.
static void test_impossible_frames(void **state)
{
	(void)state;
	static const uint8_t bytes[KDCOM_FRAME_MAX + 1];
	int fd = add_reader();

	tap_frame(tap, 0, TRACE_TO_TARGET, KDCOM_WHOLE, bytes, sizeof(bytes), NULL, 0);
	tap_frame(tap, 0, TRACE_TO_TARGET, KDCOM_WHOLE, bytes, 16, bytes, KDCOM_FRAME_MAX);
	tap_packet(tap, 0, TRACE_TO_TARGET, 2, bytes, KDCOM_BODY_MAX + 1);
	tap_frame(tap, 0, TRACE_TO_TARGET, KDCOM_WHOLE, bytes, 16, bytes, KDCOM_FRAME_MAX - 16);
	read_to_end(fd);
	assert_int_equal(look().packets, 1);
}

// ---- A reader that does not read ---------------------------------------------------------------------------

// It loses its own records and nobody else's, and the file says how many.
static void test_slow_reader(void **state)
{
	(void)state;
	int slow = add_reader(), quick = add_reader();
	const unsigned count = 3000; // 12 MB
	uint32_t client = tap_endpoint(tap, "client 1", "");
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++) {
		flood(0, 1);
		turn();
		file_len = 0;
		assert_true(take(quick));
		bytes += file_len;
	}
	assert_true(bytes > count * (uint64_t)KDCOM_FRAME_MAX);
	read_to_end(quick);
	file_len = 0;
	say(client, "a client's word"); // does not fit
	for (size_t before = 1; file_len != before; turn()) { // all that it has for us
		before = file_len;
		assert_true(take(slow));
	}
	say(client, "and another"); // does
	say(0, "the guest's");
	read_to_end(slow);
	struct found f = look();
	uint64_t dropped = reader.interfaces[0].dropped;
	assert_in_range(dropped, count / 2, count);
	assert_int_equal(f.packets + dropped, count + 2);
	assert_int_equal(reader.interfaces[0].received, count + 1);
	assert_int_equal(reader.interfaces[1].received, 2);
	assert_int_equal(reader.interfaces[1].dropped, 1);
	assert_int_equal(f.dropped, dropped + 1); // each is told where it is missing
	assert_int_equal(f.last.drop_count, dropped);
}

// The sums come even when nothing fits behind the loss, and those of endpoints that nobody could be told of are the guest's.
static void test_lost_endpoints(void **state)
{
	(void)state;
	int fd = add_reader();
	unsigned count = 0;

	flood(0, 2000);
	for (; count < 2000; count++) { // more than the reserve holds
		uint32_t client = tap_endpoint(tap, "client", "comes and goes");
		say(client, "lost");
		tap_endpoint_gone(tap, client);
	}
	read_to_end(fd);
	struct found f = look();
	uint64_t dropped = 0;
	for (uint32_t i = 0; i < reader.interface_count; i++)
		dropped += reader.interfaces[i].dropped;
	assert_true(reader.interfaces[0].has_statistics);
	assert_int_equal(f.packets + dropped, 2000 + count);
}

static void test_gone_reader(void **state)
{
	(void)state;
	int gone = add_reader(), there = add_reader();

	close(gone);
	say(0, "one");
	turn();
	assert_int_equal(tap_reader_count(tap), 1);
	say(0, "two");
	read_to_end(there);
	assert_int_equal(look().packets, 2);
	assert_false(tap_is_on(tap));
}

// What a reader says means nothing; it is not kept, and it is no end.
static void test_talking_reader(void **state)
{
	(void)state;
	static const char words[4096];
	int fd = add_reader();

	for (int i = 0; i < 20; i++) {
		assert_true(send(fd, words, sizeof(words), MSG_DONTWAIT) > 0);
		for (int k = 0; k < 8; k++)
			turn();
	}
	say(0, "still");
	read_to_end(fd);
	assert_int_equal(look().packets, 1);
}

// ---- What is in it -----------------------------------------------------------------------------------------

static void test_packets(void **state)
{
	(void)state;
	static const uint8_t head[] = "0000headheadhead", rest[] = "rest";
	uint32_t client = tap_endpoint(tap, "client 7", "pid 12 (windbg)");
	int fd = add_reader();

	tap_frame(tap, client, TRACE_TO_TARGET, KDCOM_BAD_CHECKSUM, head, 16, rest, 4);
	read_to_end(fd);
	struct found f = look();
	assert_int_equal(f.last.len, 20);
	assert_memory_equal(f.last.data, "0000headheadheadrest", 20);
	assert_int_equal(f.last.flags, PCAPNG_OUTBOUND | PCAPNG_ERROR_CRC);
	assert_true(f.last.time_ns > 1600000000000000000u);
	const struct pcapng_interface *e = &reader.interfaces[f.last.interface];
	assert_string_equal(e->name, "client 7");
	assert_string_equal(e->description, "pid 12 (windbg)");
	assert_true(e->has_statistics && e->received == 1 && e->dropped == 0);
	assert_string_equal(reader.interfaces[0].name, TRACE_GUEST);
}

// Whole frames of packets that had none, with ids that tell one from the next in each direction.
static void test_made_frames(void **state)
{
	(void)state;
	static const uint8_t body[] = { 1, 2, 3 };
	static const enum trace_direction ways[] = { TRACE_FROM_TARGET, TRACE_TO_TARGET, TRACE_FROM_TARGET, TRACE_FROM_TARGET, TRACE_TO_TARGET };
	static const uint32_t ids[] = { 0, 0, 1, 0, 1 };
	struct trace_frame f;

	for (unsigned i = 0; i < 5; i++) { // while nobody reads nothing is counted
		file_len = 0;
		int fd = add_reader();
		for (unsigned k = 0; k <= i; k++)
			tap_packet(tap, 0, ways[k], 7, body, sizeof(body));
		read_to_end(fd);
		struct found found = look();
		assert_int_equal(found.packets, i + 1);
		trace_frame_read(found.last.data, found.last.len, &f);
		assert_true(f.kind == TRACE_DATA && f.damage == KDCOM_WHOLE && f.type == 7 && f.body_len == 3);
		if (i == 0)
			assert_int_equal(f.id, KDCOM_ID_INITIAL | ids[0]);
		assert_int_equal(trace_direction_of(found.last.flags), ways[i]);
		teardown(NULL);
		setup(NULL);
	}
}

static void test_others(void **state)
{
	(void)state;
	int fd = add_reader();
	struct trace_frame f;

	tap_note(tap, 0, TRACE_NOTE_REGISTERED);
	tap_control(tap, 0, TRACE_TO_TARGET, KDCOM_RESEND);
	tap_breakin(tap, 0);
	read_to_end(fd);
	struct found found = look();
	assert_int_equal(found.notes, 1);
	assert_int_equal(found.packets, 2);
	trace_frame_read(found.last.data, found.last.len, &f);
	assert_int_equal(f.kind, TRACE_BREAKIN);
	assert_int_equal(trace_direction_of(found.last.flags), TRACE_TO_TARGET);
}

// What the newest reader is told first is for nobody else.
static void test_before(void **state)
{
	(void)state;
	static const uint8_t body[] = { 1 };
	int old = add_reader(), new = add_reader();

	tap_packet_before(tap, 0, TRACE_FROM_TARGET, 7, body, sizeof(body));
	tap_packet_before(tap, 0, TRACE_FROM_TARGET, 7, body, KDCOM_BODY_MAX + 1);
	tap_packet_before(tap, TAP_NO_ENDPOINT, TRACE_FROM_TARGET, 7, body, sizeof(body));
	read_to_end(new);
	struct found f = look();
	assert_int_equal(f.packets, 1);
	assert_memory_equal(f.last.comment, "of before", 9);
	file_len = 0;
	read_to_end(old);
	assert_int_equal(look().packets, 0);
	tap_packet_before(tap, 0, TRACE_FROM_TARGET, 7, body, sizeof(body)); // nobody
}

// The broker's end ends the file in order.
static void test_end_of_the_broker(void **state)
{
	(void)state;
	int fd = add_reader();

	say(0, "last");
	tap_destroy(tap);
	tap = NULL;
	while (take(fd))
		;
	close(fd);
	assert_int_equal(look().packets, 1);
	assert_true(reader.interfaces[0].has_statistics);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { T(test_nobody),	  T(test_too_many_readers), T(test_too_many_endpoints), T(test_impossible_frames),
					    T(test_slow_reader),  T(test_lost_endpoints),   T(test_gone_reader),	T(test_talking_reader),
					    T(test_packets),	  T(test_made_frames),	    T(test_others),		T(test_before), T(test_end_of_the_broker) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
