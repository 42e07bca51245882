// SPDX-License-Identifier: MIT
// One debugger, which has control, and one guest.
#include "serve/session_bench.h"

#include <string.h>

static void stopped_with_client(void)
{
	boot_and_stop();
	client_comes(0);
	client_acks(0);
	did("send(7 3030) expect(2)");
}

// ---- Nobody there -----------------------------------------------------------------------------------------

static void test_alone_loads_are_continued(void **state)
{
	(void)state;
	boot();
	guest_loads();
	did("deliver(2 3136)+");
	assert_int_equal(get_le32(last_body + 0x10), KD_CONTINUE_HANDLED);
	assert_int_equal(get_le16(last_body + 6), 1); // for the processor that reported
	assert_int_equal(session_state(&s), SESSION_RUNNING);
	assert_int_equal(s.counters.continued, 1);
}

static void test_alone_wait_may_come_later(void **state)
{
	(void)state;
	boot();
	guest_state(KD_STATE_LOAD_SYMBOLS, false, 0, 0);
	did("");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("deliver(2 3136)+");
}

static void test_alone_files_are_refused(void **state)
{
	(void)state;
	boot();
	guest_asks(KD_PACKET_FILE_IO, KD_FILE_IO_CREATE);
	did("deliver(11 3430)+");
	assert_int_equal(get_le32(last_body + 4), 0xC000000F);
	guest_asks(KD_PACKET_FILE_IO, KD_FILE_IO_READ);
	did("deliver(11 3431)+");
	assert_int_equal(get_le32(last_body + 4), 0xC0000001);
	assert_int_equal(last_len, KD_FILE_IO_SIZE);
}

static void test_alone_prints_are_kept(void **state)
{
	(void)state;
	boot();
	guest_prints("one ");
	guest_prints("two");
	did("");
	assert_int_equal(s.history.len, 7);
	assert_memory_equal(buf_data(&s.history), "one two", 7);
}

static void test_history_is_bounded(void **state)
{
	(void)state;
	boot();
	for (int i = 0; i < 5000; i++)
		guest_prints("0123456789012345678901234567890\n");
	assert_true(s.history.len <= SESSION_HISTORY_MAX);
	assert_int_equal(buf_data(&s.history)[s.history.len - 1], '\n');
}

static void test_alone_exceptions_and_prompts_wait(void **state)
{
	(void)state;
	boot();
	guest_stops();
	did("");
	assert_int_equal(session_state(&s), SESSION_STOPPED);
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	did("");
	assert_int_equal(session_state(&s), SESSION_PROMPT);
}

// ---- A client ---------------------------------------------------------------------------------------------

static void test_client_comes_to_a_stopped_guest(void **state)
{
	(void)state;
	boot_and_stop();
	client_appears(0);
	did(""); // not across its RESET
	session_client_reset(clients[0].c);
	did("send(7 3030) expect(2)");
}

static void test_client_without_reset_is_greeted_after_a_while(void **state)
{
	(void)state;
	boot_and_stop();
	client_appears(0);
	assert_int_equal(session_deadline(&s), 0);
	session_timer(&s, 1000);
	assert_int_equal(session_deadline(&s), 1000 + SESSION_GREETING_MS);
	session_timer(&s, 1000 + SESSION_GREETING_MS - 1);
	did("");
	session_timer(&s, 1000 + SESSION_GREETING_MS);
	did("send(7 3030) expect(2)");
	assert_true(session_deadline(&s) == UINT64_MAX);
}

static void test_client_comes_to_a_running_guest(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	session_timer(&s, 1);
	session_timer(&s, 10000);
	did("");
	session_client_breakin(clients[0].c);
	did("breakin");
	guest_stops();
	did("cancel send(7 3030) expect(2)"); // nobody said that it was taken
}

static void test_breakin_taken_is_not_cancelled(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	session_client_breakin(clients[0].c);
	session_guest_breakin_taken(&s);
	guest_stops();
	did("breakin send(7 3030) expect(2)");
}

