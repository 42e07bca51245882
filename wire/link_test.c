// SPDX-License-Identifier: MIT
// Two ends of a lossy link in virtual time: every request is executed exactly once, every answer belongs to its request, every print arrives
// in order. Our debugger role against our target role, and against plain models of the stock target (KD reference,
// section 1.7), which are blocking code and therefore run on a stack of their own.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <cmocka.h>

#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"
#include "wire/selftest.h"

#define STOPS 5u
#define REQUESTS 6u // between two stops
#define PRINTS 3u   // before each stop
#define HANG_MS 3600000u

// ---- The wire ------------------------------------------------------------------------------------
#define PIPE_SIZE 65536u

struct pipe {
	uint8_t bytes[PIPE_SIZE];
	size_t read, written;
	uint8_t frame[KDCOM_FRAME_MAX]; // being written: faults happen to whole frames
	size_t frame_len;
	struct dice dice;
	uint32_t per_mille; // of each fault: lost, damaged; half as often: cut off, doubled
	bool may_double;
	unsigned faults;
};

static void pipe_put(struct pipe *p, const uint8_t *bytes, size_t len)
{
	assert_true(p->written + len <= PIPE_SIZE);
	memcpy(p->bytes + p->written, bytes, len);
	p->written += len;
}

static size_t pipe_have(const struct pipe *p)
{
	return p->written - p->read;
}

// A damaged header cannot be noticed (KD reference, section 1.2), so faults leave headers alone.
static void pipe_put_frame(struct pipe *p)
{
	size_t len = p->frame_len;
	uint32_t fault = dice_roll(&p->dice, 1000);
	if (p->read == p->written)
		p->read = p->written = 0;
	bool is_double = fault >= 2 * p->per_mille + p->per_mille / 2;
	if (fault >= 3 * p->per_mille || (is_double && !p->may_double)) {
		pipe_put(p, p->frame, len);
		return;
	}
	p->faults++;
	if (fault < p->per_mille)
		return;
	if (is_double)
		pipe_put(p, p->frame, len);
	else if (fault >= 2 * p->per_mille)
		len = 1 + dice_roll(&p->dice, (uint32_t)len);
	else if (len > KDCOM_HEAD)
		p->frame[KDCOM_HEAD + dice_roll(&p->dice, (uint32_t)len - KDCOM_HEAD)] ^= (uint8_t)(1u << dice_roll(&p->dice, 8));
	pipe_put(p, p->frame, len);
}

static size_t frame_size(const uint8_t *frame, size_t len)
{
	if (frame[0] == KDCOM_BREAKIN_BYTE)
		return 1;
	if (len < KDCOM_HEAD)
		return KDCOM_HEAD;
	return frame[0] == 0x69 ? KDCOM_HEAD : KDCOM_HEAD + get_le16(frame + 6) + 1u;
}

static void pipe_write(struct pipe *p, const uint8_t *bytes, size_t len)
{
	while (len--) {
		p->frame[p->frame_len++] = *bytes++;
		if (p->frame_len == frame_size(p->frame, p->frame_len)) {
			pipe_put_frame(p);
			p->frame_len = 0;
		}
	}
}

// ---- The world -----------------------------------------------------------------------------------
enum target_kind { OURS, STOCK_EXPECTED, STOCK_ANY };

static struct world {
	uint64_t now;
	struct pipe to_target, to_debugger;
	enum target_kind kind;
	const char *failure; // what went wrong first

	// the debugger's owner
	struct kdcom debugger;
	uint32_t stops_seen, requests_done, next_seq, answered_seq;
	bool is_stopped, is_asking;
	uint64_t quiet_since;
	uint32_t prints_seen;

	// the target's kernel
	uint32_t executed; // sequence number of the last request
	uint32_t stop;     // number of the present stop
} w;

static void went_wrong(const char *what)
{
	if (!w.failure)
		w.failure = what;
}

static bool is_done(void)
{
	return w.stops_seen == STOPS && !w.is_stopped && !kdcom_is_sending(&w.debugger);
}

// Bodies: API number, then a number that tells one packet from the next.
static void make_body(uint8_t *body, uint32_t type, uint32_t api, uint32_t n, uint32_t answer)
{
	memset(body, 0, KD_STATE_CHANGE_SIZE);
	put_le32(body, api);
	put_le32(body + 4, n);
	put_le32(body + 8, answer);
	memset(body + 12, 0x62, kd_header_size(type) - 12);
}

