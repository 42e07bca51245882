// SPDX-License-Identifier: MIT
#include "serve/ram_files.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static bool is_possible(const struct link_memory *m, size_t len, uint32_t fd_count)
{
	return len >= offsetof(struct link_memory, pieces) && m->piece_count <= LINK_MEMORY_PIECES_MAX &&
	       len == offsetof(struct link_memory, pieces) + m->piece_count * sizeof(m->pieces[0]) &&
	       m->file_count == fd_count && fd_count <= LINK_MEMORY_FILES_MAX;
}

bool ram_files_keep(struct ram_files *files, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	ram_files_drop(files);
	if (!is_possible(m, len, fd_count))
		return false;
	for (uint32_t i = 0; i < fd_count; i++) {
		files->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (files->fds[i] < 0) {
			ram_files_drop(files);
			return false;
		}
		files->memory.file_count++;
	}
	memcpy(&files->memory, m, len);
	files->len = len;
	return true;
}

void ram_files_drop(struct ram_files *files)
{
	while (files->memory.file_count)
		close(files->fds[--files->memory.file_count]);
	files->memory = (struct link_memory){ 0 };
	files->len = 0;
}
