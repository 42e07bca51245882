// SPDX-License-Identifier: MIT
// A monitor at the other end of a socket pair that says what it likes.
#include "target/monitor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "target/stream.h"

#define GREETING "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n"
#define AGREED "{\"return\":{},\"id\":1}\n"

static int peer = -1;

// The peer has said `text` already, and then goes or stays.
static struct vmkd_error *meet(const char *text, bool stays, struct monitor **ret)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(write(fds[1], text, strlen(text)), (ssize_t)strlen(text));
	peer = fds[1];
	if (!stays)
		shutdown(peer, SHUT_WR);
	struct vmkd_error *error = monitor_open_fd(fds[0], "vm", stream_now() + 200, ret);
	if (error)
		close(fds[0]);
	return error;
}

static void part(struct monitor *monitor)
{
	monitor_close(monitor);
	close(peer);
}

static void must_fail(struct vmkd_error *error, enum vmkd_error_code code, const char *word)
{
	assert_non_null(error);
	assert_int_equal(error->code, code);
	assert_non_null(strstr(error->message, word));
	assert_null(strchr(error->message, '\n'));
	vmkd_error_destroy(error);
}

static void who_is_no_monitor_is_refused(void **state)
{
	static const struct {
		const char *says;
		enum vmkd_error_code code;
	} CASES[] = {
		{ "", VMKD_E_GONE },
		{ "{\"QMP\":{}}", VMKD_E_GONE }, // no newline
		{ "220 mail.example\n", VMKD_E_PROTOCOL },
		{ "[]\n", VMKD_E_PROTOCOL },
		{ "\n", VMKD_E_PROTOCOL },
		{ "{\"return\":{}}\n", VMKD_E_PROTOCOL },
		{ "{\"QMP\":1}\n", VMKD_E_PROTOCOL },
		{ GREETING, VMKD_E_GONE },
		{ GREETING "{\"error\":{\"desc\":\"no\\nthanks\"},\"id\":1}\n", VMKD_E_TARGET },
		{ GREETING "{\"error\":7,\"id\":1}\n", VMKD_E_TARGET },
		{ GREETING "nonsense\n", VMKD_E_PROTOCOL },
	};
	struct monitor *monitor = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
		must_fail(meet(CASES[i].says, false, &monitor), CASES[i].code, "vm");
		part(NULL);
	}
	assert_null(monitor);
}

// As QEMU does it when another client is connected: the connection is made, and nobody speaks.
static void a_monitor_that_does_not_greet_is_anothers(void **state)
{
	struct monitor *monitor = NULL;

	(void)state;
	must_fail(meet("", true, &monitor), VMKD_E_REFUSED, "somebody else");
	part(NULL);
}

static void a_line_without_end_is_not_kept(void **state)
{
	struct monitor *monitor = NULL;
	int fds[2];
	char part_of_it[4096];

	(void)state;
	memset(part_of_it, 'x', sizeof(part_of_it));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	pid_t child = fork();
	if (child == 0) {
		close(fds[0]);
		while (send(fds[1], part_of_it, sizeof(part_of_it), MSG_NOSIGNAL) > 0)
			;
		_exit(0);
	}
	close(fds[1]);
	must_fail(monitor_open_fd(fds[0], "vm", stream_now() + 60000, &monitor), VMKD_E_PROTOCOL, "more than");
	close(fds[0]);
}

static void answers_to_other_questions_are_skipped(void **state)
{
	struct monitor *monitor = NULL;
	char said[16];

	(void)state;
	assert_null(meet(GREETING "{\"event\":\"STOP\"}\n" AGREED "{\"return\":\"of before\",\"id\":1}\n{\"event\":\"RESUME\",\"id\":2}\n"
			 "{\"return\":\"not ours\"}\n{\"return\":\"a\\r\\n\\tb\\u0001  c and what does not fit\",\"id\":2}\n",
			 true, &monitor));
	assert_null(monitor_human(monitor, "info", stream_now() + 1000, said, sizeof(said)));
	assert_string_equal(said, "a b c and what");
	must_fail(monitor_human(monitor, "info", stream_now() + 50, said, sizeof(said)), VMKD_E_TIMEOUT, "vm");
	part(monitor);
	assert_null(meet(GREETING AGREED "{\"return\":{},\"id\":2}\n{\"return\":null,\"id\":3}\n", true, &monitor));
	must_fail(monitor_human(monitor, "info", stream_now() + 1000, said, sizeof(said)), VMKD_E_PROTOCOL, "text");
	must_fail(monitor_human(monitor, "info", stream_now() + 1000, said, sizeof(said)), VMKD_E_PROTOCOL, "text");
	part(monitor);
}

static void what_is_asked_is_one_line(void **state)
{
	struct monitor *monitor = NULL;
	char asked[512] = "", said[16];

	(void)state;
	assert_null(meet(GREETING AGREED "{\"return\":\"\",\"id\":2}\n", true, &monitor));
	assert_null(monitor_human(monitor, "savevm \"a\n", stream_now() + 1000, said, sizeof(said)));
	assert_string_equal(said, "");
	assert_true(read(peer, asked, sizeof(asked) - 1) > 0);
	assert_string_equal(asked, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
				   "{\"execute\":\"human-monitor-command\",\"id\":2,\"arguments\":{\"command-line\":\"savevm \\\"a\\n\"}}\n");
	part(monitor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_is_no_monitor_is_refused),	     cmocka_unit_test(a_monitor_that_does_not_greet_is_anothers),
		cmocka_unit_test(a_line_without_end_is_not_kept),    cmocka_unit_test(answers_to_other_questions_are_skipped),
		cmocka_unit_test(what_is_asked_is_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