// The debugger was impatient, and its second one crossed the word that the first was taken.
static void test_breakin_sent_behind_the_one_taken_is_cancelled(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	session_client_breakin(clients[0].c);
	session_client_breakin(clients[0].c);
	session_guest_breakin_taken(&s);
	guest_stops();
	did("breakin breakin cancel send(7 3030) expect(2)");
	session_guest_breakin_taken(&s); // a guest that makes it up
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	guest_stops();
	did("deliver(2 313c)+ expect(0) send(7 3030) expect(2)");
}

static void test_breakin_outlives_module_loads(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	session_client_breakin(clients[0].c);
	guest_loads();
	did("breakin send(7 3031 droppable) expect(2)");
}

static void test_breakin_while_stopped_is_nothing(void **state)
{
	(void)state;
	stopped_with_client();
	session_client_breakin(clients[0].c);
	did("");
}

// A snapshot was loaded: the guest registers anew, and runs there.
static void test_breakin_reaches_a_guest_that_left_its_wait(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_registered(&s);
	session_client_breakin(clients[0].c);
	did("breakin");
	guest_stops();
	did("cancel send(7 3030)");
}

static void test_breakin_is_taken_back_when_the_guest_comes_back_to_its_wait(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_registered(&s);
	session_client_breakin(clients[0].c);
	did("breakin");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("cancel");
}

static void test_breakin_waits_for_a_guest(void **state)
{
	(void)state;
	client_comes(0);
	session_client_breakin(clients[0].c);
	did("");
	boot();
	did("breakin");
}

static void test_breakin_of_a_client_that_left_is_forgotten_without_guest(void **state)
{
	(void)state;
	client_comes(0);
	session_client_breakin(clients[0].c);
	client_leaves(0);
	boot();
	did("");
}

static void test_request_and_reply(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_READ_VIRTUAL);
	did("deliver(2 3130)");
	assert_true(session_awaits_reply(clients[0].c));
	guest_replies(KD_API_READ_VIRTUAL);
	did("send(2 3130)");
	assert_false(session_awaits_reply(clients[0].c));
}

static void test_continue_runs(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_CONTINUE2);
	did("deliver(2 313c)+ expect(0)");
	assert_int_equal(session_state(&s), SESSION_RUNNING);
	guest_prints("x");
	did("send(3 3230 droppable)");
}

static void test_request_waits_for_the_guest(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0);
	client_acks(0);
	client_asks(0, KD_API_GET_VERSION);
	did("send(7 3030) expect(2) expect(0)"); // no second one meanwhile
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("deliver(2 3146) expect(2)");
}

static void test_one_request_at_a_time(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_GET_VERSION);
	client_asks(0, KD_API_READ_VIRTUAL);
	did("deliver(2 3146) expect(0)");
	client_asks(0, KD_API_READ_PHYSICAL); // against what it was told
	assert_int_equal(s.counters.requests_refused, 1);
	guest_replies(KD_API_GET_VERSION);
	did("send(2 3146) deliver(2 3130) expect(2)");
}

static void test_api_without_reply_ends_with_the_wait(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_CLEAR_ALL_INTERNAL_BREAKPOINTS);
	did("deliver(2 315a)");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	client_asks(0, KD_API_GET_VERSION);
	did("deliver(2 3146)");
}

static void test_switch_processor_brings_a_new_state(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_SWITCH_PROCESSOR);
	did("deliver(2 3150)+");
	guest_stops();
	did("send(7 3030)");
}

static void test_requests_of_the_wrong_time_are_refused(void **state)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	(void)state;
	boot();
	client_comes(0);
	client_asks(0, KD_API_GET_VERSION); // it runs
	session_client_packet(clients[0].c, 99, body, sizeof(body));
	session_client_packet(clients[0].c, KD_PACKET_FILE_IO, body, sizeof(body));
	session_client_packet(clients[0].c, KD_PACKET_MANIPULATE, body, 10);
	did("");
	assert_int_equal(s.counters.requests_refused, 4);
}

