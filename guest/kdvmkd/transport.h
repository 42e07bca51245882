// SPDX-License-Identifier: MIT
// The KD transport: what KdSendPacket, KdReceivePacket and their relatives do, without NT types and without instructions that a
// user program may not execute.
//
// Rules
// - All state is in one struct, global to the machine: after a processor switch another CPU continues the dialogue.
// - The kernel's port lock serialises callers; polls come with the other CPUs running, everything else with them frozen. Any IRQL up
//   to HIGH_LEVEL, interrupts off. Nothing blocks for longer than the bounds below, except the waits that KD itself defines as endless,
//   and those return to the kernel (which calls again) at least once per RETRY_MAX turns or WAIT_SLICE_CYCLES.
// - An entry that finds another one under way (an exception inside the module, or a CPU that was frozen by an NMI in its poll)
//   is refused if it may be: polls say "no", droppable packets are dropped. What may not be refused waits STEAL_CYCLES and then takes
//   over: the registration is thrown away and made anew, and the interrupted entry, should it ever continue, works on
//   bounded positions only; the worst it can cause is one record that the host refuses.
//
// Life of the link
//
//              link_register                      answer REREGISTER, host words that cannot be,
//            answered CODE_OK                     silence, pages moved (then at once again)
//   no link ------------------> registered ------------------------------> no link
//      ^   about once a second,     | transport_sleep (D3, hibernate)
//      +--- from polls, sends and   v
//           waits               CALL_UNREGISTER
#ifndef GUEST_KDVMKD_TRANSPORT_H
#define GUEST_KDVMKD_TRANSPORT_H

#include "guest/kdvmkd/area.h"
#include "guest/kdvmkd/machine.h"
#include "wire/kdapi.h"

// ---- Bounds. Cycles are of a time stamp counter of unknown rate, 1 to 5 GHz in practice; the remarks say what 3 GHz makes of them.

#define SECOND_100NS 10000000ull          // InterruptTime is in 100 ns
#define SECOND_CYCLES 3000000000ull       // 1 s: where InterruptTime stands still
#define SECOND_CYCLES_MAX 12000000000ull  // 4 s: however slowly InterruptTime goes
// 200 ms for the host to read a doorbell byte: then it is not there. Paid once; while the byte stays unread nobody waits again.
// (A guess on the safe side: a host process on a busy machine can be late by tens of milliseconds. Not measured.)
#define RING_CYCLES 600000000ull
#define HELLO_CYCLES 600000000ull         // 200 ms for a registration: the host reads the guest's memory map first
#define REPLY_CYCLES 3000000000ull        // 1 s for an answer after the byte was read: the host is there, and maybe busy
#define REPLY_TURNS_MAX 10u               // of that, as long as the host takes something in each: a debugger that reads 16 lines a second
#define WAIT_SLICE_CYCLES 300000000ull    // 100 ms of a debugcon wait, then KdReceivePacket returns 1 and is called again
#define RELOAD_CYCLES 30000000ull         // 10 ms: how old a translation gets in calls and waits (link_debugcon.c)
#define STEAL_CYCLES 300000000ull         // 100 ms: no entry that still runs takes that long beside a frozen machine
#define SPIN_MAX 2000000u                 // turns of any of these spins where the counter stands still
#define RETRY_MAX 1000u                   // repetitions of a call answered RETRY within one entry
#define REGISTER_TURNS_MAX 3u             // registrations within one entry
#define REFUSALS_MAX 3u                   // answers in a row that end the registration: then give up what is in the ring
#define REFUSED_SECONDS 10u               // between probes of a host that refuses the area
#define VERSION_SECONDS 30u               // between probes of a host that speaks another version
#define SLEEP_SECONDS 10u                 // after transport_sleep, if nobody ever calls transport_wake
#define SILENT_CALLS_MAX 3u               // calls without an answer, mostly heartbeats: then register again
#define SILENT_WAIT_SECONDS 8u            // seconds of a wait whose doorbell nobody reads: then register again
#define PRINT_CALM_100NS 400000ull        // 40 ms without a print (three ticks at 64 Hz): what was printed is collected
#define PHASE1_SECONDS 120u               // after which boot counts as over although the kernel never said so

enum link_kind { LINK_NONE = 0, LINK_PORTCALL, LINK_DEBUGCON };

// ---- Packets and outcomes -----------------------------------------------------------------------

// The packet type that KdReceivePacket's poll passes; it is never on the wire (KD reference, section 2.6).
#define KD_POLL_BREAKIN 8u

// What the kernel hands to KdSendPacket. All borrowed.
struct send_packet {
	uint32_t kd_type;
	const void *hdr;
	uint16_t hdr_len;
	const void *data; // NULL if data_len is 0
	uint16_t data_len;
};

// Where KdReceivePacket's caller wants the packet. hdr_size bytes of header are always filled; data_len is set on success.
struct receive_buffer {
	void *hdr;
	uint16_t hdr_size;
	void *data; // NULL if data_size is 0
	uint16_t data_size;
	uint16_t data_len;
};

// Codes of KdReceivePacket (KD reference, section 2.4).
enum receive_code { RECEIVE_OK = 0, RECEIVE_TIMEOUT = 1, RECEIVE_RESEND = 2 };

struct transport {
	volatile uint32_t is_free; // 1: nobody is inside; taken with order_take. Must be 1 before the first entry
	const struct machine *machine; // borrowed for the current entry
	void *ctx;
	struct area area;

