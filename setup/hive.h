// SPDX-License-Identifier: MIT
// A registry hive as a file: is it safe to change, and the change itself.
//
// Windows writes a hive in two steps with a log between; a hive that it has not finished with must be finished by Windows. `hive_check` looks at the
// header and `hive_check_log` at each log beside it; both are pure. The tree inside is hivex's business: hive_edit runs the caller's function on a
// private copy and gives back the changed file. Facts about hives: docs/evidence.md, "Disks and hives".
#ifndef SETUP_HIVE_H
#define SETUP_HIVE_H

#include <hivex.h>
#include <stdbool.h>

#include "setup/bytes.h"
#include "util/error.h"

#define HIVE_SIZE_MAX (512u << 20)

// A whole hive in bytes. -> NULL: Windows has finished with it; EINVAL: no hive, or cut off, or wrong checksum; EBUSY: unequal sequence numbers.
ERROR_MUST_CHECK struct error *hive_check(const struct bytes *hive);

// One of its logs (NAME.LOG, .LOG1, .LOG2), after hive_check. -> NULL; EBUSY: it holds something newer than the hive, which only Windows may take over.
ERROR_MUST_CHECK struct error *hive_check_log(const struct bytes *hive, const struct bytes *log);

// Let `edit` change the tree; `folder`: where the copies are while that lasts. -> NULL and the new file in *ret; what edit said, or EINVAL when hivex
// cannot make sense of the hive.
ERROR_MUST_CHECK struct error *hive_edit(const char *folder, const struct bytes *hive, struct error *(*edit)(hive_h *h, void *arg), void *arg, struct bytes *ret);

// Let `look` read the tree of the file at `path`, as hive_edit without the change.
ERROR_MUST_CHECK struct error *hive_look(const char *path, struct error *(*look)(hive_h *h, void *arg), void *arg);

// The node below `from` by a path of names with '\' between, whatever their case. -> 0: there is none.
hive_node_h hive_find(hive_h *h, hive_node_h from, const char *path);

// The same, and what is missing is made. -> 0: hivex failed, errno says why.
hive_node_h hive_make(hive_h *h, hive_node_h from, const char *path);

// A value that is a string. -> malloc'ed UTF-8, of the caller; NULL: there is none, or it is no string.
char *hive_string(hive_h *h, hive_node_h node, const char *name);

// Set a value of any type; of a string (REG_SZ, REG_EXPAND_SZ; ASCII alone) as Windows stores it. -> false: hivex failed, errno says why.
__attribute__((warn_unused_result)) bool hive_set(hive_h *h, hive_node_h node, const char *name, hive_type type, const void *data, size_t len);
__attribute__((warn_unused_result)) bool hive_set_string(hive_h *h, hive_node_h node, const char *name, hive_type type, const char *text);

// "WHAT: hivex: errno's text", for what the three above report.
ERROR_MUST_CHECK struct error *hive_failure(const char *what);

#endif
