// SPDX-License-Identifier: MIT
// Addresses and their names: modules, and what they export. Filled on demand, forgotten when the kernel changes.
#ifndef CONSOLE_NAMES_H
#define CONSOLE_NAMES_H

#include "vmkd/vmkd.h"

#define NAMES_MODULES_MAX 64u // modules whose exports are kept

struct exports;

struct names {
	struct vmkd_modules *modules; // as last read; NULL = read when needed
	struct {
		uint64_t base;
		struct exports *exports;
	} tables[NAMES_MODULES_MAX];
	uint32_t table_count;
};

// Frees what was read; it is read anew when needed. Zeroed names are legal.
void names_forget(struct names *names);

// The modules, read now if they are not known. The result belongs to `names`.
struct vmkd_error *names_modules(struct names *names, struct vmkd_target *target, struct vmkd_modules **ret);
// "nt", "ntoskrnl.exe", "nt!KeBugCheckEx", "KeBugCheckEx" (of the kernel). *ret_is_found = false: no such name, which is no error.
struct vmkd_error *names_resolve(struct names *names, struct vmkd_target *target, const char *name, uint64_t *ret, bool *ret_is_found);

// "nt!KeBugCheckEx+0x12", "nt+0x1234", "0x1234": what is known without failing. Return buffer.
#define NAMES_TEXT_MAX 480
const char *names_describe(struct names *names, struct vmkd_target *target, uint64_t address, char buffer[NAMES_TEXT_MAX]);

#endif
