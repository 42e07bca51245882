// SPDX-License-Identifier: MIT
// Everything that can go wrong around the transport: answers that do not fit, words that cannot be, hosts that vanish. Each
// test ends with the proof that the module works again as soon as the host does.
#include "guest/kdvmkd/testtools.h"

typedef void (*step_fn)(void);

static void step_start(void) { transport_start(enter()); }
static void step_phase1(void) { transport_phase1(enter()); }
static void step_sleep(void) { transport_sleep(enter()); }
static void step_wake(void) { transport_wake(enter()); }
static void step_suspect(void) { transport_suspect(enter()); }
static void step_print(void) { send_print(64); }
static void step_big_print(void) { for (int i = 0; i < 10; i++) send_print(3900); }
static void step_load(void) { send_load(); }
static void step_exception(void) { send_exception(); }
static void step_reply(void) { send_reply(3944); }
static void step_receive(void) { (void)receive(); } // any code is fine here
static void step_poll(void) { pass_second(); (void)poll(); } // as above
static void step_move(void) { fake_move(&bench.h); }

static const step_fn steps[] = { step_start, step_phase1, step_sleep, step_wake, step_suspect, step_print, step_big_print, step_load,
                                 step_exception, step_reply, step_receive, step_poll, step_move };
#define STEP_COUNT (sizeof(steps) / sizeof(steps[0]))

static const uint32_t answers[] = { CODE_OK, CODE_RETRY, CODE_TIMEOUT, CODE_RESEND, CODE_REREGISTER, CODE_NOBODY, CODE_VERSION,
                                    CODE_REFUSED, CODE_BREAKIN, 9, 0x1234, 0xFFFF, FAKE_NO_TAG };
#define ANSWER_COUNT (sizeof(answers) / sizeof(answers[0]))

// Every code as the answer to one, some and all calls of every step, by both ways.
static void any_answer_at_any_step(void **state)
{
	(void)state;
	for (uint32_t way = 0; way < 2; way++) {
		for (size_t s = 0; s < STEP_COUNT; s++) {
			for (size_t a = 0; a < ANSWER_COUNT; a++) {
				for (uint32_t repeats = 1; repeats <= 5; repeats += 2) {
					start(way == 0, way == 1);
					for (uint32_t i = 0; i < repeats; i++)
						fake_script(&bench.h, answers[a]);
					steps[s]();
					assert_true(bench.h.calls < 2 * RETRY_MAX);
					assert_int_equal(bench.h.protocol_errors, 0);
					assert_works();
					assert_int_equal(bench.h.protocol_errors, 0);
				}
			}
		}
	}
}

static uint32_t relentless;

static void answer_always(struct fakehost *h, struct area_head *head, uint32_t fn)
{
	(void)head;
	(void)fn;
	fake_script(h, relentless);
}

// The same answer for ever must end every step after a bounded number of calls.
static void relentless_answers_hang_nothing(void **state)
{
	(void)state;
	for (uint32_t way = 0; way < 2; way++) {
		for (size_t s = 0; s < STEP_COUNT; s++) {
			for (size_t a = 0; a < ANSWER_COUNT; a++) {
				start(way == 0, way == 1);
				relentless = answers[a];
				fake_script(&bench.h, relentless);
				bench.h.tamper = answer_always;
				steps[s]();
				steps[s]();
				assert_true(bench.h.calls < 100 * RETRY_MAX); // step_big_print makes 10 entries
				assert_works();
			}
		}
	}
}

// Two steps with a page move in between, in every order.
static void pages_may_move_between_any_two_steps(void **state)
{
	(void)state;
	for (uint32_t way = 0; way < 2; way++) {
		for (size_t a = 0; a < STEP_COUNT; a++) {
			for (size_t b = 0; b < STEP_COUNT; b++) {
				start(way == 0, way == 1);
				steps[a]();
				fake_move(&bench.h);
				steps[b]();
				step_poll();
				if (steps[a] != step_move && steps[b] != step_move)
					assert_true(fake_is_old_memory_untouched(&bench.h));
				assert_works();
				assert_int_equal(bench.h.protocol_errors, 0);
			}
		}
	}
}

