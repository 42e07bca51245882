// SPDX-License-Identifier: MIT
// PsLoadedModuleList: kernel first under its actual name, then hal.dll, then what was loaded after it.
//
// Rules: passive context, one CPU at a time (the list has no lock; only the scenario's CPU changes it).
#pragma once
#include "testkernel/nt/nt.h"

// One entry of the list with the memory its names live in.
struct nt_module {
    struct nt_ldr_entry ldr;
    char path[HAL_NAME_SIZE + 24]; // "\SystemRoot\system32\" or the drivers folder, then the name
    uint16_t wide_path[HAL_NAME_SIZE + 24];
    uint32_t checksum, size;
    bool is_used;
};

// The boot modules: kernel, hal.dll, KDCOM.dll.
void nt_modules_init(const struct hal_boot *boot);
// Enters a loaded image. Return: NULL when the table is full.
struct nt_module *nt_modules_add(const char *folder, const char *name, hal_va_t base, uint32_t size, hal_va_t entry,
                                 uint32_t checksum);
void nt_modules_remove(struct nt_module *module);
// The index-th entry in use, NULL behind the last one.
const struct nt_module *nt_modules_at(unsigned index);
// Tells the debugger: a load-symbols stop. No-op without a debugger.
void nt_modules_announce(const struct nt_module *module);
void nt_modules_announce_all(void);
void nt_modules_announce_unload(const struct nt_module *module);
