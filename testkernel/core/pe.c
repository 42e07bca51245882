// SPDX-License-Identifier: MIT
// Field offsets are those of Microsoft's PE format specification.
#include "testkernel/core/pe.h"

#include "testkernel/core/text.h"

#if HAL_X64
enum { MACHINE = 0x8664, OPTIONAL_MAGIC = 0x20B, DIRECTORIES_AT = 112, RELOC_TYPE = 10 };
#define IMPORT_BY_ORDINAL (1ull << 63)
#else
enum { MACHINE = 0x14C, OPTIONAL_MAGIC = 0x10B, DIRECTORIES_AT = 96, RELOC_TYPE = 3 };
#define IMPORT_BY_ORDINAL (1u << 31)
#endif

enum {
    OPTIONAL_AT = 24, /* from the signature */
    SECTION_SIZE = 40,
    MAX_IMAGE_SIZE = 8 << 20,
    DIRECTORY_EXPORT = 0,
    DIRECTORY_IMPORT = 1,
    DIRECTORY_RELOC = 5,
    SECTION_EXECUTE = 0x20000000,
    MAX_IMPORTS = 4096,
    RELOCS_STRIPPED = 1,
};
#define SECTION_WRITE 0x80000000u

struct section {
    uint32_t virtual_size, rva, raw_size, raw_at, flags;
};

static uint16_t u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t u32(const uint8_t *at)
{
    return u16(at) | (uint32_t)u16(at + 2) << 16;
}

static uint64_t u64(const uint8_t *at)
{
    return u32(at) | (uint64_t)u32(at + 4) << 32;
}

// A pointer at any alignment: a file decides where it stands.
struct pointer {
    uintptr_t value;
} __attribute__((packed));

static struct pointer *pointer_at(uint8_t *memory, uint64_t rva)
{
    return (struct pointer *)(memory + rva);
}

static int refuse(const struct pe *pe, const char *why)
{
    text_log("pe: %s: %s\n", pe->label, why);
    return PE_E_FORMAT;
}

static struct section section_at(const struct pe *pe, uint32_t index)
{
    const uint8_t *at = pe->file + pe->section_at + index * SECTION_SIZE;
    struct section s = { u32(at + 8), u32(at + 12), u32(at + 16), u32(at + 20), u32(at + 36) };
    if (!s.virtual_size)
        s.virtual_size = s.raw_size;
    return s;
}

static int check_sections(const struct pe *pe)
{
    uint32_t last_end = pe->size_of_headers;
    for (uint32_t i = 0; i < pe->section_count; i++) {
        struct section s = section_at(pe, i);
        uint64_t raw_end = (uint64_t)s.raw_at + s.raw_size, end = (uint64_t)s.rva + s.virtual_size;
        if (s.raw_size && raw_end > pe->file_size)
            return refuse(pe, "a section lies beyond the end of the file");
        if (s.rva % HAL_PAGE_SIZE || s.rva < last_end || end > pe->size_of_image)
            return refuse(pe, "a section is not page-aligned, overlaps another or lies outside of the image");
        if ((s.flags & SECTION_EXECUTE) && (s.flags & SECTION_WRITE))
            return refuse(pe, "a section is both writable and executable");
        last_end = (uint32_t)end;
    }
    return PE_OK;
}

