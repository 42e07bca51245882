// SPDX-License-Identifier: MIT
// One guest's calls as a state machine without I/O: calls and link messages go in, answers and link messages come out. The hook
// (libvmkd-vmm.so) and the debugcon backend of the broker drive the same code.
//
// Rules: no I/O, no clock (time is passed in, milliseconds of any monotonic clock), no locks, no allocation: one thread at a
// time under the caller's lock. Nothing blocks.
//
// A driver does this (hook):
//
//     uint32_t code = call_begin(c, map, &args, now);     // may be the answer already
//     while (code == CALL_PENDING) {
//             switch (call_step(c, now, &message)) {
//             case CALL_SEND:  send(message) ? call_sent(c) : sleep until the socket has room or a kick comes; break;
//             case CALL_SLEEP: sleep until a link message (call_feed), a broker change, call_deadline() or a kick; break;
//             case CALL_ANSWER: code = call_answer(c); break;
//             }
//             if (kicked) call_kick(c);                   // -> the next step is CALL_ANSWER with CODE_RETRY
//     }
//
// and, outside calls, call_step until it says CALL_IDLE whenever something may be owed to the broker.
// Debugcon does the same with call_args_from_head, never kicks, and the guest reads the answer from its head.
//
//            call_begin              ring empty, no wait
//     IDLE ------------> COLLECTING ---------------------> ANSWERED --call_answer--> IDLE
//       ^                  |   ^                               ^
//       | (RETRY: the      |   | a broker came; it has         | deliver, resend, grace over,
//       |  wait is parked) v   | seen nothing of this call     | kick, registration ended
//       +--------------- WAITING --------------------------------+
//
// Who may see a packet twice: record.seq at or below tx_done_seq is dropped. A packet counts as taken when call_sent says so, not before.
#ifndef VMM_CALL_H
#define VMM_CALL_H

#include "vmm/area.h"
#include "wire/link.h"

// A code that no guest sees: the call is not answered yet.
#define CALL_PENDING 0x100u

// How long a droppable wait outlives the last broker. Long enough for a broker to be restarted, short enough
// that a boot without one does not notice (the guest sets KdDebuggerNotPresent at the first NOBODY and asks no more).
#define CALL_GRACE_MS 2000u

enum call_state { CALL_ST_IDLE = 0, CALL_ST_COLLECTING, CALL_ST_WAITING, CALL_ST_ANSWERED };

enum call_next {
	CALL_IDLE = 0,   // no call is open and nothing is owed to the broker
	CALL_SEND = 1,   // *ret is for the broker; then call_sent. Not possible now: ask again later
	CALL_SLEEP = 2,  // the call waits
	CALL_ANSWER = 3, // call_answer
};

// A call as it arrived. Registers under the hook; the head's words under debugcon.
struct call_args {
	uint32_t fn;      // enum call_fn
	gpa_t head;       // CALL_REGISTER: guest-physical address of page 0
	uint32_t version; // CALL_REGISTER: AREA_VERSION of the guest; 0 = whatever the head says (debugcon)
	uint32_t seq;     // all others: call_seq; must be what the head says
	uint32_t vcpu;    // the VMM's number; 0xFFFFFFFF = unknown
	uint32_t dialect; // enum link_dialect of the guest behind the area (vmm/virtualkd.h)
	uint32_t dialect_version; // CALL_REGISTER, another dialect than ours: its word for its version, 0 = not said
	bool has_regs;    // cr0..efer come from the VMM; else from the head if AREA_FEATURE_CONTROL_REGS
	uint64_t cr0, cr3, cr4, efer;
};

// A message to the broker: head, then head.body_len bytes at body (borrowed until the next function on this call).
struct call_message {
	struct link_head head;
	const uint8_t *body;
};

struct call {
	struct area area;
	struct link_stats stats;
	enum call_state state;
	uint32_t fn, seq, flags, want, vcpu; // of the open or parked call
	uint32_t code;                       // ANSWERED: the answer
	uint64_t cr0, cr3, cr4, efer;        // of the calling vCPU; 0 = unknown
	uint32_t dialect, dialect_version;   // as call_args, of the last registration
	bool is_told;       // a broker knows that the guest waits
	bool is_stopped;    // see call_is_stopped
	bool is_parked;     // the wait ended with RETRY; the guest will make the same call again
	bool is_resend_due; // a broker came while the wait was parked
	bool has_last;      // last_* describe the last answered call of this registration
	uint32_t last_seq, last_fn, last_code;
	uint32_t reply_seq; // what the host's word in the head must be: else the guest's memory has travelled in time
	uint32_t ending;    // enum link_gone while the last packets are collected, else 0

	bool has_broker;    // attached
	bool is_known;      // the broker believes that a guest is registered
	uint64_t broker_gone_ms;
	bool is_breakin_pending;
	uint32_t refused_version; // the guest's AREA_VERSION of the last mismatch, 0 = none since the last registration

