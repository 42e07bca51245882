// SPDX-License-Identifier: MIT
// Target URLs as text, and the connection behind them. `dump:` and `trace:` are names kept for later kinds of targets.
#ifndef TARGET_URL_H
#define TARGET_URL_H

#include "util/rundir.h"
#include "util/sock.h"
#include "vmkd/vmkd.h"

enum url_kind { URL_UNIX, URL_TCP, URL_SERIAL };

#define URL_PATH_MAX 256u

struct url {
	enum url_kind kind;
	bool is_vm;               // UNIX: came from vm:NAME
	char path[URL_PATH_MAX];  // UNIX: socket, SERIAL: device
	char ram_path[RUNDIR_PATH_MAX]; // is_vm: the socket for those who read its RAM (wire/stop_page.h); "" = none
	struct sock_address host; // TCP
	uint32_t baud;            // SERIAL
};

// Parses; touches neither the network nor the file system. Return NULL and *ret; ARGUMENT with the forms that exist.
struct vmkd_error *url_parse(const char *text, struct url *ret);

// Connects within timeout_ms (a name server's own time limits come on top) and makes the descriptor non-blocking and
// close-on-exec. Return NULL and the caller's *ret_fd; CONNECT, OS, ARGUMENT (baud rate this host does not know).
struct vmkd_error *url_connect(const struct url *url, uint32_t timeout_ms, int *ret_fd);

#endif
