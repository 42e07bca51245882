// SPDX-License-Identifier: MIT
// One guest's calls as conversations: the fake guest on one side, a list of link messages on the other, no I/O between.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "vmm/call.h"
#include "vmm/fake_guest.h"
#include "wire/kdapi.h"

#define RAM_GPA 0x100000000ull
#define RAM_SIZE (64u * AREA_PAGE_SIZE)

struct fixture {
	uint8_t *ram;
	struct gpa_range range;
	struct gpa_map map;
	struct fake_guest guest;
	struct call call;
	uint64_t now_ms;
	struct call_message message; // the last one that step() showed
	bool is_full;                // the broker takes nothing
};

static uint64_t next_nonce(void)
{
	static uint64_t nonce = 1000;
	return ++nonce;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->ram = aligned_alloc(AREA_PAGE_SIZE, RAM_SIZE);
	memset(f->ram, 0, RAM_SIZE);
	f->range = (struct gpa_range){ RAM_GPA, RAM_SIZE, f->ram };
	f->map = (struct gpa_map){ &f->range, 1 };
	f->now_ms = 50000;
	fake_guest_init(&f->guest, f->ram, RAM_GPA, 1, 3, 2, next_nonce());
	call_init(&f->call, f->now_ms);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	free(f->ram);
	free(f);
	return 0;
}

// ---- Moves --------------------------------------------------------------------------------------

static uint32_t begin(struct fixture *f, uint32_t fn, uint32_t seq)
{
	const struct call_args args = {
		.fn = fn, .head = fake_guest_head(&f->guest), .version = AREA_VERSION, .seq = seq, .vcpu = 3,
		.has_regs = true, .cr0 = 0x80000011, .cr3 = 0x1000,
	};
	return call_begin(&f->call, &f->map, &args, f->now_ms);
}

static uint32_t do_register(struct fixture *f)
{
	return begin(f, CALL_REGISTER, fake_guest_call(&f->guest, CALL_REGISTER, 0, 0));
}

// One step; a message is taken at once unless the broker is full.
static enum call_next step(struct fixture *f)
{
	enum call_next next = call_step(&f->call, f->now_ms, &f->message);
	if (next == CALL_SEND && !f->is_full)
		call_sent(&f->call);
	return next;
}

static void assert_message(struct fixture *f, uint16_t type)
{
	assert_int_equal(step(f), CALL_SEND);
	assert_int_equal(f->message.head.type, type);
}

static void assert_packet(struct fixture *f, uint16_t kd_type, const char *text)
{
	assert_message(f, LINK_PACKET);
	assert_int_equal(f->message.head.kd_type, kd_type);
	assert_int_equal(f->message.head.body_len, f->message.head.hdr_len + strlen(text));
	assert_memory_equal(f->message.body + f->message.head.hdr_len, text, strlen(text));
}

static void assert_answer(struct fixture *f, uint32_t code)
{
	assert_int_equal(step(f), CALL_ANSWER);
	assert_int_equal(call_answer(&f->call), code);
	assert_int_equal(f->guest.head->reply_code, RESULT_TAG | code);
	assert_int_equal(f->guest.head->reply_seq, f->guest.head->call_seq);
}

static void put(struct fixture *f, uint16_t kd_type, const char *text)
{
	uint8_t body[RECORD_BODY_MAX] = { 0 };
	uint32_t header = kd_header_size(kd_type);
	memcpy(body + header, text, strlen(text));
	fake_guest_send(&f->guest, kd_type, (uint16_t)header, body, header + (uint32_t)strlen(text));
}

static uint32_t begin_new(struct fixture *f, uint32_t fn, uint32_t flags, uint32_t want)
{
	return begin(f, fn, fake_guest_call(&f->guest, fn, flags, want));
}

static uint32_t begin_wait(struct fixture *f)
{
	return begin_new(f, CALL_EXCHANGE, CALL_F_WAIT, KD_PACKET_MANIPULATE);
}

static uint32_t begin_same(struct fixture *f)
{
	return begin(f, f->guest.head->call_fn, f->guest.head->call_seq);
}

static void attach(struct fixture *f)
{
	struct link_hello hello;
	call_hello(&f->call, 1, "vm", &hello);
	const struct link_head head = { .type = LINK_ATTACH, .seq = LINK_VERSION };
	assert_int_equal(call_feed(&f->call, &head, sizeof(head)), CALL_FED);
}

// Registered with a broker, all messages about it taken.
static void start(struct fixture *f)
{
	attach(f);
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(step(f), CALL_IDLE);
}

static const uint8_t request[KD_MANIPULATE_SIZE + 4] = { 0x46, 0x31 };

static bool deliver(struct fixture *f)
{
	return call_deliver(&f->call, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, request, sizeof(request));
}

