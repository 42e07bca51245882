/* SPDX-License-Identifier: MIT */
/*
 * Reads one byte from each of a list of addresses under the paging that the test wants, and notes what came of it. Started by PVH: 32-bit,
 * no paging. The test has put into RAM, where [1 MiB, 4 MiB) is mapped to itself:
 *
 *   2 MiB           CR4, EFER, CR3, 1 = paging, count of addresses (32 bits each), then at 2 MiB + 32 the addresses (64 bits each)
 *   2 MiB + 64 KiB  for each address, by this guest: byte | vector << 8 | error code << 16 (64 bits)
 *
 * At the end it writes 'D' to port 0xE9 and sleeps.
 */
    .set PARAMETERS, 0x200000
    .set ADDRESSES, 0x200020
    .set RESULTS, 0x210000
    .set STACK, 0x1F0000
    .set EFER, 0xC0000080

    .section .note.Xen, "a"
    .align 4
    .long 4, 4, 18          /* name, descriptor, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start
start:
    cli
    lgdt gdt_pointer
    ljmp $0x08, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $STACK, %esp
    movl $PARAMETERS, %ebx
    movl (%ebx), %eax
    movl %eax, %cr4
    movl 4(%ebx), %eax
    testl %eax, %eax
    jz 2f
    movl $EFER, %ecx
    xorl %edx, %edx
    wrmsr
2:  movl 8(%ebx), %eax
    movl %eax, %cr3
    movl 16(%ebx), %ecx
    movl $ADDRESSES, %esi
    movl $RESULTS, %edi
    testl $1, 12(%ebx)
    jz 3f
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    testl $0x100, 4(%ebx)   /* EFER.LME */
    jz 3f
    ljmp $0x18, $long_mode

3:  lidt idt_32_pointer
4:  movl (%esi), %ebx
    movzbl (%ebx), %eax
probed_32:
    movl %eax, (%edi)
    addl $8, %esi
    addl $8, %edi
    decl %ecx
    jnz 4b
done:
    movb $'D', %al
    outb %al, $0xE9
5:  hlt
    jmp 5b

    .macro FAULT_32 vector
    popl %eax
    shll $16, %eax
    orl $\vector << 8, %eax
    movl $probed_32, (%esp)
    iretl
    .endm
protection_32: FAULT_32 13
page_32: FAULT_32 14

    .code64
long_mode:
    lidt idt_64_pointer
6:  movq (%rsi), %rbx
    movzbl (%rbx), %eax
probed_64:
    movq %rax, (%rdi)
    addq $8, %rsi
    addq $8, %rdi
    decl %ecx
    jnz 6b
    jmp done

    .macro FAULT_64 vector
    popq %rax
    shlq $16, %rax
    orq $\vector << 8, %rax
    movq $probed_64, (%rsp)
    iretq
    .endm
protection_64: FAULT_64 13
page_64: FAULT_64 14

    .set BASE, 0x100000
    .macro GATE selector, handler
    .short (\handler - start + BASE) & 0xFFFF, \selector, 0x8E00, (\handler - start + BASE) >> 16
    .endm
    .align 16
gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF
gdt_pointer:
    .short . - gdt - 1
    .long gdt
    .align 16
idt_32:
    .fill 13, 8, 0
    GATE 0x08, protection_32
    GATE 0x08, page_32
idt_32_pointer:
    .short . - idt_32 - 1
    .long idt_32
    .align 16
idt_64:
    .fill 26, 8, 0
    GATE 0x18, protection_64
    .quad 0
    GATE 0x18, page_64
    .quad 0
idt_64_pointer:
    .short . - idt_64 - 1
    .quad idt_64
