// SPDX-License-Identifier: MIT
#include "console/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "console/exports.h"

#define MODULE_NAME_MAX 256u
#define NEAR 0x10000u // an export further below says nothing about an address

void names_forget(struct names *names)
{
	vmkd_modules_destroy(names->modules);
	names->modules = NULL;
	for (uint32_t i = 0; i < names->table_count; i++)
		exports_destroy(names->tables[i].exports);
	names->table_count = 0;
}

struct vmkd_error *names_modules(struct names *names, struct vmkd_target *target, struct vmkd_modules **ret)
{
	if (!names->modules) {
		struct vmkd_error *error = vmkd_modules_read(target, &names->modules);
		if (error)
			return error;
	}
	*ret = names->modules;
	return NULL;
}

// *ret = NULL without an error: too many modules have been looked at.
static struct vmkd_error *exports_of(struct names *names, struct vmkd_target *target, const struct vmkd_module *module, struct exports **ret)
{
	*ret = NULL;
	for (uint32_t i = 0; i < names->table_count; i++)
		if (names->tables[i].base == module->base) {
			*ret = names->tables[i].exports;
			return NULL;
		}
	if (names->table_count == NAMES_MODULES_MAX)
		return NULL;
	struct vmkd_error *error = exports_read(target, module->base, ret);
	if (error)
		return error;
	names->tables[names->table_count].base = module->base;
	names->tables[names->table_count++].exports = *ret;
	return NULL;
}

static struct vmkd_error *resolve_export(struct names *names, struct vmkd_target *target, const struct vmkd_module *module, const char *name,
					 uint64_t *ret, bool *ret_is_found)
{
	struct exports *exports;
	uint32_t rva;
	struct vmkd_error *error = exports_of(names, target, module, &exports);

	if (error || !exports || !exports_find(exports, name, &rva))
		return error;
	*ret = module->base + rva;
	*ret_is_found = true;
	return NULL;
}

struct vmkd_error *names_resolve(struct names *names, struct vmkd_target *target, const char *name, uint64_t *ret, bool *ret_is_found)
{
	char module_name[MODULE_NAME_MAX] = "";
	const char *mark = strchr(name, '!');
	struct vmkd_modules *modules;
	struct vmkd_error *error = names_modules(names, target, &modules);

	*ret_is_found = false;
	if (error)
		return error;
	snprintf(module_name, sizeof(module_name), "%.*s", mark ? (int)(mark - name) : 255, name);
	const struct vmkd_module *module = vmkd_modules_find_name(modules, module_name);
	if (module && mark)
		return resolve_export(names, target, module, mark + 1, ret, ret_is_found);
	if (module) {
		*ret = module->base;
		*ret_is_found = true;
		return NULL;
	}
	const struct vmkd_module *kernel = vmkd_modules_at(modules, 0);
	return mark || !kernel ? NULL : resolve_export(names, target, kernel, name, ret, ret_is_found);
}

static const char *nearest(struct names *names, struct vmkd_target *target, const struct vmkd_module *module, uint64_t address,
			   uint32_t *ret_offset)
{
	struct exports *exports;
	struct vmkd_error *error = exports_of(names, target, module, &exports);

	vmkd_error_destroy(error); // a name is a courtesy
	if (error || !exports)
		return NULL;
	const char *name = exports_nearest(exports, (uint32_t)(address - module->base), ret_offset);
	return name && *ret_offset < NEAR ? name : NULL;
}

const char *names_describe(struct names *names, struct vmkd_target *target, uint64_t address, char buffer[NAMES_TEXT_MAX])
{
	struct vmkd_modules *modules;
	struct vmkd_error *error = names_modules(names, target, &modules);
	const struct vmkd_module *module = error ? NULL : vmkd_modules_find_address(modules, address);
	uint32_t offset = 0;

	vmkd_error_destroy(error); // as above
	const char *name = module ? nearest(names, target, module, address, &offset) : NULL;
	uint64_t distance = name ? offset : module ? address - module->base : 0;
	if (!module)
		snprintf(buffer, NAMES_TEXT_MAX, "0x%" PRIx64, address);
	else if (distance == 0)
		snprintf(buffer, NAMES_TEXT_MAX, "%.200s%s%s", module->short_name, name ? "!" : "", name ? name : "");
	else
		snprintf(buffer, NAMES_TEXT_MAX, "%.200s%s%s+0x%" PRIx64, module->short_name, name ? "!" : "", name ? name : "", distance);
	return buffer;
}
