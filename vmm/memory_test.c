// SPDX-License-Identifier: MIT
// Where RAM is, asked about memory of this process: memfds, anonymous memory, files without a descriptor.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/memory.h"

#define PAGE 4096u
#define MIB (1u << 20)

static struct memory_ranges ranges;
static struct memory_report report;

// ---- One line -------------------------------------------------------------------------------------

static bool parses(const char *line)
{
	struct memory_mapping m;
	return memory_parse_mapping(line, strlen(line), &m);
}

static void what_is_no_mapping_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"",
		"\n",
		"1000-2000",
		"1000-2000 rw-s",
		"1000-2000 rw-s 0",
		"1000-2000 rw-s 0 0:1",
		"1000-2000 rw-s 0 0:1 ",
		"-2000 rw-s 0 0:1 5",
		"1000- rw-s 0 0:1 5",
		"2000-1000 rw-s 0 0:1 5",              // ends before it begins
		"1000-1000 rw-s 0 0:1 5",              // empty
		"1001-2000 rw-s 0 0:1 5",              // no whole pages
		"1000-2001 rw-s 0 0:1 5",
		"1000-2000 rw-s 1 0:1 5",
		"1000-2000 rw-x 0 0:1 5",              // neither shared nor private
		"1000-2000 xw-s 0 0:1 5",
		"1000-2000 rw- 0 0:1 5",
		"1000-2000rw-s 0 0:1 5",
		"1000-2000 rw-s 0 01 5",
		"1000-2000 rw-s 0 0:1 5a",             // an inode is decimal
		"1000-2000 rw-s 0 0:1 -5",
		"1000-2000 RW-S 0 0:1 5",
		"1000-2000 rw-s 0 100000000:1 5",      // no device number
		"10000000000001000-2000 rw-s 0 0:1 5", // 65 bits
		"1000-2000 rw-s 0 0:1 18446744073709551616",
		"1000-3000 rw-s fffffffffffff000 0:1 5", // the offset overflows within
		"0x1000-0x2000 rw-s 0 0:1 5",
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (parses(bad[i]))
			fail_msg("accepted: '%s'", bad[i]);
	}
	struct memory_mapping m;
	assert_false(memory_parse_mapping("1000-2000 rw-s 0 0:1 5", 21, &m)); // not one character beyond len is looked at
	assert_false(memory_parse_mapping("1000-2000 rw-s 0 0:1\0 5", 23, &m));
}

static void a_line_is_taken_apart(void **state)
{
	(void)state;
	static const char line[] = "7f3897649000-7f389764b000 rw-s 0012a000 103:0a 4242                 /memfd:pc.ram (deleted)\n";
	struct memory_mapping m;
	assert_true(memory_parse_mapping(line, sizeof(line) - 1, &m));
	assert_true(m.start == 0x7f3897649000 && m.end == 0x7f389764b000 && m.offset == 0x12a000);
	assert_true(m.major == 0x103 && m.minor == 0xa && m.inode == 4242 && m.is_readable && m.is_shared);
	assert_true(memory_parse_mapping("ffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]", 58, &m));
	assert_true(m.end == 0xffffffffff601000 && !m.is_readable && !m.is_shared && m.inode == 0);
}

// ---- Ranges -----------------------------------------------------------------------------------------

static void ranges_are_sorted_and_the_lowest_kept(void **state)
{
	(void)state;
	struct gpa_range many[LINK_MEMORY_PIECES_MAX + 30];
	const uint32_t count = sizeof(many) / sizeof(many[0]);
	for (uint32_t i = 0; i < count; i++) // 7 shares no factor with 150: every place once
		many[i] = (struct gpa_range){ .gpa = (uint64_t)(i * 7 % count) * 2 * PAGE, .size = PAGE, .host = NULL };
	memory_note(&(struct gpa_map){ many, count }, &ranges);
	assert_int_equal(ranges.count, LINK_MEMORY_PIECES_MAX);
	assert_true(ranges.is_cut);
	for (uint32_t i = 0; i < ranges.count; i++)
		assert_int_equal(ranges.at[i].gpa, (uint64_t)i * 2 * PAGE);
	memory_note(&(struct gpa_map){ many, 3 }, &ranges);
	assert_int_equal(ranges.count, 3);
	assert_false(ranges.is_cut);
	memory_note(&(struct gpa_map){ NULL, 0 }, &ranges);
	assert_int_equal(ranges.count, 0);
}

