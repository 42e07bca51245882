// SPDX-License-Identifier: MIT
// From virtual to physical addresses with the page tables in the guest's RAM: no paging, 32-bit two-level, PAE, 4-level and 5-level,
// large pages of 4 MiB (with PSE-36), 2 MiB and 1 GiB. Source: Intel SDM volume 3, chapter 4; AMD APM volume 2, chapter 5.
//
// Rules: as memory/ram.h. The tables are the guest's and hostile: every entry is read once, a walk looks at no more than five of them, and
// anything that the processor would fault on is an outcome, not a guess. Accessed and dirty bits are left alone.
#ifndef MEMORY_WALK_H
#define MEMORY_WALK_H

#include "memory/ram.h"

struct walk_regs {
	uint64_t cr0, cr3, cr4, efer; // of the waiting vCPU; PCID and flag bits of CR3 are masked here. PAE with efer 0: NX may be in use
};

enum walk_outcome {
	WALK_OK = 0,
	WALK_E_ADDRESS = 1,  // not canonical, or beyond 4 GiB in a 32-bit mode
	WALK_E_ABSENT = 2,   // an entry without the present bit: paged out, in transition, or nothing; the guest's kernel knows
	WALK_E_RESERVED = 3, // an entry with bits set that must not be
	WALK_E_TABLE = 4,    // a table is not in RAM; walk_read: or the page is not
	WALK_E_MODE = 5,     // registers that cannot be, or all 0 (unknown)
};

enum walk_mode { WALK_MODE_NONE, WALK_MODE_FLAT, WALK_MODE_32, WALK_MODE_PAE, WALK_MODE_4, WALK_MODE_5 };

// For messages and tests. NONE: registers that cannot be.
enum walk_mode walk_mode(const struct walk_regs *regs);

struct walk_page {
	uint64_t va;   // first address of the page
	uint64_t gpa;  // of that
	uint64_t size; // 4096, 2 MiB, 4 MiB, 1 GiB; WALK_MODE_FLAT: 4096
};

// Find the page that holds `va`; whether it is RAM is not looked at. 32-bit modes: va may be sign-extended, and ret->va is then.
// -> enum walk_outcome; *ret only on WALK_OK.
int walk_find(const struct ram *ram, const struct walk_regs *regs, uint64_t va, struct walk_page *ret);

// A cache of translations and tables of one stop. Zero-initialise, or walk_cache_clear at each new epoch and map.
#define WALK_CACHE_SLOTS 64u
#define WALK_LEVELS_MAX 5u
struct walk_cache {
	struct walk_page pages[WALK_CACHE_SLOTS]; // by page number; size 0 = empty
	struct {
		uint64_t va;  // the part of the address above what the table translates
		uint64_t gpa; // 0 = unknown
	} tables[WALK_LEVELS_MAX]; // the last one used of each level; [0] is the one whose entries are always pages
	uint64_t copy_gpa; // of the table in `copy`, 0 = none: for RAM that is not mapped, where a table costs as much as an entry
	uint64_t copy[512];
};
void walk_cache_clear(struct walk_cache *cache);

// Copy [va, va + len) across pages. -> bytes copied from the beginning; when fewer than len, *ret_why (may be NULL) says why the next was not.
// A range that would wrap past the end of the address space ends there (WALK_E_ADDRESS). cache may be NULL.
size_t walk_read(const struct ram *ram, const struct walk_regs *regs, struct walk_cache *cache, uint64_t va, void *ret, size_t len,
		 enum walk_outcome *ret_why);

#endif
