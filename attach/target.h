// SPDX-License-Identifier: MIT
// A process that may be a QEMU to attach to, looked at through /proc: whether it is one that can be attached to, where in it things are, and its memory.
//
// Rules: nothing of the process is changed or stopped here. It goes on meanwhile: what was true a moment ago is only what was true then.
// Names and contents come from that process, and are bounded and checked as foreign ones.
#ifndef ATTACH_TARGET_H
#define ATTACH_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct target_mapping {
	uint64_t start, end, offset; // bytes
	bool is_readable, is_writable, is_executable;
	const char *path; // "" = none; "[stack]", "anon_inode:kvm-vcpu:0", a file's
};

struct target {
	pid_t pid;
	int mem_fd;     // /proc/PID/mem, for reading and writing
	char *text;     // /proc/PID/maps
	struct target_mapping *mappings; // ascending
	size_t mapping_count;
};

// -> NULL and *ret (target_close), or an error that says why this process cannot be attached to: there is none, a zombie, stopped, a thread, traced by somebody else, another user's, of 32
// bits, with a shadow stack, without a KVM VM, with several, or with a dirty ring.
ERROR_MUST_CHECK struct error *target_open(pid_t pid, struct target *ret);
void target_close(struct target *t);

// Read /proc/PID/maps anew.
ERROR_MUST_CHECK struct error *target_refresh(struct target *t);

// The path of the first mapping, from its beginning on, of a file whose name (without folders) starts with `prefix`; NULL: none.
const struct target_mapping *target_find_file(const struct target *t, const char *prefix);

// All of [start, start + size) is mapped readable and writable.
bool target_is_writable(const struct target *t, uint64_t start, uint64_t size);

// The function `symbol` of the file mapped at `m` (from target_find_file). -> enum remote_elf_outcome
int target_find_function(const struct target *t, const struct target_mapping *m, const char *symbol, uint64_t *ret);

// The first place of `len` bytes (at most 16) in the executable mappings of the same file as m. -> 0: none.
uint64_t target_find_code(const struct target *t, const struct target_mapping *m, const void *bytes, size_t len);

// A thread `tid` (its number here) is of this process.
bool target_has_thread(const struct target *t, int tid);

// The file `path` of ours is the same file where this process looks.
bool target_sees_file(const struct target *t, const char *path);

#endif
