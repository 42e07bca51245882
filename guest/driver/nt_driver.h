// SPDX-License-Identifier: MIT
// What vmkd.sys uses of NT beyond nt_undocumented.h: everything is imported from ntoskrnl.exe, and every kernel from XP to 11 exports all
// of it on both architectures. Declared here because no Windows header is included at all. NT names end at this file and driver.c.
//
// Evidence marks as in nt_undocumented.h; sources and doubts are in docs/evidence.md, section "The run-time driver".
#ifndef GUEST_DRIVER_NT_DRIVER_H
#define GUEST_DRIVER_NT_DRIVER_H

#include "guest/kdvmkd/nt_undocumented.h"

// documented (ntstatus.h)
#define STATUS_INFO_LENGTH_MISMATCH ((int32_t)0xC0000004)
#define STATUS_ACCESS_VIOLATION ((int32_t)0xC0000005)
#define STATUS_NO_MEMORY ((int32_t)0xC0000017)
#define STATUS_PORT_DISCONNECTED ((int32_t)0xC0000037)
#define STATUS_PROCEDURE_NOT_FOUND ((int32_t)0xC000007A)
#define STATUS_INSUFFICIENT_RESOURCES ((int32_t)0xC000009A)
#define STATUS_IO_TIMEOUT ((int32_t)0xC00000B5)
#define STATUS_NOT_FOUND ((int32_t)0xC0000225)

// ---- Objects -------------------------------------------------------------------------------------

// documented (ntdef.h)
struct nt_unicode_string {
	uint16_t Length;        // bytes
	uint16_t MaximumLength; // bytes
	uint16_t *Buffer;
};

// documented (ntdef.h)
struct nt_object_attributes {
	uint32_t Length;
	void *RootDirectory;
	struct nt_unicode_string *ObjectName;
	uint32_t Attributes;
	void *SecurityDescriptor;
	void *SecurityQualityOfService;
};
#define OBJ_CASE_INSENSITIVE 0x040u
#define OBJ_KERNEL_HANDLE 0x200u

struct nt_driver_object;
typedef void(NTAPI *nt_unload_fn)(struct nt_driver_object *driver);

// documented (wdm.h): the fields up to DriverUnload; MajorFunction follows. A driver without devices leaves those alone.
struct nt_driver_object {
	int16_t Type;
	int16_t Size;
	void *DeviceObject;
	uint32_t Flags;
	void *DriverStart;
	uint32_t DriverSize;
	void *DriverSection;
	void *DriverExtension;
	struct nt_unicode_string DriverName;
	struct nt_unicode_string *HardwareDatabase;
	void *FastIoDispatch;
	void *DriverInit;
	void *DriverStartIo;
	nt_unload_fn DriverUnload;
};

// documented as opaque (wdm.h): its size only.
struct nt_kdpc {
	uintptr_t opaque[8];
};
typedef void(NTAPI *nt_dpc_fn)(struct nt_kdpc *dpc, void *context, void *argument1, void *argument2);

#ifdef __i386__
WIRE_ASSERT_SIZE(struct nt_unicode_string, 8);
WIRE_ASSERT_SIZE(struct nt_object_attributes, 24);
WIRE_ASSERT_AT(struct nt_driver_object, DriverName, 0x1C);
WIRE_ASSERT_AT(struct nt_driver_object, DriverUnload, 0x34);
WIRE_ASSERT_SIZE(struct nt_kdpc, 0x20);
#else
WIRE_ASSERT_SIZE(struct nt_unicode_string, 16);
WIRE_ASSERT_SIZE(struct nt_object_attributes, 48);
WIRE_ASSERT_AT(struct nt_driver_object, DriverName, 0x38);
WIRE_ASSERT_AT(struct nt_driver_object, DriverUnload, 0x68);
WIRE_ASSERT_SIZE(struct nt_kdpc, 0x40);
#endif

// ---- Memory --------------------------------------------------------------------------------------

#define NONPAGED_POOL 0 // documented; executable before Windows 8, which nothing here depends on
#define MM_CACHED 1     // documented
#define POOL_TAG 0x646B6D76u // "vmkd", as tools that count pool by tags show it

// documented, all of them (wdm.h, ntddk.h). PHYSICAL_ADDRESS is an 8-byte union by value: on i386 two words of the stack.
NT_IMPORT void *NTAPI ExAllocatePoolWithTag(int32_t type, size_t bytes, uint32_t tag);
NT_IMPORT void NTAPI ExFreePoolWithTag(void *memory, uint32_t tag);
// Page-aligned for a page or more.
NT_IMPORT void *NTAPI MmAllocateContiguousMemory(size_t bytes, int64_t highest_acceptable);
NT_IMPORT void NTAPI MmFreeContiguousMemory(void *memory);
// Meant for devices; RAM with the caching that it has anyway is accepted: observed by others, for years, in many drivers.
NT_IMPORT void *NTAPI MmMapIoSpace(int64_t physical, size_t bytes, int32_t caching);
NT_IMPORT void NTAPI MmUnmapIoSpace(void *mapped, size_t bytes);

// ---- Processors ------------------------------------------------------------------------------------

#define DPC_HIGH_IMPORTANCE 2 // documented: delivered to another processor at once
#define KERNEL_MODE 0

