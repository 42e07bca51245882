// SPDX-License-Identifier: MIT
#include "target/debugregs.h"

#define DR6_HITS 0xFu

const char *debugregs_problem(enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address, bool is_x86)
{
	if (kind == VMKD_BREAKPOINT_EXECUTE && size != 1)
		return "size 1 to stop where code is executed";
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return "size 1, 2, 4 or 8";
	if (size == 8 && is_x86)
		return "at most 4 bytes on a 32-bit target";
	if (address % size)
		return "an address that is a multiple of the size";
	return NULL;
}

static bool is_processor(const struct bp *bp)
{
	return bp->is_used && bp->kind != VMKD_BREAKPOINT_CODE;
}

static bool has_register(const struct bp *bp)
{
	return is_processor(bp) && bp->has_register;
}

static uint64_t bits_of(uint32_t n)
{
	return 3ull << (2 * n) | 0xFull << (16 + 4 * n);
}

uint64_t debugregs_part(uint64_t dr7, uint32_t own)
{
	uint64_t mask = 0;

	for (uint32_t n = 0; n < DEBUGREGS_COUNT; n++)
		mask |= own >> n & 1 ? bits_of(n) : 0;
	return dr7 & mask;
}

static uint32_t taken(const struct bptable *table, uint64_t dr7, uint32_t own)
{
	uint32_t set = 0;

	for (uint32_t n = 0; n < DEBUGREGS_COUNT; n++)
		if (!(own >> n & 1) && dr7 >> (2 * n) & 3)
			set |= 1u << n;
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (has_register(&table->entries[id]))
			set |= 1u << table->entries[id].reg;
	return set;
}

uint32_t debugregs_assign(struct bptable *table, uint64_t dr7, uint32_t *own, bool *changed)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		struct bp *bp = &table->entries[id];
		if (!is_processor(bp) || !bp->is_enabled || bp->has_register)
			continue;
		uint32_t set = taken(table, dr7, *own), n = 0;
		while (n < DEBUGREGS_COUNT && set >> n & 1)
			n++;
		if (n == DEBUGREGS_COUNT)
			return id;
		bp->has_register = true;
		bp->reg = (uint8_t)n;
		*own |= 1u << n;
		*changed = true;
	}
	return BPTABLE_MAX;
}

static uint64_t control_of(const struct bp *bp)
{
	uint64_t access = bp->kind == VMKD_BREAKPOINT_EXECUTE ? 0 : bp->kind == VMKD_BREAKPOINT_WRITE ? 1 : 3;
	uint64_t length = bp->size == 8 ? 2 : bp->size - 1u; // 1, 2, 4 -> 0, 1, 3

	return 1ull << (2 * bp->reg) | (length << 2 | access) << (16 + 4 * bp->reg);
}

uint64_t debugregs_dr7(const struct bptable *table, uint64_t dr7, uint32_t own, uint32_t without)
{
	dr7 &= ~debugregs_part(dr7, own);
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		const struct bp *bp = &table->entries[id];
		if (has_register(bp) && !(without >> bp->reg & 1))
			dr7 |= control_of(bp);
	}
	return dr7;
}

struct bp *debugregs_find(struct bptable *table, uint64_t pc)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		struct bp *bp = &table->entries[id];
		if (bp->is_used && bp->is_enabled && bp->kind == VMKD_BREAKPOINT_EXECUTE && bp->address == pc)
			return bp;
	}
	return NULL;
}

static uint32_t guess(const struct bptable *table, uint64_t pc)
{
	uint32_t data = 0;

	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		const struct bp *bp = &table->entries[id];
		if (!has_register(bp))
			continue;
		if (bp->kind == VMKD_BREAKPOINT_EXECUTE && bp->address == pc)
			return 1u << id;
		if (bp->kind != VMKD_BREAKPOINT_EXECUTE)
			data |= 1u << id;
	}
	return data & (data - 1) ? 0 : data; // of several, nobody knows
}

uint32_t debugregs_hits(const struct bptable *table, uint64_t dr6, uint64_t pc)
{
	uint32_t hits = 0;

	if (!(dr6 & (DR6_HITS | DEBUGREGS_DR6_STEP)))
		return guess(table, pc);
	// A processor may report registers that are not armed, too.
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (has_register(&table->entries[id]) && dr6 >> table->entries[id].reg & 1)
			hits |= 1u << id;
	return hits;
}
