// SPDX-License-Identifier: MIT
#include "serve/guest_ram.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define PAGE 4096u

// The link of a descriptor tells how it was opened, and is root's while the process has, or may still know, what its user may not see
// (proc(5), "dumpable").
static bool is_writable_by(int folder, const char *name, uid_t owner)
{
	struct stat st;

	return fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid == owner && st.st_mode & S_IWUSR;
}

// One descriptor of QEMU: is it a file of this size that QEMU may write? *ret_fd: opened anew.
static bool open_if_ram(int folder, const char *name, uid_t owner, uint64_t size, struct stat *ret_st, int *ret_fd)
{
	int fd CLEANUP_CLOSE = -1;

	if (!is_writable_by(folder, name, owner) || fstatat(folder, name, ret_st, 0) < 0 || !S_ISREG(ret_st->st_mode) ||
	    (uint64_t)ret_st->st_size != size)
		return false;
	fd = openat(folder, name, O_RDWR | O_CLOEXEC);
	// Still: another program may have come in between.
	if (fd < 0 || !is_writable_by(folder, name, owner))
		return false;
	*ret_fd = cleanup_take_fd(&fd);
	return true;
}

static struct error *find_file(int pid, uid_t owner, uint64_t size, int *ret_fd)
{
	struct dirent *entry;
	struct stat st, first = { 0 };
	char folder[64];
	int found = -1, fd;
	bool is_ambiguous = false;
	DIR *dir;

	snprintf(folder, sizeof(folder), "/proc/%d/fd", pid);
	dir = opendir(folder);
	if (!dir)
		return error_create(errno, "cannot look at the descriptors of QEMU (pid %d): %s", pid, strerror(errno));
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !open_if_ram(dirfd(dir), entry->d_name, owner, size, &st, &fd))
			continue;
		if (found < 0) {
			found = fd;
			first = st;
			continue;
		}
		is_ambiguous |= st.st_ino != first.st_ino || st.st_dev != first.st_dev;
		close(fd);
	}
	closedir(dir);
	if (is_ambiguous) {
		close(found);
		return error_create(ENOTUNIQ, "QEMU (pid %d) has several files of the guest's RAM size open (%llu bytes)", pid,
				    (unsigned long long)size);
	}
	if (found < 0)
		return error_create(ENOENT, "QEMU (pid %d) has no file of the guest's RAM size open (%llu bytes): is the memory backend "
					    "a memfd or file with share=on?", pid, (unsigned long long)size);
	*ret_fd = found;
	return NULL;
}

// The same file once more, for reading only: what is passed on must not be a way to write.
static int open_for_reading(int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

struct error *guest_ram_open(struct guest_ram *ram, int pid, uid_t owner, uint64_t size)
{
	int fd CLEANUP_CLOSE = -1, read_fd CLEANUP_CLOSE = -1;
	struct error *error;
	void *host;

	guest_ram_close(ram);
	error = find_file(pid, owner, size, &fd);
	if (error)
		return error;
	read_fd = open_for_reading(fd);
	if (read_fd < 0)
		return error_create(errno, "cannot open the guest's RAM for reading: %s", strerror(errno));
	host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (host == MAP_FAILED)
		return error_create(errno, "cannot map the guest's RAM: %s", strerror(errno));
	ram->fd = cleanup_take_fd(&fd);
	ram->read_fd = cleanup_take_fd(&read_fd);
	ram->host = host;
	ram->size = size;
	return NULL;
}

void guest_ram_close(struct guest_ram *ram)
{
	if (ram->fd >= 0) {
		munmap(ram->host, ram->size);
		close(ram->fd);
		close(ram->read_fd);
	}
	guest_ram_init(ram);
}

static const char *parse_failure(int outcome)
{
	switch (outcome) {
	case MEMORY_MAP_E_VIEW:
		return "QEMU's memory tree has no view of the address space \"memory\"";
	case MEMORY_MAP_E_EMPTY:
		return "QEMU's memory tree shows no RAM of the backend";
	default:
		return "QEMU's memory tree has numbers that cannot be";
	}
}

static bool is_same(const struct memory_map *a, const struct memory_map *b)
{
	return a->count == b->count && memcmp(a->pieces, b->pieces, a->count * sizeof(a->pieces[0])) == 0;
}

struct error *guest_ram_set_map(struct guest_ram *ram, const char *mtree, size_t len, const char *ram_id, bool *ret_is_new)
{
	struct memory_map map;
	int outcome = memory_map_parse(mtree, len, ram_id, ram->size, &map);

	if (outcome)
		return error_create(EPROTO, "%s '%s'", parse_failure(outcome), ram_id);
	*ret_is_new = !is_same(&map, &ram->map);
	ram->map = map;
	for (uint32_t i = 0; i < map.count; i++)
		ram->ranges[i] = (struct gpa_range){
			.gpa = map.pieces[i].gpa, .size = map.pieces[i].size, .host = ram->host + map.pieces[i].offset,
		};
	ram->gpa = (struct gpa_map){ .ranges = ram->ranges, .count = map.count };
	return NULL;
}

size_t guest_ram_describe(const struct guest_ram *ram, struct link_memory *ret)
{
	_Static_assert(MEMORY_MAP_MAX <= LINK_MEMORY_PIECES_MAX, "every map fits a message");

	*ret = (struct link_memory){ .piece_count = ram->gpa.count, .file_count = ram->gpa.count ? 1 : 0 };
	for (uint32_t i = 0; i < ret->piece_count; i++)
		ret->pieces[i] = (struct link_memory_piece){
			.gpa = ram->map.pieces[i].gpa, .size = ram->map.pieces[i].size, .at = ram->map.pieces[i].offset,
		};
	return offsetof(struct link_memory, pieces) + ret->piece_count * sizeof(ret->pieces[0]);
}

// The piece that holds file offset `at`, or the first behind it.
static const struct memory_piece *piece_from(const struct guest_ram *ram, uint64_t at)
{
	const struct memory_piece *best = NULL;

	for (uint32_t i = 0; i < ram->map.count; i++) {
		const struct memory_piece *p = &ram->map.pieces[i];

		if (at < p->offset + p->size && (!best || p->offset < best->offset))
			best = p;
	}
	return best;
}

bool guest_ram_next_data(const struct guest_ram *ram, uint64_t *offset, struct gpa_range *ret)
{
	uint64_t at = *offset;

	while (at < ram->size) {
		off_t data = lseek(ram->fd, (off_t)at, SEEK_DATA), hole;
		const struct memory_piece *p;
		uint64_t end;

		if (data < 0)
			return false;
		p = piece_from(ram, (uint64_t)data);
		if (!p)
			return false;
		if ((uint64_t)data < p->offset) {
			at = p->offset;
			continue;
		}
		hole = lseek(ram->fd, data, SEEK_HOLE);
		end = hole < 0 ? ram->size : (uint64_t)hole;
		if (end > p->offset + p->size)
			end = p->offset + p->size;
		*offset = end;
		*ret = (struct gpa_range){
			.gpa = p->gpa + ((uint64_t)data - p->offset), .size = end - (uint64_t)data, .host = ram->host + data,
		};
		return true;
	}
	return false;
}
