// SPDX-License-Identifier: MIT
// A debugger's connection on the real loop: what is called of whoever has left.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/socket.h>
#include <unistd.h>

#include "serve/client.h"

static unsigned breakins;
static bool has_left;

static void on_packet(void *arg, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	(void)arg, (void)kd_type, (void)body, (void)body_len;
}

static void on_nothing(void *arg)
{
	(void)arg;
	assert_false(has_left);
}

static void on_breakin(void *arg)
{
	(void)arg;
	assert_false(has_left);
	breakins++;
}

static bool is_reply_near(void *arg)
{
	(void)arg;
	assert_false(has_left);
	return false;
}

static void on_left(void *arg)
{
	(void)arg;
	assert_false(has_left);
	has_left = true;
}

static const struct client_events events = {
	.packet = on_packet, .sent = on_nothing, .given_up = on_nothing, .reset = on_nothing, .resend = on_nothing, .breakin = on_breakin,
	.is_reply_near = is_reply_near, .turn = on_nothing, .left = on_left,
};

// is_polled: the loop is made to believe that this one speaks again at once, so that its end is found by a look and not by epoll.
static void one_that_hangs_up(bool is_polled)
{
	struct loop loop;
	struct client *client;
	int fds[2];

	breakins = 0;
	has_left = false;
	assert_null(loop_init(&loop));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	assert_null(client_create(&loop, fds[0], &events, NULL, &client));
	assert_int_equal(write(fds[1], "b", 1), 1);
	assert_null(loop_turn(&loop, 1000));
	assert_int_equal(breakins, 1);
	assert_int_equal(write(fds[1], "b", 1), 1);
	close(fds[1]);
	while (!has_left) {
		if (is_polled && loop.polled_count)
			loop.polled[0]->polling = (struct polling){ .window_ns = POLLING_MAX_NS };
		assert_null(loop_turn(&loop, 1000));
	}
	assert_int_equal(breakins, 2); // what it still said
	assert_int_equal(loop.polled_count, 0);
	client_destroy(client);
	loop_deinit(&loop);
}

static void test_who_hangs_up_is_not_asked_about(void **state)
{
	(void)state;
	one_that_hangs_up(false);
	one_that_hangs_up(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_hangs_up_is_not_asked_about),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
