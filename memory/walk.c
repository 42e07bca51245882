// SPDX-License-Identifier: MIT
#include "memory/walk.h"

#include <string.h>

#define PAGE_SHIFT 12u
#define PAGE_BYTES 4096u

#define CR0_PE 0x1u
#define CR0_PG 0x80000000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_LA57 0x1000u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

// Bits of an entry. SDM volume 3, tables 4-5, 4-6 (32-bit), 4-8 to 4-11 (PAE), 4-14 to 4-19 (4-level, 5-level).
#define ENTRY_PRESENT 0x1u
#define ENTRY_LARGE 0x80u // PS; in an entry of the last table: PAT
#define ENTRY_BASE_32 0xFFFFF000u
#define ENTRY_BASE_64 0x000FFFFFFFFFF000u // MAXPHYADDR is at most 52; what a processor has less than that is no RAM
#define ENTRY_AVAILABLE 0x7FF0000000000000u
#define ENTRY_NX 0x8000000000000000u
#define PDPTE_RESERVED 0x1C6u // of PAE; bit 5 should be, too, but QEMU's TCG sets Accessed there (seen with QEMU 7.2)
#define LARGE_PAT 0x1000u     // bit 12 of an entry for a large page
#define LARGE_32_RESERVED 0x200000u
#define LARGE_32_HIGH 0x1FE000u // PSE-36: bits 39:32 of the address
#define LARGE_32_HIGH_SHIFT 19u

struct shape {
	uint64_t cr3_mask; // without PCID, PWT, PCD, LAM and what is ignored
	uint8_t levels, index_bits, entry_bytes, va_bits;
};

static const struct shape shapes[] = {
	[WALK_MODE_FLAT] = { .va_bits = 32 },
	[WALK_MODE_32] = { .cr3_mask = 0xFFFFF000u, .levels = 2, .index_bits = 10, .entry_bytes = 4, .va_bits = 32 },
	[WALK_MODE_PAE] = { .cr3_mask = 0xFFFFFFE0u, .levels = 3, .index_bits = 9, .entry_bytes = 8, .va_bits = 32 },
	[WALK_MODE_4] = { .cr3_mask = ENTRY_BASE_64, .levels = 4, .index_bits = 9, .entry_bytes = 8, .va_bits = 48 },
	[WALK_MODE_5] = { .cr3_mask = ENTRY_BASE_64, .levels = 5, .index_bits = 9, .entry_bytes = 8, .va_bits = 57 },
};

struct walk {
	const struct ram *ram;
	const struct walk_regs *regs;
	struct walk_cache *cache; // may be NULL
	enum walk_mode mode;
	const struct shape *shape;
};

enum walk_mode walk_mode(const struct walk_regs *regs)
{
	bool is_paging = regs->cr0 & CR0_PG, is_pae = regs->cr4 & CR4_PAE, is_long = regs->efer & EFER_LMA;

	if (!(regs->cr0 | regs->cr3 | regs->cr4 | regs->efer))
		return WALK_MODE_NONE;
	if (!is_paging)
		return is_long ? WALK_MODE_NONE : WALK_MODE_FLAT;
	// The processor keeps LMA = LME && PG, and takes no paging without protection, no long mode without PAE.
	if (!(regs->cr0 & CR0_PE) || is_long != !!(regs->efer & EFER_LME) || (is_long && !is_pae))
		return WALK_MODE_NONE;
	if (is_long)
		return regs->cr4 & CR4_LA57 ? WALK_MODE_5 : WALK_MODE_4;
	return is_pae ? WALK_MODE_PAE : WALK_MODE_32;
}

static bool walk_init(struct walk *w, const struct ram *ram, const struct walk_regs *regs, struct walk_cache *cache)
{
	w->ram = ram;
	w->regs = regs;
	w->cache = cache;
	w->mode = walk_mode(regs);
	w->shape = &shapes[w->mode];
	return w->mode != WALK_MODE_NONE;
}

