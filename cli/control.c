// SPDX-License-Identifier: MIT
// vmkd control: who of a VM's debuggers may change it.
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ask.h"
#include "cli/cli.h"
#include "util/ask.h"

struct wish {
	const char *name, *what;
	uint32_t client; // 0 = not named
	bool is_forced;
};

static const cJSON *item_of(const cJSON *json, const char *key)
{
	return cJSON_GetObjectItemCaseSensitive(json, key);
}

static const char *text_of(const cJSON *json, const char *key)
{
	const char *text = cJSON_GetStringValue(item_of(json, key));

	return text ? text : "?";
}

static int id_of(const cJSON *client)
{
	const cJSON *id = item_of(client, "id");

	return cJSON_IsNumber(id) ? id->valueint : 0;
}

static bool is_controller(const cJSON *client)
{
	return strcmp(text_of(client, "role"), "controller") == 0;
}

// -> the client with this number, 0: the controller; or NULL.
static const cJSON *find(const cJSON *answer, int id)
{
	const cJSON *client;

	cJSON_ArrayForEach(client, item_of(answer, "clients"))
		if (id ? id_of(client) == id : is_controller(client))
			return client;
	return NULL;
}

static int show(const cJSON *answer)
{
	const cJSON *client;

	if (!find(answer, 0))
		puts("control is free: who does something that needs it has it");
	cJSON_ArrayForEach(client, item_of(answer, "clients"))
		printf("%3d  %-10s  %s%s\n", id_of(client), text_of(client, "role"), text_of(client, "name"),
		       cJSON_IsTrue(item_of(client, "asks")) ? ", asks for control" : "");
	return 0;
}

static int report(const struct wish *wish, const cJSON *answer)
{
	const cJSON *number = item_of(answer, "client"), *controller = find(answer, 0);
	int client = cJSON_IsNumber(number) ? number->valueint : 0;

	if (strcmp(text_of(answer, "result"), "held") == 0) {
		fprintf(stderr, "vmkd control: client %d (%s) has control and has been told that client %d asks for it; `vmkd control %s take %d --force` takes it\n",
			id_of(controller), text_of(controller, "name"), client, wish->name, client);
		return 1;
	}
	if (controller)
		printf("client %d (%s) has control\n", id_of(controller), text_of(controller, "name"));
	else
		puts("control is free");
	return 0;
}

static struct error *ask(const struct wish *wish, cJSON **ret)
{
	cJSON *request = ask_command("control");

	cJSON_AddStringToObject(request, "do", wish->what);
	if (wish->client)
		cJSON_AddNumberToObject(request, "client", wish->client);
	if (wish->is_forced)
		cJSON_AddTrueToObject(request, "force");
	return cli_ask(wish->name, request, ret, NULL);
}

static bool parse_client(const char *word, uint32_t *ret)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(word, &end, 10);
	if (word[0] < '1' || word[0] > '9' || *end || errno || value > UINT32_MAX)
		return false;
	*ret = (uint32_t)value;
	return true;
}

static bool is_verb(const char *word)
{
	return strcmp(word, "show") == 0 || strcmp(word, "take") == 0 || strcmp(word, "give") == 0;
}

// -> 0, or the status of wrong usage.
static int parse(int argc, char **argv, struct wish *ret)
{
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];

		if (strcmp(word, "--force") == 0)
			ret->is_forced = true;
		else if (word[0] == '-')
			return cli_usage("control", "unexpected argument %s", word);
		else if (!ret->name)
			ret->name = word;
		else if (!ret->what && is_verb(word))
			ret->what = word;
		else if (!ret->what)
			return cli_usage("control", "%s: expected show, take or give", word);
		else if (ret->client || !parse_client(word, &ret->client))
			return cli_usage("control", "%s: expected one client's number, as `vmkd list` shows it", word);
	}
	if (!ret->name)
		return cli_usage("control", "the VM's name is missing");
	ret->what = ret->what ? ret->what : "show";
	if (ret->is_forced && strcmp(ret->what, "take"))
		return cli_usage("control", "--force goes with take");
	if (ret->client && strcmp(ret->what, "show") == 0)
		return cli_usage("control", "show shows all clients");
	return 0;
}

int cli_control(int argc, char **argv)
{
	struct wish wish = { 0 };
	int status = parse(argc, argv, &wish);
	cJSON *answer = NULL;
	struct error *error;

	if (status)
		return status;
	error = ask(&wish, &answer);
	if (error)
		return error_report("vmkd control", error);
	status = strcmp(wish.what, "show") ? report(&wish, answer) : show(answer);
	cJSON_Delete(answer);
	return status;
}
