// SPDX-License-Identifier: MIT
#include "target/error.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/kdapi.h"

// Reporting that memory is out must not need memory.
static struct vmkd_error out_of_memory = { .code = VMKD_E_NO_MEMORY, .message = "out of memory" };

static struct vmkd_error *create_text(enum vmkd_error_code code, const char *text)
{
	size_t size = strlen(text) + 1;
	struct vmkd_error *error = malloc(sizeof(*error) + size);

	if (!error)
		return &out_of_memory;
	memcpy(error + 1, text, size);
	*error = (struct vmkd_error){ .code = code, .message = (const char *)(error + 1) };
	return error;
}

static struct vmkd_error *create_list(enum vmkd_error_code code, const char *format, va_list ap)
{
	char text[ERROR_TEXT_MAX];

	vsnprintf(text, sizeof(text), format, ap);
	return create_text(code, text);
}

struct vmkd_error *vmkd_error_create(enum vmkd_error_code code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	struct vmkd_error *error = create_list(code, format, ap);
	va_end(ap);
	return error;
}

void vmkd_error_destroy(struct vmkd_error *error)
{
	if (error != &out_of_memory)
		free(error);
}

struct vmkd_error *error_no_memory(void)
{
	return &out_of_memory;
}

struct vmkd_error *error_os(int os_error, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	struct vmkd_error *error = vmkd_error_create(VMKD_E_OS, "%s: %s", text, strerror(os_error));
	if (error != &out_of_memory)
		error->os_error = os_error;
	return error;
}

struct vmkd_error *error_fault(uint64_t address, uint32_t status, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	struct vmkd_error *error = create_list(VMKD_E_FAULT, format, ap);
	va_end(ap);
	if (error != &out_of_memory) {
		error->has_address = true;
		error->address = address;
		error->status = status;
	}
	return error;
}

struct vmkd_error *error_status(const char *what, uint32_t status)
{
	bool is_denied = status == KD_STATUS_ACCESS_DENIED;
	struct vmkd_error *error = vmkd_error_create(is_denied ? VMKD_E_CONTROL : VMKD_E_TARGET, "%s: the target answered status %08" PRIx32 "%s", what, status,
						     is_denied ? ": another debugger has control of it, and this one observes; `control take` asks for it" : "");

	if (error != &out_of_memory)
		error->status = status;
	return error;
}

struct vmkd_error *error_control(const char *name, const char *what, const struct vmkd_control *control)
{
	struct vmkd_error *error = vmkd_error_create(VMKD_E_CONTROL, "%s: %s, but client %" PRIu32 " (%s) has control of it, and this one observes", name, what,
						     control->controller, control->controller_name);

	if (error != &out_of_memory)
		error->status = KD_STATUS_ACCESS_DENIED;
	return error;
}

struct vmkd_error *error_import(enum vmkd_error_code code, struct error *error)
{
	if (!error)
		return NULL;
	struct vmkd_error *result = create_text(code, error->text);
	if (result != &out_of_memory)
		result->os_error = error->code < 1000 ? error->code : 0;
	error_free(error);
	return result;
}