int pe_parse(const void *file, size_t file_size, const char *label, struct pe *ret)
{
    struct pe pe = { .file = file, .file_size = file_size, .label = label };
    const uint8_t *f = file;
    if (file_size < HAL_PAGE_SIZE / 4 || f[0] != 'M' || f[1] != 'Z')
        return refuse(&pe, "not a PE image (no MZ header)");
    pe.header_at = u32(f + 0x3C);
    if (pe.header_at > file_size - 512 || u32(f + pe.header_at) != 0x4550)
        return refuse(&pe, "not a PE image (no PE signature)");
    const uint8_t *coff = f + pe.header_at + 4, *optional = f + pe.header_at + OPTIONAL_AT;
    if (u16(coff) != MACHINE || u16(optional) != OPTIONAL_MAGIC)
        return refuse(&pe, "built for another machine than this kernel");
    pe.timestamp = u32(coff + 4);
    pe.section_count = u16(coff + 2);
    pe.section_at = pe.header_at + OPTIONAL_AT + u16(coff + 16);
    pe.entry = u32(optional + 16);
    pe.preferred_base = HAL_X64 ? u64(optional + 24) : u32(optional + 28);
    pe.size_of_image = (u32(optional + 56) + HAL_PAGE_SIZE - 1) & ~(uint32_t)(HAL_PAGE_SIZE - 1);
    pe.size_of_headers = u32(optional + 60);
    pe.checksum = u32(optional + 64);
    if (u16(coff + 16) < DIRECTORIES_AT + 16 * 8 || u32(optional + DIRECTORIES_AT - 4) < 6)
        return refuse(&pe, "optional header too short");
    if (pe.size_of_image > MAX_IMAGE_SIZE || pe.size_of_headers > file_size || pe.size_of_headers > pe.size_of_image ||
        (uint64_t)pe.section_at + pe.section_count * (uint64_t)SECTION_SIZE > pe.size_of_headers)
        return refuse(&pe, "impossible sizes in the header");
    if (pe.entry >= pe.size_of_image)
        return refuse(&pe, "entry point outside of the image");
    int result = check_sections(&pe);
    if (!result)
        *ret = pe;
    return result;
}

unsigned pe_page_rights(const struct pe *pe, uint32_t rva)
{
    for (uint32_t i = 0; i < pe->section_count; i++) {
        struct section s = section_at(pe, i);
        if (rva < s.rva || rva - s.rva >= s.virtual_size)
            continue;
        return (s.flags & SECTION_WRITE ? HAL_MAP_WRITE : 0u) | (s.flags & SECTION_EXECUTE ? HAL_MAP_EXEC : 0u);
    }
    return 0;
}

// A data directory of a loaded image; false when it is empty or does not lie in the image.
static bool directory(const uint8_t *image, unsigned index, uint32_t *ret_rva, uint32_t *ret_size)
{
    const uint8_t *optional = image + u32(image + 0x3C) + OPTIONAL_AT;
    const uint8_t *entry = optional + DIRECTORIES_AT + index * 8;
    uint32_t rva = u32(entry), size = u32(entry + 4), image_size = u32(optional + 56);
    if (!rva || !size || rva > image_size || size > image_size - rva)
        return false;
    *ret_rva = rva;
    *ret_size = size;
    return true;
}

static int relocate(const struct pe *pe, uint8_t *memory)
{
    uint64_t delta = (uint64_t)(uintptr_t)memory - pe->preferred_base;
    uint32_t at, size;
    if (!delta)
        return PE_OK;
    if (!directory(memory, DIRECTORY_RELOC, &at, &size)) {
        // Nothing to relocate is fine (x64 code seldom holds an address); relocations taken out by the linker are not.
        bool is_stripped = u16(memory + pe->header_at + 22) & RELOCS_STRIPPED;
        return is_stripped ? refuse(pe, "its relocations were stripped, so it cannot be moved here") : PE_OK;
    }
    for (uint32_t end = at + size; end - at >= 8;) {
        uint32_t page = u32(memory + at), block = u32(memory + at + 4);
        if (block < 8 || block > end - at)
            return refuse(pe, "damaged relocations");
        for (uint32_t i = 8; i + 2 <= block; i += 2) {
            uint16_t item = u16(memory + at + i);
            uint32_t target = page + (item & 0xFFF);
            if (item >> 12 == 0)
                continue;
            // Not the headers: they were checked once and must stay what they were.
            if (item >> 12 != RELOC_TYPE || target < pe->size_of_headers ||
                target > pe->size_of_image - sizeof(uintptr_t))
                return refuse(pe, "a relocation of unknown type or outside of the sections");
            pointer_at(memory, target)->value += (uintptr_t)delta;
        }
        at += block;
    }
    return PE_OK;
}

