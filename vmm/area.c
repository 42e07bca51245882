// SPDX-License-Identifier: MIT
#include "vmm/area.h"

#include <string.h>

#define KNOWN_FEATURES (AREA_FEATURE_CONTROL_REGS | AREA_FEATURE_PRINT_BATCH | AREA_FEATURE_RX_SUM)

// One copy of foreign memory. The empty asm keeps the compiler from reading the source a second time later.
static void copy_in(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	__asm__ volatile("" ::: "memory");
}

static uint64_t load64(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static struct area_head *head_of(const struct area *a)
{
	return (struct area_head *)a->page[0];
}

uint8_t *gpa_map_page(const struct gpa_map *map, gpa_t page)
{
	if (page.v % AREA_PAGE_SIZE)
		return NULL;
	for (uint32_t i = 0; i < map->count; i++) {
		const struct gpa_range *r = &map->ranges[i];
		if (page.v >= r->gpa && r->size >= AREA_PAGE_SIZE && page.v - r->gpa <= r->size - AREA_PAGE_SIZE)
			return r->host + (page.v - r->gpa);
	}
	return NULL;
}

static bool all_zero(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return false;
	}
	return true;
}

// The least that a page must show before a refusal may be written into it.
static bool is_head(const struct area_head *h, gpa_t at)
{
	return h->magic == AREA_MAGIC && h->page.nonce != 0 && h->page.index == 0 && h->page_gpa[0] == at.v;
}

static int check_head(const struct area_head *h, gpa_t at)
{
	if (!is_head(h, at))
		return AREA_E_ADDRESS;
	if (h->version >> 16 != AREA_VERSION_MAJOR)
		return AREA_E_VERSION;
	if (h->tx_pages < AREA_TX_PAGES_MIN || h->tx_pages > AREA_PAGES_MAX || h->rx_pages < AREA_RX_PAGES_MIN ||
	    h->rx_pages > AREA_PAGES_MAX)
		return AREA_E_HEAD;
	if (h->page_count > AREA_PAGES_MAX || h->page_count != 1 + h->tx_pages + h->rx_pages)
		return AREA_E_HEAD;
	if (h->arch != ARCH_X64 && h->arch != ARCH_X86)
		return AREA_E_HEAD;
	if (h->reserved38 || h->reserved78 || !all_zero(h->reserved_a0, sizeof(h->reserved_a0)) ||
	    !all_zero(h->reserved_e4, sizeof(h->reserved_e4)) || !all_zero(h->reserved_104, sizeof(h->reserved_104)) ||
	    !all_zero(h->reserved_400, sizeof(h->reserved_400)))
		return AREA_E_HEAD;
	return AREA_OK;
}

static bool page_carries(const uint8_t *page, uint64_t nonce, uint32_t index)
{
	const struct page_head *h = (const struct page_head *)page;
	return load64(&h->nonce) == nonce && order_load(&h->index) == index;
}

// A page listed twice would let one ring overwrite the other, or the head.
static bool is_listed_before(const struct area_head *h, uint32_t index)
{
	for (uint32_t i = 0; i < index; i++) {
		if (h->page_gpa[i] == h->page_gpa[index])
			return true;
	}
	return false;
}

static int find_pages(const struct area_head *h, const struct gpa_map *map, uint8_t **ret_pages)
{
	for (uint32_t i = 0; i < h->page_count; i++) {
		uint8_t *page = gpa_map_page(map, (gpa_t){ h->page_gpa[i] });
		if (!page || is_listed_before(h, i) || !page_carries(page, h->page.nonce, i))
			return AREA_E_PAGES;
		ret_pages[i] = page;
	}
	return AREA_OK;
}

static int start_rings(struct area *a, const struct area_head *h, uint32_t tx_tail)
{
	if (ring_init(&a->tx, &a->page[1], h->tx_pages, tx_tail) ||
	    ring_init(&a->rx, &a->page[1 + h->tx_pages], h->rx_pages, h->rx_tail) ||
	    ring_set_head(&a->tx, h->tx_head))
		return AREA_E_HEAD;
	return AREA_OK;
}