static int feed(struct fixture *f, struct link_head head, const void *body)
{
	uint8_t bytes[sizeof(head) + LINK_BODY_MAX] = { 0 };
	memcpy(bytes, &head, sizeof(head));
	if (body)
		memcpy(bytes + sizeof(head), body, head.body_len);
	return call_feed(&f->call, bytes, sizeof(head) + head.body_len);
}

static void assert_taken(struct fixture *f)
{
	struct ring_packet packet;
	uint8_t body[RECORD_BODY_MAX];
	assert_int_equal(fake_guest_take(&f->guest, &packet, body), (int)sizeof(request));
	assert_memory_equal(body, request, sizeof(request));
}

// The registration ended because of the guest, and the broker hears it.
static void assert_ended(struct fixture *f, uint32_t gone)
{
	assert_false(f->call.area.is_registered);
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, gone);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CODE_REREGISTER);
}

// ---- Refusals -----------------------------------------------------------------------------------

static void calls_without_a_registration_ask_for_one(void **state)
{
	struct fixture *f = *state;
	for (uint32_t fn = 0; fn < 10; fn++) {
		if (fn != CALL_REGISTER)
			assert_int_equal(begin_new(f, fn, 0, 0), CODE_REREGISTER);
	}
	assert_int_equal(f->guest.head->reply_code, 0); // not ours: not written
}

static void registrations_that_cannot_be_are_refused(void **state)
{
	struct fixture *f = *state;
	struct call_args args = { .fn = CALL_REGISTER, .head = { 0 }, .version = AREA_VERSION };
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CODE_REFUSED);
	args.head.v = UINT64_MAX;
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CODE_REFUSED);
	args.head = fake_guest_head(&f->guest);
	args.version = AREA_VERSION + 1; // not what the head says
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CODE_REFUSED);
	assert_int_equal(f->guest.head->reply_code, RESULT_TAG | CODE_REFUSED);
	assert_int_equal(f->call.stats.refused, 3);
	assert_int_equal(f->call.stats.registrations, 0);
}

static void another_major_version_is_told_ours(void **state)
{
	struct fixture *f = *state;
	struct link_hello hello;
	f->guest.head->version = 7u << 16;
	struct call_args args = { .fn = CALL_REGISTER, .head = fake_guest_head(&f->guest), .version = 7u << 16 };
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CODE_VERSION);
	assert_int_equal(f->guest.head->host_version, AREA_VERSION);
	assert_int_equal(f->call.stats.refused_version, 1);
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.refused_version, 7u << 16);
}

// The doorbell carries no version: the head's counts. The broker hears of it, and of the right module no more.
static void another_major_version_is_told_to_the_broker(void **state)
{
	struct fixture *f = *state;
	attach(f);
	f->guest.head->version = 7u << 16;
	struct call_args args = { .fn = CALL_REGISTER, .head = fake_guest_head(&f->guest) };
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CODE_VERSION);
	assert_message(f, LINK_OTHER_VERSION);
	assert_int_equal(f->message.head.code, 7u << 16);
	f->guest.head->version = AREA_VERSION;
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(f->call.refused_version, 0);
}

static void arguments_that_cannot_be_are_refused(void **state)
{
	struct fixture *f = *state;
	start(f);
	uint32_t seq = fake_guest_call(&f->guest, CALL_POLL, 0, 0);
	assert_int_equal(begin(f, CALL_POLL, seq + 1), CODE_REFUSED);     // another seq than the head's
	seq = fake_guest_call(&f->guest, CALL_POLL, 0, 0);
	assert_int_equal(begin(f, CALL_EXCHANGE, seq), CODE_REFUSED);     // another function than the head's
	assert_int_equal(begin_new(f, 0, 0, 0), CODE_REFUSED);
	assert_int_equal(begin_new(f, 5, 0, 0), CODE_REFUSED);
	assert_int_equal(begin_new(f, 0xFFFF, 0, 0), CODE_REFUSED);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 4, 0), CODE_REFUSED); // a flag that does not exist
	assert_int_equal(begin_new(f, CALL_EXCHANGE, CALL_F_WAIT, 0), CODE_REFUSED);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, CALL_F_WAIT, 16), CODE_REFUSED);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, CALL_F_WAIT, UINT32_MAX), CODE_REFUSED);
	assert_int_equal(f->call.stats.refused, 9);
	assert_true(f->call.area.is_registered);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
}

static void impossible_positions_end_the_registration(void **state)
{
	struct fixture *f = *state;
	static const uint32_t bad[] = { 1, 4, 3 * AREA_PAGE_PAYLOAD + 8, 0x7FFFFFF8, 0x80000000, UINT32_MAX };
	start(f);
	for (size_t i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
		uint32_t *word = i % 2 ? &f->guest.head->tx_head : &f->guest.head->rx_tail;
		fake_guest_init(&f->guest, f->ram, RAM_GPA, 1, 3, 2, next_nonce());
		assert_int_equal(do_register(f), CODE_OK);
		assert_message(f, LINK_REGISTERED);
		uint64_t refused = f->call.stats.refused;
		*word = bad[i / 2];
		assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CODE_REREGISTER);
		assert_int_equal(f->call.stats.refused, refused + 1);
		assert_ended(f, LINK_GONE_GUEST_ERROR);
	}
}

