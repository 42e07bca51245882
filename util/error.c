// SPDX-License-Identifier: MIT
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct error out_of_memory = { ENOMEM, "out of memory" };

static struct error *create_text(int code, const char *text)
{
	size_t size = strlen(text) + 1;
	struct error *error = malloc(sizeof(*error) + size);

	if (!error)
		return &out_of_memory;
	memcpy(error + 1, text, size);
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
