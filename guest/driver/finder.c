// SPDX-License-Identifier: MIT
#include "guest/driver/finder.h"

#define PAGE 4096u

// documented (PE format)
#define DIRECTORY_IAT 12u
#define SECTION_INITIALIZED 0x00000040u
#define SECTION_DISCARDABLE 0x02000000u
#define SECTION_EXECUTE 0x20000000u
#define SECTION_WRITE 0x80000000u

// The addresses [low, low + len).
struct range {
	uintptr_t low;
	size_t len;
};

static bool is_in(struct range r, uintptr_t address)
{
	return address - r.low < r.len;
}

struct scan {
	struct range wanted;
	uint32_t count;
	void *volatile *first;
};

static void scan_pointers(struct scan *s, const uint8_t *from, uint32_t len)
{
	for (uint32_t at = 0; at + sizeof(void *) <= len; at += sizeof(void *)) {
		void *volatile *entry = (void *volatile *)(uintptr_t)(from + at);
		if (is_in(s->wanted, (uintptr_t)*entry) && s->count++ == 0)
			s->first = entry;
	}
}

// A page at a time, since parts of the kernel may be gone.
static void scan_span(struct scan *s, const struct peimage *kernel, const struct peimage_span *span)
{
	uint64_t end = (uint64_t)span->rva + span->len;
	uint64_t rva = ((uint64_t)span->rva + sizeof(void *) - 1) & ~(uint64_t)(sizeof(void *) - 1);
	while (rva < end && rva < kernel->size) {
		uint64_t next = (rva & ~(uint64_t)(PAGE - 1)) + PAGE;
		uint32_t len = (uint32_t)((next < end ? next : end) - rva);
		const uint8_t *bytes = peimage_at(kernel, (uint32_t)rva, len);
		if (bytes)
			scan_pointers(s, bytes, len);
		rva = next;
	}
}

static bool is_data(uint32_t flags)
{
	return (flags & SECTION_INITIALIZED) && !(flags & (SECTION_EXECUTE | SECTION_DISCARDABLE));
}

static void scan_sections(struct scan *s, const struct peimage *kernel, uint32_t writable)
{
	struct peimage_span span;
	for (uint32_t i = 0; peimage_section(kernel, i, &span); i++) {
		if (is_data(span.flags) && (span.flags & SECTION_WRITE) == writable)
			scan_span(s, kernel, &span);
	}
}

// How often an address of `wanted` stands in the kernel's table, and where first.
static uint32_t scan_kernel(const struct peimage *kernel, struct range wanted, void *volatile **ret_first)
{
	struct scan s = { .wanted = wanted };
	struct peimage_span span;
	if (peimage_directory(kernel, DIRECTORY_IAT, &span)) {
		scan_span(&s, kernel, &span);
	} else {
		scan_sections(&s, kernel, 0); // a table that nobody writes to is in what nobody may write to
		if (!s.count)
			scan_sections(&s, kernel, SECTION_WRITE);
	}
	if (s.count)
		*ret_first = s.first;
	return s.count;
}

// -> FINDER_OK, FINDER_E_EXPORT, FINDER_E_OURS; FINDER_E_TRANSPORT: this module is none.
static int look_at_module(const struct peimage *kernel, const struct nt_module *module, struct finding *f)
{
	static const char *const names[FINDER_FUNCTIONS] = { "KdSendPacket", "KdReceivePacket" };
	struct range range = { .low = (uintptr_t)module->ImageBase, .len = module->ImageSize };
	uint32_t counts[FINDER_FUNCTIONS] = { 0, 0 };
	struct peimage image;
	void *volatile *any;
	if (!scan_kernel(kernel, range, &any) || !peimage_open(module->ImageBase, kernel->is_mapped, &image) ||
	    image.size > module->ImageSize)
		return FINDER_E_TRANSPORT;
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		f->function[i] = peimage_export(&image, names[i]);
		struct range one = { .low = (uintptr_t)f->function[i], .len = 1 };
		if (f->function[i])
			counts[i] = scan_kernel(kernel, one, &f->entry[i]);
	}
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		if (counts[i] && !f->function[!i])
			return FINDER_E_EXPORT;
	}
	if (counts[FINDER_SEND] != 1 || counts[FINDER_RECEIVE] != 1)
		return FINDER_E_TRANSPORT;
	f->transport = image.base;
	return peimage_export(&image, "KdVmkdIdentity") ? FINDER_E_OURS : FINDER_OK;
}

static bool is_listed(const struct nt_module_list *list, const struct peimage *image)
{
	for (uint32_t i = 0; i < list->NumberOfModules; i++) {
		if (list->Modules[i].ImageBase == image->base && image->size <= list->Modules[i].ImageSize)
			return true;
	}
	return false;
}

int finder_find(const void *inside_kernel, const struct nt_module_list *list, peimage_is_mapped is_mapped, struct finding *ret)
{
	struct peimage kernel;
	if (!peimage_find(inside_kernel, is_mapped, &kernel) || kernel.is_64 != (sizeof(void *) == 8) || !is_listed(list, &kernel))
		return FINDER_E_KERNEL;
	int code = FINDER_E_TRANSPORT;
	for (uint32_t i = 0; i < list->NumberOfModules; i++) {
		struct finding f = { .kernel = kernel.base };
		if (list->Modules[i].ImageBase == kernel.base)
			continue;
		int found = look_at_module(&kernel, &list->Modules[i], &f);
		if (found == FINDER_OK || found == FINDER_E_OURS) {
			*ret = f;
			return found;
		}
		if (found == FINDER_E_EXPORT)
			code = found;
	}
	return code;
}