int pe_load(const struct pe *pe, uint8_t *memory)
{
    memcpy(memory, pe->file, pe->size_of_headers);
    for (uint32_t i = 0; i < pe->section_count; i++) {
        struct section s = section_at(pe, i);
        memcpy(memory + s.rva, pe->file + s.raw_at, s.raw_size < s.virtual_size ? s.raw_size : s.virtual_size);
    }
    return relocate(pe, memory);
}

// A string that ends inside the image, or NULL.
static const char *string_at(const uint8_t *image, uint32_t image_size, uint32_t rva)
{
    for (uint32_t end = rva; end < image_size && end - rva < 256; end++) {
        if (!image[end])
            return (const char *)image + rva;
    }
    return NULL;
}

static int bind_module(const struct pe *pe, uint8_t *memory, uint32_t names, uint32_t table, const char *module,
                       const struct hal_image *exporter)
{
    int result = PE_OK;
    for (unsigned i = 0; i < MAX_IMPORTS; i++) {
        uint64_t name_at = names + i * (uint64_t)sizeof(uintptr_t), slot = table + i * (uint64_t)sizeof(uintptr_t);
        uint64_t last = pe->size_of_image - sizeof(uintptr_t);
        if (name_at > last || slot > last || slot < pe->size_of_headers)
            return refuse(pe, "damaged import table");
        uintptr_t lookup = pointer_at(memory, name_at)->value;
        if (!lookup)
            return result;
        const char *name =
                lookup & IMPORT_BY_ORDINAL ? NULL : string_at(memory, pe->size_of_image, (uint32_t)lookup + 2);
        hal_va_t target = name && exporter ? pe_export((const void *)exporter->base, name) : 0;
        if (!target) {
            text_log("pe: %s imports %s from %s, %s\n", pe->label, name ? name : "an ordinal", module,
                     exporter ? "which has no such export" : "which is not loaded");
            result = PE_E_UNRESOLVED;
            continue;
        }
        pointer_at(memory, slot)->value = target;
    }
    return refuse(pe, "too many imports");
}

int pe_bind(const struct pe *pe, uint8_t *memory, pe_find_module_fn *find, void *context)
{
    uint32_t at, size;
    int result = PE_OK;
    if (!directory(memory, DIRECTORY_IMPORT, &at, &size))
        return PE_OK;
    for (; size >= 20 && u32(memory + at + 12); at += 20, size -= 20) {
        uint32_t names = u32(memory + at), table = u32(memory + at + 16);
        const char *module = string_at(memory, pe->size_of_image, u32(memory + at + 12));
        if (!module)
            return refuse(pe, "damaged import directory");
        int outcome = bind_module(pe, memory, names ? names : table, table, module, find(context, module));
        if (outcome)
            result = outcome;
    }
    return result;
}

hal_va_t pe_export(const void *image, const char *name)
{
    const uint8_t *base = image;
    uint32_t at, size;
    if (!directory(base, DIRECTORY_EXPORT, &at, &size) || size < 40)
        return 0;
    uint32_t image_size = u32(base + u32(base + 0x3C) + OPTIONAL_AT + 56);
    uint32_t functions = u32(base + at + 20), names = u32(base + at + 24);
    uint32_t functions_at = u32(base + at + 28), names_at = u32(base + at + 32), ordinals_at = u32(base + at + 36);
    if ((uint64_t)functions_at + functions * 4ull > image_size || (uint64_t)names_at + names * 4ull > image_size ||
        (uint64_t)ordinals_at + names * 2ull > image_size)
        return 0;
    for (uint32_t i = 0; i < names; i++) {
        const char *candidate = string_at(base, image_size, u32(base + names_at + i * 4));
        if (!candidate || strcmp(candidate, name))
            continue;
        uint32_t ordinal = u16(base + ordinals_at + i * 2);
        uint32_t rva = ordinal < functions ? u32(base + functions_at + ordinal * 4) : 0;
        bool is_forwarder = rva >= at && rva - at < size;
        return !rva || rva >= image_size || is_forwarder ? 0 : (hal_va_t)base + rva;
    }
    return 0;
}
