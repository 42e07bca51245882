// SPDX-License-Identifier: MIT
// Bytes of a file or a disk: what is passed around, little-endian numbers in them, and a sum that tells two contents apart.
//
// The sum (FNV-1a, 64 bits) answers "is this still what was written?". It is no protection against an adversary, and need not be one: whoever can
// change the guest's disk needs no collision.
#ifndef SETUP_BYTES_H
#define SETUP_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct bytes {
	uint8_t *data; // malloc'ed, of the holder; perhaps NULL when len is 0
	size_t len;
};

static inline void bytes_deinit(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){ 0 };
}

static inline uint16_t bytes_le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t bytes_le32(const uint8_t *p)
{
	return bytes_le16(p) | (uint32_t)bytes_le16(p + 2) << 16;
}

static inline uint64_t bytes_le64(const uint8_t *p)
{
	return bytes_le32(p) | (uint64_t)bytes_le32(p + 4) << 32;
}

static inline uint64_t bytes_sum(const void *data, size_t len)
{
	uint64_t sum = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++)
		sum = (sum ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
	return sum;
}

#endif
