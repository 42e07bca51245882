// SPDX-License-Identifier: MIT
// The codecs and tables: first everything they must refuse, then that nothing is lost on the way there and back.
#include "wire/kdapi.h"
#include "wire/kddata.h"
#include "wire/kdregs.h"
#include "wire/le.h"
#include "wire/selftest.h"

static uint8_t input[KD_BODY_MAX + 2], output[KD_STATE_CHANGE_SIZE + 16];
static union {
	uint8_t bytes[512];
	struct kd_state_change state_change;
	struct kd_manipulate manipulate;
	struct kd_debug_io debug_io;
	struct kd_file_io file_io;
	struct kd_trace_io trace_io;
	struct kd_control_request control;
	struct kd_version version;
	struct kd_data_header header;
	struct kd_module module;
} ret, again;
static const uint32_t machines[] = { KD_MACHINE_X64, KD_MACHINE_X86 };

// ---- Every structure behind one face -------------------------------------------------------------
enum structure { STATE_CHANGE, MANIPULATE, DEBUG_IO, FILE_IO, TRACE_IO, CONTROL, VERSION, DATA_HEADER, MODULE, STRUCTURES };

static size_t size_of(enum structure s, uint32_t machine)
{
	static const size_t sizes[] = { 240, 56, 16, 64, 64, 12, 40, 0x18, 0x80 };
	return s == MODULE && machine == KD_MACHINE_X86 ? 0x44 : sizes[s];
}

static int decode(enum structure s, size_t len, uint32_t machine)
{
	switch (s) {
	case STATE_CHANGE: return kd_state_change_decode(input, len, machine, &ret.state_change);
	case MANIPULATE: return kd_manipulate_decode(input, len, machine, &ret.manipulate);
	case DEBUG_IO: return kd_debug_io_decode(input, len, &ret.debug_io);
	case FILE_IO: return kd_file_io_decode(input, len, &ret.file_io);
	case TRACE_IO: return kd_trace_io_decode(input, len, &ret.trace_io);
	case CONTROL: return kd_control_request_decode(input, len, &ret.control);
	case VERSION: return kd_version_decode(input, len, &ret.version);
	case DATA_HEADER: return kd_data_header_decode(input, len, machine, &ret.header);
	default: return kd_module_decode(input, len, machine, &ret.module);
	}
}

// Of the decoded form.
static size_t decoded_size(enum structure s)
{
	static const size_t sizes[] = { sizeof(ret.state_change), sizeof(ret.manipulate), sizeof(ret.debug_io), sizeof(ret.file_io),
		                        sizeof(ret.trace_io), sizeof(ret.control), sizeof(ret.version) };
	return sizes[s];
}

static bool has_data(enum structure s, const uint8_t *data, uint32_t len)
{
	switch (s) {
	case STATE_CHANGE: return ret.state_change.data == data && ret.state_change.data_len == len;
	case MANIPULATE: return ret.manipulate.data == data && ret.manipulate.data_len == len;
	case FILE_IO: return ret.file_io.data == data && ret.file_io.data_len == len;
	case TRACE_IO: return ret.trace_io.data == data && ret.trace_io.data_len == len;
	case DEBUG_IO:
		return ret.debug_io.data == data &&
		       ret.debug_io.data_len == (ret.debug_io.api == KD_DEBUG_IO_PRINT ? ret.debug_io.length : len);
	default: return true; // the others carry none
	}
}

static int encode(enum structure s, size_t size, uint32_t machine)
{
	switch (s) {
	case STATE_CHANGE: return kd_state_change_encode(&ret.state_change, machine, output, size);
	case MANIPULATE: return kd_manipulate_encode(&ret.manipulate, machine, output, size);
	case DEBUG_IO: return kd_debug_io_encode(&ret.debug_io, output, size);
	case FILE_IO: return kd_file_io_encode(&ret.file_io, output, size);
	case TRACE_IO: return kd_trace_io_encode(&ret.trace_io, output, size);
	case CONTROL: return kd_control_request_encode(&ret.control, output, size);
	case VERSION: return kd_version_encode(&ret.version, output, size);
	default: return KD_E_SPACE; // these two are read only
	}
}

static void fill(uint8_t *to, size_t len, uint8_t value)
{
	for (size_t i = 0; i < len; i++)
		to[i] = value;
}

static bool is_filled(const uint8_t *from, size_t len, uint8_t value)
{
	for (size_t i = 0; i < len; i++)
		if (from[i] != value)
			return false;
	return true;
}

