// SPDX-License-Identifier: MIT
#include "util/mtree.h"

#include <string.h>

#define VIEW_HEAD "FlatView #"
#define VIEW_SPACE " AS \"memory\","
#define IN_KVM " KVM"
#define OFFSET_LEN 18u // " @" and 16 digits

struct line {
	const char *at, *end;
};

static bool next_line(struct mtree *m, struct line *ret)
{
	const char *newline;

	if (m->at >= m->end)
		return false;
	newline = memchr(m->at, '\n', (size_t)(m->end - m->at));
	ret->at = m->at;
	ret->end = newline ? newline : m->end;
	m->at = newline ? newline + 1 : m->end;
	if (ret->end > ret->at && ret->end[-1] == '\r')
		ret->end--;
	return true;
}

static size_t length(const struct line *l)
{
	return (size_t)(l->end - l->at);
}

static bool starts_with(const struct line *l, const char *text)
{
	size_t len = strlen(text);

	return length(l) >= len && memcmp(l->at, text, len) == 0;
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

	if (length(l) < 16)
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

// "TYPE): "; types have no parenthesis.
static bool take_type(struct line *l, struct mtree_range *r)
{
	const char *close = memchr(l->at, ')', length(l));

	if (!close)
		return false;
	r->type = l->at;
	r->type_len = (size_t)(close - l->at);
	l->at = close;
	return skip_text(l, "): ");
}

// "NAME", then perhaps " @OFFSET", then perhaps " KVM". A name may have blanks in it, so this is read from its end.
static void take_name(struct line l, struct mtree_range *r)
{
	struct line tail;

	r->is_in_kvm = length(&l) >= strlen(IN_KVM) && memcmp(l.end - strlen(IN_KVM), IN_KVM, strlen(IN_KVM)) == 0;
	if (r->is_in_kvm)
		l.end -= strlen(IN_KVM);
	r->offset = 0;
	tail = (struct line){ length(&l) >= OFFSET_LEN ? l.end - OFFSET_LEN : l.end, l.end };
	if (skip_text(&tail, " @") && take_hex16(&tail, &r->offset))
		l.end -= OFFSET_LEN;
	r->name = l.at;
	r->name_len = length(&l);
}

// "  FIRST-LAST (prio N, TYPE): NAME [@OFFSET] [KVM]"
static bool take_range(struct line l, struct mtree_range *ret)
{
	if (!skip_text(&l, "  ") || !take_hex16(&l, &ret->first) || !skip_text(&l, "-") || !take_hex16(&l, &ret->last))
		return false;
	if (!skip_text(&l, " (prio "))
		return false;
	skip_digits(&l);
	if (!skip_text(&l, ", ") || !take_type(&l, ret))
		return false;
	take_name(l, ret);
	return true;
}

bool mtree_open(struct mtree *m, const char *text, size_t len)
{
	bool is_head = false;
	struct line l;

	*m = (struct mtree){ text, text + len };
	while (next_line(m, &l)) {
		if (starts_with(&l, VIEW_HEAD))
			is_head = true;
		else if (is_head && starts_with(&l, VIEW_SPACE))
			return true;
		else if (!starts_with(&l, " AS "))
			is_head = false;
	}
	return false;
}

bool mtree_next(struct mtree *m, struct mtree_range *ret)
{
	struct mtree_range range;
	struct line l;

	while (next_line(m, &l) && length(&l) && !starts_with(&l, VIEW_HEAD)) {
		if (take_range(l, &range)) {
			*ret = range;
			return true;
		}
	}
	m->at = m->end;
	return false;
}

bool mtree_is_type(const struct mtree_range *r, const char *text)
{
	return r->type_len == strlen(text) && memcmp(r->type, text, r->type_len) == 0;
}

bool mtree_is_name(const struct mtree_range *r, const char *text)
{
	return r->name_len == strlen(text) && memcmp(r->name, text, r->name_len) == 0;
}
