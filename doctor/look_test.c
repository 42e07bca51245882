// SPDX-License-Identifier: MIT
// What the collectors make of what others say: greetings, brokers' JSON, QEMU's version, symbol paths.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doctor/machine.h"
#include "doctor/look.h"
#include "wire/link.h"

struct greeting {
	struct link_head head;
	struct link_hello hello;
};

static struct greeting right_greeting(void)
{
	return (struct greeting){
		.head = { .type = LINK_HELLO, .body_len = sizeof(struct link_hello) },
		.hello = { .version = LINK_VERSION, .pid = 7, .is_registered = 1, .port_calls = 12, .last_call_ms = 4000,
			   .guest = { .version = 0x10000, .arch = ARCH_X86, .state = GUEST_BOOTED_ALONE } },
	};
}

static void greetings_that_are_none(void **state)
{
	struct greeting g = right_greeting();
	struct doctor_vm vm = { 0 };

	(void)state;
	for (size_t len = 0; len < sizeof(g); len++) { // no length but the right one, with this version
		g.head.body_len = len > sizeof(g.head) ? (uint32_t)(len - sizeof(g.head)) : 0;
		assert_false(look_take_greeting(&vm, &g, len, 5000));
	}
	assert_false(vm.has_calls || vm.is_registered);
	g = right_greeting();
	g.head.type = LINK_STATS;
	assert_false(look_take_greeting(&vm, &g, sizeof(g), 5000));
	g = right_greeting();
	g.head.body_len--;
	assert_false(look_take_greeting(&vm, &g, sizeof(g), 5000));
}

static void a_greeting(void **state)
{
	struct greeting g = right_greeting();
	struct doctor_vm vm = { 0 };

	(void)state;
	assert_true(look_take_greeting(&vm, &g, sizeof(g), 5000));
	assert_true(vm.has_calls && vm.is_registered && !vm.is_waiting);
	assert_int_equal(vm.calls, 12);
	assert_int_equal(vm.call_ms, 1000);
	assert_int_equal(vm.booted_alone, FACT_YES);
	assert_string_equal(vm.arch, "x86");
	assert_string_equal(vm.dialect, "vmkd");
	assert_string_equal(vm.guest_version, "1.0");
	g.hello.last_call_ms = 6000; // after we looked at the clock
	g.hello.guest.dialect = 99;
	g.hello.refused_version = 0x20003;
	g.hello.is_waiting = 1;
	assert_true(look_take_greeting(&vm, &g, sizeof(g), 5000));
	assert_int_equal(vm.call_ms, 0);
	assert_string_equal(vm.dialect, "?");
	assert_string_equal(vm.refused_version, "2.3");
	assert_true(vm.is_waiting);
}

// Of another version nothing is believed but that, whatever its length.
static void greetings_of_other_versions(void **state)
{
	struct greeting g = right_greeting();
	struct doctor_vm vm = { 0 };

	(void)state;
	g.hello.version = 3;
	g.head.body_len = 128;
	assert_true(look_take_greeting(&vm, &g, sizeof(g.head) + 128, 5000));
	assert_int_equal(vm.library_version, 3);
	assert_false(vm.has_calls || vm.is_registered);
	g.hello.version = 99;
	g.head.body_len = 4;
	assert_true(look_take_greeting(&vm, &g, sizeof(g.head) + 4, 5000));
	assert_int_equal(vm.library_version, 99);
}

static struct doctor_vm after(const char *status, const char *stats)
{
	cJSON *a = cJSON_Parse(status), *b = cJSON_Parse(stats);
	struct doctor_vm vm = { 0 };

	assert_true(a && b);
	look_take_status(&vm, a);
	look_take_stats(&vm, b);
	cJSON_Delete(a);
	cJSON_Delete(b);
	return vm;
}

