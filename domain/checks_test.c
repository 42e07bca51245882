// SPDX-License-Identifier: MIT
// Every line in every state: facts that are right in all things, one of them changed at a time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "domain/checks.h"

#define QEMU_UID 64055u
#define LIBRARY "/usr/lib/vmkd/libvmkd-vmm.so"

static struct host_facts f;
static struct {
	enum check_state state;
	char text[CHECK_TEXT_MAX];
} lines[16];
static unsigned line_count;

static void take(void *arg, enum check_state state, const char *text)
{
	(void)arg;
	assert_true(line_count < sizeof(lines) / sizeof(lines[0]));
	lines[line_count].state = state;
	snprintf(lines[line_count++].text, CHECK_TEXT_MAX, "%s", text);
}

static unsigned judged(enum check_state state)
{
	unsigned count = 0;

	line_count = 0;
	checks_judge(&f, take, NULL);
	for (unsigned i = 0; i < line_count; i++)
		count += lines[i].state == state;
	return count;
}

// A system's libvirtd with everything allowed, a member of the group who asks.
static void all_is_well(enum domain_link link)
{
	f = (struct host_facts){ .link = link, .library = LIBRARY, .runtime_dir = "/run/vmkd", .is_user_known = true, .uid = QEMU_UID, .gid = QEMU_UID,
				 .user = "libvirt-qemu", .is_library_readable = ANSWER_YES, .has_runtime_dir = true, .is_folder = true,
				 .is_user_in_group = true, .is_caller_in_group = true, .mode = 02770, .group = 5, .group_name = "vmkd",
				 .has_rules = ANSWER_YES, .rule_count = 2, .rules = { "/run/vmkd/ r,", "/run/vmkd/** rwk," }, .caller = 1000 };
	if (link == DOMAIN_LINK_DEBUGCON)
		f.caller = 0;
}

// One line is in this state and has this in it; no other is FAILED or unknown.
static void only(enum check_state state, const char *part)
{
	unsigned passed = judged(CHECK_PASSED);

	if (state == CHECK_PASSED)
		assert_int_equal(passed, line_count);
	else
		assert_int_equal(passed, line_count - 1);
	for (unsigned i = 0; i < line_count; i++)
		if (lines[i].state == state && strstr(lines[i].text, part))
			return;
	for (unsigned i = 0; i < line_count; i++)
		print_message("%d %s\n", lines[i].state, lines[i].text);
	fail_msg("no line in state %d has '%s'", state, part);
}

static void test_all_is_well(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	only(CHECK_PASSED, "libvirt-qemu may read " LIBRARY);
	only(CHECK_PASSED, "QEMU runs as libvirt-qemu");
	only(CHECK_PASSED, "for the group vmkd, and libvirt-qemu is in it");
	only(CHECK_PASSED, "you may serve it: you are in the group vmkd");
	only(CHECK_PASSED, "with AppArmor here");
	only(CHECK_PASSED, "with SELinux here");
	assert_int_equal(line_count, 6);
	all_is_well(DOMAIN_LINK_DEBUGCON);
	only(CHECK_PASSED, "you may serve it");
	assert_int_equal(line_count, 5); // no library
}

static void test_library(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.is_library_readable = ANSWER_NO;
	strcpy(f.blocked_at, "/usr/lib/vmkd");
	only(CHECK_FAILED, "chmod o+rX /usr/lib/vmkd");
	f.is_library_readable = ANSWER_UNKNOWN;
	only(CHECK_UNKNOWN, "look at /usr/lib/vmkd");
	f.is_library_readable = ANSWER_YES;
	strcpy(f.open_at, "/usr/lib");
	only(CHECK_FAILED, "chmod o-w /usr/lib");
	f.link = DOMAIN_LINK_DEBUGCON; // not asked about
	f.caller = 0;
	only(CHECK_PASSED, "you may serve it");
}

static void test_dev(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	strcpy(f.library, "/dev/shm/libvmkd-vmm.so");
	only(CHECK_FAILED, "/dev/shm/libvmkd-vmm.so is not in it");
	all_is_well(DOMAIN_LINK_DEBUGCON);
	strcpy(f.library, "/dev/shm/libvmkd-vmm.so");
	only(CHECK_PASSED, "");
	strcpy(f.runtime_dir, "/dev/shm/vmkd");
	only(CHECK_FAILED, "/dev/shm/vmkd is not in it");
	strcpy(f.runtime_dir, "/device");
	only(CHECK_PASSED, "");
}

