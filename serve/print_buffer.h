// SPDX-License-Identifier: MIT
// What the kernel printed while no broker was there: NT keeps the last DbgPrint text in a ring of its own, debugger or not. Found as a debugger
// finds it, with requests to the stopped guest (KD reference, sections 7.1, 7.2):
//
//   VERSION ------> LIST --------> HEADER ------> BLOCK -------> BUFFER, SIZE, WRITE, ROLLOVER ---> TEXT ----> DONE
//   GetVersion      the list's     is it KDBG?    KDDEBUGGER_    where the ring is, and where        one or two
//                   first entry    the next one   DATA64         it is written next                  ranges, in order
//
// Rules: one thread, no I/O, no allocation. Replies are hostile: each is judged against what was asked; the number of requests is bounded by
// PRINT_BUFFER_REQUESTS_MAX whatever they say. A failed or short reply ends it, and what is there of the text is the text.
#ifndef SERVE_PRINT_BUFFER_H
#define SERVE_PRINT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/kddata.h"

#define PRINT_BUFFER_MAX (64u * 1024u) // of the text; NT's own ring is 4 KB to 32 KB, unless somebody has asked for more
#define PRINT_BUFFER_BLOCKS_MAX 16u    // data blocks looked at for the one with the tag
#define PRINT_BUFFER_REQUESTS_MAX (3u + PRINT_BUFFER_BLOCKS_MAX + 4u + PRINT_BUFFER_MAX / KD_DATA_MAX + 2u)

enum print_buffer_step {
	PRINT_BUFFER_IDLE = 0,
	PRINT_BUFFER_VERSION,
	PRINT_BUFFER_LIST,
	PRINT_BUFFER_HEADER,
	PRINT_BUFFER_BLOCK,
	PRINT_BUFFER_START,
	PRINT_BUFFER_SIZE,
	PRINT_BUFFER_WRITE,
	PRINT_BUFFER_ROLLOVER,
	PRINT_BUFFER_TEXT,
	PRINT_BUFFER_DONE,
};

#define PRINT_BUFFER_BLOCK_MAX ((uint32_t)KD_DATA_KdPrintBufferSize + 8u) // as much of KDDEBUGGER_DATA64 as is needed

struct print_buffer { // zero-initialise
	enum print_buffer_step step;
	uint32_t machine;      // KD_MACHINE_*
	uint64_t address;      // of the next read
	uint32_t count;        // bytes of it
	uint32_t blocks;       // looked at
	uint64_t list;         // head of the list of data blocks
	uint64_t size_at, write_at, rollover_at; // addresses of the kernel's variables; 0 = not told
	uint64_t start, size;  // the ring
	uint64_t write;        // offset in it
	uint64_t second_count; // bytes from the ring's start that follow the range that is being read
	uint64_t left;         // bytes of that range
	bool is_cut;           // the text begins in the middle of a line
	uint32_t len;
	uint8_t bytes[PRINT_BUFFER_MAX]; // first the block, then the text
};

// Begin, or begin anew.
void print_buffer_start(struct print_buffer *p);

// The next request, a body of packet type 2. -> its length; 0 = there is none: idle, or done. Asked again before the reply: the same again.
uint32_t print_buffer_request(const struct print_buffer *p, uint8_t body[KD_MANIPULATE_SIZE]);

// The reply to it; len 0 = it cannot be had.
void print_buffer_reply(struct print_buffer *p, const uint8_t *body, uint32_t len);

// True from the last reply on: print_buffer_text has what there is.
bool print_buffer_is_done(const struct print_buffer *p);

// Done: what the kernel had printed until now, oldest first, from the beginning of a line where the ring had none to begin with. -> *ret_len
// bytes, which may be none and may be any; valid until print_buffer_start.
const uint8_t *print_buffer_text(const struct print_buffer *p, size_t *ret_len);

// How that text and what was heard of the guest before it was read fit together. `heard` is a selection of what was printed, in order, up to
// the same moment; the text has everything, but may begin later.
struct print_buffer_fit {
	size_t old_len; // the first bytes of `heard` are older than the text: history is them, then the text
	size_t new_len; // the first bytes of the text were not heard
};
struct print_buffer_fit print_buffer_fit(const uint8_t *text, size_t len, const uint8_t *heard, size_t heard_len);

#endif