static void brokers_that_say_nonsense(void **state)
{
	static const char *const nonsense[] = {
		"{}", "[]", "7", "null", "{\"ram\":7,\"clients\":\"x\",\"remarks\":{\"a\":1},\"pid\":\"7\",\"link\":9,\"state\":null,\"booted_alone\":1}",
		"{\"pid\":-1,\"link_version\":1e300,\"port_calls\":-5,\"ms_since_call\":\"1\",\"clients\":[1,null,{\"role\":7}]}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct doctor_vm vm = after(nonsense[i], nonsense[i]);

		assert_false(vm.is_registered || vm.is_waiting || vm.pid || vm.calls || vm.call_ms || vm.broker_version);
		assert_int_equal(vm.booted_alone, FACT_UNKNOWN);
		assert_int_equal(vm.is_nested, FACT_UNKNOWN);
	}
	assert_int_equal(after(nonsense[5], "{}").client_count, 3);
}

static void texts_that_are_too_long(void **state)
{
	char text[5000], status[11000];
	struct doctor_vm vm;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	snprintf(status, sizeof(status), "{\"link\":\"%s\",\"remarks\":[\"%s\"]}", text, text);
	vm = after(status, "{}");
	assert_int_equal(strlen(vm.link), sizeof(vm.link) - 1);
	assert_int_equal(strlen(vm.remark), sizeof(vm.remark) - 1);
}

static void a_brokers_words(void **state)
{
	struct doctor_vm vm = after("{\"name\":\"a\",\"pid\":7,\"link\":\"hook\",\"state\":\"broken in\",\"link_version\":4,\"library_version\":5,\"refused_version\":\"2.0\",\"calls_before\":3,"
				    "\"arch\":\"x64\",\"dialect\":\"vmkd\",\"guest_version\":\"1.0\",\"booted_alone\":true,\"gone\":\"reset\","
				    "\"ram\":{\"mode\":\"on\",\"way\":\"none\",\"nested\":false},"
				    "\"clients\":[{\"name\":\"one\",\"role\":\"observer\"},{\"name\":\"two\",\"role\":\"controller\"},{\"name\":\"three\",\"role\":\"observer\"}],"
				    "\"remarks\":[\"first\",\"no answers from RAM: why\"]}",
				    "{\"seconds\":60,\"port_calls\":5,\"doorbells\":9,\"ms_since_call\":1500}");

	(void)state;
	assert_int_equal(vm.pid, 7);
	assert_string_equal(vm.link, "hook");
	assert_true(vm.is_waiting && vm.is_registered && vm.has_calls);
	assert_int_equal(vm.broker_version, 4);
	assert_int_equal(vm.library_version, 5);
	assert_string_equal(vm.refused_version, "2.0");
	assert_int_equal(vm.calls_before, 3);
	assert_string_equal(vm.gone, "reset");
	assert_int_equal(vm.booted_alone, FACT_YES);
	assert_int_equal(vm.is_nested, FACT_NO);
	assert_int_equal(vm.client_count, 3);
	assert_string_equal(vm.client, "two");
	assert_string_equal(vm.remark, "first");
	assert_string_equal(vm.ram_remark, "no answers from RAM: why");
	assert_int_equal(vm.calls, 9);
	assert_int_equal(vm.call_ms, 1500);
	assert_int_equal(vm.broker_s, 60);
	assert_true(vm.is_alive && vm.is_vmm_listening);
	// What it knows of a VM that it does not reach, or has let go of, is old.
	vm = after("{\"state\":\"no VMM\"}", "{\"port_calls\":5}");
	assert_false(vm.has_calls || vm.is_alive);
	vm = after("{\"state\":\"no client (--absent)\"}", "{\"port_calls\":5}");
	assert_false(vm.has_calls || vm.is_alive);
}

static void versions(void **state)
{
	struct doctor_version v = machine_parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright");

	(void)state;
	assert_int_equal(v.major, 7);
	assert_int_equal(v.minor, 2);
	assert_int_equal(machine_parse_version("").major, 0);
	assert_int_equal(machine_parse_version("version x.2").major, 0);
	assert_int_equal(machine_parse_version("version 9").major, 0);
}

