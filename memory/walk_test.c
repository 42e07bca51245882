// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/walk.h"

#define PAGE 0x1000u
#define MIB 0x100000u
#define LARGE (2 * MIB)
#define GIB 0x40000000u
#define HIGH_32 0x1240000000u // beyond what a 32-bit entry holds: bits 39:32 = 0x12
#define FILE_BYTES (12 * MIB)

#define P 0x1u // present
#define RW 0x2u
#define PS 0x80u
#define NX 0x8000000000000000u

#define CR0 0x80000011u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_LA57 0x1000u
#define LONG_MODE 0x500u // EFER: LME, LMA
#define NXE 0x800u

// RAM: [0, 4 MiB), 4 MiB at 1 GiB and 4 MiB at HIGH_32; the tables are in the first MiB. What is no table is data_at().
struct world {
	struct ram ram;
	struct walk_regs regs;
	uint8_t *host;
	int fd;
};

static const struct link_memory_piece pieces[] = {
	{ .gpa = 0, .size = 4 * MIB, .at = 0 },
	{ .gpa = GIB, .size = 4 * MIB, .at = 4 * MIB },
	{ .gpa = HIGH_32, .size = 4 * MIB, .at = 8 * MIB },
};
#define PIECE_COUNT 3u

static uint8_t data_at(uint64_t gpa)
{
	return (uint8_t)(gpa ^ gpa >> 8 ^ gpa >> 12 ^ gpa >> 21 ^ gpa >> 30);
}

static uint8_t *host_at(const struct world *w, uint64_t gpa)
{
	for (unsigned i = 0; i < PIECE_COUNT; i++)
		if (gpa >= pieces[i].gpa && gpa - pieces[i].gpa < pieces[i].size)
			return w->host + pieces[i].at + (gpa - pieces[i].gpa);
	return NULL;
}

static int make_world(void **state, bool is_remote)
{
	struct world *w = calloc(1, sizeof(*w));
	struct link_memory m = { .generation = 1, .pid = (uint32_t)getpid(), .piece_count = PIECE_COUNT, .file_count = !is_remote };

	assert_non_null(w);
	w->fd = memfd_create("vmkd-walk_test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(w->fd, FILE_BYTES), 0);
	w->host = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
	assert_true(w->host != MAP_FAILED);
	for (unsigned i = 0; i < PIECE_COUNT; i++) {
		m.pieces[i] = pieces[i];
		m.pieces[i].at += is_remote ? (uintptr_t)w->host : 0;
		m.pieces[i].file = is_remote ? LINK_MEMORY_REMOTE : 0;
		for (uint64_t at = i ? 0 : MIB; at < pieces[i].size; at++)
			w->host[pieces[i].at + at] = data_at(pieces[i].gpa + at);
	}
	assert_int_equal(ram_take(&w->ram, &m, offsetof(struct link_memory, pieces) + PIECE_COUNT * sizeof(m.pieces[0]), &w->fd, m.file_count), RAM_OK);
	*state = w;
	return 0;
}

static int set_up(void **state)
{
	return make_world(state, false);
}

static int set_up_remote(void **state)
{
	return make_world(state, true); // a process may always read itself
}

static int tear_down(void **state)
{
	struct world *w = *state;

	ram_deinit(&w->ram);
	munmap(w->host, FILE_BYTES);
	close(w->fd);
	free(w);
	return 0;
}

// Entry `index` of the table at gpa.
static void put64(struct world *w, uint64_t table, unsigned index, uint64_t entry)
{
	memcpy(host_at(w, table + 8ull * index), &entry, 8);
}

static void put32(struct world *w, uint64_t table, unsigned index, uint32_t entry)
{
	memcpy(host_at(w, table + 4ull * index), &entry, 4);
}

// [va, va + len) reads as what stands at gpa, with and without a cache, cold and warm.
static void expect_bytes(const struct world *w, uint64_t va, uint64_t gpa, size_t len)
{
	static struct walk_cache cache;
	enum walk_outcome why = WALK_OK;
	uint8_t *got = malloc(len);

	assert_non_null(got);
	walk_cache_clear(&cache);
	for (int i = 0; i < 3; i++) {
		memset(got, 0, len);
		assert_int_equal(walk_read(&w->ram, &w->regs, i ? &cache : NULL, va, got, len, &why), len);
		assert_memory_equal(got, host_at(w, gpa), len);
	}
	assert_int_equal(why, WALK_OK); // untouched
	free(got);
}

static void expect_page(const struct world *w, uint64_t va, uint64_t gpa, uint64_t size)
{
	struct walk_page page = { 0 };

	assert_int_equal(walk_find(&w->ram, &w->regs, va, &page), WALK_OK);
	assert_true(page.size == size);
	assert_true(page.va == (va & ~(size - 1)));
	assert_true(page.gpa + (va - page.va) == gpa);
	if (host_at(w, gpa))
		expect_bytes(w, va, gpa, PAGE - va % PAGE);
}

static void expect_outcome(const struct world *w, uint64_t va, int expected)
{
	static struct walk_cache cache;
	struct walk_page page = { .va = 1, .gpa = 2, .size = 3 };
	enum walk_outcome why = WALK_OK;
	uint8_t byte = 0xEE;

	assert_int_equal(walk_find(&w->ram, &w->regs, va, &page), expected);
	assert_true(page.va == 1 && page.gpa == 2 && page.size == 3);
	walk_cache_clear(&cache);
	for (int i = 0; i < 3; i++) {
		why = WALK_OK;
		assert_int_equal(walk_read(&w->ram, &w->regs, i ? &cache : NULL, va, &byte, 1, &why), 0);
		assert_int_equal(why, expected);
	}
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, va, &byte, 1, NULL), 0);
	assert_int_equal(byte, 0xEE);
}

