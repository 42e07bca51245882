// SPDX-License-Identifier: MIT
// Requests on the control socket, good, bad and cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "serve/ctl.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_control),
		cmocka_unit_test(test_history_is_ascii),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_length_is_what_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
