// SPDX-License-Identifier: MIT
// What can be found out about one VM, besides its folder (serve/vmdir.h, which is the caller's to read).
#ifndef DOCTOR_LOOK_H
#define DOCTOR_LOOK_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "doctor/facts.h"

// Of the process vm->pid: program, program_version, age_s, is_library_mapped. What may not be read stays unknown.
void look_at_process(struct doctor_vm *vm);

// Connect to the library in the VMM, which no broker does now, take its greeting and leave: no guest notices. Fills what the greeting tells, or nothing.
void look_at_greeting(struct doctor_vm *vm);

// The same for a greeting that came: `len` bytes of anything, at the time now_ms of CLOCK_MONOTONIC. -> false: it is none.
bool look_take_greeting(struct doctor_vm *vm, const void *message, size_t len, uint64_t now_ms);

// What the broker answered to "status" and "stats". Members that are missing or of another type are taken for not told.
void look_take_status(struct doctor_vm *vm, const cJSON *status);
void look_take_stats(struct doctor_vm *vm, const cJSON *stats);

#endif
