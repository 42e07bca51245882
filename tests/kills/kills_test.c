// SPDX-License-Identifier: MIT
// The broker is killed between every two steps of a conversation, and a new one begins: no state change is lost, no request is executed twice, no print comes
// twice or out of order, and the conversation comes to its end. Steps are taken in a fixed order, or in a random one that a seed repeats.
//
//   kills                       the tests
//   kills one SEED FIRST GAP    one conversation of them again: killed before step FIRST, and GAP steps later (0 = not)
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/session.h"
#include "tests/kills/kernel.h"
#include "vmm/call.h"
#include "wire/le.h"
#include "wire/selftest.h"

#define REQUESTS 3u // at each stop
#define STEPS_MAX 100000u
#define QUEUE_MAX 64u
#define TURN_MS 100u // how far time goes when nobody has anything to do

struct message {
	uint32_t len;
	uint8_t bytes[sizeof(struct link_head) + LINK_BODY_MAX];
};

struct queue {
	struct message messages[QUEUE_MAX];
	uint32_t first, count;
};

// What the debugger's program knows, across brokers. It repeats nothing that may have been done: a write gets a new number.
struct user {
	bool is_at_stop, is_asking, is_at_prompt, is_broken_in;
	uint32_t stop, asked, stops_seen; // stop: UINT32_MAX = a module load
	uint32_t prompt;
	uint32_t writes;                  // numbers used
	bool is_confirmed[KERNEL_WRITES_MAX];
	uint32_t prints_next;             // lowest number that a print may have
};

static struct world {
	struct dice dice; // state 0: steps go round
	uint64_t now;
	uint32_t steps, turn;
	uint8_t handed_over[KERNEL_PRINTS]; // how often each print was given to a broker
	const char *wrong;
	struct call call;
	bool is_calling; // the open port call has been given to `call`
	struct queue to_broker, to_vmm;

	// the broker
	bool is_up;        // and has said ATTACH
	struct session session;
	struct session_client *client;
	uint16_t in_flight; // type of the packet that the debugger has not seen
	uint8_t body[SESSION_BODY_MAX];
	uint32_t body_len;
	uint16_t expected;
	struct user user;
} w;

static void wrong(const char *what)
{
	if (!w.wrong)
		w.wrong = what;
}

static void push(struct queue *q, const struct link_head *head, const uint8_t *body)
{
	struct message *m = &q->messages[(q->first + q->count++) % QUEUE_MAX];
	m->len = (uint32_t)sizeof(*head) + head->body_len;
	memcpy(m->bytes, head, sizeof(*head));
	if (body)
		memcpy(m->bytes + sizeof(*head), body, head->body_len);
}

static struct message *pop(struct queue *q)
{
	struct message *m = &q->messages[q->first];
	q->first = (q->first + 1) % QUEUE_MAX;
	q->count--;
	return m;
}

// ---- The session's actions -----------------------------------------------------------------------------------

static void op_deliver(void *arg, uint16_t type, uint16_t hdr_len, const uint8_t *body, uint32_t len, bool resumes)
{
	(void)arg; // there is one world
	const struct link_head head = { .type = LINK_DELIVER, .flags = resumes ? LINK_F_RESUMES : 0, .body_len = len, .kd_type = type, .hdr_len = hdr_len };
	push(&w.to_vmm, &head, body);
}

static void push_plain(uint16_t type)
{
	const struct link_head head = { .type = type };
	push(&w.to_vmm, &head, NULL);
}

static void op_breakin(void *arg)
{
	(void)arg; // as above
	push_plain(LINK_BREAKIN);
}

static void op_breakin_cancel(void *arg)
{
	(void)arg; // as above
	push_plain(LINK_BREAKIN_CANCEL);
}

static void op_resend(void *arg)
{
	(void)arg; // as above
	push_plain(LINK_RESEND);
}

static void op_send(void *closure, uint16_t type, const uint8_t *body, uint32_t len, bool is_droppable)
{
	(void)closure; // there is one client
	(void)is_droppable;
	if (w.in_flight)
		wrong("two packets in flight");
	w.in_flight = type;
	w.body_len = len;
	memcpy(w.body, body, len);
}

static void op_expect(void *closure, uint16_t type)
{
	(void)closure; // as above
	w.expected = type;
}

static void op_restart(void *closure)
{
	(void)closure; // as above
	wrong("a boot that was none");
}

static void op_cancel(void *closure)
{
	(void)closure; // as above
	w.in_flight = 0;
}

static const struct session_ops ops = {
	.guest_deliver = op_deliver, .guest_breakin = op_breakin, .guest_breakin_cancel = op_breakin_cancel, .guest_resend = op_resend,
	.client_send = op_send, .client_expect = op_expect, .client_restart = op_restart, .client_cancel = op_cancel,
};

