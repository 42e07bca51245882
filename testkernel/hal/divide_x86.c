// SPDX-License-Identifier: MIT
// 64-bit division on x86: the helpers that clang calls for Microsoft's target, under the names and with the calling
// convention (arguments on the stack, callee pops) of Microsoft's CRT, which is not linked here.
#include <stdint.h>

#define HELPER(symbol) __attribute__((stdcall)) __asm__(symbol)

uint64_t divide_unsigned(uint64_t a, uint64_t b) HELPER("__aulldiv");
uint64_t remainder_unsigned(uint64_t a, uint64_t b) HELPER("__aullrem");
int64_t divide_signed(int64_t a, int64_t b) HELPER("__alldiv");
int64_t remainder_signed(int64_t a, int64_t b) HELPER("__allrem");

// One bit at a time: no division is in a hot path here. b == 0 must trap as DIV does, so the CPU is asked to.
static uint64_t divide(uint64_t a, uint64_t b, uint64_t *ret_rest)
{
    uint64_t quotient = 0, rest = 0;
    if (!b)
        __asm__ volatile("divl %0" : : "r"(0) : "eax", "edx");
    for (int bit = 63; bit >= 0; bit--) {
        rest = rest << 1 | (a >> bit & 1);
        if (rest < b)
            continue;
        rest -= b;
        quotient |= 1ull << bit;
    }
    *ret_rest = rest;
    return quotient;
}

static uint64_t magnitude(int64_t value)
{
    return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

uint64_t divide_unsigned(uint64_t a, uint64_t b)
{
    uint64_t rest;
    return divide(a, b, &rest);
}

uint64_t remainder_unsigned(uint64_t a, uint64_t b)
{
    uint64_t rest;
    (void)divide(a, b, &rest);
    return rest;
}

int64_t divide_signed(int64_t a, int64_t b)
{
    uint64_t rest, quotient = divide(magnitude(a), magnitude(b), &rest);
    return (int64_t)((a < 0) != (b < 0) ? 0 - quotient : quotient);
}

int64_t remainder_signed(int64_t a, int64_t b) // has the dividend's sign
{
    uint64_t rest;
    (void)divide(magnitude(a), magnitude(b), &rest);
    return (int64_t)(a < 0 ? 0 - rest : rest);
}
