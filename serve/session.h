// SPDX-License-Identifier: MIT
// What stands between one guest and its debuggers: which packets the guest waits for, what a client that comes, resynchronises or leaves is
// told, who may change the machine, and what happens while nobody may. Sans I/O: events in through the functions below, actions out through
// struct session_ops, time passed in.
//
//   guest (struct guest_link)  --session_guest_*-->  session  --ops.client_*-->  clients (KDCOM, role target)
//                              <----ops.guest_*----           <--session_client_*-
//
// The guest's view                             what it is given
//   NO_GUEST   no module is registered         nothing; a break-in is kept for the module's arrival
//   RUNNING                                    a break-in of the controller
//   STOPPED    waits for type 2 after a state change   requests, one at a time, in the order in which they came
//   PROMPT     waits for type 3                the controller's answer
//   FILE       waits for type 11               the controller's answer
//
// Control. At most one client is the controller; the others observe. Who comes while control is free has it; so has the first observer
// that does something which needs it while it is free. It is passed on by session_control_take and _give; when its holder leaves, it goes to who asked for it first, or is free.
//   the controller   everything
//   an observer      reads (memory, registers, version) while the guest is stopped. The rest (serve/session_rights.h: writes, breakpoints, ports, ...) fails at
//                    once with KD_STATUS_ACCESS_DENIED (SwitchProcessor, too, whose success has no reply); what has no reply is dropped. Who sends a
//                    crash or reboot waits for a state change: it is given the present one again. RestoreBreakPoint succeeds without effect: WinDbg
//                    restores 1 to 32 when it connects. A break-in is answered by one line that somebody else has control.
//                    Prompts are shown as prints, file requests not at all.
// What a client knows. KDCOM tells a debugger of a stop only when that waits for one, so every client is at a stop, or waits. Its Continue, Continue2 lets
// the guest run only if it is the controller's and the stop it was told is the present one. Otherwise it is answered by the next stop, or at once when one
// has happened since: module loads and unloads all of them in order, of the other stops the latest. While the guest runs, the reads of a client that believes in a
// stop fail at once with KD_STATUS_UNSUCCESSFUL; so do changes of registers by a controller that was told another stop. Prints wait for a client that is at a stop until it goes on, as a stopped target prints nothing.
// Without a controller the session continues module loads and refuses file requests by itself, observers or not; other stops wait for one.
//
// Breakpoint handles are virtual per client (serve/breakpoints.h). Those of a client that has left are taken out of the kernel by the session itself when
// the guest is stopped next.
//
// The state change, prompt or file request that the guest waits on is kept (`current`), so a client that comes, sends RESET or
// RESEND gets it again without a word to the guest. One that comes is told the last lines of DbgPrint first.
//
// Another time of this guest. A record.seq at or below the last one's is a snapshot that was loaded: everything as after a reset. A guest that was
// stopped, lost its registration and does not come back to its wait within SESSION_RETURN_MS runs in another time: so for it.
//
// What a kernel drops after 20 retries, since nobody listens (KD reference, section 1.9: prints, module loads, the first file request), is
// treated so for a client, too: one that does not read delays a boot by 10 s, not for ever.
//
// Rules: one thread; ops must not call back into the session, but for session_history_complete in own_request and own_reply. Packets accepted from a client are executed exactly once, even if the client
// leaves (but reads that nobody would hear of); replies go to the client that asked or to nobody. Memory is bounded: SESSION_CLIENTS_MAX clients, SESSION_QUEUE_MAX bytes wait for each
// slow one, then the oldest prints are dropped and counted, after them the oldest module loads. Bodies come from the guest or from a client and are never trusted to
// be longer than body_len says.
#ifndef SERVE_SESSION_H
#define SERVE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serve/breakpoints.h"
#include "util/buf.h"
#include "wire/link.h"

#define SESSION_BODY_MAX LINK_BODY_MAX
#define SESSION_CLIENTS_MAX 64u // KDCOM streams on one VM; one more is turned away
// About 3000 debug prints of 64 bytes: minutes of a chatty boot, and nothing that a host notices.
#define SESSION_QUEUE_MAX (256u * 1024u)
// Above FULL the guest is asked to hold back, until there is less than RESUME: a client that reads loses nothing.
#define SESSION_QUEUE_FULL (SESSION_QUEUE_MAX / 2)
#define SESSION_QUEUE_RESUME (SESSION_QUEUE_FULL - 1024u)
#define SESSION_HISTORY_MAX (64u * 1024u) // DbgPrint text kept for people
#define SESSION_HISTORY_TOLD (8u * 1024u) // of which a client that comes is told the last whole lines
// How long the client may think about a reboot notice before the new boot's packets follow. Only a client that ignores
// the notice ever waits so long.
#define SESSION_NOTICE_MS 3000u
// A new client of a stopped guest is given so long to send its RESET, as all known debuggers do at first; the state change then follows
// with ids that both agree on. Sent at once it would cross the RESET, and its acknowledgement would be taken for the repetition's.
#define SESSION_GREETING_MS 100u
// A request that the guest lost (it registered anew before taking it) is given to it so often.
#define SESSION_REDELIVER_MAX 3u
// A module that has to register anew in the midst of a wait does so in milliseconds, and sends its report again.
#define SESSION_RETURN_MS 3000u

