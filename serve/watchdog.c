// SPDX-License-Identifier: MIT
#include "serve/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "serve/pause.h"

#define PIPE_FD 3
#define TURN_MS 100 // between looks whether somebody else has taken the pause back

struct rescue {
	struct pause pause;
	bool is_over; // the VM has closed the monitor
};

static void on_event(void *arg, const char *name)
{
	pause_event(&((struct rescue *)arg)->pause, name);
}

static void on_closed(void *arg)
{
	((struct rescue *)arg)->is_over = true;
}

// Nothing to look after: this process never pauses.
static void look_at_nothing(void *arg)
{
	(void)arg;
}

static const struct qmp_events events = { .event = on_event, .closed = on_closed };

// QEMU serves one monitor client at a time, so this may wait for a new broker, which then removes the mark itself.
static struct error *take_back(struct rescue *r, struct loop *loop, const char *vm_name)
{
	char path[RUNDIR_PATH_MAX];
	struct qmp *qmp = NULL;
	struct error *error = pause_init(&r->pause, loop, vm_name, 0, -1, look_at_nothing, NULL);

	if (!error)
		error = rundir_path(vm_name, "monitor.sock", path);
	if (!error && pause_has_mark(&r->pause))
		error = qmp_create(loop, path, &events, r, &qmp);
	if (error || !qmp)
		return error;
	pause_connected(&r->pause, qmp);
	while (!error && !r->is_over && pause_has_mark(&r->pause))
		error = loop_turn(loop, TURN_MS);
	qmp_destroy(qmp);
	return error;
}

static void keep_only(int pipe_fd)
{
	int high = fcntl(pipe_fd, F_DUPFD, PIPE_FD + 1), null = open("/dev/null", O_RDWR); // whoever started us may have closed 0 to 2

	for (int fd = 0; fd < PIPE_FD && null >= 0; fd++)
		dup2(null, fd);
	dup2(high, PIPE_FD);
	close_range(PIPE_FD + 1, ~0u, 0); // locks, the terminal's output, others' pipes
}

__attribute__((noreturn)) static void watchdog(const char *vm_name, int pipe_fd)
{
	struct rescue rescue = { 0 };
	struct error *error;
	struct loop loop;
	char byte;

	setsid(); // signals of the terminal, and to the broker's process group, are not for this process
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "vmkd-watchdog");
	keep_only(pipe_fd);
	while (read(PIPE_FD, &byte, 1) < 0 && errno == EINTR)
		;
	error = loop_init(&loop);
	if (!error)
		error = take_back(&rescue, &loop, vm_name);
	_exit(error ? 1 : 0); // nobody is left to be told
}

struct error *watchdog_start(const char *vm_name, int *ret_fd)
{
	int ends[2], pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_create(errno, "cannot create a pipe: %s", strerror(errno));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		watchdog(vm_name, ends[0]); // its end of ours is closed there
	close(ends[0]);
	if (pid < 0) {
		close(ends[1]);
		return error_create(errno, "cannot fork: %s", strerror(errno));
	}
	*ret_fd = ends[1];
	return NULL;
}
