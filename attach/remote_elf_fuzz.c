// SPDX-License-Identifier: MIT
// Any bytes as a loaded library: no read outside, and an end.
#include <stdlib.h>
#include <string.h>

#include "attach/remote_elf.h"

#define BASE 0x7F0000000000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct image {
	const uint8_t *data;
	size_t size;
};

static bool read_image(void *arg, uint64_t address, void *ret, size_t len)
{
	const struct image *i = arg;
	if (address < BASE || address - BASE > i->size || len > i->size - (address - BASE))
		abort();
	memcpy(ret, i->data + (address - BASE), len);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image image = { data, size };
	const struct remote_object o = { .start = BASE, .end = BASE + size, .read = read_image, .arg = &image };
	uint64_t address = 0;
	if (remote_elf_find(&o, "dlopen", &address) == REMOTE_ELF_OK && (address < o.start || address >= o.end))
		abort();
	return 0;
}