// ---- The broker comes and dies --------------------------------------------------------------------------------

static void broker_begin(void)
{
	const struct link_head attach = { .type = LINK_ATTACH, .seq = LINK_VERSION };
	struct link_head head = { .type = LINK_HELLO, .body_len = sizeof(struct link_hello) };
	struct link_hello hello;
	call_hello(&w.call, 1, "vm", &hello);
	push(&w.to_broker, &head, (const uint8_t *)&hello);
	push(&w.to_vmm, &attach, NULL);
	session_init(&w.session, &ops, NULL);
	w.client = session_client_came(&w.session, NULL);
	w.in_flight = w.expected = 0;
	session_client_reset(w.client); // as debuggers do at first
	w.user.is_at_stop = w.user.is_asking = w.user.is_at_prompt = w.user.is_broken_in = false;
	w.is_up = true;
}

// SIGKILL: whatever is in the sockets is gone with it.
static void broker_dies(void)
{
	session_client_left(w.client);
	session_deinit(&w.session);
	w.is_up = false;
	w.to_broker.count = w.to_vmm.count = 0;
	call_broker_gone(&w.call, w.now);
}

static void broker_on_guest(const struct link_guest *guest)
{
	(void)guest; // the session does not ask which
	session_guest_registered(&w.session);
}

static void broker_take(const struct message *m)
{
	struct link_head head;
	struct link_hello hello;
	const uint8_t *body = m->bytes + sizeof(head);
	memcpy(&head, m->bytes, sizeof(head));
	switch (head.type) {
	case LINK_HELLO:
		memcpy(&hello, body, sizeof(hello));
		if (hello.is_registered)
			broker_on_guest(&hello.guest);
		break;
	case LINK_REGISTERED:
		broker_on_guest((const struct link_guest *)body);
		break;
	case LINK_UNREGISTERED:
		session_guest_gone(&w.session, head.code);
		break;
	case LINK_PACKET:
		session_guest_packet(&w.session, head.seq, head.kd_type, head.hdr_len, body, head.body_len, head.flags & LINK_F_WAITS ? head.want : 0);
		break;
	case LINK_WAIT:
		session_guest_waits(&w.session, head.want);
		break;
	case LINK_BREAKIN_TAKEN:
		session_guest_breakin_taken(&w.session);
		break;
	default:
		wrong("a message that nobody sends");
	}
}

// ---- The debugger's program ------------------------------------------------------------------------------------

static void user_on_stop(const uint8_t *body, uint32_t len)
{
	struct user *u = &w.user;
	u->stop = kernel_stop_number(body, len);
	u->is_at_stop = true;
	u->is_asking = u->is_broken_in = false;
	u->asked = 0;
	if (u->stop == UINT32_MAX || u->stop + 1 == u->stops_seen)
		return;
	if (u->stop != u->stops_seen)
		wrong("a stop was lost");
	u->stops_seen = u->stop + 1;
}

static void user_on_text(const uint8_t *body, uint32_t len)
{
	struct user *u = &w.user;
	if (len < KD_DEBUG_IO_SIZE + 4 || kernel_print_number(body, len) == UINT32_MAX)
		return; // a line of the session's own
	if (get_le32(body) == KD_DEBUG_IO_PROMPT) {
		u->is_at_prompt = true;
		u->prompt = kernel_print_number(body, len);
		return;
	}
	if (kernel_print_number(body, len) < u->prints_next)
		wrong("a print came twice, or out of order");
	u->prints_next = kernel_print_number(body, len) + 1;
}

static void user_on_reply(const uint8_t *body)
{
	struct user *u = &w.user;
	if (!u->is_asking || get_le32(body + 0x10) != u->writes - 1)
		wrong("the answer to another request");
	if (!get_le32(body + 8))
		u->is_confirmed[u->writes - 1] = true;
	u->is_asking = false;
}

static bool user_take(void)
{
	uint16_t type = w.in_flight;
	if (!type)
		return false;
	w.in_flight = 0;
	if (type == KD_PACKET_STATE_CHANGE)
		user_on_stop(w.body, w.body_len);
	else if (type == KD_PACKET_DEBUG_IO)
		user_on_text(w.body, w.body_len);
	else if (type == KD_PACKET_MANIPULATE)
		user_on_reply(w.body);
	session_client_sent(w.client);
	return true;
}

