// SPDX-License-Identifier: MIT
// Any bytes as a packet: every field has a name and a value that is inside the packet, its text fits, and nothing but the decoder's machine is
// remembered. First byte: bits 0, 1 the direction, bit 2: make the rest the body of a whole frame whose type is the second byte.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "trace/decode.h"
#include "wire/kdapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	const uint8_t *bytes;
	size_t len;
	unsigned count;
	uint64_t hash;
};

static void see(void *arg, const struct trace_field *f)
{
	struct seen *s = arg;
	char text[KDCOM_FRAME_MAX * 4 + 8], tiny[24];

	assert(strncmp(f->name, "kd.", 3) == 0 && ++s->count < 64);
	trace_field_text(f, text, sizeof(text));
	trace_field_text(f, tiny, sizeof(tiny));
	assert(strlen(text) < sizeof(text) - 8 && strlen(tiny) < sizeof(tiny));
	for (const char *c = text; *c; c++)
		assert(*c >= 0x20 && *c < 0x7F);
	bool is_inside = f->bytes && f->bytes >= s->bytes && f->bytes <= s->bytes + s->len;
	if (f->kind >= TRACE_FIELD_BYTES || f->kind == TRACE_FIELD_TEXT || f->kind == TRACE_FIELD_UTF16)
		assert(f->len <= KDCOM_FRAME_MAX && (!is_inside || f->bytes + f->len <= s->bytes + s->len));
	for (const char *c = text; *c; c++)
		s->hash = (s->hash ^ (uint8_t)*c) * 0x100000001B3u;
}

static uint64_t decode(uint32_t machine, const uint8_t *bytes, size_t len, enum trace_direction direction)
{
	struct trace_decoder d = { .machine = machine };
	struct seen s = { .bytes = bytes, .len = len };

	trace_decode(&d, bytes, len, direction, see, &s);
	assert(d.machine == KD_MACHINE_X64 || d.machine == KD_MACHINE_X86);
	assert(strlen(trace_title(bytes, len)) > 0);
	return s.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum trace_direction ways[] = { TRACE_UNKNOWN, TRACE_FROM_TARGET, TRACE_TO_TARGET, TRACE_UNKNOWN };

	if (size < 2)
		return 0;
	bool is_body = data[0] & 4;
	size_t len = size - 1 - is_body;
	uint8_t *bytes = malloc(len + KDCOM_FRAME_MAX);
	if (is_body)
		len = trace_frame_make(data[1], 0x80800000, data + 2, len, bytes);
	else
		memcpy(bytes, data + 1, len);
	if (len > KDCOM_FRAME_MAX)
		len = KDCOM_FRAME_MAX;
	uint8_t *exact = malloc(len + !len); // a sanitizer sees every byte too far
	memcpy(exact, bytes, len);
	enum trace_direction way = ways[data[0] & 3];
	assert(decode(KD_MACHINE_X64, exact, len, way) == decode(KD_MACHINE_X64, exact, len, way));
	(void)decode(KD_MACHINE_X86, exact, len, way);
	free(exact);
	free(bytes);
	return 0;
}
