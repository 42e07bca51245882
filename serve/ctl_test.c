// SPDX-License-Identifier: MIT
// Requests on the control socket, good, bad and cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/ctl.h"
#include "util/sock.h"

static enum ctl_command parse(const char *line, const char **why)
{
	*why = NULL;
	return ctl_parse(line, strlen(line), why).command;
}

static struct ctl_request parse_well(const char *line)
{
	const char *why = NULL;
	struct ctl_request request = ctl_parse(line, strlen(line), &why);

	assert_null(why);
	return request;
}

static void test_requests(void **state)
{
	const char *why;

	(void)state;
	assert_int_equal(parse("{\"cmd\":\"status\"}", &why), CTL_STATUS);
	assert_int_equal(parse(" { \"cmd\" : \"stats\", \"more\": [1, {}] } ", &why), CTL_STATS);
	assert_int_equal(parse("{\"cmd\":\"history\"}", &why), CTL_HISTORY);
	assert_int_equal(parse("{\"cmd\":\"trace\"}", &why), CTL_TRACE);
	assert_null(why);
}

static void test_control(void **state)
{
	struct ctl_request r = parse_well("{\"cmd\":\"control\",\"do\":\"take\",\"client\":4294967295,\"force\":true}");

	(void)state;
	assert_int_equal(r.command, CTL_CONTROL);
	assert_int_equal(r.control, CTL_CONTROL_TAKE);
	assert_int_equal(r.client, UINT32_MAX);
	assert_true(r.is_forced);
	r = parse_well("{\"cmd\":\"control\",\"do\":\"give\",\"force\":false,\"why\":[]}");
	assert_int_equal(r.control, CTL_CONTROL_GIVE);
	assert_int_equal(r.client, 0);
	assert_false(r.is_forced);
	assert_int_equal(parse_well("{\"cmd\":\"control\",\"do\":\"show\"}").control, CTL_CONTROL_SHOW);
}

static void test_history_is_ascii(void **state)
{
	const uint8_t bytes[] = { 'a', 0, '\t', '\n', '\r', 0x1B, '\\', 0x7E, 0x7F, 0x80, 0xFF };
	char *text = ctl_escape(bytes, sizeof(bytes)), *none = ctl_escape(NULL, 0);

	(void)state;
	assert_string_equal(text, "a\\x00\t\n\\x0D\\x1B\\~\\x7F\\x80\\xFF");
	assert_string_equal(none, "");
	free(text);
	free(none);
}

#define CLIENT_OF(text) "{\"cmd\":\"control\",\"do\":\"take\",\"client\":" text "}"

static void test_refusals(void **state)
{
	static const char *const bad[] = {
		"", " ", "{", "}", "[]", "[\"cmd\"]", "null", "\"status\"", "5", "{}", "{\"cmd\":5}", "{\"cmd\":null}", "{\"cmd\":[\"status\"]}",
		"{\"CMD\":\"status\"}", "{\"cmd\":\"\"}", "{\"cmd\":\"statuses\"}", "{\"cmd\":\"status", "{\"cmd\":\"\\ud800\"}", "\xff\xfe",
		"{\"cmd\":\"control\"}", "{\"cmd\":\"control\",\"do\":\"steal\"}", "{\"cmd\":\"control\",\"do\":1}", "{\"cmd\":\"control\",\"do\":\"Take\"}",
		CLIENT_OF("0"), CLIENT_OF("-1"), CLIENT_OF("1.5"), CLIENT_OF("4294967296"), CLIENT_OF("1e300"), CLIENT_OF("\"1\""), CLIENT_OF("null"),
		CLIENT_OF("true"), CLIENT_OF("[1]"), CLIENT_OF("1,\"force\":1"), CLIENT_OF("1,\"force\":null"), CLIENT_OF("1,\"force\":\"true\""),
	};
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (parse(bad[i], &why) != CTL_BAD || !why)
			fail_msg("'%s' was not refused with a reason", bad[i]);
	}
}

static void test_length_is_what_counts(void **state)
{
	const char *why = NULL;
	char deep[CTL_LINE_MAX];

	(void)state;
	assert_int_equal(ctl_parse("{\"cmd\":\"status\"}", 15, &why).command, CTL_BAD); // one byte short
	memset(deep, '[', sizeof(deep));
	assert_int_equal(ctl_parse(deep, sizeof(deep), &why).command, CTL_BAD);
}

