// SPDX-License-Identifier: MIT
// A kernel of a few lines in front of the real guest module: blocking code on a stack of its own, which sleeps in port calls. It runs a programme of prints,
// module loads, stops with requests, prompts and waits for a break-in, and counts what it was made to do. One at a time.
#ifndef TESTS_KILLS_KERNEL_H
#define TESTS_KILLS_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/kdapi.h"

#define KERNEL_ROUNDS 3u // each: prints, a module load, a stop, a prompt, a wait for a break-in with its stop
#define KERNEL_STOPS (2u * KERNEL_ROUNDS)
#define KERNEL_PRINTS_A_ROUND 4u
#define KERNEL_PRINTS (KERNEL_ROUNDS * KERNEL_PRINTS_A_ROUND)
#define KERNEL_WRITES_MAX 256u
#define KERNEL_GPA 0x40000000ull

struct kernel_call { // the port call it sleeps in
	bool is_open;
	uint32_t fn, ebx, esi, edi;
};

struct kernel_record {
	uint32_t stops_begun, stops_continued; // stop n was reported, was continued
	uint32_t prompts_answered;
	uint32_t loads;
	uint8_t executed[KERNEL_WRITES_MAX]; // by the write's number
	bool is_over;
	const char *wrong; // what cannot be; NULL = nothing
};

// Begin at the boot. The record is as new.
void kernel_start(void);
// Run until it makes a port call, polls while there is nothing to do, or is over. -> true: it did something.
bool kernel_run(uint64_t now_ms);
// Its port call, to be answered by kernel_answer; is_open false = it makes none.
const struct kernel_call *kernel_call(void);
void kernel_answer(uint32_t eax);
const struct kernel_record *kernel_record(void);
// Its RAM, from guest-physical KERNEL_GPA on.
uint8_t *kernel_ram(uint64_t *ret_size);

// Fields in bodies by which the debugger tells one from the next.
uint32_t kernel_stop_number(const uint8_t *body, uint32_t len);  // of an exception; UINT32_MAX = a module load
uint32_t kernel_print_number(const uint8_t *body, uint32_t len); // of a print or prompt
// A write with this number. -> its length.
uint32_t kernel_make_write(uint32_t number, uint8_t *body);

#endif