static uint32_t hostile_word;

static void tamper_tx_tail(struct fakehost *h, struct area_head *head, uint32_t fn) { (void)h; (void)fn; head->tx_tail = hostile_word; }
static void tamper_rx_head(struct fakehost *h, struct area_head *head, uint32_t fn) { (void)h; (void)fn; head->rx_head = hostile_word; }

static void impossible_positions_are_refused(void **state)
{
	(void)state;
	static const uint32_t words[] = { 1, 4, 7, 8, 24, 0x1000, 0x7FFFFFF8, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF };
	for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
		for (size_t s = 0; s < STEP_COUNT; s++) {
			for (uint32_t which = 0; which < 2; which++) {
				start(true, false);
				hostile_word = words[w];
				bench.h.tamper = which ? tamper_tx_tail : tamper_rx_head;
				steps[s]();
				steps[s]();
				assert_works();
			}
		}
	}
}

static void impossible_tail_is_counted(void **state)
{
	(void)state;
	start(true, false);
	hostile_word = 0x1000;
	bench.h.tamper = tamper_tx_tail;
	step_poll();
	assert_int_not_equal(bench.t.area.refused, 0);
	assert_int_equal(fake_head(&bench.h)->refused, bench.t.area.refused);
}

// The record that the host has put is damaged before the guest reads it.
static uint32_t damage_at;
static void tamper_record(struct fakehost *h, struct area_head *head, uint32_t fn)
{
	(void)head;
	if (fn == CALL_EXCHANGE && h->is_registered)
		h->page[1 + AREA_TX_PAGES][AREA_PAGE_HEAD + damage_at] ^= 0xFF;
}

static void damaged_records_are_refused(void **state)
{
	(void)state;
	// len, kd_type, flags, hdr_len, reserved, data_len, reserved2
	static const uint32_t fields[] = { 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23 };
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		start(true, false);
		send_exception();
		queue_request(1, 100);
		damage_at = fields[i];
		bench.h.tamper = tamper_record;
		assert_int_not_equal(receive(), RECEIVE_OK);
		assert_int_not_equal(bench.t.area.refused, 0);
		assert_works();
	}
}

// A record that no host can read must not end the link for ever: nothing behind it would ever be collected.
static void torn_record_is_given_up(void **state)
{
	(void)state;
	start(true, false);
	send_print(64);
	bench.t.area.page[1][AREA_PAGE_HEAD + (bench.t.area.tx.tail + 4) % AREA_PAGE_PAYLOAD] ^= 0xFF;
	pass_calm();
	for (uint32_t i = 0; i < 3; i++)
		assert_false(poll());
	assert_int_equal(bench.t.area.dropped, 1);
	assert_works();
}

static void packets_of_another_type_are_refused(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	uint8_t body[KD_FILE_IO_SIZE] = { 0 };
	fake_queue(&bench.h, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_SIZE, body, KD_DEBUG_IO_SIZE);
	fake_queue(&bench.h, KD_PACKET_FILE_IO, KD_FILE_IO_SIZE, body, KD_FILE_IO_SIZE); // long enough to pass for a request
	queue_request(7, 0);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(bench.t.area.refused, 1);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(bench.t.area.refused, 2);
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(received_hdr[0], 7);
}

static void packets_that_do_not_fit_are_refused(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	queue_request(7, 101);
	uint8_t hdr[KD_MANIPULATE_SIZE], data[102];
	memset(data, 0x11, sizeof(data));
	struct receive_buffer b = { .hdr = hdr, .hdr_size = sizeof(hdr), .data = data, .data_size = 100 };
	assert_int_equal(transport_receive(enter(), KD_PACKET_MANIPULATE, &b), RECEIVE_TIMEOUT);
	assert_int_equal(data[0], 0x11);
	assert_int_equal(bench.t.area.refused, 1);
	queue_request(7, 1);
	struct receive_buffer none = { .hdr = hdr, .hdr_size = sizeof(hdr) };
	assert_int_equal(transport_receive(enter(), KD_PACKET_MANIPULATE, &none), RECEIVE_TIMEOUT);
	queue_request(7, 0);
	struct receive_buffer long_header = { .hdr = data, .hdr_size = KD_MANIPULATE_SIZE + 1, .data = hdr, .data_size = 10 };
	assert_int_equal(transport_receive(enter(), KD_PACKET_MANIPULATE, &long_header), RECEIVE_TIMEOUT);
	assert_int_equal(data[0], 0x11);
	assert_int_equal(bench.t.area.refused, 3);
	assert_works();
}

