// SPDX-License-Identifier: MIT
// The end of a session: KeBugCheckEx, and the orderly shutdown notice.
#pragma once
#include "testkernel/nt/nt.h"

// Any context. Saves code and parameters in KiBugCheckData, prints them, breaks into a debugger that is there, then
// does what the command line says: `bugcheck=halt` (default), `reboot`, or `exit` (verdict: failed).
_Noreturn void HAL_STDCALL KeBugCheckEx(uint32_t code, uintptr_t p1, uintptr_t p2, uintptr_t p3, uintptr_t p4);

// What NT sends before it resets or sleeps: an unload of everything (KD reference, section 3.3).
void nt_notify_shutdown(void);
void nt_notify_hibernate(void);
