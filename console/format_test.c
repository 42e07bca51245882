// SPDX-License-Identifier: MIT
// Golden texts of what WinDbg's users know by heart.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "console/disasm.h"
#include "console/format.h"

static char *text;
static size_t text_len;

static FILE *begin(void)
{
	return open_memstream(&text, &text_len);
}

static void is(FILE *out, const char *expected)
{
	fclose(out);
	assert_string_equal(text, expected);
	free(text);
}

static const uint8_t BYTES[] = { 0x4D, 0x5A, 0x90, 0x00, 0x03, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x41, 0x42, 0x7F, 0x80 };

static void dumps(void **state)
{
	FILE *out = begin();

	(void)state;
	format_dump(out, DUMP_BYTES, 0xFFFFF80000001000, false, BYTES, sizeof(BYTES), sizeof(BYTES));
	is(out, "fffff800`00001000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ..............\n"
		"fffff800`00001010  41 42 7f 80                                      AB..\n");
	out = begin();
	format_dump(out, DUMP_WORDS, 0x80401000, true, BYTES, 16, 16);
	is(out, "80401000  5a4d 0090 0003 0000 0004 0000 ffff 0000\n");
	out = begin();
	format_dump(out, DUMP_DWORDS, 0x80401000, true, BYTES, 16, 16);
	is(out, "80401000  00905a4d 00000003 00000004 0000ffff\n");
	out = begin();
	format_dump(out, DUMP_QWORDS, 0, false, BYTES, 16, 16);
	is(out, "00000000`00000000  00000003`00905a4d 0000ffff`00000004\n");
}

static void dumps_of_what_cannot_be_read(void **state)
{
	FILE *out = begin();

	(void)state;
	format_dump(out, DUMP_BYTES, 0xFFE, true, BYTES, 4, 2);
	is(out, "00000ffe  4d 5a ?? ??                                      MZ??\n");
	out = begin();
	format_dump(out, DUMP_DWORDS, 0xFFA, true, BYTES, 12, 6);
	is(out, "00000ffa  00905a4d ???????? ????????\n");
	out = begin();
	format_dump(out, DUMP_QWORDS, 0, false, BYTES, 8, 0);
	is(out, "00000000`00000000  ????????`????????\n");
	out = begin();
	format_dump(out, DUMP_WORDS, 0, true, BYTES, 2, 1);
	is(out, "00000000  ????\n");
}

static void strings(void **state)
{
	static const uint8_t NARROW[] = "a string of more than thirty-two \x1B characters";
	static const uint8_t WIDE[] = { 'n', 0, 't', 0, 0x1B, 0x20, 0, 0, 'x', 0 };
	FILE *out = begin();

	(void)state;
	assert_int_equal(format_string(out, 1, 0x1000, true, NARROW, sizeof(NARROW)), sizeof(NARROW));
	is(out, "00001000  \"a string of more than thirty-two\"\n00001020  \" . characters\"\n");
	out = begin();
	assert_int_equal(format_string(out, 2, 0x1000, true, WIDE, sizeof(WIDE)), 8);
	is(out, "00001000  \"nt.\"\n");
	out = begin();
	assert_int_equal(format_string(out, 1, 0, true, (const uint8_t *)"", 1), 1);
	is(out, "00000000  \"\"\n");
	out = begin();
	assert_int_equal(format_string(out, 1, 0, true, (const uint8_t *)"ab", 2), 2); // no NUL in sight
	is(out, "00000000  \"ab\"\n");
	out = begin();
	assert_int_equal(format_string(out, 2, 0, true, (const uint8_t *)"a", 1), 1); // half a character
	is(out, "00000000  \"\"\n");
}

static uint64_t get(void *closure, const char *name)
{
	(void)closure;
	if (strcmp(name, "efl") == 0)
		return 0x246;
	if (strlen(name) == 2 && name[1] == 's')
		return 0x10;
	return strstr(name, "ip") ? 0xFFFFF80000401000 : 1;
}