static void repeated_packet_is_dropped(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	queue_request(1, 0);
	assert_int_equal(receive(), RECEIVE_OK);
	bench.h.rx_seq--; // the host, after a restart, gives the same packet once more
	queue_request(1, 0);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	queue_request(2, 0);
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(received_hdr[0], 2);
}

// As a migration leaves it that has brought the ring's page of an earlier lap: a record with everything right but its number.
static void packet_of_an_earlier_lap_is_refused(void **state)
{
	(void)state;
	for (uint32_t back = 2; back < 200; back += 49) {
		start(true, false);
		for (uint32_t i = 0; i < 200; i++) {
			queue_request(1, 20);
			assert_int_equal(receive(), RECEIVE_OK);
		}
		bench.h.rx_seq -= back;
		queue_request(2, 20);
		assert_int_not_equal(receive(), RECEIVE_OK);
		assert_int_equal(bench.t.area.refused, 1);
		assert_works();
	}
}

static void oversized_send_is_refused(void **state)
{
	(void)state;
	start(true, false);
	uint32_t used = ring_used(&bench.t.area.tx);
	send_reply(3945);
	send(KD_PACKET_MANIPULATE, 0, 55, 0);
	send(6, 0, 16, 0);
	assert_int_equal(ring_used(&bench.t.area.tx), used);
	assert_int_equal(bench.t.area.refused, 3);
	assert_works();
}

static void tamper_tag(struct fakehost *h, struct area_head *head, uint32_t fn)
{
	(void)h;
	(void)fn;
	head->reply_code &= ~RESULT_TAG_MASK;
}

static void answer_without_tag_is_none(void **state)
{
	(void)state;
	start(false, true);
	bench.h.is_breakin = true;
	bench.h.tamper = tamper_tag;
	pass_second();
	assert_false(poll());
	assert_int_not_equal(bench.t.area.refused, 0);
	bench.h.is_breakin = false;
	assert_works();
}

static void version_mismatch_is_no_link(void **state)
{
	(void)state;
	setup(true, false);
	fake_script(&bench.h, CODE_VERSION);
	transport_start(enter());
	assert_int_equal(bench.t.link, LINK_NONE);
	assert_false(bench.h.is_present);
	send_print(10);
	assert_int_equal(bench.t.area.dropped, 1);
	uint32_t calls = bench.h.calls;
	for (uint32_t i = 0; i < VERSION_SECONDS; i++) { // probes slowly
		pass_second();
		assert_false(poll());
	}
	assert_int_equal(bench.h.calls, calls);
	pass_second();
	assert_false(poll());
	assert_int_equal(bench.t.link, LINK_PORTCALL);
	assert_works();
}

static void hellos_keep_to_their_budget(void **state)
{
	(void)state;
	setup(false, true);
	bench.h.is_deaf = true;
	transport_start(enter());
	for (uint32_t i = 0; i < 50; i++) {
		pass_second();
		assert_false(poll());
		send_print(10);
	}
	assert_int_equal(bench.h.hellos, HELLO_BUDGET);
	assert_int_equal(bench.h.bytes, HELLO_BUDGET * DOORBELL_HELLO_LEN);
	assert_false(bench.h.is_present);
	// A host that attaches late finds the head in memory, sees it live, and asks.
	uint32_t polls = fake_head(&bench.h)->poll_count;
	assert_false(poll());
	assert_int_equal(fake_head(&bench.h)->poll_count, polls + 1);
	bench.h.is_deaf = false;
	fake_head(&bench.h)->attention = ATTENTION_CALL;
	assert_false(poll());
	assert_int_equal(bench.t.link, LINK_DEBUGCON);
	assert_true(bench.h.is_present);
	assert_works();
}

