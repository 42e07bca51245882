// SPDX-License-Identifier: MIT
// The guest's RAM in this process: the memfd or file that QEMU keeps it in, found among QEMU's descriptors and mapped shared.
#ifndef SERVE_GUEST_RAM_H
#define SERVE_GUEST_RAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "serve/memory_map.h"
#include "util/error.h"
#include "vmm/area.h"
#include "wire/link.h"

struct guest_ram {
	int fd;         // -1 = not mapped
	int read_fd;    // the same file, opened for reading only: for those to whom it is passed on; -1 = none
	uint8_t *host;  // the whole file
	uint64_t size;  // bytes
	struct memory_map map;
	struct gpa_range ranges[MEMORY_MAP_MAX]; // `map` in host addresses
	struct gpa_map gpa; // of ranges; count 0 while there is no map
};

static inline void guest_ram_init(struct guest_ram *ram)
{
	*ram = (struct guest_ram){ .fd = -1, .read_fd = -1 };
}

// Find the one shared file of `size` bytes that process `pid` has open as guest RAM and map it. owner: the process's user, as the kernel has named
// both; a caller who may more than he takes no file of a program that has more rights than he, nor one that the process may only read.
// -> NULL, or an error that says why not: no such process, not permitted, no such file, several.
ERROR_MUST_CHECK struct error *guest_ram_open(struct guest_ram *ram, int pid, uid_t owner, uint64_t size);
void guest_ram_close(struct guest_ram *ram);

// Take over where things are, from the text of `info mtree -f`. -> NULL and *ret_is_new (the map differs from the old one), or an
// error; the old map stays then.
ERROR_MUST_CHECK struct error *guest_ram_set_map(struct guest_ram *ram, const char *mtree, size_t len, const char *ram_id, bool *ret_is_new);

// The map in the words of wire/link.h, file 0 being ram->read_fd; generation and pid are the caller's. -> length of the message body.
size_t guest_ram_describe(const struct guest_ram *ram, struct link_memory *ret);

// The next piece at or behind file offset *offset that really has memory, as one range, so that looking at it allocates nothing. Advances
// *offset. -> false: the end.
bool guest_ram_next_data(const struct guest_ram *ram, uint64_t *offset, struct gpa_range *ret);

#endif
