// SPDX-License-Identifier: MIT
// Whatever a dead guest left in its RAM: a module's area with bytes of it overwritten. What is given must be packets that can be, in order.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "serve/last_words.h"
#include "vmm/fake_guest.h"
#include "wire/kdapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define RAM_GPA 0x100000u
#define RAM_SIZE (16u * AREA_PAGE_SIZE)
#define FIRST 1u

static uint8_t *ram;
static int ram_fd;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	ram_fd = memfd_create("ram", MFD_CLOEXEC);
	if (ram_fd < 0 || ftruncate(ram_fd, RAM_SIZE) < 0)
		exit(1);
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	if (ram == MAP_FAILED)
		exit(1);
	return 0;
}

struct given {
	bool has_one;
	uint32_t seq;
};

static void take(void *arg, const struct link_head *head, const uint8_t *body)
{
	struct given *given = arg;
	uint8_t sum = 0;

	if (head->type != LINK_PACKET || !head->hdr_len || head->hdr_len > head->body_len || head->body_len > LINK_BODY_MAX)
		abort();
	if (given->has_one && given->seq && (int32_t)(head->seq - given->seq) <= 0)
		abort();
	given->has_one = true;
	given->seq = head->seq;
	for (uint32_t i = 0; i < head->body_len; i++)
		sum = (uint8_t)(sum + body[i]);
	(void)sum;
}

static void make_area(struct fake_guest *guest)
{
	uint8_t body[100] = { 0 };

	memset(ram, 0, RAM_SIZE);
	*guest = (struct fake_guest){ 0 };
	fake_guest_init(guest, ram, RAM_GPA, FIRST, 2, 2, 0x1234567);
	for (uint32_t i = 0; i < 5; i++)
		fake_guest_send(guest, KD_PACKET_DEBUG_IO, 16, body, 20 + 10 * i);
}

// Six bytes each: where (from the area's first page on), and four that stand there then.
static void overwrite(const uint8_t *data, size_t size)
{
	for (; size >= 6; data += 6, size -= 6) {
		uint32_t at = FIRST * AREA_PAGE_SIZE + (data[0] | (uint32_t)data[1] << 8);

		if (at + 4 <= RAM_SIZE)
			memcpy(ram + at, data + 2, 4);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct link_memory m = { .piece_count = 1, .file_count = 1, .pieces = { { .gpa = RAM_GPA, .size = RAM_SIZE } } };
	struct last_words words = { 0 };
	struct given given = { 0 };
	struct fake_guest guest;

	if (!size)
		return 0;
	make_area(&guest);
	overwrite(data + 1, size - 1);
	last_words_memory(&words, &m, offsetof(struct link_memory, pieces) + sizeof(m.pieces[0]), &ram_fd, 1);
	last_words_registered(&words, &(struct link_guest){ .head_gpa = RAM_GPA + FIRST * AREA_PAGE_SIZE });
	if (data[0] & 1)
		last_words_seen(&words, data[0] >> 1);
	last_words_collect(&words, take, &given);
	last_words_deinit(&words);
	return 0;
}
