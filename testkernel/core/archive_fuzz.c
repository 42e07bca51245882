// SPDX-License-Identifier: MIT
// archive.c on wild archives: every member that it hands out must lie inside of the archive.
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "testkernel/core/archive.h"
#include "testkernel/core/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

bool text_equal_nocase(const char *a, const char *b)
{
    return !strcasecmp(a, b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct archive archive = { data, size };
    const char *name;
    for (unsigned i = 0; (name = archive_name(&archive, i)); i++) {
        const void *at;
        size_t len;
        if (archive_find(&archive, name, &at, &len))
            abort();
        if ((const uint8_t *)at < data || (size_t)((const uint8_t *)at - data) > size ||
            len > size - (size_t)((const uint8_t *)at - data))
            abort();
    }
    return 0;
}