static bool user_answers_prompt(void)
{
	uint8_t body[KD_DEBUG_IO_SIZE + 4] = { 0 };
	put_le32(body, KD_DEBUG_IO_PROMPT);
	put_le32(body + 12, 4);
	put_le32(body + KD_DEBUG_IO_SIZE, w.user.prompt);
	w.user.is_at_prompt = false;
	session_client_packet(w.client, KD_PACKET_DEBUG_IO, body, sizeof(body));
	return true;
}

static bool user_does(void)
{
	struct user *u = &w.user;
	uint8_t body[KD_MANIPULATE_SIZE + 8] = { 0 };
	if (u->is_at_prompt && w.expected == KD_PACKET_DEBUG_IO)
		return user_answers_prompt();
	if (!u->is_at_stop || u->is_asking || w.expected != KD_PACKET_MANIPULATE)
		return false;
	if (u->stop != UINT32_MAX && u->asked < REQUESTS && u->writes < KERNEL_WRITES_MAX) {
		u->asked++;
		u->is_asking = true;
		session_client_packet(w.client, KD_PACKET_MANIPULATE, body, kernel_make_write(u->writes++, body));
		return true;
	}
	put_le32(body, KD_API_CONTINUE);
	put_le32(body + 0x10, KD_CONTINUE_HANDLED);
	u->is_at_stop = false;
	session_client_packet(w.client, KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE);
	return true;
}

// Nothing has happened for a while: break in.
static bool user_is_impatient(void)
{
	if (w.user.is_at_stop || w.user.is_at_prompt || w.user.is_broken_in || w.user.stops_seen % 2 == 0)
		return false;
	w.user.is_broken_in = true;
	session_client_breakin(w.client);
	return true;
}

// ---- Steps -----------------------------------------------------------------------------------------------------

static void begin_call(void)
{
	const struct kernel_call *k = kernel_call();
	static struct gpa_range ram = { .gpa = KERNEL_GPA };
	const struct gpa_map map = { &ram, 1 };
	ram.host = kernel_ram(&ram.size);
	struct call_args args = { .fn = k->fn, .seq = k->ebx, .has_regs = true, .cr0 = 0x80050033, .cr3 = 0x1aa000, .vcpu = 0 };
	if (k->fn == CALL_REGISTER)
		args = (struct call_args){ .fn = k->fn, .head = { (uint64_t)k->esi << 32 | k->ebx }, .version = k->edi };
	uint32_t code = call_begin(&w.call, &map, &args, w.now);
	w.is_calling = code == CALL_PENDING;
	if (code != CALL_PENDING)
		kernel_answer(RESULT_TAG | code);
}

// Every print is handed to one broker, once; with that one it may die.
static void note_print(const struct call_message *m)
{
	uint32_t number = m->head.kd_type == KD_PACKET_DEBUG_IO && get_le32(m->body) == KD_DEBUG_IO_PRINT ?
				  kernel_print_number(m->body, m->head.body_len) : UINT32_MAX;
	if (m->head.type == LINK_PACKET && number < KERNEL_PRINTS)
		w.handed_over[number]++;
}

// By dice: the socket has no room; the VMM wants its vCPU back (QMP, a timer).
static bool is_chance(uint32_t one_in)
{
	return w.dice.state && dice_roll(&w.dice, one_in) == 0;
}

static bool step_vmm_sends(void)
{
	struct call_message m;
	if (kernel_call()->is_open && !w.is_calling) {
		begin_call();
		return true;
	}
	if (w.is_calling && is_chance(12))
		call_kick(&w.call);
	switch (call_step(&w.call, w.now, &m)) {
	case CALL_SEND:
		if (w.to_broker.count == QUEUE_MAX || is_chance(4))
			return false;
		note_print(&m);
		push(&w.to_broker, &m.head, m.body);
		call_sent(&w.call);
		return true;
	case CALL_ANSWER:
		w.is_calling = false;
		kernel_answer(RESULT_TAG | call_answer(&w.call));
		return true;
	default:
		return false;
	}
}

static bool step_vmm_takes(void)
{
	// While the wait is parked, what answers it stays in the socket (vmm/call.h); a new broker may be heard.
	bool is_parked = call_is_awaited(&w.call) && !w.is_calling;
	if (!w.is_up || !w.to_vmm.count || (is_parked && (w.call.has_broker || is_chance(2))))
		return false;
	const struct message *m = pop(&w.to_vmm);
	int outcome = call_feed(&w.call, m->bytes, m->len);
	if (outcome != CALL_FED && outcome != CALL_FED_RESUMES)
		wrong("the VMM side refuses the broker's message");
	return true;
}

static bool step_broker(void)
{
	if (!w.is_up)
		return broker_begin(), true;
	if (!w.to_broker.count)
		return false;
	broker_take(pop(&w.to_broker));
	return true;
}

static bool step_user(void)
{
	return w.is_up && (user_take() || user_does());
}

