// SPDX-License-Identifier: MIT
// Expressions and ranges: what is refused, then what is worth what.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "console/expr.h"
#include "vmkd/vmkd.h"

// rax = 1000, nt is a module at fffff80000400000 and a flag, memory holds its own address.
static bool get_register(void *closure, const char *name, bool is_marked, uint64_t *ret)
{
	(void)closure;
	if (strcmp(name, "rax") == 0)
		*ret = 0x1000;
	else if (strcmp(name, "$ip") == 0)
		*ret = 0xFFFFF80000401234;
	else if (strcmp(name, "ax") == 0 || (is_marked && (strcmp(name, "nt") == 0 || strcmp(name, "af") == 0)))
		*ret = 1;
	else
		return false;
	return true;
}

static struct vmkd_error *resolve(void *closure, const char *name, uint64_t *ret)
{
	(void)closure;
	if (strcmp(name, "nt") != 0 && strcmp(name, "foo.sys") != 0)
		return EXPR_UNKNOWN_NAME;
	*ret = 0xFFFFF80000400000;
	return NULL;
}

static struct vmkd_error *read_memory(void *closure, uint64_t address, unsigned size, uint64_t *ret)
{
	(void)closure;
	if (address == 0)
		return vmkd_error_create(VMKD_E_FAULT, "nothing at 0");
	*ret = size == 8 ? address : address & ((1ull << 8 * size) - 1);
	return NULL;
}

static const struct expr_env ENV64 = { .get_register = get_register, .resolve = resolve, .read = read_memory };
static const struct expr_env ENV32 = { .is_32bit = true, .get_register = get_register, .resolve = resolve, .read = read_memory };

static void refuses(const struct expr_env *env, const char *text, const char *says)
{
	uint64_t value = 0x5555;
	struct vmkd_error *error = expr_evaluate(text, env, &value);

	if (!error)
		fail_msg("'%s' was taken for %llx", text, (unsigned long long)value);
	if (!strstr(error->message, says))
		fail_msg("'%s': expected a message with '%s', got: %s", text, says, error->message);
	assert_int_equal(value, 0x5555);
	vmkd_error_destroy(error);
}

static void is(const struct expr_env *env, const char *text, uint64_t expected)
{
	uint64_t value;
	struct vmkd_error *error = expr_evaluate(text, env, &value);

	if (error)
		fail_msg("'%s': %s", text, error->message);
	if (value != expected)
		fail_msg("'%s': expected %llx, got %llx", text, (unsigned long long)expected, (unsigned long long)value);
}

static void refusals(void **state)
{
	(void)state;
	refuses(&ENV64, "", "expected a number");
	refuses(&ENV64, "   ", "expected a number");
	refuses(&ENV64, "1+", "expected a number");
	refuses(&ENV64, "*1", "expected a number");
	refuses(&ENV64, "(1", "')'");
	refuses(&ENV64, "(1]", "')'");
	refuses(&ENV64, "1)", "end of the expression");
	refuses(&ENV64, "1 2", "end of the expression");
	refuses(&ENV64, "1/0", "division by zero");
	refuses(&ENV64, "1%(2-2)", "division by zero");
	refuses(&ENV64, "10000000000000000", "64 bits");
	refuses(&ENV64, "0n18446744073709551616", "64 bits");
	refuses(&ENV64, "@", "register name");
	refuses(&ENV64, "@nosuch", "no register");
	refuses(&ENV64, "nosuch", "cannot resolve 'nosuch'");
	refuses(&ENV64, "nt!KeBugCheckEx", "no symbols");
	refuses(&ENV64, "0n12a", "cannot resolve");
	refuses(&ENV64, "0y12", "cannot resolve");
	refuses(&ENV64, "poi(0)", "nothing at 0");
	refuses(&ENV64, "poi(", "expected a number");
	refuses(&ENV64, "`", "cannot resolve");
	refuses(&ENV64, "\x01", "expected a number");
}

