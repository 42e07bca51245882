// SPDX-License-Identifier: MIT
// What serve/session.c (the guest, the requests), serve/session_client.c (what waits for one client) and serve/session_control.c have between them.
//
// One client is told things in the order in which they happened. Prints and stops stand in its queue; at a stop the queue waits until the client goes on,
// and only replies pass:
//
//   guest:   print  load A  print  exception  (the controller continues)  load B
//   client:  print  load A                       at A, reads, thinks ...
//            queue: print, exception, load B     Continue -> print, exception      at the exception, though the guest runs
//                                                Continue -> load B
#ifndef SERVE_SESSION_PRIVATE_H
#define SERVE_SESSION_PRIVATE_H

#include "serve/session.h"
#include "wire/kdapi.h"

// DBGKD_ANY_WAIT_STATE_CHANGE (KD reference, sections 3.1 and 3.3): the few fields that decide what is done with it.
#define STATE_OFFSET_NEW_STATE 0x00u
#define STATE_OFFSET_PROCESSOR 0x06u
#define STATE_OFFSET_BASE 0x28u
#define STATE_OFFSET_UNLOAD 0x40u
// DBGKD_MANIPULATE_STATE64 (KD reference, section 4.1).
#define MANIPULATE_OFFSET_PROCESSOR 0x06u
#define MANIPULATE_OFFSET_STATUS 0x08u
#define MANIPULATE_OFFSET_UNION 0x10u
// In the union: memory.actual_bytes, and DBGKD_CONTINUE.ContinueStatus.
#define MANIPULATE_OFFSET_ACTUAL 0x1Cu
// DBGKD_DEBUG_IO (KD reference, section 5.1).
#define DEBUG_IO_OFFSET_LENGTH 0x08u
// DBGKD_FILE_IO (KD reference, section 5.2).
#define FILE_OFFSET_STATUS 0x04u
// DBGKD_CONTROL_REQUEST: the answer.
#define CONTROL_OFFSET_ANSWER 0x08u

enum session_item_kind { ITEM_PRINT, ITEM_STOP, ITEM_REPLY, ITEM_NOTICE, ITEM_RESTART };

// One packet that waits for the client. STOP: a state change, prompt or file request. RESTART has no body.
struct session_item {
	struct session_item *next;
	enum session_item_kind kind;
	uint32_t stop; // STOP: its number; PRINT: of the prompt that it is the text of; 0 = none
	uint16_t kd_type;
	uint32_t body_len;
	uint8_t body[];
};

struct session_client {
	struct session_client *next;
	struct session *session;
	void *closure;
	bool is_gone; // it has left; a request that was accepted from it is still to be executed

	// what it knows
	uint16_t believes; // the type that it may send: it was told a stop, prompt or file request; 0 = it waits for one
	uint32_t told;     // number of the last stop it was told; 0 = none
	uint32_t shown;    // of the last prompt that was put to another, and is text to it; 0 = none
	uint16_t expected; // what ops.client_expect was told last
	bool is_deaf;      // it gave no ACK through all retries: like no client, until it says something
	bool is_refusal_told; // that its break-ins go nowhere

	// on the way to it
	bool is_in_flight;
	enum session_item_kind in_flight_kind;
	struct session_item *reply; // NULL = none waits
	struct session_item *queue, **queue_end;
	size_t queue_len;      // bytes of bodies
	bool is_greeting_due;  // the queue waits for its RESET, or for SESSION_GREETING_MS
	bool is_greeting_timed;
	uint64_t greeting_at_ms;
	bool is_notice_open;   // it was given a reboot notice and has not continued
	bool is_notice_timed;
	uint64_t notice_until_ms;

	// from it
	struct session_packet pending; // accepted, not delivered yet
	bool is_pending_wanted;        // the reply; not of a client that has left or resynchronised
	struct session_client *next_pending;
	struct breakpoints_client breakpoints;
	uint32_t asks; // for control: its turn, 0 = it does not
};

// ---- The kinds of packets -------------------------------------------------------------------------------
// Which type of packet answers this one of the guest; 0 = none, it goes on by itself.
uint16_t session_type_that_answers(uint16_t kd_type, const uint8_t *body);
bool session_is_load_event(uint16_t kd_type, const uint8_t *body);
// The guest waits on something, and nobody's accepted answer to it is on its way.
bool session_has_current(const struct session *s);

// ---- serve/session_client.c -------------------------------------------------------------------------------
// Send what may be sent, and say what is expected. After every change of what the functions below leave to the caller.
void client_pump(struct session_client *c);
void client_clear(struct session_client *c); // forget all that waits

// At once when nothing waits before it; nothing to a client that has left.
void client_give_print(struct session_client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len);
// Past everything else that waits.
void client_give_reply(struct session_client *c, const uint8_t *body, uint32_t body_len);
// Of a request without a reply: nothing.
void client_give_failure(struct session_client *c, const uint8_t *request, uint32_t status);
// `current`, if it is for this client and does not wait for it already.
void client_give_current(struct session_client *c);
// The boot that it knew is gone: nothing of it is told any more but its prints, then the notice (unless it knows), then everything starts anew.
void client_give_loss(struct session_client *c, bool is_known);
// What the guest printed before; each between two lines of ours. Nothing without text.
void client_give_history(struct session_client *c, const uint8_t *text, size_t len);
// Its answer to the stop that it was told has been taken: it waits for the next, and is told that if there is one.
void client_goes_on(struct session_client *c);
// Prompts and file requests that wait for it are nobody's any more.
void client_drop_questions(struct session_client *c);
void client_answer_for_the_dead(struct session_client *c, const uint8_t *body);
void client_timer(struct session_client *c, uint64_t now_ms);
uint64_t client_deadline(const struct session_client *c);

// ---- serve/session.c ----------------------------------------------------------------------------------------
// The guest waits, or control has changed hands: give the guest what there is for it.
void session_settle(struct session *s);

// ---- serve/session_control.c ----------------------------------------------------------------------------------
// Control is free, and c does something that needs it, or has just come.
void control_take_free(struct session_client *c);
void control_left(struct session_client *c);
// A break-in of an observer.
void control_refuse_breakin(struct session_client *c);

#endif
