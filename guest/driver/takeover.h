// SPDX-License-Identifier: MIT
// Take a running kernel's KD transport over, and give it back: the order of things, what each failure undoes, and what the user is told.
// NT and what only a kernel may do stand behind a table, so that the host's tests let every step fail.
//
//   look      facts and addresses; nothing is changed
//   prepare   memory for the shared area, the host is asked to register it: from here on a failure is told to the host as well
//   map       writable aliases of the kernel's two table entries
//   exchange  all processors held: both entries change, or none does
//   prove     the kernel polls at each clock tick: its first call of ours is the proof that it calls through its table
//
// Rules: PASSIVE_LEVEL, one thread; only takeover_send and takeover_receive come from the kernel at any IRQL, and only while it is
// redirected. No code of the kernel is changed. The old transport is not told of anything: it goes on where it was.
#ifndef GUEST_DRIVER_TAKEOVER_H
#define GUEST_DRIVER_TAKEOVER_H

#include "guest/driver/events.h"
#include "guest/driver/finder.h"
#include "guest/kdvmkd/packets.h"

enum event {
	EVENT_NONE,
#define EVENT_NAME(name, severity, number, status, text) EVENT_##name,
	EVENTS(EVENT_NAME)
#undef EVENT_NAME
};

#define TAKEOVER_REGISTER_TURNS 3u   // a debugcon host reads its memory map first and may be late once
#define TAKEOVER_REGISTER_MS 100u
#define TAKEOVER_PROOF_TURNS 200u    // of 10 ms: a clock that ticks is one that polls
#define TAKEOVER_PROOF_MS 10u
#define TAKEOVER_WAIT_MS 200u        // between attempts to give back
#define TAKEOVER_STOP_TURNS 100u     // of 10 ms: for the stop of a break-in that the kernel has been told of; it may have dropped it
#define TAKEOVER_STOP_MS 10u
#define TAKEOVER_WAIT_TOLD 5u        // attempts in vain, then the event log says why
#define TAKEOVER_LIST_TURNS 4u       // modules may be loaded while their list is asked for
#define TAKEOVER_LIST_MAX (4u << 20) // bytes; 14000 modules

enum takeover_memory { TAKEOVER_BLOCK, TAKEOVER_POOL };

struct takeover_facts {
	bool is_debugged; // booted with /debug
	bool is_absent;   // the kernel sees no debugger now
	bool is_guarded;  // of a kind that guards its code when it boots without a debugger: x64
	bool is_forced;   // the user takes that upon himself
	bool has_hvci;
	bool has_groups;  // of processors: more than HOLD_PROCESSORS_MAX of them
};

struct takeover_system {
	void (*facts)(void *ctx, struct takeover_facts *ret);
	// TAKEOVER_BLOCK: contiguous. Both page-aligned from a page on. NULL: there is none.
	void *(*allocate)(void *ctx, enum takeover_memory kind, size_t bytes);
	void (*release)(void *ctx, enum takeover_memory kind, void *memory);
	// The list of modules, as much of it as fits. -> 0, STATUS_INFO_LENGTH_MISMATCH (*ret_bytes says what it needs), or another failure.
	int32_t (*modules)(void *ctx, void *buffer, uint32_t bytes, uint32_t *ret_bytes);
	const void *(*kernel)(void *ctx); // an address inside it
	peimage_is_mapped is_mapped;
	// A second, writable address of the entry; NULL: there is none. Lives until unmap.
	void *volatile *(*map)(void *ctx, void *volatile *entry);
	void (*unmap)(void *ctx, void *volatile *alias);
	// deed(arg) once with every processor held (hold.h). false: not done. No processor is inside hold_enter afterwards.
	bool (*hold)(void *ctx, void (*deed)(void *arg), void *arg);
	void (*sleep)(void *ctx, uint32_t ms);
	// What the kernel is told of a debugger: remember it, tell it, put back what was remembered. Also with processors held.
	void (*keep_presence)(void *ctx);
	void (*set_presence)(void *ctx, bool is_present);
	void (*restore_presence)(void *ctx);
	void (*log)(void *ctx, enum event event, int32_t status);
	// The kernel prints a line through the transport that it has. text: no percent signs.
	void (*print)(void *ctx, const char *text);
	void *function[FINDER_FUNCTIONS]; // what the kernel shall call
};

struct takeover {
	const struct takeover_system *system;
	void *ctx;
	const struct machine *machine; // of the transport; its set_present calls takeover_set_presence
	void *machine_ctx;
	void *block; // area and transport; NULL: no memory
	enum takeover_memory block_kind;
	struct transport *transport;
	struct finding found;
	void *volatile *alias[FINDER_FUNCTIONS];
	bool is_redirected;
	bool is_exchanged; // outcome of the last deed
	bool is_present;   // what the transport last said
	volatile uint32_t receives; // calls by the kernel
	// The kernel was told of a break-in and has not reported its stop: that stop is for this transport, nobody waits for it at the old one.
	volatile bool owes_stop;
	bool waits_for_stop; // and giving back waits for it
};

// *t zeroed before; everything is borrowed until takeover_stop.
void takeover_init(struct takeover *t, const struct takeover_system *system, void *ctx, const struct machine *machine, void *machine_ctx);

// -> STATUS_SUCCESS: the kernel's packets go through vmkd. Otherwise the status of the failure (events.h), which has been logged and, where
// there is a host, told to it; then everything is as it was and nothing is left allocated.
int32_t takeover_start(struct takeover *t);

// After a successful start: everything as it was. Waits, without end, while the entries are not ours: somebody who redirected after us calls us.
void takeover_stop(struct takeover *t);

// For `machine`: remembered until the exchange, passed on from then on.
void takeover_set_presence(struct takeover *t, bool is_present);

// The kernel's calls.
void takeover_send(struct takeover *t, uint32_t type, const struct nt_string *hdr, const struct nt_string *data);
uint32_t takeover_receive(struct takeover *t, uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len);

// Of an event: the status that it fails with, the text, and the number in the message table.
int32_t takeover_status(enum event event);
const char *takeover_text(enum event event);
uint32_t takeover_number(enum event event);

#endif
