// SPDX-License-Identifier: MIT
#include "wire/selftest.h"

void selftest_begin(struct selftest *t, const char *name)
{
	t->name = name;
	t->has_failed = false;
}

void selftest_check(struct selftest *t, bool is_ok, const char *file, int line, const char *what)
{
	static struct text x;
	if (is_ok || t->has_failed)
		return;
	t->has_failed = true;
	text_clear(&x);
	text_add(&x, "not ok ");
	text_add(&x, t->name);
	text_add(&x, ": ");
	text_add(&x, file);
	text_add(&x, ":");
	text_add_dec(&x, (uint32_t)line);
	text_add(&x, ": ");
	text_add(&x, what);
	t->log(x.bytes);
}

void selftest_end(struct selftest *t)
{
	static struct text x;
	if (t->has_failed) {
		t->failed++;
		return;
	}
	t->passed++;
	text_clear(&x);
	text_add(&x, "ok ");
	text_add(&x, t->name);
	t->log(x.bytes);
}

int wire_selftest(selftest_log *log)
{
	struct selftest t = { .log = log };
	selftest_vectors(&t);
	selftest_talks(&t);
	selftest_framing(&t);
	selftest_kdapi(&t);
	selftest_ring(&t);
	return t.failed;
}

// ---- Text ----------------------------------------------------------------------------------------

void text_clear(struct text *x)
{
	x->len = 0;
	x->bytes[0] = 0;
}

static void add_char(struct text *x, char c)
{
	if (x->len + 1 < sizeof(x->bytes))
		x->bytes[x->len++] = c;
	x->bytes[x->len] = 0;
}

void text_add(struct text *x, const char *s)
{
	while (*s)
		add_char(x, *s++);
}

void text_add_hex(struct text *x, uint64_t value)
{
	unsigned shift = 60;
	while (shift && !(value >> shift))
		shift -= 4;
	for (;; shift -= 4) {
		add_char(x, "0123456789ABCDEF"[value >> shift & 15]);
		if (!shift)
			break;
	}
}

void text_add_dec(struct text *x, uint32_t value)
{
	if (value >= 10)
		text_add_dec(x, value / 10);
	add_char(x, (char)('0' + value % 10));
}

bool same_text(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

bool same_bytes(const void *a, const void *b, size_t len)
{
	const uint8_t *p = a, *q = b;
	for (size_t i = 0; i < len; i++)
		if (p[i] != q[i])
			return false;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

size_t hex_bytes(const char *hex, uint8_t *ret_bytes, size_t size)
{
	size_t n = 0;
	while (*hex && n < size) {
		if (hex_digit(hex[0]) < 0) {
			hex++;
			continue;
		}
		ret_bytes[n++] = (uint8_t)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
		hex += 2;
	}
	return n;
}

uint32_t dice_roll(struct dice *d, uint32_t below)
{
	uint32_t x = d->state;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	d->state = x;
	return x % below;
}
