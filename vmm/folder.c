// SPDX-License-Identifier: MIT
#include "vmm/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARED_MODE (S_ISGID | S_IRWXU | S_IRWXG) // 2770

static bool is_shared;
static gid_t shared_group;
static char complaint[256];

void folder_complain(const char *what, const char *about, const char *hint)
{
	dprintf(STDERR_FILENO, "vmkd: %s: %s; %s\n", about, what, hint);
	snprintf(complaint, sizeof(complaint), "%s: %s; %s", about, what, hint);
}

const char *folder_complaint(void)
{
	return complaint;
}

static bool is_for_group(const struct stat *st)
{
	return S_ISDIR(st->st_mode) && (st->st_mode & (S_ISGID | S_IRWXG | S_IRWXO)) == (S_ISGID | S_IRWXG);
}

static bool contains(const gid_t *groups, size_t count, gid_t group)
{
	for (size_t i = 0; i < count; i++) {
		if (groups[i] == group)
			return true;
	}
	return false;
}

static bool are_we_in(gid_t group)
{
	int count = getgroups(0, NULL);
	gid_t *groups = count > 0 ? malloc((size_t)count * sizeof(*groups)) : NULL;
	count = groups ? getgroups(count, groups) : 0;
	bool found = geteuid() == 0 || getegid() == group || contains(groups, count > 0 ? (size_t)count : 0, group);
	free(groups);
	return found;
}

// -> true: it was missing and is there now, or it was there.
static bool make(const char *path, bool *ret_is_new)
{
	*ret_is_new = !mkdir(path, 0700);
	if (*ret_is_new || errno == EEXIST)
		return true;
	folder_complain(strerror(errno), path, "the folder for the VM's sockets cannot be made");
	return false;
}

// The folder of all VMs.
static bool judge_base(const char *path)
{
	struct stat st;
	bool is_known = !lstat(path, &st);
	if (is_known && is_for_group(&st) && (st.st_uid == 0 || st.st_uid == geteuid())) {
		is_shared = are_we_in(st.st_gid);
		shared_group = st.st_gid;
		if (!is_shared)
			folder_complain("for a group that this process is not in", path, "add its user to the group, or set VMKD_RUNTIME_DIR to another folder");
		return is_shared;
	}
	if (is_known && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022))
		return true;
	folder_complain("not a folder that belongs to this user and that only this user may write (nor one of mode 2770 for a group)", path,
	                "set VMKD_RUNTIME_DIR to one");
	return false;
}

// What is in this folder can be trusted as far as the base's.
static bool judge_vm(const char *path)
{
	struct stat st;
	bool is_known = !lstat(path, &st);
	if (is_shared && is_known && is_for_group(&st) && st.st_gid == shared_group)
		return true;
	if (!is_shared && is_known && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022))
		return true;
	folder_complain(is_shared ? "not a folder of mode 2770 for the group of the folder of all VMs"
	                          : "not a folder that belongs to this user and that only this user may write",
	                path, "remove it");
	return false;
}

// Not chmod: a member of the group may have put a link in its place, to something of ours that is not for the group. judge_vm finds out.
static void open_to_group(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!fchmod(fd, SHARED_MODE);
	close(fd);
}

bool folder_make(const char *base, const char *vm)
{
	bool is_new;
	if (!make(base, &is_new) || !judge_base(base) || !make(vm, &is_new))
		return false;
	if (is_new && is_shared)
		open_to_group(vm);
	return judge_vm(vm);
}

mode_t folder_socket_mode(void)
{
	return is_shared ? 0660 : 0600;
}

static bool has_group(int fd)
{
	socklen_t len = 0;
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) || errno != ERANGE)
		return false; // it has none
	gid_t *groups = malloc(len);
	bool found = groups && !getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) &&
	             contains(groups, len / sizeof(*groups), shared_group);
	free(groups);
	return found;
}

bool folder_admits(int fd, const struct ucred *peer)
{
	if (peer->uid == geteuid() || peer->uid == 0)
		return true;
	return is_shared && (peer->gid == shared_group || has_group(fd));
}