static void test_modes(void **state)
{
	static const struct {
		struct walk_regs regs;
		enum walk_mode mode;
	} cases[] = {
		{ { 0 }, WALK_MODE_NONE }, // unknown
		{ { .cr0 = 0x10 }, WALK_MODE_FLAT }, // real mode
		{ { .cr0 = 0x11, .cr4 = CR4_PAE }, WALK_MODE_FLAT },
		{ { .cr0 = 0x11, .efer = 0x100 }, WALK_MODE_FLAT }, // on the way to long mode
		{ { .cr0 = 0x11, .efer = LONG_MODE }, WALK_MODE_NONE }, // long mode without paging
		{ { .cr0 = 0x80000010 }, WALK_MODE_NONE }, // paging without protection
		{ { .cr0 = CR0 }, WALK_MODE_32 },
		{ { .cr0 = CR0, .cr4 = CR4_LA57 }, WALK_MODE_32 },
		{ { .cr0 = CR0, .cr4 = CR4_PAE }, WALK_MODE_PAE },
		{ { .cr0 = CR0, .cr4 = CR4_PAE | CR4_LA57, .efer = NXE }, WALK_MODE_PAE },
		{ { .cr0 = CR0, .cr4 = CR4_PAE, .efer = LONG_MODE }, WALK_MODE_4 },
		{ { .cr0 = CR0, .cr4 = CR4_PAE | CR4_LA57, .efer = LONG_MODE | 1 }, WALK_MODE_5 },
		{ { .cr0 = CR0, .efer = LONG_MODE }, WALK_MODE_NONE }, // long mode without PAE
		{ { .cr0 = CR0, .cr4 = CR4_PAE, .efer = 0x100 }, WALK_MODE_NONE }, // LME without LMA while paging
		{ { .cr0 = CR0, .cr4 = CR4_PAE, .efer = 0x400 }, WALK_MODE_NONE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (walk_mode(&cases[i].regs) != cases[i].mode)
			fail_msg("case %zu is %d", i, walk_mode(&cases[i].regs));
}

static void test_refuses_impossible_registers(void **state)
{
	struct world *w = *state;

	expect_outcome(w, 0, WALK_E_MODE);
	w->regs = (struct walk_regs){ .cr0 = 0x11, .efer = LONG_MODE };
	expect_outcome(w, 0, WALK_E_MODE);
}

static void test_without_paging_addresses_are_physical(void **state)
{
	struct world *w = *state;

	w->regs = (struct walk_regs){ .cr0 = 0x11, .cr3 = 0x12345000 };
	expect_page(w, MIB + 5, MIB + 5, PAGE);
	expect_page(w, GIB + 0x3FF123, GIB + 0x3FF123, PAGE);
	expect_page(w, 0xFFFFFFFF80000004, 0x80000004, PAGE);
	expect_bytes(w, MIB, MIB, 3 * MIB);
	expect_outcome(w, 0x100000000, WALK_E_ADDRESS);
	expect_outcome(w, 0xFFFFFFFF7FFFFFFF, WALK_E_ADDRESS);
}

// ---- 4-level and 5-level

enum { PML5 = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, PT = 0x5000, PDPT_LOW = 0x6000, PDPT_TOP = 0x7000, PD_TOP = 0x8000, PT_TOP = 0x9000 };
#define KERNEL 0xFFFFF80000000000u // PML4 entry 496
#define DATA (MIB + 0x3000u)

// KERNEL: a page at DATA, one at 0 behind a hole, 2 MiB at KERNEL + 2 MiB, 1 GiB at KERNEL + 1 GiB. The last page of the address space: DATA.
static void lay_4_level(struct world *w)
{
	w->regs = (struct walk_regs){ .cr0 = CR0, .cr3 = PML4, .cr4 = CR4_PAE, .efer = LONG_MODE | NXE };
	put64(w, PML4, 496, PDPT | P | RW);
	put64(w, PML4, 511, PDPT_TOP | P);
	put64(w, PML4, 0, PDPT_LOW | P);
	put64(w, PDPT, 0, PD | P);
	put64(w, PDPT, 1, GIB | PS | P);
	put64(w, PD, 0, PT | P);
	put64(w, PD, 1, LARGE | PS | P);
	put64(w, PT, 0, DATA | P);
	put64(w, PT, 2, (DATA + 5 * PAGE) | P | RW | NX);
	put64(w, PDPT_TOP, 511, PD_TOP | P);
	put64(w, PD_TOP, 511, PT_TOP | P);
	put64(w, PT_TOP, 511, DATA | P);
}

static void lay_5_level(struct world *w)
{
	lay_4_level(w);
	w->regs.cr4 |= CR4_LA57;
	w->regs.cr3 = PML5;
	put64(w, PML5, 511, PML4 | P);
	put64(w, PML5, 256, PML4 | P);
	put64(w, PML5, 255, PML4 | P);
}

static void expect_the_4_level_pages(const struct world *w)
{
	expect_page(w, KERNEL, DATA, PAGE);
	expect_page(w, KERNEL + 0xABC, DATA + 0xABC, PAGE);
	expect_page(w, KERNEL + 2 * PAGE + 7, DATA + 5 * PAGE + 7, PAGE);
	expect_page(w, KERNEL + LARGE, LARGE, LARGE);
	expect_page(w, KERNEL + LARGE + 0x1FFABC, LARGE + 0x1FFABC, LARGE);
	expect_page(w, KERNEL + GIB + 0x3FFABC, GIB + 0x3FFABC, GIB);
	expect_page(w, KERNEL + GIB + 0x3FFFFABC, GIB + 0x3FFFFABC, GIB); // not RAM
	expect_page(w, UINT64_MAX, DATA + 0xFFF, PAGE);
	expect_outcome(w, KERNEL + PAGE, WALK_E_ABSENT);
	expect_outcome(w, KERNEL + 2 * LARGE, WALK_E_ABSENT);
	expect_outcome(w, KERNEL + 2ull * GIB, WALK_E_ABSENT);
	expect_outcome(w, KERNEL - 1, WALK_E_ABSENT);
}

static void test_4_level(void **state)
{
	struct world *w = *state;

	lay_4_level(w);
	expect_the_4_level_pages(w);
	expect_outcome(w, 0x00007FFFFFFFFFFF, WALK_E_ABSENT);
	expect_outcome(w, 0x0000800000000000, WALK_E_ADDRESS);
	expect_outcome(w, 0xFFFF7FFFFFFFFFFF, WALK_E_ADDRESS);
	expect_outcome(w, 0xFFFF800000000000, WALK_E_ABSENT);
	expect_outcome(w, KERNEL & 0x0000FFFFFFFFFFFF, WALK_E_ADDRESS);
	expect_outcome(w, KERNEL & 0x01FFFFFFFFFFFFFF, WALK_E_ADDRESS);
}

static void test_5_level(void **state)
{
	struct world *w = *state;

	lay_5_level(w);
	expect_the_4_level_pages(w);
	expect_page(w, 0xFF00F80000000000, DATA, PAGE);
	expect_page(w, 0x00FFF80000000000, DATA, PAGE);
	expect_outcome(w, 0x0100F80000000000, WALK_E_ADDRESS);
	expect_outcome(w, 0xFEFFF80000000000, WALK_E_ADDRESS);
	expect_outcome(w, 0x0000F80000000000, WALK_E_ABSENT); // canonical here
	put64(w, PML5, 511, PML4 | PS | P);
	expect_outcome(w, KERNEL, WALK_E_RESERVED);
	put64(w, PML5, 511, PML4);
	expect_outcome(w, KERNEL, WALK_E_ABSENT);
}

static void test_flags_of_cr3_are_no_address(void **state)
{
	struct world *w = *state;

	lay_4_level(w);
	w->regs.cr3 = PML4 | 0xFFF; // PCID
	expect_page(w, KERNEL, DATA, PAGE);
	w->regs.cr3 = PML4 | 0x18 | 0xE000000000000000; // PWT, PCD; LAM, no flush
	expect_page(w, KERNEL, DATA, PAGE);
}

static void test_flags_of_entries_are_no_address(void **state)
{
	struct world *w = *state;

	lay_4_level(w);
	put64(w, PML4, 496, 0x7FF0000000000F7F | PDPT);
	put64(w, PDPT, 0, 0x7FF0000000000F7F | PD);
	put64(w, PDPT, 1, 0x7FF0000000001FFF | GIB);
	put64(w, PD, 0, 0x7FF0000000000F7F | PT);
	put64(w, PD, 1, 0x7FF0000000001FFF | LARGE);
	put64(w, PT, 0, 0x7FF0000000000FFF | DATA);
	expect_the_4_level_pages(w);
}

static void test_no_execute_needs_its_switch(void **state)
{
	struct world *w = *state;
	static const struct {
		unsigned table, index;
		uint64_t va;
	} ways[] = { { PML4, 496, 0 }, { PDPT, 0, 0 }, { PD, 0, 0 }, { PT, 0, 0 }, { PD, 1, LARGE }, { PDPT, 1, GIB } };

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		uint64_t entry;

		lay_4_level(w);
		memcpy(&entry, host_at(w, ways[i].table + 8 * ways[i].index), 8);
		put64(w, ways[i].table, ways[i].index, entry | NX);
		expect_the_4_level_pages(w);
		w->regs.efer &= ~(uint64_t)NXE;
		expect_outcome(w, KERNEL + ways[i].va, WALK_E_RESERVED);
	}
}

static void test_reserved_bits_of_long_mode(void **state)
{
	struct world *w = *state;

	lay_4_level(w);
	put64(w, PML4, 496, PDPT | PS | P);
	expect_outcome(w, KERNEL, WALK_E_RESERVED);
	for (unsigned bit = 13; bit < 30; bit++) {
		lay_4_level(w);
		put64(w, PDPT, 1, GIB | PS | P | 1u << bit);
		expect_outcome(w, KERNEL + GIB, WALK_E_RESERVED);
		if (bit >= 21)
			continue;
		put64(w, PD, 1, LARGE | PS | P | 1u << bit);
		expect_outcome(w, KERNEL + LARGE, WALK_E_RESERVED);
	}
	put64(w, PD, 1, PS | 1u << 13); // not present: nothing of it counts
	expect_outcome(w, KERNEL + LARGE, WALK_E_ABSENT);
}

static void test_absent_at_each_level(void **state)
{
	static const unsigned ways[][2] = { { PML5, 511 }, { PML4, 496 }, { PDPT, 0 }, { PD, 0 }, { PT, 0 } };
	struct world *w = *state;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		uint64_t entry;

		lay_5_level(w);
		memcpy(&entry, host_at(w, ways[i][0] + 8 * ways[i][1]), 8);
		put64(w, ways[i][0], ways[i][1], entry & ~(uint64_t)P);
		expect_outcome(w, KERNEL, WALK_E_ABSENT);
		put64(w, ways[i][0], ways[i][1], entry | P);
		expect_page(w, KERNEL, DATA, PAGE);
	}
}

