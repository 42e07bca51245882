// SPDX-License-Identifier: MIT
// Files of a mounted guest volume. Names are compared as Windows does (ASCII letters of either case), and nothing ever leaves the volume.
//
// The volume is the guest's: its junctions become symbolic links and its special files devices. So a path is walked step by step from the root, links are
// never followed, and only plain files and folders are opened. Paths have '/' between names and none at the start.
//
// Every error names the path and the errno's reason; ENOENT: it, or a folder on the way, is not there.
#ifndef SETUP_FILES_H
#define SETUP_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "setup/bytes.h"
#include "util/error.h"

#define FILES_PATH_MAX 512u // bytes with the NUL

// Is there a plain file or a folder of that path?
bool files_exists(int root, const char *path);

// Open a plain file for reading. -> the caller's descriptor.
ERROR_MUST_CHECK struct error *files_open(int root, const char *path, int *ret_fd);

// A whole plain file; EFBIG: more than `max` bytes.
ERROR_MUST_CHECK struct error *files_read(int root, const char *path, size_t max, struct bytes *ret);

// Write a whole plain file and wait until it is on the disk. One that is there keeps its identity (links, security, attributes); else it is made, for the
// administrators alone: what is kept of SYSTEM is as secret as SYSTEM.
ERROR_MUST_CHECK struct error *files_write(int root, const char *path, const struct bytes *bytes);

// Let everybody in the guest read a plain file, and the administrators alone write it.
ERROR_MUST_CHECK struct error *files_let_read(int root, const char *path);

// Give a file another path in the volume; EEXIST: there is one of that path.
ERROR_MUST_CHECK struct error *files_rename(int root, const char *from, const char *to);

// Remove a file.
ERROR_MUST_CHECK struct error *files_remove(int root, const char *path);

// Make a folder for the administrators alone (EEXIST), remove one that is empty (ENOTEMPTY).
ERROR_MUST_CHECK struct error *files_make_folder(int root, const char *path);
ERROR_MUST_CHECK struct error *files_remove_folder(int root, const char *path);

#endif
