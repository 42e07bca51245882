// SPDX-License-Identifier: MIT
#include "testkernel/nt/nt_data.h"

#include "testkernel/nt/nt_cpu.h"
#include "testkernel/nt/services.h"

#define PRODUCT_WORKSTATION 1u
#define VERSION_MAJOR 6u
#define VERSION_MINOR 1u
#define FREE_BUILD 0x0F
#define PROTOCOL_64BIT_V2 6

// Variables a debugger may read through KDDEBUGGER_DATA64. Those without a meaning here are present and zero.
struct nt_list_entry PsLoadedModuleList;
struct nt_list_entry PsActiveProcessHead;
static struct nt_list_entry MmLoadedUserImageList, KeBugCheckCallbackListHead, ExpSystemResourcesList,
    IopErrorLogListHead;
static struct nt_list_entry kd_data_list_head;
uintptr_t KiBugCheckData[5];
uint32_t NtGlobalFlag;
uint64_t KeTickCount;
static uint32_t KeTimeIncrement = 156250;
static const char NtBuildLab[] = "7601.test_kernel.000000-0000";
static uint32_t CmNtCSDVersion;
static struct nt_context KiSavedContext;
static const void *KeLoaderBlock;
static uintptr_t mm_zero[4];
static uintptr_t MmHighestUserAddress = NT_64BIT ? (uintptr_t)0x7FFFFFEFFFFull : 0x7FFEFFFF;
static uintptr_t MmSystemRangeStart = NT_64BIT ? (uintptr_t)0xFFFF080000000000ull : 0x80000000;
static uintptr_t MmUserProbeAddress = NT_64BIT ? (uintptr_t)0x7FFFFFF0000ull : 0x7FFF0000;
static uintptr_t MmNumberOfPhysicalPages, MmLowestPhysicalPage, MmHighestPhysicalPage, MmAvailablePages;

static char print_buffer[NT_PRINT_BUFFER_SIZE];
char *KdPrintCircularBuffer = print_buffer;
char *KdPrintWritePointer = print_buffer;
uint32_t KdPrintRolloverCount;
static uint32_t KdPrintBufferSize = NT_PRINT_BUFFER_SIZE;

static struct nt_eprocess system_process;
static struct nt_ethread idle_threads[HAL_MAX_CPUS];

struct nt_memory_run {
    uintptr_t BasePage;
    uintptr_t PageCount;
};
#define MEMORY_RUNS 16u
static struct nt_memory_block {
    uint32_t NumberOfRuns;
    uintptr_t NumberOfPages;
    struct nt_memory_run Run[MEMORY_RUNS];
} memory_block;
static struct nt_memory_block *MmPhysicalMemoryBlock = &memory_block;

struct kd_debugger_data KdDebuggerDataBlock;
struct kd_version KdVersionBlock;

static void list_init(struct nt_list_entry *head)
{
    head->Flink = head->Blink = head;
}

static void list_append(struct nt_list_entry *head, struct nt_list_entry *entry)
{
    entry->Flink = head;
    entry->Blink = head->Blink;
    head->Blink->Flink = entry;
    head->Blink = entry;
}

static void put_word(uint8_t *object, size_t offset, uintptr_t value)
{
    memcpy(object + offset, &value, sizeof(value));
}

struct nt_ethread *nt_data_idle_thread(unsigned cpu)
{
    return &idle_threads[cpu];
}

static void init_processes(void)
{
    uint8_t *p = system_process.bytes;

    put_word(p, NT_KPROCESS_DTB, hal_read_cr(3));
    put_word(p, NT_EPROCESS_PID, 4);
    memcpy(p + NT_EPROCESS_NAME, "System", sizeof("System"));
    list_append(&PsActiveProcessHead, (struct nt_list_entry *)(void *)(p + NT_EPROCESS_LINKS));
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        uint8_t *t = idle_threads[cpu].bytes;
        put_word(t, NT_KTHREAD_APC_PROCESS, (uintptr_t)p);
        t[NT_KTHREAD_STATE] = 2; // running
        nt_cpu_attach_thread(cpu, &idle_threads[cpu]);
    }
}

