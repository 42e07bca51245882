// SPDX-License-Identifier: MIT
#include "setup/service.h"

#include <errno.h>
#include <stdio.h>

#include "setup/hive.h"

#define SERVICE "Services\\vmkd"
#define EVENT_SOURCE "Services\\EventLog\\System\\vmkd"
#define SET_MAX 999u
#define KERNEL_DRIVER 1
#define START_ON_DEMAND 3
#define ERROR_NORMAL 1
#define EVENTS_OF_ALL_KINDS 7

static bool set_dword(hive_h *h, hive_node_h node, const char *name, uint8_t value)
{
	return hive_set(h, node, name, hive_t_REG_DWORD, (uint8_t[4]){ value }, 4);
}

static hive_node_h control_set(hive_h *h, unsigned number)
{
	char name[32];

	snprintf(name, sizeof(name), "ControlSet%03u", number);
	return hive_find(h, hivex_root(h), name);
}

static hive_node_h current_set(hive_h *h)
{
	hive_node_h select = hive_find(h, hivex_root(h), "Select");
	hive_value_h current = select ? hivex_node_get_value(h, select, "Current") : 0;
	int32_t number = current ? hivex_value_dword(h, current) : 0;

	return number > 0 && number <= (int32_t)SET_MAX ? control_set(h, (unsigned)number) : 0;
}

struct error *service_add(hive_h *h)
{
	hive_node_h set = current_set(h);

	if (!set || !hive_find(h, set, "Services"))
		return error_create(EINVAL, "it does not say which of its control sets is the current one; is it a SYSTEM hive?");
	if (hive_find(h, set, SERVICE) || hive_find(h, set, EVENT_SOURCE))
		return error_create(EEXIST, "there is a service \"vmkd\" already, and no journal of `vmkd setup`: remove it in the guest first (uninstall.cmd, or `sc delete vmkd`)");
	hive_node_h service = hive_make(h, set, SERVICE);
	bool is_done = service && set_dword(h, service, "Type", KERNEL_DRIVER) && set_dword(h, service, "Start", START_ON_DEMAND) && set_dword(h, service, "ErrorControl", ERROR_NORMAL) &&
	               hive_set_string(h, service, "ImagePath", hive_t_REG_EXPAND_SZ, "\\SystemRoot\\System32\\drivers\\vmkd.sys") &&
	               hive_set_string(h, service, "DisplayName", hive_t_REG_SZ, "vmkd kernel debugging transport");
	hive_node_h source = is_done ? hive_make(h, set, EVENT_SOURCE) : 0;
	is_done = source && hive_set_string(h, source, "EventMessageFile", hive_t_REG_EXPAND_SZ, "%SystemRoot%\\System32\\drivers\\vmkd.sys") &&
	          set_dword(h, source, "TypesSupported", EVENTS_OF_ALL_KINDS);
	return is_done ? NULL : hive_failure("adding the service vmkd");
}

struct error *service_remove(hive_h *h)
{
	static const char *const keys[] = { SERVICE, EVENT_SOURCE };

	for (unsigned number = 1; number <= SET_MAX; number++)
		for (size_t i = 0; i < 2; i++) {
			hive_node_h set = control_set(h, number), node = set ? hive_find(h, set, keys[i]) : 0;
			if (node && hivex_node_delete_child(h, node) < 0)
				return hive_failure("removing the service vmkd");
		}
	return NULL;
}
