// SPDX-License-Identifier: MIT
// The memory slots that a QEMU has given to KVM, from its monitor: `info mtree -f` says which ranges are slots, `gpa2hva` where each begins in QEMU.
//
// Rules: the texts are for people and believed no further than their form; every address is held against the process's mappings before it is used.
#ifndef ATTACH_SLOTS_H
#define ATTACH_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach/hmp.h"
#include "attach/target.h"
#include "vmm/late.h"

// Ranges of the text that KVM has a slot for, in whole pages; `host` is 0, to be found out. -> NULL and *ret_count, or an error: none, too many, or numbers that cannot be.
ERROR_MUST_CHECK struct error *slots_parse(const char *text, size_t len, struct late_slot ret[static LATE_SLOTS_MAX], uint32_t *ret_count);

// "Host virtual address for 0xGPA (NAME) is 0xHVA". -> true: of this gpa.
bool slots_parse_host(const char *text, uint64_t gpa, uint64_t *ret);

// Ask for all. -> NULL, or an error: the monitor's, or one whose addresses are not mapped in the process (then it is another VM's).
ERROR_MUST_CHECK struct error *slots_ask(struct hmp *m, struct target *t, struct late_slot ret[static LATE_SLOTS_MAX], uint32_t *ret_count);

// The monitor is that of this process, as far as the threads that it names are the process's.
ERROR_MUST_CHECK struct error *slots_check_monitor(struct hmp *m, const struct target *t);

#endif
