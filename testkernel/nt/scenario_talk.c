// SPDX-License-Identifier: MIT
// Scenarios in which the kernel talks to the debugger.
#include "testkernel/nt/scenario.h"

#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/services.h"

static void run_print(uint64_t lines)
{
    lines = lines != 0 ? lines : 100;
    for (uint64_t i = 1; i <= lines; i++)
        DbgPrint("TK: line %u of %u\n", (unsigned)i, (unsigned)lines);
}

// Back to back, of the largest size that DbgPrint makes, each with its number in front.
static void run_printflood(uint64_t lines)
{
    char text[512];

    lines = lines != 0 ? lines : 1000;
    for (uint64_t i = 1; i <= lines; i++) {
        size_t len = hal_format(text, sizeof(text), "TK: flood %u ", (unsigned)i);
        memset(text + len, 'x', sizeof(text) - 2 - len);
        text[sizeof(text) - 2] = '\n';
        text[sizeof(text) - 1] = 0;
        DbgPrint("%s", text);
    }
    DbgPrint("TK: flood done\n");
}

volatile struct tk_flood TkFlood;

// Exactly 64 characters, the newline among them, each with its number in front.
static void say_64(uint64_t number)
{
    char text[65];
    size_t len = hal_format(text, sizeof(text), "TK: flood %u ", (unsigned)number);

    memset(text + len, '.', sizeof(text) - 2 - len);
    text[sizeof(text) - 2] = '\n';
    text[sizeof(text) - 1] = 0;
    DbgPrint("%s", text);
}

static void run_flood(uint64_t arg)
{
    (void)arg;
    for (;;) {
        uint64_t lines = TkFlood.wanted;
        uint64_t start = hal_tsc();

        for (uint64_t i = 1; i <= lines; i++) {
            say_64(i);
            TkFlood.done++;
        }
        if (lines > 0 && TkFlood.end)
            hal_triple_fault();
        if (lines > 0) {
            TkFlood.ticks = hal_tsc() - start;
            TkFlood.wanted = 0;
            DbgPrint("TK: flood done\n");
        }
        hal_halt();
    }
}

static void run_later(uint64_t seconds)
{
    scenario_wait_ticks((unsigned)(hal_option_number("hz", 64) * (seconds != 0 ? seconds : 1)));
    DbgPrint("TK: later\n");
}

static void run_prompt(uint64_t arg)
{
    char answer[80] = "";

    (void)arg;
    uint32_t len = DbgPrompt("TK: your name? ", answer, sizeof(answer) - 1);
    answer[len < sizeof(answer) ? len : sizeof(answer) - 1] = 0;
    DbgPrint("TK: you said '%s' (%u characters)\n", answer, len);
    hal_log("TK: prompt answered '%s'\n", answer);
}

static void run_break(uint64_t arg)
{
    (void)arg;
    DbgBreakPoint();
}

static void run_command(uint64_t arg)
{
    struct kd_string name = {.length = 2, .maximum_length = 3, .buffer = (void *)"TK"};
    struct kd_string command = {.length = 12, .maximum_length = 13, .buffer = (void *)".echo hello!"};

    (void)arg;
    DbgCommandString(&name, &command);
}

const struct scenario scenarios_talk[] = {
    {.name = "idle", .help = "nothing but the clock (the default)"},
    {.name = "break", .help = "DbgBreakPoint once", .run = run_break},
    {.name = "print", .help = "print=N numbered lines, 100 without N", .run = run_print},
    {.name = "printflood", .help = "printflood=N lines of 511 characters, 1000 without N", .run = run_printflood},
    {.name = "flood", .help = "prints as many 64-character lines as the debugger writes into TkFlood, whenever it does; for ever",
     .run = run_flood},
    {.name = "later", .help = "later=N prints a line after N seconds, 1 without N", .run = run_later},
    {.name = "prompt", .help = "asks a question and prints the answer", .run = run_prompt},
    {.name = "command", .help = "DbgCommandString", .run = run_command},
    {0},
};
