// SPDX-License-Identifier: MIT
// Memory for readers to be tried on: a big mapping whose every word tells where it is, and a short one whose neighbours are no RAM.
//
// The Tk* names are exported; a client finds the addresses in these variables.
#pragma once
#include "testkernel/nt/nt.h"

// The mapping that bigmap=MIB asks for, 0 without it. MIB is a multiple of 4. The first half consists of 4 KiB pages in scattered
// physical order, the second half of 2 MiB pages, the last physical one first. Every 8-byte word holds its own virtual address
// (x86: with zeros above).
extern uint64_t TkBigMap, TkBigMapSize; // bytes

// TK_MIXED_PAGES virtual pages in a row. The even ones are RAM filled as TkBigMap is; between them lies what no reader may take
// for RAM. KD's virtual reads end before such a page.
extern uint64_t TkMixed;
enum {
    TK_MIXED_ABSENT = 1, // no page table entry
    TK_MIXED_DEVICE = 3, // the local APIC
    TK_MIXED_ROM = 5,    // physical 0xF0000
    TK_MIXED_NOWHERE = 7, // physical memory behind everything QEMU has
    TK_MIXED_PAGES = 9,
};

// With lie=1 the answers to ReadVirtualMemory and ReadPhysicalMemory have TkLie[TK_LIE_AT] inverted. The memory itself does not change.
enum { TK_LIE_SIZE = 64, TK_LIE_AT = 13 };
extern uint8_t TkLie[TK_LIE_SIZE];

// Makes the mappings; a bigmap that cannot be ends the kernel with HAL_VERDICT_USAGE. Before KD, boot CPU.
void nt_mappings_init(void);

// Spoils what was read from address on (virtual or physical), as lie=1 says; does nothing without it.
void nt_lie_virtual(hal_va_t va, uint8_t *bytes, size_t len);
void nt_lie_physical(hal_pa_t pa, uint8_t *bytes, size_t len);
