// SPDX-License-Identifier: MIT
#include "wire/ring.h"

#include "wire/kdapi.h"
#include "wire/le.h"

_Static_assert(AREA_PAGE_PAYLOAD % RECORD_ALIGN == 0, "a capacity is a multiple of the alignment, and so is every position");
_Static_assert(RECORD_MAX % RECORD_ALIGN == 0, "the largest record needs no padding");

// ---- Positions -----------------------------------------------------------------------------------

uint32_t ring_wrap(uint32_t capacity)
{
	return capacity ? 0x80000000u / capacity * capacity : 0;
}

// From `from` forward to `to`; both below wrap, which is at most 2^31.
static uint32_t distance(const struct ring *r, uint32_t from, uint32_t to)
{
	return to >= from ? to - from : to + r->wrap - from;
}

static uint32_t advance(const struct ring *r, uint32_t pos, uint32_t by)
{
	uint32_t to = pos + by;
	return to >= r->wrap ? to - r->wrap : to;
}

static bool is_position(const struct ring *r, uint32_t pos)
{
	return pos < r->wrap && pos % RECORD_ALIGN == 0;
}

int ring_init(struct ring *r, uint8_t *const *pages, uint32_t page_count, uint32_t pos)
{
	if (!page_count || page_count > AREA_PAGES_MAX)
		return RING_E_IMPOSSIBLE;
	struct ring fresh = { .pages = pages, .page_count = page_count, .capacity = page_count * AREA_PAGE_PAYLOAD,
	                      .head = pos, .tail = pos };
	fresh.wrap = ring_wrap(fresh.capacity);
	if (!is_position(&fresh, pos))
		return RING_E_IMPOSSIBLE;
	*r = fresh;
	return RING_OK;
}

uint32_t ring_used(const struct ring *r)
{
	return distance(r, r->tail, r->head);
}

uint32_t ring_free(const struct ring *r)
{
	return r->capacity - ring_used(r);
}

int ring_set_tail(struct ring *r, uint32_t tail)
{
	if (!is_position(r, tail) || distance(r, r->tail, tail) > ring_used(r))
		return RING_E_IMPOSSIBLE;
	r->tail = tail;
	return RING_OK;
}

int ring_set_head(struct ring *r, uint32_t head)
{
	if (!is_position(r, head))
		return RING_E_IMPOSSIBLE;
	uint32_t used = distance(r, r->tail, head);
	if (used > r->capacity || used < ring_used(r))
		return RING_E_IMPOSSIBLE;
	r->head = head;
	return RING_OK;
}

uint32_t ring_page_of(const struct ring *r, uint32_t pos)
{
	return pos % r->capacity / AREA_PAGE_PAYLOAD;
}

// ---- Bytes at a position -------------------------------------------------------------------------

// The bytes from `pos` to the end of its page; the page head is never part of them.
static uint8_t *piece(const struct ring *r, uint32_t pos, uint32_t want, uint32_t *ret_len)
{
	uint32_t at = pos % r->capacity;
	uint32_t in_page = at % AREA_PAGE_PAYLOAD;
	uint32_t left = AREA_PAGE_PAYLOAD - in_page;
	*ret_len = want < left ? want : left;
	return r->pages[at / AREA_PAGE_PAYLOAD] + AREA_PAGE_HEAD + in_page;
}

// Both return the position behind the bytes.
static uint32_t copy_in(const struct ring *r, uint32_t pos, const uint8_t *from, uint32_t len)
{
	while (len) {
		uint32_t n;
		uint8_t *to = piece(r, pos, len, &n);
		wire_copy(to, from, n);
		from += n;
		len -= n;
		pos = advance(r, pos, n);
	}
	return pos;
}

static uint32_t copy_out(const struct ring *r, uint32_t pos, uint8_t *to, uint32_t len)
{
	while (len) {
		uint32_t n;
		const uint8_t *from = piece(r, pos, len, &n);
		wire_copy(to, from, n);
		to += n;
		len -= n;
		pos = advance(r, pos, n);
	}
	// What is looked at from here on is the copy: the compiler may not read the ring again in its place.
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return pos;
}

// ---- Records -------------------------------------------------------------------------------------

static uint32_t record_len(uint32_t body_len)
{
	return (RECORD_HEAD + body_len + RECORD_ALIGN - 1u) & ~(RECORD_ALIGN - 1u);
}

