// SPDX-License-Identifier: MIT
// vmkd run: start a VM with the link in place and serve it until it ends.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/qemu_args.h"
#include "cli/watch.h"
#include "serve/broker.h"
#include "serve/proc.h"
#include "serve/vmdir.h"
#include "serve/watchdog.h"
#include "util/cleanup.h"
#include "util/installed.h"
#include "util/rundir.h"

#define LIBRARY "libvmkd-vmm.so"
#define PAUSE "--pause-when-silent"
// Longer than a debugger takes between two requests of one command; pausing and resuming cost QEMU some milliseconds each.
#define PAUSE_DEFAULT_MS 500
#define PAUSE_MIN_MS 10
#define PAUSE_MAX_MS 3600000

struct run {
	const char *name, *link, *tcp;
	bool no_ram, check_ram, private_ram, no_serve, is_absent;
	uint32_t pause_ms; // --pause-when-silent; 0 = never
	int vm_argc;
	char **vm_argv;
	char program[PATH_MAX];
	char library[PATH_MAX];
	bool is_qemu, is_debugcon;
	struct qemu_args qemu;
	char **argv; // what is executed; NULL = vm_argv
	char ram_id[QEMU_ID_MAX];
	int broker_lock, vm_lock, watchdog;
	bool has_started; // the name is, or was, ours
};

// ---- What was asked for -------------------------------------------------------------------------------------

static bool *flag_of(const char *word, struct run *r)
{
	const struct {
		const char *word;
		bool *flag;
	} flags[] = { { "--no-ram", &r->no_ram }, { "--check-ram", &r->check_ram }, { "--private-ram", &r->private_ram }, { "--no-serve", &r->no_serve },
		    { "--absent", &r->is_absent } };

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (strcmp(word, flags[i].word) == 0)
			return flags[i].flag;
	return NULL;
}

// Behind the option's name: nothing, or =MS.
static bool parse_pause(const char *text, uint32_t *ret_ms)
{
	unsigned long ms = PAUSE_DEFAULT_MS;
	char *end = NULL;

	if (*text && (*text != '=' || !(text[1] >= '0' && text[1] <= '9')))
		return false;
	if (*text)
		ms = strtoul(text + 1, &end, 10);
	if ((end && *end) || ms < PAUSE_MIN_MS || ms > PAUSE_MAX_MS)
		return false;
	*ret_ms = (uint32_t)ms;
	return true;
}

static int parse(int argc, char **argv, struct run *r)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
		const char **value = strcmp(argv[i], "--link") == 0 ? &r->link : strcmp(argv[i], "--tcp") == 0 ? &r->tcp : NULL;
		bool *flag = flag_of(argv[i], r);

		if (flag)
			*flag = true;
		else if (strncmp(argv[i], PAUSE, strlen(PAUSE)) == 0 && parse_pause(argv[i] + strlen(PAUSE), &r->pause_ms))
			continue;
		else if (strncmp(argv[i], PAUSE "=", strlen(PAUSE "=")) == 0)
			return cli_usage("run", "%s: expected %u to %u milliseconds", argv[i], PAUSE_MIN_MS, PAUSE_MAX_MS);
		else if (!value)
			return cli_usage("run", "unknown option %s", argv[i]);
		else if (i + 1 >= argc)
			return cli_usage("run", "%s needs a value", argv[i]);
		else
			*value = argv[++i];
	}
	if (i >= argc || strcmp(argv[i], "--") == 0)
		return cli_usage("run", "the VM's name is missing");
	r->name = argv[i++];
	if (i >= argc || strcmp(argv[i], "--") != 0)
		return cli_usage("run", "expected -- and the VM's command line behind the name");
	r->vm_argc = argc - i - 1;
	r->vm_argv = argv + i + 1;
	if (!r->vm_argc)
		return cli_usage("run", "the VM's command line is missing behind --");
	if (r->link && strcmp(r->link, "hook") != 0 && strcmp(r->link, "debugcon") != 0)
		return cli_usage("run", "--link %s: expected hook or debugcon", r->link);
	if (r->no_ram && r->check_ram)
		return cli_usage("run", CLI_RAM_CONFLICT);
	if (r->no_serve && (r->tcp || r->no_ram || r->check_ram || r->is_absent || r->pause_ms))
		return cli_usage("run", "--no-serve: --tcp, --no-ram, --check-ram and --absent are options of `vmkd serve` then, and " PAUSE " of nobody");
	return 0;
}

