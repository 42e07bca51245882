// SPDX-License-Identifier: MIT
// Labels that name nobody, capabilities that say nothing, files that QEMU's user cannot reach; made in a folder of the test's own. Nothing here
// depends on whom the test runs as: a user that does not exist is judged by the modes alone.
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
#include <sys/xattr.h>
#include <unistd.h>

#include "domain/host.h"

#define NOBODY 61077u // a user and a group that exist nowhere
#define CAPABILITIES(models) "<capabilities><host>" models "</host></capabilities>"
#define MODEL(name) "<secmodel><model>" name "</model><doi>0</doi></secmodel>"
#define DAC(labels) "<secmodel><model>dac</model><doi>0</doi>" labels "</secmodel>"

static char folder[64];

// ---- Help ---------------------------------------------------------------------------------------------------

static struct host_facts asked(enum domain_link link)
{
	struct host_facts f = { .link = link, .is_user_known = true, .uid = NOBODY, .gid = NOBODY };

	snprintf(f.library, sizeof(f.library), "%s/way/lib.so", folder);
	snprintf(f.runtime_dir, sizeof(f.runtime_dir), "%s/run", folder);
	return f;
}

static const char *at(const char *path)
{
	static char text[128];

	snprintf(text, sizeof(text), "%s/%s", folder, path);
	return text;
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(at(path), "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void set_mode(const char *path, mode_t mode)
{
	assert_int_equal(chmod(at(path), mode), 0);
}

static struct host_facts looked(enum domain_link link)
{
	struct host_facts f = asked(link);
	char policy[128];

	snprintf(policy, sizeof(policy), "%s/apparmor", folder);
	host_look(&f, policy);
	return f;
}

static struct host_facts told(const char *text, const struct domain_info *domain)
{
	struct host_facts f = { .is_user_known = false };
	struct error *error = host_read_capabilities(&f, text, strlen(text), domain);

	if (error)
		fail_msg("%s", error->text);
	return f;
}

// ---- Labels -------------------------------------------------------------------------------------------------

static void test_labels_that_name_nobody(void **state)
{
	static const char *const bad[] = { "", ":", "+", "+:+", "no-such-user", "no-such-user:root", "root:no-such-group", "12x", "+1:2x", "-1", "root:",
					   "4294967295", "99999999999999999999",
					   "a-name-that-is-longer-than-any-user-of-any-system-may-ever-have-had-in-its-life" };
	uid_t uid = 7;
	gid_t gid = 8;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (host_parse_label(bad[i], &uid, &gid))
			fail_msg("'%s' is nobody", bad[i]);
	assert_int_equal(uid, 7);
	assert_int_equal(gid, 8);
}

static void test_labels(void **state)
{
	static const struct {
		const char *text;
		uid_t uid;
		gid_t gid;
	} good[] = { { "+64055:+107", 64055, 107 }, { "64055:107", 64055, 107 }, { "root:root", 0, 0 }, { "root", 0, 0 }, { "+61077", NOBODY, (gid_t)-1 } };
	uid_t uid;
	gid_t gid;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_true(host_parse_label(good[i].text, &uid, &gid));
		assert_int_equal(uid, good[i].uid);
		assert_int_equal(gid, good[i].gid);
	}
}

// ---- Capabilities -------------------------------------------------------------------------------------------

static void test_no_capabilities(void **state)
{
	const struct domain_info domain = { .type = "kvm" };
	static const char *const bad[] = { "", "x", "<domain/>", "<capabilities>" };
	struct host_facts f = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error *error = host_read_capabilities(&f, bad[i], strlen(bad[i]), &domain);

		assert_non_null(error);
		error_free(error);
	}
	f = told("<capabilities/>", &domain);
	assert_false(f.is_user_known || f.has_apparmor || f.has_selinux);
	f = told(CAPABILITIES(DAC("<baselabel type='kvm'>no-such-user:+1</baselabel>")), &domain);
	assert_false(f.is_user_known);
	f = told(CAPABILITIES(DAC("<baselabel type='qemu'>+1:+1</baselabel>")), &domain); // another type's
	assert_false(f.is_user_known);
}

