// SPDX-License-Identifier: MIT
// vmkd doctor: collects what can be known of this machine and a VM, and prints what doctor/judge.h makes of it.
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "doctor/machine.h"
#include "doctor/judge.h"
#include "doctor/look.h"
#include "serve/vmdir.h"
#include "util/ask.h"

// ---- The VM's folder ------------------------------------------------------------------------------------------

static void add_name(void *arg, const char *name)
{
	struct doctor_vm *vm = arg;
	size_t len = strlen(vm->others);

	snprintf(vm->others + len, sizeof(vm->others) - len, "%s%s", len ? ", " : "", name);
}

// Nobody can be asked: what the folder, and the library in the VMM, say.
static void look_without_broker(struct doctor_vm *vm)
{
	struct vm_facts facts;

	vmdir_read_facts(vm->name, &facts);
	snprintf(vm->link, sizeof(vm->link), "%s", facts.link[0] ? facts.link : "hook");
	if (!vm->pid)
		vm->pid = facts.pid;
	if (!vm->broker_pid && vm->is_vmm_listening)
		look_at_greeting(vm);
}

static struct error *ask(const char *name, const char *command, struct doctor_vm *vm, void (*take)(struct doctor_vm *vm, const cJSON *answer))
{
	cJSON *answer = NULL;
	struct error *error = ask_broker(name, ask_command(command), &answer, NULL);

	if (!error)
		take(vm, answer);
	cJSON_Delete(answer);
	return error;
}

static void look_at_vm(const char *name, struct doctor_vm *vm)
{
	struct error *error;

	*vm = (struct doctor_vm){ 0 };
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	error_free(vmdir_each(add_name, vm)); // what is wrong with the folder has a line of its own
	vm->is_alive = vmdir_vm_is_alive(name, &vm->pid);
	vm->is_vmm_listening = vmdir_vmm_listens(name);
	vm->broker_pid = vmdir_broker_pid(name);
	error = vm->broker_pid ? ask(name, "status", vm, look_take_status) : NULL;
	if (vm->broker_pid && !error)
		error = ask(name, "stats", vm, look_take_stats);
	if (error)
		snprintf(vm->broker_error, sizeof(vm->broker_error), "%.*s", (int)sizeof(vm->broker_error) - 1, error->text);
	if (error || !vm->broker_pid)
		look_without_broker(vm);
	error_free(error);
	if (strcmp(vm->link, "serial") == 0)
		vm->is_alive = vm->broker_pid; // a stock target has no process of ours
	look_at_process(vm);
}

// ---- Output -----------------------------------------------------------------------------------------------------

static void count_states(const struct doctor_line *lines, size_t count, unsigned ret[3])
{
	memset(ret, 0, 3 * sizeof(ret[0]));
	for (size_t i = 0; i < count; i++)
		ret[lines[i].state]++;
}

static void print_text(const struct doctor_line *lines, size_t count, bool has_vm)
{
	unsigned states[3];

	for (size_t i = 0; i < count; i++)
		printf("%-7s  %-16s  %s%s%s\n", doctor_state_name(lines[i].state), lines[i].title, lines[i].text, lines[i].todo[0] ? " -> " : "", lines[i].todo);
	count_states(lines, count, states);
	printf("%u passed, %u failed, %u unknown%s\n", states[DOCTOR_PASSED], states[DOCTOR_FAILED], states[DOCTOR_UNKNOWN],
	       has_vm ? "" : "; `vmkd doctor NAME` looks at a VM, too");
}

static void print_json(const struct doctor_facts *facts, const struct doctor_line *lines, size_t count)
{
	cJSON *json = cJSON_CreateObject(), *list;
	unsigned states[3];
	char *text;

	if (facts->vm)
		cJSON_AddStringToObject(json, "name", facts->vm->name);
	if (facts->vm)
		cJSON_AddStringToObject(json, "situation", doctor_situation_name(doctor_find_situation(facts->vm)));
	count_states(lines, count, states);
	cJSON_AddNumberToObject(json, "passed", states[DOCTOR_PASSED]);
	cJSON_AddNumberToObject(json, "failed", states[DOCTOR_FAILED]);
	cJSON_AddNumberToObject(json, "unknown", states[DOCTOR_UNKNOWN]);
	list = cJSON_AddArrayToObject(json, "lines");
	for (size_t i = 0; i < count; i++) {
		cJSON *line = cJSON_CreateObject();

		cJSON_AddStringToObject(line, "id", lines[i].id);
		cJSON_AddStringToObject(line, "title", lines[i].title);
		cJSON_AddStringToObject(line, "state", lines[i].state == DOCTOR_FAILED ? "failed" : doctor_state_name(lines[i].state));
		cJSON_AddStringToObject(line, "text", lines[i].text);
		cJSON_AddStringToObject(line, "todo", lines[i].todo);
		cJSON_AddItemToArray(list, line);
	}
	text = cJSON_Print(json);
	puts(text ? text : "null");
	free(text);
	cJSON_Delete(json);
}

int cli_doctor(int argc, char **argv)
{
	struct doctor_line lines[DOCTOR_LINES_MAX];
	struct doctor_facts facts = { 0 };
	struct doctor_vm vm;
	const char *name = NULL;
	bool as_json = false;
	unsigned states[3];
	struct error *error;
	size_t count;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			as_json = true;
		else if (argv[i][0] == '-' || name)
			return cli_usage("doctor", "unexpected argument %s", argv[i]);
		else
			name = argv[i];
	}
	error = name ? rundir_check_name(name) : NULL;
	if (error)
		return error_report("vmkd doctor", error);
	machine_look(&facts.host);
	if (name) {
		look_at_vm(name, &vm);
		facts.vm = &vm;
	}
	count = doctor_judge(&facts, lines);
	if (as_json)
		print_json(&facts, lines, count);
	else
		print_text(lines, count, name);
	count_states(lines, count, states);
	return states[DOCTOR_FAILED] ? 1 : 0;
}
