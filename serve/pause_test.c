// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/pause.h"

// ---- A monitor that answers when it is told to ----------------------------------------------------------

static struct {
	char command[16][80];
	qmp_answer_fn *fn[16];
	void *arg[16];
	unsigned sent, answered;
	bool is_closing;
} monitor;

// In the place of serve/qmp.c.
bool qmp_execute(struct qmp *qmp, const char *command, qmp_answer_fn *answer, void *arg)
{
	(void)qmp;
	if (monitor.is_closing)
		return false;
	assert_true(monitor.sent < 16);
	strncpy(monitor.command[monitor.sent], command, sizeof(monitor.command[0]) - 1);
	monitor.fn[monitor.sent] = answer;
	monitor.arg[monitor.sent++] = arg;
	return true;
}

// The oldest unanswered command must be this one. json NULL: QEMU refuses it.
static void answer(const char *command, const char *json)
{
	cJSON *value = json ? cJSON_Parse(json) : NULL;
	unsigned at = monitor.answered++;

	assert_true(at < monitor.sent);
	assert_non_null(strstr(monitor.command[at], command));
	monitor.fn[at](monitor.arg[at], value);
	cJSON_Delete(value);
}

static unsigned unanswered(void)
{
	return monitor.sent - monitor.answered;
}

#define RUNNING "{\"running\":true}"
#define PAUSED "{\"running\":false}"

// ---- The one under test ---------------------------------------------------------------------------------

static char folder[] = "/tmp/pause_test_XXXXXX";
static struct loop loop;
static struct pause p;
static int watchdog[2];
static unsigned looks;
static struct qmp *const QMP = (struct qmp *)&monitor; // never looked into

static void look(void *arg)
{
	assert_ptr_equal(arg, &looks);
	looks++;
}

static void start(uint32_t ms)
{
	memset(&monitor, 0, sizeof(monitor));
	looks = 0;
	assert_int_equal(pipe(watchdog), 0);
	assert_null(pause_init(&p, &loop, "vm", ms, watchdog[1], look, &looks));
}

static void start_connected(void)
{
	start(500);
	pause_connected(&p, QMP);
	answer("query-status", RUNNING);
}

static void end(void)
{
	pause_deinit(&p);
	unlink(p.mark);
	close(watchdog[0]);
	close(watchdog[1]);
}

// The timer is due. -> false: it is not armed.
static bool time_passes(void)
{
	if (!p.timer.is_armed)
		return false;
	loop_timer_cancel(&loop, &p.timer);
	p.timer.fn(&p.timer);
	return true;
}

static void fall_silent(void)
{
	pause_note(&p, true);
	assert_true(time_passes());
}

static void become_paused(void)
{
	fall_silent();
	answer("query-status", RUNNING);
	pause_event(&p, "STOP");
	answer("stop", "{}");
	assert_true(pause_is_in_force(&p));
	assert_true(pause_has_mark(&p));
}

// ---- What it must not do ----------------------------------------------------------------------------------

static void test_no_pause_without_a_watchdog(void **state)
{
	(void)state;
	start_connected();
	p.watchdog_fd = -1;
	fall_silent();
	assert_int_equal(unanswered(), 0);
	end();
	start_connected();
	close(watchdog[0]); // it has been killed
	fall_silent();
	assert_int_equal(unanswered(), 0);
	assert_false(pause_has_mark(&p));
	watchdog[0] = dup(0);
	end();
}

static void test_no_pause_while_the_guest_works_or_when_not_asked_for(void **state)
{
	(void)state;
	start_connected();
	assert_false(time_passes());
	pause_note(&p, true);
	pause_note(&p, false);
	assert_false(time_passes());
	end();
	start(0);
	pause_connected(&p, QMP);
	answer("query-status", RUNNING);
	pause_note(&p, true);
	assert_false(time_passes());
	end();
}

static void test_the_silence_is_not_begun_anew_by_what_changes_nothing(void **state)
{
	uint64_t due;

	(void)state;
	start_connected();
	pause_note(&p, true);
	due = p.timer.due_ns;
	pause_note(&p, true);
	assert_true(p.timer.is_armed && p.timer.due_ns == due);
	end();
}

static void test_anothers_pause_is_left_alone(void **state)
{
	(void)state;
	start_connected();
	pause_note(&p, true);
	pause_event(&p, "STOP");
	assert_false(time_passes());
	pause_note(&p, false);
	pause_note(&p, true);
	assert_false(time_passes());
	assert_int_equal(unanswered(), 0);
	pause_event(&p, "RESUME");
	assert_true(time_passes());
	assert_int_equal(unanswered(), 2);
	end();
}

static void test_another_is_quicker(void **state)
{
	(void)state;
	start_connected();
	fall_silent();
	pause_event(&p, "STOP"); // theirs: before the answer to our question
	answer("query-status", PAUSED);
	answer("stop", "{}");
	assert_false(pause_is_in_force(&p));
	assert_false(pause_has_mark(&p));
	pause_note(&p, false);
	assert_int_equal(unanswered(), 0);
	pause_event(&p, "RESUME");
	become_paused();
	end();
}

static void test_a_paused_vm_at_the_beginning_is_anothers(void **state)
{
	(void)state;
	start(500);
	pause_connected(&p, QMP);
	pause_note(&p, true);
	answer("query-status", PAUSED);
	assert_false(time_passes());
	assert_int_equal(unanswered(), 0);
	end();
}

