// SPDX-License-Identifier: MIT
// What is read of a guest's files without a parser of somebody else's: hive headers and logs, PE headers, image formats, names in a volume.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "setup/files.h"
#include "setup/hive.h"
#include "setup/image.h"
#include "setup/windows.h"

static void expect_error(struct error *error, int code, const char *text)
{
	assert_non_null(error);
	if (!strstr(error->text, text))
		fail_msg("expected '%s' in: %s", text, error->text);
	assert_int_equal(error->code, code);
	error_free(error);
}

static void expect_none(struct error *error)
{
	if (error)
		fail_msg("%s", error->text);
}

static void put(uint8_t *at, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

// ---- Hives ---------------------------------------------------------------------------------------------------

static void seal(uint8_t *base)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < 508; i += 4)
		sum ^= bytes_le32(base + i);
	put(base + 508, sum == ~0u ? ~1u : sum ? sum : 1);
}

static struct bytes make_hive(uint32_t first, uint32_t second)
{
	static uint8_t hive[8192];

	memset(hive, 0, sizeof(hive));
	memcpy(hive, "regf", 4);
	put(hive + 4, first);
	put(hive + 8, second);
	put(hive + 20, 1);
	put(hive + 40, 4096);
	seal(hive);
	return (struct bytes){ hive, sizeof(hive) };
}

static void test_hive(void **state)
{
	struct bytes hive = make_hive(7, 7);

	(void)state;
	expect_none(hive_check(&hive));
	hive.data[508] ^= 1;
	expect_error(hive_check(&hive), EINVAL, "checksum");
	hive = make_hive(8, 7);
	expect_error(hive_check(&hive), EBUSY, "(8 and 7)");
	hive = make_hive(7, 7);
	hive.len--;
	expect_error(hive_check(&hive), EINVAL, "cut off");
	hive.len = 4095;
	expect_error(hive_check(&hive), EINVAL, "no registry hive");
	hive = make_hive(7, 7);
	put(hive.data + 20, 2);
	seal(hive.data);
	expect_error(hive_check(&hive), EINVAL, "version 2");
	// The sums that the format has other words for.
	hive = make_hive(7, 7);
	put(hive.data + 100, bytes_le32(hive.data + 508));
	seal(hive.data);
	assert_int_equal(bytes_le32(hive.data + 508), 1);
	expect_none(hive_check(&hive));
	put(hive.data + 104, ~0u);
	seal(hive.data);
	assert_int_equal(bytes_le32(hive.data + 508), ~1u);
	expect_none(hive_check(&hive));
}

static struct bytes make_log(uint32_t sequence, unsigned entry_count, const uint32_t *entries)
{
	static uint8_t log[8192];

	memset(log, 0, sizeof(log));
	memcpy(log, "regf", 4);
	put(log + 4, sequence);
	put(log + 8, sequence);
	put(log + 28, 6);
	seal(log);
	for (unsigned i = 0; i < entry_count; i++) {
		memcpy(log + 512 * (i + 1), "HvLE", 4);
		put(log + 512 * (i + 1) + 4, 512);
		put(log + 512 * (i + 1) + 12, entries[i]);
	}
	return (struct bytes){ log, sizeof(log) };
}

static void test_log(void **state)
{
	struct bytes hive = make_hive(7, 7), log = make_log(7, 2, (uint32_t[]){ 6, 7 });

	(void)state;
	expect_none(hive_check_log(&hive, &log));
	log = make_log(7, 3, (uint32_t[]){ 6, 7, 8 });
	expect_error(hive_check_log(&hive, &log), EBUSY, "log holds changes");
	log = make_log(8, 0, NULL);
	expect_error(hive_check_log(&hive, &log), EBUSY, "log holds changes");
	log.data[508] ^= 1; // a log that nobody could use
	expect_none(hive_check_log(&hive, &log));
	log = make_log(7, 3, (uint32_t[]){ 6, 7, 8 });
	put(log.data + 512 * 2 + 4, 100); // the second entry has no end: what stands behind it is from before
	expect_none(hive_check_log(&hive, &log));
	log.len = 0;
	expect_none(hive_check_log(&hive, &log));
	// Numbers go round.
	hive = make_hive(0xffffffff, 0xffffffff);
	log = make_log(0xffffffff, 1, (uint32_t[]){ 0 });
	expect_error(hive_check_log(&hive, &log), EBUSY, "log holds changes");
}

// ---- PE, builds, image formats -------------------------------------------------------------------------------

static void test_pe(void **state)
{
	uint8_t image[512] = "MZ";
	struct bytes bytes = { image, sizeof(image) };
	uint16_t machine = 0;

	(void)state;
	put(image + 60, 64);
	memcpy(image + 64, "PE\0\0\x64\x86", 6);
	assert_true(windows_pe_machine(&bytes, &machine) && machine == WINDOWS_MACHINE_X64);
	assert_false(windows_pe_is_signed(&bytes));
	put(image + 64 + 24, 0x20b);
	put(image + 64 + 24 + 108, 16);      // directories
	put(image + 64 + 24 + 112 + 36, 8); // the size of the fifth
	assert_true(windows_pe_is_signed(&bytes));
	put(image + 64 + 24 + 108, 4);
	assert_false(windows_pe_is_signed(&bytes));
	put(image + 60, 487); // 26 bytes from here would be one too many
	assert_false(windows_pe_machine(&bytes, &machine));
	put(image + 60, ~0u);
	assert_false(windows_pe_machine(&bytes, &machine));
	bytes.len = 63;
	assert_false(windows_pe_machine(&bytes, &machine));
	assert_false(windows_pe_is_signed(&bytes));
}

