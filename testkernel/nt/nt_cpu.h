// SPDX-License-Identifier: MIT
// The processors as a debugger sees them: one KPCR with its KPRCB, one idle thread each, and the saved state of a
// stopped processor in KPRCB.ProcessorState.
//
// Rules: nt_cpu_save and nt_cpu_restore run on the processor they are about, interrupts off. Everything else may
// read the structures of a frozen processor from any other.
#pragma once
#include "testkernel/nt/nt.h"

extern struct nt_kprcb *KiProcessorBlock[HAL_MAX_CPUS];

// cpu < HAL_MAX_CPUS; never NULL, also for CPUs that do not run.
struct nt_kprcb *nt_cpu_prcb(unsigned cpu);
// The same processor's KPCR, which contains that KPRCB.
struct nt_kpcr *nt_cpu_pcr(unsigned cpu);

// Processors that have announced themselves; they are the ones that a stop has to freeze.
unsigned nt_cpu_online_count(void);
bool nt_cpu_is_online(unsigned cpu);
void nt_cpu_set_online(unsigned cpu);

// Called by nt_start once the idle threads and the System process exist.
void nt_cpu_attach_thread(unsigned cpu, struct nt_ethread *thread);

// Puts the interrupted code's registers and this processor's special registers into ProcessorState, and disarms the
// hardware breakpoints for as long as the debugger runs, so that it cannot trip over them.
void nt_cpu_save(unsigned cpu, const struct hal_frame *frame);
// The way back: whatever the debugger changed takes effect, in the frame and in the processor.
void nt_cpu_restore(unsigned cpu, struct hal_frame *frame);

// The arch's half of both (nt_cpu_x64.c, nt_cpu_x86.c).
void nt_cpu_save_context(struct nt_context *context, const struct hal_frame *frame);
void nt_cpu_load_context(const struct nt_context *context, struct hal_frame *frame);
void nt_cpu_save_special(struct nt_special_registers *special);
void nt_cpu_fill_report(struct nt_control_report *report, const struct nt_kprcb *prcb);

static inline uintptr_t nt_context_pc(const struct nt_context *context)
{
#if NT_64BIT
    return context->Rip;
#else
    return context->Eip;
#endif
}

static inline void nt_context_set_pc(struct nt_context *context, uintptr_t pc)
{
#if NT_64BIT
    context->Rip = pc;
#else
    context->Eip = pc;
#endif
}

// The CPU family, which packets call the processor level.
uint16_t nt_cpu_level(void);
