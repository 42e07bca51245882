// SPDX-License-Identifier: MIT
// A QMP connection to QEMU on the broker's loop: commands with answers in order, and events. It never blocks, since the
// whole point is to live with a QEMU that may be stopped.
//
// Rules: one thread. Callbacks may execute further commands, and must not destroy the connection.
#ifndef SERVE_QMP_H
#define SERVE_QMP_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/loop.h"

struct qmp;

struct qmp_events {
	void (*event)(void *arg, const char *name); // "RESET", "SHUTDOWN", ...
	void (*closed)(void *arg);                  // the connection has ended; call qmp_destroy, later
};

// The answer: the value of "return", or NULL when QEMU answered with an error. Borrowed. arg: qmp_execute's.
typedef void qmp_answer_fn(void *arg, const cJSON *answer);

// Connect to `path` and negotiate. -> NULL and *ret, or an error (nobody there).
ERROR_MUST_CHECK struct error *qmp_create(struct loop *loop, const char *path, const struct qmp_events *events, void *arg,
					  struct qmp **ret);
void qmp_destroy(struct qmp *qmp); // NULL is fine; outstanding answers never come

// command: the JSON text of a whole command, without newline. answer may be NULL; arg is for it. -> false: not sent (the connection is closing,
// or QEMU has left too many commands unanswered); the answer never comes then.
bool qmp_execute(struct qmp *qmp, const char *command, qmp_answer_fn *answer, void *arg);

// Take what has arrived, now: so that a RESET is known before what came after it by another way.
void qmp_drain(struct qmp *qmp);

// QEMU's process and its user, as the socket tells. -> 0 = unknown, then *ret_owner is root.
int qmp_pid(const struct qmp *qmp, uid_t *ret_owner);

#endif
