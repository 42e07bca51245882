// SPDX-License-Identifier: MIT
// The kernel's side of loaded images: load, unload, find, move.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

enum { SLOT_SPACING = 4 << 20 }; // an image has 2 MiB at most, so a slot ends unmapped

static struct images images(void)
{
    return (struct images){ &hal_paging, &hal_archive, hal_handoff->images, false };
}

int hal_file(const char *name, const void **ret_data, size_t *ret_size)
{
    return archive_find(&hal_archive, name, ret_data, ret_size);
}

const char *hal_file_name(unsigned index)
{
    return archive_name(&hal_archive, index);
}

struct hal_image *hal_image_find(hal_va_t va)
{
    struct images all = images();
    return image_find(&all, va);
}

hal_va_t hal_image_export(const struct hal_image *image, const char *name)
{
    return pe_export((const void *)image->base, name);
}

// The slot decides the address: image 2 lies at IMAGES_BASE, 3 one spacing further...
static struct hal_image *free_slot(hal_va_t *ret_base)
{
    unsigned slots = HAL_X64 ? HAL_MAX_IMAGES : 2 + (POOL_BASE - IMAGES_BASE) / SLOT_SPACING;
    for (unsigned i = 2; i < slots && i < HAL_MAX_IMAGES; i++) {
        if (hal_handoff->images[i].base)
            continue;
        *ret_base = IMAGES_BASE + (i - 2) * (hal_va_t)SLOT_SPACING;
        return &hal_handoff->images[i];
    }
    return NULL;
}

static int load_locked(const char *file, const char *as_name, struct hal_image **ret)
{
    struct images all = images();
    struct pe pe;
    hal_va_t base;
    struct hal_image *image = free_slot(&base);
    if (!image)
        return IMAGE_E_NO_ROOM;
    int result = image_place(&all, image, file, as_name, base, &pe);
    if (result)
        return result;
    result = image_bind(&all, image, &pe);
    if (result) {
        image_drop(&all, image);
        return result;
    }
    image_protect(&all, image, &pe);
    *ret = image;
    return 0;
}

int hal_image_load(const char *file, const char *as_name, struct hal_image **ret)
{
    lock_take(&hal_memory_lock);
    int result = load_locked(file, as_name, ret);
    lock_drop(&hal_memory_lock);
    hal_flush_all(); // rights changed, or mappings vanished
    return result;
}

void hal_image_unload(struct hal_image *image)
{
    struct images all = images();
    lock_take(&hal_memory_lock);
    image_drop(&all, image);
    lock_drop(&hal_memory_lock);
    hal_flush_all();
}

// --------------------------------------------------------------------------------------------------------- moving --

// A list page with count fresh pages, or NULL and everything given back.
static hal_pa_t *fresh_pages(struct pages *pages, uint32_t count)
{
    hal_pa_t list_pa = pages_alloc(pages);
    if (!list_pa)
        return NULL;
    hal_pa_t *list = hal_direct(list_pa);
    for (uint32_t i = 0; i < count; i++) {
        list[i] = pages_alloc_image(pages);
        if (list[i])
            continue;
        while (i)
            pages_free(pages, list[--i]);
        pages_free(pages, list_pa);
        return NULL;
    }
    return list;
}

static void drop_old(struct pages *pages, struct hal_image *image)
{
    if (!image->old_pages)
        return;
    for (uint32_t i = 0; i < image->page_count; i++)
        pages_free(pages, image->old_pages[i]);
    pages_free(pages, (hal_pa_t)((uintptr_t)image->old_pages - HAL_DIRECT_MAP));
    image->old_pages = NULL;
}

static void remap(const struct hal_image *image, const hal_pa_t *to)
{
    for (uint32_t i = 0; i < image->page_count; i++) {
        uint64_t *entry = paging_entry(&hal_paging, image->base + i * (hal_va_t)HAL_PAGE_SIZE);
        memcpy(hal_direct(to[i]), hal_direct(image->pages[i]), HAL_PAGE_SIZE);
        *entry = (*entry & ~PTE_ADDRESS) | to[i];
    }
}

static void fill_page(uint32_t *page, uint32_t pattern)
{
    for (unsigned i = 0; i < HAL_PAGE_SIZE / sizeof *page; i++)
        page[i] = pattern;
}

int hal_image_move(struct hal_image *image, uint32_t fill)
{
    struct pages *pages = &hal_handoff->pages;
    lock_take(&hal_memory_lock);
    drop_old(pages, image);
    hal_pa_t *list = fresh_pages(pages, image->page_count);
    if (list) {
        remap(image, list);
        image->old_pages = image->pages;
        image->pages = list;
        image->old_fill = fill;
    }
    lock_drop(&hal_memory_lock);
    if (!list)
        return 1;
    hal_flush_all();
    for (uint32_t i = 0; i < image->page_count; i++)
        fill_page(hal_direct(image->old_pages[i]), fill);
    return 0;
}

unsigned hal_image_old_changed(const struct hal_image *image, hal_pa_t *ret_pa)
{
    unsigned changed = 0;
    for (uint32_t i = 0; image->old_pages && i < image->page_count; i++) {
        const volatile uint32_t *page = hal_direct(image->old_pages[i]);
        for (unsigned word = 0; word < HAL_PAGE_SIZE / sizeof *page; word++) {
            if (page[word] == image->old_fill)
                continue;
            if (!changed++ && ret_pa)
                *ret_pa = image->old_pages[i] + word * sizeof *page;
        }
    }
    return changed;
}
