// SPDX-License-Identifier: MIT
// A symbol of a library that another process has loaded, by reading the library's dynamic section in that process's memory: what the file says may be
// of another version by now, and may not be reachable.
//
// Rules: the memory is hostile and changes while it is read. Each word is read once, then judged; every loop is bounded; no address outside the
// object is read or returned. 64-bit x86, GNU hash table (glibc has no other since 2.36, and musl has it).
#ifndef ATTACH_REMOTE_ELF_H
#define ATTACH_REMOTE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct remote_object {
	uint64_t start, end; // what is mapped of it; its ELF header is at `start`
	// Reads exactly len bytes at `address`, which is within the object.
	bool (*read)(void *arg, uint64_t address, void *ret, size_t len);
	void *arg;
};

enum remote_elf_outcome {
	REMOTE_ELF_OK = 0,
	REMOTE_ELF_E_READ = 1,   // memory that cannot be read
	REMOTE_ELF_E_FORMAT = 2, // no ELF object for this processor, or numbers that cannot be
	REMOTE_ELF_E_SYMBOL = 3, // it defines no such function
};

// The address of the function `symbol`, whatever its version. *ret is untouched unless OK.
__attribute__((warn_unused_result)) int remote_elf_find(const struct remote_object *o, const char *symbol, uint64_t *ret);

#endif
