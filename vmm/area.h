// SPDX-License-Identifier: MIT
// A guest module's shared area (wire/portcall.h) as the host sees it: where its pages are in our
// memory, whether they still are the module's, and our own ring positions.
//
// Rules: no I/O, no clock, no locks, no allocation; one thread at a time (the caller's lock). Everything in the pages
// is hostile: it is copied once and then judged, and the pages are written only after the nonce in the very page has been read
// again. The memory behind a gpa_map stays mapped while an area is registered on it; whoever removes memory ends the
// registration first (area_overlaps tells).
#ifndef VMM_AREA_H
#define VMM_AREA_H

#include "wire/order.h"
#include "wire/portcall.h"
#include "wire/ring.h"

// ---- Guest-physical memory ----------------------------------------------------------------------

// One piece of guest RAM that the guest may write. ROM, MMIO and SMRAM do not belong into a map. Size and gpa are bytes; pieces do
// not overlap. Pages that cross from one piece into the next are not found: a piece starts and ends on page boundaries.
struct gpa_range {
	uint64_t gpa;
	uint64_t size;
	uint8_t *host; // borrowed
};

struct gpa_map {
	const struct gpa_range *ranges; // borrowed
	uint32_t count;
};

// The host address of the RAM page at `page`; NULL if it is not aligned to AREA_PAGE_SIZE or not wholly RAM.
uint8_t *gpa_map_page(const struct gpa_map *map, gpa_t page);

// ---- A registered area ------------------------------------------------------------------------------

enum area_outcome {
	AREA_OK = 0,
	AREA_E_ADDRESS = 1, // the head's address is not a page of RAM, or there is no head: nothing may be written there
	AREA_E_VERSION = 2, // a head of another major version
	AREA_E_HEAD = 3,    // a head with words that cannot be (counts, architecture, reserved words, positions)
	AREA_E_PAGES = 4,   // the page list: alignment, not RAM, duplicates, nonce or index in a page
	AREA_E_LOST = 5,    // the page no longer carries our nonce: it has changed hands
	AREA_E_MORE = 6,    // area_scan: the budget is used up, call again
	AREA_E_NONE = 7,    // area_scan: the end of the map
};

struct area {
	bool is_registered;
	uint64_t nonce;
	uint32_t version;  // the guest's AREA_VERSION
	uint32_t features; // accepted ones
	uint32_t arch;
	uint32_t page_count;
	uint64_t module_base;
	uint32_t tx_done_seq; // record.seq of the last guest packet taken; 0 = none
	uint32_t rx_seq;      // record.seq of the last packet given to the guest; 0 = none
	struct ring tx, rx;   // they point into page[]: an area must not be copied once registered
	uint64_t page_gpa[AREA_PAGES_MAX];
	uint8_t *page[AREA_PAGES_MAX]; // host addresses; [0] = head, then tx, then rx
};

// What the guest and earlier host writes say about the current call: one copy, made at its beginning.
struct area_words {
	uint32_t tx_head, rx_tail, call_seq, call_fn, call_flags, call_want;
	uint32_t poll_count, rx_done_seq, ring_seq, guest_state, processor;
	uint64_t cr0, cr3, cr4, efer;
	uint32_t tx_tail, rx_head, reply_seq; // the host's own words, as the guest's memory has them now
};

// Take over the area whose head is at `head` after judging it. *a must not be registered. On success both rings are empty of what
// lies before tx_base, done/next sequence numbers come from the guest's memory (so that they travel in time with it), and nothing has been
// written. -> AREA_OK, AREA_E_ADDRESS, AREA_E_VERSION, AREA_E_HEAD, AREA_E_PAGES; *a is as after area_forget on failure.
WIRE_MUST_CHECK int area_register(struct area *a, const struct gpa_map *map, gpa_t head);

// The guest is dead: the same, but what lies in the transmit ring behind tx_tail is still to be taken. Nothing is written by this or by taking from
// area.tx, so the map may be of memory that can only be read. Outcomes as above.
WIRE_MUST_CHECK int area_reopen(struct area *a, const struct gpa_map *map, gpa_t head);

// Forget the area; nothing is written. Harmless when not registered.
void area_forget(struct area *a);

