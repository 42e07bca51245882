// SPDX-License-Identifier: MIT
#include "util/installed.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The folder of the running program, without a slash at its end.
static struct error *own_folder(char ret[static PATH_MAX])
{
	ssize_t len = readlink("/proc/self/exe", ret, PATH_MAX - 1);
	if (len <= 0)
		return error_create(errno, "cannot tell where this program is: /proc/self/exe: %s", strerror(errno));
	ret[len] = 0;
	*strrchr(ret, '/') = 0;
	return NULL;
}

struct error *installed_find(const char *file, char **ret)
{
	static const char *const folders[] = { "", "/../lib/vmkd", "/../share/vmkd" };
	char self[PATH_MAX], place[2 * PATH_MAX];
	struct error *err = own_folder(self);

	if (err)
		return err;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		char *path;

		snprintf(place, sizeof(place), "%s%s/%s", self, folders[i], file);
		path = realpath(place, NULL);
		if (path && access(path, R_OK) == 0) {
			*ret = path;
			return NULL;
		}
		free(path);
	}
	return error_create(ENOENT, "%s was expected in %s, or in ../lib/vmkd or ../share/vmkd from there; build or install it", file, self);
}
