// SPDX-License-Identifier: MIT
// Scenarios in which something goes wrong, and those that end the machine.
#include "testkernel/nt/scenario.h"

#include "testkernel/nt/bugcheck.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/services.h"
#include "testkernel/nt/trap.h"

#if NT_64BIT
#define SYM(name) #name
#define ARG1 "%rcx"
#define FASTCALL
#else
#define SYM(name) "_" #name
#define ARG1 "%ecx"
#define FASTCALL __attribute__((fastcall))
#endif

// Instructions that fault at a known address, each followed by the place where its guard resumes.
extern const uint8_t TkFaultRead[], TkFaultReadEnd[], TkFaultWrite[], TkFaultWriteEnd[], TkFaultDivide[],
    TkFaultDivideEnd[];

// Not static: the compiler must not rearrange the arguments of a function whose body it cannot read.
void FASTCALL tk_read_byte(const volatile void *address);
void FASTCALL tk_write_byte(volatile void *address);
void tk_divide_by_zero(void);

__attribute__((naked, noinline)) void FASTCALL tk_read_byte(const volatile void *address NT_UNUSED)
{
    __asm__(".globl " SYM(TkFaultRead) ", " SYM(TkFaultReadEnd) "\n" SYM(TkFaultRead) ":\n\t"
            "movb (" ARG1 "), %al\n" SYM(TkFaultReadEnd) ":\n\t"
            "ret");
}

__attribute__((naked, noinline)) void FASTCALL tk_write_byte(volatile void *address NT_UNUSED)
{
    __asm__(".globl " SYM(TkFaultWrite) ", " SYM(TkFaultWriteEnd) "\n" SYM(TkFaultWrite) ":\n\t"
            "movb $1, (" ARG1 ")\n" SYM(TkFaultWriteEnd) ":\n\t"
            "ret");
}

__attribute__((naked, noinline)) void tk_divide_by_zero(void)
{
    __asm__("xorl %ecx, %ecx\n\t"
            "xorl %edx, %edx\n\t"
            "movl $1, %eax\n\t"
            ".globl " SYM(TkFaultDivide) ", " SYM(TkFaultDivideEnd) "\n" SYM(TkFaultDivide) ":\n\t"
            "divl %ecx\n" SYM(TkFaultDivideEnd) ":\n\t"
            "ret");
}

static const struct nt_guard fault_guards[] = {
    {TkFaultRead, TkFaultReadEnd, TkFaultReadEnd},
    {TkFaultWrite, TkFaultWriteEnd, TkFaultWriteEnd},
    {TkFaultDivide, TkFaultDivideEnd, TkFaultDivideEnd},
};

#define BAD_ADDRESS ((volatile void *)(uintptr_t)0x1234)

static void run_exception(uint64_t arg)
{
    (void)arg;
    for (size_t i = 0; i < sizeof(fault_guards) / sizeof(fault_guards[0]); i++)
        (void)nt_guard_add(&fault_guards[i]); // a full table shows as a second chance
    NtGlobalFlag |= NT_FLAG_STOP_ON_EXCEPTION;
    tk_read_byte(BAD_ADDRESS);
    tk_write_byte(BAD_ADDRESS);
    tk_divide_by_zero();
    NtGlobalFlag &= ~NT_FLAG_STOP_ON_EXCEPTION;
    tk_read_byte(BAD_ADDRESS); // no first-chance stop now
    DbgBreakPoint();
    NtAssert();
    DbgPrint("TK: exceptions survived\n");
}

static void run_secondchance(uint64_t arg)
{
    (void)arg;
    tk_read_byte(BAD_ADDRESS);
}

static void run_bugcheck(uint64_t arg)
{
    (void)arg;
    KeBugCheckEx(0xDEADDEAD, 1, 2, 3, 4);
}

static void run_reboot(uint64_t arg)
{
    (void)arg;
    DbgPrint("TK: rebooting\n");
    nt_notify_shutdown();
    hal_reboot();
}

static void run_triplefault(uint64_t arg)
{
    (void)arg;
    hal_triple_fault();
}

static void run_printthentriple(uint64_t lines)
{
    lines = lines != 0 ? lines : 10;
    for (uint64_t i = 1; i <= lines; i++)
        DbgPrint("TK: last words %u of %u\n", (unsigned)i, (unsigned)lines);
    hal_triple_fault();
}

static void run_wait(uint64_t ticks)
{
    scenario_wait_ticks((unsigned)(ticks != 0 ? ticks : 64));
}

const struct scenario scenarios_faults[] = {
    {.name = "exception", .help = "access violations, division, int3, assertion; first chances on",
     .run = run_exception},
    {.name = "secondchance", .help = "an access violation that nobody handles", .run = run_secondchance},
    {.name = "bugcheck", .help = "KeBugCheckEx(DEADDEAD, 1, 2, 3, 4); then bugcheck=halt|reboot|exit",
     .run = run_bugcheck},
    {.name = "reboot", .help = "shutdown notice, then a reset", .run = run_reboot},
    {.name = "triplefault", .help = "the CPU gives up", .run = run_triplefault},
    {.name = "printthentriple", .help = "printthentriple=N prints, then the CPU gives up",
     .run = run_printthentriple},
    {.name = "wait", .help = "wait=N clock ticks, 64 without N", .run = run_wait},
    {.name = "poweroff", .help = "powers off with the verdict so far", .ends = true},
    {0},
};
