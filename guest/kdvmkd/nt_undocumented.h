// SPDX-License-Identifier: MIT
// Every NT declaration this module relies on that no public Windows header has, or that is declared here because no Windows header
// is included at all. NT names end at this file, ntkernel.c and exports.c.
//
// Evidence marks: documented = a public Microsoft header or page; observed = seen in a running kernel or in public symbols;
// inferred = follows from others, not seen. Sources are in docs/evidence.md and KD reference, sections 1.9 and 2.
#ifndef GUEST_KDVMKD_NT_UNDOCUMENTED_H
#define GUEST_KDVMKD_NT_UNDOCUMENTED_H

#include "wire/compiler.h"

#ifdef __i386__
#define NTAPI __attribute__((stdcall)) // documented; on i386 the callee pops
#else
#define NTAPI
#endif

#ifdef _WIN32
#define NT_IMPORT __attribute__((dllimport))
#else
#define NT_IMPORT // the tests of what needs only the types
#endif

#define STATUS_SUCCESS 0
#define STATUS_NOT_SUPPORTED ((int32_t)0xC00000BB) // documented

// documented (ntdef.h). KD calls it a buffer: MaximumLength is valid for receiving only (KD reference, section 2.5).
struct nt_string {
	uint16_t Length;
	uint16_t MaximumLength;
	void *Buffer;
};
#ifdef __i386__
WIRE_ASSERT_SIZE(struct nt_string, 8);
WIRE_ASSERT_AT(struct nt_string, Buffer, 4);
#else
WIRE_ASSERT_SIZE(struct nt_string, 16);
WIRE_ASSERT_AT(struct nt_string, Buffer, 8);
#endif

// observed (public symbols; KD reference, section 2.3): the kernel's one instance, handed to every call.
struct nt_kd_context {
	uint32_t KdpDefaultRetries;
	uint8_t KdpControlCPending;
};
WIRE_ASSERT_AT(struct nt_kd_context, KdpControlCPending, 4);

// documented (ntddk.h, KUSER_SHARED_DATA): fixed address, same layout since Windows 2000 for these two. KdDebuggerEnabled: bit 0 =
// KD is enabled, bit 1 = a debugger is present (observed; KD reference, section 1.9).
#ifdef __i386__
#define SHARED_USER_DATA 0xFFDF0000u
#else
#define SHARED_USER_DATA 0xFFFFF78000000000ull
#endif
#define SHARED_INTERRUPT_TIME 0x008u    // KSYSTEM_TIME: low, high 1, high 2; read high 1, low, high 2 until both highs agree
#define SHARED_KD_DEBUGGER_ENABLED 0x2D4u
#define SHARED_KD_ENABLED 0x01u
#define SHARED_KD_PRESENT 0x02u

// inferred: exported by kernels from Windows 10 on. The ids are those of the public Win32 metadata
// (RTL_SYSTEM_GLOBAL_DATA_ID); the setter takes the same arguments as the getter: id, buffer, bytes. Settable for this id: observed
// by others in KDNET's modules.
typedef int32_t(NTAPI *rtl_set_system_global_data_fn)(uint32_t id, void *buffer, uint32_t size);
#define GLOBAL_DATA_KD_DEBUGGER_ENABLED 10u

// documented (ntddk.h), exported data, one byte each. Imported data arrives as a pointer.
extern NT_IMPORT volatile uint8_t KdDebuggerNotPresent;
extern NT_IMPORT volatile uint8_t KdDebuggerEnabled;

// documented (ntddk.h). 0 for an address that is not mapped. Usable in phase 0 for the module's own pages (KD reference, section 2.2).
// LARGE_INTEGER comes back in EDX:EAX on i386, as an integer of that size does.
NT_IMPORT int64_t NTAPI MmGetPhysicalAddress(void *address);

#endif
