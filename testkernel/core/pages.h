/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_PAGES_H
#define TESTKERNEL_CORE_PAGES_H
/*
 * Physical pages: two zones, each a rising mark and a list of returned pages. The boot stub starts it, the kernel
 * goes on with it. Callers lock.
 *
 * The low zone serves page tables and everything else. The high zone, RAM above 4 GiB where x64 has some, serves
 * images, so that whoever hands physical addresses of an image to a host meets more than 32 bits.
 */
#include "testkernel/hal.h"

struct zone {
    hal_pa_t next, end;
    hal_pa_t free; /* list through the first word of each page; 0 = empty */
};

struct pages {
    struct zone low, high;
    uintptr_t direct; /* where physical 0 is mapped for the user of the allocator */
};

hal_pa_t pages_alloc(struct pages *pages);       /* low zone; 0 = none left */
hal_pa_t pages_alloc_image(struct pages *pages); /* high zone, else low */
void pages_free(struct pages *pages, hal_pa_t pa);
/*
 * len contiguous bytes that start at a multiple of HAL_LARGE_PAGE, off the end of the high zone, else of the low one; never
 * returned. The low zone keeps PAGES_KEPT bytes for everything else. 0 = no room.
 */
enum { PAGES_KEPT = 16 << 20 };
hal_pa_t pages_take_block(struct pages *pages, uint64_t len);

#endif
