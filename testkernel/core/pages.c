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

void pages_free(struct pages *pages, hal_pa_t pa)
{
    struct zone *zone = pa < pages->low.end ? &pages->low : &pages->high;
    *(hal_pa_t *)(pages->direct + (uintptr_t)pa) = zone->free;
    zone->free = pa;
}
