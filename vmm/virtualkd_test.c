// SPDX-License-Identifier: MIT
// VirtualKD's requests as conversations: a guest's buffer on one side, a list of link messages on the other, no I/O between.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vmm/fake_guest.h"
#include "vmm/virtualkd.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define RAM_GPA 0x40000u
#define RAM_SIZE (64u * AREA_PAGE_SIZE)
#define P (RAM_GPA + 0xF23u)
#define AREA_FIRST 40u // page of kdvmkd.dll's area, in the test that has both
#define REFUSED 0xFFFFFFFFu // no globals, no code: the request failed

struct fixture {
	uint8_t ram[RAM_SIZE] __attribute__((aligned(4096)));
	struct gpa_range range;
	struct gpa_map map;
	struct virtualkd virtualkd;
	struct call call;
	struct virtualkd_rpc rpc;
	uint64_t now_ms;
	struct call_message message; // the last one that step() showed
	uint8_t body[RECORD_BODY_MAX]; // of the last 'r' that brought a packet
	uint32_t body_len;
	struct fake_guest other;
};

static int set_up(void **state)
{
	struct fixture *f = aligned_alloc(4096, sizeof(*f));
	memset(f, 0, sizeof(*f));
	f->range = (struct gpa_range){ RAM_GPA, RAM_SIZE, f->ram };
	f->map = (struct gpa_map){ &f->range, 1 };
	f->now_ms = 50000;
	call_init(&f->call, f->now_ms);
	virtualkd_init(&f->virtualkd);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	free(*state);
	return 0;
}

// ---- The guest ----------------------------------------------------------------------------------

static uint8_t *buffer(struct fixture *f)
{
	return f->ram + (P - RAM_GPA);
}

static enum virtualkd_next out(struct fixture *f)
{
	const struct virtualkd_exit x = { .value = P, .rax = P, .arch = ARCH_X64, .vcpu = 3, .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x20, .efer = 0x500 };
	return virtualkd_begin(&f->virtualkd, &f->call, &f->map, &x, &f->rpc, f->now_ms);
}

static void place(struct fixture *f, uint8_t command, uint32_t len)
{
	put_le32(buffer(f), len);
	put_le32(buffer(f) + 4, VKD_BUFFER_SIZE);
	memcpy(buffer(f) + 8, "~kdVMvA ", 8);
	buffer(f)[0x10] = command;
}

// 's' with these lengths, to be put out; what stands behind is left as it is.
static void place_send(struct fixture *f, uint32_t kd_type, uint32_t first, uint32_t second)
{
	uint8_t *b = buffer(f);
	place(f, 's', 39 + first + second);
	memset(b + 0x11, 0, 0x1E);
	put_le16(b + 0x11, (uint16_t)first);
	put_le16(b + 0x15, (uint16_t)second);
	b[0x19] = 20;
	put_le32(b + 0x1F, kd_type);
	put_le32(b + 0x23, first);
	put_le32(b + 0x27, second);
	put_le32(b + 0x2B, 0x304);
}

// 's' of a packet with this word first and this text behind its header.
static enum virtualkd_next begin_send(struct fixture *f, uint32_t kd_type, uint32_t api, const char *text)
{
	uint32_t header = kd_header_size(kd_type);
	place_send(f, kd_type, header, (uint32_t)strlen(text));
	memset(buffer(f) + 0x2F, 0, header);
	put_le32(buffer(f) + 0x2F, api);
	memcpy(buffer(f) + 0x2F + header, text, strlen(text));
	return out(f);
}

static enum virtualkd_next begin_receive(struct fixture *f, uint32_t kd_type)
{
	uint8_t *b = buffer(f);
	place(f, 'r', 31);
	memset(b + 0x11, 0, 0x16);
	put_le32(b + 0x11, kd_type);
	put_le32(b + 0x15, 0x304);
	if (kd_type != VKD_TYPE_POLL) {
		put_le16(b + 0x1B, (uint16_t)kd_header_size(kd_type));
		put_le16(b + 0x1F, 0x1000);
	}
	return out(f);
}

