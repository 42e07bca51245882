// SPDX-License-Identifier: MIT
// Domains that are refused, domains that were changed in between, and those that must come back byte for byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "domain/edit.h"
#include "domain/tree.h"

#define LIBRARY "/usr/lib/vmkd/libvmkd-vmm.so"
#define QEMU_NS "http://libvirt.org/schemas/domain/qemu/1.0"
#define HEAD "<domain type='kvm'>\n  <name>w</name>\n  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n"
#define TAIL "</domain>\n"
#define OURS(attributes) "<metadata><v:link xmlns:v='urn:vmkd:domain:1' " attributes "/></metadata>"

static const char *const doorbell[] = { "-chardev", "socket,id=vmkd-debugcon,path=/run/vmkd/w.debugcon.sock", "-device",
					"isa-debugcon,iobase=0x565a,chardev=vmkd-debugcon", NULL };
static const struct domain_wish hook = { .link = DOMAIN_LINK_HOOK, .name = "w", .runtime_dir = "/run/vmkd", .library = LIBRARY };
static const struct domain_wish debugcon = { .link = DOMAIN_LINK_DEBUGCON, .name = "w", .runtime_dir = "/run/vmkd", .arguments = doorbell };

// ---- Help ---------------------------------------------------------------------------------------------------

static void refused(struct error *error, const char *part)
{
	if (!error)
		fail_msg("expected a refusal with '%s'", part);
	if (!strstr(error->text, part))
		fail_msg("'%s' is not in: %s", part, error->text);
	error_free(error);
}

static void enable_refused(const char *text, const struct domain_wish *wish, const char *part)
{
	char *ret = NULL;

	refused(domain_enable(text, strlen(text), wish, &ret), part);
	assert_null(ret);
}

static void succeeds(struct error *error)
{
	if (error)
		fail_msg("%s", error->text);
}

static char *enabled(const char *text, const struct domain_wish *wish)
{
	char *ret = NULL;

	succeeds(domain_enable(text, strlen(text), wish, &ret));
	return ret;
}

// Frees `text`.
static char *disabled(char *text, unsigned expected_left)
{
	char *ret = NULL;
	unsigned left = 99;

	succeeds(domain_disable(text, strlen(text), &ret, &left));
	assert_int_equal(left, expected_left);
	free(text);
	return ret;
}

static char *printed(const char *text)
{
	xmlDocPtr doc = NULL;
	char *ret = NULL;

	succeeds(tree_parse(text, strlen(text), "domain", &doc));
	succeeds(tree_print(doc, &ret));
	xmlFreeDoc(doc);
	return ret;
}

static void comes_back(const char *text, const struct domain_wish *wish)
{
	char *before = printed(text), *after = disabled(enabled(text, wish), 0);

	assert_string_equal(before, after);
	free(before);
	free(after);
}

// Frees `text`; the replaced part must be there.
static char *changed(char *text, const char *old, const char *new)
{
	char *at = strstr(text, old), *ret = NULL;

	if (!at)
		fail_msg("'%s' is not in: %s", old, text);
	assert_true(asprintf(&ret, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old)) > 0);
	free(text);
	return ret;
}

static struct domain_info info_of(const char *text)
{
	struct domain_info info;

	succeeds(domain_read(text, strlen(text), &info));
	return info;
}

// Frees `text`.
static void has(char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' is not in: %s", part, text);
	free(text);
}

static void has_not(char *text, const char *part)
{
	if (strstr(text, part))
		fail_msg("'%s' is in: %s", part, text);
	free(text);
}

// ---- Refusals -----------------------------------------------------------------------------------------------

static void test_no_domain(void **state)
{
	static const struct {
		const char *text, *part;
	} cases[] = {
		{ "", "XML is none" },
		{ "hello", "XML is none" },
		{ "<domain", "XML is none" },
		{ "<domain><name></domain>", "XML is none" },
		{ "<network/>", "got <network>" },
		{ "<?xml version='1.0' encoding='ISO-8859-1'?><domain/>", "UTF-8" },
		{ "<domain xmlns='urn:x'/>", "expected <domain>" },
		{ "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>", "DTD" },
		{ "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>", "DTD" },
	};
	struct domain_info info = { .name = "untouched" };
	char *huge = calloc(1, TREE_BYTES_MAX + 2);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		refused(domain_read(cases[i].text, strlen(cases[i].text), &info), cases[i].part);
		enable_refused(cases[i].text, &hook, cases[i].part);
		assert_string_equal(info.name, "untouched");
	}
	assert_non_null(huge);
	memset(huge, ' ', TREE_BYTES_MAX + 1);
	refused(domain_read(huge, TREE_BYTES_MAX + 1, &info), "expected at most");
	free(huge);
}

static void test_no_machine_for_it(void **state)
{
	(void)state;
	enable_refused("<domain type='qemu'><os><type arch='x86_64'>hvm</type></os></domain>", &hook, "--link debugcon");
	enable_refused("<domain type='xen'><os><type arch='x86_64'>hvm</type></os></domain>", &hook, "not QEMU's");
	enable_refused("<domain><os><type arch='x86_64'>hvm</type></os></domain>", &debugcon, "not QEMU's");
	enable_refused("<domain type='kvm'><os><type arch='aarch64'>hvm</type></os></domain>", &hook, "no PC");
	enable_refused("<domain type='kvm'/>", &hook, "no PC");
	enable_refused(HEAD "<launchSecurity type='sev'/>" TAIL, &hook, "encrypted");
	enable_refused(HEAD "<launchSecurity type='sev'/>" TAIL, &debugcon, "encrypted");
}

static void test_ram_that_cannot_be_shared(void **state)
{
	static const struct {
		const char *more, *part;
	} cases[] = {
		{ "<memoryBacking><source type='anonymous'/></memoryBacking>", "source anonymous" },
		{ "<memoryBacking><access mode='private'/></memoryBacking>", "access private" },
		{ "<cpu><numa><cell memory='1'/><cell memory='1'/></numa></cpu>", "several NUMA cells" },
		{ "<cpu><numa><cell memory='1' memAccess='private'/></numa></cpu>", "access private" },
		{ "<devices><memory model='dimm'/></devices>", "<memory> device" },
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(text, sizeof(text), HEAD "%s" TAIL, cases[i].more);
		enable_refused(text, &debugcon, cases[i].part);
		has_not(enabled(text, &hook), "memfd"); // works with any RAM, so it is left alone
		comes_back(text, &hook);
	}
}

static void test_by_hand(void **state)
{
	static const char *const items[] = {
		"<q:env name='VMKD_NAME' value='x'/>",
		"<q:env name='VMKD_RUNTIME_DIR' value='/x'/>",
		"<q:env name='LD_PRELOAD' value='/a.so:/elsewhere/libvmkd-vmm.so'/>",
		"<q:arg value='-chardev'/><q:arg value='socket,id=vmkd-debugcon,path=/x'/>",
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
		snprintf(text, sizeof(text), HEAD "<q:commandline xmlns:q='" QEMU_NS "'>%s</q:commandline>" TAIL, items[i]);
		enable_refused(text, &hook, "did not write");
		enable_refused(text, &debugcon, "did not write");
	}
}

static void test_wishes(void **state)
{
	static const char *const bad_arguments[] = { "-device", "x\ny", NULL };
	struct domain_wish wish = hook;
	char library[DOMAIN_TEXT_MAX + 1];

	(void)state;
	wish.library = "/opt/my libs/libvmkd-vmm.so";
	enable_refused(HEAD TAIL, &wish, "cannot be preloaded");
	wish.library = "/opt/a:b/libvmkd-vmm.so";
	enable_refused(HEAD TAIL, &wish, "cannot be preloaded");
	wish.library = "/opt/\x01/libvmkd-vmm.so";
	enable_refused(HEAD TAIL, &wish, "cannot be preloaded");
	memset(library, 'a', sizeof(library) - 1);
	library[sizeof(library) - 1] = 0;
	wish.library = library;
	enable_refused(HEAD TAIL, &wish, "cannot be preloaded");
	wish = hook;
	wish.runtime_dir = "/run/\xFF";
	enable_refused(HEAD TAIL, &wish, "runtime folder");
	wish = debugcon;
	wish.arguments = bad_arguments;
	enable_refused(HEAD TAIL, &wish, "cannot be an argument");
}

