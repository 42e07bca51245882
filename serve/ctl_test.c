// SPDX-License-Identifier: MIT
// Requests on the control socket, good, bad and cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "serve/ctl.h"

static enum ctl_command parse(const char *line, const char **why)
{
	*why = NULL;
	return ctl_parse(line, strlen(line), why);
}

static void test_requests(void **state)
{
	const char *why;

	(void)state;
	assert_int_equal(parse("{\"cmd\":\"status\"}", &why), CTL_STATUS);
	assert_int_equal(parse(" { \"cmd\" : \"stats\", \"more\": [1, {}] } ", &why), CTL_STATS);
	assert_null(why);
}

static void test_refusals(void **state)
{
	static const char *const bad[] = {
		"", " ", "{", "}", "[]", "[\"cmd\"]", "null", "\"status\"", "5", "{}", "{\"cmd\":5}", "{\"cmd\":null}", "{\"cmd\":[\"status\"]}",
		"{\"CMD\":\"status\"}", "{\"cmd\":\"\"}", "{\"cmd\":\"statuses\"}", "{\"cmd\":\"status", "{\"cmd\":\"\\ud800\"}", "\xff\xfe",
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
	assert_int_equal(ctl_parse("{\"cmd\":\"status\"}", 15, &why), CTL_BAD); // one byte short
	memset(deep, '[', sizeof(deep));
	assert_int_equal(ctl_parse(deep, sizeof(deep), &why), CTL_BAD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_length_is_what_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