// Zeros with a first word that selects a known layout.
static void valid_input(enum structure s)
{
	static const uint32_t first[] = { 0x3030, 0x3130, 0x3230, 0x3431, 0x3330, 0x4300, 0, 0, 0 };
	fill(input, sizeof(input), 0);
	put_le32(input, first[s]);
}

// ---- Refusals ------------------------------------------------------------------------------------

static void test_short(struct selftest *t)
{
	selftest_begin(t, "kdapi: every structure, every length that is too short");
	for (int s = 0; s < STRUCTURES; s++)
		for (size_t m = 0; m < 2; m++) {
			valid_input((enum structure)s);
			size_t size = size_of((enum structure)s, machines[m]);
			for (size_t len = 0; len < size; len++) {
				fill(ret.bytes, sizeof(ret), 0x5A);
				CHECK(t, decode((enum structure)s, len, machines[m]) == KD_E_SHORT);
				CHECK(t, is_filled(ret.bytes, sizeof(ret), 0x5A));
			}
			CHECK(t, decode((enum structure)s, size, machines[m]) == KD_OK);
		}
	selftest_end(t);
}

static void test_small_buffers(struct selftest *t)
{
	selftest_begin(t, "kdapi: every structure, every buffer that is too small");
	for (int s = 0; s <= VERSION; s++) {
		size_t size = size_of((enum structure)s, KD_MACHINE_X64);
		valid_input((enum structure)s);
		CHECK(t, decode((enum structure)s, size, KD_MACHINE_X64) == KD_OK);
		fill(output, sizeof(output), 0x5A);
		for (size_t len = 0; len < size; len++)
			CHECK(t, encode((enum structure)s, len, KD_MACHINE_X64) == KD_E_SPACE);
		CHECK(t, is_filled(output, sizeof(output), 0x5A));
		CHECK(t, encode((enum structure)s, size, KD_MACHINE_X64) == KD_OK);
		CHECK(t, same_bytes(output, input, size) && is_filled(output + size, sizeof(output) - size, 0x5A));
	}
	selftest_end(t);
}

// What decode says to `size` bytes of which one number was changed.
static int with16(enum structure s, size_t len, uint32_t machine, size_t at, uint16_t value)
{
	valid_input(s);
	put_le16(input + at, value);
	return decode(s, len, machine);
}

static int with32(enum structure s, size_t len, uint32_t machine, size_t at, uint32_t value)
{
	valid_input(s);
	put_le32(input + at, value);
	return decode(s, len, machine);
}

static void test_counts(struct selftest *t)
{
	uint32_t x64 = KD_MACHINE_X64, x86 = KD_MACHINE_X86;
	selftest_begin(t, "kdapi: counts that cannot be");
	CHECK(t, with16(STATE_CHANGE, 240, x64, 0xD4, 16) == KD_OK); // InstructionCount
	CHECK(t, with16(STATE_CHANGE, 240, x64, 0xD4, 17) == KD_E_RANGE);
	CHECK(t, with16(STATE_CHANGE, 240, x86, 0xC8, 16) == KD_OK);
	CHECK(t, with16(STATE_CHANGE, 240, x86, 0xC8, 0xFFFF) == KD_E_RANGE);
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0x38, 15) == KD_OK); // NumberParameters
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0x38, 16) == KD_E_RANGE);
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0x38, UINT32_MAX) == KD_E_RANGE);
	CHECK(t, with32(DEBUG_IO, 16 + 5, x64, 8, 5) == KD_OK); // LengthOfString
	CHECK(t, ret.debug_io.data_len == 5);
	CHECK(t, with32(DEBUG_IO, 16 + 5, x64, 8, 3) == KD_OK && ret.debug_io.data_len == 3);
	CHECK(t, with32(DEBUG_IO, 16 + 5, x64, 8, 6) == KD_E_RANGE);
	CHECK(t, with32(DEBUG_IO, 16 + 5, x64, 8, UINT32_MAX) == KD_E_RANGE);
	CHECK(t, with32(TRACE_IO, 64 + 5, x64, 8, 5) == KD_OK && ret.trace_io.length == 5); // LengthOfData
	CHECK(t, with32(TRACE_IO, 64 + 5, x64, 8, 6) == KD_E_RANGE);
	CHECK(t, with32(FILE_IO, 64 + 4, x64, 0, KD_FILE_IO_CREATE) == KD_OK); // UTF-16
	CHECK(t, with32(FILE_IO, 64 + 5, x64, 0, KD_FILE_IO_CREATE) == KD_E_RANGE);
	CHECK(t, with32(FILE_IO, 64 + 5, x64, 0, KD_FILE_IO_WRITE) == KD_OK);
	CHECK(t, with16(MODULE, 0x80, x64, 0x48, 2) == KD_E_RANGE); // a name beyond its buffer
	CHECK(t, with32(MODULE, 0x80, x64, 0x58, 0x00040003) == KD_E_RANGE); // odd
	CHECK(t, with32(MODULE, 0x80, x64, 0x58, 0x00040004) == KD_OK);
	CHECK(t, with32(MODULE, 0x44, x86, 0x24, 0x00040006) == KD_E_RANGE);
	CHECK(t, with32(MODULE, 0x44, x86, 0x2C, 0x00060006) == KD_OK);
	selftest_end(t);
}

