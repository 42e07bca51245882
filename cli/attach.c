// SPDX-License-Identifier: MIT
// vmkd attach: the library into a QEMU that runs already.
#include "attach/attach.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "util/installed.h"
#include "util/rundir.h"

static bool parse_pid(const char *word, pid_t *ret)
{
	char *end;
	long value = strtol(word, &end, 10);

	if (word[0] < '1' || word[0] > '9' || *end || value > 0x7FFFFFFF)
		return false;
	*ret = (pid_t)value;
	return true;
}

static const char **value_of(const char *word, struct attach_options *o)
{
	return strcmp(word, "--qmp") == 0 ? &o->qmp : strcmp(word, "--libvirt") == 0 ? &o->domain : strcmp(word, "--connect") == 0 ? &o->connect : NULL;
}

// -> 0, or the status of wrong usage.
static int parse(int argc, char **argv, struct attach_options *o)
{
	const char *pid = NULL;

	for (int i = 1; i < argc; i++) {
		const char **value = value_of(argv[i], o);

		if (value && i + 1 >= argc)
			return cli_usage("attach", "%s needs a value", argv[i]);
		if (value)
			*value = argv[++i];
		else if (argv[i][0] == '-')
			return cli_usage("attach", "unknown option %s", argv[i]);
		else if (!pid)
			pid = argv[i];
		else if (!o->name)
			o->name = argv[i];
		else
			return cli_usage("attach", "unexpected argument %s", argv[i]);
	}
	if (!pid || !parse_pid(pid, &o->pid))
		return cli_usage("attach", "%s: expected the process number of a QEMU", pid ? pid : "the first argument is missing");
	if (!o->name)
		return cli_usage("attach", "a name for the VM is missing");
	if (!o->qmp == !o->domain)
		return cli_usage("attach", "expected --qmp SOCKET or --libvirt DOMAIN: where the VM's memory is, only its monitor can tell");
	if (o->connect && !o->domain)
		return cli_usage("attach", "--connect goes with --libvirt");
	return 0;
}

static int report(const struct attach_options *o, const struct attach_result *r)
{
	if (r->was_attached) {
		printf("process %d was attached to already, as %s; nothing was changed\n", (int)o->pid, o->name);
		return 0;
	}
	printf("attached to process %d as %s: %u slots of memory, %u of %u vCPUs come through\n", (int)o->pid, o->name, r->slot_count, r->vcpus_seen, r->vcpu_count);
	if (r->is_paused)
		puts("the VM is paused; its vCPUs come through when it runs");
	else if (r->vcpus_seen < r->vcpu_count)
		puts("the others (unplugged ones?) come through when they run");
	printf("next: vmkd serve %s\n", o->name);
	return 0;
}

int cli_attach(int argc, char **argv)
{
	struct attach_options options = { 0 };
	char folder[RUNDIR_PATH_MAX], *library = NULL;
	struct attach_result result;
	int status = parse(argc, argv, &options);
	struct error *error;

	if (status)
		return status;
	error = rundir_check_name(options.name);
	if (!error)
		error = rundir_base(folder);
	if (!error)
		error = installed_find("libvmkd-vmm.so", &library);
	options.folder = folder;
	options.library = library;
	if (!error)
		error = attach_run(&options, &result);
	free(library);
	return error ? error_report("vmkd attach", error) : report(&options, &result);
}