	// The link
	enum link_kind link;       // LINK_NONE: not registered
	enum link_kind asked;      // to whom the CALL_REGISTER in the head went, while it is unanswered
	bool is_open;              // the call in the head has no final answer yet: the same one continues it
	uint32_t open_fn, open_flags, open_want;
	uint64_t reload_cycles;    // debugcon: when translations were reloaded last
	uint32_t rung_seq;         // debugcon: call_seq for which a doorbell is or was under way
	uint32_t ring_seq;         // debugcon: as area_head.ring_seq
	uint32_t hello_count;      // debugcon: hellos since the last answer
	uint32_t features;         // accepted by the host
	uint32_t quiet_seconds;    // no probes for so long
	bool is_asleep;            // unregistered by transport_sleep: a packet that comes all the same wakes the link
	uint32_t silent_count;     // calls, or seconds of a wait, without an answer
	uint32_t refusal_count;    // calls in a row that ended in a new registration
	bool is_nobody;            // the last answer was NOBODY, or there was none

	// Once a second
	uint64_t second_time, second_cycles;
	uint32_t boot_seconds;

	// The dialogue
	bool is_phase1;
	bool is_droppable_wait;    // what the kernel now waits for follows a packet that may be dropped
	bool has_question;         // the newest record is one that the kernel sends again after RECEIVE_RESEND
	uint32_t question_start;   // its position in the transmit ring
	bool is_print_poll;        // the next poll may be the one that follows each print (KD reference, section 2.6), no clock tick
	uint64_t print_time;       // InterruptTime of the last print
	bool is_print_due;         // the first one after a calm: the next tick shows it
	bool is_breakin_late;      // BREAKIN was the answer to a poll that had already been given up
	uint8_t body[RECORD_BODY_MAX];
};

// Every exported function begins with this: `t` is the module's one state, `memory` AREA_PAGES pages. All three may
// have moved since the last entry.
void transport_bind(struct transport *t, const struct machine *machine, void *ctx, uint8_t *memory);

// KdDebuggerInitialize0 and KdInitialize(0): try to register. There is no failure; without a link the kernel is told that no
// debugger is present. Legal again at any time.
void transport_start(struct transport *t);

// KdDebuggerInitialize1 and later phases: polls need no port call from now on. The first call notes whether a broker listened (GUEST_BOOTED_ALONE).
void transport_phase1(struct transport *t);

// In place of both, before transport_start, for a module that joins a kernel which is up: boot is over. is_alone: as far as is known it
// saw no debugger when it decided whether to guard its code (GUEST_BOOTED_ALONE).
void transport_join(struct transport *t, bool is_alone);

// What is in the transmit ring is collected now, where there is a link.
void transport_flush(struct transport *t);

// Before the machine sleeps: the host forgets the area. A kernel that goes on sending (while it writes its hibernation
// image) registers it anew by that. After the machine has woken: register anew, also where memory
// came back from an image that is older than what the host remembers.
void transport_sleep(struct transport *t);
void transport_wake(struct transport *t);

// A power change of unknown kind: the next poll makes a call, whose answer shows whether the registration has survived.
void transport_suspect(struct transport *t);

// KdSendPacket. On return the packet is on its way (in the ring, guaranteed unless the machine dies) or has been dropped
// as KD reference 1.9 allows; in the latter case the kernel has been told that no debugger is present.
void transport_send(struct transport *t, const struct send_packet *packet);

// KdReceivePacket for a type other than 8. -> enum receive_code.
uint32_t transport_receive(struct transport *t, uint32_t want, struct receive_buffer *buffer);

// KdReceivePacket(8). True exactly once per break-in.
bool transport_poll(struct transport *t);

// ---- Between the files of the module -----------------------------------------------------------------

// An answer that no host gives: there was none.
#define CODE_SILENT 0x100u

// transport.c. enter: false if another entry is under way. enter_by_force always succeeds.
bool transport_enter(struct transport *t);
void transport_enter_by_force(struct transport *t);
void transport_leave(struct transport *t);
void transport_set_present(struct transport *t, bool is_present);
// True about once a second, whatever the rate of calls and whichever clock goes.
bool transport_second(struct transport *t);
// The host has just heard from us: the next second begins now.
void transport_second_begins(struct transport *t);

// link.c
// One registration by whichever way is there. -> true: registered.
bool link_register(struct transport *t);
// The same, but only if a second has passed and nothing speaks against it.
bool link_probe(struct transport *t);
// The same for a packet or a wait, which also end a sleep.
bool link_find(struct transport *t);
// True if a call can be made: registered, at the pages where the module is now.
bool link_ready(struct transport *t);
void link_lose(struct transport *t);
// Make a call, with everything that belongs to it: repetition, registering again (not for CALL_F_WAIT), the host's positions.
// -> enum call_code without RETRY, or CODE_SILENT.
uint32_t link_call(struct transport *t, uint32_t fn, uint32_t flags, uint32_t want);

// link_portcall.c: the call in the head, made once. -> enum call_code or CODE_SILENT.
uint32_t portcall_call(struct transport *t, uint32_t fn);

// link_debugcon.c
bool debugcon_is_there(struct transport *t);
// Announce the head. -> enum call_code, CODE_SILENT (also: too many hellos without an answer).
uint32_t debugcon_hello(struct transport *t);
// The call in the head, made or continued. -> enum call_code, CODE_SILENT.
uint32_t debugcon_call(struct transport *t, bool is_wait);
// An answer that came after the call had been given up. -> enum call_code, CODE_SILENT.
uint32_t debugcon_late_answer(struct transport *t);
bool debugcon_is_bell_read(const struct transport *t);

// send.c: take the newest question back out of the ring, because the kernel is about to send it again.
void send_withdraw_question(struct transport *t);

#endif
