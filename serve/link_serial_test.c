// SPDX-License-Identifier: MIT
// The link to a stock target as a socket that comes and goes. What is said on it is serial_talk_test's.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/guest_link.h"
#include "util/sock.h"
#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"

static struct loop loop;
static struct guest_link *link_under_test;
static struct kdcom target;
static char path[64], from[80], log_text[1024];
static int listener, peer;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t len = strlen(log_text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(log_text + len, sizeof(log_text) - len, format, ap);
	va_end(ap);
}

static void did(const char *expected)
{
	size_t len = strlen(log_text);

	if (len)
		log_text[len - 1] = 0;
	assert_string_equal(log_text, expected);
	log_text[0] = 0;
}

static void on_up(void *arg)
{
	(void)arg;
	note("up ");
}

static void on_down(void *arg)
{
	(void)arg;
	note("down ");
}

static void on_registered(void *arg, const struct link_guest *guest)
{
	(void)arg;
	note("registered(%x) ", guest->arch);
}

static void on_gone(void *arg, enum link_gone reason)
{
	(void)arg;
	note("gone(%d) ", reason);
}

static void on_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	(void)arg;
	(void)body;
	note("packet(%u%s) ", head->kd_type, head->flags & LINK_F_WAITS ? " waits" : "");
}

static void on_waits(void *arg, const struct link_head *head)
{
	(void)arg;
	note("waits(%u) ", head->want);
}

static void on_stats(void *arg)
{
	(void)arg;
	note("stats(%u) ", (unsigned)link_under_test->stats.packets_in);
}

static const struct guest_link_events events = { .up = on_up, .down = on_down, .registered = on_registered, .gone = on_gone, .packet = on_packet,
						  .waits = on_waits, .stats = on_stats };

static void turns(int count)
{
	while (count--)
		assert_null(loop_turn(&loop, 30));
}

// What the target's KDCOM has to say, and what it hears. -> the packets it accepted.
static unsigned talk(void)
{
	uint8_t bytes[8192];
	const uint8_t *out;
	unsigned packets = 0;
	struct kdcom_event ev;
	size_t len, used;
	ssize_t count;

	for (int i = 0; i < 20; i++) {
		kdcom_output(&target, &out, &len);
		if (len)
			assert_int_equal(send(peer, out, len, MSG_NOSIGNAL), len);
		kdcom_output_consume(&target, len);
		turns(1);
		count = recv(peer, bytes, sizeof(bytes), MSG_DONTWAIT);
		len = count > 0 ? (size_t)count : 0;
		for (out = bytes, ev.kind = KDCOM_EV_PACKET; ev.kind != KDCOM_EV_NONE; out += used, len -= used) {
			kdcom_feed(&target, out, len, &used, &ev);
			packets += ev.kind == KDCOM_EV_PACKET;
		}
	}
	return packets;
}

static void say_stop(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };

	put_le32(body, KD_STATE_EXCEPTION);
	put_le64(body + 0x10, 0xFFFFF80000000000u);
	put_le64(body + 0x18, 0xFFFFF80000001000u);
	kdcom_expect(&target, KD_PACKET_MANIPULATE);
	assert_int_equal(kdcom_send(&target, KD_PACKET_STATE_CHANGE, body, sizeof(body), NULL, 0, 0), KDCOM_OK);
}

static void meet(void)
{
	peer = -1;
	for (int i = 0; i < 1000 && peer < 0; i++) {
		turns(1);
		peer = accept(listener, NULL, NULL);
	}
	assert_true(peer >= 0);
	kdcom_init(&target, KDCOM_TARGET);
}

static int setup(void **state)
{
	struct error *error;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/link_serial_test.%d", (int)getpid());
	snprintf(from, sizeof(from), "unix:%s", path);
	error = sock_listen_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &listener);
	if (!error)
		error = loop_init(&loop);
	if (!error)
		error = link_serial_create(&loop, from, &events, NULL, &link_under_test);
	log_text[0] = 0;
	peer = -1;
	return error ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	link_under_test->ops->destroy(link_under_test);
	loop_deinit(&loop);
	close(listener);
	if (peer >= 0)
		close(peer);
	return unlink(path);
}

