// SPDX-License-Identifier: MIT
// Field offsets are those of Microsoft's PE format specification.
#include "testkernel/nt/driver_image.h"

enum {
    SIGNATURE_AT = 0x3C,
    SECTION_COUNT = 6, // from the signature
    OPTIONAL_SIZE = 20,
    OPTIONAL = 24,
    DIRECTORIES = NT_64BIT ? 112 : 96, // from the optional header
    DIRECTORY_EXPORT = 0,
    DIRECTORY_IMPORT = 1,
    DIRECTORY_IAT = 12,
    IMPORT_SIZE = 20, // of a descriptor
    SECTION_SIZE = 40,
};
#define SECTION_DISCARDABLE 0x02000000u
#define GARBAGE 0xDB

static uint16_t u16(const struct hal_image *image, uint32_t rva)
{
    const uint8_t *at = (const uint8_t *)image->base + rva;

    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t u32(const struct hal_image *image, uint32_t rva)
{
    return u16(image, rva) | (uint32_t)u16(image, rva + 2) << 16;
}

static uint32_t directory_at(const struct hal_image *image, unsigned index)
{
    return u32(image, SIGNATURE_AT) + OPTIONAL + DIRECTORIES + index * 8;
}

static void fill(const struct hal_image *image, uint32_t rva, uint8_t byte, uint32_t len)
{
    size_t done;

    for (uint32_t i = 0; i < len; i++)
        (void)hal_copy_to(image->base + rva + i, &byte, 1, &done); // an image is mapped
}

static void forget_name(const struct hal_image *image, uint32_t rva)
{
    fill(image, rva, GARBAGE, (uint32_t)strlen((const char *)image->base + rva));
}

// A lookup table and the names that it points at.
static void forget_lookups(const struct hal_image *image, uint32_t rva)
{
    for (; u32(image, rva) != 0; rva += sizeof(uintptr_t)) {
        forget_name(image, u32(image, rva) + 2);
        fill(image, rva, GARBAGE, sizeof(uintptr_t));
    }
}

void driver_image_forget_imports(const struct hal_image *kernel)
{
    static bool are_gone;
    uint32_t at = u32(kernel, directory_at(kernel, DIRECTORY_IMPORT));

    if (are_gone || at == 0)
        return;
    are_gone = true;
    for (; u32(kernel, at + 12) != 0; at += IMPORT_SIZE) {
        forget_name(kernel, u32(kernel, at + 12));
        if (u32(kernel, at) != 0)
            forget_lookups(kernel, u32(kernel, at));
        fill(kernel, at, GARBAGE, IMPORT_SIZE);
    }
}

void driver_image_hide_import_table(const struct hal_image *kernel)
{
    fill(kernel, directory_at(kernel, DIRECTORY_IAT), 0, 8);
}

bool driver_image_hide_export(const struct hal_image *image, const char *name)
{
    uint32_t at = u32(image, directory_at(image, DIRECTORY_EXPORT));
    uint32_t count = at != 0 ? u32(image, at + 24) : 0, names = at != 0 ? u32(image, at + 32) : 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t rva = u32(image, names + 4 * i);
        if (strcmp((const char *)image->base + rva, name) != 0)
            continue;
        fill(image, rva, 'X', 1); // the first letter: still a name, in the wrong place of the sorted list
        return true;
    }
    return false;
}

void driver_image_discard(const struct hal_image *image)
{
    uint32_t pe = u32(image, SIGNATURE_AT), table = pe + OPTIONAL + u16(image, pe + OPTIONAL_SIZE);
    unsigned unmapped = 0;

    for (uint32_t i = 0; i < u16(image, pe + SECTION_COUNT); i++) {
        uint32_t at = table + i * SECTION_SIZE, len = u32(image, at + 8), rva = u32(image, at + 12);
        if ((u32(image, at + 36) & SECTION_DISCARDABLE) == 0)
            continue;
        for (uint32_t page = 0; page < len; page += HAL_PAGE_SIZE)
            unmapped += hal_unmap(image->base + rva + page) == 0;
    }
    if (unmapped != 0)
        hal_flush_all();
}