static void test_name_len(struct selftest *t)
{
	selftest_begin(t, "kdapi: a module name longer than its packet");
	for (uint32_t data_len = 0; data_len < 4; data_len++)
		for (uint32_t name_len = 0; name_len < 6; name_len++) {
			valid_input(STATE_CHANGE);
			put_le32(input, KD_STATE_LOAD_SYMBOLS);
			put_le32(input + 0x20, name_len);
			CHECK(t, decode(STATE_CHANGE, 240 + data_len, KD_MACHINE_X64) == (name_len > data_len ? KD_E_RANGE : KD_OK));
		}
	selftest_end(t);
}

static void test_unknown(struct selftest *t)
{
	uint32_t x64 = KD_MACHINE_X64;
	selftest_begin(t, "kdapi: numbers that nobody knows");
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0, 0x302F) == KD_E_UNKNOWN);
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0, 0x3033) == KD_E_UNKNOWN);
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0, 0x23030) == KD_E_UNKNOWN);
	CHECK(t, with32(STATE_CHANGE, 240, x64, 0, 0x13030) == KD_OK && ret.state_change.is_alternate == 1);
	CHECK(t, encode(STATE_CHANGE, 240, x64) == KD_OK && get_le32(output) == 0x13030);
	CHECK(t, with32(DEBUG_IO, 16, x64, 0, 0x3232) == KD_E_UNKNOWN);
	CHECK(t, with32(FILE_IO, 64, x64, 0, 0x342F) == KD_E_UNKNOWN);
	CHECK(t, with32(FILE_IO, 64, x64, 0, 0x3434) == KD_E_UNKNOWN);
	CHECK(t, with32(TRACE_IO, 64, x64, 0, 0x3331) == KD_E_UNKNOWN);
	CHECK(t, with32(CONTROL, 12, x64, 0, 0x4302) == KD_E_UNKNOWN);
	static const enum structure by_machine[] = { STATE_CHANGE, MANIPULATE, DATA_HEADER, MODULE };
	for (size_t i = 0; i < 4; i++) {
		valid_input(by_machine[i]);
		CHECK(t, decode(by_machine[i], 240, 0xAA64) == KD_E_UNKNOWN);
	}
	CHECK(t, encode(STATE_CHANGE, 240, 0) == KD_E_UNKNOWN && encode(MANIPULATE, 56, 0) == KD_E_UNKNOWN);
	selftest_end(t);
}

static void test_too_long(struct selftest *t)
{
	selftest_begin(t, "kdapi: a body of 4000 bytes, and one more");
	for (int s = STATE_CHANGE; s <= TRACE_IO; s++) {
		valid_input((enum structure)s);
		CHECK(t, decode((enum structure)s, 4000, KD_MACHINE_X64) == KD_OK);
		CHECK(t, decode((enum structure)s, 4001, KD_MACHINE_X64) == KD_E_RANGE);
	}
	selftest_end(t);
}

// ---- There and back ------------------------------------------------------------------------------

