// SPDX-License-Identifier: MIT
#include "vmm/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PAGE 4096u
#define LINE_MAX_KEPT 160u // of a maps line: the fields before the name have at most 108 characters
#define SEGMENTS_MAX 256u
#define FILES_KNOWN_MAX 32u
// A piece that is to be left out: mapped, but no RAM.
#define NOT_RAM 0xFFFFFFFEu

// A part of this process's address space that holds RAM of the guest, in one file or in none.
struct segment {
	uint64_t start, end;
	uint64_t at;   // offset in the file; REMOTE: = start
	uint32_t file; // index of a descriptor, LINK_MEMORY_REMOTE or NOT_RAM
};

// What became of a file, so that it is looked for once.
struct known_file {
	dev_t device;
	ino_t inode;
	uint32_t file;
};

// One memory_find. Static: the thread's stack is small.
static struct finder {
	const struct memory_ranges *ranges;
	struct memory_report *report;
	struct segment segments[SEGMENTS_MAX]; // ascending
	uint32_t segment_count;
	struct known_file known[FILES_KNOWN_MAX];
	uint32_t known_count;
	bool is_cut;
} find;

// ---- One line of /proc/self/maps ------------------------------------------------------------------

struct text {
	const char *at, *end;
};

static bool take_char(struct text *t, char c)
{
	if (t->at == t->end || *t->at != c)
		return false;
	t->at++;
	return true;
}

// A number of at most 64 bits, in base 10 or 16 (small letters), at least one digit.
static bool take_number(struct text *t, unsigned base, uint64_t *ret)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t value = 0;
	const char *start = t->at;
	for (; t->at < t->end && *t->at; t->at++) {
		const char *digit = memchr(digits, *t->at, base);
		if (!digit)
			break;
		if (value > (UINT64_MAX - (uint64_t)(digit - digits)) / base)
			return false;
		value = value * base + (uint64_t)(digit - digits);
	}
	*ret = value;
	return t->at > start;
}

static bool take_permissions(struct text *t, struct memory_mapping *m)
{
	if (t->end - t->at < 4)
		return false;
	m->is_readable = t->at[0] == 'r';
	m->is_shared = t->at[3] == 's';
	bool is_sound = (m->is_readable || t->at[0] == '-') && (m->is_shared || t->at[3] == 'p');
	t->at += 4;
	return is_sound;
}

static bool is_sound(const struct memory_mapping *m, uint64_t major, uint64_t minor)
{
	return m->start < m->end && m->start % PAGE == 0 && m->end % PAGE == 0 && m->offset % PAGE == 0 &&
	       m->offset <= UINT64_MAX - (m->end - m->start) && major <= UINT32_MAX && minor <= UINT32_MAX;
}

bool memory_parse_mapping(const char *line, size_t len, struct memory_mapping *ret)
{
	struct text t = { line, line + len };
	struct memory_mapping m = { 0 };
	uint64_t major, minor;
	if (!take_number(&t, 16, &m.start) || !take_char(&t, '-') || !take_number(&t, 16, &m.end) || !take_char(&t, ' ') ||
	    !take_permissions(&t, &m) || !take_char(&t, ' ') || !take_number(&t, 16, &m.offset) || !take_char(&t, ' ') ||
	    !take_number(&t, 16, &major) || !take_char(&t, ':') || !take_number(&t, 16, &minor) || !take_char(&t, ' ') ||
	    !take_number(&t, 10, &m.inode) || !is_sound(&m, major, minor))
		return false;
	if (t.at < t.end && *t.at != ' ' && *t.at != '\n') // a number that goes on
		return false;
	m.major = (uint32_t)major;
	m.minor = (uint32_t)minor;
	*ret = m;
	return true;
}

// ---- The file behind a mapping ----------------------------------------------------------------------

static bool is_file(int fd, dev_t device, ino_t inode, mode_t *ret_mode)
{
	struct stat st;
	if (fstat(fd, &st) || st.st_dev != device || st.st_ino != inode)
		return false;
	*ret_mode = st.st_mode;
	return true;
}

// Open `path` if it still is that file. -> -1: not.
static int open_checked(const char *path, dev_t device, ino_t inode)
{
	mode_t mode;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd >= 0 && !(is_file(fd, device, inode, &mode) && S_ISREG(mode))) {
		close(fd);
		return -1;
	}
	return fd;
}

// The VMM's descriptor `number` may be of that file: then *ret_fd is it, opened for reading. -> true: no need to look further.
static bool try_descriptor(int number, dev_t device, ino_t inode, int *ret_fd, bool *ret_is_device)
{
	char path[32];
	mode_t mode;
	if (!is_file(number, device, inode, &mode))
		return false;
	*ret_is_device = !S_ISREG(mode);
	if (*ret_is_device)
		return true;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", number);
	*ret_fd = open_checked(path, device, inode);
	return *ret_fd >= 0;
}