// The wire knows the length of a message header by the packet's type, so any other length cannot be.
static bool packet_can_be(const struct ring_packet *p)
{
	uint32_t header = kd_header_size(p->kd_type);
	return header && p->kd_type != KD_PACKET_STATE_CHANGE32 && p->hdr_len == header &&
	       p->data_len <= RECORD_BODY_MAX - header;
}

static void encode_head(uint8_t *b, const struct ring_packet *p)
{
	wire_zero(b, RECORD_HEAD);
	put_le32(b + offsetof(struct record_head, len), record_len((uint32_t)p->hdr_len + p->data_len));
	put_le16(b + offsetof(struct record_head, kd_type), p->kd_type);
	put_le32(b + offsetof(struct record_head, seq), p->seq);
	put_le16(b + offsetof(struct record_head, hdr_len), p->hdr_len);
	put_le32(b + offsetof(struct record_head, data_len), p->data_len);
}

static uint32_t sum_words(uint32_t sum, const uint8_t *bytes, uint32_t len)
{
	uint8_t last[4] = { 0 };
	for (; len >= 4; bytes += 4, len -= 4)
		sum = (sum ^ get_le32(bytes)) * 0x9E3779B1u + (sum >> 15); // an odd factor loses nothing, the shift brings high bits down
	wire_copy(last, bytes, len);
	return len ? (sum ^ get_le32(last)) * 0x9E3779B1u + (sum >> 15) : sum;
}

uint32_t record_sum(const uint8_t head[RECORD_HEAD], const uint8_t *hdr, uint32_t hdr_len, const uint8_t *data, uint32_t data_len)
{
	uint32_t sum = sum_words(1, head, offsetof(struct record_head, sum));
	return sum_words(sum_words(sum, hdr, hdr_len), data, data_len);
}

// `b` is a private copy: the producer may be changing the ring at this moment.
static int decode_head(const uint8_t *b, uint32_t used, struct ring_packet *ret)
{
	struct ring_packet p = {
		.kd_type = get_le16(b + offsetof(struct record_head, kd_type)),
		.hdr_len = get_le16(b + offsetof(struct record_head, hdr_len)),
		.data_len = get_le32(b + offsetof(struct record_head, data_len)),
		.seq = get_le32(b + offsetof(struct record_head, seq)),
	};
	uint32_t len = get_le32(b + offsetof(struct record_head, len));
	uint32_t reserved = get_le16(b + offsetof(struct record_head, flags)) |
	                    get_le16(b + offsetof(struct record_head, reserved));
	if (!packet_can_be(&p) || reserved || len > used || len != record_len((uint32_t)p.hdr_len + p.data_len))
		return RING_E_RECORD;
	*ret = p;
	return RING_OK;
}

int ring_put(struct ring *r, const struct ring_packet *packet, const void *hdr, const void *data)
{
	static const uint8_t zeros[RECORD_ALIGN];
	if (!packet_can_be(packet))
		return RING_E_RECORD;
	uint32_t body_len = (uint32_t)packet->hdr_len + packet->data_len;
	uint32_t len = record_len(body_len);
	if (len > ring_free(r))
		return RING_E_FULL;
	uint8_t head[RECORD_HEAD];
	encode_head(head, packet);
	if (r->is_summed)
		put_le32(head + offsetof(struct record_head, sum), record_sum(head, hdr, packet->hdr_len, data, packet->data_len));
	uint32_t pos = copy_in(r, r->head, head, RECORD_HEAD);
	pos = copy_in(r, pos, hdr, packet->hdr_len);
	pos = copy_in(r, pos, data, packet->data_len);
	r->head = copy_in(r, pos, zeros, len - RECORD_HEAD - body_len);
	return RING_OK;
}

int ring_take(struct ring *r, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX])
{
	uint32_t used = ring_used(r);
	if (!used)
		return RING_E_EMPTY;
	if (used < RECORD_HEAD)
		return RING_E_RECORD;
	uint8_t head[RECORD_HEAD];
	struct ring_packet p;
	uint32_t pos = copy_out(r, r->tail, head, RECORD_HEAD);
	if (decode_head(head, used, &p) != RING_OK)
		return RING_E_RECORD;
	uint32_t body_len = (uint32_t)p.hdr_len + p.data_len;
	(void)copy_out(r, pos, body, body_len); // the padding behind it is skipped, not read
	uint32_t sum = r->is_summed ? record_sum(head, body, p.hdr_len, body + p.hdr_len, p.data_len) : 0;
	if (get_le32(head + offsetof(struct record_head, sum)) != sum)
		return RING_E_RECORD;
	r->tail = advance(r, r->tail, record_len(body_len));
	*ret = p;
	return RING_OK;
}
