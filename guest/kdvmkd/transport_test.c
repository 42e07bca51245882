// SPDX-License-Identifier: MIT
// What the transport does when all is well: links, dialogues, and above all how few calls it makes.
#include "guest/kdvmkd/testtools.h"

static void port_call_comes_first(void **state)
{
	(void)state;
	start(true, true);
	assert_int_equal(bench.t.link, LINK_PORTCALL);
	assert_int_equal(bench.h.bytes, 0);
	assert_works();
}

static void debugcon_is_found(void **state)
{
	(void)state;
	start(false, true);
	assert_int_equal(bench.t.link, LINK_DEBUGCON);
	assert_int_equal(bench.h.hellos, 1);
	assert_works();
	assert_int_equal(bench.h.hellos, 1);
	assert_int_equal(bench.h.protocol_errors, 0);
}

static void no_link_tells_the_kernel(void **state)
{
	(void)state;
	start(false, false);
	assert_false(bench.h.is_present);
	for (uint32_t i = 0; i < 10; i++)
		send_print(10);
	send_load();
	assert_int_equal(bench.t.area.dropped, 11);
	assert_false(poll());
	bench.h.has_hook = true;
	assert_false(poll());
	assert_int_equal(bench.h.calls, 0); // not yet a second
	pass_second();
	assert_false(poll());
	assert_int_equal(bench.h.calls_of[CALL_REGISTER], 1);
	assert_true(bench.h.is_present);
	assert_works();
}

static void idle_guest_makes_heartbeats_only(void **state)
{
	(void)state;
	static const uint32_t rates[] = { 64, 100, 1000 };
	for (uint32_t r = 0; r < 3; r++) {
		start(true, false);
		uint32_t before = bench.h.calls;
		for (uint32_t i = 0; i < 60 * rates[r]; i++) {
			bench.h.interrupt_time += SECOND_100NS / rates[r];
			assert_false(poll());
		}
		assert_in_range(bench.h.calls - before, 58, 61);
		assert_int_equal(bench.h.calls - before, bench.h.calls_of[CALL_POLL]);
	}
}

static void heartbeats_need_no_interrupt_time(void **state)
{
	(void)state;
	start(true, false);
	uint32_t before = bench.h.calls;
	for (uint32_t i = 0; i < 1000; i++) {
		bench.h.cycles += SECOND_CYCLES / 100;
		assert_false(poll());
	}
	assert_in_range(bench.h.calls - before, 8, 11);
}

static void polls_are_calls_until_phase_1(void **state)
{
	(void)state;
	setup(true, false);
	transport_start(enter());
	for (uint32_t i = 0; i < 50; i++)
		assert_false(poll());
	assert_int_equal(bench.h.calls_of[CALL_POLL], 50);
	transport_phase1(enter());
	assert_int_equal(fake_head(&bench.h)->guest_state & GUEST_PHASE1, GUEST_PHASE1);
	for (uint32_t i = 0; i < 50; i++)
		assert_false(poll());
	assert_int_equal(bench.h.calls_of[CALL_POLL], 50);
}

static void boot_ends_without_being_told(void **state)
{
	(void)state;
	setup(true, false);
	transport_start(enter());
	for (uint32_t i = 0; i < PHASE1_SECONDS; i++) {
		pass_second();
		assert_false(poll());
	}
	uint32_t calls = bench.h.calls;
	assert_false(poll());
	assert_int_equal(bench.h.calls, calls);
}

static void prints_ride_on_the_tick(void **state)
{
	(void)state;
	start(true, false);
	uint32_t before = bench.h.calls;
	for (uint32_t i = 0; i < 100; i++)
		send_print(64);
	assert_int_equal(bench.h.calls, before);
	assert_false(poll()); // there was more a moment ago: perhaps there is more to come
	assert_int_equal(bench.h.calls, before);
	pass_calm();
	assert_false(poll());
	assert_int_equal(bench.h.calls, before + 1);
	assert_int_equal(bench.h.got_count, 100);
	assert_false(poll());
	assert_int_equal(bench.h.calls, before + 1);
}

