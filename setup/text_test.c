// SPDX-License-Identifier: MIT
// The texts: boot.ini and the journal. What is refused first.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "setup/bootini.h"
#include "setup/journal.h"

static struct bytes bytes_of(const char *text)
{
	return (struct bytes){ (uint8_t *)(uintptr_t)text, strlen(text) };
}

static void expect_text(struct error *error, struct bytes *is_now, const char *wanted)
{
	if (error)
		fail_msg("%s", error->text);
	assert_int_equal(is_now->len, strlen(wanted));
	assert_memory_equal(is_now->data, wanted, is_now->len);
	bytes_deinit(is_now);
}

static void expect_error(struct error *error, int code, const char *text)
{
	assert_non_null(error);
	assert_int_equal(error->code, code);
	if (!strstr(error->text, text))
		fail_msg("expected '%s' in: %s", text, error->text);
	error_free(error);
}

// ---- boot.ini ------------------------------------------------------------------------------------------------

#define LOADER "[boot loader]\r\ntimeout=30\r\ndefault=disk\\W\r\n"
#define OURS "disk\\W=\"vmkd debugging\" /DEBUG /DEBUGPORT=vmkd /fastdetect\r\n"

static void test_bootini_refusals(void **state)
{
	static const char *const without_default[] = {
		"", "\n\n\n", "[operating systems]\r\ndisk\\W=\"W\"\r\n", LOADER, LOADER "[operating systems]\r\nother\\W=\"W\"\r\n", LOADER "disk\\W=\"not an entry\"\r\n",
		"[boot loader]\r\ndefault=\r\n[operating systems]\r\n=\"nothing\"\r\n",
	};
	struct bytes ret = { 0 }, text;

	(void)state;
	for (size_t i = 0; i < sizeof(without_default) / sizeof(without_default[0]); i++) {
		text = bytes_of(without_default[i]);
		expect_error(bootini_add(&text, false, &ret), EINVAL, "no line for its default");
	}
	text = bytes_of(LOADER "[operating systems]\r\ndisk\\W=\"W\" /fastdetect\r\n" OURS);
	expect_error(bootini_add(&text, false, &ret), EEXIST, "already");
	text = bytes_of(LOADER "[operating systems]\r\ndisk\\W=\"W\"\r\na=\"1\"\r\nb=\"2\"\r\nc=\"3\"\r\nd=\"4\"\r\ne=\"5\"\r\nf=\"6\"\r\ng=\"7\"\r\nh=\"8\"\r\ni=\"9\"\r\n");
	expect_error(bootini_add(&text, false, &ret), ENOSPC, "10 entries");
	text.len = BOOTINI_SIZE_MAX + 1;
	expect_error(bootini_add(&text, false, &ret), EFBIG, "longer");
	assert_null(ret.data);
}

static void test_bootini_adds_behind_or_before(void **state)
{
	struct bytes text = bytes_of(LOADER "[operating systems]\r\nother=\"O\"\r\nDISK\\w=\"W \" /fastdetect \r\nlast=\"L\"\r\n"), ret = { 0 };

	(void)state;
	expect_text(bootini_add(&text, false, &ret), &ret,
	            LOADER "[operating systems]\r\nother=\"O\"\r\nDISK\\w=\"W \" /fastdetect \r\nDISK\\w=\"vmkd debugging\" /DEBUG /DEBUGPORT=vmkd /fastdetect\r\nlast=\"L\"\r\n");
	expect_text(bootini_add(&text, true, &ret), &ret,
	            LOADER "[operating systems]\r\nother=\"O\"\r\nDISK\\w=\"vmkd debugging\" /DEBUG /DEBUGPORT=vmkd /fastdetect\r\nDISK\\w=\"W \" /fastdetect \r\nlast=\"L\"\r\n");
}

static void test_bootini_without_a_last_line_end(void **state)
{
	struct bytes text = bytes_of(LOADER "[operating systems]\r\ndisk\\W=\"W\""), ret = { 0 };

	(void)state;
	expect_text(bootini_add(&text, false, &ret), &ret, LOADER "[operating systems]\r\ndisk\\W=\"W\"\r\ndisk\\W=\"vmkd debugging\" /DEBUG /DEBUGPORT=vmkd\r\n");
}

static void test_bootini_removes_ours_alone(void **state)
{
	struct bytes text = bytes_of("[other]\r\n" OURS LOADER "[operating systems]\r\ndisk\\W=\"vmkd debugging 2\"\r\n" OURS "disk\\W=\"W\"\n"), ret = { 0 };

	(void)state;
	expect_text(bootini_remove(&text, &ret), &ret, "[other]\r\n" OURS LOADER "[operating systems]\r\ndisk\\W=\"vmkd debugging 2\"\r\ndisk\\W=\"W\"\n");
	text = bytes_of("");
	expect_text(bootini_remove(&text, &ret), &ret, "");
}

// ---- The journal ---------------------------------------------------------------------------------------------

#define HEAD "vmkd setup 1\r\nvolume b 1048576\r\nvolume w 2097152\r\n"