static void test_prompt(void **state)
{
	uint8_t answer[KD_DEBUG_IO_SIZE + 1] = { 0 };

	(void)state;
	boot();
	client_comes(0);
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	did("send(3 3231) expect(3)");
	client_acks(0);
	put_le32(answer, KD_DEBUG_IO_PROMPT);
	session_client_packet(clients[0].c, KD_PACKET_DEBUG_IO, answer, sizeof(answer));
	did("deliver(3 3231)+ expect(0)");
}

// ---- Coming, going, resynchronising -------------------------------------------------------------------------

static void test_next_client_gets_the_state_not_the_reply(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_READ_VIRTUAL);
	client_leaves(0);
	client_comes(0);
	did("deliver(2 3130) send(7 3030) expect(2)");
	client_acks(0);
	client_asks(0, KD_API_GET_VERSION);
	did("expect(0)"); // the guest is busy with the other one's
	guest_replies(KD_API_READ_VIRTUAL);
	did("deliver(2 3146) expect(2)");
	assert_int_equal(s.counters.replies_dropped, 1);
	guest_replies(KD_API_GET_VERSION);
	did("send(2 3146)");
}

static void test_accepted_continue_is_executed_though_the_client_left(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0);
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	client_leaves(0);
	did_whatever();
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("deliver(2 313c)+");
}

static void test_client_leaves_guest_stays_stopped(void **state)
{
	(void)state;
	stopped_with_client();
	client_leaves(0);
	did("");
	assert_int_equal(session_state(&s), SESSION_STOPPED);
}

static void test_client_leaves_in_a_module_load(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_loads();
	did("send(7 3031 droppable) expect(2)");
	client_leaves(0);
	did("deliver(2 3136)+");
}

static void test_reset_gives_the_state_again(void **state)
{
	(void)state;
	stopped_with_client();
	session_client_reset(clients[0].c);
	did("send(7 3030)");
	session_client_reset(clients[0].c); // in flight: KDCOM repeats it under the new id
	did("");
	client_acks(0);
	session_client_resend(clients[0].c);
	did("send(7 3030)");
}

static void test_reset_forgets_a_reply_in_flight(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_GET_VERSION);
	guest_replies(KD_API_GET_VERSION);
	did("deliver(2 3146) send(2 3146)");
	session_client_reset(clients[0].c);
	did("forget send(7 3030)");
}

static void test_reset_abandons_a_request(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_GET_VERSION);
	session_client_reset(clients[0].c);
	client_acks(0);
	did("deliver(2 3146) send(7 3030)");
	guest_replies(KD_API_GET_VERSION);
	did("");
	assert_int_equal(s.counters.replies_dropped, 1);
}

static void test_reset_behind_an_accepted_continue_brings_nothing_back(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_state(KD_STATE_LOAD_SYMBOLS, false, 0, 0); // its wait is reported a moment later
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	did_whatever();
	session_client_reset(clients[0].c);
	session_client_resend(clients[0].c);
	did("");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("deliver(2 313c)+");
	guest_loads();
	did("send(7 3031 droppable) expect(2)");
}

static void test_resend_while_a_reply_is_due_is_nothing(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_GET_VERSION);
	session_client_resend(clients[0].c);
	did("deliver(2 3146)");
}

// ---- Answers without the guest ---------------------------------------------------------------------------------

static void test_ram_answers_at_once(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	for (int i = 0; i < 3; i++) {
		client_asks(0, KD_API_READ_VIRTUAL);
		did("look(3130) send(2 3130)");
		assert_string_equal(last_body + 4, "the very bytes that RAM has, and nothing of the request");
		assert_false(session_awaits_reply(clients[0].c));
		client_acks(0);
	}
	client_asks(0, KD_API_GET_VERSION); // the guest still waits for what RAM does not know
	did("look(3146) deliver(2 3146)");
	guest_replies(KD_API_GET_VERSION);
	client_acks(0);
	did("send(2 3146)");
	client_asks(0, KD_API_CONTINUE2);
	did("look(313c) deliver(2 313c)+ expect(0)");
	assert_int_equal(s.counters.replies_dropped + s.counters.requests_refused, 0);
}