static void test_foreign_notes(void **state)
{
	static const char *const notes[] = {
		OURS("type='other'"),
		OURS(""),
		"<metadata><v:link xmlns:v='urn:vmkd:domain:1' type='hook'/><v:link xmlns:v='urn:vmkd:domain:1' type='hook'/></metadata>",
	};
	struct domain_info info;
	char text[512], *ret = NULL;
	unsigned left;

	(void)state;
	for (size_t i = 0; i < sizeof(notes) / sizeof(notes[0]); i++) {
		snprintf(text, sizeof(text), HEAD "%s" TAIL, notes[i]);
		refused(domain_read(text, strlen(text), &info), "did not write like that");
		refused(domain_disable(text, strlen(text), &ret, &left), "did not write like that");
		enable_refused(text, &hook, "did not write like that");
	}
	refused(domain_disable(HEAD TAIL, strlen(HEAD TAIL), &ret, &left), "no link");
	assert_null(ret);
}

static void test_two_of_a_kind(void **state)
{
	struct domain_info info;

	(void)state;
	refused(domain_read(HEAD OURS("type='hook'") OURS("type='hook'") TAIL, strlen(HEAD OURS("type='hook'") OURS("type='hook'") TAIL), &info),
		"more than one <metadata>");
	enable_refused(HEAD "<memoryBacking/><memoryBacking/>" TAIL, &hook, "more than one <memoryBacking>");
	enable_refused(HEAD "<commandline xmlns='" QEMU_NS "'/><commandline xmlns='" QEMU_NS "'/>" TAIL, &hook, "more than one <commandline>");
}

// A note without what it speaks of, or that speaks of too much: nothing else is taken out.
static void test_note_without_the_rest(void **state)
{
	char *after = disabled(strdup(HEAD OURS("type='hook' made='source access memoryBacking metadata'")
				      "<memoryBacking><source type='file'/><access mode='private'/></memoryBacking>" TAIL), 5);

	(void)state;
	has(strdup(after), "<source type=\"file\"/><access mode=\"private\"/>");
	has_not(after, "metadata");
}

// ---- What is written ----------------------------------------------------------------------------------------

static void test_hook(void **state)
{
	char *text = enabled(HEAD TAIL, &hook);
	struct domain_info info = info_of(text);

	(void)state;
	assert_int_equal(info.link, DOMAIN_LINK_HOOK);
	assert_string_equal(info.link_name, "w");
	assert_string_equal(info.runtime_dir, "/run/vmkd");
	assert_string_equal(info.library, LIBRARY);
	has(strdup(text), "<qemu:env name=\"LD_PRELOAD\" value=\"" LIBRARY "\"/>");
	has(strdup(text), "<qemu:env name=\"VMKD_NAME\" value=\"w\"/>");
	has(strdup(text), "<qemu:env name=\"VMKD_RUNTIME_DIR\" value=\"/run/vmkd\"/>");
	has_not(strdup(text), "qemu:arg");
	has(text, "<source type=\"memfd\"/><access mode=\"shared\"/>");
}

static void test_private_ram(void **state)
{
	struct domain_wish wish = hook;

	(void)state;
	wish.private_ram = true;
	has_not(enabled(HEAD TAIL, &wish), "memoryBacking");
	comes_back(HEAD TAIL, &wish);
}

static void test_debugcon(void **state)
{
	char *text = enabled(HEAD TAIL, &debugcon), *at = text;
	struct domain_info info = info_of(text);

	(void)state;
	assert_int_equal(info.link, DOMAIN_LINK_DEBUGCON);
	assert_string_equal(info.library, "");
	for (unsigned i = 0; doorbell[i]; i++) { // in this order
		char expected[128];

		snprintf(expected, sizeof(expected), "<qemu:arg value=\"%s\"/>", doorbell[i]);
		at = strstr(at, expected);
		assert_non_null(at);
	}
	has_not(strdup(text), "qemu:env");
	has(text, "<source type=\"memfd\"/><access mode=\"shared\"/>");
}

