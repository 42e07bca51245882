// SPDX-License-Identifier: MIT
// What this kernel shares with a driver: the structures of Windows' driver interface, as its public headers and their documentation lay
// them out (driver kit: wdm.h, ntddk.h; the module list: as published for ZwQuerySystemInformation's class 11). Written from there alone.
//
// Rules: as in nt.h. Everything that a driver reads or writes carries size and offset assertions for both architectures.
#pragma once
#include "testkernel/nt/nt.h"

#define STATUS_INVALID_INFO_CLASS ((ntstatus_t)0xC0000003)
#define STATUS_INFO_LENGTH_MISMATCH ((ntstatus_t)0xC0000004)
#define STATUS_INVALID_HANDLE ((ntstatus_t)0xC0000008)
#define STATUS_INVALID_DEVICE_REQUEST ((ntstatus_t)0xC0000010)
#define STATUS_BUFFER_TOO_SMALL ((ntstatus_t)0xC0000023)
#define STATUS_OBJECT_NAME_NOT_FOUND ((ntstatus_t)0xC0000034)
#define STATUS_BUFFER_OVERFLOW ((ntstatus_t)0x80000005)
#define STATUS_INSUFFICIENT_RESOURCES ((ntstatus_t)0xC000009A)

// IRQLs that are the same on both architectures.
enum { NT_PASSIVE_LEVEL = 0, NT_APC_LEVEL = 1, NT_DISPATCH_LEVEL = 2 };

// ---- the driver itself -------------------------------------------------------------------------------------------

#define NT_IO_TYPE_DRIVER 4

struct nt_driver_object {
    int16_t Type;
    int16_t Size;
    void *DeviceObject;
    uint32_t Flags;
    void *DriverStart;
    uint32_t DriverSize;
    void *DriverSection; // the entry in PsLoadedModuleList
    void *DriverExtension;
    struct nt_unicode_string DriverName;
    struct nt_unicode_string *HardwareDatabase;
    void *FastIoDispatch;
    void *DriverInit;
    void *DriverStartIo;
    void(HAL_STDCALL *DriverUnload)(struct nt_driver_object *driver);
    void *MajorFunction[28];
};
NT_ASSERT_SIZE(struct nt_driver_object, NT_64BIT ? 0x150 : 0xA8);
NT_ASSERT_AT(struct nt_driver_object, DriverStart, NT_64BIT ? 0x18 : 0x0C);
NT_ASSERT_AT(struct nt_driver_object, DriverSection, NT_64BIT ? 0x28 : 0x14);
NT_ASSERT_AT(struct nt_driver_object, DriverName, NT_64BIT ? 0x38 : 0x1C);
NT_ASSERT_AT(struct nt_driver_object, DriverUnload, NT_64BIT ? 0x68 : 0x34);
NT_ASSERT_AT(struct nt_driver_object, MajorFunction, NT_64BIT ? 0x70 : 0x38);

typedef ntstatus_t HAL_STDCALL nt_driver_entry(struct nt_driver_object *driver, struct nt_unicode_string *registry_path);

// ---- deferred procedure calls ------------------------------------------------------------------------------------

struct nt_dpc;
typedef void HAL_STDCALL nt_dpc_routine(struct nt_dpc *dpc, void *context, void *arg1, void *arg2);

struct nt_dpc {
    uint8_t Type;       // NT_DPC_TYPE
    uint8_t Importance; // enum nt_dpc_importance
    uint16_t Number;    // processor + NT_DPC_TARGETED, or 0: the one that inserts it
    struct nt_dpc *next; // NT has a doubly linked list here
    void *reserved;
    nt_dpc_routine *DeferredRoutine;
    void *DeferredContext;
    void *SystemArgument1;
    void *SystemArgument2;
    void *DpcData; // not NULL while queued
};
NT_ASSERT_SIZE(struct nt_dpc, NT_64BIT ? 0x40 : 0x20);
NT_ASSERT_AT(struct nt_dpc, DeferredRoutine, NT_64BIT ? 0x18 : 0x0C);
NT_ASSERT_AT(struct nt_dpc, DpcData, NT_64BIT ? 0x38 : 0x1C);

