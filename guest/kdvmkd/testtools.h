// SPDX-License-Identifier: MIT
// What the tests of the transport share: a module and a machine, and the packets a kernel sends.
#ifndef GUEST_KDVMKD_TESTTOOLS_H
#define GUEST_KDVMKD_TESTTOOLS_H

#include "guest/kdvmkd/fakehost.h"

#include <string.h>
#ifdef TESTTOOLS_FUZZ // a fuzzer dies where a unit test fails
#include <stdlib.h>
#define assert_true(condition) do { if (!(condition)) abort(); } while (0)
#define assert_false(condition) assert_true(!(condition))
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_int_not_equal(a, b) assert_true((a) != (b))
#else
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#endif

struct bench {
	struct fakehost h;
	struct transport t;
};

static struct bench bench; // too big for a stack, and only one at a time

static inline struct transport *enter(void)
{
	return fake_enter(&bench.h, &bench.t);
}

static inline void setup(bool has_hook, bool has_debugcon)
{
	fake_init(&bench.h);
	bench.h.has_hook = has_hook;
	bench.h.has_debugcon = has_debugcon;
	memset(&bench.t, 0, sizeof(bench.t));
	bench.t.is_free = 1;
}

static inline void start(bool has_hook, bool has_debugcon)
{
	setup(has_hook, has_debugcon);
	transport_start(enter());
	transport_phase1(enter());
}

static inline void send(uint32_t kd_type, uint32_t api, uint16_t hdr_len, uint16_t data_len)
{
	static uint8_t hdr[240], data[4000];
	memset(hdr, 0, sizeof(hdr));
	memcpy(hdr, &api, sizeof(api));
	struct send_packet p = { .kd_type = kd_type, .hdr = hdr, .hdr_len = hdr_len, .data = data, .data_len = data_len };
	transport_send(enter(), &p);
}

// The kernel polls after each print (KD reference, section 2.6).
static inline void send_print(uint16_t len)
{
	send(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, KD_DEBUG_IO_SIZE, len);
	(void)transport_poll(enter()); // whether it finds a break-in is the caller's next poll's to say
}
static inline void send_load(void) { send(KD_PACKET_STATE_CHANGE, KD_STATE_LOAD_SYMBOLS, KD_STATE_CHANGE_SIZE, 20); }
static inline void send_exception(void) { send(KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, KD_STATE_CHANGE_SIZE, 4); }
static inline void send_reply(uint16_t len) { send(KD_PACKET_MANIPULATE, 0x3130, KD_MANIPULATE_SIZE, len); }

static uint8_t received_hdr[KD_MANIPULATE_SIZE], received_data[4096];
static uint16_t received_len;

static inline uint32_t receive(void)
{
	struct receive_buffer b = { .hdr = received_hdr, .hdr_size = sizeof(received_hdr), .data = received_data,
	                            .data_size = sizeof(received_data) };
	uint32_t code = transport_receive(enter(), KD_PACKET_MANIPULATE, &b);
	received_len = b.data_len;
	return code;
}

static inline bool poll(void) { return transport_poll(enter()); }

static inline void pass_calm(void) { bench.h.interrupt_time += PRINT_CALM_100NS; }
static inline void pass_second(void) { bench.h.interrupt_time += SECOND_100NS; }

static inline void queue_request(uint8_t mark, uint32_t data_len)
{
	uint8_t body[KD_BODY_MAX];
	memset(body, mark, sizeof(body));
	fake_queue(&bench.h, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, body, KD_MANIPULATE_SIZE + data_len);
}

// Everything that a kernel and a debugger do works: a stop, a request, its answer, a print, a break-in.
static inline void assert_works(void)
{
	struct fakehost *h = &bench.h;
	h->tamper = NULL;
	h->script_at = h->script_count = 0;
	h->has_broker = true;
	h->queue_count = 0;
	if (bench.t.link == LINK_DEBUGCON && bench.t.is_open)
		fake_head(h)->attention |= ATTENTION_CALL; // a call got lost in the host; its successor asks for another
	for (uint32_t i = 0; i < 40 && bench.t.link == LINK_NONE; i++) {
		pass_second();
		(void)poll(); // whether it finds a break-in is not the question yet
	}
	assert_int_not_equal(bench.t.link, LINK_NONE);
	uint32_t got = h->got_count;
	uint32_t code = RECEIVE_RESEND;
	// What went before may cost turns, as the kernel makes them: one for each torn record in the ring, which holds so many exceptions.
	for (uint32_t i = 0; i < AREA_TX_PAGES * AREA_PAGE_PAYLOAD / KD_STATE_CHANGE_SIZE && code != RECEIVE_OK; i++) {
		if (code == RECEIVE_RESEND)
			send_exception();
		h->queue_count = 0;
		queue_request(0x5A, 100);
		code = receive();
	}
	assert_int_equal(code, RECEIVE_OK);
	assert_int_equal(received_hdr[0], 0x5A);
	assert_int_equal(received_len, 100);
	uint32_t refused = bench.t.area.refused;
	send_reply(60);
	queue_request(0x5B, 0);
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(received_hdr[0], 0x5B);
	assert_int_equal(h->got[(h->got_count - 1) % FAKE_GOT_MAX].kd_type, KD_PACKET_MANIPULATE);
	assert_true(h->got_count >= got + 2);
	send_print(64);
	pass_calm();
	(void)poll(); // collects
	assert_int_equal(h->got[(h->got_count - 1) % FAKE_GOT_MAX].kd_type, KD_PACKET_DEBUG_IO);
	h->is_breakin = true;
	pass_second();
	assert_true(poll());
	pass_second();
	assert_false(poll());
	assert_true(h->is_present);
	assert_int_equal(bench.t.area.refused, refused);
}

#endif
