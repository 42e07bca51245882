// SPDX-License-Identifier: MIT
// What an NT kernel shows to its debugger, declared from the KD reference alone.
//
// This kernel is the yardstick that the rest of the project is measured with, so it shares no declaration with it:
// a wrong offset in one of them cannot hide in the other. Field names are NT's own, because that is what one looks
// up in the reference; everything else follows the project's naming.
//
// Rules: no bit-fields, no implicit padding that matters; every structure that leaves the kernel carries size and
// offset assertions for both architectures. All addresses in packets are 64 bits, sign-extended by a 32-bit kernel.
#pragma once
#include "testkernel/core/text.h"
#include "testkernel/hal.h"

#define NT_64BIT HAL_X64

#define NT_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define NT_ASSERT_AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)

// Parameters of naked functions, which only the assembly in them uses.
#define NT_UNUSED __attribute__((unused))

typedef int32_t ntstatus_t;

#define STATUS_SUCCESS 0
#define STATUS_DATATYPE_MISALIGNMENT ((ntstatus_t)0x80000002)
#define STATUS_BREAKPOINT ((ntstatus_t)0x80000003)
#define STATUS_SINGLE_STEP ((ntstatus_t)0x80000004)
#define STATUS_WAKE_SYSTEM_DEBUGGER ((ntstatus_t)0x80000007)
#define STATUS_UNSUCCESSFUL ((ntstatus_t)0xC0000001)
#define STATUS_ACCESS_VIOLATION ((ntstatus_t)0xC0000005)
#define STATUS_INVALID_PARAMETER ((ntstatus_t)0xC000000D)
#define STATUS_NO_SUCH_DEVICE ((ntstatus_t)0xC000000E)
#define STATUS_ILLEGAL_INSTRUCTION ((ntstatus_t)0xC000001D)
#define STATUS_NO_MORE_MATCHES ((ntstatus_t)0xC0000273)
#define STATUS_INTEGER_DIVIDE_BY_ZERO ((ntstatus_t)0xC0000094)
#define STATUS_INTEGER_OVERFLOW ((ntstatus_t)0xC0000095)
#define STATUS_PRIVILEGED_INSTRUCTION ((ntstatus_t)0xC0000096)
#define STATUS_NOT_FOUND ((ntstatus_t)0xC0000225)
#define STATUS_ASSERTION_FAILURE ((ntstatus_t)0xC0000420)
#define DBG_CONTINUE ((ntstatus_t)0x00010002)
#define DBG_EXCEPTION_NOT_HANDLED ((ntstatus_t)0x80010001)
#define NT_SUCCESS(status) ((ntstatus_t)(status) >= 0)

// An address as KD carries it: sign-extended on a 32-bit kernel (KD reference, section 4.1).
static inline uint64_t nt_address(const volatile void *pointer)
{
    return (uint64_t)(int64_t)(intptr_t)pointer;
}

static inline uint64_t nt_extend(uintptr_t value)
{
    return (uint64_t)(int64_t)(intptr_t)value;
}

struct nt_list_entry {
    struct nt_list_entry *Flink;
    struct nt_list_entry *Blink;
};

struct nt_unicode_string {
    uint16_t Length;
    uint16_t MaximumLength;
    uint16_t *Buffer;
};
NT_ASSERT_SIZE(struct nt_unicode_string, NT_64BIT ? 16 : 8);

// ---- processor state -------------------------------------------------------------------------------------------

#if NT_64BIT

#define NT_CONTEXT_ALL 0x0010001Fu
#define NT_MACHINE 0x8664
#define NT_KERNEL_CS 0x10

struct nt_context {
    uint64_t P1Home[6];
    uint32_t ContextFlags;
    uint32_t MxCsr;
    uint16_t SegCs, SegDs, SegEs, SegFs, SegGs, SegSs;
    uint32_t EFlags;
    uint64_t Dr0, Dr1, Dr2, Dr3, Dr6, Dr7;
    uint64_t Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi;
    uint64_t R8, R9, R10, R11, R12, R13, R14, R15;
    uint64_t Rip;
    uint8_t FltSave[512];
    uint8_t VectorRegister[26 * 16];
    uint64_t VectorControl;
    uint64_t DebugControl, LastBranchToRip, LastBranchFromRip, LastExceptionToRip, LastExceptionFromRip;
} __attribute__((aligned(16)));
NT_ASSERT_SIZE(struct nt_context, 0x4D0);
NT_ASSERT_AT(struct nt_context, ContextFlags, 0x30);
NT_ASSERT_AT(struct nt_context, SegCs, 0x38);
NT_ASSERT_AT(struct nt_context, EFlags, 0x44);
NT_ASSERT_AT(struct nt_context, Dr0, 0x48);
NT_ASSERT_AT(struct nt_context, Dr7, 0x70);
NT_ASSERT_AT(struct nt_context, Rax, 0x78);
NT_ASSERT_AT(struct nt_context, Rsp, 0x98);
NT_ASSERT_AT(struct nt_context, R8, 0xB8);
NT_ASSERT_AT(struct nt_context, Rip, 0xF8);
NT_ASSERT_AT(struct nt_context, FltSave, 0x100);
NT_ASSERT_AT(struct nt_context, VectorRegister, 0x300);
NT_ASSERT_AT(struct nt_context, VectorControl, 0x4A0);
NT_ASSERT_AT(struct nt_context, LastExceptionFromRip, 0x4C8);

