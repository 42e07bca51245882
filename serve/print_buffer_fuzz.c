// SPDX-License-Identifier: MIT
// The print buffer of a hostile kernel. Input: 1 byte of options (bit 0: 32 bits, bit 1: every third reply is short), then the kernel's memory from
// BASE on; DebuggerDataList is its beginning. However it is made up, the questions end.
#include <stdlib.h>
#include <string.h>

#include "serve/print_buffer.h"
#include "wire/kdapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BASE64 0xFFFFF80000000000u
#define BASE32 0xFFFFFFFF80000000u

static struct print_buffer p;

static uint32_t answer(const uint8_t *body, uint8_t options, const uint8_t *memory, size_t size, uint32_t turn, uint8_t *reply)
{
	struct kd_manipulate m;
	uint32_t len = 0;

	if (kd_manipulate_decode(body, KD_MANIPULATE_SIZE, KD_MACHINE_X64, &m) != KD_OK)
		abort();
	if (m.api == KD_API_GET_VERSION) {
		m.u.version = (struct kd_version){ .machine = options & 1 ? KD_MACHINE_X86 : KD_MACHINE_X64, .flags = KD_VERSION_DATA,
						   .debugger_data_list = options & 1 ? BASE32 : BASE64 };
	} else {
		uint64_t offset = m.u.memory.address - (options & 1 ? BASE32 : BASE64);
		if (m.u.memory.count == 0 || m.u.memory.count > KD_DATA_MAX)
			abort();
		len = offset >= size ? 0 : m.u.memory.count < size - offset ? m.u.memory.count : (uint32_t)(size - offset);
		if (options & 2 && turn % 3 == 2)
			len /= 2;
		if (len)
			memcpy(reply + KD_MANIPULATE_SIZE, memory + offset, len);
		m.u.memory.actual_bytes = options & 4 ? UINT32_MAX : len;
	}
	if (kd_manipulate_encode(&m, KD_MACHINE_X64, reply, KD_MANIPULATE_SIZE) != KD_OK)
		abort();
	return KD_MANIPULATE_SIZE + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t body[KD_MANIPULATE_SIZE], reply[KD_BODY_MAX];
	size_t len;

	if (size == 0)
		return 0;
	print_buffer_start(&p);
	for (uint32_t turn = 0; print_buffer_request(&p, body); turn++) {
		if (turn == PRINT_BUFFER_REQUESTS_MAX)
			abort();
		uint32_t reply_len = answer(body, data[0], data + 1, size - 1, turn, reply);
		print_buffer_reply(&p, reply, reply_len);
	}
	const uint8_t *text = print_buffer_text(&p, &len);
	if (!print_buffer_is_done(&p) || text < p.bytes || text + len > p.bytes + PRINT_BUFFER_MAX)
		abort();
	struct print_buffer_fit f = print_buffer_fit(text, len, data, size);
	if (f.old_len > size || f.new_len > len)
		abort();
	return 0;
}
