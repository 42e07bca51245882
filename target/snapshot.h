// SPDX-License-Identifier: MIT
// What snapshots need of a monitor, apart from any target: for snapshot.c and its fuzzer.
//
// Rules: as target/monitor.h.
#ifndef TARGET_SNAPSHOT_H
#define TARGET_SNAPSHOT_H

#include "target/monitor.h"

#define SNAPSHOTS_MAX 1000u // listed; each takes a place in every disk's own table

// Snapshots of the whole VM, oldest first, each name once. ret: room for SNAPSHOTS_MAX. Return NULL and *ret_count; as monitor_execute.
struct vmkd_error *snapshot_list(struct monitor *monitor, uint64_t deadline, struct vmkd_snapshot *ret, size_t *ret_count);

// The human monitor's `command` with a name that needs no quotes. what: what cannot be done, for the message. Return NULL; NOT_FOUND (no such snapshot), TARGET with
// QEMU's reason and what to do; else as monitor_human.
struct vmkd_error *snapshot_command(struct monitor *monitor, const char *vm_name, const char *what, const char *command, const char *name,
				    uint64_t deadline);

#endif
