// SPDX-License-Identifier: MIT
#include "setup/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "setup/bytes.h"

#define MBR_SECTOR 512u
#define MBR_ENTRIES 446u // offset of the four entries of 16 bytes
#define MBR_PROTECTIVE 0xeeu
#define GPT_ENTRIES_MAX 1024u // 128 in practice; the bound is on what is read at all
#define GPT_ENTRY_MAX 1024u

// The type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it stands on the disk (UEFI specification, 5.3.3).
static const uint8_t esp_type[16] = { 0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b };

static struct error *unreadable(uint64_t offset)
{
	return error_create(EIO, "cannot read the disk at byte %" PRIu64 " (is the image cut off?)", offset);
}

static bool is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

// Adds a partition that lies within the disk and on no other one.
static struct error *add(struct disk *disk, const struct source *source, struct disk_partition p)
{
	if (p.size == 0 || p.offset > source->size || p.size > source->size - p.offset)
		return error_create(EINVAL, "partition %u (bytes %" PRIu64 " to %" PRIu64 ") does not lie within the disk of %" PRIu64 " bytes", p.number, p.offset,
		                    p.offset + p.size, source->size);
	for (unsigned i = 0; i < disk->partition_count; i++) {
		const struct disk_partition *other = &disk->partitions[i];
		if (p.offset < other->offset + other->size && other->offset < p.offset + p.size)
			return error_create(EINVAL, "partitions %u and %u overlap; the partition table is damaged", other->number, p.number);
	}
	if (disk->partition_count == DISK_PARTITION_MAX)
		return error_create(EINVAL, "more than %u partitions", DISK_PARTITION_MAX);
	disk->partitions[disk->partition_count++] = p;
	return NULL;
}

// ---- MBR -----------------------------------------------------------------------------------------------------

// Reads a sector that ends in 55 AA.
static struct error *read_boot_sector(const struct source *source, uint64_t offset, uint8_t ret[static MBR_SECTOR])
{
	if (!source_read(source, offset, ret, MBR_SECTOR))
		return unreadable(offset);
	if (ret[510] != 0x55 || ret[511] != 0xaa)
		return error_create(EINVAL, "no partition table: the sector at byte %" PRIu64 " does not end in 55 AA", offset);
	return NULL;
}

static struct disk_partition mbr_partition(const uint8_t *entry, unsigned number, uint64_t base)
{
	return (struct disk_partition){
		.number = number,
		.offset = base + (uint64_t)bytes_le32(entry + 8) * MBR_SECTOR,
		.size = (uint64_t)bytes_le32(entry + 12) * MBR_SECTOR,
		.is_active = entry[0] == 0x80,
	};
}

// The chain in an extended partition: each sector has one logical partition, and the place of the next such sector.
static struct error *read_extended(const struct source *source, uint64_t start, struct disk *disk)
{
	uint64_t at = start;

	for (unsigned number = 5; number < 5 + DISK_PARTITION_MAX; number++) {
		uint8_t sector[MBR_SECTOR];
		struct error *error = read_boot_sector(source, at, sector);
		const uint8_t *entry = sector + MBR_ENTRIES, *next = entry + 16;
		if (!error && entry[4])
			error = add(disk, source, mbr_partition(entry, number, at));
		if (error || !is_extended(next[4]))
			return error;
		at = start + (uint64_t)bytes_le32(next + 8) * MBR_SECTOR;
	}
	return error_create(EINVAL, "the extended partition does not end; its chain of tables is damaged");
}

static struct error *read_mbr(const struct source *source, const uint8_t *sector, struct disk *disk)
{
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = sector + MBR_ENTRIES + i * 16;
		struct disk_partition p = mbr_partition(entry, i + 1, 0);
		struct error *error = NULL;
		if (is_extended(entry[4]))
			error = read_extended(source, p.offset, disk);
		else if (entry[4])
			error = add(disk, source, p);
		if (error)
			return error;
	}
	return NULL;
}

// ---- GPT (UEFI specification, 5.3) ---------------------------------------------------------------------------

static uint32_t crc32(const uint8_t *bytes, size_t len)
{
	uint32_t crc = 0xffffffffu;

	for (size_t i = 0; i < len; i++) {
		crc ^= bytes[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

struct gpt {
	uint32_t sector_size, entry_size, entry_count;
	uint64_t first_usable, last_usable; // sectors
	uint8_t *entries;                   // entry_size * entry_count bytes, malloc'ed
};

static bool header_is_whole(uint8_t *sector, uint32_t sector_size, uint64_t lba)
{
	uint32_t header_size = bytes_le32(sector + 12), crc = bytes_le32(sector + 16);

	if (memcmp(sector, "EFI PART", 8) != 0 || header_size < 92 || header_size > sector_size || bytes_le64(sector + 24) != lba)
		return false;
	memset(sector + 16, 0, 4); // the CRC counts as 0 in itself
	return crc32(sector, header_size) == crc;
}

// The header at `lba` and its entries, all CRCs right. -> false: not there, or damaged.
static bool read_gpt_at(const struct source *source, uint32_t sector_size, uint64_t lba, struct gpt *ret)
{
	uint8_t sector[4096];
	struct gpt gpt = { .sector_size = sector_size };

	if (lba > UINT64_MAX / sector_size || !source_read(source, lba * sector_size, sector, sector_size) || !header_is_whole(sector, sector_size, lba))
		return false;
	gpt.first_usable = bytes_le64(sector + 40);
	gpt.last_usable = bytes_le64(sector + 48);
	uint64_t entries_lba = bytes_le64(sector + 72);
	gpt.entry_count = bytes_le32(sector + 80);
	gpt.entry_size = bytes_le32(sector + 84);
	if (gpt.entry_size < 128 || gpt.entry_size > GPT_ENTRY_MAX || gpt.entry_count == 0 || gpt.entry_count > GPT_ENTRIES_MAX || entries_lba > UINT64_MAX / sector_size)
		return false;
	size_t len = (size_t)gpt.entry_size * gpt.entry_count;
	gpt.entries = malloc(len);
	if (!gpt.entries || !source_read(source, entries_lba * sector_size, gpt.entries, len) || crc32(gpt.entries, len) != bytes_le32(sector + 88)) {
		free(gpt.entries);
		return false;
	}
	*ret = gpt;
	return true;
}

static bool gpts_agree(const struct gpt *a, const struct gpt *b)
{
	return a->entry_size == b->entry_size && a->entry_count == b->entry_count && a->first_usable == b->first_usable && a->last_usable == b->last_usable &&
	       memcmp(a->entries, b->entries, (size_t)a->entry_size * a->entry_count) == 0;
}

static struct error *add_gpt_partitions(const struct source *source, const struct gpt *gpt, struct disk *disk)
{
	static const uint8_t unused[16];

	for (uint32_t i = 0; i < gpt->entry_count; i++) {
		const uint8_t *entry = gpt->entries + (size_t)i * gpt->entry_size;
		uint64_t first = bytes_le64(entry + 32), last = bytes_le64(entry + 40);
		if (memcmp(entry, unused, 16) == 0)
			continue;
		if (first < gpt->first_usable || last > gpt->last_usable || last < first || last >= source->size / gpt->sector_size)
			return error_create(EINVAL, "partition %u (sectors %" PRIu64 " to %" PRIu64 ") does not lie within the part of the disk that the GPT gives to partitions", i + 1, first, last);
		struct error *error = add(disk, source, (struct disk_partition){
			.number = i + 1,
			.offset = first * gpt->sector_size,
			.size = (last - first + 1) * gpt->sector_size,
			.is_esp = memcmp(entry, esp_type, 16) == 0,
		});
		if (error)
			return error;
	}
	return NULL;
}

// Both headers, for sectors of 512 or 4096 bytes.
static struct error *read_gpt(const struct source *source, struct disk *disk)
{
	static const uint32_t sector_sizes[] = { 512, 4096 };

	for (size_t i = 0; i < 2; i++) {
		uint32_t size = sector_sizes[i];
		struct gpt first = { 0 }, second = { 0 };
		bool has_first = read_gpt_at(source, size, 1, &first);
		bool has_second = source->size >= 2 * (uint64_t)size && read_gpt_at(source, size, source->size / size - 1, &second);
		struct error *error = NULL;
		if (has_first && has_second && !gpts_agree(&first, &second))
			error = error_create(EINVAL, "the two copies of the GPT are whole and differ: a partitioning program was interrupted; let one write the table again");
		else if (has_first || has_second)
			error = add_gpt_partitions(source, has_first ? &first : &second, disk);
		free(first.entries);
		free(second.entries);
		if (has_first || has_second)
			return error;
	}
	return error_create(EINVAL, "the MBR says that there is a GPT, but neither copy of it is whole (is the image cut off?)");
}

struct error *disk_read(const struct source *source, struct disk *ret)
{
	uint8_t sector[MBR_SECTOR];
	struct disk disk = { 0 };
	struct error *error = read_boot_sector(source, 0, sector);

	if (error)
		return error;
	for (unsigned i = 0; i < 4; i++)
		disk.is_gpt |= sector[MBR_ENTRIES + i * 16 + 4] == MBR_PROTECTIVE;
	error = disk.is_gpt ? read_gpt(source, &disk) : read_mbr(source, sector, &disk);
	if (!error)
		*ret = disk;
	return error;
}
