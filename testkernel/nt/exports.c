// SPDX-License-Identifier: MIT
// What this kernel exports for transport modules beyond the data in kd_print.c (KD reference, section 2.2).
#include "testkernel/nt/exports.h"

#include "testkernel/nt/nt_data.h"

// The item of KUSER_SHARED_DATA that holds the debugger's bits, by the number Windows uses for it.
#define GLOBAL_DATA_KD_ENABLED 10u

uint32_t TkGlobalDataCalls;

uint64_t HAL_STDCALL MmGetPhysicalAddress(const void *va)
{
    hal_pa_t pa;

    return hal_translate((hal_va_t)va, &pa, NULL) == 0 ? pa : 0;
}

ntstatus_t HAL_STDCALL RtlSetSystemGlobalData(uint32_t item, const void *data, uint32_t size)
{
    TkGlobalDataCalls++;
    if (item != GLOBAL_DATA_KD_ENABLED || size != 1)
        return STATUS_INVALID_PARAMETER;
    nt_data_write_shared(NT_SHARED_KD_ENABLED, data, 1);
    return STATUS_SUCCESS;
}

ntstatus_t HAL_STDCALL RtlGetSystemGlobalData(uint32_t item, void *data, uint32_t size)
{
    if (item != GLOBAL_DATA_KD_ENABLED || size != 1)
        return STATUS_INVALID_PARAMETER;
    memcpy(data, (const uint8_t *)(uintptr_t)HAL_SHARED_DATA + NT_SHARED_KD_ENABLED, 1);
    return STATUS_SUCCESS;
}

uint8_t HAL_STDCALL READ_PORT_UCHAR(const void *port)
{
    return hal_in8((uint16_t)(uintptr_t)port);
}

void HAL_STDCALL WRITE_PORT_UCHAR(const void *port, uint8_t value)
{
    hal_out8((uint16_t)(uintptr_t)port, value);
}

uint32_t HAL_STDCALL READ_PORT_ULONG(const void *port)
{
    return hal_in32((uint16_t)(uintptr_t)port);
}

void HAL_STDCALL WRITE_PORT_ULONG(const void *port, uint32_t value)
{
    hal_out32((uint16_t)(uintptr_t)port, value);
}
