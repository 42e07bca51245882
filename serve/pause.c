// SPDX-License-Identifier: MIT
#include "serve/pause.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

// Origin: QEMU's QMP reference, run state.
#define QUERY "{\"execute\":\"query-status\"}"
#define STOP "{\"execute\":\"stop\"}"
#define CONT "{\"execute\":\"cont\"}"

// ---- The mark -----------------------------------------------------------------------------------------

static bool mark_put(const struct pause *p)
{
	int fd = open(p->mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static void mark_remove(const struct pause *p)
{
	unlink(p->mark); // not there: somebody else has taken the pause back
}

bool pause_has_mark(const struct pause *p)
{
	return access(p->mark, F_OK) == 0;
}

// Its end of the pipe is open exactly as long as it lives.
static bool watchdog_lives(const struct pause *p)
{
	struct pollfd end = { .fd = p->watchdog_fd };

	return p->watchdog_fd >= 0 && poll(&end, 1, 0) == 0;
}

// ---- Pausing ------------------------------------------------------------------------------------------

// Wait for silence anew.
static void watch_silence(struct pause *p)
{
	if (p->ms && p->qmp && p->is_idle && !p->is_others && !p->is_undone && p->state == PAUSE_RUNS)
		loop_timer_arm(p->loop, &p->timer, p->ms);
	else
		loop_timer_cancel(p->loop, &p->timer);
}

static void runs_again(struct pause *p)
{
	p->state = PAUSE_RUNS;
	mark_remove(p);
	watch_silence(p);
}

static void take_continued(void *arg, const cJSON *answer)
{
	struct pause *p = arg;

	if (!answer)
		p->is_others = true; // QEMU has a reason of its own (a failed disk, a migration): who cures it says `cont`
	runs_again(p);
}

static void resume(struct pause *p)
{
	loop_timer_cancel(p->loop, &p->timer);
	p->state = PAUSE_CONTINUING;
	// Not sent: the connection is ending, and whoever connects next finds the mark.
	(void)qmp_execute(p->qmp, CONT, take_continued, p);
}

// Somebody else's pause that came before ours stands at this answer; a STOP behind it is the one we asked for.
static void take_status(void *arg, const cJSON *answer)
{
	struct pause *p = arg;

	(void)answer;
	p->is_stop_seen = false;
}

static void take_stopped(void *arg, const cJSON *answer)
{
	struct pause *p = arg;

	if (!answer || !p->is_stop_seen) {
		p->is_others |= answer != NULL; // it was paused before
		runs_again(p);
		return;
	}
	p->state = PAUSE_PAUSED;
	p->pauses++;
	if (p->is_idle)
		loop_timer_arm(p->loop, &p->timer, PAUSE_LOOK_MS);
	else
		resume(p); // it was given something meanwhile
}

static void pause_now(struct pause *p)
{
	if (!watchdog_lives(p) || !mark_put(p))
		return; // nobody could undo it
	p->state = PAUSE_STOPPING;
	p->is_stop_seen = false;
	(void)qmp_execute(p->qmp, QUERY, take_status, p); // if it is not sent, nor is the next
	if (!qmp_execute(p->qmp, STOP, take_stopped, p))
		runs_again(p);
}

static void on_timer(struct loop_timer *timer)
{
	struct pause *p = timer->arg;

	if (p->state == PAUSE_RUNS) {
		pause_now(p);
	} else if (p->state == PAUSE_PAUSED) {
		loop_timer_arm(p->loop, &p->timer, PAUSE_LOOK_MS);
		p->look(p->arg);
	}
}

// ---- What happens ---------------------------------------------------------------------------------------

struct error *pause_init(struct pause *p, struct loop *loop, const char *vm_name, uint32_t ms, int watchdog_fd, void (*look)(void *arg),
			 void *arg)
{
	*p = (struct pause){ .loop = loop, .ms = ms, .watchdog_fd = watchdog_fd, .look = look, .arg = arg };
	p->timer = (struct loop_timer){ .fn = on_timer, .arg = p };
	return rundir_path(vm_name, "paused", p->mark);
}

void pause_deinit(struct pause *p)
{
	loop_timer_cancel(p->loop, &p->timer);
}

// The state at the beginning of a connection: other clients' events were not heard.
static void take_first_status(void *arg, const cJSON *answer)
{
	struct pause *p = arg;

	if (p->state == PAUSE_RUNS)
		p->is_others = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(answer, "running"));
	watch_silence(p);
}

void pause_connected(struct pause *p, struct qmp *qmp)
{
	p->qmp = qmp;
	if (pause_has_mark(p))
		resume(p); // of a VM that runs it changes nothing
	(void)qmp_execute(qmp, QUERY, take_first_status, p);
}

void pause_disconnected(struct pause *p)
{
	loop_timer_cancel(p->loop, &p->timer);
	p->qmp = NULL;
	p->state = PAUSE_RUNS;
	p->is_idle = p->is_others = p->is_undone = false;
}

static void take_resume_event(struct pause *p)
{
	p->is_others = p->is_stop_seen = false;
	if (p->state == PAUSE_PAUSED) {
		p->undone++;
		p->is_undone = true;
		runs_again(p);
	}
	watch_silence(p);
}

void pause_event(struct pause *p, const char *name)
{
	if (strcmp(name, "RESUME") == 0) {
		take_resume_event(p);
	} else if (strcmp(name, "STOP") == 0 && p->state == PAUSE_STOPPING) {
		p->is_stop_seen = true;
	} else if (strcmp(name, "STOP") == 0 && p->state != PAUSE_PAUSED) {
		p->is_others = true;
		watch_silence(p);
	}
}

void pause_note(struct pause *p, bool is_idle)
{
	if (is_idle == p->is_idle)
		return;
	p->is_idle = is_idle;
	if (!is_idle)
		p->is_undone = false;
	if (!is_idle && p->state == PAUSE_PAUSED)
		resume(p);
	else if (p->state == PAUSE_RUNS)
		watch_silence(p);
}

bool pause_is_in_force(const struct pause *p)
{
	return p->state == PAUSE_PAUSED;
}
