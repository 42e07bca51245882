// SPDX-License-Identifier: MIT
// Partition tables and boot sectors. The first byte: 1 = put the CRCs of a GPT right, so that what is behind them is reached; 2 = the rest is a volume.
// Whatever comes: what is accepted lies within the disk and does not overlap.
#include <stdlib.h>
#include <string.h>

#include "setup/bytes.h"
#include "setup/disk.h"
#include "setup/volume.h"

#define SIZE_MAX_ (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct memory {
	uint8_t *bytes;
	size_t len;
};

static bool read_memory(void *arg, uint64_t offset, void *ret, size_t len)
{
	const struct memory *m = arg;

	if (offset > m->len || len > m->len - offset)
		abort(); // source_read holds the bounds
	memcpy(ret, m->bytes + offset, len);
	return true;
}

static uint32_t crc(const uint8_t *bytes, size_t len)
{
	uint32_t value = ~0u;

	for (size_t i = 0; i < len; i++) {
		value ^= bytes[i];
		for (unsigned bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
	}
	return ~value;
}

static void put(uint8_t *at, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static void seal(struct memory *m, size_t at)
{
	if (at > m->len || m->len - at < 512)
		return;
	uint8_t *header = m->bytes + at;
	uint64_t entries = bytes_le64(header + 72), size = (uint64_t)bytes_le32(header + 80) * bytes_le32(header + 84);
	if (entries <= m->len / 512 && size <= m->len - entries * 512)
		put(header + 88, crc(m->bytes + entries * 512, size));
	put(header + 16, 0);
	if (bytes_le32(header + 12) <= 512)
		put(header + 16, crc(header, bytes_le32(header + 12)));
}

static void check(const struct disk *disk, uint64_t size)
{
	for (unsigned i = 0; i < disk->partition_count; i++) {
		const struct disk_partition *p = &disk->partitions[i];
		if (!p->size || p->offset > size || p->size > size - p->offset)
			abort();
		for (unsigned k = 0; k < i; k++)
			if (p->offset < disk->partitions[k].offset + disk->partitions[k].size && disk->partitions[k].offset < p->offset + p->size)
				abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct disk disk;
	struct volume volume;

	if (len < 1 || len > SIZE_MAX_)
		return 0;
	struct memory m = { malloc(len), len - 1 };
	struct source source = { .size = m.len, .read = read_memory, .arg = &m };
	struct error *error;
	memcpy(m.bytes, data + 1, m.len);
	if (data[0] == 1) {
		seal(&m, 512);
		seal(&m, m.len / 512 * 512 - (m.len >= 512 ? 512 : 0));
	}
	error = data[0] == 2 ? volume_read(&source, &volume) : disk_read(&source, &disk);
	if (!error && data[0] != 2)
		check(&disk, m.len);
	error_free(error);
	free(m.bytes);
	return 0;
}