static void test_capabilities(void **state)
{
	struct domain_info domain = { .type = "kvm" };
	static const char text[] = CAPABILITIES(MODEL("apparmor") DAC("<baselabel type='kvm'>+61077:+5</baselabel>"
								      "<baselabel type='qemu'>+2:+2</baselabel>"));
	struct host_facts f = told(text, &domain);

	(void)state;
	assert_true(f.has_apparmor && f.is_user_known);
	assert_false(f.has_selinux || f.is_apparmor_off);
	assert_int_equal(f.uid, NOBODY);
	assert_int_equal(f.gid, 5);
	assert_string_equal(f.user, "61077");
	assert_true(told(CAPABILITIES(MODEL("selinux")), &domain).has_selinux);
	strcpy(domain.dac_label, "root:root");
	domain.is_apparmor_off = true;
	f = told(text, &domain);
	assert_true(f.is_apparmor_off);
	assert_int_equal(f.uid, 0);
	assert_string_equal(f.user, "root");
	strcpy(domain.dac_label, "no-such-user"); // QEMU will not start; it does not run as the base label's
	assert_false(told(text, &domain).is_user_known);
}

static void test_session(void **state)
{
	struct domain_info domain = { .type = "kvm" };
	struct host_facts f = { .is_session = true };

	(void)state;
	strcpy(domain.dac_label, "+5:+5");
	assert_null(host_read_capabilities(&f, "<capabilities/>", strlen("<capabilities/>"), &domain));
	assert_true(f.is_user_known);
	assert_int_equal(f.uid, geteuid());
}

// ---- The library --------------------------------------------------------------------------------------------

static void test_library_out_of_reach(void **state)
{
	struct host_facts f;

	(void)state;
	set_mode("way/lib.so", 0750);
	f = looked(DOMAIN_LINK_HOOK);
	assert_int_equal(f.is_library_readable, ANSWER_NO);
	assert_string_equal(f.blocked_at, at("way/lib.so"));
	set_mode("way/lib.so", 0755);
	set_mode("way", 0750);
	f = looked(DOMAIN_LINK_HOOK);
	assert_int_equal(f.is_library_readable, ANSWER_NO);
	assert_string_equal(f.blocked_at, at("way"));
	set_mode("way", 0755);
	unlink(at("way/lib.so"));
	assert_int_equal(looked(DOMAIN_LINK_HOOK).is_library_readable, ANSWER_NO);
	write_file("way/lib.so", "");
	set_mode("way/lib.so", 0644);
	f = looked(DOMAIN_LINK_HOOK);
	assert_int_equal(f.is_library_readable, ANSWER_YES);
	assert_string_equal(f.open_at, "");
}

// The owner's and the group's bits count for them alone, as the kernel has it.
static void test_whose_bits_count(void **state)
{
	struct host_facts f = asked(DOMAIN_LINK_HOOK);
	struct stat st;

	(void)state;
	assert_int_equal(stat(at("way/lib.so"), &st), 0);
	set_mode("way/lib.so", 0044);
	f.uid = st.st_uid;
	host_look(&f, "/nonexistent");
	assert_int_equal(f.is_library_readable, ANSWER_NO);
	set_mode("way/lib.so", 0404);
	f = asked(DOMAIN_LINK_HOOK);
	f.gid = st.st_gid;
	host_look(&f, "/nonexistent");
	assert_int_equal(f.is_library_readable, ANSWER_NO);
	set_mode("way/lib.so", 0040);
	host_look(&f, "/nonexistent");
	assert_int_equal(f.is_library_readable, ANSWER_YES);
	set_mode("way/lib.so", 0644);
}

static void test_user_unknown(void **state)
{
	struct host_facts f = asked(DOMAIN_LINK_HOOK);

	(void)state;
	f.is_user_known = false;
	host_look(&f, "/nonexistent");
	assert_int_equal(f.is_library_readable, ANSWER_UNKNOWN);
}

// A list may let in whom the mode keeps out: then nothing is said about it.
static void test_access_control_list(void **state)
{
	static const struct {
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entries[5];
	} list = { 2, { { 1, 6, (uint32_t)-1 }, { 2, 4, NOBODY }, { 4, 4, (uint32_t)-1 }, { 0x10, 4, (uint32_t)-1 }, { 0x20, 0, (uint32_t)-1 } } };

	(void)state;
	if (setxattr(at("way/lib.so"), "system.posix_acl_access", &list, sizeof(list), 0) < 0)
		skip(); // no lists on this file system
	assert_int_equal(looked(DOMAIN_LINK_HOOK).is_library_readable, ANSWER_UNKNOWN);
	assert_int_equal(removexattr(at("way/lib.so"), "system.posix_acl_access"), 0);
	set_mode("way/lib.so", 0644);
}

static void test_library_that_anybody_may_replace(void **state)
{
	(void)state;
	set_mode("way", 0777);
	assert_string_equal(looked(DOMAIN_LINK_HOOK).open_at, at("way"));
	set_mode("way", 01777);
	assert_string_equal(looked(DOMAIN_LINK_HOOK).open_at, "");
	set_mode("way", 0755);
	set_mode("way/lib.so", 0666);
	assert_string_equal(looked(DOMAIN_LINK_HOOK).open_at, at("way/lib.so"));
	set_mode("way/lib.so", 0644);
}

