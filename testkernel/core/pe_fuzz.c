// SPDX-License-Identifier: MIT
// pe.c on wild files: parse, lay out, relocate, bind against itself, look up an export. Nothing may touch a byte
// outside of the file and of the image's own memory.
#include <stdlib.h>
#include <string.h>

#include "testkernel/core/pe.h"
#include "testkernel/core/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void text_log(const char *format, ...)
{
    (void)format; // the real one writes to a port
}

static const struct hal_image *itself(void *context, const char *name)
{
    return name[0] == '-' ? NULL : context;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pe pe;
    if (pe_parse(data, size, "fuzz", &pe) || !pe.size_of_image)
        return 0;
    uint8_t *memory = calloc(1, pe.size_of_image);
    struct hal_image image = { .base = (hal_va_t)memory, .size = pe.size_of_image };
    if (memory && !pe_load(&pe, memory)) {
        (void)pe_bind(&pe, memory, itself, &image); // any outcome will do
        (void)pe_export(memory, "KdSendPacket");
        for (uint32_t rva = 0; rva < pe.size_of_image; rva += HAL_PAGE_SIZE)
            (void)pe_page_rights(&pe, rva);
    }
    free(memory);
    return 0;
}
