// SPDX-License-Identifier: MIT
#include "guest/driver/fakekernel.h"

#include <string.h>

#define NAMES_MAX 4u

struct fakekernel fakekernel;

static uint8_t *at(enum fake_image image, uint32_t rva)
{
	return &fakekernel.memory[(uint32_t)image * FAKE_PAGE + rva];
}

void fakekernel_put16(enum fake_image image, uint32_t rva, uint16_t value)
{
	memcpy(at(image, rva), &value, sizeof(value));
}

void fakekernel_put32(enum fake_image image, uint32_t rva, uint32_t value)
{
	memcpy(at(image, rva), &value, sizeof(value));
}

bool fakekernel_is_mapped(const void *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)fakekernel.memory;
	return offset < sizeof(fakekernel.memory) && !fakekernel.is_hole[offset / FAKE_PAGE];
}

const void *fakekernel_inside(void)
{
	return at(FAKE_KERNEL, FAKE_KERNEL_PAGES * FAKE_PAGE - 100);
}

struct nt_module_list *fakekernel_list(void)
{
	return (struct nt_module_list *)fakekernel.list;
}

void **fakekernel_entry(uint32_t index)
{
	return (void **)(uintptr_t)at(FAKE_KERNEL, (FAKE_IAT + 7) / 8 * 8 + 8 * index);
}

void *fakekernel_function(enum fake_image image, uint32_t index)
{
	return at(image, FAKE_FUNCTIONS + 16 * index);
}

static void put_header(enum fake_image image, uint32_t pages)
{
	fakekernel_put16(image, 0, 0x5A4D);
	fakekernel_put32(image, 0x3C, FAKE_PE);
	fakekernel_put32(image, FAKE_PE, 0x4550);
	fakekernel_put16(image, FAKE_PE + 0x14, FAKE_SECTIONS - FAKE_OPTIONAL);
	fakekernel_put16(image, FAKE_OPTIONAL, 0x20B);
	fakekernel_put32(image, FAKE_OPTIONAL + 0x38, pages * FAKE_PAGE);
	fakekernel_put32(image, FAKE_OPTIONAL + 0x6C, 16);
}

static void put_directory(enum fake_image image, uint32_t index, uint32_t rva, uint32_t len)
{
	fakekernel_put32(image, FAKE_DIRECTORIES + 8 * index, rva);
	fakekernel_put32(image, FAKE_DIRECTORIES + 8 * index + 4, len);
}

static void put_exports(enum fake_image image, const char *const names[NAMES_MAX])
{
	uint32_t count = 0;
	put_directory(image, 0, FAKE_EXPORTS, 0x400);
	for (; count < NAMES_MAX && names[count]; count++) {
		fakekernel_put32(image, FAKE_EXPORTS + 0x100 + 4 * count, FAKE_FUNCTIONS + 16 * count);
		fakekernel_put32(image, FAKE_EXPORTS + 0x140 + 4 * count, FAKE_EXPORTS + 0x200 + 32 * count);
		fakekernel_put16(image, FAKE_EXPORTS + 0x180 + 2 * count, (uint16_t)count);
		strcpy((char *)at(image, FAKE_EXPORTS + 0x200 + 32 * count), names[count]);
	}
	fakekernel_put32(image, FAKE_EXPORTS + 0x14, count);
	fakekernel_put32(image, FAKE_EXPORTS + 0x18, count);
	fakekernel_put32(image, FAKE_EXPORTS + 0x1C, FAKE_EXPORTS + 0x100);
	fakekernel_put32(image, FAKE_EXPORTS + 0x20, FAKE_EXPORTS + 0x140);
	fakekernel_put32(image, FAKE_EXPORTS + 0x24, FAKE_EXPORTS + 0x180);
}

// A page longer in memory than in the file.
static void put_section(uint32_t index, uint32_t rva, uint32_t len, uint32_t flags)
{
	fakekernel_put32(FAKE_KERNEL, FAKE_SECTIONS + 40 * index + 16, len);
	fakekernel_put32(FAKE_KERNEL, FAKE_SECTIONS + 40 * index + 8, len + FAKE_PAGE);
	fakekernel_put32(FAKE_KERNEL, FAKE_SECTIONS + 40 * index + 12, rva);
	fakekernel_put32(FAKE_KERNEL, FAKE_SECTIONS + 40 * index + 36, flags);
}

static void put_module(uint32_t index, enum fake_image image, uint32_t pages)
{
	struct nt_module *module = &fakekernel_list()->Modules[index];
	module->ImageBase = at(image, 0);
	module->ImageSize = pages * FAKE_PAGE;
}

static void put_kernel(void)
{
	static const char *const names[NAMES_MAX] = { "KdDebuggerEnabled", "MmGetPhysicalAddress" };
	put_header(FAKE_KERNEL, FAKE_KERNEL_PAGES);
	put_exports(FAKE_KERNEL, names);
	fakekernel_put16(FAKE_KERNEL, FAKE_PE + 6, 4);
	put_section(0, FAKE_EXPORTS, 0x2000, 0x60000020);
	put_section(1, FAKE_DATA, FAKE_DATA_LEN, 0xC0000040);
	put_section(2, FAKE_INIT, 0x1000, 0xE2000060);
	put_section(3, FAKE_CONST, 0x1000, 0x40000040);
	put_directory(FAKE_KERNEL, 12, FAKE_IAT, FAKE_IAT_LEN);
	fakekernel.is_hole[FAKE_KERNEL + FAKE_DATA / FAKE_PAGE + 1] = true;
}

void fakekernel_build(void)
{
	static const char *const hal[NAMES_MAX] = { "HalInitSystem" }, *const driver[NAMES_MAX] = { "KdSendPacket", "KdReceivePacket" };
	static const char *const transport[NAMES_MAX] = { "KdD0Transition", "KdReceivePacket", "KdSendPacket" };
	memset(&fakekernel, 0, sizeof(fakekernel));
	put_kernel();
	put_header(FAKE_HAL, FAKE_IMAGE_PAGES);
	put_header(FAKE_TRANSPORT, FAKE_IMAGE_PAGES);
	put_header(FAKE_DRIVER, FAKE_IMAGE_PAGES);
	put_exports(FAKE_HAL, hal);
	put_exports(FAKE_TRANSPORT, transport);
	put_exports(FAKE_DRIVER, driver); // exports both, and the kernel does not call it
	*fakekernel_entry(FAKE_ENTRY_HAL) = fakekernel_function(FAKE_HAL, 0);
	*fakekernel_entry(FAKE_ENTRY_SEND) = fakekernel_function(FAKE_TRANSPORT, 2);
	*fakekernel_entry(FAKE_ENTRY_RECEIVE) = fakekernel_function(FAKE_TRANSPORT, 1);
	fakekernel_list()->NumberOfModules = 4;
	put_module(0, FAKE_DRIVER, FAKE_IMAGE_PAGES);
	put_module(1, FAKE_KERNEL, FAKE_KERNEL_PAGES);
	put_module(2, FAKE_HAL, FAKE_IMAGE_PAGES);
	put_module(3, FAKE_TRANSPORT, FAKE_IMAGE_PAGES);
	fakekernel.list_bytes = sizeof(fakekernel.list);
}

void fakekernel_drop_directory(void)
{
	put_directory(FAKE_KERNEL, 12, 0, 0);
	memcpy(at(FAKE_KERNEL, FAKE_DATA + 0x2100), at(FAKE_KERNEL, FAKE_IAT), FAKE_IAT_LEN); // behind the hole
	memset(at(FAKE_KERNEL, FAKE_IAT), 0, FAKE_IAT_LEN);
}
