// SPDX-License-Identifier: MIT
// Kernel and transport, found in made-up images: what must not be found first.
#include "guest/driver/fakekernel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct finding found;

static int find(void)
{
	memset(&found, 0x5A, sizeof(found));
	return finder_find(fakekernel_inside(), fakekernel_list(), fakekernel_is_mapped, &found);
}

static void assert_not(int code)
{
	assert_int_equal(find(), code);
	struct finding untouched;
	memset(&untouched, 0x5A, sizeof(untouched));
	assert_memory_equal(&found, &untouched, sizeof(found));
}

static void kernels_that_are_none(void **state)
{
	(void)state; // none
	static const uint32_t damages[] = { 0, 0x3C, FAKE_PE, FAKE_OPTIONAL, FAKE_OPTIONAL + 0x3B };
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		fakekernel_build();
		fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + damages[i]] ^= 0xFF;
		assert_not(FINDER_E_KERNEL);
	}
	fakekernel_build();
	fakekernel_put16(FAKE_KERNEL, FAKE_OPTIONAL, 0x10B); // a 32-bit image around a 64-bit driver
	assert_not(FINDER_E_KERNEL);
}

static void a_kernel_has_to_be_listed(void **state)
{
	(void)state; // none
	fakekernel_build();
	fakekernel_list()->Modules[1].ImageBase = NULL;
	assert_not(FINDER_E_KERNEL);
	fakekernel_build();
	fakekernel_list()->Modules[1].ImageSize -= FAKE_PAGE; // another image at the same place
	assert_not(FINDER_E_KERNEL);
	fakekernel_build();
	fakekernel_list()->NumberOfModules = 1;
	assert_not(FINDER_E_KERNEL);
	fakekernel_build();
	fakekernel_list()->NumberOfModules = 0;
	assert_not(FINDER_E_KERNEL);
}

static void a_transport_has_to_be_entered(void **state)
{
	(void)state; // none
	fakekernel_build();
	*fakekernel_entry(FAKE_ENTRY_SEND) = NULL;
	assert_not(FINDER_E_TRANSPORT);
	fakekernel_build();
	*fakekernel_entry(FAKE_ENTRY_RECEIVE) = (uint8_t *)fakekernel_function(FAKE_TRANSPORT, 1) + 1; // inside, and not what it exports
	assert_not(FINDER_E_TRANSPORT);
	fakekernel_build();
	*fakekernel_entry(3) = *fakekernel_entry(FAKE_ENTRY_SEND); // which of the two is called?
	assert_not(FINDER_E_TRANSPORT);
	fakekernel_build();
	fakekernel_list()->NumberOfModules = 3; // the transport is not in the list
	assert_not(FINDER_E_TRANSPORT);
	fakekernel_build();
	fakekernel_list()->Modules[3].ImageSize = FAKE_PAGE; // nor is it with the size that its header has
	assert_not(FINDER_E_TRANSPORT);
}

static void a_table_that_cannot_be_read(void **state)
{
	(void)state; // none
	fakekernel_build();
	fakekernel.is_hole[FAKE_KERNEL + FAKE_IAT / FAKE_PAGE] = true;
	assert_not(FINDER_E_TRANSPORT);
	static const uint32_t spans[][2] = { { 0xFFFFFFF8, 0x80 }, { FAKE_IAT, 8 }, { 0xFFFFFFF9, 0xFFFFFFFF }, { FAKE_KERNEL_PAGES * FAKE_PAGE, 64 } };
	for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
		fakekernel_build();
		fakekernel_put32(FAKE_KERNEL, FAKE_DIRECTORIES + 8 * 12, spans[i][0]);
		fakekernel_put32(FAKE_KERNEL, FAKE_DIRECTORIES + 8 * 12 + 4, spans[i][1]);
		assert_not(FINDER_E_TRANSPORT);
	}
}

static void a_transport_with_one_export(void **state)
{
	(void)state; // none
	static const uint32_t names[] = { FAKE_EXPORTS + 0x200 + 32, FAKE_EXPORTS + 0x200 + 64 };
	for (size_t i = 0; i < 2; i++) {
		fakekernel_build();
		fakekernel_put16(FAKE_TRANSPORT, names[i], 0x4444);
		assert_not(FINDER_E_EXPORT);
	}
	fakekernel_build();
	fakekernel_put16(FAKE_TRANSPORT, names[0], 0x4444);
	fakekernel_put16(FAKE_TRANSPORT, names[1], 0x4444);
	assert_not(FINDER_E_TRANSPORT);
}

