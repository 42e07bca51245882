// SPDX-License-Identifier: MIT
// KDCOM framing, the byte stream between a kernel debugger and its target, as a state machine that owns no I/O, no
// memory and no clock: bytes in, events out; packets in, bytes out; time passed in. Both roles:
//
//   KDCOM_TARGET    what a debugger sees: the broker towards WinDbg, kd, radare2, rizin, ntoseye
//   KDCOM_DEBUGGER  what a stock target sees: libvmkd towards a serial port, a pipe, a socket
//
// Facts and their sources: KD reference, sections 1.1 to 1.11.
//
// How to drive it, one turn of the owner's loop:
//
//   read what is there
//   do kdcom_feed(k, bytes, len, &used, &ev), handle ev, bytes += used, len -= used; while ev.kind != KDCOM_EV_NONE
//   kdcom_timer(k, now, &ev), handle ev
//   write kdcom_output(), kdcom_output_consume() what was written
//   sleep until kdcom_deadline() or until something can be read or (while there is output) written
//
// Time enters through kdcom_timer alone: whatever restarts a timeout (a byte, a send) takes effect at the next
// kdcom_timer call. So call it in every turn, after feeding and before sleeping; a process that was stopped for a while then
// sees the bytes that came meanwhile before it sees any timeout.
//
// Rules: one thread at a time. Nothing here blocks, allocates or logs. A struct kdcom is about 17 KiB: static or heap, not stack.
// Everything from the peer is hostile: bounded, refused, counted.
#ifndef WIRE_KDCOM_H
#define WIRE_KDCOM_H

#include "wire/compiler.h"

// ---- Wire facts (KD reference, sections 1.1 to 1.4) ----------------------------------------------
#define KDCOM_DATA_LEADER 0x30303030u
#define KDCOM_CONTROL_LEADER 0x69696969u
#define KDCOM_BREAKIN_BYTE 0x62u
#define KDCOM_TRAILER 0xAAu
#define KDCOM_HEAD 16u      // leader u32, type u16, body length u16, id u32, checksum u32
#define KDCOM_BODY_MAX 4000u // message header + data
#define KDCOM_FRAME_MAX (KDCOM_HEAD + KDCOM_BODY_MAX + 1u)
#define KDCOM_ID_INITIAL 0x80800000u
#define KDCOM_ID_SYNC 0x00000800u // or-ed into the id of the first packet after a start

enum kdcom_control {
	KDCOM_ACK = 4,
	KDCOM_RESEND = 5,
	KDCOM_RESET = 6,
};

// ---- Defaults; the owner may change k->limits after kdcom_init -----------------------------------
// A debugger must wait longer for its ACK than the target does for its own (KD reference, section 1.7, rule 5).
#define KDCOM_TARGET_RETRY_MS 500u
#define KDCOM_DEBUGGER_RETRY_MS 1500u
#define KDCOM_RETRY_LIMIT 20u       // KdpDefaultRetries
#define KDCOM_CONTINUE_LIMIT 3u     // repetitions of a packet that lets the target run (KD reference, section 1.8)
#define KDCOM_BYTE_MS 300u          // silence inside a frame after which the frame is given up
#define KDCOM_RESET_FORGET_MS 5000u // own RESETs that nobody answered are forgotten after this silence

// Output holds two whole frames (one just acknowledged but not yet written, one new) and 32 control packets.
#define KDCOM_OUTPUT_SIZE (2u * KDCOM_FRAME_MAX + 32u * KDCOM_HEAD)
// kdcom_feed stops with KDCOM_EV_BLOCKED below this room: one frame from the peer makes at most one control packet.
#define KDCOM_CONTROL_ROOM (2u * KDCOM_HEAD)

#define KDCOM_NO_DEADLINE UINT64_MAX

enum kdcom_role { KDCOM_TARGET, KDCOM_DEBUGGER };

// Outcomes of the functions that send.
enum kdcom_outcome {
	KDCOM_OK = 0,
	KDCOM_E_BUSY = 1, // a packet is in flight: wait for SENT, GIVEN_UP or a lost packet
	KDCOM_E_FULL = 2, // output has not enough room: write it first
	KDCOM_E_SIZE = 3, // header + data above KDCOM_BODY_MAX
};

enum kdcom_event_kind {
	KDCOM_EV_NONE = 0, // feed: every byte was consumed. timer: nothing happened
	KDCOM_EV_PACKET,   // a data packet was accepted; type, body, body_len, is_sync, is_lost
	KDCOM_EV_SENT,     // own packet in flight was acknowledged; is_assumed
	KDCOM_EV_BREAKIN,  // target: the debugger wants a stop. May come several times in a row
	// The peer resynchronised; both ids are new, an answer is in the output where one is due. is_answer, is_lost.
	// Target: discard what else is already buffered from the peer (the rest of this read and what the socket has), or at least the RESETs at
	// its start, before you feed again: that ends the bouncing of RESETs on channels that buffer (KD reference, section 1.5). A packet in
	// flight is kept and sent again under the new id; without one in flight send the state change or prompt again.
	// Debugger: keep what follows, it is the state change. A packet in flight is forgotten (is_lost); redo it after the state change.
	KDCOM_EV_RESET,
	KDCOM_EV_RESEND_REQUEST, // target, nothing in flight: the debugger wants the state change or prompt again
	KDCOM_EV_GIVEN_UP, // timer: nobody acknowledged. The packet is forgotten. Target: ids are as after a start.
	                   // Debugger: ids are kept; send a RESET
	KDCOM_EV_BLOCKED,  // feed: output is full of control packets the peer does not read. Write output, then feed the rest
};

