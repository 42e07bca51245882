// SPDX-License-Identifier: MIT
// kdbench: the one client of ./bench. It measures a KD target through whatever carries KDCOM to it, and, as the floor
// below any of them, a bare echo between two processes over the same kind of socket.
//
//   kdbench kd URL ADDRESS [RUNS ROUNDS BYTES]   URL as for `vmkd kd`; ADDRESS: hex, BYTES readable kernel memory
//   kdbench echo [RUNS ROUNDS]
//   kdbench doorbell SOCKET RAM [RUNS ROUNDS]    the floor guest's doorbells: chardev socket, file of the guest's RAM
//   kdbench port SOCKET [RUNS ROUNDS]            the floor guest's port calls: chardev socket of port 0xE9
//
// Prints one line for each run:
//   read4 NANOSECONDS      mean round trip of ROUNDS reads of 4 bytes
//   bulk NANOSECONDS       one read of BYTES in requests of the largest size that KDCOM allows
//   echo NANOSECONDS       mean round trip of ROUNDS messages of the size of such a read
//   doorbell NANOSECONDS   mean of ROUNDS doorbells answered through shared RAM
//   port NANOSECONDS       mean of ROUNDS * PORT_CALLS port calls
// It leaves the target running. Exit status 1 with one line on stderr when something fails.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmkd/vmkd.h"

enum {
	// Frame of a ReadVirtualMemory request and of its answer with 4 bytes: packet head 16, message header 56, trailer 1.
	REQUEST_LEN = 16 + 56 + 1,
	REPLY_LEN = 16 + 56 + 4 + 1,
	// benchmarks/floor.S: port calls between two marks, and the word that answers a doorbell.
	PORT_CALLS = 2000,
	DOORBELL_AT = 0x200000,
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

static int connect_unix(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path)
		die("%s: longer than a socket's name may be", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
		die("%s: %s", path, strerror(errno));
	return fd;
}

static void measure_doorbell(const char *socket_path, const char *ram_path, unsigned long runs, unsigned long rounds)
{
	uint8_t byte;
	int ram = open(ram_path, O_RDWR | O_CLOEXEC);
	if (ram < 0)
		die("%s: %s", ram_path, strerror(errno));
	uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ram, DOORBELL_AT);
	if (word == MAP_FAILED)
		die("%s: %s", ram_path, strerror(errno));
	int fd = connect_unix(socket_path);
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = 0;
		for (unsigned long i = 0; i <= rounds; i++) { // the first one starts the clock
			transfer(fd, 1, read, &byte);
			if (i == 0)
				start = now_ns();
			__atomic_fetch_add(word, 1, __ATOMIC_RELEASE); // the guest spins on it
		}
		printf("doorbell %" PRIu64 "\n", (now_ns() - start) / rounds);
	}
	close(fd);
	close(ram);
}

static void measure_port(const char *socket_path, unsigned long runs, unsigned long rounds)
{
	uint8_t byte;
	int fd = connect_unix(socket_path);
	transfer(fd, 1, read, &byte);
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		for (unsigned long i = 0; i < rounds; i++)
			transfer(fd, 1, read, &byte);
		printf("port %" PRIu64 "\n", (now_ns() - start) / (rounds * PORT_CALLS));
	}
	close(fd);
}

// RUNS and ROUNDS, the last two arguments when they are there.
static void run_counts(int argc, char **argv, int first, unsigned long *ret_runs, unsigned long *ret_rounds)
{
	if (argc != first && argc != first + 2)
		die("expected RUNS and ROUNDS behind the other arguments, or neither");
	if (argc == first + 2) {
		*ret_runs = number(argv[first], 10);
		*ret_rounds = number(argv[first + 1], 10);
	}
	if (*ret_runs == 0 || *ret_rounds == 0)
		die("RUNS and ROUNDS must be above 0");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	unsigned long runs = 5, rounds = 20000;
	if (!strcmp(mode, "kd") && (argc == 4 || argc == 7)) {
		unsigned long bytes = argc == 7 ? number(argv[6], 10) : 1u << 20;
		rounds = 200;
		run_counts(argc == 7 ? 6 : argc, argv, 4, &runs, &rounds);
		if (bytes == 0)
			die("BYTES must be above 0");
		measure_target(argv[2], number(argv[3], 16), runs, rounds, bytes);
	} else if (!strcmp(mode, "echo")) {
		run_counts(argc, argv, 2, &runs, &rounds);
		measure_echo(runs, rounds);
	} else if (!strcmp(mode, "doorbell") && argc >= 4) {
		run_counts(argc, argv, 4, &runs, &rounds);
		measure_doorbell(argv[2], argv[3], runs, rounds);
	} else if (!strcmp(mode, "port") && argc >= 3) {
		rounds = 10;
		run_counts(argc, argv, 3, &runs, &rounds);
		measure_port(argv[2], runs, rounds);
	} else {
		fprintf(stderr, "usage: kdbench kd URL ADDRESS [RUNS ROUNDS BYTES] | echo [RUNS ROUNDS] |\n"
				"       doorbell SOCKET RAM [RUNS ROUNDS] | port SOCKET [RUNS ROUNDS]\n");
		return 2;
	}
	return 0;
}