static void test_stop_is_refused_or_not_sent(void **state)
{
	(void)state;
	start_connected();
	fall_silent();
	answer("query-status", RUNNING);
	answer("stop", NULL);
	assert_false(pause_is_in_force(&p));
	assert_false(pause_has_mark(&p));
	assert_true(p.timer.is_armed); // later, perhaps
	monitor.is_closing = true;
	assert_true(time_passes());
	assert_false(pause_is_in_force(&p));
	assert_false(pause_has_mark(&p));
	end();
}

static void test_cont_is_refused(void **state)
{
	(void)state;
	start_connected();
	become_paused();
	pause_note(&p, false);
	answer("cont", NULL);
	assert_false(pause_has_mark(&p));
	pause_note(&p, true);
	assert_false(time_passes()); // whoever cures the VM resumes it
	end();
}

// ---- What it does -------------------------------------------------------------------------------------------

static void test_pause_and_resume(void **state)
{
	(void)state;
	start_connected();
	for (unsigned round = 1; round <= 2; round++) {
		become_paused();
		assert_int_equal(p.pauses, round);
		pause_note(&p, false);
		assert_true(pause_has_mark(&p)); // until QEMU has done it
		pause_event(&p, "RESUME");
		answer("cont", "{}");
		assert_false(pause_has_mark(&p));
		assert_int_equal(unanswered(), 0);
	}
	assert_int_equal(p.undone, 0);
	end();
}

static void test_given_something_while_it_stops(void **state)
{
	(void)state;
	start_connected();
	fall_silent();
	pause_note(&p, false);
	answer("query-status", RUNNING);
	pause_event(&p, "STOP");
	assert_int_equal(unanswered(), 1);
	answer("stop", "{}");
	answer("cont", "{}");
	pause_note(&p, true);
	assert_true(p.timer.is_armed);
	end();
}

static void test_idle_again_while_it_continues(void **state)
{
	(void)state;
	start_connected();
	become_paused();
	pause_note(&p, false);
	pause_note(&p, true);
	assert_false(p.timer.is_armed);
	answer("cont", "{}");
	assert_true(time_passes());
	assert_int_equal(unanswered(), 2);
	end();
}

static void test_another_ends_our_pause(void **state)
{
	(void)state;
	start_connected();
	become_paused();
	pause_event(&p, "RESUME");
	assert_false(pause_is_in_force(&p));
	assert_false(pause_has_mark(&p));
	assert_int_equal(p.undone, 1);
	assert_false(time_passes()); // they want it to run
	pause_note(&p, false);
	assert_int_equal(unanswered(), 0);
	become_paused();
	end();
}

static void test_a_pause_is_looked_after(void **state)
{
	(void)state;
	start_connected();
	become_paused();
	assert_true(time_passes());
	assert_true(time_passes());
	assert_int_equal(looks, 2);
	assert_int_equal(unanswered(), 0);
	end();
}

static void test_the_monitor_goes_in_a_pause(void **state)
{
	(void)state;
	start_connected();
	become_paused();
	pause_disconnected(&p);
	pause_note(&p, true);
	assert_false(time_passes());
	assert_true(pause_has_mark(&p));
	pause_connected(&p, QMP);
	answer("cont", "{}");
	assert_false(pause_has_mark(&p));
	answer("query-status", RUNNING);
	assert_true(time_passes());
	end();
}

static void test_what_a_dead_broker_left_is_taken_back(void **state)
{
	struct pause next;

	(void)state;
	start_connected();
	become_paused();
	memset(&monitor, 0, sizeof(monitor));
	assert_null(pause_init(&next, &loop, "vm", 0, -1, look, &looks));
	pause_connected(&next, QMP);
	assert_true(pause_has_mark(&next));
	answer("cont", "{}");
	assert_false(pause_has_mark(&next));
	answer("query-status", RUNNING);
	end();
}

static int make_folder(void **state)
{
	(void)state;
	return !mkdtemp(folder) || setenv("VMKD_RUNTIME_DIR", folder, 1) || loop_init(&loop) || rundir_create("vm");
}

static int remove_folder(void **state)
{
	char path[64];

	(void)state;
	loop_deinit(&loop);
	snprintf(path, sizeof(path), "%s/vm", folder);
	return rmdir(path) || rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_pause_without_a_watchdog),
		cmocka_unit_test(test_no_pause_while_the_guest_works_or_when_not_asked_for),
		cmocka_unit_test(test_the_silence_is_not_begun_anew_by_what_changes_nothing),
		cmocka_unit_test(test_anothers_pause_is_left_alone),
		cmocka_unit_test(test_another_is_quicker),
		cmocka_unit_test(test_a_paused_vm_at_the_beginning_is_anothers),
		cmocka_unit_test(test_stop_is_refused_or_not_sent),
		cmocka_unit_test(test_cont_is_refused),
		cmocka_unit_test(test_pause_and_resume),
		cmocka_unit_test(test_given_something_while_it_stops),
		cmocka_unit_test(test_idle_again_while_it_continues),
		cmocka_unit_test(test_another_ends_our_pause),
		cmocka_unit_test(test_a_pause_is_looked_after),
		cmocka_unit_test(test_the_monitor_goes_in_a_pause),
		cmocka_unit_test(test_what_a_dead_broker_left_is_taken_back),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
