// SPDX-License-Identifier: MIT
// libFuzzer: lines of a maps file. What is accepted must be a mapping that can be, and say the same when it is written out again.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct memory_mapping *m)
{
	char line[200];
	struct memory_mapping again;
	must(m->start < m->end && (m->start | m->end | m->offset) % 4096 == 0 && m->offset + (m->end - m->start) >= m->offset);
	int len = snprintf(line, sizeof(line), "%llx-%llx %c-x%c %llx %x:%x %llu", (unsigned long long)m->start, (unsigned long long)m->end,
	                   m->is_readable ? 'r' : '-', m->is_shared ? 's' : 'p', (unsigned long long)m->offset, m->major, m->minor,
	                   (unsigned long long)m->inode);
	must(memory_parse_mapping(line, (size_t)len, &again));
	must(again.start == m->start && again.end == m->end && again.offset == m->offset && again.inode == m->inode &&
	     again.major == m->major && again.minor == m->minor && again.is_readable == m->is_readable && again.is_shared == m->is_shared);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line = malloc(size); // exactly that long, for the sanitizer
	struct memory_mapping m;
	if (size)
		memcpy(line, data, size);
	if (memory_parse_mapping(line, size, &m))
		check(&m);
	free(line);
	return 0;
}