// Debugcon: prints for a slow debugger, 3 seconds for what one call brings. And for one that has stopped.
static void slow_host_is_waited_for(void **state)
{
	(void)state;
	start(false, true);
	for (uint32_t takes = 6; takes <= 60; takes += 54) {
		bench.h.is_slow = true;
		bench.h.slow_takes = takes;
		bench.h.slow_cycles = bench.h.cycles;
		uint64_t before = bench.h.cycles;
		for (uint32_t i = 0; i < 160 && bench.h.is_present; i++)
			send_print(64);
		assert_int_equal(bench.h.is_present, takes == 6); // half a minute is too long
		assert_true(bench.h.cycles - before < (REPLY_TURNS_MAX + 2) * REPLY_CYCLES);
	}
	assert_int_equal(bench.t.area.dropped, 0);
	bench.h.slow_takes = 0;
	fake_answer_late(&bench.h);
	assert_works();
}

static void late_answer_to_a_hello_counts(void **state)
{
	(void)state;
	setup(false, true);
	bench.h.is_slow = true;
	transport_start(enter());
	assert_int_equal(bench.t.link, LINK_NONE);
	fake_answer_late(&bench.h);
	assert_false(poll());
	assert_int_equal(bench.t.link, LINK_DEBUGCON);
	assert_int_equal(bench.h.hellos, 1);
	assert_works();
}

static void unread_doorbell_is_not_rung_again(void **state)
{
	(void)state;
	start(false, true);
	bench.h.is_deaf = true;
	uint32_t rings = bench.h.rings, hellos = bench.h.hellos;
	pass_second();
	assert_false(poll());
	send_load();
	assert_int_equal(bench.h.rings, rings + 1);
	assert_int_equal(bench.h.hellos, hellos);
	assert_false(bench.h.is_present);
	uint64_t before = bench.h.cycles;
	send_load(); // a second vain call looks and does not spin
	assert_true(bench.h.cycles - before < RING_CYCLES / 10);
	fake_answer_late(&bench.h); // it reads again
	assert_works();
}

static void breakin_that_comes_late_is_not_lost(void **state)
{
	(void)state;
	start(false, true);
	bench.h.is_slow = true;
	bench.h.is_breakin = true;
	pass_second();
	assert_false(poll());
	fake_answer_late(&bench.h);
	assert_true(poll());
	assert_false(poll());
	bench.h.is_slow = bench.h.is_breakin = true;
	pass_second();
	assert_false(poll());
	fake_answer_late(&bench.h);
	send_load(); // another call takes the place of the poll
	assert_true(poll());
	assert_works();
}

static void new_host_during_a_wait_is_heard(void **state)
{
	(void)state;
	start(false, true);
	send_exception();
	bench.h.is_slow = true;
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	bench.h.is_slow = false; // the one that read the doorbell is gone; a new one asks
	fake_forget(&bench.h);
	fake_head(&bench.h)->attention = ATTENTION_CALL;
	assert_int_equal(receive(), RECEIVE_RESEND);
	assert_works();
}

static void restored_snapshot_registers_and_repeats(void **state)
{
	(void)state;
	static struct bench snapshot;
	start(true, false);
	send_exception();
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	snapshot = bench;
	for (uint32_t i = 0; i < 20; i++) { // another future
		queue_request((uint8_t)i, 10);
		assert_int_equal(receive(), RECEIVE_OK);
		send_reply(10);
	}
	uint64_t cycles = bench.h.cycles;
	bench.t = snapshot.t;
	memcpy(bench.h.memory, snapshot.h.memory, sizeof(bench.h.memory));
	bench.h.cycles = cycles;
	fake_forget(&bench.h); // the host has seen that memory went back
	queue_request(0x77, 10);
	assert_int_equal(receive(), RECEIVE_RESEND);
	uint32_t got = bench.h.got_count;
	send_exception();
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(received_hdr[0], 0x77);
	assert_int_equal(bench.h.got_count, got + 1); // the state change came once
	assert_works();
	assert_int_equal(bench.h.protocol_errors, 0); // no nonce was used twice
}

