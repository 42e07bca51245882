// SPDX-License-Identifier: MIT
// vmkd.sys begins here.
#include "guest/driver/nt_driver.h"

int32_t NTAPI DriverEntry(struct nt_driver_object *driver, struct nt_unicode_string *registry_path);

#define TAKE(fn) ((const void *)(uintptr_t)(fn))

int32_t NTAPI DriverEntry(struct nt_driver_object *driver, struct nt_unicode_string *registry_path)
{
	(void)driver;
	(void)registry_path;
	const void *volatile imports[] = {
		TAKE(&KdDebuggerEnabled), TAKE(&KdDebuggerNotPresent), TAKE(MmGetPhysicalAddress), TAKE(ExAllocatePoolWithTag),
		TAKE(ExFreePoolWithTag), TAKE(MmAllocateContiguousMemory), TAKE(MmFreeContiguousMemory), TAKE(MmMapIoSpace),
		TAKE(MmUnmapIoSpace), TAKE(KeInitializeDpc), TAKE(KeSetTargetProcessorDpc), TAKE(KeSetImportanceDpc), TAKE(KeInsertQueueDpc),
		TAKE(KeQueryActiveProcessors), TAKE(KeDelayExecutionThread), TAKE(ZwQuerySystemInformation), TAKE(ZwOpenKey),
		TAKE(ZwQueryValueKey), TAKE(ZwClose), TAKE(IoAllocateErrorLogEntry), TAKE(IoWriteErrorLogEntry),
	};
	return imports[0] ? STATUS_NOT_SUPPORTED : STATUS_NOT_FOUND;
}
