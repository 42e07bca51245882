// SPDX-License-Identifier: MIT
// The bodies of KD packets as this kernel builds and reads them (KD reference, sections 3, 4 and 5). They are mapped
// onto the engine's own buffers, never onto memory that a debugger could change while it is looked at.
#pragma once
#include "testkernel/nt/nt.h"

enum kd_packet_type {
    KD_STATE_MANIPULATE = 2,
    KD_DEBUG_IO = 3,
    KD_STATE_CHANGE64 = 7,
    KD_POLL_BREAKIN = 8,
    KD_FILE_IO = 11,
    KD_PACKET_MAX = 12,
};

// What KdReceivePacket may return (KD reference, section 2.4).
enum kd_receive {
    KD_RECEIVED = 0,
    KD_TIMED_OUT = 1,
    KD_RESEND = 2,
};

#define KD_PACKET_MAX_SIZE 4000u
#define KD_MESSAGE_SIZE 0x1000u

enum kd_new_state {
    KD_STATE_EXCEPTION = 0x3030,
    KD_STATE_LOAD_SYMBOLS = 0x3031,
    KD_STATE_COMMAND_STRING = 0x3032,
    KD_STATE_MAX = 0x3033,
};

struct kd_exception {
    struct nt_exception_record Record;
    uint32_t FirstChance;
    uint32_t reserved;
};
NT_ASSERT_SIZE(struct kd_exception, 0xA0);
NT_ASSERT_AT(struct kd_exception, FirstChance, 0x98);

struct kd_load_symbols {
    uint32_t PathNameLength;
    uint32_t reserved;
    uint64_t BaseOfDll;
    uint64_t ProcessId;
    uint32_t CheckSum;
    uint32_t SizeOfImage;
    uint8_t UnloadSymbols;
    uint8_t reserved1[7];
};
NT_ASSERT_SIZE(struct kd_load_symbols, 0x28);
NT_ASSERT_AT(struct kd_load_symbols, CheckSum, 0x18);
NT_ASSERT_AT(struct kd_load_symbols, UnloadSymbols, 0x20);

struct kd_command_string {
    uint32_t Flags;
    uint32_t Reserved1;
    uint64_t Reserved2[7];
};
NT_ASSERT_SIZE(struct kd_command_string, 64);

struct kd_state_change {
    uint32_t NewState;
    uint16_t ProcessorLevel;
    uint16_t Processor;
    uint32_t NumberProcessors;
    uint32_t reserved;
    uint64_t Thread;
    uint64_t ProgramCounter;
    union {
        struct kd_exception Exception;
        struct kd_load_symbols LoadSymbols;
        struct kd_command_string CommandString;
    } u;
    struct nt_control_report ControlReport;
};
NT_ASSERT_SIZE(struct kd_state_change, 0xF0);
NT_ASSERT_AT(struct kd_state_change, Processor, 0x06);
NT_ASSERT_AT(struct kd_state_change, NumberProcessors, 0x08);
NT_ASSERT_AT(struct kd_state_change, Thread, 0x10);
NT_ASSERT_AT(struct kd_state_change, ProgramCounter, 0x18);
NT_ASSERT_AT(struct kd_state_change, u, 0x20);
NT_ASSERT_AT(struct kd_state_change, ControlReport, 0xC0);

