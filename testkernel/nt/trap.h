// SPDX-License-Identifier: MIT
// Exceptions of this kernel: the debugger first, then the code's own handler, the debugger again, a bug check.
#pragma once
#include "testkernel/nt/nt.h"

// An instruction that is allowed to fault, and where it goes on when the debugger does not handle the exception:
// what structured exception handling is to NT. Static tables only.
struct nt_guard {
    const void *first, *end; // faulting instruction lies in [first, end)
    const void *resume;
};

// Known to the dispatcher from now on. Return: 0 ok, 1 no room.
int nt_guard_add(const struct nt_guard *guard);
