// SPDX-License-Identifier: MIT
// Precedence climbing over a cursor. See expr.h.
#include "console/expr.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "vmkd/vmkd.h"

struct vmkd_error expr_unknown_name;

struct parser {
	const char *start;
	const char *at;
	const struct expr_env *env;
	unsigned depth;
	bool is_list_item; // outside parentheses a blank ends the expression
	unsigned parens;
};

static struct vmkd_error *parse_binary(struct parser *p, int min_level, uint64_t *ret);

static uint64_t clip(const struct parser *p, uint64_t value)
{
	return p->env->is_32bit ? (uint32_t)value : value;
}

static void skip_blanks(struct parser *p)
{
	while (*p->at == ' ' || *p->at == '\t')
		p->at++;
}

static struct vmkd_error *expected(const struct parser *p, const char *what)
{
	if (*p->at == '\0')
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected %s at the end of '%.80s'", what, p->start);
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected %s before '%.40s'", what, p->at);
}

// ---- names and numbers ---------------------------------------------------------------------------------------------------------

static bool is_name_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '!' || c == '?' || c == '`' || c == '.' || c == ':' ||
	       c == '@';
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

enum number_kind { NUMBER_NONE, NUMBER_OK, NUMBER_TOO_BIG };

static enum number_kind digits_value(const char *word, size_t len, unsigned radix, uint64_t *ret)
{
	uint64_t value = 0;
	size_t count = 0;

	for (size_t i = 0; i < len; i++) {
		if (word[i] == '`')
			continue;
		int digit = digit_of(word[i]);
		if (digit < 0 || (unsigned)digit >= radix)
			return NUMBER_NONE;
		if (value > (UINT64_MAX - (unsigned)digit) / radix)
			return NUMBER_TOO_BIG;
		value = value * radix + (unsigned)digit;
		count++;
	}
	if (count == 0)
		return NUMBER_NONE;
	*ret = value;
	return NUMBER_OK;
}

static enum number_kind number_value(const char *word, size_t len, uint64_t *ret)
{
	static const struct {
		char mark;
		unsigned radix;
	} PREFIXES[] = { { 'x', 16 }, { 'n', 10 }, { 't', 8 }, { 'y', 2 } };

	if (len > 2 && word[0] == '0')
		for (size_t i = 0; i < sizeof(PREFIXES) / sizeof(PREFIXES[0]); i++)
			if (tolower((unsigned char)word[1]) == PREFIXES[i].mark)
				return digits_value(word + 2, len - 2, PREFIXES[i].radix, ret);
	if (len > 1 && tolower((unsigned char)word[len - 1]) == 'h')
		len--;
	return digits_value(word, len, 16, ret);
}

static size_t name_len(const char *text)
{
	size_t len = 0;
	while (is_name_char(text[len]))
		len++;
	return len;
}

// poi(…) and its relatives: bytes read, 0 = not a memory operator.
static unsigned memory_operator(const struct parser *p, const char *name)
{
	static const struct {
		const char *name;
		unsigned size;
	} OPERATORS[] = { { "by", 1 }, { "wo", 2 }, { "dwo", 4 }, { "qwo", 8 } };

	if (strcasecmp(name, "poi") == 0)
		return p->env->is_32bit ? 4 : 8;
	for (size_t i = 0; i < sizeof(OPERATORS) / sizeof(OPERATORS[0]); i++)
		if (strcasecmp(name, OPERATORS[i].name) == 0)
			return OPERATORS[i].size;
	return 0;
}

static struct vmkd_error *parse_group(struct parser *p, uint64_t *ret)
{
	char close = *p->at == '[' ? ']' : ')';
	uint64_t value;

	p->at++;
	p->parens++;
	struct vmkd_error *error = parse_binary(p, 0, &value);
	if (error)
		return error;
	skip_blanks(p);
	if (*p->at != close)
		return expected(p, close == ')' ? "')'" : "']'");
	p->at++;
	p->parens--;
	*ret = value;
	return NULL;
}

