// SPDX-License-Identifier: MIT
// The kernel's boot, in NT's order (KD reference, section 2.7): KD before everything else, then the other CPUs, the
// clock, phase 1, and what the command line asks for.
#include "testkernel/nt/kd.h"
#include "testkernel/nt/mappings.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/nt_modules.h"
#include "testkernel/nt/scenario.h"
#include "testkernel/nt/services.h"

#define TICKS_PER_SECOND_UNITS 10000000u // 100 ns

static uint32_t tick_units;

static bool has_option(const char *word)
{
    char value[16];

    return hal_option(word, 0, value, sizeof(value)) == 0;
}

static void set_kd_enabled(bool is_enabled)
{
    const uint8_t bits = is_enabled;

    KdDebuggerEnabled = bits;
    nt_data_write_shared(NT_SHARED_KD_ENABLED, &bits, sizeof(bits));
}

static void print_banner(const struct hal_boot *boot)
{
    DbgPrint("vmkd test kernel %s, build %u, %u CPUs, %u MB\n", NT_64BIT ? "x64" : "x86", NT_BUILD_NUMBER,
             boot->cpu_count, (unsigned)(boot->ram_size >> 20));
    DbgPrint("Command line: %s\n", boot->command_line);
}

// Phase 0. NT enables KD only when the transport says it is there.
static void kd_init_phase0(const struct hal_boot *boot)
{
    ntstatus_t status;

    KdDebuggerNotPresent = 0; // until the transport finds otherwise
    set_kd_enabled(true);
    status = has_option("nokd") ? STATUS_UNSUCCESSFUL : KdDebuggerInitialize0(boot->loader_block);
    if (!NT_SUCCESS(status)) {
        hal_log("TK: no kernel debugging, status %x\n", (unsigned)status);
        set_kd_enabled(false);
        KdDebuggerNotPresent = 1;
        return;
    }
    print_banner(boot);
    nt_modules_announce_all();
    if (has_option("break"))
        DbgBreakPointWithStatus(NT_BREAK_CONTROL_C);
}

static void kd_init_phase1(const struct hal_boot *boot)
{
    if (!KdDebuggerEnabled)
        return;
    ntstatus_t status = KdDebuggerInitialize1(boot->loader_block);
    if (!NT_SUCCESS(status))
        hal_log("TK: KdDebuggerInitialize1 failed, status %x\n", (unsigned)status);
}

static void start_clock(void)
{
    uint64_t hz = hal_option_number("hz", 64);

    hz = hz < 64 ? 64 : hz > 1000 ? 1000 : hz;
    tick_units = TICKS_PER_SECOND_UNITS / (uint32_t)hz;
    hal_timer_start((unsigned)hz);
}

void nt_tick(struct hal_frame *frame)
{
    (void)frame;
    nt_data_advance_time(tick_units);
    if (kd_poll_break_in())
        DbgBreakPointWithStatus(NT_BREAK_CONTROL_C);
}

void nt_cpu_start(unsigned cpu)
{
    nt_cpu_set_online(cpu);
}

void nt_start(const struct hal_boot *boot)
{
    nt_cpu_set_online(0);
    nt_data_init(boot);
    nt_modules_init(boot);
    nt_mappings_init();
    scenario_init();
    scenario_run_early();
    kd_init_phase0(boot);
    scenario_run_middle();
    (void)hal_start_cpus(); // the number shows in every state change
    start_clock();
    hal_interrupts_on();
    kd_init_phase1(boot);
    hal_log("TK: up, %u CPUs\n", hal_cpu_count());
    DbgPrint("TK: up, %u CPUs\n", hal_cpu_count());
    scenario_run();
    scenario_idle();
}
