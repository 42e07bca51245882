/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_TEXT_H
#define TESTKERNEL_CORE_TEXT_H
/*
 * Strings, formatting and the debug console, for the boot stub and the kernel alike. Any context, no locks.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t len);
void *memmove(void *to, const void *from, size_t len);
void *memset(void *to, int byte, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t len);

bool text_equal_nocase(const char *a, const char *b); /* ASCII */
/* Copies with truncation, always terminates (size > 0). */
void text_copy(char *to, size_t size, const char *from);

/* The formats of hal_log (see hal.h). Return: length without truncation. */
size_t text_vformat(char *buf, size_t size, const char *format, va_list args);
/* One formatted line to port 0xE9, at most 255 characters. */
void text_vlog(const char *format, va_list args);
void text_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The next word (separated by blanks) of *line: its start and length; *line moves behind it. False at the end. */
bool text_next_word(const char **line, const char **ret_word, size_t *ret_len);
/* Command-line option, as hal_option. */
int text_option(const char *line, const char *key, unsigned index, char *buf, size_t size);
/* Decimal or 0x hexadecimal, the whole text. Return: 0 ok, 1 no number. */
int text_number(const char *text, uint64_t *ret);

#endif
