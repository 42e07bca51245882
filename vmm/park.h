// SPDX-License-Identifier: MIT
// Waiting in a vCPU thread.
#ifndef VMM_PARK_H
#define VMM_PARK_H

#include <signal.h>

#include "vmm/hook.h"

// Drive the open call (call_begin said CALL_PENDING) to its answer. Called and returns with hook.lock held; sleeps without it, with
// no CPU time used. A kick by the VMM (a signal, or immediate_exit set) ends the call with CODE_RETRY.
// -> enum call_code; *ret_is_kicked: the VMM wants the vCPU.
uint32_t park_call(const struct vcpu *v, bool *ret_is_kicked);

// Let time pass, as above: until `ms` are over, a kick, or news of the broker. At once if another vCPU sleeps in a call. -> true: the VMM wants the vCPU.
bool park_rest(const struct vcpu *v, uint32_t ms);

// Somebody else has changed hook.call: let the sleeping vCPU look. Under hook.lock.
void park_wake(void);

// For whoever sleeps in a vCPU thread: block all signals but faults, look at the VMM's wish, then ppoll with *ret_old.
void park_block_signals(sigset_t *ret_old);
bool park_is_exit_wanted(const struct vcpu *v);

#endif
