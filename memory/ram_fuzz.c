// SPDX-License-Identifier: MIT
// Any bytes as a LINK_MEMORY message. What is taken must lie in order within the file, and reads must give what stands there, as a byte by byte
// look at the message says. What is refused changes nothing.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/ram.h"

#define PAGE 4096u
#define FILE_BYTES (16u * PAGE)
#define FILE_COUNT 2u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t contents[FILE_COUNT][FILE_BYTES];
static int fds[FILE_COUNT];

static void must(bool is_so)
{
	if (!is_so)
		abort();
}

static void make_files(void)
{
	for (unsigned f = 0; f < FILE_COUNT; f++) {
		fds[f] = memfd_create("vmkd-ram_fuzz", MFD_CLOEXEC);
		for (unsigned i = 0; i < FILE_BYTES; i++)
			contents[f][i] = (uint8_t)(i * 31 + i / PAGE * 7 + f * 97);
		must(fds[f] >= 0 && write(fds[f], contents[f], FILE_BYTES) == FILE_BYTES);
	}
}

// What the message says stands at gpa. -> false: no mapped RAM
static bool find_byte(const struct link_memory *m, uint64_t gpa, uint8_t *ret)
{
	for (uint32_t i = 0; i < m->piece_count; i++) {
		const struct link_memory_piece *p = &m->pieces[i];

		if (gpa < p->gpa || gpa - p->gpa >= p->size || p->file == LINK_MEMORY_REMOTE)
			continue;
		*ret = contents[p->file][p->at + (gpa - p->gpa)];
		return true;
	}
	return false;
}

static void expect_read(const struct ram *ram, const struct link_memory *m, uint64_t gpa)
{
	uint8_t got[3 * PAGE], expected;
	const uint8_t *at = ram_at(ram, gpa, PAGE);
	size_t n = ram_read(ram, gpa, got, sizeof(got));

	must(!at || (n >= PAGE && !memcmp(at, got, PAGE)));
	for (size_t i = 0; i < n; i++)
		must(!find_byte(m, gpa + i, &expected) || got[i] == expected);
	must(n == sizeof(got) || !find_byte(m, gpa + n, &expected));
}

static void expect_taken(const struct ram *ram, const struct link_memory *m)
{
	uint64_t end = 0;

	must(ram->piece_count == m->piece_count && ram->generation == m->generation);
	for (uint32_t i = 0; i < m->piece_count; i++) {
		const struct link_memory_piece *p = &m->pieces[i];

		must(p->size && !((p->gpa | p->size | p->at) % PAGE) && p->gpa >= end && p->gpa + p->size > p->gpa);
		must(p->file == LINK_MEMORY_REMOTE || (p->file < m->file_count && p->at < FILE_BYTES && p->size <= FILE_BYTES - p->at));
		end = p->gpa + p->size;
		expect_read(ram, m, p->gpa);
		expect_read(ram, m, end - PAGE - 1);
		expect_read(ram, m, end);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct link_memory m;
	struct ram ram;

	if (!contents[0][1])
		make_files();
	if (size > sizeof(m))
		return 0;
	memset(&m, 0, sizeof(m));
	memcpy(&m, data, size);
	if (m.pid && m.pid <= 0x7FFFFFFF)
		m.pid = (uint32_t)getpid(); // nobody else is read
	ram_init(&ram);
	if (ram_take(&ram, &m, size, fds, m.file_count <= FILE_COUNT ? m.file_count : FILE_COUNT))
		must(!ram.piece_count && !ram.file_count && !ram.pid);
	else
		expect_taken(&ram, &m);
	ram_deinit(&ram);
	return 0;
}
