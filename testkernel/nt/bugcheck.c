// SPDX-License-Identifier: MIT
#include "testkernel/nt/bugcheck.h"

#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/services.h"

static void break_with(uint32_t status)
{
    if (KdDebuggerEnabled && !KdDebuggerNotPresent)
        DbgBreakPointWithStatus(status);
}

_Noreturn static void finish(void)
{
    char action[16];

    if (hal_option("bugcheck", 0, action, sizeof(action)) != 0)
        action[0] = 0;
    if (strcmp(action, "reboot") == 0)
        hal_reboot();
    if (strcmp(action, "exit") == 0) {
        hal_log("TK: verdict failed: bug check 0x%x\n", (unsigned)KiBugCheckData[0]);
        hal_exit(HAL_VERDICT_FAIL);
    }
    // Halted, but still polled by the clock: a debugger may break in and look.
    hal_idle_forever();
}

_Noreturn void HAL_STDCALL KeBugCheckEx(uint32_t code, uintptr_t p1, uintptr_t p2, uintptr_t p3, uintptr_t p4)
{
    const uintptr_t data[5] = {code, p1, p2, p3, p4};

    (void)hal_interrupts_off();
    memcpy(KiBugCheckData, data, sizeof(data));
    hal_log("TK: bug check 0x%x (%p, %p, %p, %p)\n", code, (void *)p1, (void *)p2, (void *)p3, (void *)p4);
    DbgPrint("\n*** Fatal System Error: 0x%08x\n                       (0x%p,0x%p,0x%p,0x%p)\n\n", code, (void *)p1,
             (void *)p2, (void *)p3, (void *)p4);
    break_with(NT_BREAK_BUGCHECK_FIRST);
    DbgPrint("A fatal system error has occurred.\n");
    break_with(NT_BREAK_BUGCHECK_SECOND);
    finish();
}

static void notify(void *what)
{
    const struct nt_symbols_info info = {.BaseOfDll = what};

    DbgUnLoadImageSymbols(NULL, &info);
}

void nt_notify_shutdown(void)
{
    notify(NT_KD_REBOOT);
}

void nt_notify_hibernate(void)
{
    notify(NT_KD_HIBERNATE);
}
