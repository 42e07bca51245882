// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/peimage.h"

#define PAGE 4096u

// documented (PE format)
#define MZ 0x5A4Du
#define MZ_LFANEW 0x3Cu
#define PE_SIGNATURE 0x4550u
#define OPTIONAL_AT 0x18u // from the signature
#define OPTIONAL_MAGIC_32 0x10Bu
#define OPTIONAL_MAGIC_64 0x20Bu
#define OPTIONAL_SIZE_OF_IMAGE 0x38u
#define OPTIONAL_EXPORTS_32 0x60u // first data directory: RVA, size
#define OPTIONAL_EXPORTS_64 0x70u
#define HEADERS_MAX (PAGE - OPTIONAL_AT - OPTIONAL_EXPORTS_64 - 8u) // where the signature may start at most

#define EXPORT_NUMBER_OF_FUNCTIONS 0x14u
#define EXPORT_NUMBER_OF_NAMES 0x18u
#define EXPORT_FUNCTIONS 0x1Cu
#define EXPORT_NAMES 0x20u
#define EXPORT_ORDINALS 0x24u
#define EXPORT_DIRECTORY_SIZE 0x28u

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | get16(p + 2) << 16;
}

// [rva, rva + len) lies in the image and every page of it is mapped.
static const uint8_t *at(const struct peimage *image, uint32_t rva, uint64_t len)
{
	if (rva >= image->size || len > image->size - rva)
		return NULL;
	uintptr_t first = (uintptr_t)(image->base + rva) & ~(uintptr_t)(PAGE - 1);
	uintptr_t last = (uintptr_t)(image->base + rva) + (uintptr_t)len;
	for (uintptr_t page = first; page < last; page += PAGE) {
		if (!image->is_mapped((const void *)page))
			return NULL;
	}
	return image->base + rva;
}

// A header page at `base` whose image covers offset `inside`.
static bool read_header(const uint8_t *base, uint32_t inside, struct peimage *ret)
{
	if (get16(base) != MZ)
		return false;
	uint32_t pe = get32(base + MZ_LFANEW);
	if (pe < 0x40 || pe > HEADERS_MAX || get32(base + pe) != PE_SIGNATURE)
		return false;
	const uint8_t *optional = base + pe + OPTIONAL_AT;
	uint32_t magic = get16(optional);
	uint32_t size = get32(optional + OPTIONAL_SIZE_OF_IMAGE);
	if ((magic != OPTIONAL_MAGIC_32 && magic != OPTIONAL_MAGIC_64) || size <= inside || size > PEIMAGE_SIZE_MAX)
		return false;
	ret->base = base;
	ret->size = size;
	ret->is_64 = magic == OPTIONAL_MAGIC_64;
	return true;
}

bool peimage_find(const void *inside, peimage_is_mapped is_mapped, struct peimage *ret)
{
	uintptr_t address = (uintptr_t)inside;
	uintptr_t page = address & ~(uintptr_t)(PAGE - 1);
	for (; address - page < PEIMAGE_SIZE_MAX && page >= PAGE; page -= PAGE) {
		struct peimage image = { .is_mapped = is_mapped };
		if (!is_mapped((const void *)page) || !read_header((const uint8_t *)page, (uint32_t)(address - page), &image))
			continue;
		*ret = image;
		return true;
	}
	return false;
}

// Compares a name in the image, byte by byte and no further than the image goes.
static bool is_name(const struct peimage *image, uint32_t rva, const char *name)
{
	for (uint32_t i = 0;; i++) {
		bool is_new_page = i == 0 || (uintptr_t)(image->base + rva + i) % PAGE == 0;
		if (is_new_page && !at(image, rva + i, 1)) // the image's end is a page's end
			return false;
		if (image->base[rva + i] != (uint8_t)name[i])
			return false;
		if (!name[i])
			return true;
	}
}

static const uint8_t *export_directory(const struct peimage *image, uint32_t *ret_rva, uint32_t *ret_len)
{
	uint32_t pe = get32(image->base + MZ_LFANEW);
	const uint8_t *entry = image->base + pe + OPTIONAL_AT + (image->is_64 ? OPTIONAL_EXPORTS_64 : OPTIONAL_EXPORTS_32);
	*ret_rva = get32(entry);
	*ret_len = get32(entry + 4);
	return *ret_rva ? at(image, *ret_rva, EXPORT_DIRECTORY_SIZE) : NULL;
}

void *peimage_export(const struct peimage *image, const char *name)
{
	uint32_t dir_rva, dir_len;
	const uint8_t *dir = export_directory(image, &dir_rva, &dir_len);
	if (!dir)
		return NULL;
	uint32_t functions = get32(dir + EXPORT_NUMBER_OF_FUNCTIONS), names = get32(dir + EXPORT_NUMBER_OF_NAMES);
	const uint8_t *name_rvas = at(image, get32(dir + EXPORT_NAMES), (uint64_t)names * 4);
	const uint8_t *ordinals = at(image, get32(dir + EXPORT_ORDINALS), (uint64_t)names * 2);
	const uint8_t *addresses = at(image, get32(dir + EXPORT_FUNCTIONS), (uint64_t)functions * 4);
	if (!name_rvas || !ordinals || !addresses)
		return NULL;
	for (uint32_t i = 0; i < names; i++) {
		if (!is_name(image, get32(name_rvas + 4 * (size_t)i), name))
			continue;
		uint32_t ordinal = get16(ordinals + 2 * (size_t)i);
		uint32_t rva = ordinal < functions ? get32(addresses + 4 * (size_t)ordinal) : 0;
		bool is_forwarder = rva >= dir_rva && rva - dir_rva < dir_len;
		return rva && !is_forwarder ? (void *)(uintptr_t)at(image, rva, 1) : NULL;
	}
	return NULL;
}
