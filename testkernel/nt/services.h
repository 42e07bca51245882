// SPDX-License-Identifier: MIT
// What code of the kernel calls to talk to a debugger: the Dbg* routines over int 2Dh (KD reference, section 5.1), and
// the instructions that debuggers know by address.
#pragma once
#include "testkernel/nt/nt.h"

// The int3 of DbgBreakPointWithStatus; KDDEBUGGER_DATA64.BreakpointWithStatus points at it.
extern const uint8_t RtlpBreakWithStatusInstruction[];

// An int3. The debugger moves PC behind it before it continues. Without KD it is a bug check.
void HAL_STDCALL DbgBreakPoint(void);
// The same with a reason (enum nt_break_status) in RCX, or EAX of a 32-bit kernel.
void HAL_STDCALL DbgBreakPointWithStatus(uint32_t status);

// Up to 512 characters. Breaks in when the debugger asked for it while the text was sent.
uint32_t DbgPrint(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Return: characters of the answer, which is terminated when there is room.
uint32_t HAL_STDCALL DbgPrompt(const char *prompt, char *response, uint32_t size);
void DbgLoadImageSymbols(const struct kd_string *path, const struct nt_symbols_info *info);
void DbgUnLoadImageSymbols(const struct kd_string *path, const struct nt_symbols_info *info);
void DbgCommandString(const struct kd_string *name, const struct kd_string *command);
// int 2Ch.
void NtAssert(void);

// int 2Dh with the service's registers set as NT sets them, then the int3 that the kernel skips.
uintptr_t NtDebugService(uintptr_t service, uintptr_t arg1, uintptr_t arg2, uintptr_t arg3, uintptr_t arg4);