// Two questions at once are not asked, not of RAM either: the first may change what the second is about.
static void test_ram_waits_for_the_guests_turn(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(0, KD_API_WRITE_VIRTUAL);
	did("look(3131) deliver(2 3131)");
	client_asks(0, KD_API_READ_VIRTUAL);
	did("expect(0)");
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("send(2 3131) look(3130) expect(2)");
	client_acks(0);
	did("send(2 3130)");
}

static void test_ram_does_not_answer_while_the_guest_is_away(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_state(KD_STATE_EXCEPTION, false, 0, 0); // its wait is reported a moment later
	client_acks(0);
	did("send(7 3030) expect(2)");
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(0, KD_API_READ_VIRTUAL);
	did("expect(0)");
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("look(3130) send(2 3130) expect(2)");
}

static void test_ram_answers_nobody_who_left(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(0, KD_API_WRITE_VIRTUAL);
	client_asks(0, KD_API_READ_VIRTUAL);
	client_leaves(0);
	client_comes(0);
	did_whatever();
	guest_replies(KD_API_WRITE_VIRTUAL); // the read has gone with who would have heard of it
	did("");
	assert_int_equal(s.counters.replies_dropped, 1);
}

static void test_what_was_accepted_is_executed_though_its_client_left(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_WRITE_VIRTUAL);
	client_asks(0, KD_API_WRITE_PHYSICAL);
	client_leaves(0);
	did_whatever();
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("deliver(2 313e)"); // accepted is accepted
	guest_replies(KD_API_WRITE_PHYSICAL);
	did("");
	assert_int_equal(s.counters.replies_dropped, 2);
}

static void test_ram_answers_nobody_who_started_over(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(0, KD_API_WRITE_VIRTUAL);
	client_asks(0, KD_API_READ_VIRTUAL);
	session_client_reset(clients[0].c);
	client_acks(0);
	did_whatever();
	guest_replies(KD_API_WRITE_VIRTUAL);
	did("deliver(2 3130) expect(2)"); // accepted is accepted
	guest_replies(KD_API_READ_VIRTUAL);
	did("");
	assert_int_equal(s.counters.replies_dropped, 2);
}

static void test_reset_forgets_an_answer_of_ram(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	client_asks(0, KD_API_READ_VIRTUAL);
	session_client_reset(clients[0].c);
	did("look(3130) send(2 3130) forget send(7 3030)");
}

static void test_only_requests_are_looked_up(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	ram_knows = KD_API_READ_VIRTUAL;
	guest_asks(KD_PACKET_DEBUG_IO, KD_DEBUG_IO_PROMPT);
	client_acks(0);
	session_client_packet(clients[0].c, KD_PACKET_DEBUG_IO, last_body, KD_DEBUG_IO_SIZE + 1);
	did("send(3 3231) expect(3) deliver(3 3231)+ expect(0)");
}

// The kernel whose memory it was is gone.
static void test_ram_says_nothing_of_the_dead(void **state)
{
	(void)state;
	stopped_with_client();
	ram_knows = KD_API_READ_VIRTUAL;
	session_guest_gone(&s, LINK_GONE_RESET);
	client_acks(0);
	did("send(7 3031 droppable)");
	client_asks(0, KD_API_READ_VIRTUAL);
	did("send(2 3130)");
	assert_int_equal(get_le32(last_body + 8), KD_STATUS_UNSUCCESSFUL);
}

// ---- A client that does not read -----------------------------------------------------------------------------

static void test_a_line_of_ours_is_a_print(void **state)
{
	(void)state;
	boot();
	session_tell_all(&s, "nobody hears");
	did("");
	client_comes(0);
	session_tell(clients[0].c, "vmkd: hello\n");
	did("send(3 3230 droppable)");
	assert_int_equal(last_len, KD_DEBUG_IO_SIZE + 12);
	assert_memory_equal(last_body + KD_DEBUG_IO_SIZE, "vmkd: hello\n", 12);
}

