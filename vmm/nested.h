// SPDX-License-Identifier: MIT
// Does a vCPU run a guest of its guest (a hypervisor in the guest, as with Windows' virtualization-based security)? Then its CR3 leads to
// addresses of the inner guest, and nobody may find memory with it. KVM's answer: KVM_GET_NESTED_STATE (Documentation/virt/kvm/api.rst, section 4.114).
//
// Rules: nested_is_on in the vCPU's own thread, outside the guest, under hook.lock, at a wait only; the others anywhere.
#ifndef VMM_NESTED_H
#define VMM_NESTED_H

#include "vmm/vm.h"

// A guest that runs guests has CR4.VMXE (Intel) or EFER.SVME (AMD) set, and a processor in nested operation cannot clear them, so the
// inner guest's registers show it as well. False: it cannot be; KVM need not be asked.
bool nested_is_possible(uint64_t cr4, uint64_t efer);

// What KVM_GET_NESTED_STATE has left in `state`, `len` bytes, says: the vCPU is in the inner guest. An answer that cannot be one counts as yes.
bool nested_says_inner(const void *state, size_t len);

// The vCPU is in an inner guest, or nobody can tell. cr4, efer: its registers now.
bool nested_is_on(const struct vcpu *v, uint64_t cr4, uint64_t efer);

#endif
