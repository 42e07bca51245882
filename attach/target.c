// SPDX-License-Identifier: MIT
#include "attach/target.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/remote_elf.h"
#include "util/cleanup.h"

#define FILE_MAX (16u << 20) // of maps: a QEMU has some 300 lines of 100 bytes
#define CHUNK 65536u
#define KVM_VM "anon_inode:kvm-vm"
#define KVM_VCPU "anon_inode:kvm-vcpu:"
#define DIRTY_RING_OFFSET 0x40000u // KVM_DIRTY_LOG_PAGE_OFFSET, in bytes: where a vCPU's descriptor has its dirty ring

static int open_proc(pid_t pid, const char *file, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return open(path, flags | O_CLOEXEC);
}

// All of a file of the process's, with a NUL behind it. -> NULL and errno.
static char *read_proc(pid_t pid, const char *file)
{
	int fd CLEANUP_CLOSE = open_proc(pid, file, O_RDONLY);
	size_t len = 0, size = CHUNK;
	char *text = fd >= 0 ? malloc(size) : NULL;

	while (text) {
		ssize_t got = read(fd, text + len, size - len - 1);
		char *more;

		if (got <= 0) {
			text[len] = 0;
			break;
		}
		len += (size_t)got;
		if (len < size - 1)
			continue;
		size *= 2;
		more = size <= FILE_MAX ? realloc(text, size) : NULL;
		if (!more)
			free(text);
		text = more;
	}
	return text;
}

// ---- What kind of process ---------------------------------------------------------------------------------

// The value of a line "KEY:\tVALUE" of /proc/PID/status, "" = there is none.
static void status_value(const char *status, const char *key, char *ret, size_t size)
{
	const char *line = status;
	size_t len = strlen(key);

	ret[0] = 0;
	for (; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (strncmp(line, key, len) == 0 && line[len] == ':') {
			line += len + 1;
			line += strspn(line, "\t ");
			snprintf(ret, size, "%.*s", (int)strcspn(line, "\n"), line);
			return;
		}
	}
}

static struct error *check_status(pid_t pid)
{
	char state[32], group[32], tracer[32], features[128];
	char *status = read_proc(pid, "status");

	if (!status)
		return error_create(ESRCH, "there is no process %d", (int)pid);
	status_value(status, "State", state, sizeof(state));
	status_value(status, "Tgid", group, sizeof(group));
	status_value(status, "TracerPid", tracer, sizeof(tracer));
	status_value(status, "x86_Thread_features", features, sizeof(features));
	free(status);
	if (state[0] == 'Z' || state[0] == 'X')
		return error_create(ESRCH, "process %d has ended (a zombie)", (int)pid);
	if (atoi(group) != pid)
		return error_create(EINVAL, "%d is a thread of process %d; name the process", (int)pid, atoi(group));
	if (atoi(tracer))
		return error_create(EBUSY, "process %d is traced by process %d (a debugger, strace); end that first", (int)pid, atoi(tracer));
	if (state[0] == 'T' || state[0] == 't')
		return error_create(EBUSY, "process %d is stopped; let it run first: kill -CONT %d", (int)pid, (int)pid);
	if (strstr(features, "shstk"))
		return error_create(ENOTSUP, "process %d runs with a shadow stack, which forbids what attaching does; start the VM with `vmkd run`", (int)pid);
	return NULL;
}

static struct error *check_program(pid_t pid)
{
	Elf64_Ehdr head = { .e_ident = "" };
	int fd CLEANUP_CLOSE = open_proc(pid, "exe", O_RDONLY);

	if (fd < 0 && errno == ENOENT)
		return error_create(EINVAL, "process %d is a thread of the Linux kernel", (int)pid);
	if (fd < 0)
		return error_create(errno, "process %d may not be looked into: %s; attach as its user, or as root", (int)pid, strerror(errno));
	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
		return error_create(ENOEXEC, "the program of process %d is not an ELF file", (int)pid);
	if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64)
		return error_create(ENOEXEC, "the program of process %d is not one of 64-bit x86, for which the library is made", (int)pid);
	return NULL;
}

static unsigned count_vms(pid_t pid)
{
	char path[32], what[32];
	unsigned count = 0;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	folder = opendir(path);
	for (const struct dirent *e = folder ? readdir(folder) : NULL; e; e = readdir(folder)) {
		ssize_t len = readlinkat(dirfd(folder), e->d_name, what, sizeof(what) - 1);

		what[len > 0 ? len : 0] = 0;
		count += strcmp(what, KVM_VM) == 0;
	}
	if (folder)
		closedir(folder);
	return count;
}

static struct error *check_kvm(const struct target *t)
{
	unsigned count = count_vms(t->pid);

	if (!count)
		return error_create(ENODEV, "process %d has no KVM virtual machine: expected a QEMU that runs with KVM (with TCG, the link debugcon needs no library: `vmkd run --link debugcon`)",
				    (int)t->pid);
	if (count > 1)
		return error_create(ENOTSUP, "process %d has %u KVM virtual machines; which memory belongs to which cannot be told", (int)t->pid, count);
	for (size_t i = 0; i < t->mapping_count; i++)
		if (t->mappings[i].offset >= DIRTY_RING_OFFSET && strncmp(t->mappings[i].path, KVM_VCPU, strlen(KVM_VCPU)) == 0)
			return error_create(ENOTSUP, "process %d uses KVM's dirty ring, with which attaching was never tried; start the VM with `vmkd run`", (int)t->pid);
	return NULL;
}

// ---- Its mappings -----------------------------------------------------------------------------------------

