// SPDX-License-Identifier: MIT
// Any line on the control socket, and the same bytes as a history.
#include <stdlib.h>
#include <string.h>

#include "serve/ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_history(const uint8_t *data, size_t size)
{
	char *text = ctl_escape(data, size);

	if (!text || strlen(text) < size || strlen(text) > 4 * size)
		abort();
	for (const char *at = text; *at; at++)
		if ((*at < 0x20 && *at != '\t' && *at != '\n') || *at > 0x7E)
			abort();
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *why = NULL;
	struct ctl_request request;

	check_history(data, size);
	if (size >= CTL_LINE_MAX)
		return 0; // never reaches the parser
	request = ctl_parse((const char *)data, size, &why);
	if ((request.command == CTL_BAD) != (why != NULL) || request.command > CTL_BAD || request.control > CTL_CONTROL_GIVE)
		abort();
	if (request.command != CTL_CONTROL && (request.client || request.is_forced))
		abort();
	return 0;
}
