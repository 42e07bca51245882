// SPDX-License-Identifier: MIT
#include "setup/sandbox.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

#define PROGRAM_MAX 32u
#define END_MS 60000 // a volume's last writes on a busy disk
#define STEP_US 10000u

#define FOLDER_SIZE 40u

struct sandbox {
	char folder[FOLDER_SIZE];
	unsigned log_count;
	int watcher; // our end of its pipe
	pid_t watcher_pid;
	sigset_t former;
};

// What the watcher is told: this program runs now, or has ended.
struct note {
	pid_t pid;
	bool is_running;
};

// What the watcher says when it has begun.
struct greeting {
	int code; // an errno value; 0: the folder is there
	const char *what; // that could not be done; a text of the program that both are
	char folder[FOLDER_SIZE];
};

// ---- The watcher ---------------------------------------------------------------------------------------------

// A program that runs, held by a descriptor: its number may be another's when its time comes.
struct running {
	pid_t pid;
	int fd;
};

// A descriptor of a process tells its end even while nobody has waited for it.
static void end_program(const struct running *r)
{
	struct pollfd fd = { .fd = r->fd, .events = POLLIN };

	if (r->fd < 0)
		return; // it had ended when its note came
	pidfd_send_signal(r->fd, SIGTERM, NULL, 0);
	if (poll(&fd, 1, END_MS) == 0)
		pidfd_send_signal(r->fd, SIGKILL, NULL, 0);
	poll(&fd, 1, END_MS);
}

// The folder is the watcher's, so that there is no moment at which it could be left behind. *ret_what: what could not be done.
static int make_folder(char folder[static FOLDER_SIZE], const char **ret_what)
{
	*ret_what = "make a folder in /tmp";
	snprintf(folder, FOLDER_SIZE, "/tmp/vmkd-setup-%d-XXXXXX", getppid());
	if (!mkdtemp(folder))
		return errno;
	*ret_what = "mount a folder in memory";
	return mount("vmkd", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700,size=512m") < 0 ? errno : 0;
}

static void take_note(const struct note *note, struct running *running, unsigned *count)
{
	if (note->is_running && *count < PROGRAM_MAX)
		running[(*count)++] = (struct running){ note->pid, pidfd_open(note->pid, 0) };
	for (unsigned i = 0; !note->is_running && i < *count; i++)
		if (running[i].pid == note->pid) {
			close(running[i].fd);
			memmove(&running[i], &running[i + 1], (--*count - i) * sizeof(running[0]));
			break;
		}
}

// Programs end in the reverse order of their start: a volume's driver before what serves its disk.
static _Noreturn void watch(int notes, int answer)
{
	struct greeting greeting = { 0 };
	struct running running[PROGRAM_MAX];
	struct note note;
	unsigned count = 0;

	setsid();
	greeting.code = make_folder(greeting.folder, &greeting.what);
	if (write(answer, &greeting, sizeof(greeting)) < 0) {
		// Nobody is there any more: the notes say the same.
	}
	close(answer);
	// Until the process that notes come from has ended, which closes their pipe.
	while (read(notes, &note, sizeof(note)) == (ssize_t)sizeof(note))
		take_note(&note, running, &count);
	while (count > 0)
		end_program(&running[--count]);
	umount2(greeting.folder, MNT_DETACH);
	rmdir(greeting.folder);
	_exit(0);
}

static void tell_watcher(const struct sandbox *s, pid_t pid, bool is_running)
{
	struct note note = { .pid = pid, .is_running = is_running };

	if (write(s->watcher, &note, sizeof(note)) < 0) {
		// Somebody has killed the watcher. We end the programs ourselves unless we are killed, too.
	}
}

static struct error *hear_watcher(struct sandbox *s, int answer)
{
	struct greeting greeting;

	if (read(answer, &greeting, sizeof(greeting)) != (ssize_t)sizeof(greeting))
		return error_create(EIO, "the watching process has died");
	memcpy(s->folder, greeting.folder, sizeof(s->folder));
	return greeting.code ? error_create(greeting.code, "cannot %s: %s", greeting.what, strerror(greeting.code)) : NULL;
}

static struct error *start_watcher(struct sandbox *s)
{
	int notes[2], answer[2];

	if (pipe2(notes, O_CLOEXEC) < 0)
		return error_create(errno, "cannot make a pipe: %s", strerror(errno));
	s->watcher = notes[1];
	if (pipe2(answer, O_CLOEXEC) < 0) {
		close(notes[0]);
		return error_create(errno, "cannot make a pipe: %s", strerror(errno));
	}
	s->watcher_pid = fork();
	if (s->watcher_pid == 0) {
		close(notes[1]);
		close(answer[0]);
		watch(notes[0], answer[1]);
	}
	close(notes[0]);
	close(answer[1]);
	struct error *error = s->watcher_pid > 0 ? hear_watcher(s, answer[0]) : error_create(errno, "cannot start a process: %s", strerror(errno));
	close(answer[0]);
	return error;
}

// ---- Begin and end -------------------------------------------------------------------------------------------

static void block_signals(sigset_t *ret_former)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, ret_former);
	signal(SIGPIPE, SIG_IGN);
}

bool sandbox_is_interrupted(void)
{
	sigset_t set;

	return sigpending(&set) == 0 && (sigismember(&set, SIGINT) || sigismember(&set, SIGTERM) || sigismember(&set, SIGHUP));
}