static void our_own_transport_is_told(void **state)
{
	(void)state; // none
	fakekernel_build();
	strcpy((char *)&fakekernel.memory[FAKE_TRANSPORT * FAKE_PAGE + FAKE_EXPORTS + 0x200], "KdVmkdIdentity");
	assert_int_equal(find(), FINDER_E_OURS);
}

static void assert_found(void **send, void **receive)
{
	assert_int_equal(find(), FINDER_OK);
	assert_ptr_equal(found.kernel, &fakekernel.memory[FAKE_KERNEL * FAKE_PAGE]);
	assert_ptr_equal(found.transport, &fakekernel.memory[FAKE_TRANSPORT * FAKE_PAGE]);
	assert_ptr_equal(found.entry[FINDER_SEND], send);
	assert_ptr_equal(found.entry[FINDER_RECEIVE], receive);
	assert_ptr_equal(found.function[FINDER_SEND], fakekernel_function(FAKE_TRANSPORT, 2));
	assert_ptr_equal(found.function[FINDER_RECEIVE], fakekernel_function(FAKE_TRANSPORT, 1));
}

static void the_transport_is_found_by_what_the_kernel_calls(void **state)
{
	(void)state; // none
	fakekernel_build();
	assert_found(fakekernel_entry(FAKE_ENTRY_SEND), fakekernel_entry(FAKE_ENTRY_RECEIVE));
	// Names are never looked at, nor what is damaged elsewhere.
	memset(fakekernel_list()->Modules[3].FullPathName, 0xFF, sizeof(fakekernel_list()->Modules[3].FullPathName));
	fakekernel.memory[FAKE_HAL * FAKE_PAGE] = 0;
	fakekernel_list()->Modules[0].ImageBase = (void *)(uintptr_t)0x1000;
	assert_found(fakekernel_entry(FAKE_ENTRY_SEND), fakekernel_entry(FAKE_ENTRY_RECEIVE));
	// A pointer elsewhere in the kernel is no entry.
	memcpy(&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_DATA], fakekernel_entry(FAKE_ENTRY_SEND), sizeof(void *));
	assert_found(fakekernel_entry(FAKE_ENTRY_SEND), fakekernel_entry(FAKE_ENTRY_RECEIVE));
}

static void without_a_directory_the_data_is_searched(void **state)
{
	(void)state; // none
	fakekernel_build();
	fakekernel_drop_directory();
	void **send = (void **)(uintptr_t)&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_DATA + 0x2100 + 8 * FAKE_ENTRY_SEND];
	void **receive = send + (FAKE_ENTRY_RECEIVE - FAKE_ENTRY_SEND);
	assert_found(send, receive);
	// What will be thrown away, is code, or was not in the file (a variable, a stack) is not looked at.
	memcpy(&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_DATA + FAKE_DATA_LEN], send, 24);
	memcpy(&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_INIT], send, 24);
	memcpy(&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_FUNCTIONS], send, 24);
	assert_found(send, receive);
	memcpy(&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_DATA + 0x10], send, 8); // a copy in the data: which is it?
	assert_not(FINDER_E_TRANSPORT);
	void **constant = (void **)(uintptr_t)&fakekernel.memory[FAKE_KERNEL * FAKE_PAGE + FAKE_CONST]; // what is read-only goes before
	memcpy(constant, send, 24);
	assert_found(constant, constant + (FAKE_ENTRY_RECEIVE - FAKE_ENTRY_SEND));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernels_that_are_none),
		cmocka_unit_test(a_kernel_has_to_be_listed),
		cmocka_unit_test(a_transport_has_to_be_entered),
		cmocka_unit_test(a_table_that_cannot_be_read),
		cmocka_unit_test(a_transport_with_one_export),
		cmocka_unit_test(our_own_transport_is_told),
		cmocka_unit_test(the_transport_is_found_by_what_the_kernel_calls),
		cmocka_unit_test(without_a_directory_the_data_is_searched),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