// Where there is no RAM at all, behind the end of a piece, and as far up as an entry reaches.
static void test_tables_outside_of_ram(void **state)
{
	static const unsigned ways[][2] = { { PML5, 511 }, { PML4, 496 }, { PDPT, 0 }, { PD, 0 } };
	static const uint64_t places[] = { 0x20000000, 4 * MIB, 0x000FFFFFFFFFF000 };
	struct world *w = *state;

	for (size_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
		for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
			lay_5_level(w);
			put64(w, ways[i][0], ways[i][1], places[p] | P);
			expect_outcome(w, KERNEL, WALK_E_TABLE);
		}
		lay_5_level(w);
		w->regs.cr3 = places[p];
		expect_outcome(w, KERNEL, WALK_E_TABLE);
	}
}

static void test_a_page_outside_of_ram(void **state)
{
	struct world *w = *state;
	enum walk_outcome why = WALK_OK;
	uint8_t bytes[16];

	lay_4_level(w);
	put64(w, PT, 1, 0xFEE00000 | P);
	expect_page(w, KERNEL + PAGE, 0xFEE00000, PAGE);
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, KERNEL + PAGE - 8, bytes, 16, &why), 8);
	assert_int_equal(why, WALK_E_TABLE);
	assert_int_equal(bytes[7], data_at(DATA + PAGE - 1));
	// A large page that is RAM at its beginning only.
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, KERNEL + GIB + 4 * MIB - 3, bytes, 16, &why), 3);
	assert_int_equal(why, WALK_E_TABLE);
}