// ---- The debugger's owner ------------------------------------------------------------------------

static void debugger_send(uint32_t api, uint32_t flags)
{
	uint8_t body[KD_STATE_CHANGE_SIZE];
	make_body(body, KD_PACKET_MANIPULATE, api, w.next_seq, 0);
	if (kdcom_send(&w.debugger, KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE, NULL, 0, flags) != KDCOM_OK)
		went_wrong("the debugger cannot send");
}

// Next thing to do at a stop: a request, or the Continue that ends it.
static void debugger_next(void)
{
	if (!w.is_stopped || w.is_asking || kdcom_is_sending(&w.debugger))
		return;
	w.next_seq++;
	if (w.requests_done < REQUESTS) {
		w.is_asking = true;
		debugger_send(KD_API_READ_VIRTUAL, 0);
	} else {
		debugger_send(KD_API_CONTINUE2, KDCOM_SEND_CONTINUE);
		w.is_stopped = false;
	}
}

static void debugger_on_stop(uint32_t stop)
{
	// The same stop again: a refresh. While we think it runs: our Continue never arrived, so say it again.
	if (stop + 1 == w.stops_seen) {
		if (!w.is_stopped && !kdcom_is_sending(&w.debugger))
			debugger_send(KD_API_CONTINUE2, KDCOM_SEND_CONTINUE);
		return;
	}
	if (stop != w.stops_seen)
		went_wrong("a stop was skipped");
	w.stops_seen = stop + 1;
	w.is_stopped = true;
	w.is_asking = false;
	w.requests_done = 0;
}

static void debugger_on_packet(const struct kdcom_event *ev)
{
	uint32_t n = get_le32(ev->body + 4);
	if (ev->type == KD_PACKET_DEBUG_IO) {
		if (n != w.prints_seen && n + 1 != w.prints_seen)
			went_wrong("prints out of order");
		w.prints_seen = n + 1;
	} else if (ev->type == KD_PACKET_STATE_CHANGE) {
		debugger_on_stop(n);
	} else {
		if (!w.is_asking || n != w.next_seq || get_le32(ev->body + 8) != (n ^ 0xFFFF))
			went_wrong("an answer that belongs to another request");
		w.is_asking = false;
		w.requests_done++;
	}
}

static void debugger_on_event(const struct kdcom_event *ev)
{
	if (ev->kind == KDCOM_EV_PACKET)
		debugger_on_packet(ev);
	else if (ev->kind == KDCOM_EV_GIVEN_UP || ev->kind == KDCOM_EV_RESET)
		went_wrong(kdcom_event_name(ev->kind));
}

// What a user does when a target says nothing for long: break in.
static void debugger_impatience(void)
{
	if (w.now < w.quiet_since + 20000 || is_done())
		return;
	w.quiet_since = w.now;
	if (kdcom_send_breakin(&w.debugger) != KDCOM_OK)
		went_wrong("no room for a break-in");
}

static bool flush(struct kdcom *k, struct pipe *p)
{
	const uint8_t *out;
	size_t len;
	kdcom_output(k, &out, &len);
	pipe_write(p, out, len);
	kdcom_output_consume(k, len);
	return len > 0;
}

static bool debugger_turn(void)
{
	struct kdcom_event ev;
	struct pipe *in = &w.to_debugger;
	bool has_moved = pipe_have(in) > 0;
	do {
		size_t used;
		kdcom_feed(&w.debugger, in->bytes + in->read, pipe_have(in), &used, &ev);
		in->read += used;
		debugger_on_event(&ev);
	} while (ev.kind != KDCOM_EV_NONE);
	if (has_moved)
		w.quiet_since = w.now;
	kdcom_timer(&w.debugger, w.now, &ev);
	debugger_on_event(&ev);
	debugger_impatience();
	debugger_next();
	kdcom_timer(&w.debugger, w.now, &ev); // starts the timer of what was sent just now
	return flush(&w.debugger, &w.to_target) || has_moved;
}

// ---- The kernel behind our target role -----------------------------------------------------------
static struct kdcom target;
static uint32_t print_count; // sent so far
static enum { PRINTING, STOPPING, STOPPED, ANSWERING } phase;
// A break-in while it is stopped: the stop is told again, but only after a silence in which the debugger would have repeated a
// request. Earlier, the state change could cross the request, which would be taken for its ACK (rule 5 again).
#define QUIET_MS 5000u
static bool has_breakin;
static uint64_t quiet_until;