static void test_prints_wait_bounded_and_in_order(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_prints("first");
	did("send(3 3230 droppable)");
	for (int i = 0; i < 20000; i++)
		guest_prints("0123456789012345678901234567890123456789");
	assert_true(clients[0].c->queue_len <= SESSION_QUEUE_MAX);
	assert_true(s.counters.prints_dropped > 0);
	guest_stops(); // never dropped, never before the prints
	did("");
	client_acks(0);
	did("send(3 3230 droppable)");
	for (int i = 0; i < 100000 && clients[0].c->queue; i++)
		client_acks(0);
	client_acks(0);
	did_whatever();
	client_asks(0, KD_API_CONTINUE2);
	did("deliver(2 313c)+ expect(0)");
}

static void test_deaf_client_delays_a_boot_and_no_more(void **state)
{
	(void)state;
	boot();
	client_appears(0);
	guest_loads();
	did("send(7 3031 droppable) expect(2)");
	clients[0].is_flying = false;
	session_client_given_up(clients[0].c);
	did("deliver(2 3136)+ expect(0)");
	guest_loads();
	did("send(7 3031 droppable) expect(2) deliver(2 3136)+");
	clients[0].is_flying = false;
	session_client_given_up(clients[0].c);
	did_whatever();
	guest_stops(); // that waits for it all the same
	did("send(7 3030) expect(2)");
	session_client_reset(clients[0].c); // it wakes up
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	guest_loads();
	did("deliver(2 313c)+ expect(0) send(7 3031 droppable) expect(2)");
}

// ---- Reset and reboot ---------------------------------------------------------------------------------------

static void test_silent_reset_gives_the_notice_then_a_fresh_start(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("send(7 3031 droppable)");
	assert_int_equal(last_len, KD_STATE_CHANGE_SIZE);
	assert_int_equal(last_body[0x40], 1);
	assert_true(get_le64(last_body + 0x28) == UINT64_MAX);
	client_acks(0);
	boot();
	guest_loads();
	did("");
	client_asks(0, KD_API_GET_VERSION); // of a kernel that is gone
	did("send(2 3146)");
	assert_int_equal(get_le32(last_body + 8), KD_STATUS_UNSUCCESSFUL);
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	did("restart send(7 3031 droppable) expect(2)"); // the restart forgot that it was expected
}

// The RESET crosses the notice: the client may have read it and said Continue to it, and that is no answer to the stop that comes behind it.
static void test_a_reset_does_not_overtake_the_notice(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_gone(&s, LINK_GONE_RESET);
	boot();
	guest_stops();
	did("send(7 3031 droppable)");
	session_client_reset(clients[0].c);
	did(""); // KDCOM sends the notice again
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	did("restart send(7 3030) expect(2)");
}

static void test_notice_that_nobody_continues_ends_by_itself(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_gone(&s, LINK_GONE_SHUTDOWN);
	client_acks(0);
	boot();
	guest_stops();
	did("send(7 3031 droppable)");
	assert_int_equal(session_deadline(&s), 0);
	session_timer(&s, 5000);
	session_timer(&s, session_deadline(&s) - 1);
	did("");
	session_timer(&s, session_deadline(&s));
	did("restart send(7 3030) expect(2)");
}

static void test_request_under_way_at_a_reset_fails(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_READ_VIRTUAL);
	session_guest_gone(&s, LINK_GONE_RESET);
	did("deliver(2 3130) send(2 3130) expect(0)");
	assert_int_equal(get_le32(last_body + 8), KD_STATUS_UNSUCCESSFUL);
	client_acks(0);
	did("send(7 3031 droppable) expect(2)");
}

static void test_announced_reboot_gives_no_second_notice(void **state)
{
	(void)state;
	boot();
	client_comes(0);
	guest_state(KD_STATE_LOAD_SYMBOLS, true, UINT64_MAX, KD_PACKET_MANIPULATE);
	client_acks(0);
	client_asks(0, KD_API_CONTINUE2);
	did_whatever();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("restart");
	boot();
	guest_loads();
	did("send(7 3031 droppable) expect(2)");
}