// A machine that prints three lines between two ticks and never stops.
static void slow_flood_is_not_collected_at_each_tick(void **state)
{
	(void)state;
	start(true, false);
	uint32_t before = bench.h.calls;
	for (uint32_t tick = 0; tick < 640; tick++) {
		bench.h.interrupt_time += SECOND_100NS / 64;
		for (uint32_t i = 0; i < tick % 4 * 2; i++) // also none
			send_print(64);
		assert_false(poll());
	}
	assert_in_range(bench.h.calls - before, 1920 / 157, 1920 / 150 + 1); // half-full rings; no heartbeat in between
	pass_calm();
	assert_false(poll());
	assert_int_equal(bench.h.got_count, 1920);
}

// What comes line by line is shown line by line; what comes faster, but does not fill the ring, is late by a second at most.
static void trickle_is_collected(void **state)
{
	(void)state;
	start(true, false);
	for (uint32_t tick = 0; tick < 100; tick++) {
		pass_calm();
		send_print(64);
		assert_false(poll());
		assert_int_equal(bench.h.got_count, tick + 1);
	}
	for (uint32_t tick = 0; tick < 65; tick++) {
		bench.h.interrupt_time += SECOND_100NS / 64;
		for (uint32_t i = 0; i < 2; i++)
			send_print(8);
		assert_false(poll());
	}
	assert_in_range(bench.h.got_count, 100 + 2, 100 + 2 * 65);
}

static void half_full_ring_is_collected(void **state)
{
	(void)state;
	start(true, false);
	for (uint32_t i = 0; i < 1000; i++)
		send_print(64);
	// 104 bytes each, a call per 16320 bytes
	assert_in_range(bench.h.calls_of[CALL_EXCHANGE], 5, 7);
	pass_calm();
	assert_false(poll());
	assert_int_equal(bench.h.got_count, 1000);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(bench.h.got[i].seq, bench.h.got[0].seq + i);
	assert_int_equal(bench.t.area.dropped, 0);
}

static void one_call_per_transaction(void **state)
{
	(void)state;
	start(true, false);
	uint32_t before = bench.h.calls;
	send_exception();
	for (uint32_t i = 0; i < 50; i++) {
		queue_request((uint8_t)i, i * 78);
		assert_int_equal(receive(), RECEIVE_OK);
		assert_int_equal(received_hdr[55], i);
		assert_int_equal(received_len, i * 78);
		send_reply(3944);
	}
	assert_int_equal(bench.h.calls - before, 50);
	assert_int_equal(bench.h.got_count, 50); // the last reply is still in the ring
}

static void wait_carries_control_registers(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(fake_head(&bench.h)->cr3, 0x1aa000);
	assert_int_equal(fake_head(&bench.h)->efer, 0xd01);
	assert_int_equal(bench.h.last_want, KD_PACKET_MANIPULATE);
	assert_int_equal(bench.h.last_flags, CALL_F_WAIT);
}

static void retried_call_keeps_its_number(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	fake_script(&bench.h, CODE_RETRY);
	fake_script(&bench.h, CODE_RETRY);
	queue_request(1, 0);
	uint32_t calls = bench.h.calls, seq = bench.t.area.call_seq;
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(bench.h.calls, calls + 3);
	assert_int_equal(bench.h.last_seq, seq + 1);
}

static void host_codes_become_kernel_codes(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	fake_script(&bench.h, CODE_TIMEOUT);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	fake_script(&bench.h, CODE_RESEND);
	assert_int_equal(receive(), RECEIVE_RESEND);
	fake_script(&bench.h, CODE_REREGISTER);
	assert_int_equal(receive(), RECEIVE_RESEND);
	assert_int_equal(bench.h.calls_of[CALL_REGISTER], 2);
}

