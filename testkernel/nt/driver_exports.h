// SPDX-License-Identifier: MIT
// What this kernel exports for drivers that are loaded while it runs. As Windows documents them, with one addition: whatever a caller
// does that Windows forbids or that would be left behind is a failed judgement (scenario_fail) with the reason in the log.
//
// Rules: at PASSIVE_LEVEL with interrupts on, except where it says "any". Failures on request: driver_knobs.h.
#pragma once
#include "testkernel/nt/driver_nt.h"

// driver_memory.c. Fresh memory holds garbage; NULL when there is none.
void *HAL_STDCALL ExAllocatePoolWithTag(uint32_t pool_type, size_t len, uint32_t tag);
void HAL_STDCALL ExFreePoolWithTag(void *memory, uint32_t tag);
void *HAL_STDCALL MmAllocateContiguousMemory(size_t len, uint64_t highest);
void HAL_STDCALL MmFreeContiguousMemory(void *memory);
void *HAL_STDCALL MmMapIoSpace(uint64_t pa, size_t len, uint32_t cache_type);
void HAL_STDCALL MmUnmapIoSpace(void *va, size_t len);

// driver_dpc.c
void HAL_STDCALL KeInitializeDpc(struct nt_dpc *dpc, nt_dpc_routine *routine, void *context); // any
void HAL_STDCALL KeSetTargetProcessorDpc(struct nt_dpc *dpc, int8_t cpu);                     // any
void HAL_STDCALL KeSetImportanceDpc(struct nt_dpc *dpc, uint32_t importance);                 // any
// Return: 0 when it is queued already. On the own processor the routine has run when this returns, as it has on Windows at PASSIVE_LEVEL.
uint8_t HAL_STDCALL KeInsertQueueDpc(struct nt_dpc *dpc, void *arg1, void *arg2); // PASSIVE_LEVEL or DISPATCH_LEVEL
void HAL_STDCALL KeFlushQueuedDpcs(void);                                         // no DPC queued so far is in its routine any more
uintptr_t HAL_STDCALL KeQueryActiveProcessors(void);                              // any; bit = index
uint16_t HAL_STDCALL KeQueryActiveGroupCount(void);                               // any
// interval: 100 ns units, negative = from now; at least one clock tick.
ntstatus_t HAL_STDCALL KeDelayExecutionThread(int8_t mode, uint8_t alertable, const int64_t *interval);

// driver_services.c
ntstatus_t HAL_STDCALL ZwQuerySystemInformation(uint32_t class, void *buf, uint32_t len, uint32_t *ret_len);
ntstatus_t HAL_STDCALL ZwOpenKey(void **ret, uint32_t access, const struct nt_object_attributes *attributes);
ntstatus_t HAL_STDCALL ZwQueryValueKey(void *key, const struct nt_unicode_string *name, uint32_t class, void *buf, uint32_t len,
                                       uint32_t *ret_len);
ntstatus_t HAL_STDCALL ZwClose(void *handle);
void *HAL_STDCALL IoAllocateErrorLogEntry(void *io_object, uint8_t size); // NULL when it is too big; contents are garbage
void HAL_STDCALL IoWriteErrorLogEntry(void *entry);                       // to the kernel's log, with everything in it
