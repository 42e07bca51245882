// SPDX-License-Identifier: MIT
// The talk with a stock target, against a model of one, over a line that may lose, repeat and damage frames, in virtual time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "serve/serial_talk.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define STEP_MS 5u
#define LINE_MAX 65536u

struct line {
	uint8_t bytes[LINE_MAX];
	size_t len;
	unsigned frames;
	unsigned lose_from, lose_count; // frames, counted from 1
	unsigned rate;                  // of 256: lost, repeated, damaged
};

// A kernel at its debugger: its transport is KDCOM in role target, what it does on a request is counted.
struct model {
	struct kdcom k;
	bool is_running, is_frozen, is_mute; // mute: acknowledges requests and never answers
	uint16_t want;
	uint8_t report[KD_STATE_CHANGE_SIZE];
	uint16_t report_type;
	uint32_t report_len;
	bool is_report_due;
	unsigned executed, continued, breakins_seen, stops;
	uint32_t last_api;
};

static struct serial_talk talk;
static struct model target;
static struct line to_target, to_talk;
static uint64_t now;
static char log_text[4096];
static uint32_t last_seq, last_status;
static uint32_t seed;
static unsigned answers; // replies that reached the session
static uint16_t waits_for;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t len = strlen(log_text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(log_text + len, sizeof(log_text) - len, format, ap);
	va_end(ap);
}

static void did(const char *expected)
{
	size_t len = strlen(log_text);

	if (len)
		log_text[len - 1] = 0;
	assert_string_equal(log_text, expected);
	log_text[0] = 0;
}

// ---- The session's side ----------------------------------------------------------------------------------

static void on_registered(void *arg, const struct link_guest *guest)
{
	(void)arg;
	assert_int_equal(guest->dialect, LINK_DIALECT_KDCOM);
	waits_for = 0;
	note("registered(%x) ", guest->arch);
}

static void on_gone(void *arg, enum link_gone reason)
{
	(void)arg;
	last_seq = 0;
	waits_for = 0;
	note("gone(%d) ", reason);
}

static void on_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	(void)arg;
	assert_int_equal(head->type, LINK_PACKET);
	assert_int_equal(head->seq, last_seq + 1);
	assert_int_equal(head->hdr_len, kd_header_size(head->kd_type));
	assert_in_range(head->body_len, head->hdr_len, LINK_BODY_MAX);
	last_seq = head->seq;
	waits_for = head->flags & LINK_F_WAITS ? head->want : 0;
	if (head->kd_type == KD_PACKET_MANIPULATE) {
		answers++;
		last_status = get_le32(body + 8);
		note("reply(%x%s) ", get_le32(body), last_status ? " failed" : "");
	} else {
		note("packet(%u) ", head->kd_type);
	}
	if (waits_for)
		note("waits(%u) ", waits_for);
}

static void on_waits(void *arg, const struct link_head *head)
{
	(void)arg;
	waits_for = head->want;
	note("waits(%u) ", head->want);
}

static const struct guest_link_events events = { .registered = on_registered, .gone = on_gone, .packet = on_packet, .waits = on_waits };

static void deliver_manipulate(uint32_t api, uint64_t address)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, api);
	put_le64(body + 0x10, address);
	put_le32(body + 0x18, 8);
	waits_for = 0;
	serial_talk_deliver(&talk, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), kd_api_resumes(api));
}

static void deliver_bytes(uint16_t kd_type)
{
	uint8_t body[64] = { 0 };

	waits_for = 0;
	serial_talk_deliver(&talk, kd_type, (uint16_t)kd_header_size(kd_type), body, kd_header_size(kd_type), true);
}

// ---- The target --------------------------------------------------------------------------------------------

static void set_report(uint16_t type, uint32_t word, uint32_t len)
{
	memset(target.report, 0, sizeof(target.report));
	put_le32(target.report, word);
	target.report_type = type;
	target.report_len = len;
	target.want = type == KD_PACKET_STATE_CHANGE ? KD_PACKET_MANIPULATE : type;
	target.is_report_due = true;
	target.is_running = false;
}

static void stop_at(uint32_t state, uint64_t pc)
{
	set_report(KD_PACKET_STATE_CHANGE, state, KD_STATE_CHANGE_SIZE);
	put_le64(target.report + 0x10, 0xFFFFF80000000000u); // thread
	put_le64(target.report + 0x18, pc);
	target.stops++;
}