// "START-END PERM OFFSET MAJOR:MINOR INODE   PATH". The path ends with the line, which gets a NUL.
static bool parse_mapping(char *line, struct target_mapping *ret)
{
	char how[5];
	int path = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %*s%n", &ret->start, &ret->end, how, &ret->offset, &path) != 4 || !path)
		return false;
	line += path;
	line += strspn(line, " ");
	ret->path = line;
	ret->is_readable = how[0] == 'r';
	ret->is_writable = how[1] == 'w';
	ret->is_executable = how[2] == 'x';
	return ret->start < ret->end;
}

static size_t count_lines(const char *text)
{
	size_t count = 1;

	for (; *text; text++)
		count += *text == '\n';
	return count;
}

struct error *target_refresh(struct target *t)
{
	char *text = read_proc(t->pid, "maps"), *next;
	struct target_mapping *mappings = text ? calloc(count_lines(text), sizeof(*mappings)) : NULL;
	size_t count = 0;

	if (!mappings) {
		free(text);
		return error_create(errno, "process %d may not be looked into: %s; attach as its user, or as root", (int)t->pid, strerror(errno));
	}
	for (char *line = text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		count += parse_mapping(line, &mappings[count]);
	}
	free(t->text);
	free(t->mappings);
	t->text = text;
	t->mappings = mappings;
	t->mapping_count = count;
	return NULL;
}

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return path[0] == '/' && slash ? slash + 1 : "";
}

const struct target_mapping *target_find_file(const struct target *t, const char *prefix)
{
	for (size_t i = 0; i < t->mapping_count; i++)
		if (!t->mappings[i].offset && strncmp(file_name(t->mappings[i].path), prefix, strlen(prefix)) == 0)
			return &t->mappings[i];
	return NULL;
}

// Other objects are mapped between the pieces of none: the dynamic linker reserves the whole of it first.
static uint64_t file_end(const struct target *t, const struct target_mapping *m)
{
	uint64_t end = m->end;

	for (size_t i = (size_t)(m - t->mappings); i < t->mapping_count && strcmp(t->mappings[i].path, m->path) == 0; i++)
		end = t->mappings[i].end;
	return end;
}

bool target_is_writable(const struct target *t, uint64_t start, uint64_t size)
{
	uint64_t at = start, end = start + size;

	for (size_t i = 0; i < t->mapping_count && at < end; i++) {
		const struct target_mapping *m = &t->mappings[i];

		if (m->end <= at)
			continue;
		if (m->start > at || !m->is_readable || !m->is_writable)
			return false;
		at = m->end;
	}
	return size && end > start && at >= end;
}

static bool read_memory(void *arg, uint64_t address, void *ret, size_t len)
{
	const struct target *t = arg;

	return pread(t->mem_fd, ret, len, (off_t)address) == (ssize_t)len;
}

int target_find_function(const struct target *t, const struct target_mapping *m, const char *symbol, uint64_t *ret)
{
	const struct remote_object o = { .start = m->start, .end = file_end(t, m), .read = read_memory, .arg = (void *)(uintptr_t)t };

	return remote_elf_find(&o, symbol, ret);
}

static uint64_t search(const struct target *t, uint64_t start, uint64_t end, const void *bytes, size_t len)
{
	static uint8_t chunk[CHUNK + 16];

	for (uint64_t at = start; at < end; at += CHUNK) {
		size_t want = end - at < sizeof(chunk) ? (size_t)(end - at) : sizeof(chunk);
		const uint8_t *found;

		if (pread(t->mem_fd, chunk, want, (off_t)at) != (ssize_t)want)
			return 0;
		found = memmem(chunk, want, bytes, len);
		if (found)
			return at + (uint64_t)(found - chunk);
	}
	return 0;
}

uint64_t target_find_code(const struct target *t, const struct target_mapping *m, const void *bytes, size_t len)
{
	uint64_t found = 0;

	for (size_t i = (size_t)(m - t->mappings); !found && i < t->mapping_count && strcmp(t->mappings[i].path, m->path) == 0; i++)
		if (t->mappings[i].is_executable && t->mappings[i].is_readable)
			found = search(t, t->mappings[i].start, t->mappings[i].end, bytes, len);
	return found;
}

// ---- The rest ---------------------------------------------------------------------------------------------

bool target_has_thread(const struct target *t, int tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)t->pid, tid);
	return access(path, F_OK) == 0;
}

bool target_sees_file(const struct target *t, const char *path)
{
	char there[PATH_MAX + 32];
	struct stat a, b;

	snprintf(there, sizeof(there), "/proc/%d/root%s", (int)t->pid, path);
	return stat(path, &a) == 0 && stat(there, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static struct error *open_memory(struct target *t)
{
	t->mem_fd = open_proc(t->pid, "mem", O_RDWR);
	if (t->mem_fd >= 0)
		return NULL;
	return error_create(errno, "the memory of process %d may not be opened: %s; attach as root (Yama's kernel.yama.ptrace_scope lets nobody else trace a process that is not his child)",
			    (int)t->pid, strerror(errno));
}

struct error *target_open(pid_t pid, struct target *ret)
{
	struct target t = { .pid = pid, .mem_fd = -1 };
	struct error *error = check_status(pid);

	if (!error)
		error = check_program(pid);
	if (!error)
		error = target_refresh(&t);
	if (!error)
		error = check_kvm(&t);
	if (!error)
		error = open_memory(&t);
	if (error)
		target_close(&t);
	else
		*ret = t;
	return error;
}

void target_close(struct target *t)
{
	if (t->mem_fd >= 0)
		close(t->mem_fd);
	free(t->text);
	free(t->mappings);
	*t = (struct target){ .mem_fd = -1 };
}
