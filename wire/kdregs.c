// SPDX-License-Identifier: MIT
#include "wire/kdregs.h"

#include "wire/le.h"

// Rows: name, offset, size, ContextFlags group. Order as in memory, so that a dump of all registers reads like the structure.
static const struct kd_register context_x64[] = {
	{ "p1home", 0x00, 8, 0 }, { "p2home", 0x08, 8, 0 }, { "p3home", 0x10, 8, 0 },
	{ "p4home", 0x18, 8, 0 }, { "p5home", 0x20, 8, 0 }, { "p6home", 0x28, 8, 0 },
	{ "contextflags", 0x30, 4, 0 }, { "mxcsr", 0x34, 4, KD_CONTEXT_FLOAT },
	{ "cs", 0x38, 2, KD_CONTEXT_CONTROL }, { "ds", 0x3A, 2, KD_CONTEXT_SEGMENTS },
	{ "es", 0x3C, 2, KD_CONTEXT_SEGMENTS }, { "fs", 0x3E, 2, KD_CONTEXT_SEGMENTS },
	{ "gs", 0x40, 2, KD_CONTEXT_SEGMENTS }, { "ss", 0x42, 2, KD_CONTEXT_CONTROL },
	{ "efl", 0x44, 4, KD_CONTEXT_CONTROL },
	{ "dr0", 0x48, 8, KD_CONTEXT_DEBUG }, { "dr1", 0x50, 8, KD_CONTEXT_DEBUG },
	{ "dr2", 0x58, 8, KD_CONTEXT_DEBUG }, { "dr3", 0x60, 8, KD_CONTEXT_DEBUG },
	{ "dr6", 0x68, 8, KD_CONTEXT_DEBUG }, { "dr7", 0x70, 8, KD_CONTEXT_DEBUG },
	{ "rax", 0x78, 8, KD_CONTEXT_INTEGER }, { "rcx", 0x80, 8, KD_CONTEXT_INTEGER },
	{ "rdx", 0x88, 8, KD_CONTEXT_INTEGER }, { "rbx", 0x90, 8, KD_CONTEXT_INTEGER },
	{ "rsp", 0x98, 8, KD_CONTEXT_CONTROL }, { "rbp", 0xA0, 8, KD_CONTEXT_INTEGER },
	{ "rsi", 0xA8, 8, KD_CONTEXT_INTEGER }, { "rdi", 0xB0, 8, KD_CONTEXT_INTEGER },
	{ "r8", 0xB8, 8, KD_CONTEXT_INTEGER }, { "r9", 0xC0, 8, KD_CONTEXT_INTEGER },
	{ "r10", 0xC8, 8, KD_CONTEXT_INTEGER }, { "r11", 0xD0, 8, KD_CONTEXT_INTEGER },
	{ "r12", 0xD8, 8, KD_CONTEXT_INTEGER }, { "r13", 0xE0, 8, KD_CONTEXT_INTEGER },
	{ "r14", 0xE8, 8, KD_CONTEXT_INTEGER }, { "r15", 0xF0, 8, KD_CONTEXT_INTEGER },
	{ "rip", 0xF8, 8, KD_CONTEXT_CONTROL },
	{ "fpcw", 0x100, 2, KD_CONTEXT_FLOAT }, { "fpsw", 0x102, 2, KD_CONTEXT_FLOAT },
	{ "st0", 0x120, 10, KD_CONTEXT_FLOAT }, { "st1", 0x130, 10, KD_CONTEXT_FLOAT },
	{ "st2", 0x140, 10, KD_CONTEXT_FLOAT }, { "st3", 0x150, 10, KD_CONTEXT_FLOAT },
	{ "st4", 0x160, 10, KD_CONTEXT_FLOAT }, { "st5", 0x170, 10, KD_CONTEXT_FLOAT },
	{ "st6", 0x180, 10, KD_CONTEXT_FLOAT }, { "st7", 0x190, 10, KD_CONTEXT_FLOAT },
	{ "xmm0", 0x1A0, 16, KD_CONTEXT_FLOAT }, { "xmm1", 0x1B0, 16, KD_CONTEXT_FLOAT },
	{ "xmm2", 0x1C0, 16, KD_CONTEXT_FLOAT }, { "xmm3", 0x1D0, 16, KD_CONTEXT_FLOAT },
	{ "xmm4", 0x1E0, 16, KD_CONTEXT_FLOAT }, { "xmm5", 0x1F0, 16, KD_CONTEXT_FLOAT },
	{ "xmm6", 0x200, 16, KD_CONTEXT_FLOAT }, { "xmm7", 0x210, 16, KD_CONTEXT_FLOAT },
	{ "xmm8", 0x220, 16, KD_CONTEXT_FLOAT }, { "xmm9", 0x230, 16, KD_CONTEXT_FLOAT },
	{ "xmm10", 0x240, 16, KD_CONTEXT_FLOAT }, { "xmm11", 0x250, 16, KD_CONTEXT_FLOAT },
	{ "xmm12", 0x260, 16, KD_CONTEXT_FLOAT }, { "xmm13", 0x270, 16, KD_CONTEXT_FLOAT },
	{ "xmm14", 0x280, 16, KD_CONTEXT_FLOAT }, { "xmm15", 0x290, 16, KD_CONTEXT_FLOAT },
	{ "vectorcontrol", 0x4A0, 8, 0 }, { "debugcontrol", 0x4A8, 8, 0 },
	{ "lastbranchtorip", 0x4B0, 8, 0 }, { "lastbranchfromrip", 0x4B8, 8, 0 },
	{ "lastexceptiontorip", 0x4C0, 8, 0 }, { "lastexceptionfromrip", 0x4C8, 8, 0 },
};

