// SPDX-License-Identifier: MIT
// trace:FILE as a target: the backend on trace/player.h. What was recorded comes again, what was asked then is answered as it was then, and anything
// else is refused in one line. Nothing is sent anywhere; going on goes to the next recorded stop.
#ifndef TARGET_REPLAY_H
#define TARGET_REPLAY_H

#include "target/backend.h"

// Reads the file `path`. name: what messages call it; owner: copied.
// Return NULL and *ret; OS (it cannot be read), PROTOCOL (it is no trace), NO_MEMORY.
struct vmkd_error *replay_create(const char *path, const char *name, const struct backend_owner *owner, struct backend **ret);

#endif
