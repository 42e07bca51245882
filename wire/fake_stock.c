// SPDX-License-Identifier: MIT
#include "wire/fake_stock.h"

#include <string.h>
#include <ucontext.h>

#include "wire/fake_ours.h"
#include "wire/le.h"

// ---- Blocking code on a stack of its own -------------------------------------------------------------------
#define BYTE_MS 400u // how long either waits for a byte
#define STACK_SIZE (256u * 1024u)

struct fiber {
	ucontext_t self, caller;
	struct fake_wire *in, *out;
	uint64_t now, until; // it sleeps until a byte comes or this time
	uint32_t next_id, expected_id;
	uint8_t body[KDCOM_BODY_MAX + 1];
	uint8_t stack[STACK_SIZE];
};

static void fiber_start(struct fiber *f, struct fake_wire *in, struct fake_wire *out, void (*fn)(void))
{
	memset(f, 0, offsetof(struct fiber, stack));
	f->in = in;
	f->out = out;
	getcontext(&f->self);
	f->self.uc_stack.ss_sp = f->stack;
	f->self.uc_stack.ss_size = sizeof(f->stack);
	makecontext(&f->self, fn, 0);
}

static bool fiber_turn(struct fiber *f, uint64_t now_ms)
{
	size_t have;
	(void)fake_wire_peek(f->in, &have);
	bool has_moved = have > 0 || now_ms >= f->until;
	f->now = now_ms;
	swapcontext(&f->caller, &f->self);
	return has_moved;
}

// The next byte, or -1: none before `until`.
static int fiber_byte(struct fiber *f, uint64_t until)
{
	size_t have;
	const uint8_t *bytes = fake_wire_peek(f->in, &have);
	f->until = until;
	while (!have) {
		if (f->now >= until)
			return -1;
		swapcontext(&f->self, &f->caller);
		bytes = fake_wire_peek(f->in, &have);
	}
	int byte = bytes[0];
	fake_wire_take(f->in, 1);
	return byte;
}

static bool fiber_bytes(struct fiber *f, uint8_t *to, size_t len)
{
	while (len--) {
		int b = fiber_byte(f, f->now + BYTE_MS);
		if (b < 0)
			return false;
		*to++ = (uint8_t)b;
	}
	return true;
}

static void put_control(struct fiber *f, uint16_t type, uint32_t id)
{
	uint8_t frame[KDCOM_HEAD] = { 0x69, 0x69, 0x69, 0x69 };
	put_le16(frame + 4, type);
	put_le32(frame + 8, id);
	fake_wire_write(f->out, f->now, frame, sizeof(frame));
}

static void put_data(struct fiber *f, uint16_t type, const uint8_t *body, uint32_t len)
{
	uint8_t frame[KDCOM_FRAME_MAX];
	uint32_t sum = 0;
	for (uint32_t i = 0; i < len; i++)
		sum += body[i];
	put_le32(frame, KDCOM_DATA_LEADER);
	put_le16(frame + 4, type);
	put_le16(frame + 6, (uint16_t)len);
	put_le32(frame + 8, f->next_id);
	put_le32(frame + 12, sum);
	memcpy(frame + KDCOM_HEAD, body, len);
	frame[KDCOM_HEAD + len] = KDCOM_TRAILER;
	fake_wire_write(f->out, f->now, frame, KDCOM_HEAD + len + 1);
}

// The leader byte, or -1 after a silence until `until`.
static int find_leader(struct fiber *f, uint64_t until, bool *breakin)
{
	int count = 0, last = -1;
	for (;;) {
		int b = fiber_byte(f, until);
		if (b < 0)
			return -1;
		*breakin |= b == KDCOM_BREAKIN_BYTE;
		count = b == last ? count + 1 : 1;
		last = b;
		if (count >= 4 && (b == 0x30 || b == 0x69))
			return b;
	}
}

// Body and trailer of a frame. -> false: damaged, or it stops.
static bool get_body(struct fiber *f, uint32_t len, uint32_t sum)
{
	if (!fiber_bytes(f, f->body, len + 1) || f->body[len] != KDCOM_TRAILER)
		return false;
	for (uint32_t i = 0; i < len; i++)
		sum -= f->body[i];
	return sum == 0;
}

// ---- The target: section 1.7 ---------------------------------------------------------------------------------

static struct fiber target;
static struct fake_kernel *target_kernel;
static bool target_is_any_ack, target_has_breakin;
static uint32_t target_body_len;

enum { RECEIVED, TIMED_OUT, SEND_AGAIN, GO_ON };

