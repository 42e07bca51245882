// SPDX-License-Identifier: MIT
// kdbench: the one client of ./bench. It measures a KD target through whatever carries KDCOM to it, and, as the floor
// below any of them, a bare echo between two processes over the same kind of socket.
//
//   kdbench kd URL ADDRESS [RUNS ROUNDS BYTES]   URL as for `vmkd kd`; ADDRESS: hex, BYTES readable kernel memory
//   kdbench echo [RUNS ROUNDS]
//
// Prints one line for each run:
//   read4 NANOSECONDS      mean round trip of ROUNDS reads of 4 bytes
//   bulk NANOSECONDS       one read of BYTES in requests of the largest size that KDCOM allows
//   echo NANOSECONDS       mean round trip of ROUNDS messages of the size of such a read
// It leaves the target running. Exit status 1 with one line on stderr when something fails.
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmkd/vmkd.h"

enum {
	// Frame of a ReadVirtualMemory request and of its answer with 4 bytes: packet head 16, message header 56, trailer 1.
	REQUEST_LEN = 16 + 56 + 1,
	REPLY_LEN = 16 + 56 + 4 + 1,
	STOP_TIMEOUT_MS = 120000, // a hang guard: the kernel polls for a break-in many times a second
};

_Noreturn static void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "kdbench: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

static void must(struct vmkd_error *error, const char *what)
{
	if (error)
		die("%s: %s", what, error->message);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned long number(const char *text, int base)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, base);
	if (errno || end == text || *end)
		die("'%s' is not a number", text);
	return value;
}

// Breaks in, and waits until the target is stopped and has nothing more to tell.
static void stop(struct vmkd_target *target)
{
	uint64_t give_up = now_ns() + (uint64_t)STOP_TIMEOUT_MS * 1000000u;
	vmkd_target_break_in(target);
	for (;;) {
		struct vmkd_event event;
		must(vmkd_target_wait(target, 1000, &event), "waiting for the target to stop");
		if (event.kind == VMKD_EVENT_EXCEPTION)
			return;
		if (event.kind == VMKD_EVENT_MODULE)
			must(vmkd_target_go(target, VMKD_CONTINUE_HANDLED), "going on after a module load");
		if (now_ns() > give_up)
			die("the target did not stop within %d s", STOP_TIMEOUT_MS / 1000);
	}
}

static void read_memory(struct vmkd_target *target, uint64_t address, void *buffer, size_t len)
{
	must(vmkd_target_read(target, VMKD_VIRTUAL, address, buffer, len, NULL), "reading memory");
}

static void measure_target(const char *url, uint64_t address, unsigned long runs, unsigned long rounds, size_t bytes)
{
	struct vmkd_target *target;
	uint32_t word = 0;
	uint8_t *bulk = malloc(bytes);
	if (!bulk)
		die("no memory for %zu bytes", bytes);
	must(vmkd_target_open(url, NULL, &target), url);
	stop(target);
	read_memory(target, address, &word, sizeof word); // the first one also fills caches on the way
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		for (unsigned long i = 0; i < rounds; i++)
			read_memory(target, address + 4 * (i % 512), &word, sizeof word);
		printf("read4 %" PRIu64 "\n", (now_ns() - start) / rounds);
		fflush(stdout);
	}
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		read_memory(target, address, bulk, bytes);
		printf("bulk %" PRIu64 "\n", now_ns() - start);
		fflush(stdout);
	}
	must(vmkd_target_detach(target, true), "leaving the target");
	vmkd_target_close(target);
	free(bulk);
}

static void transfer(int fd, size_t len, ssize_t (*step)(int, void *, size_t), uint8_t *buffer)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = step(fd, buffer + done, len - done);
		if (n <= 0)
			die("echo: %s", n ? strerror(errno) : "the other end went away");
		done += (size_t)n;
	}
}

static ssize_t write_step(int fd, void *buffer, size_t len)
{
	return write(fd, buffer, len);
}

// The other process of the echo: answers until its peer closes.
_Noreturn static void echo_server(int fd)
{
	uint8_t buffer[REPLY_LEN] = { 0 };
	for (;;) {
		ssize_t n = recv(fd, buffer, REQUEST_LEN, MSG_WAITALL);
		if (n != REQUEST_LEN)
			_exit(0);
		transfer(fd, REPLY_LEN, write_step, buffer);
	}
}

static void measure_echo(unsigned long runs, unsigned long rounds)
{
	int ends[2];
	uint8_t buffer[REPLY_LEN] = { 0 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		die("socketpair: %s", strerror(errno));
	pid_t child = fork();
	if (child < 0)
		die("fork: %s", strerror(errno));
	if (child == 0) {
		close(ends[0]);
		echo_server(ends[1]);
	}
	close(ends[1]);
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		for (unsigned long i = 0; i < rounds; i++) {
			transfer(ends[0], REQUEST_LEN, write_step, buffer);
			transfer(ends[0], REPLY_LEN, read, buffer);
		}
		printf("echo %" PRIu64 "\n", (now_ns() - start) / rounds);
	}
	close(ends[0]);
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	if (!strcmp(mode, "kd") && (argc == 4 || argc == 7)) {
		unsigned long runs = argc == 7 ? number(argv[4], 10) : 5;
		unsigned long rounds = argc == 7 ? number(argv[5], 10) : 200;
		unsigned long bytes = argc == 7 ? number(argv[6], 10) : 1u << 20;
		if (runs == 0 || rounds == 0 || bytes == 0)
			die("RUNS, ROUNDS and BYTES must be above 0");
		measure_target(argv[2], number(argv[3], 16), runs, rounds, bytes);
		return 0;
	}
	if (!strcmp(mode, "echo") && (argc == 2 || argc == 4)) {
		unsigned long runs = argc == 4 ? number(argv[2], 10) : 5;
		unsigned long rounds = argc == 4 ? number(argv[3], 10) : 20000;
		if (runs == 0 || rounds == 0)
			die("RUNS and ROUNDS must be above 0");
		measure_echo(runs, rounds);
		return 0;
	}
	fprintf(stderr, "usage: kdbench kd URL ADDRESS [RUNS ROUNDS BYTES] | kdbench echo [RUNS ROUNDS]\n");
	return 2;
}