static bool step_guest(void)
{
	return kernel_run(w.now);
}

static bool (*const steps[])(void) = { step_guest, step_vmm_sends, step_broker, step_user, step_vmm_takes };
#define STEP_KINDS (sizeof(steps) / sizeof(steps[0]))

// One step of somebody; when nobody has anything to do, time goes on.
static void step(void)
{
	w.turn = w.dice.state ? dice_roll(&w.dice, STEP_KINDS) : w.turn + 1;
	for (uint32_t i = 0; i < STEP_KINDS; i++)
		if (steps[(w.turn + i) % STEP_KINDS]())
			return;
	w.now += TURN_MS;
	if (w.is_up)
		session_timer(&w.session, w.now);
	if (w.is_up)
		(void)user_is_impatient(); // or not
}

// ---- Conversations -----------------------------------------------------------------------------------------------

static void judge(void)
{
	const struct kernel_record *k = kernel_record();
	if (k->wrong)
		wrong(k->wrong);
	for (uint32_t i = 0; i < KERNEL_PRINTS; i++)
		if (w.handed_over[i] != 1)
			wrong("a print was handed to two brokers, or to none");
	if (w.user.stops_seen != KERNEL_STOPS || k->stops_continued != KERNEL_STOPS)
		wrong("a stop was lost, or continued by nobody");
	for (uint32_t i = 0; i < KERNEL_WRITES_MAX; i++) {
		if (k->executed[i] > 1)
			wrong("a request was executed twice");
		if (w.user.is_confirmed[i] != (k->executed[i] == 1) && w.user.is_confirmed[i])
			wrong("a request was confirmed and not executed");
	}
}

// Killed before step `first` and `gap` steps later; 0 = not. -> NULL, or what went wrong; *ret_steps: how many there were.
static const char *run(uint32_t seed, uint32_t first, uint32_t gap, uint32_t *ret_steps)
{
	memset(&w, 0, sizeof(w));
	w.dice.state = seed ? seed * 2654435761u | 1u : 0;
	w.now = 50000;
	call_init(&w.call, w.now);
	kernel_start();
	while (!kernel_record()->is_over && !w.wrong && !kernel_record()->wrong && w.steps < STEPS_MAX) {
		w.steps++;
		if (w.is_up && first && (w.steps == first || (gap && w.steps == first + gap)))
			broker_dies();
		step();
	}
	if (w.steps == STEPS_MAX)
		wrong("it does not come to an end");
	judge();
	if (w.is_up)
		broker_dies();
	*ret_steps = w.steps;
	return w.wrong;
}

static uint32_t conversations;

static uint32_t check(uint32_t seed, uint32_t first, uint32_t gap)
{
	uint32_t count;
	const char *failure = run(seed, first, gap, &count);
	if (failure)
		fail_msg("%s; again with: kills one %u %u %u", failure, seed, first, gap);
	conversations++;
	return count;
}

static bool is_long(void)
{
	return getenv("VMKD_CHECK_LONG") != NULL;
}

static void nobody_dies(void **state)
{
	(void)state;
	for (uint32_t seed = 0; seed < 200; seed++) {
		(void)check(seed, 0, 0); // its length does not matter
		// All of it arrived, once.
		assert_int_equal(w.user.writes, KERNEL_STOPS * REQUESTS);
		assert_int_equal(w.user.prints_next, KERNEL_PRINTS);
		for (uint32_t i = 0; i < w.user.writes; i++)
			assert_true(w.user.is_confirmed[i]);
	}
}

static void killed_between_any_two_steps(void **state)
{
	(void)state;
	conversations = 0;
	for (uint32_t seed = 0; seed < (is_long() ? 1000 : 32); seed++)
		for (uint32_t first = 2; first <= check(seed, first, 0); first++)
			;
	print_message("%u conversations\n", conversations);
	assert_true(conversations > 1000);
}

static void killed_twice(void **state)
{
	(void)state;
	conversations = 0;
	uint32_t gaps = is_long() ? 300 : 24;
	for (uint32_t gap = 1; gap <= gaps; gap++)
		for (uint32_t first = 2; first <= check(gap % 3, first, gap); first++)
			;
	print_message("%u conversations\n", conversations);
	assert_true(conversations > 1000);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_dies),
		cmocka_unit_test(killed_between_any_two_steps),
		cmocka_unit_test(killed_twice),
	};
	if (argc == 5 && !strcmp(argv[1], "one")) {
		uint32_t count;
		const char *failure = run((uint32_t)atoi(argv[2]), (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]), &count);
		printf("%u steps: %s\n", count, failure ? failure : "right");
		return failure != NULL;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
