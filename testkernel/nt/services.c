// SPDX-License-Identifier: MIT
// The instructions here are fixed by contract: debuggers read them, and the trap handler skips the int3 behind an
// int 2Dh. That is why they are written in assembly although nothing about them is fast or unusual.
#include "testkernel/nt/services.h"

#include "testkernel/nt/nt_data.h"

#define PRINT_MAX 512

#if NT_64BIT

__attribute__((naked, noinline)) void HAL_STDCALL DbgBreakPoint(void)
{
    __asm__(HAL_SOFT_INT_BEFORE("3") "int3\n" HAL_SOFT_INT_BEHIND "ret");
}

__attribute__((naked, noinline)) void HAL_STDCALL DbgBreakPointWithStatus(uint32_t status NT_UNUSED)
{
    __asm__(HAL_SOFT_INT_BEFORE("3")
            ".globl RtlpBreakWithStatusInstruction\n"
            "RtlpBreakWithStatusInstruction:\n\t"
            "int3\n" HAL_SOFT_INT_BEHIND
            "ret");
}

__attribute__((naked, noinline)) uintptr_t NtDebugService(uintptr_t service NT_UNUSED, uintptr_t arg1 NT_UNUSED,
                                                          uintptr_t arg2 NT_UNUSED, uintptr_t arg3 NT_UNUSED,
                                                          uintptr_t arg4 NT_UNUSED)
{
    __asm__("movl %ecx, %eax\n\t"
            "movq %rdx, %rcx\n\t"
            "movq %r8, %rdx\n\t"
            "movq %r9, %r8\n\t"
            "movq 0x28(%rsp), %r9\n\t"
            HAL_SOFT_INT_BEFORE("2D")
            "int $0x2D\n" HAL_SOFT_INT_BEHIND
            "int3\n\t"
            "ret");
}

__attribute__((naked, noinline)) void NtAssert(void)
{
    __asm__(HAL_SOFT_INT_BEFORE("2C") "int $0x2C\n" HAL_SOFT_INT_BEHIND "ret");
}

#else

__attribute__((naked, noinline)) void HAL_STDCALL DbgBreakPoint(void)
{
    __asm__("int3\n\tret");
}

__attribute__((naked, noinline)) void HAL_STDCALL DbgBreakPointWithStatus(uint32_t status NT_UNUSED)
{
    __asm__("movl 4(%esp), %eax\n\t"
            ".globl _RtlpBreakWithStatusInstruction\n"
            "_RtlpBreakWithStatusInstruction:\n\t"
            "int3\n\t"
            "ret $4");
}

__attribute__((naked, noinline)) uintptr_t NtDebugService(uintptr_t service NT_UNUSED, uintptr_t arg1 NT_UNUSED,
                                                          uintptr_t arg2 NT_UNUSED, uintptr_t arg3 NT_UNUSED,
                                                          uintptr_t arg4 NT_UNUSED)
{
    __asm__("pushl %ebx\n\t"
            "pushl %edi\n\t"
            "movl 12(%esp), %eax\n\t"
            "movl 16(%esp), %ecx\n\t"
            "movl 20(%esp), %edx\n\t"
            "movl 24(%esp), %ebx\n\t"
            "movl 28(%esp), %edi\n\t"
            "int $0x2D\n\t"
            "int3\n\t"
            "popl %edi\n\t"
            "popl %ebx\n\t"
            "ret");
}

__attribute__((naked, noinline)) void NtAssert(void)
{
    __asm__("int $0x2C\n\tret");
}

#endif

uint32_t DbgPrint(const char *format, ...)
{
    char text[PRINT_MAX];
    va_list args;

    va_start(args, format);
    size_t len = hal_vformat(text, sizeof(text), format, args);
    va_end(args);
    len = len < sizeof(text) ? len : sizeof(text) - 1;
    ntstatus_t status = (ntstatus_t)NtDebugService(NT_BREAKPOINT_PRINT, (uintptr_t)text, len, 0x65, 3);
    if (status == STATUS_BREAKPOINT)
        DbgBreakPointWithStatus(NT_BREAK_CONTROL_C);
    return STATUS_SUCCESS;
}

uint32_t HAL_STDCALL DbgPrompt(const char *prompt, char *response, uint32_t size)
{
    uint32_t len = (uint32_t)NtDebugService(NT_BREAKPOINT_PROMPT, (uintptr_t)prompt, strlen(prompt),
                                            (uintptr_t)response, size);

    if (len < size)
        response[len] = 0;
    return len;
}

void DbgLoadImageSymbols(const struct kd_string *path, const struct nt_symbols_info *info)
{
    (void)NtDebugService(NT_BREAKPOINT_LOAD_SYMBOLS, (uintptr_t)path, (uintptr_t)info, 0, 0);
}

void DbgUnLoadImageSymbols(const struct kd_string *path, const struct nt_symbols_info *info)
{
    (void)NtDebugService(NT_BREAKPOINT_UNLOAD_SYMBOLS, (uintptr_t)path, (uintptr_t)info, 0, 0);
}

void DbgCommandString(const struct kd_string *name, const struct kd_string *command)
{
    (void)NtDebugService(NT_BREAKPOINT_COMMAND_STRING, (uintptr_t)name, (uintptr_t)command, 0, 0);
}
