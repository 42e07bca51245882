// SPDX-License-Identifier: MIT
// One instruction as text, in the shape that WinDbg's users read: mnemonic padded to 8, MASM's numbers. Pure.
#ifndef CONSOLE_DISASM_H
#define CONSOLE_DISASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmkd/vmkd.h"

#define DISASM_LENGTH_MAX 15u // of an x86 instruction
#define DISASM_TEXT_MAX 160u

struct disasm {
	unsigned length;  // bytes; 1 for what is no instruction
	bool is_valid;
	bool is_call;     // goes away and comes back: a step over it runs to what is behind it
	bool is_repeated; // rep movs and the like: the same for a step over
	char text[DISASM_TEXT_MAX];
};

// Decodes the instruction at `address` from `len` bytes. Never fails: what is none is "???" of length 1.
void disasm_decode(enum vmkd_arch arch, uint64_t address, const uint8_t *bytes, size_t len, struct disasm *ret);

#endif