static void breakin_is_reported_once(void **state)
{
	(void)state;
	start(true, false);
	bench.h.is_breakin = true;
	assert_false(poll()); // nobody has raised the flag, and no second has passed
	fake_head(&bench.h)->attention = ATTENTION_BREAKIN;
	assert_true(poll());
	assert_int_equal(fake_head(&bench.h)->attention, 0);
	assert_false(poll());
	fake_head(&bench.h)->attention = ATTENTION_BREAKIN; // cancelled meanwhile
	assert_false(poll());
}

static void absent_broker_sets_not_present(void **state)
{
	(void)state;
	start(true, false);
	assert_true(bench.h.is_present);
	bench.h.has_broker = false;
	uint32_t used = ring_used(&bench.t.area.tx);
	send_load();
	assert_false(bench.h.is_present);
	assert_int_equal(ring_used(&bench.t.area.tx), used); // withdrawn
	assert_int_equal(bench.t.area.dropped, 1);
	uint32_t calls = bench.h.calls;
	send_print(64);
	for (uint32_t i = 0; i < 100; i++)
		assert_false(poll()); // a print that nobody collects costs no call per tick
	assert_in_range(bench.h.calls - calls, 0, 1);
	bench.h.has_broker = true;
	fake_head(&bench.h)->attention = ATTENTION_CALL;
	assert_false(poll());
	assert_true(bench.h.is_present);
	assert_int_equal(bench.h.got_count, 1); // what was printed meanwhile was kept
	assert_works();
}

static bool booted_alone(void) { return bench.t.area.guest_state & GUEST_BOOTED_ALONE; }

static void boot_without_any_host_is_remembered(void **state)
{
	(void)state;
	start(false, false);
	assert_true(booted_alone());
	bench.h.has_hook = true;
	pass_second();
	assert_false(poll()); // finds it
	assert_int_equal(bench.t.link, LINK_PORTCALL);
	assert_true(bench.h.is_present);
	assert_int_equal(fake_head(&bench.h)->guest_state, GUEST_PHASE1 | GUEST_BOOTED_ALONE);
	transport_phase1(enter());
	assert_true(booted_alone());
	assert_works();
	assert_true(booted_alone());
}

// A registration tells the kernel that a debugger is present. It is not what counts.
static void boot_with_a_link_but_no_broker_is_remembered(void **state)
{
	(void)state;
	for (int packets = 0; packets < 2; packets++) {
		setup(true, false);
		bench.h.has_broker = false;
		transport_start(enter());
		if (packets)
			send_load();
		assert_int_equal(bench.h.is_present, !packets);
		transport_phase1(enter());
		assert_true(booted_alone());
		bench.h.has_broker = true;
		pass_second();
		assert_false(poll());
		assert_true(booted_alone());
		assert_works();
	}
}

static void boot_with_a_broker_is_not_alone(void **state)
{
	(void)state;
	start(true, false);
	assert_false(booted_alone());
	bench.h.has_broker = false;
	pass_second();
	assert_false(poll());
	transport_phase1(enter()); // a second time: the kernel has made up its mind
	assert_false(booted_alone());
	start(false, true);
	assert_false(booted_alone());
}

static void a_broker_that_comes_before_phase_1_counts(void **state)
{
	(void)state;
	setup(true, false);
	bench.h.has_broker = false;
	transport_start(enter());
	send_load();
	bench.h.has_broker = true;
	assert_false(poll());
	transport_phase1(enter());
	assert_false(booted_alone());
}

static void a_broker_that_leaves_before_phase_1_does_not(void **state)
{
	(void)state;
	setup(true, false);
	transport_start(enter());
	bench.h.has_broker = false;
	assert_false(poll());
	transport_phase1(enter());
	assert_true(booted_alone());
	setup(false, true);
	transport_start(enter());
	bench.h.is_deaf = true; // it died, and what it said last stands in the head
	assert_false(poll());
	assert_int_equal(fake_head(&bench.h)->host_flags, HOST_F_LISTENER);
	transport_phase1(enter());
	assert_true(booted_alone());
}

