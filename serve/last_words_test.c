// SPDX-License-Identifier: MIT
// The prints of a guest whose VMM has died, out of a file that holds its RAM: all that were not seen, none twice, and nothing of a ring that is none.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "serve/last_words.h"
#include "vmm/fake_guest.h"
#include "wire/kdapi.h"

#define RAM_GPA 0x100000u
#define RAM_SIZE (64u * AREA_PAGE_SIZE)
#define FIRST 3u

static uint8_t *ram;
static int ram_fd;
static struct fake_guest guest;
static struct last_words words;
static char heard[4096];

static void hear(void *arg, const struct link_head *head, const uint8_t *body)
{
	size_t len = strlen(heard);

	assert_ptr_equal(arg, &words);
	assert_int_equal(head->type, LINK_PACKET);
	assert_int_equal(head->kd_type, KD_PACKET_DEBUG_IO);
	assert_int_equal(head->hdr_len, 16);
	assert_int_equal(head->body_len, 17);
	snprintf(heard + len, sizeof(heard) - len, "%u%c ", head->seq, body[16]);
}

static void collected(const char *expected)
{
	heard[0] = 0;
	last_words_collect(&words, hear, &words);
	assert_string_equal(heard, expected);
}

static void say(char letter)
{
	uint8_t body[17] = { 0 };

	body[16] = (uint8_t)letter;
	fake_guest_send(&guest, KD_PACKET_DEBUG_IO, 16, body, sizeof(body));
}

// The host has taken everything so far.
static void take_all(void)
{
	guest.head->tx_tail = guest.tx.head;
	guest.head->tx_done_seq = guest.tx_seq;
}

static void tell_memory(uint32_t file)
{
	struct link_memory m = { .pid = (uint32_t)getpid(), .piece_count = 1, .file_count = 1,
				 .pieces = { { .gpa = RAM_GPA, .size = RAM_SIZE, .file = file, .at = file ? (uintptr_t)ram : 0 } } };
	int fd = fcntl(ram_fd, F_DUPFD_CLOEXEC, 0);

	last_words_memory(&words, &m, offsetof(struct link_memory, pieces) + sizeof(m.pieces[0]), &fd, 1);
	close(fd);
}

static void registered(void)
{
	last_words_registered(&words, &(struct link_guest){ .head_gpa = fake_guest_head(&guest).v });
}

static int setup(void **state)
{
	int rw = memfd_create("ram", MFD_CLOEXEC);
	char path[40];

	(void)state;
	if (rw < 0 || ftruncate(rw, RAM_SIZE) < 0)
		return -1;
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rw);
	ram_fd = open(path, O_RDONLY | O_CLOEXEC); // a writer of any kind would be a segmentation fault
	close(rw);
	if (ram == MAP_FAILED || ram_fd < 0)
		return -1;
	guest.tx_seq = 0;
	fake_guest_init(&guest, ram, RAM_GPA, FIRST, 8, 2, 0x1234567);
	words = (struct last_words){ 0 };
	tell_memory(0);
	registered();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	last_words_deinit(&words);
	munmap(ram, RAM_SIZE);
	return close(ram_fd);
}

static void test_no_guest(void **state)
{
	(void)state;
	say('a');
	last_words_gone(&words);
	collected("");
	last_words_deinit(&words);
	registered();
	collected(""); // no memory
}

static void test_private_memory(void **state)
{
	(void)state;
	say('a');
	tell_memory(LINK_MEMORY_REMOTE);
	collected("");
}

static void test_pages_in_other_hands(void **state)
{
	(void)state;
	say('a');
	((struct page_head *)guest.pages[2])->nonce++; // the ring's second page
	collected("");
}

static void test_positions_that_cannot_be(void **state)
{
	(void)state;
	say('a');
	guest.head->tx_tail = 4; // not aligned
	collected("");
	registered();
	guest.head->tx_tail = guest.tx.head + 8; // the ring would hold more than fits
	collected("");
	registered();
	guest.head->tx_tail = 0;
	guest.head->tx_head = 0xFFFFFFF8u;
	collected("");
}

static void test_damaged_record(void **state)
{
	struct record_head *second;

	(void)state;
	say('a');
	second = (struct record_head *)(guest.pages[1] + AREA_PAGE_HEAD + guest.tx.head);
	say('b');
	say('c');
	second->len = 0;
	collected("1a ");
}

static void test_everything_is_new(void **state)
{
	(void)state;
	say('a');
	say('b');
	collected("1a 2b ");
	collected(""); // once
}

static void test_seen_and_taken(void **state)
{
	(void)state;
	say('a');
	say('b');
	take_all();
	say('c');
	say('d');
	last_words_seen(&words, 3); // has come, but the call that brought it was not answered any more
	collected("4d ");
	registered(); // a new broker: only the head knows
	collected("3c 4d ");
}

// Tail and head may be anywhere; what the guest said when it registered (tx_base) is long past.
static void test_round_the_ring(void **state)
{
	char expected[64];

	(void)state;
	for (unsigned i = 0; i < 3000; i++) {
		say('x');
		take_all();
	}
	assert_int_equal(guest.head->tx_base, 0);
	last_words_seen(&words, 3000);
	for (unsigned i = 0; i < 600; i++)
		say('y'); // a full ring
	heard[0] = 0;
	last_words_collect(&words, hear, &words);
	snprintf(expected, sizeof(expected), "3001y 3002y ");
	assert_memory_equal(heard, expected, strlen(expected));
	assert_string_equal(heard + strlen(heard) - 6, "3600y ");
}

static void test_numbers_wrap(void **state)
{
	(void)state;
	guest.tx_seq = 0xFFFFFFFEu;
	say('a');
	take_all();
	last_words_seen(&words, 0xFFFFFFFFu);
	say('b');
	collected("0b ");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_no_guest),
		T(test_private_memory),
		T(test_pages_in_other_hands),
		T(test_positions_that_cannot_be),
		T(test_damaged_record),
		T(test_everything_is_new),
		T(test_seen_and_taken),
		T(test_round_the_ring),
		T(test_numbers_wrap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