static int take_over(struct area *a, const struct gpa_map *map, gpa_t head, bool is_dead)
{
	const uint8_t *page = gpa_map_page(map, head);
	if (!page)
		return AREA_E_ADDRESS;
	struct area_head h;
	copy_in(&h, page, sizeof(h));
	int err = check_head(&h, head);
	if (err)
		return err;
	uint8_t *pages[AREA_PAGES_MAX];
	err = find_pages(&h, map, pages);
	if (err)
		return err;

	memcpy(a->page, pages, h.page_count * sizeof(pages[0]));
	err = start_rings(a, &h, is_dead ? h.tx_tail : h.tx_base);
	if (err) {
		area_forget(a);
		return err;
	}
	memcpy(a->page_gpa, h.page_gpa, sizeof(a->page_gpa));
	a->nonce = h.page.nonce;
	a->version = h.version;
	a->features = h.features & KNOWN_FEATURES;
	a->rx.is_summed = a->features & AREA_FEATURE_RX_SUM;
	a->arch = h.arch;
	a->page_count = h.page_count;
	a->module_base = h.module_base;
	a->tx_done_seq = h.tx_done_seq;
	a->rx_seq = h.rx_done_seq;
	a->is_registered = true;
	return AREA_OK;
}

int area_register(struct area *a, const struct gpa_map *map, gpa_t head)
{
	return take_over(a, map, head, false);
}

int area_reopen(struct area *a, const struct gpa_map *map, gpa_t head)
{
	return take_over(a, map, head, true);
}

void area_forget(struct area *a)
{
	memset(a, 0, sizeof(*a));
}

bool area_owns_page(const struct area *a, uint32_t index)
{
	return a->is_registered && index < a->page_count && page_carries(a->page[index], a->nonce, index);
}

bool area_overlaps(const struct area *a, uint64_t gpa, uint64_t size)
{
	for (uint32_t i = 0; a->is_registered && i < a->page_count; i++) {
		uint64_t page = a->page_gpa[i];
		if (page >= gpa ? page - gpa < size : gpa - page < AREA_PAGE_SIZE)
			return true;
	}
	return false;
}

int area_read_words(const struct area *a, struct area_words *ret)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	struct area_head h;
	// Pairs with the guest's release of tx_head: the records in front of it are visible once it is.
	(void)order_load_acquire(&head_of(a)->tx_head); // the ordering is wanted; the value comes with the copy
	copy_in(&h, head_of(a), offsetof(struct area_head, attention));
	*ret = (struct area_words){
		.tx_head = h.tx_head, .rx_tail = h.rx_tail, .call_seq = h.call_seq, .call_fn = h.call_fn,
		.call_flags = h.call_flags, .call_want = h.call_want, .poll_count = h.poll_count,
		.rx_done_seq = h.rx_done_seq, .ring_seq = h.ring_seq, .guest_state = h.guest_state,
		.processor = h.processor, .cr0 = h.cr0, .cr3 = h.cr3, .cr4 = h.cr4, .efer = h.efer,
		.tx_tail = h.tx_tail, .rx_head = h.rx_head, .reply_seq = h.reply_seq,
	};
	return AREA_OK;
}

static void write_code(struct area_head *h, uint32_t code, uint32_t seq)
{
	order_store_release(&h->host_version, AREA_VERSION);
	order_store_release(&h->reply_code, RESULT_TAG | code);
	// Pairs with the guest's acquire of reply_seq in its spin: everything written before is visible with it.
	order_store_release(&h->reply_seq, seq);
}

int area_write_reply(struct area *a, uint32_t host_flags, uint32_t code, uint32_t seq)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	struct area_head *h = head_of(a);
	order_store_release(&h->tx_tail, a->tx.tail);
	order_store_release(&h->rx_head, a->rx.head);
	order_store_release(&h->tx_done_seq, a->tx_done_seq);
	order_store_release(&h->host_features, a->features);
	order_store_release(&h->host_flags, host_flags);
	write_code(h, code, seq);
	return AREA_OK;
}

int area_write_taken(struct area *a)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	order_store_release(&head_of(a)->tx_tail, a->tx.tail);
	order_store_release(&head_of(a)->tx_done_seq, a->tx_done_seq);
	return AREA_OK;
}

int area_write_code(struct area *a, uint32_t code, uint32_t seq)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	write_code(head_of(a), code, seq);
	return AREA_OK;
}

int area_write_refusal(const struct gpa_map *map, gpa_t head, uint32_t code)
{
	uint8_t *page = gpa_map_page(map, head);
	if (!page)
		return AREA_E_ADDRESS;
	struct area_head copy;
	copy_in(&copy, page, sizeof(copy));
	if (!is_head(&copy, head))
		return AREA_E_ADDRESS;
	write_code((struct area_head *)page, code, copy.call_seq);
	return AREA_OK;
}