// Random bytes behind a given first word: decode, encode, decode again. Both decoded forms must be the same, and so must
// the bytes wherever a second encoding of other bytes shows that there is a field.
static void round_trip(struct selftest *t, enum structure s, uint32_t first, uint32_t machine, struct dice *d)
{
	size_t size = size_of(s, machine);
	static uint8_t original[KD_STATE_CHANGE_SIZE];
	for (size_t i = 0; i < size; i++)
		input[i] = (uint8_t)dice_roll(d, 256);
	put_le32(input, first);
	if (s == STATE_CHANGE) { // counts in their ranges
		put_le32(input + (first == KD_STATE_LOAD_SYMBOLS ? 0x20 : 0x38), dice_roll(d, 15));
		put_le16(input + (machine == KD_MACHINE_X64 ? 0xD4 : 0xC8), (uint16_t)dice_roll(d, 17));
	}
	if (s == DEBUG_IO || s == TRACE_IO)
		put_le32(input + 8, dice_roll(d, 17));
	wire_copy(original, input, size);
	fill(ret.bytes, sizeof(ret), 0x5A); // what was there before does not show
	CHECK(t, decode(s, size + 16, machine) == KD_OK);
	CHECK(t, has_data(s, input + size, 16));
	wire_copy(&again, &ret, sizeof(ret));
	fill(output, sizeof(output), 0x5A);
	CHECK(t, encode(s, sizeof(output), machine) == KD_OK);
	CHECK(t, is_filled(output + size, sizeof(output) - size, 0x5A));
	for (size_t i = 0; i < size; i++)
		CHECK(t, output[i] == original[i] || output[i] == 0); // a field's byte, or a gap
	wire_copy(input, output, size);
	fill(ret.bytes, sizeof(ret), 0xA5);
	CHECK(t, decode(s, size + 16, machine) == KD_OK);
	CHECK(t, same_bytes(&again, &ret, decoded_size(s)));
}

static void test_round_trips(struct selftest *t)
{
	struct dice d = { 20 };
	static const uint32_t states[] = { 0x3030, 0x3031, 0x3032 }, files[] = { 0x3430, 0x3431, 0x3432, 0x3433 };
	fill(ret.bytes, sizeof(ret), 0);
	selftest_begin(t, "kdapi: random contents there and back");
	for (size_t m = 0; m < 2; m++)
		for (unsigned i = 0; i < 4; i++) {
			for (uint32_t api = 0x312F; api <= 0x3161; api++)
				round_trip(t, MANIPULATE, api, machines[m], &d);
			for (size_t n = 0; n < 3; n++)
				round_trip(t, STATE_CHANGE, states[n], machines[m], &d);
			for (size_t n = 0; n < 4; n++)
				round_trip(t, FILE_IO, files[n], machines[m], &d);
			round_trip(t, DEBUG_IO, KD_DEBUG_IO_PRINT, machines[m], &d);
			round_trip(t, DEBUG_IO, KD_DEBUG_IO_PROMPT, machines[m], &d);
			round_trip(t, TRACE_IO, KD_TRACE_IO_PRINT, machines[m], &d);
			round_trip(t, CONTROL, KD_CONTROL_RELEASE_HARDWARE_BP, machines[m], &d);
			round_trip(t, VERSION, dice_roll(&d, UINT32_MAX), machines[m], &d);
		}
	selftest_end(t);
}

// Bytes of the union that are fields: those that survive decode and encode when every bit is set.
static uint32_t field_bytes(uint32_t api, uint32_t machine)
{
	uint32_t n = 0;
	fill(input, 56, 0xFF);
	put_le32(input, api);
	if (decode(MANIPULATE, 56, machine) != KD_OK || encode(MANIPULATE, 56, machine) != KD_OK)
		return UINT32_MAX;
	for (size_t i = 16; i < 56; i++)
		n += output[i] == 0xFF;
	return n;
}

static void test_union_sizes(struct selftest *t)
{
	static const struct {
		uint16_t api;
		uint8_t x64, x86;
	} sizes[] = { // KD reference, section 4.4
		{ 0x3130, 16, 16 }, { 0x3132, 4, 4 },   { 0x3134, 12, 12 }, { 0x3135, 4, 4 },   { 0x3136, 4, 4 },
		{ 0x3139, 16, 16 }, { 0x313B, 0, 0 },   { 0x313C, 32, 20 }, { 0x313F, 4, 4 },   { 0x3140, 8, 8 },
		{ 0x3142, 12, 12 }, { 0x3143, 32, 32 }, { 0x3144, 28, 28 }, { 0x3146, 40, 40 }, { 0x3147, 8, 8 },
		{ 0x3152, 12, 12 }, { 0x3156, 20, 20 }, { 0x3157, 20, 20 }, { 0x315B, 16, 16 }, { 0x315C, 24, 24 },
		{ 0x315D, 4, 4 },   { 0x315E, 22, 22 }, { 0x315F, 12, 12 }, { 0x3170, 40, 40 },
	};
	selftest_begin(t, "kdapi: each union has the bytes it should have");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		CHECK(t, field_bytes(sizes[i].api, KD_MACHINE_X64) == sizes[i].x64);
		CHECK(t, field_bytes(sizes[i].api, KD_MACHINE_X86) == sizes[i].x86);
	}
	selftest_end(t);
}

