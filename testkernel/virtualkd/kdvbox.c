// SPDX-License-Identifier: MIT
#include "testkernel/virtualkd/variant.h"

// ReactOS's kdvbox.
const struct variant variant = { .version = 0x0101, .tests = 2, .has_wide_address = true };
