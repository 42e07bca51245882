// SPDX-License-Identifier: MIT
// vmkd list and vmkd stats: what the brokers say about their VMs.
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ask.h"
#include "cli/cli.h"
#include "serve/vmdir.h"
#include "util/ask.h"

#define ENTRY_FORMAT "%-20s %8s  %-8s  %-9s  %-22s"
#define CLIENTS_INDENT "                                                                          " // as long as that makes a line

// ---- list -----------------------------------------------------------------------------------------------

// A VM whose broker cannot be asked: what its folder says.
static cJSON *entry_without_answer(const char *name, const struct error *error)
{
	cJSON *entry = cJSON_CreateObject(), *remarks;
	int broker = vmdir_broker_pid(name), pid = 0;
	struct vm_facts facts;
	char text[ERROR_TEXT_MAX];

	vmdir_read_facts(name, &facts);
	if (vmdir_vm_is_alive(name, &pid) && !pid)
		pid = facts.pid;
	cJSON_AddStringToObject(entry, "name", name);
	cJSON_AddNumberToObject(entry, "pid", pid);
	if (broker)
		cJSON_AddNumberToObject(entry, "broker_pid", broker);
	cJSON_AddStringToObject(entry, "link", facts.link[0] ? facts.link : "hook");
	cJSON_AddStringToObject(entry, "state", "unknown");
	cJSON_AddArrayToObject(entry, "clients");
	remarks = cJSON_AddArrayToObject(entry, "remarks");
	if (broker)
		snprintf(text, sizeof(text), "its broker (pid %d) cannot be asked: %s", broker, error->text);
	else
		snprintf(text, sizeof(text), "no broker: start one with `vmkd serve %s`", name);
	cJSON_AddItemToArray(remarks, cJSON_CreateString(text));
	return entry;
}

static void add_entry(void *arg, const char *name)
{
	cJSON *entry = NULL;
	struct error *error = ask_broker(name, ask_command("status"), &entry, NULL);

	if (error)
		entry = entry_without_answer(name, error);
	error_free(error);
	cJSON_AddItemToArray(arg, entry);
}

static const char *text_of(const cJSON *entry, const char *key)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, key));

	return text ? text : "?";
}

static int number_of(const cJSON *entry, const char *key)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(entry, key);

	return cJSON_IsNumber(item) ? item->valueint : 0;
}

// One line for each client; the first one stands in the VM's own line.
static void print_clients(const cJSON *clients)
{
	const cJSON *client;
	const char *indent = "";

	cJSON_ArrayForEach(client, clients) {
		printf("%s%3d %-10s %s%s\n", indent, number_of(client, "id"), text_of(client, "role"), text_of(client, "name"),
		       cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(client, "asks")) ? ", asks for control" : "");
		indent = CLIENTS_INDENT;
	}
	if (!cJSON_GetArraySize(clients))
		puts("  -");
}

static void print_entry(const cJSON *entry)
{
	const cJSON *dialect = cJSON_GetObjectItemCaseSensitive(entry, "dialect"), *item;
	char pid[16] = "?";

	if (number_of(entry, "pid"))
		snprintf(pid, sizeof(pid), "%d", number_of(entry, "pid"));
	printf(ENTRY_FORMAT, text_of(entry, "name"), pid, text_of(entry, "link"), dialect ? text_of(entry, "dialect") : "-", text_of(entry, "state"));
	print_clients(cJSON_GetObjectItemCaseSensitive(entry, "clients"));
	cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(entry, "remarks"))
		printf("    %s\n", cJSON_IsString(item) ? item->valuestring : "?");
}

static void print_list(const cJSON *list)
{
	const cJSON *entry;

	if (!cJSON_GetArraySize(list)) {
		puts("no VMs; start one with `vmkd run NAME -- qemu-system-x86_64 ...`");
		return;
	}
	printf(ENTRY_FORMAT "  CLIENTS\n", "NAME", "PID", "LINK", "DIALECT", "STATE");
	cJSON_ArrayForEach(entry, list)
		print_entry(entry);
}

static void print_json(const cJSON *json)
{
	char *text = cJSON_Print(json);

	puts(text ? text : "null");
	free(text);
}

int cli_list(int argc, char **argv)
{
	bool as_json = argc == 2 && strcmp(argv[1], "--json") == 0;
	struct error *error;
	cJSON *list;

	if (argc > 1 && !as_json)
		return cli_usage("list", "unexpected argument %s", argv[argc > 2 && strcmp(argv[1], "--json") == 0 ? 2 : 1]);
	list = cJSON_CreateArray();
	error = vmdir_each(add_entry, list);
	if (!error && as_json)
		print_json(list);
	else if (!error)
		print_list(list);
	cJSON_Delete(list);
	return error ? error_report("vmkd list", error) : 0;
}

// ---- stats ----------------------------------------------------------------------------------------------

static void print_stats(const cJSON *json, const char *indent)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, json) {
		if (cJSON_IsObject(item)) {
			printf("%s%s\n", indent, item->string);
			print_stats(item, "  ");
		} else if (cJSON_IsNumber(item)) {
			printf("%s%-*s %14.0f\n", indent, 24 - (int)strlen(indent), item->string, item->valuedouble);
		} else {
			printf("%s%-*s %14s\n", indent, 24 - (int)strlen(indent), item->string, cJSON_IsString(item) ? item->valuestring : "?");
		}
	}
}

int cli_stats(int argc, char **argv)
{
	const char *name = NULL;
	bool as_json = false;
	struct error *error;
	cJSON *json = NULL;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			as_json = true;
		else if (argv[i][0] == '-' || name)
			return cli_usage("stats", "unexpected argument %s", argv[i]);
		else
			name = argv[i];
	}
	if (!name)
		return cli_usage("stats", "the VM's name is missing");
	error = cli_ask(name, ask_command("stats"), &json, NULL);
	if (error)
		return error_report("vmkd stats", error);
	if (as_json)
		print_json(json);
	else
		print_stats(json, "");
	cJSON_Delete(json);
	return 0;
}
