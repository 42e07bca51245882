// SPDX-License-Identifier: MIT
// The books of breakpoints: which the user wants, and which the kernel has in its table right now. No I/O: the caller talks to the kernel
// and tells this what came of it.
//
//   wanted   enabled by the user          written  the kernel gave a handle for it
//
//   set ------> wanted, not written --(bptable_written)--> wanted, written
//                     ^                                        |
//                     +--- a stop within the code window <-----+      (the kernel drops those: KD reference, section 3.2)
//                     +--- another kernel <--------------------+
//
// Processor breakpoints (kind other than CODE) are entries like the others, but no business of the kernel's table: "written" is to have a debug
// register (target/debugregs.h), and no stop drops them. Functions that speak of an address or of the kernel's table mean CODE alone.
//
// Rules: pure; one thread.
#ifndef TARGET_BPTABLE_H
#define TARGET_BPTABLE_H

#include "vmkd/vmkd.h"

#define BPTABLE_MAX 32u // places in the kernel's own table (KD reference, section 4.4)

struct bp {
	bool is_used;
	bool is_enabled;
	bool is_one_shot;
	bool was_dropped; // by the last stop: it was in the kernel until then
	uint32_t handle;  // 1 to 32 in the kernel's table; 0 = not there
	uint32_t stale;   // the handle it had before the kernel is believed to have dropped it; 0 = none
	uint64_t address;
	uint8_t original;  // the byte that was there when the kernel got it
	uint64_t hits;
	enum vmkd_breakpoint_kind kind;
	uint8_t size;      // bytes that are watched; 0 for CODE
	bool has_register; // processor breakpoints: it has debug register `reg`, 0 to 3
	uint8_t reg;
};

struct bptable {
	struct bp entries[BPTABLE_MAX]; // index = id
	uint32_t end; // no entry from here on was ever used: every read of memory looks through the others
};

enum bptable_outcome { BPTABLE_OK = 0, BPTABLE_E_EXISTS = 1, BPTABLE_E_FULL = 2 };

// Empties the books; there is nothing to undo.
void bptable_init(struct bptable *table);

// A new enabled breakpoint with the lowest free id. -> BPTABLE_OK and *ret_id, E_EXISTS and *ret_id of the one that is there, E_FULL.
__attribute__((warn_unused_result)) int bptable_add(struct bptable *table, uint64_t address, bool is_one_shot, uint32_t *ret_id);
// The same for a processor breakpoint, which another at this address does not exclude unless kind and size are the same.
__attribute__((warn_unused_result)) int bptable_add_processor(struct bptable *table, enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address,
							      bool is_one_shot, uint32_t *ret_id);
// Takes it out of the books; the caller has taken it out of the kernel.
void bptable_remove(struct bptable *table, uint32_t id);

// NULL = no such.
struct bp *bptable_get(struct bptable *table, uint32_t id);
struct bp *bptable_find(struct bptable *table, uint64_t address);

// The kernel answered: it has the breakpoint under this handle; it has it no more.
void bptable_written(struct bptable *table, uint32_t id, uint32_t handle);
void bptable_restored(struct bptable *table, uint32_t id);
// No other entry lives under this handle.
bool bptable_handle_is_free(const struct bptable *table, uint32_t handle);

// The kernel has stopped and has dropped what lies in [pc, pc + count - 1].
void bptable_stopped(struct bptable *table, uint64_t pc, uint32_t count);
// The kernel's table is empty (swept). Return how many were in it.
uint32_t bptable_forget_table(struct bptable *table);
// Another kernel: that, and its debug registers hold nothing of ours.
uint32_t bptable_forget_kernel(struct bptable *table);
// Anything of this session is in the kernel, or in a debug register.
bool bptable_is_any_written(const struct bptable *table);

// The first entry from `from` on that is wanted but not written, and not at `except`. -> id, BPTABLE_MAX = none.
uint32_t bptable_next_missing(const struct bptable *table, uint32_t from, const uint64_t *except);
// The first entry from `from` on that is written. -> id, BPTABLE_MAX = none.
uint32_t bptable_next_written(const struct bptable *table, uint32_t from);

#endif
