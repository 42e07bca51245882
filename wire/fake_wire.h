// SPDX-License-Identifier: MIT
// For tests: one direction of a KDCOM byte stream on which things go wrong, frame by frame and by dice, in virtual time. The same seed makes the same
// faults. What is written must be whole frames and break-in bytes, in pieces of any size.
#ifndef WIRE_FAKE_WIRE_H
#define WIRE_FAKE_WIRE_H

#include "wire/kdcom.h"
#include "wire/selftest.h"

#define FAKE_WIRE_SIZE 262144u

enum fake_fault {
	FAULT_DROP,   // the frame is lost
	FAULT_BODY,   // a byte of the body, or the trailing one, is another; a frame without a body is lost
	FAULT_DOUBLE, // it comes twice
	FAULT_DELAY,  // up to overtakers_max later frames overtake it
	FAULT_CUT,    // it stops in its body; one without a body is lost. (In its header the next frame's bytes would be taken for the rest of it: as HEADER)
	FAULT_HEADER, // a byte of the packet header is another. KDCOM does not protect it (KD reference, section 1.2)
	FAULT_COUNT,
};
#define FAULT_BIT(fault) (1u << (fault))
// What KDCOM was made to repair.
#define FAULTS_REPAIRABLE (FAULT_BIT(FAULT_HEADER) - 1u)

struct fake_wire {
	struct dice dice;
	uint32_t per_mille;      // of frames that meet a fault
	uint32_t kinds;          // which: FAULT_BIT of enum fake_fault
	// 1 and above. With three, an old ACK meets the packet after the next one, whose id is the same; and so does a packet that its own repetition has
	// overtaken. Ids have one bit: there KDCOM is at its end.
	uint32_t overtakers_max;
	// One fault on purpose, besides: at frame number aimed_frame, counted from 1; 0 = none.
	uint32_t aimed_frame;
	enum fake_fault aimed_fault;
	uint32_t aimed_at; // CUT: bytes that remain; BODY, HEADER: the byte, counted from the frame's start
	uint32_t frames;   // begun so far
	uint32_t aimed_len; // of the frame that was aimed at, 0 = it has not come
	unsigned faults[FAULT_COUNT];

	uint8_t frame[KDCOM_FRAME_MAX]; // being written
	size_t frame_len;
	uint8_t held[KDCOM_FRAME_MAX]; // delayed; len 0 = none
	size_t held_len;
	uint32_t held_frames; // until so many others have passed
	uint64_t held_until;  // or until this time
	size_t read, written;
	uint8_t bytes[FAKE_WIRE_SIZE];
};

// per_mille of the frames meet a fault of these kinds.
void fake_wire_init(struct fake_wire *w, uint32_t seed, uint32_t per_mille, uint32_t kinds);
void fake_wire_write(struct fake_wire *w, uint64_t now_ms, const uint8_t *bytes, size_t len);
// What has arrived and was not taken: *ret_len bytes, valid until the next write. Taken with fake_wire_take.
const uint8_t *fake_wire_peek(const struct fake_wire *w, size_t *ret_len);
void fake_wire_take(struct fake_wire *w, size_t len);
// Let go of a frame whose delay is over. -> true: it did.
bool fake_wire_timer(struct fake_wire *w, uint64_t now_ms);
uint64_t fake_wire_deadline(const struct fake_wire *w); // UINT64_MAX = never
unsigned fake_wire_faults(const struct fake_wire *w);   // all kinds together
const char *fake_fault_name(enum fake_fault fault);

#endif
