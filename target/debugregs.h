// SPDX-License-Identifier: MIT
// Processor breakpoints: which of the four debug registers holds which entry of the books (target/bptable.h), and the bits of DR6 and DR7 that say so.
// No I/O: run.c writes what comes out of here into every processor (KD reference, sections 4.4, 6.4, 6.5).
//
//     bit        0 2 4 6          16 + 4n, 2 bits                    18 + 4n, 2 bits
//     DR7        n is armed       0 execute, 1 write, 3 read/write   0: 1 byte, 1: 2, 3: 4, 2: 8
//     DR6        0 1 2 3: n has hit; 14: a single step
//
// Registers that others have armed are left alone: a debugger that was here before, or is another client of the same broker. `own` is the set of
// registers that this session has ever used, bit n for DRn: what DR7 says of those is this session's doing, and no news.
//
// Rules: pure; one thread.
#ifndef TARGET_DEBUGREGS_H
#define TARGET_DEBUGREGS_H

#include "target/bptable.h"

#define DEBUGREGS_COUNT 4u
#define DEBUGREGS_DR6_STEP 0x4000u

// What a processor can watch. -> NULL, or what was expected, as a constant text.
const char *debugregs_problem(enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address, bool is_x86);

// Gives a register to each enabled processor breakpoint that has none. dr7: as the target reported it.
// -> BPTABLE_MAX: all have one; else the id of the first for which none is left. *changed becomes true if any was given.
uint32_t debugregs_assign(struct bptable *table, uint64_t dr7, uint32_t *own, bool *changed);

// DR7 as it is to be: what others have there, and the entries that have a register, but for those in the set `without`.
uint64_t debugregs_dr7(const struct bptable *table, uint64_t dr7, uint32_t own, uint32_t without);
// What `dr7` says of the registers in the set `own`.
uint64_t debugregs_part(uint64_t dr7, uint32_t own);

// The enabled breakpoint that stops before the instruction at pc is executed; NULL = none.
struct bp *debugregs_find(struct bptable *table, uint64_t pc);

// A debug exception: which entries caused it, as a set of ids. A kernel may have lost DR6 on the way (Continue2 clears that of all processors, also of one
// whose exception still waits to be reported): then it is the one that stops at pc, or the only one that watches data.
uint32_t debugregs_hits(const struct bptable *table, uint64_t dr6, uint64_t pc);

#endif