enum kd_api {
    KD_API_FIRST = 0x3130,
    KD_API_READ_VIRTUAL = 0x3130,
    KD_API_WRITE_VIRTUAL = 0x3131,
    KD_API_GET_CONTEXT = 0x3132,
    KD_API_SET_CONTEXT = 0x3133,
    KD_API_WRITE_BREAKPOINT = 0x3134,
    KD_API_RESTORE_BREAKPOINT = 0x3135,
    KD_API_CONTINUE = 0x3136,
    KD_API_READ_CONTROL_SPACE = 0x3137,
    KD_API_WRITE_CONTROL_SPACE = 0x3138,
    KD_API_READ_IO = 0x3139,
    KD_API_WRITE_IO = 0x313A,
    KD_API_REBOOT = 0x313B,
    KD_API_CONTINUE2 = 0x313C,
    KD_API_READ_PHYSICAL = 0x313D,
    KD_API_WRITE_PHYSICAL = 0x313E,
    KD_API_QUERY_SPECIAL_CALLS = 0x313F,
    KD_API_SET_SPECIAL_CALL = 0x3140,
    KD_API_CLEAR_SPECIAL_CALLS = 0x3141,
    KD_API_SET_INTERNAL_BREAKPOINT = 0x3142,
    KD_API_GET_INTERNAL_BREAKPOINT = 0x3143,
    KD_API_READ_IO_EXTENDED = 0x3144,
    KD_API_WRITE_IO_EXTENDED = 0x3145,
    KD_API_GET_VERSION = 0x3146,
    KD_API_WRITE_BREAKPOINT_EX = 0x3147,
    KD_API_RESTORE_BREAKPOINT_EX = 0x3148,
    KD_API_CAUSE_BUGCHECK = 0x3149,
    KD_API_SWITCH_PROCESSOR = 0x3150,
    KD_API_PAGE_IN = 0x3151,
    KD_API_READ_MSR = 0x3152,
    KD_API_WRITE_MSR = 0x3153,
    KD_API_SEARCH_MEMORY = 0x3156,
    KD_API_GET_BUS_DATA = 0x3157,
    KD_API_SET_BUS_DATA = 0x3158,
    KD_API_CHECK_LOW_MEMORY = 0x3159,
    KD_API_CLEAR_INTERNAL_BREAKPOINTS = 0x315A,
    KD_API_FILL_MEMORY = 0x315B,
    KD_API_QUERY_MEMORY = 0x315C,
    KD_API_SWITCH_PARTITION = 0x315D,
    KD_API_WRITE_CUSTOM_BREAKPOINT = 0x315E,
    KD_API_GET_CONTEXT_EX = 0x315F,
    KD_API_SET_CONTEXT_EX = 0x3160,
    KD_API_MAX = 0x3161,
};

struct kd_memory {
    uint64_t TargetBaseAddress;
    uint32_t TransferCount;
    uint32_t ActualBytes; // physical requests carry cache flags here
};
NT_ASSERT_SIZE(struct kd_memory, 16);

struct kd_context_ex {
    uint32_t Offset;
    uint32_t ByteCount;
    uint32_t BytesCopied;
};

struct kd_breakpoint {
    uint64_t Address; // write only
    uint32_t Handle;
};
NT_ASSERT_AT(struct kd_breakpoint, Handle, 8);

struct kd_breakpoint_ex {
    uint32_t BreakPointCount;
    uint32_t ContinueStatus;
};

#if NT_64BIT
struct kd_continue2 {
    uint32_t ContinueStatus;
    uint32_t TraceFlag;
    uint64_t Dr7;
    uint64_t CurrentSymbolStart;
    uint64_t CurrentSymbolEnd;
};
NT_ASSERT_SIZE(struct kd_continue2, 0x20);
#else
struct kd_continue2 {
    uint32_t ContinueStatus;
    uint32_t TraceFlag;
    uint32_t Dr7;
    uint32_t CurrentSymbolStart;
    uint32_t CurrentSymbolEnd;
};
NT_ASSERT_SIZE(struct kd_continue2, 0x14);
#endif

struct kd_io {
    uint64_t IoAddress;
    uint32_t DataSize;
    uint32_t DataValue;
};
NT_ASSERT_SIZE(struct kd_io, 16);

struct kd_io_extended {
    uint32_t DataSize;
    uint32_t InterfaceType;
    uint32_t BusNumber;
    uint32_t AddressSpace;
    uint64_t IoAddress;
    uint32_t DataValue;
};
NT_ASSERT_AT(struct kd_io_extended, IoAddress, 0x10);
NT_ASSERT_AT(struct kd_io_extended, DataValue, 0x18);

struct kd_msr {
    uint32_t Msr;
    uint32_t DataValueLow;
    uint32_t DataValueHigh;
};

struct kd_version {
    uint16_t MajorVersion;
    uint16_t MinorVersion;
    uint8_t ProtocolVersion;
    uint8_t KdSecondaryVersion;
    uint16_t Flags;
    uint16_t MachineType;
    uint8_t MaxPacketType;
    uint8_t MaxStateChange;
    uint8_t MaxManipulate;
    uint8_t Simulation;
    uint16_t Unused;
    uint64_t KernBase;
    uint64_t PsLoadedModuleList;
    uint64_t DebuggerDataList;
};
NT_ASSERT_SIZE(struct kd_version, 40);
NT_ASSERT_AT(struct kd_version, MachineType, 8);
NT_ASSERT_AT(struct kd_version, KernBase, 0x10);

