/* SPDX-License-Identifier: MIT */
/*
 * PVH entry, x86: protected mode, paging off, EBX = physical address of the start info. Turns on PAE paging
 * with a one-to-one map of the lower 2 GiB whose tables are made by the assembler, then calls boot_main.
 */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                  /* name length, descriptor length, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start, 0              /* QEMU 7.2 reads 8 bytes whatever the class */

    .section .text.start, "ax"
    .globl pvh_start
pvh_start:
    cld
    mov $boot_stack_top, %esp
    mov %ebx, saved_start_info
    mov $boot_root, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax                  /* PAE */
    mov %eax, %cr4
    mov $0x80000001, %eax           /* no NX bit in the tables unless the CPU has it */
    cpuid
    xor %ebx, %ebx
    test $(1 << 20), %edx
    jz 1f
    mov $0xC0000080, %ecx
    rdmsr
    or $0x800, %eax
    wrmsr
    inc %ebx
1:  mov %ebx, boot_has_nx
    mov %cr0, %eax
    and $0x9FFFFFFF, %eax           /* caches on */
    or $0x80000001, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    push saved_start_info
    call boot_main
1:  hlt
    jmp 1b

    /* boot_enter(entry, handoff) */
    .globl boot_enter
boot_enter:
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    push %ecx
    call *%eax
1:  hlt
    jmp 1b

    .section .data
    .balign 16
boot_gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
boot_gdt_pointer:
    .short . - boot_gdt - 1
    .long boot_gdt
    .globl boot_has_nx
boot_has_nx:
    .long 0
saved_start_info:
    .long 0

    .balign 4096
    .globl boot_root
boot_root:
    .long boot_pd + 1, 0, boot_pd + 0x1001, 0, 0, 0, 0, 0
    .balign 4096
boot_pd:
    .set address, 0
    .rept 1024
    .quad address + 0x83
    .set address, address + 0x200000
    .endr

    .section .bss
    .balign 16
    .skip 16384
boot_stack_top:
