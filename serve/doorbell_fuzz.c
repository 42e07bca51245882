// SPDX-License-Identifier: MIT
// Any bytes on the doorbell, in pieces of any size: the meaning must not depend on how they were cut.
#include <stdlib.h>
#include <string.h>

#include "serve/doorbell.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void feed(struct doorbell *d, const uint8_t *bytes, size_t len)
{
	gpa_t head;
	size_t used;

	for (; len; bytes += used, len -= used)
		doorbell_feed(d, bytes, len, &used, &head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct doorbell whole = { 0 }, cut = { 0 };
	size_t at = 0;

	feed(&whole, data, size);
	while (at < size) {
		size_t piece = 1 + data[at] % 7;

		if (piece > size - at)
			piece = size - at;
		feed(&cut, data + at, piece);
		at += piece;
	}
	if (memcmp(&whole, &cut, sizeof(whole)) != 0 || whole.count >= DOORBELL_HELLO_LEN)
		abort();
	return 0;
}
