// SPDX-License-Identifier: MIT
// The library in a VMM that runs already: what `vmkd attach` (attach/) has the VMM's main thread call, and what both say to each other.
//
// A library that was preloaded sees KVM_CREATE_VM, the vCPUs and the memory slots as they are made. One that comes late finds the descriptors
// in /proc/self/fd and is told the slots by its caller, who has them from the VMM's monitor (KVM tells nobody). In this order:
//
//   LATE_HOOK     follow the VM, open the link, put our ioctl into the objects that call the libc's. From here on changes of slots are counted;
//                 no port call is answered yet
//   (the caller asks the monitor)
//   LATE_MEMORY   take the slots, if none has changed since the count that the caller was told; port calls are answered from here on
//   (the caller has the VMM kick its vCPUs: those inside KVM_RUN went there through the libc's ioctl)
//   LATE_STATUS   how many vCPUs have come through ours
//
// Every step may be repeated, and what was left half done by a caller that died is gone on with.
//
// Rules: in the VMM's main thread, which sleeps in poll and holds no lock of the C library's; signals are blocked; it takes some 100 KiB of stack at most.
// Nothing here is undone before the process ends: code that a vCPU is in cannot be taken away.
#ifndef VMM_LATE_H
#define VMM_LATE_H

#include <stdint.h>

#define LATE_VERSION 1u
#define LATE_SYMBOL "vmkd_vmm_attach"
// A PC has some ten slots; KVM allows 32764, and each hotplugged DIMM or PCI BAR that is memory takes one.
#define LATE_SLOTS_MAX 512u

enum late_step { LATE_HOOK = 1, LATE_MEMORY = 2, LATE_STATUS = 3 };

enum late_outcome {
	LATE_UNANSWERED = 0, // the call has not come to its end
	LATE_DONE = 1,
	LATE_ALREADY = 2,    // LATE_HOOK: the library serves this process already, under `name`
	LATE_CHANGED = 3,    // LATE_MEMORY: slots have changed since `changes`, which is now the new count: ask the monitor again
	LATE_REFUSED = 4,    // `text` says why; nothing was changed
};

#define LATE_READONLY 1u // known, but not RAM that the guest may write

struct late_slot {
	uint64_t gpa, size, host; // bytes; pages of 4096
	uint32_t flags;           // LATE_READONLY
	uint32_t reserved;        // 0
};

struct late_args {
	uint32_t version; // in: LATE_VERSION
	uint32_t step;    // in: enum late_step
	char name[64];    // in: of the VM, with its NUL; out: the name that it has
	char folder[108]; // in: the folder of all VMs
	uint32_t outcome; // out: enum late_outcome
	uint32_t changes; // out: changes of memory slots so far; in (LATE_MEMORY): the count before the monitor was asked
	uint32_t vcpu_count, vcpus_seen; // out: followed, and those that have come through our ioctl
	uint32_t is_blind; // out: the slots are not known (any more), port calls are not answered
	uint32_t slot_count; // in (LATE_MEMORY)
	char text[256];   // out: with LATE_REFUSED
	struct late_slot slots[LATE_SLOTS_MAX];
};

// Exported as LATE_SYMBOL. Does args->step; everything it has to say is in *args, with `outcome` last.
void vmkd_vmm_attach(struct late_args *args);

#endif
