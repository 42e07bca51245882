// SPDX-License-Identifier: MIT
// QEMU's `info mtree -f`, line by line: what lies at which guest-physical address of the CPUs' ordinary view. Its text is meant for people, yet no other
// way of QEMU's tells it.
//
// Rules: the text is borrowed and may be anything; no allocation; nothing is believed but that a line has the form of one.
#ifndef UTIL_MTREE_H
#define UTIL_MTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mtree {
	const char *at, *end; // lines to come
};

struct mtree_range {
	uint64_t first, last;   // guest-physical; as written, in any order
	const char *type, *name; // "ram", "rom", "i/o"; neither ends with a NUL
	size_t type_len, name_len;
	uint64_t offset;        // of its start in the region `name`
	bool is_in_kvm;         // KVM has a memory slot for it
};

// To the first line of the view of the address space "memory" (SMM has another). -> false: the text has none.
bool mtree_open(struct mtree *m, const char *text, size_t len);

// The next line that is a range of any type. -> false: the view has ended.
bool mtree_next(struct mtree *m, struct mtree_range *ret);

// The type, or the name, is `text`.
bool mtree_is_type(const struct mtree_range *r, const char *text);
bool mtree_is_name(const struct mtree_range *r, const char *text);

#endif
