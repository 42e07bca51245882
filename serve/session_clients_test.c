// SPDX-License-Identifier: MIT
// Many debuggers on one guest: a has control, the others observe.
#include "serve/session_bench.h"

#include <stdio.h>
#include <string.h>

enum { A, B, C };

static uint32_t last_status(void)
{
	return get_le32(last_body + MANIPULATE_OFFSET_STATUS);
}

static void assert_last_text(const char *text)
{
	assert_int_equal(last_len, KD_DEBUG_IO_SIZE + strlen(text));
	assert_memory_equal(last_body + KD_DEBUG_IO_SIZE, text, strlen(text));
}

static void stopped_with(unsigned count)
{
	boot_and_stop();
	for (unsigned n = 0; n < count; n++) {
		client_comes(n);
		client_acks(n);
	}
	did_whatever();
}

// a has let the guest run, b sits at the stop.
static void running_with_b_at_stop(void)
{
	stopped_with(2);
	client_asks(A, KD_API_CONTINUE2);
	did("deliver(2 313c)+ expect(0)");
}

// Everybody waits for the next stop.
static void running_with(unsigned count)
{
	boot();
	for (unsigned n = 0; n < count; n++)
		client_comes(n);
	did("");
}

static void asks_breakpoint(unsigned n, uint32_t api, uint64_t address_or_handle)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, api);
	put_le64(body + MANIPULATE_OFFSET_UNION, address_or_handle);
	session_client_packet(clients[n].c, KD_PACKET_MANIPULATE, body, sizeof(body));
}

static void guest_gives_handle(uint64_t address, uint32_t handle)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, KD_API_WRITE_BREAKPOINT);
	put_le64(body + MANIPULATE_OFFSET_UNION, address);
	put_le32(body + MANIPULATE_OFFSET_UNION + 8, handle);
	guest_packet(KD_PACKET_MANIPULATE, body, sizeof(body), KD_PACKET_MANIPULATE);
}

// ---- What an observer may not -------------------------------------------------------------------------------

// Said once more than in serve/session_rights.c, on purpose.
static bool may_observer_ask(uint32_t api)
{
	static const uint32_t reads[] = {
		KD_API_READ_VIRTUAL, KD_API_READ_PHYSICAL, KD_API_SEARCH_MEMORY, KD_API_QUERY_MEMORY, KD_API_GET_CONTEXT, KD_API_GET_CONTEXT_EX,
		KD_API_READ_CONTROL_SPACE, KD_API_READ_MSR, KD_API_GET_BUS_DATA, KD_API_GET_VERSION, KD_API_QUERY_SPECIAL_CALLS,
		KD_API_GET_INTERNAL_BREAKPOINT,
	};

	for (size_t i = 0; i < sizeof(reads) / sizeof(*reads); i++)
		if (reads[i] == api)
			return true;
	return false;
}

static void check_request_of_observer(uint32_t api)
{
	char expected[128] = "";

	stopped_with(2);
	client_asks(B, api);
	if (may_observer_ask(api)) {
		snprintf(expected, sizeof(expected), "deliver(2 %04x)", api);
	} else if (api == KD_API_CONTINUE || api == KD_API_CONTINUE2) {
		strcpy(expected, "b:expect(0)");
	} else if (api == KD_API_REBOOT || api == KD_API_CAUSE_BUGCHECK) {
		strcpy(expected, "b:send(7 3030)"); // it waits for a state change
	} else if (kd_api_has_reply(api) || api == KD_API_SWITCH_PROCESSOR) {
		snprintf(expected, sizeof(expected), "b:send(2 %04x)", api);
		assert_int_equal(last_status(), api == KD_API_RESTORE_BREAKPOINT ? KD_STATUS_SUCCESS : KD_STATUS_ACCESS_DENIED);
	}
	did(expected);
}

static void test_an_observer_reads_and_no_more(void **state)
{
	static const uint32_t apis[] = {
#define X(value, name, layout, has_reply) name,
		KD_API_LIST(X)
#undef X
		0x314A, 0x3161, 0, 0xFFFFFFFF, // nobody knows these
	};

	for (size_t i = 0; i < sizeof(apis) / sizeof(*apis); i++) {
		if (i) {
			bench_teardown(state);
			bench_setup(state);
		}
		check_request_of_observer(apis[i]);
	}
}

