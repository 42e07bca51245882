// SPDX-License-Identifier: MIT
#include "serve/memory_map.h"

#include <stdbool.h>
#include <string.h>

#define PAGE 4096u
#define GPA_MAX (UINT64_C(1) << 52) // the architecture's limit of physical addresses
#define VIEW_HEAD "FlatView #"
#define VIEW_SPACE " AS \"memory\","

struct line {
	const char *at, *end;
};

static bool next_line(const char **at, const char *end, struct line *ret)
{
	const char *newline;

	if (*at >= end)
		return false;
	newline = memchr(*at, '\n', (size_t)(end - *at));
	ret->at = *at;
	ret->end = newline ? newline : end;
	*at = newline ? newline + 1 : end;
	if (ret->end > ret->at && ret->end[-1] == '\r')
		ret->end--;
	return true;
}

static bool starts_with(const struct line *l, const char *text)
{
	size_t len = strlen(text);

	return (size_t)(l->end - l->at) >= len && memcmp(l->at, text, len) == 0;
}

static bool skip_text(struct line *l, const char *text)
{
	if (!starts_with(l, text))
		return false;
	l->at += strlen(text);
	return true;
}

// Exactly 16 hexadecimal digits, as QEMU prints addresses.
static bool take_hex16(struct line *l, uint64_t *ret)
{
	uint64_t value = 0;

	if (l->end - l->at < 16)
		return false;
	for (int i = 0; i < 16; i++) {
		char c = l->at[i];
		unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10) : 16;

		if (digit > 15)
			return false;
		value = value << 4 | digit;
	}
	l->at += 16;
	*ret = value;
	return true;
}

static void skip_digits(struct line *l)
{
	while (l->at < l->end && ((*l->at >= '0' && *l->at <= '9') || *l->at == '-'))
		l->at++;
}

// Behind the name: nothing, or " @OFFSET", or an accelerator's name behind either.
static bool take_offset(struct line *l, uint64_t *ret)
{
	*ret = 0;
	if (l->at == l->end)
		return true;
	if (!skip_text(l, " @"))
		return *l->at == ' ';
	return take_hex16(l, ret) && (l->at == l->end || *l->at == ' ');
}

struct range {
	uint64_t first, last, offset;
};

// "  FIRST-LAST (prio N, ram): NAME [@OFFSET]" -> true if it is RAM of this name.
static bool take_range(struct line l, const char *ram_id, struct range *ret)
{
	if (!skip_text(&l, "  ") || !take_hex16(&l, &ret->first) || !skip_text(&l, "-") || !take_hex16(&l, &ret->last))
		return false;
	if (!skip_text(&l, " (prio "))
		return false;
	skip_digits(&l);
	return skip_text(&l, ", ram): ") && skip_text(&l, ram_id) && take_offset(&l, &ret->offset);
}

// Whole pages only. -> false: impossible numbers.
static bool add_piece(struct memory_map *map, const struct range *r, uint64_t file_size)
{
	uint64_t size, skip = -r->first % PAGE;
	struct memory_piece *last = map->count ? &map->pieces[map->count - 1] : NULL;

	if (r->last < r->first || r->last >= GPA_MAX)
		return false;
	size = r->last - r->first + 1;
	if (r->offset > file_size || size > file_size - r->offset || (r->first - r->offset) % PAGE)
		return false;
	if (last && r->first < last->gpa + last->size)
		return false;
	if (size < skip + PAGE)
		return true;
	if (map->count == MEMORY_MAP_MAX)
		return false;
	map->pieces[map->count++] = (struct memory_piece){
		.gpa = r->first + skip,
		.size = (size - skip) / PAGE * PAGE,
		.offset = r->offset + skip,
	};
	return true;
}

// The lines of the first view that serves the address space "memory". -> false: there is none.
static bool find_view(const char *text, const char *end, const char **ret)
{
	bool is_head = false;
	struct line l;

	while (next_line(&text, end, &l)) {
		if (starts_with(&l, VIEW_HEAD)) {
			is_head = true;
		} else if (is_head && starts_with(&l, VIEW_SPACE)) {
			*ret = text;
			return true;
		} else if (!starts_with(&l, " AS ")) {
			is_head = false;
		}
	}
	return false;
}

int memory_map_parse(const char *text, size_t len, const char *ram_id, uint64_t file_size, struct memory_map *ret)
{
	const char *end = text + len, *at;
	struct memory_map map = { 0 };
	struct range range;
	struct line l;

	if (!ram_id[0] || !find_view(text, end, &at))
		return MEMORY_MAP_E_VIEW;
	while (next_line(&at, end, &l) && l.at < l.end && !starts_with(&l, VIEW_HEAD)) {
		if (take_range(l, ram_id, &range) && !add_piece(&map, &range, file_size))
			return MEMORY_MAP_E_TEXT;
	}
	if (!map.count)
		return MEMORY_MAP_E_EMPTY;
	*ret = map;
	return MEMORY_MAP_OK;
}
