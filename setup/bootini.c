// SPDX-License-Identifier: MIT
#include "setup/bootini.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME "vmkd debugging"
#define OPTIONS " /DEBUG /DEBUGPORT=vmkd" // before the line's own: the first /DEBUGPORT counts
#define ENTRIES "[operating systems]"
#define ENTRY_MAX 10u // as many does the menu show

struct span {
	const char *text;
	size_t len;
};

// Takes a line, without its end, from *at. -> false: there is none left.
static bool next_line(const struct bytes *text, size_t *at, struct span *ret)
{
	const char *start = (const char *)text->data + *at;
	size_t left = text->len - *at;
	const char *end;

	if (left == 0)
		return false;
	end = memchr(start, '\n', left);
	*ret = (struct span){ start, end ? (size_t)(end - start) : left };
	*at += ret->len + (end != NULL);
	if (ret->len && start[ret->len - 1] == '\r')
		ret->len--;
	return true;
}

static struct span trim(struct span s)
{
	while (s.len && isspace((unsigned char)s.text[0]))
		s = (struct span){ s.text + 1, s.len - 1 };
	while (s.len && isspace((unsigned char)s.text[s.len - 1]))
		s.len--;
	return s;
}

static bool is_text(struct span s, const char *text)
{
	return s.len == strlen(text) && strncasecmp(s.text, text, s.len) == 0;
}

// Before and behind the first '='. -> false: there is none.
static bool split(struct span line, struct span *ret_key, struct span *ret_value)
{
	const char *equals = memchr(line.text, '=', line.len);

	if (!equals)
		return false;
	*ret_key = trim((struct span){ line.text, (size_t)(equals - line.text) });
	*ret_value = trim((struct span){ equals + 1, line.len - (size_t)(equals + 1 - line.text) });
	return true;
}

// What stands behind the quoted name.
static struct span options_of(struct span value)
{
	const char *quote = value.len && value.text[0] == '"' ? memchr(value.text + 1, '"', value.len - 1) : NULL;

	return quote ? trim((struct span){ quote + 1, value.len - (size_t)(quote + 1 - value.text) }) : (struct span){ 0 };
}

static bool is_ours(struct span line)
{
	struct span key, value;

	return split(line, &key, &value) && value.len >= sizeof("\"" NAME "\"") - 1 && strncmp(value.text, "\"" NAME "\"", sizeof("\"" NAME "\"") - 1) == 0;
}

struct menu {
	struct span path, options; // of the default line
	size_t start, end;         // of that line in the text, its end included
	unsigned entry_count;
};

static struct error *find_default(const struct bytes *text, struct menu *ret)
{
	struct span line, key, value, path = { 0 }, section = { 0 };
	struct menu menu = { 0 };

	for (size_t at = 0, start = 0; next_line(text, &at, &line); start = at) {
		line = trim(line);
		bool is_entry = is_text(section, ENTRIES);
		if (line.len && line.text[0] == '[')
			section = line;
		else if (is_entry && is_ours(line))
			return error_create(EEXIST, "it has an entry \"" NAME "\" already");
		else if (!split(line, &key, &value))
			continue;
		else if (is_text(section, "[boot loader]") && is_text(key, "default"))
			path = value;
		else if (is_entry && ++menu.entry_count && !menu.path.len && path.len && path.len == key.len && strncasecmp(path.text, key.text, key.len) == 0)
			menu = (struct menu){ key, options_of(value), start, at, menu.entry_count };
	}
	if (!menu.path.len)
		return error_create(EINVAL, "it has no line for its default entry");
	if (menu.entry_count >= ENTRY_MAX)
		return error_create(ENOSPC, "it has %u entries, and the menu shows %u; remove one first", menu.entry_count, ENTRY_MAX);
	*ret = menu;
	return NULL;
}

static struct error *no_memory(void)
{
	return error_create(ENOMEM, "out of memory");
}

static void append(struct bytes *to, const void *data, size_t len)
{
	if (len)
		memcpy(to->data + to->len, data, len);
	to->len += len;
}

struct error *bootini_add(const struct bytes *text, bool make_default, struct bytes *ret)
{
	struct menu menu = { 0 };
	struct error *error = text->len <= BOOTINI_SIZE_MAX ? find_default(text, &menu) : error_create(EFBIG, "it is longer than %u bytes", BOOTINI_SIZE_MAX);
	struct bytes new = { 0 };

	if (error)
		return error;
	size_t place = make_default ? menu.start : menu.end;
	bool needs_end = place == text->len && text->data[place - 1] != '\n';
	new.data = malloc(text->len + menu.path.len + menu.options.len + sizeof(NAME OPTIONS) + 16);
	if (!new.data)
		return no_memory();
	append(&new, text->data, place);
	if (needs_end)
		append(&new, "\r\n", 2);
	append(&new, menu.path.text, menu.path.len);
	append(&new, "=\"" NAME "\"" OPTIONS, sizeof("=\"" NAME "\"" OPTIONS) - 1);
	append(&new, " ", menu.options.len > 0);
	append(&new, menu.options.text, menu.options.len);
	append(&new, "\r\n", 2);
	append(&new, text->data + place, text->len - place);
	*ret = new;
	return NULL;
}

struct error *bootini_remove(const struct bytes *text, struct bytes *ret)
{
	struct bytes new = { .data = malloc(text->len + 1) };
	struct span line, section = { 0 };

	if (!new.data)
		return no_memory();
	for (size_t at = 0, start = 0; next_line(text, &at, &line); start = at) {
		line = trim(line);
		if (line.len && line.text[0] == '[')
			section = line;
		if (!is_text(section, ENTRIES) || !is_ours(line))
			append(&new, text->data + start, at - start);
	}
	*ret = new;
	return NULL;
}
