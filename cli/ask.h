// SPDX-License-Identifier: MIT
// A command's question to the broker of a VM that should be there.
#ifndef CLI_ASK_H
#define CLI_ASK_H

#include <cjson/cJSON.h>

#include "util/error.h"

// As ask_broker (util/ask.h), and when nobody can be asked the error says what to do: start a broker, or look at the list.
ERROR_MUST_CHECK struct error *cli_ask(const char *name, cJSON *request, cJSON **ret, int *ret_fd);

#endif
