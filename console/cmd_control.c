// SPDX-License-Identifier: MIT
// control: who of the debuggers on this VM may change it.
#include <inttypes.h>
#include <string.h>

#include "console/shell.h"

static struct vmkd_error *show(struct console *console)
{
	struct vmkd_control control;
	struct vmkd_error *error = vmkd_target_control(console->target, &control);

	if (error)
		return error;
	if (control.is_free)
		fprintf(console->out, "Control is free: who does something that needs it has it.");
	else if (control.is_ours)
		fprintf(console->out, "This console has control.");
	else
		fprintf(console->out, "Client %" PRIu32 " (%s) has control; this console observes.", control.controller, control.controller_name);
	fprintf(console->out, " Clients: %" PRIu32 ".\n", control.client_count);
	return NULL;
}

COMMAND(cmd_control)
{
	struct vmkd_error *error = NULL;

	if (strcmp(arguments, "take") == 0 || strcmp(arguments, "take force") == 0)
		error = vmkd_target_control_take(console->target, arguments[strlen("take")] != '\0');
	else if (strcmp(arguments, "give") == 0)
		error = vmkd_target_control_give(console->target);
	else if (*arguments)
		return console_usage(name);
	return error ? error : show(console);
}

void control_tell_observer(struct console *console)
{
	struct vmkd_control control;
	struct vmkd_error *error = vmkd_target_control(console->target, &control);

	if (!error && control.client && !control.is_free && !control.is_ours) // client 0: it was turned away
		fprintf(console->out, "Client %" PRIu32 " (%s) has control: this console observes, sees every stop and reads. `control take` asks for control.\n",
			control.controller, control.controller_name);
	vmkd_error_destroy(error); // not a VM of ours, or a broker that does not say
}
