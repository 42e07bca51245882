// SPDX-License-Identifier: MIT
#include "console/format.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#define LINE_BYTES 16u

const char *format_address(char buffer[FORMAT_ADDRESS_MAX], uint64_t address, bool is_32bit)
{
	if (is_32bit)
		snprintf(buffer, FORMAT_ADDRESS_MAX, "%08" PRIx32, (uint32_t)address);
	else
		snprintf(buffer, FORMAT_ADDRESS_MAX, "%08" PRIx32 "`%08" PRIx32, (uint32_t)(address >> 32), (uint32_t)address);
	return buffer;
}

// ---- memory --------------------------------------------------------------------------------------------------------------------

unsigned dump_unit(enum dump_style style)
{
	switch (style) {
	case DUMP_BYTES: return 1;
	case DUMP_WORDS: return 2;
	case DUMP_DWORDS: return 4;
	case DUMP_QWORDS: return 8;
	}
	return 1;
}

static uint64_t load_le(const uint8_t *data, unsigned size)
{
	uint64_t value = 0;
	for (unsigned i = size; i > 0; i--)
		value = value << 8 | data[i - 1];
	return value;
}

static void print_element(FILE *out, enum dump_style style, const uint8_t *data)
{
	uint64_t value = data ? load_le(data, dump_unit(style)) : 0;

	switch (style) {
	case DUMP_BYTES: data ? fprintf(out, "%02x", (unsigned)value) : fputs("??", out); break;
	case DUMP_WORDS: data ? fprintf(out, "%04x", (unsigned)value) : fputs("????", out); break;
	case DUMP_DWORDS: data ? fprintf(out, "%08" PRIx32, (uint32_t)value) : fputs("????????", out); break;
	case DUMP_QWORDS:
		if (data)
			fprintf(out, "%08" PRIx32 "`%08" PRIx32, (uint32_t)(value >> 32), (uint32_t)value);
		else
			fputs("????????`????????", out);
		break;
	}
}

// The column of characters that db has on the right.
static void print_characters(FILE *out, const uint8_t *data, size_t count, size_t readable)
{
	fprintf(out, "%*s", (int)(LINE_BYTES - count) * 3 + 2, "");
	for (size_t i = 0; i < count; i++)
		fputc(i >= readable ? '?' : data[i] >= 0x20 && data[i] < 0x7F ? data[i] : '.', out);
}

static void print_line(FILE *out, enum dump_style style, const uint8_t *data, size_t count, size_t readable)
{
	unsigned unit = dump_unit(style);

	for (size_t i = 0; i < count; i += unit) {
		if (i > 0)
			fputc(style == DUMP_BYTES && i == LINE_BYTES / 2 ? '-' : ' ', out);
		print_element(out, style, i + unit <= readable ? data + i : NULL);
	}
	if (style == DUMP_BYTES)
		print_characters(out, data, count, readable);
}

void format_dump(FILE *out, enum dump_style style, uint64_t address, bool is_32bit, const uint8_t *data, size_t len, size_t readable)
{
	char text[FORMAT_ADDRESS_MAX];

	for (size_t at = 0; at < len; at += LINE_BYTES) {
		size_t count = len - at < LINE_BYTES ? len - at : LINE_BYTES;
		fprintf(out, "%s  ", format_address(text, address + at, is_32bit));
		print_line(out, style, data + at, count, readable > at ? readable - at : 0);
		fputc('\n', out);
	}
}

#define STRING_LINE 32u // characters

size_t format_string(FILE *out, unsigned unit, uint64_t address, bool is_32bit, const uint8_t *data, size_t len)
{
	char text[FORMAT_ADDRESS_MAX];
	size_t at = 0;
	bool is_done = false;

	do {
		fprintf(out, "%s  \"", format_address(text, address + at, is_32bit));
		for (unsigned i = 0; i < STRING_LINE && !is_done; i++) {
			uint64_t c = len - at >= unit ? load_le(data + at, unit) : 0;
			if (c == 0) {
				is_done = true;
				break;
			}
			fputc(c >= 0x20 && c < 0x7F ? (int)c : '.', out);
			at += unit;
		}
		fputs("\"\n", out);
		is_done = is_done || len - at < unit || load_le(data + at, unit) == 0;
	} while (!is_done);
	return len - at >= unit ? at + unit : len;
}

// ---- registers -----------------------------------------------------------------------------------------------------------------

