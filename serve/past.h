// SPDX-License-Identifier: MIT
// What a guest printed before this broker's time: the kernel's own buffer (serve/print_buffer.h) is read at the first stop of a guest whose boot
// this broker has not seen, and completes the session's history.
//
// Only for kdvmkd's guests, which tell how far their boot is (GUEST_PHASE1): a stock target on a serial line would be held for seconds by it.
//
// Rules: as serve/print_buffer.h.
#ifndef SERVE_PAST_H
#define SERVE_PAST_H

#include "serve/print_buffer.h"
#include "serve/session.h"

struct past { // zero-initialise
	bool is_known; // there is nothing that we have not heard, or it has been asked for
	struct print_buffer buffer;
};

// As guest_link_events (serve/guest_link.h).
void past_registered(struct past *p, const struct link_guest *guest);
void past_gone(struct past *p, enum link_gone reason);

// As session_ops: the next request, 0 = none; its reply, of which `s` learns when it was the last one.
uint32_t past_request(const struct past *p, uint8_t *body);
void past_reply(struct past *p, struct session *s, const uint8_t *body, uint32_t body_len);

#endif
