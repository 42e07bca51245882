// SPDX-License-Identifier: MIT
// Functions that other modules import from this kernel; KdDebuggerEnabled and KdDebuggerNotPresent are in kd.h.
#pragma once
#include "testkernel/nt/nt.h"

extern uint32_t TkGlobalDataCalls; // how often a module used RtlSetSystemGlobalData

uint64_t HAL_STDCALL MmGetPhysicalAddress(const void *va); // 0 when not mapped
ntstatus_t HAL_STDCALL RtlSetSystemGlobalData(uint32_t item, const void *data, uint32_t size);
ntstatus_t HAL_STDCALL RtlGetSystemGlobalData(uint32_t item, void *data, uint32_t size);
uint8_t HAL_STDCALL READ_PORT_UCHAR(const void *port);
void HAL_STDCALL WRITE_PORT_UCHAR(const void *port, uint8_t value);
uint32_t HAL_STDCALL READ_PORT_ULONG(const void *port);
void HAL_STDCALL WRITE_PORT_ULONG(const void *port, uint32_t value);