#define KD_CONTEXT_EXTENDED 0x20u // i386: ExtendedRegisters, an FXSAVE image
static const struct kd_register context_x86[] = {
	{ "contextflags", 0x00, 4, 0 },
	{ "dr0", 0x04, 4, KD_CONTEXT_DEBUG }, { "dr1", 0x08, 4, KD_CONTEXT_DEBUG },
	{ "dr2", 0x0C, 4, KD_CONTEXT_DEBUG }, { "dr3", 0x10, 4, KD_CONTEXT_DEBUG },
	{ "dr6", 0x14, 4, KD_CONTEXT_DEBUG }, { "dr7", 0x18, 4, KD_CONTEXT_DEBUG },
	{ "fpcw", 0x1C, 4, KD_CONTEXT_FLOAT }, { "fpsw", 0x20, 4, KD_CONTEXT_FLOAT },
	{ "fptw", 0x24, 4, KD_CONTEXT_FLOAT },
	{ "st0", 0x38, 10, KD_CONTEXT_FLOAT }, { "st1", 0x42, 10, KD_CONTEXT_FLOAT },
	{ "st2", 0x4C, 10, KD_CONTEXT_FLOAT }, { "st3", 0x56, 10, KD_CONTEXT_FLOAT },
	{ "st4", 0x60, 10, KD_CONTEXT_FLOAT }, { "st5", 0x6A, 10, KD_CONTEXT_FLOAT },
	{ "st6", 0x74, 10, KD_CONTEXT_FLOAT }, { "st7", 0x7E, 10, KD_CONTEXT_FLOAT },
	{ "cr0npxstate", 0x88, 4, KD_CONTEXT_FLOAT },
	{ "gs", 0x8C, 4, KD_CONTEXT_SEGMENTS }, { "fs", 0x90, 4, KD_CONTEXT_SEGMENTS },
	{ "es", 0x94, 4, KD_CONTEXT_SEGMENTS }, { "ds", 0x98, 4, KD_CONTEXT_SEGMENTS },
	{ "edi", 0x9C, 4, KD_CONTEXT_INTEGER }, { "esi", 0xA0, 4, KD_CONTEXT_INTEGER },
	{ "ebx", 0xA4, 4, KD_CONTEXT_INTEGER }, { "edx", 0xA8, 4, KD_CONTEXT_INTEGER },
	{ "ecx", 0xAC, 4, KD_CONTEXT_INTEGER }, { "eax", 0xB0, 4, KD_CONTEXT_INTEGER },
	{ "ebp", 0xB4, 4, KD_CONTEXT_CONTROL }, { "eip", 0xB8, 4, KD_CONTEXT_CONTROL },
	{ "cs", 0xBC, 4, KD_CONTEXT_CONTROL }, { "efl", 0xC0, 4, KD_CONTEXT_CONTROL },
	{ "esp", 0xC4, 4, KD_CONTEXT_CONTROL }, { "ss", 0xC8, 4, KD_CONTEXT_CONTROL },
	{ "mxcsr", 0xE4, 4, KD_CONTEXT_EXTENDED },
	{ "xmm0", 0x16C, 16, KD_CONTEXT_EXTENDED }, { "xmm1", 0x17C, 16, KD_CONTEXT_EXTENDED },
	{ "xmm2", 0x18C, 16, KD_CONTEXT_EXTENDED }, { "xmm3", 0x19C, 16, KD_CONTEXT_EXTENDED },
	{ "xmm4", 0x1AC, 16, KD_CONTEXT_EXTENDED }, { "xmm5", 0x1BC, 16, KD_CONTEXT_EXTENDED },
	{ "xmm6", 0x1CC, 16, KD_CONTEXT_EXTENDED }, { "xmm7", 0x1DC, 16, KD_CONTEXT_EXTENDED },
};