#define KD_VERSION_MP 1
#define KD_VERSION_DATA 2
#define KD_VERSION_PTR64 4

struct kd_search {
    uint64_t SearchAddress; // reply: where it was found
    uint64_t SearchLength;
    uint32_t PatternLength;
};

struct kd_fill {
    uint64_t Address;
    uint32_t Length;
    uint16_t Flags; // 1 virtual, 2 physical
    uint16_t PatternLength;
};
NT_ASSERT_SIZE(struct kd_fill, 16);

struct kd_query_memory {
    uint64_t Address;
    uint64_t Reserved;
    uint32_t AddressSpace;
    uint32_t Flags;
};
NT_ASSERT_SIZE(struct kd_query_memory, 24);

struct kd_bus {
    uint32_t BusDataType;
    uint32_t BusNumber;
    uint32_t SlotNumber;
    uint32_t Offset;
    uint32_t Length;
};
NT_ASSERT_SIZE(struct kd_bus, 20);

struct kd_manipulate {
    uint32_t ApiNumber;
    uint16_t ProcessorLevel;
    uint16_t Processor;
    ntstatus_t ReturnStatus;
    uint32_t reserved;
    union {
        uint8_t bytes[40];
        struct kd_memory Memory;
        struct kd_context_ex ContextEx;
        struct kd_breakpoint WriteBreakPoint;
        uint32_t RestoreBreakPointHandle;
        struct kd_breakpoint_ex BreakPointEx;
        uint32_t ContinueStatus;
        struct kd_continue2 Continue2;
        struct kd_io Io;
        struct kd_io_extended IoExtended;
        struct kd_msr Msr;
        struct kd_version Version;
        struct kd_search Search;
        struct kd_fill Fill;
        struct kd_query_memory QueryMemory;
        struct kd_bus Bus;
        uint32_t NumberOfSpecialCalls;
        uint64_t alignment;
    } u;
};
NT_ASSERT_SIZE(struct kd_manipulate, 56);
NT_ASSERT_AT(struct kd_manipulate, ReturnStatus, 8);
NT_ASSERT_AT(struct kd_manipulate, u, 0x10);

#define KD_DATA_MAX (KD_PACKET_MAX_SIZE - (uint32_t)sizeof(struct kd_manipulate))
_Static_assert(KD_PACKET_MAX_SIZE - sizeof(struct kd_manipulate) == 3944, "KD reference, section 1.1");

enum kd_debug_io_api {
    KD_PRINT_STRING = 0x3230,
    KD_GET_STRING = 0x3231,
};

struct kd_debug_io {
    uint32_t ApiNumber;
    uint16_t ProcessorLevel;
    uint16_t Processor;
    uint32_t LengthOfString;     // of the text or of the prompt
    uint32_t LengthOfStringRead; // prompt only: most bytes of answer that fit
};
NT_ASSERT_SIZE(struct kd_debug_io, 16);

enum kd_file_io_api {
    KD_FILE_CREATE = 0x3430,
    KD_FILE_READ = 0x3431,
    KD_FILE_WRITE = 0x3432,
    KD_FILE_CLOSE = 0x3433,
};

struct kd_file_create {
    uint32_t DesiredAccess;
    uint32_t FileAttributes;
    uint32_t ShareAccess;
    uint32_t CreateDisposition;
    uint32_t CreateOptions;
    uint32_t reserved;
    uint64_t Handle;
    uint64_t Length;
};
NT_ASSERT_AT(struct kd_file_create, Handle, 0x18);

struct kd_file_transfer {
    uint64_t Handle;
    uint64_t Offset;
    uint32_t Length;
};

struct kd_file_io {
    uint32_t ApiNumber;
    ntstatus_t Status;
    union {
        uint64_t reserved[7];
        struct kd_file_create Create;
        struct kd_file_transfer Transfer;
        uint64_t CloseHandle;
    } u;
};
NT_ASSERT_SIZE(struct kd_file_io, 64);

#define KD_FILE_DATA_MAX (KD_PACKET_MAX_SIZE - (uint32_t)sizeof(struct kd_file_io))
