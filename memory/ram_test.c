// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/ram.h"

#define PAGE 4096u
#define FILE_PAGES 64u
#define FILE_BYTES (FILE_PAGES * PAGE)
#define FILE_NAME "vmkd-ram_test"

// What stands in page `number` of file `which`, at each offset: so that no two places look alike.
static uint8_t byte_of(unsigned which, unsigned number, unsigned offset)
{
	return (uint8_t)(which * 101 + number * 7 + offset * 3 + offset / 256);
}

static void fill(uint8_t *host, unsigned which)
{
	for (unsigned i = 0; i < FILE_BYTES; i++)
		host[i] = byte_of(which, i / PAGE, i % PAGE);
}

static int make_file(unsigned which)
{
	int fd = memfd_create(FILE_NAME, MFD_CLOEXEC);
	uint8_t *bytes = malloc(FILE_BYTES);

	assert_true(fd >= 0 && bytes);
	fill(bytes, which);
	assert_int_equal(write(fd, bytes, FILE_BYTES), FILE_BYTES);
	free(bytes);
	return fd;
}

static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4096];
	unsigned count = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, FILE_NAME) ? 1 : 0;
	fclose(maps);
	return count;
}

// Two files, three pieces: 8 pages of file 0 at 0, the next ones right behind from file 1, and file 0's last ones behind a hole.
struct world {
	struct ram ram;
	struct link_memory m;
	int fds[2];
};

#define HOLE (16u * PAGE)
#define HIGH 0x100000000u

static size_t message_len(const struct link_memory *m)
{
	return offsetof(struct link_memory, pieces) + m->piece_count * sizeof(m->pieces[0]);
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	ram_init(&w->ram);
	w->fds[0] = make_file(0);
	w->fds[1] = make_file(1);
	w->m = (struct link_memory){ .generation = 3, .pid = (uint32_t)getpid(), .piece_count = 3, .file_count = 2 };
	w->m.pieces[0] = (struct link_memory_piece){ .gpa = 0, .size = 8 * PAGE, .at = 2 * PAGE, .file = 0 };
	w->m.pieces[1] = (struct link_memory_piece){ .gpa = 8 * PAGE, .size = 8 * PAGE, .at = 0, .file = 1 };
	w->m.pieces[2] = (struct link_memory_piece){ .gpa = HIGH, .size = 4 * PAGE, .at = FILE_BYTES - 4 * PAGE, .file = 0 };
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	ram_deinit(&w->ram);
	assert_int_equal(mappings(), 0);
	close(w->fds[0]);
	close(w->fds[1]);
	free(w);
	return 0;
}

static int take(struct world *w)
{
	return ram_take(&w->ram, &w->m, message_len(&w->m), w->fds, w->m.file_count);
}

static uint8_t expected_at(uint64_t gpa)
{
	unsigned page = (unsigned)(gpa / PAGE), offset = (unsigned)(gpa % PAGE);

	if (gpa >= HIGH)
		return byte_of(0, FILE_PAGES - 4 + (unsigned)((gpa - HIGH) / PAGE), offset);
	return page < 8 ? byte_of(0, page + 2, offset) : byte_of(1, page - 8, offset);
}