// Look through the VMM's descriptors. -> as LINK_MEMORY's file: a descriptor in *ret_fd (0), NOT_RAM, LINK_MEMORY_REMOTE.
static uint32_t search_descriptors(dev_t device, ino_t inode, int *ret_fd)
{
	static _Alignas(struct dirent64) char entries[4096];
	bool is_over = false, is_device = false;
	ssize_t len;
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (dir >= 0 && !is_over && (len = getdents64(dir, entries, sizeof(entries))) > 0) {
		for (ssize_t at = 0; at < len && !is_over;) {
			const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
			at += entry->d_reclen;
			if (entry->d_name[0] != '.')
				is_over = try_descriptor(atoi(entry->d_name), device, inode, ret_fd, &is_device);
		}
	}
	if (dir >= 0)
		close(dir);
	if (!is_over)
		return LINK_MEMORY_REMOTE;
	return is_device ? NOT_RAM : 0;
}

// For a file that the VMM has closed, or never had a descriptor of. The kernel lets only the privileged pass here.
static int open_mapping(const struct memory_mapping *m, dev_t device)
{
	char path[80];
	snprintf(path, sizeof(path), "/proc/self/map_files/%llx-%llx", (unsigned long long)m->start, (unsigned long long)m->end);
	return open_checked(path, device, (ino_t)m->inode);
}

static uint32_t open_file(const struct memory_mapping *m, dev_t device)
{
	int fd = -1;
	struct memory_report *r = find.report;
	if (r->message.file_count == LINK_MEMORY_FILES_MAX)
		return LINK_MEMORY_REMOTE;
	if (search_descriptors(device, (ino_t)m->inode, &fd) == NOT_RAM)
		return NOT_RAM;
	if (fd < 0)
		fd = open_mapping(m, device);
	if (fd < 0)
		return LINK_MEMORY_REMOTE;
	r->fds[r->message.file_count] = fd;
	return r->message.file_count++;
}

static uint32_t file_of(const struct memory_mapping *m)
{
	dev_t device = makedev(m->major, m->minor);
	if (!m->is_shared || !m->inode)
		return LINK_MEMORY_REMOTE;
	for (uint32_t i = 0; i < find.known_count; i++) {
		const struct known_file *k = &find.known[i];
		if (k->device == device && k->inode == (ino_t)m->inode)
			return k->file;
	}
	if (find.known_count == FILES_KNOWN_MAX)
		return LINK_MEMORY_REMOTE;
	uint32_t file = open_file(m, device);
	find.known[find.known_count++] = (struct known_file){ .device = device, .inode = (ino_t)m->inode, .file = file };
	return file;
}

// ---- The address space ------------------------------------------------------------------------------

static bool is_in_use(uint64_t start, uint64_t end)
{
	for (uint32_t i = 0; i < find.ranges->count; i++) {
		uint64_t host = (uintptr_t)find.ranges->at[i].host;
		if (host < end && start < host + find.ranges->at[i].size)
			return true;
	}
	return false;
}

static void add_segment(uint64_t start, uint64_t end, uint64_t at, uint32_t file)
{
	struct segment *last = find.segment_count ? &find.segments[find.segment_count - 1] : NULL;
	if (last && last->end == start && last->file == file && last->at + (last->end - last->start) == at) {
		last->end = end;
		return;
	}
	if (find.segment_count == SEGMENTS_MAX) {
		find.is_cut = true;
		return;
	}
	find.segments[find.segment_count++] = (struct segment){ .start = start, .end = end, .at = at, .file = file };
}

static void take_line(const char *line, size_t len)
{
	struct memory_mapping m;
	if (!memory_parse_mapping(line, len, &m) || !m.is_readable || !is_in_use(m.start, m.end))
		return;
	uint32_t file = file_of(&m);
	if (file != NOT_RAM)
		add_segment(m.start, m.end, file == LINK_MEMORY_REMOTE ? m.start : m.offset, file);
}

// -> false: there is no /proc here.
static bool read_maps(void)
{
	static char bytes[4096];
	char line[LINE_MAX_KEPT];
	size_t used = 0;
	ssize_t len;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	while ((len = read(fd, bytes, sizeof(bytes))) > 0) {
		for (ssize_t i = 0; i < len; i++) {
			if (bytes[i] != '\n') {
				if (used < sizeof(line))
					line[used++] = bytes[i];
				continue;
			}
			take_line(line, used);
			used = 0;
		}
	}
	close(fd);
	return true;
}

// ---- The message ------------------------------------------------------------------------------------