static void target_say(uint16_t type, uint32_t api, uint32_t n, uint32_t answer, uint32_t flags)
{
	uint8_t body[KD_STATE_CHANGE_SIZE];
	make_body(body, type, api, n, answer);
	if (kdcom_send(&target, type, body, kd_header_size(type), NULL, 0, flags) != KDCOM_OK)
		went_wrong("the target cannot send");
}

static void target_next(void)
{
	if (kdcom_is_sending(&target) || phase != PRINTING || w.stop == STOPS)
		return;
	kdcom_expect(&target, 0);
	if (print_count < (w.stop + 1) * PRINTS) {
		target_say(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, print_count++, 0, KDCOM_SEND_DROPPABLE);
		return;
	}
	phase = STOPPING;
	target_say(KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, w.stop, 0, 0);
}

static void target_execute(uint32_t api, uint32_t seq)
{
	if (seq != w.executed + 1)
		went_wrong("a request was executed twice or never");
	w.executed = seq;
	if (api == KD_API_CONTINUE2) {
		phase = PRINTING;
		w.stop++;
		return;
	}
	phase = ANSWERING;
	target_say(KD_PACKET_MANIPULATE, api, seq, seq ^ 0xFFFF, 0);
}

static void target_tell_stop(void)
{
	has_breakin = false;
	phase = STOPPING;
	target_say(KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, w.stop, 0, 0);
}

static void target_on_event(const struct kdcom_event *ev)
{
	bool is_idle = phase == STOPPED && !kdcom_is_sending(&target);
	if (ev->kind == KDCOM_EV_PACKET) {
		target_execute(get_le32(ev->body), get_le32(ev->body + 4));
	} else if (ev->kind == KDCOM_EV_SENT && phase != PRINTING) {
		phase = STOPPED;
		kdcom_expect(&target, KD_PACKET_MANIPULATE);
	} else if (ev->kind == KDCOM_EV_BREAKIN) {
		has_breakin = is_idle;
	} else if (ev->kind == KDCOM_EV_RESEND_REQUEST && is_idle) {
		target_tell_stop();
	} else if (ev->kind == KDCOM_EV_GIVEN_UP || ev->kind == KDCOM_EV_RESET) {
		went_wrong("the target resynchronised");
	}
}

static void target_on_silence(void)
{
	if (has_breakin && w.now >= quiet_until && phase == STOPPED && !kdcom_is_sending(&target))
		target_tell_stop();
}

static bool our_target_turn(void)
{
	struct kdcom_event ev;
	struct pipe *in = &w.to_target;
	bool has_moved = pipe_have(in) > 0;
	do {
		size_t used;
		kdcom_feed(&target, in->bytes + in->read, pipe_have(in), &used, &ev);
		in->read += used;
		target_on_event(&ev);
	} while (ev.kind != KDCOM_EV_NONE);
	if (has_moved)
		quiet_until = w.now + QUIET_MS;
	kdcom_timer(&target, w.now, &ev);
	target_on_event(&ev);
	target_on_silence();
	target_next();
	kdcom_timer(&target, w.now, &ev);
	return flush(&target, &w.to_debugger) || has_moved;
}

// ---- The stock target: blocking code -------------------------------------------------------------
#define STOCK_BYTE_MS 400u // how long it waits for a byte
#define STOCK_STACK (128u * 1024u)

static ucontext_t stock_context, main_context;
static uint8_t stock_stack[STOCK_STACK];
static uint64_t stock_until; // it sleeps until a byte comes or this time
static uint32_t stock_next, stock_expected;
static bool stock_breakin;

// -1: nothing came in time.
static int stock_byte(void)
{
	struct pipe *in = &w.to_target;
	stock_until = w.now + STOCK_BYTE_MS;
	while (!pipe_have(in)) {
		if (w.now >= stock_until)
			return -1;
		swapcontext(&stock_context, &main_context);
	}
	return in->bytes[in->read++];
}

static bool stock_bytes(uint8_t *to, size_t len)
{
	while (len--) {
		int b = stock_byte();
		if (b < 0)
			return false;
		*to++ = (uint8_t)b;
	}
	return true;
}

static void stock_control(uint16_t type, uint32_t id)
{
	uint8_t f[KDCOM_HEAD] = { 0x69, 0x69, 0x69, 0x69 };
	put_le16(f + 4, type);
	put_le32(f + 8, id);
	pipe_write(&w.to_debugger, f, sizeof(f));
}