enum session_state { SESSION_NO_GUEST, SESSION_RUNNING, SESSION_STOPPED, SESSION_PROMPT, SESSION_FILE };

struct session_client; // one debugger; private to the session

struct session_ops {
	// Towards the guest; arg: of session_init. All of them only note what to do and cannot fail: a link that is gone will say so.
	void (*guest_deliver)(void *arg, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes);
	void (*guest_breakin)(void *arg);
	void (*guest_breakin_cancel)(void *arg);
	void (*guest_resend)(void *arg);
	// Can this request, which the waiting guest would be given now, be answered without it (serve/answers.h)? -> true: with *ret, *ret_len bytes,
	// valid until the next op. NULL: nothing can.
	bool (*answer)(void *arg, const uint8_t *body, uint32_t body_len, const uint8_t **ret, uint32_t *ret_len);
	// The broker's own questions (serve/print_buffer.h), asked when the guest has stopped and before anybody is told of the stop. own_request: -> the length of
	// the next request, written to body (SESSION_BODY_MAX bytes), 0 = no more. own_reply: what came; body_len 0 = it cannot be had. Only read
	// requests, and GetVersion. NULL, NULL: the broker has none.
	uint32_t (*own_request)(void *arg, uint8_t *body);
	void (*own_reply)(void *arg, const uint8_t *body, uint32_t body_len);
	// Towards one client; closure: of session_client_came. send: body is copied; afterwards the packet is in flight until session_client_sent or _given_up.
	void (*client_send)(void *closure, uint16_t kd_type, const uint8_t *body, uint32_t body_len, bool is_droppable);
	void (*client_expect)(void *closure, uint16_t kd_type); // accept packets of this type only; 0 = none
	void (*client_restart)(void *closure);                  // ids as after a boot (SYNC)
	void (*client_cancel)(void *closure);                   // forget the packet in flight, right after a RESET
};

struct session_counters {
	uint64_t guest_packets, guest_bytes;   // taken from the guest, bytes of bodies
	uint64_t client_packets, client_bytes; // accepted from clients
	uint64_t prints;                       // debug prints of the guest
	uint64_t prints_dropped;               // because a client did not read them
	uint64_t continued;                    // load events that the broker continued, nobody being there
	uint64_t files_refused;                // file requests that the broker failed, nobody being there
	uint64_t replies_dropped;              // answers to a request whose client had gone
	uint64_t requests_refused;             // client packets that fit no state of the guest, or are too short
	uint64_t requests_repeated;            // requests the guest lost and was given again
	uint64_t guest_refused;                // guest packets that cannot be
	uint64_t breakins;                     // asked for by clients
	uint64_t boots;                        // fresh starts of a guest
	uint64_t reverts;                      // snapshots that were loaded
	uint64_t denied;                       // what needs control, from clients that do not have it
	uint64_t events_dropped;               // module loads that a client at a stop will not hear of, for lack of room
};

struct session_packet {
	uint16_t kd_type; // 0 = there is none
	uint16_t hdr_len;
	uint32_t body_len;
	uint8_t body[SESSION_BODY_MAX];
};

struct session {
	const struct session_ops *ops;
	void *arg;

	// the guest
	bool is_registered;
	bool has_boot;                 // a kernel was seen since the last reset
	uint16_t guest_want;           // KD type it waits for this moment; 0 = it does not wait
	bool is_resend_sent;           // the state change was asked for
	uint32_t last_seq;             // record.seq of the last packet; 0 = none
	bool may_begin_anew;           // session_guest_joined, and no packet since
	struct session_packet current; // what the guest waits on
	uint32_t stop;                 // number of `current`, or of the last one: 1, 2, ...
	bool is_announced;             // the clients were told of `current`
	uint32_t farewell;             // the stop in which it said that it reboots, 0 = it did not
	struct session_client *reboot_by; // who asked for a reboot, and needs not be told of it
	bool is_wait_doubtful, is_doubt_timed; // it has lost its registration while it waited
	uint64_t doubt_until_ms;
	uint32_t breakins_sent; // and neither taken nor cancelled; of two together the guest may take one
	bool is_breakin_kept; // asked for while there was no guest
	struct session_client *breakin_by; // NULL = it has left

