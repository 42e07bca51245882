// SPDX-License-Identifier: MIT
// kdbench: the one client of ./bench, and the floors below it.
//
//   kdbench packets SOCKET ADDRESS MAILBOX RUNS ROUNDS [BYTES...]   KDCOM on a Unix socket, written and read with nothing between. ADDRESS:
//                                       hex, readable kernel memory. MAILBOX: hex, TkBench of the test kernel, 0 = none
//       echo, forward, read4, read4ack  mean round trips of ROUNDS: a bare echo of the same sizes, one through a forwarder, a read of 4 bytes
//                                       whose ACK travels with the next request, and one whose ACK is written at once
//       guest4                          time of the guest's kernel for one of these reads, by its TSC
//       echo_BYTES, bulk_BYTES          BYTES in requests of 3944: as bare echoes, and read from the target
//   kdbench prints SOCKET FLOOD RUNS LINES       lets the kernel (FLOOD: hex, its TkFlood) print LINES of 64 bytes: lines, lost, disordered (counts), prints
//                                       (mean time of a line from the first to the last)
//   kdbench breakins SOCKET MAILBOX ROUNDS HZ    breakin: ns from request to report; entry: ns of that in the guest's kernel
//   kdbench kd URL ADDRESS [RUNS ROUNDS BYTES]   the same reads through libvmkd: read4, bulk
//   kdbench memory URL ADDRESS RUNS BYTES        libvmkd's memory reads: way (enum vmkd_memory_way), cold, copy, bulk, copy4k, page4k,
//                                       and in turn with them bare process_vm_readv of another process: vmread (all in one call), vmread4k (a random page)
//   kdbench vmread RUNS BYTES           the same for all BYTES in calls of BATCH: vmread_BATCH
//   kdbench echo [RUNS ROUNDS]          echo, forward, echo_chunk
//   kdbench doorbell SOCKET RAM [RUNS ROUNDS]    the floor guest's doorbells: chardev socket, file of the guest's RAM
//   kdbench marks SOCKET [RUNS ROUNDS]  the floor guest's marks: mark (mean time between two bytes on this socket)
//   kdbench readers SOCKET COUNT BUSY   holds COUNT readers of ram.sock (BUSY: of which so many read all the time), says `ready`, until stdin ends
//
// Each prints one line for each run: metric and value, nanoseconds unless stated. They leave the target running. Exit status 1 with one line on stderr
// when something fails.
#include "benchmarks/kdbench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "kdbench: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void say(const char *metric, uint64_t value)
{
	printf("%s %" PRIu64 "\n", metric, value);
	fflush(stdout);
}

void *touched_memory(size_t len)
{
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("no memory for %zu bytes", len);
	memset(memory, 0x5A, len);
	return memory;
}

uint64_t next_random(void)
{
	// Marsaglia's xorshift64: three shifts, and that is all it has to be.
	static uint64_t state = 0x9E3779B97F4A7C15u;
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

int connect_unix(const char *path)
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

void write_all(int fd, const void *bytes, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const uint8_t *)bytes + done, len - done);
		if (n <= 0)
			die("writing: %s", n ? strerror(errno) : "nothing goes");
		done += (size_t)n;
	}
}

void read_all(int fd, void *bytes, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (uint8_t *)bytes + done, len - done);
		if (n <= 0)
			die("reading: %s", n ? strerror(errno) : "the other end went away");
		done += (size_t)n;
	}
}

// ---- the command line -------------------------------------------------------------------------------------------

static unsigned long number(const char *text, int base)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, base);
	if (errno || end == text || *end)
		die("'%s' is not a number", text);
	return value;
}

static unsigned long positive(const char *text)
{
	unsigned long value = number(text, 10);
	if (value == 0)
		die("RUNS, ROUNDS, BYTES and the like must be above 0");
	return value;
}

// RUNS and ROUNDS, the last two arguments when they are there.
static void run_counts(int argc, char **argv, int first, unsigned long *ret_runs, unsigned long *ret_rounds)
{
	if (argc != first && argc != first + 2)
		die("expected RUNS and ROUNDS behind the other arguments, or neither");
	if (argc == first + 2) {
		*ret_runs = positive(argv[first]);
		*ret_rounds = positive(argv[first + 1]);
	}
}

static void run_packets(int argc, char **argv)
{
	struct packets_plan plan = { .socket = argv[2], .address = number(argv[3], 16), .mailbox = number(argv[4], 16) };

	plan.runs = positive(argv[5]);
	plan.rounds = positive(argv[6]);
	if (argc - 7 > BULK_SIZES_MAX)
		die("at most %d sizes", BULK_SIZES_MAX);
	for (int i = 7; i < argc; i++)
		plan.sizes[plan.size_count++] = positive(argv[i]);
	bench_packets(&plan);
}

static int usage(void)
{
	fprintf(stderr, "usage: kdbench packets SOCKET ADDRESS MAILBOX RUNS ROUNDS [BYTES...] | prints SOCKET FLOOD RUNS LINES |\n"
			"       breakins SOCKET MAILBOX ROUNDS HZ | kd URL ADDRESS [RUNS ROUNDS BYTES] | memory URL ADDRESS RUNS BYTES |\n"
			"       vmread RUNS BYTES | echo [RUNS ROUNDS] | doorbell SOCKET RAM [RUNS ROUNDS] | marks SOCKET [RUNS ROUNDS] |\n"
			"       readers SOCKET COUNT BUSY\n");
	return 2;
}

// The floors. -> false: no such mode.
static bool run_floor(const char *mode, int argc, char **argv)
{
	unsigned long runs = 5, rounds = 20000;

	if (!strcmp(mode, "echo")) {
		run_counts(argc, argv, 2, &runs, &rounds);
		bench_echo(runs, rounds);
	} else if (!strcmp(mode, "doorbell") && argc >= 4) {
		run_counts(argc, argv, 4, &runs, &rounds);
		bench_doorbell(argv[2], argv[3], runs, rounds);
	} else if (!strcmp(mode, "marks") && argc >= 3) {
		rounds = 10;
		run_counts(argc, argv, 3, &runs, &rounds);
		bench_marks(argv[2], runs, rounds);
	} else if (!strcmp(mode, "vmread") && argc == 4) {
		bench_vmread(positive(argv[2]), positive(argv[3]));
	} else {
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (run_floor(mode, argc, argv))
		return 0;
	if (!strcmp(mode, "packets") && argc >= 7)
		run_packets(argc, argv);
	else if (!strcmp(mode, "prints") && argc == 6)
		bench_prints(argv[2], number(argv[3], 16), positive(argv[4]), (uint32_t)positive(argv[5]));
	else if (!strcmp(mode, "breakins") && argc == 6)
		bench_breakins(argv[2], number(argv[3], 16), positive(argv[4]), positive(argv[5]));
	else if (!strcmp(mode, "kd") && argc == 4)
		bench_kd(argv[2], number(argv[3], 16), 5, 200, 1u << 20);
	else if (!strcmp(mode, "kd") && argc == 7)
		bench_kd(argv[2], number(argv[3], 16), positive(argv[4]), positive(argv[5]), positive(argv[6]));
	else if (!strcmp(mode, "memory") && argc == 6)
		bench_memory(argv[2], number(argv[3], 16), positive(argv[4]), positive(argv[5]));
	else if (!strcmp(mode, "readers") && argc == 5)
		bench_readers(argv[2], number(argv[3], 10), number(argv[4], 10));
	else
		return usage();
	return 0;
}
