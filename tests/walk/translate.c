// SPDX-License-Identifier: MIT
// memory/'s answers for tests/test_walk.py: translate RAM-FILE < commands, numbers in hexadecimal:
//
//   map GPA SIZE OFFSET        where RAM is in the file; all of them before the rest
//   regs CR0 CR3 CR4 EFER
//   find VA                    -> OUTCOME GPA SIZE
//   read VA LEN                -> OUTCOME BYTES (the bytes before the outcome)
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/walk.h"

#define READ_MAX 0x100000u

static struct link_memory map = { .generation = 1, .file_count = 1 };
static struct ram ram;
static struct walk_regs regs;
static struct walk_cache cache;

static void add_piece(const char *line)
{
	struct link_memory_piece *p = &map.pieces[map.piece_count];

	if (map.piece_count == LINK_MEMORY_PIECES_MAX || sscanf(line, "map %" SCNx64 " %" SCNx64 " %" SCNx64, &p->gpa, &p->size, &p->at) != 3)
		exit(2);
	map.piece_count++;
}

static void set_regs(const char *line, int fd)
{
	if (sscanf(line, "regs %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &regs.cr0, &regs.cr3, &regs.cr4, &regs.efer) != 4)
		exit(2);
	walk_cache_clear(&cache);
	if (ram_take(&ram, &map, offsetof(struct link_memory, pieces) + map.piece_count * sizeof(map.pieces[0]), &fd, 1))
		exit(3);
}

static void find(uint64_t va)
{
	struct walk_page page = { 0 };
	int outcome = walk_find(&ram, &regs, va, &page);

	printf("%d %" PRIx64 " %" PRIx64 "\n", outcome, outcome ? 0 : page.gpa + (va - page.va), page.size);
}

static void read_bytes(uint64_t va, size_t len)
{
	static uint8_t bytes[READ_MAX];
	enum walk_outcome outcome = WALK_OK;
	size_t n = walk_read(&ram, &regs, &cache, va, bytes, len < READ_MAX ? len : READ_MAX, &outcome);

	printf("%d ", outcome);
	for (size_t i = 0; i < n; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	uint64_t va, len;
	char line[256];

	if (fd < 0)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "map ", 4))
			add_piece(line);
		else if (!strncmp(line, "regs ", 5))
			set_regs(line, fd);
		else if (sscanf(line, "find %" SCNx64, &va) == 1)
			find(va);
		else if (sscanf(line, "read %" SCNx64 " %" SCNx64, &va, &len) == 2)
			read_bytes(va, len);
		else
			return 2;
	}
	return 0;
}
