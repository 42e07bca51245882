// SPDX-License-Identifier: MIT
// The surroundings that a set-up runs in, and that are gone afterwards however it ends: a mount namespace of its own, a folder in memory, and the programs
// that serve the image and its volumes.
//
// Nothing is mounted where anybody else sees it. SIGINT, SIGTERM and SIGHUP wait until the work has come to a safe point and asks for them; when the process
// is killed, a watcher process ends the programs in the order that leaves no volume half written, and the namespace goes with the last of them.
//
// Rules: one at a time, one thread; after sandbox_begin the whole process is in that namespace.
#ifndef SETUP_SANDBOX_H
#define SETUP_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/error.h"

struct sandbox;

// -> NULL and *ret; EPERM: not root, or not allowed to mount. The signals are blocked from here on, for good: one that came is an error of the work or came too late.
ERROR_MUST_CHECK struct error *sandbox_begin(struct sandbox **ret);

// Ends what still runs, unmounts, removes the folder; NULL is fine.
void sandbox_end(struct sandbox *s);

// The folder: empty, in memory, readable by nobody else. Valid until sandbox_end.
const char *sandbox_folder(const struct sandbox *s);

// Has somebody asked us to stop?
bool sandbox_is_interrupted(void);

// A program that runs until it is told to end. Its output goes to a file of the folder, where sandbox_said finds it.
struct program {
	pid_t pid; // 0: not running
	int status; // as of waitpid, once it has ended
	char name[32], log[128];
};

// Start argv[0], found in PATH. -> ENOENT: there is no such program; the text says which package has it.
ERROR_MUST_CHECK struct error *sandbox_start(struct sandbox *s, char *const argv[], struct program *ret);

// Has it ended? Then p->pid is 0 and p->status is set.
bool sandbox_has_ended(struct sandbox *s, struct program *p);

// Tell it to end and wait for it; one that does not within a minute is killed. -> EIO when it ended with an error of its own.
ERROR_MUST_CHECK struct error *sandbox_stop(struct sandbox *s, struct program *p);

// Let one run to its end. -> *ret_status: its exit status, 128 + signal when it was killed.
ERROR_MUST_CHECK struct error *sandbox_run(struct sandbox *s, char *const argv[], struct program *ret, int *ret_status);

// The first line that a program wrote, for a message; "no reason given" when there is none. Static; valid until the next call.
const char *sandbox_said(const struct program *p);

#endif