static void test_ram_that_is_shared(void **state)
{
	static const char *const shared[] = {
		"<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>",
		"<memoryBacking><hugepages/><access mode='shared'/></memoryBacking>",
		"<memoryBacking><source type='memfd'/></memoryBacking><cpu><numa><cell memAccess='shared'/></numa></cpu>",
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++) {
		snprintf(text, sizeof(text), HEAD "%s" TAIL, shared[i]);
		comes_back(text, &debugcon);
		comes_back(text, &hook);
	}
	has_not(enabled(HEAD "<memoryBacking><source type='file'/></memoryBacking>" TAIL, &debugcon), "memfd");
	has(enabled(HEAD "<memoryBacking><source type='file'/></memoryBacking>" TAIL, &debugcon), "<access mode=\"shared\"/>");
	has_not(enabled(HEAD "<memoryBacking><hugepages/></memoryBacking>" TAIL, &debugcon), "memfd");
	has_not(enabled(HEAD "<memoryBacking><hugepages/></memoryBacking>" TAIL, &hook), "shared");
}

static void test_labels(void **state)
{
	struct domain_info info = info_of(HEAD "<seclabel type='none' model='apparmor'/>"
					  "<seclabel type='static' model='dac'><label>+1:+2</label></seclabel>" TAIL);

	(void)state;
	assert_true(info.is_apparmor_off);
	assert_false(info.is_selinux_off);
	assert_string_equal(info.dac_label, "+1:+2");
	info = info_of(HEAD "<seclabel type='none'/>" TAIL);
	assert_true(info.is_apparmor_off && info.is_selinux_off);
	info = info_of(HEAD "<seclabel type='dynamic' model='apparmor'/><seclabel type='dynamic' model='dac'><label>+1:+2</label></seclabel>" TAIL);
	assert_false(info.is_apparmor_off);
	assert_string_equal(info.dac_label, "");
}

// ---- Back ---------------------------------------------------------------------------------------------------

static void test_comes_back(void **state)
{
	static const char *const texts[] = {
		HEAD TAIL,
		"<domain type='kvm'><name>w</name><os><type arch='x86_64'/></os></domain>",
		HEAD "  <metadata/>\n  <memoryBacking>\n    <locked/>\n  </memoryBacking>\n" TAIL,
		HEAD "  <metadata>\n    <x:y xmlns:x='urn:x'>\n <z/> text <!-- c --> </x:y>\n  </metadata>\n" TAIL,
		HEAD "  <q:commandline xmlns:q='" QEMU_NS "'>\n    <q:arg value='-s'/>\n    <q:env name='A' value='b'/>\n  </q:commandline>\n" TAIL,
		HEAD "<commandline xmlns='" QEMU_NS "'/>" TAIL,
		HEAD "<q:commandline xmlns:q='" QEMU_NS "'><q:env name='LD_PRELOAD' value='/a.so /b.so'/></q:commandline>" TAIL,
		HEAD "<q:commandline xmlns:q='" QEMU_NS "'><q:env name='LD_PRELOAD' value=''/></q:commandline>" TAIL,
		HEAD "<q:commandline xmlns:q='" QEMU_NS "'><q:env name='LD_PRELOAD'/></q:commandline>" TAIL,
		HEAD "<commandline xmlns='urn:else'/><memoryBacking> <nosharepages/></memoryBacking>" TAIL,
		HEAD "mixed &lt;text&gt; <![CDATA[ ]]> \n" TAIL,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		comes_back(texts[i], &hook);
		comes_back(texts[i], &debugcon);
	}
}

static void test_preload_goes_in_front(void **state)
{
	(void)state;
	has(enabled(HEAD "<q:commandline xmlns:q='" QEMU_NS "'><q:env name='LD_PRELOAD' value='/a.so /b.so'/></q:commandline>" TAIL, &hook),
	    "value=\"" LIBRARY ":/a.so /b.so\"");
}

static void test_enabled_again(void **state)
{
	struct domain_wish other = hook;
	char *once = enabled(HEAD TAIL, &hook), *twice = enabled(once, &hook), *then;

	(void)state;
	assert_string_equal(once, twice);
	free(twice);
	other.library = "/opt/libvmkd-vmm.so";
	then = enabled(once, &other);
	has_not(strdup(then), LIBRARY "\"");
	free(once);
	once = enabled(then, &debugcon); // the other link in its place
	free(then);
	has_not(strdup(once), "LD_PRELOAD");
	then = disabled(once, 0);
	once = printed(HEAD TAIL);
	assert_string_equal(once, then);
	free(once);
	free(then);
}

