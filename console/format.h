// SPDX-License-Identifier: MIT
// Text as WinDbg prints it: addresses, memory dumps, registers, flags, times of a stop. Pure: all of it goes to the FILE that the
// caller gives (the console's output, a memory stream in tests); nothing is read from a target here.
#ifndef CONSOLE_FORMAT_H
#define CONSOLE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmkd/vmkd.h"

#define FORMAT_ADDRESS_MAX 20 // fffff800`00001000 and its NUL

// An address into `buffer`, which is returned: fffff800`00001000, or 80401000 for a 32-bit target.
const char *format_address(char buffer[FORMAT_ADDRESS_MAX], uint64_t address, bool is_32bit);

enum dump_style { DUMP_BYTES, DUMP_WORDS, DUMP_DWORDS, DUMP_QWORDS };

unsigned dump_unit(enum dump_style style); // bytes per element

// Prints `len` bytes of memory at `address` in lines of 16. `readable`: how many of them, from the start, `data` holds; the rest is shown
// as ??. An element that is readable only in part counts as not readable.
void format_dump(FILE *out, enum dump_style style, uint64_t address, bool is_32bit, const uint8_t *data, size_t len, size_t readable);

// Prints a string as da (unit 1) and du (unit 2, UTF-16LE) do: quoted, 32 characters a line, unprintable characters as dots. Ends at a
// NUL or after `len` bytes. Return the bytes shown, the NUL included.
size_t format_string(FILE *out, unsigned unit, uint64_t address, bool is_32bit, const uint8_t *data, size_t len);

// The flags of eflags as text: "nv up ei pl zr na pe nc".
#define FORMAT_FLAGS_MAX 32
const char *format_flags(char buffer[FORMAT_FLAGS_MAX], uint32_t eflags);

// The register display of `r`. `get` returns the value of a register by name.
void format_registers(FILE *out, enum vmkd_arch arch, uint64_t (*get)(void *closure, const char *name), void *closure);

// The name WinDbg gives an exception code: "Access violation", … "Unknown exception" for the rest.
const char *format_exception_name(uint32_t code);

// Writes text of the target: CR LF as LF, other control characters but tab and newline as '.', so that no target can steer the
// user's terminal.
void format_target_text(FILE *out, const char *text, size_t len);

#endif
