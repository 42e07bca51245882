// SPDX-License-Identifier: MIT
// A process of its own that lets a VM run again when its broker has died in a pause (serve/pause.h). It sleeps in a read until
// the broker's end of a pipe closes, which no way of dying can prevent; then it does what a new broker would do, unless one is quicker.
#ifndef SERVE_WATCHDOG_H
#define SERVE_WATCHDOG_H

#include "util/error.h"

// Start it for the VM `vm_name` (a valid name). To be called while this process has one thread and before it has a loop. It keeps no
// other descriptor than the pipe, no terminal, and ends by itself soon after this process does.
// -> NULL and *ret_fd, the broker's end: keep it open, for pause_init. Errors: descriptors or processes exhausted.
ERROR_MUST_CHECK struct error *watchdog_start(const char *vm_name, int *ret_fd);

#endif
