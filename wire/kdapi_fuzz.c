// SPDX-License-Identifier: MIT
// Decoders of packet contents on arbitrary bytes: what decodes, encodes, and decodes to the same. First byte: bits 0 to 3 the
// structure, bit 4 the machine.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire/kdapi.h"
#include "wire/kddata.h"
#include "wire/kdregs.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// `type` has a `data` member that must lie behind the header, inside the body.
#define ROUND_TRIP(type, name, decode, encode, header)                                                     \
	static void name(const uint8_t *body, size_t len, uint32_t machine)                                 \
	{                                                                                                    \
		struct type first, second;                                                                   \
		uint8_t bytes[KD_BODY_MAX], again[header];                                                   \
		(void)machine; /* not every structure depends on it */                                      \
		memset(&first, 0xEE, sizeof(first));                                                         \
		if (decode(body, len, &first) != KD_OK)                                                      \
			return;                                                                              \
		assert(first.data == body + (header) && first.data_len <= len - (header));                   \
		memcpy(bytes, body, len);                                                                    \
		assert(encode(&first, bytes, sizeof(bytes)) == KD_OK);                                       \
		assert(decode(bytes, len, &second) == KD_OK);                                                \
		assert(encode(&second, again, sizeof(again)) == KD_OK);                                      \
		assert(memcmp(bytes, again, (header)) == 0);                                                 \
		second.data = first.data;                                                                    \
		assert(memcmp(&first, &second, sizeof(first)) == 0);                                         \
	}
#define DECODE_FOR(body, len, ret) kd_state_change_decode(body, len, machine, ret)
#define ENCODE_FOR(value, bytes, size) kd_state_change_encode(value, machine, bytes, size)
ROUND_TRIP(kd_state_change, state_change, DECODE_FOR, ENCODE_FOR, KD_STATE_CHANGE_SIZE)
#undef DECODE_FOR
#undef ENCODE_FOR
#define DECODE_FOR(body, len, ret) kd_manipulate_decode(body, len, machine, ret)
#define ENCODE_FOR(value, bytes, size) kd_manipulate_encode(value, machine, bytes, size)
ROUND_TRIP(kd_manipulate, manipulate, DECODE_FOR, ENCODE_FOR, KD_MANIPULATE_SIZE)
ROUND_TRIP(kd_debug_io, debug_io, kd_debug_io_decode, kd_debug_io_encode, KD_DEBUG_IO_SIZE)
ROUND_TRIP(kd_file_io, file_io, kd_file_io_decode, kd_file_io_encode, KD_FILE_IO_SIZE)
ROUND_TRIP(kd_trace_io, trace_io, kd_trace_io_decode, kd_trace_io_encode, KD_TRACE_IO_SIZE)

static void control_request(const uint8_t *body, size_t len)
{
	struct kd_control_request c;
	uint8_t bytes[KD_CONTROL_REQUEST_SIZE];
	if (kd_control_request_decode(body, len, &c) != KD_OK)
		return;
	assert(kd_control_request_encode(&c, bytes, sizeof(bytes)) == KD_OK && memcmp(bytes, body, sizeof(bytes)) == 0);
}

static void version(const uint8_t *body, size_t len)
{
	struct kd_version v;
	uint8_t bytes[KD_VERSION_SIZE];
	if (kd_version_decode(body, len, &v) != KD_OK)
		return;
	assert(kd_version_encode(&v, bytes, sizeof(bytes)) == KD_OK && memcmp(bytes, body, sizeof(bytes)) == 0);
}

static void memory(const uint8_t *body, size_t len, uint32_t machine)
{
	struct kd_module m;
	struct kd_data_header h;
	size_t count;
	if (kd_module_decode(body, len, machine, &m) == KD_OK)
		assert(m.base_name.len % 2 == 0 && m.base_name.len <= m.base_name.max_len);
	(void)kd_data_header_decode(body, len, machine, &h); // nothing in it can be wrong
	const struct kd_data_info *f = kd_data_fields(&count);
	for (size_t i = 0; i < count; i++) {
		uint64_t v;
		int r = kd_data_get(body, len, (enum kd_data_field)f[i].offset, &v);
		assert(r == KD_OK || r == KD_E_SHORT);
		if (r == KD_OK)
			assert((size_t)f[i].offset + f[i].size <= len && (f[i].size == 8 || v >> (8 * f[i].size) == 0));
	}
}

static void registers(uint8_t *body, size_t len, uint32_t machine, bool is_special)
{
	size_t count;
	const struct kd_register *r = is_special ? kd_special_registers(machine, &count) : kd_context_registers(machine, &count);
	for (size_t i = 0; i < count; i++) {
		uint64_t v, again;
		if (kd_register_get(&r[i], body, len, &v) != KD_OK)
			continue;
		assert(kd_register_put(&r[i], body, len, v) == KD_OK);
		assert(kd_register_get(&r[i], body, len, &again) == KD_OK && again == v);
	}
}

static void facts(const uint8_t *body, size_t len)
{
	uint32_t machine = kd_guess_machine(body, len);
	assert(machine == 0 || machine == KD_MACHINE_X64 || machine == KD_MACHINE_X86);
	for (uint32_t type = 0; type < 16; type++)
		(void)kd_is_droppable(type, body, len); // any answer is one
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 || size > KD_BODY_MAX + 1)
		return 0;
	uint32_t machine = data[0] & 0x10 ? KD_MACHINE_X86 : KD_MACHINE_X64;
	size_t len = size - 1;
	uint8_t *body = malloc(len + 1); // its own block, so that one byte too far is seen
	uint8_t *exact = realloc(body, len ? len : 1);
	memcpy(exact, data + 1, len);
	switch (data[0] & 15) {
	case 0: state_change(exact, len, machine); break;
	case 1: manipulate(exact, len, machine); break;
	case 2: debug_io(exact, len, machine); break;
	case 3: file_io(exact, len, machine); break;
	case 4: trace_io(exact, len, machine); break;
	case 5: control_request(exact, len); break;
	case 6: version(exact, len); break;
	case 7: memory(exact, len, machine); break;
	case 8: registers(exact, len, machine, false); break;
	case 9: registers(exact, len, machine, true); break;
	default: facts(exact, len); break;
	}
	free(exact);
	return 0;
}