// The leader byte, or -1 after a silence.
static int stock_leader(void)
{
	int count = 0, last = -1;
	for (;;) {
		int b = stock_byte();
		if (b < 0)
			return -1;
		stock_breakin |= b == KDCOM_BREAKIN_BYTE;
		count = b == last ? count + 1 : 1;
		last = b;
		if (count >= 4 && (b == 0x30 || b == 0x69))
			return b;
	}
}

static uint8_t stock_body[KDCOM_BODY_MAX + 1];

// 0 received, 1 timed out, 2 send again; rules 1 to 9 of the reference in their order. want 4 = an ACK.
static int stock_receive(uint16_t want)
{
	uint8_t head[12];
	for (;;) {
		int leader = stock_leader();
		if (leader < 0) {
			bool was_breakin = stock_breakin;
			stock_breakin = false;
			return was_breakin ? 2 : 1;
		}
		if (!stock_bytes(head, 2))
			return 1;
		uint16_t type = get_le16(head);
		if (leader == 0x69 && type == KDCOM_RESEND)
			return 2;
		if (!stock_bytes(head + 2, 10))
			return 1;
		uint32_t len = get_le16(head + 2), id = get_le32(head + 4), sum = get_le32(head + 8);
		if (leader == 0x69) {
			if (type == KDCOM_ACK && want == KDCOM_ACK && id == (stock_next & ~KDCOM_ID_SYNC)) {
				stock_next = (stock_next ^ 1u) & ~KDCOM_ID_SYNC;
				return 0;
			}
			continue;
		}
		if (want == KDCOM_ACK) {
			if (w.kind == STOCK_ANY || id == stock_expected) {
				stock_control(KDCOM_RESEND, 0);
				stock_next = (stock_next ^ 1u) & ~KDCOM_ID_SYNC;
				return 0;
			}
			(void)stock_bytes(stock_body, len <= KDCOM_BODY_MAX ? len + 1 : 0); // whatever it is, it is dropped
			stock_control(KDCOM_ACK, id);
			continue;
		}
		if (len < KD_MANIPULATE_SIZE || len > KDCOM_BODY_MAX || !stock_bytes(stock_body, len + 1)) {
			stock_control(KDCOM_RESEND, 0);
			continue;
		}
		for (uint32_t i = 0; i < len; i++)
			sum -= stock_body[i];
		if (stock_body[len] != KDCOM_TRAILER || sum) {
			stock_control(KDCOM_RESEND, 0);
			continue;
		}
		stock_control(KDCOM_ACK, id);
		if (id != stock_expected || type != want)
			continue;
		stock_expected ^= 1u;
		return 0;
	}
}

static void stock_send(uint16_t type, uint32_t api, uint32_t n, uint32_t answer)
{
	uint8_t f[KDCOM_HEAD + KD_STATE_CHANGE_SIZE + 1];
	uint32_t len = kd_header_size(type), sum = 0;
	make_body(f + KDCOM_HEAD, type, api, n, answer);
	for (uint32_t i = 0; i < len; i++)
		sum += f[KDCOM_HEAD + i];
	put_le32(f, KDCOM_DATA_LEADER);
	put_le16(f + 4, type);
	put_le16(f + 6, (uint16_t)len);
	put_le32(f + 12, sum);
	f[KDCOM_HEAD + len] = KDCOM_TRAILER;
	do {
		put_le32(f + 8, stock_next);
		pipe_write(&w.to_debugger, f, KDCOM_HEAD + len + 1);
	} while (stock_receive(KDCOM_ACK) != 0);
}

static void stock_stop(void)
{
	bool has_to_tell = true;
	for (;;) {
		if (has_to_tell)
			stock_send(KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, w.stop, 0);
		int r = stock_receive(KD_PACKET_MANIPULATE);
		has_to_tell = r == 2;
		if (r != 0)
			continue;
		uint32_t api = get_le32(stock_body), seq = get_le32(stock_body + 4);
		if (seq != w.executed + 1)
			went_wrong("a request was executed twice or never");
		w.executed = seq;
		if (api == KD_API_CONTINUE2)
			return;
		stock_send(KD_PACKET_MANIPULATE, api, seq, seq ^ 0xFFFF);
	}
}