static void print(const char *text)
{
	uint8_t body[16 + 64] = { 0 };

	put_le32(body, KD_DEBUG_IO_PRINT);
	put_le32(body + 8, (uint32_t)strlen(text));
	memcpy(body + 16, text, strlen(text));
	assert_int_equal(kdcom_send(&target.k, KD_PACKET_DEBUG_IO, body, 16 + (uint32_t)strlen(text), NULL, 0, KDCOM_SEND_DROPPABLE), KDCOM_OK);
}

static void boot(void)
{
	struct kdcom_counters counters = target.k.counters;

	kdcom_init(&target.k, KDCOM_TARGET);
	target.k.counters = counters;
	target.is_running = true;
	target.want = 0;
	target.is_report_due = false;
}

static void run_on(void)
{
	target.is_running = true;
	target.continued++;
	target.want = 0;
}

static void execute(const struct kdcom_event *ev)
{
	uint8_t reply[KD_MANIPULATE_SIZE];
	uint32_t api = get_le32(ev->body);

	target.last_api = api;
	if (ev->type != KD_PACKET_MANIPULATE || (kd_api_resumes(api) && api != KD_API_SWITCH_PROCESSOR)) {
		run_on();
		return;
	}
	if (api == KD_API_SWITCH_PROCESSOR) {
		target.is_report_due = true;
		return;
	}
	target.executed++;
	memcpy(reply, ev->body, sizeof(reply));
	if (!target.is_mute && kd_api_has_reply(api))
		assert_int_equal(kdcom_send(&target.k, KD_PACKET_MANIPULATE, reply, sizeof(reply), NULL, 0, 0), KDCOM_OK);
}

static void target_event(const struct kdcom_event *ev)
{
	if (ev->kind == KDCOM_EV_PACKET)
		execute(ev);
	if ((ev->kind == KDCOM_EV_RESET || ev->kind == KDCOM_EV_RESEND_REQUEST) && !kdcom_is_sending(&target.k) && !target.is_running)
		target.is_report_due = true;
}

static void target_takes(const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev = { .kind = KDCOM_EV_PACKET };
	size_t used;

	// One that runs looks at single bytes, but for the ACK of what it prints.
	if (target.is_running && !kdcom_is_sending(&target.k)) {
		for (size_t i = 0; i < len && target.is_running; i++)
			if (bytes[i] == KDCOM_BREAKIN_BYTE) {
				target.breakins_seen++;
				stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000001000u + target.stops);
			}
		return;
	}
	while (ev.kind != KDCOM_EV_NONE) {
		kdcom_expect(&target.k, target.is_running || target.is_report_due ? 0 : target.want);
		kdcom_feed(&target.k, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		target_event(&ev);
	}
}

static void target_turn(void)
{
	struct kdcom_event ev;

	kdcom_timer(&target.k, now, &ev);
	if (target.is_report_due && !kdcom_is_sending(&target.k) &&
	    kdcom_send(&target.k, target.report_type, target.report, target.report_len, NULL, 0, 0) == KDCOM_OK)
		target.is_report_due = false;
}

// ---- The line --------------------------------------------------------------------------------------------------

static uint32_t chance(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 24;
}

static void put(struct line *l, const uint8_t *bytes, size_t len)
{
	if (l->len + len <= LINE_MAX) {
		memcpy(l->bytes + l->len, bytes, len);
		l->len += len;
	}
}

static void put_frame(struct line *l, const uint8_t *bytes, size_t len)
{
	l->frames++;
	if ((l->lose_count && l->frames >= l->lose_from && l->frames < l->lose_from + l->lose_count) || chance() < l->rate)
		return;
	put(l, bytes, len);
	if (chance() < l->rate)
		put(l, bytes, len);
	if (chance() < l->rate && len > KDCOM_HEAD + 4)
		l->bytes[l->len - 3] ^= 0x55;
}

static void pass_output(struct kdcom *k, struct line *l)
{
	const uint8_t *bytes;
	size_t len, frame;

	for (;;) {
		kdcom_output(k, &bytes, &len);
		if (!len)
			return;
		if (bytes[0] == KDCOM_BREAKIN_BYTE)
			frame = 1;
		else
			frame = bytes[0] == 0x69 ? KDCOM_HEAD : KDCOM_HEAD + get_le16(bytes + 6) + 1u;
		put_frame(l, bytes, frame);
		kdcom_output_consume(k, frame);
	}
}

