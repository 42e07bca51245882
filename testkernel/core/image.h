/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_IMAGE_H
#define TESTKERNEL_CORE_IMAGE_H
/*
 * Loaded images: pages, addresses and rights around core/pe. Three steps, because kernel and transport import from
 * each other: place (map, copy, relocate), bind, protect. Callers lock and flush TLBs.
 */
#include "testkernel/core/archive.h"
#include "testkernel/core/paging.h"
#include "testkernel/core/pe.h"

enum {
    IMAGE_MAX_PAGES = HAL_PAGE_SIZE / sizeof(hal_pa_t), /* so that the page list is one page */
    IMAGE_E_NO_FILE = 1,
    IMAGE_E_FORMAT = PE_E_FORMAT,
    IMAGE_E_UNRESOLVED = PE_E_UNRESOLVED,
    IMAGE_E_NO_ROOM = 4,
};

struct images {
    const struct paging *paging;
    const struct archive *archive;
    struct hal_image *list; /* HAL_MAX_IMAGES; [0] kernel, [1] transport */
    bool is_contiguous;     /* images placed now lie in physical pages that follow each other, as long as no page was given back */
};

/* Fills image (a free slot) from an archive file, mapped RW at base. Failure leaves the slot free. */
int image_place(const struct images *images, struct hal_image *image, const char *file, const char *as_name,
                hal_va_t base, struct pe *ret_pe);
int image_bind(const struct images *images, const struct hal_image *image, const struct pe *pe);
/* Gives every page the rights of its section. */
void image_protect(const struct images *images, const struct hal_image *image, const struct pe *pe);
/* Unmaps, frees all pages (old ones too), frees the slot. */
void image_drop(const struct images *images, struct hal_image *image);

/* As hal_image_find. */
struct hal_image *image_find(const struct images *images, hal_va_t va);

#endif
