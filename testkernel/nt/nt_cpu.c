// SPDX-License-Identifier: MIT
#include "testkernel/nt/nt_cpu.h"

#include "testkernel/nt/nt_data.h"

struct nt_cpu {
    _Alignas(HAL_PAGE_SIZE) struct nt_kpcr pcr;
};

static struct nt_cpu cpus[HAL_MAX_CPUS];
static volatile uint32_t online_mask;

struct nt_kprcb *KiProcessorBlock[HAL_MAX_CPUS];

struct nt_kprcb *nt_cpu_prcb(unsigned cpu)
{
    return &cpus[cpu].pcr.Prcb;
}

struct nt_kpcr *nt_cpu_pcr(unsigned cpu)
{
    return &cpus[cpu].pcr;
}

unsigned nt_cpu_online_count(void)
{
    return (unsigned)__builtin_popcount(online_mask);
}

bool nt_cpu_is_online(unsigned cpu)
{
    return cpu < HAL_MAX_CPUS && (online_mask >> cpu & 1) != 0;
}

void nt_cpu_set_online(unsigned cpu)
{
    __atomic_or_fetch(&online_mask, 1u << cpu, __ATOMIC_SEQ_CST);
}

uint16_t nt_cpu_level(void)
{
    uint32_t id[4];

    hal_cpuid(1, 0, id);
    uint32_t family = id[0] >> 8 & 0xF;
    return (uint16_t)(family == 0xF ? family + (id[0] >> 20 & 0xFF) : family);
}

static void fill_identity(struct nt_kprcb *prcb, unsigned cpu)
{
    uint32_t id[4];

    prcb->LegacyNumber = (uint8_t)cpu;
    prcb->Number = cpu;
    hal_cpuid(1, 0, id);
    prcb->CpuType = (uint8_t)nt_cpu_level();
    prcb->CpuID = 1;
    prcb->CpuStep = (uint16_t)((id[0] >> 4 & 0xF) << 8 | (id[0] & 0xF));
    prcb->MHz = 1000;
    prcb->Context = &prcb->ProcessorState.ContextFrame;
    hal_cpuid(0, 0, id);
    memcpy(prcb->VendorString, &id[1], 4);
    memcpy(prcb->VendorString + 4, &id[3], 4);
    memcpy(prcb->VendorString + 8, &id[2], 4);
}

void *nt_kpcr(unsigned cpu)
{
    struct nt_kpcr *pcr = &cpus[cpu].pcr;
    struct hal_cpu_tables tables;

    hal_cpu_tables(cpu, &tables);
    pcr->Self = pcr;
    pcr->CurrentPrcb = &pcr->Prcb;
    pcr->GdtBase = tables.gdt;
    pcr->IdtBase = tables.idt;
    pcr->TssBase = tables.tss;
    pcr->MajorVersion = 1;
    pcr->MinorVersion = 1;
    pcr->KdVersionBlock = &KdVersionBlock;
    fill_identity(&pcr->Prcb, cpu);
    KiProcessorBlock[cpu] = &pcr->Prcb;
    return pcr;
}

void nt_cpu_attach_thread(unsigned cpu, struct nt_ethread *thread)
{
    struct nt_kprcb *prcb = nt_cpu_prcb(cpu);

    prcb->CurrentThread = thread;
    prcb->IdleThread = thread;
}

static void disarm_breakpoints(const struct nt_special_registers *special)
{
    if ((special->KernelDr7 & 0xFF) != 0)
        (void)hal_write_dr(7, special->KernelDr7 & ~(uintptr_t)0xFF);
}

void nt_cpu_save(unsigned cpu, const struct hal_frame *frame)
{
    struct nt_processor_state *state = &nt_cpu_prcb(cpu)->ProcessorState;

    nt_cpu_save_context(&state->ContextFrame, frame);
    nt_cpu_save_special(&state->SpecialRegisters);
    disarm_breakpoints(&state->SpecialRegisters);
}

// Refused values (a reserved bit, an address that is not canonical) leave the processor as it was; the next save
// shows the debugger what is really in force.
static void restore_debug_registers(const struct nt_special_registers *special)
{
    const uintptr_t wanted[8] = {special->KernelDr0, special->KernelDr1, special->KernelDr2, special->KernelDr3,
                                 0, 0, special->KernelDr6, special->KernelDr7};

    for (unsigned i = 0; i < 8; i++) {
        if (i != 4 && i != 5 && hal_read_dr(i) != wanted[i])
            (void)hal_write_dr(i, wanted[i]);
    }
}

static void restore_control_registers(const struct nt_special_registers *special)
{
    if (hal_read_cr(0) != special->Cr0)
        hal_write_cr(0, special->Cr0);
    if (hal_read_cr(2) != special->Cr2)
        hal_write_cr(2, special->Cr2);
    if (hal_read_cr(3) != special->Cr3)
        hal_write_cr(3, special->Cr3);
    if (hal_read_cr(4) != special->Cr4)
        hal_write_cr(4, special->Cr4);
}

void nt_cpu_restore(unsigned cpu, struct hal_frame *frame)
{
    const struct nt_processor_state *state = &nt_cpu_prcb(cpu)->ProcessorState;

    restore_control_registers(&state->SpecialRegisters);
    restore_debug_registers(&state->SpecialRegisters);
    nt_cpu_load_context(&state->ContextFrame, frame);
}
