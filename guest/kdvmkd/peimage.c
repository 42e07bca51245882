// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/peimage.h"

#define PAGE 4096u

// documented (PE format)
#define MZ 0x5A4Du
#define MZ_LFANEW 0x3Cu
#define PE_SIGNATURE 0x4550u
#define NUMBER_OF_SECTIONS 0x06u // these two from the signature
#define SIZE_OF_OPTIONAL 0x14u
#define OPTIONAL_AT 0x18u // from the signature
#define OPTIONAL_MAGIC_32 0x10Bu
#define OPTIONAL_MAGIC_64 0x20Bu
#define OPTIONAL_SIZE_OF_IMAGE 0x38u
#define OPTIONAL_EXPORTS_32 0x60u // first data directory: RVA, size
#define OPTIONAL_EXPORTS_64 0x70u
#define DIRECTORIES_MAX 16u
#define SECTION_SIZE 0x28u
#define SECTION_VIRTUAL_SIZE 0x08u
#define SECTION_RVA 0x0Cu
#define SECTION_RAW_SIZE 0x10u
#define SECTION_FLAGS 0x24u
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

const uint8_t *peimage_at(const struct peimage *image, uint32_t rva, uint64_t len)
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
	if ((magic != OPTIONAL_MAGIC_32 && magic != OPTIONAL_MAGIC_64) || size <= inside || size > PEIMAGE_SIZE_MAX ||
	    (uintptr_t)base + size < (uintptr_t)base)
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

bool peimage_open(const void *base, peimage_is_mapped is_mapped, struct peimage *ret)
{
	struct peimage image = { .is_mapped = is_mapped };
	if ((uintptr_t)base % PAGE || !is_mapped(base) || !read_header(base, 0, &image))
		return false;
	*ret = image;
	return true;
}

static uint32_t pe_rva(const struct peimage *image)
{
	uint32_t pe = get32(image->base + MZ_LFANEW);
	return pe <= HEADERS_MAX ? pe : HEADERS_MAX; // looked at before, but it is memory that others may write
}

bool peimage_directory(const struct peimage *image, uint32_t index, struct peimage_span *ret)
{
	uint32_t first = pe_rva(image) + OPTIONAL_AT + (image->is_64 ? OPTIONAL_EXPORTS_64 : OPTIONAL_EXPORTS_32);
	const uint8_t *count = peimage_at(image, first - 4, 4); // NumberOfRvaAndSizes
	const uint8_t *entry = index < DIRECTORIES_MAX ? peimage_at(image, first + 8 * index, 8) : NULL;
	if (!count || !entry || index >= get32(count) || !get32(entry) || !get32(entry + 4))
		return false;
	*ret = (struct peimage_span){ .rva = get32(entry), .len = get32(entry + 4) };
	return true;
}

bool peimage_section(const struct peimage *image, uint32_t index, struct peimage_span *ret)
{
	const uint8_t *pe = image->base + pe_rva(image);
	if (index >= get16(pe + NUMBER_OF_SECTIONS))
		return false;
	uint32_t first = pe_rva(image) + OPTIONAL_AT + get16(pe + SIZE_OF_OPTIONAL);
	const uint8_t *section = peimage_at(image, first + SECTION_SIZE * index, SECTION_SIZE);
	if (!section)
		return false;
	uint32_t len = get32(section + SECTION_VIRTUAL_SIZE), raw_len = get32(section + SECTION_RAW_SIZE);
	*ret = (struct peimage_span){ .rva = get32(section + SECTION_RVA), .len = len < raw_len ? len : raw_len,
		                      .flags = get32(section + SECTION_FLAGS) };
	return true;
}

// Compares a name in the image, byte by byte and no further than the image goes.
static bool is_name(const struct peimage *image, uint32_t rva, const char *name)
{
	for (uint32_t i = 0;; i++) {
		bool is_new_page = i == 0 || (uintptr_t)(image->base + rva + i) % PAGE == 0;
		if (is_new_page && !peimage_at(image, rva + i, 1)) // the image's end is a page's end
			return false;
		if (image->base[rva + i] != (uint8_t)name[i])
			return false;
		if (!name[i])
			return true;
	}
}

static const uint8_t *export_directory(const struct peimage *image, struct peimage_span *ret)
{
	return peimage_directory(image, 0, ret) ? peimage_at(image, ret->rva, EXPORT_DIRECTORY_SIZE) : NULL;
}

void *peimage_export(const struct peimage *image, const char *name)
{
	struct peimage_span span;
	const uint8_t *dir = export_directory(image, &span);
	if (!dir)
		return NULL;
	uint32_t functions = get32(dir + EXPORT_NUMBER_OF_FUNCTIONS), names = get32(dir + EXPORT_NUMBER_OF_NAMES);
	const uint8_t *name_rvas = peimage_at(image, get32(dir + EXPORT_NAMES), (uint64_t)names * 4);
	const uint8_t *ordinals = peimage_at(image, get32(dir + EXPORT_ORDINALS), (uint64_t)names * 2);
	const uint8_t *addresses = peimage_at(image, get32(dir + EXPORT_FUNCTIONS), (uint64_t)functions * 4);
	if (!name_rvas || !ordinals || !addresses)
		return NULL;
	for (uint32_t i = 0; i < names; i++) {
		if (!is_name(image, get32(name_rvas + 4 * (size_t)i), name))
			continue;
		uint32_t ordinal = get16(ordinals + 2 * (size_t)i);
		uint32_t rva = ordinal < functions ? get32(addresses + 4 * (size_t)ordinal) : 0;
		bool is_forwarder = rva >= span.rva && rva - span.rva < span.len;
		return rva && !is_forwarder ? (void *)(uintptr_t)peimage_at(image, rva, 1) : NULL;
	}
	return NULL;
}