static void test_reboot_asked_for_gives_no_notice(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_REBOOT);
	session_guest_gone(&s, LINK_GONE_RESET);
	did("deliver(2 313b)+ expect(0) restart");
}

static void test_reset_without_client_is_quiet(void **state)
{
	(void)state;
	boot_and_stop();
	session_guest_gone(&s, LINK_GONE_RESET);
	did("");
	assert_int_equal(session_state(&s), SESSION_NO_GUEST);
	boot();
	assert_int_equal(s.counters.boots, 2);
}

static void test_module_that_moves_is_no_reboot(void **state)
{
	(void)state;
	stopped_with_client();
	session_guest_gone(&s, LINK_GONE_AREA);
	session_guest_registered(&s);
	did("");
	assert_int_equal(s.counters.boots, 1);
}

static void test_first_packet_again_is_a_boot_nobody_announced(void **state)
{
	(void)state;
	stopped_with_client();
	guest_seq = 5;
	guest_prints("x");
	did(""); // it is at a stop
	guest_seq = 0;
	guest_loads();
	did("send(3 3230 droppable) expect(0)"); // of the kernel that is gone
	client_acks(0);
	did("send(7 3031 droppable) expect(2)");
	assert_true(get_le64(last_body + 0x28) == UINT64_MAX);
	assert_int_equal(s.counters.boots, 2);
}

static void test_resets_without_end_use_no_memory(void **state)
{
	(void)state;
	stopped_with_client();
	for (int i = 0; i < 1000; i++) {
		session_guest_gone(&s, LINK_GONE_RESET);
		boot();
		guest_stops();
	}
	assert_true(clients[0].c->queue_len <= 3 * SESSION_BODY_MAX);
}

// ---- A broker that came anew, and a guest that lost a request ----------------------------------------------------

static void test_unknown_wait_is_asked_for_once(void **state)
{
	(void)state;
	session_guest_registered(&s);
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	session_guest_waits(&s, KD_PACKET_MANIPULATE);
	did("resend");
	guest_stops();
	client_comes(0);
	did("send(7 3030) expect(2)");
}

static void test_reply_to_the_broker_before_us_is_dropped(void **state)
{
	(void)state;
	session_guest_registered(&s);
	client_comes(0);
	guest_replies(KD_API_READ_VIRTUAL);
	did("resend");
	assert_int_equal(s.counters.replies_dropped, 1);
}

static void test_lost_request_is_repeated_and_the_state_is_not(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_READ_VIRTUAL);
	did("deliver(2 3130)");
	guest_stops(); // it registered anew before it took the request
	did("deliver(2 3130)");
	guest_replies(KD_API_READ_VIRTUAL);
	did("send(2 3130)");
}

static void test_request_that_is_lost_for_good_fails(void **state)
{
	(void)state;
	stopped_with_client();
	client_asks(0, KD_API_READ_VIRTUAL);
	for (unsigned i = 0; i < SESSION_REDELIVER_MAX; i++)
		guest_stops();
	did("deliver(2 3130) deliver(2 3130) deliver(2 3130) deliver(2 3130)");
	guest_stops();
	did("send(2 3130)");
	assert_int_equal(get_le32(last_body + 8), KD_STATUS_UNSUCCESSFUL);
}

// ---- Wild guests --------------------------------------------------------------------------------------------

static void test_impossible_packets_of_the_guest_are_refused(void **state)
{
	uint8_t body[SESSION_BODY_MAX + 1] = { 0 };

	(void)state;
	boot();
	client_comes(0);
	session_guest_packet(&s, 1, KD_PACKET_STATE_CHANGE, 56, body, 240, 2);
	session_guest_packet(&s, 2, KD_PACKET_STATE_CHANGE, 240, body, 239, 2);
	session_guest_packet(&s, 3, KD_PACKET_STATE_CHANGE, 240, body, SESSION_BODY_MAX + 1, 2);
	session_guest_packet(&s, 4, 6, 0, body, 0, 0);
	session_guest_packet(&s, 5, 0xFFFF, 16, body, 16, 0);
	did("");
	assert_int_equal(s.counters.guest_refused, 5);
}

