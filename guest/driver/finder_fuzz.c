// SPDX-License-Identifier: MIT
// Images and a module list with anything written anywhere: the finder reads nothing that is not there, and what it finds can be written to.
//
// Input: byte 0, bit 0: without an import directory; then changes of (where, value), 4 bytes each: where counts words through
// the images and then through the list.
#include "guest/driver/fakekernel.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void change(uint32_t where, uint32_t value)
{
	uint32_t words = sizeof(fakekernel.memory) / 4;
	where %= words + sizeof(fakekernel.list) / 4;
	if (where < words)
		memcpy(&fakekernel.memory[4 * (size_t)where], &value, sizeof(value));
	else
		memcpy(&fakekernel.list[4 * (size_t)(where - words)], &value, sizeof(value));
}

static void require(bool condition)
{
	if (!condition)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct finding found;
	fakekernel_build();
	if (len && data[0] & 1)
		fakekernel_drop_directory();
	for (size_t at = 1; at + 8 <= len; at += 8) {
		uint32_t pair[2];
		memcpy(pair, data + at, sizeof(pair));
		change(pair[0], pair[1]);
	}
	if (fakekernel_list()->NumberOfModules > 4) // the caller's promise
		fakekernel_list()->NumberOfModules = 4;
	if (finder_find(fakekernel_inside(), fakekernel_list(), fakekernel_is_mapped, &found) != FINDER_OK)
		return 0;
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		require((uintptr_t)found.entry[i] % sizeof(void *) == 0);
		require(fakekernel_is_mapped((const void *)((uintptr_t)found.entry[i] & ~(uintptr_t)(FAKE_PAGE - 1))));
		require(*found.entry[i] == found.function[i]);
	}
	return 0;
}
