// SPDX-License-Identifier: MIT
// What the kernel does after boot: `scenario=a,b=ARG,c` on the command line, run in that order (help: scenario.c).
//
// Rules: run is called in passive context on CPU 0 with interrupts on. early is called before
// KdDebuggerInitialize0, middle between phase 0 and KdDebuggerInitialize1, both with interrupts off and one CPU.
#pragma once
#include "testkernel/nt/nt.h"

struct scenario {
    const char *name;
    const char *help;
    void (*early)(uint64_t arg);
    void (*middle)(uint64_t arg);
    void (*run)(uint64_t arg);
    bool ends; // after the list has run, power off with the verdict
};

extern const struct scenario scenarios_talk[], scenarios_modules[], scenarios_faults[], scenarios_run[],
    scenarios_transport[], scenarios_driver[]; // each ends with a NULL name

// Parses the command line. Unknown names are fatal (HAL_VERDICT_USAGE): a test that tests nothing must not pass.
void scenario_init(void);
void scenario_run_early(void);
void scenario_run_middle(void);
void scenario_run(void);

// One judgement; the worst of all counts. The reason is logged at once.
void scenario_pass(const char *reason);
void scenario_fail(const char *reason);
// Logs the verdict line and powers off with it.
_Noreturn void scenario_end(void);

// Waits for clock ticks with interrupts on.
void scenario_wait_ticks(unsigned ticks);
// Called about once a second by the idle loop from now on; one at a time.
void scenario_set_watch(void (*watch)(void));
_Noreturn void scenario_idle(void);
