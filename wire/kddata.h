// SPDX-License-Identifier: MIT
// What a debugger reads from kernel memory to find everything else: the data block behind DebuggerDataList
// (KDDEBUGGER_DATA64) and the entries of PsLoadedModuleList. KD reference, sections 7.1, 7.2, 7.4.
//
// Rules: as kdapi.h. The bytes come from guest memory: they may be anything.
#ifndef WIRE_KDDATA_H
#define WIRE_KDDATA_H

#include "wire/kdapi.h"

// ---- Header of a data block ------------------------------------------------------------------
#define KD_DATA_TAG 0x4742444Bu // "KDBG"
#define KD_DATA_HEADER_SIZE 0x18u
struct kd_data_header {
	uint64_t flink, blink; // a 32-bit kernel links native pointers: sign-extended here
	uint32_t tag;
	uint32_t size; // of the whole block, this header included
};
// -> KD_OK, KD_E_SHORT, KD_E_UNKNOWN (machine). The tag is the caller's to check: other owners may be in the list.
WIRE_MUST_CHECK int kd_data_header_decode(const uint8_t *bytes, size_t len, uint32_t machine, struct kd_data_header *ret);

// ---- KDDEBUGGER_DATA64 ---------------------------------------------------------------------------
// X(offset, size, name, kind, first version). Kind 'A': address of a kernel variable, array, list head or routine; 'V': the value
// itself. A field of an Offset, Size or Gdt name that is 0 means "not told". One structure serves 32-bit and 64-bit kernels; a
// 32-bit kernel may leave the upper half of an address zero, so mask or sign-extend there (kd_data_get_address does).
#define KD_DATA_LIST(X) \
	X(0x018, 8, KernBase, 'V', "NT5.0") \
	X(0x020, 8, BreakpointWithStatus, 'A', "NT5.0") \
	X(0x028, 8, SavedContext, 'A', "NT5.0") \
	X(0x030, 2, ThCallbackStack, 'V', "NT5.0") \
	X(0x032, 2, NextCallback, 'V', "NT5.0") \
	X(0x034, 2, FramePointer, 'V', "NT5.0") \
	X(0x036, 2, PaeEnabled, 'V', "NT5.0") \
	X(0x038, 8, KiCallUserMode, 'A', "NT5.0") \
	X(0x040, 8, KeUserCallbackDispatcher, 'A', "NT5.0") \
	X(0x048, 8, PsLoadedModuleList, 'A', "NT5.0") \
	X(0x050, 8, PsActiveProcessHead, 'A', "NT5.0") \
	X(0x058, 8, PspCidTable, 'A', "NT5.0") \
	X(0x060, 8, ExpSystemResourcesList, 'A', "NT5.0") \
	X(0x068, 8, ExpPagedPoolDescriptor, 'A', "NT5.0") \
	X(0x070, 8, ExpNumberOfPagedPools, 'A', "NT5.0") \
	X(0x078, 8, KeTimeIncrement, 'A', "NT5.0") \
	X(0x080, 8, KeBugCheckCallbackListHead, 'A', "NT5.0") \
	X(0x088, 8, KiBugcheckData, 'A', "NT5.0") \
	X(0x090, 8, IopErrorLogListHead, 'A', "NT5.0") \
	X(0x098, 8, ObpRootDirectoryObject, 'A', "NT5.0") \
	X(0x0A0, 8, ObpTypeObjectType, 'A', "NT5.0") \
	X(0x0A8, 8, MmSystemCacheStart, 'A', "NT5.0") \
	X(0x0B0, 8, MmSystemCacheEnd, 'A', "NT5.0") \
	X(0x0B8, 8, MmSystemCacheWs, 'A', "NT5.0") \
	X(0x0C0, 8, MmPfnDatabase, 'A', "NT5.0") \
	X(0x0C8, 8, MmSystemPtesStart, 'A', "NT5.0") \
	X(0x0D0, 8, MmSystemPtesEnd, 'A', "NT5.0") \
	X(0x0D8, 8, MmSubsectionBase, 'A', "NT5.0") \
	X(0x0E0, 8, MmNumberOfPagingFiles, 'A', "NT5.0") \
	X(0x0E8, 8, MmLowestPhysicalPage, 'A', "NT5.0") \
	X(0x0F0, 8, MmHighestPhysicalPage, 'A', "NT5.0") \
	X(0x0F8, 8, MmNumberOfPhysicalPages, 'A', "NT5.0") \
	X(0x100, 8, MmMaximumNonPagedPoolInBytes, 'A', "NT5.0") \
	X(0x108, 8, MmNonPagedSystemStart, 'A', "NT5.0") \
	X(0x110, 8, MmNonPagedPoolStart, 'A', "NT5.0") \
	X(0x118, 8, MmNonPagedPoolEnd, 'A', "NT5.0") \
	X(0x120, 8, MmPagedPoolStart, 'A', "NT5.0") \
	X(0x128, 8, MmPagedPoolEnd, 'A', "NT5.0") \
	X(0x130, 8, MmPagedPoolInformation, 'A', "NT5.0") \
	X(0x138, 8, MmPageSize, 'V', "NT5.0") \
	X(0x140, 8, MmSizeOfPagedPoolInBytes, 'A', "NT5.0") \
	X(0x148, 8, MmTotalCommitLimit, 'A', "NT5.0") \
	X(0x150, 8, MmTotalCommittedPages, 'A', "NT5.0") \
	X(0x158, 8, MmSharedCommit, 'A', "NT5.0") \
	X(0x160, 8, MmDriverCommit, 'A', "NT5.0") \
	X(0x168, 8, MmProcessCommit, 'A', "NT5.0") \
	X(0x170, 8, MmPagedPoolCommit, 'A', "NT5.0") \
	X(0x178, 8, MmExtendedCommit, 'A', "NT5.0") \
	X(0x180, 8, MmZeroedPageListHead, 'A', "NT5.0") \
	X(0x188, 8, MmFreePageListHead, 'A', "NT5.0") \
	X(0x190, 8, MmStandbyPageListHead, 'A', "NT5.0") \
	X(0x198, 8, MmModifiedPageListHead, 'A', "NT5.0") \
	X(0x1A0, 8, MmModifiedNoWritePageListHead, 'A', "NT5.0") \
	X(0x1A8, 8, MmAvailablePages, 'A', "NT5.0") \
	X(0x1B0, 8, MmResidentAvailablePages, 'A', "NT5.0") \
	X(0x1B8, 8, PoolTrackTable, 'A', "NT5.0") \
	X(0x1C0, 8, NonPagedPoolDescriptor, 'A', "NT5.0") \
	X(0x1C8, 8, MmHighestUserAddress, 'A', "NT5.0") \
	X(0x1D0, 8, MmSystemRangeStart, 'A', "NT5.0") \
	X(0x1D8, 8, MmUserProbeAddress, 'A', "NT5.0") \
	X(0x1E0, 8, KdPrintCircularBuffer, 'A', "NT5.0") \
	X(0x1E8, 8, KdPrintCircularBufferEnd, 'A', "NT5.0") \
	X(0x1F0, 8, KdPrintWritePointer, 'A', "NT5.0") \
	X(0x1F8, 8, KdPrintRolloverCount, 'A', "NT5.0") \
	X(0x200, 8, MmLoadedUserImageList, 'A', "NT5.0") \
	X(0x208, 8, NtBuildLab, 'A', "NT5.1") \
	X(0x210, 8, KiNormalSystemCall, 'A', "NT5.1") \
	X(0x218, 8, KiProcessorBlock, 'A', "NT5.0-hotfix") \
	X(0x220, 8, MmUnloadedDrivers, 'A', "NT5.0-hotfix") \
	X(0x228, 8, MmLastUnloadedDriver, 'A', "NT5.0-hotfix") \
	X(0x230, 8, MmTriageActionTaken, 'A', "NT5.0-hotfix") \
	X(0x238, 8, MmSpecialPoolTag, 'A', "NT5.0-hotfix") \
	X(0x240, 8, KernelVerifier, 'A', "NT5.0-hotfix") \
	X(0x248, 8, MmVerifierData, 'A', "NT5.0-hotfix") \
	X(0x250, 8, MmAllocatedNonPagedPool, 'A', "NT5.0-hotfix") \
	X(0x258, 8, MmPeakCommitment, 'A', "NT5.0-hotfix") \
	X(0x260, 8, MmTotalCommitLimitMaximum, 'A', "NT5.0-hotfix") \
	X(0x268, 8, CmNtCSDVersion, 'A', "NT5.0-hotfix") \
	X(0x270, 8, MmPhysicalMemoryBlock, 'A', "NT5.1") \
	X(0x278, 8, MmSessionBase, 'A', "NT5.1") \
	X(0x280, 8, MmSessionSize, 'A', "NT5.1") \
	X(0x288, 8, MmSystemParentTablePage, 'A', "NT5.1") \
	X(0x290, 8, MmVirtualTranslationBase, 'A', "WS2003") \
	X(0x298, 2, OffsetKThreadNextProcessor, 'V', "WS2003") \
	X(0x29A, 2, OffsetKThreadTeb, 'V', "WS2003") \
	X(0x29C, 2, OffsetKThreadKernelStack, 'V', "WS2003") \
	X(0x29E, 2, OffsetKThreadInitialStack, 'V', "WS2003") \
	X(0x2A0, 2, OffsetKThreadApcProcess, 'V', "WS2003") \
	X(0x2A2, 2, OffsetKThreadState, 'V', "WS2003") \
	X(0x2A4, 2, OffsetKThreadBStore, 'V', "WS2003") \
	X(0x2A6, 2, OffsetKThreadBStoreLimit, 'V', "WS2003") \
	X(0x2A8, 2, SizeEProcess, 'V', "WS2003") \
	X(0x2AA, 2, OffsetEprocessPeb, 'V', "WS2003") \
	X(0x2AC, 2, OffsetEprocessParentCID, 'V', "WS2003") \
	X(0x2AE, 2, OffsetEprocessDirectoryTableBase, 'V', "WS2003") \
	X(0x2B0, 2, SizePrcb, 'V', "WS2003") \
	X(0x2B2, 2, OffsetPrcbDpcRoutine, 'V', "WS2003") \
	X(0x2B4, 2, OffsetPrcbCurrentThread, 'V', "WS2003") \
	X(0x2B6, 2, OffsetPrcbMhz, 'V', "WS2003") \
	X(0x2B8, 2, OffsetPrcbCpuType, 'V', "WS2003") \
	X(0x2BA, 2, OffsetPrcbVendorString, 'V', "WS2003") \
	X(0x2BC, 2, OffsetPrcbProcStateContext, 'V', "WS2003") \
	X(0x2BE, 2, OffsetPrcbNumber, 'V', "WS2003") \
	X(0x2C0, 2, SizeEThread, 'V', "WS2003") \
	X(0x2C8, 8, KdPrintCircularBufferPtr, 'A', "WS2003") \
	X(0x2D0, 8, KdPrintBufferSize, 'A', "WS2003") \
	X(0x2D8, 8, KeLoaderBlock, 'A', "WS2003") \
	X(0x2E0, 2, SizePcr, 'V', "WS2003") \
	X(0x2E2, 2, OffsetPcrSelfPcr, 'V', "WS2003") \
	X(0x2E4, 2, OffsetPcrCurrentPrcb, 'V', "WS2003") \
	X(0x2E6, 2, OffsetPcrContainedPrcb, 'V', "WS2003") \
	X(0x2E8, 2, OffsetPcrInitialBStore, 'V', "WS2003") \
	X(0x2EA, 2, OffsetPcrBStoreLimit, 'V', "WS2003") \
	X(0x2EC, 2, OffsetPcrInitialStack, 'V', "WS2003") \
	X(0x2EE, 2, OffsetPcrStackLimit, 'V', "WS2003") \
	X(0x2F0, 2, OffsetPrcbPcrPage, 'V', "WS2003") \
	X(0x2F2, 2, OffsetPrcbProcStateSpecialReg, 'V', "WS2003") \
	X(0x2F4, 2, GdtR0Code, 'V', "WS2003") \
	X(0x2F6, 2, GdtR0Data, 'V', "WS2003") \
	X(0x2F8, 2, GdtR0Pcr, 'V', "WS2003") \
	X(0x2FA, 2, GdtR3Code, 'V', "WS2003") \
	X(0x2FC, 2, GdtR3Data, 'V', "WS2003") \
	X(0x2FE, 2, GdtR3Teb, 'V', "WS2003") \
	X(0x300, 2, GdtLdt, 'V', "WS2003") \
	X(0x302, 2, GdtTss, 'V', "WS2003") \
	X(0x304, 2, Gdt64R3CmCode, 'V', "WS2003") \
	X(0x306, 2, Gdt64R3CmTeb, 'V', "WS2003") \
	X(0x308, 8, IopNumTriageDumpDataBlocks, 'A', "WS2003") \
	X(0x310, 8, IopTriageDumpDataBlocks, 'A', "WS2003") \
	X(0x318, 8, VfCrashDataBlock, 'A', "Vista") \
	X(0x320, 8, MmBadPagesDetected, 'A', "Vista") \
	X(0x328, 8, MmZeroedPageSingleBitErrorsDetected, 'A', "Vista") \
	X(0x330, 8, EtwpDebuggerData, 'A', "Win7") \
	X(0x338, 2, OffsetPrcbContext, 'V', "Win7") \
	X(0x33A, 2, OffsetPrcbMaxBreakpoints, 'V', "Win8") \
	X(0x33C, 2, OffsetPrcbMaxWatchpoints, 'V', "Win8") \
	X(0x340, 4, OffsetKThreadStackLimit, 'V', "Win8") \
	X(0x344, 4, OffsetKThreadStackBase, 'V', "Win8") \
	X(0x348, 4, OffsetKThreadQueueListEntry, 'V', "Win8") \
	X(0x34C, 4, OffsetEThreadIrpList, 'V', "Win8") \
	X(0x350, 2, OffsetPrcbIdleThread, 'V', "Win8") \
	X(0x352, 2, OffsetPrcbNormalDpcState, 'V', "Win8") \
	X(0x354, 2, OffsetPrcbDpcStack, 'V', "Win8") \
	X(0x356, 2, OffsetPrcbIsrStack, 'V', "Win8") \
	X(0x358, 2, SizeKDPC_STACK_FRAME, 'V', "Win8") \
	X(0x35A, 2, OffsetKPriQueueThreadListHead, 'V', "Win8.1") \
	X(0x35C, 2, OffsetKThreadWaitReason, 'V', "Win8.1") \
	X(0x360, 8, PteBase, 'A', "Win10-RS1") \
	X(0x368, 8, RetpolineStubFunctionTable, 'A', "Win10-RS5") \
	X(0x370, 4, RetpolineStubFunctionTableSize, 'V', "Win10-RS5") \
	X(0x374, 4, RetpolineStubOffset, 'V', "Win10-RS5") \
	X(0x378, 4, RetpolineStubSize, 'V', "Win10-RS5") \
	X(0x37C, 2, OffsetEProcessMmHotPatchContext, 'V', "Win10-Iron") \
	X(0x380, 4, OffsetKThreadShadowStackLimit, 'V', "Win11-Cobalt") \
	X(0x384, 4, OffsetKThreadShadowStackBase, 'V', "Win11-Cobalt") \
	X(0x388, 8, ShadowStackEnabled, 'A', "Win11-Cobalt") \
	X(0x390, 8, PointerAuthMask, 'A', "Win11-Nickel") \
	X(0x398, 2, OffsetPrcbExceptionStack, 'V', "Win11-Nickel") \
	X(0x3A0, 8, PointerIgnoreBits, 'A', "newest-SDK")