struct nt_descriptor {
    uint16_t Pad[3];
    uint16_t Limit;
    uint64_t Base;
};

struct nt_special_registers {
    uint64_t Cr0, Cr2, Cr3, Cr4;
    uint64_t KernelDr0, KernelDr1, KernelDr2, KernelDr3, KernelDr6, KernelDr7;
    struct nt_descriptor Gdtr, Idtr;
    uint16_t Tr, Ldtr;
    uint32_t MxCsr;
    uint64_t DebugControl, LastBranchToRip, LastBranchFromRip, LastExceptionToRip, LastExceptionFromRip;
    uint64_t Cr8;
    uint64_t MsrGsBase, MsrGsSwap, MsrStar, MsrLStar, MsrCStar, MsrSyscallMask;
    uint64_t Xcr0;
};
NT_ASSERT_SIZE(struct nt_special_registers, 0xE0);
NT_ASSERT_AT(struct nt_special_registers, KernelDr0, 0x20);
NT_ASSERT_AT(struct nt_special_registers, KernelDr7, 0x48);
NT_ASSERT_AT(struct nt_special_registers, Gdtr.Limit, 0x56);
NT_ASSERT_AT(struct nt_special_registers, Idtr.Base, 0x68);
NT_ASSERT_AT(struct nt_special_registers, Tr, 0x70);
NT_ASSERT_AT(struct nt_special_registers, DebugControl, 0x78);
NT_ASSERT_AT(struct nt_special_registers, Cr8, 0xA0);
NT_ASSERT_AT(struct nt_special_registers, MsrSyscallMask, 0xD0);
NT_ASSERT_AT(struct nt_special_registers, Xcr0, 0xD8);

struct nt_processor_state {
    struct nt_special_registers SpecialRegisters;
    struct nt_context ContextFrame;
};
NT_ASSERT_SIZE(struct nt_processor_state, 0x5B0);

struct nt_control_report {
    uint64_t Dr6, Dr7;
    uint32_t EFlags;
    uint16_t InstructionCount;
    uint16_t ReportFlags;
    uint8_t InstructionStream[16];
    uint16_t SegCs, SegDs, SegEs, SegFs;
};
NT_ASSERT_SIZE(struct nt_control_report, 0x30);
NT_ASSERT_AT(struct nt_control_report, EFlags, 0x10);
NT_ASSERT_AT(struct nt_control_report, InstructionStream, 0x18);
NT_ASSERT_AT(struct nt_control_report, SegCs, 0x28);

#else

#define NT_CONTEXT_ALL 0x0001003Fu
#define NT_MACHINE 0x014C
#define NT_KERNEL_CS 0x08

struct nt_context {
    uint32_t ContextFlags;
    uint32_t Dr0, Dr1, Dr2, Dr3, Dr6, Dr7;
    uint8_t FloatSave[112];
    uint32_t SegGs, SegFs, SegEs, SegDs;
    uint32_t Edi, Esi, Ebx, Edx, Ecx, Eax, Ebp, Eip;
    uint32_t SegCs, EFlags, Esp, SegSs;
    uint8_t ExtendedRegisters[512];
};
NT_ASSERT_SIZE(struct nt_context, 0x2CC);
NT_ASSERT_AT(struct nt_context, Dr7, 0x18);
NT_ASSERT_AT(struct nt_context, SegGs, 0x8C);
NT_ASSERT_AT(struct nt_context, Edi, 0x9C);
NT_ASSERT_AT(struct nt_context, Eip, 0xB8);
NT_ASSERT_AT(struct nt_context, EFlags, 0xC0);
NT_ASSERT_AT(struct nt_context, SegSs, 0xC8);
NT_ASSERT_AT(struct nt_context, ExtendedRegisters, 0xCC);

