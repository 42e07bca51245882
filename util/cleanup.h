// SPDX-License-Identifier: MIT
// Scope guards: the resource is let go when the variable leaves its scope. Take it out with cleanup_take_*.
#ifndef UTIL_CLEANUP_H
#define UTIL_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#include "util/error.h"

static inline void cleanup_free_(void *pointer_to_pointer)
{
	free(*(void **)pointer_to_pointer);
}

static inline void cleanup_close_(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_error_(struct error **error)
{
	error_free(*error);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_)))   // char *p CLEANUP_FREE = NULL;
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_))) // int fd CLEANUP_CLOSE = -1;
#define CLEANUP_ERROR __attribute__((cleanup(cleanup_error_))) // struct error *e CLEANUP_ERROR = NULL;

// The descriptor leaves the guard: return cleanup_take_fd(&fd);
static inline int cleanup_take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
