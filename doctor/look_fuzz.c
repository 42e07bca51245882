// SPDX-License-Identifier: MIT
// Any bytes as the library's greeting, as a broker's words, as a symbol path; and what is judged of them.
#include <stdlib.h>
#include <string.h>

#include "doctor/machine.h"
#include "doctor/judge.h"
#include "doctor/look.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct doctor_vm *vm)
{
	static struct doctor_line lines[DOCTOR_LINES_MAX];
	const struct doctor_facts facts = { .host = { .machine = "x86_64", .folder = "/f" }, .vm = vm };
	size_t count = doctor_judge(&facts, lines);

	for (size_t i = 0; i < count; i++)
		if (!lines[i].text[0] || (lines[i].state == DOCTOR_PASSED) != !lines[i].todo[0])
			abort();
}

static void take_path(const char *text)
{
	char found[64], host[32], port[8];

	if (!machine_parse_symbol_path(text, found, sizeof(found)))
		return;
	if (!found[0] || strpbrk(found, ";*"))
		abort();
	if (machine_parse_url(found, host, sizeof(host), port, sizeof(port)) && (!host[0] || !port[0]))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct doctor_vm vm = { .name = "vm", .is_alive = true, .link = "hook", .is_vmm_listening = true };
	cJSON *json = cJSON_ParseWithLength((const char *)data, size);
	char *text = malloc(size + 1);

	if (look_take_greeting(&vm, data, size, 1000))
		judge(&vm);
	if (json) {
		vm = (struct doctor_vm){ .name = "vm", .is_alive = true, .broker_pid = 1 };
		look_take_status(&vm, json);
		look_take_stats(&vm, json);
		judge(&vm);
	}
	memcpy(text, data, size);
	text[size] = 0;
	take_path(text);
	machine_parse_version(text);
	free(text);
	cJSON_Delete(json);
	return 0;
}