static void add_run(const struct hal_range *range)
{
    uint64_t first = (range->start + HAL_PAGE_SIZE - 1) / HAL_PAGE_SIZE;
    uint64_t end = (range->start + range->len) / HAL_PAGE_SIZE;

    if (range->type != 1 || end <= first || memory_block.NumberOfRuns == MEMORY_RUNS)
        return;
    struct nt_memory_run *run = &memory_block.Run[memory_block.NumberOfRuns++];
    run->BasePage = (uintptr_t)first;
    run->PageCount = (uintptr_t)(end - first);
    memory_block.NumberOfPages += run->PageCount;
    MmHighestPhysicalPage = (uintptr_t)(end - 1);
}

static void init_memory(const struct hal_boot *boot)
{
    for (unsigned i = 0; i < boot->range_count; i++)
        add_run(&boot->ranges[i]);
    MmLowestPhysicalPage = memory_block.NumberOfRuns > 0 ? memory_block.Run[0].BasePage : 0;
    MmNumberOfPhysicalPages = MmAvailablePages = memory_block.NumberOfPages;
}

static void fill_kernel_addresses(struct kd_debugger_data *d)
{
    d->BreakpointWithStatus = nt_address(RtlpBreakWithStatusInstruction);
    d->SavedContext = nt_address(&KiSavedContext);
    d->PsLoadedModuleList = nt_address(&PsLoadedModuleList);
    d->PsActiveProcessHead = nt_address(&PsActiveProcessHead);
    d->PspCidTable = d->ExpPagedPoolDescriptor = d->ExpNumberOfPagedPools = nt_address(mm_zero);
    d->ExpSystemResourcesList = nt_address(&ExpSystemResourcesList);
    d->KeTimeIncrement = nt_address(&KeTimeIncrement);
    d->KeBugCheckCallbackListHead = nt_address(&KeBugCheckCallbackListHead);
    d->KiBugcheckData = nt_address(KiBugCheckData);
    d->IopErrorLogListHead = nt_address(&IopErrorLogListHead);
    d->ObpRootDirectoryObject = d->ObpTypeObjectType = nt_address(mm_zero);
    d->KdPrintCircularBuffer = nt_address(print_buffer);
    d->KdPrintCircularBufferEnd = nt_address(print_buffer + sizeof(print_buffer));
    d->KdPrintWritePointer = nt_address(&KdPrintWritePointer);
    d->KdPrintRolloverCount = nt_address(&KdPrintRolloverCount);
    d->KdPrintCircularBufferPtr = nt_address(&KdPrintCircularBuffer);
    d->KdPrintBufferSize = nt_address(&KdPrintBufferSize);
    d->NtBuildLab = nt_address(NtBuildLab);
    d->CmNtCSDVersion = nt_address(&CmNtCSDVersion);
    d->KiProcessorBlock = nt_address(KiProcessorBlock);
    d->KeLoaderBlock = nt_address(&KeLoaderBlock);
}

// Every memory-manager variable that exists on NT exists here; most are zero, because this kernel has no pools,
// page lists or paging files.
static void fill_memory_addresses(struct kd_debugger_data *d)
{
    uint64_t *const empty[] = {
        &d->MmSystemCacheStart, &d->MmSystemCacheEnd, &d->MmSystemCacheWs, &d->MmPfnDatabase, &d->MmSystemPtesStart,
        &d->MmSystemPtesEnd, &d->MmSubsectionBase, &d->MmNumberOfPagingFiles, &d->MmMaximumNonPagedPoolInBytes,
        &d->MmNonPagedSystemStart, &d->MmNonPagedPoolStart, &d->MmNonPagedPoolEnd, &d->MmPagedPoolStart,
        &d->MmPagedPoolEnd, &d->MmPagedPoolInformation, &d->MmSizeOfPagedPoolInBytes, &d->MmTotalCommitLimit,
        &d->MmTotalCommittedPages, &d->MmSharedCommit, &d->MmDriverCommit, &d->MmProcessCommit,
        &d->MmPagedPoolCommit, &d->MmExtendedCommit, &d->MmZeroedPageListHead, &d->MmFreePageListHead,
        &d->MmStandbyPageListHead, &d->MmModifiedPageListHead, &d->MmModifiedNoWritePageListHead,
        &d->MmResidentAvailablePages, &d->PoolTrackTable, &d->NonPagedPoolDescriptor, &d->MmUnloadedDrivers,
        &d->MmLastUnloadedDriver, &d->MmTriageActionTaken, &d->MmSpecialPoolTag, &d->KernelVerifier,
        &d->MmVerifierData, &d->MmAllocatedNonPagedPool, &d->MmPeakCommitment, &d->MmTotalCommitLimitMaximum,
        &d->MmSessionBase, &d->MmSessionSize, &d->MmSystemParentTablePage, &d->IopNumTriageDumpDataBlocks,
        &d->IopTriageDumpDataBlocks, &d->VfCrashDataBlock, &d->MmBadPagesDetected,
        &d->MmZeroedPageSingleBitErrorsDetected, &d->EtwpDebuggerData,
    };

    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
        *empty[i] = nt_address(mm_zero);
    d->MmLowestPhysicalPage = nt_address(&MmLowestPhysicalPage);
    d->MmHighestPhysicalPage = nt_address(&MmHighestPhysicalPage);
    d->MmNumberOfPhysicalPages = nt_address(&MmNumberOfPhysicalPages);
    d->MmAvailablePages = nt_address(&MmAvailablePages);
    d->MmHighestUserAddress = nt_address(&MmHighestUserAddress);
    d->MmSystemRangeStart = nt_address(&MmSystemRangeStart);
    d->MmUserProbeAddress = nt_address(&MmUserProbeAddress);
    d->MmPhysicalMemoryBlock = nt_address(&MmPhysicalMemoryBlock);
    d->MmLoadedUserImageList = nt_address(&MmLoadedUserImageList);
    d->MmPageSize = HAL_PAGE_SIZE;
}

