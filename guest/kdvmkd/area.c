// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/area.h"

void area_bind(struct area *a, uint8_t *memory)
{
	for (uint32_t i = 0; i < AREA_PAGES; i++)
		a->page[i] = memory + (size_t)i * AREA_PAGE_SIZE;
	if (!a->has_rings) { // position 0 of rings with this module's constant page counts: cannot fail
		a->has_rings = ring_init(&a->tx, &a->page[1], AREA_TX_PAGES, 0) == RING_OK &&
		               ring_init(&a->rx, &a->page[1 + AREA_TX_PAGES], AREA_RX_PAGES, 0) == RING_OK;
	}
	a->tx.pages = &a->page[1];
	a->rx.pages = &a->page[1 + AREA_TX_PAGES];
}

struct area_head *area_head(const struct area *a)
{
	return (struct area_head *)a->page[0];
}

static struct page_head *page_head(const struct area *a, uint32_t index)
{
	return (struct page_head *)a->page[index];
}

bool area_is_current(const struct area *a, const struct machine *m, void *ctx)
{
	for (uint32_t i = 0; i < AREA_PAGES; i++) {
		if (m->physical(ctx, a->page[i]).v != a->gpa[i].v)
			return false;
	}
	return true;
}

// xorshift64 over the time stamp counter and the addresses: not a secret, only different from every registration before, also
// from those that a restored snapshot has forgotten.
static uint64_t draw(struct area *a, const struct machine *m, void *ctx)
{
	uint64_t x = a->entropy ^ m->cycles(ctx) ^ (a->gpa[0].v << 20) ^ 0x9E3779B97F4A7C15ull;
	for (uint32_t i = 0; i < 4; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		x += m->cycles(ctx);
	}
	a->entropy = x;
	return x ? x : 1;
}

static void start_pages(struct area *a, uint64_t nonce)
{
	struct area_head *h = area_head(a);
	for (uint32_t i = 0; i < AREA_PAGES; i++) {
		struct page_head *p = page_head(a, i);
		p->nonce = nonce;
		p->index = i;
		p->touch++;
		h->page_gpa[i] = a->gpa[i].v;
	}
}

// The host drops records up to tx_done_seq as already seen. The word is the host's; one that cannot be would make it
// drop what it never saw, so it is put right while no host has the area.
static void correct_done_seq(struct area *a)
{
	struct area_head *h = area_head(a);
	uint32_t done = order_load(&h->tx_done_seq);
	if (done - a->tx_floor_seq > a->tx_seq - a->tx_floor_seq)
		order_store_release(&h->tx_done_seq, a->tx_floor_seq); // partner: the host's copy of the head in CALL_REGISTER
}

static void start_words(struct area *a, const struct machine *m, void *ctx)
{
	struct area_head *h = area_head(a);
	h->magic = AREA_MAGIC;
	h->version = AREA_VERSION;
	h->page_count = AREA_PAGES;
	h->features = AREA_FEATURES;
	h->arch = sizeof(void *) == 8 ? ARCH_X64 : ARCH_X86;
	h->tx_pages = AREA_TX_PAGES;
	h->rx_pages = AREA_RX_PAGES;
	h->module_base = m->module_base(ctx);
	h->tx_base = a->tx.tail;
	h->tx_head = a->tx.head;
	h->rx_tail = a->rx.tail;
	h->rx_done_seq = a->rx_done_seq;
	h->poll_count = a->poll_count;
	h->guest_state = a->guest_state;
	h->processor = 0xFFFFFFFFu;
	h->dropped = a->dropped;
	h->refused = a->refused;
	// What is neither ours nor the host's is 0; a page that was something else before need not be.
	h->reserved38 = 0;
	h->reserved78 = 0;
	wire_zero(h->reserved_a0, sizeof(h->reserved_a0));
	wire_zero(h->reserved_e4, sizeof(h->reserved_e4));
	wire_zero(h->reserved_104, sizeof(h->reserved_104));
	wire_zero(h->reserved_400, sizeof(h->reserved_400));
}

void area_prepare(struct area *a, const struct machine *m, void *ctx)
{
	for (uint32_t i = 0; i < AREA_PAGES; i++)
		a->gpa[i] = m->physical(ctx, a->page[i]);
	a->rx.head = a->rx.tail; // what the old host had put there and we had not taken is gone with it
	uint64_t nonce = draw(a, m, ctx);
	start_pages(a, nonce);
	start_words(a, m, ctx);
	correct_done_seq(a);
	a->call_seq += 1 + (uint32_t)(nonce >> 44); // a step that no other history of this memory takes
	area_head(a)->call_seq = a->call_seq;
}