static void a_bad_record_ends_the_registration(void **state)
{
	struct fixture *f = *state;
	static const struct { uint32_t offset; uint32_t value; } bad[] = {
		{ 0, 0 }, { 0, 8 }, { 0, 23 }, { 0, RECORD_MAX + 8 }, { 0, UINT32_MAX }, { 4, 0 }, { 4, 99 },
		{ 4, 1 << 16 | KD_PACKET_DEBUG_IO }, { 12, 0 }, { 12, 0xFFFF }, { 16, UINT32_MAX }, { 16, 100 }, { 20, 1 },
	};
	start(f);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fake_guest_init(&f->guest, f->ram, RAM_GPA, 1, 3, 2, next_nonce());
		assert_int_equal(do_register(f), CODE_OK);
		assert_message(f, LINK_REGISTERED);
		put(f, KD_PACKET_DEBUG_IO, "x");
		memcpy(f->guest.pages[1] + AREA_PAGE_HEAD + bad[i].offset, &bad[i].value, sizeof(uint32_t));
		uint64_t refused = f->call.stats.refused;
		assert_int_equal(begin_wait(f), CALL_PENDING);
		assert_message(f, LINK_UNREGISTERED);
		assert_int_equal(f->message.head.code, LINK_GONE_GUEST_ERROR);
		assert_int_equal(step(f), CALL_ANSWER);
		assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
		assert_int_equal(f->call.stats.refused, refused + 1);
	}
	assert_int_equal(f->call.stats.packets_out, 0);
}

static void a_second_call_is_refused_and_changes_nothing(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	for (uint32_t fn = 0; fn < 6; fn++)
		assert_int_equal(begin(f, fn, f->guest.head->call_seq), CODE_REFUSED);
	assert_int_equal(step(f), CALL_SLEEP);
	assert_true(deliver(f));
	assert_answer(f, CODE_OK);
}

static void a_nonce_that_changes_in_a_wait_ends_it(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	memset(f->guest.pages[0], 0x77, AREA_PAGE_SIZE);
	uint8_t before[AREA_PAGE_SIZE];
	memcpy(before, f->guest.pages[0], sizeof(before));
	assert_true(deliver(f)); // it was for that wait, and is lost with it
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_RESET);
	assert_int_equal(step(f), CALL_ANSWER);
	assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
	assert_memory_equal(before, f->guest.pages[0], sizeof(before));
}

static void a_receive_page_that_changes_in_a_wait_ends_it(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	f->guest.pages[4][0] ^= 0xFF;
	assert_true(deliver(f));
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(step(f), CALL_ANSWER);
	assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
}

static void a_guest_that_takes_nothing_is_let_go(void **state)
{
	struct fixture *f = *state;
	uint32_t code = CODE_OK;
	start(f);
	for (int i = 0; i < 1000 && code == CODE_OK; i++) {
		assert_int_equal(begin_wait(f), CALL_PENDING);
		assert_message(f, LINK_WAIT);
		assert_true(deliver(f));
		while (step(f) == CALL_SEND)
			;
		code = call_answer(&f->call);
	}
	assert_int_equal(code, CODE_REREGISTER);
	assert_int_equal(f->message.head.code, LINK_GONE_GUEST_ERROR);
}

// ---- Collecting and waiting ---------------------------------------------------------------------

static void packets_come_in_order_and_the_wait_rides_on_the_last(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "one");
	put(f, KD_PACKET_STATE_CHANGE, "two");
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "one");
	assert_int_equal(f->message.head.flags, 0);
	assert_int_equal(f->message.head.seq, 1);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "two");
	assert_int_equal(f->message.head.flags, LINK_F_WAITS);
	assert_int_equal(f->message.head.want, KD_PACKET_MANIPULATE);
	assert_int_equal(f->message.head.vcpu, 3);
	assert_int_equal(f->message.head.cr3, 0x1000);
	assert_int_equal(step(f), CALL_SLEEP);
	assert_int_equal(f->guest.head->tx_done_seq, 2); // the truth is left behind during a wait
	assert_true(call_is_awaited(&f->call));
	assert_int_equal(feed(f, (struct link_head){ .type = LINK_DELIVER, .flags = LINK_F_RESUMES, .body_len = sizeof(request),
		.kd_type = KD_PACKET_MANIPULATE, .hdr_len = KD_MANIPULATE_SIZE }, request), CALL_FED_RESUMES);
	assert_false(call_is_stopped(&f->call));
	assert_answer(f, CODE_OK);
	assert_taken(f);
	assert_int_equal(f->call.stats.packets_out, 2);
	assert_int_equal(f->call.stats.packets_in, 1);
	assert_int_equal(f->call.stats.bytes_in, sizeof(request));
}

