// SPDX-License-Identifier: MIT
// The broker's control socket: one JSON object a line in, one a line out. {"cmd":"status"} and {"cmd":"stats"}.
// Failures answer {"error":"..."}; a line beyond CTL_LINE_MAX, or a peer of another user, ends the connection.
//
// Rules: one thread, on the broker's loop. Input is hostile. The other end is util/ask.h.
#ifndef SERVE_CTL_H
#define SERVE_CTL_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "util/error.h"
#include "util/loop.h"

#define CTL_LINE_MAX 4096u // bytes of a request with its newline
#define CTL_CLIENTS_MAX 16u

struct ctl_ops {
	// Add the answer's fields to `ret`.
	void (*status)(void *arg, cJSON *ret);
	void (*stats)(void *arg, cJSON *ret);
	// Fresh figures are wanted: -> true, they will come and ctl_stats_ready will be called; false: what there is now will do.
	bool (*refresh_stats)(void *arg);
};

struct ctl;

// Listen on `path` (mode 0600). -> NULL and *ret, or an error.
ERROR_MUST_CHECK struct error *ctl_create(struct loop *loop, const char *path, const struct ctl_ops *ops, void *arg, struct ctl **ret);
void ctl_destroy(struct ctl *ctl); // removes the socket; NULL is fine
void ctl_stats_ready(struct ctl *ctl);

// ---- The parser, for itself --------------------------------------------------------------------------------
enum ctl_command { CTL_STATUS, CTL_STATS, CTL_BAD };

// One request without its newline, `len` bytes of anything. CTL_BAD: *ret_error says why (a constant).
enum ctl_command ctl_parse(const char *line, size_t len, const char **ret_error);

#endif