static void test_replies_nobody_asked_for_are_dropped(void **state)
{
	(void)state;
	stopped_with_client();
	guest_replies(KD_API_READ_VIRTUAL);
	did("");
	client_asks(0, KD_API_GET_VERSION);
	guest_replies(KD_API_READ_VIRTUAL); // of another question
	did("deliver(2 3146) deliver(2 3146)");
	assert_int_equal(s.counters.replies_dropped, 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)
	const struct CMUnitTest tests[] = {
		T(test_alone_loads_are_continued),
		T(test_alone_wait_may_come_later),
		T(test_alone_files_are_refused),
		T(test_alone_prints_are_kept),
		T(test_history_is_bounded),
		T(test_alone_exceptions_and_prompts_wait),
		T(test_client_comes_to_a_stopped_guest),
		T(test_client_without_reset_is_greeted_after_a_while),
		T(test_client_comes_to_a_running_guest),
		T(test_breakin_taken_is_not_cancelled),
		T(test_breakin_sent_behind_the_one_taken_is_cancelled),
		T(test_breakin_outlives_module_loads),
		T(test_breakin_while_stopped_is_nothing),
		T(test_breakin_reaches_a_guest_that_left_its_wait),
		T(test_breakin_is_taken_back_when_the_guest_comes_back_to_its_wait),
		T(test_breakin_waits_for_a_guest),
		T(test_breakin_of_a_client_that_left_is_forgotten_without_guest),
		T(test_request_and_reply),
		T(test_continue_runs),
		T(test_request_waits_for_the_guest),
		T(test_one_request_at_a_time),
		T(test_api_without_reply_ends_with_the_wait),
		T(test_switch_processor_brings_a_new_state),
		T(test_requests_of_the_wrong_time_are_refused),
		T(test_prompt),
		T(test_next_client_gets_the_state_not_the_reply),
		T(test_accepted_continue_is_executed_though_the_client_left),
		T(test_client_leaves_guest_stays_stopped),
		T(test_client_leaves_in_a_module_load),
		T(test_reset_gives_the_state_again),
		T(test_reset_forgets_a_reply_in_flight),
		T(test_reset_abandons_a_request),
		T(test_reset_behind_an_accepted_continue_brings_nothing_back),
		T(test_resend_while_a_reply_is_due_is_nothing),
		T(test_ram_answers_at_once),
		T(test_ram_waits_for_the_guests_turn),
		T(test_ram_does_not_answer_while_the_guest_is_away),
		T(test_ram_answers_nobody_who_left),
		T(test_what_was_accepted_is_executed_though_its_client_left),
		T(test_ram_answers_nobody_who_started_over),
		T(test_reset_forgets_an_answer_of_ram),
		T(test_only_requests_are_looked_up),
		T(test_ram_says_nothing_of_the_dead),
		T(test_a_line_of_ours_is_a_print), T(test_prints_wait_bounded_and_in_order),
		T(test_deaf_client_delays_a_boot_and_no_more),
		T(test_silent_reset_gives_the_notice_then_a_fresh_start),
		T(test_a_reset_does_not_overtake_the_notice),
		T(test_notice_that_nobody_continues_ends_by_itself),
		T(test_request_under_way_at_a_reset_fails),
		T(test_announced_reboot_gives_no_second_notice),
		T(test_reboot_asked_for_gives_no_notice),
		T(test_reset_without_client_is_quiet),
		T(test_module_that_moves_is_no_reboot),
		T(test_first_packet_again_is_a_boot_nobody_announced),
		T(test_resets_without_end_use_no_memory),
		T(test_unknown_wait_is_asked_for_once),
		T(test_reply_to_the_broker_before_us_is_dropped),
		T(test_lost_request_is_repeated_and_the_state_is_not),
		T(test_request_that_is_lost_for_good_fails),
		T(test_impossible_packets_of_the_guest_are_refused),
		T(test_replies_nobody_asked_for_are_dropped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