static void rings_wrap_many_times(void **state)
{
	struct fixture *f = *state;
	start(f);
	for (int i = 0; i < 2000; i++) {
		char text[200];
		memset(text, 'a' + i % 26, sizeof(text));
		text[i % 199] = 0;
		put(f, KD_PACKET_DEBUG_IO, text);
		assert_int_equal(begin_wait(f), CALL_PENDING);
		assert_packet(f, KD_PACKET_DEBUG_IO, text);
		assert_true(deliver(f));
		assert_answer(f, CODE_OK);
		assert_taken(f);
	}
}

static void delivers_that_nobody_waits_for_are_dropped(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_false(deliver(f));
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_false(deliver(f)); // the broker has not heard of the wait yet
	assert_message(f, LINK_WAIT);
	assert_false(call_deliver(&f->call, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_SIZE, request, KD_DEBUG_IO_SIZE));
	assert_false(call_deliver(&f->call, KD_PACKET_MANIPULATE, 100, request, 60));
	assert_false(call_deliver(&f->call, KD_PACKET_MANIPULATE, 56, request, RECORD_BODY_MAX + 1));
	assert_int_equal(f->call.stats.dropped_deliver, 5);
	assert_true(deliver(f));
	assert_answer(f, CODE_OK);
}

static void a_repeated_call_is_not_executed_twice(void **state)
{
	struct fixture *f = *state;
	start(f);
	call_breakin(&f->call);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_message(f, LINK_BREAKIN_TAKEN);
	assert_answer(f, CODE_BREAKIN);
	assert_int_equal(begin_same(f), CODE_BREAKIN);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
}

static void packets_sent_again_after_a_registration_are_dropped(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "once");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "once");
	assert_answer(f, CODE_OK);
	assert_int_equal(f->guest.head->tx_done_seq, 1);
	// The guest registers the same pages and, not having seen tx_tail, sends from the beginning.
	for (uint32_t i = 0; i < 6; i++)
		((struct page_head *)f->guest.pages[i])->nonce = 424242;
	f->guest.head->tx_base = 0;
	put(f, KD_PACKET_DEBUG_IO, "twice");
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "twice");
	assert_answer(f, CODE_OK);
}

static void a_restored_snapshot_registers_again(void **state)
{
	struct fixture *f = *state;
	start(f);
	uint8_t *snapshot = malloc(RAM_SIZE);
	memcpy(snapshot, f->ram, RAM_SIZE);
	struct fake_guest guest = f->guest;
	for (int i = 0; i < 3; i++) {
		put(f, KD_PACKET_DEBUG_IO, "later");
		assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
		assert_packet(f, KD_PACKET_DEBUG_IO, "later");
		assert_answer(f, CODE_OK);
	}
	memcpy(f->ram, snapshot, RAM_SIZE);
	f->guest = guest;
	put(f, KD_PACKET_DEBUG_IO, "restored");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CODE_REREGISTER);
	assert_int_equal(f->call.stats.refused, 0); // nobody's fault
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_RESET); // nothing that the broker knows of it is true any more
	// The number of the packet is one that this host has seen already, of another future.
	for (uint32_t i = 0; i < 6; i++)
		((struct page_head *)f->guest.pages[i])->nonce = 5555;
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "restored");
	assert_answer(f, CODE_OK);
	free(snapshot);
}

// A guest that spins for its answer says nothing when a snapshot of an earlier wait is put under it: the host finds out, by itself
// (call_look) or when it has something to give.
static void a_restored_wait_is_told_to_register(void **state)
{
	struct fixture *f = *state;
	for (int way = 0; way < 3; way++) {
		fake_guest_init(&f->guest, f->ram, RAM_GPA, 1, 3, 2, next_nonce());
		f->call = (struct call){ 0 };
		start(f);
		assert_int_equal(begin_wait(f), CALL_PENDING);
		assert_message(f, LINK_WAIT);
		assert_false(call_look(&f->call));
		uint8_t *snapshot = malloc(RAM_SIZE);
		memcpy(snapshot, f->ram, RAM_SIZE);
		assert_true(deliver(f));
		assert_answer(f, CODE_OK);
		assert_taken(f);
		assert_int_equal(begin_wait(f), CALL_PENDING);
		assert_message(f, LINK_WAIT);
		memcpy(f->ram, snapshot, RAM_SIZE);
		free(snapshot);
		if (way == 2)
			(void)deliver(f); // lost: it was for the other time
		else if (way)
			call_resend(&f->call);
		else
			assert_true(call_look(&f->call));
		assert_int_equal(f->guest.head->reply_seq, f->guest.head->call_seq);
		assert_int_equal(f->guest.head->reply_code, RESULT_TAG | CODE_REREGISTER);
		assert_message(f, LINK_UNREGISTERED); // who reads the stopped guest's RAM must know that this is another time's
		assert_int_equal(f->message.head.code, LINK_GONE_RESET);
		assert_int_equal(step(f), CALL_ANSWER);
		assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
		assert_false(call_is_awaited(&f->call));
		assert_int_equal(f->call.stats.packets_in, 1);
	}
}

