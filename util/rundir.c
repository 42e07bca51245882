// SPDX-License-Identifier: MIT
#include "util/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

// Longest file name below BASE/NAME ("debugcon.sock"), for an early and clear refusal.
#define LONGEST_FILE 13u

bool rundir_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	return len >= 1 && len <= RUNDIR_NAME_MAX && name[0] != '.' && name[0] != '-' &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

struct error *rundir_check_name(const char *name)
{
	if (rundir_name_is_valid(name))
		return NULL;
	if (!name[0])
		return error_create(EINVAL, "the VM name is empty; expected 1 to %u of A-Z a-z 0-9 . _ -", RUNDIR_NAME_MAX);
	if (strlen(name) > RUNDIR_NAME_MAX)
		return error_create(EINVAL, "the VM name has %zu characters; expected at most %u", strlen(name), RUNDIR_NAME_MAX);
	return error_create(EINVAL, "'%s' is not a VM name: expected A-Z a-z 0-9 . _ - only, not starting with '.' or '-'", name);
}

// ---- A folder of a group ----------------------------------------------------------------------------------

static bool is_for_group(const struct stat *st)
{
	return S_ISDIR(st->st_mode) && (st->st_mode & (S_ISGID | S_IRWXG | S_IRWXO)) == (S_ISGID | S_IRWXG);
}

static bool is_member(gid_t group)
{
	int count = getgroups(0, NULL);
	gid_t *groups = count > 0 ? malloc((size_t)count * sizeof(*groups)) : NULL;
	bool found = geteuid() == 0 || getegid() == group;

	count = groups ? getgroups(count, groups) : 0;
	for (int i = 0; i < count; i++)
		found |= groups[i] == group;
	free(groups);
	return found;
}

static struct error *check_shared(const char *path, const struct stat *st)
{
	if (st->st_uid != 0 && st->st_uid != geteuid() && geteuid() != 0)
		return error_create(EPERM, "%s is a group's folder that belongs to user %u; expected root or you (%u): chown root %s", path,
				    (unsigned)st->st_uid, (unsigned)geteuid(), path);
	if (!is_member(st->st_gid))
		return error_create(EACCES, "%s is for group %u, and you are not in it: join the group (and log in again), or set VMKD_RUNTIME_DIR "
					    "to a folder of yours", path, (unsigned)st->st_gid);
	return NULL;
}

// A folder in a shared base: made by any member.
static struct error *check_shared_folder(const char *path, gid_t group)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return error_create(errno, "%s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return error_create(ENOTDIR, "%s is not a folder; remove it", path);
	if (!is_for_group(&st) || st.st_gid != group)
		return error_create(EPERM, "%s is not for group %u alone (group %u, mode %04o): expected mode 2770; remove it", path, (unsigned)group,
				    (unsigned)st.st_gid, (unsigned)st.st_mode & 07777);
	return NULL;
}

bool rundir_is_shared(const char *path, gid_t *ret_group)
{
	char base[RUNDIR_PATH_MAX];
	struct error *error = rundir_base(base);
	size_t len = error ? 0 : strlen(base);
	struct stat st;

	error_free(error);
	if (!len || strncmp(path, base, len) || path[len] != '/' || lstat(base, &st) < 0 || !is_for_group(&st))
		return false;
	*ret_group = st.st_gid;
	return true;
}

int rundir_open(const char *path, int flags)
{
	gid_t group;
	mode_t mode = rundir_is_shared(path, &group) ? 0660 : 0600, mask = umask(0);
	int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, mode);

	umask(mask);
	return fd;
}

// ---- A folder of one user ---------------------------------------------------------------------------------

// A folder of `owner` with none of the mode bits `forbidden`.
static struct error *check_folder(const char *path, uid_t owner, mode_t forbidden)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return error_create(errno, "%s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return error_create(ENOTDIR, "%s is not a folder; remove it or set VMKD_RUNTIME_DIR", path);
	if (st.st_uid != owner)
		return error_create(EPERM, "%s belongs to user %u, not to you (%u); set VMKD_RUNTIME_DIR to a folder of yours",
				    path, (unsigned)st.st_uid, (unsigned)geteuid());
	if (st.st_mode & forbidden)
		return error_create(EPERM, "%s is open to other users (mode %04o); expected 0700: chmod 700 %s, or 2770 for a group", path,
				    (unsigned)st.st_mode & 07777, path);
	return NULL;
}