static void test_tables_that_point_to_themselves(void **state)
{
	struct world *w = *state;
	struct walk_page page;

	lay_4_level(w);
	put64(w, PML4, 0x1ED, PML4 | P); // as NT does: the tables of everything appear at FFFFF680`00000000
	expect_page(w, 0xFFFFF6FB7DBED000, PML4, PAGE);
	expect_page(w, 0xFFFFF68000000000 | (KERNEL & 0x0000FFFFFFFFFFFF) >> 9, PT, PAGE);
	lay_5_level(w);
	memset(host_at(w, PML5), 0, PAGE);
	for (unsigned i = 0; i < 512; i++)
		put64(w, PML5, i, PML5 | P);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(walk_find(&w->ram, &w->regs, 0x9E3779B97F4A7C15u * i % (1ull << 56), &page), WALK_OK);
	assert_true(page.gpa == PML5);
}

// ---- PAE

enum { PAE_PDPT = 0x10FE0, PAE_PD = 0x11000, PAE_PT = 0x12000, PAE_PD_TOP = 0x13000, PAE_PT_TOP = 0x14000 };

static void lay_pae(struct world *w)
{
	w->regs = (struct walk_regs){ .cr0 = CR0, .cr3 = PAE_PDPT, .cr4 = CR4_PAE, .efer = NXE };
	put64(w, PAE_PDPT, 0, 0);
	put64(w, PAE_PDPT, 2, PAE_PD | P);
	put64(w, PAE_PDPT, 3, PAE_PD_TOP | P);
	put64(w, PAE_PD, 0, PAE_PT | P);
	put64(w, PAE_PD, 1, LARGE | PS | P);
	put64(w, PAE_PD, 2, HIGH_32 | PS | P);
	put64(w, PAE_PT, 0, DATA | P);
	put64(w, PAE_PT, 2, (HIGH_32 + 0x3FF000) | P | NX);
	put64(w, PAE_PD_TOP, 511, PAE_PT_TOP | P);
	put64(w, PAE_PT_TOP, 511, DATA | P);
}

