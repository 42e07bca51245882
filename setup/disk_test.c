// SPDX-License-Identifier: MIT
// Partition tables and boot sectors in memory: the damaged ones first.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "setup/bytes.h"
#include "setup/disk.h"
#include "setup/volume.h"

#define SIZE (256u * 512u)

static uint8_t image[SIZE];

static bool read_memory(void *arg, uint64_t offset, void *ret, size_t len)
{
	assert_true(offset + len <= SIZE);
	memcpy(ret, (uint8_t *)arg + offset, len);
	return true;
}

static const struct source source = { .size = SIZE, .read = read_memory, .arg = image };

static void put(uint64_t offset, uint64_t value, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		image[offset + i] = (uint8_t)(value >> 8 * i);
}

static void begin(void)
{
	memset(image, 0, sizeof(image));
	put(510, 0xaa55, 2);
}

static void mbr_entry(uint64_t sector, unsigned slot, uint8_t type, uint32_t first, uint32_t count)
{
	uint64_t at = sector * 512 + 446 + slot * 16;

	image[at + 4] = type;
	put(at + 8, first, 4);
	put(at + 12, count, 4);
	put(sector * 512 + 510, 0xaa55, 2);
}

static void expect_refusal(const char *text)
{
	static struct disk disk;
	struct error *error;

	memset(&disk, 0x5a, sizeof(disk));
	error = disk_read(&source, &disk);
	assert_non_null(error);
	if (!strstr(error->text, text))
		fail_msg("expected '%s' in: %s", text, error->text);
	assert_int_equal(disk.partition_count, 0x5a5a5a5a); // untouched
	error_free(error);
}

static void expect_partitions(unsigned count, struct disk *ret)
{
	struct error *error = disk_read(&source, ret);

	if (error)
		fail_msg("%s", error->text);
	assert_int_equal(ret->partition_count, count);
}

static void test_mbr_refusals(void **state)
{
	(void)state;
	begin();
	image[510] = 0;
	expect_refusal("does not end in 55 AA");
	begin();
	mbr_entry(0, 0, 7, 10, 100);
	mbr_entry(0, 1, 7, 109, 10); // one sector too many
	expect_refusal("partitions 1 and 2 overlap");
	begin();
	mbr_entry(0, 0, 7, 10, 247); // one sector too many
	expect_refusal("does not lie within the disk");
	begin();
	mbr_entry(0, 0, 7, 0xffffffff, 0xffffffff);
	expect_refusal("does not lie within the disk");
	begin();
	mbr_entry(0, 2, 7, 10, 0);
	expect_refusal("partition 3");
	begin();
	mbr_entry(0, 0, 5, 0x00800000, 4); // its table would be behind the end
	expect_refusal("cannot read the disk");
}

static void test_extended_chain_without_end(void **state)
{
	(void)state;
	begin();
	mbr_entry(0, 0, 0x0f, 10, 100);
	mbr_entry(10, 1, 5, 10, 1); // to the second table ...
	mbr_entry(20, 1, 5, 0, 1);  // ... and back
	expect_refusal("does not end");
}

static void test_mbr(void **state)
{
	static struct disk disk;

	(void)state;
	begin();
	mbr_entry(0, 0, 7, 8, 8);
	image[446 + 16] = 0x80;
	mbr_entry(0, 1, 7, 16, 8);
	mbr_entry(0, 3, 5, 32, 200);
	mbr_entry(32, 0, 7, 2, 8);
	mbr_entry(32, 1, 5, 100, 20);
	mbr_entry(132, 0, 7, 3, 9);
	expect_partitions(4, &disk);
	assert_false(disk.is_gpt);
	assert_true(disk.partitions[1].is_active && !disk.partitions[0].is_active);
	assert_int_equal(disk.partitions[2].number, 5);
	assert_int_equal(disk.partitions[2].offset, 34 * 512);
	assert_int_equal(disk.partitions[3].number, 6);
	assert_int_equal(disk.partitions[3].offset, 135 * 512);
	assert_int_equal(disk.partitions[3].size, 9 * 512);
}

// ---- GPT -----------------------------------------------------------------------------------------------------

static uint32_t crc(const uint8_t *bytes, size_t len)
{
	uint32_t value = ~0u;

	for (size_t i = 0; i < 8 * len; i++)
		value = value >> 1 ^ (((value ^ (uint32_t)bytes[i / 8] >> i % 8) & 1) ? 0xedb88320u : 0);
	return ~value;
}

#define ENTRY(table, n) ((table) * 512 + (n) * 128)