struct nt_descriptor {
    uint16_t Pad;
    uint16_t Limit;
    uint32_t Base;
};

struct nt_special_registers {
    uint32_t Cr0, Cr2, Cr3, Cr4;
    uint32_t KernelDr0, KernelDr1, KernelDr2, KernelDr3, KernelDr6, KernelDr7;
    struct nt_descriptor Gdtr, Idtr;
    uint16_t Tr, Ldtr;
    uint32_t Reserved[6];
};
NT_ASSERT_SIZE(struct nt_special_registers, 0x54);
NT_ASSERT_AT(struct nt_special_registers, KernelDr0, 0x10);
NT_ASSERT_AT(struct nt_special_registers, KernelDr7, 0x24);
NT_ASSERT_AT(struct nt_special_registers, Gdtr, 0x28);
NT_ASSERT_AT(struct nt_special_registers, Idtr, 0x30);
NT_ASSERT_AT(struct nt_special_registers, Tr, 0x38);

struct nt_processor_state {
    struct nt_context ContextFrame;
    struct nt_special_registers SpecialRegisters;
};
NT_ASSERT_SIZE(struct nt_processor_state, 0x320);
NT_ASSERT_AT(struct nt_processor_state, SpecialRegisters, 0x2CC);

struct nt_control_report {
    uint32_t Dr6, Dr7;
    uint16_t InstructionCount;
    uint16_t ReportFlags;
    uint8_t InstructionStream[16];
    uint16_t SegCs, SegDs, SegEs, SegFs;
    uint32_t EFlags;
    uint64_t reserved; // the report's place in the packet is as large as the widest architecture's
};
NT_ASSERT_SIZE(struct nt_control_report, 0x30);
NT_ASSERT_AT(struct nt_control_report, InstructionStream, 0x0C);
NT_ASSERT_AT(struct nt_control_report, SegCs, 0x1C);
NT_ASSERT_AT(struct nt_control_report, EFlags, 0x24);

#endif

#define NT_EFLAGS_TF 0x100u
#define NT_REPORT_INCLUDES_SEGS 1
#define NT_REPORT_STANDARD_CS 2

// ---- processes, threads, processors ----------------------------------------------------------------------------
// Offsets are those of Windows 7 SP1 where the reference fixes them; a debugger takes them from KDDEBUGGER_DATA64.

#if NT_64BIT
#define NT_KPROCESS_DTB 0x28
#define NT_EPROCESS_PID 0x180
#define NT_EPROCESS_LINKS 0x188
#define NT_EPROCESS_PARENT 0x290
#define NT_EPROCESS_NAME 0x2E0
#define NT_EPROCESS_PEB 0x338
#define NT_EPROCESS_SIZE 0x4D0
#define NT_KTHREAD_INITIAL_STACK 0x28
#define NT_KTHREAD_STACK_LIMIT 0x30
#define NT_KTHREAD_KERNEL_STACK 0x38
#define NT_KTHREAD_APC_PROCESS 0x70
#define NT_KTHREAD_TEB 0xB8
#define NT_KTHREAD_NEXT_PROCESSOR 0x130
#define NT_KTHREAD_STATE 0x164
#define NT_ETHREAD_SIZE 0x498
#else
#define NT_KPROCESS_DTB 0x18
#define NT_EPROCESS_PID 0xB4
#define NT_EPROCESS_LINKS 0xB8
#define NT_EPROCESS_PARENT 0x140
#define NT_EPROCESS_NAME 0x16C
#define NT_EPROCESS_PEB 0x1A8
#define NT_EPROCESS_SIZE 0x2C0
#define NT_KTHREAD_INITIAL_STACK 0x28
#define NT_KTHREAD_STACK_LIMIT 0x2C
#define NT_KTHREAD_KERNEL_STACK 0x30
#define NT_KTHREAD_APC_PROCESS 0x50
#define NT_KTHREAD_TEB 0x88
#define NT_KTHREAD_NEXT_PROCESSOR 0x5C
#define NT_KTHREAD_STATE 0x68
#define NT_ETHREAD_SIZE 0x2B8
#endif

struct nt_eprocess {
    _Alignas(16) uint8_t bytes[NT_EPROCESS_SIZE];
};

struct nt_ethread {
    _Alignas(16) uint8_t bytes[NT_ETHREAD_SIZE];
};

#if NT_64BIT

