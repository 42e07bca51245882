// SPDX-License-Identifier: MIT
// The functions that compilers call on their own for copying and clearing. There is no C library in this module.
#include "wire/compiler.h"

void *memcpy(void *to, const void *from, size_t len);
void *memset(void *to, int value, size_t len);

void *memcpy(void *to, const void *from, size_t len)
{
	void *t = to;
	__asm__ volatile("rep movsb" : "+D"(t), "+S"(from), "+c"(len) : : "memory");
	return to;
}

void *memset(void *to, int value, size_t len)
{
	void *t = to;
	__asm__ volatile("rep stosb" : "+D"(t), "+c"(len) : "a"(value) : "memory");
	return to;
}
