// SPDX-License-Identifier: MIT
// vmkd list and vmkd stats: what the brokers say about their VMs.
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "serve/vmdir.h"
#include "util/ask.h"

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

static void print_entry(const cJSON *entry)
{
	const cJSON *clients = cJSON_GetObjectItemCaseSensitive(entry, "clients"), *item;
	const char *separator = "";
	char pid[16] = "?";

	if (number_of(entry, "pid"))
		snprintf(pid, sizeof(pid), "%d", number_of(entry, "pid"));
	printf("%-20s %8s  %-8s  %-22s  ", text_of(entry, "name"), pid, text_of(entry, "link"), text_of(entry, "state"));
	cJSON_ArrayForEach(item, clients) {
		printf("%s%s", separator, cJSON_IsString(item) ? item->valuestring : "?");
		separator = ", ";
	}
	printf("%s\n", cJSON_GetArraySize(clients) ? "" : "-");
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
	printf("%-20s %8s  %-8s  %-22s  %s\n", "NAME", "PID", "LINK", "STATE", "CLIENTS");
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

static struct error *ask_stats(const char *name, cJSON **ret)
{
	char folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder); // what is wrong with the folder, rather than that nobody is in it
	int pid;

	if (error)
		return error;
	if (!vmdir_broker_pid(name)) {
		if (vmdir_vm_is_alive(name, &pid))
			return error_create(ENOENT, "nobody serves the VM %s (pid %d): start a broker with `vmkd serve %s`", name, pid, name);
		return error_create(ENOENT, "there is no VM named %s; `vmkd list` shows those there are", name);
	}
	return ask_broker(name, ask_command("stats"), ret, NULL);
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
	error = ask_stats(name, &json);
	if (error)
		return error_report("vmkd stats", error);
	if (as_json)
		print_json(json);
	else
		print_stats(json, "");
	cJSON_Delete(json);
	return 0;
}