static bool is_reply(struct fixture *f, uint32_t least, uint8_t letter)
{
	const uint8_t *b = buffer(f);
	return get_le32(b) >= least && !memcmp(b + 4, "1 ++kdVMvA ", 11) && b[0x0F] == letter;
}

static uint32_t globals_of_send(struct fixture *f)
{
	return is_reply(f, 22, 's') ? get_le32(buffer(f) + 0x16) : REFUSED;
}

static uint32_t code_of_receive(struct fixture *f)
{
	const uint8_t *b = buffer(f);
	if (!is_reply(f, 46, 'r'))
		return REFUSED;
	f->body_len = get_le32(b + 0x26) + get_le32(b + 0x2A);
	memcpy(f->body, b + 0x32, f->body_len);
	return get_le32(b + 0x1E);
}

// ---- The machine --------------------------------------------------------------------------------

static enum call_next step(struct fixture *f)
{
	enum call_next next = call_step(&f->call, f->now_ms, &f->message);
	if (next == CALL_SEND)
		call_sent(&f->call);
	return next;
}

static void assert_message(struct fixture *f, uint16_t type)
{
	assert_int_equal(step(f), CALL_SEND);
	assert_int_equal(f->message.head.type, type);
}

static void assert_packet(struct fixture *f, uint16_t kd_type, const char *text, uint16_t flags)
{
	assert_message(f, LINK_PACKET);
	assert_int_equal(f->message.head.kd_type, kd_type);
	assert_int_equal(f->message.head.flags, flags);
	assert_int_equal(f->message.head.body_len, f->message.head.hdr_len + strlen(text));
	assert_memory_equal(f->message.body + f->message.head.hdr_len, text, strlen(text));
}

static enum virtualkd_next finish(struct fixture *f)
{
	assert_int_equal(step(f), CALL_ANSWER);
	return virtualkd_end(&f->virtualkd, &f->call, &f->map, &f->rpc, call_answer(&f->call));
}

static void assert_received(struct fixture *f, uint32_t code)
{
	assert_int_equal(finish(f), VIRTUALKD_DONE);
	assert_int_equal(code_of_receive(f), code);
}

static void attach(struct fixture *f)
{
	struct link_hello hello;
	call_hello(&f->call, 1, "vm", &hello);
	call_broker_came(&f->call);
}

static void say_version(struct fixture *f, uint32_t version)
{
	place(f, 'v', 13);
	put_le32(buffer(f) + 0x11, version);
	assert_int_equal(out(f), VIRTUALKD_DONE);
	assert_int_equal(get_le32(buffer(f)), 15);
	assert_int_equal(get_le32(buffer(f) + 0x0F), version);
}

// Registered with a broker, which knows.
static void start(struct fixture *f)
{
	attach(f);
	say_version(f, 0x07E80003);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(step(f), CALL_IDLE);
}

static void stop(struct fixture *f, const char *text)
{
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, text), VIRTUALKD_DONE);
	assert_int_equal(globals_of_send(f), 0x304);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
}

// In a wait that the broker knows of.
static void start_wait(struct fixture *f)
{
	stop(f, "stop");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop", LINK_F_WAITS);
	assert_int_equal(step(f), CALL_SLEEP);
}

static const uint8_t request[KD_MANIPULATE_SIZE + 4] = { 0x46, 0x31, 0, 0, 1, 2, 3, 4 };

static bool deliver(struct fixture *f)
{
	return call_deliver(&f->call, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, request, sizeof(request));
}

static void assert_request_taken(struct fixture *f)
{
	assert_received(f, VKD_RECEIVED);
	assert_int_equal(f->body_len, sizeof(request));
	assert_memory_equal(f->body, request, sizeof(request));
}

static void kick(struct fixture *f)
{
	call_kick(&f->call);
	assert_received(f, VKD_TIMED_OUT); // the kernel calls again
}

// ---- Refusals -----------------------------------------------------------------------------------

static void what_is_no_request_is_left_alone(void **state)
{
	struct fixture *f = *state;
	uint8_t before[64];
	memset(buffer(f), 0x5A, sizeof(before));
	memcpy(before, buffer(f), sizeof(before));
	assert_int_equal(out(f), VIRTUALKD_NOT_OURS);
	assert_memory_equal(buffer(f), before, sizeof(before));
	assert_false(f->call.area.is_registered);
	assert_int_equal(f->call.stats.port_calls, 0);
}

