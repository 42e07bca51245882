// SPDX-License-Identifier: MIT
// Where the parsers of this folder read from: a disk, a partition of it, or a test's memory. They own no I/O.
#ifndef SETUP_SOURCE_H
#define SETUP_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct source {
	uint64_t offset, size; // bytes: the part of the whole that this is
	bool (*read)(void *arg, uint64_t offset, void *ret, size_t len); // offset: in the whole. False: an I/O error; ret may be half filled then
	void *arg;
};

// `len` bytes from `offset` of the part. -> false: beyond its end, or an I/O error.
static inline bool source_read(const struct source *s, uint64_t offset, void *ret, size_t len)
{
	return offset <= s->size && len <= s->size - offset && s->read(s->arg, s->offset + offset, ret, len);
}

#endif
