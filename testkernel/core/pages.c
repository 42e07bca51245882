// SPDX-License-Identifier: MIT
#include "testkernel/core/pages.h"

static hal_pa_t zone_alloc(struct zone *zone, uintptr_t direct)
{
    hal_pa_t pa = zone->free;
    if (pa) {
        zone->free = *(const hal_pa_t *)(direct + (uintptr_t)pa);
        return pa;
    }
    if (zone->next >= zone->end)
        return 0;
    pa = zone->next;
    zone->next += HAL_PAGE_SIZE;
    return pa;
}

hal_pa_t pages_alloc(struct pages *pages)
{
    return zone_alloc(&pages->low, pages->direct);
}

hal_pa_t pages_alloc_image(struct pages *pages)
{
    hal_pa_t pa = zone_alloc(&pages->high, pages->direct);
    return pa ? pa : pages_alloc(pages);
}

static hal_pa_t zone_cut(struct zone *zone, uint64_t len, uint64_t kept)
{
    hal_pa_t end = zone->end;
    if (end < zone->next + kept || end - zone->next - kept < len)
        return 0;
    hal_pa_t start = (end - len) & ~(hal_pa_t)(HAL_LARGE_PAGE - 1);
    if (start < zone->next + kept)
        return 0;
    zone->end = start;
    return start;
}

hal_pa_t pages_take_block(struct pages *pages, uint64_t len)
{
    hal_pa_t pa = zone_cut(&pages->high, len, 0);
    return pa ? pa : zone_cut(&pages->low, len, PAGES_KEPT);
}

void pages_free(struct pages *pages, hal_pa_t pa)
{
    struct zone *zone = pa < pages->low.end ? &pages->low : &pages->high;
    *(hal_pa_t *)(pages->direct + (uintptr_t)pa) = zone->free;
    zone->free = pa;
}