static void step(void)
{
	static uint8_t bytes[LINE_MAX];
	size_t len;

	now += STEP_MS;
	if (!target.is_frozen) {
		len = to_target.len;
		memcpy(bytes, to_target.bytes, len);
		to_target.len = 0;
		if (len)
			target_takes(bytes, len);
		target_turn();
		pass_output(&target.k, &to_talk);
	}
	len = to_talk.len;
	memcpy(bytes, to_talk.bytes, len);
	to_talk.len = 0;
	assert_int_equal(serial_talk_feed(&talk, bytes, len, now), len);
	if (serial_talk_deadline(&talk) <= now || len)
		serial_talk_timer(&talk, now);
	pass_output(&talk.kdcom, &to_target);
}

static void run(uint32_t ms)
{
	for (uint32_t t = 0; t < ms; t += STEP_MS)
		step();
}

static int setup(void **state)
{
	(void)state;
	memset(&target, 0, sizeof(target));
	to_target.len = to_talk.len = 0;
	to_target = (struct line){ 0 };
	to_talk = (struct line){ 0 };
	kdcom_init(&target.k, KDCOM_TARGET);
	log_text[0] = 0;
	last_seq = last_status = 0;
	answers = 0;
	waits_for = 0;
	now = 1000000;
	seed = 1;
	serial_talk_init(&talk, &events, NULL);
	return 0;
}

static void connect_line(void)
{
	last_seq = 1; // nobody saw it start
	serial_talk_start(&talk, now, 0);
	pass_output(&talk.kdcom, &to_target);
}

// Connected to a target that is stopped, and nothing in the log.
static void connect_stopped(void)
{
	stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000001000u);
	connect_line();
	run(300);
	did("registered(0) registered(8664) packet(7) waits(2)");
}

static void go(void)
{
	deliver_manipulate(KD_API_CONTINUE, 0);
	run(50);
	assert_true(target.is_running);
}

// ---- First contact -----------------------------------------------------------------------------------------------

static void test_a_stopped_target_is_told_once(void **state)
{
	(void)state;
	connect_stopped();
	run(60000);
	did("");
	assert_int_equal(talk.kdcom.counters.resets_out, 1);
}

static void test_a_running_target_hears_no_reset(void **state)
{
	(void)state;
	boot();
	connect_line();
	run(3600000);
	did("registered(0)");
	assert_int_equal(talk.kdcom.counters.resets_out, SERIAL_TALK_RESETS_MAX);
	print("x");
	run(100);
	did("packet(3)");
}

static void test_what_comes_out_of_step_is_said_again(void **state)
{
	(void)state;
	boot();
	target.k.next_id = 0x80800001u; // somewhere in its life
	target.k.expected_id = 0x80800001u;
	connect_line();
	run(5000);
	stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000001000u);
	run(2000);
	did("registered(0) registered(8664) packet(7) waits(2)");
	deliver_manipulate(KD_API_GET_VERSION, 0);
	run(100);
	did("reply(3146) waits(2)");
}

static void test_breakin_waits_for_the_answer_to_the_reset(void **state)
{
	(void)state;
	stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000001000u);
	target.is_frozen = true;
	connect_line();
	serial_talk_breakin(&talk);
	run(300);
	target.is_frozen = false;
	run(10000);
	assert_int_equal(talk.kdcom.counters.breakins, 0);
	go();
	assert_int_equal(target.stops, 1);
}

// ---- Break-in -----------------------------------------------------------------------------------------------------

static void test_breakin_stops_a_running_target(void **state)
{
	(void)state;
	boot();
	connect_line();
	serial_talk_breakin(&talk);
	run(3000);
	did("registered(0) registered(8664) packet(7) waits(2)");
	assert_int_equal(target.breakins_seen, 1);
	run(60000);
	assert_int_equal(talk.kdcom.counters.breakins, 1);
}

static void test_breakin_of_a_deaf_target_is_no_storm(void **state)
{
	(void)state;
	boot();
	connect_line();
	run(20000);
	to_target.lose_from = 1;
	to_target.lose_count = UINT32_MAX / 2;
	for (int i = 0; i < 3600; i++) {
		if (i < 3)
			serial_talk_breakin(&talk); // a user who is impatient
		run(1000);
	}
	assert_int_equal(talk.kdcom.counters.breakins, SERIAL_TALK_BREAKINS_MAX);
	assert_in_range(talk.kdcom.counters.resets_out, 1, 4 * SERIAL_TALK_RESETS_MAX);
	to_target.lose_count = 0;
	print("alive");
	run(20000);
	assert_int_equal(target.breakins_seen, 1);
	assert_int_equal(waits_for, KD_PACKET_MANIPULATE);
}

