// SPDX-License-Identifier: MIT
// What many debuggers are told of one guest: its past, the broker's own questions, breakpoints left behind, resets, other times.
#include "serve/session_bench.h"

#include <stdio.h>
#include <string.h>

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

static void complete(size_t old_len, const char *all, size_t new_len)
{
	session_history_complete(&s, old_len, (const uint8_t *)all, strlen(all), new_len);
}

static void history_is(const char *expected)
{
	assert_int_equal(s.history.len, strlen(expected));
	if (s.history.len)
		assert_memory_equal(buf_data(&s.history), expected, s.history.len);
}

static void test_what_was_before_our_time_goes_in_front(void **state)
{
	char text[1024];

	(void)state;
	boot();
	guest_prints("now\n");
	client_comes(A);
	hear(A, text, sizeof(text));
	complete(0, "then\nnow\n", 5);
	hear(A, text, sizeof(text));
	assert_string_equal(text, "vmkd: what the guest printed before:\nthen\nvmkd: and from now on:\n");
	history_is("then\nnow\n");
	complete(0, "then\nnow\n", 0); // nothing of it is news
	hear(A, text, sizeof(text));
	assert_string_equal(text, "");
}

static void test_what_was_before_our_time_does_not_push_out_what_is_newer(void **state)
{
	static uint8_t all[SESSION_HISTORY_MAX + 10];

	(void)state;
	boot();
	guest_prints("old\nnow\n");
	complete(4, "gap\nnow\n", 4);
	history_is("old\ngap\nnow\n");
	memset(all, 'x', sizeof(all));
	all[sizeof(all) - 1] = '!';
	session_history_complete(&s, 4, all, SESSION_HISTORY_MAX - 2, 0); // room for two bytes of what is older
	assert_int_equal(s.history.len, SESSION_HISTORY_MAX);
	assert_memory_equal(buf_data(&s.history), "d\nxx", 4);
	session_history_complete(&s, s.history.len, all, sizeof(all), 0); // none
	assert_int_equal(s.history.len, SESSION_HISTORY_MAX);
	assert_memory_equal(buf_data(&s.history) + SESSION_HISTORY_MAX - 2, "x!", 2);
	complete(1000000, "", 1000); // more than there is
	assert_int_equal(s.history.len, SESSION_HISTORY_MAX);
	session_history_complete(&s, 0, NULL, 0, 0);
	history_is("");
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

// vmkd.sys, stopped and started again: it counts from 1, but neither the kernel nor the breakpoints that it keeps are new.
static void test_a_module_that_comes_again_brings_no_other_kernel(void **state)
{
	(void)state;
	stopped_with(2);
	asks_breakpoint(A, KD_API_WRITE_BREAKPOINT, 0x1000);
	guest_gives_handle(0x1000, 4);
	client_acks(A);
	client_asks(A, KD_API_CONTINUE2);
	client_asks(B, KD_API_CONTINUE2);
	did_whatever();
	for (unsigned life = 0; life < 3; life++) {
		session_guest_gone(&s, LINK_GONE_BYE);
		session_guest_joined(&s);
		guest_seq = 0;
		guest_prints("here again\n");
		did("send(3 3230 droppable) b:send(3 3230 droppable)");
		client_acks(A);
		client_acks(B);
	}
	assert_int_equal(s.counters.boots, 1);
	assert_int_equal(s.counters.reverts, 0);
	guest_stops();
	did("send(7 3030) expect(2) b:send(7 3030) b:expect(2)");
	client_acks(A);
	asks_breakpoint(A, KD_API_RESTORE_BREAKPOINT, 4);
	did("deliver(2 3135)");
}

// What was set there before it came nobody here knows: the kernel is asked.
static void test_a_module_that_joins_a_kernel_knows_nothing_of_its_breakpoints(void **state)
{
	(void)state;
	session_guest_joined(&s);
	client_comes(A);
	guest_stops();
	did_whatever();
	client_acks(A);
	asks_breakpoint(A, KD_API_RESTORE_BREAKPOINT, 7);
	did("deliver(2 3135)");
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
		T(test_a_module_that_comes_again_brings_no_other_kernel),
		T(test_a_module_that_joins_a_kernel_knows_nothing_of_its_breakpoints),
		T(test_a_request_of_the_time_before_the_snapshot_fails),
		T(test_numbers_may_wrap),
		T(test_a_guest_that_does_not_come_back_to_its_wait_runs),
		T(test_a_guest_that_comes_back_to_its_wait_has_stayed),
		T(test_a_running_guest_that_moves_is_not_doubted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