#define NT_DPC_TYPE 19
#define NT_DPC_TARGETED 32
enum nt_dpc_importance { NT_DPC_LOW, NT_DPC_MEDIUM, NT_DPC_HIGH, NT_DPC_MEDIUM_HIGH };

// ---- registry ----------------------------------------------------------------------------------------------------

struct nt_object_attributes {
    uint32_t Length;
    void *RootDirectory;
    struct nt_unicode_string *ObjectName;
    uint32_t Attributes;
    void *SecurityDescriptor;
    void *SecurityQualityOfService;
};
NT_ASSERT_SIZE(struct nt_object_attributes, NT_64BIT ? 0x30 : 0x18);
NT_ASSERT_AT(struct nt_object_attributes, ObjectName, NT_64BIT ? 0x10 : 0x08);

#define NT_OBJ_CASE_INSENSITIVE 0x40u
#define NT_OBJ_KERNEL_HANDLE 0x200u
#define NT_KEY_QUERY_VALUE 1u
#define NT_GENERIC_READ 0x80000000u
#define NT_REG_DWORD 4u
#define NT_KEY_VALUE_PARTIAL_INFORMATION 2u

struct nt_key_value_partial {
    uint32_t TitleIndex;
    uint32_t Type;
    uint32_t DataLength;
    uint8_t Data[]; // of DataLength bytes
};
NT_ASSERT_SIZE(struct nt_key_value_partial, 12);

// ---- system information --------------------------------------------------------------------------------------------

#define NT_SYSTEM_MODULE_INFORMATION 11u
#define NT_SYSTEM_CODE_INTEGRITY_INFORMATION 103u

struct nt_module_information {
    void *Section;
    void *MappedBase;
    void *ImageBase;
    uint32_t ImageSize;
    uint32_t Flags;
    uint16_t LoadOrderIndex;
    uint16_t InitOrderIndex;
    uint16_t LoadCount;
    uint16_t OffsetToFileName;
    char FullPathName[256];
};
NT_ASSERT_SIZE(struct nt_module_information, NT_64BIT ? 0x128 : 0x11C);
NT_ASSERT_AT(struct nt_module_information, ImageBase, NT_64BIT ? 0x10 : 0x08);
NT_ASSERT_AT(struct nt_module_information, FullPathName, NT_64BIT ? 0x28 : 0x1C);

struct nt_module_list {
    uint32_t NumberOfModules;
    struct nt_module_information Modules[];
};
NT_ASSERT_SIZE(struct nt_module_list, NT_64BIT ? 8 : 4);

struct nt_code_integrity {
    uint32_t Length;
    uint32_t CodeIntegrityOptions;
};

// ---- the error log -------------------------------------------------------------------------------------------------

struct nt_error_log_packet {
    uint8_t MajorFunctionCode;
    uint8_t RetryCount;
    uint16_t DumpDataSize; // bytes
    uint16_t NumberOfStrings;
    uint16_t StringOffset; // from the start of this packet
    uint16_t EventCategory;
    uint16_t reserved;
    uint32_t ErrorCode; // a message of the driver's message table
    uint32_t UniqueErrorValue;
    uint32_t FinalStatus;
    uint32_t SequenceNumber;
    uint32_t IoControlCode;
    int64_t DeviceOffset;
    uint32_t DumpData[2]; // declared with one element; the structure's alignment makes room for two
};
NT_ASSERT_SIZE(struct nt_error_log_packet, 0x30);
NT_ASSERT_AT(struct nt_error_log_packet, ErrorCode, 0x0C);
NT_ASSERT_AT(struct nt_error_log_packet, FinalStatus, 0x14);
NT_ASSERT_AT(struct nt_error_log_packet, DumpData, 0x28);

// ERROR_LOG_MAXIMUM_SIZE: what a message between kernel and log service has room for, less its header of 24 bytes and 40 characters.
#define NT_ERROR_LOG_MAX (NT_64BIT ? 240u : 152u)
