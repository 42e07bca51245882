// SPDX-License-Identifier: MIT
// A driver for the test kernel's own test: it stops all CPUs by DPCs as a driver of that kind does, and with a bit of Parameters\Force does one
// thing that the kernel must find. Runs at PASSIVE_LEVEL but for the DPCs.
#define HAL_NO_TRANSPORT
#include "testkernel/nt/driver_exports.h"
#include "testkernel/nt/exports.h"

#define TAG 0x64746B74u
#define CPUS_MAX 8
#define LONG_DPC 5000000u // turns: long enough to be found in its routine

// What Force asks for, a bit each.
enum {
    LEAVE_POOL = 0x1,
    LEAVE_CONTIGUOUS = 0x2,
    LEAVE_MAPPING = 0x4,
    LEAVE_KEY = 0x8,
    LEAVE_LOG_ENTRY = 0x10,
    WRITE_BEYOND_POOL = 0x20,
    WRITE_FREED = 0x40,
    LEAVE_DPC = 0x80,       // unloads while one still runs
    NOT_START = 0x100,      // refuses, having left everything as it was
    NO_UNLOAD = 0x200,      // cannot be stopped
    CALL_FROM_DPC = 0x400,  // what only PASSIVE_LEVEL allows
    CHANGE_DEBUGGER = 0x800, // leaves KdDebuggerNotPresent changed
    WRITE_LONG_LOG = 0x1000, // an entry whose text has no end
};

__declspec(dllimport) extern uint8_t KdDebuggerNotPresent;

static uint32_t force;
static struct nt_dpc dpcs[CPUS_MAX];
static volatile uint32_t arrived;
static void *left[3];

static uint32_t read_force(const struct nt_unicode_string *registry_path)
{
    static uint16_t parameters[] = u"Parameters", name[] = u"Force";
    struct nt_unicode_string key_name = *registry_path, value_name = {sizeof(name) - 2, sizeof(name), name};
    struct nt_unicode_string sub_name = {sizeof(parameters) - 2, sizeof(parameters), parameters};
    struct nt_object_attributes attributes = {sizeof(attributes), NULL, &key_name, NT_OBJ_KERNEL_HANDLE | NT_OBJ_CASE_INSENSITIVE, NULL, NULL};
    uint32_t buf[5], len, value = 0;
    void *service, *key;

    if (ZwOpenKey(&service, NT_GENERIC_READ, &attributes) != STATUS_SUCCESS)
        return 0;
    attributes.RootDirectory = service;
    attributes.ObjectName = &sub_name;
    if (ZwOpenKey(&key, NT_GENERIC_READ, &attributes) == STATUS_SUCCESS) {
        if (ZwQueryValueKey(key, &value_name, NT_KEY_VALUE_PARTIAL_INFORMATION, buf, sizeof(buf), &len) == STATUS_SUCCESS)
            value = buf[3];
        if ((value & LEAVE_KEY) == 0)
            (void)ZwClose(key);
    }
    (void)ZwClose(service);
    return value;
}

// Waits at DISPATCH_LEVEL until every CPU is here.
static void HAL_STDCALL on_dpc(struct nt_dpc *dpc, void *context, void *arg1, void *arg2)
{
    (void)arg1, (void)arg2;
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < (uint32_t)(uintptr_t)context)
        __asm__ volatile("pause");
    if (force & CALL_FROM_DPC && dpc == &dpcs[0])
        (void)ZwClose(NULL);
    for (uint32_t i = 0; force & LEAVE_DPC && i < LONG_DPC; i++)
        __asm__ volatile("pause");
}

// The own CPU last: its DPC runs at once and waits for the others.
static void stop_all_cpus(void)
{
    uintptr_t mask = KeQueryActiveProcessors();
    uint32_t count = 0;

    arrived = 0;
    for (unsigned cpu = 0; cpu < CPUS_MAX; cpu++)
        count += mask >> cpu & 1;
    for (int cpu = CPUS_MAX - 1; cpu >= 0; cpu--) {
        if ((mask >> cpu & 1) == 0)
            continue;
        KeInitializeDpc(&dpcs[cpu], on_dpc, (void *)(uintptr_t)count);
        KeSetTargetProcessorDpc(&dpcs[cpu], (int8_t)cpu);
        KeSetImportanceDpc(&dpcs[cpu], NT_DPC_HIGH);
        (void)KeInsertQueueDpc(&dpcs[cpu], NULL, NULL);
    }
}