static void test_breakin_is_cancelled(void **state)
{
	(void)state;
	boot();
	connect_line();
	serial_talk_breakin(&talk);
	serial_talk_breakin_cancel(&talk);
	run(60000);
	assert_int_equal(target.breakins_seen, 0);
	did("registered(0)");
}

static void test_breakin_survives_a_module_notice(void **state)
{
	(void)state;
	boot();
	connect_line();
	run(20000);
	to_target.lose_from = to_target.frames + 1;
	to_target.lose_count = 1; // the byte is taken by the notice
	serial_talk_breakin(&talk);
	run(10);
	stop_at(KD_STATE_LOAD_SYMBOLS, 0xFFFFF80000001000u);
	run(2000);
	did("registered(0) registered(8664) packet(7) waits(2)");
	go();
	run(SERIAL_TALK_NOTICE_MS + 100);
	assert_int_equal(target.breakins_seen, 1);
	did("packet(7) waits(2)");
}

// The Continue never arrived, and was taken for sent: the target stands, and the session believes that it runs.
static void test_breakin_finds_a_target_that_never_went_on(void **state)
{
	(void)state;
	connect_stopped();
	to_target.lose_from = to_target.frames + 1;
	to_target.lose_count = 4;
	deliver_manipulate(KD_API_CONTINUE, 0);
	run(10000);
	assert_false(target.is_running);
	assert_int_equal(talk.ask, SERIAL_ASK_NONE);
	to_target.lose_from = to_target.frames + 1;
	to_target.lose_count = 1;
	serial_talk_breakin(&talk);
	run(10000);
	did("packet(7) waits(2)");
}

// ---- Requests -------------------------------------------------------------------------------------------------------

static void test_lost_frames_are_executed_once(void **state)
{
	static const uint32_t apis[] = { KD_API_READ_VIRTUAL, KD_API_WRITE_VIRTUAL, KD_API_WRITE_BREAKPOINT };

	(void)state;
	connect_stopped();
	for (unsigned i = 0; i < 3; i++)
		for (unsigned lost = 0; lost < 4; lost++) { // the request; its ACK; the reply; the reply's ACK
			struct line *l = lost == 0 || lost == 3 ? &to_target : &to_talk;

			l->lose_from = l->frames + 1 + (lost == 3) + (lost == 2);
			l->lose_count = 1;
			target.executed = 0;
			deliver_manipulate(apis[i], 0x1000 * (i + 1) + lost);
			run(5000);
			assert_int_equal(target.executed, 1);
			assert_int_equal(last_status, 0);
		}
	assert_int_equal(answers, 12);
}

static void test_no_reply_api_ends_with_its_ack(void **state)
{
	(void)state;
	connect_stopped();
	deliver_manipulate(KD_API_SET_SPECIAL_CALL, 0);
	run(100);
	did("waits(2)");
}

static void test_switch_of_processors_is_a_new_stop(void **state)
{
	(void)state;
	connect_stopped();
	deliver_manipulate(KD_API_SWITCH_PROCESSOR, 0);
	run(100);
	did("packet(7) waits(2)"); // the same bytes, and news all the same
}

static void target_resets(void)
{
	assert_int_equal(kdcom_send_reset(&target.k), KDCOM_OK);
	target.is_report_due = true;
}

static void test_a_read_that_a_reset_met_is_asked_again(void **state)
{
	(void)state;
	connect_stopped();
	target.is_mute = true;
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x1000);
	run(100);
	assert_int_equal(target.executed, 1);
	target.is_mute = false;
	target_resets();
	run(1000);
	assert_int_equal(target.executed, 2);
	did("reply(3130) waits(2)");
}

static void test_a_write_that_a_reset_met_fails(void **state)
{
	(void)state;
	connect_stopped();
	target.is_mute = true;
	deliver_manipulate(KD_API_WRITE_VIRTUAL, 0x1000);
	run(100);
	target.is_mute = false;
	target_resets();
	run(1000);
	assert_int_equal(target.executed, 1);
	did("reply(3131 failed) waits(2)");
	assert_int_equal(last_status, KD_STATUS_UNSUCCESSFUL);
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x1000);
	run(100);
	did("reply(3130) waits(2)");
}