// A read of len bytes from gpa gives `n` right ones and touches nothing behind them.
static void expect_read(const struct ram *ram, uint64_t gpa, size_t len, size_t n)
{
	uint8_t *bytes = malloc(len + 1);

	assert_non_null(bytes);
	memset(bytes, 0xEE, len + 1);
	assert_int_equal(ram_read(ram, gpa, bytes, len), n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(bytes[i], expected_at(gpa + i));
	for (size_t i = n; i <= len; i++)
		assert_int_equal(bytes[i], 0xEE);
	free(bytes);
}

// One thing wrong each.
static void wrong_is_cut(struct link_memory *m) { m->is_cut = 2; }
static void wrong_is_permitted(struct link_memory *m) { m->is_permitted = 2; }
static void wrong_reserved(struct link_memory *m) { m->pieces[1].reserved = 1; }
static void wrong_no_size(struct link_memory *m) { m->pieces[1].size = 0; }
static void wrong_gpa_alignment(struct link_memory *m) { m->pieces[2].gpa += 8; }
static void wrong_at_alignment(struct link_memory *m) { m->pieces[1].at += 8; }
static void wrong_size_alignment(struct link_memory *m) { m->pieces[2].size -= 8; }
static void wrong_overlap(struct link_memory *m) { m->pieces[0].size += PAGE; }
static void wrong_order(struct link_memory *m) { m->pieces[2].gpa = 0; }
static void wrong_twice(struct link_memory *m) { m->pieces[1].gpa = 0; }
static void wrong_file(struct link_memory *m) { m->pieces[1].file = 2; }
static void wrong_file_far(struct link_memory *m) { m->pieces[1].file = LINK_MEMORY_REMOTE - 1; }
static void wrong_end(struct link_memory *m) { m->pieces[2].size += PAGE; }
static void wrong_begin(struct link_memory *m) { m->pieces[2].at = FILE_BYTES; }
static void wrong_at_wraps(struct link_memory *m) { m->pieces[2].at = 0 - (uint64_t)2 * PAGE; }
static void wrong_at_far(struct link_memory *m) { m->pieces[2].at = 1ull << 63; }
static void wrong_gpa_wraps(struct link_memory *m) { m->pieces[2].gpa = 0 - (uint64_t)2 * PAGE; }
static void wrong_size_wraps(struct link_memory *m) { m->pieces[2].size = 0 - (uint64_t)HIGH; }

static void wrong_no_pid(struct link_memory *m)
{
	m->pieces[1].file = LINK_MEMORY_REMOTE;
	m->pid = 0;
}

static void wrong_pid(struct link_memory *m)
{
	m->pieces[1].file = LINK_MEMORY_REMOTE;
	m->pid = (uint32_t)INT_MAX + 1u;
}

static void test_refuses_what_cannot_be(void **state)
{
	static void (*const wrongs[])(struct link_memory *) = {
		wrong_is_cut, wrong_is_permitted, wrong_reserved, wrong_no_size, wrong_gpa_alignment, wrong_at_alignment, wrong_size_alignment,
		wrong_overlap, wrong_order, wrong_twice, wrong_file, wrong_file_far, wrong_end, wrong_begin, wrong_at_wraps, wrong_at_far,
		wrong_gpa_wraps, wrong_size_wraps, wrong_no_pid, wrong_pid,
	};
	struct world *w = *state;
	struct link_memory good = w->m;

	assert_int_equal(take(w), RAM_OK);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		w->m = good;
		w->m.generation = 99;
		wrongs[i](&w->m);
		if (take(w) != RAM_E_MESSAGE)
			fail_msg("wrong message number %zu was taken", i);
		assert_int_equal(w->ram.generation, 3);
		assert_int_equal(mappings(), 2);
	}
	expect_read(&w->ram, 0, PAGE, PAGE);
}

static void test_refuses_wrong_counts(void **state)
{
	struct world *w = *state;
	int many[LINK_MEMORY_FILES_MAX + 1];
	size_t len = message_len(&w->m);

	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(ram_take(&w->ram, &w->m, cut, w->fds, 2), RAM_E_MESSAGE);
	assert_int_equal(ram_take(&w->ram, &w->m, len + 1, w->fds, 2), RAM_E_MESSAGE);
	assert_int_equal(ram_take(&w->ram, &w->m, len + sizeof(w->m.pieces[0]), w->fds, 2), RAM_E_MESSAGE);
	assert_int_equal(ram_take(&w->ram, &w->m, len, w->fds, 1), RAM_E_MESSAGE);
	assert_int_equal(ram_take(&w->ram, &w->m, len, w->fds, 0), RAM_E_MESSAGE);
	w->m.file_count = 1;
	assert_int_equal(ram_take(&w->ram, &w->m, len, w->fds, 2), RAM_E_MESSAGE);
	for (unsigned i = 0; i < LINK_MEMORY_FILES_MAX + 1; i++)
		many[i] = w->fds[0];
	w->m.file_count = LINK_MEMORY_FILES_MAX + 1;
	assert_int_equal(ram_take(&w->ram, &w->m, len, many, w->m.file_count), RAM_E_MESSAGE);
	w->m.file_count = 2;
	w->m.piece_count = 0x8000003u; // times the size of a piece: the right length again in 32 bits
	assert_int_equal(ram_take(&w->ram, &w->m, len, w->fds, 2), RAM_E_MESSAGE);
}