static void test_journal_refusals(void **state)
{
	static const char *const bad[] = {
		"", "vmkd setup 1", "vmkd setup 2\r\n", "keep*-*-*end\r\n",
		HEAD "volume x 1\r\n", HEAD "volume b\r\n", HEAD "volume b -1\r\n", HEAD "volume b 99999999999999999999\r\n", HEAD "volume b 1 2\r\n",
		HEAD "what w a\r\n", HEAD "\r\n",
		HEAD "rename w name\r\n", HEAD "rename w ../x Windows/a\r\n", HEAD "rename q x Windows/a\r\n",
		HEAD "create w 1 xyz path\r\n", HEAD "create w 1 12\r\n", HEAD "create w 1 12 \r\n",
		HEAD "replace what b 1 1 1 path\r\n", HEAD "replace bcd b 100 1 1 path\r\n", HEAD "replace bcd b 1 1 path\r\n",
		HEAD "wrote 1 1 1\r\n", HEAD "replace bcd b 1 1 1 path\r\nwrote 2 1 1\r\n", HEAD "replace bcd b 1 1 1 path\r\nwrote 1 1 1 1\r\n",
		HEAD "create w 1 1 \033[2Jpath\r\n", HEAD "create w 1 1 p\xc2\x9bpath\r\n", HEAD "rename w a\ab path\r\n",
		HEAD "entry {x} {y}\r\n", HEAD "entry {5b0a1c4e-1111-4222-8333-0123456789ab}\r\n", HEAD "done 1\r\n",
	};
	static struct journal journal;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct bytes text = bytes_of(bad[i]);
		expect_error(journal_parse(&text, &journal), EINVAL, "journal");
	}
	struct bytes text = { (uint8_t[]){ "vmkd setup 1\r\ndone\0\r\n" }, 21 };
	expect_error(journal_parse(&text, &journal), EINVAL, "line 2");
}

static void test_journal_of_too_many_steps(void **state)
{
	static char text[8192] = HEAD;
	static struct journal journal;
	struct bytes bytes;

	(void)state;
	for (unsigned i = 0; i < JOURNAL_STEP_MAX; i++)
		strcat(text, "create w 1 1 path\r\n");
	bytes = bytes_of(text);
	assert_null(journal_parse(&bytes, &journal));
	assert_int_equal(journal.step_count, JOURNAL_STEP_MAX);
	strcat(text, "create w 1 1 path\r\n");
	bytes = bytes_of(text);
	expect_error(journal_parse(&bytes, &journal), EINVAL, "line 20");
}

static void test_journal_reads_what_it_writes(void **state)
{
	static struct journal journal;
	struct journal_step steps[] = {
		{ .op = JOURNAL_RENAME, .volume = 'w', .name = "kept.dll", .path = "Windows/System32/a b.dll" },
		{ .op = JOURNAL_CREATE, .volume = 'w', .after = { 5, 0xfedcba9876543210u }, .path = "Windows/x" },
		{ .op = JOURNAL_REPLACE, .kind = JOURNAL_BCD, .volume = 'b', .number = 3, .before = { 7, 8 }, .after = { 9, 0xa }, .path = "EFI/BCD" },
	};
	char text[8 * JOURNAL_LINE_MAX], line[JOURNAL_LINE_MAX];

	(void)state;
	journal_head(1048576, 2097152, text);
	for (size_t i = 0; i < 3; i++) {
		journal_step_line(&steps[i], line);
		strcat(text, line);
	}
	struct bytes bytes = bytes_of(text);
	assert_null(journal_parse(&bytes, &journal));
	assert_false(journal.steps[2].is_written || journal.is_done);
	journal_wrote_line(&steps[2], line);
	strcat(text, line);
	strcat(text, "done\r\n");
	bytes = bytes_of(text);
	assert_null(journal_parse(&bytes, &journal));
	assert_true(journal.is_done && journal.steps[2].is_written);
	assert_int_equal(journal.boot_offset, 1048576);
	assert_int_equal(journal.windows_offset, 2097152);
	steps[2].is_written = true;
	assert_memory_equal(journal.steps, steps, sizeof(steps));
}

// A line that was being written when the set-up died: its change was not begun.
static void test_journal_with_half_a_line(void **state)
{
	static struct journal journal;
	struct bytes text = bytes_of(HEAD "create w 5 10 Windows/x\r\ncreate w 5 10 Win");

	(void)state;
	assert_null(journal_parse(&text, &journal));
	assert_int_equal(journal.step_count, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bootini_refusals), cmocka_unit_test(test_bootini_adds_behind_or_before), cmocka_unit_test(test_bootini_without_a_last_line_end),
		cmocka_unit_test(test_bootini_removes_ours_alone), cmocka_unit_test(test_journal_refusals), cmocka_unit_test(test_journal_of_too_many_steps),
		cmocka_unit_test(test_journal_reads_what_it_writes), cmocka_unit_test(test_journal_with_half_a_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
