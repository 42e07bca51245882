// SPDX-License-Identifier: MIT
// x86-64's registers between trap frame, CONTEXT and KSPECIAL_REGISTERS.
#include "testkernel/nt/nt_cpu.h"

#if NT_64BIT

#define MSR_STAR 0xC0000081u
#define MSR_LSTAR 0xC0000082u
#define MSR_CSTAR 0xC0000083u
#define MSR_SYSCALL_MASK 0xC0000084u
#define MSR_GS_BASE 0xC0000101u
#define MSR_KERNEL_GS_BASE 0xC0000102u
#define MSR_DEBUG_CONTROL 0x1D9u

// This kernel touches no floating point, so the power-on state is the state.
#define MXCSR_DEFAULT 0x1F80u
#define FCW_DEFAULT 0x27Fu
#define FXSAVE_MXCSR 0x18

static void save_float(struct nt_context *c)
{
    const uint16_t fcw = FCW_DEFAULT;
    const uint32_t mxcsr = MXCSR_DEFAULT;

    c->MxCsr = mxcsr;
    memcpy(c->FltSave, &fcw, sizeof(fcw));
    memcpy(c->FltSave + FXSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
}

static void save_debug(struct nt_context *c)
{
    c->Dr0 = hal_read_dr(0);
    c->Dr1 = hal_read_dr(1);
    c->Dr2 = hal_read_dr(2);
    c->Dr3 = hal_read_dr(3);
    c->Dr6 = hal_read_dr(6);
    c->Dr7 = hal_read_dr(7);
}

void nt_cpu_save_context(struct nt_context *c, const struct hal_frame *f)
{
    c->ContextFlags = NT_CONTEXT_ALL;
    c->SegCs = (uint16_t)f->cs;
    c->SegDs = (uint16_t)f->ds;
    c->SegEs = (uint16_t)f->es;
    c->SegFs = (uint16_t)f->fs;
    c->SegGs = (uint16_t)f->gs;
    c->SegSs = (uint16_t)f->ss;
    c->EFlags = (uint32_t)f->flags;
    c->Rax = f->rax;
    c->Rcx = f->rcx;
    c->Rdx = f->rdx;
    c->Rbx = f->rbx;
    c->Rsp = f->sp;
    c->Rbp = f->rbp;
    c->Rsi = f->rsi;
    c->Rdi = f->rdi;
    c->R8 = f->r8;
    c->R9 = f->r9;
    c->R10 = f->r10;
    c->R11 = f->r11;
    c->R12 = f->r12;
    c->R13 = f->r13;
    c->R14 = f->r14;
    c->R15 = f->r15;
    c->Rip = f->ip;
    save_debug(c);
    save_float(c);
}

// Selectors stay: a debugger that writes nonsense there would crash the target, and NT's exit path reloads its own.
void nt_cpu_load_context(const struct nt_context *c, struct hal_frame *f)
{
    f->flags = c->EFlags;
    f->rax = c->Rax;
    f->rcx = c->Rcx;
    f->rdx = c->Rdx;
    f->rbx = c->Rbx;
    f->sp = c->Rsp;
    f->rbp = c->Rbp;
    f->rsi = c->Rsi;
    f->rdi = c->Rdi;
    f->r8 = c->R8;
    f->r9 = c->R9;
    f->r10 = c->R10;
    f->r11 = c->R11;
    f->r12 = c->R12;
    f->r13 = c->R13;
    f->r14 = c->R14;
    f->r15 = c->R15;
    f->ip = c->Rip;
}

static uint64_t read_msr_or_zero(uint32_t msr)
{
    uint64_t value = 0;

    (void)hal_read_msr(msr, &value); // an absent register reads as 0
    return value;
}

static void save_tables(struct nt_special_registers *s)
{
    struct hal_table gdt = hal_sgdt();
    struct hal_table idt = hal_sidt();

    s->Gdtr.Limit = gdt.limit;
    s->Gdtr.Base = gdt.base;
    s->Idtr.Limit = idt.limit;
    s->Idtr.Base = idt.base;
    s->Tr = hal_str();
    s->Ldtr = hal_sldt();
}

void nt_cpu_save_special(struct nt_special_registers *s)
{
    s->Cr0 = hal_read_cr(0);
    s->Cr2 = hal_read_cr(2);
    s->Cr3 = hal_read_cr(3);
    s->Cr4 = hal_read_cr(4);
    s->Cr8 = hal_read_cr(8);
    s->KernelDr0 = hal_read_dr(0);
    s->KernelDr1 = hal_read_dr(1);
    s->KernelDr2 = hal_read_dr(2);
    s->KernelDr3 = hal_read_dr(3);
    s->KernelDr6 = hal_read_dr(6);
    s->KernelDr7 = hal_read_dr(7);
    save_tables(s);
    s->MxCsr = MXCSR_DEFAULT;
    s->DebugControl = read_msr_or_zero(MSR_DEBUG_CONTROL);
    s->MsrGsBase = read_msr_or_zero(MSR_GS_BASE);
    s->MsrGsSwap = read_msr_or_zero(MSR_KERNEL_GS_BASE);
    s->MsrStar = read_msr_or_zero(MSR_STAR);
    s->MsrLStar = read_msr_or_zero(MSR_LSTAR);
    s->MsrCStar = read_msr_or_zero(MSR_CSTAR);
    s->MsrSyscallMask = read_msr_or_zero(MSR_SYSCALL_MASK);
}

void nt_cpu_fill_report(struct nt_control_report *report, const struct nt_kprcb *prcb)
{
    const struct nt_context *c = &prcb->ProcessorState.ContextFrame;

    report->Dr6 = prcb->ProcessorState.SpecialRegisters.KernelDr6;
    report->Dr7 = prcb->ProcessorState.SpecialRegisters.KernelDr7;
    report->EFlags = c->EFlags;
    report->SegCs = c->SegCs;
    report->SegDs = c->SegDs;
    report->SegEs = c->SegEs;
    report->SegFs = c->SegFs;
}

#endif