// The snapshot is of a time before the guest registered as it is now known: its pages carry another nonce.
static void a_restored_registration_of_old_is_a_reset(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	for (uint32_t i = 0; i < 6; i++)
		((struct page_head *)f->guest.pages[i])->nonce = 777;
	assert_true(call_look(&f->call));
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_RESET);
	assert_int_equal(((struct page_head *)f->guest.pages[0])->nonce, 777);
	assert_int_equal(f->guest.head->reply_seq, f->guest.head->call_seq - 1); // nothing was written into pages of another time
}

// ---- Kicks --------------------------------------------------------------------------------------

static void a_kicked_wait_goes_on_and_is_not_told_twice(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_STATE_CHANGE, "stop");
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(step(f), CALL_SLEEP);
		call_kick(&f->call);
		assert_answer(f, CODE_RETRY);
		assert_true(call_is_awaited(&f->call));
		assert_int_equal(begin_same(f), CALL_PENDING);
	}
	assert_int_equal(step(f), CALL_SLEEP);
	assert_true(deliver(f));
	call_kick(&f->call); // too late: the answer stands
	assert_answer(f, CODE_OK);
	assert_taken(f);
	assert_int_equal(f->call.stats.retries, 3);
}

static void a_kick_before_the_packets_went_loses_none(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "one");
	put(f, KD_PACKET_STATE_CHANGE, "two");
	f->is_full = true;
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "one");
	call_kick(&f->call);
	assert_answer(f, CODE_RETRY);
	assert_int_equal(f->guest.head->tx_tail, 0);
	f->is_full = false;
	assert_int_equal(begin_same(f), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "one");
	assert_packet(f, KD_PACKET_STATE_CHANGE, "two");
	assert_int_equal(step(f), CALL_SLEEP);
}

static void a_guest_that_does_something_else_after_a_kick(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	call_kick(&f->call);
	assert_answer(f, CODE_RETRY);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
	assert_false(call_is_awaited(&f->call));
	assert_false(call_is_stopped(&f->call));
	assert_false(deliver(f));
}

// ---- Brokers come and go ------------------------------------------------------------------------

static void without_a_broker_nothing_is_collected(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(do_register(f), CODE_OK);
	put(f, KD_PACKET_DEBUG_IO, "kept");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CODE_NOBODY);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CODE_NOBODY);
	assert_int_equal(f->guest.head->tx_tail, 0);
	assert_int_equal(f->guest.head->host_flags, 0);
	attach(f);
	assert_int_equal(f->guest.head->attention, ATTENTION_CALL);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "kept");
	assert_answer(f, CODE_OK);
	assert_int_equal(f->guest.head->host_flags, HOST_F_LISTENER);
}

// After NOBODY the guest may take a question back out of its ring.
static void what_was_not_collected_may_be_withdrawn(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(do_register(f), CODE_OK);
	put(f, KD_PACKET_DEBUG_IO, "kept");
	uint32_t head = f->guest.head->tx_head;
	put(f, KD_PACKET_FILE_IO, "withdrawn");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CODE_NOBODY);
	f->guest.head->tx_head = head;
	attach(f);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "kept");
	assert_answer(f, CODE_OK);
}

static uint32_t hello_state(struct fixture *f)
{
	struct link_hello hello;
	call_hello(&f->call, 1, "vm", &hello);
	return hello.guest.state;
}

static void a_broker_learns_the_guests_state_of_that_moment(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(hello_state(f), 0); // nobody is registered
	assert_int_equal(do_register(f), CODE_OK);
	assert_int_equal(hello_state(f), 0);
	f->guest.head->guest_state = 0xFFFFFFFF; // bits that this host does not know
	assert_int_equal(hello_state(f), GUEST_PHASE1 | GUEST_NOT_PRESENT | GUEST_BOOTED_ALONE);
	f->guest.head->guest_state = GUEST_PHASE1 | GUEST_BOOTED_ALONE;
	assert_int_equal(hello_state(f), GUEST_PHASE1 | GUEST_BOOTED_ALONE);
	f->guest.head->page.nonce++; // the page is somebody else's now
	assert_int_equal(hello_state(f), 0);
}

static void a_registration_tells_the_guests_state(void **state)
{
	struct fixture *f = *state;
	struct link_guest guest;
	attach(f);
	f->guest.head->guest_state = 0xFF00 | GUEST_PHASE1 | GUEST_BOOTED_ALONE;
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	memcpy(&guest, f->message.body, sizeof(guest));
	assert_int_equal(guest.state, GUEST_PHASE1 | GUEST_BOOTED_ALONE);
}

