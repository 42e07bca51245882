// SPDX-License-Identifier: MIT
// The ring against a plain queue, at positions that wrap, and against a peer that lies.
#include "wire/kdapi.h"
#include "wire/le.h"
#include "wire/ring.h"
#include "wire/selftest.h"

#define PAGES_MAX 8u
#define PAGE_FILL 0xA5u

// As in the area: the pages lie apart from each other, and not in order.
static uint8_t memory[2 * PAGES_MAX][AREA_PAGE_SIZE];
static uint8_t *pages[PAGES_MAX];
static uint8_t sent[RECORD_BODY_MAX], taken[RECORD_BODY_MAX];

static void lay_out_pages(void)
{
	for (uint32_t i = 0; i < PAGES_MAX; i++)
		pages[i] = memory[2 * (PAGES_MAX - 1 - i) + 1];
	for (uint32_t i = 0; i < 2 * PAGES_MAX; i++)
		for (uint32_t j = 0; j < AREA_PAGE_SIZE; j++)
			memory[i][j] = PAGE_FILL;
}

// Page heads and the pages that are not ours still hold what they held.
static bool is_outside_untouched(void)
{
	for (uint32_t i = 0; i < 2 * PAGES_MAX; i++)
		for (uint32_t j = 0; j < (i % 2 ? AREA_PAGE_HEAD : AREA_PAGE_SIZE); j++)
			if (memory[i][j] != PAGE_FILL)
				return false;
	return true;
}

static struct ring_packet packet_of(uint16_t type, uint32_t data_len, uint32_t seq)
{
	return (struct ring_packet){ .kd_type = type, .hdr_len = (uint16_t)kd_header_size(type), .data_len = data_len, .seq = seq };
}

static void fill_body(uint8_t *body, uint32_t len, uint32_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		body[i] = (uint8_t)(seed + i * 3);
}

static int put(struct ring *r, const struct ring_packet *p)
{
	fill_body(sent, (uint32_t)p->hdr_len + p->data_len, p->seq);
	return ring_put(r, p, sent, sent + p->hdr_len);
}

static bool is_packet(const struct ring_packet *a, const struct ring_packet *b)
{
	return a->kd_type == b->kd_type && a->hdr_len == b->hdr_len && a->data_len == b->data_len && a->seq == b->seq;
}

// ---- Against a queue -----------------------------------------------------------------------------
#define QUEUE_MAX 1024u // more records than the largest ring here can hold
static struct {
	struct ring_packet packets[QUEUE_MAX];
	uint32_t first, count;
} queue;

static const uint16_t types[] = { 2, 3, 7, 9, 10, 11 };

static void random_put(struct selftest *t, struct dice *d, struct ring *producer, struct ring *consumer, uint32_t seq)
{
	uint16_t type = types[dice_roll(d, 6)];
	uint32_t most = dice_roll(d, 8) ? 200 : RECORD_BODY_MAX - kd_header_size(type) + 1;
	struct ring_packet p = packet_of(type, dice_roll(d, most), seq);
	uint32_t need = (RECORD_HEAD + p.hdr_len + p.data_len + 7u) & ~7u;
	bool has_room = need <= ring_free(producer);
	CHECK(t, put(producer, &p) == (has_room ? RING_OK : RING_E_FULL));
	CHECK(t, ring_set_head(consumer, producer->head) == RING_OK);
	if (has_room)
		queue.packets[(queue.first + queue.count++) % QUEUE_MAX] = p;
}

static void random_take(struct selftest *t, struct ring *producer, struct ring *consumer)
{
	struct ring_packet p;
	int r = ring_take(consumer, &p, taken);
	if (!queue.count) {
		CHECK(t, r == RING_E_EMPTY);
		return;
	}
	const struct ring_packet *expected = &queue.packets[queue.first++ % QUEUE_MAX];
	queue.count--;
	CHECK(t, r == RING_OK);
	if (r != RING_OK)
		return;
	CHECK(t, is_packet(&p, expected));
	uint32_t len = (uint32_t)expected->hdr_len + expected->data_len;
	fill_body(sent, len, expected->seq);
	CHECK(t, same_bytes(taken, sent, len));
	CHECK(t, ring_set_tail(producer, consumer->tail) == RING_OK);
}

