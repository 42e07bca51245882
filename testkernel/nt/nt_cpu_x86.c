// SPDX-License-Identifier: MIT
// i386's registers between trap frame, CONTEXT and KSPECIAL_REGISTERS.
#include "testkernel/nt/nt_cpu.h"

#if !NT_64BIT

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
    c->SegGs = f->gs & 0xFFFF;
    c->SegFs = f->fs & 0xFFFF;
    c->SegEs = f->es & 0xFFFF;
    c->SegDs = f->ds & 0xFFFF;
    c->SegCs = f->cs & 0xFFFF;
    c->SegSs = f->ss & 0xFFFF;
    c->Edi = f->edi;
    c->Esi = f->esi;
    c->Ebx = f->ebx;
    c->Edx = f->edx;
    c->Ecx = f->ecx;
    c->Eax = f->eax;
    c->Ebp = f->ebp;
    c->Eip = f->ip;
    c->EFlags = f->flags;
    c->Esp = f->sp;
    save_debug(c);
}

// Selectors stay: a debugger that writes nonsense there would crash the target, and NT's exit path reloads its own.
void nt_cpu_load_context(const struct nt_context *c, struct hal_frame *f)
{
    f->edi = c->Edi;
    f->esi = c->Esi;
    f->ebx = c->Ebx;
    f->edx = c->Edx;
    f->ecx = c->Ecx;
    f->eax = c->Eax;
    f->ebp = c->Ebp;
    f->ip = c->Eip;
    f->flags = c->EFlags;
    f->sp = c->Esp;
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
    s->KernelDr0 = hal_read_dr(0);
    s->KernelDr1 = hal_read_dr(1);
    s->KernelDr2 = hal_read_dr(2);
    s->KernelDr3 = hal_read_dr(3);
    s->KernelDr6 = hal_read_dr(6);
    s->KernelDr7 = hal_read_dr(7);
    save_tables(s);
}

void nt_cpu_fill_report(struct nt_control_report *report, const struct nt_kprcb *prcb)
{
    const struct nt_context *c = &prcb->ProcessorState.ContextFrame;

    report->Dr6 = prcb->ProcessorState.SpecialRegisters.KernelDr6;
    report->Dr7 = prcb->ProcessorState.SpecialRegisters.KernelDr7;
    report->SegCs = (uint16_t)c->SegCs;
    report->SegDs = (uint16_t)c->SegDs;
    report->SegEs = (uint16_t)c->SegEs;
    report->SegFs = (uint16_t)c->SegFs;
    report->EFlags = c->EFlags;
}

#endif