static void stock_main(void)
{
	stock_next = KDCOM_ID_INITIAL | KDCOM_ID_SYNC;
	stock_expected = KDCOM_ID_INITIAL;
	stock_breakin = false;
	for (w.stop = 0; w.stop < STOPS; w.stop++) {
		for (uint32_t i = 0; i < PRINTS; i++)
			stock_send(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, w.stop * PRINTS + i, 0);
		stock_stop();
	}
	for (;;)
		(void)stock_receive(KD_PACKET_MANIPULATE); // so that a lost ACK of the last Continue can be repaired
}

static bool stock_turn(void)
{
	bool has_moved = pipe_have(&w.to_target) > 0 || w.now >= stock_until;
	swapcontext(&main_context, &stock_context);
	return has_moved;
}

// ---- One run -------------------------------------------------------------------------------------

static void start(enum target_kind kind, uint32_t seed, uint32_t per_mille)
{
	memset(&w, 0, sizeof(w));
	w.kind = kind;
	w.now = w.quiet_since = 1000;
	w.to_target.dice.state = seed * 2654435761u | 1u;
	w.to_debugger.dice.state = seed * 2246822519u | 1u;
	w.to_target.per_mille = w.to_debugger.per_mille = per_mille;
	// A target that takes any packet for an ACK loses a reply when the request before it comes twice and the reply is lost: the hole
	// that section 1.7 of the reference describes in rule 5, and that no debugger can close.
	w.to_target.may_double = w.to_debugger.may_double = kind != STOCK_ANY;
	kdcom_init(&w.debugger, KDCOM_DEBUGGER);
	kdcom_init(&target, KDCOM_TARGET);
	print_count = 0;
	phase = PRINTING;
	has_breakin = false;
	stock_until = 0;
	getcontext(&stock_context);
	stock_context.uc_stack.ss_sp = stock_stack;
	stock_context.uc_stack.ss_size = sizeof(stock_stack);
	makecontext(&stock_context, stock_main, 0);
}

static uint64_t earliest(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

// Nothing moves any more: time goes on to the next thing that waits for it.
static void sleep_until_next(void)
{
	uint64_t next = earliest(kdcom_deadline(&w.debugger), w.quiet_since + 20000);
	next = earliest(next, w.kind == OURS ? kdcom_deadline(&target) : stock_until);
	if (w.kind == OURS && has_breakin)
		next = earliest(next, quiet_until);
	w.now = next > w.now ? next : w.now + 1;
}

// Returns NULL, or what went wrong.
static const char *run(enum target_kind kind, uint32_t seed, uint32_t per_mille)
{
	start(kind, seed, per_mille);
	while (!is_done() && !w.failure) {
		bool has_moved = debugger_turn();
		has_moved |= kind == OURS ? our_target_turn() : stock_turn();
		if (!has_moved)
			sleep_until_next();
		if (w.now > HANG_MS)
			return "they wait for each other";
	}
	if (w.failure)
		return w.failure;
	if (w.prints_seen != STOPS * PRINTS)
		return "a print is missing";
	return w.executed + 1 < w.next_seq ? "a request is missing" : NULL;
}

static void run_all(enum target_kind kind, uint32_t seeds)
{
	static const uint32_t rates[] = { 0, 10, 30, 60 };
	unsigned faults = 0;
	for (size_t i = 0; i < 4; i++)
		for (uint32_t seed = 1; seed <= seeds; seed++) {
			const char *failure = run(kind, seed, rates[i]);
			if (failure)
				fail_msg("seed %u, %u per mille: %s", seed, rates[i], failure);
			faults += w.to_target.faults + w.to_debugger.faults;
			if (!rates[i]) // nothing happened, so nothing was repeated
				assert_int_equal(w.debugger.counters.retransmissions + w.debugger.counters.duplicates, 0);
		}
	print_message("%u runs, %u faults\n", 4 * seeds, faults);
	assert_true(faults > seeds);
}

static void test_our_target(void **state)
{
	(void)state;
	run_all(OURS, 1500);
}

static void test_stock_target(void **state)
{
	(void)state;
	run_all(STOCK_EXPECTED, 1500);
}

static void test_stock_target_that_takes_any_packet_for_an_ack(void **state)
{
	(void)state;
	run_all(STOCK_ANY, 1500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_our_target),
		cmocka_unit_test(test_stock_target),
		cmocka_unit_test(test_stock_target_that_takes_any_packet_for_an_ack),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
