// SPDX-License-Identifier: MIT
// What a guest had printed and nobody had collected when its VMM died (the hook's link): its transmit ring still lies in the RAM's file, of
// which the broker has a descriptor. RAM that was private to the VMM has gone with it, and so have those prints.
//
// Rules: one thread. Nothing is mapped until the end, and then for reading only. The ring is the guest's: it is judged as it is while
// the guest lives (vmm/area.h), and whoever is given a packet of it judges that, too.
#ifndef SERVE_LAST_WORDS_H
#define SERVE_LAST_WORDS_H

#include "serve/ram_files.h"
#include "vmm/area.h"

struct last_words { // zero-initialise
	struct ram_files files;
	bool has_guest;
	gpa_t head;        // of the registered module's area
	bool has_seen;     // a packet of this registration has come
	uint32_t seen_seq; // the last one's number
};

// Close what is kept; nothing is known any more.
void last_words_deinit(struct last_words *w);

// Where RAM is, as guest_link_events.memory has it.
void last_words_memory(struct last_words *w, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count);
// A module has registered; it is gone, and what it had to say was said.
void last_words_registered(struct last_words *w, const struct link_guest *guest);
void last_words_gone(struct last_words *w);
// Packet `seq` of the guest has come in.
void last_words_seen(struct last_words *w, uint32_t seq);

// The VMM is dead, or has stopped its vCPUs for good: give what is left in the ring, in order and none that was seen, as LINK_PACKETs; the guest counts as
// gone then. body: valid during the call. Nothing is given where there is no guest, no mapped RAM or no such ring.
void last_words_collect(struct last_words *w, void (*give)(void *arg, const struct link_head *head, const uint8_t *body), void *arg);

#endif
