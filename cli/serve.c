// SPDX-License-Identifier: MIT
// vmkd serve: the broker for a VM that somebody else started with the library preloaded, or whose `vmkd run` has died.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/watch.h"
#include "serve/broker.h"
#include "serve/vmdir.h"

struct serve {
	const char *name, *tcp;
	bool no_ram, check_ram;
	struct watch watch;
};

static int parse(int argc, char **argv, struct serve *s)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--no-ram") == 0)
			s->no_ram = true;
		else if (strcmp(argv[i], "--check-ram") == 0)
			s->check_ram = true;
		else if (strcmp(argv[i], "--tcp") == 0 && i + 1 < argc)
			s->tcp = argv[++i];
		else if (argv[i][0] == '-')
			return cli_usage("serve", strcmp(argv[i], "--tcp") == 0 ? "%s needs a value" : "unknown option %s", argv[i]);
		else if (s->name)
			return cli_usage("serve", "one name expected, got %s and %s", s->name, argv[i]);
		else
			s->name = argv[i];
	}
	if (s->no_ram && s->check_ram)
		return cli_usage("serve", CLI_RAM_CONFLICT);
	return s->name ? 0 : cli_usage("serve", "the VM's name is missing");
}

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
	return NULL;
}

static struct error *serve(struct serve *s, struct loop *loop)
{
	struct broker_options options = { .name = s->name, .tcp = s->tcp, .no_ram = s->no_ram, .check_ram = s->check_ram, .watchdog_fd = -1, .on_up = on_up, .arg = s };
	struct broker *broker = NULL;
	struct vm_facts facts;
	int lock = -1, pid = 0;
	struct error *error = find_vm(s->name, &facts, &pid);

	if (!error)
		error = vmdir_lock_broker(s->name, &lock);
	if (error)
		return error;
	options.link = strcmp(facts.link, "debugcon") == 0 ? "debugcon" : "hook";
	options.ram_id = facts.ram_id;
	options.vm_pid = pid;
	error = broker_create(loop, &options, &broker);
	if (!error && pid)
		error = watch_process(&s->watch, pid);
	if (!error) {
		fprintf(stderr, "vmkd serve: serving %s (pid %d) by %s\n", s->name, pid, options.link);
		error = loop_run(loop);
	}
	if (!error && s->watch.has_ended)
		error = broker_linger(broker);
	broker_destroy(broker);
	close(lock);
	if (s->watch.has_ended)
		vmdir_remove(s->name);
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
	error = loop_init(&loop);
	if (error)
		return error_report("vmkd serve", error);
	error = watch_init(&s.watch, &loop, false);
	if (!error) {
		error = serve(&s, &loop);
		watch_deinit(&s.watch);
	}
	loop_deinit(&loop);
	if (error)
		return error_report("vmkd serve", error);
	if (s.watch.has_ended)
		fprintf(stderr, "vmkd serve: the VM %s has ended\n", s.name);
	return 0;
}