static void test_refuses_one_piece_too_many(void **state)
{
	struct world *w = *state;
	struct link_memory *m = calloc(1, sizeof(*m) + sizeof(m->pieces[0]));
	struct link_memory_piece *pieces = m->pieces;

	assert_non_null(m);
	*m = w->m;
	m->piece_count = LINK_MEMORY_PIECES_MAX + 1;
	for (unsigned i = 0; i < m->piece_count; i++)
		pieces[i] = (struct link_memory_piece){ .gpa = (uint64_t)i * PAGE, .size = PAGE };
	assert_int_equal(ram_take(&w->ram, m, message_len(m), w->fds, 2), RAM_E_MESSAGE);
	m->piece_count--;
	assert_int_equal(ram_take(&w->ram, m, message_len(m), w->fds, 2), RAM_OK);
	free(m);
}

static void test_takes_the_most_there_can_be(void **state)
{
	struct world *w = *state;
	int many[LINK_MEMORY_FILES_MAX];

	for (unsigned i = 0; i < LINK_MEMORY_FILES_MAX; i++)
		many[i] = w->fds[i % 2];
	w->m.file_count = LINK_MEMORY_FILES_MAX;
	w->m.piece_count = LINK_MEMORY_PIECES_MAX;
	for (unsigned i = 0; i < LINK_MEMORY_PIECES_MAX; i++) // each second page of the guest is RAM
		w->m.pieces[i] = (struct link_memory_piece){ .gpa = (uint64_t)i * 2 * PAGE, .size = PAGE, .at = i % FILE_PAGES * PAGE, .file = i % 8 };
	assert_int_equal(ram_take(&w->ram, &w->m, message_len(&w->m), many, LINK_MEMORY_FILES_MAX), RAM_OK);
	for (unsigned i = 0; i < LINK_MEMORY_PIECES_MAX; i++) {
		const uint8_t *page = ram_at(&w->ram, (uint64_t)i * 2 * PAGE, PAGE);

		assert_non_null(page);
		assert_int_equal(page[5], byte_of(i % 2, i % FILE_PAGES, 5));
		assert_null(ram_at(&w->ram, (uint64_t)i * 2 * PAGE, PAGE + 1));
		assert_null(ram_at(&w->ram, (uint64_t)(i * 2 + 1) * PAGE, 1));
	}
	w->m.piece_count = w->m.file_count = 0;
	assert_int_equal(take(w), RAM_OK);
	assert_int_equal(mappings(), 0);
	expect_read(&w->ram, 0, 1, 0);
}

static void expect_unmappable(struct world *w, int fd, int expected_errno)
{
	int fds[2] = { w->fds[0], fd };

	errno = 0;
	assert_int_equal(ram_take(&w->ram, &w->m, message_len(&w->m), fds, 2), RAM_E_MAP);
	assert_int_equal(errno, expected_errno);
	assert_int_equal(w->ram.generation, 2);
	assert_int_equal(mappings(), 2);
}

static void test_says_why_a_file_cannot_be_mapped(void **state)
{
	struct world *w = *state;
	char path[64];
	int pipes[2], fd;

	w->m.generation = 2;
	assert_int_equal(take(w), RAM_OK);
	w->m.generation = 3;
	expect_unmappable(w, -1, EBADF);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", w->fds[1]);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	expect_unmappable(w, fd, EACCES);
	close(fd);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	expect_unmappable(w, pipes[0], EINVAL); // a file without a size
	close(pipes[0]);
	close(pipes[1]);
}

static void test_reads_across_pieces_and_ends_at_holes(void **state)
{
	struct world *w = *state;

	assert_int_equal(take(w), RAM_OK);
	expect_read(&w->ram, 0, 0, 0);
	expect_read(&w->ram, 5, 1, 1);
	expect_read(&w->ram, 0, HOLE, HOLE);
	expect_read(&w->ram, 8 * PAGE - 3, 6, 6);
	expect_read(&w->ram, HOLE - 1, 2, 1);
	expect_read(&w->ram, HOLE, 1, 0);
	expect_read(&w->ram, HIGH - 1, 2, 0);
	expect_read(&w->ram, HIGH, 5 * PAGE, 4 * PAGE);
	expect_read(&w->ram, HIGH + 4 * PAGE, 1, 0);
	expect_read(&w->ram, UINT64_MAX, 16, 0);
	ram_deinit(&w->ram);
	expect_read(&w->ram, 0, 1, 0);
}

