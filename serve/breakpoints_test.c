// SPDX-License-Identifier: MIT
// Handles of several clients against a kernel's table played here: what must be refused, shared, taken out, and be dead.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "serve/breakpoints.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define X 0xFFFFF80001234000u
#define Y 0xFFFFF80001235000u
#define REFUSED 0u

// A kernel: 32 places, no two of one address.
struct fixture {
	struct breakpoints b;
	struct breakpoints_client one, two;
	uint64_t kernel[BREAKPOINTS_PLACES]; // 0 = free
	unsigned asked;                      // requests that reached it
	uint8_t body[KD_BODY_MAX];
	uint32_t body_len;
};

static uint32_t kernel_add(struct fixture *f, uint64_t address)
{
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++)
		if (f->kernel[i] == address)
			return 0;
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++) {
		if (f->kernel[i])
			continue;
		f->kernel[i] = address;
		return i + 1;
	}
	return 0;
}

static bool kernel_delete(struct fixture *f, uint32_t handle)
{
	if (handle - 1 >= BREAKPOINTS_PLACES || !f->kernel[handle - 1])
		return false;
	f->kernel[handle - 1] = 0;
	return true;
}

static unsigned kernel_count(const struct fixture *f)
{
	unsigned count = 0;

	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++)
		count += f->kernel[i] != 0;
	return count;
}

// What the kernel makes of f->body.
static void kernel_work(struct fixture *f)
{
	uint32_t count = get_le32(f->body + 0x10), handle;
	bool done = true;

	f->asked++;
	switch (get_le32(f->body)) {
	case KD_API_WRITE_BREAKPOINT:
		handle = kernel_add(f, get_le64(f->body + 0x10));
		put_le32(f->body + 0x18, handle);
		done = handle != 0;
		break;
	case KD_API_RESTORE_BREAKPOINT:
		done = kernel_delete(f, get_le32(f->body + 0x10));
		break;
	case KD_API_WRITE_BREAKPOINT_EX:
		for (uint32_t i = 0; i < count; i++) {
			handle = kernel_add(f, get_le64(f->body + 56 + 16 * i));
			put_le32(f->body + 56 + 16 * i + 8, handle);
			done &= handle != 0;
		}
		break;
	case KD_API_RESTORE_BREAKPOINT_EX:
		for (uint32_t i = 0; i < count; i++)
			done &= kernel_delete(f, get_le32(f->body + 56 + 4 * i));
		break;
	default:
		break;
	}
	put_le32(f->body + 8, done ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL);
}

static void request(struct fixture *f, uint32_t api, uint32_t data_len)
{
	memset(f->body, 0, sizeof(f->body));
	put_le32(f->body, api);
	f->body_len = KD_MANIPULATE_SIZE + data_len;
}

// f->body goes the whole way. -> the status that the client gets.
static uint32_t talk(struct fixture *f, struct breakpoints_client *c)
{
	uint8_t asked[KD_BODY_MAX];

	if (breakpoints_ask(&f->b, c, f->body, f->body_len) == BREAKPOINTS_PASS) {
		memcpy(asked, f->body, f->body_len);
		kernel_work(f);
		breakpoints_answer(&f->b, c, asked, f->body_len, f->body, f->body_len);
	}
	return get_le32(f->body + 8);
}

// -> the client's handle, REFUSED.
static uint32_t set(struct fixture *f, struct breakpoints_client *c, uint64_t address)
{
	request(f, KD_API_WRITE_BREAKPOINT, 0);
	put_le64(f->body + 0x10, address);
	return kd_is_failure(talk(f, c)) ? REFUSED : get_le32(f->body + 0x18);
}

static bool restore(struct fixture *f, struct breakpoints_client *c, uint32_t handle)
{
	request(f, KD_API_RESTORE_BREAKPOINT, 0);
	put_le32(f->body + 0x10, handle);
	if (kd_is_failure(talk(f, c)))
		return false;
	assert_int_equal(get_le32(f->body + 0x10), handle); // a reply repeats the union
	return true;
}

// Of a kernel that was seen from its boot on.
static struct fixture *fresh(void **state)
{
	struct fixture *f = *state;

	memset(f, 0, sizeof(*f));
	breakpoints_init(&f->b);
	breakpoints_booted(&f->b);
	breakpoints_client_init(&f->one);
	breakpoints_client_init(&f->two);
	return f;
}

