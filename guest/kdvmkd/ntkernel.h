// SPDX-License-Identifier: MIT
// The kernel this module is loaded into, and the CPU it runs on: the real struct machine.
//
// Rules: as machine.h says. The kernel's image is found by address (from a symbol it exports to us) and never by name: kernels get
// renamed.
#ifndef GUEST_KDVMKD_NTKERNEL_H
#define GUEST_KDVMKD_NTKERNEL_H

#include "guest/kdvmkd/machine.h"

struct ntkernel {
	bool is_searched;
	void *set_global_data; // RtlSetSystemGlobalData in the kernel's image, which never moves; NULL: not exported
};

// The table of this build. Its pointers are relocated with the module: fetch it anew at each entry.
const struct machine *ntkernel_machine(void);

// Look up what the kernel exports; once, early: later, parts of the kernel's image are gone. *k starts zeroed.
void ntkernel_init(struct ntkernel *k);

// What the kernel and its programs were told of a debugger, in both places.
struct ntkernel_presence {
	uint8_t is_absent; // KdDebuggerNotPresent
	bool is_shared;    // KUSER_SHARED_DATA.KdDebuggerEnabled: a debugger is present
};
void ntkernel_read_presence(struct ntkernel_presence *ret);
void ntkernel_write_presence(const struct ntkernel *k, const struct ntkernel_presence *presence);

// Was the kernel booted to be debugged? Either place says so (docs/evidence.md, 2.2: the newest builds may keep it in the second only).
bool ntkernel_is_debugged(void);

// Is a page of the kernel's memory there to be read? (At PASSIVE_LEVEL one that is there may go, and comes back when read.)
bool ntkernel_is_mapped(const void *page);

#endif