static bool is_executable_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static struct error *not_executable(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_create(errno, "%s: %s; expected the VM's program behind --", path, strerror(errno));
	return error_create(EACCES, "%s is not an executable program", path);
}

// Where execvp would find it, so that a missing VMM is one clear line before anything is set up.
static struct error *find_program(const char *name, char ret[PATH_MAX])
{
	const char *at = getenv("PATH"), *end;

	if (strchr(name, '/')) {
		if (!is_executable_file(name))
			return not_executable(name);
		snprintf(ret, PATH_MAX, "%s", name);
		return NULL;
	}
	for (at = at ? at : "/usr/bin:/bin"; *at; at = *end ? end + 1 : end) {
		end = at + strcspn(at, ":");
		snprintf(ret, PATH_MAX, "%.*s%s%s", (int)(end - at), at, end > at ? "/" : "", name);
		if (is_executable_file(ret))
			return NULL;
	}
	return error_create(ENOENT, "%s: not found in PATH; install it (Debian: apt install qemu-system-x86) or give its path", name);
}

static struct error *find_library(char ret[PATH_MAX])
{
	char *path = NULL;
	struct error *err = installed_find(LIBRARY, &path);

	if (err)
		return err;
	// The dynamic linker splits LD_PRELOAD at both.
	if (strpbrk(path, " :"))
		err = error_create(EINVAL, "%s: a library with a blank or ':' in its path cannot be preloaded; move vmkd to another folder", path);
	else
		snprintf(ret, PATH_MAX, "%s", path);
	free(path);
	return err;
}

// ---- Which link ---------------------------------------------------------------------------------------------

static struct error *check_kvm(void)
{
	int fd CLEANUP_CLOSE = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return NULL;
	if (errno == EACCES || errno == EPERM)
		return error_create(errno, "the VM asks for KVM, but /dev/kvm is not permitted to you: join its group (sudo adduser $USER kvm, "
					   "then log in again), or use -accel tcg");
	return error_create(errno, "the VM asks for KVM, but /dev/kvm cannot be used: %s; use -accel tcg", strerror(errno));
}

static struct error *choose_hook(struct run *r, const char *why)
{
	struct error *error;

	if (r->pause_ms)
		return error_create(EINVAL, PAUSE " is for the link debugcon; with the hook (%s) a guest that is stopped in the debugger takes no CPU", why);
	error = find_library(r->library);
	if (!error)
		fprintf(stderr, "vmkd run: link hook: %s\n", why);
	r->is_debugcon = false;
	return error;
}

static struct error *choose_debugcon(struct run *r, const char *why)
{
	if (r->private_ram)
		return error_create(EINVAL, "--private-ram cannot be with the link debugcon (%s), which works through shared RAM; use KVM and --link hook", why);
	fprintf(stderr, "vmkd run: link debugcon: %s\n", why);
	r->is_debugcon = true;
	return NULL;
}

static struct error *choose_explicit(struct run *r)
{
	struct error *error = NULL;

	if (strcmp(r->link, "debugcon") == 0) {
		if (!r->is_qemu)
			return error_create(EINVAL, "--link debugcon works with qemu-system-x86_64 and qemu-system-i386, not with %s", r->vm_argv[0]);
		return choose_debugcon(r, "as told by --link");
	}
	if (r->is_qemu && r->qemu.accel == QEMU_ACCEL_OTHER)
		return error_create(EINVAL, "--link hook needs KVM and this command line does not ask for it: add -accel kvm, or use --link debugcon");
	if (r->is_qemu)
		error = check_kvm();
	return error ? error : choose_hook(r, "as told by --link");
}

static struct error *choose_link(struct run *r)
{
	struct error *error;