static void test_no_folder(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.has_runtime_dir = false;
	only(CHECK_FAILED, "install -d -o root -g vmkd -m 2770 /run/vmkd; usermod -aG vmkd libvirt-qemu");
	all_is_well(DOMAIN_LINK_DEBUGCON);
	f.has_runtime_dir = false;
	only(CHECK_FAILED, "QEMU does not start without it");
	f.is_session = true;
	only(CHECK_FAILED, "install -d -m 700 /run/vmkd");
	f.link = DOMAIN_LINK_HOOK;
	only(CHECK_PASSED, "is made by the library");
	all_is_well(DOMAIN_LINK_HOOK);
	f.is_folder = false;
	only(CHECK_FAILED, "is not a folder");
}

static void test_group_folder(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.is_user_in_group = false;
	only(CHECK_FAILED, "usermod -aG vmkd libvirt-qemu");
	f.is_user_in_group = true;
	f.owner = 1000; // a third one's
	only(CHECK_FAILED, "chown root /run/vmkd");
	f.owner = QEMU_UID;
	only(CHECK_PASSED, "is in it");
}

static void test_own_folder(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_DEBUGCON);
	f.mode = 0700;
	f.owner = QEMU_UID;
	only(CHECK_PASSED, "is for libvirt-qemu alone");
	f.mode = 0755; // as the library has it
	only(CHECK_PASSED, "is for libvirt-qemu alone");
	f.mode = 0775;
	only(CHECK_FAILED, "mode 0775");
	f.mode = 0777;
	only(CHECK_FAILED, "mode 0777");
	f.mode = 0700;
	f.owner = 1000;
	only(CHECK_FAILED, "user 1000");
	f.is_session = true;
	only(CHECK_FAILED, "yours with mode 0700");
}

static void test_user_unknown(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_DEBUGCON);
	f.is_user_known = f.is_user_in_group = false;
	assert_int_equal(judged(CHECK_UNKNOWN), 2); // who it is, and whether it is in the group
	assert_int_equal(judged(CHECK_FAILED), 0);
	f.mode = 0700;
	assert_int_equal(judged(CHECK_UNKNOWN), 2);
	assert_int_equal(judged(CHECK_FAILED), 0);
}

static void test_broker(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.is_caller_in_group = false;
	only(CHECK_FAILED, "only the group vmkd may");
	f.caller = QEMU_UID;
	only(CHECK_PASSED, "you may serve it");
	f.caller = 0;
	only(CHECK_PASSED, "you may serve it");
	f.caller = 1000;
	f.mode = 0700;
	f.owner = QEMU_UID;
	only(CHECK_PASSED, "only root may serve it");
	all_is_well(DOMAIN_LINK_DEBUGCON);
	f.caller = 1000; // a member, but RAM is found among QEMU's descriptors
	only(CHECK_PASSED, "only root or libvirt-qemu");
	f.is_session = true;
	f.mode = 0700;
	f.owner = f.uid = 1000;
	only(CHECK_PASSED, "alone");
}

static void test_apparmor(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.has_apparmor = true;
	only(CHECK_PASSED, "libvirt-qemu lets the link through");
	f.has_rules = ANSWER_NO;
	only(CHECK_FAILED, "/etc/apparmor.d/local/abstractions/libvirt-qemu must have the lines '/run/vmkd/ r,', '/run/vmkd/** rwk,'");
	f.has_rules = ANSWER_UNKNOWN;
	only(CHECK_UNKNOWN, "must have the lines");
	f.is_apparmor_off = true;
	only(CHECK_PASSED, "not confined by AppArmor");
}

static void test_selinux(void **state)
{
	(void)state;
	all_is_well(DOMAIN_LINK_HOOK);
	f.has_selinux = true;
	f.is_selinux_enforcing = ANSWER_YES;
	only(CHECK_UNKNOWN, "noatsecure");
	only(CHECK_UNKNOWN, "restorecon -R /run/vmkd");
	f.is_selinux_enforcing = ANSWER_UNKNOWN;
	only(CHECK_UNKNOWN, "noatsecure");
	f.is_selinux_enforcing = ANSWER_NO;
	only(CHECK_PASSED, "permissive");
	f.is_selinux_enforcing = ANSWER_YES;
	f.is_selinux_off = true;
	only(CHECK_PASSED, "not confined by SELinux");
	all_is_well(DOMAIN_LINK_DEBUGCON);
	f.has_selinux = true;
	only(CHECK_UNKNOWN, "qemu_var_run_t");
	for (unsigned i = 0; i < line_count; i++)
		assert_null(strstr(lines[i].text, "noatsecure")); // nothing is preloaded
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_is_well),
		cmocka_unit_test(test_library),
		cmocka_unit_test(test_dev),
		cmocka_unit_test(test_no_folder),
		cmocka_unit_test(test_group_folder),
		cmocka_unit_test(test_own_folder),
		cmocka_unit_test(test_user_unknown),
		cmocka_unit_test(test_broker),
		cmocka_unit_test(test_apparmor),
		cmocka_unit_test(test_selinux),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