static void assert_refused(struct fixture *f)
{
	uint64_t refused = f->call.stats.refused;
	f->now_ms++;
	assert_int_equal(out(f), VIRTUALKD_DONE);
	assert_int_equal(get_le32(buffer(f)), 2);
	assert_memory_equal(buffer(f) + 4, "1 ", 2);
	assert_int_equal(f->call.stats.refused, refused + 1);
	assert_int_equal(f->call.stats.last_call_ms, f->now_ms); // it counts as a call
}

static void packets_that_cannot_be_fail(void **state)
{
	struct fixture *f = *state;
	static const struct { uint32_t type, first; } bad[] = {
		{ 3, 15 }, { 3, 17 }, { 7, 56 }, { 2, 0 }, { 0, 16 }, { 1, 240 }, { 4, 16 }, { 12, 64 }, { 0x10003, 16 }, { 0xFFFFFFFF, 0 },
	};
	start(f);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		place_send(f, bad[i].type, bad[i].first, 0);
		assert_refused(f);
	}
	static const uint32_t bad_wants[] = { 0, 16, 0x10002, 0xFFFFFFFF };
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(begin_receive(f, bad_wants[i]), VIRTUALKD_DONE);
		assert_int_equal(get_le32(buffer(f)), 2);
	}
	assert_int_equal(step(f), CALL_IDLE); // nothing of it reached the broker
	place(f, 'q', 31);
	assert_refused(f);
}

static uint32_t other_call(struct fixture *f, uint32_t fn)
{
	const struct call_args args = {
		.fn = fn, .head = fake_guest_head(&f->other), .version = AREA_VERSION, .seq = fake_guest_call(&f->other, fn, 0, 0),
	};
	return call_begin(&f->call, &f->map, &args, f->now_ms);
}

// kdvmkd.dll and a module of VirtualKD's in one guest.
static void of_two_modules_the_last_registration_counts(void **state)
{
	struct fixture *f = *state;
	fake_guest_init(&f->other, f->ram, RAM_GPA, AREA_FIRST, 3, 2, 4711);
	attach(f);
	assert_int_equal(other_call(f, CALL_REGISTER), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(((const struct link_guest *)f->message.body)->dialect, LINK_DIALECT_VMKD);
	assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_DONE);
	assert_int_equal(get_le32(buffer(f)), 2); // it has not said that it starts
	assert_int_equal(begin_send(f, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, "no"), VIRTUALKD_DONE);
	assert_int_equal(get_le32(buffer(f)), 2);
	assert_int_equal(f->call.stats.refused, 2);
	say_version(f, 0x101);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(((const struct link_guest *)f->message.body)->dialect, LINK_DIALECT_VIRTUALKD);
	assert_int_equal(other_call(f, CALL_POLL), CODE_REREGISTER);
}

// ---- What the broker is told ------------------------------------------------------------------------

static void a_registration_says_who_it_is(void **state)
{
	struct fixture *f = *state;
	attach(f);
	say_version(f, 0x07E80003);
	assert_message(f, LINK_REGISTERED);
	const struct link_guest *guest = (const struct link_guest *)f->message.body;
	assert_int_equal(guest->dialect, LINK_DIALECT_VIRTUALKD);
	assert_int_equal(guest->version, 0x07E80003);
	assert_int_equal(guest->arch, ARCH_X64);
	assert_int_equal(guest->page_count, 0);
	assert_int_equal(guest->head_gpa, 0);
	struct link_hello hello;
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.is_registered, 1);
	assert_int_equal(hello.guest.dialect, LINK_DIALECT_VIRTUALKD);
}

static void self_tests_need_nobody(void **state)
{
	struct fixture *f = *state;
	for (int i = 0; i < 100; i++) {
		place(f, 't', 521);
		assert_int_equal(out(f), VIRTUALKD_DONE);
		assert_int_equal(get_le32(buffer(f)), 523);
	}
	assert_false(f->call.area.is_registered);
	assert_int_equal(f->call.stats.port_calls, 100);
}