// The same for whole structures, whose first word and bounded counts cannot have every bit set and do not count.
static uint32_t field_bytes_of(enum structure s, uint32_t first, uint32_t machine)
{
	uint32_t n = 0;
	size_t size = size_of(s, machine);
	fill(input, sizeof(input), 0xFF);
	put_le32(input, first);
	if (s == STATE_CHANGE) {
		put_le32(input + (first == KD_STATE_LOAD_SYMBOLS ? 0x20 : 0x38), 1);
		put_le16(input + (machine == KD_MACHINE_X64 ? 0xD4 : 0xC8), 16);
	}
	if (s == DEBUG_IO || s == TRACE_IO)
		put_le32(input + 8, 1);
	fill(ret.bytes, sizeof(ret), 0);
	if (decode(s, size + 16, machine) != KD_OK || encode(s, size, machine) != KD_OK)
		return UINT32_MAX;
	for (size_t i = 4; i < size; i++)
		n += output[i] == 0xFF;
	return n;
}

static void test_structure_sizes(struct selftest *t)
{
	static const struct {
		enum structure s;
		uint32_t first, x64, x86;
	} sizes[] = { // KD reference, sections 3 and 5
		{ STATE_CHANGE, KD_STATE_EXCEPTION, 218, 210 },
		{ STATE_CHANGE, KD_STATE_LOAD_SYMBOLS, 95, 87 },
		{ STATE_CHANGE, KD_STATE_COMMAND_STRING, 74, 66 },
		{ MANIPULATE, KD_API_REBOOT, 8, 8 },
		{ DEBUG_IO, KD_DEBUG_IO_PRINT, 8, 8 },
		{ FILE_IO, KD_FILE_IO_CREATE, 40, 40 },
		{ FILE_IO, KD_FILE_IO_READ, 24, 24 },
		{ FILE_IO, KD_FILE_IO_CLOSE, 12, 12 },
		{ TRACE_IO, KD_TRACE_IO_PRINT, 4, 4 },
		{ CONTROL, KD_CONTROL_REQUEST_HARDWARE_BP, 8, 8 },
		{ VERSION, UINT32_MAX, 36, 36 },
	};
	selftest_begin(t, "kdapi: each structure has the bytes it should have");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		CHECK(t, field_bytes_of(sizes[i].s, sizes[i].first, KD_MACHINE_X64) == sizes[i].x64);
		CHECK(t, field_bytes_of(sizes[i].s, sizes[i].first, KD_MACHINE_X86) == sizes[i].x86);
	}
	selftest_end(t);
}

// No golden vector has one, so each field by its offset (KD reference, section 3.5).
static void test_report32(struct selftest *t)
{
	const struct kd_control_report *r = &ret.state_change.report;
	selftest_begin(t, "kdapi: the control report of a 32-bit target");
	valid_input(STATE_CHANGE);
	for (uint32_t i = 0; i < 0x28; i++)
		input[0xC0 + i] = (uint8_t)(0x81 + i);
	put_le16(input + 0xC8, 16);
	CHECK(t, decode(STATE_CHANGE, 240, KD_MACHINE_X86) == KD_OK);
	CHECK(t, r->dr6 == 0x84838281 && r->dr7 == 0x88878685 && r->flags == 0x8C8B && r->instruction_count == 16);
	CHECK(t, same_bytes(r->instructions, input + 0xCC, 16));
	CHECK(t, r->seg_cs == 0x9E9D && r->seg_ds == 0xA09F && r->seg_es == 0xA2A1 && r->seg_fs == 0xA4A3);
	CHECK(t, r->eflags == 0xA8A7A6A5);
	selftest_end(t);
}

static void test_32bit(struct selftest *t)
{
	selftest_begin(t, "kdapi: addresses of a 32-bit target");
	valid_input(MANIPULATE);
	put_le32(input, KD_API_CONTINUE2);
	put_le32(input + 0x18, 0x80000401);
	put_le32(input + 0x1C, 0x804D7000);
	put_le32(input + 0x20, 0x804D7010);
	CHECK(t, decode(MANIPULATE, 56, KD_MACHINE_X86) == KD_OK);
	CHECK(t, ret.manipulate.u.continue2.dr7 == 0x80000401);
	CHECK(t, ret.manipulate.u.continue2.symbol_start == 0xFFFFFFFF804D7000);
	CHECK(t, encode(MANIPULATE, 56, KD_MACHINE_X86) == KD_OK && same_bytes(output, input, 56));
	selftest_end(t);
}

