// SPDX-License-Identifier: MIT
// Scope guards: the resource is let go when the variable leaves its scope. Take it out with cleanup_take_*.
#ifndef UTIL_CLEANUP_H
#define UTIL_CLEANUP_H

#include <unistd.h>

static inline void cleanup_close_(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_))) // int fd CLEANUP_CLOSE = -1;

// The descriptor leaves the guard: return cleanup_take_fd(&fd);
static inline int cleanup_take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
