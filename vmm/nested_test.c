// SPDX-License-Identifier: MIT
// Nested guests, with answers of KVM's made by hand: a software KVM has no nested state, so this is what stands in for it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vmm/hook.h"
#include "vmm/nested.h"

#define VMXE 0x2000u
#define SVME 0x1000u

// The KVM of these tests.
static struct {
	uint32_t size;   // bytes of its whole answer
	uint16_t flags;
	int error;       // instead of an answer
	unsigned asked;
} kvm;

int hook_next_ioctl(int fd, unsigned long request, void *arg)
{
	struct kvm_nested_state *state = arg;
	assert_int_equal(fd, 7);
	assert_int_equal(request, KVM_GET_NESTED_STATE);
	kvm.asked++;
	errno = kvm.error ? kvm.error : E2BIG;
	if (kvm.error)
		return -1;
	bool is_too_small = state->size < kvm.size;
	state->size = kvm.size;
	if (is_too_small)
		return -1; // and no flags: as the kernel does it
	state->flags = kvm.flags;
	return 0;
}

static bool asks(uint32_t nested_size, uint64_t cr4, uint64_t efer)
{
	struct vm vm = { .nested_size = nested_size };
	const struct vcpu v = { .fd = 7, .vm = &vm };
	kvm.asked = 0;
	return nested_is_on(&v, cr4, efer);
}

static void damaged_states_count_as_inner(void **state)
{
	(void)state;
	struct kvm_nested_state s = { .size = sizeof(s) };
	assert_true(nested_says_inner(&s, sizeof(s) - 1));
	assert_true(nested_says_inner(&s, 0));
	s.size = sizeof(s) - 1;
	assert_true(nested_says_inner(&s, sizeof(s)));
	s.size = sizeof(s) + 1;
	assert_true(nested_says_inner(&s, sizeof(s)));
}

static void the_flag_decides(void **state)
{
	(void)state;
	struct kvm_nested_state s = { .size = sizeof(s), .flags = 0xFFFE };
	assert_false(nested_says_inner(&s, sizeof(s)));
	s.flags = KVM_STATE_NESTED_GUEST_MODE;
	assert_true(nested_says_inner(&s, sizeof(s)));
	uint8_t vmx[128 + 4096] = { 0 };
	s.flags = KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_EVMCS;
	s.size = sizeof(vmx);
	memcpy(vmx, &s, sizeof(s));
	assert_true(nested_says_inner(vmx, sizeof(vmx)));
	vmx[0] = KVM_STATE_NESTED_RUN_PENDING;
	assert_false(nested_says_inner(vmx, sizeof(vmx)));
}

static void kvm_is_asked_only_when_it_could_be(void **state)
{
	(void)state;
	kvm.size = sizeof(struct kvm_nested_state);
	kvm.flags = KVM_STATE_NESTED_GUEST_MODE;
	kvm.error = 0;
	assert_false(asks(4224, 0x370678, 0xD01)); // what Windows has without a hypervisor
	assert_int_equal(kvm.asked, 0);
	assert_false(asks(0, VMXE, SVME)); // a KVM without nested state
	assert_int_equal(kvm.asked, 0);
	assert_true(asks(4224, VMXE, 0));
	assert_true(asks(4224, 0, SVME));
	assert_int_equal(kvm.asked, 1);
	kvm.flags = 0;
	assert_false(asks(4224, VMXE, 0));
}

static void a_large_state_is_fetched_whole(void **state)
{
	(void)state;
	kvm.size = 128 + 2 * 4096;
	kvm.error = 0;
	kvm.flags = KVM_STATE_NESTED_GUEST_MODE;
	assert_true(asks(kvm.size, VMXE, 0));
	assert_int_equal(kvm.asked, 2);
	kvm.flags = KVM_STATE_NESTED_RUN_PENDING;
	assert_false(asks(kvm.size, VMXE, 0));
	assert_int_equal(kvm.asked, 2);
}

static void what_cannot_be_told_counts_as_inner(void **state)
{
	(void)state;
	kvm.flags = 0;
	kvm.error = EINVAL;
	assert_true(asks(4224, VMXE, 0));
	assert_int_equal(kvm.asked, 1);
	kvm.error = 0;
	kvm.size = 1u << 20; // larger than anything known
	assert_true(asks(4224, VMXE, 0));
	assert_int_equal(kvm.asked, 1);
	kvm.error = E2BIG; // and the same size again
	assert_true(asks(4224, VMXE, 0));
	assert_int_equal(kvm.asked, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_states_count_as_inner),
		cmocka_unit_test(the_flag_decides),
		cmocka_unit_test(kvm_is_asked_only_when_it_could_be),
		cmocka_unit_test(a_large_state_is_fetched_whole),
		cmocka_unit_test(what_cannot_be_told_counts_as_inner),
	};
	return cmocka_run_group_tests_name("nested", tests, NULL, NULL) ? 1 : 0;
}