static struct vmkd_error *apply_function(struct parser *p, const char *name, unsigned size, uint64_t *ret)
{
	uint64_t argument;
	struct vmkd_error *error = parse_group(p, &argument);

	if (error)
		return error;
	if (size != 0)
		return p->env->read(p->env->closure, argument, size, ret);
	*ret = strcasecmp(name, "hi") == 0 ? (argument >> 16) & 0xFFFF : argument & 0xFFFF;
	return NULL;
}

static struct vmkd_error *resolve_name(struct parser *p, const char *name, uint64_t *ret)
{
	struct vmkd_error *error = p->env->resolve(p->env->closure, name, ret);

	if (error != EXPR_UNKNOWN_NAME)
		return error;
	if (strchr(name, '!'))
		return vmkd_error_create(VMKD_E_ARGUMENT,
				    "cannot resolve '%.80s': its module exports no such name, and no symbols are loaded; try an address, such as nt+1000", name);
	return vmkd_error_create(VMKD_E_ARGUMENT,
			    "cannot resolve '%.80s': expected a number (hexadecimal, or 0n…), a register (@rax) or a module "
			    "(lm lists them)",
			    name);
}

static struct vmkd_error *parse_register(struct parser *p, uint64_t *ret)
{
	char name[EXPR_NAME_MAX];
	size_t len = name_len(p->at + 1);

	if (len == 0 || len >= sizeof(name))
		return expected(p, "a register name after '@'");
	memcpy(name, p->at + 1, len);
	name[len] = '\0';
	uint64_t value;
	if (p->env->get_register(p->env->closure, name, true, &value)) {
		p->at += 1 + len;
		*ret = value;
		return NULL;
	}
	return vmkd_error_create(VMKD_E_ARGUMENT, "no register '@%.40s' here: r lists them (the target must be stopped)", name);
}

static struct vmkd_error *parse_word(struct parser *p, uint64_t *ret)
{
	char name[EXPR_NAME_MAX];
	size_t len = name_len(p->at);

	if (len == 0)
		return expected(p, "a number, a register or a name");
	if (len >= sizeof(name))
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a name of at most %d characters, got '%.40s…'", EXPR_NAME_MAX - 1, p->at);
	memcpy(name, p->at, len);
	name[len] = '\0';
	const char *word = p->at;
	p->at += len;

	switch (number_value(word, len, ret)) {
	case NUMBER_OK:
		return NULL;
	case NUMBER_TOO_BIG:
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a number of at most 64 bits, got '%.40s'", name);
	case NUMBER_NONE:
		break;
	}
	if (*p->at == '(') {
		unsigned size = memory_operator(p, name);
		if (size != 0 || strcasecmp(name, "hi") == 0 || strcasecmp(name, "low") == 0)
			return apply_function(p, name, size, ret);
	}
	if (strcmp(name, ".") == 0)
		memcpy(name, "$ip", sizeof("$ip"));
	uint64_t value;
	if (p->env->get_register(p->env->closure, name, false, &value)) {
		*ret = value;
		return NULL;
	}
	return resolve_name(p, name, ret);
}

static struct vmkd_error *parse_unary(struct parser *p, uint64_t *ret)
{
	struct vmkd_error *error;
	uint64_t value;

