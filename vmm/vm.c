// SPDX-License-Identifier: MIT
#include "vmm/vm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// KVM_MEM_GUEST_MEMFD (Linux 6.8): the guest's private memory is elsewhere than userspace_addr.
#define MEM_GUEST_MEMFD (1u << 2)

static struct vm vms[VM_MAX] = {
	{ .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 },
};
static struct vcpu *vcpus[VCPU_FD_MAX];

struct vm *vm_find(int fd)
{
	for (uint32_t i = 0; i < VM_MAX; i++) {
		if (vms[i].fd == fd)
			return &vms[i];
	}
	return NULL;
}

struct vm *vm_add(int fd, int run_size, bool has_sync_regs)
{
	struct vm *vm = vm_find(fd);
	if (!vm)
		vm = vm_find(-1);
	if (!vm)
		return NULL;
	vm->fd = fd;
	vm->run_size = run_size;
	vm->has_sync_regs = has_sync_regs;
	vm->nested_size = 0;
	vm->is_blind = false;
	vm->slot_changes = 0;
	vm->slot_count = vm->range_count = 0;
	vm->vcpus = NULL;
	return vm;
}

static struct vm_slot *find_slot(const struct vm *vm, uint32_t id)
{
	for (uint32_t i = 0; i < vm->slot_count; i++) {
		if (vm->slots[i].is_id_known && vm->slots[i].id == id)
			return &vm->slots[i];
	}
	return NULL;
}

static bool is_ram(uint32_t flags)
{
	return !(flags & (KVM_MEM_READONLY | MEM_GUEST_MEMFD));
}

const struct vm_slot *vm_slot_lost(const struct vm *vm, const struct kvm_userspace_memory_region *region)
{
	const struct vm_slot *old = find_slot(vm, region->slot);
	if (!old || !is_ram(old->flags))
		return NULL;
	bool stays = old->gpa == region->guest_phys_addr && old->size == region->memory_size &&
	             old->host == region->userspace_addr && is_ram(region->flags);
	return stays ? NULL : old;
}

bool vm_slot_changes_ram(const struct vm *vm, const struct kvm_userspace_memory_region *region)
{
	const struct vm_slot *old = find_slot(vm, region->slot);
	bool was_ram = old && is_ram(old->flags);
	return was_ram ? vm_slot_lost(vm, region) != NULL : region->memory_size && is_ram(region->flags);
}

static bool grow(struct vm *vm)
{
	uint32_t capacity = vm->slot_capacity ? 2 * vm->slot_capacity : 64;
	struct vm_slot *slots = realloc(vm->slots, capacity * sizeof(*slots));
	if (!slots)
		return false;
	vm->slots = slots;
	struct gpa_range *ranges = realloc(vm->ranges, capacity * sizeof(*ranges));
	if (!ranges)
		return false;
	vm->ranges = ranges;
	vm->slot_capacity = capacity;
	return true;
}

static void rebuild_ranges(struct vm *vm)
{
	vm->range_count = 0;
	for (uint32_t i = 0; i < vm->slot_count; i++) {
		const struct vm_slot *s = &vm->slots[i];
		if (is_ram(s->flags))
			vm->ranges[vm->range_count++] = (struct gpa_range){
				.gpa = s->gpa, .size = s->size, .host = (uint8_t *)(uintptr_t)s->host,
			};
	}
}

bool vm_slot_set(struct vm *vm, const struct kvm_userspace_memory_region *region)
{
	struct vm_slot *slot = find_slot(vm, region->slot);
	bool fits = true;
	if (region->memory_size == 0) {
		if (slot)
			*slot = vm->slots[--vm->slot_count];
	} else {
		if (!slot)
			fits = vm->slot_count < vm->slot_capacity || grow(vm);
		if (!slot && fits)
			slot = &vm->slots[vm->slot_count++];
		if (slot)
			*slot = (struct vm_slot){
				.id = region->slot, .is_id_known = true, .flags = region->flags, .gpa = region->guest_phys_addr,
				.size = region->memory_size, .host = region->userspace_addr,
			};
	}
	rebuild_ranges(vm);
	return fits;
}

bool vm_slots_tell(struct vm *vm, const struct vm_slot *slots, uint32_t count)
{
	while (vm->slot_capacity < count) {
		if (!grow(vm))
			return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		vm->slots[i] = slots[i];
		vm->slots[i].is_id_known = false;
	}
	vm->slot_count = count;
	rebuild_ranges(vm);
	return true;
}

bool vm_slot_recognise(struct vm *vm, const struct kvm_userspace_memory_region *region)
{
	bool is_any_told = false;
	if (find_slot(vm, region->slot))
		return true;
	for (uint32_t i = 0; i < vm->slot_count; i++) {
		struct vm_slot *s = &vm->slots[i];
		if (s->is_id_known)
			continue;
		is_any_told = true;
		if (s->gpa == region->guest_phys_addr && s->host == region->userspace_addr) {
			s->id = region->slot;
			s->is_id_known = true;
			return true;
		}
	}
	return region->memory_size || !is_any_told; // a further slot; QEMU never moves one
}

struct gpa_map vm_map(const struct vm *vm)
{
	return (struct gpa_map){ .ranges = vm->ranges, .count = vm->range_count };
}

void vcpu_add(struct vm *vm, int fd, uint32_t index)
{
	if (fd < 0 || fd >= VCPU_FD_MAX || vm->run_size < (int)sizeof(struct kvm_run))
		return;
	struct vcpu *v = calloc(1, sizeof(*v));
	if (!v)
		return;
	*v = (struct vcpu){ .fd = fd, .index = index, .vm = vm };
	v->run = mmap(NULL, (size_t)vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (v->run == MAP_FAILED) {
		free(v);
		return;
	}
	v->next = vm->vcpus;
	vm->vcpus = v;
	// Pairs with vcpu_find. A former vCPU of this descriptor is not freed: its thread may still be in the hook.
	__atomic_store_n(&vcpus[fd], v, __ATOMIC_RELEASE);
}

struct vcpu *vcpu_find(int fd)
{
	if (fd < 0 || fd >= VCPU_FD_MAX)
		return NULL;
	return __atomic_load_n(&vcpus[fd], __ATOMIC_ACQUIRE);
}
