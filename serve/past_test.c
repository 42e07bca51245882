// SPDX-License-Identifier: MIT
// When the kernel's own buffer is asked for, and when not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "serve/past.h"
#include "wire/kdapi.h"

static struct past p;
static struct session s;

static bool asks(void)
{
	uint8_t body[KD_MANIPULATE_SIZE];
	return past_request(&p, body) != 0;
}

static void comes(uint32_t dialect, uint32_t state)
{
	past_registered(&p, &(struct link_guest){ .dialect = dialect, .state = state });
}

static int setup(void **state)
{
	static const struct session_ops ops = { 0 };

	(void)state;
	memset(&p, 0, sizeof(p));
	session_init(&s, &ops, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	session_deinit(&s);
	return 0;
}

static void a_boot_that_is_heard_is_not_asked(void **state)
{
	(void)state;
	assert_false(asks());
	comes(LINK_DIALECT_VMKD, GUEST_NOT_PRESENT);
	assert_false(asks());
	comes(LINK_DIALECT_VMKD, GUEST_PHASE1); // the same kernel, later
	assert_false(asks());
}

static void other_dialects_are_not_asked(void **state)
{
	(void)state;
	comes(LINK_DIALECT_KDCOM, GUEST_PHASE1);
	assert_false(asks());
	past_gone(&p, LINK_GONE_SHUTDOWN);
	comes(LINK_DIALECT_VIRTUALKD, GUEST_PHASE1);
	assert_false(asks());
}

static void each_kernel_is_asked_once(void **state)
{
	(void)state;
	comes(LINK_DIALECT_VMKD, GUEST_PHASE1);
	assert_true(asks());
	past_reply(&p, &s, NULL, 0); // it cannot be had
	assert_false(asks());
	past_reply(&p, &s, NULL, 0);
	past_gone(&p, LINK_GONE_AREA);
	comes(LINK_DIALECT_VMKD, GUEST_PHASE1);
	assert_false(asks());
	past_gone(&p, LINK_GONE_RESET);
	comes(LINK_DIALECT_VMKD, GUEST_PHASE1 | GUEST_BOOTED_ALONE);
	assert_true(asks());
	past_gone(&p, LINK_GONE_RESET); // before it has answered
	assert_false(asks());
	comes(LINK_DIALECT_VMKD, 0);
	assert_false(asks());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_boot_that_is_heard_is_not_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(other_dialects_are_not_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(each_kernel_is_asked_once, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