// True if page `index` of the area still carries our nonce and its index. To be asked before every write.
bool area_owns_page(const struct area *a, uint32_t index);

// True if a page of the area lies in [gpa, gpa + size).
bool area_overlaps(const struct area *a, uint64_t gpa, uint64_t size);

// Copy the call's words. -> AREA_OK, AREA_E_LOST (head page).
WIRE_MUST_CHECK int area_read_words(const struct area *a, struct area_words *ret);

// Publish an answer: tx_tail, rx_head, tx_done_seq, versions, flags, reply_code, then reply_seq.
// host_flags = HOST_F_*, code = enum call_code. -> AREA_OK, AREA_E_LOST (nothing written).
WIRE_MUST_CHECK int area_write_reply(struct area *a, uint32_t host_flags, uint32_t code, uint32_t seq);

// Publish only what has been taken (tx_tail, tx_done_seq): at the beginning of a wait, so that a host that
// dies in it leaves the truth behind. -> AREA_OK, AREA_E_LOST (nothing written).
WIRE_MUST_CHECK int area_write_taken(struct area *a);

// Publish an answer and nothing of the rings: for a guest whose memory has travelled in time, and whose words about what was taken
// are true for it. -> AREA_OK, AREA_E_LOST (nothing written).
int area_write_code(struct area *a, uint32_t code, uint32_t seq);

// The same for a head that did not get registered (code VERSION, REFUSED, REREGISTER): reply words and host_version only.
// `head` is judged again: RAM, magic, nonce not 0, index 0, its own address in page_gpa[0]. -> AREA_OK, AREA_E_ADDRESS.
int area_write_refusal(const struct gpa_map *map, gpa_t head, uint32_t code);

// What such a head gives as its version, for a message to the user; 0 where there is none.
uint32_t area_stated_version(const struct gpa_map *map, gpa_t head);

// Put a packet into the receive ring; the guest sees it with the next area_write_reply.
// -> AREA_OK, AREA_E_LOST, AREA_E_HEAD (does not fit: the guest has not taken what it was given).
WIRE_MUST_CHECK int area_put(struct area *a, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len);

// Set or take back ATTENTION_* bits; legal at any time. -> AREA_OK, AREA_E_LOST.
int area_attention_set(struct area *a, uint32_t bits);
int area_attention_clear(struct area *a, uint32_t bits);
// The bits that the guest has not taken yet; 0 if the page is lost.
uint32_t area_attention(const struct area *a);

// Debugcon: the byte that announced `ring_seq` has been read. -> AREA_OK, AREA_E_LOST.
WIRE_MUST_CHECK int area_ring_seen(struct area *a, uint32_t ring_seq);

// The guest's poll counter: it advances while the module lives. 0 if the page is lost.
uint32_t area_poll_count(const struct area *a);

// ---- A host that attaches late (debugcon) --------------------------------------------------------------
// Memory that looks like a head proves nothing: it may be a stale copy, or a file in the page cache. So: scan; wait until the candidate's
// poll_count advances (a live module counts); then set ATTENTION_CALL; the module makes a call, and
// only that (DOORBELL_HELLO, or DOORBELL_RING answered REREGISTER by area_write_refusal) leads to a registration.

struct area_candidate {
	gpa_t head;
	uint64_t nonce;
	uint32_t poll_count; // when found
	const uint8_t *page; // borrowed from the map
};

struct area_cursor { // zero-initialised: the beginning of the map
	uint32_t range;
	uint64_t offset;
};

// Look at up to `budget` pages from *cursor on. Reading a hole of a memfd allocates it: leave holes out of the map (SEEK_DATA).
// -> AREA_OK (*ret is one; the cursor stands behind it), AREA_E_MORE, AREA_E_NONE.
WIRE_MUST_CHECK int area_scan(const struct gpa_map *map, struct area_cursor *cursor, uint64_t budget,
                              struct area_candidate *ret);
// True if the candidate still is what was found and its poll_count has advanced since.
bool area_candidate_is_alive(const struct area_candidate *candidate);
// Set ATTENTION_CALL in a live candidate. -> AREA_OK, AREA_E_LOST (not alive: nothing written).
WIRE_MUST_CHECK int area_candidate_call(const struct area_candidate *candidate);

#endif