static void a_print_is_read_at_once(void **state)
{
	struct fixture *f = *state;
	start(f);
	for (uint32_t i = 1; i <= 3; i++) {
		assert_int_equal(begin_send(f, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, "hello"), VIRTUALKD_CALL);
		assert_packet(f, KD_PACKET_DEBUG_IO, "hello", 0);
		assert_int_equal(f->message.head.seq, i);
		assert_int_equal(finish(f), VIRTUALKD_DONE);
		assert_int_equal(globals_of_send(f), 0x304);
	}
	assert_int_equal(f->call.stats.port_calls, 4);
}

// The state change rides on the wait, with the control registers of the vCPU, so that the broker can read the guest's memory.
static void a_stop_is_one_message(void **state)
{
	struct fixture *f = *state;
	start(f);
	stop(f, "stop");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop", LINK_F_WAITS);
	assert_int_equal(f->message.head.want, KD_PACKET_MANIPULATE);
	assert_int_equal(f->message.head.vcpu, 3);
	assert_int_equal(f->message.head.cr3, 0x1000);
	assert_int_equal(f->message.head.efer, 0x500);
	assert_int_equal(step(f), CALL_SLEEP);
	assert_true(call_is_stopped(&f->call));
	assert_int_equal(call_deadline(&f->call), UINT64_MAX);
	assert_true(deliver(f));
	assert_request_taken(f);
	// The reply, and the next wait.
	assert_int_equal(begin_send(f, KD_PACKET_MANIPULATE, 0x3146, "reply"), VIRTUALKD_DONE);
	assert_int_equal(globals_of_send(f), 0x304);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	assert_packet(f, KD_PACKET_MANIPULATE, "reply", LINK_F_WAITS);
}

static void a_load_event_may_be_dropped(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_LOAD_SYMBOLS, "ntdll"), VIRTUALKD_DONE);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "ntdll", LINK_F_WAITS | LINK_F_DROPPABLE);
	assert_int_equal(step(f), CALL_SLEEP);
	call_broker_gone(&f->call, f->now_ms);
	assert_int_equal(step(f), CALL_SLEEP);
	f->now_ms += CALL_GRACE_MS;
	assert_received(f, VKD_RESEND);
	// The kernel says it again, and is told that nobody listens: it goes on.
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_LOAD_SYMBOLS, "ntdll"), VIRTUALKD_DONE);
	assert_int_equal(globals_of_send(f), 0x105);
}

static void a_break_in_is_answered_at_the_next_poll(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_DONE);
	assert_int_equal(code_of_receive(f), VKD_TIMED_OUT);
	call_breakin(&f->call);
	assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_CALL);
	assert_message(f, LINK_BREAKIN_TAKEN);
	assert_received(f, VKD_RECEIVED);
	assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_DONE);
	assert_int_equal(code_of_receive(f), VKD_TIMED_OUT);
	assert_int_equal(f->call.stats.port_calls, 4); // one for each request, however many calls the stand-in makes
}

// ---- Waits that end otherwise -----------------------------------------------------------------------

static void a_kick_changes_nothing(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	for (int i = 0; i < 3; i++) {
		kick(f);
		assert_true(call_is_awaited(&f->call)); // the broker's packets stay in the socket
		assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_DONE); // of another processor, where they all should stand still
		assert_int_equal(code_of_receive(f), VKD_TIMED_OUT);
		assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
		assert_int_equal(step(f), CALL_SLEEP); // told already
	}
	assert_true(deliver(f));
	assert_request_taken(f);
	assert_int_equal(f->call.stats.retries, 3);
}

static void a_wait_for_something_else_is_told_anew(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	kick(f);
	assert_int_equal(begin_receive(f, KD_PACKET_DEBUG_IO), VIRTUALKD_CALL);
	assert_message(f, LINK_WAIT);
	assert_int_equal(f->message.head.want, KD_PACKET_DEBUG_IO);
}

static void a_new_broker_hears_the_state_again(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	call_broker_gone(&f->call, f->now_ms);
	assert_int_equal(step(f), CALL_SLEEP); // the guest sleeps on
	f->now_ms += 10 * CALL_GRACE_MS;
	assert_int_equal(step(f), CALL_SLEEP);
	attach(f);
	assert_received(f, VKD_RESEND);
	stop(f, "again");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "again", LINK_F_WAITS);
}

