// SPDX-License-Identifier: MIT
// Find a loaded PE image by an address inside it, and an export in it by name. Plain memory reading, bounded, so that the host's
// tests run it on made-up images.
//
// Rules: `is_mapped` is asked before the first byte of any page is read. An image's parts may have been discarded after the boot.
#ifndef GUEST_KDVMKD_PEIMAGE_H
#define GUEST_KDVMKD_PEIMAGE_H

#include "wire/compiler.h"

// Origin: the largest kernel seen has 17 MB; twice that and some.
#define PEIMAGE_SIZE_MAX (48u << 20)

typedef bool (*peimage_is_mapped)(const void *page);

struct peimage {
	const uint8_t *base;
	uint32_t size; // SizeOfImage
	bool is_64;
	peimage_is_mapped is_mapped;
};

// The image that contains `inside`: the nearest page below it that begins with a PE header whose SizeOfImage covers `inside`.
// -> false: none within PEIMAGE_SIZE_MAX.
bool peimage_find(const void *inside, peimage_is_mapped is_mapped, struct peimage *ret);

// The image that begins at `base`. -> false: none does.
bool peimage_open(const void *base, peimage_is_mapped is_mapped, struct peimage *ret);

// The bytes [rva, rva + len) of the image, or NULL: not inside it, or a page of them is not mapped.
const uint8_t *peimage_at(const struct peimage *image, uint32_t rva, uint64_t len);

struct peimage_span {
	uint32_t rva, len; // bytes; as the headers say, not checked
	uint32_t flags;    // of a section; 0 for a directory
};

// Data directory `index`. -> false: the image has none.
bool peimage_directory(const struct peimage *image, uint32_t index, struct peimage_span *ret);

// Section `index`, from 0: the part that comes from the file. Behind it linkers put what starts as zeros: variables, stacks. -> false: there
// are no more.
bool peimage_section(const struct peimage *image, uint32_t index, struct peimage_span *ret);

// The address of an exported function, or NULL: not exported, a forwarder, or a table that cannot be.
void *peimage_export(const struct peimage *image, const char *name);

#endif