// ---- Changed in between -------------------------------------------------------------------------------------

static void test_what_the_user_added_stays(void **state)
{
	char *text = enabled(HEAD TAIL, &hook);

	(void)state;
	text = changed(text, "</qemu:commandline>", "<qemu:arg value='-s'/></qemu:commandline>");
	text = changed(text, "</memoryBacking>", "<locked/></memoryBacking>");
	text = changed(text, "</metadata>", "<x:y xmlns:x='urn:x'/></metadata>");
	text = changed(text, "value=\"" LIBRARY "\"", "value=\"/a.so " LIBRARY ":/b.so\"");
	text = disabled(text, 0);
	has(strdup(text), "<qemu:arg value=\"-s\"/>");
	has(strdup(text), "<memoryBacking><locked/></memoryBacking>");
	has(strdup(text), "<metadata><x:y xmlns:x=\"urn:x\"/></metadata>");
	has(strdup(text), "name=\"LD_PRELOAD\" value=\"/a.so /b.so\"");
	has_not(strdup(text), "VMKD");
	has_not(text, "vmkd");
}

static void test_preload_at_the_end(void **state)
{
	char *text = changed(enabled(HEAD TAIL, &hook), "value=\"" LIBRARY "\"", "value=\"/a.so:" LIBRARY "\"");

	(void)state;
	has(disabled(text, 0), "value=\"/a.so\"");
}

static void test_what_the_user_changed_stays(void **state)
{
	char *text = enabled(HEAD TAIL, &hook), *ret = NULL;

	(void)state;
	text = changed(text, "name=\"VMKD_NAME\" value=\"w\"", "name=\"VMKD_NAME\" value=\"mine\"");
	text = changed(text, "value=\"" LIBRARY "\"", "value=\"" LIBRARY "2\"");
	text = changed(text, "mode=\"shared\"", "mode=\"private\"");
	refused(domain_enable(text, strlen(text), &hook, &ret), "changed by hand");
	text = disabled(text, 3);
	has(strdup(text), "value=\"mine\"");
	has(strdup(text), LIBRARY "2");
	has(text, "<memoryBacking><access mode=\"private\"/></memoryBacking>");

	text = changed(enabled(HEAD TAIL, &debugcon), "iobase=0x565a,chardev=vmkd-debugcon\"/></qemu:commandline>",
		       "iobase=0xe9,chardev=vmkd-debugcon\"/></qemu:commandline>");
	text = disabled(text, 1);
	has_not(strdup(text), "w.debugcon.sock");
	has(text, "iobase=0xe9");
}

// libvirt writes arguments first, then variables, and formats anew.
static void test_other_order(void **state)
{
	char *text = enabled(HEAD "<q:commandline xmlns:q='" QEMU_NS "'><q:env name='A' value='b'/></q:commandline>" TAIL, &debugcon);

	(void)state;
	text = changed(text, "<q:env name=\"A\" value=\"b\"/>", "");
	text = changed(text, "</q:commandline>", "\n<q:arg value='-s'/>\n<q:env name='A' value='b'/>\n</q:commandline>");
	text = disabled(text, 0);
	has_not(strdup(text), "isa-debugcon");
	has(strdup(text), "<q:arg value=\"-s\"/>");
	has(text, "<q:env name=\"A\" value=\"b\"/>");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_domain),
		cmocka_unit_test(test_no_machine_for_it),
		cmocka_unit_test(test_ram_that_cannot_be_shared),
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_wishes),
		cmocka_unit_test(test_foreign_notes),
		cmocka_unit_test(test_two_of_a_kind),
		cmocka_unit_test(test_note_without_the_rest),
		cmocka_unit_test(test_hook),
		cmocka_unit_test(test_private_ram),
		cmocka_unit_test(test_debugcon),
		cmocka_unit_test(test_ram_that_is_shared),
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_comes_back),
		cmocka_unit_test(test_preload_goes_in_front),
		cmocka_unit_test(test_enabled_again),
		cmocka_unit_test(test_what_the_user_added_stays),
		cmocka_unit_test(test_preload_at_the_end),
		cmocka_unit_test(test_what_the_user_changed_stays),
		cmocka_unit_test(test_other_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