static void test_no_reply_is_missed_in_time(void **state)
{
	(void)state;
	connect_stopped();
	target.is_mute = true;
	deliver_manipulate(KD_API_WRITE_VIRTUAL, 0x1000);
	run(SERIAL_TALK_REPLY_MS - 1000);
	did("");
	run(2000);
	did("reply(3131 failed) waits(2)");
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x1000);
	run(60000);
	did("reply(3130 failed) waits(2)"); // it was asked again, and again
	assert_int_equal(target.executed, 2 + SERIAL_TALK_REDO_MAX);
}

static void test_a_dead_target_fails_the_request(void **state)
{
	unsigned frames;

	(void)state;
	connect_stopped();
	target.is_frozen = true;
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x1000);
	run(KDCOM_RETRY_LIMIT * KDCOM_DEBUGGER_RETRY_MS + 20000);
	did("reply(3130 failed)");
	assert_int_equal(waits_for, 0);
	frames = to_target.frames;
	run(3600000);
	assert_int_equal(to_target.frames, frames); // and then it is left in peace
}

// Paused for an hour in mid-request. What gathered in its line is answered at once, and the talk comes to rest.
static void test_a_paused_target_comes_back(void **state)
{
	unsigned frames;

	(void)state;
	connect_stopped();
	target.is_frozen = true;
	deliver_manipulate(KD_API_WRITE_VIRTUAL, 0x1000);
	run(3600000);
	did("reply(3131 failed)");
	target.is_frozen = false;
	run(20000);
	assert_in_range(target.executed, 0, 1);
	assert_int_equal(waits_for, KD_PACKET_MANIPULATE);
	frames = to_target.frames + to_talk.frames;
	run(60000);
	assert_int_equal(to_target.frames + to_talk.frames, frames);
	log_text[0] = 0;
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x2000);
	run(1000);
	did("reply(3130) waits(2)");
}

static void test_continue_is_never_given_twice(void **state)
{
	(void)state;
	connect_stopped();
	to_talk.lose_from = to_talk.frames + 1;
	to_talk.lose_count = 1; // its ACK
	deliver_manipulate(KD_API_CONTINUE, 0);
	run(200);
	assert_int_equal(target.continued, 1);
	stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000001000u); // the same place, and as a new stop
	run(20000);
	did("packet(7) waits(2)");
	assert_int_equal(target.continued, 1);
}

static void test_continue_that_a_reset_met_is_a_stop_again(void **state)
{
	(void)state;
	connect_stopped();
	to_target.lose_from = to_target.frames + 1;
	to_target.lose_count = 1;
	deliver_manipulate(KD_API_CONTINUE, 0);
	run(100);
	target_resets();
	run(20000);
	assert_int_equal(target.continued, 0);
	did("packet(7) waits(2)");
}

// ---- Other packets ------------------------------------------------------------------------------------------------------

static void test_waits_follow_from_packets(void **state)
{
	(void)state;
	connect_stopped();
	go();
	set_report(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT, 20);
	run(100);
	did("packet(3) waits(3)");
	deliver_manipulate(KD_API_CONTINUE, 0); // not what it waits for
	assert_int_equal(talk.stats.dropped_deliver, 1);
	deliver_bytes(KD_PACKET_DEBUG_IO);
	run(100);
	assert_int_equal(target.continued, 2);
	set_report(KD_PACKET_FILE_IO, KD_FILE_IO_CREATE, 70);
	run(100);
	did("packet(11) waits(11)");
	deliver_bytes(KD_PACKET_FILE_IO);
	run(100);
	set_report(KD_PACKET_CONTROL_REQUEST, 0x4300, 12);
	run(100);
	did("packet(10) waits(10)");
	deliver_bytes(KD_PACKET_CONTROL_REQUEST);
	run(100);
	assert_int_equal(target.continued, 4);
	did("");
}

static void test_a_boot_is_told(void **state)
{
	(void)state;
	connect_stopped();
	target.is_mute = true;
	deliver_manipulate(KD_API_READ_VIRTUAL, 0x1000);
	run(100);
	boot();
	target.is_mute = false;
	print("hello");
	run(100);
	did("gone(1) registered(0) packet(3)");
	stop_at(KD_STATE_EXCEPTION, 0xFFFFF80000002000u);
	run(100);
	did("registered(8664) packet(7) waits(2)");
	assert_int_equal(last_seq, 2);
}

static void test_the_first_packet_of_a_connection_is_no_reboot(void **state)
{
	(void)state;
	boot();
	connect_line();
	run(100);
	print("hello"); // SYNC
	run(100);
	did("registered(0) packet(3)");
	assert_int_equal(last_seq, 2); // 1 would be a kernel that nobody can have set breakpoints in
}