void area_retire(struct area *a)
{
	area_head(a)->magic = 0;
	for (uint32_t i = 0; i < AREA_PAGES; i++)
		page_head(a, i)->nonce = 0;
}

int area_sync(struct area *a)
{
	struct area_head *h = area_head(a);
	// Partner: the host's releases of tx_tail and rx_head, before its reply.
	int err = ring_set_tail(&a->tx, order_load_acquire(&h->tx_tail));
	if (!err)
		err = ring_set_head(&a->rx, order_load_acquire(&h->rx_head));
	// A host that has taken what we have not sent yet would drop what we send next.
	if (!err && (int32_t)(order_load(&h->tx_done_seq) - a->tx_seq) > 0)
		err = RING_E_IMPOSSIBLE;
	if (err) {
		area_count_refused(a);
		return err;
	}
	if (ring_used(&a->tx) == 0)
		a->tx_floor_seq = a->tx_seq;
	return RING_OK;
}

void area_touch_head(struct area *a)
{
	page_head(a, 0)->touch++;
}

int area_put(struct area *a, uint16_t kd_type, const void *hdr, uint16_t hdr_len, const void *data, uint32_t data_len)
{
	struct ring_packet packet = {
		.kd_type = kd_type, .hdr_len = hdr_len, .data_len = data_len, .seq = a->tx_seq + 1,
	};
	int err = ring_put(&a->tx, &packet, hdr, data);
	if (err)
		return err;
	a->tx_seq++;
	// Partner: the host's acquire of tx_head at the beginning of a call.
	order_store_release(&area_head(a)->tx_head, a->tx.head);
	return RING_OK;
}

void area_withdraw(struct area *a, uint32_t start)
{
	uint32_t len = a->tx.head >= start ? a->tx.head - start : a->tx.head + a->tx.wrap - start;
	if (len > ring_used(&a->tx))
		return;
	a->tx.head = start;
	// Partner: the host's acquire of tx_head at the beginning of a call.
	order_store_release(&area_head(a)->tx_head, a->tx.head);
}

void area_discard(struct area *a)
{
	if (ring_used(&a->tx) != 0)
		area_count_dropped(a);
	a->tx.tail = a->tx.head;
	a->tx_floor_seq = a->tx_seq;
}

// The pages that held [from, to): the host wrote them in this call.
static void touch_rx(struct area *a, uint32_t from, uint32_t to)
{
	uint32_t first = ring_page_of(&a->rx, from);
	uint32_t last = ring_page_of(&a->rx, to);
	page_head(a, 1 + AREA_TX_PAGES + first)->touch++;
	if (last != first)
		page_head(a, 1 + AREA_TX_PAGES + last)->touch++;
}

int area_take(struct area *a, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX])
{
	struct ring_packet packet;
	for (;;) {
		uint32_t from = a->rx.tail;
		int err = ring_take(&a->rx, &packet, body);
		// An older one than the last is of an earlier lap: a migration has brought the ring's page as it was, and the head as it is.
		if (!err && (int32_t)(packet.seq - a->rx_done_seq) < 0)
			err = RING_E_RECORD;
		if (err == RING_E_RECORD)
			area_count_refused(a);
		if (err)
			return err;
		touch_rx(a, from, a->rx.tail);
		// Partner: the host's read of rx_tail, in the next call.
		order_store_release(&area_head(a)->rx_tail, a->rx.tail);
		if (packet.seq != a->rx_done_seq)
			break;
	}
	a->rx_done_seq = packet.seq;
	area_head(a)->rx_done_seq = packet.seq;
	*ret = packet;
	return RING_OK;
}

void area_count_poll(struct area *a)
{
	area_head(a)->poll_count = ++a->poll_count;
}

void area_count_dropped(struct area *a)
{
	area_head(a)->dropped = ++a->dropped;
}

void area_count_refused(struct area *a)
{
	area_head(a)->refused = ++a->refused;
}

void area_set_state(struct area *a, uint32_t bits, bool is_set)
{
	a->guest_state = is_set ? a->guest_state | bits : a->guest_state & ~bits;
	area_head(a)->guest_state = a->guest_state;
}
