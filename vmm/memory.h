// SPDX-License-Identifier: MIT
// Where the guest's RAM is, as the broker is told (LINK_MEMORY): for each writable slot, the file that is mapped there, opened anew for reading only.
// What lies in no file that two processes can map (anonymous memory, a private mapping of a file) is told by its address in this process.
//
// Rules: memory_find reads /proc, which may wait for the VMM's mmap and takes a descriptor or two for a moment: in the link's thread, without hook.lock.
// The rest is quick. Nothing is allocated, nothing is mapped, guest memory is not touched. A file of RAM is a regular file (memfds and
// hugetlbfs are): what else can be mapped shared is a device, whose registers are not RAM, and is left out.
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include <sys/socket.h>

#include "vmm/area.h"
#include "wire/link.h"

// The guest's RAM by ascending address, the lowest ones of more than there is room for.
struct memory_ranges {
	uint32_t count;
	bool is_cut; // there were more
	struct gpa_range at[LINK_MEMORY_PIECES_MAX];
};

struct memory_report {
	struct link_memory message; // generation and is_permitted are 0: they belong to a connection
	int fds[LINK_MEMORY_FILES_MAX]; // message.file_count of them, read-only, close-on-exec
};

// One line of /proc/PID/maps (Documentation/filesystems/proc.rst of the kernel) up to the inode; names are of no interest.
struct memory_mapping {
	uint64_t start, end, offset; // bytes; whole pages, start < end, offset + (end - start) does not overflow
	uint32_t major, minor;
	uint64_t inode; // 0: anonymous
	bool is_readable, is_shared;
};

// `line`: len characters, a newline or not. -> true and *ret; false: no line of a maps file.
bool memory_parse_mapping(const char *line, size_t len, struct memory_mapping *ret);

// Copy and sort. `map`: of a VM, under hook.lock.
void memory_note(const struct gpa_map *map, struct memory_ranges *ret);

// Find out where `ranges` are. There is always a result: what cannot be opened is LINK_MEMORY_REMOTE, what is not mapped (any more) is not in it.
// One thread at a time. The caller owns the descriptors of *ret.
void memory_find(const struct memory_ranges *ranges, struct memory_report *ret);

// Close the descriptors; the message becomes one without pieces.
void memory_close(struct memory_report *report);

// Body length of the message.
uint32_t memory_message_len(const struct link_memory *m);

// A piece is LINK_MEMORY_REMOTE.
bool memory_is_remote(const struct link_memory *m);

// Let the process at the other end of a socket of ours read this process's memory, and nobody else: Yama lets a process name one tracer
// (PR_SET_PTRACER, for all threads of the process), everything else is as the kernel decides. -> link_memory.is_permitted
bool memory_permit(const struct ucred *peer);
// Take that back. Harmless when nothing was permitted. A tracer that the VMM itself had named is forgotten, too.
void memory_forbid(void);

#endif
