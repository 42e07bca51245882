// SPDX-License-Identifier: MIT
// A bounded queue of bytes: append at the end, consume from the front. Memory grows as needed up to `max` and never
// beyond, which is what keeps a peer that reads nothing (or writes no newline) from filling the host's memory.
//
// Rules: one thread at a time; no I/O.
#ifndef UTIL_BUF_H
#define UTIL_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *bytes; // NULL while nothing was ever stored
	size_t start;   // offset of the first unconsumed byte
	size_t len;     // unconsumed bytes
	size_t cap;     // allocated bytes
	size_t max;     // most unconsumed bytes
};

// An empty queue of at most `max` bytes. No memory is allocated yet.
static inline void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){ .max = max };
}

// Free the memory; the queue is empty and usable afterwards.
void buf_deinit(struct buf *b);

// The unconsumed bytes, b->len of them; perhaps NULL when there are none. Valid until the next call on b.
static inline const uint8_t *buf_data(const struct buf *b)
{
	return b->bytes ? b->bytes + b->start : NULL;
}

// Append. -> false: the queue would exceed `max` or memory is out; nothing was appended.
__attribute__((warn_unused_result)) bool buf_put(struct buf *b, const void *bytes, size_t len);

// Room for `len` more bytes at the end, to be filled by the caller and then added with buf_commit. NULL: as false above.
__attribute__((warn_unused_result)) uint8_t *buf_reserve(struct buf *b, size_t len);
void buf_commit(struct buf *b, size_t len); // len <= what was reserved

// Drop `len` (at most b->len) bytes from the front.
void buf_consume(struct buf *b, size_t len);

// Forget everything, keep the memory.
static inline void buf_clear(struct buf *b)
{
	b->start = b->len = 0;
}

#endif