static void test_points_to_one_piece_only(void **state)
{
	struct world *w = *state;

	assert_int_equal(take(w), RAM_OK);
	assert_non_null(ram_at(&w->ram, 0, 8 * PAGE));
	assert_null(ram_at(&w->ram, 0, 8 * PAGE + 1));
	assert_null(ram_at(&w->ram, 8 * PAGE - 1, 2));
	assert_null(ram_at(&w->ram, HOLE, 1));
	assert_null(ram_at(&w->ram, HIGH, SIZE_MAX));
	assert_int_equal(*ram_at(&w->ram, HIGH + 4 * PAGE - 1, 1), expected_at(HIGH + 4 * PAGE - 1));
}

static void test_sees_what_the_guest_writes(void **state)
{
	struct world *w = *state;
	uint8_t byte = 0x5A, got = 0;

	assert_int_equal(take(w), RAM_OK);
	assert_int_equal(pwrite(w->fds[1], &byte, 1, 77), 1);
	assert_int_equal(ram_read(&w->ram, 8 * PAGE + 77, &got, 1), 1);
	assert_int_equal(got, 0x5A);
}

// The pieces of `w`, in a process of its own; the page in the middle of the second one is not there.
#define MISSING (12u * PAGE)

static void make_remote(struct world *w, pid_t pid, uint8_t *const hosts[2])
{
	w->m.pid = (uint32_t)pid;
	w->m.file_count = 0;
	for (unsigned i = 0; i < 3; i++) {
		w->m.pieces[i].at += (uintptr_t)hosts[w->m.pieces[i].file];
		w->m.pieces[i].file = LINK_MEMORY_REMOTE;
	}
}

static pid_t start_remote(struct world *w)
{
	uint8_t *hosts[2], ready;
	int pipes[2];
	pid_t pid;

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (unsigned i = 0; i < 2; i++) {
		hosts[i] = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(hosts[i] != MAP_FAILED);
	}
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fill(hosts[0], 0);
		fill(hosts[1], 1);
		munmap(hosts[1] + (MISSING - 8 * PAGE), PAGE);
		ready = write(pipes[1], "", 1) == 1;
		for (;;)
			pause();
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &ready, 1), 1);
	close(pipes[0]);
	make_remote(w, pid, hosts);
	munmap(hosts[0], FILE_BYTES);
	munmap(hosts[1], FILE_BYTES);
	return pid;
}

static void end_remote(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static bool is_permitted(pid_t pid, uint64_t at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)(uintptr_t)at, 1 };

	return process_vm_readv(pid, &to, 1, &from, 1, 0) == 1;
}

// What comes behind a place that cannot be read is not taken for it, however many calls that takes.
static void expect_end_at_missing(const struct ram *ram)
{
	struct ram_span spans[RAM_SPANS_MAX + 2];
	uint8_t bytes[RAM_SPANS_MAX + 2] = { 0 };

	for (unsigned i = 0; i < RAM_SPANS_MAX + 2; i++)
		spans[i] = (struct ram_span){ .gpa = i == 3 ? MISSING : 5 + i, .len = 1 };
	assert_int_equal(ram_read_spans(ram, spans, RAM_SPANS_MAX + 2, false, bytes), 3);
	assert_int_equal(bytes[2], expected_at(7));
	assert_int_equal(bytes[3], 0);
}

static void test_reads_another_process(void **state)
{
	struct world *w = *state;
	pid_t pid = start_remote(w);

	if (!is_permitted(pid, w->m.pieces[0].at)) {
		end_remote(pid);
		skip(); // this machine forbids even a child's memory
	}
	assert_int_equal(take(w), RAM_OK);
	assert_null(ram_at(&w->ram, 0, 1));
	expect_read(&w->ram, 0, MISSING, MISSING);
	expect_read(&w->ram, 8 * PAGE - 3, 6, 6);
	expect_read(&w->ram, 3, HOLE, MISSING - 3);
	expect_read(&w->ram, MISSING - 1, 2, 1);
	expect_read(&w->ram, MISSING, 1, 0);
	expect_read(&w->ram, MISSING + PAGE, 4 * PAGE, 3 * PAGE);
	expect_read(&w->ram, HIGH, 5 * PAGE, 4 * PAGE);
	expect_end_at_missing(&w->ram);
	end_remote(pid);
	expect_read(&w->ram, 0, 1, 0);
}

