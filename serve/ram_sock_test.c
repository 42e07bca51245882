// SPDX-License-Identifier: MIT
// ram.sock as a program sees it: what it is sent, when the stop page says what, that nobody but the broker writes it, and who is hung up.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/ram_sock.h"
#include "util/sock.h"
#include "wire/order.h"
#include "wire/stop_page.h"

static struct loop loop;
static struct ram_sock *under_test;
static char folder[64], path[96];
static const struct walk_regs regs = { .cr0 = 0x80010033, .cr3 = 0x1AB000, .cr4 = 0x6F8, .efer = 0xD01 };

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void turns(int count)
{
	while (count--)
		assert_null(loop_turn(&loop, 0));
}

// ---- A program ----------------------------------------------------------------------------------------

struct heard {
	struct link_head head;
	struct link_memory memory;
	int fds[1 + LINK_MEMORY_FILES_MAX];
	uint32_t fd_count;
};

static int join(void)
{
	int fd;

	assert_null(sock_connect_unix(path, SOCK_SEQPACKET, 0, &fd));
	turns(1);
	return fd;
}

static void close_heard(const struct heard *h)
{
	for (uint32_t i = 0; i < h->fd_count; i++)
		close(h->fds[i]);
}

// -> recvmsg's.
static ssize_t hear(int fd, struct heard *ret)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof(ret->fds))];
	} control;
	struct iovec parts[2] = { { &ret->head, sizeof(ret->head) }, { &ret->memory, sizeof(ret->memory) } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t len;

	memset(ret, 0, sizeof(*ret));
	len = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (len > 0 && CMSG_FIRSTHDR(&message)) {
		ret->fd_count = (uint32_t)((CMSG_FIRSTHDR(&message)->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(ret->fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), ret->fd_count * sizeof(int));
	}
	return len;
}

// What every message says about itself; its descriptors are the caller's.
static void hears_memory(int fd, uint32_t pieces, uint32_t files, struct heard *ret)
{
	ssize_t len = hear(fd, ret);

	assert_int_equal(len, sizeof(ret->head) + offsetof(struct link_memory, pieces) + pieces * sizeof(ret->memory.pieces[0]));
	assert_int_equal(ret->head.type, LINK_MEMORY);
	assert_int_equal(ret->head.body_len, len - (ssize_t)sizeof(ret->head));
	assert_int_equal(ret->memory.piece_count, pieces);
	assert_int_equal(ret->memory.file_count, files);
	assert_int_equal(ret->fd_count, 1 + files);
}

static void is_hung_up(int fd)
{
	struct heard h;
	ssize_t len;

	for (int i = 0; i < 100; i++) { // what was sent before is still there
		len = hear(fd, &h);
		close_heard(&h);
		if (len <= 0)
			break;
	}
	assert_true(len == 0 || (len < 0 && errno == ECONNRESET));
}

static void is_not_hung_up(int fd)
{
	struct heard h;

	assert_int_equal(hear(fd, &h), -1);
	assert_int_equal(errno, EAGAIN);
}

static const struct stop_page *map_page(int fd)
{
	const struct stop_page *page = mmap(NULL, STOP_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

	assert_true(page != MAP_FAILED);
	return page;
}

static void unmap_page(const struct stop_page *page)
{
	munmap((void *)(uintptr_t)page, STOP_PAGE_SIZE);
}

// The page, through a program that comes and goes.
static const struct stop_page *fetch_page(void)
{
	int fd = join();
	const struct stop_page *page;
	struct heard h;

	assert_true(hear(fd, &h) > 0);
	page = map_page(h.fds[0]);
	close_heard(&h);
	close(fd);
	turns(1);
	return page;
}

static int new_ram(char fill)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	assert_int_equal(write(fd, &fill, 1), 1);
	assert_int_equal(ftruncate(fd, 8192), 0);
	return fd;
}

static void tell_memory(uint32_t pieces, const int *fds, uint32_t files)
{
	struct link_memory m = { .generation = 1, .pid = 4711, .piece_count = pieces, .file_count = files, .is_permitted = 1 };

	for (uint32_t i = 0; i < pieces; i++)
		m.pieces[i] = (struct link_memory_piece){ .gpa = i * 8192u, .size = 4096 };
	ram_sock_memory(under_test, &m, offsetof(struct link_memory, pieces) + pieces * sizeof(m.pieces[0]), fds, files);
}

static int setup_any(bool is_off)
{
	struct error *error;

	strcpy(folder, "/tmp/ram_sock_test.XXXXXX");
	if (!mkdtemp(folder) || setenv("VMKD_RUNTIME_DIR", folder, 1) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/vm", folder);
	if (mkdir(path, 0700) < 0)
		return -1;
	strcat(path, "/ram.sock");
	error = loop_init(&loop);
	if (!error)
		error = ram_sock_create(&loop, "vm", is_off, &under_test);
	return error ? -1 : 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_any(false);
}

static int setup_off(void **state)
{
	(void)state;
	return setup_any(true);
}

static int teardown(void **state)
{
	(void)state;
	ram_sock_destroy(under_test);
	loop_deinit(&loop);
	*strrchr(path, '/') = 0;
	rmdir(path);
	return rmdir(folder); // fails when something was left behind
}

// ---- Refusals -----------------------------------------------------------------------------------------

static void test_page_cannot_be_written(void **state)
{
	int program = join(), fd;
	char name[40];
	struct heard h;

	(void)state;
	hears_memory(program, 0, 0, &h);
	assert_int_equal(write(h.fds[0], "x", 1), -1);
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, h.fds[0], 0) == MAP_FAILED);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", h.fds[0]);
	fd = open(name, O_RDWR | O_CLOEXEC); // the same user may open it anew, and has nothing of it
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(ftruncate(fd, 8192), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	close(fd);
	close_heard(&h);
	close(program);
}

static void test_program_that_talks(void **state)
{
	int talker = join(), other = join();
	struct heard h;

	(void)state;
	assert_int_equal(send(talker, "", 1, 0), 1);
	turns(2);
	is_hung_up(talker);
	hears_memory(other, 0, 0, &h);
	close_heard(&h);
	is_not_hung_up(other);
	close(talker);
	close(other);
}

// A program that reads nothing costs a few messages' room, and nobody else anything.
static void test_slow_program(void **state)
{
	int slow = join(), other = join(), ram = new_ram('r'), before;
	struct heard h;

	(void)state;
	assert_true(hear(other, &h) > 0);
	close_heard(&h);
	before = count_fds();
	for (uint32_t i = 1; i <= 100; i++) {
		tell_memory(LINK_MEMORY_PIECES_MAX, &ram, 1);
		hears_memory(other, LINK_MEMORY_PIECES_MAX, 1, &h);
		assert_int_equal(h.memory.generation, i);
		close_heard(&h);
	}
	turns(2);
	is_hung_up(slow);
	is_not_hung_up(other);
	assert_int_equal(count_fds(), before); // one connection less, one file more
	close(slow);
	close(other);
	close(ram);
}

static void test_one_too_many(void **state)
{
	int fds[RAM_SOCK_PROGRAMS_MAX + 1];
	struct heard h;

	(void)state;
	for (uint32_t i = 0; i <= RAM_SOCK_PROGRAMS_MAX; i++)
		fds[i] = join();
	is_hung_up(fds[RAM_SOCK_PROGRAMS_MAX]);
	close(fds[RAM_SOCK_PROGRAMS_MAX]);
	close(fds[0]);
	turns(1);
	fds[0] = join(); // there is a place again
	for (uint32_t i = 0; i < RAM_SOCK_PROGRAMS_MAX; i++) {
		hears_memory(fds[i], 0, 0, &h);
		close_heard(&h);
		is_not_hung_up(fds[i]);
		close(fds[i]);
	}
}

static void test_off(void **state)
{
	int fd = join(), ram = new_ram('r');

	(void)state;
	is_hung_up(fd);
	ram_sock_sleeps(under_test, &regs, 0); // harmless
	tell_memory(1, &ram, 1);
	ram_sock_wakes(under_test);
	close(fd);
	close(ram);
}

static void test_nobody(void **state)
{
	struct link_memory m = { 0 };

	(void)state;
	ram_sock_sleeps(NULL, &regs, 0);
	ram_sock_wakes(NULL);
	ram_sock_memory(NULL, &m, offsetof(struct link_memory, pieces), NULL, 0);
	ram_sock_destroy(NULL);
}

// What a VMM side cannot mean is no memory at all; descriptors are not kept.
static void test_impossible_memory(void **state)
{
	struct link_memory m = { .piece_count = 1, .file_count = 1 };
	size_t len = offsetof(struct link_memory, pieces) + sizeof(m.pieces[0]);
	int program = join(), ram = new_ram('r'), before = count_fds();
	struct heard h;

	(void)state;
	ram_sock_memory(under_test, &m, len - 1, &ram, 1);
	ram_sock_memory(under_test, &m, len + 1, &ram, 1);
	ram_sock_memory(under_test, &m, len, &ram, 0);
	m.file_count = 0;
	ram_sock_memory(under_test, &m, len, &ram, 1);
	m.piece_count = LINK_MEMORY_PIECES_MAX + 1;
	ram_sock_memory(under_test, &m, sizeof(m) + sizeof(m.pieces[0]), NULL, 0);
	ram_sock_memory(under_test, &m, 4, NULL, 0);
	for (uint32_t i = 0; i <= 6; i++) {
		hears_memory(program, 0, 0, &h);
		assert_int_equal(h.memory.generation, i);
		close_heard(&h);
	}
	assert_int_equal(count_fds(), before);
	close(program);
	close(ram);
}

// ---- What it is for -----------------------------------------------------------------------------------

static void test_memory_is_passed_on(void **state)
{
	int early = join(), late, rams[2] = { new_ram('1'), new_ram('2') }, before = count_fds();
	struct heard h;
	char byte;

	(void)state;
	hears_memory(early, 0, 0, &h);
	assert_int_equal(h.memory.generation, 0);
	close_heard(&h);
	tell_memory(3, rams, 2);
	close(rams[0]);
	close(rams[1]);
	late = join();
	for (int i = 0; i < 2; i++) {
		hears_memory(i ? late : early, 3, 2, &h);
		assert_int_equal(h.memory.generation, 1);
		assert_int_equal(h.memory.pid, 4711);
		assert_int_equal(h.memory.is_permitted, 0);
		assert_int_equal(h.memory.pieces[2].gpa, 16384);
		assert_int_equal(pread(h.fds[2], &byte, 1, 0), 1);
		assert_int_equal(byte, '2');
		close_heard(&h);
	}
	tell_memory(0, NULL, 0);
	hears_memory(early, 0, 0, &h);
	assert_int_equal(h.memory.generation, 2); // though the link begins with 1 again
	close_heard(&h);
	close(early);
	close(late);
	turns(2);
	assert_int_equal(count_fds(), before - 4); // our two files, both ends of the early program
}

static void test_epoch(void **state)
{
	const struct stop_page *page = fetch_page();
	const struct walk_regs others = { .cr3 = 0x2000 };
	uint64_t epoch;

	(void)state;
	assert_true(page->magic == STOP_PAGE_MAGIC);
	assert_int_equal(page->version, STOP_PAGE_VERSION);
	epoch = page->epoch;
	assert_int_equal(epoch % 2, 0);
	ram_sock_wakes(under_test);
	assert_true(page->epoch == epoch);
	ram_sock_sleeps(under_test, &regs, 3);
	assert_true(page->epoch == epoch + 1);
	assert_true(page->cr0 == regs.cr0 && page->cr3 == regs.cr3 && page->cr4 == regs.cr4 && page->efer == regs.efer);
	assert_int_equal(page->vcpu, 3);
	ram_sock_wakes(under_test);
	ram_sock_wakes(under_test);
	assert_true(page->epoch == epoch + 2);
	ram_sock_sleeps(under_test, &regs, 3);
	ram_sock_sleeps(under_test, &others, 1); // the sleep before has ended unseen
	assert_true(page->epoch == epoch + 5);
	assert_true(page->cr3 == 0x2000 && page->cr0 == 0);
	unmap_page(page);
}

static void test_new_memory_in_a_sleep(void **state)
{
	const struct stop_page *page = fetch_page();
	int ram = new_ram('r');
	uint64_t epoch;

	(void)state;
	ram_sock_sleeps(under_test, &regs, 0);
	epoch = page->epoch;
	tell_memory(1, &ram, 1);
	assert_true(page->epoch == epoch + 2); // who was reading reads again, with the new files
	assert_int_equal(page->memory_generation, 1);
	assert_true(page->cr3 == regs.cr3);
	ram_sock_wakes(under_test);
	tell_memory(1, &ram, 1);
	assert_int_equal(page->epoch % 2, 0);
	assert_int_equal(page->memory_generation, 2);
	unmap_page(page);
	close(ram);
}

// One thread changes its registers all the time: whoever keeps to the rules never sees a mixture.
static void test_reader_never_sees_a_mixture(void **state)
{
	const struct stop_page *page = fetch_page();
	pid_t reader = fork();
	int status;

	(void)state;
	if (reader == 0) {
		unsigned seen = 0;

		while (seen < 20000) {
			uint64_t epoch = order_load_acquire64(&page->epoch), a, b, c;

			a = page->cr0;
			b = page->cr3;
			c = page->efer;
			order_fence_acquire();
			if (!(epoch & 1) || *(const volatile uint64_t *)&page->epoch != epoch)
				continue;
			if (a != b || b != c)
				_exit(1);
			seen++;
		}
		_exit(0);
	}
	assert_true(reader > 0);
	for (uint64_t i = 1; waitpid(reader, &status, WNOHANG) == 0; i++) {
		const struct walk_regs r = { .cr0 = i, .cr3 = i, .cr4 = i, .efer = i };

		ram_sock_sleeps(under_test, &r, 0);
		for (int j = 0; j < 20; j++)
			__asm__ volatile("pause");
		ram_sock_wakes(under_test);
	}
	assert_int_equal(status, 0);
	unmap_page(page);
}

// ---- The owner ----------------------------------------------------------------------------------------

static void test_owner(void **state)
{
	const struct stop_page *page = fetch_page();

	(void)state;
	assert_int_equal(page->owner, gettid());
	ram_sock_sleeps(under_test, &regs, 0);
	ram_sock_destroy(under_test);
	under_test = NULL;
	assert_int_equal(page->owner, 0);
	assert_int_equal(page->epoch % 2, 0);
	unmap_page(page);
}

// A broker that is killed in the middle of a sleep.
static void test_owner_is_killed(void **state)
{
	const struct stop_page *page;
	int fd, status;
	struct heard h;
	pid_t broker;

	(void)state;
	ram_sock_destroy(under_test);
	under_test = NULL;
	broker = fork();
	if (broker == 0) {
		struct loop own;
		struct ram_sock *s;

		if (loop_init(&own) || ram_sock_create(&own, "vm", false, &s))
			_exit(1);
		ram_sock_sleeps(s, &regs, 0);
		while (!loop_turn(&own, -1))
			;
		_exit(1);
	}
	assert_true(broker > 0);
	while (access(path, F_OK) < 0)
		usleep(1000);
	fd = join();
	while (hear(fd, &h) < 0)
		usleep(1000);
	page = map_page(h.fds[0]);
	close_heard(&h);
	assert_int_equal(page->owner, broker);
	kill(broker, SIGKILL);
	assert_int_equal(waitpid(broker, &status, 0), broker);
	assert_true(page->owner & STOP_PAGE_OWNER_DIED);
	assert_int_equal(page->epoch % 2, 1); // nobody was left to say otherwise
	close(fd);
	unmap_page(page);
	unlink(path);
}

static void test_leaves_nothing_open(void **state)
{
	int ram = new_ram('r'), before, program;

	(void)state;
	ram_sock_destroy(under_test);
	before = count_fds();
	for (int i = 0; i < 3; i++) {
		assert_null(ram_sock_create(&loop, "vm", false, &under_test));
		tell_memory(1, &ram, 1);
		program = join();
		ram_sock_destroy(under_test);
		is_hung_up(program);
		close(program);
		assert_int_equal(count_fds(), before);
	}
	under_test = NULL;
	close(ram);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_page_cannot_be_written),
		T(test_program_that_talks),
		T(test_slow_program),
		T(test_one_too_many),
		cmocka_unit_test_setup_teardown(test_off, setup_off, teardown),
		T(test_nobody),
		T(test_impossible_memory),
		T(test_memory_is_passed_on),
		T(test_epoch),
		T(test_new_memory_in_a_sleep),
		T(test_reader_never_sees_a_mixture),
		T(test_owner),
		T(test_owner_is_killed),
		T(test_leaves_nothing_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
