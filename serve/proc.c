// SPDX-License-Identifier: MIT
#include "serve/proc.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// PF_EXITING in the flags of /proc/PID/stat.
#define FLAG_EXITING 0x4ul
#define SIGKILL_BIT (1ull << (9 - 1))

// __SO_ACCEPTCON in the Flags column of /proc/net/unix.
#define UNIX_LISTENING 0x10000ul

bool proc_find_unix_listener(const char *path, unsigned long *ret_inode)
{
	FILE *file = fopen("/proc/net/unix", "re");
	char line[512];
	bool found = false;

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file)) {
		unsigned long flags, inode;
		int at = 0;

		// Num: RefCount Protocol Flags Type St Inode Path
		if (sscanf(line, "%*s %*x %*x %lx %*x %*x %lu %n", &flags, &inode, &at) < 2 || !at)
			continue;
		line[strcspn(line, "\n")] = 0;
		if (flags & UNIX_LISTENING && strcmp(line + at, path) == 0) {
			*ret_inode = inode;
			found = true;
		}
	}
	fclose(file);
	return found;
}

static bool has_descriptor(const char *pid, const char *target)
{
	char folder[300], path[600], seen[300];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(folder, sizeof(folder), "/proc/%s/fd", pid);
	dir = opendir(folder);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t len;

		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		len = readlink(path, seen, sizeof(seen) - 1);
		seen[len > 0 ? len : 0] = 0;
		found = strcmp(seen, target) == 0;
	}
	if (dir)
		closedir(dir);
	return found;
}

static int find_owner(const char *target, int except)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int pid = 0;

	while (dir && !pid && (entry = readdir(dir))) {
		int candidate = atoi(entry->d_name);

		if (candidate > 0 && candidate != except && has_descriptor(entry->d_name, target))
			pid = candidate;
	}
	if (dir)
		closedir(dir);
	return pid;
}

int proc_find_socket_owner(unsigned long inode)
{
	char target[48];

	snprintf(target, sizeof(target), "socket:[%lu]", inode);
	return find_owner(target, 0);
}

int proc_find_file_owner(const char *path, int except)
{
	return find_owner(path, except);
}

// ---- Endings ----------------------------------------------------------------------------------------------

// -> false: it could not be read, so there is no such process.
static bool read_proc(int pid, const char *what, char *ret, size_t size)
{
	char path[64];
	FILE *file;
	size_t len;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	file = fopen(path, "re");
	if (!file)
		return false;
	len = fread(ret, 1, size - 1, file);
	ret[len] = 0;
	fclose(file);
	return len > 0;
}

static bool is_kill_pending(const char *status)
{
	static const char *const lines[] = { "\nSigPnd:", "\nShdPnd:" };

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const char *at = strstr(status, lines[i]);

		if (at && strtoull(at + strlen(lines[i]), NULL, 16) & SIGKILL_BIT)
			return true;
	}
	return false;
}

bool proc_is_ending(int pid)
{
	char text[4096], state;
	const char *at;
	unsigned long flags;

	if (pid <= 0 || !read_proc(pid, "stat", text, sizeof(text)))
		return true;
	// PID (NAME) STATE PPID PGRP SESSION TTY TPGID FLAGS: the name may hold anything, but no line holds a later parenthesis.
	at = strrchr(text, ')');
	if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %lu", &state, &flags) != 2)
		return false;
	if (state == 'Z' || state == 'X' || flags & FLAG_EXITING)
		return true;
	return !read_proc(pid, "status", text, sizeof(text)) || is_kill_pending(text);
}
