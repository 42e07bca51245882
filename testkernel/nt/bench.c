// SPDX-License-Identifier: MIT
// TkBench: what the guest itself spends on a request, for a client that wants to tell transport from kernel.
#include "testkernel/nt/nt_data.h"

struct tk_bench TkBench = {.magic = TK_BENCH_MAGIC, .version = 2};

static uint64_t begun;

void bench_request_begin(uint32_t api)
{
    (void)api;
    begun = hal_tsc();
}

void bench_request_end(uint32_t api)
{
    uint32_t index = api - KD_API_FIRST;

    if (index >= TK_BENCH_APIS)
        return;
    TkBench.counts[index]++;
    TkBench.ticks[index] += hal_tsc() - begun;
}

static uint64_t stop_begun; // 0: no break-in was found

void bench_stop_begin(void)
{
    stop_begun = hal_tsc();
}

void bench_stop_end(void)
{
    if (stop_begun == 0)
        return;
    TkBench.stops++;
    TkBench.stop_ticks += hal_tsc() - stop_begun;
    stop_begun = 0;
}

// Against the clock tick, whose rate the command line sets.
void bench_measure_tsc(void)
{
    const uint64_t ticks = 8;
    volatile const uint64_t *now = &KeTickCount;
    uint64_t start = *now;

    while (*now == start)
        hal_halt();
    start = *now;
    uint64_t tsc = hal_tsc();
    while (*now - start < ticks)
        hal_halt();
    TkBench.tsc_hz = (hal_tsc() - tsc) * hal_option_number("hz", 64) / (*now - start);
}
