// SPDX-License-Identifier: MIT
// Reads as a program on libvmkd does them, on its public header alone.
#include <string.h>

#include "benchmarks/kdbench.h"
#include "vmkd/vmkd.h"

static void must(struct vmkd_error *error, const char *what)
{
	if (error)
		die("%s: %s", what, error->message);
}

// Breaks in, and waits until the target is stopped and has nothing more to tell.
static void stop(struct vmkd_target *target)
{
	uint64_t give_up = now_ns() + (uint64_t)GUARD_MS * 1000000u;
	struct vmkd_event event;

	vmkd_target_break_in(target);
	for (;;) {
		must(vmkd_target_wait(target, 1000, &event), "waiting for the target to stop");
		if (event.kind == VMKD_EVENT_EXCEPTION)
			return;
		if (event.kind == VMKD_EVENT_MODULE || event.kind == VMKD_EVENT_COMMAND)
			must(vmkd_target_go(target, VMKD_CONTINUE_HANDLED), "letting the target go on");
		if (now_ns() > give_up)
			die("the target does not stop within %d s", GUARD_MS / 1000);
		if (event.kind == VMKD_EVENT_NONE)
			vmkd_target_break_in(target);
	}
}

static void leave(struct vmkd_target *target)
{
	must(vmkd_target_detach(target, true), "leaving the target");
	vmkd_target_close(target);
}

static void read_memory(struct vmkd_target *target, uint64_t address, void *buffer, size_t len)
{
	must(vmkd_target_read(target, VMKD_VIRTUAL, address, buffer, len, NULL), "reading memory");
}

void bench_kd(const char *url, uint64_t address, unsigned long runs, unsigned long rounds, size_t len)
{
	struct vmkd_target *target;
	uint8_t *bulk = touched_memory(len);
	uint32_t word = 0;

	must(vmkd_target_open(url, NULL, &target), url);
	stop(target);
	read_memory(target, address, &word, sizeof word); // the first one also fills caches on the way
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		for (unsigned long i = 0; i < rounds; i++)
			read_memory(target, address + 4 * (i % 512), &word, sizeof word);
		say("read4", (now_ns() - start) / rounds);
	}
	for (unsigned long run = 0; run < runs; run++) {
		uint64_t start = now_ns();
		read_memory(target, address, bulk, len);
		say("bulk", now_ns() - start);
	}
	leave(target);
}

static uint64_t measure_pages(struct vmkd_target *target, uint64_t address, size_t len, unsigned long rounds)
{
	uint8_t page[PAGE];
	uint64_t start = now_ns();

	for (unsigned long i = 0; i < rounds; i++)
		read_memory(target, address + next_random() % (len / PAGE) * PAGE, page, PAGE);
	return (now_ns() - start) / rounds;
}

static uint64_t measure_bulk(struct vmkd_target *target, uint64_t address, uint8_t *buffer, size_t len)
{
	uint64_t start = now_ns();
	read_memory(target, address, buffer, len);
	return now_ns() - start;
}

void bench_memory(const char *url, uint64_t address, unsigned long runs, size_t len)
{
	enum { ROUNDS = 20000, ROUNDS_FIRST = 200 };
	struct vmkd_target *target;
	struct copies copies;
	struct remote remote;

	remote_start(len, &remote); // first: what is there at a fork is copied at the next write
	copies_prepare(len, &copies);
	must(vmkd_target_open(url, NULL, &target), url);
	stop(target);
	uint64_t page_ns = measure_pages(target, address, len, ROUNDS_FIRST);
	unsigned long rounds = page_ns > 20000 ? ROUNDS_FIRST * 5 : ROUNDS; // through packets it takes its time
	say("way", vmkd_target_memory_way(target));
	say("cold", measure_bulk(target, address, copies.to, len));
	for (unsigned long run = 0; run < runs; run++) {
		say("copy", copies_measure_bulk(&copies));
		say("bulk", measure_bulk(target, address, copies.to, len));
		say("copy4k", copies_measure_page(&copies, rounds));
		say("page4k", measure_pages(target, address, len, rounds));
		say("vmread", remote_measure_bulk(&remote, len));
		say("vmread4k", remote_measure_page(&remote, rounds));
	}
	leave(target);
	remote_end(&remote);
}