static void test_reads_fail_at_once_while_the_guest_runs(void **state)
{
	(void)state;
	running_with_b_at_stop();
	client_asks(B, KD_API_READ_VIRTUAL);
	did("b:send(2 3130)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
	client_acks(B);
	client_asks(B, KD_API_WRITE_VIRTUAL);
	did("b:send(2 3131)");
	assert_int_equal(last_status(), KD_STATUS_ACCESS_DENIED);
}

static void test_reads_fail_at_once_while_the_guest_waits_for_something_else(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	did("send(3 3231) expect(3)");
	client_asks(B, KD_API_GET_VERSION);
	did("b:send(2 3146)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
}

static void test_breakin_of_an_observer_is_told_once(void **state)
{
	(void)state;
	running_with(2);
	session_client_breakin(clients[B].c);
	did("b:send(3 3230 droppable)");
	assert_non_null(memmem(last_body, last_len, "control", 7));
	client_acks(B);
	session_client_breakin(clients[B].c);
	did(""); // it sends the byte again and again
	guest_stops();
	client_acks(A);
	client_acks(B);
	client_asks(B, KD_API_CONTINUE2);
	did_whatever();
	session_client_breakin(clients[B].c);
	did("b:send(3 3230 droppable)");
}

static void test_breakin_of_an_observer_is_not_kept(void **state)
{
	(void)state;
	client_comes(A);
	client_comes(B);
	session_client_breakin(clients[B].c);
	did("b:send(3 3230 droppable)");
	boot();
	did("");
	client_leaves(A);
	session_client_breakin(clients[B].c); // now it has control
	did("breakin");
}

static void test_clients_are_counted(void **state)
{
	(void)state;
	for (unsigned n = 0; n < SESSION_CLIENTS_MAX; n++)
		client_appears(n);
	assert_null(session_client_came(&s, &clients[70]));
	client_leaves(3);
	client_appears(70);
	assert_null(session_client_came(&s, &clients[71]));
}

// Who leaves a request behind has not quite gone.
static void test_requests_left_behind_are_counted(void **state)
{
	(void)state;
	boot();
	for (unsigned n = 0; n < SESSION_CLIENTS_MAX; n++) {
		client_comes(0);
		if (!n)
			guest_state(KD_STATE_EXCEPTION, false, 0, 0); // its wait is not reported
		client_acks(0);
		client_asks(0, KD_API_WRITE_VIRTUAL);
		client_leaves(0);
	}
	assert_null(session_client_came(&s, &clients[0]));
	did_whatever();
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	for (unsigned n = 1; n < SESSION_CLIENTS_MAX; n++)
		guest_replies(KD_API_WRITE_VIRTUAL);
	assert_int_equal(s.client_count, 0);
	client_comes(0);
}

static void test_registers_of_a_stop_it_does_not_know_are_refused(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_stops_at(0x1000);
	assert_int_equal(session_control_take(clients[B].c, true), SESSION_CONTROL_TAKEN);
	did_whatever();
	client_asks(B, KD_API_SET_CONTEXT); // with what it read at the first stop
	did("b:send(2 3133)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
	client_acks(B);
	client_asks(B, KD_API_WRITE_VIRTUAL);
	did("deliver(2 3131)");
	guest_replies(KD_API_WRITE_VIRTUAL);
	client_acks(B);
	did_whatever();
	client_asks(B, KD_API_SWITCH_PROCESSOR);
	did("b:send(7 3030)"); // the present stop
	client_acks(B);
	client_asks(B, KD_API_SET_CONTEXT);
	did("deliver(2 3133)");
}

static void test_nobody_is_told_of_the_reply_but_who_asked(void **state)
{
	(void)state;
	stopped_with(3);
	client_asks(B, KD_API_READ_VIRTUAL);
	did("deliver(2 3130)");
	assert_true(session_awaits_reply(clients[B].c));
	assert_false(session_awaits_reply(clients[A].c));
	guest_replies(KD_API_READ_VIRTUAL);
	did("b:send(2 3130)");
}

static void test_reset_forgets_only_ones_own(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(A, KD_API_READ_VIRTUAL);
	client_asks(B, KD_API_READ_PHYSICAL);
	did("deliver(2 3130) b:expect(0)");
	session_client_reset(clients[B].c);
	did("b:send(7 3030)"); // what it may say is open until its request has been executed
	guest_replies(KD_API_READ_VIRTUAL);
	did("send(2 3130) deliver(2 313d) b:expect(2)");
	guest_replies(KD_API_READ_PHYSICAL);
	did("");
	assert_int_equal(s.counters.replies_dropped, 1);
}

// ---- Whose turn it is ---------------------------------------------------------------------------------------

static void test_requests_are_served_in_the_order_in_which_they_came(void **state)
{
	(void)state;
	stopped_with(3);
	client_asks(C, KD_API_READ_VIRTUAL);
	client_asks(B, KD_API_READ_PHYSICAL);
	client_asks(A, KD_API_WRITE_VIRTUAL);
	did("deliver(2 3130) b:expect(0) expect(0)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("c:send(2 3130) deliver(2 313d) b:expect(2)");
	client_acks(C);
	client_asks(C, KD_API_GET_VERSION); // behind a's
	guest_replies(KD_API_READ_PHYSICAL);
	did("c:expect(0) b:send(2 313d) deliver(2 3131) expect(2)");
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("send(2 3131) deliver(2 3146) c:expect(2)");
	guest_replies(KD_API_GET_VERSION);
	did("c:send(2 3146)");
}

static void test_ram_answers_wait_for_their_turn(void **state)
{
	(void)state;
	stopped_with(3);
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(A, KD_API_WRITE_VIRTUAL);
	client_asks(B, KD_API_READ_VIRTUAL);
	client_asks(C, KD_API_READ_VIRTUAL);
	did("look(3131) deliver(2 3131) b:expect(0) c:expect(0)");
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("send(2 3131) look(3130) b:send(2 3130) b:expect(2) look(3130) c:send(2 3130) c:expect(2)");
}

static void test_a_continue_waits_for_the_reads_before_it(void **state)
{
	(void)state;
	stopped_with(3);
	client_asks(B, KD_API_READ_VIRTUAL);
	client_asks(A, KD_API_CONTINUE2);
	client_asks(C, KD_API_READ_VIRTUAL); // the guest will run
	did("deliver(2 3130) expect(0) c:send(2 3130)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
	guest_replies(KD_API_READ_VIRTUAL);
	did("b:send(2 3130) deliver(2 313c)+");
}

static void test_reads_before_a_forced_end_of_the_stop_fail(void **state)
{
	(void)state;
	boot();
	client_comes(A);
	client_comes(B);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0); // its wait is reported later
	client_acks(A);
	client_acks(B);
	client_asks(A, KD_API_READ_VIRTUAL);
	client_asks(B, KD_API_READ_VIRTUAL);
	did_whatever();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("send(2 3130) expect(2) b:send(2 3130) b:expect(2) expect(0) b:expect(0)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
}

static void test_the_report_repeated_behind_an_accepted_continue_is_no_stop(void **state)
{
	(void)state;
	boot();
	client_comes(A);
	client_comes(B);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0);
	client_acks(A);
	client_acks(B);
	client_asks(A, KD_API_CONTINUE2);
	did_whatever();
	guest_stops(); // it had to register anew, and says again where it is
	did("deliver(2 313c)+");
}

// ---- Stops and what they know of them -------------------------------------------------------------------------

static void test_everybody_who_waits_is_told(void **state)
{
	(void)state;
	running_with(3);
	guest_stops();
	did("send(7 3030) expect(2) b:send(7 3030) b:expect(2) c:send(7 3030) c:expect(2)");
}

static void test_continue_of_an_observer_is_answered_by_the_next_stop(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(B, KD_API_CONTINUE2);
	did("b:expect(0)");
	assert_false(session_is_at_stop(clients[B].c));
	client_asks(A, KD_API_CONTINUE2);
	guest_stops_at(1);
	did("deliver(2 313c)+ expect(0) send(7 3030) expect(2) b:send(7 3030) b:expect(2)");
}

static void test_continue_of_an_observer_is_answered_at_once_by_the_latest_stop(void **state)
{
	(void)state;
	running_with_b_at_stop();
	for (unsigned i = 1; i <= 3; i++) {
		guest_stops_at(i);
		client_acks(A);
		client_asks(A, KD_API_CONTINUE2);
	}
	did_whatever();
	client_asks(B, KD_API_CONTINUE2);
	did("b:send(7 3030)");
	assert_int_equal(get_le64(last_body + 0x18), 3); // though the guest runs
	client_acks(B);
	client_asks(B, KD_API_READ_VIRTUAL);
	did("b:send(2 3130)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
	client_acks(B);
	client_asks(B, KD_API_CONTINUE2);
	did("b:expect(0)");
}

static void test_module_loads_are_told_in_order(void **state)
{
	(void)state;
	running_with_b_at_stop();
	for (unsigned i = 1; i <= 20; i++) {
		guest_loads_at(i * 0x1000);
		client_acks(A);
		client_asks(A, KD_API_CONTINUE2);
		if (i != 10)
			continue;
		guest_stops_at(1);
		client_acks(A);
		client_asks(A, KD_API_CONTINUE2);
	}
	did_whatever();
	for (unsigned i = 1; i <= 20; i++) {
		client_asks(B, KD_API_CONTINUE2);
		did("b:send(7 3031 droppable)");
		assert_int_equal(get_le64(last_body + 0x28), i * 0x1000);
		client_acks(B);
		if (i != 10)
			continue;
		client_asks(B, KD_API_CONTINUE2);
		did("b:send(7 3030)");
		client_acks(B);
	}
	client_asks(B, KD_API_CONTINUE2);
	did("b:expect(0)");
}

static void test_prints_wait_at_a_stop_and_keep_their_place(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_prints("before");
	guest_loads();
	client_acks(A);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	guest_prints("after");
	did("send(3 3230 droppable) send(7 3031 droppable) expect(2) deliver(2 313c)+ expect(0) send(3 3230 droppable)");
	assert_true(session_backlog(clients[B].c) == 0); // its user's fault, not its own
	client_asks(B, KD_API_CONTINUE2);
	did("b:send(3 3230 droppable) b:expect(0)");
	assert_last_text("before");
	assert_true(session_backlog(clients[B].c) > 0);
	client_acks(B);
	did("b:send(7 3031 droppable) b:expect(2)");
	client_acks(B);
	client_asks(B, KD_API_CONTINUE2);
	did("b:send(3 3230 droppable) b:expect(0)");
	assert_last_text("after");
}

static void test_an_observer_at_a_stop_costs_bounded_memory(void **state)
{
	(void)state;
	running_with_b_at_stop();
	for (unsigned i = 0; i < 3000; i++) {
		guest_prints("0123456789012345678901234567890123456789");
		client_acks(A);
		guest_loads_at(i);
		client_acks(A);
		client_asks(A, KD_API_CONTINUE2);
		did_whatever();
	}
	guest_stops_at(1);
	assert_true(clients[B].c->queue_len <= SESSION_QUEUE_MAX + SESSION_BODY_MAX);
	assert_true(s.counters.prints_dropped > 0 && s.counters.events_dropped > 0);
	for (unsigned i = 0; i < 3000 && get_le32(last_body) != KD_STATE_EXCEPTION; i++) {
		client_asks(B, KD_API_CONTINUE2);
		client_acks(B);
	}
	did_whatever();
	assert_int_equal(get_le64(last_body + 0x18), 1); // the end is never lost
}

static void test_an_observer_with_the_stop_of_before_reads_the_present(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_stops_at(1);
	did_whatever();
	client_asks(B, KD_API_READ_VIRTUAL);
	did("deliver(2 3130)");
}

static void test_who_comes_later_is_told_the_stop(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_stops_at(7);
	did_whatever();
	client_comes(C);
	did("c:send(7 3030) c:expect(2)");
	assert_int_equal(get_le64(last_body + 0x18), 7);
}

static void test_reset_of_an_observer_brings_it_up_to_date(void **state)
{
	(void)state;
	running_with_b_at_stop();
	session_client_reset(clients[B].c);
	did("b:expect(0)"); // it runs
	guest_stops_at(1);
	did("send(7 3030) expect(2) b:send(7 3030) b:expect(2)");
}

static void test_a_report_of_another_processor_is_told(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(A, KD_API_SWITCH_PROCESSOR);
	guest_stops_at(9);
	did("deliver(2 3150)+ send(7 3030)");
	client_asks(B, KD_API_CONTINUE2);
	did("b:send(7 3030)");
	assert_int_equal(get_le64(last_body + 0x18), 9);
}

static void test_a_report_said_again_is_news_to_nobody_who_observes(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(B, KD_API_CONTINUE2);
	did_whatever();
	session_guest_registered(&s);
	guest_stops();
	did("send(7 3030)"); // as ever
}

// ---- Control ------------------------------------------------------------------------------------------------

static void test_the_first_has_control(void **state)
{
	(void)state;
	assert_null(session_controller(&s));
	client_comes(A);
	client_comes(B);
	assert_ptr_equal(session_controller(&s), clients[A].c);
	client_leaves(A);
	assert_null(session_controller(&s));
	client_comes(C);
	assert_ptr_equal(session_controller(&s), clients[C].c);
}

static void test_free_control_goes_to_who_needs_it(void **state)
{
	(void)state;
	stopped_with(3);
	client_leaves(A);
	client_asks(B, KD_API_READ_VIRTUAL);
	guest_replies(KD_API_READ_VIRTUAL);
	client_acks(B);
	did("deliver(2 3130) b:send(2 3130)");
	assert_null(session_controller(&s));
	client_asks(C, KD_API_WRITE_VIRTUAL);
	did("deliver(2 3131)");
	assert_ptr_equal(session_controller(&s), clients[C].c);
}

static void test_free_control_goes_to_who_continues_the_present_stop(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_stops_at(1);
	client_leaves(A);
	did_whatever();
	client_asks(B, KD_API_CONTINUE2); // of the stop before
	did("b:send(7 3030)");
	assert_null(session_controller(&s));
	client_acks(B);
	client_asks(B, KD_API_CONTINUE2);
	did("deliver(2 313c)+ b:expect(0)");
	assert_ptr_equal(session_controller(&s), clients[B].c);
}

static void test_who_asks_is_told_of_and_waits(void **state)
{
	(void)state;
	running_with(3);
	assert_int_equal(session_control_take(clients[C].c, false), SESSION_CONTROL_HELD);
	did("send(3 3230 droppable)");
	assert_non_null(memmem(last_body, last_len, "asks for control", 16));
	client_acks(A);
	assert_int_equal(session_control_take(clients[B].c, false), SESSION_CONTROL_HELD);
	assert_true(session_asks(clients[B].c) && session_asks(clients[C].c) && !session_asks(clients[A].c));
	assert_int_equal(session_control_take(clients[A].c, false), SESSION_CONTROL_TAKEN);
	did_whatever();
	session_control_give(&s, NULL);
	did("c:send(3 3230 droppable)"); // it asked first
	assert_ptr_equal(session_controller(&s), clients[C].c);
	assert_false(session_asks(clients[C].c));
	client_acks(C);
	client_leaves(C);
	did("b:send(3 3230 droppable)");
	assert_ptr_equal(session_controller(&s), clients[B].c);
	session_control_give(&s, NULL);
	assert_null(session_controller(&s));
}

static void test_control_is_given_to_one(void **state)
{
	(void)state;
	running_with(3);
	session_control_give(&s, clients[B].c);
	did("b:send(3 3230 droppable)");
	session_client_breakin(clients[A].c);
	did("send(3 3230 droppable)");
	client_acks(A);
	client_acks(B);
	session_client_breakin(clients[B].c);
	did("breakin");
}

static void test_control_taken_by_force_is_told(void **state)
{
	(void)state;
	running_with(2);
	assert_int_equal(session_control_take(clients[B].c, true), SESSION_CONTROL_TAKEN);
	did("send(3 3230 droppable)");
	assert_non_null(memmem(last_body, last_len, "taken", 5));
}

static void test_who_takes_control_while_it_waits_is_told_the_stop(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(B, KD_API_CONTINUE2);
	did_whatever();
	session_control_take(clients[B].c, true);
	did("b:send(7 3030) b:expect(2)");
	client_acks(B);
	client_asks(A, KD_API_CONTINUE2);
	did("send(3 3230 droppable) expect(0)"); // it observes now
	client_asks(B, KD_API_CONTINUE2);
	did("deliver(2 313c)+ b:expect(0)");
}

static void test_a_continue_accepted_before_control_went_is_executed(void **state)
{
	(void)state;
	boot();
	client_comes(A);
	client_comes(B);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0);
	client_acks(A);
	client_acks(B);
	client_asks(A, KD_API_CONTINUE2);
	session_control_take(clients[B].c, true);
	did_whatever();
	client_asks(B, KD_API_CONTINUE2); // of a stop that is as good as over
	did("b:expect(0)");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("deliver(2 313c)+ send(3 3230 droppable)");
	guest_stops_at(1);
	did("b:send(7 3030) b:expect(2)"); // a has still to hear a line
}

// ---- Without a controller -------------------------------------------------------------------------------------

static void test_loads_go_on_alone_and_every_observer_hears_of_each(void **state)
{
	(void)state;
	running_with(3);
	client_leaves(A);
	for (unsigned i = 1; i <= 5; i++)
		guest_loads_at(i);
	did("b:send(7 3031 droppable) b:expect(2) c:send(7 3031 droppable) c:expect(2) deliver(2 3136)+ deliver(2 3136)+ deliver(2 3136)+ "
	    "deliver(2 3136)+ deliver(2 3136)+");
	for (unsigned i = 2; i <= 5; i++) {
		client_acks(B);
		client_asks(B, KD_API_CONTINUE2);
		did("b:send(7 3031 droppable)");
		assert_int_equal(get_le64(last_body + 0x28), i);
	}
	assert_int_equal(s.counters.continued, 5);
}

static void test_other_stops_wait_for_a_controller(void **state)
{
	(void)state;
	running_with(2);
	client_leaves(A);
	guest_stops();
	did("b:send(7 3030) b:expect(2)");
}

static void test_the_controller_that_leaves_lets_a_load_go_on(void **state)
{
	(void)state;
	running_with(2);
	guest_loads();
	did_whatever();
	client_leaves(A);
	did("deliver(2 3136)+");
}

static void test_a_deaf_controller_delays_nobody(void **state)
{
	(void)state;
	running_with(2);
	guest_loads();
	client_acks(B);
	did_whatever();
	clients[A].is_flying = false;
	session_client_given_up(clients[A].c);
	did("deliver(2 3136)+ expect(0)");
	client_asks(B, KD_API_CONTINUE2);
	guest_loads_at(2);
	did("b:expect(0) send(7 3031 droppable) expect(2) b:send(7 3031 droppable) b:expect(2) deliver(2 3136)+");
}

static void test_control_of_a_deaf_one_may_be_taken(void **state)
{
	(void)state;
	running_with(2);
	guest_prints("x");
	clients[A].is_flying = false;
	session_client_given_up(clients[A].c);
	assert_int_equal(session_control_take(clients[B].c, false), SESSION_CONTROL_TAKEN);
}

static void test_a_deaf_observer_delays_nobody(void **state)
{
	(void)state;
	running_with(2);
	guest_loads();
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	did_whatever();
	clients[B].is_flying = false;
	session_client_given_up(clients[B].c);
	did("b:expect(0)");
	assert_false(session_owes_client(clients[B].c));
}

// ---- Prompts and files ----------------------------------------------------------------------------------------

static void test_a_prompt_is_the_controllers_and_text_to_the_others(void **state)
{
	uint8_t prompt[KD_DEBUG_IO_SIZE + 5] = { 0 };

	(void)state;
	running_with(2);
	put_le32(prompt, KD_DEBUG_IO_PROMPT);
	put_le32(prompt + 8, 500); // a lie
	memcpy(prompt + KD_DEBUG_IO_SIZE, "name?", 5);
	guest_packet(KD_PACKET_DEBUG_IO, prompt, sizeof(prompt), KD_PACKET_DEBUG_IO);
	did("send(3 3231) expect(3) b:send(3 3230 droppable)");
	assert_last_text("name?");
	assert_int_equal(get_le32(last_body + 8), 5);
	client_acks(B);
	guest_packet(KD_PACKET_DEBUG_IO, prompt, sizeof(prompt), KD_PACKET_DEBUG_IO); // said again
	did("expect(0)");
	session_client_packet(clients[B].c, KD_PACKET_DEBUG_IO, prompt, sizeof(prompt));
	did("");
	assert_int_equal(s.counters.requests_refused, 1);
}

static void test_a_prompt_goes_with_control(void **state)
{
	uint8_t answer[KD_DEBUG_IO_SIZE] = { 0 };

	(void)state;
	running_with(2);
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(A);
	client_acks(B);
	did_whatever();
	session_control_take(clients[B].c, true);
	did("b:send(3 3231) b:expect(3)");
	put_le32(answer, KD_DEBUG_IO_PROMPT);
	session_client_packet(clients[A].c, KD_PACKET_DEBUG_IO, answer, sizeof(answer));
	did("send(3 3230 droppable) expect(0)"); // too late, and it hears why
	client_acks(B);
	session_client_packet(clients[B].c, KD_PACKET_DEBUG_IO, answer, sizeof(answer));
	did("deliver(3 3231)+ b:expect(0)");
}

static void test_a_prompt_that_nobody_read_is_not_shown_to_the_next(void **state)
{
	(void)state;
	running_with(2);
	guest_prints("x"); // a does not acknowledge it
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(B);
	session_control_take(clients[B].c, true);
	did_whatever();
	client_acks(A);
	did("send(3 3230 droppable)"); // control was taken; no prompt
	client_acks(A);
	did("");
}

static void test_files_are_the_controllers(void **state)
{
	(void)state;
	running_with(2);
	guest_asks(KD_PACKET_FILE_IO, KD_FILE_IO_CREATE);
	did("send(11 3430 droppable) expect(11)");
	client_leaves(A);
	did("deliver(11 3430)+"); // refused, though b is there
	assert_int_equal(get_le32(last_body + 4), KD_STATUS_NO_SUCH_FILE);
}

// ---- History --------------------------------------------------------------------------------------------------

// What client n is told in prints until nothing comes any more.
static void hear(unsigned n, char *ret, size_t size)
{
	size_t len = 0;

	while (clients[n].is_flying) {
		assert_int_equal(get_le32(last_body), KD_DEBUG_IO_PRINT);
		assert_true(last_len - KD_DEBUG_IO_SIZE <= 512 && len + last_len - KD_DEBUG_IO_SIZE < size);
		memcpy(ret + len, last_body + KD_DEBUG_IO_SIZE, last_len - KD_DEBUG_IO_SIZE);
		len += last_len - KD_DEBUG_IO_SIZE;
		client_acks(n);
	}
	ret[len] = 0;
	did_whatever();
}

static void test_who_comes_is_told_the_last_lines(void **state)
{
	char text[1024];

	(void)state;
	boot();
	guest_prints("one\n");
	guest_prints("two");
	client_appears(A);
	did(""); // not across its RESET
	session_client_reset(clients[A].c);
	hear(A, text, sizeof(text));
	assert_string_equal(text, "vmkd: what the guest printed before:\none\ntwo\nvmkd: and from now on:\n");
	guest_prints("three");
	did("send(3 3230 droppable)");
	assert_last_text("three");
}

static void test_the_stop_follows_the_last_lines(void **state)
{
	(void)state;
	boot();
	guest_prints("one\n");
	guest_stops();
	client_comes(A);
	did("send(3 3230 droppable)");
	client_acks(A);
	client_acks(A);
	client_acks(A);
	did("send(3 3230 droppable) send(3 3230 droppable) send(7 3030) expect(2)");
}

static void test_only_whole_lines_are_told(void **state)
{
	static char text[SESSION_HISTORY_MAX];
	char line[64];
	unsigned total = 0;

	(void)state;
	boot();
	for (int i = 0; i < 3000; i++) {
		snprintf(line, sizeof(line), "line %d of a long boot\n", i);
		guest_prints(line);
	}
	client_comes(A);
	hear(A, text, sizeof(text));
	for (const char *p = strchr(text, '\n') + 1; strncmp(p, "vmkd: and", 9); p = strchr(p, '\n') + 1, total++)
		assert_true(strncmp(p, "line ", 5) == 0 && strncmp(strchr(p, ' ') + 5, " of a long boot\n", 4) == 0);
	assert_true(strlen(text) > SESSION_HISTORY_TOLD - 100 && strlen(text) < SESSION_HISTORY_TOLD + 100);
	assert_non_null(strstr(text, "line 2999 of a long boot\nvmkd: and"));
}

static void test_history_without_a_line_end(void **state)
{
	static char text[SESSION_HISTORY_MAX];

	(void)state;
	boot();
	for (int i = 0; i < 1000; i++)
		guest_prints("0123456789012345678901234567890123456789");
	client_comes(A);
	hear(A, text, sizeof(text));
	assert_true(strlen(text) > SESSION_HISTORY_TOLD && strlen(text) < SESSION_HISTORY_TOLD + 100);
}

static void test_what_was_before_our_time_goes_in_front(void **state)
{
	char text[1024];

	(void)state;
	boot();
	guest_prints("now\n");
	client_comes(A);
	hear(A, text, sizeof(text));
	session_history_before(&s, (const uint8_t *)"then\n", 5);
	hear(A, text, sizeof(text));
	assert_string_equal(text, "vmkd: what the guest printed before:\nthen\nvmkd: and from now on:\n");
	assert_int_equal(s.history.len, 9);
	assert_memory_equal(buf_data(&s.history), "then\nnow\n", 9);
}

static void test_what_was_before_our_time_does_not_push_out_what_is_newer(void **state)
{
	static uint8_t old[SESSION_HISTORY_MAX + 10];

	(void)state;
	boot();
	guest_prints("now\n");
	memset(old, 'x', sizeof(old));
	session_history_before(&s, old, sizeof(old));
	assert_int_equal(s.history.len, SESSION_HISTORY_MAX);
	assert_memory_equal(buf_data(&s.history) + SESSION_HISTORY_MAX - 5, "xnow\n", 5);
	session_history_before(&s, old, sizeof(old)); // no room
	assert_int_equal(s.history.len, SESSION_HISTORY_MAX);
	session_history_before(&s, NULL, 0);
}

// ---- The broker's own questions ---------------------------------------------------------------------------------

static void test_own_questions_come_before_the_stop_is_told(void **state)
{
	(void)state;
	running_with(2);
	own_questions = 2;
	guest_stops();
	did("own(3130) deliver(2 3130)");
	assert_int_equal(session_state(&s), SESSION_STOPPED);
	client_comes(C);
	did("");
	guest_replies(KD_API_READ_VIRTUAL);
	did("had(56) own(3130) deliver(2 3130)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("had(56) send(7 3030) expect(2) b:send(7 3030) b:expect(2) c:send(7 3030) c:expect(2)");
}

static void test_own_questions_are_answered_by_ram(void **state)
{
	(void)state;
	running_with(1);
	own_questions = 2;
	ram_knows = KD_API_READ_VIRTUAL;
	guest_stops();
	did("own(3130) look(3130) had(60) own(3130) look(3130) had(60) send(7 3030) expect(2)");
}

static void test_requests_wait_for_the_brokers_own(void **state)
{
	(void)state;
	running_with_b_at_stop();
	own_questions = 1;
	guest_stops_at(1);
	client_asks(B, KD_API_READ_PHYSICAL);
	did("own(3130) deliver(2 3130) b:expect(0)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("had(56) send(7 3030) expect(2) deliver(2 313d) b:expect(2)");
}

static void test_own_questions_alone(void **state)
{
	(void)state;
	boot();
	own_questions = 1;
	guest_loads();
	did("own(3130) deliver(2 3130)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("had(56) deliver(2 3136)+");
}

static void test_own_question_that_the_guest_lost(void **state)
{
	(void)state;
	running_with(1);
	own_questions = 1;
	guest_stops();
	did("own(3130) deliver(2 3130)");
	for (unsigned i = 0; i < SESSION_REDELIVER_MAX; i++)
		guest_stops();
	did("deliver(2 3130) deliver(2 3130) deliver(2 3130)");
	guest_stops();
	did("had(0) send(7 3030) expect(2)");
}

static void test_own_question_of_a_guest_that_is_gone(void **state)
{
	(void)state;
	running_with(1);
	own_questions = 1;
	guest_stops();
	did_whatever();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("had(0) send(7 3031 droppable) expect(2)"); // of its stop nobody had heard
}

static void test_own_question_instead_of_whose_answer_a_prompt_comes(void **state)
{
	(void)state;
	running_with(1);
	own_questions = 1;
	guest_stops();
	did_whatever();
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	did("had(0) send(3 3231) expect(3)");
}

// ---- Breakpoints ------------------------------------------------------------------------------------------------

static void test_breakpoints_of_one_who_left_are_taken_out_at_once(void **state)
{
	(void)state;
	stopped_with(2);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	guest_gives_handle(0x1000, 4);
	did("deliver(2 3134) send(2 3134)");
	client_leaves(A);
	did("deliver(2 3135)");
	assert_int_equal(get_le32(last_body + MANIPULATE_OFFSET_UNION), 4);
	guest_replies(KD_API_RESTORE_BREAKPOINT);
	did("");
}

static void test_breakpoints_of_one_who_left_are_taken_out_at_the_next_stop(void **state)
{
	(void)state;
	stopped_with(2);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	guest_gives_handle(0x1000, 4);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	client_leaves(A);
	client_asks(B, KD_API_CONTINUE2);
	did_whatever();
	guest_loads();
	did("b:send(7 3031 droppable) b:expect(2) deliver(2 3135)");
	guest_replies(KD_API_RESTORE_BREAKPOINT);
	did("deliver(2 3136)+");
}

static void test_a_breakpoint_asked_for_by_one_who_left_is_taken_out(void **state)
{
	(void)state;
	stopped_with(2);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	client_leaves(A);
	did("deliver(2 3134)");
	guest_gives_handle(0x1000, 9);
	did("deliver(2 3135)");
	assert_int_equal(get_le32(last_body + MANIPULATE_OFFSET_UNION), 9);
}

static void test_breakpoints_are_asked_for_in_turn(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(B, KD_API_READ_VIRTUAL);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	did("deliver(2 3130) expect(0)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("b:send(2 3130) deliver(2 3134) expect(2)");
	guest_gives_handle(0x1000, 1);
	did("send(2 3134)");
}

static void test_handles_of_another_kernel_are_dead(void **state)
{
	(void)state;
	stopped_with(1);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	guest_gives_handle(0x1000, 1);
	client_acks(A);
	session_guest_gone(&s, LINK_GONE_RESET);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	boot();
	guest_stops();
	client_acks(A);
	did_whatever();
	client_leaves(A);
	did(""); // it has none there
}

// ---- Resets, reverts --------------------------------------------------------------------------------------------

static void test_a_reset_is_told_to_everybody(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_loads(); // b has not heard of it and never will
	did_whatever();
	client_acks(A);
	session_guest_gone(&s, LINK_GONE_RESET);
	did("send(7 3031 droppable) b:send(7 3031 droppable)");
	assert_true(get_le64(last_body + 0x28) == UINT64_MAX);
	client_acks(B);
	client_asks(B, KD_API_CONTINUE2);
	did("b:restart");
	boot();
	guest_stops();
	did("b:send(7 3030) b:expect(2)"); // a thinks about the notice
}

static void test_who_has_not_heard_the_farewell_is_told(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_state(KD_STATE_LOAD_SYMBOLS, true, UINT64_MAX, KD_PACKET_MANIPULATE);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	did_whatever();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("restart b:send(7 3031 droppable)");
}

static void test_only_who_rebooted_knows(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(A, KD_API_REBOOT);
	did("deliver(2 313b)+ expect(0)");
	session_guest_gone(&s, LINK_GONE_RESET);
	did("restart b:send(7 3031 droppable)");
}

static void test_a_snapshot_that_was_loaded_is_told_as_a_reset(void **state)
{
	(void)state;
	stopped_with(2);
	guest_seq = 40;
	client_asks(A, KD_API_CONTINUE2);
	guest_stops_at(1);
	client_acks(A);
	did_whatever();
	session_guest_registered(&s);
	guest_seq = 20;
	guest_stops_at(2); // where it was once
	did("send(7 3031 droppable) b:send(7 3031 droppable)");
	assert_true(get_le64(last_body + 0x28) == UINT64_MAX);
	assert_int_equal(s.counters.reverts, 1);
	assert_int_equal(s.counters.boots, 1);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	did("restart send(7 3030) expect(2)");
	assert_int_equal(get_le64(last_body + 0x18), 2);
}

static void test_a_request_of_the_time_before_the_snapshot_fails(void **state)
{
	(void)state;
	stopped_with(2);
	guest_seq = 40;
	guest_prints("x");
	client_asks(A, KD_API_READ_VIRTUAL);
	client_asks(B, KD_API_READ_VIRTUAL);
	did_whatever();
	guest_seq = 20;
	guest_stops();
	did("send(2 3130) b:send(2 3130) b:expect(2) expect(0) b:expect(0)");
	assert_int_equal(last_status(), KD_STATUS_UNSUCCESSFUL);
}

static void test_numbers_may_wrap(void **state)
{
	(void)state;
	stopped_with(1);
	guest_seq = 0x7FFFFFF0;
	guest_prints("x");
	guest_seq = 0xC0000000;
	guest_prints("x");
	guest_seq = 0xFFFFFFF0;
	guest_prints("x");
	guest_seq = 0x10;
	guest_prints("x");
	assert_int_equal(s.counters.reverts, 0);
}

static void test_a_guest_that_does_not_come_back_to_its_wait_runs(void **state)
{
	(void)state;
	stopped_with(2);
	client_asks(A, KD_API_READ_VIRTUAL);
	client_asks(B, KD_API_READ_VIRTUAL);
	session_guest_gone(&s, LINK_GONE_AREA);
	assert_int_equal(session_deadline(&s), 0);
	session_timer(&s, 1000);
	session_guest_registered(&s);
	session_timer(&s, 2000);
	assert_int_equal(session_deadline(&s), 2000 + SESSION_RETURN_MS);
	did_whatever();
	session_timer(&s, 2000 + SESSION_RETURN_MS - 1);
	did("");
	session_timer(&s, 2000 + SESSION_RETURN_MS);
	did("send(2 3130) b:send(2 3130) b:expect(2) expect(0) b:expect(0)");
	client_acks(A);
	did("send(7 3031 droppable) expect(2)");
	assert_int_equal(session_state(&s), SESSION_RUNNING);
	assert_int_equal(s.counters.reverts, 1);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	session_client_breakin(clients[A].c);
	did("restart breakin");
}

static void test_a_guest_that_comes_back_to_its_wait_has_stayed(void **state)
{
	(void)state;
	stopped_with(2);
	session_guest_gone(&s, LINK_GONE_AREA);
	session_guest_registered(&s);
	session_timer(&s, 1000);
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	assert_true(session_deadline(&s) == UINT64_MAX);
	session_timer(&s, 100000);
	did("");
	client_asks(B, KD_API_READ_VIRTUAL);
	did("deliver(2 3130)");
}

static void test_a_running_guest_that_moves_is_not_doubted(void **state)
{
	(void)state;
	running_with(2);
	session_guest_gone(&s, LINK_GONE_AREA);
	assert_true(session_deadline(&s) == UINT64_MAX);
	session_guest_registered(&s);
	assert_true(session_deadline(&s) == UINT64_MAX);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)
	const struct CMUnitTest tests[] = {
		T(test_an_observer_reads_and_no_more),
		T(test_reads_fail_at_once_while_the_guest_runs),
		T(test_reads_fail_at_once_while_the_guest_waits_for_something_else),
		T(test_breakin_of_an_observer_is_told_once),
		T(test_breakin_of_an_observer_is_not_kept),
		T(test_clients_are_counted),
		T(test_requests_left_behind_are_counted),
		T(test_registers_of_a_stop_it_does_not_know_are_refused),
		T(test_nobody_is_told_of_the_reply_but_who_asked),
		T(test_reset_forgets_only_ones_own),
		T(test_requests_are_served_in_the_order_in_which_they_came),
		T(test_ram_answers_wait_for_their_turn),
		T(test_a_continue_waits_for_the_reads_before_it),
		T(test_reads_before_a_forced_end_of_the_stop_fail),
		T(test_the_report_repeated_behind_an_accepted_continue_is_no_stop),
		T(test_everybody_who_waits_is_told),
		T(test_continue_of_an_observer_is_answered_by_the_next_stop),
		T(test_continue_of_an_observer_is_answered_at_once_by_the_latest_stop),
		T(test_module_loads_are_told_in_order),
		T(test_prints_wait_at_a_stop_and_keep_their_place),
		T(test_an_observer_at_a_stop_costs_bounded_memory),
		T(test_an_observer_with_the_stop_of_before_reads_the_present),
		T(test_who_comes_later_is_told_the_stop),
		T(test_reset_of_an_observer_brings_it_up_to_date),
		T(test_a_report_of_another_processor_is_told),
		T(test_a_report_said_again_is_news_to_nobody_who_observes),
		T(test_the_first_has_control),
		T(test_free_control_goes_to_who_needs_it),
		T(test_free_control_goes_to_who_continues_the_present_stop),
		T(test_who_asks_is_told_of_and_waits),
		T(test_control_is_given_to_one),
		T(test_control_taken_by_force_is_told),
		T(test_who_takes_control_while_it_waits_is_told_the_stop),
		T(test_a_continue_accepted_before_control_went_is_executed),
		T(test_loads_go_on_alone_and_every_observer_hears_of_each),
		T(test_other_stops_wait_for_a_controller),
		T(test_the_controller_that_leaves_lets_a_load_go_on),
		T(test_a_deaf_controller_delays_nobody),
		T(test_control_of_a_deaf_one_may_be_taken),
		T(test_a_deaf_observer_delays_nobody),
		T(test_a_prompt_is_the_controllers_and_text_to_the_others),
		T(test_a_prompt_goes_with_control),
		T(test_a_prompt_that_nobody_read_is_not_shown_to_the_next),
		T(test_files_are_the_controllers),
		T(test_who_comes_is_told_the_last_lines),
		T(test_the_stop_follows_the_last_lines),
		T(test_only_whole_lines_are_told),
		T(test_history_without_a_line_end),
		T(test_what_was_before_our_time_goes_in_front),
		T(test_what_was_before_our_time_does_not_push_out_what_is_newer),
		T(test_own_questions_come_before_the_stop_is_told),
		T(test_own_questions_are_answered_by_ram),
		T(test_requests_wait_for_the_brokers_own),
		T(test_own_questions_alone),
		T(test_own_question_that_the_guest_lost),
		T(test_own_question_of_a_guest_that_is_gone),
		T(test_own_question_instead_of_whose_answer_a_prompt_comes),
		T(test_breakpoints_of_one_who_left_are_taken_out_at_once),
		T(test_breakpoints_of_one_who_left_are_taken_out_at_the_next_stop),
		T(test_a_breakpoint_asked_for_by_one_who_left_is_taken_out),
		T(test_breakpoints_are_asked_for_in_turn),
		T(test_handles_of_another_kernel_are_dead),
		T(test_a_reset_is_told_to_everybody),
		T(test_who_has_not_heard_the_farewell_is_told),
		T(test_only_who_rebooted_knows),
		T(test_a_snapshot_that_was_loaded_is_told_as_a_reset),
		T(test_a_request_of_the_time_before_the_snapshot_fails),
		T(test_numbers_may_wrap),
		T(test_a_guest_that_does_not_come_back_to_its_wait_runs),
		T(test_a_guest_that_comes_back_to_its_wait_has_stayed),
		T(test_a_running_guest_that_moves_is_not_doubted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