static void test_guess(struct selftest *t)
{
	selftest_begin(t, "kdapi: which machine a state change comes from");
	valid_input(STATE_CHANGE);
	CHECK(t, kd_guess_machine(input, 240) == 0);
	CHECK(t, kd_guess_machine(input, 239) == 0);
	put_le64(input + 0x10, 0xFFFFF800003C2A40);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X64);
	put_le64(input + 0x10, 0xFFFFFFFF82A3C020);
	put_le64(input + 0x18, 0xFFFFFFFF804D7000);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X86);
	put_le64(input + 0x10, 0x82A3C020); // a kernel that fills up with zeros
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X86);
	put_le64(input + 0x10, 0); // no thread: the code segment decides
	put_le16(input + 0xDC, 8);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X86);
	put_le16(input + 0xE8, 0x10);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X64);
	put_le16(input + 0xD4, 16); // instruction counts: as many as fit
	put_le16(input + 0xC8, 16);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X64);
	put_le16(input + 0xD4, 17);
	CHECK(t, kd_guess_machine(input, 240) == KD_MACHINE_X86);
	put_le16(input + 0xC8, 17);
	CHECK(t, kd_guess_machine(input, 240) == 0);
	selftest_end(t);
}

// ---- Tables --------------------------------------------------------------------------------------

static void test_data_len(struct selftest *t)
{
	struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL, .data_len = 8 };
	selftest_begin(t, "kdapi: a reply's data is what both its length and the packet say");
	m.u.memory.actual_bytes = 4;
	CHECK(t, kd_manipulate_data_len(&m) == 4);
	m.u.memory.actual_bytes = UINT32_MAX;
	CHECK(t, kd_manipulate_data_len(&m) == 8);
	m.api = KD_API_GET_CONTEXT_EX;
	m.u.context_ex.copied = 3;
	CHECK(t, kd_manipulate_data_len(&m) == 3);
	m.api = KD_API_GET_CONTEXT;
	CHECK(t, kd_manipulate_data_len(&m) == 8);
	selftest_end(t);
}

static void test_apis(struct selftest *t)
{
	static const uint16_t silent[] = { 0x3136, 0x313B, 0x313C, 0x3140, 0x3141, 0x3142, 0x3149, 0x3150, 0x315A };
	unsigned count = 0, without_reply = 0;
	selftest_begin(t, "kdapi: the API numbers");
	for (uint32_t api = 0x3100; api < 0x3200; api++) {
		bool is_known = api >= 0x3130 && api <= 0x3160 && !(api >= 0x314A && api <= 0x314F);
		CHECK(t, kd_api_is_known(api) == is_known);
		CHECK(t, same_text(kd_api_name(api), "unknown") == !is_known);
		count += is_known;
		without_reply += !kd_api_has_reply(api);
	}
	for (size_t i = 0; i < 9; i++)
		CHECK(t, !kd_api_has_reply(silent[i]));
	CHECK(t, count == 43 && without_reply == 9);
	CHECK(t, kd_api_resumes(KD_API_CONTINUE2) && !kd_api_resumes(KD_API_READ_VIRTUAL) && !kd_api_resumes(0));
	CHECK(t, same_text(kd_packet_name(7), "KD_PACKET_STATE_CHANGE") && same_text(kd_packet_name(8), "unknown"));
	CHECK(t, same_text(kd_state_name(0x3031), "KD_STATE_LOAD_SYMBOLS") && same_text(kd_state_name(1), "unknown"));
	selftest_end(t);
}

static void test_droppable(struct selftest *t)
{
	static const uint32_t firsts[] = { 0x3030, 0x3031, 0x3032, 0x3130, 0x3230, 0x3231, 0x3330, 0x3430, 0x3431, 0x3433, 0x4300 };
	unsigned droppable = 0;
	uint8_t first[4];
	selftest_begin(t, "kdapi: what a target may drop");
	for (uint32_t type = 0; type < 16; type++)
		for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
			put_le32(first, firsts[i]);
			droppable += kd_is_droppable(type, first, 4);
			CHECK(t, !kd_is_droppable(type, first, 3));
		}
	CHECK(t, droppable == 5);
	static const uint32_t yes[5][2] = { { 1, 0x3031 }, { 7, 0x3031 }, { 3, 0x3230 }, { 9, 0x3330 }, { 11, 0x3430 } };
	for (size_t i = 0; i < 5; i++) {
		put_le32(first, yes[i][1]);
		CHECK(t, kd_is_droppable(yes[i][0], first, 4));
	}
	selftest_end(t);
}

