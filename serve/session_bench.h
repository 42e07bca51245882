// SPDX-License-Identifier: MIT
// A bench for conversations with the session: each step is an event, and the actions it must cause, as one line of text.
//
// Actions: deliver(TYPE api) '+' when it resumes; breakin; cancel; resend; send(TYPE first-u32); expect(TYPE); restart; forget;
// look(api): RAM is asked first; own(api), had(bytes): the broker's own question and what it got. Those towards another client than the first are led by its
// letter: b:send(...).
#ifndef SERVE_SESSION_BENCH_H
#define SERVE_SESSION_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "serve/session_private.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define BENCH_CLIENTS 80u

struct bench_client {
	struct session_client *c; // NULL = not there
	bool is_flying;
};

extern struct session s;
extern struct bench_client clients[BENCH_CLIENTS];
extern uint8_t last_body[SESSION_BODY_MAX]; // of the last packet to anybody
extern uint32_t last_len, guest_seq;
extern uint32_t ram_knows;     // this request can be answered without the guest
extern uint32_t own_questions; // so many reads the broker itself will ask at the next stop

// Setup and teardown of each test: no guest, no client; whoever is left leaves.
int bench_setup(void **state);
int bench_teardown(void **state);
// What was done since the last look.
void did(const char *expected);
void did_whatever(void);

// ---- Events of the guest; each packet has the next number, and comes with its wait ----
// A kernel starts.
void boot(void);
void boot_and_stop(void);
void guest_packet(uint16_t type, const uint8_t *body, uint32_t len, uint16_t waits);
// waits 0: it says so later.
void guest_state(uint32_t new_state, bool unload, uint64_t base, uint16_t waits);
void guest_stops(void);
void guest_stops_at(uint64_t pc);
void guest_loads(void);
void guest_loads_at(uint64_t base);
void guest_prints(const char *text);
// A prompt or file request.
void guest_asks(uint16_t type, uint32_t api);
void guest_replies(uint32_t api);

// ---- Events of client n ----
// With a RESET, as they all do.
void client_comes(unsigned n);
// Without.
void client_appears(unsigned n);
void client_leaves(unsigned n);
void client_asks(unsigned n, uint32_t api);
void client_acks(unsigned n);

// ---- In short ----
enum { A, B, C };
// Of the last packet to anybody, as a reply; as a print.
uint32_t last_status(void);
void assert_last_text(const char *text);
// So many clients, and all know the stop.
void stopped_with(unsigned count);
// a has let the guest run, b sits at the stop.
void running_with_b_at_stop(void);
// Everybody waits for the next stop.
void running_with(unsigned count);

#endif