// ---- Refusals -------------------------------------------------------------------------------------------------

static void test_handles_that_are_none(void **state)
{
	static const uint32_t bad[] = { 0, 1, 32, 33, 255, 256, 0x80000000u, UINT32_MAX };
	struct fixture *f = fresh(state);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(restore(f, &f->one, bad[i]));
	assert_int_equal(f->asked, 0);
	assert_int_not_equal(set(f, &f->one, X), REFUSED);
	assert_false(restore(f, &f->two, 1)); // the other one's
	assert_int_equal(kernel_count(f), 1);
}

static void test_short_packets_pass_untouched(void **state)
{
	struct fixture *f = fresh(state);

	for (uint32_t len = 0; len < KD_MANIPULATE_SIZE; len++) {
		uint8_t body[KD_MANIPULATE_SIZE], before[KD_MANIPULATE_SIZE];

		memset(body, 0x35, sizeof(body));
		put_le32(body, KD_API_RESTORE_BREAKPOINT);
		memcpy(before, body, sizeof(body));
		assert_int_equal(breakpoints_ask(&f->b, &f->one, body, len), BREAKPOINTS_PASS);
		breakpoints_answer(&f->b, &f->one, body, len, body, len);
		assert_memory_equal(body, before, sizeof(body));
	}
}

static void test_counts_that_cannot_be(void **state)
{
	static const uint32_t apis[] = { KD_API_WRITE_BREAKPOINT_EX, KD_API_RESTORE_BREAKPOINT_EX };
	struct fixture *f = fresh(state);
	uint8_t asked[KD_BODY_MAX];

	for (unsigned i = 0; i < 2; i++) {
		request(f, apis[i], 7);
		put_le32(f->body + 0x10, UINT32_MAX);
		memcpy(asked, f->body, sizeof(asked));
		assert_int_equal(breakpoints_ask(&f->b, &f->one, f->body, f->body_len), BREAKPOINTS_PASS);
		breakpoints_answer(&f->b, &f->one, asked, f->body_len, f->body, KD_MANIPULATE_SIZE);
		breakpoints_answer(&f->b, &f->one, asked, KD_MANIPULATE_SIZE, f->body, f->body_len);
	}
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
}

static void test_replies_that_cannot_be(void **state)
{
	struct fixture *f = fresh(state);
	uint8_t asked[KD_MANIPULATE_SIZE];

	request(f, KD_API_WRITE_BREAKPOINT, 0);
	put_le64(f->body + 0x10, X);
	memcpy(asked, f->body, sizeof(asked));
	put_le32(f->body, KD_API_READ_VIRTUAL); // of another request
	put_le32(f->body + 0x18, 5);
	breakpoints_answer(&f->b, &f->one, asked, sizeof(asked), f->body, f->body_len);
	assert_false(restore(f, &f->one, 5));
	put_le32(f->body, KD_API_WRITE_BREAKPOINT);
	put_le32(f->body + 8, 0);
	put_le32(f->body + 0x18, 33); // a place that no kernel has
	breakpoints_answer(&f->b, &f->one, asked, sizeof(asked), f->body, f->body_len);
	assert_int_equal(get_le32(f->body + 0x18), 33);
	assert_false(restore(f, &f->one, 33));
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
}

static void test_twice_by_one_client_is_refused(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->one, X), REFUSED);
	assert_true(restore(f, &f->one, 1));
	assert_false(restore(f, &f->one, 1));
}

static void test_ex_that_would_have_to_be_split(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->two, X), 1);
	assert_int_equal(set(f, &f->two, Y), 2);
	f->asked = 0;
	request(f, KD_API_RESTORE_BREAKPOINT_EX, 8);
	put_le32(f->body + 0x10, 2);
	put_le32(f->body + 56, 2);
	put_le32(f->body + 60, 1);
	assert_int_equal(talk(f, &f->two), KD_STATUS_UNSUCCESSFUL);
	request(f, KD_API_WRITE_BREAKPOINT_EX, 16);
	put_le32(f->body + 0x10, 1);
	put_le64(f->body + 56, Y + 1);
	put_le32(f->body + 64, 1); // a handle in a write
	assert_int_equal(talk(f, &f->one), KD_STATUS_UNSUCCESSFUL);
	assert_int_equal(f->asked, 0);
	assert_int_equal(kernel_count(f), 2);
}