static void fill_offsets(struct kd_debugger_data *d)
{
    d->PaeEnabled = 1;
    d->OffsetKThreadNextProcessor = NT_KTHREAD_NEXT_PROCESSOR;
    d->OffsetKThreadTeb = NT_KTHREAD_TEB;
    d->OffsetKThreadKernelStack = NT_KTHREAD_KERNEL_STACK;
    d->OffsetKThreadInitialStack = NT_KTHREAD_INITIAL_STACK;
    d->OffsetKThreadApcProcess = NT_KTHREAD_APC_PROCESS;
    d->OffsetKThreadState = NT_KTHREAD_STATE;
    d->SizeEProcess = NT_EPROCESS_SIZE;
    d->OffsetEprocessPeb = NT_EPROCESS_PEB;
    d->OffsetEprocessParentCID = NT_EPROCESS_PARENT;
    d->OffsetEprocessDirectoryTableBase = NT_KPROCESS_DTB;
    d->SizeEThread = NT_ETHREAD_SIZE;
    d->SizePrcb = sizeof(struct nt_kprcb);
    d->OffsetPrcbDpcRoutine = offsetof(struct nt_kprcb, DpcRoutineActive);
    d->OffsetPrcbCurrentThread = offsetof(struct nt_kprcb, CurrentThread);
    d->OffsetPrcbMhz = offsetof(struct nt_kprcb, MHz);
    d->OffsetPrcbCpuType = offsetof(struct nt_kprcb, CpuType);
    d->OffsetPrcbVendorString = offsetof(struct nt_kprcb, VendorString);
    d->OffsetPrcbProcStateContext = offsetof(struct nt_kprcb, ProcessorState.ContextFrame);
    d->OffsetPrcbProcStateSpecialReg = offsetof(struct nt_kprcb, ProcessorState.SpecialRegisters);
    d->OffsetPrcbNumber = offsetof(struct nt_kprcb, Number);
    d->OffsetPrcbContext = offsetof(struct nt_kprcb, Context);
    d->SizePcr = sizeof(struct nt_kpcr);
    d->OffsetPcrSelfPcr = offsetof(struct nt_kpcr, Self);
    d->OffsetPcrCurrentPrcb = offsetof(struct nt_kpcr, CurrentPrcb);
    d->OffsetPcrContainedPrcb = offsetof(struct nt_kpcr, Prcb);
}

static void fill_selectors(struct kd_debugger_data *d)
{
    d->GdtR0Code = HAL_CS_KERNEL;
    d->GdtR0Data = HAL_SS_KERNEL;
#if NT_64BIT
    d->GdtR3Code = 0x30;
    d->GdtR3Data = 0x28;
    d->GdtTss = 0x40;
    d->Gdt64R3CmCode = 0x20;
    d->Gdt64R3CmTeb = 0x50;
#else
    d->GdtR0Pcr = HAL_FS_PCR;
    d->GdtR3Code = 0x18;
    d->GdtR3Data = 0x20;
    d->GdtTss = 0x28;
    d->GdtR3Teb = 0x38;
    d->GdtLdt = 0x48;
#endif
}