	// requests
	struct session_client *pending, **pending_end; // whose accepted requests wait for their turn
	bool is_current_answered;     // one of them lets the guest run: `current` is past for the clients
	struct session_packet asked;  // delivered and not answered: kd_type 2
	struct session_client *asked_by; // NULL = it has left, or the broker itself
	bool is_asked_own, is_asked_wanted; // the answer goes to ops.own_reply; to asked_by
	uint32_t asked_tries;
	struct session_packet own;    // ops.own_request's next, before the stop is announced; kd_type 0 = none
	struct breakpoints breakpoints;

	struct session_client *clients; // in the order in which they came
	uint32_t client_count;
	struct session_client *controller; // NULL = control is free
	uint32_t control_asked;            // times that somebody asked for it

	struct buf history; // the last DbgPrint text
	struct session_counters counters;
};

// No guest, no client. ops and arg are borrowed. The struct must not move afterwards.
void session_init(struct session *s, const struct session_ops *ops, void *arg);
void session_deinit(struct session *s); // every client has left

// What `vmkd list` shows; never fails.
enum session_state session_state(const struct session *s);

// ---- From the guest's link ----------------------------------------------------------------------------
void session_guest_registered(struct session *s);
// In place of it, for a module that says at its registration that the kernel is up (GUEST_PHASE1). It may be one that has come into that kernel just now,
// and not for the first time (vmkd.sys): then its packets begin at 1, and the kernel is the one of before, with what was set there.
void session_guest_joined(struct session *s);
void session_guest_gone(struct session *s, enum link_gone reason);
// A KD packet. waits_for: the type the guest waits for from now on, 0 = it did not say. A seq at or below the last one's: a snapshot
// was loaded, and the clients are told as of a reset.
void session_guest_packet(struct session *s, uint32_t seq, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body,
			  uint32_t body_len, uint16_t waits_for);
// Without a packet: it has come (back) to its wait.
void session_guest_waits(struct session *s, uint16_t kd_type);
void session_guest_breakin_taken(struct session *s);

// ---- From a client --------------------------------------------------------------------------------------
// -> NULL: no memory, or SESSION_CLIENTS_MAX are there; nothing has changed. Else valid until session_client_left.
struct session_client *session_client_came(struct session *s, void *closure);
void session_client_left(struct session_client *c); // frees it
void session_client_packet(struct session_client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len);
void session_client_sent(struct session_client *c);     // the packet in flight was acknowledged
void session_client_given_up(struct session_client *c); // ... was not, through all retries (only what a target may drop)
void session_client_reset(struct session_client *c);   // it resynchronised; what is in flight will be repeated unless cancelled
void session_client_resend(struct session_client *c);  // it wants the state change again, nothing being in flight
void session_client_breakin(struct session_client *c);

// A request of this client is on its way and will be answered: an ACK may ride on that answer.
bool session_awaits_reply(const struct session_client *c);
// Something is on its way to a client that listens: packets that wait, or one that it has not acknowledged.
bool session_owes_client(const struct session_client *c);
// Bytes that wait for a client which has only to read them: 0 for one that is at a stop, where prints wait for its user.
size_t session_backlog(const struct session_client *c);
// "at a stop", "waits": what `vmkd list` shows of it.
bool session_is_at_stop(const struct session_client *c);

// ---- Control ------------------------------------------------------------------------------------------------
enum session_control {
	SESSION_CONTROL_TAKEN, // it has control now, or had it
	SESSION_CONTROL_HELD,  // somebody else has it, who acknowledges what it is told, and was told that this one asks
};
// It has asked for control and has not got it.
bool session_asks(const struct session_client *c);
// NULL = control is free.
struct session_client *session_controller(const struct session *s);
// is_forced: from whoever has it; that one is told in one line. A client that takes control while the guest is stopped and waits for a stop is told the stop.
enum session_control session_control_take(struct session_client *c, bool is_forced);
// From whoever has it to `to`; NULL: to who asked first, else it is free.
void session_control_give(struct session *s, struct session_client *to);

// ---- Words of ours -------------------------------------------------------------------------------------------
// Say one line to a client as a debug print. At most SESSION_BODY_MAX - 16 bytes are said.
void session_tell(struct session_client *c, const char *text);
void session_tell_all(struct session *s, const char *text);
// The kernel's own record of its prints up to now (serve/past.h), `len` bytes: the history is its first old_len bytes, then this. The clients that are there
// are told the first new_len bytes, which nobody has heard.
void session_history_complete(struct session *s, size_t old_len, const uint8_t *text, size_t len, size_t new_len);

// ---- Time -------------------------------------------------------------------------------------------------
void session_timer(struct session *s, uint64_t now_ms);
uint64_t session_deadline(const struct session *s); // 0 = call session_timer at once, UINT64_MAX = never

#endif