void memory_note(const struct gpa_map *map, struct memory_ranges *ret)
{
	ret->count = 0;
	ret->is_cut = map->count > LINK_MEMORY_PIECES_MAX;
	for (uint32_t i = 0; i < map->count; i++) {
		uint32_t place = ret->count;
		while (place > 0 && ret->at[place - 1].gpa > map->ranges[i].gpa)
			place--;
		if (place == LINK_MEMORY_PIECES_MAX)
			continue;
		uint32_t moved = ret->count - place - (ret->count == LINK_MEMORY_PIECES_MAX);
		memmove(&ret->at[place + 1], &ret->at[place], moved * sizeof(ret->at[0]));
		ret->at[place] = map->ranges[i];
		ret->count += ret->count < LINK_MEMORY_PIECES_MAX;
	}
}

static void add_piece(struct link_memory *m, const struct link_memory_piece *piece)
{
	struct link_memory_piece *last = m->piece_count ? &m->pieces[m->piece_count - 1] : NULL;
	if (last && last->gpa + last->size == piece->gpa && last->file == piece->file && last->at + last->size == piece->at)
		last->size += piece->size;
	else if (m->piece_count < LINK_MEMORY_PIECES_MAX)
		m->pieces[m->piece_count++] = *piece;
	else
		m->is_cut = 1;
}

static void add_range(struct link_memory *m, const struct gpa_range *range)
{
	uint64_t host = (uintptr_t)range->host;
	for (uint32_t i = 0; i < find.segment_count; i++) {
		const struct segment *s = &find.segments[i];
		uint64_t start = s->start > host ? s->start : host;
		uint64_t end = s->end < host + range->size ? s->end : host + range->size;
		if (start < end)
			add_piece(m, &(struct link_memory_piece){
				.gpa = range->gpa + (start - host), .size = end - start, .at = s->at + (start - s->start), .file = s->file,
			});
	}
}

void memory_find(const struct memory_ranges *ranges, struct memory_report *ret)
{
	ret->message = (struct link_memory){ .pid = (uint32_t)getpid() };
	find.ranges = ranges;
	find.report = ret;
	find.segment_count = find.known_count = 0;
	find.is_cut = ranges->is_cut;
	if (!read_maps())
		add_segment(0, UINT64_MAX, 0, LINK_MEMORY_REMOTE);
	for (uint32_t i = 0; i < ranges->count; i++)
		add_range(&ret->message, &ranges->at[i]);
	ret->message.is_cut |= find.is_cut;
}

void memory_close(struct memory_report *report)
{
	for (uint32_t i = 0; i < report->message.file_count; i++)
		close(report->fds[i]);
	report->message = (struct link_memory){ .pid = report->message.pid };
}

uint32_t memory_message_len(const struct link_memory *m)
{
	return (uint32_t)(offsetof(struct link_memory, pieces) + m->piece_count * sizeof(m->pieces[0]));
}

bool memory_is_remote(const struct link_memory *m)
{
	for (uint32_t i = 0; i < m->piece_count; i++) {
		if (m->pieces[i].file == LINK_MEMORY_REMOTE)
			return true;
	}
	return false;
}

// ---- Who may read this process ------------------------------------------------------------------------

// Yama's rule (Documentation/admin-guide/LSM/Yama.rst of the kernel): 0 none, 1 descendants and the named tracer, 2 the privileged, 3 nobody.
// -> 0 without Yama.
static int yama_scope(void)
{
	char digit = '0';
	int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (read(fd, &digit, 1) != 1)
		digit = '0';
	close(fd);
	return digit - '0';
}

// The kernel lets a process read another of the same user and group that has not become undumpable (ptrace(2), "Ptrace access mode checking").
static bool is_own_user(const struct ucred *peer)
{
	uid_t uid, euid, suid;
	gid_t gid, egid, sgid;
	return !getresuid(&uid, &euid, &suid) && peer->uid == uid && peer->uid == euid && peer->uid == suid &&
	       !getresgid(&gid, &egid, &sgid) && peer->gid == gid && peer->gid == egid && peer->gid == sgid;
}

static bool has_tracer; // that we have named

bool memory_permit(const struct ucred *peer)
{
	int scope = yama_scope();
	if (peer->uid == 0)
		return scope < 3;
	if (!is_own_user(peer) || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1)
		return false;
	// Without Yama EINVAL; with scope 0 it matters as soon as somebody raises that.
	has_tracer = peer->pid > 0 && scope < 2 && !prctl(PR_SET_PTRACER, (unsigned long)peer->pid, 0, 0, 0);
	return scope == 0 || has_tracer;
}

void memory_forbid(void)
{
	if (has_tracer)
		(void)prctl(PR_SET_PTRACER, 0, 0, 0, 0);
	has_tracer = false;
}