static void init_debugger_data(uint64_t kernel_base)
{
    struct kd_debugger_data *d = &KdDebuggerDataBlock;

    d->OwnerTag = KDBG_OWNER_TAG;
    d->Size = sizeof(*d);
    d->KernBase = kernel_base;
    fill_kernel_addresses(d);
    fill_memory_addresses(d);
    fill_offsets(d);
    fill_selectors(d);
    list_init(&kd_data_list_head);
    list_append(&kd_data_list_head, &d->List);
}

static void init_version_block(uint64_t kernel_base)
{
    KdVersionBlock = (struct kd_version){
        .MajorVersion = FREE_BUILD,
        .MinorVersion = NT_BUILD_NUMBER,
        .ProtocolVersion = PROTOCOL_64BIT_V2,
        .KdSecondaryVersion = NT_64BIT ? 2 : 0,
        .Flags = KD_VERSION_MP | KD_VERSION_DATA | (NT_64BIT ? KD_VERSION_PTR64 : 0),
        .MachineType = NT_MACHINE,
        .MaxPacketType = KD_PACKET_MAX,
        .MaxStateChange = KD_STATE_MAX - KD_STATE_EXCEPTION,
        .MaxManipulate = KD_API_MAX - KD_API_FIRST,
        .KernBase = kernel_base,
        .PsLoadedModuleList = nt_address(&PsLoadedModuleList),
        .DebuggerDataList = nt_address(&kd_data_list_head),
    };
}

void nt_data_write_shared(uint32_t offset, const void *value, size_t len)
{
    size_t done;

    (void)hal_copy_to((hal_va_t)HAL_SHARED_DATA + offset, value, len, &done); // mapped by hal before nt_start
}

static void write_shared_u32(uint32_t offset, uint32_t value)
{
    nt_data_write_shared(offset, &value, sizeof(value));
}

static void init_shared_data(void)
{
    static const uint16_t root[] = {'C', ':', '\\', 'W', 'i', 'n', 'd', 'o', 'w', 's', 0};
    const uint8_t yes = 1;

    nt_data_write_shared(NT_SHARED_NT_SYSTEM_ROOT, root, sizeof(root));
    write_shared_u32(NT_SHARED_BUILD_NUMBER, NT_BUILD_NUMBER);
    write_shared_u32(NT_SHARED_PRODUCT_TYPE, PRODUCT_WORKSTATION);
    nt_data_write_shared(NT_SHARED_PRODUCT_VALID, &yes, sizeof(yes));
    write_shared_u32(NT_SHARED_MAJOR_VERSION, VERSION_MAJOR);
    write_shared_u32(NT_SHARED_MINOR_VERSION, VERSION_MINOR);
    write_shared_u32(NT_SHARED_SUITE_MASK, 0x110); // terminal server, single user
}

void nt_data_advance_time(uint32_t units)
{
    // The page's writable alias in the direct map, found once: this runs on every tick.
    static volatile uint32_t *shared;
    static uint64_t time;

    if (shared == NULL) {
        hal_pa_t pa;
        if (hal_translate((hal_va_t)HAL_SHARED_DATA, &pa, NULL) != 0 || hal_direct(pa) == NULL)
            return;
        shared = hal_direct(pa);
    }
    time += units;
    KeTickCount++;
    // KSYSTEM_TIME order for readers without a lock: High2, Low, High1.
    for (uint32_t at = NT_SHARED_INTERRUPT_TIME; at <= NT_SHARED_SYSTEM_TIME; at += 12) {
        shared[at / 4 + 2] = (uint32_t)(time >> 32);
        shared[at / 4] = (uint32_t)time;
        shared[at / 4 + 1] = (uint32_t)(time >> 32);
    }
    shared[NT_SHARED_TICK_COUNT / 4] = (uint32_t)KeTickCount;
}

void nt_data_init(const struct hal_boot *boot)
{
    uint64_t kernel_base = nt_extend(boot->images[0].base);

    list_init(&PsLoadedModuleList);
    list_init(&PsActiveProcessHead);
    list_init(&MmLoadedUserImageList);
    list_init(&KeBugCheckCallbackListHead);
    list_init(&ExpSystemResourcesList);
    list_init(&IopErrorLogListHead);
    KeLoaderBlock = boot->loader_block;
    init_memory(boot);
    init_processes();
    init_debugger_data(kernel_base);
    init_version_block(kernel_base);
    init_shared_data();
}
