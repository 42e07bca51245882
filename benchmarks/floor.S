/* SPDX-License-Identifier: MIT */
/*
 * The guest of the floors: 32-bit, no paging, CPL 0, started by PVH. What it does is the first letter of its command line:
 *
 *   p   bare port calls: for ever { mark to port 0xE9; PORT_CALLS times `in eax, dx` as wire/portcall.h has it }. The function is
 *       CALL_POLL of an area that was never registered, so the host refuses at once: exit, handler, entry and nothing else.
 *   d   bare doorbells: for ever { one byte to port 0x565A; spin until the word at 2 MiB has changed }.
 *
 * The host side is kdbench, which takes the times.
 */
    .set PORT_CALLS, 2000

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

port_calls:
    movw $0xE9, %dx
    movb $'M', %al
    outb %al, %dx
    movl $PORT_CALLS, %ebp
1:  movl $0x564D5868, %eax
    movl $0x00034BDD, %ecx  /* CALL_POLL << 16 | PORTCALL_COMMAND */
    movl $0x5658, %edx
    xorl %ebx, %ebx
    inl %dx, %eax
    decl %ebp
    jnz 1b
    jmp port_calls

doorbells:
    movl $0x200000, %edi
    movw $0x565A, %dx
2:  movl (%edi), %ecx
    movb $0x52, %al
    outb %al, %dx
3:  pause
    cmpl (%edi), %ecx
    je 3b
    jmp 2b
