// SPDX-License-Identifier: MIT
// vmkd serve: the broker for a VM that somebody else started with the library preloaded, or whose `vmkd run` has died; with --stay for each VM that gets
// the name; with --from for a stock target on a byte stream.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/watch.h"
#include "serve/broker.h"
#include "serve/vmdir.h"
#include "util/endpoint.h"

#define LOOK_MS 200u // for the next VM of the name

struct serve {
	const char *name, *tcp, *from;
	bool no_ram, check_ram, stays, is_absent;
	struct watch watch;
	struct loop *loop;
	struct loop_timer look;
	struct broker *broker;
};

// ---- What was asked for -------------------------------------------------------------------------------------

static bool *flag_of(const char *word, struct serve *s)
{
	const struct {
		const char *word;
		bool *flag;
	} flags[] = { { "--no-ram", &s->no_ram }, { "--check-ram", &s->check_ram }, { "--stay", &s->stays }, { "--absent", &s->is_absent } };

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (strcmp(word, flags[i].word) == 0)
			return flags[i].flag;
	return NULL;
}

static int parse_words(int argc, char **argv, struct serve *s)
{
	for (int i = 1; i < argc; i++) {
		const char **value = strcmp(argv[i], "--tcp") == 0 ? &s->tcp : strcmp(argv[i], "--from") == 0 ? &s->from : NULL;
		bool *flag = flag_of(argv[i], s);

		if (flag)
			*flag = true;
		else if (value && i + 1 < argc)
			*value = argv[++i];
		else if (argv[i][0] == '-')
			return cli_usage("serve", value ? "%s needs a value" : "unknown option %s", argv[i]);
		else if (s->name)
			return cli_usage("serve", "one name expected, got %s and %s", s->name, argv[i]);
		else
			s->name = argv[i];
	}
	return 0;
}

static int parse(int argc, char **argv, struct serve *s)
{
	int status = parse_words(argc, argv, s);

	if (status)
		return status;
	if (s->no_ram && s->check_ram)
		return cli_usage("serve", CLI_RAM_CONFLICT);
	if (s->from && (s->no_ram || s->check_ram))
		return cli_usage("serve", "--no-ram and --check-ram are not for --from: a stock target's RAM cannot be read anyway");
	if (s->from && s->stays)
		return cli_usage("serve", "--stay is not for --from, which waits for its target by itself");
	return s->name ? 0 : cli_usage("serve", "the VM's name is missing");
}

static struct broker_options options_of(const struct serve *s)
{
	return (struct broker_options){ .name = s->name, .tcp = s->tcp, .no_ram = s->no_ram, .check_ram = s->check_ram, .is_absent = s->is_absent,
					.watchdog_fd = -1 };
}

// ---- A VM -----------------------------------------------------------------------------------------------------

// The VMM has said who it is: follow it, if its process could not be found before.
static void on_up(void *arg, int pid)
{
	struct serve *s = arg;

	if (pid && !s->watch.pid)
		error_free(watch_process(&s->watch, pid)); // of another user, perhaps: then the link's end is all we learn
}

static struct error *find_vm(const char *name, struct vm_facts *ret, int *ret_pid)
{
	char folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder); // what is wrong with the folder, rather than that nobody is in it

	if (error)
		return error;
	if (!vmdir_vm_is_alive(name, ret_pid))
		return error_create(ENOENT, "no VM named %s is running here; start one with `vmkd run %s -- ...`, or with " "LD_PRELOAD=libvmkd-vmm.so "
					    "VMKD_NAME=%s and the same VMKD_RUNTIME_DIR (`vmkd list` shows what there is)", name, name, name);
	vmdir_read_facts(name, ret);
	return access(folder, F_OK) < 0 ? rundir_create(name) : NULL; // a VM whose sockets are beside it needs none
}

static const char *link_of(const struct vm_facts *facts)
{
	return strcmp(facts->link, "debugcon") == 0 ? "debugcon" : "hook";
}

static struct error *serve_vm(struct serve *s, int *ret_lock)
{
	struct broker_options options = options_of(s);
	struct vm_facts facts;
	int pid = 0;
	struct error *error = find_vm(s->name, &facts, &pid);

	if (!error)
		error = vmdir_lock_broker(s->name, ret_lock);
	if (error)
		return error;
	options.on_up = on_up;
	options.arg = s;
	options.link = link_of(&facts);
	options.ram_id = facts.ram_id;
	options.vm_pid = pid;
	error = broker_create(s->loop, &options, &s->broker);
	if (!error && pid)
		error = watch_process(&s->watch, pid);
	if (!error) {
		fprintf(stderr, "vmkd serve: serving %s (pid %d) by %s\n", s->name, pid, options.link);
		error = loop_run(s->loop);
	}
	if (!error && s->watch.has_ended)
		error = broker_linger(s->broker);
	return error;
}