static void check_table(struct selftest *t, const struct kd_register *table, size_t count, size_t size)
{
	size_t end = 0;
	CHECK(t, count > 10);
	for (size_t i = 0; i < count; i++) {
		uint64_t value = 0;
		CHECK(t, table[i].offset >= end);
		end = (size_t)table[i].offset + table[i].size;
		CHECK(t, kd_register_find(table, count, table[i].name) == &table[i]);
		if (table[i].size > 8)
			continue;
		fill(input, size, 0);
		uint64_t all = table[i].size == 8 ? UINT64_MAX : (1ull << 8 * table[i].size) - 1;
		CHECK(t, kd_register_put(&table[i], input, size, all) == KD_OK);
		CHECK(t, kd_register_get(&table[i], input, size, &value) == KD_OK && value == all);
		CHECK(t, is_filled(input, table[i].offset, 0) && is_filled(input + end, size - end, 0));
		CHECK(t, kd_register_get(&table[i], input, end - 1, &value) == KD_E_SHORT);
		CHECK(t, kd_register_put(&table[i], input, end - 1, 0) == KD_E_SHORT);
		if (table[i].size < 8)
			CHECK(t, kd_register_put(&table[i], input, size, all + 1) == KD_E_RANGE);
	}
	CHECK(t, end <= size);
}

static uint32_t offset_of(const struct kd_register *table, size_t count, const char *name)
{
	const struct kd_register *r = kd_register_find(table, count, name);
	return r ? r->offset : UINT32_MAX;
}

static void test_registers(struct selftest *t)
{
	size_t count;
	uint64_t value;
	selftest_begin(t, "kdregs: the tables");
	const struct kd_register *r = kd_context_registers(KD_MACHINE_X64, &count);
	check_table(t, r, count, KD_CONTEXT_SIZE_X64);
	CHECK(t, offset_of(r, count, "RIP") == 0xF8 && offset_of(r, count, "rsp") == 0x98 && offset_of(r, count, "Xmm15") == 0x290);
	CHECK(t, kd_register_find(r, count, "ri") == NULL && kd_register_find(r, count, "ripp") == NULL);
	CHECK(t, kd_register_get(kd_register_find(r, count, "xmm0"), input, KD_CONTEXT_SIZE_X64, &value) == KD_E_RANGE);
	r = kd_context_registers(KD_MACHINE_X86, &count);
	check_table(t, r, count, KD_CONTEXT_SIZE_X86);
	CHECK(t, offset_of(r, count, "eip") == 0xB8 && offset_of(r, count, "st7") == 0x7E && offset_of(r, count, "ss") == 0xC8);
	r = kd_special_registers(KD_MACHINE_X64, &count);
	check_table(t, r, count, KD_SPECIAL_SIZE_X64_MAX);
	CHECK(t, offset_of(r, count, "cr3") == 0x10 && offset_of(r, count, "lstar") == 0xC0 && offset_of(r, count, "idtr") == 0x68);
	r = kd_special_registers(KD_MACHINE_X86, &count);
	check_table(t, r, count, KD_SPECIAL_SIZE_X86);
	CHECK(t, offset_of(r, count, "kdr7") == 0x24 && offset_of(r, count, "idtr") == 0x34);
	CHECK(t, kd_context_registers(0, &count) == NULL && count == 0 && kd_context_size(0) == 0);
	selftest_end(t);
}