static void a_wait_outlives_its_broker(void **state)
{
	struct fixture *f = *state;
	struct link_hello hello;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	call_broker_gone(&f->call, f->now_ms);
	f->now_ms += 3600000;
	assert_int_equal(step(f), CALL_SLEEP);
	assert_int_equal(call_deadline(&f->call), UINT64_MAX);
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.is_waiting, 1);
	assert_int_equal(hello.is_registered, 1);
	attach(f);
	assert_answer(f, CODE_RESEND);
	assert_int_equal(step(f), CALL_IDLE); // HELLO has said that a guest is registered
}

static void a_wait_that_nobody_heard_of_is_told_to_the_first_broker(void **state)
{
	struct fixture *f = *state;
	struct link_hello hello;
	assert_int_equal(do_register(f), CODE_OK);
	put(f, KD_PACKET_STATE_CHANGE, "stop");
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_int_equal(step(f), CALL_SLEEP);
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.is_waiting, 0);
	attach(f);
	assert_packet(f, KD_PACKET_STATE_CHANGE, "stop");
	assert_int_equal(f->message.head.flags, LINK_F_WAITS);
	assert_int_equal(step(f), CALL_SLEEP);
}

static void a_new_broker_during_a_kick_makes_the_wait_resend(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	call_kick(&f->call);
	assert_answer(f, CODE_RETRY);
	call_broker_gone(&f->call, f->now_ms);
	attach(f);
	assert_int_equal(begin_same(f), CODE_RESEND);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
}

static void droppable_waits_end_after_the_grace(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, CALL_F_WAIT | CALL_F_DROPPABLE, KD_PACKET_MANIPULATE), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	assert_int_equal(f->message.head.flags, LINK_F_DROPPABLE);
	f->now_ms += 100000;
	assert_int_equal(step(f), CALL_SLEEP); // the broker is there
	call_broker_gone(&f->call, f->now_ms);
	f->now_ms += CALL_GRACE_MS - 1;
	assert_int_equal(step(f), CALL_SLEEP);
	assert_int_equal(call_deadline(&f->call), f->now_ms + 1);
	f->now_ms++;
	assert_answer(f, CODE_NOBODY);
}

static void a_broker_that_goes_while_packets_are_collected(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "one");
	put(f, KD_PACKET_DEBUG_IO, "two");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "one");
	f->is_full = true;
	assert_packet(f, KD_PACKET_DEBUG_IO, "two");
	call_broker_gone(&f->call, f->now_ms);
	assert_answer(f, CODE_NOBODY);
	f->is_full = false;
	attach(f);
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "two");
	assert_answer(f, CODE_OK);
}

static void a_stalled_broker_holds_up_only_a_wait(void **state)
{
	struct fixture *f = *state;
	start(f);
	f->is_full = true;
	put(f, KD_PACKET_DEBUG_IO, "kept");
	assert_int_equal(begin_new(f, CALL_EXCHANGE, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "kept");
	assert_int_equal(call_patience(&f->call), CALL_WAITS_NOT);
	call_stall(&f->call);
	assert_answer(f, CODE_NOBODY);
	assert_int_equal(f->guest.head->tx_tail, 0);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_int_equal(call_patience(&f->call), CALL_WAITS_ON);
	f->is_full = false;
	assert_packet(f, KD_PACKET_DEBUG_IO, "kept");
	assert_int_equal(step(f), CALL_SLEEP);
}

// ---- Break-in -----------------------------------------------------------------------------------

static void a_break_in_waits_for_the_registration(void **state)
{
	struct fixture *f = *state;
	attach(f);
	call_breakin(&f->call);
	assert_int_equal(do_register(f), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(f->guest.head->attention, ATTENTION_BREAKIN);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_message(f, LINK_BREAKIN_TAKEN);
	assert_answer(f, CODE_BREAKIN);
	assert_int_equal(f->guest.head->attention, 0);
}

static void a_break_in_taken_by_attention_alone(void **state)
{
	struct fixture *f = *state;
	start(f);
	call_breakin(&f->call);
	f->guest.head->attention = 0; // the guest's poll took it, and the kernel stops
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_BREAKIN_TAKEN);
	assert_message(f, LINK_WAIT);
	assert_false(f->call.is_breakin_pending);
}

static void a_cancelled_break_in_is_gone(void **state)
{
	struct fixture *f = *state;
	start(f);
	call_breakin(&f->call);
	call_breakin_cancel(&f->call);
	assert_int_equal(f->guest.head->attention, 0);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
}

static void a_break_in_dies_with_its_broker(void **state)
{
	struct fixture *f = *state;
	start(f);
	call_breakin(&f->call);
	call_broker_gone(&f->call, f->now_ms);
	assert_int_equal(f->guest.head->attention, 0);
	attach(f);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
}

// ---- Ends ---------------------------------------------------------------------------------------

static void unregister_collects_first(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "goodbye");
	assert_int_equal(begin_new(f, CALL_UNREGISTER, 0, 0), CALL_PENDING);
	assert_packet(f, KD_PACKET_DEBUG_IO, "goodbye");
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_BYE);
	assert_answer(f, CODE_OK);
	assert_int_equal(begin_new(f, CALL_POLL, 0, 0), CODE_REREGISTER);
}