// Not of another user's, and not of a process that has got the number of the dead one.
static void test_reads_its_owners_process_only(void **state)
{
	static uint8_t others[PAGE];
	struct world *w = *state;
	pid_t pid = start_remote(w);

	if (!is_permitted(pid, w->m.pieces[0].at)) {
		end_remote(pid);
		skip(); // as above
	}
	assert_int_equal(take(w), RAM_OK);
	ram_guard(&w->ram, geteuid() + 1);
	expect_read(&w->ram, 0, 8, 0);
	assert_int_equal(take(w), RAM_OK);
	ram_guard(&w->ram, geteuid());
	expect_read(&w->ram, 0, 8, 8);
	w->ram.pid = getpid();
	w->ram.pieces[0].remote = (uintptr_t)others;
	assert_int_equal(ram_read(&w->ram, 0, (uint8_t[8]){ 0 }, 8), 8);
	end_remote(pid);
	assert_int_equal(ram_read(&w->ram, 0, (uint8_t[8]){ 0 }, 8), 0);
}

#define MANY (RAM_SPANS_MAX * 2 + 3)

static size_t span_len(uint32_t i)
{
	return i % 3 ? PAGE + 1 - i % 5 * 30 : 1 + i;
}

// Spans from one page or two, in an order of their own.
static void expect_spans(const struct ram *ram, uint32_t count, size_t expected)
{
	static struct ram_span spans[MANY];
	static uint8_t bytes[MANY * (PAGE + 1) + 2];

	for (uint32_t i = 0; i < count; i++)
		spans[i] = (struct ram_span){ .gpa = (uint64_t)(i * 5 % 11) * PAGE + i, .len = span_len(i) };
	for (int is_bulk = 0; is_bulk < 2; is_bulk++) {
		memset(bytes, 0xEE, sizeof(bytes));
		assert_int_equal(ram_read_spans(ram, spans, count, is_bulk, bytes + 1), expected);
		for (uint32_t i = 0, at = 1; i < count; i++)
			for (size_t k = 0; k < spans[i].len; k++, at++)
				assert_int_equal(bytes[at], expected_at(spans[i].gpa + k));
		assert_int_equal(bytes[0], 0xEE);
		assert_int_equal(bytes[expected + 1], 0xEE);
	}
}

static size_t spans_len(uint32_t count)
{
	size_t len = 0;

	for (uint32_t i = 0; i < count; i++)
		len += span_len(i);
	return len;
}

static void test_reads_spans_in_their_order(void **state)
{
	struct world *w = *state;
	uint8_t *hosts[2];

	assert_int_equal(take(w), RAM_OK);
	expect_spans(&w->ram, MANY, spans_len(MANY));
	expect_spans(&w->ram, 0, 0);
	for (unsigned i = 0; i < 2; i++)
		hosts[i] = mmap(NULL, FILE_BYTES, PROT_READ, MAP_PRIVATE, w->fds[i], 0);
	// A process may always read itself. First one piece mapped and one remote, then both remote.
	w->m.pieces[0].at += (uintptr_t)hosts[0];
	w->m.pieces[0].file = LINK_MEMORY_REMOTE;
	assert_int_equal(take(w), RAM_OK);
	expect_spans(&w->ram, MANY, spans_len(MANY));
	expect_read(&w->ram, 0, HOLE, HOLE);
	w->m.pieces[0].at -= (uintptr_t)hosts[0];
	w->m.pieces[0].file = 0;
	make_remote(w, getpid(), hosts);
	assert_int_equal(take(w), RAM_OK);
	expect_spans(&w->ram, MANY, spans_len(MANY));
	expect_spans(&w->ram, RAM_SPANS_MAX, spans_len(RAM_SPANS_MAX));
	expect_spans(&w->ram, RAM_SPANS_MAX + 1, spans_len(RAM_SPANS_MAX + 1));
	munmap(hosts[0], FILE_BYTES);
	munmap(hosts[1], FILE_BYTES);
}

static void test_stops_within_spans(void **state)
{
	struct world *w = *state;
	struct ram_span spans[] = { { 10, 100 }, { HOLE - 7, 20 }, { 0, 5 } };
	uint8_t bytes[125];

	assert_int_equal(take(w), RAM_OK);
	assert_int_equal(ram_read_spans(&w->ram, spans, 3, false, bytes), 107);
	assert_int_equal(bytes[106], expected_at(HOLE - 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_refuses_what_cannot_be, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refuses_wrong_counts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refuses_one_piece_too_many, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_says_why_a_file_cannot_be_mapped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_takes_the_most_there_can_be, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reads_across_pieces_and_ends_at_holes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_points_to_one_piece_only, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_sees_what_the_guest_writes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reads_another_process, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reads_its_owners_process_only, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reads_spans_in_their_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stops_within_spans, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
