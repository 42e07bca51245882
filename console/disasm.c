// SPDX-License-Identifier: MIT
#include "console/disasm.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "console/format.h"

static bool decode(enum vmkd_arch arch, const uint8_t *bytes, size_t len, ZydisDecodedInstruction *instruction,
		   ZydisDecodedOperand *operands)
{
	ZydisDecoder decoder;
	bool is_x86 = arch == VMKD_ARCH_X86;

	return ZYAN_SUCCESS(ZydisDecoderInit(&decoder, is_x86 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LONG_64,
					     is_x86 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64)) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, instruction, operands));
}

// Absolute addresses as everywhere in the console, with the backtick.
static ZyanStatus print_address(const ZydisFormatter *formatter, ZydisFormatterBuffer *buffer, ZydisFormatterContext *context)
{
	char text[FORMAT_ADDRESS_MAX];
	ZyanU64 address;
	ZyanStringView view;
	ZyanString *string;

	(void)formatter;
	bool is_32bit = context->instruction->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
	ZYAN_CHECK(ZydisCalcAbsoluteAddress(context->instruction, context->operand, context->runtime_address, &address));
	ZYAN_CHECK(ZydisFormatterBufferAppend(buffer, ZYDIS_TOKEN_ADDRESS_ABS));
	ZYAN_CHECK(ZydisFormatterBufferGetString(buffer, &string));
	ZYAN_CHECK(ZyanStringViewInsideBuffer(&view, format_address(text, address, is_32bit)));
	return ZyanStringAppend(string, &view);
}

// Intel's order with MASM's numbers. (The library's MASM style writes branches as $+5, which tells nobody where they go.)
static bool init_formatter(ZydisFormatter *formatter)
{
	ZydisFormatterFunc hook = (ZydisFormatterFunc)&print_address;

	return ZYAN_SUCCESS(ZydisFormatterInit(formatter, ZYDIS_FORMATTER_STYLE_INTEL)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_HEX_PREFIX, (ZyanUPointer)NULL)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_HEX_SUFFIX, (ZyanUPointer) "h")) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_IMM_SIGNEDNESS, ZYDIS_SIGNEDNESS_UNSIGNED)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED)) &&
	       ZYAN_SUCCESS(ZydisFormatterSetHook(formatter, ZYDIS_FORMATTER_FUNC_PRINT_ADDRESS_ABS, (const void **)&hook));
}

static bool format(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands, uint64_t address, char *text, size_t size)
{
	ZydisFormatter formatter;

	return init_formatter(&formatter) &&
	       ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, instruction, operands, instruction->operand_count_visible, text, size,
							    address, ZYAN_NULL));
}

// "mov rax, rbx" -> "mov     rax,rbx"
static void pad(const char *text, char ret[DISASM_TEXT_MAX])
{
	const char *operands = strchr(text, ' ');
	size_t at = 0;

	// Prefixes stay in front of the mnemonic.
	while (operands && (strncmp(text, "rep ", 4) == 0 || strncmp(text, "repe ", 5) == 0 || strncmp(text, "repne ", 6) == 0 ||
			    strncmp(text, "lock ", 5) == 0)) {
		size_t len = (size_t)(operands + 1 - text);
		memcpy(ret + at, text, len);
		at += len;
		text = operands + 1;
		operands = strchr(text, ' ');
	}
	if (!operands) {
		snprintf(ret + at, DISASM_TEXT_MAX - at, "%s", text);
		return;
	}
	at += (size_t)snprintf(ret + at, DISASM_TEXT_MAX - at, "%-7.*s ", (int)(operands - text), text);
	for (const char *from = operands + 1; *from && at + 1 < DISASM_TEXT_MAX; from++)
		if (!(from[0] == ' ' && from[-1] == ','))
			ret[at++] = *from;
	ret[at] = '\0';
}

void disasm_decode(enum vmkd_arch arch, uint64_t address, const uint8_t *bytes, size_t len, struct disasm *ret)
{
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction instruction;
	char text[DISASM_TEXT_MAX / 2];

	*ret = (struct disasm){ .length = 1, .text = "???" };
	if (!decode(arch, bytes, len, &instruction, operands) || !format(&instruction, operands, address, text, sizeof(text)))
		return;
	ret->is_valid = true;
	ret->length = instruction.length;
	ret->is_call = instruction.mnemonic == ZYDIS_MNEMONIC_CALL;
	ret->is_repeated = (instruction.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
	pad(text, ret->text);
}