static void model(struct selftest *t, uint32_t page_count, uint32_t start, uint32_t seed)
{
	struct dice d = { seed };
	struct ring producer, consumer;
	lay_out_pages();
	queue.first = queue.count = 0;
	CHECK(t, ring_init(&producer, pages, page_count, start) == RING_OK);
	CHECK(t, ring_init(&consumer, pages, page_count, start) == RING_OK);
	for (uint32_t i = 0; i < 300 && !t->has_failed; i++) {
		// Phases that fill and phases that drain, so that both ends are met.
		if (dice_roll(&d, 8) < ((i / 50) % 2 ? 3u : 5u))
			random_put(t, &d, &producer, &consumer, i);
		else
			random_take(t, &producer, &consumer);
		CHECK(t, ring_used(&producer) == ring_used(&consumer));
		CHECK(t, ring_used(&producer) + ring_free(&producer) == page_count * AREA_PAGE_PAYLOAD);
	}
	CHECK(t, is_outside_untouched());
}

static void test_model(struct selftest *t)
{
	selftest_begin(t, "ring: like a queue");
	for (uint32_t seed = 1; seed <= 4; seed++)
		model(t, 2, 0, seed);
	model(t, 8, 4080, 5);
	selftest_end(t);

	selftest_begin(t, "ring: like a queue where positions wrap");
	for (uint32_t seed = 1; seed <= 4; seed++)
		model(t, 2, ring_wrap(2 * AREA_PAGE_PAYLOAD) - 8 * seed, seed);
	model(t, 3, ring_wrap(3 * AREA_PAGE_PAYLOAD) - 4080, 9);
	selftest_end(t);
}

// ---- Edges ---------------------------------------------------------------------------------------

static void test_init(struct selftest *t)
{
	struct ring r;
	selftest_begin(t, "ring: start positions");
	lay_out_pages();
	for (uint32_t n = 1; n <= AREA_PAGES_MAX; n++) {
		uint32_t capacity = n * AREA_PAGE_PAYLOAD, wrap = ring_wrap(capacity);
		CHECK(t, wrap % capacity == 0 && wrap <= 0x80000000u && 0x80000000u - wrap < capacity);
		CHECK(t, ring_init(&r, pages, n, 0) == RING_OK);
		CHECK(t, ring_init(&r, pages, n, wrap - 8) == RING_OK);
		CHECK(t, ring_init(&r, pages, n, wrap) == RING_E_IMPOSSIBLE);
		CHECK(t, ring_init(&r, pages, n, 4) == RING_E_IMPOSSIBLE);
		CHECK(t, ring_init(&r, pages, n, UINT32_MAX - 7) == RING_E_IMPOSSIBLE);
	}
	CHECK(t, ring_init(&r, pages, 0, 0) == RING_E_IMPOSSIBLE);
	CHECK(t, ring_init(&r, pages, AREA_PAGES_MAX + 1, 0) == RING_E_IMPOSSIBLE);
	CHECK(t, ring_wrap(0) == 0);
	selftest_end(t);
}

static void test_full(struct selftest *t)
{
	struct ring r;
	struct ring_packet got, big = packet_of(KD_PACKET_MANIPULATE, KD_DATA_MAX, 1);
	struct ring_packet rest = packet_of(KD_PACKET_MANIPULATE, 112 - 24 - 56, 2);
	selftest_begin(t, "ring: full to the last byte, then empty");
	lay_out_pages();
	CHECK(t, ring_init(&r, pages, 2, 4080) == RING_OK);
	CHECK(t, put(&r, &big) == RING_OK);
	CHECK(t, put(&r, &big) == RING_OK);
	CHECK(t, ring_free(&r) == 112); // 2 * 4080 - 2 * 4024
	CHECK(t, put(&r, &big) == RING_E_FULL);
	CHECK(t, put(&r, &rest) == RING_OK);
	CHECK(t, ring_free(&r) == 0 && ring_used(&r) == r.capacity);
	struct ring_packet least = packet_of(KD_PACKET_CONTROL_REQUEST, 0, 3);
	CHECK(t, put(&r, &least) == RING_E_FULL);
	CHECK(t, ring_take(&r, &got, taken) == RING_OK && is_packet(&got, &big));
	CHECK(t, ring_take(&r, &got, taken) == RING_OK && is_packet(&got, &big));
	CHECK(t, ring_take(&r, &got, taken) == RING_OK && is_packet(&got, &rest));
	CHECK(t, ring_take(&r, &got, taken) == RING_E_EMPTY);
	CHECK(t, is_outside_untouched());
	selftest_end(t);
}

