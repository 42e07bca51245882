// SPDX-License-Identifier: MIT
// A visit to CPL 3 with IOPL 3: to show that a port call from there is refused.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

enum {
    CODE = 0x10000,
    STACK = 0x20000,
    USER_FLAGS = 0x3202, // IOPL 3, interrupts on
#if HAL_X64
    USER_CS = 0x33,
#else
    USER_CS = 0x1B,
#endif
    USER_DS = 0x2B,
    USER_DS_X86 = 0x23,
};

static int map_user(hal_pa_t code, hal_pa_t stack)
{
    if (hal_map(CODE, code, HAL_MAP_USER | HAL_MAP_EXEC))
        return 1;
    return hal_map(STACK, stack, HAL_MAP_USER | HAL_MAP_WRITE);
}

static void set_up_frame(struct hal_frame *regs)
{
    unsigned ds = HAL_X64 ? USER_DS : USER_DS_X86;
    regs->ip = CODE;
    regs->cs = USER_CS;
    regs->flags = USER_FLAGS;
    regs->sp = STACK + HAL_PAGE_SIZE;
    regs->ss = ds;
    regs->ds = regs->es = regs->fs = regs->gs = ds;
#if HAL_X86
    regs->hw_sp = regs->sp;
    regs->hw_ss = ds;
#endif
}

static void run(struct cpu *cpu, struct hal_frame *regs)
{
    // Traps from CPL 3 start below this function's frames: a page of room is more than entering takes.
    uintptr_t kernel_sp = ((uintptr_t)__builtin_frame_address(0) - HAL_PAGE_SIZE) & ~(uintptr_t)15;
    bool were_on = hal_interrupts_off();
    memcpy(cpu->tss + 4, &kernel_sp, sizeof kernel_sp);
    cpu->user_regs = regs;
    hal_asm_user_enter(regs, &cpu->user_sp);
    hal_interrupts_restore(were_on);
}

int hal_run_user(const void *code, size_t len, struct hal_frame *regs)
{
    hal_pa_t pages[2] = { hal_page_alloc(), hal_page_alloc() };
    if (len > HAL_PAGE_SIZE || !pages[0] || !pages[1] || hal_phys_write(pages[0], code, len) ||
        map_user(pages[0], pages[1]))
        return 2;
    set_up_frame(regs);
    run(&hal_cpus[hal_cpu_index()], regs);
    (void)hal_unmap(CODE); // mapped above
    (void)hal_unmap(STACK);
    hal_page_free(pages[0]);
    hal_page_free(pages[1]);
    return regs->vector == HAL_TRAP_USER_END ? 0 : 1;
}