static struct error *make_surroundings(struct sandbox *s)
{
	if (unshare(CLONE_NEWNS) < 0)
		return error_create(errno, "a mount namespace is needed to look into a disk image, and that needs root (%s); try with sudo", strerror(errno));
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_create(errno, "cannot keep mounts to this process: %s", strerror(errno));
	return start_watcher(s);
}

struct error *sandbox_begin(struct sandbox **ret)
{
	struct sandbox *s = calloc(1, sizeof(*s));
	struct error *error;

	if (!s)
		return error_create(ENOMEM, "out of memory");
	s->watcher = -1;
	block_signals(&s->former);
	error = make_surroundings(s);
	if (error)
		sandbox_end(s);
	else
		*ret = s;
	return error;
}

void sandbox_end(struct sandbox *s)
{
	if (!s)
		return;
	if (s->watcher >= 0)
		close(s->watcher); // it ends what still runs, unmounts and removes
	if (s->watcher_pid > 0)
		waitpid(s->watcher_pid, NULL, 0);
	free(s);
}

const char *sandbox_folder(const struct sandbox *s)
{
	return s->folder;
}

// ---- Programs ------------------------------------------------------------------------------------------------

static struct error *missing(const char *program)
{
	static const struct {
		const char *program, *package;
	} packages[] = { { "qemu-storage-daemon", "qemu-system-common" }, { "qemu-nbd", "qemu-utils" }, { "ntfs-3g", "ntfs-3g" }, { "mcopy", "mtools" } };
	const char *package = "";

	for (size_t i = 0; i < sizeof(packages) / sizeof(packages[0]); i++)
		if (strstr(program, packages[i].program))
			package = packages[i].package;
	return error_create(ENOENT, "the program %s is needed and not there%s%s%s", program, *package ? " (Debian's package " : "", package, *package ? ")" : "");
}

static _Noreturn void exec_program(const struct sandbox *s, char *const argv[], const char *log, int report)
{
	int null = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	// By itself: were it the parent's task, one that is killed in between would leave a program that nobody ends.
	tell_watcher(s, getpid(), true);
	sigprocmask(SIG_SETMASK, &s->former, NULL);
	signal(SIGPIPE, SIG_DFL);
	setpgid(0, 0); // a terminal's Ctrl-C is for us
	setenv("LC_ALL", "C", 1);
	setenv("MTOOLSRC", "/dev/null", 1);
	dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	execvp(argv[0], argv);
	int code = errno;
	if (write(report, &code, sizeof(code)) < 0) {
		// then the exit status has to say it
	}
	_exit(127);
}

struct error *sandbox_start(struct sandbox *s, char *const argv[], struct program *ret)
{
	struct program p = { 0 };
	int ends[2], code = 0;

	snprintf(p.name, sizeof(p.name), "%s", argv[0]);
	snprintf(p.log, sizeof(p.log), "%s/log-%u", s->folder, s->log_count++);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_create(errno, "cannot make a pipe: %s", strerror(errno));
	p.pid = fork();
	if (p.pid == 0)
		exec_program(s, argv, p.log, ends[1]);
	close(ends[1]);
	bool has_failed = p.pid < 0 || read(ends[0], &code, sizeof(code)) > 0;
	close(ends[0]);
	if (has_failed && p.pid > 0) {
		waitpid(p.pid, NULL, 0);
		tell_watcher(s, p.pid, false);
	}
	if (has_failed)
		return code == ENOENT ? missing(argv[0]) : error_create(code ? code : errno, "cannot start %s: %s", argv[0], strerror(code ? code : errno));
	*ret = p;
	return NULL;
}

static void note_end(struct sandbox *s, struct program *p)
{
	tell_watcher(s, p->pid, false);
	p->pid = 0;
}

bool sandbox_has_ended(struct sandbox *s, struct program *p)
{
	if (p->pid > 0 && waitpid(p->pid, &p->status, WNOHANG) == p->pid)
		note_end(s, p);
	return p->pid == 0;
}

struct error *sandbox_stop(struct sandbox *s, struct program *p)
{
	if (p->pid == 0)
		return NULL;
	kill(p->pid, SIGTERM);
	for (int waited = 0; !sandbox_has_ended(s, p); waited += (int)(STEP_US / 1000)) {
		if (waited > END_MS)
			kill(p->pid, SIGKILL);
		usleep(STEP_US);
	}
	if ((WIFEXITED(p->status) && WEXITSTATUS(p->status) == 0) || (WIFSIGNALED(p->status) && WTERMSIG(p->status) == SIGTERM))
		return NULL;
	return error_create(EIO, "%s ended badly: %s", p->name, sandbox_said(p));
}

struct error *sandbox_run(struct sandbox *s, char *const argv[], struct program *ret, int *ret_status)
{
	struct program p;
	struct error *error = sandbox_start(s, argv, &p);

	if (error)
		return error;
	while (waitpid(p.pid, &p.status, 0) < 0 && errno == EINTR)
		;
	note_end(s, &p);
	*ret = p;
	*ret_status = WIFSIGNALED(p.status) ? 128 + WTERMSIG(p.status) : WEXITSTATUS(p.status);
	return NULL;
}

const char *sandbox_said(const struct program *p)
{
	static char line[400];
	FILE *log = fopen(p->log, "re");

	line[0] = 0;
	while (log && !line[0] && fgets(line, sizeof(line), log))
		line[strcspn(line, "\r\n")] = 0;
	for (char *c = line; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?'; // names of the guest's may stand in it
	if (log)
		fclose(log);
	return line[0] ? line : "no reason given";
}
