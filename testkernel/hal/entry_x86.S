/* SPDX-License-Identifier: MIT */
/*
 * x86: kernel entry, trap stubs, the start of other CPUs, and instructions that may fault. cdecl. The trap frame's
 * layout is struct hal_frame.
 */
    .text
    .globl _KernelEntry
_KernelEntry:                           /* 4(%esp) = handoff */
    mov 4(%esp), %eax
    mov $boot_stack_top, %esp
    push %eax
    call _hal_main
    int3

/* ---------------------------------------------------------------------------------------------------- traps -- */

    .balign 16
    .globl _hal_stubs                   /* 256 stubs of 16 bytes */
_hal_stubs:
    .set vector, 0
    .rept 256
    .balign 16, 0xCC
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    pushl $0
    .endif
    pushl $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16, 0xCC
trap_common:
    push %eax
    push %ebx
    push %ecx
    push %edx
    push %ebp
    push %esi
    push %edi
    xor %eax, %eax                      /* a push of a selector need not write the upper half */
    mov %gs, %ax
    push %eax
    mov %fs, %ax
    push %eax
    mov %es, %ax
    push %eax
    mov %ds, %ax
    push %eax
    push $0                             /* ss, sp: hal_trap fills them in */
    push $0
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $0x30, %eax
    mov %eax, %fs
    cld
    mov %esp, %eax
    push %eax
    call _hal_trap
    add $4, %esp
restore:
    add $8, %esp
    pop %ds
    pop %es
    pop %fs
    pop %gs
    pop %edi
    pop %esi
    pop %ebp
    pop %edx
    pop %ecx
    pop %ebx
    pop %eax
    add $8, %esp
    iret

/*
 * void hal_asm_resume_at(const struct hal_frame *frame): continues at CPL 0 with another stack pointer than the
 * trap came with. frame must not lie near that stack. Six words below the new top are used: iret's three, eax, ecx, edx.
 */
    .globl _hal_asm_resume_at
_hal_asm_resume_at:
    mov 4(%esp), %edx
    mov (%edx), %ecx                    /* sp */
    mov 68(%edx), %eax
    mov %eax, -4(%ecx)                  /* flags */
    mov 64(%edx), %eax
    mov %eax, -8(%ecx)                  /* cs */
    mov 60(%edx), %eax
    mov %eax, -12(%ecx)                 /* ip */
    mov 48(%edx), %eax
    mov %eax, -16(%ecx)                 /* eax */
    mov 40(%edx), %eax
    mov %eax, -20(%ecx)                 /* ecx */
    mov 36(%edx), %eax
    mov %eax, -24(%ecx)                 /* edx */
    lea -24(%ecx), %esp
    mov 44(%edx), %ebx
    mov 32(%edx), %ebp
    mov 28(%edx), %esi
    mov 24(%edx), %edi
    mov 20(%edx), %eax
    mov %eax, %gs
    mov 16(%edx), %eax
    mov %eax, %fs
    mov 12(%edx), %eax
    mov %eax, %es
    mov 8(%edx), %eax
    mov %eax, %ds
    pop %edx
    pop %ecx
    pop %eax
    iret

/* void hal_asm_capture(struct hal_frame *ret) */
    .globl _hal_asm_capture
_hal_asm_capture:
    push %eax
    mov 8(%esp), %eax
    mov %edi, 24(%eax)
    mov %esi, 28(%eax)
    mov %ebp, 32(%eax)
    mov %edx, 36(%eax)
    mov %ecx, 40(%eax)
    mov %ebx, 44(%eax)
    pop %ecx
    mov %ecx, 48(%eax)
    mov (%esp), %ecx
    mov %ecx, 60(%eax)                  /* ip */
    pushf
    pop %ecx
    mov %ecx, 68(%eax)
    lea 4(%esp), %ecx
    mov %ecx, (%eax)
    ret

/* ------------------------------------------------------------------------------------------------ user mode -- */

/* void hal_asm_user_enter(struct hal_frame *regs, uintptr_t *ret_sp): returns through hal_asm_user_leave(sp) */
    .globl _hal_asm_user_enter
