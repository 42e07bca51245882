// SPDX-License-Identifier: MIT
// Any bytes as an export directory: names are plain and inside, every one that is found can be looked up, and the nearest is not above.
#include <stdlib.h>
#include <string.h>

#include "console/exports.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t rva, offset, found;

	if (size < 4 || size > 0x10000)
		return 0;
	memcpy(&rva, data, sizeof(rva));
	struct exports *exports = exports_parse(data + 4, (uint32_t)size - 4, rva);
	for (uint32_t at = 0; exports && at < 0x10000; at += 0x777) {
		const char *name = exports_nearest(exports, at, &offset);
		if (name && (offset > at || strlen(name) >= EXPORTS_NAME_MAX || !exports_find(exports, name, &found)))
			abort();
	}
	exports_destroy(exports);
	return 0;
}
