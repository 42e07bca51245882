// SPDX-License-Identifier: MIT
// The broker's end of a KDCOM stream as it is (client.c and the session, on a socket) behind a wire on which things go wrong, in virtual time; in front of it a
// debugger on wire/kdcom, or the model of a stock one. Every transfer has the right bytes or ends in a clean error, nothing is executed twice, nobody waits for ever.
//
//   faults_test                            the tests
//   faults_test one DEBUGGER KINDS RATE SEED   one conversation of them again; DEBUGGER: 0 ours, 1 stock
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/connections.h"
#include "serve/fake_loop.h"
#include "serve/session.h"
#include "wire/fake_ours.h"
#include "wire/fake_stock.h"

#define STOPS 4u
#define REQUESTS 6u
#define PRINTS 2u
#define HANG_MS 3600000u

enum outcome { RIGHT, CLEAN_ERROR, LOST_PRINT, WRONG, HANG, OUTCOME_COUNT };

static struct world {
	uint64_t now;
	bool is_stock;
	struct fake_wire to_target, to_debugger;
	struct fake_kernel kernel;
	struct fake_user user;
	struct fake_debugger debugger;

	// the broker
	struct loop loop;
	struct session session;
	struct tap *tap;
	struct connections connections;
	int fd; // the debugger's end of the stream
	size_t end_at, passed; // it ends when so many bytes have gone to the broker, and another begins; 0 = never

	// the guest
	uint32_t seq;
	bool is_stopped, has_request, has_to_tell;
	uint8_t request[KDCOM_BODY_MAX];
	uint32_t request_len;
} w;

// ---- The guest: what the session asks of it is done in its next turn -----------------------------------------------------------

static void op_deliver(void *arg, uint16_t type, uint16_t hdr_len, const uint8_t *body, uint32_t len, bool resumes)
{
	(void)arg; // there is one world
	(void)hdr_len;
	(void)resumes;
	if (type != KD_PACKET_MANIPULATE || w.has_request || !w.is_stopped)
		fake_user_wrong(&w.user, "the guest is given what it does not wait for");
	w.has_request = true;
	w.request_len = len;
	memcpy(w.request, body, len);
}

static void op_breakin(void *arg)
{
	(void)arg; // it stops soon enough
}

static void op_resend(void *arg)
{
	(void)arg; // as above
	w.has_to_tell = true;
}

static void guest_says(uint16_t type, const uint8_t *body, uint32_t len, uint16_t waits_for)
{
	session_guest_packet(&w.session, ++w.seq, type, (uint16_t)kd_header_size(type), body, len, waits_for);
}

static void guest_stops(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE];
	fake_kernel_stop(&w.kernel, body);
	w.is_stopped = true;
	w.has_to_tell = false;
	guest_says(KD_PACKET_STATE_CHANGE, body, sizeof(body), KD_PACKET_MANIPULATE);
}

static void guest_executes(void)
{
	uint8_t reply[KDCOM_BODY_MAX];
	uint32_t len = fake_kernel_execute(&w.kernel, w.request, w.request_len, reply);
	w.has_request = false;
	w.is_stopped = len > 0;
	if (len)
		guest_says(KD_PACKET_MANIPULATE, reply, len, KD_PACKET_MANIPULATE);
}

static bool guest_turn(void)
{
	uint8_t body[KDCOM_BODY_MAX];
	if (w.has_request)
		guest_executes();
	else if (w.is_stopped && w.has_to_tell)
		guest_stops();
	else if (w.is_stopped || fake_kernel_is_over(&w.kernel))
		return false;
	else if (fake_kernel_has_print(&w.kernel))
		guest_says(KD_PACKET_DEBUG_IO, body, fake_kernel_print(&w.kernel, body), 0);
	else
		guest_stops();
	connections_flush(&w.connections);
	return true;
}

// ---- The broker ------------------------------------------------------------------------------------------------------------------

static const struct session_ops ops = {
	.guest_deliver = op_deliver, .guest_breakin = op_breakin, .guest_breakin_cancel = op_breakin, .guest_resend = op_resend,
	.client_send = connection_send, .client_expect = connection_expect, .client_restart = connection_restart, .client_cancel = connection_cancel,
};

static void on_hold(void *arg, bool is_held)
{
	(void)arg; // this guest says little
	(void)is_held;
}

static void on_turn(void *arg)
{
	(void)arg; // deadlines are looked at in each turn of the world
}

static const struct connections_events connection_events = { .hold = on_hold, .turn = on_turn };

// A new stream to the broker.
static void connect_debugger(void)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds))
		abort(); // no descriptors: nothing to test
	w.fd = fds[0];
	connections_add(&w.connections, fds[1]);
}

