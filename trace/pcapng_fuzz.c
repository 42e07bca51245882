// SPDX-License-Identifier: MIT
// Any bytes as a pcapng file, whole and in pieces: the same packets come out, inside the bytes, and what was taken adds up.
// First byte: the size of the pieces.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "trace/pcapng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct pcapng_reader reader;

static uint64_t mix(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * 0x100000001B3u;
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = mix(hash, ((const uint8_t *)bytes)[i]);
	return hash;
}

static void check(const struct pcapng_packet *p, const uint8_t *bytes, size_t used)
{
	assert(p->interface < reader.interface_count);
	assert(p->data >= bytes && p->len <= used && p->data + p->len <= bytes + used);
	assert(!p->comment_len || ((const uint8_t *)p->comment > bytes && (const uint8_t *)p->comment + p->comment_len <= bytes + used));
}

// What came out, as one number. piece: how many bytes the reader is shown more each time.
static uint64_t read_all(const uint8_t *data, size_t size, size_t piece)
{
	uint64_t hash = 0;
	size_t at = 0, have = 0, used;
	struct pcapng_packet p;

	pcapng_reader_init(&reader);
	for (;;) {
		enum pcapng_outcome outcome = pcapng_read(&reader, data + at, have - at, &used, &p);
		assert(used <= have - at && used % 4 == 0);
		if (outcome == PCAPNG_PACKET) {
			check(&p, data + at, used);
			hash = hash_bytes(mix(mix(mix(hash, p.interface), p.time_ns), p.flags), p.data, p.len);
			hash = hash_bytes(mix(hash, p.drop_count), p.comment, p.comment_len);
		}
		at += used;
		assert(reader.offset == at);
		if (outcome == PCAPNG_BAD)
			return mix(hash, strlen(reader.problem));
		if (outcome == PCAPNG_MORE && have == size)
			break;
		if (outcome == PCAPNG_MORE)
			have = size - have < piece ? size : have + piece;
	}
	for (uint32_t i = 0; i < reader.interface_count; i++)
		assert(strlen(reader.interfaces[i].name) < PCAPNG_NAME_MAX && strlen(reader.interfaces[i].description) < PCAPNG_NAME_MAX);
	return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	uint8_t *copy = malloc(size);
	memcpy(copy, data + 1, size - 1);
	uint64_t whole = read_all(copy, size - 1, size);
	if (size < 4096)
		assert(read_all(copy, size - 1, 1u + data[0]) == whole);
	free(copy);
	return 0;
}
