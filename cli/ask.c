// SPDX-License-Identifier: MIT
#include "cli/ask.h"

#include <errno.h>

#include "serve/vmdir.h"
#include "util/ask.h"
#include "util/rundir.h"

static struct error *check_broker(const char *name)
{
	char folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder); // what is wrong with the folder, rather than that nobody is in it
	int pid;

	if (error || vmdir_broker_pid(name))
		return error;
	if (vmdir_vm_is_alive(name, &pid))
		return error_create(ENOENT, "nobody serves the VM %s (pid %d): start a broker with `vmkd serve %s`", name, pid, name);
	return error_create(ENOENT, "there is no VM named %s; `vmkd list` shows those there are", name);
}

struct error *cli_ask(const char *name, cJSON *request, cJSON **ret, int *ret_fd)
{
	struct error *error = check_broker(name);

	if (!error)
		return ask_broker(name, request, ret, ret_fd);
	cJSON_Delete(request);
	return error;
}