static void test_what_is_no_stream(void **state)
{
	struct guest_link *link = NULL;
	struct error *error = link_serial_create(&loop, "vm:x", &events, NULL, &link);

	(void)state;
	assert_non_null(error);
	assert_int_equal(error->code, EINVAL);
	assert_null(link);
	error_free(error);
}

static void test_a_stop_and_a_request(void **state)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	(void)state;
	meet();
	say_stop();
	(void)talk();
	did("up registered(0) registered(8664) packet(7 waits)");
	assert_int_equal(link_under_test->pid, getpid());
	assert_string_equal(link_under_test->remark, "");
	put_le32(body, KD_API_GET_VERSION);
	link_under_test->ops->deliver(link_under_test, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), false);
	assert_int_equal(talk(), 1);
	assert_int_equal(kdcom_send(&target, KD_PACKET_MANIPULATE, body, sizeof(body), NULL, 0, 0), KDCOM_OK);
	(void)talk();
	did("packet(2 waits)");
	link_under_test->ops->ask_stats(link_under_test);
	did("");
	turns(2);
	did("stats(1)");
}

static void test_the_target_goes_and_comes(void **state)
{
	(void)state;
	meet();
	turns(2);
	assert_non_null(strstr(link_under_test->remark, "nothing was heard"));
	close(peer);
	turns(1);
	did("up registered(0) down");
	assert_false(link_under_test->is_up);
	assert_true(link_under_test->remark[0]);
	link_under_test->ops->breakin(link_under_test); // swallowed
	link_under_test->ops->resend(link_under_test);
	meet();
	say_stop();
	(void)talk();
	did("up registered(0) registered(8664) packet(7 waits)");
}

static void test_who_hangs_up_at_once_is_not_hammered(void **state)
{
	unsigned count = 0;
	uint64_t begun;

	(void)state;
	for (int i = 0; i < 110; i++) { // the early tries
		meet();
		close(peer);
		turns(1);
	}
	begun = loop_now_ns();
	while (loop_now_ns() - begun < 600000000u) {
		turns(1);
		peer = accept(listener, NULL, NULL);
		if (peer < 0)
			continue;
		count++;
		close(peer);
	}
	peer = -1;
	assert_in_range(count, 0, 4); // one each quarter of a second
}

static void test_a_held_link_does_not_read_on(void **state)
{
	uint8_t print[KD_DEBUG_IO_SIZE + 1] = { 0 };

	(void)state;
	meet();
	(void)talk();
	put_le32(print, KD_DEBUG_IO_PRINT);
	put_le32(print + 8, 1);
	log_text[0] = 0;
	link_under_test->ops->hold(link_under_test, true);
	assert_int_equal(kdcom_send(&target, KD_PACKET_DEBUG_IO, print, sizeof(print), NULL, 0, 0), KDCOM_OK);
	(void)talk();
	did("");
	link_under_test->ops->hold(link_under_test, false);
	(void)talk();
	did("packet(3)");
}

static void test_absent_is_not_connected(void **state)
{
	char byte;

	(void)state;
	meet();
	turns(2);
	link_under_test->ops->set_present(link_under_test, false);
	did("up registered(0)");
	turns(2);
	did("down");
	while (recv(peer, &byte, 1, MSG_DONTWAIT) == 1) // the RESET of the start
		;
	assert_int_equal(recv(peer, &byte, 1, MSG_DONTWAIT), 0);
	close(peer);
	turns(10);
	assert_int_equal(accept(listener, NULL, NULL), -1);
	link_under_test->ops->set_present(link_under_test, true);
	meet();
	did("up registered(0)");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_what_is_no_stream),
		T(test_a_stop_and_a_request),
		T(test_the_target_goes_and_comes),
		T(test_who_hangs_up_at_once_is_not_hammered),
		T(test_a_held_link_does_not_read_on),
		T(test_absent_is_not_connected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
