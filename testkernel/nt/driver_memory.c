// SPDX-License-Identifier: MIT
// Pool, contiguous memory and mappings for drivers, with books. Whatever is outside of what a driver asked for is unmapped or watched.
#include "testkernel/nt/driver_exports.h"
#include "testkernel/nt/driver_run.h"

#define HELD_MAX 64u
#define POOL_ALIGNMENT (2 * sizeof(void *))
#define POOL_FRESH 0xCD // what NT's pool holds is anything; zeros would hide a driver that relies on them
#define POOL_SLACK 0xFD

// Contiguous memory: a block of physical memory, its pages given out at addresses with an unmapped page behind each piece.
#define BLOCK_PAGES (HAL_LARGE_PAGE / HAL_PAGE_SIZE)
#define CONTIGUOUS_BASE (HAL_NT_MAPPINGS + (NT_64BIT ? (hal_va_t)0x200000000ull : 0x10000000u)) // behind mappings.c's biggest
// Mappings of physical memory: slots, each with at least an unmapped page at its end.
#define SLOTS_BASE (CONTIGUOUS_BASE + 4 * HAL_LARGE_PAGE)
#define SLOT_PAGES 16u
#define SLOT_COUNT 64u

enum kind { NOTHING, POOL, CONTIGUOUS, MAPPING };
static const char *const kind_names[] = {"", "pool", "contiguous memory", "a mapping"};

struct held {
    enum kind kind;
    hal_va_t va;  // what the driver got
    size_t len;   // what it asked for
    uint32_t tag; // pool
    hal_va_t run; // where its first page begins
    uint32_t page_count;
};

static struct held held[HELD_MAX];
static hal_pa_t block; // 0 until it is needed
static bool block_used[BLOCK_PAGES];
static uint64_t freed_sum[BLOCK_PAGES]; // of the pages that were given back
static uint32_t block_touched; // pages below this one have been given out once

static uint32_t pages_of(hal_va_t va, size_t len)
{
    return (uint32_t)(((va & (HAL_PAGE_SIZE - 1)) + len + HAL_PAGE_SIZE - 1) / HAL_PAGE_SIZE);
}

static struct held *find(enum kind kind, hal_va_t va)
{
    for (unsigned i = 0; i < HELD_MAX; i++) {
        if (held[i].kind == kind && held[i].va == va)
            return &held[i];
    }
    return NULL;
}

static struct held *free_entry(void)
{
    for (unsigned i = 0; i < HELD_MAX; i++) {
        if (held[i].kind == NOTHING)
            return &held[i];
    }
    return NULL;
}

// ---- pool ----------------------------------------------------------------------------------------------------------

static uint8_t *run_end(const struct held *h)
{
    return (uint8_t *)h->run + h->page_count * (size_t)HAL_PAGE_SIZE;
}

// Whole pages begin at a page as NT's do; less than one ends at the unmapped page behind the run.
void *HAL_STDCALL ExAllocatePoolWithTag(uint32_t pool_type, size_t len, uint32_t tag)
{
    struct held *h = free_entry();

    driver_expect_passive("ExAllocatePoolWithTag");
    if (pool_type != 0)
        driver_accuse("asks for pool that is not NonPagedPool");
    if (h == NULL || len == 0 || driver_is_to_fail("pool"))
        return NULL;
    void *run = hal_pool_alloc(len);
    if (run == NULL)
        return NULL;
    *h = (struct held){.kind = POOL, .len = len, .tag = tag, .run = (hal_va_t)run, .page_count = pages_of(0, len)};
    size_t rounded = (len + POOL_ALIGNMENT - 1) & ~(POOL_ALIGNMENT - 1);
    h->va = len < HAL_PAGE_SIZE ? (hal_va_t)(run_end(h) - rounded) : h->run;
    memset(run, POOL_SLACK, h->page_count * (size_t)HAL_PAGE_SIZE);
    memset((void *)h->va, POOL_FRESH, len);
    return (void *)h->va;
}

static bool is_slack_untouched(const struct held *h)
{
    const uint8_t *byte = (const uint8_t *)h->run;

    for (; byte < run_end(h); byte++) {
        bool is_outside = (hal_va_t)byte < h->va || (hal_va_t)byte >= h->va + h->len;
        if (is_outside && *byte != POOL_SLACK)
            return false;
    }
    return true;
}

void HAL_STDCALL ExFreePoolWithTag(void *memory, uint32_t tag)
{
    struct held *h = find(POOL, (hal_va_t)memory);

    driver_expect_passive("ExFreePoolWithTag");
    if (h == NULL) {
        driver_accuse("frees pool that it does not have");
        return;
    }
    if (tag != 0 && tag != h->tag)
        driver_accuse("frees pool under another tag");
    if (!is_slack_untouched(h))
        driver_accuse("has written outside of its pool");
    hal_pool_free((void *)h->run, h->page_count * (size_t)HAL_PAGE_SIZE);
    h->kind = NOTHING;
}

// ---- contiguous memory ---------------------------------------------------------------------------------------------

// Nobody clears what a driver gives back before it is needed again: whoever looks for something there finds it, as in Windows.
static uint64_t page_sum(uint32_t page)
{
    const volatile uint64_t *word = hal_direct(block + page * (hal_pa_t)HAL_PAGE_SIZE);
    uint64_t sum = 0;

    for (unsigned i = 0; i < HAL_PAGE_SIZE / sizeof(*word); i++)
        sum = (sum ^ word[i]) * 0x100000001B3ull;
    return sum;
}