	uint32_t owed;      // messages that wait for call_step (private bits)
	uint32_t shown;     // the one that call_step showed last
	uint32_t gone_code; // of the owed LINK_UNREGISTERED
	bool has_out;       // `out` holds a packet taken from the ring and not sent yet
	uint32_t out_tail;  // position of that packet: where the ring goes back to if it is not sent
	struct ring_packet out;
	struct link_guest guest_body;
	struct link_stats stats_body;
	uint8_t out_body[RECORD_BODY_MAX];
};

// An idle machine without guest and broker. It is about 5 KB; no _deinit is needed.
void call_init(struct call *c, uint64_t now_ms);

// ---- The guest's side ----------------------------------------------------------------------------

// A call has arrived. -> CALL_PENDING (go on with call_step), or its answer, enum call_code, already written into the area where
// that is allowed. CODE_REFUSED without any effect on a call that another vCPU has open: the guest's module serialises its
// calls, so this is a broken guest. `map` is borrowed for this function only.
WIRE_MUST_CHECK uint32_t call_begin(struct call *c, const struct gpa_map *map, const struct call_args *args, uint64_t now_ms);

// Debugcon, DOORBELL_RING: fill *ret from the head of the registered area, and say that the byte was read (ring_seen).
// -> AREA_OK, AREA_E_LOST (nobody registered, or the page changed hands).
WIRE_MUST_CHECK int call_args_from_head(struct call *c, struct call_args *ret);

// What has to happen now. *ret is set for CALL_SEND only.
WIRE_MUST_CHECK enum call_next call_step(struct call *c, uint64_t now_ms, struct call_message *ret);

// The message that call_step showed has been handed to the broker.
void call_sent(struct call *c);

// When call_step must be asked again at the latest, in the clock of now_ms; UINT64_MAX = never.
uint64_t call_deadline(const struct call *c);

// True: there is an answer already, whatever else is owed to the broker. A driver with a full socket asks this first.
bool call_is_answered(const struct call *c);

// Fetch the answer (enum call_code) after CALL_ANSWER or call_is_answered; the machine is idle afterwards.
WIRE_MUST_CHECK uint32_t call_answer(struct call *c);

// The VMM needs the vCPU: answer CODE_RETRY. An answer that stands already is left alone.
void call_kick(struct call *c);

// How long an open call may wait for a broker that is there but does not take its messages.
enum call_patience {
	CALL_WAITS_NOT = 0, // the guest runs: answer it
	CALL_WAITS_SOME = 1, // a droppable wait: CALL_GRACE_MS
	CALL_WAITS_ON = 2,   // a wait
};
enum call_patience call_patience(const struct call *c);
// The patience is over: answer as if there were no broker (NOBODY; an area that goes away is let go).
void call_stall(struct call *c);

// The broker was told that the guest waits, and the wait is open, or was and will be repeated: its messages
// must stay in the socket while no vCPU is there to take them.
bool call_is_awaited(const struct call *c);
// The guest is stopped in the debugger: from a wait that a broker knows of until a packet lets it run
// (LINK_F_RESUMES), or until it makes a call that a stopped guest does not make.
bool call_is_stopped(const struct call *c);

// Debugcon: the VMM may have put the memory of another time under the guest (a snapshot was loaded, of which no RESET tells). To be asked
// while the guest waits, or when the VM was paused: then it has not moved its pages itself. If it did: an open call is over, the broker is
// told LINK_GONE_RESET, since nothing of what it knows needs to be true, and a guest that is in a call there is told to register again. -> true: so it was.
// What the host gives a waiting guest (call_deliver, call_resend) begins with this look.
bool call_look(struct call *c);

// The registration ends for the reason enum link_gone. Packets in the ring are collected by the following
// call_steps, if a broker is there; then LINK_UNREGISTERED. An open wait is answered CODE_REREGISTER.
void call_end(struct call *c, uint32_t gone);
// ... and now at once: the memory goes away with the return of this function. What was not collected is lost.
void call_cut(struct call *c, uint32_t gone);

// ---- The broker's side -----------------------------------------------------------------------------

// The first message for a broker that has connected.
void call_hello(struct call *c, uint32_t pid, const char *name, struct link_hello *ret);

// The broker has attached (LINK_ATTACH came; debugcon: it exists). A wait that an earlier broker knew of ends with RESEND.
void call_broker_came(struct call *c);
// The broker is gone, attached or not. Waits go on; droppable ones end after CALL_GRACE_MS.
void call_broker_gone(struct call *c, uint64_t now_ms);

enum call_feed_outcome {
	CALL_FED = 0,
	CALL_FED_RESUMES = 1, // a delivered packet lets the guest run (LINK_F_RESUMES): watch the socket again
	CALL_E_LINK = 2,      // not a message of this protocol: close the connection
	CALL_E_LINK_VERSION = 3, // LINK_ATTACH of another LINK_VERSION
};

// One message of the broker, head and body, as it came from the socket. -> enum call_feed_outcome.
WIRE_MUST_CHECK int call_feed(struct call *c, const void *message, size_t len);

// The same, piece by piece, for a driver without a socket. call_deliver: false = nobody waits for that type (counted, dropped).
bool call_deliver(struct call *c, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len);
void call_breakin(struct call *c);
void call_breakin_cancel(struct call *c);
void call_resend(struct call *c);

#endif