static void unregister_without_a_broker(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(do_register(f), CODE_OK);
	put(f, KD_PACKET_DEBUG_IO, "goodbye");
	assert_int_equal(begin_new(f, CALL_UNREGISTER, 0, 0), CALL_PENDING);
	assert_answer(f, CODE_OK);
	assert_false(f->call.area.is_registered);
}

static void an_end_collects_the_last_words(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	put(f, KD_PACKET_DEBUG_IO, "last");
	uint8_t *before = malloc(RAM_SIZE);
	memcpy(before, f->ram, RAM_SIZE);
	call_end(&f->call, LINK_GONE_RESET);
	assert_packet(f, KD_PACKET_DEBUG_IO, "last");
	assert_message(f, LINK_UNREGISTERED);
	assert_int_equal(f->message.head.code, LINK_GONE_RESET);
	assert_int_equal(step(f), CALL_ANSWER);
	assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
	assert_memory_equal(before, f->ram, RAM_SIZE); // the firmware's now
	free(before);
}

static void an_end_with_a_full_broker_does_not_hold_the_vcpu(void **state)
{
	struct fixture *f = *state;
	start(f);
	assert_int_equal(begin_wait(f), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	put(f, KD_PACKET_DEBUG_IO, "last");
	f->is_full = true;
	call_end(&f->call, LINK_GONE_RESET);
	assert_packet(f, KD_PACKET_DEBUG_IO, "last");
	assert_true(call_is_answered(&f->call));
	assert_int_equal(call_answer(&f->call), CODE_REREGISTER);
	// The new guest registers before the broker reads again: the old ring is given up.
	fake_guest_init(&f->guest, f->ram, RAM_GPA, 1, 3, 2, next_nonce());
	assert_int_equal(do_register(f), CODE_OK);
	f->is_full = false;
	assert_message(f, LINK_UNREGISTERED);
	assert_message(f, LINK_REGISTERED);
	assert_int_equal(step(f), CALL_IDLE);
}

static void a_cut_is_at_once(void **state)
{
	struct fixture *f = *state;
	start(f);
	put(f, KD_PACKET_DEBUG_IO, "lost");
	call_cut(&f->call, LINK_GONE_AREA);
	assert_ended(f, LINK_GONE_AREA);
	call_cut(&f->call, LINK_GONE_AREA);
	assert_int_equal(step(f), CALL_IDLE); // once is enough
}

// ---- The link -----------------------------------------------------------------------------------

static void messages_that_cannot_be_close_the_link(void **state)
{
	struct fixture *f = *state;
	static const struct link_head before_attach[] = {
		{ .type = LINK_BREAKIN }, { .type = LINK_DELIVER }, { .type = LINK_STATS_GET }, { .type = 0 },
	};
	for (size_t i = 0; i < sizeof(before_attach) / sizeof(before_attach[0]); i++)
		assert_int_equal(feed(f, before_attach[i], NULL), CALL_E_LINK);
	assert_int_equal(feed(f, (struct link_head){ .type = LINK_ATTACH, .seq = 9 }, NULL), CALL_E_LINK_VERSION);
	attach(f);
	static const struct link_head bad[] = {
		{ .type = LINK_ATTACH, .seq = LINK_VERSION }, { .type = LINK_PACKET }, { .type = 0xFFFF },
		{ .type = LINK_BREAKIN, .reserved = 1 }, { .type = LINK_BREAKIN, .reserved2 = 1 },
		{ .type = LINK_DELIVER, .hdr_len = 1 },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(feed(f, bad[i], NULL), CALL_E_LINK);
	struct link_head lies = { .type = LINK_DELIVER, .body_len = 10 };
	assert_int_equal(call_feed(&f->call, &lies, sizeof(lies)), CALL_E_LINK);
	lies.body_len = UINT32_MAX;
	assert_int_equal(call_feed(&f->call, &lies, sizeof(lies)), CALL_E_LINK);
	assert_int_equal(call_feed(&f->call, &lies, 63), CALL_E_LINK);
	assert_int_equal(call_feed(&f->call, &lies, 0), CALL_E_LINK);
}

static void statistics_are_answered(void **state)
{
	struct fixture *f = *state;
	struct link_stats stats;
	start(f);
	assert_int_equal(feed(f, (struct link_head){ .type = LINK_STATS_GET }, NULL), CALL_FED);
	assert_message(f, LINK_STATS);
	assert_int_equal(f->message.head.body_len, sizeof(stats));
	memcpy(&stats, f->message.body, sizeof(stats));
	assert_int_equal(stats.registrations, 1);
	assert_int_equal(stats.port_calls, 1);
	assert_int_equal(stats.last_call_ms, f->now_ms);
}

// Who looks at the greeting learns whether the guest calls, and when it did last.
static void a_greeting_tells_of_calls(void **state)
{
	struct fixture *f = *state;
	struct link_hello hello;
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.port_calls, 0);
	assert_int_equal(hello.last_call_ms, 0);
	start(f);
	call_hello(&f->call, 1, "vm", &hello);
	assert_int_equal(hello.port_calls, 1);
	assert_int_equal(hello.last_call_ms, f->now_ms);
}

static void debugcon_takes_the_call_from_the_head(void **state)
{
	struct fixture *f = *state;
	struct call_args args;
	assert_int_equal(call_args_from_head(&f->call, &args), AREA_E_LOST);
	call_broker_came(&f->call);
	const struct call_args hello = { .fn = CALL_REGISTER, .head = fake_guest_head(&f->guest), .vcpu = UINT32_MAX };
	f->guest.head->call_fn = CALL_REGISTER;
	assert_int_equal(call_begin(&f->call, &f->map, &hello, 0), CODE_OK);
	assert_message(f, LINK_REGISTERED);
	f->guest.head->cr3 = 0x777000;
	f->guest.head->ring_seq = 9;
	(void)fake_guest_call(&f->guest, CALL_EXCHANGE, CALL_F_WAIT, KD_PACKET_MANIPULATE);
	assert_int_equal(call_args_from_head(&f->call, &args), AREA_OK);
	assert_int_equal(f->guest.head->ring_seen, 9);
	assert_int_equal(call_begin(&f->call, &f->map, &args, 0), CALL_PENDING);
	assert_message(f, LINK_WAIT);
	assert_int_equal(f->message.head.cr3, 0x777000);
	assert_int_equal(f->message.head.vcpu, UINT32_MAX);
	assert_true(deliver(f));
	assert_answer(f, CODE_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(calls_without_a_registration_ask_for_one),
		TEST(registrations_that_cannot_be_are_refused),
		TEST(another_major_version_is_told_ours),
		TEST(another_major_version_is_told_to_the_broker),
		TEST(arguments_that_cannot_be_are_refused),
		TEST(impossible_positions_end_the_registration),
		TEST(a_bad_record_ends_the_registration),
		TEST(a_second_call_is_refused_and_changes_nothing),
		TEST(a_nonce_that_changes_in_a_wait_ends_it),
		TEST(a_receive_page_that_changes_in_a_wait_ends_it),
		TEST(a_guest_that_takes_nothing_is_let_go),
		TEST(packets_come_in_order_and_the_wait_rides_on_the_last),
		TEST(rings_wrap_many_times),
		TEST(delivers_that_nobody_waits_for_are_dropped),
		TEST(a_repeated_call_is_not_executed_twice),
		TEST(packets_sent_again_after_a_registration_are_dropped),
		TEST(a_restored_snapshot_registers_again),
		TEST(a_restored_wait_is_told_to_register),
		TEST(a_restored_registration_of_old_is_a_reset),
		TEST(a_kicked_wait_goes_on_and_is_not_told_twice),
		TEST(a_kick_before_the_packets_went_loses_none),
		TEST(a_guest_that_does_something_else_after_a_kick),
		TEST(without_a_broker_nothing_is_collected),
		TEST(what_was_not_collected_may_be_withdrawn),
		TEST(a_broker_learns_the_guests_state_of_that_moment),
		TEST(a_registration_tells_the_guests_state),
		TEST(a_wait_outlives_its_broker),
		TEST(a_wait_that_nobody_heard_of_is_told_to_the_first_broker),
		TEST(a_new_broker_during_a_kick_makes_the_wait_resend),
		TEST(droppable_waits_end_after_the_grace),
		TEST(a_broker_that_goes_while_packets_are_collected),
		TEST(a_stalled_broker_holds_up_only_a_wait),
		TEST(a_break_in_waits_for_the_registration),
		TEST(a_break_in_taken_by_attention_alone),
		TEST(a_cancelled_break_in_is_gone),
		TEST(a_break_in_dies_with_its_broker),
		TEST(unregister_collects_first),
		TEST(unregister_without_a_broker),
		TEST(an_end_collects_the_last_words),
		TEST(an_end_with_a_full_broker_does_not_hold_the_vcpu),
		TEST(a_cut_is_at_once),
		TEST(messages_that_cannot_be_close_the_link),
		TEST(statistics_are_answered),
		TEST(a_greeting_tells_of_calls),
		TEST(debugcon_takes_the_call_from_the_head),
	};
	return cmocka_run_group_tests_name("call", tests, NULL, NULL) ? 1 : 0;
}
