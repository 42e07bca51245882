// SPDX-License-Identifier: MIT
// What packets of the target mean for whoever waits: the event of a stop, and of a print.
#ifndef TARGET_STOP_H
#define TARGET_STOP_H

#include "vmkd/vmkd.h"
#include "wire/kdapi.h"

// The event of a state change. machine: KD_MACHINE_*, 0 = unknown. *ret_text points into change->data: a module's path, a command, or nothing;
// the event's own text is left to the caller. -> the length of the text.
size_t stop_event(const struct kd_state_change *change, uint32_t machine, struct vmkd_event *ret, const uint8_t **ret_text);

// The event of a print or a prompt, with the same rules.
size_t stop_print_event(const struct kd_debug_io *io, struct vmkd_event *ret, const uint8_t **ret_text);

#endif