// ---- What works -----------------------------------------------------------------------------------------------

static void test_alone_the_numbers_are_the_kernels(void **state)
{
	struct fixture *f = fresh(state);

	for (uint32_t i = 1; i <= BREAKPOINTS_PLACES; i++)
		assert_int_equal(set(f, &f->one, X + i), i);
	assert_int_equal(set(f, &f->one, Y), REFUSED);
	assert_true(restore(f, &f->one, 7));
	assert_int_equal(set(f, &f->one, Y), 7);
	assert_int_equal(f->asked, BREAKPOINTS_PLACES + 3);
}

static void test_numbers_of_two_do_not_meet(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->two, Y), 2);
	assert_false(restore(f, &f->one, 2));
	assert_false(restore(f, &f->two, 1));
	assert_true(restore(f, &f->two, 2));
	assert_true(f->kernel[0] == X && kernel_count(f) == 1);
}

static void test_one_address_two_clients(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->two, X), 1);
	assert_int_equal(f->asked, 2); // the kernel alone knows whether it still has it
	assert_true(restore(f, &f->one, 1));
	assert_int_equal(kernel_count(f), 1);
	assert_false(restore(f, &f->one, 1));
	assert_true(restore(f, &f->two, 1));
	assert_int_equal(kernel_count(f), 0);
}

static void test_place_given_out_anew(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	f->kernel[0] = 0; // dropped
	assert_int_equal(set(f, &f->two, Y), 1);
	assert_false(restore(f, &f->one, 1)); // would have taken out the other one's
	assert_true(f->kernel[0] == Y);
	assert_true(restore(f, &f->two, 1));
}

static void test_dropped_and_set_again(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->two, X), 1);
	f->kernel[0] = 0; // dropped
	assert_int_equal(set(f, &f->one, X), 1);
	assert_true(restore(f, &f->one, 1)); // the other one still believes in it, and it is there
	assert_true(f->kernel[0] == X);
	assert_true(restore(f, &f->two, 1));
	assert_int_equal(kernel_count(f), 0);
}

static void test_dropped_and_set_elsewhere(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, Y), 1);
	assert_int_equal(set(f, &f->one, X), 2);
	f->kernel[0] = f->kernel[1] = 0; // dropped, both
	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->two, X), 1); // not 2, where it stood
	assert_true(restore(f, &f->one, 1));
	assert_true(restore(f, &f->two, 1));
	assert_int_equal(kernel_count(f), 0);
}

static void test_what_the_kernel_dropped_is_refused_by_it(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	f->kernel[0] = 0;
	assert_false(restore(f, &f->one, 1));
	assert_int_equal(f->asked, 2);
}

// ---- Leaving ----------------------------------------------------------------------------------------------------

static void test_orphans(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	assert_int_equal(set(f, &f->one, Y), 2);
	assert_int_equal(set(f, &f->two, Y), 2);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
	breakpoints_client_left(&f->b, &f->one);
	assert_int_equal(breakpoints_next_orphan(&f->b), 1);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
	breakpoints_client_left(&f->b, &f->two);
	assert_int_equal(breakpoints_next_orphan(&f->b), 2);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
}

static void test_orphan_is_adopted(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	breakpoints_client_left(&f->b, &f->one);
	assert_int_equal(set(f, &f->two, X), 1);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
	assert_true(restore(f, &f->two, 1));
	assert_int_equal(kernel_count(f), 0);
}

static void test_left_before_the_answer(void **state)
{
	struct fixture *f = fresh(state);
	uint8_t asked[KD_MANIPULATE_SIZE];

	request(f, KD_API_WRITE_BREAKPOINT, 0);
	put_le64(f->body + 0x10, X);
	assert_int_equal(breakpoints_ask(&f->b, &f->one, f->body, f->body_len), BREAKPOINTS_PASS);
	memcpy(asked, f->body, sizeof(asked));
	breakpoints_client_left(&f->b, &f->one);
	kernel_work(f);
	breakpoints_answer(&f->b, NULL, asked, sizeof(asked), f->body, f->body_len);
	assert_int_equal(breakpoints_next_orphan(&f->b), 1);

	assert_int_equal(set(f, &f->two, Y), 2);
	request(f, KD_API_RESTORE_BREAKPOINT, 0);
	put_le32(f->body + 0x10, 2);
	assert_int_equal(breakpoints_ask(&f->b, &f->two, f->body, f->body_len), BREAKPOINTS_PASS);
	memcpy(asked, f->body, sizeof(asked));
	breakpoints_client_left(&f->b, &f->two);
	kernel_work(f);
	breakpoints_answer(&f->b, NULL, asked, sizeof(asked), f->body, f->body_len);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
}

