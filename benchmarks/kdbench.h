// SPDX-License-Identifier: MIT
// The parts of kdbench: what a client does to a target, and what stands below it as a floor. Each `bench_*` function is one mode of the
// program; kdbench.c says what they print.
//
// Rules: one thread. A figure is printed as soon as it is there. What fails ends the process with one line on stderr (die).
#ifndef BENCHMARKS_KDBENCH_H
#define BENCHMARKS_KDBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	// Frames of a ReadVirtualMemory: packet head 16, message header 56, trailer 1. The largest body holds 4000 bytes, so 3944 of data.
	REQUEST_LEN = 16 + 56 + 1,
	REPLY_LEN = 16 + 56 + 4 + 1,
	CHUNK = 3944,
	CHUNK_REPLY_LEN = 16 + 56 + CHUNK + 1,
	PAGE = 4096,
	BULK_SIZES_MAX = 8,
	GUARD_MS = 120000, // a hang guard for one step; nothing is judged by it
};

// ---- kdbench.c -----------------------------------------------------------------------------------------------

// Ends the process: one line on stderr, status 1.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void); // of the monotonic clock
// Prints `metric value`, flushed.
void say(const char *metric, uint64_t value);
// Memory that is touched, so that no page fault is measured; dies when there is none. Never freed before the end.
void *touched_memory(size_t len);
// A number that looks random, the same sequence in every process; for addresses.
uint64_t next_random(void);
// Connects to a Unix stream socket.
int connect_unix(const char *path);
// Write all, read all; a peer that goes away ends the process.
void write_all(int fd, const void *bytes, size_t len);
void read_all(int fd, void *bytes, size_t len);

// ---- floors.c ------------------------------------------------------------------------------------------------

// An echo server in a process of its own, behind `hops` forwarders (each a process, too).
struct echo {
	int fd;
	pid_t pids[4];
	unsigned pid_count;
	size_t request_len, reply_len;
};
// Start it; end it. hops at most 3.
void echo_start(unsigned hops, size_t request_len, size_t reply_len, struct echo *ret);
void echo_end(struct echo *echo);
// -> mean round trip of `rounds`, in nanoseconds.
uint64_t echo_measure(struct echo *echo, unsigned long rounds);

// Modes; see kdbench.c.
void bench_echo(unsigned long runs, unsigned long rounds);
void bench_doorbell(const char *socket_path, const char *ram_path, unsigned long runs, unsigned long rounds);
void bench_marks(const char *socket_path, unsigned long runs, unsigned long rounds);
void bench_vmread(unsigned long runs, size_t len);

// What libvmkd's reads are compared with, in this process. Both buffers and the file are touched.
struct copies {
	uint8_t *from, *to;  // len bytes of private memory each
	const uint8_t *file; // len bytes of a memfd, mapped shared and read-only
	size_t len;
};
void copies_prepare(size_t len, struct copies *ret);
uint64_t copies_measure_bulk(const struct copies *copies);                          // -> ns of one memcpy of len bytes
uint64_t copies_measure_page(const struct copies *copies, unsigned long rounds);    // -> ns of a memcpy of a random page of the file

// Another process, stopped, whose memory is read by process_vm_readv as a VMM's with private RAM is.
struct remote {
	pid_t pid;
	uint8_t *from, *to; // there, and here
	size_t len;
};
// Start it; end it. All its memory is touched.
void remote_start(size_t len, struct remote *ret);
void remote_end(struct remote *remote);
uint64_t remote_measure_bulk(const struct remote *remote, size_t batch);          // -> ns of all of it, in calls of `batch` bytes
uint64_t remote_measure_page(const struct remote *remote, unsigned long rounds);  // -> ns of a random page

// ---- packets.c: a KDCOM client with as little of its own as possible --------------------------------------------

struct packets_plan {
	const char *socket;
	uint64_t address; // readable kernel memory
	uint64_t mailbox; // TkBench, 0 = no figure of the guest's own time
	unsigned long runs, rounds;
	size_t sizes[BULK_SIZES_MAX]; // of bulk reads
	unsigned size_count;
};

// Modes; see kdbench.c.
void bench_packets(const struct packets_plan *plan);
void bench_prints(const char *socket, uint64_t mailbox, unsigned long runs, uint32_t lines);
void bench_breakins(const char *socket, uint64_t mailbox, unsigned long rounds, unsigned long hz);

// ---- target.c: a client on libvmkd ------------------------------------------------------------------------------

// Modes; see kdbench.c.
void bench_kd(const char *url, uint64_t address, unsigned long runs, unsigned long rounds, size_t len);
void bench_memory(const char *url, uint64_t address, unsigned long runs, size_t len);

// ---- readers.c: other programs that read the guest's memory --------------------------------------------------------

// Mode; see kdbench.c.
void bench_readers(const char *socket, unsigned long count, unsigned long busy);

#endif
