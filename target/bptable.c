// SPDX-License-Identifier: MIT
#include "target/bptable.h"

#include <string.h>

void bptable_init(struct bptable *table)
{
	memset(table, 0, sizeof(*table));
}

static int add(struct bptable *table, const struct bp *bp, uint32_t *ret_id)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		const struct bp *other = &table->entries[id];
		if (other->is_used && other->address == bp->address && other->kind == bp->kind && other->size == bp->size) {
			*ret_id = id;
			return BPTABLE_E_EXISTS;
		}
	}
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (!table->entries[id].is_used) {
			table->entries[id] = *bp;
			*ret_id = id;
			if (table->end <= id)
				table->end = id + 1;
			return BPTABLE_OK;
		}
	return BPTABLE_E_FULL;
}

int bptable_add(struct bptable *table, uint64_t address, bool is_one_shot, uint32_t *ret_id)
{
	struct bp bp = { .is_used = true, .is_enabled = true, .is_one_shot = is_one_shot, .address = address };
	return add(table, &bp, ret_id);
}

int bptable_add_processor(struct bptable *table, enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address, bool is_one_shot,
			  uint32_t *ret_id)
{
	struct bp bp = { .is_used = true, .is_enabled = true, .is_one_shot = is_one_shot, .address = address, .kind = kind, .size = (uint8_t)size };
	return add(table, &bp, ret_id);
}

void bptable_remove(struct bptable *table, uint32_t id)
{
	memset(&table->entries[id], 0, sizeof(table->entries[id]));
}

struct bp *bptable_get(struct bptable *table, uint32_t id)
{
	return id < BPTABLE_MAX && table->entries[id].is_used ? &table->entries[id] : NULL;
}

struct bp *bptable_find(struct bptable *table, uint64_t address)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (table->entries[id].is_used && table->entries[id].kind == VMKD_BREAKPOINT_CODE && table->entries[id].address == address)
			return &table->entries[id];
	return NULL;
}

void bptable_written(struct bptable *table, uint32_t id, uint32_t handle)
{
	table->entries[id].handle = handle;
	table->entries[id].stale = 0;
	table->entries[id].was_dropped = false;
}

void bptable_restored(struct bptable *table, uint32_t id)
{
	table->entries[id].handle = 0;
	table->entries[id].stale = 0;
}

bool bptable_handle_is_free(const struct bptable *table, uint32_t handle)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (table->entries[id].is_used && table->entries[id].handle == handle)
			return false;
	return true;
}

void bptable_stopped(struct bptable *table, uint64_t pc, uint32_t count)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		struct bp *bp = &table->entries[id];
		bp->was_dropped = false;
		// The difference wraps for addresses below pc, so one comparison does.
		if (!bp->is_used || bp->handle == 0 || bp->address - pc >= count)
			continue;
		bp->was_dropped = true;
		bp->stale = bp->handle;
		bp->handle = 0;
	}
}

uint32_t bptable_forget_table(struct bptable *table)
{
	uint32_t lost = 0;

	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		lost += table->entries[id].handle != 0;
		table->entries[id].handle = table->entries[id].stale = 0;
		table->entries[id].was_dropped = false;
	}
	return lost;
}

uint32_t bptable_forget_kernel(struct bptable *table)
{
	uint32_t lost = bptable_forget_table(table);

	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		lost += table->entries[id].has_register;
		table->entries[id].has_register = false;
	}
	return lost;
}

bool bptable_is_any_written(const struct bptable *table)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		if (table->entries[id].is_used && (table->entries[id].handle != 0 || table->entries[id].has_register))
			return true;
	return false;
}

uint32_t bptable_next_missing(const struct bptable *table, uint32_t from, const uint64_t *except)
{
	for (uint32_t id = from; id < BPTABLE_MAX; id++) {
		const struct bp *bp = &table->entries[id];
		bool is_missing = bp->is_used && bp->kind == VMKD_BREAKPOINT_CODE && bp->is_enabled && bp->handle == 0;
		if (is_missing && !(except && bp->address == *except))
			return id;
	}
	return BPTABLE_MAX;
}

uint32_t bptable_next_written(const struct bptable *table, uint32_t from)
{
	for (uint32_t id = from; id < BPTABLE_MAX; id++)
		if (table->entries[id].is_used && table->entries[id].handle != 0)
			return id;
	return BPTABLE_MAX;
}
