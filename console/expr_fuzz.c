// SPDX-License-Identifier: MIT
// Any text as an expression, a list and a range, for both widths: no crash, the cursor stays inside, an error leaves results alone.
#include <stdlib.h>
#include <string.h>

#include "console/expr.h"
#include "vmkd/vmkd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool get_register(void *closure, const char *name, bool is_marked, uint64_t *ret)
{
	(void)closure;
	*ret = 0x1234;
	return is_marked || strcmp(name, "rax") == 0;
}

static struct vmkd_error *resolve(void *closure, const char *name, uint64_t *ret)
{
	(void)closure;
	*ret = 0xFFFFF80000400000;
	return name[0] == 'n' ? NULL : EXPR_UNKNOWN_NAME;
}

static struct vmkd_error *read_memory(void *closure, uint64_t address, unsigned size, uint64_t *ret)
{
	(void)closure;
	*ret = address * size;
	return address % 3 == 0 ? vmkd_error_create(VMKD_E_FAULT, "no memory at %llx", (unsigned long long)address) : NULL;
}

static void check_cursor(const char *start, const char *at)
{
	if (at < start || at > start + strlen(start))
		abort();
}

static void try_all(const struct expr_env *env, const char *text)
{
	uint64_t value = 0xA5A5A5A5A5A5A5A5;
	const char *at = text;
	struct expr_range range;
	struct vmkd_error *error = expr_evaluate(text, env, &value);

	if (error && value != 0xA5A5A5A5A5A5A5A5)
		abort();
	if (!error && env->is_32bit && value > UINT32_MAX)
		abort();
	vmkd_error_destroy(error);
	while (*at != '\0') {
		const char *before = at;
		error = expr_list_item(&at, env, &value);
		check_cursor(text, at);
		if (!error && at == before)
			abort();
		vmkd_error_destroy(error);
		if (error)
			break;
	}
	for (unsigned unit = 1; unit <= 8; unit *= 2) {
		at = text;
		error = expr_parse_range(&at, env, unit, &range);
		check_cursor(text, at);
		if (error && at != text)
			abort();
		vmkd_error_destroy(error);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct expr_env env = { .get_register = get_register, .resolve = resolve, .read = read_memory };
	char *text = malloc(size + 1);

	memcpy(text, data, size);
	text[size] = '\0';
	try_all(&env, text);
	env.is_32bit = true;
	try_all(&env, text);
	free(text);
	return 0;
}