// Not a program of ours or of root's: it is not started.
static void programs_of_others(void **state)
{
	char path[] = "/tmp/vmkd-look-XXXXXX";
	static const char script[] = "#!/bin/sh\necho version 3.14\n";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, script, sizeof(script) - 1), sizeof(script) - 1);
	assert_int_equal(fchmod(fd, 0755), 0);
	close(fd);
	assert_int_equal(machine_ask_version(path).major, 3);
	assert_int_equal(machine_ask_version(path).minor, 14);
	assert_int_equal(chmod(path, 0775), 0);
	assert_int_equal(machine_ask_version(path).major, 0);
	assert_int_equal(chmod(path, 0757), 0);
	assert_int_equal(machine_ask_version(path).major, 0);
	unlink(path);
	assert_int_equal(machine_ask_version(path).major, 0);
	assert_int_equal(machine_ask_version("/tmp").major, 0);
}

static void write_script(const char *path, unsigned version)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fprintf(file, "#!/bin/sh\n[ \"$1\" = --version ] && echo version %u.0\n", version);
	fclose(file);
	assert_int_equal(chmod(path, 0755), 0);
}

// Whose file it is was asked of one file; another that has its name since is not started in its place.
static void programs_that_are_replaced(void **state)
{
	char folder[] = "/tmp/vmkd-look-XXXXXX", path[64], other[64];
	int fd;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/qemu", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	write_script(path, 3);
	write_script(other, 9);
	fd = open(path, O_PATH | O_CLOEXEC);
	assert_int_equal(rename(other, path), 0);
	assert_int_equal(machine_ask_version(path).major, 9);
	assert_int_equal(machine_ask_version_of(fd).major, 3);
	close(fd);
	unlink(path);
	rmdir(folder);
}

static void symbol_is(const char *path, const char *expected)
{
	char got[64] = "?";
	bool is_found = machine_parse_symbol_path(path, got, sizeof(got));

	assert_int_equal(is_found, expected != NULL);
	assert_string_equal(got, expected ? expected : "?");
}

static void symbol_paths(void **state)
{
	char path[200];

	(void)state;
	symbol_is("", NULL);
	symbol_is(";;*", NULL);
	symbol_is("srv*", NULL);
	symbol_is("cache*;symsrv*symsrv.dll", NULL);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = 0;
	symbol_is(path, NULL);
	symbol_is("/symbols", "/symbols");
	symbol_is("srv*/symbols*https://a/b", "https://a/b");
	symbol_is("https://a/b;/symbols", "https://a/b");
	symbol_is("SRV*http://x;cache*/c;symsrv*symsrv.dll*/d*https://y:8443/z", "https://y:8443/z");
}

static void urls(void **state)
{
	char host[16] = "?", port[8] = "?";

	(void)state;
	assert_false(machine_parse_url("ftp://a", host, sizeof(host), port, sizeof(port)));
	assert_false(machine_parse_url("https://", host, sizeof(host), port, sizeof(port)));
	assert_false(machine_parse_url("https://:80", host, sizeof(host), port, sizeof(port)));
	assert_false(machine_parse_url("https://a:", host, sizeof(host), port, sizeof(port)));
	assert_false(machine_parse_url("https://a:123456789", host, sizeof(host), port, sizeof(port)));
	assert_false(machine_parse_url("https://0123456789abcdef/", host, sizeof(host), port, sizeof(port)));
	assert_string_equal(host, "?");
	assert_true(machine_parse_url("https://a.b/c", host, sizeof(host), port, sizeof(port)));
	assert_string_equal(host, "a.b");
	assert_string_equal(port, "443");
	assert_true(machine_parse_url("http://c", host, sizeof(host), port, sizeof(port)));
	assert_string_equal(port, "80");
	assert_true(machine_parse_url("https://c:8443/x", host, sizeof(host), port, sizeof(port)));
	assert_string_equal(port, "8443");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greetings_that_are_none), cmocka_unit_test(a_greeting),     cmocka_unit_test(greetings_of_other_versions),
		cmocka_unit_test(brokers_that_say_nonsense), cmocka_unit_test(texts_that_are_too_long), cmocka_unit_test(a_brokers_words),
		cmocka_unit_test(versions),                cmocka_unit_test(programs_of_others), cmocka_unit_test(programs_that_are_replaced),
		cmocka_unit_test(symbol_paths), cmocka_unit_test(urls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
