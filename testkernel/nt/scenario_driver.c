// SPDX-License-Identifier: MIT
// Scenarios that start and stop a driver in the running kernel (driver=FILE; driver_run.h has the options).
//
// What the driver is expected to say: expect=STATUS (default 0) is what each start must return. A start that returns another, or that fails as
// expected, ends a series. TkDriver is for debuggers who start and stop it themselves.
#include "testkernel/nt/driver_run.h"
#include "testkernel/nt/scenario.h"
#include "testkernel/nt/scenario_run.h"
#include "testkernel/nt/services.h"

#define LOOK_SPINS 500u
#define LINE_TICKS 4u

struct tk_driver {
    uint64_t wanted; // 1 start, 2 stop, 3 end with the verdict; the debugger writes it, 0 when done
    uint64_t status; // of the last start or stop, 32 bits
    uint64_t done;   // starts and stops
    uint64_t looks;  // of the other CPUs at the import table (driverlook)
    uint64_t chain;  // enum chain; the debugger writes CHAIN_WANTED and CHAIN_UNWANTED
};
enum chain { CHAIN_NONE, CHAIN_WANTED, CHAIN_IS_THERE, CHAIN_UNWANTED };
extern volatile struct tk_driver TkDriver;
volatile struct tk_driver TkDriver;

static bool judge_start(ntstatus_t status)
{
    uint32_t expected = (uint32_t)hal_option_number("expect", 0);

    if ((uint32_t)status != expected) {
        hal_log("TK: driver: start gave %08x, expected %08x\n", (unsigned)status, (unsigned)expected);
        scenario_fail("driver: start gave another status than expected");
    }
    return (uint32_t)status == expected;
}

// ---- somebody else who redirects the transport, after the driver ------------------------------------------------------

static uintptr_t chained_to; // what KdSendPacket's entry held

static void HAL_STDCALL send_on(uint32_t type, struct kd_string *header, struct kd_string *data, struct kd_context *context)
{
    ((void(HAL_STDCALL *)(uint32_t, struct kd_string *, struct kd_string *, struct kd_context *))chained_to)(type, header, data, context);
}

static void chain_make(void)
{
    uintptr_t entries[2];

    driver_read_entries(0, entries);
    chained_to = entries[0];
    driver_write_send_entry((uintptr_t)send_on);
    TkDriver.chain = CHAIN_IS_THERE;
}

static void chain_break(void)
{
    driver_write_send_entry(chained_to);
    TkDriver.chain = CHAIN_NONE;
}

// ---- the other CPUs ------------------------------------------------------------------------------------------------

static volatile bool is_split;
static volatile bool wants_prints;

// With interrupts off, so nobody may change the table meanwhile: the CPU that does it has to hold this one first.
static bool look_once(void)
{
    const struct hal_image *transport = &hal_boot->images[1];
    uintptr_t entries[2];
    bool were_on = hal_interrupts_off();

    driver_read_entries(LOOK_SPINS, entries);
    hal_interrupts_restore(were_on);
    return (entries[0] - transport->base < transport->size) == (entries[1] - transport->base < transport->size);
}

static void look(void)
{
    for (uint64_t i = 1;; i++) {
        if (!look_once())
            is_split = true;
        TkDriver.looks++; // not exact with several CPUs
        if (TkDriver.chain == CHAIN_UNWANTED && hal_cpu_index() == 1) // the first CPU is in driver_stop
            chain_break();
        if (wants_prints && i % 256 == 0)
            DbgPrint("TK: CPU %u has looked %llu times\n", hal_cpu_index(), (unsigned long long)i);
        if (i % 4 == 0)
            hal_pause();
    }
}

static void start_lookers(void)
{
    for (unsigned cpu = 1; cpu < hal_cpu_count(); cpu++)
        nt_cpu_divert(cpu, look);
}

static void run_driverlook(uint64_t arg)
{
    (void)arg;
    start_lookers();
}

static void run_drivertalk(uint64_t arg)
{
    (void)arg;
    wants_prints = true;
    start_lookers();
}