static int target_on_control(uint16_t type, uint32_t id, uint16_t want)
{
	if (type == KDCOM_RESET) {
		target.next_id = target.expected_id = KDCOM_ID_INITIAL;
		put_control(&target, KDCOM_RESET, 0);
		return SEND_AGAIN;
	}
	if (type != KDCOM_ACK || want != KDCOM_ACK || id != (target.next_id & ~KDCOM_ID_SYNC))
		return GO_ON;
	target.next_id = (target.next_id ^ 1u) & ~KDCOM_ID_SYNC;
	return RECEIVED;
}

static int target_on_data_for_ack(uint32_t len, uint32_t id)
{
	if (target_is_any_ack || id == target.expected_id) {
		put_control(&target, KDCOM_RESEND, 0);
		target.next_id = (target.next_id ^ 1u) & ~KDCOM_ID_SYNC;
		return RECEIVED;
	}
	(void)fiber_bytes(&target, target.body, len <= KDCOM_BODY_MAX ? len + 1 : 0); // whatever it is, it is dropped
	put_control(&target, KDCOM_ACK, id);
	return GO_ON;
}

static int target_on_data(uint16_t type, uint32_t len, uint32_t id, uint32_t sum, uint16_t want)
{
	if (len < KD_MANIPULATE_SIZE || len > KDCOM_BODY_MAX || !get_body(&target, len, sum)) {
		put_control(&target, KDCOM_RESEND, 0);
		return GO_ON;
	}
	put_control(&target, KDCOM_ACK, id);
	if (id != target.expected_id || type != want)
		return GO_ON;
	target.expected_id ^= 1u;
	target_body_len = len;
	return RECEIVED;
}

// Rules 1 to 9 in their order. want KDCOM_ACK = the acknowledgement of the packet in flight.
static int target_receive(uint16_t want)
{
	for (;;) {
		uint8_t head[12];
		int leader = find_leader(&target, target.now + BYTE_MS, &target_has_breakin);
		if (leader < 0) {
			bool was_breakin = target_has_breakin;
			target_has_breakin = false;
			return was_breakin ? SEND_AGAIN : TIMED_OUT;
		}
		if (!fiber_bytes(&target, head, 2))
			return TIMED_OUT;
		uint16_t type = get_le16(head);
		if (leader == 0x69 && type == KDCOM_RESEND)
			return SEND_AGAIN;
		if (!fiber_bytes(&target, head + 2, 10))
			return TIMED_OUT;
		uint32_t len = get_le16(head + 2), id = get_le32(head + 4);
		int outcome = leader == 0x69    ? target_on_control(type, id, want) :
		              want == KDCOM_ACK ? target_on_data_for_ack(len, id) :
		                                  target_on_data(type, len, id, get_le32(head + 8), want);
		if (outcome != GO_ON)
			return outcome;
	}
}

static void target_send(uint16_t type, const uint8_t *body, uint32_t len)
{
	uint32_t retries = KDCOM_RETRY_LIMIT;
	for (;;) {
		put_data(&target, type, body, len);
		int outcome = target_receive(KDCOM_ACK);
		if (outcome == RECEIVED)
			return;
		if (outcome == TIMED_OUT && kd_is_droppable(type, body, len) && --retries == 0)
			break;
	}
	target.next_id = KDCOM_ID_INITIAL | KDCOM_ID_SYNC;
	target.expected_id = KDCOM_ID_INITIAL;
}

static void target_stop(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE], reply[KDCOM_BODY_MAX];
	bool has_to_tell = true;
	for (;;) {
		fake_kernel_stop(target_kernel, body);
		if (has_to_tell)
			target_send(KD_PACKET_STATE_CHANGE, body, sizeof(body));
		int outcome = target_receive(KD_PACKET_MANIPULATE);
		has_to_tell = outcome == SEND_AGAIN;
		if (outcome != RECEIVED)
			continue;
		uint32_t len = fake_kernel_execute(target_kernel, target.body, target_body_len, reply);
		if (!len)
			return;
		target_send(KD_PACKET_MANIPULATE, reply, len);
	}
}

static void target_main(void)
{
	uint8_t body[KDCOM_BODY_MAX];
	while (!fake_kernel_is_over(target_kernel)) {
		while (fake_kernel_has_print(target_kernel)) {
			uint32_t len = fake_kernel_print(target_kernel, body);
			target_send(KD_PACKET_DEBUG_IO, body, len);
		}
		target_stop();
	}
	for (;;)
		(void)target_receive(KD_PACKET_MANIPULATE); // so that a lost ACK of the last Continue can be repaired
}

