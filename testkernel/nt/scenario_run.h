// SPDX-License-Identifier: MIT
// Exported targets for breakpoints, steps and watchpoints.
#pragma once
#include "testkernel/nt/nt.h"

extern volatile uint64_t TkCounter;                    // sum of what TkTick was given
extern volatile uint64_t TkCpuCounters[HAL_MAX_CPUS];  // one per CPU in TkSpin
extern volatile uint32_t TkWatched;                    // written by TkTick: a target for data breakpoints

// Adds n to TkCounter; n is in RCX, or on the stack of a 32-bit kernel.
void TkTick(uint64_t n);
uint64_t TkOuter(uint64_t n); // calls TkMiddle, which calls TkInner; n + 3
uint64_t TkMiddle(uint64_t n);
uint64_t TkInner(uint64_t n);
void TkSpin(void);     // never returns
void TkSpinBoot(void); // the same, for CPU 0

// Makes another CPU leave what it does and run code that never returns (kd_freeze.c: it rides on the freeze IPI).
void nt_cpu_divert(unsigned cpu, void (*code)(void));