static void test_data_block(struct selftest *t)
{
	size_t count, end = KD_DATA_HEADER_SIZE;
	uint64_t value = 0;
	selftest_begin(t, "kddata: the data block");
	const struct kd_data_info *f = kd_data_fields(&count);
	for (size_t i = 0; i < count; i++) {
		CHECK(t, f[i].offset >= end && f[i].offset % f[i].size == 0 && f[i].offset - end < 8);
		end = (size_t)f[i].offset + f[i].size;
	}
	CHECK(t, end == KD_DATA_SIZE_MAX && count == 159);
	// Constants that Microsoft publishes under other names (KD reference, section 7.2).
	CHECK(t, KD_DATA_PsLoadedModuleList == 0x48 && KD_DATA_KiProcessorBlock == 0x218);
	CHECK(t, KD_DATA_OffsetKThreadKernelStack == 668 && KD_DATA_OffsetPrcbCurrentThread == 692);
	CHECK(t, KD_DATA_OffsetPrcbContext == 0x338 && KD_DATA_PteBase == 864 && KD_DATA_PointerAuthMask == 912);
	fill(input, 0x400, 0);
	put_le32(input + 0x14, 0x290);
	put_le32(input + 0x48, 0x80561234);
	put_le16(input + 0x36, 1);
	CHECK(t, kd_data_get(input, 0x400, KD_DATA_PsLoadedModuleList, &value) == KD_OK && value == 0x80561234);
	CHECK(t, kd_data_get_address(input, 0x400, KD_DATA_PsLoadedModuleList, KD_MACHINE_X86, &value) == KD_OK);
	CHECK(t, value == 0xFFFFFFFF80561234);
	CHECK(t, kd_data_get(input, 0x400, KD_DATA_PaeEnabled, &value) == KD_OK && value == 1);
	CHECK(t, kd_data_get(input, 0x400, KD_DATA_MmVirtualTranslationBase, &value) == KD_E_SHORT); // Header.Size
	CHECK(t, kd_data_get(input, 0x4F, KD_DATA_PsLoadedModuleList, &value) == KD_E_SHORT);        // len
	CHECK(t, kd_data_get(input, 0x17, KD_DATA_PsLoadedModuleList, &value) == KD_E_SHORT);
	CHECK(t, kd_data_get(input, 0x400, (enum kd_data_field)0x49, &value) == KD_E_UNKNOWN);
	selftest_end(t);
}

static void test_modules(struct selftest *t)
{
	selftest_begin(t, "kddata: list entries of both widths");
	fill(input, 0x80, 0);
	put_le64(input, 0xFFFFF80001000000);
	put_le64(input + 0x30, 0xFFFFF80000200000);
	put_le32(input + 0x40, 0x480000);
	put_le32(input + 0x58, 0x001A0018);
	put_le64(input + 0x60, 0xFFFFF80001002000);
	CHECK(t, decode(MODULE, 0x80, KD_MACHINE_X64) == KD_OK);
	CHECK(t, ret.module.flink == 0xFFFFF80001000000 && ret.module.base == 0xFFFFF80000200000);
	CHECK(t, ret.module.image_size == 0x480000 && ret.module.base_name.len == 0x18 &&
	                 ret.module.base_name.max_len == 0x1A && ret.module.base_name.buffer == 0xFFFFF80001002000);
	fill(input, 0x44, 0);
	put_le32(input + 4, 0x80560000);
	put_le32(input + 0x18, 0x804D7000);
	put_le32(input + 0x20, 0x200000);
	put_le32(input + 0x2C, 0x00100010);
	put_le32(input + 0x30, 0x82B00000);
	CHECK(t, decode(MODULE, 0x44, KD_MACHINE_X86) == KD_OK);
	CHECK(t, ret.module.blink == 0xFFFFFFFF80560000 && ret.module.base == 0xFFFFFFFF804D7000);
	CHECK(t, ret.module.image_size == 0x200000 && ret.module.base_name.buffer == 0xFFFFFFFF82B00000);
	put_le32(input + 0x10, KD_DATA_TAG);
	put_le32(input + 0x14, 0x290);
	CHECK(t, decode(DATA_HEADER, 0x18, KD_MACHINE_X86) == KD_OK);
	CHECK(t, ret.header.blink == 0xFFFFFFFF80560000 && ret.header.tag == KD_DATA_TAG && ret.header.size == 0x290);
	CHECK(t, decode(DATA_HEADER, 0x18, KD_MACHINE_X64) == KD_OK && ret.header.flink == 0x8056000000000000);
	selftest_end(t);
}

void selftest_kdapi(struct selftest *t)
{
	test_short(t);
	test_small_buffers(t);
	test_counts(t);
	test_name_len(t);
	test_unknown(t);
	test_too_long(t);
	test_round_trips(t);
	test_union_sizes(t);
	test_structure_sizes(t);
	test_report32(t);
	test_32bit(t);
	test_guess(t);
	test_data_len(t);
	test_apis(t);
	test_droppable(t);
	test_registers(t);
	test_data_block(t);
	test_modules(t);
}