struct kdcom_event {
	enum kdcom_event_kind kind;
	uint16_t type;       // PACKET: KD packet type
	uint16_t body_len;   // PACKET: bytes of message header + data, at most KDCOM_BODY_MAX
	const uint8_t *body; // PACKET: inside struct kdcom; valid until the next kdcom_feed or kdcom_init
	bool is_sync;        // PACKET, debugger: the target has started anew (boot, or it had given up): forget breakpoints,
	                     // modules, contexts
	bool is_lost;        // PACKET, RESET: the own packet that was in flight is forgotten; it may or may not have been executed
	bool is_answer;      // RESET: it answers ours
	bool is_assumed;     // SENT: nobody said so; a packet with KDCOM_SEND_CONTINUE was repeated often enough, or the target has
	                     // sent something newer
};

// Flags of kdcom_send.
#define KDCOM_SEND_DROPPABLE (1u << 0) // target: give up after limits.retry_limit timeouts. Others are repeated for ever
// Debugger: this packet lets the target run (Continue, Continue2, Reboot, the answer to a prompt), so the target may not hear a repetition:
// after KDCOM_CONTINUE_LIMIT of them it counts as sent, and so it does when any new data packet comes.
#define KDCOM_SEND_CONTINUE (1u << 1)

// Since kdcom_init. All saturate at 2^32 - 1 in effect: they are for people.
struct kdcom_counters {
	uint32_t packets_in;      // accepted and handed out
	uint32_t packets_out;     // sent and acknowledged (or assumed so)
	uint32_t acks_in, acks_out;
	uint32_t resends_in, resends_out;
	uint32_t resets_in, resets_out;
	uint32_t breakins;        // target: received; debugger: sent
	uint32_t retransmissions; // own data frames written again
	uint32_t timeouts;        // of which: because nothing came
	uint32_t given_up;
	uint32_t implied_acks;    // own packet taken as acknowledged by a data packet
	uint32_t duplicates;      // data packets with an old id: acknowledged, dropped
	uint32_t unwanted;        // target: data packets of a type nobody waits for
	uint32_t stray_acks;      // ACKs of something that is not in flight
	uint32_t stray_resends;   // debugger: RESEND with nothing in flight
	uint32_t bad_size;        // body length above the maximum or below the type's message header
	uint32_t bad_trailer;
	uint32_t bad_checksum;
	uint32_t bad_control;     // unknown control packet
	uint32_t truncated;       // frames that stopped in the middle
	uint32_t noise;           // bytes outside of frames
	uint32_t blocked;         // times that output was full
};

struct kdcom_limits {
	uint32_t retry_ms;    // without an ACK for so long: send again
	uint32_t retry_limit; // timeouts before GIVEN_UP (target: droppable packets only)
	uint32_t byte_ms;     // silence inside a frame
};

// What is wrong with a frame that was not accepted.
enum kdcom_damage { KDCOM_WHOLE = 0, KDCOM_BAD_SIZE, KDCOM_BAD_TRAILER, KDCOM_BAD_CHECKSUM, KDCOM_TRUNCATED };

// One frame of either direction, or one break-in byte. Two parts, to be read one behind the other; valid during the call.
struct kdcom_seen {
	bool is_out; // put into the output; else it came from the peer
	enum kdcom_damage damage; // BAD_SIZE: the 16 bytes of the head are all there is; TRUNCATED: as far as it came
	const uint8_t *head, *rest;
	uint32_t head_len, rest_len;
};

// Somebody who looks on (a recorder). Told of frames when they are complete (or given up) and before they have an effect, of own ones when they go
// into the output, repetitions included. Must not call kdcom functions on the same struct.
struct kdcom_observer {
	void (*seen)(void *arg, const struct kdcom_seen *seen);
	void *arg;
};

enum kdcom_rx_state { KDCOM_RX_LEADER, KDCOM_RX_HEAD, KDCOM_RX_BODY, KDCOM_RX_TRAILER };

// Fields are private except limits, observer and counters (read), written only by the functions below.
struct kdcom {
	enum kdcom_role role;
	const struct kdcom_observer *observer; // borrowed; NULL = nobody looks on, which costs one branch a frame
	struct kdcom_limits limits;
	struct kdcom_counters counters;

	// ids (KD reference, section 1.4)
	uint32_t next_id;     // of the next own packet, or of the one in flight
	uint32_t expected_id; // of the peer's next packet
	uint16_t want;        // target: type somebody waits for; 0 = nobody
	bool is_expected_known; // debugger: false = take the next packet whatever its id is
	bool is_in_step;      // debugger: both ids are known to agree with the target's
	uint8_t resets_due;   // own RESETs that are not answered

