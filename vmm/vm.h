// SPDX-License-Identifier: MIT
// The virtual machines of this process as their KVM ioctls describe them: memory slots and vCPUs.
//
// Rules: vm_* run under the hook's lock, vcpu_find without any (it is on the path of every KVM_RUN). A vCPU's entry
// lives until the process ends: our mapping of its kvm_run keeps the vCPU alive, as the VMM's own does. A VMM that destroys VMs
// and goes on keeps their vCPU pages.
#ifndef VMM_VM_H
#define VMM_VM_H

#include <linux/kvm.h>
#include <sys/types.h>

#include "vmm/area.h"

#define VM_MAX 8u         // VMs in one process; further ones are not followed
#define VCPU_FD_MAX 65536 // vCPUs with higher descriptors are not followed

struct vm_slot {
	uint32_t id; // KVM's slot number, address space 0
	bool is_id_known; // else the slot was there before us (vm_slots_tell), and `id` means nothing
	uint32_t flags;
	uint64_t gpa, size, host;
};

struct vm {
	int fd; // -1: free
	int run_size; // bytes of a vCPU's kvm_run mapping
	bool has_sync_regs; // KVM can leave the registers in kvm_run at each exit
	bool is_blind; // was there before us, and its slots are not known yet, or not any more: its guest's calls are left to the VMM
	uint32_t slot_changes; // how often the VMM has set a slot of address space 0
	uint32_t nested_size; // bytes of KVM_GET_NESTED_STATE's largest answer; 0: KVM has none
	struct vm_slot *slots;
	uint32_t slot_count, slot_capacity;
	struct gpa_range *ranges; // the slots that are writable RAM; as many entries allocated as slots
	uint32_t range_count;
	struct vcpu *vcpus; // newest first
};

struct vcpu {
	int fd;
	uint32_t index; // argument of KVM_CREATE_VCPU: the APIC id
	struct vm *vm;
	struct vcpu *next; // of the VM
	struct kvm_run *run;
	pid_t tid; // the thread that runs it; 0: none has yet
	uint64_t sync_added; // bits of kvm_valid_regs that are ours, not the VMM's
	// Its own thread's alone (vmm/hook.c):
	bool is_vkd_probed;    // its last OUT to the probe's port was VirtualKD's
	bool is_vkd_stray_due; // the probe was answered: the OUT that follows means nothing
};

// A VM was created as descriptor fd. NULL: too many. An entry of the same descriptor is taken over, emptied.
struct vm *vm_add(int fd, int run_size, bool has_sync_regs);
// NULL: not one of ours.
struct vm *vm_find(int fd);

// The slot that `region` replaces or removes, if that takes RAM away or moves it; else NULL (a new slot, or a change of
// flags such as dirty logging that leaves the memory where it is).
const struct vm_slot *vm_slot_lost(const struct vm *vm, const struct kvm_userspace_memory_region *region);
// True if `region` adds RAM, takes it away or moves it.
bool vm_slot_changes_ram(const struct vm *vm, const struct kvm_userspace_memory_region *region);
// KVM has accepted `region`. -> false: out of memory; the slot is then unknown, which is safe.
bool vm_slot_set(struct vm *vm, const struct kvm_userspace_memory_region *region);

// The slots of a VM that was there before us, in place of all that were known; their `id` is not looked at. -> false: no memory for them, nothing was changed.
bool vm_slots_tell(struct vm *vm, const struct vm_slot *slots, uint32_t count);
// Before the others are asked about `region`: one whose number is not known yet, but whose addresses are those of a slot that was told, is that slot.
// -> false: it takes away a slot that cannot be told from others. Then no slot that was told counts any more.
bool vm_slot_recognise(struct vm *vm, const struct kvm_userspace_memory_region *region);

// The VM's writable RAM; borrowed until the next vm_slot_set.
struct gpa_map vm_map(const struct vm *vm);

// A vCPU was created; maps its kvm_run. Failure leaves it unfollowed.
void vcpu_add(struct vm *vm, int fd, uint32_t index);
// Lock-free. NULL: not one of ours.
struct vcpu *vcpu_find(int fd);

#endif