static void broker_start(void)
{
	fake_loop_start(w.now);
	session_init(&w.session, &ops, NULL);
	if (tap_create(&w.loop, &w.tap))
		abort(); // no memory
	connections_init(&w.connections, &w.loop, &w.session, w.tap, &connection_events, NULL);
	session_guest_registered(&w.session);
	connect_debugger();
}

static void broker_end(void)
{
	connections_deinit(&w.connections);
	tap_destroy(w.tap);
	session_deinit(&w.session);
	close(w.fd);
}

static bool broker_turn(void)
{
	bool has_moved = fake_loop_turn();
	session_timer(&w.session, w.now);
	connections_flush(&w.connections);
	return has_moved;
}

// ---- The stream: what the wire lets through goes into the socket, what comes out of it onto the other wire ----------------------------

// The stream ends, in the middle of whatever it is, and the debugger's program begins another.
static void begin_again(void)
{
	w.end_at = 0;
	close(w.fd);
	fake_wire_init(&w.to_target, 1, 0, 0);
	fake_wire_init(&w.to_debugger, 1, 0, 0);
	fake_user_lost(&w.user);
	fake_user_starts_anew(&w.user);
	w.user.is_stopped = false;
	fake_debugger_init(&w.debugger, &w.to_debugger, &w.to_target, &w.user, w.now);
	connect_debugger();
}