// ---- Finding ------------------------------------------------------------------------------------------

static unsigned open_descriptors(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int make_memfd(size_t size)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

// Room for the test's mappings, so that it knows what their neighbours are.
static uint8_t *reserve(size_t size)
{
	uint8_t *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(at != MAP_FAILED);
	return at;
}

static void map_at(uint8_t *at, size_t size, int flags, int fd, off_t offset)
{
	assert_true(mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset) == at);
}

static const struct link_memory *find(const struct gpa_range *at, uint32_t count)
{
	memory_note(&(struct gpa_map){ at, count }, &ranges);
	memory_find(&ranges, &report);
	assert_int_equal(report.message.pid, getpid());
	return &report.message;
}

static void assert_piece(uint32_t index, uint64_t gpa, uint64_t size, uint64_t at, uint32_t file)
{
	const struct link_memory_piece *p = &report.message.pieces[index];
	if (p->gpa != gpa || p->size != size || p->at != at || p->file != file || p->reserved)
		fail_msg("piece %u: gpa %llx size %llx at %llx file %x", index, (unsigned long long)p->gpa, (unsigned long long)p->size,
		         (unsigned long long)p->at, p->file);
}

static void a_memfd_is_opened_for_reading(void **state)
{
	(void)state;
	int fd = make_memfd(4 * MIB);
	uint8_t *at = reserve(2 * MIB);
	map_at(at, 2 * MIB, MAP_SHARED, fd, MIB);
	strcpy((char *)at + PAGE, "of the guest");
	unsigned before = open_descriptors();
	const struct link_memory *m = find(&(struct gpa_range){ .gpa = 0x100000000, .size = 2 * MIB, .host = at }, 1);
	assert_int_equal(m->piece_count, 1);
	assert_int_equal(m->file_count, 1);
	assert_int_equal(m->is_cut, 0);
	assert_piece(0, 0x100000000, 2 * MIB, MIB, 0);
	assert_false(memory_is_remote(m));
	assert_int_equal(memory_message_len(m), 24 + 32);
	assert_int_equal(fcntl(report.fds[0], F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(report.fds[0], F_GETFD), FD_CLOEXEC);
	char text[13];
	assert_int_equal(pread(report.fds[0], text, sizeof(text), MIB + PAGE), sizeof(text));
	assert_string_equal(text, "of the guest");
	assert_int_equal(open_descriptors(), before + 1); // nothing else stays open
	memory_close(&report);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(m->piece_count, 0);
	munmap(at, 2 * MIB);
	close(fd);
}

static void private_memory_is_remote(void **state)
{
	(void)state;
	int fd = make_memfd(MIB);
	uint8_t *at = reserve(3 * MIB);
	map_at(at, MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map_at(at + MIB, MIB, MAP_PRIVATE, fd, 0); // a copy as soon as the guest writes
	map_at(at + 2 * MIB, MIB, MAP_SHARED, fd, 0);
	const struct gpa_range three[] = {
		{ .gpa = 2 * MIB, .size = MIB, .host = at + MIB }, // slots are in any order
		{ .gpa = 0, .size = MIB, .host = at },
		{ .gpa = 8 * MIB, .size = MIB, .host = at + 2 * MIB },
	};
	const struct link_memory *m = find(three, 3);
	assert_int_equal(m->piece_count, 3);
	assert_int_equal(m->file_count, 1);
	assert_piece(0, 0, MIB, (uintptr_t)at, LINK_MEMORY_REMOTE);
	assert_piece(1, 2 * MIB, MIB, (uintptr_t)at + MIB, LINK_MEMORY_REMOTE);
	assert_piece(2, 8 * MIB, MIB, 0, 0);
	assert_true(memory_is_remote(m));
	memory_close(&report);
	munmap(at, 3 * MIB);
	close(fd);
}

// One slot over several mappings, several slots in one mapping, pieces that are one although two slots or mappings hold them.
static void slots_and_mappings_are_split_and_joined(void **state)
{
	(void)state;
	int low = make_memfd(4 * MIB), high = make_memfd(MIB);
	uint8_t *at = reserve(5 * MIB);
	map_at(at, MIB, MAP_SHARED, low, 0);
	map_at(at + MIB, MIB, MAP_SHARED, low, MIB); // goes on, though the kernel may keep two
	assert_int_equal(mprotect(at + MIB, MIB, PROT_READ), 0);
	map_at(at + 2 * MIB, MIB, MAP_SHARED, high, 0);
	map_at(at + 3 * MIB, MIB, MAP_SHARED, low, 2 * MIB);
	const struct gpa_range slots[] = {
		{ .gpa = 0, .size = 4 * MIB, .host = at },
		{ .gpa = 16 * MIB, .size = PAGE, .host = at + 3 * MIB + PAGE },
		{ .gpa = 16 * MIB + PAGE, .size = PAGE, .host = at + 3 * MIB + 2 * PAGE }, // goes on in gpa and file
		{ .gpa = 16 * MIB + 2 * PAGE, .size = PAGE, .host = at + 3 * MIB },          // in gpa only
	};
	const struct link_memory *m = find(slots, 4);
	assert_int_equal(m->file_count, 2);
	assert_int_equal(m->piece_count, 5);
	uint32_t high_file = m->pieces[1].file, low_file = m->pieces[0].file;
	assert_int_not_equal(high_file, low_file);
	assert_piece(0, 0, 2 * MIB, 0, low_file);
	assert_piece(1, 2 * MIB, MIB, 0, high_file);
	assert_piece(2, 3 * MIB, MIB, 2 * MIB, low_file);
	assert_piece(3, 16 * MIB, 2 * PAGE, 2 * MIB + PAGE, low_file);
	assert_piece(4, 16 * MIB + 2 * PAGE, PAGE, 2 * MIB, low_file);
	memory_close(&report);
	munmap(at, 5 * MIB);
	close(low);
	close(high);
}

static void what_is_not_mapped_is_in_no_piece(void **state)
{
	(void)state;
	uint8_t *at = reserve(3 * MIB);
	map_at(at, MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map_at(at + 2 * MIB, MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const struct link_memory *m = find(&(struct gpa_range){ .gpa = 0, .size = 3 * MIB, .host = at }, 1);
	assert_int_equal(m->piece_count, 2);
	assert_piece(0, 0, MIB, (uintptr_t)at, LINK_MEMORY_REMOTE);
	assert_piece(1, 2 * MIB, MIB, (uintptr_t)at + 2 * MIB, LINK_MEMORY_REMOTE);
	munmap(at, 3 * MIB);
}

// A file whose descriptors are all closed, or may not be opened: its RAM is still where it is.
static void a_file_that_cannot_be_opened_is_remote(void **state)
{
	(void)state;
	int fd = make_memfd(MIB);
	uint8_t *at = reserve(MIB);
	map_at(at, MIB, MAP_SHARED, fd, 0);
	close(fd);
	unsigned before = open_descriptors();
	const struct link_memory *m = find(&(struct gpa_range){ .gpa = 0, .size = MIB, .host = at }, 1);
	assert_int_equal(m->piece_count, 1);
	if (m->file_count) // by /proc/self/map_files, which the privileged may
		assert_piece(0, 0, MIB, 0, 0);
	else
		assert_piece(0, 0, MIB, (uintptr_t)at, LINK_MEMORY_REMOTE);
	memory_close(&report);
	assert_int_equal(open_descriptors(), before);
	munmap(at, MIB);
}

// A device's registers that a VMM gives its guest look like RAM to KVM. io_uring's rings stand in for a device: shared, and no regular file.
static void a_device_is_left_out(void **state)
{
	(void)state;
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 1, &params);
	uint8_t *at = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
	if (at == MAP_FAILED) {
		print_message("io_uring: %s\n", strerror(errno));
		skip();
	}
	const struct link_memory *m = find(&(struct gpa_range){ .gpa = 0, .size = PAGE, .host = at }, 1);
	assert_int_equal(m->file_count, 0);
	assert_int_equal(m->piece_count, 0);
	munmap(at, PAGE);
	close(fd);
}

static void more_files_than_fit_are_remote(void **state)
{
	(void)state;
	enum { COUNT = LINK_MEMORY_FILES_MAX + 3 };
	int fds[COUNT];
	struct gpa_range slots[COUNT];
	uint8_t *at = reserve(COUNT * PAGE);
	for (uint32_t i = 0; i < COUNT; i++) {
		fds[i] = make_memfd(PAGE);
		map_at(at + i * PAGE, PAGE, MAP_SHARED, fds[i], 0);
		slots[i] = (struct gpa_range){ .gpa = (uint64_t)i * MIB, .size = PAGE, .host = at + i * PAGE };
	}
	const struct link_memory *m = find(slots, COUNT);
	assert_int_equal(m->file_count, LINK_MEMORY_FILES_MAX);
	assert_int_equal(m->piece_count, COUNT);
	for (uint32_t i = 0; i < LINK_MEMORY_FILES_MAX; i++)
		assert_piece(i, (uint64_t)i * MIB, PAGE, 0, i);
	for (uint32_t i = LINK_MEMORY_FILES_MAX; i < COUNT; i++)
		assert_piece(i, (uint64_t)i * MIB, PAGE, (uintptr_t)at + i * PAGE, LINK_MEMORY_REMOTE);
	memory_close(&report);
	for (uint32_t i = 0; i < COUNT; i++)
		close(fds[i]);
	munmap(at, COUNT * PAGE);
}

static void more_pieces_than_fit_are_cut(void **state)
{
	(void)state;
	enum { COUNT = LINK_MEMORY_PIECES_MAX + 5 };
	static struct gpa_range slots[COUNT];
	uint8_t *at = reserve(2 * COUNT * PAGE);
	map_at(at, 2 * COUNT * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint32_t i = 0; i < COUNT; i++)
		slots[i] = (struct gpa_range){ .gpa = (uint64_t)i * MIB, .size = PAGE, .host = at + 2 * i * PAGE };
	const struct link_memory *m = find(slots, COUNT);
	assert_int_equal(m->piece_count, LINK_MEMORY_PIECES_MAX);
	assert_int_equal(m->is_cut, 1);
	assert_int_equal(memory_message_len(m), sizeof(*m));
	assert_int_equal(find(slots, LINK_MEMORY_PIECES_MAX)->is_cut, 0);
	munmap(at, 2 * COUNT * PAGE);
}

// ---- Who may read -------------------------------------------------------------------------------------

// In a child that is another user: whether it can read the word there.
static bool can_read(pid_t target, uint64_t *word, uid_t uid, gid_t gid)
{
	int status = 1;
	pid_t pid = fork();
	if (pid == 0) {
		uint64_t copy;
		struct iovec to = { &copy, sizeof(copy) }, from = { word, sizeof(*word) };
		if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			_exit(2);
		_exit(process_vm_readv(target, &to, 1, &from, 1, 0) == sizeof(copy));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status);
}

// What a process of user 61001 says to a reader, which must be what the kernel does.
static bool is_permitted_to(int dumpable, uid_t uid, gid_t gid)
{
	static uint64_t word;
	int ends[2];
	char answer;
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (setgroups(0, NULL) || setresgid(61001, 61001, 61001) || setresuid(61001, 61001, 61001))
			_exit(2);
		prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0);
		answer = memory_permit(&(struct ucred){ .pid = getppid(), .uid = uid, .gid = gid });
		if (write(ends[1], &answer, 1) == 1)
			pause();
		_exit(2);
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &answer, 1), 1);
	close(ends[0]);
	bool is_readable = can_read(pid, &word, uid, gid);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(answer, is_readable);
	return answer;
}