_hal_asm_user_enter:
    mov 4(%esp), %eax
    mov 8(%esp), %edx
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, (%edx)
    sub $80, %esp                       /* a copy of the frame, popped like any other */
    mov %eax, %esi
    mov %esp, %edi
    mov $20, %ecx
    rep movsl
    jmp restore

    .globl _hal_asm_user_leave
_hal_asm_user_leave:
    mov 4(%esp), %esp
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

/* -------------------------------------------------------------------------------- instructions that may fault -- */

/* Each returns 0, or 1 when its instruction raised #GP or #UD: hal_trap finds the address in hal_fixups. */
    .globl _hal_asm_fault, _hal_asm_rdmsr, _hal_asm_wrmsr, _hal_asm_write_cr0, _hal_asm_write_cr3, _hal_asm_write_cr4
    .globl _hal_asm_write_dr6, _hal_asm_write_dr7, _hal_asm_refused, _hal_fixups
_hal_asm_fault:
f8: ud2
_hal_asm_rdmsr:                         /* (msr, uint64_t *ret) */
    mov 4(%esp), %ecx
f0: rdmsr
    mov 8(%esp), %ecx
    mov %eax, (%ecx)
    mov %edx, 4(%ecx)
    xor %eax, %eax
    ret
_hal_asm_wrmsr:                         /* (msr, uint64_t value) */
    mov 4(%esp), %ecx
    mov 8(%esp), %eax
    mov 12(%esp), %edx
f1: wrmsr
    xor %eax, %eax
    ret
_hal_asm_write_cr0:
    mov 4(%esp), %ecx
f2: mov %ecx, %cr0
    xor %eax, %eax
    ret
_hal_asm_write_cr3:
    mov 4(%esp), %ecx
f3: mov %ecx, %cr3
    xor %eax, %eax
    ret
_hal_asm_write_cr4:
    mov 4(%esp), %ecx
f4: mov %ecx, %cr4
    xor %eax, %eax
    ret
_hal_asm_write_dr6:
    mov 4(%esp), %ecx
f5: mov %ecx, %dr6
    xor %eax, %eax
    ret
_hal_asm_write_dr7:
    mov 4(%esp), %ecx
f6: mov %ecx, %dr7
    xor %eax, %eax
    ret
_hal_asm_refused:
    mov $1, %eax
    ret

/* void hal_asm_load_tables(const void *gdtr, const void *idtr) */
    .globl _hal_asm_load_tables
_hal_asm_load_tables:
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    lgdt (%eax)
    lidt (%ecx)
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ss
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $0x30, %eax
    mov %eax, %fs
    xor %eax, %eax
    mov %eax, %gs
    ret

/* --------------------------------------------------------------------------------------------- other CPUs -- */

/* Copied to physical 0x8000 (hal/cpu.c); its parameters stand at 0x8F00. */
    .set BASE, 0x8000
    .set PARAM, 0x8F00
    .balign 16
    .globl _hal_ap_code, _hal_ap_code_end
_hal_ap_code:
    .code16
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - _hal_ap_code
    mov %cr0, %eax
    and $0x9FFFFFFF, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $(BASE + ap_32 - _hal_ap_code)
    .code32
ap_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    cmpl $0, PARAM + 40                 /* NX wanted */
    je 1f
    mov $0xC0000080, %ecx
    rdmsr
    or $0x800, %eax
    wrmsr
1:  mov PARAM, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    mov PARAM + 8, %eax                 /* final root */
    mov PARAM + 16, %esp
    mov PARAM + 24, %ecx                /* entry: hal_ap_high */
    mov PARAM + 32, %edx                /* index */
    jmp *%ecx
    .balign 8
ap_gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
ap_gdt_pointer:
    .short . - ap_gdt - 1
    .long BASE + ap_gdt - _hal_ap_code
_hal_ap_code_end:

    .globl _hal_ap_high
_hal_ap_high:
    mov %eax, %cr3
    push %edx
    call _hal_ap_main
    int3

    .section .rdata, "dr"
    .balign 4
_hal_fixups:
    .long f0, f1, f2, f3, f4, f5, f6, f8, 0

    .bss
    .balign 16
    .globl _boot_stack
_boot_stack:
    .space 32768
boot_stack_top:
