// SPDX-License-Identifier: MIT
#include "testkernel/core/archive.h"

#include "testkernel/core/text.h"

enum {
    BLOCK = 512,
    NAME_SIZE = 100,
    SIZE_AT = 124,
    SIZE_DIGITS = 11,
    MAGIC_AT = 257,
};

struct member {
    const char *name;
    const uint8_t *data;
    size_t size;
};

static int octal(const uint8_t *at, unsigned digits, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < digits; i++) {
        if (at[i] < '0' || at[i] > '7')
            return 1;
        value = value << 3 | (uint64_t)(at[i] - '0');
    }
    *ret = value;
    return 0;
}

// The member whose header stands at *offset; moves *offset behind it. 1 = end or damage.
static int next_member(const struct archive *archive, size_t *offset, struct member *ret)
{
    if (*offset > archive->size || archive->size - *offset < BLOCK)
        return 1;
    const uint8_t *header = archive->bytes + *offset;
    uint64_t size;
    if (memcmp(header + MAGIC_AT, "ustar", 5) || header[NAME_SIZE - 1] || octal(header + SIZE_AT, SIZE_DIGITS, &size))
        return 1;
    size_t room = archive->size - *offset - BLOCK;
    if (size > room)
        return 1;
    *ret = (struct member){ (const char *)header, header + BLOCK, (size_t)size };
    size_t padded = ((size_t)size + BLOCK - 1) & ~(size_t)(BLOCK - 1);
    *offset += BLOCK + (padded < room ? padded : room);
    return 0;
}

int archive_find(const struct archive *archive, const char *name, const void **ret_data, size_t *ret_size)
{
    struct member member;
    for (size_t offset = 0; !next_member(archive, &offset, &member);) {
        if (!text_equal_nocase(member.name, name))
            continue;
        *ret_data = member.data;
        *ret_size = member.size;
        return 0;
    }
    return 1;
}

const char *archive_name(const struct archive *archive, unsigned index)
{
    struct member member;
    for (size_t offset = 0; !next_member(archive, &offset, &member);) {
        if (!index--)
            return member.name;
    }
    return NULL;
}
