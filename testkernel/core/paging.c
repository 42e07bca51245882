// SPDX-License-Identifier: MIT
#include "testkernel/core/paging.h"

#include "testkernel/core/text.h"

#if HAL_X64
enum { TOP_LEVEL = 4 };
#else
enum { TOP_LEVEL = 3 };
#endif

static uint64_t *table_at(const struct paging *paging, hal_pa_t pa)
{
    return (uint64_t *)(paging->pages->direct + (uintptr_t)pa);
}

static unsigned index_of(hal_va_t va, unsigned level)
{
    unsigned mask = HAL_X86 && level == 3 ? 3 : 511;
    return (unsigned)((uint64_t)va >> (12 + 9 * (level - 1))) & mask;
}

static bool is_canonical(hal_va_t va)
{
#if HAL_X64
    int64_t high = (int64_t)va >> 47;
    return high == 0 || high == -1;
#else
    (void)va;
    return true;
#endif
}

uint64_t paging_bits(const struct paging *paging, unsigned flags)
{
    uint64_t bits = PTE_PRESENT;
    if (flags & HAL_MAP_WRITE)
        bits |= PTE_WRITE;
    if (flags & HAL_MAP_USER)
        bits |= PTE_USER;
    if (flags & HAL_MAP_NOCACHE)
        bits |= PTE_NOCACHE | PTE_WRITE_THROUGH;
    if (!(flags & HAL_MAP_EXEC) && paging->has_nx)
        bits |= PTE_NX;
    return bits;
}

// Tables give every right; the leaf decides. A PAE top-level entry allows nothing but "present".
static uint64_t table_bits(unsigned level)
{
    return HAL_X86 && level == 3 ? PTE_PRESENT : PTE_PRESENT | PTE_WRITE | PTE_USER;
}

// Goes down to the entry of va at stop_level, making tables on the way. 1 = no page, 2 = large page in the way.
static int descend(const struct paging *paging, hal_va_t va, unsigned stop_level, uint64_t **ret)
{
    uint64_t *table = table_at(paging, paging->root);
    for (unsigned level = TOP_LEVEL; level > stop_level; level--) {
        uint64_t *entry = &table[index_of(va, level)];
        if (level < TOP_LEVEL && (*entry & PTE_PRESENT) && (*entry & PTE_LARGE))
            return 2;
        if (!(*entry & PTE_PRESENT)) {
            hal_pa_t pa = pages_alloc(paging->pages);
            if (!pa)
                return 1;
            memset(table_at(paging, pa), 0, HAL_PAGE_SIZE);
            *entry = pa | table_bits(level);
        }
        table = table_at(paging, *entry & PTE_ADDRESS);
    }
    *ret = &table[index_of(va, stop_level)];
    return 0;
}

int paging_map(const struct paging *paging, hal_va_t va, hal_pa_t pa, unsigned flags)
{
    uint64_t *entry;
    int result = descend(paging, va, 1, &entry);
    if (!result)
        *entry = (pa & PTE_ADDRESS) | paging_bits(paging, flags);
    return result;
}

int paging_map_large(const struct paging *paging, hal_va_t va, hal_pa_t pa, unsigned flags)
{
    uint64_t *entry;
    int result = descend(paging, va, 2, &entry);
    if (!result)
        *entry = pa | paging_bits(paging, flags) | PTE_LARGE;
    return result;
}

int paging_reserve(const struct paging *paging, hal_va_t va)
{
    uint64_t *entry;
    return descend(paging, va, TOP_LEVEL - 1, &entry);
}

uint64_t *paging_slot(const struct paging *paging, hal_va_t va)
{
    uint64_t *entry;
    return descend(paging, va, 1, &entry) ? NULL : entry;
}

// The entry that ends the walk and its level; NULL when nothing is mapped.
static uint64_t *find(const struct paging *paging, hal_va_t va, unsigned *ret_level)
{
    if (!is_canonical(va))
        return NULL;
    uint64_t *table = table_at(paging, paging->root);
    for (unsigned level = TOP_LEVEL;; level--) {
        uint64_t *entry = &table[index_of(va, level)];
        if (!(*entry & PTE_PRESENT))
            return NULL;
        if (level == 1 || (level < TOP_LEVEL && (*entry & PTE_LARGE))) {
            *ret_level = level;
            return entry;
        }
        table = table_at(paging, *entry & PTE_ADDRESS);
    }
}

uint64_t *paging_entry(const struct paging *paging, hal_va_t va)
{
    unsigned level;
    uint64_t *entry = find(paging, va, &level);
    return entry && level == 1 ? entry : NULL;
}

static unsigned flags_of(uint64_t entry, unsigned level)
{
    unsigned flags = level > 1 ? HAL_MAP_LARGE : 0;
    if (entry & PTE_WRITE)
        flags |= HAL_MAP_WRITE;
    if (entry & PTE_USER)
        flags |= HAL_MAP_USER;
    if (entry & PTE_NOCACHE)
        flags |= HAL_MAP_NOCACHE;
    if (!(entry & PTE_NX))
        flags |= HAL_MAP_EXEC;
    return flags;
}

int paging_translate(const struct paging *paging, hal_va_t va, hal_pa_t *ret_pa, unsigned *ret_flags)
{
    unsigned level;
    const uint64_t *entry = find(paging, va, &level);
    if (!entry)
        return 1;
    uint64_t value = *entry;
    uint64_t offset_mask = (1ull << (12 + 9 * (level - 1))) - 1;
    if (ret_pa)
        *ret_pa = (value & PTE_ADDRESS & ~offset_mask) | (va & offset_mask);
    if (ret_flags)
        *ret_flags = flags_of(value, level);
    return 0;
}
