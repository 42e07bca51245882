// SPDX-License-Identifier: MIT
#include "cli/watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static void on_patience(struct loop_timer *timer)
{
	struct watch *w = timer->arg;

	fprintf(stderr, "vmkd run: the VM (pid %d) was told to end and is still there; Ctrl-C or SIGTERM again kills it\n", w->pid);
	w->is_patience_over = true;
}

static void tell_to_end(struct watch *w, const struct signalfd_siginfo *info)
{
	if (w->is_patience_over) {
		kill(w->pid, SIGKILL);
		return;
	}
	if (!w->patience.is_armed)
		loop_timer_arm(w->loop, &w->patience, WATCH_PATIENCE_MS);
	// Ctrl-C goes to the whole foreground group, the VM included: once is enough.
	if (info->ssi_signo != SIGINT || info->ssi_code != SI_KERNEL)
		kill(w->pid, (int)info->ssi_signo);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
	struct watch *w = source->arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(w->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	// SIGHUP means that the terminal is gone: the VM lives on, and so does its broker while it can.
	if (info.ssi_signo == SIGHUP)
		return;
	if (!w->forwards || !w->pid) {
		w->ending_signal = (int)info.ssi_signo;
		loop_stop(w->loop);
		return;
	}
	tell_to_end(w, &info);
}

static void on_process(struct loop_source *source, uint32_t events)
{
	struct watch *w = source->arg;

	(void)events;
	w->has_ended = true;
	loop_timer_cancel(w->loop, &w->patience);
	loop_remove(w->loop, &w->process);
	loop_stop(w->loop);
}

struct error *watch_init(struct watch *w, struct loop *loop, bool forwards)
{
	struct error *error;
	sigset_t mask;

	*w = (struct watch){ .loop = loop, .forwards = forwards, .pid_fd = -1 };
	w->patience = (struct loop_timer){ .fn = on_patience, .arg = w };
	w->signals.fd = w->process.fd = -1;
	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, &w->old_mask);
	w->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (w->signal_fd < 0)
		return error_create(errno, "cannot watch signals: %s", strerror(errno));
	error = loop_add(loop, &w->signals, w->signal_fd, EPOLLIN, on_signal, w);
	if (error)
		close(w->signal_fd);
	return error;
}

void watch_deinit(struct watch *w)
{
	loop_remove(w->loop, &w->signals);
	loop_remove(w->loop, &w->process);
	loop_timer_cancel(w->loop, &w->patience);
	close(w->signal_fd);
	if (w->pid_fd >= 0)
		close(w->pid_fd);
	sigprocmask(SIG_SETMASK, &w->old_mask, NULL);
}

struct error *watch_process(struct watch *w, int pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		return error_create(errno, "cannot follow the VM's process %d: %s", pid, strerror(errno));
	loop_remove(w->loop, &w->process);
	if (w->pid_fd >= 0)
		close(w->pid_fd);
	w->pid_fd = fd;
	w->pid = pid;
	w->has_ended = false;
	w->loop->is_stopped = false;
	return loop_add(w->loop, &w->process, fd, EPOLLIN, on_process, w);
}