static bool pump_stream(void)
{
	uint8_t bytes[8192];
	size_t len;
	const uint8_t *out = fake_wire_peek(&w.to_target, &len);
	if (w.end_at && len > w.end_at - w.passed)
		len = w.end_at - w.passed;
	ssize_t done = len ? send(w.fd, out, len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
	fake_wire_take(&w.to_target, done > 0 ? (size_t)done : 0);
	w.passed += done > 0 ? (size_t)done : 0;
	if (w.end_at && w.passed == w.end_at)
		return begin_again(), true;
	ssize_t in = recv(w.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	fake_wire_write(&w.to_debugger, w.now, bytes, in > 0 ? (size_t)in : 0);
	if (in == 0)
		fake_user_wrong(&w.user, "the broker has hung up");
	return done > 0 || in > 0;
}

// ---- A conversation ------------------------------------------------------------------------------------------------------------------

struct setting {
	bool is_stock;
	uint32_t kinds, per_mille, seed;
	size_t end_at;
};

static void start(const struct setting *s)
{
	w.seq = 0;
	w.end_at = s->end_at;
	w.passed = 0;
	w.is_stopped = w.has_request = w.has_to_tell = false;
	w.now = 1000;
	w.is_stock = s->is_stock;
	fake_wire_init(&w.to_target, 2 * s->seed, s->per_mille, s->kinds);
	fake_wire_init(&w.to_debugger, 2 * s->seed + 1, s->per_mille, s->kinds);
	fake_kernel_init(&w.kernel, STOPS, PRINTS);
	fake_user_init(&w.user, s->seed, STOPS, PRINTS, REQUESTS);
	uint64_t first_reset = s->seed % 4 ? w.now + FAKE_ATTACH_MS : w.now;
	if (w.is_stock)
		fake_stock_debugger_start(&w.to_debugger, &w.to_target, &w.user, first_reset);
	else
		fake_debugger_init(&w.debugger, &w.to_debugger, &w.to_target, &w.user, first_reset);
	broker_start();
}

static bool turn(void)
{
	bool has_moved = w.is_stock ? fake_stock_debugger_turn(w.now) : fake_debugger_turn(&w.debugger, w.now);
	has_moved |= pump_stream();
	has_moved |= broker_turn();
	has_moved |= guest_turn();
	has_moved |= fake_wire_timer(&w.to_target, w.now);
	return fake_wire_timer(&w.to_debugger, w.now) || has_moved;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void sleep_until_next(void)
{
	uint64_t next = w.is_stock ? fake_stock_debugger_deadline() : fake_debugger_deadline(&w.debugger);
	next = earlier(next, earlier(fake_loop_deadline_ms(), session_deadline(&w.session)));
	next = earlier(next, earlier(fake_wire_deadline(&w.to_target), fake_wire_deadline(&w.to_debugger)));
	w.now = next > w.now ? next : w.now + 1;
	fake_loop_set_time(w.now);
}

static bool is_over(void)
{
	bool is_sending = !w.is_stock && kdcom_is_sending(&w.debugger.kdcom);
	return w.user.wrong || w.user.error || (fake_user_is_done(&w.user) && !is_sending);
}

static enum outcome run(const struct setting *s)
{
	bool is_hanging = false;
	start(s);
	while (!is_over() && !is_hanging) {
		if (!turn())
			sleep_until_next();
		is_hanging = w.now > HANG_MS;
	}
	broker_end();
	fake_user_judge(&w.user, &w.kernel);
	if (is_hanging)
		return HANG;
	if (w.user.wrong)
		return WRONG;
	if (w.user.has_lost_print)
		return LOST_PRINT;
	bool is_unknown = memchr(w.user.write_state, WRITE_UNKNOWN, sizeof(w.user.write_state)) != NULL;
	return w.user.error || is_unknown ? CLEAN_ERROR : RIGHT;
}

static const char *explain(enum outcome outcome)
{
	static const char *const names[] = { "right", "a clean error", "a print is missing", "", "they wait for each other" };
	return outcome == WRONG ? w.user.wrong : names[outcome];
}

struct tally {
	unsigned conversations, faults;
	unsigned of[OUTCOME_COUNT];
};

static struct tally campaign(bool is_stock, uint32_t kinds, unsigned faults, enum outcome worst)
{
	static const uint32_t rates[] = { 5, 10, 30, 60 };
	struct tally t = { 0 };
	for (uint32_t seed = 1; t.faults < faults; seed++) {
		const struct setting s = { .is_stock = is_stock, .kinds = kinds, .per_mille = rates[seed % 4], .seed = seed };
		enum outcome outcome = run(&s);
		if (outcome > worst)
			fail_msg("%s; again with: faults_test one %d 0x%x %u %u", explain(outcome), is_stock, kinds, s.per_mille, seed);
		t.conversations++;
		t.faults += fake_wire_faults(&w.to_target) + fake_wire_faults(&w.to_debugger);
		t.of[outcome]++;
	}
	return t;
}

static void say(const char *who, const char *kinds, const struct tally *t)
{
	print_message("%s, %s: %u conversations, %u faults: %u right, %u clean errors, %u prints lost, %u wrong, %u hang\n", who, kinds,
		      t->conversations, t->faults, t->of[RIGHT], t->of[CLEAN_ERROR], t->of[LOST_PRINT], t->of[WRONG], t->of[HANG]);
}

static unsigned fault_goal(void)
{
	return getenv("VMKD_CHECK_LONG") ? 100000 : 10000;
}

static void run_campaigns(const char *who, bool is_stock)
{
	struct tally body = campaign(is_stock, FAULTS_REPAIRABLE, 10000, CLEAN_ERROR);
	(void)campaign(is_stock, FAULTS_REPAIRABLE & ~FAULT_BIT(FAULT_DELAY), fault_goal(), CLEAN_ERROR); // which it has judged; delays: wire/link_test.c
	say(who, "bodies and order", &body);
	// Headers are not protected (KD reference, section 1.2).
	struct tally header = campaign(is_stock, FAULT_BIT(FAULT_HEADER), fault_goal() / 4, LOST_PRINT);
	say(who, "headers", &header);
}

static void our_debugger(void **state)
{
	(void)state;
	run_campaigns("our debugger", false);
}

static void a_stock_debugger(void **state)
{
	(void)state;
	run_campaigns("a stock debugger", true);
}

static void a_stream_that_ends_at_any_byte(void **state)
{
	(void)state;
	size_t end = 1;
	for (size_t last = 1; end <= last; end++) {
		const struct setting s = { .seed = 1 + (uint32_t)end % 3, .end_at = end };
		enum outcome outcome = run(&s);
		if (outcome > CLEAN_ERROR)
			fail_msg("ended at byte %zu: %s", end, explain(outcome));
		last = w.end_at ? 0 : end + 1; // it was not reached: that is all
	}
	print_message("%zu bytes\n", end);
	assert_true(end > 1000);
}

static void without_faults_every_request_is_executed_once(void **state)
{
	(void)state;
	for (uint32_t seed = 1; seed <= 200; seed++) {
		const struct setting s = { .is_stock = seed % 2, .seed = seed };
		assert_int_equal(run(&s), RIGHT);
		assert_int_equal(w.kernel.requests, STOPS * REQUESTS);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_faults_every_request_is_executed_once),
		cmocka_unit_test(a_stream_that_ends_at_any_byte),
		cmocka_unit_test(our_debugger),
		cmocka_unit_test(a_stock_debugger),
	};
	if (argc == 6 && !strcmp(argv[1], "one")) {
		const struct setting s = { atoi(argv[2]) != 0, (uint32_t)strtoul(argv[3], NULL, 0), (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]), 0 };
		enum outcome outcome = run(&s);
		printf("%s\n", explain(outcome));
		return outcome > CLEAN_ERROR;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