	skip_blanks(p);
	if (++p->depth > EXPR_DEPTH_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %d nested operators and parentheses", EXPR_DEPTH_MAX);
	char c = *p->at;
	switch (c) {
	case '-':
	case '+':
	case '~':
		p->at++;
		error = parse_unary(p, &value);
		if (!error)
			value = c == '-' ? 0 - value : c == '~' ? ~value : value;
		break;
	case '(':
	case '[':
		error = parse_group(p, &value);
		break;
	case '@':
		error = parse_register(p, &value);
		break;
	default:
		error = parse_word(p, &value);
		break;
	}
	p->depth--;
	if (!error)
		*ret = clip(p, value);
	return error;
}

// ---- operators -----------------------------------------------------------------------------------------------------------------

enum operator { OP_OR, OP_XOR, OP_AND, OP_EQ, OP_NE, OP_LE, OP_GE, OP_LT, OP_GT, OP_SHL, OP_SHR, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD };

// Longest spelling first, where one starts another.
static const struct {
	const char *text;
	enum operator op;
	int level;
} OPERATORS[] = {
	{ "<<", OP_SHL, 4 }, { ">>", OP_SHR, 4 }, { "<=", OP_LE, 3 }, { ">=", OP_GE, 3 }, { "==", OP_EQ, 3 }, { "!=", OP_NE, 3 },
	{ "<", OP_LT, 3 },   { ">", OP_GT, 3 },	  { "+", OP_ADD, 5 }, { "-", OP_SUB, 5 }, { "*", OP_MUL, 6 }, { "/", OP_DIV, 6 },
	{ "%", OP_MOD, 6 },  { "&", OP_AND, 2 },  { "^", OP_XOR, 1 }, { "|", OP_OR, 0 },  { "mod", OP_MOD, 6 }, { "and", OP_AND, 2 },
	{ "xor", OP_XOR, 1 }, { "or", OP_OR, 0 },
};

// The operator at the cursor, or -1. A word operator must stand alone, so that `db 10 order` is not `10 or der`.
static int operator_at(const char *text, size_t *ret_len)
{
	for (size_t i = 0; i < sizeof(OPERATORS) / sizeof(OPERATORS[0]); i++) {
		size_t len = strlen(OPERATORS[i].text);
		if (strncasecmp(text, OPERATORS[i].text, len) != 0)
			continue;
		if (isalpha((unsigned char)text[0]) && is_name_char(text[len]))
			continue;
		*ret_len = len;
		return (int)i;
	}
	return -1;
}

static struct vmkd_error *apply(const struct parser *p, enum operator op, uint64_t a, uint64_t b, uint64_t *ret)
{
	switch (op) {
	case OP_OR: *ret = a | b; break;
	case OP_XOR: *ret = a ^ b; break;
	case OP_AND: *ret = a & b; break;
	case OP_EQ: *ret = a == b; break;
	case OP_NE: *ret = a != b; break;
	case OP_LE: *ret = a <= b; break;
	case OP_GE: *ret = a >= b; break;
	case OP_LT: *ret = a < b; break;
	case OP_GT: *ret = a > b; break;
	case OP_SHL: *ret = b < 64 ? a << b : 0; break;
	case OP_SHR: *ret = b < 64 ? a >> b : 0; break;
	case OP_ADD: *ret = a + b; break;
	case OP_SUB: *ret = a - b; break;
	case OP_MUL: *ret = a * b; break;
	case OP_DIV:
	case OP_MOD:
		if (b == 0)
			return vmkd_error_create(VMKD_E_ARGUMENT, "division by zero in '%.80s'", p->start);
		*ret = op == OP_DIV ? a / b : a % b;
		break;
	}
	*ret = clip(p, *ret);
	return NULL;
}

// A list item ends at a blank outside parentheses.
static bool ends_here(const struct parser *p)
{
	return p->is_list_item && p->parens == 0 && (*p->at == ' ' || *p->at == '\t');
}

static struct vmkd_error *parse_binary(struct parser *p, int min_level, uint64_t *ret)
{
	uint64_t left;
	struct vmkd_error *error = parse_unary(p, &left);

	while (!error && !ends_here(p)) {
		size_t len;
		const char *before = p->at;
		skip_blanks(p);
		int index = operator_at(p->at, &len);
		if (index < 0 || OPERATORS[index].level < min_level) {
			p->at = before;
			break;
		}
		p->at += len;
		uint64_t right;
		error = parse_binary(p, OPERATORS[index].level + 1, &right);
		if (!error)
			error = apply(p, OPERATORS[index].op, left, right, &left);
	}
	if (!error)
		*ret = left;
	return error;
}

static struct vmkd_error *parse(const char **text, const struct expr_env *env, bool is_list_item, uint64_t *ret)
{
	struct parser p = { .start = *text, .at = *text, .env = env, .is_list_item = is_list_item };
	struct vmkd_error *error = parse_binary(&p, 0, ret);

