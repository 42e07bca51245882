// SPDX-License-Identifier: MIT
// One direction of the shared area: a ring of packet records over pages that each begin with a page_head.
//
// Rules: a `struct ring` is private to one end (its own indexes live here, never in shared memory); the caller moves
// positions between this struct and area_head with wire/order.h. No I/O, no allocation, no locks: one thread at a time.
// Any IRQL in the guest. The other end may change page contents at any moment; every function copies before it looks.
#ifndef WIRE_RING_H
#define WIRE_RING_H

#include "wire/portcall.h"

enum ring_outcome {
	RING_OK = 0,
	RING_E_EMPTY = 1,      // no record between tail and head
	RING_E_FULL = 2,       // not enough room; take the other end's index again or make a call
	RING_E_IMPOSSIBLE = 3, // the other end's index cannot be (alignment, range, beyond capacity): ignore it, count it
	RING_E_RECORD = 4,     // the record's head cannot be (length, type, reserved bits): the stream is lost, register again
};

struct ring {
	uint8_t *const *pages; // borrowed: page_count pointers to AREA_PAGE_SIZE bytes each
	uint32_t page_count;
	uint32_t capacity; // page_count * AREA_PAGE_PAYLOAD
	uint32_t wrap;     // positions are counted modulo this
	uint32_t head;     // producer's position
	uint32_t tail;     // consumer's position
	bool is_summed;    // records carry their sum (both ends agree: AREA_FEATURE_RX_SUM); false after ring_init
};

// A packet as both ends hold it outside the ring. `body` is hdr_len bytes of message header followed by data_len bytes of data.
struct ring_packet {
	uint16_t kd_type;
	uint16_t hdr_len;
	uint32_t data_len;
	uint32_t seq;
};

// The modulus of positions in a ring of `capacity` bytes: the largest multiple of it not above 2^31.
uint32_t ring_wrap(uint32_t capacity);

// Start an empty ring at position `pos` (0 <= pos < wrap, multiple of RECORD_ALIGN, else RING_E_IMPOSSIBLE).
// `pages` is borrowed for the life of the ring.
WIRE_MUST_CHECK int ring_init(struct ring *r, uint8_t *const *pages, uint32_t page_count, uint32_t pos);

// Bytes between tail and head, and bytes that a producer may still write.
uint32_t ring_used(const struct ring *r);
uint32_t ring_free(const struct ring *r);

// Take over the other end's published position after checking that it can be.
// -> RING_OK, RING_E_IMPOSSIBLE (nothing changed).
WIRE_MUST_CHECK int ring_set_tail(struct ring *r, uint32_t tail); // producer: the consumer's
WIRE_MUST_CHECK int ring_set_head(struct ring *r, uint32_t head); // consumer: the producer's

// Producer: append one record and advance head (the caller publishes r->head afterwards with order_store_release).
// hdr and data are copied. -> RING_OK, RING_E_FULL, RING_E_RECORD (lengths beyond RECORD_BODY_MAX).
WIRE_MUST_CHECK int ring_put(struct ring *r, const struct ring_packet *packet, const void *hdr, const void *data);

// What stands in record_head.sum: of the head's bytes with that field 0, then the packet's, 4 at a time, the last with zeros behind it.
// hdr_len is a multiple of 4, as every KD message header is. Not a protection against anybody: it tells bytes of another time.
uint32_t record_sum(const uint8_t head[RECORD_HEAD], const uint8_t *hdr, uint32_t hdr_len, const uint8_t *data, uint32_t data_len);

// Consumer: copy the oldest record out and advance tail. `body` receives hdr_len + data_len bytes and has room for RECORD_BODY_MAX.
// -> RING_OK, RING_E_EMPTY, RING_E_RECORD (tail unchanged, *ret and body unspecified; also: not the
// sum it carries).
WIRE_MUST_CHECK int ring_take(struct ring *r, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX]);

// The page (0-based, within the ring) that holds position pos: the guest touches the pages between two positions.
uint32_t ring_page_of(const struct ring *r, uint32_t pos);

#endif
