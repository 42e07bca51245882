// SPDX-License-Identifier: MIT
// The text of endpoints, and serial lines that nobody else may have.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "util/endpoint.h"

static void must_fail(struct error *error, int code)
{
	assert_non_null(error);
	assert_int_equal(error->code, code);
	assert_null(strchr(error->text, '\n'));
	error_free(error);
}

static void test_what_is_no_endpoint(void **state)
{
	static const char *const texts[] = { "", "x", "vm:x", "unix:", "tcp:", "tcp:host", "tcp::5000", "tcp:host:0", "serial:", "serial:,9600",
					     "serial:/dev/x,", "serial:/dev/x,baud=", "serial:/dev/x,9600,8n1", "serial:/dev/x,0", "serial:/dev/x,-5",
					     "serial:/dev/x,99999999999", "serial:/dev/x,12345" };
	struct endpoint e = { .baud = 77 };
	char text[400] = "unix:";

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		must_fail(endpoint_parse(texts[i], &e), EINVAL);
	memset(text + 5, 'a', 108);
	must_fail(endpoint_parse(text, &e), EINVAL); // longer than any socket's path
	memcpy(text, "serial:", 7);
	memset(text + 7, 'a', ENDPOINT_PATH_MAX);
	must_fail(endpoint_parse(text, &e), EINVAL);
	assert_int_equal(e.baud, 77); // untouched
}

static void test_what_is_one(void **state)
{
	struct endpoint e;

	(void)state;
	assert_null(endpoint_parse("unix:/run/x", &e));
	assert_int_equal(e.kind, ENDPOINT_UNIX);
	assert_string_equal(e.path, "/run/x");
	assert_null(endpoint_parse("tcp:[::1]:5000", &e));
	assert_int_equal(e.kind, ENDPOINT_TCP);
	assert_string_equal(e.host.host, "::1");
	assert_null(endpoint_parse("serial:/dev/ttyS0", &e));
	assert_int_equal(e.kind, ENDPOINT_SERIAL);
	assert_int_equal(e.baud, ENDPOINT_BAUD_DEFAULT);
	assert_null(endpoint_parse("serial:/dev/ttyS0,9600", &e));
	assert_int_equal(e.baud, 9600);
	assert_null(endpoint_parse("serial:/dev/ttyS0,baud=57600", &e));
	assert_int_equal(e.baud, 57600);
	assert_string_equal(e.path, "/dev/ttyS0");
}

static void test_refusals_of_the_system(void **state)
{
	struct endpoint e = { .kind = ENDPOINT_UNIX, .path = "/nonexistent/kd.sock" };
	int fd = -1;

	(void)state;
	must_fail(endpoint_connect(&e, 100, &fd), ENOENT);
	memset(e.path, 'a', 150);
	must_fail(endpoint_connect(&e, 100, &fd), ENAMETOOLONG);
	assert_null(endpoint_parse("serial:/dev/null", &e));
	must_fail(endpoint_connect(&e, 100, &fd), ENOTTY);
	assert_int_equal(fd, -1);
}

static void test_a_line_is_raw_and_for_one(void **state)
{
	int controller = posix_openpt(O_RDWR | O_NOCTTY), fd = -1, other = -1;
	struct endpoint e = { .kind = ENDPOINT_SERIAL, .baud = 9600 };
	struct termios settings;
	uint8_t bytes[256], seen[256];

	(void)state;
	assert_true(controller >= 0 && grantpt(controller) == 0 && unlockpt(controller) == 0);
	assert_int_equal(ptsname_r(controller, e.path, sizeof(e.path)), 0);
	assert_null(endpoint_connect(&e, 100, &fd));
	must_fail(endpoint_connect(&e, 100, &other), EBUSY);
	assert_int_equal(tcgetattr(fd, &settings), 0);
	assert_int_equal(cfgetospeed(&settings), B9600);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	assert_int_equal(read(controller, seen, sizeof(seen)), sizeof(seen));
	assert_memory_equal(bytes, seen, sizeof(seen));
	assert_int_equal(read(fd, seen, 1), -1); // nothing is echoed, and nothing is waited for
	assert_int_equal(errno, EAGAIN);
	close(fd);
	assert_null(endpoint_connect(&e, 100, &fd)); // it is free again
	close(fd);
	close(controller);
}

static void test_tcp_waits_for_nobody(void **state)
{
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	struct endpoint e = { .kind = ENDPOINT_TCP, .host = { .host = "127.0.0.1", .port = "1" } };
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = -1;
	unsigned port;

	(void)state;
	assert_int_equal(listen(listener, 1), 0); // binds to a port of the kernel's choice
	assert_int_equal(getsockname(listener, (struct sockaddr *)&bound, &len), 0);
	port = (unsigned)((uint8_t *)&bound)[2] << 8 | ((uint8_t *)&bound)[3];
	snprintf(e.host.port, sizeof(e.host.port), "%u", port);
	assert_null(endpoint_connect(&e, 1000, &fd));
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	close(listener);
	fd = -1;
	must_fail(endpoint_connect(&e, 1000, &fd), ECONNREFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_no_endpoint),
		cmocka_unit_test(test_what_is_one),
		cmocka_unit_test(test_refusals_of_the_system),
		cmocka_unit_test(test_a_line_is_raw_and_for_one),
		cmocka_unit_test(test_tcp_waits_for_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