static void a_slow_host_counts(void **state)
{
	(void)state;
	setup(false, true);
	bench.h.is_slow = true;
	transport_start(enter());
	assert_false(bench.h.is_present);
	fake_answer_late(&bench.h);
	transport_phase1(enter());
	assert_true(bench.h.is_present);
	assert_false(booted_alone());
}

// KD reference, section 1.9: what may be dropped when nobody listens, and nothing else.
static void only_the_listed_packets_are_dropped(void **state)
{
	(void)state;
	static const struct { uint32_t type, api; uint16_t hdr_len; bool may_be; } packets[] = {
		{ KD_PACKET_DEBUG_IO, 0x3230, 16, true }, { KD_PACKET_DEBUG_IO, 0x3231, 16, false },
		{ KD_PACKET_STATE_CHANGE, 0x3031, 240, true }, { KD_PACKET_STATE_CHANGE, 0x3030, 240, false },
		{ KD_PACKET_STATE_CHANGE, 0x3032, 240, false }, { KD_PACKET_STATE_CHANGE, 0x13031, 240, false },
		{ KD_PACKET_FILE_IO, 0x3430, 64, true }, { KD_PACKET_FILE_IO, 0x3431, 64, false },
		{ KD_PACKET_FILE_IO, 0x3432, 64, false }, { KD_PACKET_FILE_IO, 0x3433, 64, false },
		{ KD_PACKET_TRACE_IO, 0x3330, 64, true }, { KD_PACKET_TRACE_IO, 0x3331, 64, false },
		{ KD_PACKET_MANIPULATE, 0x3031, 56, false }, { KD_PACKET_CONTROL_REQUEST, 0x4300, 12, false },
	};
	for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
		start(false, false);
		send(packets[i].type, packets[i].api, packets[i].hdr_len, 5);
		assert_int_equal(bench.t.area.dropped, packets[i].may_be);
		assert_int_equal(ring_used(&bench.t.area.tx) == 0, packets[i].may_be);
		assert_int_equal(bench.t.area.refused, 0);
	}
}

// Only a question that the kernel waits to be answered needs a call of its own.
static void each_kind_of_packet_makes_its_calls(void **state)
{
	(void)state;
	start(true, false);
	uint32_t calls = bench.h.calls;
	send_exception();
	send_print(10);
	send_reply(10);
	send(KD_PACKET_FILE_IO, 0x3431, 64, 0);
	send(KD_PACKET_DEBUG_IO, 0x3231, 16, 9);
	assert_int_equal(bench.h.calls, calls);
	send_load();
	assert_int_equal(bench.h.calls, calls + 1);
	send(KD_PACKET_FILE_IO, 0x3430, 64, 30);
	assert_int_equal(bench.h.calls, calls + 2);
	assert_int_equal(bench.h.got_count, 7);
}

static void broker_that_leaves_in_a_droppable_wait(void **state)
{
	(void)state;
	start(true, false);
	send_load();
	assert_true(bench.h.is_present);
	bench.h.has_broker = false;
	assert_int_equal(receive(), RECEIVE_RESEND);
	assert_int_equal(bench.h.last_flags, CALL_F_WAIT | CALL_F_DROPPABLE);
	send_load();
	assert_false(bench.h.is_present);
}

static void replies_do_not_change_what_may_be_dropped(void **state)
{
	(void)state;
	start(true, false);
	send_load();
	queue_request(1, 0);
	assert_int_equal(receive(), RECEIVE_OK);
	send_reply(10);
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(bench.h.last_flags, CALL_F_WAIT | CALL_F_DROPPABLE);
	send_exception();
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(bench.h.last_flags, CALL_F_WAIT);
}

static void full_ring_drops_prints_and_keeps_the_stop(void **state)
{
	(void)state;
	start(true, false);
	bench.h.has_broker = false;
	for (uint32_t i = 0; i < 20; i++)
		send_print(3900);
	assert_in_range(bench.t.area.dropped, 10, 14);
	send_exception();
	bench.h.has_broker = true;
	queue_request(1, 0);
	uint32_t code = receive();
	assert_int_equal(code, RECEIVE_OK);
	assert_int_equal(bench.h.got[bench.h.got_count - 1].kd_type, KD_PACKET_STATE_CHANGE);
	assert_works();
}

