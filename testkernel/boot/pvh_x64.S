/* SPDX-License-Identifier: MIT */
/*
 * PVH entry, x64: 32-bit protected mode, paging off, EBX = physical address of the start info. Turns on long mode
 * with a one-to-one map of the first 4 GiB whose tables are made by the assembler, then calls boot_main.
 */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                  /* name length, descriptor length, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad pvh_start

    .code32
    .section .text.start, "ax"
    .globl pvh_start
pvh_start:
    cld
    mov $boot_stack_top, %esp
    mov $boot_root, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax                  /* PAE */
    mov %eax, %cr4
    mov $0xC0000080, %ecx
    rdmsr
    or $0x900, %eax                 /* LME, NXE */
    wrmsr
    mov %cr0, %eax
    and $0x9FFFFFFF, %eax           /* caches on */
    or $0x80000001, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $long_start

    .code64
long_start:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %ebx, %edi
    call boot_main
1:  hlt
    jmp 1b

    /* boot_enter(entry, handoff): Microsoft's convention at the kernel's end */
    .globl boot_enter
boot_enter:
    mov %rsi, %rcx
    call *%rdi
1:  hlt
    jmp 1b

    .section .data
    .balign 16
boot_gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
boot_gdt_pointer:
    .short . - boot_gdt - 1
    .quad boot_gdt

    .balign 4096
    .globl boot_root
boot_root:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:
    .quad boot_pd + 3, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
    .fill 508, 8, 0
boot_pd:
    .set address, 0
    .rept 2048
    .quad address + 0x83
    .set address, address + 0x200000
    .endr

    .section .bss
    .balign 16
    .skip 16384
boot_stack_top:
