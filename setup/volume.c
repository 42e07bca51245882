// SPDX-License-Identifier: MIT
#include "setup/volume.h"

#include <errno.h>
#include <string.h>

#include "setup/bytes.h"

#define SECTOR 512u
#define RECORD_MAX 4096u // of the master file table: 1024 mostly, 4096 on disks with such sectors
#define RECORD_OF_VOLUME 3u
#define ATTRIBUTE_VOLUME_INFORMATION 0x70u
#define ATTRIBUTE_END 0xffffffffu
#define VOLUME_IS_DIRTY 0x0001u

static struct error *damaged(const char *what)
{
	return error_create(EINVAL, "the boot sector says NTFS, but %s: the volume is damaged, or the image is cut off", what);
}

// Sizes are counts of `unit` bytes, or, as negative numbers, powers of two of `unit_of_power` bytes.
static uint64_t size_of(uint8_t count, uint64_t unit, uint64_t unit_of_power)
{
	if (count <= 0x80)
		return count * unit;
	return count > 256 - 31 ? unit_of_power << (256 - count) : 0;
}

// Each sector of a record ends in the same two bytes; what stood there is in an array of the record. -> false: torn or wrong.
static bool undo_fixups(uint8_t *record, size_t len)
{
	size_t at = bytes_le16(record + 4), count = bytes_le16(record + 6);

	if (count != len / SECTOR + 1 || at + 2 * count > len)
		return false;
	for (size_t i = 1; i < count; i++) {
		uint8_t *end = record + i * SECTOR - 2;
		if (memcmp(end, record + at, 2) != 0)
			return false;
		memcpy(end, record + at + 2 * i, 2);
	}
	return true;
}

// The flags of $VOLUME_INFORMATION in the record. -> false: there is none.
static bool find_flags(const uint8_t *record, size_t len, uint16_t *ret)
{
	size_t at = bytes_le16(record + 20);

	while (at + 24 <= len && bytes_le32(record + at) != ATTRIBUTE_END) {
		const uint8_t *attribute = record + at;
		size_t size = bytes_le32(attribute + 4), value = bytes_le16(attribute + 20);
		if (size < 24 || size > len - at)
			return false;
		if (bytes_le32(attribute) == ATTRIBUTE_VOLUME_INFORMATION) {
			if (attribute[8] || value + 12 > size)
				return false;
			*ret = bytes_le16(attribute + value + 10);
			return true;
		}
		at += size;
	}
	return false;
}

static struct error *read_ntfs(const struct source *source, const uint8_t *boot, struct volume *volume)
{
	uint64_t sector = bytes_le16(boot + 11), cluster = size_of(boot[13], sector, sector), record = size_of(boot[64], cluster, 1), mft = bytes_le64(boot + 48);
	uint8_t bytes[RECORD_MAX];
	uint16_t flags;

	if (sector < SECTOR || sector > 4096 || (sector & (sector - 1)) || cluster == 0 || record < 1024 || record > RECORD_MAX || record % SECTOR)
		return damaged("its sizes make no sense");
	if (mft > source->size / cluster || !source_read(source, mft * cluster + RECORD_OF_VOLUME * record, bytes, record))
		return damaged("its file table cannot be read");
	if (memcmp(bytes, "FILE", 4) != 0 || !undo_fixups(bytes, record) || !find_flags(bytes, record, &flags))
		return damaged("its $Volume record is not whole");
	volume->is_dirty = flags & VOLUME_IS_DIRTY;
	return NULL;
}

struct error *volume_read(const struct source *source, struct volume *ret)
{
	uint8_t boot[SECTOR];
	struct volume volume = { .kind = VOLUME_OTHER };
	struct error *error = NULL;

	if (!source_read(source, 0, boot, sizeof(boot)))
		return error_create(EIO, "cannot read its first sector");
	if (memcmp(boot + 3, "-FVE-FS-", 8) == 0)
		volume.kind = VOLUME_BITLOCKER;
	else if (memcmp(boot + 3, "NTFS    ", 8) == 0)
		volume.kind = VOLUME_NTFS;
	else if (memcmp(boot + 54, "FAT", 3) == 0 || memcmp(boot + 82, "FAT32", 5) == 0)
		volume.kind = VOLUME_FAT;
	if (volume.kind == VOLUME_NTFS)
		error = read_ntfs(source, boot, &volume);
	if (!error)
		*ret = volume;
	return error;
}