// ---- The runtime folder -------------------------------------------------------------------------------------

static void test_runtime_folder(void **state)
{
	struct host_facts f = looked(DOMAIN_LINK_DEBUGCON);

	(void)state;
	assert_false(f.has_runtime_dir);
	write_file("run", "");
	f = looked(DOMAIN_LINK_DEBUGCON);
	assert_true(f.has_runtime_dir);
	assert_false(f.is_folder);
	unlink(at("run"));
	assert_int_equal(mkdir(at("run"), 0755), 0);
	set_mode("run", 02770);
	f = looked(DOMAIN_LINK_DEBUGCON);
	assert_true(f.is_folder);
	assert_int_equal(f.mode, 02770);
	assert_int_equal(f.owner, geteuid());
	assert_false(f.is_user_in_group);
	assert_true(f.is_caller_in_group);
	f = asked(DOMAIN_LINK_DEBUGCON);
	f.gid = getegid();
	host_look(&f, "/nonexistent");
	assert_true(f.is_user_in_group);
	assert_int_equal(rmdir(at("run")), 0);
}

// ---- AppArmor -----------------------------------------------------------------------------------------------

static void test_rules(void **state)
{
	char text[512];
	struct host_facts f = looked(DOMAIN_LINK_HOOK);

	(void)state;
	assert_int_equal(f.has_rules, ANSWER_UNKNOWN); // no such file
	assert_int_equal(f.rule_count, 3);
	write_file("apparmor/local/abstractions/libvirt-qemu", "# none\n");
	assert_int_equal(looked(DOMAIN_LINK_HOOK).has_rules, ANSWER_NO);
	snprintf(text, sizeof(text), "  %s/way/lib.so mr,\n\t%s/run/ r,  \n", folder, folder);
	write_file("apparmor/local/abstractions/libvirt-qemu", text);
	assert_int_equal(looked(DOMAIN_LINK_HOOK).has_rules, ANSWER_NO);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "#%s/run/** rwk,\n%s/run/** rwk, deny x,\n", folder, folder);
	write_file("apparmor/local/abstractions/libvirt-qemu", text);
	assert_int_equal(looked(DOMAIN_LINK_HOOK).has_rules, ANSWER_NO);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s/run/** rwk,", folder);
	write_file("apparmor/local/abstractions/libvirt-qemu", text);
	assert_int_equal(looked(DOMAIN_LINK_HOOK).has_rules, ANSWER_YES);
	unlink(at("apparmor/local/abstractions/libvirt-qemu"));
}

static void test_rules_for_what(void **state)
{
	struct host_facts f = asked(DOMAIN_LINK_HOOK);

	(void)state;
	strcpy(f.library, "/usr/lib/vmkd/libvmkd-vmm.so"); // every profile may map what is there
	host_look(&f, "/nonexistent");
	assert_int_equal(f.rule_count, 2);
	strcpy(f.library, "/usr/local/lib/vmkd/libvmkd-vmm.so");
	host_look(&f, "/nonexistent");
	assert_int_equal(f.rule_count, 3);
	assert_string_equal(f.rules[0], "/usr/local/lib/vmkd/libvmkd-vmm.so mr,");
	f.link = DOMAIN_LINK_DEBUGCON;
	host_look(&f, "/nonexistent");
	assert_int_equal(f.rule_count, 2);
}

// ---- All ----------------------------------------------------------------------------------------------------

static int make_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/vmkd-host-test-XXXXXX");
	umask(022);
	if (!mkdtemp(folder) || chmod(folder, 0755) || mkdir(at("way"), 0755) || mkdir(at("apparmor"), 0755) || mkdir(at("apparmor/local"), 0755) ||
	    mkdir(at("apparmor/local/abstractions"), 0755))
		return -1;
	write_file("way/lib.so", "");
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(at("way/lib.so"));
	rmdir(at("way"));
	unlink(at("apparmor/local/abstractions/libvirt-qemu"));
	rmdir(at("apparmor/local/abstractions"));
	rmdir(at("apparmor/local"));
	rmdir(at("apparmor"));
	rmdir(at("run"));
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_labels_that_name_nobody),
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_no_capabilities),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_session),
		cmocka_unit_test(test_library_out_of_reach),
		cmocka_unit_test(test_whose_bits_count),
		cmocka_unit_test(test_user_unknown),
		cmocka_unit_test(test_access_control_list),
		cmocka_unit_test(test_library_that_anybody_may_replace),
		cmocka_unit_test(test_runtime_folder),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_rules_for_what),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
