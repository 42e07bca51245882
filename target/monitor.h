// SPDX-License-Identifier: MIT
// A QMP monitor of a VM, asked one question after the other. The broker has its own, on its loop (serve/qmp.h); this one blocks, for programs
// that want one thing done.
//
// Rules: one thread. Every wait has a deadline in milliseconds of stream_now(). What comes from the other end is not trusted: a line has at
// most MONITOR_LINE_MAX bytes, what is no answer to the question is skipped, and an error's text becomes one line without control characters.
#ifndef TARGET_MONITOR_H
#define TARGET_MONITOR_H

#include <cjson/cJSON.h>

#include "vmkd/vmkd.h"

#define MONITOR_LINE_MAX (4u << 20) // query-named-block-nodes of some hundred disks
#define MONITOR_GREETING_MS 3000u   // QEMU greets at once, unless another client holds the monitor: it takes one at a time

struct monitor;

// Connects to the monitor of the VM `vm_name` at `path` and negotiates.
// Return NULL and *ret; CONNECT (nobody there), REFUSED (no greeting: somebody else has it), PROTOCOL, GONE, TIMEOUT, NO_MEMORY.
struct vmkd_error *monitor_open(const char *path, const char *vm_name, uint64_t deadline, struct monitor **ret);
// The same on a connected stream socket, which belongs to the monitor on success.
struct vmkd_error *monitor_open_fd(int fd, const char *vm_name, uint64_t deadline, struct monitor **ret);
// NULL is fine. A command that was not answered in time is still carried out by QEMU.
void monitor_close(struct monitor *monitor);

// command: constant text. arguments: an object or NULL; taken, also on failure. *ret (cJSON_Delete) is the value of "return".
// Return NULL and *ret; TARGET with QEMU's own text, TIMEOUT, GONE, PROTOCOL, NO_MEMORY.
struct vmkd_error *monitor_execute(struct monitor *monitor, const char *command, cJSON *arguments, uint64_t deadline, cJSON **ret);

// A line for the human monitor, which answers in text: "" is success for the commands used here. *ret_text: one line without control
// characters, cut to `size`. Return as monitor_execute.
struct vmkd_error *monitor_human(struct monitor *monitor, const char *line, uint64_t deadline, char *ret_text, size_t size);

#endif
