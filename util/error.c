// SPDX-License-Identifier: MIT
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct error out_of_memory = { ENOMEM, "out of memory" };

static bool is_control(char c)
{
	return (unsigned char)c < ' ' || c == 0x7F;
}

// What a peer, a file or another program says may stand in it: it shall neither end the line nor move a terminal's cursor.
static void make_plain(char *text)
{
	size_t len = strlen(text);

	while (len > 0 && is_control(text[len - 1]))
		text[--len] = 0;
	for (char *p = text; *p; p++)
		if (is_control(*p))
			*p = ' ';
}

static struct error *create_text(int code, const char *text)
{
	size_t size = strlen(text) + 1;
	struct error *error = malloc(sizeof(*error) + size);

	if (!error)
		return &out_of_memory;
	memcpy(error + 1, text, size);
	make_plain((char *)(error + 1));
	error->code = code;
	error->text = (const char *)(error + 1);
	return error;
}

struct error *error_create(int code, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return create_text(code, text);
}

struct error *error_prefix(struct error *error, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	struct error *longer;
	va_list ap;
	int len;

	if (!error || error == &out_of_memory)
		return error;
	va_start(ap, format);
	len = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (len >= 0 && (size_t)len < sizeof(text))
		snprintf(text + len, sizeof(text) - (size_t)len, ": %s", error->text);
	longer = create_text(error->code, text);
	error_free(error);
	return longer;
}

void error_free(struct error *error)
{
	if (error != &out_of_memory)
		free(error);
}

int error_report(const char *program, struct error *error)
{
	fprintf(stderr, "%s: %s\n", program, error->text);
	error_free(error);
	return 1;
}