static bool use_memory(void)
{
    uint8_t *pool = ExAllocatePoolWithTag(0, 100, TAG), *block = MmAllocateContiguousMemory(3 * HAL_PAGE_SIZE, UINT64_MAX);
    uint8_t *alias = block != NULL ? MmMapIoSpace(MmGetPhysicalAddress(block + HAL_PAGE_SIZE) + 8, 16, 1) : NULL;
    bool is_right = pool != NULL && alias != NULL && MmGetPhysicalAddress(block) + 2 * HAL_PAGE_SIZE == MmGetPhysicalAddress(block + 2 * HAL_PAGE_SIZE);

    if (is_right) {
        alias[0] = 0x5A;
        is_right = block[HAL_PAGE_SIZE + 8] == 0x5A;
        if (force & WRITE_BEYOND_POOL)
            pool[100] = 1;
    }
    left[0] = pool;
    left[1] = block;
    left[2] = alias;
    return is_right;
}

static void free_memory(void)
{
    uint8_t *direct = left[1];

    if (left[2] != NULL && (force & LEAVE_MAPPING) == 0)
        MmUnmapIoSpace(left[2], 16);
    if (left[1] != NULL && force & WRITE_FREED)
        direct = MmMapIoSpace(MmGetPhysicalAddress(left[1]), 8, 1);
    if (left[1] != NULL && (force & LEAVE_CONTIGUOUS) == 0)
        MmFreeContiguousMemory(left[1]);
    if (left[1] != NULL && force & WRITE_FREED) {
        direct[5] = 1;
        MmUnmapIoSpace(direct, 8);
    }
    if (left[0] != NULL && (force & LEAVE_POOL) == 0)
        ExFreePoolWithTag(left[0], TAG);
}

static void write_log(struct nt_driver_object *driver, uint32_t status)
{
    struct nt_error_log_packet *p = IoAllocateErrorLogEntry(driver, sizeof(*p) + 8);

    if (p == NULL || force & LEAVE_LOG_ENTRY)
        return;
    *p = (struct nt_error_log_packet){
        .NumberOfStrings = 1, .StringOffset = sizeof(*p), .ErrorCode = 0x40000001, .UniqueErrorValue = 7, .FinalStatus = status};
    uint16_t *text = (uint16_t *)(p + 1);
    text[0] = 't';
    text[1] = 'k';
    text[2] = text[3] = force & WRITE_LONG_LOG ? 'x' : 0;
    IoWriteErrorLogEntry(p);
}

static void HAL_STDCALL on_unload(struct nt_driver_object *driver)
{
    (void)driver;
    free_memory();
    if (force & CHANGE_DEBUGGER)
        KdDebuggerNotPresent ^= 1;
    if (force & LEAVE_DPC) // the last CPU's: whoever calls this must not wait for it
        (void)KeInsertQueueDpc(&dpcs[1], NULL, NULL);
}

ntstatus_t HAL_STDCALL DriverEntry(struct nt_driver_object *driver, struct nt_unicode_string *registry_path);

ntstatus_t HAL_STDCALL DriverEntry(struct nt_driver_object *driver, struct nt_unicode_string *registry_path)
{
    const int64_t millisecond = -10000;

    force = read_force(registry_path);
    bool is_right = use_memory();
    if ((force & LEAVE_DPC) == 0)
        stop_all_cpus();
    else
        KeInitializeDpc(&dpcs[1], on_dpc, NULL), KeSetTargetProcessorDpc(&dpcs[1], 1);
    (void)KeDelayExecutionThread(0, 0, &millisecond);
    write_log(driver, 0);
    if (!is_right || force & NOT_START) {
        free_memory();
        return is_right ? STATUS_UNSUCCESSFUL : STATUS_INSUFFICIENT_RESOURCES;
    }
    driver->DriverUnload = force & NO_UNLOAD ? NULL : on_unload;
    return STATUS_SUCCESS;
}