static void only_the_same_user_is_permitted(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip(); // somebody else's process cannot be made here
	if (access("/proc/sys/kernel/yama/ptrace_scope", F_OK) == 0) {
		print_message("with Yama the answer is its scope's\n");
		skip();
	}
	assert_true(is_permitted_to(1, 61001, 61001));
	assert_true(is_permitted_to(0, 0, 0));
	assert_false(is_permitted_to(1, 61002, 61001));
	assert_false(is_permitted_to(1, 61001, 61002));
	assert_false(is_permitted_to(0, 61001, 61001)); // not dumpable
	memory_forbid(); // nothing was permitted here
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_no_mapping_is_refused),
		cmocka_unit_test(a_line_is_taken_apart),
		cmocka_unit_test(ranges_are_sorted_and_the_lowest_kept),
		cmocka_unit_test(a_memfd_is_opened_for_reading),
		cmocka_unit_test(private_memory_is_remote),
		cmocka_unit_test(slots_and_mappings_are_split_and_joined),
		cmocka_unit_test(what_is_not_mapped_is_in_no_piece),
		cmocka_unit_test(a_file_that_cannot_be_opened_is_remote),
		cmocka_unit_test(a_device_is_left_out),
		cmocka_unit_test(more_files_than_fit_are_remote),
		cmocka_unit_test(more_pieces_than_fit_are_cut),
		cmocka_unit_test(only_the_same_user_is_permitted),
	};
	return cmocka_run_group_tests_name("memory", tests, NULL, NULL) ? 1 : 0;
}
