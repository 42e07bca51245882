// SPDX-License-Identifier: MIT
// For tests: the guest module's half of the shared area, played on the host. It fills the head and both
// rings as wire/portcall.h asks, in plain memory that stands for guest RAM.
#ifndef VMM_FAKE_GUEST_H
#define VMM_FAKE_GUEST_H

#include "wire/portcall.h"
#include "wire/ring.h"

struct fake_guest {
	uint8_t *ram;     // borrowed; guest-physical ram_gpa
	uint64_t ram_gpa;
	struct area_head *head;
	uint8_t *pages[AREA_PAGES_MAX];
	struct ring tx, rx;
	uint32_t tx_seq; // of the last packet put
};

// Lay out an area of 1 + tx_pages + rx_pages pages from page `first` of the RAM on, every second page (they need not be contiguous).
// Nothing of an earlier layout stays but tx_seq.
void fake_guest_init(struct fake_guest *g, uint8_t *ram, uint64_t ram_gpa, uint32_t first, uint32_t tx_pages,
                     uint32_t rx_pages, uint64_t nonce);
gpa_t fake_guest_head(const struct fake_guest *g);

// Put a packet into the transmit ring and publish it. Aborts when it does not fit.
void fake_guest_send(struct fake_guest *g, uint16_t kd_type, uint16_t hdr_len, const void *body, uint32_t body_len);
// Write the words of a new call; -> its call_seq. The same call again: do nothing.
uint32_t fake_guest_call(struct fake_guest *g, uint32_t fn, uint32_t flags, uint32_t want);
// Take over tx_tail after a call, and the next packet of the receive ring. -> body length, or -1: none.
int fake_guest_take(struct fake_guest *g, struct ring_packet *ret, uint8_t body[RECORD_BODY_MAX]);

#endif