static void seal(uint64_t lba)
{
	uint64_t at = lba * 512;
	uint64_t entries = bytes_le64(image + at + 72) * 512;

	put(at + 88, crc(image + entries, (size_t)bytes_le32(image + at + 80) * 128), 4);
	put(at + 16, 0, 4);
	put(at + 16, crc(image + at, 92), 4);
}

static void gpt_header(uint64_t lba, uint64_t entries)
{
	uint64_t at = lba * 512;

	memcpy(image + at, "EFI PART", 8);
	put(at + 12, 92, 4);
	put(at + 24, lba, 8);
	put(at + 40, 6, 8);   // first usable
	put(at + 48, 249, 8); // last usable
	put(at + 72, entries, 8);
	put(at + 80, 8, 4);
	put(at + 84, 128, 4);
}

static void gpt_entry(unsigned n, uint64_t first, uint64_t last)
{
	static const uint64_t tables[] = { 2, 252 };

	for (unsigned i = 0; i < 2; i++) {
		uint64_t at = ENTRY(tables[i], n);
		memcpy(image + at, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b", 16);
		image[at] = (uint8_t)(image[at] + n); // the first is an ESP, the others are not
		put(at + 32, first, 8);
		put(at + 40, last, 8);
	}
	seal(1);
	seal(255);
}

static void begin_gpt(void)
{
	begin();
	mbr_entry(0, 0, 0xee, 1, 0xffffffff);
	gpt_header(1, 2);
	gpt_header(255, 252);
	gpt_entry(0, 6, 9);
	gpt_entry(3, 10, 249);
}

static void test_gpt(void **state)
{
	static struct disk disk;

	(void)state;
	begin_gpt();
	expect_partitions(2, &disk);
	assert_true(disk.is_gpt && disk.partitions[0].is_esp && !disk.partitions[1].is_esp);
	assert_int_equal(disk.partitions[1].number, 4);
	assert_int_equal(disk.partitions[1].offset, 10 * 512);
	assert_int_equal(disk.partitions[1].size, 240 * 512);
}

static void test_gpt_second_header_serves(void **state)
{
	static struct disk disk;

	(void)state;
	begin_gpt();
	image[512 + 60] ^= 1;
	expect_partitions(2, &disk);
	begin_gpt();
	image[ENTRY(2, 0) + 60] ^= 1; // an entry of the first: its sum is wrong
	expect_partitions(2, &disk);
	image[255 * 512 + 60] ^= 1;
	expect_refusal("neither copy of it is whole");
}

static void test_gpt_refusals(void **state)
{
	(void)state;
	begin_gpt();
	put(ENTRY(2, 3) + 40, 248, 8);
	seal(1);
	expect_refusal("are whole and differ");
	begin_gpt();
	gpt_entry(3, 9, 249);
	expect_refusal("overlap");
	begin_gpt();
	gpt_entry(3, 10, 250);
	expect_refusal("does not lie within the part");
	begin_gpt();
	gpt_entry(3, 5, 5);
	expect_refusal("does not lie within the part");
	begin_gpt();
	gpt_entry(3, 20, 19);
	expect_refusal("does not lie within the part");
	begin_gpt();
	for (uint64_t lba = 1; lba <= 255; lba += 254) {
		put(lba * 512 + 48, UINT64_MAX, 8); // what is usable is the table's word, too
		put(lba * 512 + 40, 0, 8);
	}
	gpt_entry(3, UINT64_MAX - 1, UINT64_MAX);
	expect_refusal("does not lie within");
}

static void test_gpt_headers_that_make_no_sense(void **state)
{
	static const struct {
		unsigned offset, len;
		uint64_t value;
	} changes[] = {
		{ 12, 4, 91 }, { 12, 4, 513 }, { 24, 8, 2 }, { 72, 8, UINT64_MAX }, { 72, 8, 256 }, { 80, 4, 0 }, { 80, 4, 1025 }, { 84, 4, 127 }, { 84, 4, 1025 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		begin_gpt();
		memset(image + 255 * 512, 0, 512);
		put(512 + changes[i].offset, changes[i].value, changes[i].len);
		put(512 + 16, 0, 4);
		put(512 + 16, crc(image + 512, 92), 4);
		expect_refusal("neither copy");
	}
}

// ---- Volumes -------------------------------------------------------------------------------------------------

#define RECORD (4096 * 4 + 3 * 1024) // of $Volume

static void begin_ntfs(uint16_t flags)
{
	memset(image, 0, sizeof(image));
	memcpy(image + 3, "NTFS    ", 8);
	put(11, 512, 2);
	image[13] = 8;
	put(48, 4, 8);
	image[64] = 0xf6; // 1 << 10
	memcpy(image + RECORD, "FILE", 4);
	put(RECORD + 4, 48, 2);
	put(RECORD + 6, 3, 2);
	put(RECORD + 48, 0x1234, 2);
	put(RECORD + 510, 0x1234, 2);
	put(RECORD + 1022, 0x1234, 2);
	put(RECORD + 20, 56, 2);
	put(RECORD + 56, 0x30, 4); // another attribute before
	put(RECORD + 60, 32, 4);
	put(RECORD + 88, 0x70, 4);
	put(RECORD + 92, 40, 4);
	put(RECORD + 88 + 16, 12, 4);
	put(RECORD + 88 + 20, 24, 2);
	put(RECORD + 88 + 24 + 10, flags, 2);
	put(RECORD + 128, 0xffffffff, 4);
}

static void expect_damaged(void)
{
	struct volume volume = { .kind = 77 };
	struct error *error = volume_read(&source, &volume);

	assert_non_null(error);
	assert_non_null(strstr(error->text, "says NTFS, but"));
	assert_int_equal(volume.kind, 77);
	error_free(error);
}

static void test_ntfs(void **state)
{
	struct volume volume;

	(void)state;
	begin_ntfs(0x8000);
	assert_null(volume_read(&source, &volume));
	assert_true(volume.kind == VOLUME_NTFS && !volume.is_dirty);
	begin_ntfs(0x8001);
	assert_null(volume_read(&source, &volume));
	assert_true(volume.is_dirty);
}

static void test_ntfs_damaged(void **state)
{
	static const struct {
		unsigned offset, len;
		uint64_t value;
	} changes[] = {
		{ 11, 2, 0 },                     // sectors of no bytes
		{ 11, 2, 513 },                   //
		{ 13, 1, 0 },                     // clusters of none
		{ 13, 1, 0x81 },                  // of 2^127
		{ 64, 1, 0xf0 },                  // records of 64 KiB
		{ 64, 1, 0 },                     //
		{ 48, 8, UINT64_MAX },            // a table behind the end
		{ 48, 8, 32 },                    //
		{ RECORD, 4, 0 },                 // no record
		{ RECORD + 510, 2, 0x1235 },      // a torn one
		{ RECORD + 1022, 2, 0 },          //
		{ RECORD + 6, 2, 4 },             // of more sectors than it has
		{ RECORD + 4, 2, 1020 },          // fix-ups behind its end
		{ RECORD + 20, 2, 1020 },         // attributes there
		{ RECORD + 60, 4, 0 },            // an attribute of no length
		{ RECORD + 60, 4, 2000 },         // a longer one than the record
		{ RECORD + 92, 4, 2000 },         // the one that counts, too
		{ RECORD + 88 + 8, 1, 1 },        // not resident
		{ RECORD + 88 + 20, 2, 30 },      // its value behind its end
		{ RECORD + 88, 4, 0xffffffff },   // not there
	};

	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		begin_ntfs(0);
		put(changes[i].offset, changes[i].value, changes[i].len);
		expect_damaged();
	}
}

static void test_other_volumes(void **state)
{
	static const struct {
		const char *text;
		unsigned offset;
		enum volume_kind kind;
	} cases[] = { { "-FVE-FS-", 3, VOLUME_BITLOCKER }, { "FAT16   ", 54, VOLUME_FAT }, { "FAT32   ", 82, VOLUME_FAT }, { "ReFS", 3, VOLUME_OTHER } };
	struct volume volume;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(image, 0, sizeof(image));
		memcpy(image + cases[i].offset, cases[i].text, strlen(cases[i].text));
		assert_null(volume_read(&source, &volume));
		assert_int_equal(volume.kind, cases[i].kind);
	}
	struct source small = { .size = 511, .read = read_memory, .arg = image };
	struct error *error = volume_read(&small, &volume);
	assert_int_equal(error->code, EIO);
	error_free(error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mbr_refusals), cmocka_unit_test(test_extended_chain_without_end), cmocka_unit_test(test_gpt_refusals),
		cmocka_unit_test(test_gpt_headers_that_make_no_sense), cmocka_unit_test(test_gpt_second_header_serves), cmocka_unit_test(test_mbr), cmocka_unit_test(test_gpt),
		cmocka_unit_test(test_ntfs_damaged), cmocka_unit_test(test_ntfs), cmocka_unit_test(test_other_volumes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