struct nt_kprcb {
    uint32_t MxCsr;
    uint8_t LegacyNumber;
    uint8_t reserved0[3];
    struct nt_ethread *CurrentThread;
    struct nt_ethread *NextThread;
    struct nt_ethread *IdleThread;
    uint8_t NestingLevel;
    uint8_t reserved1[3];
    uint32_t Number;
    uint64_t RspBase;
    uint64_t PrcbLock;
    uint64_t PriorityState;
    struct nt_processor_state ProcessorState;
    uint8_t CpuType;
    uint8_t CpuID;
    uint16_t CpuStep;
    uint32_t MHz;
    struct nt_context *Context; // where a dump finds this processor's registers
    uint8_t VendorString[16];
    uint64_t DpcRoutineActive;
    uint8_t reserved2[0x180];
};
NT_ASSERT_AT(struct nt_kprcb, LegacyNumber, 0x04);
NT_ASSERT_AT(struct nt_kprcb, CurrentThread, 0x08);
NT_ASSERT_AT(struct nt_kprcb, IdleThread, 0x18);
NT_ASSERT_AT(struct nt_kprcb, Number, 0x24);
NT_ASSERT_AT(struct nt_kprcb, ProcessorState, 0x40);
NT_ASSERT_AT(struct nt_kprcb, CpuType, 0x5F0);

struct nt_kpcr {
    uint64_t GdtBase;
    uint64_t TssBase;
    uint64_t UserRsp;
    struct nt_kpcr *Self;
    struct nt_kprcb *CurrentPrcb;
    uint64_t LockArray;
    uint64_t Used_Self;
    uint64_t IdtBase;
    uint64_t Unused[2];
    uint8_t Irql;
    uint8_t reserved0[0x0F];
    uint16_t MajorVersion;
    uint16_t MinorVersion;
    uint8_t reserved1[0xA4];
    void *KdVersionBlock;
    uint8_t reserved2[0x70];
    struct nt_kprcb Prcb;
};
NT_ASSERT_AT(struct nt_kpcr, Self, 0x18);
NT_ASSERT_AT(struct nt_kpcr, CurrentPrcb, 0x20);
NT_ASSERT_AT(struct nt_kpcr, IdtBase, 0x38);
NT_ASSERT_AT(struct nt_kpcr, Irql, 0x50);
NT_ASSERT_AT(struct nt_kpcr, KdVersionBlock, 0x108);
NT_ASSERT_AT(struct nt_kpcr, Prcb, 0x180);

#else

struct nt_kprcb {
    uint16_t MinorVersion;
    uint16_t MajorVersion;
    struct nt_ethread *CurrentThread;
    struct nt_ethread *NextThread;
    struct nt_ethread *IdleThread;
    uint8_t LegacyNumber;
    uint8_t NestingLevel;
    uint16_t BuildType;
    uint8_t CpuType;
    uint8_t CpuID;
    uint16_t CpuStep;
    struct nt_processor_state ProcessorState;
    uint32_t MHz;
    struct nt_context *Context;
    uint8_t VendorString[16];
    uint32_t DpcRoutineActive;
    uint8_t reserved0[0x3CC - 0x354];
    uint32_t Number;
    uint8_t reserved1[0x100];
};
NT_ASSERT_AT(struct nt_kprcb, CurrentThread, 0x04);
NT_ASSERT_AT(struct nt_kprcb, IdleThread, 0x0C);
NT_ASSERT_AT(struct nt_kprcb, LegacyNumber, 0x10);
NT_ASSERT_AT(struct nt_kprcb, ProcessorState, 0x18);
NT_ASSERT_AT(struct nt_kprcb, Number, 0x3CC);

struct nt_kpcr {
    uint32_t ExceptionList;
    uint32_t reserved0[6];
    struct nt_kpcr *Self;
    struct nt_kprcb *CurrentPrcb;
    uint8_t Irql;
    uint8_t reserved1[0x0F];
    void *KdVersionBlock;
    uint32_t IdtBase;
    uint32_t GdtBase;
    uint32_t TssBase;
    uint16_t MajorVersion;
    uint16_t MinorVersion;
    uint8_t reserved2[0xD8];
    struct nt_kprcb Prcb;
};
NT_ASSERT_AT(struct nt_kpcr, Self, 0x1C);
NT_ASSERT_AT(struct nt_kpcr, CurrentPrcb, 0x20);
NT_ASSERT_AT(struct nt_kpcr, Irql, 0x24);
NT_ASSERT_AT(struct nt_kpcr, KdVersionBlock, 0x34);
NT_ASSERT_AT(struct nt_kpcr, IdtBase, 0x38);
NT_ASSERT_AT(struct nt_kpcr, GdtBase, 0x3C);
NT_ASSERT_AT(struct nt_kpcr, TssBase, 0x40);
NT_ASSERT_AT(struct nt_kpcr, Prcb, 0x120);

#endif

