// SPDX-License-Identifier: MIT
#include "util/buf.h"

#include <stdlib.h>
#include <string.h>

void buf_deinit(struct buf *b)
{
	free(b->bytes);
	buf_init(b, b->max);
}

static bool grow(struct buf *b, size_t need)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *bytes;

	while (cap < need)
		cap *= 2;
	bytes = realloc(b->bytes, cap);
	if (!bytes)
		return false;
	b->bytes = bytes;
	b->cap = cap;
	return true;
}

uint8_t *buf_reserve(struct buf *b, size_t len)
{
	if (len > b->max || b->len > b->max - len)
		return NULL;
	// Moved only when as much was consumed as is left: each byte is moved once at most on average, also in a buffer that stays full.
	if (b->start && b->start + b->len + len > b->cap && b->start >= b->len) {
		memmove(b->bytes, b->bytes + b->start, b->len);
		b->start = 0;
	}
	if (b->start + b->len + len > b->cap && !grow(b, b->start + b->len + len))
		return NULL;
	return b->bytes + b->start + b->len;
}

void buf_commit(struct buf *b, size_t len)
{
	b->len += len;
}

bool buf_put(struct buf *b, const void *bytes, size_t len)
{
	uint8_t *to;

	if (!len)
		return true;
	to = buf_reserve(b, len);
	if (!to)
		return false;
	memcpy(to, bytes, len);
	buf_commit(b, len);
	return true;
}

void buf_consume(struct buf *b, size_t len)
{
	if (len > b->len)
		len = b->len;
	b->start += len;
	b->len -= len;
	if (!b->len)
		b->start = 0;
}
