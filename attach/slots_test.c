// SPDX-License-Identifier: MIT
// QEMU's texts about its memory, and what is no such text.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attach/slots.h"

#define HEAD "FlatView #0\r\n AS \"memory\", root: system\r\n AS \"cpu-memory-0\", root: system\r\n Root memory region: system\r\n"
#define RAM "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM\r\n"

static struct late_slot slots[LATE_SLOTS_MAX];
static uint32_t count;

static void parses(const char *text, uint32_t expected)
{
	struct error *error = slots_parse(text, strlen(text), slots, &count);
	if (error)
		fail_msg("%s", error->text);
	assert_int_equal(count, expected);
}

static void refuses(const char *text, const char *part)
{
	count = 77;
	struct error *error = slots_parse(text, strlen(text), slots, &count);
	assert_non_null(error);
	if (!strstr(error->text, part))
		fail_msg("'%s' is not in: %s", part, error->text);
	error_free(error);
	assert_int_equal(count, 77);
}

static void texts_without_slots_are_refused(void **state)
{
	(void)state;
	refuses("", "no view");
	refuses("FlatView #0\r\n AS \"I/O\", root: io\r\n" RAM, "no view");
	refuses(HEAD, "KVM");
	refuses(HEAD "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram\r\n", "KVM"); // TCG
	refuses(HEAD "\r\nFlatView #1\r\n AS \"KVM-SMRAM\", root: mem-container-smram\r\n" RAM, "KVM"); // another view's
}

static void ranges_that_cannot_be_are_refused(void **state)
{
	(void)state;
	refuses(HEAD "  0000000000100000-00000000000fffff (prio 0, ram): pc.ram KVM\r\n", "cannot be");
	refuses(HEAD "  0000000000001000-0000000000000000 (prio 0, ram): pc.ram KVM\r\n", "cannot be");
	refuses(HEAD "  0000000000000000-ffffffffffffffff (prio 0, ram): pc.ram KVM\r\n", "cannot be");
	refuses(HEAD RAM "  0000000000090000-00000000000fffff (prio 0, ram): pc.ram KVM\r\n", "cannot be"); // overlapping
	refuses(HEAD RAM RAM, "cannot be");
}

static void more_than_there_is_room_for_are_refused(void **state)
{
	static char text[80 * (LATE_SLOTS_MAX + 2)];
	size_t len = (size_t)sprintf(text, "%s", HEAD);
	(void)state;
	for (unsigned i = 0; i < LATE_SLOTS_MAX; i++)
		len += (size_t)sprintf(text + len, "  %016x-%016x (prio 0, ram): r KVM\n", i * 0x2000, i * 0x2000 + 0xFFF);
	parses(text, LATE_SLOTS_MAX);
	sprintf(text + len, "  %016x-%016x (prio 0, ram): r KVM\n", LATE_SLOTS_MAX * 0x2000, LATE_SLOTS_MAX * 0x2000 + 0xFFF);
	refuses(text, "more than");
}

static void what_kvm_has_is_taken(void **state)
{
	(void)state;
	parses(HEAD RAM
	       "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
	       "  00000000000c0000-0000000003ffffff (prio 0, ram): pc.ram @00000000000c0000 KVM\r\n"
	       "  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram KVM\r\n"
	       "  00000000fe000000-00000000fe000fff (prio 1, ramd): 0000:01:00.0 BAR 0 KVM\r\n"
	       "  00000000ffff0000-00000000ffffffff (prio 0, rom): pc.bios KVM\r\n"
	       "  0000000100000000-000000013fffffff (prio 0, nv-ram): nv KVM @0000000000001000 KVM\r\n"
	       "\r\nFlatView #1\r\n AS \"memory\", root: system\r\n  0000000200000000-000000023fffffff (prio 0, ram): pc.ram KVM\r\n", 6);
	assert_int_equal(slots[0].gpa, 0);
	assert_int_equal(slots[0].size, 0xA0000);
	assert_int_equal(slots[0].flags, 0);
	assert_int_equal(slots[1].gpa, 0xC0000);
	assert_int_equal(slots[1].size, 0x3F40000);
	assert_int_equal(slots[2].flags, 0);
	assert_int_equal(slots[3].flags, LATE_READONLY); // a device's registers
	assert_int_equal(slots[4].flags, LATE_READONLY);
	assert_int_equal(slots[4].gpa, 0xFFFF0000);
	assert_int_equal(slots[5].flags, 0);
	assert_int_equal(slots[5].size, 0x40000000);
}

static void only_whole_pages_are_taken(void **state)
{
	(void)state;
	parses(HEAD "  0000000000000800-00000000000037ff (prio 0, ram): a KVM\n"
		    "  0000000000003800-0000000000003fff (prio 0, ram): b KVM\n", 1);
	assert_int_equal(slots[0].gpa, 0x1000);
	assert_int_equal(slots[0].size, 0x2000);
}

static void host_addresses(void **state)
{
	uint64_t host = 42;
	(void)state;
	assert_false(slots_parse_host("", 0, &host));
	assert_false(slots_parse_host("Memory at address 0xfee00000 is not RAM\r\n", 0xFEE00000, &host));
	assert_false(slots_parse_host("Host virtual address for 0x1000 (pc.ram) is 0x7faf5be01000\r\n", 0, &host)); // of another
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0x7faf5be00008\r\n", 0, &host));
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is (nil)\r\n", 0, &host));
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0x0\r\n", 0, &host));
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0x7faf5be00000z\r\n", 0, &host));
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0xffffffffffff0000\r\n", 0, &host));
	assert_false(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0x1000000000000000000000\r\n", 0, &host));
	assert_int_equal(host, 42);
	assert_true(slots_parse_host("Host virtual address for 0x0 (pc.ram) is 0x7faf5be00000\r\n", 0, &host));
	assert_int_equal(host, 0x7FAF5BE00000);
	assert_true(slots_parse_host("Host virtual address for 0xc0000 (a is 0x1000) is 0x7faf5be01000\r\n", 0xC0000, &host));
	assert_int_equal(host, 0x7FAF5BE01000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_without_slots_are_refused),
		cmocka_unit_test(ranges_that_cannot_be_are_refused),
		cmocka_unit_test(more_than_there_is_room_for_are_refused),
		cmocka_unit_test(what_kvm_has_is_taken),
		cmocka_unit_test(only_whole_pages_are_taken),
		cmocka_unit_test(host_addresses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
