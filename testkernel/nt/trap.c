// SPDX-License-Identifier: MIT
#include "testkernel/nt/trap.h"

#include "testkernel/nt/bugcheck.h"
#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_data.h"

#define GUARD_MAX 16u
#define PF_WRITE 2u
#define PF_FETCH 16u
#define EXCEPTION_EXECUTE 8u
#define DR6_SINGLE_STEP 0x4000u
#define DR6_BREAKPOINTS 0xFu
#define UNEXPECTED_KERNEL_MODE_TRAP 0x7Fu
#define INT_2C_SIZE 2u

static const struct nt_guard *guards[GUARD_MAX];
static unsigned guard_count;

int nt_guard_add(const struct nt_guard *guard)
{
    if (guard_count == GUARD_MAX)
        return 1;
    guards[guard_count++] = guard;
    return 0;
}

static bool resume_at_guard(struct hal_frame *frame)
{
    for (unsigned i = 0; i < guard_count; i++) {
        const struct nt_guard *g = guards[i];
        if (frame->ip >= (uintptr_t)g->first && frame->ip < (uintptr_t)g->end) {
            frame->ip = (uintptr_t)g->resume;
            return true;
        }
    }
    return false;
}

// ---- exception records, as NT's trap handlers make them --------------------------------------------------------

static void record_breakpoint(struct nt_exception_record *r, struct hal_frame *f)
{
    r->ExceptionCode = (uint32_t)STATUS_BREAKPOINT;
    r->NumberParameters = 3;
    r->ExceptionInformation[0] = NT_BREAKPOINT_BREAK;
#if NT_64BIT
    r->ExceptionInformation[1] = f->rcx;
    r->ExceptionInformation[2] = f->rdx;
#else
    r->ExceptionInformation[1] = f->ecx;
    r->ExceptionInformation[2] = f->edx;
#endif
}

static void record_page_fault(struct nt_exception_record *r, const struct hal_frame *f)
{
    r->ExceptionCode = (uint32_t)STATUS_ACCESS_VIOLATION;
    r->NumberParameters = 2;
    r->ExceptionInformation[0] = f->error & PF_FETCH ? EXCEPTION_EXECUTE : f->error & PF_WRITE ? 1 : 0;
    r->ExceptionInformation[1] = nt_extend(hal_read_cr(2));
}

static void record_protection_fault(struct nt_exception_record *r)
{
    r->ExceptionCode = (uint32_t)STATUS_ACCESS_VIOLATION;
    r->NumberParameters = 2;
    r->ExceptionInformation[1] = UINT64_MAX; // NT's "address unknown"
}

// Return: false for vectors that NT answers with a bug check of their own.
static bool make_record(struct nt_exception_record *r, struct hal_frame *f)
{
    memset(r, 0, sizeof(*r));
    switch (f->vector) {
    case HAL_TRAP_BP:
        f->ip--; // PC points at the int3
        record_breakpoint(r, f);
        break;
    case HAL_TRAP_DB:
        r->ExceptionCode = (uint32_t)STATUS_SINGLE_STEP;
        break;
    case HAL_TRAP_ASSERT:
        f->ip -= INT_2C_SIZE;
        r->ExceptionCode = (uint32_t)STATUS_ASSERTION_FAILURE;
        break;
    case HAL_TRAP_DE:
        r->ExceptionCode = (uint32_t)STATUS_INTEGER_DIVIDE_BY_ZERO;
        break;
    case HAL_TRAP_UD:
        r->ExceptionCode = (uint32_t)STATUS_ILLEGAL_INSTRUCTION;
        break;
    case HAL_TRAP_PF:
        record_page_fault(r, f);
        break;
    case HAL_TRAP_GP:
        record_protection_fault(r);
        break;
    default:
        return false;
    }
    r->ExceptionAddress = nt_extend(f->ip);
    return true;
}

// ---- dispatching -----------------------------------------------------------------------------------------------

static bool is_debug_exception(const struct nt_exception_record *r)
{
    return r->ExceptionCode == (uint32_t)STATUS_BREAKPOINT || r->ExceptionCode == (uint32_t)STATUS_SINGLE_STEP ||
           r->ExceptionCode == (uint32_t)STATUS_ASSERTION_FAILURE;
}

static bool wants_first_chance(const struct nt_exception_record *r)
{
    return is_debug_exception(r) || (NtGlobalFlag & NT_FLAG_STOP_ON_EXCEPTION) != 0;
}

// While this CPU waited to own the debugger, the debugger may have taken the breakpoint away that stopped it.
static bool is_stale_breakpoint(const struct hal_frame *f)
{
    uint8_t byte;
    size_t done;

    return f->vector == HAL_TRAP_BP && hal_copy_from(&byte, f->ip, 1, &done) == 0 && byte != 0xCC;
}

// An assertion that the debugger continues from is passed over, else it would be raised for ever.
static void step_over_assertion(struct hal_frame *f, uintptr_t address)
{
    if (f->vector == HAL_TRAP_ASSERT && f->ip == address)
        f->ip += INT_2C_SIZE;
}

