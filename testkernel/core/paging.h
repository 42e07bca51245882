/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_PAGING_H
#define TESTKERNEL_CORE_PAGING_H
/* Page tables: long mode (4 levels) and PAE (3 levels), 8-byte entries in both. Callers lock and flush. */
#include "testkernel/core/pages.h"

enum {
    PTE_PRESENT = 1,
    PTE_WRITE = 2,
    PTE_USER = 4,
    PTE_WRITE_THROUGH = 8,
    PTE_NOCACHE = 16,
    PTE_LARGE = 0x80,
};
#define PTE_NX      (1ull << 63)
#define PTE_ADDRESS 0x000FFFFFFFFFF000ull

struct paging {
    hal_pa_t root;
    struct pages *pages; /* tables come from here */
    bool has_nx;
};

/* HAL_MAP_* as entry bits, and back. */
uint64_t paging_bits(const struct paging *paging, unsigned flags);

/* As hal_map, hal_translate (hal.h). */
int paging_map(const struct paging *paging, hal_va_t va, hal_pa_t pa, unsigned flags);
int paging_map_large(const struct paging *paging, hal_va_t va, hal_pa_t pa, unsigned flags); /* 2 MiB */
int paging_translate(const struct paging *paging, hal_va_t va, hal_pa_t *ret_pa, unsigned *ret_flags);
/* The 4 KiB entry of va, or NULL where there is no table (or a large page). */
uint64_t *paging_entry(const struct paging *paging, hal_va_t va);
/* The same whether or not something is mapped; makes tables on the way. NULL = no page, or a large page. */
uint64_t *paging_slot(const struct paging *paging, hal_va_t va);
/* Makes sure the top-level entry of va exists: it can then be copied to other roots. 0 ok, 1 no page. */
int paging_reserve(const struct paging *paging, hal_va_t va);

#endif