static void register_displays(void **state)
{
	FILE *out = begin();

	(void)state;
	format_registers(out, VMKD_ARCH_X64, get, NULL);
	is(out, "rax=0000000000000001 rbx=0000000000000001 rcx=0000000000000001\n"
		"rdx=0000000000000001 rsi=0000000000000001 rdi=0000000000000001\n"
		"rip=fffff80000401000 rsp=0000000000000001 rbp=0000000000000001\n"
		" r8=0000000000000001  r9=0000000000000001 r10=0000000000000001\n"
		"r11=0000000000000001 r12=0000000000000001 r13=0000000000000001\n"
		"r14=0000000000000001 r15=0000000000000001\n"
		"iopl=0         nv up ei pl zr na pe nc\n"
		"cs=0010  ss=0010  ds=0010  es=0010  fs=0010  gs=0010             efl=00000246\n");
	out = begin();
	format_registers(out, VMKD_ARCH_X86, get, NULL);
	is(out, "eax=00000001 ebx=00000001 ecx=00000001 edx=00000001 esi=00000001 edi=00000001\n"
		"eip=00401000 esp=00000001 ebp=00000001 iopl=0         nv up ei pl zr na pe nc\n"
		"cs=0010  ss=0010  ds=0010  es=0010  fs=0010  gs=0010             efl=00000246\n");
}

static void flags(void **state)
{
	char buffer[FORMAT_FLAGS_MAX];

	(void)state;
	assert_string_equal(format_flags(buffer, 0), "nv up di pl nz na po nc");
	assert_string_equal(format_flags(buffer, 0xFFFFFFFF), "ov dn ei tr ng zr ac pe cy");
	assert_string_equal(format_flags(buffer, 0x246), "nv up ei pl zr na pe nc");
}

static void exception_names(void **state)
{
	(void)state;
	assert_string_equal(format_exception_name(0xC0000005), "Access violation");
	assert_string_equal(format_exception_name(0xE0000000), "Unknown exception");
}

// The target's text reaches a terminal: nothing in it may steer that.
static void text_of_the_target(void **state)
{
	static const char TEXT[] = "a\r\nb\rc\x1B[2J\a\x7F\x9B\t\0d";
	FILE *out = begin();

	(void)state;
	format_target_text(out, TEXT, sizeof(TEXT) - 1);
	is(out, "a\nb\nc.[2J...\t.d");
}

static void code(enum vmkd_arch arch, uint64_t address, const char *bytes, size_t len, unsigned length, const char *expected)
{
	struct disasm instruction;

	disasm_decode(arch, address, (const uint8_t *)bytes, len, &instruction);
	assert_string_equal(instruction.text, expected);
	assert_int_equal(instruction.length, length);
}

static void instructions(void **state)
{
	struct disasm instruction;

	(void)state;
	code(VMKD_ARCH_X64, 0, "\xCC", 1, 1, "int3");
	code(VMKD_ARCH_X64, 0, "\x48\x89\x5C\x24\x08", 5, 5, "mov     qword ptr [rsp+8h],rbx");
	code(VMKD_ARCH_X64, 0xFFFFF80000001000, "\xE8\x0B\x00\x00\x00", 5, 5, "call    fffff800`00001010");
	code(VMKD_ARCH_X64, 0xFFFFF80000001000, "\xEB\xFE", 2, 2, "jmp     fffff800`00001000");
	code(VMKD_ARCH_X86, 0x80401000, "\xE8\x0B\x00\x00\x00", 5, 5, "call    80401010");
	code(VMKD_ARCH_X86, 0, "\x68\xCA\x0E\x81\x80", 5, 5, "push    80810ecah");
	code(VMKD_ARCH_X86, 0, "\x48", 1, 1, "dec     eax");
	code(VMKD_ARCH_X64, 0, "\xE8\x0B", 2, 1, "???"); // cut off
	code(VMKD_ARCH_X64, 0, "\x06", 1, 1, "???");	// not in long mode
	disasm_decode(VMKD_ARCH_X64, 0, (const uint8_t *)"\xFF\xD0", 2, &instruction);
	assert_true(instruction.is_call);
	disasm_decode(VMKD_ARCH_X64, 0, (const uint8_t *)"\xF3\xA4", 2, &instruction);
	assert_true(instruction.is_repeated && !instruction.is_call);
	disasm_decode(VMKD_ARCH_X64, 0, (const uint8_t *)"\xC3", 1, &instruction);
	assert_true(!instruction.is_repeated && !instruction.is_call);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dumps_of_what_cannot_be_read), cmocka_unit_test(dumps), cmocka_unit_test(strings),
		cmocka_unit_test(text_of_the_target),		cmocka_unit_test(flags), cmocka_unit_test(register_displays),
		cmocka_unit_test(exception_names),		cmocka_unit_test(instructions),
	};

	return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
