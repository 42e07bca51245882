// SPDX-License-Identifier: MIT
#include "testkernel/nt/mappings.h"

#define MIB (1ull << 20)
#define BIG_MAX (NT_64BIT ? 4096u : 128u) // MiB; the 32-bit kernel's RAM is what its direct map shows
#define MIXED_BASE (HAL_NT_MAPPINGS)
#define BIG_BASE (HAL_NT_MAPPINGS + HAL_LARGE_PAGE)
// A prime that divides no number of pages allowed here: each page is used once, and neighbours are far from each other in RAM.
#define SCATTER 7919u

#define LOCAL_APIC 0xFEE00000ull
#define FIRMWARE 0xF0000ull
#define NOWHERE 0xFFFFFF000ull // the last page of 36 bits, which every CPU has

uint64_t TkBigMap, TkBigMapSize;
uint64_t TkMixed;

// Between two pages of its own: a comparison leaves out what lies beside memory that changes while the kernel answers.
#define LIE_PAGE(place) __attribute__((section(".lie$" place), aligned(HAL_PAGE_SIZE), used))
LIE_PAGE("a") static uint8_t page_before[HAL_PAGE_SIZE];
LIE_PAGE("b") uint8_t TkLie[TK_LIE_SIZE] = "The byte at 13 is told wrong where a test asks for it.";
LIE_PAGE("c") static uint8_t page_behind[HAL_PAGE_SIZE];

static bool is_lying;
static hal_pa_t lie_pa;

static void fill(hal_va_t va, uint64_t len)
{
    volatile uint64_t *word = (volatile uint64_t *)va;

    for (uint64_t i = 0; i < len / sizeof(*word); i++)
        word[i] = (uintptr_t)&word[i];
}

static int map_small(hal_va_t va, hal_pa_t pa, uint64_t len)
{
    uint32_t count = (uint32_t)(len / HAL_PAGE_SIZE);
    int rc = 0;

    for (uint32_t i = 0; i < count && rc == 0; i++) {
        hal_pa_t page = i * SCATTER % count; // below 2^32: there are at most 2^19 pages
        rc = hal_map(va + i * (hal_va_t)HAL_PAGE_SIZE, pa + page * HAL_PAGE_SIZE, HAL_MAP_WRITE);
    }
    return rc;
}

static int map_large(hal_va_t va, hal_pa_t pa, uint64_t len)
{
    int rc = 0;

    for (uint64_t at = 0; at < len && rc == 0; at += HAL_LARGE_PAGE)
        rc = hal_map_large(va + (hal_va_t)at, pa + len - HAL_LARGE_PAGE - at, HAL_MAP_WRITE);
    return rc;
}

static void make_big(uint64_t mib)
{
    hal_va_t va = BIG_BASE;
    uint64_t half = mib * MIB / 2;
    hal_pa_t pa = mib % 4 == 0 && mib <= BIG_MAX ? hal_block_alloc(2 * half) : 0;

    if (pa == 0 || map_small(va, pa, half) != 0 || map_large(va + (hal_va_t)half, pa + half, half) != 0) {
        hal_log("TK: bigmap=%u: a multiple of 4, at most %u, and as much RAM besides\n", (unsigned)mib, BIG_MAX);
        hal_exit(HAL_VERDICT_USAGE);
    }
    fill(va, 2 * half);
    TkBigMap = va;
    TkBigMapSize = 2 * half;
}

static void make_mixed(void)
{
    static const uint64_t strangers[TK_MIXED_PAGES] = {
        [TK_MIXED_DEVICE] = LOCAL_APIC, [TK_MIXED_ROM] = FIRMWARE, [TK_MIXED_NOWHERE] = NOWHERE,
    };

    for (unsigned i = 0; i < TK_MIXED_PAGES; i++) {
        hal_va_t va = MIXED_BASE + i * (hal_va_t)HAL_PAGE_SIZE;
        if (i % 2 == 0 && hal_map(va, hal_page_alloc(), HAL_MAP_WRITE) == 0)
            fill(va, HAL_PAGE_SIZE);
        else if (strangers[i] != 0)
            (void)hal_map(va, strangers[i], HAL_MAP_NOCACHE); // the mapping's tables are there: its first page made them
    }
    TkMixed = MIXED_BASE;
}

void nt_mappings_init(void)
{
    uint64_t mib = hal_option_number("bigmap", 0);

    make_mixed();
    if (mib != 0)
        make_big(mib);
    is_lying = hal_option_number("lie", 0) != 0 && hal_translate((hal_va_t)TkLie, &lie_pa, NULL) == 0;
}

void nt_lie_virtual(hal_va_t va, uint8_t *bytes, size_t len)
{
    hal_va_t at = (hal_va_t)&TkLie[TK_LIE_AT];

    if (is_lying && at >= va && at - va < len)
        bytes[at - va] ^= 0xFF;
}

void nt_lie_physical(hal_pa_t pa, uint8_t *bytes, size_t len)
{
    hal_pa_t at = lie_pa + TK_LIE_AT;

    if (is_lying && at >= pa && at - pa < len)
        bytes[at - pa] ^= 0xFF;
}
