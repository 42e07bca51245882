// SPDX-License-Identifier: MIT
// What no transport can beat: a bare echo between processes, a bare doorbell, a bare port call, a bare copy.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "benchmarks/kdbench.h"

// benchmarks/floor.S: the word that answers a doorbell.
#define DOORBELL_AT 0x200000

// ---- echo --------------------------------------------------------------------------------------------------------

// The far process: answers until its peer closes.
_Noreturn static void serve_echo(int fd, size_t request_len, size_t reply_len)
{
	static uint8_t buffer[CHUNK_REPLY_LEN];
	for (;;) {
		if (recv(fd, buffer, request_len, MSG_WAITALL) != (ssize_t)request_len)
			_exit(0);
		write_all(fd, buffer, reply_len);
	}
}

// A process between: whole messages, one read and one write in each direction.
_Noreturn static void serve_forward(int near, int far, size_t request_len, size_t reply_len)
{
	static uint8_t buffer[CHUNK_REPLY_LEN];
	for (;;) {
		if (recv(near, buffer, request_len, MSG_WAITALL) != (ssize_t)request_len)
			_exit(0);
		write_all(far, buffer, request_len);
		read_all(far, buffer, reply_len);
		write_all(near, buffer, reply_len);
	}
}

static void make_pair(int ends[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		die("socketpair: %s", strerror(errno));
}

// -> true in the child.
static bool fork_into(struct echo *echo)
{
	pid_t pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	else
		echo->pids[echo->pid_count++] = pid;
	return pid == 0;
}

void echo_start(unsigned hops, size_t request_len, size_t reply_len, struct echo *ret)
{
	int ends[2];

	*ret = (struct echo){ .request_len = request_len, .reply_len = reply_len };
	make_pair(ends);
	if (fork_into(ret)) {
		close(ends[0]);
		serve_echo(ends[1], request_len, reply_len);
	}
	close(ends[1]);
	ret->fd = ends[0];
	for (unsigned i = 0; i < hops; i++) {
		int far = ret->fd;
		make_pair(ends);
		if (fork_into(ret)) {
			close(ends[0]);
			serve_forward(ends[1], far, request_len, reply_len);
		}
		close(ends[1]);
		close(far);
		ret->fd = ends[0];
	}
	(void)echo_measure(ret, 10); // the processes are up
}

void echo_end(struct echo *echo)
{
	close(echo->fd);
	for (unsigned i = 0; i < echo->pid_count; i++)
		waitpid(echo->pids[i], NULL, 0);
}

uint64_t echo_measure(struct echo *echo, unsigned long rounds)
{
	static uint8_t buffer[CHUNK_REPLY_LEN];
	uint64_t start = now_ns();

	for (unsigned long i = 0; i < rounds; i++) {
		write_all(echo->fd, buffer, echo->request_len);
		read_all(echo->fd, buffer, echo->reply_len);
	}
	return (now_ns() - start) / rounds;
}

void bench_echo(unsigned long runs, unsigned long rounds)
{
	struct echo echo, forward, chunk;

	echo_start(0, REQUEST_LEN, REPLY_LEN, &echo);
	echo_start(1, REQUEST_LEN, REPLY_LEN, &forward);
	echo_start(0, REQUEST_LEN, CHUNK_REPLY_LEN, &chunk);
	for (unsigned long run = 0; run < runs; run++) {
		say("echo", echo_measure(&echo, rounds));
		say("forward", echo_measure(&forward, rounds));
		say("echo_chunk", echo_measure(&chunk, rounds));
	}
	echo_end(&chunk);
	echo_end(&forward);
	echo_end(&echo);
}

// ---- the floor guest -----------------------------------------------------------------------------------------------

void bench_doorbell(const char *socket_path, const char *ram_path, unsigned long runs, unsigned long rounds)
{
	uint8_t byte;
	int ram = open(ram_path, O_RDWR | O_CLOEXEC);
	if (ram < 0)
		die("%s: %s", ram_path, strerror(errno));
	uint32_t *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ram, DOORBELL_AT);
	if (word == MAP_FAILED)
		die("%s: %s", ram_path, strerror(errno));
	int fd = connect_unix(socket_path);
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = 0;
		for (unsigned long i = 0; i <= rounds; i++) { // the first one starts the clock
			read_all(fd, &byte, 1);
			if (i == 0)
				start = now_ns();
			__atomic_fetch_add(word, 1, __ATOMIC_RELEASE); // the guest spins on it
		}
		say("doorbell", (now_ns() - start) / rounds);
	}
	close(fd);
	close(ram);
}

