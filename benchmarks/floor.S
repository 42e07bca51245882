/* SPDX-License-Identifier: MIT */
/*
 * The guest of the floors: 32-bit, no paging, CPL 0, started by PVH. What it does is the first letter of its command line:
 *
 *   p   bare port calls: for ever { mark to port 0xE9; CALLS times `in eax, dx` as wire/portcall.h has it }. The function is
 *       CALL_POLL of an area that was never registered, so the host refuses at once: exit, handler, entry and nothing else.
 *   i   bare port input: the same with `in al, 0xE9`, which the VMM answers and nobody else.
 *   d   bare doorbells: for ever { one byte to port 0x565A; spin until the word at 2 MiB has changed }.
 *   m   memory: write to each page of MEMORY once, in order; then for ever { mark; TOUCHES times add to a word of a random page }.
 *
 * The host side is kdbench, which takes the times; benchmarks/machines.py knows the numbers.
 */
    .set CALLS, 2000
    .set TOUCHES, 1 << 20
    .set MEMORY, 16 << 20           /* where it begins */
    .set MEMORY_PAGES, 1 << 17      /* 512 MiB */

    .section .note.Xen, "a"
    .align 4
    .long 4, 4, 18          /* name, descriptor, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start
start:
    mov 24(%ebx), %esi      /* hvm_start_info: address of the command line, below 4 GiB */
    movb (%esi), %al
    cmpb $'d', %al
    je doorbells
    cmpb $'i', %al
    je port_inputs
    cmpb $'m', %al
    je memory

port_calls:
    movw $0xE9, %dx
    movb $'M', %al
    outb %al, %dx
    movl $CALLS, %ebp
1:  movl $0x564D5868, %eax
    movl $0x00034BDD, %ecx  /* CALL_POLL << 16 | PORTCALL_COMMAND */
    movl $0x5658, %edx
    xorl %ebx, %ebx
    inl %dx, %eax
    decl %ebp
    jnz 1b
    jmp port_calls

port_inputs:
    movw $0xE9, %dx
    movb $'M', %al
    outb %al, %dx
    movl $CALLS, %ebp
2:  inb %dx, %al
    decl %ebp
    jnz 2b
    jmp port_inputs

doorbells:
    movl $0x200000, %edi
    movw $0x565A, %dx
3:  movl (%edi), %ecx
    movb $0x52, %al
    outb %al, %dx
4:  pause
    cmpl (%edi), %ecx
    je 4b
    jmp 3b

memory:
    movl $MEMORY, %edi
    movl $MEMORY_PAGES, %ecx
5:  movl %ecx, (%edi)
    addl $4096, %edi
    decl %ecx
    jnz 5b
    movl $2463534242, %ebx  /* any number but 0 */
    movw $0xE9, %dx
6:  movb $'M', %al
    outb %al, %dx
    movl $TOUCHES, %ebp
7:  movl %ebx, %eax         /* Marsaglia's xorshift32 */
    shll $13, %eax
    xorl %eax, %ebx
    movl %ebx, %eax
    shrl $17, %eax
    xorl %eax, %ebx
    movl %ebx, %eax
    shll $5, %eax
    xorl %eax, %ebx
    movl %ebx, %eax
    andl $(MEMORY_PAGES - 1), %eax
    shll $12, %eax
    addl $1, MEMORY(%eax)
    decl %ebp
    jnz 7b
    jmp 6b