uint32_t area_stated_version(const struct gpa_map *map, gpa_t head)
{
	const uint8_t *page = gpa_map_page(map, head);
	if (!page)
		return 0;
	struct area_head copy;
	copy_in(&copy, page, sizeof(copy));
	return is_head(&copy, head) ? copy.version : 0;
}

int area_put(struct area *a, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	for (uint32_t i = 1 + a->tx.page_count; i < a->page_count; i++) {
		if (!area_owns_page(a, i))
			return AREA_E_LOST;
	}
	if (!a->is_registered)
		return AREA_E_LOST;
	struct ring_packet packet = {
		.kd_type = kd_type, .hdr_len = hdr_len, .data_len = body_len - hdr_len, .seq = a->rx_seq + 1,
	};
	if (hdr_len > body_len || ring_put(&a->rx, &packet, body, body + hdr_len))
		return AREA_E_HEAD;
	a->rx_seq++;
	return AREA_OK;
}

int area_attention_set(struct area *a, uint32_t bits)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	order_set_bits(&head_of(a)->attention, bits); // pairs with order_take in the guest's poll
	return AREA_OK;
}

int area_attention_clear(struct area *a, uint32_t bits)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	// A poll between the two misses the other bits until its next turn, and nothing is lost.
	uint32_t old = order_take(&head_of(a)->attention);
	order_set_bits(&head_of(a)->attention, old & ~bits);
	return AREA_OK;
}

uint32_t area_attention(const struct area *a)
{
	return area_owns_page(a, 0) ? order_load(&head_of(a)->attention) : 0;
}

int area_ring_seen(struct area *a, uint32_t ring_seq)
{
	if (!area_owns_page(a, 0))
		return AREA_E_LOST;
	// Pairs with the guest's acquire of ring_seen before it rings again.
	order_store_release(&head_of(a)->ring_seen, ring_seq);
	return AREA_OK;
}

uint32_t area_poll_count(const struct area *a)
{
	return area_owns_page(a, 0) ? order_load(&head_of(a)->poll_count) : 0;
}

// ---- Candidates ---------------------------------------------------------------------------------

static bool looks_like_head(const uint8_t *page, gpa_t at, struct area_candidate *ret)
{
	const struct area_head *mapped = (const struct area_head *)page;
	if (load64(&mapped->magic) != AREA_MAGIC) // almost every page ends here, at the cost of one load
		return false;
	struct area_head h;
	copy_in(&h, page, sizeof(h));
	if (check_head(&h, at) != AREA_OK)
		return false;
	*ret = (struct area_candidate){
		.head = at, .nonce = h.page.nonce, .poll_count = h.poll_count, .page = page,
	};
	return true;
}

int area_scan(const struct gpa_map *map, struct area_cursor *cursor, uint64_t budget, struct area_candidate *ret)
{
	while (cursor->range < map->count) {
		const struct gpa_range *r = &map->ranges[cursor->range];
		if (r->size < AREA_PAGE_SIZE || cursor->offset > r->size - AREA_PAGE_SIZE) {
			*cursor = (struct area_cursor){ .range = cursor->range + 1 };
			continue;
		}
		if (budget-- == 0)
			return AREA_E_MORE;
		uint64_t offset = cursor->offset;
		cursor->offset += AREA_PAGE_SIZE;
		if (looks_like_head(r->host + offset, (gpa_t){ r->gpa + offset }, ret))
			return AREA_OK;
	}
	return AREA_E_NONE;
}

bool area_candidate_is_alive(const struct area_candidate *candidate)
{
	const struct area_head *h = (const struct area_head *)candidate->page;
	return page_carries(candidate->page, candidate->nonce, 0) && load64(&h->magic) == AREA_MAGIC &&
	       order_load(&h->poll_count) != candidate->poll_count;
}

int area_candidate_call(const struct area_candidate *candidate)
{
	if (!area_candidate_is_alive(candidate))
		return AREA_E_LOST;
	// Pairs with order_take in the guest's poll. The const view is for scanning; this is the one write a candidate allows.
	order_set_bits(&((struct area_head *)(uintptr_t)candidate->page)->attention, ATTENTION_CALL);
	return AREA_OK;
}