// ---- Other kernels, other times -----------------------------------------------------------------------------------

static void test_forget(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	breakpoints_booted(&f->b);
	f->asked = 0;
	assert_false(restore(f, &f->one, 1));
	assert_int_equal(f->asked, 0);
	breakpoints_client_left(&f->b, &f->one);
	assert_int_equal(breakpoints_next_orphan(&f->b), 0);
}

static void test_unknown_places_are_the_kernels_to_judge(void **state)
{
	struct fixture *f = fresh(state);

	f->kernel[2] = X; // of a debugger before this broker's time
	breakpoints_forget(&f->b);
	assert_true(restore(f, &f->one, 3));
	assert_false(restore(f, &f->one, 4));
	assert_int_equal(f->asked, 2);
	assert_false(restore(f, &f->one, 3)); // known by now
	assert_false(restore(f, &f->one, 4));
	assert_int_equal(f->asked, 2);
}

// WinDbg restores 1 to 32 when it connects.
static void test_windbg_connects(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->one, X), 1);
	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++)
		assert_false(restore(f, &f->two, handle));
	assert_int_equal(kernel_count(f), 1);
}

static void test_ex(void **state)
{
	struct fixture *f = fresh(state);

	assert_int_equal(set(f, &f->two, Y), 1);
	request(f, KD_API_WRITE_BREAKPOINT_EX, 32);
	put_le32(f->body + 0x10, 2);
	put_le64(f->body + 56, X);
	put_le64(f->body + 72, Y);
	assert_int_equal(talk(f, &f->one), KD_STATUS_SUCCESS); // the second is there already
	assert_int_equal(get_le32(f->body + 64), 2);
	assert_int_equal(get_le32(f->body + 80), 1);
	assert_true(restore(f, &f->two, 1));
	assert_int_equal(kernel_count(f), 2);
	request(f, KD_API_RESTORE_BREAKPOINT_EX, 8);
	put_le32(f->body + 0x10, 2);
	put_le32(f->body + 56, 1);
	put_le32(f->body + 60, 2);
	assert_int_equal(talk(f, &f->one), KD_STATUS_SUCCESS);
	assert_int_equal(kernel_count(f), 0);
	assert_false(restore(f, &f->one, 1));
}

int main(void)
{
	static struct fixture fixture;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_handles_that_are_none, &fixture),
		cmocka_unit_test_prestate(test_short_packets_pass_untouched, &fixture),
		cmocka_unit_test_prestate(test_counts_that_cannot_be, &fixture),
		cmocka_unit_test_prestate(test_replies_that_cannot_be, &fixture),
		cmocka_unit_test_prestate(test_twice_by_one_client_is_refused, &fixture),
		cmocka_unit_test_prestate(test_ex_that_would_have_to_be_split, &fixture),
		cmocka_unit_test_prestate(test_alone_the_numbers_are_the_kernels, &fixture),
		cmocka_unit_test_prestate(test_numbers_of_two_do_not_meet, &fixture),
		cmocka_unit_test_prestate(test_one_address_two_clients, &fixture),
		cmocka_unit_test_prestate(test_place_given_out_anew, &fixture),
		cmocka_unit_test_prestate(test_dropped_and_set_again, &fixture),
		cmocka_unit_test_prestate(test_dropped_and_set_elsewhere, &fixture),
		cmocka_unit_test_prestate(test_what_the_kernel_dropped_is_refused_by_it, &fixture),
		cmocka_unit_test_prestate(test_orphans, &fixture),
		cmocka_unit_test_prestate(test_orphan_is_adopted, &fixture),
		cmocka_unit_test_prestate(test_left_before_the_answer, &fixture),
		cmocka_unit_test_prestate(test_forget, &fixture),
		cmocka_unit_test_prestate(test_unknown_places_are_the_kernels_to_judge, &fixture),
		cmocka_unit_test_prestate(test_windbg_connects, &fixture),
		cmocka_unit_test_prestate(test_ex, &fixture),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
