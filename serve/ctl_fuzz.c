// SPDX-License-Identifier: MIT
// Any line on the control socket.
#include <stdlib.h>

#include "serve/ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *why = NULL;

	if (size >= CTL_LINE_MAX)
		return 0; // never reaches the parser
	if ((ctl_parse((const char *)data, size, &why) == CTL_BAD) != (why != NULL))
		abort();
	return 0;
}