enum kd_data_field {
#define X(offset, size, name, kind, since) KD_DATA_##name = (offset),
	KD_DATA_LIST(X)
#undef X
	KD_DATA_SIZE_MAX = 0x3A8, // the newest block that is known
};

struct kd_data_info {
	const char *name;
	uint16_t offset;
	uint8_t size;
	char kind; // 'A', 'V'
	const char *since;
};
const struct kd_data_info *kd_data_fields(size_t *ret_count); // in order of offset

// Read one field of a block of `len` bytes. -> KD_OK, KD_E_SHORT (this kernel's block ends before it, by `len` or by Header.Size),
// KD_E_UNKNOWN (not a field).
WIRE_MUST_CHECK int kd_data_get(const uint8_t *block, size_t len, enum kd_data_field field, uint64_t *ret);
// The same for a field that holds an address: sign-extended for KD_MACHINE_X86.
WIRE_MUST_CHECK int kd_data_get_address(const uint8_t *block, size_t len, enum kd_data_field field, uint32_t machine, uint64_t *ret);

// ---- Loader entries ------------------------------------------------------------------------------
#define KD_MODULE_SIZE_X64 0x80u // bytes that kd_module_decode wants
#define KD_MODULE_SIZE_X86 0x44u
struct kd_unicode {
	uint16_t len; // bytes, even; UTF-16LE without a guaranteed NUL
	uint16_t max_len;
	uint64_t buffer;
};
struct kd_module {
	uint64_t flink, blink; // InLoadOrderLinks
	uint64_t base, entry_point;
	uint32_t image_size;
	struct kd_unicode full_name, base_name;
	uint32_t flags;
	uint16_t load_count;
	uint32_t checksum;
};
// -> KD_OK, KD_E_SHORT, KD_E_RANGE (a name of odd length or longer than its buffer), KD_E_UNKNOWN (machine).
WIRE_MUST_CHECK int kd_module_decode(const uint8_t *bytes, size_t len, uint32_t machine, struct kd_module *ret);

#endif