void fake_stock_target_start(struct fake_wire *in, struct fake_wire *out, struct fake_kernel *kernel, bool is_any_ack)
{
	fiber_start(&target, in, out, target_main);
	target.next_id = KDCOM_ID_INITIAL | KDCOM_ID_SYNC;
	target.expected_id = KDCOM_ID_INITIAL;
	target_kernel = kernel;
	target_is_any_ack = is_any_ack;
	target_has_breakin = false;
}

bool fake_stock_target_turn(uint64_t now_ms)
{
	return fiber_turn(&target, now_ms);
}

uint64_t fake_stock_target_deadline(void)
{
	return target.until;
}

// ---- The debugger: section 1.8 ---------------------------------------------------------------------------------

#define ACK_MS 1500u      // longer than a target's own (rule 5)
#define ACK_ATTEMPTS 20u
#define CONTINUE_ATTEMPTS 4u

static struct fiber debugger;
static struct fake_user *user;
static uint8_t last_sync[KDCOM_BODY_MAX]; // the SYNC frame that came last, while nothing else was exchanged
static uint32_t last_sync_len;
static bool is_in_step, is_expected_known;
static uint64_t first_reset;

enum heard { NOTHING, ACKED, RESEND_ASKED, RESET_HEARD, STOP_HEARD, REPLY_HEARD, OTHER_HEARD };

static void resynchronise(void)
{
	debugger.next_id = debugger.expected_id = KDCOM_ID_INITIAL;
	last_sync_len = 0;
}

// -> false: an old packet, acknowledged and dropped.
static bool is_new_packet(uint32_t id, uint32_t len)
{
	bool is_id = (id & ~(KDCOM_ID_SYNC | 1u)) == KDCOM_ID_INITIAL;
	uint32_t plain = id & ~KDCOM_ID_SYNC;
	put_control(&debugger, KDCOM_ACK, is_id ? plain : id);
	if (!is_id)
		return false;
	if (id & KDCOM_ID_SYNC) {
		bool is_same = last_sync_len == len && memcmp(last_sync, debugger.body, len) == 0;
		memcpy(last_sync, debugger.body, len);
		last_sync_len = len;
		if (is_same)
			return false;
		debugger.next_id = KDCOM_ID_INITIAL;
		is_in_step = true;
		fake_user_starts_anew(user);
	} else if (is_expected_known && id != debugger.expected_id) {
		return false;
	} else {
		last_sync_len = 0;
	}
	is_expected_known = true;
	debugger.expected_id = plain ^ 1u;
	return true;
}

static enum heard on_packet(uint16_t type, uint32_t len)
{
	if (type == KD_PACKET_DEBUG_IO) {
		fake_user_on_print(user, debugger.body, len);
		return OTHER_HEARD;
	}
	if (type == KD_PACKET_STATE_CHANGE) {
		(void)fake_user_on_stop(user, debugger.body, len); // a refresh changes nothing
		return STOP_HEARD;
	}
	if (type == KD_PACKET_MANIPULATE && fake_user_on_reply(user, debugger.body, len))
		return REPLY_HEARD;
	return OTHER_HEARD;
}

static uint32_t acked_id;

// One frame, or NOTHING at `until`.
static enum heard hear(uint64_t until)
{
	for (;;) {
		uint8_t head[12];
		bool ignored = false;
		int leader = find_leader(&debugger, until, &ignored);
		if (leader < 0)
			return NOTHING;
		bool is_head = fiber_bytes(&debugger, head, sizeof(head));
		uint16_t type = get_le16(head);
		if (leader == 0x69) {
			if (!is_head)
				continue;
			acked_id = get_le32(head + 4);
			if (type == KDCOM_RESET) {
				resynchronise();
				fake_user_starts_anew(user);
			}
			if (type == KDCOM_ACK || type == KDCOM_RESEND || type == KDCOM_RESET)
				return type == KDCOM_ACK ? ACKED : type == KDCOM_RESEND ? RESEND_ASKED : RESET_HEARD;
			continue;
		}
		uint32_t len = get_le16(head + 2);
		if (!is_head || len > KDCOM_BODY_MAX || !get_body(&debugger, len, get_le32(head + 8))) {
			put_control(&debugger, KDCOM_RESEND, 0);
			continue;
		}
		if (is_new_packet(get_le32(head + 4), len))
			return on_packet(type, len);
	}
}

static void call_target(bool has_breakin)
{
	const uint8_t breakin = KDCOM_BREAKIN_BYTE;
	put_control(&debugger, KDCOM_RESET, 0);
	resynchronise();
	is_expected_known = false;
	fake_user_starts_anew(user);
	if (has_breakin)
		fake_wire_write(debugger.out, debugger.now, &breakin, 1);
}

