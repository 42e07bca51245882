// SPDX-License-Identifier: MIT
// Memory with a kernel, a HAL, a transport and another driver in it, as images and as the kernel's list of modules, for the tests of the finder
// and of the take-over. One instance; nothing in it is ever executed.
#ifndef GUEST_DRIVER_FAKEKERNEL_H
#define GUEST_DRIVER_FAKEKERNEL_H

#include "guest/driver/finder.h"

#define FAKE_PAGE 4096u
#define FAKE_PAGES 96u

// Pages where the images begin.
enum fake_image { FAKE_KERNEL = 8, FAKE_HAL = 40, FAKE_TRANSPORT = 56, FAKE_DRIVER = 72 };
#define FAKE_KERNEL_PAGES 24u
#define FAKE_IMAGE_PAGES 8u

// Places in the images, from their beginnings.
enum {
	FAKE_PE = 0x80,
	FAKE_OPTIONAL = FAKE_PE + 0x18,
	FAKE_DIRECTORIES = FAKE_OPTIONAL + 0x70,
	FAKE_SECTIONS = FAKE_DIRECTORIES + 0x80,
	FAKE_EXPORTS = 0x1000,
	FAKE_FUNCTIONS = 0x2000, // 16 bytes each, in the order of the names
	FAKE_IAT = 0x3010,
	FAKE_IAT_LEN = 0x80,
	FAKE_DATA = 0x4000, // writable, with a hole in the middle
	FAKE_DATA_LEN = 0x3000,
	FAKE_CONST = 0x9000, // read-only
	FAKE_INIT = 0x8000, // thrown away after the boot, but its bytes are still there
};

// Entries of the import address table.
enum { FAKE_ENTRY_HAL = 2, FAKE_ENTRY_SEND = 5, FAKE_ENTRY_RECEIVE = 7 };

struct fakekernel {
	uint8_t memory[FAKE_PAGES * FAKE_PAGE] __attribute__((aligned(4096)));
	bool is_hole[FAKE_PAGES];
	uint32_t list_bytes;
	uint8_t list[sizeof(struct nt_module_list) + 4 * sizeof(struct nt_module)] __attribute__((aligned(8)));
};

extern struct fakekernel fakekernel;

// A kernel that has booted: everything found.
void fakekernel_build(void);
bool fakekernel_is_mapped(const void *page);
const void *fakekernel_inside(void); // an address in the kernel, as &KdDebuggerEnabled
struct nt_module_list *fakekernel_list(void);
void fakekernel_put16(enum fake_image image, uint32_t rva, uint16_t value);
void fakekernel_put32(enum fake_image image, uint32_t rva, uint32_t value);
// The import table's entry, and a function of a module.
void **fakekernel_entry(uint32_t index);
void *fakekernel_function(enum fake_image image, uint32_t index);
// The kernel's header names no import address table from now on: its data is searched. Entries are moved there.
void fakekernel_drop_directory(void);

#endif