// ---- loaded modules --------------------------------------------------------------------------------------------

struct nt_ldr_entry {
    struct nt_list_entry InLoadOrderLinks;
    void *ExceptionTable;
    uintptr_t ExceptionTableSize;
    void *GpValue;
    void *NonPagedDebugInfo;
    void *DllBase;
    void *EntryPoint;
    uintptr_t SizeOfImage; // 32 bits in the reference; the next field's alignment makes it a native word
    struct nt_unicode_string FullDllName;
    struct nt_unicode_string BaseDllName;
    uint32_t Flags;
    uint16_t LoadCount;
    uint16_t reserved0;
    void *SectionPointer;
    uint32_t CheckSum;
    void *LoadedImports;
    void *PatchInformation;
};
NT_ASSERT_AT(struct nt_ldr_entry, DllBase, NT_64BIT ? 0x30 : 0x18);
NT_ASSERT_AT(struct nt_ldr_entry, EntryPoint, NT_64BIT ? 0x38 : 0x1C);
NT_ASSERT_AT(struct nt_ldr_entry, SizeOfImage, NT_64BIT ? 0x40 : 0x20);
NT_ASSERT_AT(struct nt_ldr_entry, FullDllName, NT_64BIT ? 0x48 : 0x24);
NT_ASSERT_AT(struct nt_ldr_entry, BaseDllName, NT_64BIT ? 0x58 : 0x2C);
NT_ASSERT_AT(struct nt_ldr_entry, Flags, NT_64BIT ? 0x68 : 0x34);
NT_ASSERT_AT(struct nt_ldr_entry, SectionPointer, NT_64BIT ? 0x70 : 0x3C);
NT_ASSERT_AT(struct nt_ldr_entry, CheckSum, NT_64BIT ? 0x78 : 0x40);

// ---- exceptions ------------------------------------------------------------------------------------------------

#define NT_EXCEPTION_PARAMETERS 15

struct nt_exception_record {
    uint32_t ExceptionCode;
    uint32_t ExceptionFlags;
    uint64_t ExceptionRecord;
    uint64_t ExceptionAddress;
    uint32_t NumberParameters;
    uint32_t reserved;
    uint64_t ExceptionInformation[NT_EXCEPTION_PARAMETERS];
};
NT_ASSERT_SIZE(struct nt_exception_record, 0x98);

// int 2Dh services (KD reference, section 5.1).
enum nt_debug_service {
    NT_BREAKPOINT_BREAK = 0,
    NT_BREAKPOINT_PRINT = 1,
    NT_BREAKPOINT_PROMPT = 2,
    NT_BREAKPOINT_LOAD_SYMBOLS = 3,
    NT_BREAKPOINT_UNLOAD_SYMBOLS = 4,
    NT_BREAKPOINT_COMMAND_STRING = 5,
};

// DbgBreakPointWithStatus codes.
enum nt_break_status {
    NT_BREAK_CONTROL_C = 1,
    NT_BREAK_SYSRQ = 2,
    NT_BREAK_BUGCHECK_FIRST = 3,
    NT_BREAK_BUGCHECK_SECOND = 4,
    NT_BREAK_FATAL = 5,
};

struct nt_symbols_info {
    void *BaseOfDll;
    void *ProcessId;
    uint32_t CheckSum;
    uint32_t SizeOfImage;
};
NT_ASSERT_SIZE(struct nt_symbols_info, NT_64BIT ? 24 : 16);

#define NT_KD_REBOOT ((void *)(intptr_t)-1)
#define NT_KD_HIBERNATE ((void *)(intptr_t)-2)

#define NT_MANUALLY_INITIATED_CRASH 0xE2u
#define NT_KMODE_EXCEPTION_NOT_HANDLED 0x1Eu

// ---- KUSER_SHARED_DATA (KD reference, sections 1.9 and 11) ------------------------------------------------------

#define NT_SHARED_INTERRUPT_TIME 0x008
#define NT_SHARED_SYSTEM_TIME 0x014
#define NT_SHARED_NT_SYSTEM_ROOT 0x030
#define NT_SHARED_BUILD_NUMBER 0x260
#define NT_SHARED_PRODUCT_TYPE 0x264
#define NT_SHARED_PRODUCT_VALID 0x268
#define NT_SHARED_MAJOR_VERSION 0x26C
#define NT_SHARED_MINOR_VERSION 0x270
#define NT_SHARED_SUITE_MASK 0x2D0
#define NT_SHARED_KD_ENABLED 0x2D4
#define NT_SHARED_TICK_COUNT 0x320

#define NT_BUILD_NUMBER 7601
