// SPDX-License-Identifier: MIT
// Control of a VM that several debuggers share, through its broker (serve/ctl.h).
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "target/error.h"
#include "target/target.h"
#include "util/ask.h"

// A command about control: the answer has "clients".
static struct vmkd_error *ask(const struct vmkd_target *target, const char *what, uint32_t client, bool is_forced, cJSON **ret)
{
	if (target->vm_name[0] == '\0')
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "%s is not a vm:NAME: only the broker of one knows who has control", target->name);
	cJSON *request = ask_command("control");
	cJSON_AddStringToObject(request, "do", what);
	if (client)
		cJSON_AddNumberToObject(request, "client", client);
	if (is_forced)
		cJSON_AddTrueToObject(request, "force");
	return error_import(VMKD_E_CONNECT, ask_broker(target->vm_name, request, ret, NULL));
}

static uint32_t number_of(const cJSON *json, const char *key)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);

	return cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble <= UINT32_MAX ? (uint32_t)item->valuedouble : 0;
}

static bool says(const cJSON *json, const char *key, const char *text)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));

	return value && strcmp(value, text) == 0;
}

static void take_name(const cJSON *client, struct vmkd_control *ret)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(client, "name"));

	snprintf(ret->controller_name, sizeof(ret->controller_name), "%s", name ? name : "?");
}

// Which of the clients this target is only the broker could tell; what it tells is which of them are this process's.
static struct vmkd_control read_answer(const cJSON *answer)
{
	struct vmkd_control control = { .is_free = true };
	const cJSON *client;
	unsigned mine = 0;

	cJSON_ArrayForEach(client, cJSON_GetObjectItemCaseSensitive(answer, "clients")) {
		bool is_mine = number_of(client, "pid") == (uint32_t)getpid(), is_controller = says(client, "role", "controller");

		control.client_count++;
		mine += is_mine;
		if (is_mine)
			control.client = number_of(client, "id");
		if (!is_controller)
			continue;
		control.is_free = false;
		control.is_ours = is_mine;
		control.controller = number_of(client, "id");
		take_name(client, &control);
	}
	if (mine != 1)
		control.client = 0;
	return control;
}

struct vmkd_error *vmkd_target_control(struct vmkd_target *target, struct vmkd_control *ret)
{
	cJSON *answer = NULL;
	struct vmkd_error *error = ask(target, "show", 0, false, &answer);

	if (error)
		return error;
	*ret = read_answer(answer);
	cJSON_Delete(answer);
	return NULL;
}

// -> NULL and the number that the broker knows this target by.
static struct vmkd_error *find_client(struct vmkd_target *target, struct vmkd_control *ret)
{
	struct vmkd_error *error = vmkd_target_control(target, ret);

	if (error || ret->client)
		return error;
	return vmkd_error_create(VMKD_E_UNSUPPORTED, "which client of %s this is cannot be told, since this process has several: use `vmkd control`",
				 target->name);
}

struct vmkd_error *vmkd_target_control_take(struct vmkd_target *target, bool is_forced)
{
	struct vmkd_control control;
	cJSON *answer = NULL;
	struct vmkd_error *error = find_client(target, &control);

	if (!error)
		error = ask(target, "take", control.client, is_forced, &answer);
	if (error)
		return error;
	if (says(answer, "result", "held"))
		error = error_control(target->name, "asked for control", &control);
	cJSON_Delete(answer);
	return error;
}

struct vmkd_error *vmkd_target_control_give(struct vmkd_target *target)
{
	struct vmkd_control control;
	cJSON *answer = NULL;
	struct vmkd_error *error = find_client(target, &control);

	if (error)
		return error;
	if (!control.is_ours)
		return vmkd_error_create(VMKD_E_STATE, "this debugger has no control of %s that it could give", target->name);
	error = ask(target, "give", 0, false, &answer);
	cJSON_Delete(answer);
	return error;
}

struct vmkd_error *target_check_control(struct vmkd_target *target, const char *what)
{
	struct vmkd_control control;

	if (target->vm_name[0] == '\0')
		return NULL;
	struct vmkd_error *error = vmkd_target_control(target, &control);
	if (error) { // a broker that does not say is no reason to refuse
		target_log(target, VMKD_LOG_WARNING, "%s", error->message);
		vmkd_error_destroy(error);
		return NULL;
	}
	return control.is_free || control.is_ours ? NULL : error_control(target->name, what, &control);
}