static void every_page_the_host_writes_is_touched(void **state)
{
	(void)state;
	start(true, false);
	send_exception();
	for (uint32_t i = 0; i < 10; i++) {
		uint32_t head = fake_head(&bench.h)->page.touch, rx[2], page = bench.t.area.rx.tail % (2 * AREA_PAGE_PAYLOAD) / AREA_PAGE_PAYLOAD;
		for (uint32_t p = 0; p < 2; p++)
			rx[p] = ((struct page_head *)bench.t.area.page[1 + AREA_TX_PAGES + p])->touch;
		queue_request(1, 2000);
		assert_int_equal(receive(), RECEIVE_OK);
		assert_true(fake_head(&bench.h)->page.touch > head);
		uint32_t last = (bench.t.area.rx.tail - 1) % (2 * AREA_PAGE_PAYLOAD) / AREA_PAGE_PAYLOAD;
		assert_int_not_equal(((struct page_head *)bench.t.area.page[1 + AREA_TX_PAGES + page])->touch, rx[page]);
		assert_int_not_equal(((struct page_head *)bench.t.area.page[1 + AREA_TX_PAGES + last])->touch, rx[last]);
	}
}

static void moved_pages_are_registered_at_the_next_poll(void **state)
{
	(void)state;
	start(true, false);
	bench.h.gpa_offset += 0x40000000;
	assert_false(poll());
	assert_int_equal(bench.h.calls_of[CALL_REGISTER], 2);
	fake_move(&bench.h);
	assert_false(poll());
	assert_int_equal(bench.h.calls_of[CALL_REGISTER], 3);
	assert_true(fake_is_old_memory_untouched(&bench.h));
	assert_works();
	assert_true(fake_is_old_memory_untouched(&bench.h));
}

static void prints_survive_a_registration(void **state)
{
	(void)state;
	start(true, false);
	for (uint32_t i = 0; i < 50; i++) {
		send_print(64);
		if (i % 5 == 0)
			fake_forget(&bench.h);
		if (i % 7 == 0)
			fake_move(&bench.h);
		if (i % 3 == 0)
			assert_false(poll());
	}
	pass_calm();
	assert_false(poll());
	assert_int_equal(bench.h.got_count, 50);
	for (uint32_t i = 0; i < 50; i++)
		assert_int_equal(bench.h.got[i].seq, i + 1);
}

static void sleep_and_wake(void **state)
{
	(void)state;
	start(true, false);
	transport_sleep(enter());
	assert_int_equal(bench.h.calls_of[CALL_UNREGISTER], 1);
	assert_false(bench.h.is_registered);
	assert_int_equal(fake_head(&bench.h)->magic, 0);
	uint32_t calls = bench.h.calls;
	for (uint32_t i = 0; i < 5; i++) {
		pass_second();
		assert_false(poll());
	}
	assert_int_equal(bench.h.calls, calls);
	transport_wake(enter());
	assert_true(bench.h.is_registered);
	assert_works();
	transport_sleep(enter());
	send_print(10); // the kernel goes on while it writes its image
	assert_true(bench.h.is_registered);
	transport_sleep(enter());
	for (uint32_t i = 0; i <= SLEEP_SECONDS; i++) {
		pass_second();
		assert_false(poll());
	}
	assert_true(bench.h.is_registered); // nobody ever said "awake"
	assert_works();
}

static void suspicion_makes_one_call(void **state)
{
	(void)state;
	start(true, false);
	uint32_t calls = bench.h.calls;
	transport_suspect(enter());
	assert_false(poll());
	assert_false(poll());
	assert_int_equal(bench.h.calls, calls + 1);
}

