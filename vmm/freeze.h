// SPDX-License-Identifier: MIT
// The other vCPUs of a VM whose kernel is stopped in the debugger. NT keeps them spinning in its freeze loop, where
// they never leave KVM_RUN by themselves; so a signal of ours makes each of them return EINTR to the VMM, as for any kick, and at the next entry it
// sleeps here until the wait ends. A kick by the VMM is obeyed as everywhere.
//
// Rules: freeze_others and freeze_end under hook.lock. The rest is on the way of every KVM_RUN: no lock, no system call
// except once per thread. If the VMM blocks our signal the vCPUs go on spinning: slower, not wrong.
#ifndef VMM_FREEZE_H
#define VMM_FREEZE_H

#include "vmm/hook.h"

// How long a wait lasts before the others are frozen: a debugger's burst of requests must not pay for signals
// and wake-ups with each of them.
#define FREEZE_AFTER_MS 20u

// Choose a signal that nobody uses and install its handler. Once, when the first VM is created.
void freeze_prepare(void);

// This thread runs v now.
void freeze_note_thread(struct vcpu *v);

// True while vCPUs of vm have to stay out of the guest.
bool freeze_is_on(const struct vm *vm);

// Sleep until the freeze is over. -> true: the VMM wants the vCPU.
bool freeze_sleep(const struct vcpu *v);

// KVM_RUN of v has returned EINTR. If our signal did it, take back the mark that it left in kvm_run.
void freeze_forget_kick(const struct vcpu *v);

// From now on every other vCPU of the waiter's VM sleeps at its entry into the guest; those inside are called out. Returns at once.
void freeze_others(const struct vcpu *waiter);
// The wait is over: all run on. Harmless when nothing is frozen.
void freeze_end(void);

#endif