#define KERNEL_32 0x80000000u
#define KERNEL_EXTENDED 0xFFFFFFFF80000000u

static void expect_the_pae_pages(const struct world *w)
{
	expect_page(w, KERNEL_32 + 0x123, DATA + 0x123, PAGE);
	expect_page(w, KERNEL_EXTENDED + 0x123, DATA + 0x123, PAGE);
	expect_page(w, KERNEL_32 + LARGE + 0x1FFABC, LARGE + 0x1FFABC, LARGE);
	expect_page(w, KERNEL_32 + 2 * LARGE + 0x1FFABC, HIGH_32 + 0x1FFABC, LARGE);
	expect_page(w, KERNEL_EXTENDED + 2 * PAGE, HIGH_32 + 0x3FF000, PAGE);
	expect_page(w, 0xFFFFFFFF, DATA + 0xFFF, PAGE);
	expect_page(w, UINT64_MAX, DATA + 0xFFF, PAGE);
	expect_outcome(w, 0, WALK_E_ABSENT);
	expect_outcome(w, KERNEL_32 + PAGE, WALK_E_ABSENT);
	expect_outcome(w, KERNEL_EXTENDED + PAGE, WALK_E_ABSENT);
}

static void test_pae(void **state)
{
	struct world *w = *state;

	lay_pae(w);
	expect_the_pae_pages(w);
	w->regs.cr3 = PAE_PDPT | 0x1F | 0xFFFFFFFF00000000;
	expect_the_pae_pages(w);
	expect_outcome(w, 0x180000000, WALK_E_ADDRESS);
	expect_outcome(w, 0xFFFFFFFF7FFFFFFF, WALK_E_ADDRESS);
	w->regs.cr3 = 0x20000000;
	expect_outcome(w, KERNEL_32, WALK_E_TABLE);
}