static void test_put_refuses(struct selftest *t)
{
	struct ring r;
	struct ring_packet p = packet_of(KD_PACKET_MANIPULATE, KD_DATA_MAX + 1, 1);
	selftest_begin(t, "ring: a producer's packet that cannot be");
	lay_out_pages();
	CHECK(t, ring_init(&r, pages, 2, 0) == RING_OK);
	CHECK(t, ring_put(&r, &p, sent, sent) == RING_E_RECORD);
	p.data_len = UINT32_MAX - 40; // the sum with the header is small again
	CHECK(t, ring_put(&r, &p, sent, sent) == RING_E_RECORD);
	p = packet_of(8, 0, 1);
	CHECK(t, ring_put(&r, &p, sent, sent) == RING_E_RECORD);
	p = packet_of(KD_PACKET_MANIPULATE, 0, 1);
	p.hdr_len = 55;
	CHECK(t, ring_put(&r, &p, sent, sent) == RING_E_RECORD);
	CHECK(t, r.head == 0 && memory[15][AREA_PAGE_HEAD] == PAGE_FILL);
	selftest_end(t);
}

static void test_pages(struct selftest *t)
{
	struct ring r;
	selftest_begin(t, "ring: which page a position lies in");
	CHECK(t, ring_init(&r, pages, 3, 0) == RING_OK);
	CHECK(t, ring_page_of(&r, 0) == 0 && ring_page_of(&r, 4079) == 0 && ring_page_of(&r, 4080) == 1);
	CHECK(t, ring_page_of(&r, 3 * 4080) == 0 && ring_page_of(&r, r.wrap - 8) == 2);
	selftest_end(t);
}

// ---- A peer that lies ----------------------------------------------------------------------------

static void test_indexes(struct selftest *t)
{
	struct ring r;
	struct ring_packet p = packet_of(KD_PACKET_DEBUG_IO, 24, 1); // 64 bytes
	selftest_begin(t, "ring: indexes of the other end that cannot be");
	lay_out_pages();
	CHECK(t, ring_init(&r, pages, 2, 800) == RING_OK);
	CHECK(t, put(&r, &p) == RING_OK && put(&r, &p) == RING_OK);
	CHECK(t, ring_set_tail(&r, 804) == RING_E_IMPOSSIBLE);          // alignment
	CHECK(t, ring_set_tail(&r, 936) == RING_E_IMPOSSIBLE);          // beyond what was written
	CHECK(t, ring_set_tail(&r, 792) == RING_E_IMPOSSIBLE);          // backwards
	CHECK(t, ring_set_tail(&r, r.wrap) == RING_E_IMPOSSIBLE);       // no position
	CHECK(t, ring_set_tail(&r, UINT32_MAX - 7) == RING_E_IMPOSSIBLE);
	CHECK(t, r.tail == 800 && r.head == 928);
	CHECK(t, ring_set_head(&r, 932) == RING_E_IMPOSSIBLE);
	CHECK(t, ring_set_head(&r, 920) == RING_E_IMPOSSIBLE);          // backwards
	CHECK(t, ring_set_head(&r, 800 + 2 * 4080 + 8) == RING_E_IMPOSSIBLE); // more than the ring holds
	CHECK(t, ring_set_head(&r, 0x80000000u) == RING_E_IMPOSSIBLE);
	CHECK(t, r.tail == 800 && r.head == 928);
	CHECK(t, ring_set_tail(&r, 864) == RING_OK);
	CHECK(t, ring_set_tail(&r, 928) == RING_OK);
	CHECK(t, ring_set_head(&r, 928 + 2 * 4080) == RING_OK);
	selftest_end(t);
}

// One record of 80 bytes at position 0, with one word of its head overwritten.
static int take_with(uint32_t at, uint32_t size, uint32_t value, uint32_t published)
{
	struct ring r;
	struct ring_packet got = { 0 }, p = packet_of(KD_PACKET_MANIPULATE, 0, 7);
	lay_out_pages();
	if (ring_init(&r, pages, 2, 0) != RING_OK || put(&r, &p) != RING_OK)
		return -1;
	uint8_t *head = pages[0] + AREA_PAGE_HEAD;
	if (size == 4)
		put_le32(head + at, value);
	else
		put_le16(head + at, (uint16_t)value);
	struct ring consumer;
	if (ring_init(&consumer, pages, 2, 0) != RING_OK || ring_set_head(&consumer, published) != RING_OK)
		return -1;
	int result = ring_take(&consumer, &got, taken);
	if (result != RING_OK && (consumer.tail != 0 || got.seq != 0))
		return -1;
	return result;
}