static void bugcheck_if_asked(enum kd_outcome outcome)
{
    if (outcome == KD_BUGCHECK)
        KeBugCheckEx(NT_MANUALLY_INITIATED_CRASH, 0, 0, 0, 0);
}

static bool report(struct hal_frame *f, const struct nt_exception_record *r, bool first_chance)
{
    uintptr_t address = f->ip;
    enum kd_outcome outcome;

    kd_enter(f);
    if (is_stale_breakpoint(f))
        outcome = KD_HANDLED;
    else
        outcome = kd_report_exception(r, first_chance);
    kd_leave(f);
    bugcheck_if_asked(outcome);
    if (outcome == KD_HANDLED)
        step_over_assertion(f, address);
    return outcome == KD_HANDLED;
}

static void consume_single_step(const struct nt_exception_record *r, struct hal_frame *f)
{
    if (r->ExceptionCode == (uint32_t)STATUS_SINGLE_STEP)
        f->flags &= ~(uintptr_t)NT_EFLAGS_TF;
}

static bool dispatch(struct hal_frame *f)
{
    struct nt_exception_record record;

    if (!make_record(&record, f))
        return false;
    consume_single_step(&record, f);
    if (kd_trace_swallows(&record, f))
        return true;
    if (KdDebuggerEnabled && wants_first_chance(&record) && report(f, &record, true))
        return true;
    if (resume_at_guard(f))
        return true;
    if (KdDebuggerEnabled && report(f, &record, false))
        return true;
    KeBugCheckEx(NT_KMODE_EXCEPTION_NOT_HANDLED, (uintptr_t)nt_extend(record.ExceptionCode), f->ip,
                 (uintptr_t)record.ExceptionInformation[0], (uintptr_t)record.ExceptionInformation[1]);
}

// ---- int 2Dh ---------------------------------------------------------------------------------------------------

struct service_call {
    uintptr_t number, arg1, arg2, arg3, arg4;
};

static struct service_call service_of(const struct hal_frame *f)
{
#if NT_64BIT
    return (struct service_call){(uint32_t)f->rax, f->rcx, f->rdx, f->r8, f->r9};
#else
    return (struct service_call){f->eax, f->ecx, f->edx, f->ebx, f->edi};
#endif
}

static void set_result(struct hal_frame *f, uintptr_t value)
{
#if NT_64BIT
    f->rax = value;
#else
    f->eax = value;
#endif
}

static bool copy_string(uintptr_t from, struct kd_string *ret)
{
    size_t done;

    return from != 0 && hal_copy_from(ret, from, sizeof(*ret), &done) == 0;
}

static void symbols_service(const struct service_call *call, struct hal_frame *f)
{
    struct kd_string path;
    struct nt_symbols_info info;
    size_t done;

    if (!KdDebuggerEnabled || KdDebuggerNotPresent || hal_copy_from(&info, call->arg2, sizeof(info), &done) != 0)
        return;
    bool has_path = copy_string(call->arg1, &path);
    kd_enter(f);
    enum kd_outcome outcome =
        kd_report_symbols(has_path ? &path : NULL, &info, call->number == NT_BREAKPOINT_UNLOAD_SYMBOLS);
    kd_leave(f);
    bugcheck_if_asked(outcome);
}

static void command_service(const struct service_call *call, struct hal_frame *f)
{
    struct kd_string name, command;

    if (!KdDebuggerEnabled || KdDebuggerNotPresent || !copy_string(call->arg1, &name) ||
        !copy_string(call->arg2, &command))
        return;
    kd_enter(f);
    enum kd_outcome outcome = kd_report_command(&name, &command);
    kd_leave(f);
    bugcheck_if_asked(outcome);
}

static bool service(struct hal_frame *f)
{
    const struct service_call call = service_of(f);

    // The debugger sees PC at the int3 that follows; the kernel skips it unless the debugger moved PC itself.
    uintptr_t address = f->ip;
    switch (call.number) {
    case NT_BREAKPOINT_PRINT:
        set_result(f, (uintptr_t)(intptr_t)kd_print((const char *)call.arg1, call.arg2, f));
        break;
    case NT_BREAKPOINT_PROMPT:
        set_result(f, kd_prompt((const char *)call.arg1, call.arg2, (char *)call.arg3, call.arg4, f));
        break;
    case NT_BREAKPOINT_LOAD_SYMBOLS:
    case NT_BREAKPOINT_UNLOAD_SYMBOLS:
        symbols_service(&call, f);
        break;
    case NT_BREAKPOINT_COMMAND_STRING:
        command_service(&call, f);
        break;
    default:
        return false;
    }
    if (f->ip == address)
        f->ip++;
    return true;
}

bool nt_trap(struct hal_frame *frame)
{
    if (kd_is_entered_here())
        return false; // a fault of the debugger engine or of the transport: nobody is left to tell
    if (frame->vector == HAL_TRAP_SERVICE)
        return service(frame);
    if (frame->vector == HAL_TRAP_DF)
        return false;
    return dispatch(frame);
}
