// SPDX-License-Identifier: MIT
// A ring whose other end lies: about its index, and about what is in the pages. The input is a program:
//   first byte   bits 0 to 1: 2 to 5 pages; the next four bytes: where it starts
//   0 hh hh ll ll  bytes follow: write ll bytes into the ring's memory at offset hh     1 vvvvvvvv  the other end's index, absolute
//   2 nn           the other end's index, nn * 8 beyond our own                         3           take a record
//   4 t nn nn      put a record of type t with nn bytes of data                         5 nn        the consumer's index, nn * 8 further
#include <assert.h>
#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"
#include "wire/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGES_MAX 5u
static uint8_t pages_memory[PAGES_MAX][AREA_PAGE_SIZE];
static uint8_t *pages[PAGES_MAX];

struct program {
	const uint8_t *at, *end;
};

static uint32_t next(struct program *p, unsigned bytes)
{
	uint32_t v = 0;
	while (bytes--)
		v = v << 8 | (p->at < p->end ? *p->at++ : 0u);
	return v;
}

static void check(const struct ring *r)
{
	assert(r->head < r->wrap && r->tail < r->wrap && r->head % 8 == 0 && r->tail % 8 == 0);
	assert(ring_used(r) <= r->capacity && ring_used(r) + ring_free(r) == r->capacity);
	assert(ring_page_of(r, r->head) < r->page_count && ring_page_of(r, r->tail) < r->page_count);
	for (unsigned i = 0; i < PAGES_MAX; i++)
		for (unsigned j = 0; j < AREA_PAGE_HEAD; j++)
			assert(pages_memory[i][j] == 0xA5);
}

// The other end writes what it likes, but not into the page heads: the test watches those for our own mistakes.
static void scribble(struct program *p, const struct ring *r)
{
	uint32_t at = next(p, 2), len = next(p, 2);
	for (uint32_t i = 0; i < len && p->at < p->end; i++) {
		uint32_t pos = (at + i) % r->capacity;
		pages[pos / AREA_PAGE_PAYLOAD][AREA_PAGE_HEAD + pos % AREA_PAGE_PAYLOAD] = *p->at++;
	}
}

static void take(struct ring *r)
{
	static uint8_t body[RECORD_BODY_MAX];
	struct ring_packet got;
	uint32_t used = ring_used(r), tail = r->tail;
	int e = ring_take(r, &got, body);
	assert(e == RING_OK || e == RING_E_EMPTY || e == RING_E_RECORD);
	if (e != RING_OK) {
		assert(r->tail == tail && (e == RING_E_EMPTY) == (used == 0));
		return;
	}
	assert(kd_header_size(got.kd_type) == got.hdr_len && got.hdr_len);
	assert((uint64_t)got.hdr_len + got.data_len <= RECORD_BODY_MAX);
	assert(used - ring_used(r) == ((RECORD_HEAD + got.hdr_len + got.data_len + 7u) & ~7u));
}

static void put(struct program *p, struct ring *r)
{
	static uint8_t body[RECORD_BODY_MAX + 65536];
	struct ring_packet packet = { .kd_type = (uint16_t)next(p, 1), .data_len = next(p, 2), .seq = 1 };
	packet.hdr_len = (uint16_t)kd_header_size(packet.kd_type);
	uint32_t room = ring_free(r), head = r->head;
	int e = ring_put(r, &packet, body, body);
	uint64_t len = ((uint64_t)RECORD_HEAD + packet.hdr_len + packet.data_len + 7) & ~7ull;
	if (e == RING_OK)
		assert(len <= room && room - ring_free(r) == len);
	else
		assert(r->head == head && (e == RING_E_RECORD || len > room));
}

// An index is taken only if it moves forward, and not beyond what there can be.
static void set_head(struct ring *r, uint32_t head)
{
	struct ring before = *r;
	int e = ring_set_head(r, head);
	if (e == RING_OK)
		assert(r->head == head && ring_used(r) >= ring_used(&before));
	else
		assert(e == RING_E_IMPOSSIBLE && memcmp(&before, r, sizeof(before)) == 0);
}

static void set_tail(struct ring *r, uint32_t tail)
{
	struct ring before = *r;
	int e = ring_set_tail(r, tail);
	if (e == RING_OK)
		assert(r->tail == tail && ring_used(r) <= ring_used(&before));
	else
		assert(e == RING_E_IMPOSSIBLE && memcmp(&before, r, sizeof(before)) == 0);
}

static void step(struct program *p, struct ring *r)
{
	switch (next(p, 1) % 6) {
	case 0: scribble(p, r); break;
	case 1: set_head(r, next(p, 4)); break;
	case 2: set_head(r, (uint32_t)(((uint64_t)r->head + next(p, 2) * 8u) % r->wrap)); break;
	case 3: take(r); break;
	case 4: put(p, r); break;
	default: set_tail(r, (uint32_t)(((uint64_t)r->tail + next(p, 2) * 8u) % r->wrap)); break;
	}
	check(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program p = { data, data + size };
	struct ring r;
	memset(pages_memory, 0xA5, sizeof(pages_memory));
	for (unsigned i = 0; i < PAGES_MAX; i++)
		pages[i] = pages_memory[i];
	uint32_t page_count = 2 + next(&p, 1) % 4;
	if (ring_init(&r, pages, page_count, next(&p, 4)) != RING_OK)
		return 0;
	for (unsigned steps = 0; p.at < p.end && steps < 200; steps++)
		step(&p, &r);
	return 0;
}
