// SPDX-License-Identifier: MIT
// Which Windows is on a mounted volume: its folder, its build, its processor; and how such a one is prepared.
#ifndef SETUP_WINDOWS_H
#define SETUP_WINDOWS_H

#include <stdbool.h>
#include <stdint.h>

#include "setup/bytes.h"
#include "util/error.h"

// The ways of preparing a guest, oldest first; docs/guest.md has the table.
enum windows_generation {
	WINDOWS_XP,    // builds 2600 to 5999: boot.ini
	WINDOWS_VISTA, // 6000 to 9199: BCD, the transport by its own name
	WINDOWS_8,     // 9200 to 21999: BCD, the transport in kdcom.dll's place
	WINDOWS_11,    // from 22000: as 8, and one element more
};

struct windows {
	char folder[16];       // "Windows" or "WINNT", as it is written there
	char product[128];     // "Windows 10 Pro": for people; perhaps empty
	unsigned build;
	enum windows_generation generation;
	bool is_x64;
};

#define WINDOWS_MACHINE_X86 0x014cu
#define WINDOWS_MACHINE_X64 0x8664u

// The machine of a PE image. -> false: it is none.
bool windows_pe_machine(const struct bytes *image, uint16_t *ret);

// Has the PE image a signature? What is signed wrongly has one, too.
bool windows_pe_is_signed(const struct bytes *image);

// The generation of a build. -> false: older than XP.
bool windows_generation_of(unsigned build, enum windows_generation *ret);

// Look at the volume whose root is open as `root`. -> NULL and *ret; ENOENT: no Windows there; EBUSY: there is one that was not shut down properly;
// ENOTSUP: there is one that vmkd knows nothing about, and the text says which.
ERROR_MUST_CHECK struct error *windows_find(int root, struct windows *ret);

#endif
