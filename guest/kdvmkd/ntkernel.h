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

#endif