static void deep_nesting_is_refused(void **state)
{
	char text[4096];

	(void)state;
	memset(text, '(', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	refuses(&ENV64, text, "nested");
	memset(text, '-', sizeof(text) - 1);
	refuses(&ENV64, text, "nested");
	memset(text, 'z', sizeof(text) - 1);
	refuses(&ENV64, text, "at most");
}

static void values(void **state)
{
	(void)state;
	is(&ENV64, "10", 0x10);
	is(&ENV64, "0x1F", 0x1F);
	is(&ENV64, "0n10", 10);
	is(&ENV64, "0t17", 15);
	is(&ENV64, "0y101", 5);
	is(&ENV64, "1fh", 0x1F);
	is(&ENV64, "fffff800`00001000", 0xFFFFF80000001000);
	is(&ENV64, "FFFFFFFFFFFFFFFF", UINT64_MAX);
	is(&ENV64, "rax", 0x1000);
	is(&ENV64, "@rax+1", 0x1001);
	is(&ENV64, "@af", 1);  // marked: the flag
	is(&ENV64, "af", 0xAF); // else a number
	is(&ENV64, "nt", 0xFFFFF80000400000);
	is(&ENV64, "@nt", 1);
	is(&ENV64, "foo.sys+4", 0xFFFFF80000400004);
	is(&ENV64, ".", 0xFFFFF80000401234);
	is(&ENV64, ".+2", 0xFFFFF80000401236);
	is(&ENV64, "@$ip", 0xFFFFF80000401234);
}

static void operators(void **state)
{
	(void)state;
	is(&ENV64, "1+2*3", 7);
	is(&ENV64, "(1+2)*3", 9);
	is(&ENV64, "[1+2]*3", 9);
	is(&ENV64, "10-1-1", 0xE);
	is(&ENV64, "-1", UINT64_MAX);
	is(&ENV64, "~0", UINT64_MAX);
	is(&ENV64, "1 << 4 | 2", 0x12);
	is(&ENV64, "f0 & 3c ^ 1", 0x31);
	is(&ENV64, "5 mod 3", 2);
	is(&ENV64, "6 and 3 or 8", 0xA);
	is(&ENV64, "3 xor 1", 2);
	is(&ENV64, "1 == 1", 1);
	is(&ENV64, "2 > 3", 0);
	is(&ENV64, "1 << 40", 0); // 64 places
	is(&ENV64, "poi(2000)", 0x2000);
	is(&ENV64, "by(1234)", 0x34);
	is(&ENV64, "wo(12345)", 0x2345);
	is(&ENV64, "dwo(fffff80000401234)", 0x401234);
	is(&ENV64, "poi(poi(100)+8)", 0x108);
	is(&ENV64, "low(12345678)", 0x5678);
	is(&ENV64, "hi(12345678)", 0x1234);
}

static void values_of_32_bits(void **state)
{
	(void)state;
	is(&ENV32, "-1", 0xFFFFFFFF);
	is(&ENV32, "ffffffff`80401000", 0x80401000);
	is(&ENV32, "ffffffff+2", 1);
	is(&ENV32, "poi(ffff1234)", 0xFFFF1234);
}

static void range_is(const char *text, unsigned unit, uint64_t address, uint64_t len, const char *rest)
{
	struct expr_range range;
	struct vmkd_error *error = expr_parse_range(&text, &ENV64, unit, &range);

	if (error)
		fail_msg("%s", error->message);
	assert_int_equal(range.address, address);
	assert_int_equal(range.len, len);
	assert_string_equal(text, rest);
}

static void range_refused(const char *text, const char *says)
{
	struct expr_range range;
	const char *at = text;
	struct vmkd_error *error = expr_parse_range(&at, &ENV64, 1, &range);

	assert_non_null(error);
	if (!strstr(error->message, says))
		fail_msg("'%s': expected a message with '%s', got: %s", text, says, error->message);
	assert_ptr_equal(at, text);
	vmkd_error_destroy(error);
}

static void ranges(void **state)
{
	(void)state;
	range_refused("1000 L", "cannot resolve"); // L alone is a name
	range_refused("1000 L0", "at least one");
	range_refused("1000 L10000001", "L?");
	range_refused("1000 fff", "at or above");
	range_refused("0 ffffffffffffffff", "L?");
	range_refused("1000 L?ffffffffffffffff0", "64 bits");
	range_is("", 1, 0, 0, "");
	range_is("1000", 1, 0x1000, 0, "");
	range_is("1000 L20", 1, 0x1000, 0x20, "");
	range_is("1000 l20", 4, 0x1000, 0x80, "");
	range_is("1000 L 20", 1, 0x1000, 0x20, "");
	range_is("1000 L-20", 1, 0xFE0, 0x20, "");
	range_is("1000 L?10000001", 1, 0x1000, 0x10000001, "");
	range_is("1000 10ff", 1, 0x1000, 0x100, "");
	range_is("nt nt+f", 1, 0xFFFFF80000400000, 0x10, "");
	range_is("nt+@rax L@rax", 2, 0xFFFFF80000401000, 0x2000, "");
	range_is("L8", 2, 0, 0x10, "");
	range_is("1000 1000", 1, 0x1000, 1, "");
}

static void lists(void **state)
{
	const char *text = "1 -2 (3 + 4) rax";
	static const uint64_t EXPECTED[] = { 1, (uint64_t)-2, 7, 0x1000 };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		uint64_t value;
		assert_null(expr_list_item(&text, &ENV64, &value));
		assert_int_equal(value, EXPECTED[i]);
	}
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals), cmocka_unit_test(deep_nesting_is_refused), cmocka_unit_test(ranges),
		cmocka_unit_test(values),   cmocka_unit_test(operators),	       cmocka_unit_test(values_of_32_bits),
		cmocka_unit_test(lists),
	};

	return cmocka_run_group_tests_name("expr", tests, NULL, NULL);
}
