// SPDX-License-Identifier: MIT
// Stands in for nt/ while that folder has no source: enough to link, boot and drive the hal's self-test.
#include "testkernel/hal.h"

// The transport imports these, so the kernel must export them (hal/exports.def).
extern uint8_t KdDebuggerNotPresent, KdDebuggerEnabled;
uint8_t KdDebuggerNotPresent = 1, KdDebuggerEnabled = 1;

uint64_t HAL_STDCALL MmGetPhysicalAddress(const void *address);

uint64_t HAL_STDCALL MmGetPhysicalAddress(const void *address)
{
    hal_pa_t pa;
    return hal_translate((hal_va_t)address, &pa, NULL) ? 0 : pa;
}

void *nt_kpcr(unsigned cpu)
{
    static uint8_t blocks[HAL_MAX_CPUS][2 * HAL_PAGE_SIZE] __attribute__((aligned(HAL_PAGE_SIZE)));
    return blocks[cpu];
}

void nt_start(const struct hal_boot *boot)
{
    int32_t status = KdDebuggerInitialize0(boot->loader_block);
    hal_log("nt: none here; the transport's KdDebuggerInitialize0 says %x\n", (unsigned)status);
    hal_exit(HAL_VERDICT_PASS);
}

void nt_cpu_start(unsigned cpu)
{
    (void)cpu;
}

bool nt_trap(struct hal_frame *frame)
{
    (void)frame;
    return false;
}

void nt_tick(struct hal_frame *frame)
{
    (void)frame;
}

void nt_freeze(struct hal_frame *frame)
{
    (void)frame;
}
