// SPDX-License-Identifier: MIT
// Many debuggers on one guest: a has control, b and c observe.
#include "serve/session_bench.h"

int main(void)
{
	return 0;
}
