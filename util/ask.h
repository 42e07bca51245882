// SPDX-License-Identifier: MIT
// The asking end of a broker's control socket, RUNTIME/NAME/ctl.sock (serve/ctl.h): one JSON object a line in, one a line out.
#ifndef UTIL_ASK_H
#define UTIL_ASK_H

#include <cjson/cJSON.h>

#include "util/error.h"

// Ask the broker of `vm_name`, blocking at most twice ASK_TIMEOUT_S, whatever it does. request: an object with "cmd"; taken, also on failure; NULL (no memory) is an error.
// ret_fd NULL, or where the connection goes, owned by the caller and without a time limit, for what the broker sends behind its answer.
// -> NULL and *ret (cJSON_Delete), or an error: ENOENT no such VM or no broker, ETIMEDOUT a broker that does not answer, EAGAIN one that lets nobody in any more, EPROTO an
// answer that is none, EIO the broker's own error text.
#define ASK_TIMEOUT_S 2
ERROR_MUST_CHECK struct error *ask_broker(const char *vm_name, cJSON *request, cJSON **ret, int *ret_fd);

// {"cmd": cmd}, or NULL.
cJSON *ask_command(const char *cmd);

#endif