	if (r->link)
		return choose_explicit(r);
	if (!r->is_qemu)
		return choose_hook(r, "the only one for a VMM that is not QEMU");
	if (r->qemu.accel == QEMU_ACCEL_OTHER)
		return choose_debugcon(r, "the VM does not ask for KVM");
	error = check_kvm();
	if (!error)
		return choose_hook(r, "the VM asks for KVM and /dev/kvm is usable");
	if (r->qemu.accel == QEMU_ACCEL_KVM)
		return error;
	error_free(error);
	return choose_debugcon(r, "/dev/kvm is not usable and the VM may do without");
}

// RAM that others can map is read at the speed of memory, and what the guest printed last outlives QEMU.
static enum qemu_additions additions(const struct run *r)
{
	if (r->is_debugcon)
		return QEMU_ADD_DEBUGCON;
	return r->private_ram || !qemu_may_share_ram(&r->qemu) ? QEMU_ADD_QMP : QEMU_ADD_SHARED_RAM;
}

static struct error *plan(struct run *r)
{
	struct error *error = rundir_check_name(r->name);

	if (!error)
		error = find_program(r->vm_argv[0], r->program);
	r->is_qemu = qemu_is_system_emulator(r->vm_argv[0]);
	if (!error && r->is_qemu)
		error = qemu_read_args(r->vm_argc, r->vm_argv, false, &r->qemu);
	if (!error)
		error = choose_link(r);
	// Once more, now that RAM has to be reachable.
	if (!error && r->is_debugcon)
		error = qemu_read_args(r->vm_argc, r->vm_argv, true, &r->qemu);
	if (!error && r->is_qemu)
		error = qemu_extend_args(r->vm_argc, r->vm_argv, r->name, &r->qemu, additions(r), &r->argv, r->ram_id);
	return error;
}

// ---- Starting it --------------------------------------------------------------------------------------------

static struct error *claim_name(struct run *r)
{
	int pid = 0;
	struct error *error = rundir_create(r->name);

	if (error)
		return error;
	if (vmdir_vm_is_alive(r->name, &pid))
		return error_create(EBUSY, "the name %s is in use by the VM with pid %d: end that VM or choose another name", r->name, pid);
	if (!r->no_serve)
		error = vmdir_lock_broker(r->name, &r->broker_lock);
	if (!error)
		error = vmdir_lock_vm(r->name, &r->vm_lock);
	return error;
}

static void set_environment(const struct run *r)
{
	const char *old = getenv("LD_PRELOAD");
	char base[RUNDIR_PATH_MAX], *both = NULL;
	struct error *error = rundir_base(base);

	// The folder was created from it a moment ago.
	if (error) {
		error_free(error);
		return;
	}
	setenv("VMKD_NAME", r->name, 1);
	setenv("VMKD_RUNTIME_DIR", base, 1);
	if (asprintf(&both, "%s%s%s", r->library, old && old[0] ? ":" : "", old ? old : "") >= 0)
		setenv("LD_PRELOAD", both, 1);
	free(both);
}

// In the child. Writes errno to `report` when the program cannot be executed; that descriptor closes by itself when it can.
__attribute__((noreturn)) static void become_vm(const struct run *r, const struct watch *w, int report)
{
	int code;

	sigprocmask(SIG_SETMASK, &w->old_mask, NULL);
	signal(SIGPIPE, SIG_DFL);
	// The lock lives as long as the VM's process, and says so to everybody.
	fcntl(r->vm_lock, F_SETFD, 0);
	if (!r->is_debugcon)
		set_environment(r);
	execv(r->program, r->argv ? r->argv : r->vm_argv);
	code = errno;
	(void)!write(report, &code, sizeof(code));
	_exit(127);
}

static struct error *start_vm(struct run *r, const struct watch *w, int *ret_pid)
{
	int report[2], code = 0, pid;
	ssize_t len;

