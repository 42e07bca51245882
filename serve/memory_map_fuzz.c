// SPDX-License-Identifier: MIT
// Any text as QEMU's memory tree: whatever is accepted must lie within the file, in order and on pages.
#include <stdlib.h>

#include "serve/memory_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint64_t file_size = UINT64_C(6) << 30;
	struct memory_map map;
	uint64_t end = 0;

	if (memory_map_parse((const char *)data, size, "vmkd-ram", file_size, &map) != MEMORY_MAP_OK)
		return 0;
	for (uint32_t i = 0; i < map.count; i++) {
		const struct memory_piece *p = &map.pieces[i];

		if (!p->size || (p->gpa | p->size | p->offset) % 4096 || p->gpa < end || p->offset > file_size || p->size > file_size - p->offset)
			abort();
		end = p->gpa + p->size;
	}
	return 0;
}
