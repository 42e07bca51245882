// SPDX-License-Identifier: MIT
// A machine and a host for tests of the transport: plays port call and debugcon, answers by script or as a decent host would, moves
// pages, and goes wrong on request. One thread; time passes only when the guest looks at it.
#ifndef GUEST_KDVMKD_FAKEHOST_H
#define GUEST_KDVMKD_FAKEHOST_H

#include "guest/kdvmkd/transport.h"

#define FAKE_MEMORIES 2u          // the module's pages before and after a move
#define FAKE_SCRIPT_MAX 64u
#define FAKE_GOT_MAX 1024u
#define FAKE_QUEUE_MAX 8u
#define FAKE_OLD_PATTERN 0xEE     // what the kernel leaves in pages it has moved from
#define FAKE_NATURAL 0xFFFFFFFFu  // script entry: answer as a decent host
#define FAKE_NO_TAG 0xFFFFFFFEu   // script entry: EAX of a bus without a device

struct fake_packet {
	uint16_t kd_type, hdr_len;
	uint32_t seq, len;
	uint8_t body[RECORD_BODY_MAX];
};

struct fakehost {
	uint8_t memory[FAKE_MEMORIES][AREA_PAGES][AREA_PAGE_SIZE] __attribute__((aligned(AREA_PAGE_SIZE)));
	uint32_t where; // the memory that the module is in
	uint64_t gpa_offset; // added to every address: "the same memory at other pages"

	bool has_hook, has_debugcon, has_broker;
	bool is_deaf; // debugcon: the bytes stay unread
	bool is_slow; // debugcon: the byte is read, the answer comes with fake_answer_late
	uint32_t reloads;     // of translations
	uint32_t slow_takes;  // ... or after so many signs of life, one every half REPLY_CYCLES
	uint64_t slow_cycles; // of the last one

	// What the host knows.
	bool is_registered;
	uint64_t nonce;
	uint8_t *page[AREA_PAGES];
	struct ring tx, rx;
	uint32_t rx_seq, tx_done_seq;
	bool is_breakin;
	struct fake_packet queue[FAKE_QUEUE_MAX]; // for the guest's waits
	uint32_t queue_count;

	uint32_t script[FAKE_SCRIPT_MAX]; // answers to the next calls
	uint32_t script_count, script_at;
	void (*tamper)(struct fakehost *h, struct area_head *head, uint32_t fn); // after each answer has been written

	// What happened.
	uint32_t calls, calls_of[5];
	uint32_t bytes, hellos, rings; // debugcon
	uint32_t last_seq, last_flags, last_want;
	struct fake_packet got[FAKE_GOT_MAX];
	uint32_t got_count;
	uint32_t protocol_errors; // things that a correct guest never does
	uint32_t lost_pages;      // writes that a host did not make because the nonce was gone

	uint64_t cycles, interrupt_time, cycles_per_look;
	bool is_present;
	uint32_t present_changes;

	uint8_t partial[DOORBELL_HELLO_LEN]; // of a hello
	uint32_t partial_len;
};

extern const struct machine fake_machine; // its ctx is the struct fakehost

// h: zeroed memory of the caller. Broker present, no way in, a clock that advances with every look.
void fake_init(struct fakehost *h);
// Enter the transport as exports.c does.
struct transport *fake_enter(struct fakehost *h, struct transport *t);
// The kernel moves the module: contents to the other memory, pattern into the old one.
void fake_move(struct fakehost *h);
bool fake_is_old_memory_untouched(const struct fakehost *h);
// The next call is answered with `code` (enum call_code, any number, FAKE_NATURAL, FAKE_NO_TAG).
void fake_script(struct fakehost *h, uint32_t code);
void fake_queue(struct fakehost *h, uint16_t kd_type, uint16_t hdr_len, const void *body, uint32_t len);
// The host forgets everything about the guest (restart, reset).
void fake_forget(struct fakehost *h);
// Debugcon: a host that was deaf reads what is under way; a slow one answers.
void fake_answer_late(struct fakehost *h);
struct area_head *fake_head(struct fakehost *h);

#endif
