// SPDX-License-Identifier: MIT
// The broker's control socket: one JSON object a line in, one a line out. Failures answer {"error":"..."}; a line beyond CTL_LINE_MAX, or a peer of another
// user, ends the connection.
//
//   {"cmd":"status"}   the VM, its guest, its clients: {"id":1,"name":"pid 12 (vmkd)","role":"controller|observer","at_stop":bool,"asks":bool}
//   {"cmd":"stats"}    counters
//   {"cmd":"control","do":"show|take|give","client":1,"force":true}   client, force: as needed. Without a client, take is for the one that the asking
//                      process is, else the only observer; give is for who asked first. Answered by "result", "client" and all "clients"
//   {"cmd":"history"}  {"text":"..."}: the last text of DbgPrint; what is not printable ASCII, tab or newline stands there as \xNN
//   {"cmd":"trace"}    {"ok":true}, and from then on the connection carries a trace until either end closes it
//
// Members that a command does not know are ignored; those that it knows must be of their type.
//
// Rules: one thread, on the broker's loop. Input is hostile. The other end is util/ask.h.
#ifndef SERVE_CTL_H
#define SERVE_CTL_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"

#define CTL_LINE_MAX 4096u // bytes of a request with its newline
#define CTL_CLIENTS_MAX 16u

enum ctl_command { CTL_STATUS, CTL_STATS, CTL_CONTROL, CTL_HISTORY, CTL_TRACE, CTL_BAD };
enum ctl_control { CTL_CONTROL_SHOW, CTL_CONTROL_TAKE, CTL_CONTROL_GIVE };

struct ctl_request {
	enum ctl_command command;
	// CTL_CONTROL
	enum ctl_control control;
	uint32_t client; // 0 = none was named
	bool is_forced;
};

struct ctl_ops {
	// Add the answer's fields to `ret`.
	void (*status)(void *arg, cJSON *ret);
	void (*stats)(void *arg, cJSON *ret);
	// Fresh figures are wanted: -> true, they will come and ctl_stats_ready will be called; false: what there is now will do.
	bool (*refresh_stats)(void *arg);
	// asker_pid: of the process at the other end. Add the answer's fields, or "error".
	void (*control)(void *arg, const struct ctl_request *request, int asker_pid, cJSON *ret);
	// -> *ret_len bytes, borrowed until the next event.
	const uint8_t *(*history)(void *arg, size_t *ret_len);
	// Take over `fd`, a connected socket whose other end has been told that a trace follows. NULL: this broker cannot trace.
	void (*trace)(void *arg, int fd);
};

struct ctl;

// Listen on `path` (mode 0600). -> NULL and *ret, or an error.
ERROR_MUST_CHECK struct error *ctl_create(struct loop *loop, const char *path, const struct ctl_ops *ops, void *arg, struct ctl **ret);
void ctl_destroy(struct ctl *ctl); // removes the socket; NULL is fine
void ctl_stats_ready(struct ctl *ctl);

// ---- The parser, for itself --------------------------------------------------------------------------------

// One request without its newline, `len` bytes of anything. command CTL_BAD: *ret_error says why (a constant).
struct ctl_request ctl_parse(const char *line, size_t len, const char **ret_error);
// Text as "history" tells it, in ASCII. -> a string to be freed, or NULL.
char *ctl_escape(const uint8_t *text, size_t len);

#endif
