// SPDX-License-Identifier: MIT
// The guest's physical memory as another process of this host reads it: files mapped read-only, or process_vm_readv into the VMM.
//
// Rules: one thread. What is read may change while it is read (the guest, or a guest that is not as asleep as believed): copy once, then judge.
// Nothing here ever writes guest memory. A file that somebody shortens behind our back, or that has no room for a page nobody has touched yet,
// kills with SIGBUS, as for the VMM itself; QEMU seals its memfds against the first. A page that nobody has touched gets room by being read where it is
// mapped (of a remote one the kernel shows zeros).
#ifndef MEMORY_RAM_H
#define MEMORY_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire/link.h"

struct ram_piece {
	uint64_t gpa, size;  // bytes; ascending, not overlapping, whole pages
	const uint8_t *host; // mapped here, or NULL
	uint64_t remote;     // else: address in process `pid`
};

struct ram_file {
	const uint8_t *host; // the whole file
	uint64_t size;
};

struct ram {
	pid_t pid; // of the VMM
	bool is_guarded;
	int process_fd; // is_guarded: of its folder in /proc; -1 = that could not be opened
	uid_t owner;    // is_guarded: whose process it must be
	uint32_t generation;
	uint32_t piece_count, file_count;
	struct ram_piece pieces[LINK_MEMORY_PIECES_MAX];
	struct ram_file files[LINK_MEMORY_FILES_MAX];
};

enum ram_outcome {
	RAM_OK = 0,
	RAM_E_MESSAGE = 1, // counts, order, alignment, overlap, beyond a file's end, descriptors missing: a sender that cannot be
	RAM_E_MAP = 2,     // errno says why a file cannot be mapped
};

void ram_init(struct ram *ram); // nothing there
void ram_deinit(struct ram *ram);

// Take over what a LINK_MEMORY message says. m: len bytes, not trusted, except that the caller has compared m->pid with the sender's
// credentials: otherwise a sender makes a caller with more rights read somebody else's process. fds: borrowed, m->file_count of them.
// -> enum ram_outcome; the old state is let go only on RAM_OK. RAM_E_MAP leaves errno.
int ram_take(struct ram *ram, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count);

// For a caller who may read every process: remote pieces are read only while the process is `owner`'s, as he could have it read himself. Its number may be
// another's by now, and a program with more rights than his may run in its place. Two system calls more for each of process_vm_readv's. Until the next
// ram_take.
void ram_guard(struct ram *ram, uid_t owner);

// Copy [gpa, gpa + len). -> bytes copied from the beginning; fewer than len where RAM ends or the VMM's memory cannot be read.
size_t ram_read(const struct ram *ram, uint64_t gpa, void *ret, size_t len);

// The same for `count` spans, one behind the other into ret: what is not mapped costs one system call for up to RAM_SPANS_MAX pieces of spans,
// instead of one each (of 256 MiB in scattered pages, 1 a call gave 3.0 GB/s, 8 4.1, 32 4.4, 1024 4.3). is_bulk: this is part of a read of
// RAM_BULK_BYTES or more, which with its source is more than the caches of most cores hold. -> bytes copied from the beginning.
#define RAM_SPANS_MAX 32u
#define RAM_BULK_BYTES 0x100000u
struct ram_span {
	uint64_t gpa;
	size_t len; // bytes
};
size_t ram_read_spans(const struct ram *ram, const struct ram_span *spans, uint32_t count, bool is_bulk, void *ret);

// A pointer to [gpa, gpa + len) where that is mapped in one piece; else NULL. Valid until the next ram_take or ram_deinit.
const uint8_t *ram_at(const struct ram *ram, uint64_t gpa, size_t len);

#endif
