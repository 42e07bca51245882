/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_HAL_STATE_H
#define TESTKERNEL_HAL_STATE_H
/* What the files of hal/ share and nt/ must not see. */
#include "testkernel/core/handoff.h"
#include "testkernel/core/image.h"

enum {
    APIC_ID = 0x20,
    APIC_EOI = 0xB0,
    APIC_SPURIOUS = 0xF0,
    APIC_ICR_LOW = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_TIMER_COUNT = 0x380,
    APIC_TIMER_DIVIDE = 0x3E0,

    VECTOR_FLUSH = 0xE2,
    VECTOR_SPURIOUS = 0xDF,
    GDT_ENTRIES = 16,
    STACK_SIZE = 32768,
};

/* One page per CPU, so that the address of its GDT tells the index. */
struct cpu {
    uint64_t gdt[GDT_ENTRIES];
    uint8_t tss[0x70];
    void *kpcr;        /* nt's, asked for once */
    uintptr_t user_sp; /* stack to return to when a user run ends; 0 = none under way */
    struct hal_frame *user_regs;
    int user_result;
    uint32_t apic_id;
    volatile uint32_t is_running;
    volatile uint32_t flushes_done;
    struct hal_frame resume;     /* x86: hal_asm_resume_at needs the frame away from the stack */
    struct hal_frame resume_nmi; /* the same for an NMI that comes meanwhile */
} __attribute__((aligned(HAL_PAGE_SIZE)));

extern struct cpu hal_cpus[HAL_MAX_CPUS];
extern struct handoff *hal_handoff;
extern struct paging hal_paging;
extern struct archive hal_archive;

/* The callbacks, so that the self-test can put itself between hal and nt. */
struct hal_hooks {
    bool (*trap)(struct hal_frame *frame);
    void (*tick)(struct hal_frame *frame);
    void (*freeze)(struct hal_frame *frame);
};
extern struct hal_hooks hal_hooks;

struct lock {
    volatile uint32_t held;
    bool were_on;
};
void lock_take(struct lock *lock); /* with interrupts off until lock_drop */
void lock_drop(struct lock *lock);
extern struct lock hal_memory_lock; /* page tables, allocators, image table */

/* start.c */
_Noreturn void hal_die(const char *why);
/* cpu.c */
void cpu_init(unsigned index);            /* on the CPU itself; CPU 0 first */
void cpu_set_base(const struct cpu *cpu); /* x64: GS base = KPCR */
void apic_eoi(void);
/* trap.c */
void hal_trap(struct hal_frame *frame);
/* memory.c */
void memory_init(void);
void *memory_stack(void); /* the top of a fresh stack, or NULL */
/* selftest.c */
_Noreturn void hal_selftest(void);

/* entry_*.S */
extern char hal_stubs[], boot_stack[], hal_ap_code[], hal_ap_code_end[], hal_ap_high[];
extern const uintptr_t hal_fixups[];
extern char hal_asm_refused[];
void hal_asm_capture(struct hal_frame *ret);
void hal_asm_user_enter(struct hal_frame *regs, uintptr_t *ret_sp);
_Noreturn void hal_asm_user_leave(uintptr_t sp);
_Noreturn void hal_asm_resume_at(const struct hal_frame *frame);
int hal_asm_fault(void); /* always refused: for the self-test */
int hal_asm_rdmsr(uint32_t msr, uint64_t *ret);
int hal_asm_wrmsr(uint32_t msr, uint64_t value);
int hal_asm_write_cr0(uintptr_t value);
int hal_asm_write_cr3(uintptr_t value);
int hal_asm_write_cr4(uintptr_t value);
int hal_asm_write_cr8(uintptr_t value);
int hal_asm_write_dr6(uintptr_t value);
int hal_asm_write_dr7(uintptr_t value);
void hal_asm_load_tables(const void *gdtr, const void *idtr);

#endif
