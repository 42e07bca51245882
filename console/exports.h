// SPDX-License-Identifier: MIT
// The names that a module exports, read from its PE image in the target: the symbols that are there without any symbol file.
// What the target holds is not trusted: sizes are bounded, every offset is checked, names are cut.
#ifndef CONSOLE_EXPORTS_H
#define CONSOLE_EXPORTS_H

#include "vmkd/vmkd.h"

#define EXPORTS_SIZE_MAX 0x400000u // bytes of an export directory; Windows' kernel has some 0x20000
#define EXPORTS_NAME_MAX 200u      // longer ones are left out

struct exports;

// Reads the export directory of the image at `base`. Needs a stopped target. Return NULL and *ret (exports_destroy it), which is
// empty when the image exports nothing or the directory is damaged or paged out; errors of the connection else.
struct vmkd_error *exports_read(struct vmkd_target *target, uint64_t base, struct exports **ret);

// The same from bytes: `directory` is what lies at [rva, rva + len) of the image. Pure; never fails but for memory (NULL).
struct exports *exports_parse(const uint8_t *directory, uint32_t len, uint32_t rva);
void exports_destroy(struct exports *exports); // NULL is fine

// Names in the table; 0 for an image that exports nothing.
size_t exports_count(const struct exports *exports);
// By name, any case. Return false = no such; *ret_rva is relative to the image.
bool exports_find(const struct exports *exports, const char *name, uint32_t *ret_rva);
// The export at or below `rva` that is nearest. Return its name (valid until destroy) and the distance; NULL = none.
const char *exports_nearest(const struct exports *exports, uint32_t rva, uint32_t *ret_offset);

#endif