static bool address_is_valid(const struct shape *shape, uint64_t va)
{
	unsigned unused = 64u - shape->va_bits;

	return (shape->va_bits == 32 && !(va >> 32)) || (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

// The lowest bit of the address that an entry of this level translates; level 1 is the last.
static unsigned entry_shift(const struct shape *shape, unsigned level)
{
	return PAGE_SHIFT + (level - 1u) * shape->index_bits;
}

// Each entry is one aligned load: a guest that changes it meanwhile gets one answer, not two.
static uint64_t entry_load(const struct shape *shape, const void *from)
{
	return shape->entry_bytes == 4 ? *(const volatile uint32_t *)from : *(const volatile uint64_t *)from;
}

static bool last_table_copy(const struct walk *w, uint64_t table)
{
	struct walk_cache *cache = w->cache;

	if (cache->copy_gpa && cache->copy_gpa == table)
		return true;
	cache->copy_gpa = 0;
	if (ram_read(w->ram, table, cache->copy, PAGE_BYTES) != PAGE_BYTES)
		return false;
	cache->copy_gpa = table;
	return true;
}

static bool entry_read(const struct walk *w, unsigned level, uint64_t table, uint64_t va, uint64_t *ret)
{
	const struct shape *shape = w->shape;
	unsigned index = (va >> entry_shift(shape, level)) & ((1u << shape->index_bits) - 1u);
	uint64_t at = table + index * shape->entry_bytes, entry = 0;
	const void *mapped = ram_at(w->ram, at, shape->entry_bytes);
	struct walk_cache *cache = w->cache;

	if (!mapped && cache && level == 1) {
		if (!last_table_copy(w, table))
			return false;
		mapped = (const uint8_t *)cache->copy + (at - table);
	}
	if (mapped)
		entry = entry_load(shape, mapped);
	else if (ram_read(w->ram, at, &entry, shape->entry_bytes) != shape->entry_bytes)
		return false;
	*ret = entry;
	return true;
}

static bool entry_is_page(const struct walk *w, unsigned level, uint64_t entry)
{
	if (level == 1)
		return true;
	if (!(entry & ENTRY_LARGE))
		return false;
	if (w->mode == WALK_MODE_32)
		return w->regs->cr4 & CR4_PSE;
	return level == 2 || (level == 3 && w->mode != WALK_MODE_PAE);
}

static uint64_t entry_reserved(const struct walk *w, unsigned level, bool is_page)
{
	// The i386 guest module does not read EFER, which not every 32-bit processor has; 0 is "unknown" then.
	bool has_nx = w->regs->efer & EFER_NXE || (w->mode == WALK_MODE_PAE && !w->regs->efer);
	uint64_t bits = has_nx ? 0 : ENTRY_NX;

	if (w->mode == WALK_MODE_32)
		return is_page && level == 2 ? LARGE_32_RESERVED : 0;
	if (w->mode == WALK_MODE_PAE)
		bits |= ENTRY_AVAILABLE | (level == 3 ? ENTRY_NX | PDPTE_RESERVED : 0);
	if (level >= 4)
		bits |= ENTRY_LARGE;
	if (is_page && level > 1)
		bits |= ((1ull << entry_shift(w->shape, level)) - 1u) & ENTRY_BASE_64 & ~(uint64_t)LARGE_PAT;
	return bits;
}

static uint64_t entry_base(const struct walk *w, unsigned level, bool is_page, uint64_t entry)
{
	uint64_t base = entry & (w->mode == WALK_MODE_32 ? ENTRY_BASE_32 : ENTRY_BASE_64);

	if (!is_page)
		return base;
	base &= ~((1ull << entry_shift(w->shape, level)) - 1u);
	if (w->mode == WALK_MODE_32 && level == 2)
		base |= (entry & LARGE_32_HIGH) << LARGE_32_HIGH_SHIFT;
	return base;
}

// The lowest table on the way to va that is known. -> its level
static unsigned table_start(const struct walk *w, uint64_t va, uint64_t *ret_table)
{
	const struct walk_cache *cache = w->cache;

	for (unsigned level = 1; cache && level < w->shape->levels; level++) {
		if (!cache->tables[level - 1].gpa || cache->tables[level - 1].va != va >> entry_shift(w->shape, level + 1u))
			continue;
		*ret_table = cache->tables[level - 1].gpa;
		return level;
	}
	*ret_table = w->regs->cr3 & w->shape->cr3_mask;
	return w->shape->levels;
}

static int find(const struct walk *w, uint64_t given_va, struct walk_page *ret)
{
	uint64_t va = w->shape->va_bits == 32 ? (uint32_t)given_va : given_va, table, entry, size = PAGE_BYTES;
	unsigned level;
	bool is_page;

	if (!address_is_valid(w->shape, given_va))
		return WALK_E_ADDRESS;
	if (w->mode == WALK_MODE_FLAT) {
		*ret = (struct walk_page){ .va = given_va & ~(size - 1u), .gpa = va & ~(size - 1u), .size = size };
		return WALK_OK;
	}
	for (level = table_start(w, va, &table);; level--) {
		if (!entry_read(w, level, table, va, &entry))
			return WALK_E_TABLE;
		if (!(entry & ENTRY_PRESENT))
			return WALK_E_ABSENT;
		is_page = entry_is_page(w, level, entry);
		if (entry & entry_reserved(w, level, is_page))
			return WALK_E_RESERVED;
		table = entry_base(w, level, is_page, entry);
		if (is_page)
			break;
		if (w->cache) {
			w->cache->tables[level - 2].va = va >> entry_shift(w->shape, level);
			w->cache->tables[level - 2].gpa = table;
		}
	}
	size = 1ull << entry_shift(w->shape, level);
	*ret = (struct walk_page){ .va = given_va & ~(size - 1u), .gpa = table, .size = size };
	return WALK_OK;
}

int walk_find(const struct ram *ram, const struct walk_regs *regs, uint64_t va, struct walk_page *ret)
{
	struct walk w;

	return walk_init(&w, ram, regs, NULL) ? find(&w, va, ret) : WALK_E_MODE;
}

void walk_cache_clear(struct walk_cache *cache)
{
	memset(cache, 0, offsetof(struct walk_cache, copy));
}

static int find_cached(const struct walk *w, uint64_t va, struct walk_page *ret)
{
	struct walk_page *slot = &w->cache->pages[(va >> PAGE_SHIFT) % WALK_CACHE_SLOTS];
	int rc;

	if (va - slot->va < slot->size) {
		*ret = *slot;
		return WALK_OK;
	}
	rc = find(w, va, ret);
	if (!rc)
		*slot = *ret;
	return rc;
}

// The pages of [va, va + len), which does not wrap, as spans, neighbours in RAM as one: as many as fit and are there. -> why no more, WALK_OK: they do not fit
static int find_spans(const struct walk *w, uint64_t va, size_t len, struct ram_span *spans, uint32_t *ret_count, size_t *ret_len)
{
	struct walk_page page;
	uint32_t count = 0;
	size_t done = 0;
	int rc = WALK_OK;

	while (done < len) {
		uint64_t at = va + done, gpa, rest;
		struct ram_span *last = count ? &spans[count - 1u] : NULL;
		size_t n;

		rc = find_cached(w, at, &page);
		if (rc)
			break;
		gpa = page.gpa + (at - page.va);
		rest = page.size - (at - page.va);
		n = rest < len - done ? (size_t)rest : len - done;
		if (last && last->gpa + last->len == gpa)
			last->len += n;
		else if (count < RAM_SPANS_MAX)
			spans[count++] = (struct ram_span){ .gpa = gpa, .len = n };
		else
			break;
		done += n;
	}
	*ret_count = count;
	*ret_len = done;
	return rc;
}

size_t walk_read(const struct ram *ram, const struct walk_regs *regs, struct walk_cache *cache, uint64_t va, void *ret, size_t len,
		 enum walk_outcome *ret_why)
{
	size_t done = 0, n, found, limit = va && len > 0 - va ? (size_t)(0 - va) : len; // the address space ends there
	struct ram_span spans[RAM_SPANS_MAX];
	struct walk_cache own;
	uint32_t count;
	struct walk w;
	int rc = WALK_OK;

	if (!cache) {
		walk_cache_clear(&own);
		cache = &own;
	}
	if (!walk_init(&w, ram, regs, cache))
		rc = WALK_E_MODE;
	for (; !rc && done < limit; done += n) {
		rc = find_spans(&w, va + done, limit - done, spans, &count, &found);
		n = ram_read_spans(ram, spans, count, len >= RAM_BULK_BYTES, (uint8_t *)ret + done);
		if (n < found)
			rc = WALK_E_TABLE;
	}
	if (ret_why && done < len)
		*ret_why = rc ? (enum walk_outcome)rc : WALK_E_ADDRESS;
	return done;
}
