// SPDX-License-Identifier: MIT
#include "vmm/fake_guest.h"

#include <stdlib.h>
#include <string.h>

#include "wire/order.h"

static void must(bool ok)
{
	if (!ok)
		abort();
}

void fake_guest_init(struct fake_guest *g, uint8_t *ram, uint64_t ram_gpa, uint32_t first, uint32_t tx_pages,
                     uint32_t rx_pages, uint64_t nonce)
{
	uint32_t count = 1 + tx_pages + rx_pages;
	uint32_t tx_seq = g->tx_seq;
	*g = (struct fake_guest){ .ram = ram, .ram_gpa = ram_gpa, .tx_seq = tx_seq };
	for (uint32_t i = 0; i < count; i++) {
		uint64_t offset = ((uint64_t)first + 2 * i) * AREA_PAGE_SIZE;
		g->pages[i] = ram + offset;
		memset(g->pages[i], 0, AREA_PAGE_SIZE);
		struct page_head head = { .nonce = nonce, .index = i };
		memcpy(g->pages[i], &head, sizeof(head));
	}
	g->head = (struct area_head *)g->pages[0];
	g->head->magic = AREA_MAGIC;
	g->head->version = AREA_VERSION;
	g->head->page_count = count;
	g->head->features = AREA_FEATURE_CONTROL_REGS | AREA_FEATURE_PRINT_BATCH;
	g->head->arch = ARCH_X64;
	g->head->tx_pages = tx_pages;
	g->head->rx_pages = rx_pages;
	for (uint32_t i = 0; i < count; i++)
		g->head->page_gpa[i] = ram_gpa + (uint64_t)(g->pages[i] - ram);
	must(!ring_init(&g->tx, &g->pages[1], tx_pages, 0));
	must(!ring_init(&g->rx, &g->pages[1 + tx_pages], rx_pages, 0));
}

gpa_t fake_guest_head(const struct fake_guest *g)
{
	return (gpa_t){ g->head->page_gpa[0] };
}

void fake_guest_send(struct fake_guest *g, uint16_t kd_type, uint16_t hdr_len, const void *body, uint32_t body_len)
{
	struct ring_packet p = {
		.kd_type = kd_type, .hdr_len = hdr_len, .data_len = body_len - hdr_len, .seq = ++g->tx_seq,
	};
	must(!ring_set_tail(&g->tx, order_load_acquire(&g->head->tx_tail)));
	must(!ring_put(&g->tx, &p, body, (const uint8_t *)body + hdr_len));
	order_store_release(&g->head->tx_head, g->tx.head);
}

uint32_t fake_guest_call(struct fake_guest *g, uint32_t fn, uint32_t flags, uint32_t want)
{
	g->head->call_fn = fn;
	g->head->call_flags = flags;
	g->head->call_want = want;
	g->head->poll_count++;
	return ++g->head->call_seq;
}

int fake_guest_take(struct fake_guest *g, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX])
{
	must(!ring_set_head(&g->rx, order_load_acquire(&g->head->rx_head)));
	int err = ring_take(&g->rx, ret, body);
	if (err == RING_E_EMPTY)
		return -1;
	must(!err);
	g->head->rx_done_seq = ret->seq;
	order_store_release(&g->head->rx_tail, g->rx.tail);
	return (int)(ret->hdr_len + ret->data_len);
}
