// SPDX-License-Identifier: MIT
// A LINK_MEMORY message with descriptors of its own, kept for later: for programs that come after it, and for a guest that has died.
//
// Rules: one thread; no mapping, no reading.
#ifndef SERVE_RAM_FILES_H
#define SERVE_RAM_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/link.h"

struct ram_files {
	struct link_memory memory; // zero-initialise: nothing is known
	size_t len;                // of the message body; 0 = nothing is known
	int fds[LINK_MEMORY_FILES_MAX]; // memory.file_count of them
};

// Take over a message; the descriptors are borrowed and duplicated, the old ones are closed. What cannot be (counts, lengths, descriptors
// missing) or cannot be duplicated counts as no memory. -> false: so it was.
bool ram_files_keep(struct ram_files *files, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count);

// Close; nothing is known any more.
void ram_files_drop(struct ram_files *files);

#endif