// Until the target is stopped and both ids agree. -> false: it does not answer.
static bool attach(void)
{
	is_in_step = is_expected_known = false;
	for (uint32_t attempt = 0; attempt < FAKE_ATTACH_MAX; attempt++) {
		uint64_t until = debugger.now + FAKE_ATTACH_MS;
		if (debugger.now < first_reset)
			until = first_reset;
		else
			call_target(attempt % 2);
		bool was_reset = false;
		for (enum heard h = hear(until); h != NOTHING; h = hear(until)) {
			if (h == RESET_HEARD)
				was_reset = is_expected_known = true;
			if (h == STOP_HEARD && (was_reset || is_in_step))
				return true;
			if (h == STOP_HEARD)
				break; // it ran, and its ids are anywhere: once more
		}
	}
	fake_user_give_up(user, "the target does not answer");
	return false;
}

enum sent { SENT, SENT_AND_ANSWERED, NOT_SENT };

// Until the ACK of exactly this id, or what stands for it.
static enum sent send_request(const uint8_t *body, uint32_t len, bool is_continue)
{
	uint32_t stops = user->stops_seen;
	for (uint32_t attempt = 0; attempt < (is_continue ? CONTINUE_ATTEMPTS : ACK_ATTEMPTS); attempt++) {
		uint32_t id = debugger.next_id;
		put_data(&debugger, KD_PACKET_MANIPULATE, body, len);
		last_sync_len = 0;
		uint64_t until = debugger.now + ACK_MS;
		for (enum heard h = hear(until); h != NOTHING && h != RESEND_ASKED; h = hear(until)) {
			bool is_ack = h == ACKED && acked_id == id;
			if (h == RESET_HEARD)
				return NOT_SENT;
			if (is_ack || h == REPLY_HEARD || (is_continue && h != ACKED)) {
				debugger.next_id = id ^ 1u;
				return h == REPLY_HEARD || stops != user->stops_seen ? SENT_AND_ANSWERED : SENT;
			}
		}
	}
	debugger.next_id ^= is_continue; // the target runs and hears no repetition
	return is_continue ? SENT : NOT_SENT;
}

// A request and its answer. -> false: start anew.
static bool ask(const uint8_t *request, uint32_t len)
{
	enum sent sent = send_request(request, len, false);
	uint64_t until = debugger.now + FAKE_ANSWER_MS;
	while (sent == SENT) {
		enum heard h = hear(until);
		if (h == NOTHING || h == RESET_HEARD)
			return false;
		if (h == REPLY_HEARD)
			sent = SENT_AND_ANSWERED;
	}
	return sent == SENT_AND_ANSWERED;
}

// Continue, and the next stop. -> false: start anew.
static bool run_on(void)
{
	uint8_t body[KDCOM_BODY_MAX];
	uint32_t len = fake_continue(body), stops = user->stops_seen;
	enum sent sent = send_request(body, len, true);
	if (sent == NOT_SENT)
		return false;
	user->is_stopped = user->stops_seen != stops;
	uint64_t until = debugger.now + FAKE_QUIET_MS;
	while (user->stops_seen == stops && !fake_user_is_done(user)) {
		enum heard h = hear(until);
		if (h == NOTHING || h == RESET_HEARD || (h == STOP_HEARD && user->stops_seen == stops))
			return false; // the last: the Continue never arrived
	}
	return true;
}

static bool one_step(void)
{
	const uint8_t *request;
	uint32_t len = fake_user_next(user, &request);
	return len ? ask(request, len) : run_on();
}

static void debugger_main(void)
{
	bool is_attached = false;
	for (uint32_t resyncs = 0; resyncs <= FAKE_RESYNC_MAX && !user->error; resyncs++) {
		fake_user_lost(user);
		is_attached = attach();
		while (is_attached && !fake_user_is_done(user))
			is_attached = one_step();
		if (fake_user_is_done(user))
			break;
	}
	if (!fake_user_is_done(user))
		fake_user_give_up(user, "too many new starts");
	for (;;)
		(void)hear(debugger.now + FAKE_QUIET_MS);
}

void fake_stock_debugger_start(struct fake_wire *in, struct fake_wire *out, struct fake_user *the_user, uint64_t first_reset_ms)
{
	fiber_start(&debugger, in, out, debugger_main);
	user = the_user;
	first_reset = first_reset_ms;
	resynchronise();
}

bool fake_stock_debugger_turn(uint64_t now_ms)
{
	return fiber_turn(&debugger, now_ms);
}

uint64_t fake_stock_debugger_deadline(void)
{
	return debugger.until;
}