void driver_memory_check_freed(void)
{
    for (uint32_t page = 0; page < block_touched; page++) {
        if (!block_used[page] && page_sum(page) != freed_sum[page]) {
            driver_accuse("somebody has written to contiguous memory that was given back");
            freed_sum[page] = page_sum(page);
        }
    }
}

// First fit, with a page more that stays unmapped behind it. BLOCK_PAGES when there is no room.
static uint32_t find_pages(uint32_t count)
{
    uint32_t run = 0;

    for (uint32_t page = 0; page < BLOCK_PAGES; page++) {
        run = block_used[page] ? 0 : run + 1;
        if (run == count + 1)
            return page - count;
    }
    return BLOCK_PAGES;
}

static void take_pages(struct held *h, uint32_t first)
{
    for (uint32_t i = 0; i < h->page_count; i++)
        (void)hal_map(h->va + i * (hal_va_t)HAL_PAGE_SIZE, block + (first + i) * (hal_pa_t)HAL_PAGE_SIZE, HAL_MAP_WRITE);
    memset(&block_used[first], true, h->page_count + 1);
    if (block_touched < first + h->page_count + 1)
        block_touched = first + h->page_count + 1;
    memset((void *)h->va, POOL_FRESH, h->page_count * (size_t)HAL_PAGE_SIZE);
}

void *HAL_STDCALL MmAllocateContiguousMemory(size_t len, uint64_t highest)
{
    struct held *h = free_entry();
    uint32_t count = pages_of(0, len);

    driver_expect_passive("MmAllocateContiguousMemory");
    if (block == 0)
        block = hal_block_alloc(HAL_LARGE_PAGE);
    if (h == NULL || block == 0 || len == 0 || len >= HAL_LARGE_PAGE || driver_is_to_fail("contiguous"))
        return NULL;
    uint32_t first = find_pages(count);
    if (first == BLOCK_PAGES || block + (first + count) * (hal_pa_t)HAL_PAGE_SIZE - 1 > highest)
        return NULL;
    driver_memory_check_freed();
    hal_va_t va = CONTIGUOUS_BASE + first * (hal_va_t)HAL_PAGE_SIZE;
    *h = (struct held){.kind = CONTIGUOUS, .va = va, .len = len, .run = va, .page_count = count};
    take_pages(h, first);
    return (void *)va;
}

static void unmap_all(struct held *h)
{
    for (uint32_t i = 0; i < h->page_count; i++)
        (void)hal_unmap(h->run + i * (hal_va_t)HAL_PAGE_SIZE);
    hal_flush_all();
    h->kind = NOTHING;
}

void HAL_STDCALL MmFreeContiguousMemory(void *memory)
{
    struct held *h = find(CONTIGUOUS, (hal_va_t)memory);

    driver_expect_passive("MmFreeContiguousMemory");
    if (h == NULL) {
        driver_accuse("frees contiguous memory that it does not have");
        return;
    }
    unmap_all(h);
    uint32_t first = (uint32_t)((h->run - CONTIGUOUS_BASE) / HAL_PAGE_SIZE);
    for (uint32_t page = first; page <= first + h->page_count; page++) {
        block_used[page] = false;
        freed_sum[page] = page_sum(page);
    }
}

// ---- mappings ------------------------------------------------------------------------------------------------------

static hal_va_t free_slot(void)
{
    for (unsigned slot = 0; slot < SLOT_COUNT; slot++) {
        hal_va_t va = SLOTS_BASE + slot * (hal_va_t)(SLOT_PAGES * HAL_PAGE_SIZE);
        if (hal_translate(va, NULL, NULL) != 0)
            return va;
    }
    return 0;
}

void *HAL_STDCALL MmMapIoSpace(uint64_t pa, size_t len, uint32_t cache_type)
{
    struct held *h = free_entry();
    hal_va_t run = free_slot();
    uint32_t offset = (uint32_t)(pa & (HAL_PAGE_SIZE - 1)), count = pages_of(offset, len);

    driver_expect_passive("MmMapIoSpace");
    if (hal_pa_is_ram(pa & ~(uint64_t)(HAL_PAGE_SIZE - 1), HAL_PAGE_SIZE) && cache_type != 1)
        driver_accuse("maps RAM in another way than MmCached");
    if (h == NULL || run == 0 || len == 0 || count >= SLOT_PAGES || driver_is_to_fail("map"))
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        (void)hal_map(run + i * (hal_va_t)HAL_PAGE_SIZE, pa - offset + i * (uint64_t)HAL_PAGE_SIZE, HAL_MAP_WRITE);
    *h = (struct held){.kind = MAPPING, .va = run + offset, .len = len, .run = run, .page_count = count};
    return (void *)h->va;
}

void HAL_STDCALL MmUnmapIoSpace(void *va, size_t len)
{
    struct held *h = find(MAPPING, (hal_va_t)va);

    driver_expect_passive("MmUnmapIoSpace");
    if (h == NULL || h->len != len) {
        driver_accuse("unmaps what it has not mapped, or another length of it");
        return;
    }
    unmap_all(h);
}

unsigned driver_memory_held(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < HELD_MAX; i++) {
        if (held[i].kind == NOTHING)
            continue;
        hal_log("TK: driver: left behind: %s, %zu bytes at %p\n", kind_names[held[i].kind], held[i].len, (void *)held[i].va);
        count++;
    }
    return count;
}