static void impossible_done_word_loses_nothing(void **state)
{
	(void)state;
	start(true, false);
	fake_head(&bench.h)->tx_done_seq = 0x7000;
	fake_forget(&bench.h);
	uint32_t got = bench.h.got_count;
	send_print(8);
	pass_calm();
	assert_false(poll());
	assert_int_equal(bench.h.got_count, got + 1);
}

static void done_word_from_the_future_is_noticed(void **state)
{
	(void)state;
	start(true, false);
	bench.h.tx_done_seq = 1000; // of another history
	step_poll();
	assert_int_equal(bench.t.area.refused, 1);
	uint32_t got = bench.h.got_count;
	send_print(8);
	step_poll();
	assert_int_equal(bench.h.got_count, got + 1);
	assert_works();
}

static void nested_entry_is_refused(void **state)
{
	(void)state;
	start(true, false);
	assert_true(transport_enter(enter()));
	uint32_t calls = bench.h.calls;
	assert_false(poll());
	send_print(10);
	transport_sleep(enter());
	assert_int_equal(bench.h.calls, calls);
	assert_int_equal(bench.t.area.dropped, 1);
	send_exception(); // must not be refused: takes over after a while
	queue_request(3, 0);
	uint32_t code = receive();
	if (code == RECEIVE_RESEND) {
		send_exception();
		code = receive();
	}
	assert_int_equal(code, RECEIVE_OK);
	bench.t.area.refused = 0;
	assert_works();
}

static void spins_end_without_a_clock(void **state)
{
	(void)state;
	setup(false, true);
	bench.h.cycles_per_look = 0;
	bench.h.is_deaf = true;
	transport_start(enter());
	assert_int_equal(bench.t.link, LINK_NONE);
}

static void vanished_hook_is_no_link(void **state)
{
	(void)state;
	start(true, false);
	bench.h.has_hook = false;
	pass_second();
	assert_false(poll());
	assert_int_equal(bench.t.link, LINK_NONE);
	send_exception();
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(receive(), RECEIVE_TIMEOUT);
	bench.h.has_hook = true;
	queue_request(9, 0);
	uint32_t code = RECEIVE_TIMEOUT;
	for (uint32_t i = 0; i < 20000 && code == RECEIVE_TIMEOUT; i++) {
		bench.h.cycles += 1000000;
		code = receive();
	}
	assert_int_equal(code, RECEIVE_RESEND);
	assert_works();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_answer_at_any_step),
		cmocka_unit_test(relentless_answers_hang_nothing),
		cmocka_unit_test(pages_may_move_between_any_two_steps),
		cmocka_unit_test(impossible_positions_are_refused),
		cmocka_unit_test(impossible_tail_is_counted),
		cmocka_unit_test(damaged_records_are_refused),
		cmocka_unit_test(torn_record_is_given_up),
		cmocka_unit_test(packets_of_another_type_are_refused),
		cmocka_unit_test(packets_that_do_not_fit_are_refused),
		cmocka_unit_test(repeated_packet_is_dropped),
		cmocka_unit_test(packet_of_an_earlier_lap_is_refused),
		cmocka_unit_test(oversized_send_is_refused),
		cmocka_unit_test(answer_without_tag_is_none),
		cmocka_unit_test(version_mismatch_is_no_link),
		cmocka_unit_test(hellos_keep_to_their_budget),
		cmocka_unit_test(slow_host_is_waited_for),
		cmocka_unit_test(late_answer_to_a_hello_counts),
		cmocka_unit_test(unread_doorbell_is_not_rung_again),
		cmocka_unit_test(breakin_that_comes_late_is_not_lost),
		cmocka_unit_test(new_host_during_a_wait_is_heard),
		cmocka_unit_test(restored_snapshot_registers_and_repeats),
		cmocka_unit_test(impossible_done_word_loses_nothing),
		cmocka_unit_test(done_word_from_the_future_is_noticed),
		cmocka_unit_test(nested_entry_is_refused),
		cmocka_unit_test(spins_end_without_a_clock),
		cmocka_unit_test(vanished_hook_is_no_link),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
