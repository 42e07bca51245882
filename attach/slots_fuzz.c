// SPDX-License-Identifier: MIT
// Any text as a monitor's answer: slots of whole pages, ascending and apart, or an error.
#include <stdlib.h>
#include <string.h>

#include "attach/slots.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_host(const uint8_t *data, size_t size)
{
	uint64_t host = 1;
	char *text = malloc(size + 1);
	memcpy(text, data, size);
	text[size] = 0;
	if (slots_parse_host(text, 0xC0000, &host) && (!host || host % 4096))
		abort();
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct late_slot slots[LATE_SLOTS_MAX];
	uint32_t count = 0;
	uint64_t end = 0;
	struct error *error = slots_parse((const char *)data, size, slots, &count);
	error_free(error);
	if (!error != (count > 0) || count > LATE_SLOTS_MAX)
		abort();
	for (uint32_t i = 0; i < count; i++) {
		if (slots[i].gpa < end || !slots[i].size || (slots[i].gpa | slots[i].size) % 4096)
			abort();
		end = slots[i].gpa + slots[i].size;
	}
	fuzz_host(data, size);
	return 0;
}