void bench_marks(const char *socket_path, unsigned long runs, unsigned long rounds)
{
	uint8_t byte;
	int fd = connect_unix(socket_path);
	read_all(fd, &byte, 1);
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		for (unsigned long i = 0; i < rounds; i++)
			read_all(fd, &byte, 1);
		say("mark", (now_ns() - start) / rounds);
	}
	close(fd);
}

// ---- copies --------------------------------------------------------------------------------------------------------

static const uint8_t *touched_file(size_t len)
{
	int fd = memfd_create("kdbench", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)len))
		die("memfd: %s", strerror(errno));
	uint8_t *writable = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (writable == MAP_FAILED)
		die("memfd: %s", strerror(errno));
	memset(writable, 0x5A, len);
	munmap(writable, len);
	const uint8_t *file = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (file == MAP_FAILED)
		die("memfd: %s", strerror(errno));
	close(fd);
	return file;
}

void copies_prepare(size_t len, struct copies *ret)
{
	*ret = (struct copies){ .from = touched_memory(len), .to = touched_memory(len), .file = touched_file(len), .len = len };
}

uint64_t copies_measure_bulk(const struct copies *copies)
{
	uint64_t start = now_ns();
	memcpy(copies->to, copies->from, copies->len);
	__asm__ volatile("" : : "r"(copies->to) : "memory"); // the copy is made
	return now_ns() - start;
}

uint64_t copies_measure_page(const struct copies *copies, unsigned long rounds)
{
	uint8_t page[PAGE];
	uint64_t start = now_ns();

	for (unsigned long i = 0; i < rounds; i++) {
		memcpy(page, copies->file + next_random() % (copies->len / PAGE) * PAGE, PAGE);
		__asm__ volatile("" : : "r"(page) : "memory");
	}
	return (now_ns() - start) / rounds;
}

// ---- process_vm_readv ------------------------------------------------------------------------------------------------

void remote_start(size_t len, struct remote *ret)
{
	*ret = (struct remote){ .from = touched_memory(len), .len = len };
	ret->pid = fork();
	if (ret->pid < 0)
		die("fork: %s", strerror(errno));
	if (ret->pid == 0) { // its own copy, all touched, as a VMM's memory is
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(ret->from, 0xA5, len);
		raise(SIGSTOP);
		_exit(0);
	}
	if (waitpid(ret->pid, NULL, WUNTRACED) != ret->pid)
		die("waitpid: %s", strerror(errno));
	ret->to = touched_memory(len); // after the fork, or each first write would copy a page
}

void remote_end(struct remote *remote)
{
	kill(remote->pid, SIGKILL);
	waitpid(remote->pid, NULL, 0);
}

static void read_remote(const struct remote *remote, void *to, const uint8_t *from, size_t len)
{
	struct iovec local = { to, len }, far = { (void *)from, len };
	ssize_t n = process_vm_readv(remote->pid, &local, 1, &far, 1, 0);
	if (n != (ssize_t)len)
		die("process_vm_readv: %zd of %zu bytes, %s", n, len, n < 0 ? strerror(errno) : "cut");
}

uint64_t remote_measure_bulk(const struct remote *remote, size_t batch)
{
	uint64_t start = now_ns();
	for (size_t at = 0; at < remote->len; at += batch)
		read_remote(remote, remote->to + at, remote->from + at, batch < remote->len - at ? batch : remote->len - at);
	return now_ns() - start;
}

uint64_t remote_measure_page(const struct remote *remote, unsigned long rounds)
{
	uint8_t page[PAGE];
	uint64_t start = now_ns();
	for (unsigned long i = 0; i < rounds; i++)
		read_remote(remote, page, remote->from + next_random() % (remote->len / PAGE) * PAGE, PAGE);
	return (now_ns() - start) / rounds;
}

void bench_vmread(unsigned long runs, size_t len)
{
	struct remote remote;

	remote_start(len, &remote);
	for (unsigned long run = 0; run < runs; run++) {
		for (size_t batch = PAGE; batch <= len; batch *= 4) {
			char name[40];
			snprintf(name, sizeof name, "vmread_%zu", batch);
			say(name, remote_measure_bulk(&remote, batch));
		}
	}
	remote_end(&remote);
}
