// SPDX-License-Identifier: MIT
// Many debuggers on one guest: a has control, the others observe.
#include "serve/session_bench.h"

#include <stdio.h>
#include <string.h>

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

static void test_reads_left_behind_are_nobodys(void **state)
{
	(void)state;
	stopped_with(1);
	client_asks(A, KD_API_WRITE_VIRTUAL);
	did("deliver(2 3131)");
	for (unsigned n = 0; n < 2 * SESSION_CLIENTS_MAX; n++) {
		client_comes(B);
		client_acks(B);
		client_asks(B, KD_API_READ_VIRTUAL);
		client_leaves(B);
	}
	assert_int_equal(s.client_count, 1);
	did_whatever();
	client_comes(B);
	client_acks(B);
	client_asks(B, KD_API_READ_PHYSICAL);
	did_whatever();
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("send(2 3131) deliver(2 313d) b:expect(2)");
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

static void test_resend_of_who_sits_at_a_stop_of_before_brings_it_up_to_date(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_stops_at(0x1000);
	did_whatever();
	session_client_resend(clients[B].c);
	did("b:send(7 3030)");
	assert_int_equal(get_le64(last_body + 0x18), 0x1000);
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

// As debuggers begin: a RESET, while what was printed before is still on its way to them.
static void test_who_comes_at_a_prompt_and_resets_is_shown_it_once(void **state)
{
	(void)state;
	running_with(1);
	guest_prints("before\n");
	client_acks(A);
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(A);
	client_appears(B);
	did_whatever();
	session_client_reset(clients[B].c);
	for (int line = 0; line < 3; line++) { // the history and the words around it
		did("b:send(3 3230 droppable)");
		client_acks(B);
	}
	did("b:send(3 3230 droppable)");
	client_acks(B);
	did("");
	session_client_reset(clients[B].c);
	did("b:send(3 3230 droppable)"); // nothing of it waits: it is asked for again
}

// It sits at a stop and has not read the text of the prompt, which was put to another.
static void test_a_prompt_behind_a_stop_is_put_to_who_takes_control(void **state)
{
	(void)state;
	running_with_b_at_stop();
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	did_whatever();
	client_leaves(A);
	assert_int_equal(session_control_take(clients[B].c, false), SESSION_CONTROL_TAKEN);
	did("");
	client_asks(B, KD_API_CONTINUE2);
	did("b:send(3 3230 droppable) b:expect(0)");
	client_acks(B);
	did("b:send(3 3231) b:expect(3)");
}

static void test_the_answer_to_a_prompt_of_before_answers_no_other(void **state)
{
	uint8_t answer[KD_DEBUG_IO_SIZE] = { 0 };

	(void)state;
	put_le32(answer, KD_DEBUG_IO_PROMPT);
	running_with(2);
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(A);
	client_acks(B);
	session_control_take(clients[B].c, true);
	client_acks(B);
	session_client_packet(clients[B].c, KD_PACKET_DEBUG_IO, answer, sizeof(answer));
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(B);
	client_leaves(B);
	session_control_take(clients[A].c, false);
	did_whatever();
	session_client_packet(clients[A].c, KD_PACKET_DEBUG_IO, answer, sizeof(answer)); // to the first
	did("send(3 3230 droppable) expect(0)");
	for (unsigned i = 0; i < 2; i++)
		client_acks(A);
	did("send(3 3230 droppable) send(3 3231) expect(3)");
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
		T(test_reads_left_behind_are_nobodys),
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
		T(test_resend_of_who_sits_at_a_stop_of_before_brings_it_up_to_date),
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
		T(test_who_comes_at_a_prompt_and_resets_is_shown_it_once),
		T(test_a_prompt_behind_a_stop_is_put_to_who_takes_control),
		T(test_the_answer_to_a_prompt_of_before_answers_no_other),
		T(test_files_are_the_controllers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
