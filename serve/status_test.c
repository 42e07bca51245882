// SPDX-License-Identifier: MIT
// What programs are told of link, guest and RAM.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "serve/status.h"

static cJSON *json;

static int set_up(void **state)
{
	(void)state;
	json = cJSON_CreateObject();
	return json ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	cJSON_Delete(json);
	return 0;
}

// What was added, as one line without blanks.
static void said(const char *expected)
{
	char *text = cJSON_PrintUnformatted(json);

	assert_string_equal(text, expected);
	cJSON_free(text);
}

static void a_link(void **state)
{
	const struct guest_link link = { .calls_before = 7 };

	(void)state;
	status_add_link(json, &link);
	said("{\"abi\":\"1.0\",\"link_version\":4,\"calls_before\":7}");
}

static void a_link_that_refused(void **state)
{
	const struct guest_link link = { .refused_version = 0x20001, .library_version = 9 };

	(void)state;
	status_add_link(json, &link);
	said("{\"abi\":\"1.0\",\"link_version\":4,\"refused_version\":\"2.1\",\"library_version\":9,\"calls_before\":0}");
}

static void guests(void **state)
{
	struct link_guest guest = { .version = 0x10002, .arch = ARCH_X64, .state = GUEST_BOOTED_ALONE | GUEST_PHASE1 };

	(void)state;
	status_add_guest(json, &guest);
	said("{\"arch\":\"x64\",\"dialect\":\"vmkd\",\"guest_version\":\"1.2\",\"booted_alone\":true}");
	tear_down(NULL);
	set_up(NULL);
	guest = (struct link_guest){ .version = 0x101, .arch = ARCH_X86, .dialect = LINK_DIALECT_VIRTUALKD };
	status_add_guest(json, &guest);
	said("{\"arch\":\"x86\",\"dialect\":\"virtualkd\",\"booted_alone\":false}");
	tear_down(NULL);
	set_up(NULL);
	guest = (struct link_guest){ .dialect = 99 };
	status_add_guest(json, &guest);
	said("{\"booted_alone\":false}");
}

static void guests_that_have_gone(void **state)
{
	(void)state;
	status_add_gone(json, 0);
	status_add_gone(json, 99);
	said("{}");
	status_add_gone(json, LINK_GONE_BYE);
	said("{\"gone\":\"bye\"}");
}

static void ram_is(const struct ram *ram, enum answers_mode mode, bool is_readable, enum status_nested nested, const char *expected)
{
	status_add_ram(json, ram, mode, is_readable, nested);
	said(expected);
	tear_down(NULL);
	set_up(NULL);
}

static void ram(void **state)
{
	static const uint8_t page[1];
	struct ram ram = { 0 };

	(void)state;
	ram_is(&ram, ANSWERS_ON, true, STATUS_NESTED_UNKNOWN, "{\"ram\":{\"mode\":\"on\",\"way\":\"none\"}}");
	ram.piece_count = 2; // a video card's first
	ram_is(&ram, ANSWERS_OFF, true, STATUS_NESTED_NO, "{\"ram\":{\"mode\":\"off\",\"way\":\"process\",\"nested\":false}}");
	ram.pieces[1].host = page;
	ram_is(&ram, ANSWERS_CHECK, true, STATUS_NESTED_YES, "{\"ram\":{\"mode\":\"check\",\"way\":\"file\",\"nested\":true}}");
	ram_is(&ram, ANSWERS_ON, false, STATUS_NESTED_UNKNOWN, "{\"ram\":{\"mode\":\"on\",\"way\":\"none\"}}");
}

static void nested_guests(void **state)
{
	struct link_head wait = { .type = LINK_WAIT, .vcpu = 3 };

	(void)state;
	assert_int_equal(status_nested_of(&wait), STATUS_NESTED_NO);
	wait.flags = LINK_F_NESTED;
	assert_int_equal(status_nested_of(&wait), STATUS_NESTED_YES);
	wait.vcpu = LINK_VCPU_UNKNOWN;
	wait.flags = 0;
	assert_int_equal(status_nested_of(&wait), STATUS_NESTED_UNKNOWN); // debugcon
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = { T(a_link), T(a_link_that_refused), T(guests), T(guests_that_have_gone), T(ram), T(nested_guests) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
