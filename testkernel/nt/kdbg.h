// SPDX-License-Identifier: MIT
// KDDEBUGGER_DATA64: where a debugger finds everything else (KD reference, section 7.2). Layout up to Windows 7,
// header size 0x340. 64-bit fields hold addresses of kernel variables unless the comment says "value".
#pragma once
#include "testkernel/nt/nt.h"

#define KDBG_OWNER_TAG 0x4742444Bu // "KDBG"

struct kd_debugger_data {
    union {
        // A 32-bit kernel links the first words as a native LIST_ENTRY.
        struct nt_list_entry List;
        uint64_t List64[2];
    };
    uint32_t OwnerTag;
    uint32_t Size;

    uint64_t KernBase; // value
    uint64_t BreakpointWithStatus, SavedContext;
    uint16_t ThCallbackStack, NextCallback, FramePointer, PaeEnabled;
    uint64_t KiCallUserMode, KeUserCallbackDispatcher, PsLoadedModuleList, PsActiveProcessHead, PspCidTable,
             ExpSystemResourcesList, ExpPagedPoolDescriptor, ExpNumberOfPagedPools, KeTimeIncrement,
             KeBugCheckCallbackListHead, KiBugcheckData, IopErrorLogListHead, ObpRootDirectoryObject,
             ObpTypeObjectType, MmSystemCacheStart, MmSystemCacheEnd, MmSystemCacheWs, MmPfnDatabase,
             MmSystemPtesStart, MmSystemPtesEnd, MmSubsectionBase, MmNumberOfPagingFiles,
             MmLowestPhysicalPage, MmHighestPhysicalPage, MmNumberOfPhysicalPages,
             MmMaximumNonPagedPoolInBytes, MmNonPagedSystemStart, MmNonPagedPoolStart, MmNonPagedPoolEnd,
             MmPagedPoolStart, MmPagedPoolEnd, MmPagedPoolInformation;
    uint64_t MmPageSize; // value
    uint64_t MmSizeOfPagedPoolInBytes, MmTotalCommitLimit, MmTotalCommittedPages, MmSharedCommit,
             MmDriverCommit, MmProcessCommit, MmPagedPoolCommit, MmExtendedCommit, MmZeroedPageListHead,
             MmFreePageListHead, MmStandbyPageListHead, MmModifiedPageListHead,
             MmModifiedNoWritePageListHead, MmAvailablePages, MmResidentAvailablePages, PoolTrackTable,
             NonPagedPoolDescriptor, MmHighestUserAddress, MmSystemRangeStart, MmUserProbeAddress,
             KdPrintCircularBuffer, KdPrintCircularBufferEnd, KdPrintWritePointer, KdPrintRolloverCount,
             MmLoadedUserImageList;
    uint64_t NtBuildLab, KiNormalSystemCall;
    uint64_t KiProcessorBlock, MmUnloadedDrivers, MmLastUnloadedDriver, MmTriageActionTaken,
             MmSpecialPoolTag, KernelVerifier, MmVerifierData, MmAllocatedNonPagedPool, MmPeakCommitment,
             MmTotalCommitLimitMaximum, CmNtCSDVersion;
    uint64_t MmPhysicalMemoryBlock, MmSessionBase, MmSessionSize, MmSystemParentTablePage;
    uint64_t MmVirtualTranslationBase;
    uint16_t OffsetKThreadNextProcessor, OffsetKThreadTeb, OffsetKThreadKernelStack,
             OffsetKThreadInitialStack, OffsetKThreadApcProcess, OffsetKThreadState, OffsetKThreadBStore,
             OffsetKThreadBStoreLimit, SizeEProcess, OffsetEprocessPeb, OffsetEprocessParentCID,
             OffsetEprocessDirectoryTableBase, SizePrcb, OffsetPrcbDpcRoutine, OffsetPrcbCurrentThread,
             OffsetPrcbMhz, OffsetPrcbCpuType, OffsetPrcbVendorString, OffsetPrcbProcStateContext,
             OffsetPrcbNumber, SizeEThread;
    uint64_t KdPrintCircularBufferPtr, KdPrintBufferSize, KeLoaderBlock;
    uint16_t SizePcr, OffsetPcrSelfPcr, OffsetPcrCurrentPrcb, OffsetPcrContainedPrcb, OffsetPcrInitialBStore,
             OffsetPcrBStoreLimit, OffsetPcrInitialStack, OffsetPcrStackLimit, OffsetPrcbPcrPage,
             OffsetPrcbProcStateSpecialReg, GdtR0Code, GdtR0Data, GdtR0Pcr, GdtR3Code, GdtR3Data, GdtR3Teb,
             GdtLdt, GdtTss, Gdt64R3CmCode, Gdt64R3CmTeb;
    uint64_t IopNumTriageDumpDataBlocks, IopTriageDumpDataBlocks;
    uint64_t VfCrashDataBlock, MmBadPagesDetected, MmZeroedPageSingleBitErrorsDetected;
    uint64_t EtwpDebuggerData;
    uint16_t OffsetPrcbContext;
};
NT_ASSERT_SIZE(struct kd_debugger_data, 0x340);
NT_ASSERT_AT(struct kd_debugger_data, KernBase, 0x018);
NT_ASSERT_AT(struct kd_debugger_data, PaeEnabled, 0x036);
NT_ASSERT_AT(struct kd_debugger_data, PsLoadedModuleList, 0x048);
NT_ASSERT_AT(struct kd_debugger_data, PsActiveProcessHead, 0x050);
NT_ASSERT_AT(struct kd_debugger_data, KiBugcheckData, 0x088);
NT_ASSERT_AT(struct kd_debugger_data, MmPfnDatabase, 0x0C0);
NT_ASSERT_AT(struct kd_debugger_data, KdPrintCircularBuffer, 0x1E0);
NT_ASSERT_AT(struct kd_debugger_data, NtBuildLab, 0x208);
NT_ASSERT_AT(struct kd_debugger_data, KiProcessorBlock, 0x218);
NT_ASSERT_AT(struct kd_debugger_data, MmPhysicalMemoryBlock, 0x270);
NT_ASSERT_AT(struct kd_debugger_data, OffsetKThreadNextProcessor, 0x298);
NT_ASSERT_AT(struct kd_debugger_data, OffsetEprocessDirectoryTableBase, 0x2AE);
NT_ASSERT_AT(struct kd_debugger_data, OffsetPrcbProcStateContext, 0x2BC);
NT_ASSERT_AT(struct kd_debugger_data, OffsetPrcbNumber, 0x2BE);
NT_ASSERT_AT(struct kd_debugger_data, KdPrintCircularBufferPtr, 0x2C8);
NT_ASSERT_AT(struct kd_debugger_data, SizePcr, 0x2E0);
NT_ASSERT_AT(struct kd_debugger_data, OffsetPrcbProcStateSpecialReg, 0x2F2);
NT_ASSERT_AT(struct kd_debugger_data, GdtR0Code, 0x2F4);
NT_ASSERT_AT(struct kd_debugger_data, Gdt64R3CmTeb, 0x306);
NT_ASSERT_AT(struct kd_debugger_data, IopNumTriageDumpDataBlocks, 0x308);
NT_ASSERT_AT(struct kd_debugger_data, EtwpDebuggerData, 0x330);
NT_ASSERT_AT(struct kd_debugger_data, OffsetPrcbContext, 0x338);
