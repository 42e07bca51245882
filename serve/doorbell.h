// SPDX-License-Identifier: MIT
// The bytes that a guest writes to the isa-debugcon port (wire/portcall.h): a ring, or a hello with the address of the area's head.
// Any process of the guest that may touch the port, and firmware that logs there, can write anything: what is neither is
// counted and skipped.
#ifndef SERVE_DOORBELL_H
#define SERVE_DOORBELL_H

#include <stddef.h>
#include <stdint.h>

#include "wire/portcall.h"

enum doorbell_event {
	DOORBELL_EV_NONE, // every byte was consumed
	DOORBELL_EV_RING,
	DOORBELL_EV_HELLO, // with *ret_head
};

// Zero-initialised: between events.
struct doorbell {
	uint32_t count;                      // bytes of a hello that came so far
	uint8_t hello[DOORBELL_HELLO_LEN];
	uint64_t rings, hellos, refused;     // refused: bytes that mean nothing
};

// Take bytes until the first event. -> the event; *ret_used bytes were taken: call again with the rest.
enum doorbell_event doorbell_feed(struct doorbell *d, const uint8_t *bytes, size_t len, size_t *ret_used, gpa_t *ret_head);

// Forget an unfinished hello: the stream begins anew.
void doorbell_reset(struct doorbell *d);

#endif
