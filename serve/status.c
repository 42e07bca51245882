// SPDX-License-Identifier: MIT
#include "serve/status.h"

#include <stdio.h>

enum status_nested status_nested_of(const struct link_head *wait)
{
	if (wait->vcpu == LINK_VCPU_UNKNOWN)
		return STATUS_NESTED_UNKNOWN;
	return wait->flags & LINK_F_NESTED ? STATUS_NESTED_YES : STATUS_NESTED_NO;
}

static void add_version(cJSON *json, const char *name, uint32_t version)
{
	char text[24];

	snprintf(text, sizeof(text), "%u.%u", version >> 16, version & 0xFFFFu);
	cJSON_AddStringToObject(json, name, text);
}

void status_add_link(cJSON *json, const struct guest_link *link)
{
	add_version(json, "abi", AREA_VERSION);
	cJSON_AddNumberToObject(json, "link_version", LINK_VERSION);
	if (link->refused_version)
		add_version(json, "refused_version", link->refused_version);
	if (link->library_version)
		cJSON_AddNumberToObject(json, "library_version", link->library_version);
	cJSON_AddNumberToObject(json, "calls_before", (double)link->calls_before);
}

void status_add_guest(cJSON *json, const struct link_guest *guest)
{
	static const char *const dialects[] = { [LINK_DIALECT_VMKD] = "vmkd", [LINK_DIALECT_VIRTUALKD] = "virtualkd", [LINK_DIALECT_KDCOM] = "kdcom" };

	if (guest->arch)
		cJSON_AddStringToObject(json, "arch", guest->arch == ARCH_X64 ? "x64" : "x86");
	if (guest->dialect < sizeof(dialects) / sizeof(dialects[0]))
		cJSON_AddStringToObject(json, "dialect", dialects[guest->dialect]);
	if (guest->dialect == LINK_DIALECT_VMKD)
		add_version(json, "guest_version", guest->version);
	cJSON_AddBoolToObject(json, "booted_alone", guest->state & GUEST_BOOTED_ALONE);
}

void status_add_gone(cJSON *json, enum link_gone reason)
{
	static const char *const reasons[] = { [LINK_GONE_RESET] = "reset", [LINK_GONE_SHUTDOWN] = "shutdown", [LINK_GONE_BYE] = "bye",
					       [LINK_GONE_AREA] = "area", [LINK_GONE_GUEST_ERROR] = "error" };

	if (reason > 0 && reason < sizeof(reasons) / sizeof(reasons[0]))
		cJSON_AddStringToObject(json, "gone", reasons[reason]);
}

static const char *way_of(const struct ram *ram, bool is_readable)
{
	if (!ram->piece_count || !is_readable)
		return "none";
	for (uint32_t i = 0; i < ram->piece_count; i++)
		if (ram->pieces[i].host)
			return "file"; // a video card's memory is private in any case
	return "process";
}

void status_add_ram(cJSON *json, const struct ram *ram, enum answers_mode mode, bool is_readable, enum status_nested nested)
{
	static const char *const modes[] = { [ANSWERS_ON] = "on", [ANSWERS_OFF] = "off", [ANSWERS_CHECK] = "check" };
	cJSON *to = cJSON_AddObjectToObject(json, "ram");

	cJSON_AddStringToObject(to, "mode", modes[mode]);
	cJSON_AddStringToObject(to, "way", way_of(ram, is_readable));
	if (nested != STATUS_NESTED_UNKNOWN)
		cJSON_AddBoolToObject(to, "nested", nested == STATUS_NESTED_YES);
}