// ---- Each VM that gets the name ---------------------------------------------------------------------------------

// vm.json may be the last VM's: it counts if it names the process that is there. A VM that is just starting has none yet, nor a library that listens.
static bool is_ready(const struct serve *s, struct vm_facts *ret, int *ret_pid)
{
	if (!vmdir_vm_is_alive(s->name, ret_pid))
		return false;
	vmdir_read_facts(s->name, ret);
	if (ret->pid && ret->pid == *ret_pid)
		return true;
	if (ret->pid)
		*ret = (struct vm_facts){ 0 };
	return vmdir_vmm_listens(s->name);
}

static void on_look(struct loop_timer *timer)
{
	struct serve *s = timer->arg;
	struct vm_facts facts;
	struct error *error;
	int pid = 0;

	loop_timer_arm(s->loop, timer, LOOK_MS);
	if (!is_ready(s, &facts, &pid))
		return;
	error = broker_follow(s->broker, link_of(&facts), facts.ram_id, pid);
	if (!error && !pid)
		pid = broker_vm_pid(s->broker); // another user's process says who it is when it is reached
	if (!error && !pid)
		return;
	if (!error)
		error = watch_process(&s->watch, pid);
	if (error) { // it has ended meanwhile, perhaps: once more
		error_free(error);
		return;
	}
	loop_timer_cancel(s->loop, timer);
	fprintf(stderr, "vmkd serve: serving %s (pid %d) by %s\n", s->name, pid, link_of(&facts));
}

static struct error *serve_each(struct serve *s, int *ret_lock)
{
	struct broker_options options = options_of(s);
	struct error *error = rundir_create(s->name);

	if (!error)
		error = vmdir_lock_broker(s->name, ret_lock);
	if (error)
		return error;
	options.link = "hook"; // as good as any until there is a VM
	options.ram_id = "";
	s->look = (struct loop_timer){ .fn = on_look, .arg = s };
	error = broker_create(s->loop, &options, &s->broker);
	while (!error && !s->watch.ending_signal) {
		fprintf(stderr, "vmkd serve: waiting for a VM named %s\n", s->name);
		loop_timer_arm(s->loop, &s->look, 0);
		s->loop->is_stopped = false;
		error = loop_run(s->loop);
		if (!error && s->watch.has_ended)
			error = broker_linger(s->broker);
		s->watch.has_ended = false;
	}
	loop_timer_cancel(s->loop, &s->look);
	return error;
}

// ---- A stock target ---------------------------------------------------------------------------------------------

static struct error *serve_stream(struct serve *s, int *ret_lock)
{
	struct broker_options options = options_of(s);
	struct vm_facts facts = { .link = "serial" };
	struct endpoint at;
	int pid = 0;
	struct error *error = endpoint_parse(s->from, &at);

	if (error)
		return error_prefix(error, "--from");
	error = rundir_create(s->name);
	if (error)
		return error;
	if (vmdir_vm_is_alive(s->name, &pid))
		return error_create(EBUSY, "the name %s is in use by the VM with pid %d: choose another name for the target at %s", s->name, pid, s->from);
	error = vmdir_lock_broker(s->name, ret_lock);
	if (error)
		return error;
	snprintf(facts.name, sizeof(facts.name), "%s", s->name);
	error = vmdir_write_facts(&facts);
	options.link = "serial";
	options.from = s->from;
	if (!error)
		error = broker_create(s->loop, &options, &s->broker);
	if (error)
		return error;
	fprintf(stderr, "vmkd serve: serving %s, a KDCOM target at %s\n", s->name, s->from);
	return loop_run(s->loop);
}

// ---- All ----------------------------------------------------------------------------------------------------------

static struct error *serve(struct serve *s)
{
	int lock = -1;
	struct error *error = s->from ? serve_stream(s, &lock) : s->stays ? serve_each(s, &lock) : serve_vm(s, &lock);

	broker_destroy(s->broker);
	if (lock < 0)
		return error;
	close(lock);
	if (s->from || s->stays || s->watch.has_ended)
		vmdir_remove(s->name); // unless a VM is in it
	return error;
}

int cli_serve(int argc, char **argv)
{
	struct serve s = { 0 };
	int status = parse(argc, argv, &s);
	struct error *error;
	struct loop loop;

	if (status)
		return status;
	signal(SIGPIPE, SIG_IGN);
	s.loop = &loop;
	error = loop_init(&loop);
	if (error)
		return error_report("vmkd serve", error);
	error = watch_init(&s.watch, &loop, false);
	if (!error) {
		error = serve(&s);
		watch_deinit(&s.watch);
	}
	loop_deinit(&loop);
	if (error)
		return error_report("vmkd serve", error);
	if (s.watch.has_ended && !s.stays)
		fprintf(stderr, "vmkd serve: the VM %s has ended\n", s.name);
	return 0;
}