// The broker dies between a request and its reply: the next one gets the reply, which it knows how to drop, and then the guest's wait.
static void a_request_is_not_executed_twice(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	assert_true(deliver(f));
	assert_request_taken(f);
	call_broker_gone(&f->call, f->now_ms);
	assert_int_equal(begin_send(f, KD_PACKET_MANIPULATE, 0x3146, "reply"), VIRTUALKD_DONE);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	assert_int_equal(step(f), CALL_SLEEP);
	attach(f);
	assert_packet(f, KD_PACKET_MANIPULATE, "reply", LINK_F_WAITS);
	assert_int_equal(step(f), CALL_SLEEP);
	assert_int_equal(f->call.stats.dropped_deliver, 0);
	assert_int_equal(f->call.stats.packets_in, 1);
}

static void without_broker_the_rest_waits_asleep(void **state)
{
	struct fixture *f = *state;
	say_version(f, 0x101);
	assert_int_equal(begin_send(f, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, "unheard"), VIRTUALKD_DONE);
	assert_int_equal(globals_of_send(f), 0x105);
	assert_int_equal(begin_receive(f, VKD_TYPE_POLL), VIRTUALKD_DONE);
	assert_int_equal(code_of_receive(f), VKD_TIMED_OUT);
	assert_int_equal(get_le32(buffer(f) + 0x2E), 0x304); // as it believed
	stop(f, "stop");
	assert_int_equal(step(f), CALL_SLEEP);
	assert_int_equal(call_deadline(&f->call), UINT64_MAX);
	attach(f);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop", LINK_F_WAITS); // whole, though nobody was there when it was sent
	// A debugger is there: the guest learns it at the next poll.
	assert_true(deliver(f));
	assert_request_taken(f);
	place(f, 'r', 31);
	memset(buffer(f) + 0x11, 0, 0x16);
	put_le32(buffer(f) + 0x11, VKD_TYPE_POLL);
	put_le32(buffer(f) + 0x15, 0x105);
	assert_int_equal(out(f), VIRTUALKD_DONE);
	assert_int_equal(get_le32(buffer(f) + 0x2E), 0x304);
}

// The kernel is asked for its state while the last one still lies in the ring: nobody sees it twice.
static void an_unread_question_is_withdrawn(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_LOAD_SYMBOLS, "first"), VIRTUALKD_DONE);
	call_broker_gone(&f->call, f->now_ms);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	f->now_ms += CALL_GRACE_MS;
	assert_received(f, VKD_RESEND);
	attach(f);
	stop(f, "second");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "second", LINK_F_WAITS);
}

// Nobody reads and the ring is full: prints are dropped, what must not be is sent again, after a rest.
static void a_full_ring(void **state)
{
	struct fixture *f = *state;
	start(f);
	uint32_t globals = 0x304;
	for (int i = 0; i < 10000 && globals == 0x304; i++) {
		assert_int_equal(begin_send(f, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PRINT, "flood"), VIRTUALKD_CALL);
		call_stall(&f->call); // the broker has taken nothing, long enough
		assert_int_equal(virtualkd_end(&f->virtualkd, &f->call, &f->map, &f->rpc, call_answer(&f->call)), VIRTUALKD_DONE);
		globals = globals_of_send(f);
		if (globals == 0x105 && ring_free(&f->virtualkd.tx) >= 64)
			globals = 0x304; // it is in the ring all the same
	}
	assert_int_equal(globals, 0x105);
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, "stop"), VIRTUALKD_CALL);
	call_stall(&f->call);
	assert_int_equal(virtualkd_end(&f->virtualkd, &f->call, &f->map, &f->rpc, call_answer(&f->call)), VIRTUALKD_REST);
	assert_int_equal(globals_of_send(f), 0x307);
	// Then it reads: there is room, and everything comes in order.
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, "stop"), VIRTUALKD_CALL);
	for (uint32_t last = 0; step(f) == CALL_SEND; last = f->message.head.seq)
		assert_int_equal(f->message.head.seq, last + 1);
	assert_int_equal(virtualkd_end(&f->virtualkd, &f->call, &f->map, &f->rpc, call_answer(&f->call)), VIRTUALKD_DONE);
	assert_int_equal(globals_of_send(f), 0x304);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop", LINK_F_WAITS);
}

// A packet that the guest's buffers do not take would damage them. The guest says its state again, and the broker asks again.
static void a_packet_without_room_is_not_given(void **state)
{
	struct fixture *f = *state;
	start(f);
	stop(f, "stop");
	f->rpc.request.second.max_length = 3;
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop", LINK_F_WAITS);
	assert_true(deliver(f));
	assert_received(f, VKD_RESEND);
	assert_int_equal(f->body_len, 0);
	assert_int_equal(f->call.stats.dropped_deliver, 1);
}

// ---- Ends and beginnings ----------------------------------------------------------------------------

static void a_reset_ends_it_and_v_begins_anew(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	call_end(&f->call, LINK_GONE_RESET);
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_RESET);
	assert_received(f, VKD_RESEND); // read by nobody
	say_version(f, 0x07E80003);
	assert_message(f, LINK_REGISTERED);
	stop(f, "next boot");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "next boot", LINK_F_WAITS);
	assert_int_equal(f->message.head.seq, 2); // numbers go on: they are the library's
}

// What was printed before a reset is still read, and a boot that is faster than that wins.
static void a_boot_that_comes_before_the_last_words(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, "dying"), VIRTUALKD_DONE);
	call_end(&f->call, LINK_GONE_RESET);
	say_version(f, 0x101);
	assert_message(f, LINK_UNREGISTERED);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(step(f), CALL_IDLE);
}

static void last_words_are_read_after_a_reset(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_send(f, KD_PACKET_STATE_CHANGE, KD_STATE_EXCEPTION, "dying"), VIRTUALKD_DONE);
	call_end(&f->call, LINK_GONE_RESET);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "dying", 0);
	assert_message(f, LINK_UNREGISTERED);
}

// A snapshot of a stopped guest, in a VMM that knows nothing of it: the guest is in its 'r'.
static void a_guest_that_never_said_v(void **state)
{
	struct fixture *f = *state;
	attach(f);
	assert_int_equal(begin_receive(f, KD_PACKET_MANIPULATE), VIRTUALKD_CALL);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(((const struct link_guest *)f->message.body)->dialect, LINK_DIALECT_VIRTUALKD);
	assert_message(f, LINK_WAIT);
	assert_int_equal(step(f), CALL_SLEEP);
	call_resend(&f->call); // the broker knows of no state
	assert_received(f, VKD_RESEND);
}

// The memory with the buffer went away during the wait.
static void memory_that_goes_away_in_a_wait(void **state)
{
	struct fixture *f = *state;
	start(f);
	start_wait(f);
	uint8_t before[64];
	memcpy(before, buffer(f), sizeof(before));
	assert_true(deliver(f));
	f->map.count = 0;
	assert_int_equal(finish(f), VIRTUALKD_DONE);
	assert_memory_equal(buffer(f), before, sizeof(before));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(what_is_no_request_is_left_alone), T(packets_that_cannot_be_fail), T(of_two_modules_the_last_registration_counts),
		T(a_registration_says_who_it_is), T(self_tests_need_nobody), T(a_print_is_read_at_once), T(a_stop_is_one_message),
		T(a_load_event_may_be_dropped), T(a_break_in_is_answered_at_the_next_poll), T(a_kick_changes_nothing),
		T(a_wait_for_something_else_is_told_anew), T(a_new_broker_hears_the_state_again), T(a_request_is_not_executed_twice),
		T(without_broker_the_rest_waits_asleep), T(an_unread_question_is_withdrawn), T(a_full_ring),
		T(a_packet_without_room_is_not_given), T(a_reset_ends_it_and_v_begins_anew), T(a_boot_that_comes_before_the_last_words),
		T(last_words_are_read_after_a_reset), T(a_guest_that_never_said_v), T(memory_that_goes_away_in_a_wait),
	};
	return cmocka_run_group_tests_name("virtualkd", tests, NULL, NULL) ? 1 : 0;
}