	if (pipe2(report, O_CLOEXEC) < 0)
		return error_create(errno, "cannot create a pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0)
		become_vm(r, w, report[1]);
	close(report[1]);
	if (pid > 0)
		vmdir_note_vm_pid(r->vm_lock, pid);
	close(cleanup_take_fd(&r->vm_lock));
	len = pid > 0 ? read(report[0], &code, sizeof(code)) : 0;
	close(report[0]);
	if (pid < 0)
		return error_create(errno, "cannot fork: %s", strerror(errno));
	if (len == sizeof(code)) {
		waitpid(pid, NULL, 0);
		return error_create(code, "%s cannot be executed: %s", r->program, strerror(code));
	}
	*ret_pid = pid;
	return NULL;
}

// ---- Until it ends ------------------------------------------------------------------------------------------

static int exit_status(int pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		return 0; // not our child: a VM that made itself a daemon
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// -daemonize: the process we started has ended well, and the VM is the one that inherited the lock.
static bool follow_daemon(struct run *r, struct watch *w)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(r->name, "vm.lock", path);
	int pid = error ? 0 : proc_find_file_owner(path, getpid());

	if (!error && pid)
		error = watch_process(w, pid);
	error_free(error);
	return w->pid == pid && pid;
}

static struct error *serve_until_end(struct run *r, struct loop *loop, struct broker *broker, struct watch *w, int *ret_status)
{
	int pid = w->pid;
	struct error *error = loop_run(loop);

	if (error)
		return error;
	*ret_status = exit_status(pid);
	if (*ret_status == 0 && r->is_qemu && r->qemu.is_daemonized && follow_daemon(r, w))
		error = loop_run(loop);
	return error || !broker ? error : broker_linger(broker);
}

static struct error *run_vm(struct run *r, struct loop *loop, struct watch *w, int *ret_status)
{
	struct broker_options options = { .name = r->name, .link = r->is_debugcon ? "debugcon" : "hook", .tcp = r->tcp, .no_ram = r->no_ram,
					  .check_ram = r->check_ram, .is_absent = r->is_absent, .pause_ms = r->pause_ms, .watchdog_fd = r->watchdog,
					  .ram_id = r->ram_id };
	struct vm_facts facts = { 0 };
	struct broker *broker = NULL;
	int pid = 0;
	struct error *error = r->no_serve ? NULL : broker_create(loop, &options, &broker);

	if (error)
		return error;
	error = start_vm(r, w, &pid);
	snprintf(facts.name, sizeof(facts.name), "%s", r->name);
	snprintf(facts.link, sizeof(facts.link), "%s", options.link);
	snprintf(facts.ram_id, sizeof(facts.ram_id), "%s", r->ram_id);
	facts.pid = pid;
	r->has_started = !error;
	if (!error)
		error = vmdir_write_facts(&facts);
	if (!error)
		error = watch_process(w, pid);
	if (!error)
		error = serve_until_end(r, loop, broker, w, ret_status);
	broker_destroy(broker);
	return error;
}

static struct error *run(struct run *r, int *ret_status)
{
	struct watch watch;
	struct loop loop;
	struct error *error = plan(r);

	if (!error)
		error = claim_name(r);
	if (!error && r->pause_ms)
		error = watchdog_start(r->name, &r->watchdog);
	if (!error)
		error = loop_init(&loop);
	if (error)
		return error;
	signal(SIGPIPE, SIG_IGN);
	error = watch_init(&watch, &loop, true);
	if (!error) {
		error = run_vm(r, &loop, &watch, ret_status);
		watch_deinit(&watch);
	}
	loop_deinit(&loop);
	return error;
}

int cli_run(int argc, char **argv)
{
	struct run r = { .broker_lock = -1, .vm_lock = -1, .watchdog = -1 };
	int status = parse(argc, argv, &r);
	struct error *error;

	if (status)
		return status;
	error = run(&r, &status);
	qemu_free_args(r.argv);
	if (r.vm_lock >= 0)
		close(r.vm_lock);
	if (r.broker_lock >= 0)
		close(r.broker_lock);
	if (r.broker_lock >= 0 || r.has_started)
		vmdir_remove(r.name);
	return error ? error_report("vmkd run", error) : status;
}
