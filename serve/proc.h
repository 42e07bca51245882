// SPDX-License-Identifier: MIT
// Questions to /proc about other processes of ours.
#ifndef SERVE_PROC_H
#define SERVE_PROC_H

#include <stdbool.h>

// Does somebody listen on this Unix socket? Asked without connecting, which the listener would notice. *ret_inode identifies the
// socket for proc_find_socket_owner.
bool proc_find_unix_listener(const char *path, unsigned long *ret_inode);

// A process that has the socket open, or that has the file `path` open. 0 = none that we may look at. `except`: a pid to pass over.
int proc_find_socket_owner(unsigned long inode);
int proc_find_file_owner(const char *path, int except);

// The process is gone, or on its way: killed, exiting, or a zombie. What it had open may still be closed only in a moment.
bool proc_is_ending(int pid);

#endif
