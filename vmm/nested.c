// SPDX-License-Identifier: MIT
#include "vmm/nested.h"

#include <errno.h>
#include <string.h>

#include "vmm/hook.h"

#define CR4_VMXE (1u << 13)
#define EFER_SVME (1u << 12)
#define STATE_MAX 16384u // Intel: a head of 128 bytes and two VMCS of 4096

bool nested_is_possible(uint64_t cr4, uint64_t efer)
{
	return cr4 & CR4_VMXE || efer & EFER_SVME;
}

bool nested_says_inner(const void *state, size_t len)
{
	struct kvm_nested_state head;
	if (len < sizeof(head))
		return true;
	memcpy(&head, state, sizeof(head));
	return head.size < sizeof(head) || head.size > len || head.flags & KVM_STATE_NESTED_GUEST_MODE;
}

bool nested_is_on(const struct vcpu *v, uint64_t cr4, uint64_t efer)
{
	static union { // under the lock
		struct kvm_nested_state head;
		uint8_t bytes[STATE_MAX];
	} state;
	if (!v->vm->nested_size || !nested_is_possible(cr4, efer))
		return false;
	// With room for the head alone KVM tells the size of the rest and nothing else, if there is any.
	uint32_t size = sizeof(state.head);
	for (int tries = 0; tries < 2; tries++) {
		memset(&state.head, 0, sizeof(state.head));
		state.head.size = size;
		if (!hook_next_ioctl(v->fd, KVM_GET_NESTED_STATE, &state))
			return nested_says_inner(&state, size);
		if (errno != E2BIG || state.head.size <= size || state.head.size > sizeof(state))
			return true;
		size = state.head.size;
	}
	return true;
}
