// SPDX-License-Identifier: MIT
// The guest's end of the shared area (wire/portcall.h): its pages, the rings on them, and what the guest knows on its own.
//
// Rules: one caller at a time (transport_enter). Any IRQL. The words that the host writes are hostile: they are read once and
// judged by wire/ring.h. Nothing here makes a call.
//
// The kernel may move the whole module, at run time, to other pages and to another address: it copies the image
// and applies the relocations. So no pointer into the module survives from one entry to the next; area_bind makes
// them anew each time.
//
// Going back in time (restored snapshot, hibernation image, migration that lost the host's writes)
// - This struct and the pages go back together, so positions, sequence numbers and unacknowledged records fit each other. The
//   host's words in the pages may be older than that, never newer: they are not in the VMM's dirty map.
// - The host notices (its copy of a position or of reply_seq does not fit) and answers REREGISTER. The registration starts both
//   rings from the guest's positions: records behind tx_base are sent (again), the receive ring is empty.
// - record.seq of the transmit ring goes on from the guest's own count. The host drops what is at or below tx_done_seq of the
//   head, which went back with everything else: so nothing of the new history is taken for a repetition, and what the host
//   saw in the lost one may come twice (prints). A word beyond our count cannot be; correct_done_seq puts it right.
// - record.seq of the receive ring: the host goes on from our rx_done_seq, and a packet with exactly that number is a
//   repetition. A request of the lost future is not executed again: the host that delivers it anew gives it a new number only
//   if its debugger repeats it.
// - What must not come back is the identity of a registration and of a call: each registration draws a new nonce, and a step
//   for call_seq, from the time stamp counter.
// - The kernel's wait is ended with "resend": its state change or prompt is withdrawn from the ring before, if it is still
//   there, since the kernel is about to send it again.
#ifndef GUEST_KDVMKD_AREA_H
#define GUEST_KDVMKD_AREA_H

#include "guest/kdvmkd/machine.h"
#include "wire/order.h"
#include "wire/portcall.h"
#include "wire/ring.h"

#define AREA_FEATURES (AREA_FEATURE_CONTROL_REGS | AREA_FEATURE_PRINT_BATCH | AREA_FEATURE_RX_SUM)

struct area {
	uint8_t *page[AREA_PAGES];  // [0] = head, then tx, then rx; made anew by area_bind
	gpa_t gpa[AREA_PAGES];      // as registered
	struct ring tx, rx;
	uint32_t call_seq;          // of the newest call
	uint32_t tx_seq;            // record.seq of the newest record; 0 = none yet
	uint32_t tx_floor_seq;      // tx_seq when the host was last seen to have taken everything
	uint32_t rx_done_seq;       // record.seq of the last host packet taken
	uint32_t poll_count;
	uint32_t dropped, refused;  // since boot
	uint32_t guest_state;       // GUEST_*
	uint64_t entropy;           // state of the nonce generator
	bool has_rings;             // the rings have been started once
};

// Point *a at AREA_PAGES pages of AREA_PAGE_SIZE bytes, page-aligned, which *a borrows until the next call. At the first call the
// rings start empty; later ones keep their positions.
void area_bind(struct area *a, uint8_t *memory);

// The head page, as both sides see it. Never NULL after area_bind.
struct area_head *area_head(const struct area *a);

// True if every page still lies where it was registered.
bool area_is_current(const struct area *a, const struct machine *m, void *ctx);

// Fill head and page heads for CALL_REGISTER: new nonce, new call_seq, current addresses, both rings from the guest's own
// positions. Records that the host has not acknowledged stay in the transmit ring behind tx_base.
void area_prepare(struct area *a, const struct machine *m, void *ctx);

// After CALL_UNREGISTER, answered or not: the pages no longer look like an area to a host that scans memory, nor like its own to one that has
// not heard of it. Somebody else may get them.
void area_retire(struct area *a);

// Take over what the host published with its answer. -> RING_OK, RING_E_IMPOSSIBLE (counted; register again).
WIRE_MUST_CHECK int area_sync(struct area *a);

// The host may have written the head in this call: write it as well, so that the VMM's dirty map knows of it.
void area_touch_head(struct area *a);

// Append one record and publish it. -> RING_OK, RING_E_FULL, RING_E_RECORD (lengths).
WIRE_MUST_CHECK int area_put(struct area *a, uint16_t kd_type, const void *hdr, uint16_t hdr_len, const void *data,
                             uint32_t data_len);

// Take back the records from position `start` on, if the host has not taken them. Their sequence numbers are not used again: the host may
// have seen them all the same.
void area_withdraw(struct area *a, uint32_t start);

// Give up whatever the host has not taken; legal only when the next call is CALL_REGISTER.
void area_discard(struct area *a);

// Take the oldest record of the host that is not a repeated one, and publish that it was taken.
// -> RING_OK, RING_E_EMPTY, RING_E_RECORD (counted; register again).
WIRE_MUST_CHECK int area_take(struct area *a, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX]);

// One more break-in poll, or turn of a wait: a host tells by this number that the guest lives.
void area_count_poll(struct area *a);
// One more packet dropped because nobody listens.
void area_count_dropped(struct area *a);
// One more word or record of the host, or packet of the kernel, that cannot be.
void area_count_refused(struct area *a);
// Set or clear GUEST_* bits.
void area_set_state(struct area *a, uint32_t bits, bool is_set);

#endif