static void test_resend_tells_the_report_again(void **state)
{
	(void)state;
	connect_stopped();
	serial_talk_resend(&talk);
	run(1500);
	did("packet(7) waits(2)");
}

static void send_raw(uint16_t type, uint32_t len)
{
	static uint8_t body[KDCOM_BODY_MAX];

	put_le32(body, KD_DEBUG_IO_PROMPT);
	assert_int_equal(kdcom_send(&target.k, type, body, len, NULL, 0, 0), KDCOM_OK);
	run(200);
}

static void test_impossible_packets_are_refused(void **state)
{
	static const struct { uint16_t type; uint32_t len; } packets[] = { { 0, 100 }, { 1, 8 }, { 2, 55 }, { 2, 0 }, { 2, 56 }, { 3, 15 }, { 7, 239 },
									   { 8, 10 }, { 10, 11 }, { 11, 63 }, { 12, 4000 }, { 0xFFFF, 1 } };

	(void)state;
	connect_stopped();
	go();
	for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
		send_raw(packets[i].type, packets[i].len);
		assert_int_equal(talk.stats.refused, i + 1);
		assert_false(kdcom_is_sending(&target.k)); // acknowledged, or it would say it for ever
	}
	did("");
}

// ---- A bad line ------------------------------------------------------------------------------------------------------------

static void ask_over_a_bad_line(void)
{
	bool is_write = chance() & 1;
	unsigned before = answers;

	target.executed = 0;
	deliver_manipulate(is_write ? KD_API_WRITE_VIRTUAL : KD_API_READ_VIRTUAL, chance());
	for (int i = 0; i < 120 && answers == before; i++)
		run(1000);
	assert_int_equal(answers, before + 1);
	if (is_write)
		assert_in_range(target.executed, last_status ? 0 : 1, 1);
	else
		assert_true(last_status || target.executed);
}

static void test_bad_lines(void **state)
{
	for (unsigned round = 1; round <= 40; round++) {
		setup(state);
		seed = round;
		connect_stopped();
		to_target.rate = to_talk.rate = 1 + round % 16; // up to 6 % of the frames lost, as many repeated, as many damaged
		for (int i = 0; i < 25; i++) {
			ask_over_a_bad_line();
			for (int wait = 0; wait < 60 && !waits_for; wait++)
				run(1000);
			assert_int_equal(waits_for, KD_PACKET_MANIPULATE);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_impossible_packets_are_refused, setup),
		cmocka_unit_test_setup(test_a_stopped_target_is_told_once, setup),
		cmocka_unit_test_setup(test_a_running_target_hears_no_reset, setup),
		cmocka_unit_test_setup(test_what_comes_out_of_step_is_said_again, setup),
		cmocka_unit_test_setup(test_breakin_waits_for_the_answer_to_the_reset, setup),
		cmocka_unit_test_setup(test_breakin_stops_a_running_target, setup),
		cmocka_unit_test_setup(test_breakin_of_a_deaf_target_is_no_storm, setup),
		cmocka_unit_test_setup(test_breakin_is_cancelled, setup),
		cmocka_unit_test_setup(test_breakin_survives_a_module_notice, setup),
		cmocka_unit_test_setup(test_breakin_finds_a_target_that_never_went_on, setup),
		cmocka_unit_test_setup(test_lost_frames_are_executed_once, setup),
		cmocka_unit_test_setup(test_no_reply_api_ends_with_its_ack, setup),
		cmocka_unit_test_setup(test_switch_of_processors_is_a_new_stop, setup),
		cmocka_unit_test_setup(test_a_read_that_a_reset_met_is_asked_again, setup),
		cmocka_unit_test_setup(test_a_write_that_a_reset_met_fails, setup),
		cmocka_unit_test_setup(test_no_reply_is_missed_in_time, setup),
		cmocka_unit_test_setup(test_a_dead_target_fails_the_request, setup),
		cmocka_unit_test_setup(test_a_paused_target_comes_back, setup),
		cmocka_unit_test_setup(test_continue_is_never_given_twice, setup),
		cmocka_unit_test_setup(test_continue_that_a_reset_met_is_a_stop_again, setup),
		cmocka_unit_test_setup(test_waits_follow_from_packets, setup),
		cmocka_unit_test_setup(test_a_boot_is_told, setup),
		cmocka_unit_test_setup(test_the_first_packet_of_a_connection_is_no_reboot, setup),
		cmocka_unit_test_setup(test_resend_tells_the_report_again, setup),
		cmocka_unit_test_setup(test_bad_lines, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
