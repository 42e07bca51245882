// SPDX-License-Identifier: MIT
// What every toolchain that compiles wire/ must agree on: gcc and clang on the host, mingw-w64 for
// the guest. No libc, no OS headers: only the freestanding ones.
#ifndef WIRE_COMPILER_H
#define WIRE_COMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The caller must look at the result. Ignore it with (void) and a reason.
#define WIRE_MUST_CHECK __attribute__((warn_unused_result))

// Layout assertions of a mapped struct: its size, and the offset of each field.
#define WIRE_ASSERT_SIZE(type, size) \
	_Static_assert(sizeof(type) == (size), "sizeof(" #type ") must be " #size)
#define WIRE_ASSERT_AT(type, field, offset) \
	_Static_assert(offsetof(type, field) == (offset), #type "." #field " must be at " #offset)

// Addresses of the guest are not interchangeable, so they are not integers: mixing them up does
// not compile, and costs nothing in any of the compilers.
typedef struct { uint64_t v; } gpa_t; // guest-physical, bytes
typedef struct { uint64_t v; } gva_t; // guest-virtual, bytes, sign-extended for 32-bit guests

typedef size_t wire_word_t __attribute__((may_alias, aligned(1)));

// Freestanding copies: in the guest there is no libc to call, and no SSE. A word at a time: a full packet costs a kernel
// that is being interpreted 8 times fewer instructions than byte by byte. Regions may overlap if `to` lies below `from`.
static inline void wire_copy(void *to, const void *from, size_t len)
{
#if __STDC_HOSTED__
	if (len) // no bytes may come from nowhere: of a null pointer libc takes not even none
		__builtin_memmove(to, from, len);
#else
	uint8_t *t = to;
	const uint8_t *f = from;
	for (; len >= sizeof(wire_word_t); len -= sizeof(wire_word_t)) {
		*(wire_word_t *)t = *(const wire_word_t *)f;
		t += sizeof(wire_word_t);
		f += sizeof(wire_word_t);
	}
	while (len--)
		*t++ = *f++;
#endif
}

static inline void wire_zero(void *to, size_t len)
{
	uint8_t *t = to;
	while (len--)
		*t++ = 0;
}

#endif