static void a_wait_does_not_live_on_old_translations(void **state)
{
	(void)state;
	setup(false, true);
	transport_start(enter());
	bench.h.cycles_per_look = RELOAD_CYCLES;
	uint32_t before = bench.h.reloads;
	send_exception();
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_in_range(bench.h.reloads - before, 5, 10);
	bench.h.cycles_per_look = 1; // call after call
	before = bench.h.reloads;
	assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_in_range(bench.h.reloads - before, 0, 1);
}

static void debugcon_wait_rings_once(void **state)
{
	(void)state;
	start(false, true);
	send_exception();
	bench.h.is_slow = true;
	uint32_t rings = bench.h.rings;
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(receive(), RECEIVE_TIMEOUT);
	assert_int_equal(bench.h.rings, rings + 1);
	queue_request(4, 9);
	fake_answer_late(&bench.h);
	assert_int_equal(receive(), RECEIVE_OK);
	assert_int_equal(received_hdr[0], 4);
	assert_works();
}

static void long_dialogue_wraps_both_rings(void **state)
{
	(void)state;
	for (uint32_t way = 0; way < 2; way++) {
		start(way == 0, way == 1);
		send_exception();
		for (uint32_t i = 0; i < 500; i++) {
			queue_request((uint8_t)i, (i * 97) % 3900);
			assert_int_equal(receive(), RECEIVE_OK);
			assert_int_equal(received_hdr[3], (uint8_t)i);
			send_reply((uint16_t)((i * 31) % 3944));
		}
		assert_int_equal(bench.h.protocol_errors, 0);
		assert_int_equal(bench.t.area.refused, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(port_call_comes_first),
		cmocka_unit_test(debugcon_is_found),
		cmocka_unit_test(no_link_tells_the_kernel),
		cmocka_unit_test(idle_guest_makes_heartbeats_only),
		cmocka_unit_test(heartbeats_need_no_interrupt_time),
		cmocka_unit_test(polls_are_calls_until_phase_1),
		cmocka_unit_test(boot_ends_without_being_told),
		cmocka_unit_test(prints_ride_on_the_tick),
		cmocka_unit_test(slow_flood_is_not_collected_at_each_tick),
		cmocka_unit_test(trickle_is_collected),
		cmocka_unit_test(half_full_ring_is_collected),
		cmocka_unit_test(one_call_per_transaction),
		cmocka_unit_test(wait_carries_control_registers),
		cmocka_unit_test(retried_call_keeps_its_number),
		cmocka_unit_test(host_codes_become_kernel_codes),
		cmocka_unit_test(breakin_is_reported_once),
		cmocka_unit_test(absent_broker_sets_not_present),
		cmocka_unit_test(boot_without_any_host_is_remembered),
		cmocka_unit_test(boot_with_a_link_but_no_broker_is_remembered),
		cmocka_unit_test(boot_with_a_broker_is_not_alone),
		cmocka_unit_test(a_broker_that_comes_before_phase_1_counts),
		cmocka_unit_test(a_broker_that_leaves_before_phase_1_does_not),
		cmocka_unit_test(a_slow_host_counts),
		cmocka_unit_test(only_the_listed_packets_are_dropped),
		cmocka_unit_test(each_kind_of_packet_makes_its_calls),
		cmocka_unit_test(broker_that_leaves_in_a_droppable_wait),
		cmocka_unit_test(replies_do_not_change_what_may_be_dropped),
		cmocka_unit_test(full_ring_drops_prints_and_keeps_the_stop),
		cmocka_unit_test(every_page_the_host_writes_is_touched),
		cmocka_unit_test(moved_pages_are_registered_at_the_next_poll),
		cmocka_unit_test(prints_survive_a_registration),
		cmocka_unit_test(sleep_and_wake),
		cmocka_unit_test(suspicion_makes_one_call),
		cmocka_unit_test(a_wait_does_not_live_on_old_translations),
		cmocka_unit_test(debugcon_wait_rings_once),
		cmocka_unit_test(long_dialogue_wraps_both_rings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