static void test_reserved_bits_of_pae(void **state)
{
	static const unsigned pdpte_bits[] = { 1, 2, 6, 7, 8, 52, 62, 63 };
	struct world *w = *state;

	for (size_t i = 0; i < sizeof(pdpte_bits) / sizeof(pdpte_bits[0]); i++) {
		lay_pae(w);
		put64(w, PAE_PDPT, 2, PAE_PD | P | 1ull << pdpte_bits[i]);
		expect_outcome(w, KERNEL_32, WALK_E_RESERVED);
	}
	lay_pae(w);
	put64(w, PAE_PDPT, 2, PAE_PD | P | 0xE38); // PWT, PCD, ignored ones; Accessed, which TCG sets
	put64(w, PAE_PD, 1, LARGE | 0x1FFF);
	put64(w, PAE_PT, 0, DATA | 0xFFF);
	expect_the_pae_pages(w);
	for (unsigned bit = 52; bit < 63; bit++) {
		lay_pae(w);
		put64(w, PAE_PD, 0, PAE_PT | P | 1ull << bit);
		expect_outcome(w, KERNEL_32, WALK_E_RESERVED);
		lay_pae(w);
		put64(w, PAE_PT, 0, DATA | P | 1ull << bit);
		expect_outcome(w, KERNEL_32, WALK_E_RESERVED);
	}
	for (unsigned bit = 13; bit < 21; bit++) {
		put64(w, PAE_PD, 1, LARGE | PS | P | 1u << bit);
		expect_outcome(w, KERNEL_32 + LARGE, WALK_E_RESERVED);
	}
	lay_pae(w);
	w->regs.efer = 1;
	expect_outcome(w, KERNEL_32 + 2 * PAGE, WALK_E_RESERVED); // NX
	w->regs.efer = 0; // unknown
	expect_the_pae_pages(w);
}

// ---- 32-bit

enum { DIR_32 = 0x20000, TABLE_32 = 0x21000, TABLE_TOP_32 = 0x22000 };

static void lay_32(struct world *w)
{
	w->regs = (struct walk_regs){ .cr0 = CR0, .cr3 = DIR_32, .cr4 = CR4_PSE };
	put32(w, DIR_32, 512, TABLE_32 | P);
	put32(w, DIR_32, 513, 0 | PS | P);
	put32(w, DIR_32, 514, (HIGH_32 & 0xFFC00000u) | 0x12u << 13 | PS | P);
	put32(w, DIR_32, 1023, TABLE_TOP_32 | P);
	put32(w, TABLE_32, 0, DATA | P);
	put32(w, TABLE_32, 1, 0);
	put32(w, TABLE_32, 1023, (DATA + PAGE) | P);
	put32(w, TABLE_TOP_32, 1023, DATA | P);
}

static void test_32_bit(void **state)
{
	struct world *w = *state;

	lay_32(w);
	expect_page(w, KERNEL_32 + 0x123, DATA + 0x123, PAGE);
	expect_page(w, KERNEL_EXTENDED + 0x123, DATA + 0x123, PAGE);
	expect_page(w, KERNEL_32 + 0x3FFFFF, DATA + 2 * PAGE - 1, PAGE);
	expect_page(w, KERNEL_32 + 0x400000 + MIB + 5, MIB + 5, 4 * MIB);
	expect_page(w, KERNEL_EXTENDED + 0x800000 + 0x3FFABC, HIGH_32 + 0x3FFABC, 4 * MIB);
	expect_page(w, UINT64_MAX, DATA + 0xFFF, PAGE);
	expect_outcome(w, KERNEL_32 + PAGE, WALK_E_ABSENT);
	expect_outcome(w, KERNEL_32 - 1, WALK_E_ABSENT);
	expect_outcome(w, 0x100000000, WALK_E_ADDRESS);
	w->regs.cr3 = 0xFFFFFFFF00000000 | DIR_32 | 0xFFF;
	expect_page(w, KERNEL_32 + 0x123, DATA + 0x123, PAGE);
	put32(w, TABLE_32, 0, DATA | 0xFFF); // PAT and the like
	expect_page(w, KERNEL_32 + 0x123, DATA + 0x123, PAGE);
	put32(w, DIR_32, 513, 1u << 21 | PS | P);
	expect_outcome(w, KERNEL_32 + 0x400000, WALK_E_RESERVED);
	put32(w, DIR_32, 513, 0x1000 | PS | P); // PAT
	expect_page(w, KERNEL_32 + 0x400000 + MIB + 5, MIB + 5, 4 * MIB);
	put32(w, DIR_32, 512, 0x20000000 | P);
	expect_outcome(w, KERNEL_32, WALK_E_TABLE);
}

