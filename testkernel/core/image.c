// SPDX-License-Identifier: MIT
#include "testkernel/core/image.h"

#include "testkernel/core/text.h"

static void free_pages(struct pages *pages, const hal_pa_t *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        pages_free(pages, list[i]);
    pages_free(pages, (hal_pa_t)((uintptr_t)list - pages->direct));
}

// The image's physical pages. They are given out in falling order: whoever takes an image for physically contiguous shall find out here and not under
// Windows. (Some do, and are right as long as the boot loader is kind to them: is_contiguous.)
static int take_pages(struct pages *pages, bool is_contiguous, struct hal_image *image)
{
    for (uint32_t i = 0; i < image->page_count; i++) {
        uint32_t at = is_contiguous ? i : image->page_count - 1 - i;
        image->pages[at] = pages_alloc_image(pages);
        if (!image->pages[at])
            return IMAGE_E_NO_ROOM;
    }
    return 0;
}

// Backs the image's addresses with zeroed pages.
static int map_pages(const struct images *images, struct hal_image *image)
{
    struct pages *pages = images->paging->pages;
    hal_pa_t list_pa = pages_alloc(pages);
    if (!list_pa)
        return IMAGE_E_NO_ROOM;
    image->pages = (hal_pa_t *)(pages->direct + (uintptr_t)list_pa);
    int result = take_pages(pages, images->is_contiguous, image);
    for (uint32_t i = 0; !result && i < image->page_count; i++) {
        hal_va_t va = image->base + i * (hal_va_t)HAL_PAGE_SIZE;
        if (paging_map(images->paging, va, image->pages[i], HAL_MAP_WRITE))
            result = IMAGE_E_NO_ROOM;
    }
    if (result) {
        text_log("image: %s: no memory\n", image->name);
        return result;
    }
    memset((void *)image->base, 0, image->page_count * (size_t)HAL_PAGE_SIZE);
    return 0;
}

int image_place(const struct images *images, struct hal_image *image, const char *file, const char *as_name,
                hal_va_t base, struct pe *ret_pe)
{
    const void *data;
    size_t size;
    if (archive_find(images->archive, file, &data, &size)) {
        text_log("image: no file \"%s\" in the archive\n", file);
        return IMAGE_E_NO_FILE;
    }
    struct pe pe;
    int result = pe_parse(data, size, file, &pe);
    if (result)
        return result;
    if (pe.size_of_image / HAL_PAGE_SIZE > IMAGE_MAX_PAGES) {
        text_log("image: %s is larger than 2 MiB\n", file);
        return IMAGE_E_NO_ROOM;
    }
    memset(image, 0, sizeof *image);
    image->base = base;
    image->size = pe.size_of_image;
    image->page_count = pe.size_of_image / HAL_PAGE_SIZE;
    image->entry = pe.entry ? base + pe.entry : 0;
    image->timestamp = pe.timestamp;
    image->checksum = pe.checksum;
    text_copy(image->name, sizeof image->name, as_name);
    text_copy(image->file, sizeof image->file, file);
    result = map_pages(images, image);
    if (!result)
        result = pe_load(&pe, (uint8_t *)base);
    if (result)
        memset(image, 0, sizeof *image); // what map_pages took is lost: a test kernel without memory stops anyway
    else
        *ret_pe = pe;
    return result;
}

// Drivers import by the names of Microsoft's build, whatever the files were called this time.
static const struct hal_image *find_module(void *context, const char *name)
{
    const struct images *images = context;
    if (text_equal_nocase(name, "ntoskrnl.exe") || text_equal_nocase(name, "hal.dll"))
        return &images->list[0];
    if (text_equal_nocase(name, "kdcom.dll"))
        return &images->list[1];
    for (unsigned i = 0; i < HAL_MAX_IMAGES; i++) {
        if (images->list[i].base && text_equal_nocase(images->list[i].name, name))
            return &images->list[i];
    }
    return NULL;
}

int image_bind(const struct images *images, const struct hal_image *image, const struct pe *pe)
{
    struct images copy = *images;
    return pe_bind(pe, (uint8_t *)image->base, find_module, &copy);
}

void image_protect(const struct images *images, const struct hal_image *image, const struct pe *pe)
{
    for (uint32_t i = 0; i < image->page_count; i++) {
        uint32_t rva = i * HAL_PAGE_SIZE;
        // Cannot fail: the table of this page exists since map_pages.
        (void)paging_map(images->paging, image->base + rva, image->pages[i], pe_page_rights(pe, rva));
    }
}

void image_drop(const struct images *images, struct hal_image *image)
{
    for (uint32_t i = 0; i < image->page_count; i++) {
        uint64_t *entry = paging_entry(images->paging, image->base + i * (hal_va_t)HAL_PAGE_SIZE);
        if (entry)
            *entry = 0;
    }
    free_pages(images->paging->pages, image->pages, image->page_count);
    if (image->old_pages)
        free_pages(images->paging->pages, image->old_pages, image->page_count);
    memset(image, 0, sizeof *image);
}

struct hal_image *image_find(const struct images *images, hal_va_t va)
{
    for (unsigned i = 0; i < HAL_MAX_IMAGES; i++) {
        struct hal_image *image = &images->list[i];
        if (image->base && va - image->base < image->page_count * (hal_va_t)HAL_PAGE_SIZE)
            return image;
    }
    return NULL;
}
