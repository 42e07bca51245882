// SPDX-License-Identifier: MIT
// Where the guest's RAM is, from the text of QEMU's `info mtree -f`: which guest-physical pages are which bytes of the RAM's file. The one
// truth about it, since holes, PAM shadows and SMRAM move with the machine type and with what firmware does.
#ifndef SERVE_MEMORY_MAP_H
#define SERVE_MEMORY_MAP_H

#include <stddef.h>
#include <stdint.h>

// Origin: a PC has four pieces; PAM registers can cut 0xC0000 to 0xFFFFF into 13 more, hotplugged DIMMs add some.
#define MEMORY_MAP_MAX 64u

struct memory_piece {
	uint64_t gpa;    // bytes, page-aligned
	uint64_t size;   // bytes, whole pages, not 0
	uint64_t offset; // in the RAM's file, page-aligned
};

struct memory_map {
	uint32_t count;
	struct memory_piece pieces[MEMORY_MAP_MAX]; // ascending, not overlapping
};

enum memory_map_outcome {
	MEMORY_MAP_OK = 0,
	MEMORY_MAP_E_VIEW = 1,  // the text has no view of the address space "memory"
	MEMORY_MAP_E_EMPTY = 2, // no piece of it is RAM of this backend
	MEMORY_MAP_E_TEXT = 3,  // numbers that cannot be: out of order, beyond 2^52, beyond the file, too many
};

// text: len bytes of anything. ram_id: the name of the backend's memory region. file_size: of the RAM's file; pieces reach no
// further. Only type "ram" counts: rom, romd, i/o and other backends are left out, as are views other than the CPUs' ordinary one (SMM
// has its own). *ret is untouched unless OK.
__attribute__((warn_unused_result)) int memory_map_parse(const char *text, size_t len, const char *ram_id, uint64_t file_size,
							  struct memory_map *ret);

#endif