static void test_32_bit_without_large_pages(void **state)
{
	struct world *w = *state;

	lay_32(w);
	w->regs.cr4 = 0;
	put32(w, DIR_32, 513, TABLE_32 | PS | P);
	expect_page(w, KERNEL_32 + 0x400000 + 5, DATA + 5, PAGE);
}

// ---- walk_read

// Pages of KERNEL, one behind the other, from places in RAM that are not.
static unsigned scattered(unsigned i)
{
	return i * 37 % 512; // page of [2 MiB, 4 MiB)
}

static void lay_scattered(struct world *w)
{
	lay_4_level(w);
	for (unsigned i = 0; i < 512; i++)
		put64(w, PT, i, (LARGE + (uint64_t)scattered(i) * PAGE) | P);
}

static void expect_scattered(const struct world *w, struct walk_cache *cache, unsigned from, size_t len)
{
	uint8_t *got = malloc(len + 1);

	assert_non_null(got);
	got[len] = 0xEE;
	assert_int_equal(walk_read(&w->ram, &w->regs, cache, KERNEL + from, got, len, NULL), len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(got[i], data_at(LARGE + (uint64_t)scattered((unsigned)(from + i) / PAGE) * PAGE + (from + i) % PAGE));
	assert_int_equal(got[len], 0xEE);
	free(got);
}

static void test_reads_across_pages(void **state)
{
	static struct walk_cache cache;
	struct world *w = *state;

	lay_scattered(w);
	walk_cache_clear(&cache);
	for (int i = 0; i < 2; i++) {
		expect_scattered(w, &cache, 0, LARGE);
		expect_scattered(w, &cache, 4095, 2);
		expect_scattered(w, &cache, 100, RAM_SPANS_MAX * PAGE);
		expect_scattered(w, &cache, 0, RAM_SPANS_MAX * PAGE + 1);
		expect_scattered(w, NULL, 4095, RAM_SPANS_MAX * PAGE * 2);
	}
	expect_bytes(w, KERNEL + LARGE, LARGE, LARGE);
	expect_scattered(w, &cache, 7 * PAGE, 0);
}

static void test_reads_up_to_what_is_missing(void **state)
{
	static struct walk_cache cache;
	struct world *w = *state;
	enum walk_outcome why;
	static uint8_t got[LARGE];

	lay_scattered(w);
	put64(w, PT, 300, (uint64_t)scattered(300) * PAGE); // not present
	walk_cache_clear(&cache);
	for (int i = 0; i < 3; i++) {
		why = WALK_OK;
		assert_int_equal(walk_read(&w->ram, &w->regs, i ? &cache : NULL, KERNEL, got, sizeof(got), &why), 300 * PAGE);
		assert_int_equal(why, WALK_E_ABSENT);
	}
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL, got, sizeof(got), NULL), 300 * PAGE);
	put64(w, PT, 200, 0x20000000 | P); // no RAM, before the absent one
	walk_cache_clear(&cache);
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL, got, sizeof(got), &why), 200 * PAGE);
	assert_int_equal(why, WALK_E_TABLE);
}

static void test_reads_end_with_the_address_space(void **state)
{
	struct world *w = *state;
	enum walk_outcome why = WALK_OK;
	uint8_t got[64];

	lay_4_level(w);
	put64(w, PDPT_LOW, 0, 0 | PS | P); // and address 0 is there
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, UINT64_MAX - 31, got, 64, &why), 32);
	assert_int_equal(why, WALK_E_ADDRESS);
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, UINT64_MAX - 31, got, SIZE_MAX, &why), 32);
	put64(w, PDPT_LOW, 511, PD_TOP | P);
	put64(w, PML4, 255, PDPT_LOW | P);
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, 0x7FFFFFFFFFE0, got, 64, &why), 32); // the lower half ends
	assert_int_equal(why, WALK_E_ADDRESS);
	lay_32(w);
	put32(w, DIR_32, 0, 0 | PS | P);
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, 0xFFFFFFE0, got, 64, &why), 32);
	assert_int_equal(why, WALK_E_ADDRESS);
	assert_int_equal(walk_read(&w->ram, &w->regs, NULL, UINT64_MAX - 31, got, 64, &why), 32);
	assert_int_equal(why, WALK_E_ADDRESS);
}