// In a folder that somebody else can write, what looks like a VM may be his: sockets, and names that turn into links between two looks.
// Only root may serve the VMs of the user whose folder it was told.
static struct error *check_base(const char *path, bool is_told)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return NULL; // not there yet, or whoever opens something in it says why not
	if (is_for_group(&st))
		return check_shared(path, &st);
	return check_folder(path, is_told && geteuid() == 0 ? st.st_uid : geteuid(), 022);
}

struct error *rundir_base(char ret[RUNDIR_PATH_MAX])
{
	const char *own = getenv("VMKD_RUNTIME_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");
	struct error *error;
	char path[4096];
	int len;

	if (own && own[0])
		len = snprintf(path, sizeof(path), "%s", own);
	else if (xdg && xdg[0])
		len = snprintf(path, sizeof(path), "%s/vmkd", xdg);
	else
		len = snprintf(path, sizeof(path), "/tmp/vmkd-%u", (unsigned)geteuid());
	// "/N/" and the longest file must still fit; a one-letter name is the shortest.
	if (len < 0 || (size_t)len + 3 + LONGEST_FILE >= RUNDIR_PATH_MAX)
		return error_create(ENAMETOOLONG, "the runtime folder's path is too long for sockets (%d characters, at most %u): "
						  "set VMKD_RUNTIME_DIR to a shorter one", len, RUNDIR_PATH_MAX - 4 - LONGEST_FILE);
	if (path[0] != '/')
		return error_create(EINVAL, "the runtime folder must be an absolute path, not '%s'", path);
	error = check_base(path, own && own[0]);
	if (!error)
		memcpy(ret, path, (size_t)len + 1);
	return error;
}

struct error *rundir_path(const char *name, const char *file, char ret[RUNDIR_PATH_MAX])
{
	char base[RUNDIR_PATH_MAX], path[RUNDIR_PATH_MAX + RUNDIR_NAME_MAX + LONGEST_FILE + 3];
	struct error *error = rundir_check_name(name);
	int len;

	if (!error)
		error = rundir_base(base);
	if (error)
		return error;
	len = snprintf(path, sizeof(path), "%s/%s%s%s", base, name, file ? "/" : "", file ? file : "");
	if (len < 0 || (size_t)len >= RUNDIR_PATH_MAX)
		return error_create(ENAMETOOLONG, "%s: the path is too long for a socket (at most %u characters): "
						  "use a shorter VM name or set VMKD_RUNTIME_DIR to a shorter path",
				    path, RUNDIR_PATH_MAX - 1);
	memcpy(ret, path, (size_t)len + 1);
	return NULL;
}

static struct error *make_private_folder(const char *path)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_create(errno, "cannot create the folder %s: %s; VMKD_RUNTIME_DIR or XDG_RUNTIME_DIR says where", path, strerror(errno));
	return check_folder(path, geteuid(), 077);
}

// A member of the group may have put a link in its place already, to something of ours that is not for the group. The check finds out.
static void open_to_group(const char *path)
{
	int fd CLEANUP_CLOSE = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0)
		(void)!fchmod(fd, S_ISGID | S_IRWXU | S_IRWXG);
}

static struct error *make_shared_folder(const char *path, gid_t group)
{
	if (mkdir(path, 0700) == 0)
		open_to_group(path);
	else if (errno != EEXIST)
		return error_create(errno, "cannot create the folder %s: %s", path, strerror(errno));
	return check_shared_folder(path, group);
}

struct error *rundir_create(const char *name)
{
	char base[RUNDIR_PATH_MAX], folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder);
	gid_t group;

	if (!error)
		error = rundir_base(base);
	if (!error && rundir_is_shared(folder, &group))
		return make_shared_folder(folder, group);
	if (!error)
		error = make_private_folder(base);
	if (!error)
		error = make_private_folder(folder);
	return error;
}
