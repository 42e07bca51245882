// SPDX-License-Identifier: MIT
#include "testkernel/hal/state.h"
_Noreturn void hal_selftest(void)
{
    hal_exit(1);
}
