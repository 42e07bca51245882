/* SPDX-License-Identifier: MIT */
/*
 * x64: kernel entry, trap stubs, the start of other CPUs, and instructions that may fault. Microsoft's calling
 * convention throughout. The trap frame's layout is struct hal_frame.
 */
    .text
    .globl KernelEntry
KernelEntry:                            /* rcx = handoff */
    lea boot_stack_top(%rip), %rsp
    sub $32, %rsp
    call hal_main
    int3

/* ---------------------------------------------------------------------------------------------------- traps -- */

    .balign 16
    .globl hal_stubs                    /* 256 stubs of 16 bytes */
hal_stubs:
    .set vector, 0
    .rept 256
    .balign 16, 0xCC
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16, 0xCC
trap_common:
    sub $32, %rsp
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push %rbx
    push %rdx
    push %rcx
    push %rax
    mov %ds, %eax
    mov %rax, 120(%rsp)
    mov %es, %eax
    mov %rax, 128(%rsp)
    mov %fs, %eax
    mov %rax, 136(%rsp)
    mov %gs, %eax
    mov %rax, 144(%rsp)
    cld
    mov %rsp, %rcx
    sub $32, %rsp                       /* the frame is a multiple of 16, so the stack is aligned here */
    call hal_trap
    add $32, %rsp
restore:
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $48, %rsp
    iretq

/*
 * int 3, 2Ch, 2Dh without the instruction (see HAL_SOFT_INT in hal.h): on top of the stack lies the address to report.
 * Builds what the CPU would have pushed, with all registers as they were.
 */
    .macro raise vector
    .globl hal_asm_raise_\vector
hal_asm_raise_\vector:
    xchg %rax, (%rsp)
    push %rbx
    push %rcx
    pushfq
    pop %rcx
    cli
    mov %rsp, %rbx
    and $-16, %rsp
    push $0x18                          /* ss */
    push %rbx
    addq $24, (%rsp)                    /* sp before the caller pushed anything */
    push %rcx                           /* flags */
    push $0x10                          /* cs */
    push %rax                           /* ip */
    push $0
    push $0x\vector
    mov 16(%rbx), %rax
    mov (%rbx), %rcx
    mov 8(%rbx), %rbx
    jmp trap_common
    .endm
    raise 3
    raise 2C
    raise 2D

/* void hal_asm_capture(struct hal_frame *ret) */
    .globl hal_asm_capture
hal_asm_capture:
    mov %rax, (%rcx)
    mov %rcx, 8(%rcx)
    mov %rdx, 16(%rcx)
    mov %rbx, 24(%rcx)
    mov %rbp, 32(%rcx)
    mov %rsi, 40(%rcx)
    mov %rdi, 48(%rcx)
    mov %r8, 56(%rcx)
    mov %r9, 64(%rcx)
    mov %r10, 72(%rcx)
    mov %r11, 80(%rcx)
    mov %r12, 88(%rcx)
    mov %r13, 96(%rcx)
    mov %r14, 104(%rcx)
    mov %r15, 112(%rcx)
    pushfq
    pop %rax
    mov %rax, 184(%rcx)                 /* flags */
    mov (%rsp), %rax
    mov %rax, 168(%rcx)                 /* ip */
    lea 8(%rsp), %rax
    mov %rax, 192(%rcx)                 /* sp */
    ret

/* ------------------------------------------------------------------------------------------------ user mode -- */

/* void hal_asm_user_enter(struct hal_frame *regs, uintptr_t *ret_sp): returns through hal_asm_user_leave(sp) */
    .globl hal_asm_user_enter
hal_asm_user_enter:
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdx)
    sub $208, %rsp                      /* a copy of the frame, popped like any other */
    mov %rcx, %rsi
    mov %rsp, %rdi
    mov $26, %ecx
    rep movsq
    jmp restore

    .globl hal_asm_user_leave
hal_asm_user_leave:
    mov %rcx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    ret

/* -------------------------------------------------------------------------------- instructions that may fault -- */

/* Each returns 0, or 1 when its instruction raised #GP or #UD: hal_trap finds the address in hal_fixups. */
    .globl hal_asm_fault, hal_asm_rdmsr, hal_asm_wrmsr, hal_asm_write_cr0, hal_asm_write_cr3, hal_asm_write_cr4, hal_asm_write_cr8
    .globl hal_asm_write_dr6, hal_asm_write_dr7, hal_asm_refused, hal_fixups
hal_asm_fault:
f8: ud2
hal_asm_rdmsr:                          /* (msr, uint64_t *ret) */
    mov %rdx, %r8
f0: rdmsr
    mov %eax, (%r8)
    mov %edx, 4(%r8)
    xor %eax, %eax
    ret
hal_asm_wrmsr:                          /* (msr, value) */
    mov %edx, %eax
    shr $32, %rdx
f1: wrmsr
    xor %eax, %eax
    ret
hal_asm_write_cr0:
f2: mov %rcx, %cr0
    xor %eax, %eax
    ret
hal_asm_write_cr3:
f3: mov %rcx, %cr3
    xor %eax, %eax
    ret
hal_asm_write_cr4:
f4: mov %rcx, %cr4
    xor %eax, %eax
    ret
hal_asm_write_cr8:
f5: mov %rcx, %cr8
    xor %eax, %eax
    ret
hal_asm_write_dr6:
f6: mov %rcx, %dr6
    xor %eax, %eax
    ret
hal_asm_write_dr7:
f7: mov %rcx, %dr7
    xor %eax, %eax
    ret
hal_asm_refused:
    mov $1, %eax
    ret

/* void hal_asm_load_tables(const void *gdtr, const void *idtr): far return reloads CS */
    .globl hal_asm_load_tables
hal_asm_load_tables:
    lgdt (%rcx)
    lidt (%rdx)
    mov $0x18, %eax
    mov %eax, %ss
    mov $0x2B, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %gs
    mov $0x53, %eax
    mov %eax, %fs
    pop %rax
    push $0x10
    push %rax
    lretq

/* --------------------------------------------------------------------------------------------- other CPUs -- */

/* Copied to physical 0x8000 (hal/cpu.c); its parameters stand at 0x8F00. */
    .set BASE, 0x8000
    .set PARAM, 0x8F00
    .balign 16
    .globl hal_ap_code, hal_ap_code_end
hal_ap_code:
    .code16
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - hal_ap_code
    mov %cr0, %eax
    and $0x9FFFFFFF, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $(BASE + ap_32 - hal_ap_code)
    .code32
ap_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov PARAM, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx
    rdmsr
    or $0x900, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    ljmp $0x18, $(BASE + ap_64 - hal_ap_code)
    .code64
ap_64:
    mov PARAM + 8, %rax                 /* final root */
    mov PARAM + 16, %rsp
    mov PARAM + 24, %rcx                /* entry: ap_high */
    mov PARAM + 32, %rdx                /* index */
    jmp *%rcx
    .balign 8
ap_gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF
ap_gdt_pointer:
    .short . - ap_gdt - 1
    .long BASE + ap_gdt - hal_ap_code
hal_ap_code_end:

    .globl hal_ap_high
hal_ap_high:
    mov %rax, %cr3
    mov %rdx, %rcx
    sub $32, %rsp
    call hal_ap_main
    int3

    .section .rdata, "dr"
    .balign 8
hal_fixups:
    .quad f0, f1, f2, f3, f4, f5, f6, f7, f8, 0

    .bss
    .balign 16
    .globl boot_stack
boot_stack:
    .space 32768
boot_stack_top:
