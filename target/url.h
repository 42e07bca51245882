// SPDX-License-Identifier: MIT
// Target URLs as text, and the connection behind them: util/endpoint.h, and vm:NAME; trace:FILE has none. `dump:` is a name kept for a later kind of
// target.
#ifndef TARGET_URL_H
#define TARGET_URL_H

#include "util/endpoint.h"
#include "util/rundir.h"
#include "vmkd/vmkd.h"

struct url {
	struct endpoint at;
	bool is_vm;                     // came from vm:NAME
	bool is_trace;                  // came from trace:FILE, which is at.path
	char ram_path[RUNDIR_PATH_MAX]; // is_vm: the socket for those who read its RAM (wire/stop_page.h); "" = none
};

// Parses; touches neither the network nor the file system. Return NULL and *ret; ARGUMENT with the forms that exist.
struct vmkd_error *url_parse(const char *text, struct url *ret);

// Not for a trace. Connects within timeout_ms (a name server's own time limits come on top) and makes the descriptor non-blocking and
// close-on-exec. Return NULL and the caller's *ret_fd; CONNECT, ARGUMENT (baud rate this host does not know).
struct vmkd_error *url_connect(const struct url *url, uint32_t timeout_ms, int *ret_fd);

#endif