static void judge_split(void)
{
    if (is_split)
        scenario_fail("driver: one entry of the import table was changed and the other not, while another CPU ran");
}

// ---- one after the other -------------------------------------------------------------------------------------------

static void run_driverstart(uint64_t arg)
{
    (void)arg;
    if (judge_start(driver_start()))
        scenario_pass("driver: start gave the status that was expected");
}

static void run_driverstop(uint64_t arg)
{
    (void)arg;
    ntstatus_t status = driver_stop();
    if (status == STATUS_SUCCESS)
        scenario_pass("driver: stopped");
    else
        scenario_fail("driver: cannot be stopped");
}

static void run_driverwait(uint64_t ticks)
{
    for (uint64_t i = 0; i < ticks; i++) {
        if (i % LINE_TICKS == 0)
            DbgPrint("TK: waiting, tick %llu of %llu\n", (unsigned long long)i, (unsigned long long)ticks);
        scenario_wait_ticks(1);
    }
}

// Return: whether there is a next round.
static bool run_round(uint64_t round)
{
    ntstatus_t status = driver_start();

    if (!judge_start(status) || !NT_SUCCESS(status))
        return false;
    DbgPrint("TK: driver round %llu\n", (unsigned long long)round);
    scenario_wait_ticks((unsigned)hal_option_number("driverhold", 1));
    status = driver_stop();
    if (!NT_SUCCESS(status))
        scenario_fail("driver: cannot be stopped");
    TkDriver.done++;
    return NT_SUCCESS(status);
}

static void run_drivercycle(uint64_t rounds)
{
    uint64_t round = 0, looks = TkDriver.looks;

    rounds = rounds != 0 ? rounds : 1;
    while (round < rounds && run_round(round + 1))
        round++;
    judge_split();
    hal_log("TK: driver: %llu rounds of %llu, %llu looks of other CPUs\n", (unsigned long long)round, (unsigned long long)rounds,
            (unsigned long long)(TkDriver.looks - looks));
    if (round == rounds || hal_option_number("expect", 0) != 0)
        scenario_pass("driver: the rounds are over"); // whatever was wrong has been judged
}

// ---- on request ----------------------------------------------------------------------------------------------------

static void serve_request(uint64_t wanted)
{
    ntstatus_t status = wanted == 1 ? driver_start() : wanted == 2 ? driver_stop() : STATUS_INVALID_PARAMETER;

    if (wanted == 3) {
        judge_split();
        scenario_pass("driver: the debugger is content");
        scenario_end();
    }
    TkDriver.status = (uint32_t)status;
    TkDriver.done++;
    TkDriver.wanted = 0;
}

static void run_drivermailbox(uint64_t arg)
{
    (void)arg;
    for (uint64_t line = 1;; line++) {
        DbgPrint("TK: driver mailbox, line %llu\n", (unsigned long long)line);
        for (unsigned i = 0; i < LINE_TICKS; i++) {
            if (TkDriver.wanted != 0)
                serve_request(TkDriver.wanted);
            if (TkDriver.chain == CHAIN_WANTED)
                chain_make();
            scenario_wait_ticks(1);
        }
    }
}

const struct scenario scenarios_driver[] = {
    {.name = "driverlook", .help = "the other CPUs look at the two entries of the kernel's import table, for ever", .run = run_driverlook},
    {.name = "drivertalk", .help = "the same, and they print now and then", .run = run_drivertalk},
    {.name = "driverstart", .help = "starts driver=FILE, which must give the status expect=N (default 0)", .run = run_driverstart},
    {.name = "driverstop", .help = "stops it", .run = run_driverstop},
    {.name = "driverwait", .help = "prints for driverwait=N clock ticks", .run = run_driverwait},
    {.name = "driverend", .help = "powers off with the verdict", .ends = true},
    {.name = "drivercycle", .help = "starts and stops it drivercycle=N times, a line and driverhold=N ticks (default 1) in between, up to the first failure; powers off",
     .run = run_drivercycle, .ends = true},
    {.name = "drivermailbox", .help = "starts and stops it when a debugger writes TkDriver.wanted, and prints, for ever", .run = run_drivermailbox},
    {0},
};
