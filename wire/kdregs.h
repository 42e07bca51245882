// SPDX-License-Identifier: MIT
// Registers inside CONTEXT, KSPECIAL_REGISTERS and KPROCESSOR_STATE as tables. KD reference, section 6.
//
// Rules: pure functions over the caller's bytes; a get or put refuses a register that lies beyond `len`.
#ifndef WIRE_KDREGS_H
#define WIRE_KDREGS_H

#include "wire/kdapi.h"

#define KD_CONTEXT_SIZE_X64 0x4D0u
#define KD_CONTEXT_SIZE_X86 0x2CCu
#define KD_CONTEXT_SIZE_MAX KD_CONTEXT_SIZE_X64
// amd64 sizes by version: 0xD8 before Windows 7, 0xE0 to early Windows 10, 0xF0 later. Ask for the largest, look at what comes.
#define KD_SPECIAL_SIZE_X64_MIN 0xD8u
#define KD_SPECIAL_SIZE_X64 0xE0u
#define KD_SPECIAL_SIZE_X64_MAX 0xF0u
#define KD_SPECIAL_SIZE_X86 0x54u
#define KD_SPECIAL_SIZE_MAX KD_SPECIAL_SIZE_X64_MAX

// ReadControlSpace, amd64: TargetBaseAddress is an index.
enum kd_control_space_x64 {
	KD_CONTROL_SPACE_PCR = 0,     // address of the KPCR, 8 bytes
	KD_CONTROL_SPACE_PRCB = 1,    // address of the KPRCB, 8 bytes
	KD_CONTROL_SPACE_SPECIAL = 2, // KSPECIAL_REGISTERS; the one that can be written
	KD_CONTROL_SPACE_THREAD = 3,  // address of the current KTHREAD, 8 bytes
};
// i386: TargetBaseAddress is an offset into KPROCESSOR_STATE = CONTEXT, KSPECIAL_REGISTERS.
#define KD_PROCESSOR_STATE_CONTEXT_X86 0u
#define KD_PROCESSOR_STATE_SPECIAL_X86 KD_CONTEXT_SIZE_X86
#define KD_PROCESSOR_STATE_SIZE_X86 0x320u
// amd64 in memory: KSPECIAL_REGISTERS at 0, CONTEXT at 0xE0 (early Windows 10 and before) or 0xF0 (later).
#define KD_PROCESSOR_STATE_CONTEXT_X64 0xE0u
#define KD_PROCESSOR_STATE_CONTEXT_X64_NEW 0xF0u

// Bits of ContextFlags, without the machine's own.
#define KD_CONTEXT_CONTROL 1u
#define KD_CONTEXT_INTEGER 2u
#define KD_CONTEXT_SEGMENTS 4u
#define KD_CONTEXT_FLOAT 8u
#define KD_CONTEXT_DEBUG 0x10u
#define KD_CONTEXT_MACHINE_X64 0x00100000u
#define KD_CONTEXT_MACHINE_X86 0x00010000u
#define KD_CONTEXT_ALL_X64 0x0010001Fu
#define KD_CONTEXT_ALL_X86 0x0001003Fu

struct kd_register {
	const char *name; // lower case, as the debuggers write it: "rax", "efl", "kdr7", "gdtr"
	uint16_t offset;
	uint8_t size;  // bytes: 2, 4, 8; 10 (x87) and 16 (vector) have no kd_register_get
	uint8_t group; // KD_CONTEXT_* that covers it; 0 in tables without flags
};

// The tables. CONTEXT holds ContextFlags itself as "contextflags". NULL for an unknown machine. *ret_count = entries.
const struct kd_register *kd_context_registers(uint32_t machine, size_t *ret_count);
const struct kd_register *kd_special_registers(uint32_t machine, size_t *ret_count);
uint32_t kd_context_size(uint32_t machine); // 0 = unknown machine

// By name, letter case does not matter. NULL = not there.
const struct kd_register *kd_register_find(const struct kd_register *table, size_t count, const char *name);
// -> KD_OK, KD_E_SHORT (beyond len), KD_E_RANGE (wider than 8 bytes; put: the value does not fit).
WIRE_MUST_CHECK int kd_register_get(const struct kd_register *r, const uint8_t *bytes, size_t len, uint64_t *ret);
WIRE_MUST_CHECK int kd_register_put(const struct kd_register *r, uint8_t *bytes, size_t len, uint64_t value);

#endif
