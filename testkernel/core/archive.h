/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_ARCHIVE_H
#define TESTKERNEL_CORE_ARCHIVE_H
/* Reads a ustar archive in memory. Trusts nothing: a damaged header ends the walk. */
#include <stddef.h>
#include <stdint.h>

struct archive {
    const uint8_t *bytes;
    size_t size;
};

/* The first member of that name (case-insensitive, no folders). Return: 0 ok, 1 not there. */
int archive_find(const struct archive *archive, const char *name, const void **ret_data, size_t *ret_size);
/* The index-th member's name, or NULL. Valid as long as the archive. */
const char *archive_name(const struct archive *archive, unsigned index);

#endif
