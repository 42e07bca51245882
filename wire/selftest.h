// SPDX-License-Identifier: MIT
// Tests that every compiler's build of wire/ runs: the host's unit test calls wire_selftest, and so does a DLL built by
// mingw inside the test kernel. Freestanding: no libc, no imports, little stack.
//
// Each test reports one line to `log`: "ok NAME", or "not ok NAME: FILE:LINE: EXPRESSION" for its first failure.
#ifndef WIRE_SELFTEST_H
#define WIRE_SELFTEST_H

#include "wire/compiler.h"

typedef void selftest_log(const char *line);

struct selftest {
	selftest_log *log;
	const char *name; // of the test that runs
	bool has_failed;  // it has
	int failed;       // tests so far
	int passed;
};

// Run everything. Returns the number of tests that failed.
int wire_selftest(selftest_log *log);

// One group each; they report to *t.
void selftest_vectors(struct selftest *t);
void selftest_talks(struct selftest *t);
void selftest_framing(struct selftest *t);
void selftest_kdapi(struct selftest *t);
void selftest_ring(struct selftest *t);

// Between begin and end, every check counts for this name. The first failure is logged, the others are not.
void selftest_begin(struct selftest *t, const char *name);
void selftest_end(struct selftest *t);
void selftest_check(struct selftest *t, bool is_ok, const char *file, int line, const char *what);
#define CHECK(t, expr) selftest_check((t), (expr), __FILE__, __LINE__, #expr)

// ---- What a test without a libc needs ------------------------------------------------------------

// Text under construction. What does not fit is cut off.
struct text {
	char bytes[512];
	size_t len;
};
void text_clear(struct text *x);
void text_add(struct text *x, const char *s);
void text_add_hex(struct text *x, uint64_t value);
void text_add_dec(struct text *x, uint32_t value);

// strcmp and memcmp as questions.
bool same_text(const char *a, const char *b);
bool same_bytes(const void *a, const void *b, size_t len);
// Hex digits with blanks between bytes where one likes. Returns the number of bytes; at most `size`.
size_t hex_bytes(const char *hex, uint8_t *ret_bytes, size_t size);

// xorshift32: the same sequence in every build.
struct dice {
	uint32_t state; // not 0
};
uint32_t dice_roll(struct dice *d, uint32_t below); // 0 <= result < below

#endif