	if (error)
		return error;
	skip_blanks(&p);
	*text = p.at;
	return NULL;
}

struct vmkd_error *expr_parse(const char **text, const struct expr_env *env, uint64_t *ret)
{
	return parse(text, env, false, ret);
}

struct vmkd_error *expr_list_item(const char **text, const struct expr_env *env, uint64_t *ret)
{
	return parse(text, env, true, ret);
}

struct vmkd_error *expr_evaluate(const char *text, const struct expr_env *env, uint64_t *ret)
{
	uint64_t value;
	struct vmkd_error *error = expr_parse(&text, env, &value);

	if (error)
		return error;
	if (*text != '\0')
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected an operator or the end of the expression before '%.40s'", text);
	*ret = value;
	return NULL;
}

// ---- ranges --------------------------------------------------------------------------------------------------------------------

static bool is_length_mark(const char *text)
{
	return (*text == 'L' || *text == 'l') && text[1] != '\0' && (text[1] == '?' || text[1] == '-' || !isalpha((unsigned char)text[1]) ||
								     digit_of(text[1]) >= 0 || text[1] == ' ');
}

static struct vmkd_error *too_long(uint64_t count, unsigned unit)
{
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected a range of at most %llx bytes, got %llx elements of %u; L?%llx lifts the limit",
			    (unsigned long long)EXPR_RANGE_MAX, (unsigned long long)count, unit, (unsigned long long)count);
}

static struct vmkd_error *parse_length(const char **text, const struct expr_env *env, unsigned unit, struct expr_range *range)
{
	const char *at = *text + 1;
	bool is_unlimited = *at == '?';
	bool is_backward = *at == '-';
	uint64_t count, len;

	if (is_unlimited || is_backward)
		at++;
	struct vmkd_error *error = expr_parse(&at, env, &count);
	if (error)
		return error;
	if (__builtin_mul_overflow(count, unit, &len) || (!is_unlimited && len > EXPR_RANGE_MAX))
		return too_long(count, unit);
	if (count == 0)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a length of at least one element after L");
	if (is_backward)
		range->address = env->is_32bit ? (uint32_t)(range->address - len) : range->address - len;
	range->len = len;
	range->is_counted = true;
	*text = at;
	return NULL;
}

static struct vmkd_error *parse_last(const char **text, const struct expr_env *env, struct expr_range *range)
{
	const char *at = *text;
	uint64_t last;
	struct vmkd_error *error = expr_parse(&at, env, &last);

	if (error)
		return error;
	if (last < range->address)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected an end address at or above %llx, got %llx", (unsigned long long)range->address,
				    (unsigned long long)last);
	if (last - range->address >= EXPR_RANGE_MAX)
		return too_long(last - range->address, 1);
	range->len = last - range->address + 1;
	*text = at;
	return NULL;
}

struct vmkd_error *expr_parse_range(const char **text, const struct expr_env *env, unsigned unit, struct expr_range *ret)
{
	struct expr_range range = { .has_address = false };
	struct vmkd_error *error = NULL;
	const char *at = *text;

	while (*at == ' ' || *at == '\t')
		at++;
	if (*at != '\0' && !is_length_mark(at)) {
		error = expr_parse(&at, env, &range.address);
		range.has_address = true;
	}
	if (!error && is_length_mark(at))
		error = parse_length(&at, env, unit, &range);
	else if (!error && *at != '\0')
		error = parse_last(&at, env, &range);
	if (error)
		return error;
	*ret = range;
	*text = at;
	return NULL;
}
