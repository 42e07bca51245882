/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_PE_H
#define TESTKERNEL_CORE_PE_H
/*
 * PE images: check, lay out, relocate, bind, look up exports. The caller maps memory and gives it its rights; this
 * code only reads a file and writes into the mapped, zeroed image memory. Files are checked before use: every
 * directory, section and table is bounded by the file or by SizeOfImage.
 */
#include "testkernel/hal.h"

enum {
    PE_OK = 0,
    PE_E_FORMAT = 2,     /* not a PE of this machine, or damaged, or not mappable with 4 KiB pages */
    PE_E_UNRESOLVED = 3, /* an import nobody exports (logged) */
};

struct pe {
    const uint8_t *file;
    size_t file_size;
    const char *label; /* for log lines */
    uint32_t size_of_image, size_of_headers;
    uint32_t entry; /* RVA, 0 = none */
    uint32_t timestamp, checksum;
    uint64_t preferred_base;
    uint32_t header_at;  /* of the PE signature */
    uint32_t section_at; /* of the section table */
    uint32_t section_count;
};

/* Return: 0 ok, PE_E_FORMAT (with a log line that says why). */
int pe_parse(const void *file, size_t file_size, const char *label, struct pe *ret);

/* HAL_MAP_* rights of the page at rva (headers and gaps: read-only). */
unsigned pe_page_rights(const struct pe *pe, uint32_t rva);

/* Copies headers and sections to memory (size_of_image bytes, zeroed) and relocates for running at memory itself. */
int pe_load(const struct pe *pe, uint8_t *memory);

/* Finds the module that an import names; NULL = no such module. */
typedef const struct hal_image *pe_find_module_fn(void *context, const char *name);
/* Fills the import address tables of a loaded image. Every unresolved import gets a log line. */
int pe_bind(const struct pe *pe, uint8_t *memory, pe_find_module_fn *find, void *context);

/* Address of an export of a loaded image, 0 = none (forwarders and ordinals are not followed). */
hal_va_t pe_export(const void *image, const char *name);

#endif