// The debug registers that a kernel debugger sets are these (prefix kdr), not the ones of CONTEXT.
static const struct kd_register special_x64[] = {
	{ "cr0", 0x00, 8, 0 }, { "cr2", 0x08, 8, 0 }, { "cr3", 0x10, 8, 0 }, { "cr4", 0x18, 8, 0 },
	{ "kdr0", 0x20, 8, 0 }, { "kdr1", 0x28, 8, 0 }, { "kdr2", 0x30, 8, 0 }, { "kdr3", 0x38, 8, 0 },
	{ "kdr6", 0x40, 8, 0 }, { "kdr7", 0x48, 8, 0 },
	{ "gdtl", 0x56, 2, 0 }, { "gdtr", 0x58, 8, 0 }, { "idtl", 0x66, 2, 0 }, { "idtr", 0x68, 8, 0 },
	{ "tr", 0x70, 2, 0 }, { "ldtr", 0x72, 2, 0 }, { "kmxcsr", 0x74, 4, 0 },
	{ "kdebugcontrol", 0x78, 8, 0 },
	{ "klastbranchtorip", 0x80, 8, 0 }, { "klastbranchfromrip", 0x88, 8, 0 },
	{ "klastexceptiontorip", 0x90, 8, 0 }, { "klastexceptionfromrip", 0x98, 8, 0 },
	{ "cr8", 0xA0, 8, 0 }, { "gsbase", 0xA8, 8, 0 }, { "kgsbase", 0xB0, 8, 0 },
	{ "star", 0xB8, 8, 0 }, { "lstar", 0xC0, 8, 0 }, { "cstar", 0xC8, 8, 0 }, { "sfmask", 0xD0, 8, 0 },
	{ "xcr0", 0xD8, 8, 0 },   // since Windows 7
	{ "fsbase", 0xE0, 8, 0 }, // later Windows 10
};

static const struct kd_register special_x86[] = {
	{ "cr0", 0x00, 4, 0 }, { "cr2", 0x04, 4, 0 }, { "cr3", 0x08, 4, 0 }, { "cr4", 0x0C, 4, 0 },
	{ "kdr0", 0x10, 4, 0 }, { "kdr1", 0x14, 4, 0 }, { "kdr2", 0x18, 4, 0 }, { "kdr3", 0x1C, 4, 0 },
	{ "kdr6", 0x20, 4, 0 }, { "kdr7", 0x24, 4, 0 },
	{ "gdtl", 0x2A, 2, 0 }, { "gdtr", 0x2C, 4, 0 }, { "idtl", 0x32, 2, 0 }, { "idtr", 0x34, 4, 0 },
	{ "tr", 0x38, 2, 0 }, { "ldtr", 0x3A, 2, 0 },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static const struct kd_register *pick(uint32_t machine, const struct kd_register *x64, size_t x64_count,
                                      const struct kd_register *x86, size_t x86_count, size_t *ret_count)
{
	if (machine == KD_MACHINE_X64) {
		*ret_count = x64_count;
		return x64;
	}
	if (machine == KD_MACHINE_X86) {
		*ret_count = x86_count;
		return x86;
	}
	*ret_count = 0;
	return NULL;
}

const struct kd_register *kd_context_registers(uint32_t machine, size_t *ret_count)
{
	return pick(machine, context_x64, COUNT(context_x64), context_x86, COUNT(context_x86), ret_count);
}

const struct kd_register *kd_special_registers(uint32_t machine, size_t *ret_count)
{
	return pick(machine, special_x64, COUNT(special_x64), special_x86, COUNT(special_x86), ret_count);
}

uint32_t kd_context_size(uint32_t machine)
{
	return machine == KD_MACHINE_X64 ? KD_CONTEXT_SIZE_X64 : machine == KD_MACHINE_X86 ? KD_CONTEXT_SIZE_X86 : 0;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool same_name(const char *a, const char *b)
{
	while (*a && lower(*a) == lower(*b)) {
		a++;
		b++;
	}
	return lower(*a) == lower(*b);
}

const struct kd_register *kd_register_find(const struct kd_register *table, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (same_name(table[i].name, name))
			return &table[i];
	return NULL;
}

static int check_register(const struct kd_register *r, size_t len)
{
	if (r->size != 2 && r->size != 4 && r->size != 8)
		return KD_E_RANGE;
	return (size_t)r->offset + r->size > len ? KD_E_SHORT : KD_OK;
}

int kd_register_get(const struct kd_register *r, const uint8_t *bytes, size_t len, uint64_t *ret)
{
	int e = check_register(r, len);
	if (e != KD_OK)
		return e;
	const uint8_t *p = bytes + r->offset;
	*ret = r->size == 8 ? get_le64(p) : r->size == 4 ? get_le32(p) : get_le16(p);
	return KD_OK;
}

int kd_register_put(const struct kd_register *r, uint8_t *bytes, size_t len, uint64_t value)
{
	int e = check_register(r, len);
	if (e != KD_OK)
		return e;
	if (r->size < 8 && value >> (8u * r->size))
		return KD_E_RANGE;
	uint8_t *p = bytes + r->offset;
	if (r->size == 8)
		put_le64(p, value);
	else if (r->size == 4)
		put_le32(p, (uint32_t)value);
	else
		put_le16(p, (uint16_t)value);
	return KD_OK;
}
