// SPDX-License-Identifier: MIT
// The self tests in the host's own build.
#include <stdio.h>

#include "wire/selftest.h"

static int lines;

static void print_line(const char *line)
{
	lines++;
	puts(line);
}

int main(void)
{
	int failed = wire_selftest(print_line);
	printf("%d failed\n", failed);
	return failed != 0 || lines == 0;
}