	// the last SYNC frame, to know its repetition
	bool has_sync;
	uint32_t sync_id;
	uint16_t sync_type, sync_len;
	uint64_t sync_hash;

	// receiver
	enum kdcom_rx_state rx_state;
	uint8_t rx_leader;   // the byte that is being counted
	uint8_t rx_count;    // so many of them came
	uint32_t rx_len;     // bytes in rx_head or rx_body
	uint8_t rx_head[KDCOM_HEAD];
	uint8_t rx_body[KDCOM_BODY_MAX + 1]; // and the trailer
	struct kdcom_event held; // a second event of the frame just read; kind NONE = none

	// sender
	bool is_sending;
	uint32_t tx_flags;
	uint32_t tx_len;      // of tx_frame
	uint32_t tx_timeouts; // of the packet in flight
	uint8_t tx_frame[KDCOM_FRAME_MAX];
	uint32_t out_len;
	uint32_t out_frame_end; // end of the own frame's copy in output; 0 = it has been written
	uint8_t out[KDCOM_OUTPUT_SIZE];

	// timers; a false flag with something to wait for means: start it at the next kdcom_timer
	uint64_t retry_at, byte_at, reset_at;
	bool is_retry_armed, is_byte_armed, is_reset_armed;
};

// Start (or start anew) with nothing sent and nothing received. Counters, limits and observer are reset. A target begins with the SYNC id.
void kdcom_init(struct kdcom *k, enum kdcom_role role);

// The other program's session ended and a new one begins on the same stream (the VM was reset while the client stays attached):
// forget the packet in flight; ids as after kdcom_init. Receiver, output, limits, counters stay.
void kdcom_restart(struct kdcom *k);

// Take bytes from the peer. Returns after the first event, with *ret_used bytes taken; call again with the rest (even if
// that is nothing) until KDCOM_EV_NONE. After KDCOM_EV_BLOCKED nothing more is taken until output was consumed.
void kdcom_feed(struct kdcom *k, const uint8_t *bytes, size_t len, size_t *ret_used, struct kdcom_event *ret_event);

// Tell the time (any monotonic clock, milliseconds): retransmits, gives up unfinished frames.
// Event: NONE, GIVEN_UP, SENT (assumed). At most one a call.
void kdcom_timer(struct kdcom *k, uint64_t now_ms, struct kdcom_event *ret_event);

// When to call kdcom_timer at the latest: a time of the same clock, 0 = at once, KDCOM_NO_DEADLINE = nothing is waited for.
uint64_t kdcom_deadline(const struct kdcom *k);

// Send a data packet: hdr_len + data_len bytes are copied. It is in flight until SENT, GIVEN_UP, a RESET (debugger), or
// kdcom_cancel. -> KDCOM_OK, KDCOM_E_BUSY, KDCOM_E_FULL, KDCOM_E_SIZE; nothing changed unless OK.
WIRE_MUST_CHECK int kdcom_send(struct kdcom *k, uint16_t type, const void *hdr, uint32_t hdr_len, const void *data,
                               uint32_t data_len, uint32_t flags);

// A packet is in flight.
bool kdcom_is_sending(const struct kdcom *k);

// Forget the packet in flight without changing ids; a copy in the output of which nothing was written goes with it. Right after a RESET or
// before a restart; elsewhere the peer may take the next packet for a repetition of this one.
void kdcom_cancel(struct kdcom *k);

// Target: somebody now waits for packets of this type (2 manipulate, 3 prompt answer, 11 file I/O, ...), until told otherwise; 0 =
// nobody, the target runs. Packets of another type are acknowledged, dropped and counted (KD reference, section 1.7);
// while nobody waits, new packets are dropped without an ACK, so that the peer repeats them. The type stays wanted after a packet was
// handed out: call kdcom_expect(k, 0) when that packet lets the target run. Initially 0.
void kdcom_expect(struct kdcom *k, uint16_t type);

// Debugger: ask a running target to stop. -> KDCOM_OK, KDCOM_E_FULL.
WIRE_MUST_CHECK int kdcom_send_breakin(struct kdcom *k);

// Resynchronise: forget the packet in flight, both ids start anew, one RESET goes out. A RESET from the peer is
// then its answer and is not answered. -> KDCOM_OK, KDCOM_E_FULL.
WIRE_MUST_CHECK int kdcom_send_reset(struct kdcom *k);

// Debugger: the ids are known to agree with the target's: a SYNC packet came, or a RESET was answered. While they are not, the
// first packet is accepted whatever its id is (a running target does not hear RESETs, so it may be anywhere). Before
// the first request to a stopped target that is not in step, send a RESET and wait for its state change.
bool kdcom_is_in_step(const struct kdcom *k);

// Bytes to write to the peer; *ret_len may be 0. Valid until the next call of any function that may send, feed included.
void kdcom_output(const struct kdcom *k, const uint8_t **ret_bytes, size_t *ret_len);
void kdcom_output_consume(struct kdcom *k, size_t len); // len of them were written

// For logs.
const char *kdcom_event_name(enum kdcom_event_kind kind);

#endif