// documented (wdm.h, ntddk.h)
NT_IMPORT void NTAPI KeInitializeDpc(struct nt_kdpc *dpc, nt_dpc_fn routine, void *context);
NT_IMPORT void NTAPI KeSetTargetProcessorDpc(struct nt_kdpc *dpc, int8_t processor);
NT_IMPORT void NTAPI KeSetImportanceDpc(struct nt_kdpc *dpc, int32_t importance);
NT_IMPORT uint8_t NTAPI KeInsertQueueDpc(struct nt_kdpc *dpc, void *argument1, void *argument2);
// A bit for each processor; where there are several groups of processors (more than 64), those of the first.
NT_IMPORT uintptr_t NTAPI KeQueryActiveProcessors(void);
// Negative: relative, in 100 ns. PASSIVE_LEVEL only.
NT_IMPORT int32_t NTAPI KeDelayExecutionThread(int8_t mode, uint8_t is_alertable, const int64_t *interval);

// Not imported but looked up in the kernel's exports, and done without where they are missing.
// documented: Windows 7 and later. More than one group: more than 64 processors.
typedef uint16_t(NTAPI *ke_query_active_group_count_fn)(void);
// documented: waits until no DPC that was queued before is still inside its routine.
typedef void(NTAPI *ke_flush_queued_dpcs_fn)(void);
// documented: XP and later; DbgPrint's own level is not shown by Vista and later. Both take more arguments, which the caller removes.
typedef uint32_t (*dbg_print_ex_fn)(uint32_t component, uint32_t level, const char *format, ...);
typedef uint32_t (*dbg_print_fn)(const char *format, ...);
#define DPFLTR_IHVDRIVER_ID 77u
#define DPFLTR_ERROR_LEVEL 0u

// ---- Questions ---------------------------------------------------------------------------------------

// documented as reserved; number and layout agreed by public sources for XP to 11.
#define SYSTEM_MODULE_INFORMATION 11u
struct nt_module {
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
struct nt_module_list {
	uint32_t NumberOfModules;
	struct nt_module Modules[];
};
#ifdef __i386__
WIRE_ASSERT_SIZE(struct nt_module, 0x11C);
WIRE_ASSERT_AT(struct nt_module_list, Modules, 4);
WIRE_ASSERT_AT(struct nt_module, ImageBase, 8);
#else
WIRE_ASSERT_SIZE(struct nt_module, 0x128);
WIRE_ASSERT_AT(struct nt_module_list, Modules, 8);
WIRE_ASSERT_AT(struct nt_module, ImageBase, 16);
#endif

// documented (NtQuerySystemInformation): Windows 7 and later; HVCI since 10. Length is set by the caller.
#define SYSTEM_CODE_INTEGRITY_INFORMATION 103u
#define CODE_INTEGRITY_HVCI_KMCI_ENABLED 0x400u
struct nt_code_integrity {
	uint32_t Length;
	uint32_t CodeIntegrityOptions;
};

// documented. STATUS_INFO_LENGTH_MISMATCH: the buffer is too small, *ret_bytes says what the list needs. PASSIVE_LEVEL.
NT_IMPORT int32_t NTAPI ZwQuerySystemInformation(uint32_t class, void *buffer, uint32_t bytes, uint32_t *ret_bytes);

// documented (wdm.h)
#define KEY_READ 0x20019u
#define KEY_VALUE_PARTIAL_INFORMATION 2
#define REG_DWORD 4u
struct nt_key_value {
	uint32_t TitleIndex;
	uint32_t Type;
	uint32_t DataLength;
	uint8_t Data[4];
};
WIRE_ASSERT_SIZE(struct nt_key_value, 16);

// documented (wdm.h). PASSIVE_LEVEL; negative: failed.
NT_IMPORT int32_t NTAPI ZwOpenKey(void **ret_key, uint32_t access, struct nt_object_attributes *attributes);
NT_IMPORT int32_t NTAPI ZwQueryValueKey(void *key, struct nt_unicode_string *name, int32_t class, void *buffer, uint32_t bytes,
                                     uint32_t *ret_bytes);
NT_IMPORT int32_t NTAPI ZwClose(void *handle);

// ---- The event log -------------------------------------------------------------------------------------

// documented (wdm.h). Strings are UTF-16 with an end, at StringOffset from the packet's begin; the first one is %2 of the text: %1 is
// the object's name, which the system supplies.
struct nt_error_log_packet {
	uint8_t MajorFunctionCode;
	uint8_t RetryCount;
	uint16_t DumpDataSize; // bytes, a multiple of 4
	uint16_t NumberOfStrings;
	uint16_t StringOffset;
	uint16_t EventCategory;
	uint32_t ErrorCode; // number of the text in the message table
	uint32_t UniqueErrorValue;
	int32_t FinalStatus;
	uint32_t SequenceNumber;
	uint32_t IoControlCode;
	int64_t DeviceOffset;
	uint32_t DumpData[1];
};
WIRE_ASSERT_AT(struct nt_error_log_packet, ErrorCode, 12);
WIRE_ASSERT_AT(struct nt_error_log_packet, DeviceOffset, 32);
WIRE_ASSERT_AT(struct nt_error_log_packet, DumpData, 40);
WIRE_ASSERT_SIZE(struct nt_error_log_packet, 48);

// documented (wdm.h), any IRQL up to DISPATCH_LEVEL. NULL: no room; writing also frees the entry.
NT_IMPORT void *NTAPI IoAllocateErrorLogEntry(void *driver_object, uint8_t bytes);
NT_IMPORT void NTAPI IoWriteErrorLogEntry(void *packet);

#endif