// What a cache is for, and why it ends with the stop.
static void test_a_cache_keeps_until_cleared(void **state)
{
	static struct walk_cache cache;
	struct world *w = *state;
	uint8_t got;

	lay_4_level(w);
	walk_cache_clear(&cache);
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL, &got, 1, NULL), 1);
	put64(w, PT, 0, 0);
	put64(w, PML4, 496, 0);
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL, &got, 1, NULL), 1);
	assert_int_equal(got, data_at(DATA));
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL + 2 * PAGE, &got, 1, NULL), 1);
	assert_int_equal(got, data_at(DATA + 5 * PAGE));
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL + LARGE, &got, 1, NULL), 1);
	walk_cache_clear(&cache);
	assert_int_equal(walk_read(&w->ram, &w->regs, &cache, KERNEL + 2 * PAGE, &got, 1, NULL), 0);
}

// Tables that share everything but one level must not be taken for each other.
static void test_a_cache_tells_tables_apart(void **state)
{
	static struct walk_cache cache;
	struct world *w = *state;
	static const uint64_t vas[] = { KERNEL, KERNEL + 2 * LARGE, KERNEL + 2ull * GIB, KERNEL + (1ull << 39), KERNEL ^ (1ull << 48) };
	uint8_t got;

	lay_5_level(w);
	put64(w, PML5, 510, 0x40000 | P);
	for (unsigned i = 0; i < 5; i++)
		put64(w, 0x50000 + i * PAGE, 0, (DATA + i * PAGE) | P); // a last table for each
	put64(w, PD, 0, 0x50000 | P);
	put64(w, PD, 2, 0x51000 | P);
	put64(w, PDPT, 2, 0x41000 | P);
	put64(w, 0x41000, 0, 0x52000 | P);
	put64(w, PML4, 497, 0x42000 | P);
	put64(w, 0x42000, 0, 0x43000 | P);
	put64(w, 0x43000, 0, 0x53000 | P);
	put64(w, 0x40000, 496, 0x44000 | P);
	put64(w, 0x44000, 0, 0x45000 | P);
	put64(w, 0x45000, 0, 0x54000 | P);
	walk_cache_clear(&cache);
	for (unsigned step = 0; step < 50; step++) {
		unsigned i = step * step % 5, k = (step + step / 5) % 5;

		assert_int_equal(walk_read(&w->ram, &w->regs, &cache, vas[i], &got, 1, NULL), 1);
		assert_int_equal(got, data_at(DATA + i * PAGE));
		assert_int_equal(walk_read(&w->ram, &w->regs, &cache, vas[k], &got, 1, NULL), 1);
		assert_int_equal(got, data_at(DATA + k * PAGE));
	}
}

#define BOTH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down), \
		   { .name = #test "_remote", .test_func = test, .setup_func = set_up_remote, .teardown_func = tear_down }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),
		BOTH(test_refuses_impossible_registers),
		BOTH(test_without_paging_addresses_are_physical),
		BOTH(test_4_level),
		BOTH(test_5_level),
		BOTH(test_flags_of_cr3_are_no_address),
		BOTH(test_flags_of_entries_are_no_address),
		BOTH(test_no_execute_needs_its_switch),
		BOTH(test_reserved_bits_of_long_mode),
		BOTH(test_absent_at_each_level),
		BOTH(test_tables_outside_of_ram),
		BOTH(test_a_page_outside_of_ram),
		BOTH(test_tables_that_point_to_themselves),
		BOTH(test_pae),
		BOTH(test_reserved_bits_of_pae),
		BOTH(test_32_bit),
		BOTH(test_32_bit_without_large_pages),
		BOTH(test_reads_across_pages),
		BOTH(test_reads_up_to_what_is_missing),
		BOTH(test_reads_end_with_the_address_space),
		BOTH(test_a_cache_keeps_until_cleared),
		BOTH(test_a_cache_tells_tables_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
