// SPDX-License-Identifier: MIT
// Where every vector arrives, and who gets it.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

static bool repair(struct hal_frame *frame)
{
    if (frame->vector != HAL_TRAP_GP && frame->vector != HAL_TRAP_UD)
        return false;
    for (unsigned i = 0; hal_fixups[i]; i++) {
        if (frame->ip == hal_fixups[i]) {
            frame->ip = (uintptr_t)hal_asm_refused;
            return true;
        }
    }
    return false;
}

static bool is_exception(uintptr_t vector)
{
    return vector < 32 || vector == HAL_TRAP_ASSERT || vector == HAL_TRAP_SERVICE;
}

static bool ends_user_run(const struct hal_frame *frame)
{
    switch (frame->vector) {
    case HAL_TRAP_DB:
    case HAL_TRAP_NMI:
    case HAL_TRAP_BP:
    case HAL_TRAP_ASSERT:
    case HAL_TRAP_SERVICE:
        return false;
    default:
        return (frame->cs & 3) == 3 && (is_exception(frame->vector) || frame->vector == HAL_TRAP_USER_END);
    }
}

static _Noreturn void crash(const struct hal_frame *f)
{
    hal_log("hal: unhandled vector %x error %x on CPU %u at %p, flags %x, cr2 %p\n", (unsigned)f->vector,
            (unsigned)f->error, hal_cpu_index(), (void *)f->ip, (unsigned)f->flags, (void *)hal_read_cr(2));
#if HAL_X64
    hal_log("hal: rax %p rbx %p rcx %p rdx %p\n", (void *)f->rax, (void *)f->rbx, (void *)f->rcx, (void *)f->rdx);
    hal_log("hal: rsi %p rdi %p rbp %p rsp %p\n", (void *)f->rsi, (void *)f->rdi, (void *)f->rbp, (void *)f->sp);
#else
    hal_log("hal: eax %x ebx %x ecx %x edx %x\n", f->eax, f->ebx, f->ecx, f->edx);
    hal_log("hal: esi %x edi %x ebp %x esp %x\n", f->esi, f->edi, f->ebp, f->sp);
#endif
    const struct hal_image *image = hal_image_find(f->ip);
    if (image)
        hal_log("hal: that is %s + %x\n", image->name, (unsigned)(f->ip - image->base));
    hal_exit(HAL_VERDICT_CRASH);
}

static void on_flush(struct cpu *cpu)
{
    (void)hal_asm_write_cr3(hal_read_cr(3));                     // the current value is never refused
    __atomic_fetch_add(&cpu->flushes_done, 1, __ATOMIC_RELEASE); // pairs with hal_flush_all's loop
    apic_eoi();
}

static void dispatch(struct hal_frame *frame, struct cpu *cpu)
{
    switch (frame->vector) {
    case HAL_TRAP_NMI:
        hal_hooks.freeze(frame);
        return;
    case HAL_TRAP_FREEZE:
        apic_eoi();
        hal_hooks.freeze(frame);
        return;
    case HAL_TRAP_CLOCK:
        apic_eoi();
        hal_hooks.tick(frame);
        return;
    case VECTOR_FLUSH:
        on_flush(cpu);
        return;
    case VECTOR_SPURIOUS:
        return; // no EOI: that is what spurious means
    default:
        if (!is_exception(frame->vector))
            hal_log("hal: stray interrupt %x\n", (unsigned)frame->vector);
        else if (!hal_hooks.trap(frame))
            crash(frame);
    }
}

void hal_trap(struct hal_frame *frame)
{
    bool from_user = frame->cs & 3;
    struct cpu *cpu = &hal_cpus[hal_cpu_index()];
    if (from_user)
        cpu_set_base(cpu); // user code may have loaded GS
    if (cpu->user_sp && ends_user_run(frame)) {
        uintptr_t sp = cpu->user_sp;
        *cpu->user_regs = *frame;
        cpu->user_sp = 0;
        hal_asm_user_leave(sp);
    }
    if (repair(frame))
        return;
#if HAL_X86
    // A trap from CPL 0 pushes no stack pointer: it is where the hardware's part of the frame ends.
    uint32_t natural_sp = (uint32_t)(uintptr_t)&frame->hw_sp;
    frame->sp = from_user ? frame->hw_sp : natural_sp;
    frame->ss = from_user ? frame->hw_ss : hal_segment(1);
    bool is_nmi = frame->vector == HAL_TRAP_NMI;
#endif
    dispatch(frame, cpu);
#if HAL_X86
    if (from_user) {
        frame->hw_sp = frame->sp;
        frame->hw_ss = frame->ss;
    } else if (frame->sp != natural_sp) {
        struct hal_frame *resume = is_nmi ? &cpu->resume_nmi : &cpu->resume;
        *resume = *frame;
        hal_asm_resume_at(resume);
    }
#endif
}
