// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "serve/doorbell.h"
#include "wire/le.h"

static void make_hello(uint8_t bytes[DOORBELL_HELLO_LEN], uint64_t gpa)
{
	uint8_t sum = 0;

	bytes[0] = DOORBELL_HELLO;
	put_le64(bytes + 1, gpa);
	for (int i = 1; i <= 8; i++)
		sum = (uint8_t)(sum + bytes[i]);
	bytes[9] = sum;
}

// What the bytes mean: 'R' for each ring, 'H' for each hello.
static const char *meaning(struct doorbell *d, const uint8_t *bytes, size_t len)
{
	static char text[64];
	size_t used, n = 0;
	gpa_t head = { 0 };

	while (len) {
		enum doorbell_event ev = doorbell_feed(d, bytes, len, &used, &head);

		bytes += used;
		len -= used;
		if (ev != DOORBELL_EV_NONE && n < sizeof(text) - 1)
			text[n++] = ev == DOORBELL_EV_RING ? 'R' : 'H';
	}
	text[n] = 0;
	return text;
}

static void test_rings_and_hellos(void **state)
{
	struct doorbell d = { 0 };
	uint8_t bytes[32] = "RR";
	gpa_t head;
	size_t used;

	(void)state;
	make_hello(bytes + 2, 0x123456789000);
	bytes[12] = DOORBELL_RING;
	assert_string_equal(meaning(&d, bytes, 13), "RRHR");
	assert_int_equal(doorbell_feed(&d, bytes + 2, 10, &used, &head), DOORBELL_EV_HELLO);
	assert_true(head.v == 0x123456789000);
	assert_int_equal(used, 10);
	assert_int_equal(d.refused, 0);
}

static void test_hello_byte_by_byte(void **state)
{
	struct doorbell d = { 0 };
	uint8_t hello[DOORBELL_HELLO_LEN];
	gpa_t head;
	size_t used;

	(void)state;
	make_hello(hello, 0x5252525252525252); // rings in it are no rings
	for (int i = 0; i < 9; i++)
		assert_int_equal(doorbell_feed(&d, hello + i, 1, &used, &head), DOORBELL_EV_NONE);
	assert_int_equal(doorbell_feed(&d, hello + 9, 1, &used, &head), DOORBELL_EV_HELLO);
}

static void test_noise_is_counted(void **state)
{
	struct doorbell d = { 0 };

	(void)state;
	assert_string_equal(meaning(&d, (const uint8_t *)"SeaBIOS\n", 8), "");
	assert_int_equal(d.refused, 8);
	assert_int_equal(d.count, 0);
}

static void test_wrong_sum_loses_no_hello_behind_it(void **state)
{
	struct doorbell d = { 0 };
	uint8_t bytes[16];
	gpa_t head = { 0 };
	size_t used;

	(void)state;
	bytes[0] = DOORBELL_HELLO; // the end of a hello whose beginning nobody read
	bytes[1] = 1;
	bytes[2] = 2;
	make_hello(bytes + 3, 0x7000);
	assert_string_equal(meaning(&d, bytes, 13), "H");
	assert_true(d.refused > 0);
	assert_int_equal(doorbell_feed(&d, bytes, 10, &used, &head), DOORBELL_EV_NONE); // the bad one is none,
	assert_int_equal(d.count, 7);
	assert_int_equal(doorbell_feed(&d, bytes + 10, 3, &used, &head), DOORBELL_EV_HELLO); // the one in it is
	assert_true(head.v == 0x7000);
}

static void test_reset_forgets_half_a_hello(void **state)
{
	struct doorbell d = { 0 };
	uint8_t hello[DOORBELL_HELLO_LEN];

	(void)state;
	make_hello(hello, 0x1000);
	assert_string_equal(meaning(&d, hello, 5), "");
	doorbell_reset(&d);
	assert_string_equal(meaning(&d, hello, 10), "H");
}

static void test_anything_ends(void **state)
{
	struct doorbell d = { 0 };
	uint8_t bytes[64];

	(void)state;
	srand(1);
	for (int round = 0; round < 20000; round++) {
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)(rand() % 4 ? "HR\0\1"[rand() % 4] : rand());
		meaning(&d, bytes, (size_t)(1 + rand() % 64));
		assert_true(d.count < DOORBELL_HELLO_LEN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rings_and_hellos),
		cmocka_unit_test(test_hello_byte_by_byte),
		cmocka_unit_test(test_noise_is_counted),
		cmocka_unit_test(test_wrong_sum_loses_no_hello_behind_it),
		cmocka_unit_test(test_reset_forgets_half_a_hello),
		cmocka_unit_test(test_anything_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