// ---- Over a socket --------------------------------------------------------------------------------------------

struct broker_of_this {
	struct loop loop;
	char folder[32], path[64];
	struct ctl *ctl;
	int client; // connected to it
	int asker_pid, trace_fd;
	struct ctl_request asked;
};

static void on_control(void *arg, const struct ctl_request *request, int asker_pid, cJSON *ret)
{
	struct broker_of_this *b = arg;

	b->asked = *request;
	b->asker_pid = asker_pid;
	cJSON_AddStringToObject(ret, "result", "taken");
}

static const uint8_t *on_history(void *arg, size_t *ret_len)
{
	(void)arg;
	*ret_len = 3;
	return (const uint8_t *)"a\"\x01";
}

static void on_trace(void *arg, int fd)
{
	struct broker_of_this *b = arg;

	b->trace_fd = fd;
}

static const struct ctl_ops with_trace = { .control = on_control, .history = on_history, .trace = on_trace };
static const struct ctl_ops without_trace = { .control = on_control, .history = on_history };

static void start(struct broker_of_this *b, const struct ctl_ops *ops)
{
	*b = (struct broker_of_this){ .folder = "/tmp/vmkd-ctl-XXXXXX", .trace_fd = -1 };
	assert_non_null(mkdtemp(b->folder));
	snprintf(b->path, sizeof(b->path), "%s/ctl.sock", b->folder);
	assert_null(loop_init(&b->loop));
	assert_null(ctl_create(&b->loop, b->path, ops, b, &b->ctl));
	assert_null(sock_connect_unix(b->path, SOCK_STREAM, SOCK_NONBLOCK, &b->client));
}

static void stop(struct broker_of_this *b)
{
	close(b->client);
	ctl_destroy(b->ctl);
	loop_deinit(&b->loop);
	assert_int_equal(rmdir(b->folder), 0);
}

// Sends the text and lets the broker work. -> what came, valid until the next call.
static const char *talk(struct broker_of_this *b, const char *text)
{
	static char answer[1024];
	ssize_t len;

	assert_int_equal(send(b->client, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	for (int i = 0; i < 4; i++)
		assert_null(loop_turn(&b->loop, 0));
	len = recv(b->client, answer, sizeof(answer) - 1, MSG_DONTWAIT);
	answer[len > 0 ? len : 0] = '\0';
	return answer;
}

static void test_control_over_a_socket(void **state)
{
	struct broker_of_this b;

	(void)state;
	start(&b, &with_trace);
	assert_string_equal(talk(&b, "{\"cmd\":\"control\",\"do\":\"take\",\"client\":3}\n"), "{\"result\":\"taken\"}\n");
	assert_int_equal(b.asked.client, 3);
	assert_int_equal(b.asker_pid, getpid());
	assert_string_equal(talk(&b, "{\"cmd\":\"history\"}\n"), "{\"text\":\"a\\\"\\\\x01\"}\n");
	stop(&b);
}

static void test_a_trace_takes_the_connection(void **state)
{
	struct broker_of_this b;

	(void)state;
	start(&b, &with_trace);
	assert_string_equal(talk(&b, "{\"cmd\":\"trace\"}\n{\"cmd\":\"history\"}\n"), "{\"ok\":true}\n"); // and nothing else is answered
	assert_int_not_equal(b.trace_fd, -1);
	assert_int_equal(send(b.trace_fd, "file", 4, MSG_NOSIGNAL), 4);
	assert_string_equal(talk(&b, "x"), "file");
	stop(&b); // whose connections are not touched by it
	assert_int_equal(close(b.trace_fd), 0);
}

static void test_a_broker_that_cannot_trace(void **state)
{
	struct broker_of_this b;

	(void)state;
	start(&b, &without_trace);
	assert_non_null(strstr(talk(&b, "{\"cmd\":\"trace\"}\n"), "\"error\""));
	assert_non_null(strstr(talk(&b, "{\"cmd\":\"history\"}\n"), "\"text\"")); // and goes on
	stop(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_control),
		cmocka_unit_test(test_history_is_ascii),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_length_is_what_counts),
		cmocka_unit_test(test_control_over_a_socket),
		cmocka_unit_test(test_a_trace_takes_the_connection),
		cmocka_unit_test(test_a_broker_that_cannot_trace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
