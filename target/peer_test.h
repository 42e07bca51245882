// SPDX-License-Identifier: MIT
// A kernel for tests, in a thread, at the other end of a socket pair: KDCOM in the target's role, a few pages of memory, a processor whose
// instructions are one byte each, and the breakpoint table that NT has. And everything that can be wrong with it.
//
// Code runs from PEER_CODE round and round: 0x90 goes on, 0xCC stops, PEER_WRITES writes a byte of data. Debug registers work as a processor's.
// Memory is [PEER_BASE, PEER_BASE + PEER_SIZE), the page at
// PEER_HOLE is not mapped.
#ifndef TARGET_PEER_TEST_H
#define TARGET_PEER_TEST_H

#include <stdbool.h>
#include <stdint.h>

#define PEER_SIZE 0x8000u
#define PEER_CODE_LEN 0x100u
#define PEER_HOLE_AT 0x6000u // offset from the base
#define PEER_INT3_AT 0x40u   // offset in the code of a break instruction of its own
#define PEER_WRITES 0x88u    // the instruction that writes
#define PEER_WRITE_AT 0xC0u  // where it stands
#define PEER_DATA_AT 0x3004u // what it writes
#define PEER_LIST_AT 0x1000u // PsLoadedModuleList
#define PEER_KDBG_AT 0x1200u // list head of debugger data; the block behind it

enum peer_fault {
	PEER_OK,
	PEER_SILENT,        // acknowledges requests, answers none
	PEER_DEAF,          // not even that
	PEER_WRONG_API,     // replies with another API number
	PEER_COUNT,         // says that it read more than asked
	PEER_SHORT_CONTEXT, // a context of 16 bytes
	PEER_RESET_ONCE,    // answers the first ReadVirtualMemory with a RESET
	PEER_REBOOT_ONCE,   // answers the first ReadVirtualMemory with a new kernel's state change
	PEER_REFUSES,       // a broker that has as many debuggers as it can
	PEER_TALKS_SO,      // says the same, and stays
	PEER_GARBAGE,       // noise between packets
	PEER_CUT,           // closes after peer_options.cut_after bytes
	PEER_KEEPS_BREAKPOINTS, // does not drop breakpoints in the code window
	PEER_PROCESSORS,    // processor 9 of 4000000000
	PEER_LOSES_DR6,     // reports DR6 as 0
	PEER_LATE,          // when the last debug register is disarmed, processor 1 reports that it had met one, with no more in DR6
	PEER_OBSERVED,      // a broker that has given control to another debugger: refuses SwitchProcessor
};

struct peer_options {
	enum peer_fault fault;
	bool is_x86;
	bool is_stopped; // at the start; else it runs
	uint32_t cut_after;
	uint64_t foreign_dr7; // what another debugger has armed
	// to be written into memory before the start, e.g. a hostile list of modules
	void (*prepare)(uint8_t *memory, uint64_t base);
};

struct peer;

// Starts the thread. *ret_fd: the debugger's end.
struct peer *peer_start(const struct peer_options *options, int *ret_fd);
// Ends it; call after the debugger's end was closed.
void peer_stop(struct peer *peer);

uint64_t peer_base(bool is_x86);     // plain form
uint32_t peer_breakpoints(struct peer *peer); // in its table
uint8_t peer_byte(struct peer *peer, uint32_t offset);
bool peer_is_running(struct peer *peer);
uint64_t peer_dr7(struct peer *peer, uint32_t processor);
uint64_t peer_dr(struct peer *peer, uint32_t processor, uint32_t n);
uint32_t peer_control_writes(struct peer *peer);
uint32_t peer_reads(struct peer *peer); // requests to read memory so far
void peer_make_noise(struct peer *peer); // bytes that are no packet; they have arrived when this returns

#endif