static void test_generation(void **state)
{
	enum windows_generation g;

	(void)state;
	assert_false(windows_generation_of(2195, &g));
	assert_true(windows_generation_of(2600, &g) && g == WINDOWS_XP);
	assert_true(windows_generation_of(3790, &g) && g == WINDOWS_XP);
	assert_true(windows_generation_of(6000, &g) && g == WINDOWS_VISTA);
	assert_true(windows_generation_of(7601, &g) && g == WINDOWS_VISTA);
	assert_true(windows_generation_of(9200, &g) && g == WINDOWS_8);
	assert_true(windows_generation_of(19045, &g) && g == WINDOWS_8);
	assert_true(windows_generation_of(22000, &g) && g == WINDOWS_11);
}

static void test_format(void **state)
{
	uint8_t head[IMAGE_HEAD_LEN] = { 0 };
	enum image_format format = 77;

	(void)state;
	expect_none(image_format(head, false, &format));
	assert_int_equal(format, IMAGE_RAW);
	memcpy(head, "QFI\xfb\0\0\0\3", 8);
	expect_none(image_format(head, false, &format));
	assert_int_equal(format, IMAGE_QCOW2);
	head[79] = 1; // "dirty": QEMU sees to that
	expect_none(image_format(head, false, &format));
	head[79] = 2;
	expect_error(image_format(head, false, &format), ENOTSUP, "corrupt");
	head[79] = 4;
	expect_error(image_format(head, false, &format), ENOTSUP, "another file");
	head[79] = 0;
	head[15] = 104; // where the backing file's name stands
	expect_error(image_format(head, false, &format), EPERM, "--backing");
	expect_none(image_format(head, true, &format));
	head[15] = 0;
	head[8] = 1;
	expect_error(image_format(head, false, &format), EPERM, "--backing");
	head[8] = 0;
	head[7] = 2; // version 2 has no such bits
	expect_none(image_format(head, false, &format));
	head[35] = 1;
	expect_error(image_format(head, false, &format), ENOTSUP, "encrypted");
	head[7] = 4;
	expect_error(image_format(head, false, &format), ENOTSUP, "version 4");
	memset(head, 0, sizeof(head));
	memcpy(head + 64, "\x7f\x10\xda\xbe", 4);
	expect_error(image_format(head, false, &format), ENOTSUP, "VDI");
}

// ---- Names in a volume ---------------------------------------------------------------------------------------

static char folder[] = "/tmp/vmkd-files-XXXXXX";
static int root = -1;

static int make_folder(void **state)
{
	(void)state;
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	root = open(folder, O_RDONLY | O_DIRECTORY);
	return mkdirat(root, "Windows", 0755) || symlinkat("/etc", root, "out") || symlinkat("Windows", root, "in") || mkfifoat(root, "fifo", 0644);
}

static int remove_folder(void **state)
{
	char command[64];

	(void)state;
	close(root);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static void test_files_stay_inside(void **state)
{
	static const char *const paths[] = { "out/passwd", "in/x", "out", "fifo" };
	static const char *const bad[] = { "", "/", "/etc/passwd", "..", "../etc", "Windows/../x", "Windows//x" };
	struct bytes bytes = { (uint8_t[]){ 'x' }, 1 }, ret;

	(void)state;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		expect_error(files_write(root, paths[i], &bytes), i == 3 ? ENXIO : ELOOP, "link or a device");
		expect_error(files_read(root, paths[i], 100, &ret), ELOOP, "link or a device");
		assert_false(files_exists(root, paths[i]));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_error(files_write(root, bad[i], &bytes), EINVAL, "Invalid");
	expect_error(files_make_folder(root, "in/new"), ELOOP, "link");
	expect_error(files_read(root, "Windows", 100, &ret), ELOOP, "plain file");
}

static void test_files_by_any_case(void **state)
{
	struct bytes bytes = { (uint8_t[]){ "12345" }, 5 }, ret = { 0 };

	(void)state;
	expect_none(files_write(root, "WINDOWS/Name", &bytes));
	bytes.len = 3;
	expect_none(files_write(root, "windows/NAME", &bytes)); // the same one, shorter
	assert_int_equal(faccessat(root, "Windows/Name", F_OK, 0), 0);
	assert_int_equal(faccessat(root, "Windows/NAME", F_OK, 0), -1);
	expect_none(files_read(root, "windows/name", 3, &ret));
	assert_int_equal(ret.len, 3);
	bytes_deinit(&ret);
	expect_error(files_read(root, "windows/name", 2, &ret), EFBIG, "name");
	expect_none(files_make_folder(root, "Windows/sub"));
	expect_error(files_make_folder(root, "windows/SUB"), EEXIST, "SUB");
	expect_none(files_write(root, "Windows/sub/other", &bytes));
	expect_error(files_rename(root, "windows/name", "windows/SUB/OTHER"), EEXIST, "OTHER");
	expect_error(files_rename(root, "windows/nothing", "windows/x"), ENOENT, "nothing");
	expect_none(files_rename(root, "windows/name", "windows/sub/New"));
	assert_int_equal(faccessat(root, "Windows/sub/New", F_OK, 0), 0);
	expect_error(files_remove_folder(root, "windows/sub"), ENOTEMPTY, "sub");
	expect_none(files_remove(root, "windows/sub/NEW"));
	expect_error(files_remove(root, "windows/sub/NEW"), ENOENT, "NEW");
	expect_error(files_read(root, "windows/none/NEW", 1, &ret), ENOENT, "none");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hive), cmocka_unit_test(test_log), cmocka_unit_test(test_pe), cmocka_unit_test(test_generation), cmocka_unit_test(test_format),
		cmocka_unit_test_setup_teardown(test_files_stay_inside, make_folder, remove_folder), cmocka_unit_test_setup_teardown(test_files_by_any_case, make_folder, remove_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
