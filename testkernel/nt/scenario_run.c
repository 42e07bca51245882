// SPDX-License-Identifier: MIT
// Scenarios that run recognisable code for breakpoints, steps and measurements.
//
// The Tk* names are exported, so that a client finds them without symbols.
#include "testkernel/nt/scenario_run.h"

#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/scenario.h"
#include "testkernel/nt/services.h"

#define NOINLINE __attribute__((noinline))
// Keeps the compiler from folding calls that a person wants to step into.
#define KEEP() __asm__ volatile("")

volatile uint64_t TkCounter;
volatile uint64_t TkCpuCounters[HAL_MAX_CPUS];
volatile uint32_t TkWatched;

NOINLINE uint64_t TkInner(uint64_t n)
{
    KEEP();
    return n + 1;
}

NOINLINE uint64_t TkMiddle(uint64_t n)
{
    uint64_t inner = TkInner(n);

    KEEP();
    return inner + 1;
}

NOINLINE uint64_t TkOuter(uint64_t n)
{
    uint64_t middle = TkMiddle(n);

    KEEP();
    return middle + 1;
}

NOINLINE void TkTick(uint64_t n)
{
    TkCounter += n;
    TkWatched = (uint32_t)TkCounter;
    KEEP();
}

static void run_counter(uint64_t arg)
{
    (void)arg;
    DbgPrint("TK: counter: TkTick at %p, TkCounter at %p\n", (void *)TkTick, (void *)&TkCounter);
    for (;;) {
        TkTick(1);
        (void)TkOuter(TkCounter);
        hal_pause();
    }
}

// Never flat out: many debuggers read along, and each must be able to see every line.
static void run_ticker(uint64_t ticks)
{
    for (uint64_t n = 1;; n++) {
        DbgPrint("TK: ticker %llu\n", (unsigned long long)n);
        TkTick(1);
        scenario_wait_ticks(ticks != 0 ? (unsigned)ticks : 1);
    }
}

NOINLINE void TkSpin(void)
{
    unsigned cpu = hal_cpu_index();

    for (;;)
        TkCpuCounters[cpu]++;
}

// The same for the CPU that runs the scenario, at another address: a breakpoint in TkSpin never stops this one.
NOINLINE void TkSpinBoot(void)
{
    for (;;)
        TkCpuCounters[0]++;
}

static void run_smp(uint64_t arg)
{
    (void)arg;
    for (unsigned cpu = 1; cpu < hal_cpu_count(); cpu++)
        nt_cpu_divert(cpu, TkSpin);
    DbgPrint("TK: smp: %u CPUs spin at %p, counters at %p\n", hal_cpu_count(), (void *)TkSpin, (void *)TkCpuCounters);
    TkSpinBoot();
}

static uint32_t talk_lines;
static volatile uint32_t talkers_done;

// All CPUs want to own the debugger at the same time, hundreds of times.
static void talk(void)
{
    unsigned cpu = hal_cpu_index();

    for (uint32_t i = 1; i <= talk_lines; i++)
        DbgPrint("TK: CPU %u says line %u\n", cpu, i);
    __atomic_add_fetch(&talkers_done, 1, __ATOMIC_SEQ_CST);
}

static void talk_and_idle(void)
{
    talk();
    hal_idle_forever();
}

static void run_smpprint(uint64_t lines)
{
    talk_lines = (uint32_t)(lines != 0 ? lines : 50);
    for (unsigned cpu = 1; cpu < hal_cpu_count(); cpu++)
        nt_cpu_divert(cpu, talk_and_idle);
    talk();
    while (talkers_done < hal_cpu_count())
        hal_halt();
    DbgPrint("TK: all CPUs have spoken\n");
}

static void run_bench(uint64_t arg)
{
    (void)arg;
    bench_measure_tsc();
    DbgPrint("TK: bench at %p, TSC %llu Hz\n", (void *)&TkBench, (unsigned long long)TkBench.tsc_hz);
}

const struct scenario scenarios_run[] = {
    {.name = "counter", .help = "calls TkTick(1) and TkOuter for ever", .run = run_counter},
    {.name = "ticker", .help = "prints a numbered line and calls TkTick(1) every ticker=N clock ticks, for ever", .run = run_ticker},
    {.name = "smp", .help = "every CPU spins in TkSpin (the first in TkSpinBoot) and counts in TkCpuCounters", .run = run_smp},
    {.name = "smpprint", .help = "every CPU prints smpprint=N lines at the same time, 50 without N",
     .run = run_smpprint},
    {.name = "bench", .help = "measures the TSC for the mailbox TkBench, then idles", .run = run_bench},
    {0},
};