static void test_heads(struct selftest *t)
{
	selftest_begin(t, "ring: record heads that cannot be");
	CHECK(t, take_with(0x08, 4, 7, 80) == RING_OK); // nothing changed
	static const uint32_t lens[] = { 0, 8, 24, 72, 79, 81, 88, 4024, 4032, 0x80000000u, UINT32_MAX, UINT32_MAX - 7 };
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
		CHECK(t, take_with(0x00, 4, lens[i], 80) == RING_E_RECORD);
	static const uint16_t bad_types[] = { 0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 0x102, 0xFFFF };
	for (size_t i = 0; i < sizeof(bad_types) / sizeof(bad_types[0]); i++)
		CHECK(t, take_with(0x04, 2, bad_types[i], 80) == RING_E_RECORD);
	CHECK(t, take_with(0x06, 2, 1, 80) == RING_E_RECORD);       // flags
	CHECK(t, take_with(0x0E, 2, 0x8000, 80) == RING_E_RECORD);  // reserved
	CHECK(t, take_with(0x14, 4, 1, 80) == RING_E_RECORD);       // a sum where none is agreed
	CHECK(t, take_with(0x0C, 2, 55, 80) == RING_E_RECORD);      // header length
	CHECK(t, take_with(0x0C, 2, 0xFFFF, 80) == RING_E_RECORD);
	CHECK(t, take_with(0x10, 4, 1, 80) == RING_E_RECORD);       // data length: the record would be longer
	CHECK(t, take_with(0x10, 4, KD_DATA_MAX + 1, 80) == RING_E_RECORD);
	CHECK(t, take_with(0x10, 4, UINT32_MAX - 7, 80) == RING_E_RECORD);
	CHECK(t, take_with(0x08, 4, 7, 72) == RING_E_RECORD); // less published than the record has
	CHECK(t, take_with(0x08, 4, 7, 16) == RING_E_RECORD); // less than a head
	selftest_end(t);
}

// The producer's and the consumer's idea of sums, and a bit that changes between the two.
static int take_summed(bool is_put_summed, bool is_take_summed, uint32_t flipped_at)
{
	struct ring producer, consumer;
	struct ring_packet got = { 0 }, p = packet_of(KD_PACKET_MANIPULATE, KD_DATA_MAX - 1, 7); // into the second page
	lay_out_pages();
	if (ring_init(&producer, pages, 2, 104) != RING_OK || ring_init(&consumer, pages, 2, 104) != RING_OK)
		return -1;
	producer.is_summed = is_put_summed;
	consumer.is_summed = is_take_summed;
	if (put(&producer, &p) != RING_OK || ring_set_head(&consumer, producer.head) != RING_OK)
		return -1;
	if (flipped_at) {
		uint32_t at = 104 + flipped_at;
		pages[at / AREA_PAGE_PAYLOAD][AREA_PAGE_HEAD + at % AREA_PAGE_PAYLOAD] ^= 1;
	}
	return ring_take(&consumer, &got, taken);
}

static void test_sums(struct selftest *t)
{
	selftest_begin(t, "ring: sums of records");
	CHECK(t, take_summed(true, true, 0) == RING_OK);
	CHECK(t, take_summed(false, false, 0) == RING_OK);
	CHECK(t, take_summed(true, false, 0) == RING_E_RECORD);
	CHECK(t, take_summed(false, true, 0) == RING_E_RECORD);
	static const uint32_t places[] = { 4, 8, 9, 20, 24, 79, 80, 2000, 3975, 3976, 4022 };
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		CHECK(t, take_summed(true, true, places[i]) == RING_E_RECORD);
	CHECK(t, take_summed(true, true, 4023) == RING_OK); // padding
	CHECK(t, take_summed(false, false, 2000) == RING_OK);
	selftest_end(t);
}

void selftest_ring(struct selftest *t)
{
	test_sums(t);
	test_init(t);
	test_full(t);
	test_put_refuses(t);
	test_pages(t);
	test_indexes(t);
	test_heads(t);
	test_model(t);
}
