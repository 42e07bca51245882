// SPDX-License-Identifier: MIT
#include "setup/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define NAME_SIZE 256u
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

// Where a path leads: a folder that is there, and a name in it that may be.
struct place {
	int folder; // a descriptor, closed by who asked
	char name[NAME_SIZE];
	bool is_there;
};

static struct error *failure(const char *path, int code)
{
	if (code == ELOOP || code == ENXIO)
		return error_create(code, "%s: it is a link or a device; expected a plain file or folder", path);
	return error_create(code, "%s: %s", path, strerror(code));
}

// The name in a folder as it is written there. The very same spelling goes first, since NTFS can hold two that differ in case.
static bool find_name(int folder, const char *wanted, char ret[static NAME_SIZE])
{
	struct stat st;
	struct dirent *entry;
	bool is_found = fstatat(folder, wanted, &st, AT_SYMLINK_NOFOLLOW) == 0;

	snprintf(ret, NAME_SIZE, "%s", wanted);
	if (is_found)
		return true;
	int own = openat(folder, ".", FOLDER_FLAGS);
	DIR *dir = own >= 0 ? fdopendir(own) : NULL;
	if (!dir && own >= 0)
		close(own);
	while (dir && !is_found && (entry = readdir(dir))) {
		is_found = strcasecmp(entry->d_name, wanted) == 0;
		if (is_found)
			snprintf(ret, NAME_SIZE, "%s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return is_found;
}

// Takes the next name of a path. -> the rest of it; NULL: it is no name of a path of ours.
static const char *next_name(const char *path, char ret[static NAME_SIZE])
{
	size_t len = strcspn(path, "/");

	if (len == 0 || len >= NAME_SIZE)
		return NULL;
	memcpy(ret, path, len);
	ret[len] = 0;
	if (strcmp(ret, ".") == 0 || strcmp(ret, "..") == 0)
		return NULL;
	return path + len + (path[len] == '/');
}

static struct error *locate(int root, const char *path, struct place *ret)
{
	int folder CLEANUP_CLOSE = openat(root, ".", FOLDER_FLAGS);
	const char *rest = path;
	char wanted[NAME_SIZE];

	for (;;) {
		rest = next_name(rest, wanted);
		if (!rest)
			return failure(path, EINVAL);
		bool is_there = find_name(folder, wanted, ret->name);
		if (!*rest) {
			ret->is_there = is_there;
			ret->folder = cleanup_take_fd(&folder);
			return NULL;
		}
		if (!is_there)
			return failure(path, ENOENT);
		int next = openat(folder, ret->name, FOLDER_FLAGS);
		if (next < 0)
			return failure(path, errno == ENOTDIR ? ELOOP : errno);
		close(folder);
		folder = next;
	}
}

static struct error *open_place(const struct place *place, const char *path, int flags, int *ret_fd)
{
	struct stat st;
	int fd CLEANUP_CLOSE = openat(place->folder, place->name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);

	if (fd < 0)
		return failure(path, errno);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return failure(path, ELOOP);
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

bool files_exists(int root, const char *path)
{
	struct place place;
	struct stat st;
	struct error *error = locate(root, path, &place);

	if (error) {
		error_free(error);
		return false;
	}
	bool is_there = place.is_there && fstatat(place.folder, place.name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
	close(place.folder);
	return is_there;
}

struct error *files_open(int root, const char *path, int *ret_fd)
{
	struct place place;
	struct error *error = locate(root, path, &place);

	if (error)
		return error;
	error = place.is_there ? open_place(&place, path, O_RDONLY, ret_fd) : failure(path, ENOENT);
	close(place.folder);
	return error;
}

struct error *files_read(int root, const char *path, size_t max, struct bytes *ret)
{
	struct stat st;
	struct bytes bytes = { 0 };
	int fd CLEANUP_CLOSE = -1;
	struct error *error = files_open(root, path, &fd);

	if (error)
		return error;
	if (fstat(fd, &st) < 0)
		return failure(path, errno);
	if ((uint64_t)st.st_size > max)
		return failure(path, EFBIG);
	bytes.data = malloc((size_t)st.st_size + 1);
	while (bytes.data && bytes.len < (size_t)st.st_size) {
		ssize_t done = read(fd, bytes.data + bytes.len, (size_t)st.st_size - bytes.len);
		if (done <= 0)
			break;
		bytes.len += (size_t)done;
	}
	if (bytes.len == (size_t)st.st_size && bytes.data) {
		*ret = bytes;
		return NULL;
	}
	bytes_deinit(&bytes);
	return failure(path, EIO);
}

static struct error *write_all(int fd, const char *path, const struct bytes *bytes)
{
	for (size_t at = 0; at < bytes->len;) {
		ssize_t done = write(fd, bytes->data + at, bytes->len - at);
		if (done < 0)
			return failure(path, errno);
		at += (size_t)done;
	}
	return ftruncate(fd, (off_t)bytes->len) == 0 && fsync(fd) == 0 ? NULL : failure(path, errno);
}

struct error *files_write(int root, const char *path, const struct bytes *bytes)
{
	struct place place;
	int fd CLEANUP_CLOSE = -1;
	struct error *error = locate(root, path, &place);

	if (error)
		return error;
	error = open_place(&place, path, O_WRONLY | (place.is_there ? 0 : O_CREAT | O_EXCL), &fd);
	close(place.folder);
	return error ? error : write_all(fd, path, bytes);
}

struct error *files_let_read(int root, const char *path)
{
	int fd CLEANUP_CLOSE = -1;
	struct error *error = files_open(root, path, &fd);

	if (!error && fchmod(fd, 0644) < 0)
		error = failure(path, errno);
	return error;
}

struct error *files_rename(int root, const char *from, const char *to)
{
	struct place old, new;
	struct error *error = locate(root, from, &old);

	if (error)
		return error;
	error = old.is_there ? locate(root, to, &new) : failure(from, ENOENT);
	if (!error) {
		if (new.is_there)
			error = failure(to, EEXIST);
		else if (renameat(old.folder, old.name, new.folder, new.name) < 0)
			error = failure(from, errno);
		close(new.folder);
	}
	close(old.folder);
	return error;
}

static struct error *remove_place(int root, const char *path, int flags)
{
	struct place place;
	struct error *error = locate(root, path, &place);

	if (error)
		return error;
	if (!place.is_there || unlinkat(place.folder, place.name, flags) < 0)
		error = failure(path, place.is_there ? errno : ENOENT);
	close(place.folder);
	return error;
}

struct error *files_remove(int root, const char *path)
{
	return remove_place(root, path, 0);
}

struct error *files_remove_folder(int root, const char *path)
{
	return remove_place(root, path, AT_REMOVEDIR);
}

struct error *files_make_folder(int root, const char *path)
{
	struct place place;
	struct error *error = locate(root, path, &place);

	if (error)
		return error;
	if (place.is_there || mkdirat(place.folder, place.name, 0700) < 0)
		error = failure(path, place.is_there ? EEXIST : errno);
	close(place.folder);
	return error;
}