const char *format_flags(char buffer[FORMAT_FLAGS_MAX], uint32_t eflags)
{
	static const struct {
		uint8_t bit;
		char set[3], clear[3];
	} FLAGS[] = { { 11, "ov", "nv" }, { 10, "dn", "up" }, { 9, "ei", "di" }, { 8, "tr", "" },	 { 7, "ng", "pl" },
		      { 6, "zr", "nz" },  { 4, "ac", "na" },  { 2, "pe", "po" }, { 0, "cy", "nc" } };
	char *at = buffer;

	for (size_t i = 0; i < sizeof(FLAGS) / sizeof(FLAGS[0]); i++) {
		const char *name = eflags >> FLAGS[i].bit & 1 ? FLAGS[i].set : FLAGS[i].clear;
		if (*name == '\0')
			continue;
		if (at != buffer)
			*at++ = ' ';
		memcpy(at, name, 2);
		at += 2;
	}
	*at = '\0';
	return buffer;
}

static void print_segments(FILE *out, uint64_t (*get)(void *, const char *), void *closure)
{
	static const char *const SEGMENTS[] = { "cs", "ss", "ds", "es", "fs", "gs" };

	for (size_t i = 0; i < sizeof(SEGMENTS) / sizeof(SEGMENTS[0]); i++)
		fprintf(out, "%s%s=%04x", i ? "  " : "", SEGMENTS[i], (unsigned)get(closure, SEGMENTS[i]));
	fprintf(out, "             efl=%08x\n", (unsigned)get(closure, "efl"));
}

static void print_flags(FILE *out, uint32_t eflags)
{
	char flags[FORMAT_FLAGS_MAX];
	fprintf(out, "iopl=%u         %s\n", (unsigned)(eflags >> 12 & 3), format_flags(flags, eflags));
}

static void print_x64(FILE *out, uint64_t (*get)(void *, const char *), void *closure)
{
	static const char *const ORDER[] = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rip", "rsp", "rbp",
					     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	size_t count = sizeof(ORDER) / sizeof(ORDER[0]);

	for (size_t i = 0; i < count; i++)
		fprintf(out, "%3s=%016" PRIx64 "%c", ORDER[i], get(closure, ORDER[i]), i % 3 == 2 || i + 1 == count ? '\n' : ' ');
	print_flags(out, (uint32_t)get(closure, "efl"));
	print_segments(out, get, closure);
}

static void print_x86(FILE *out, uint64_t (*get)(void *, const char *), void *closure)
{
	static const char *const ORDER[] = { "eax", "ebx", "ecx", "edx", "esi", "edi", "eip", "esp", "ebp" };

	for (size_t i = 0; i < sizeof(ORDER) / sizeof(ORDER[0]); i++)
		fprintf(out, "%s=%08x%c", ORDER[i], (unsigned)get(closure, ORDER[i]), i == 5 ? '\n' : ' ');
	print_flags(out, (uint32_t)get(closure, "efl"));
	print_segments(out, get, closure);
}

void format_registers(FILE *out, enum vmkd_arch arch, uint64_t (*get)(void *closure, const char *name), void *closure)
{
	if (arch == VMKD_ARCH_X86)
		print_x86(out, get, closure);
	else
		print_x64(out, get, closure);
}

// ---- the rest ------------------------------------------------------------------------------------------------------------------

const char *format_exception_name(uint32_t code)
{
	static const struct {
		uint32_t code;
		const char *name;
	} NAMES[] = {
		{ 0x80000001, "Guard page violation" },
		{ 0x80000002, "Data misaligned" },
		{ 0x80000003, "Break instruction exception" },
		{ 0x80000004, "Single step exception" },
		{ 0x80000007, "Wake debugger" },
		{ 0xC0000005, "Access violation" },
		{ 0xC0000006, "In-page I/O error" },
		{ 0xC000001D, "Illegal instruction" },
		{ 0xC0000025, "Noncontinuable exception" },
		{ 0xC000008C, "Array bounds exceeded" },
		{ 0xC0000094, "Integer divide-by-zero" },
		{ 0xC0000095, "Integer overflow" },
		{ 0xC0000096, "Illegal instruction (privileged)" },
		{ 0xC00000FD, "Stack overflow" },
		{ 0xC0000409, "Security check failure or stack buffer overrun" },
		{ 0xC0000420, "Assertion failure" },
	};

	for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++)
		if (NAMES[i].code == code)
			return NAMES[i].name;
	return "Unknown exception";
}

void format_target_text(FILE *out, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == '\r' && i + 1 < len && text[i + 1] == '\n')
			continue;
		if (c == '\r')
			c = '\n';
		fputc(c == '\n' || c == '\t' || c >= 0xA0 || (c >= 0x20 && c < 0x7F) ? c : '.', out);
	}
}
