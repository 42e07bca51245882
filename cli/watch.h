// SPDX-License-Identifier: MIT
// Follows a VM's process and the signals that end vmkd, on the loop.
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include <signal.h>
#include <stdbool.h>

#include "util/error.h"
#include "util/loop.h"

struct watch {
	struct loop *loop;
	struct loop_source signals, process;
	int signal_fd, pid_fd;
	int pid;         // followed, 0 = none
	bool has_ended;  // the process is gone
	bool forwards;   // pass SIGINT and SIGTERM on to the process instead of ending
	struct loop_timer patience; // it has been told to end and has not
	bool is_patience_over;      // and the user knows
	int ending_signal; // that ended the loop, 0 = none
	sigset_t old_mask;
};

// A VMM may hang at its end (QEMU 7.2 in monitor_cleanup, when the signal meets a QMP command in flight). After so long a line on stderr says so, and the
// next SIGINT or SIGTERM is SIGKILL for the process.
#define WATCH_PATIENCE_MS 5000u

// Block and watch SIGINT, SIGTERM and SIGHUP. forwards: see above.
ERROR_MUST_CHECK struct error *watch_init(struct watch *w, struct loop *loop, bool forwards);
void watch_deinit(struct watch *w);

// Follow this process: the loop stops when it ends. -> NULL or an error (no such process).
ERROR_MUST_CHECK struct error *watch_process(struct watch *w, int pid);

#endif
