// SPDX-License-Identifier: MIT
// What one packet of a trace is: an endpoint, a direction, a time, and a KDCOM frame as it was or would have been on a wire.
//
// A trace is a pcapng file (trace/pcapng.h). Each endpoint is an interface: "guest" is the link to the kernel, "client N" one debugger. The payload
// of a packet is one whole frame (KD reference, section 1), one break-in byte, or nothing, for a comment alone. Inbound means from the target to the debugger, outbound the
// other way, at every endpoint. A frame that was damaged says so in epb_flags, for other programs; here the bytes are looked at.
//
// Rules: pure functions, any thread. Frames are hostile.
#ifndef TRACE_RECORD_H
#define TRACE_RECORD_H

#include "trace/pcapng.h"
#include "wire/kdcom.h"

#define TRACE_GUEST "guest" // the endpoint of the kernel's own packets
#define TRACE_APPLICATION "vmkd"
// Comments at TRACE_GUEST that mean something to programs, too: a kernel has come, has gone.
#define TRACE_NOTE_REGISTERED "registered"
#define TRACE_NOTE_GONE "gone"

enum trace_direction { TRACE_UNKNOWN, TRACE_FROM_TARGET, TRACE_TO_TARGET };

enum trace_kind {
	TRACE_NOTHING, // no payload: the comment is all
	TRACE_BREAKIN,
	TRACE_CONTROL, // type, id
	TRACE_DATA,    // type, id, checksum, body
	TRACE_JUNK,    // no frame
};

struct trace_frame {
	enum trace_kind kind;
	enum kdcom_damage damage;
	uint16_t type;
	uint16_t said_len; // of the body, as the head says
	uint32_t id, checksum;
	const uint8_t *body; // inside the bytes; as much as there is
	uint32_t body_len;
};

// Look at the bytes of one packet. Damage comes with what can still be read.
void trace_frame_read(const uint8_t *bytes, size_t len, struct trace_frame *ret);

// Make a data frame of a message header and what follows it, to: KDCOM_FRAME_MAX bytes. -> its length; 0: longer than KDCOM_BODY_MAX.
size_t trace_frame_make(uint16_t type, uint32_t id, const uint8_t *body, size_t body_len, uint8_t *to);
// The same for a control frame of KDCOM_HEAD bytes.
size_t trace_frame_make_control(enum kdcom_control type, uint32_t id, uint8_t *to);

enum trace_direction trace_direction_of(uint32_t epb_flags);
uint32_t trace_flags_of(enum trace_direction direction, enum kdcom_damage damage);

// "trailer", "checksum", "size", "truncated"; "" for KDCOM_WHOLE.
const char *trace_damage_name(enum kdcom_damage damage);

#endif
