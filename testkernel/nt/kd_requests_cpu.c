// SPDX-License-Identifier: MIT
// Contexts, control space, model-specific registers, and running on.
#include "testkernel/nt/kd.h"

// The processor's own debugger control bits, changed by Continue2.
#define TRACE_RANGE_KEEP 1u

static bool context_sent;
static uint64_t trace_first, trace_last; // equal: no range

void kd_requests_begin_stop(void)
{
    context_sent = false;
    kd_breakpoints_set_pending();
}

static enum kd_outcome finish(struct kd_request *r, ntstatus_t status, uint32_t reply_len)
{
    r->m.ReturnStatus = status;
    r->data_len = reply_len;
    return KD_REPLY;
}

static struct nt_processor_state *state_of(const struct kd_request *r)
{
    return nt_cpu_is_online(r->m.Processor) ? &nt_cpu_prcb(r->m.Processor)->ProcessorState : NULL;
}

enum kd_outcome kd_get_context(struct kd_request *r)
{
    struct nt_processor_state *state = state_of(r);

    if (state == NULL)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy(r->data, &state->ContextFrame, sizeof(state->ContextFrame));
    context_sent = true;
    return finish(r, STATUS_SUCCESS, sizeof(state->ContextFrame));
}

enum kd_outcome kd_set_context(struct kd_request *r)
{
    struct nt_processor_state *state = state_of(r);

    if (state == NULL || !context_sent || r->data_len < sizeof(state->ContextFrame))
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy(&state->ContextFrame, r->data, sizeof(state->ContextFrame));
    return finish(r, STATUS_SUCCESS, 0);
}

static bool window_fits(const struct kd_context_ex *window)
{
    return (uint64_t)window->Offset + window->ByteCount <= sizeof(struct nt_context);
}

enum kd_outcome kd_get_context_ex(struct kd_request *r)
{
    struct kd_context_ex *window = &r->m.u.ContextEx;
    struct nt_processor_state *state = state_of(r);

    window->BytesCopied = 0;
    if (state == NULL || !window_fits(window))
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy(r->data, (const uint8_t *)&state->ContextFrame + window->Offset, window->ByteCount);
    window->BytesCopied = window->ByteCount;
    context_sent = true;
    return finish(r, STATUS_SUCCESS, window->ByteCount);
}

enum kd_outcome kd_set_context_ex(struct kd_request *r)
{
    struct kd_context_ex *window = &r->m.u.ContextEx;
    struct nt_processor_state *state = state_of(r);

    window->BytesCopied = 0;
    if (state == NULL || !context_sent || !window_fits(window) || r->data_len < window->ByteCount)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy((uint8_t *)&state->ContextFrame + window->Offset, r->data, window->ByteCount);
    window->BytesCopied = window->ByteCount;
    return finish(r, STATUS_SUCCESS, 0);
}

#if NT_64BIT

// An object per index. Addresses are taken from where the debugger expects to find them.
static const void *control_object(const struct kd_request *r, uint64_t scratch[1], uint32_t *ret_len)
{
    struct nt_kprcb *prcb = nt_cpu_prcb(r->m.Processor);

    *ret_len = sizeof(scratch[0]);
    switch (r->m.u.Memory.TargetBaseAddress) {
    case 0:
        scratch[0] = nt_address(nt_cpu_pcr(r->m.Processor));
        return scratch;
    case 1:
        scratch[0] = nt_address(prcb);
        return scratch;
    case 2:
        *ret_len = sizeof(prcb->ProcessorState.SpecialRegisters);
        return &prcb->ProcessorState.SpecialRegisters;
    case 3:
        scratch[0] = nt_address(prcb->CurrentThread);
        return scratch;
    default:
        return NULL;
    }
}

enum kd_outcome kd_read_control_space(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    uint64_t scratch[1];
    uint32_t len = 0;
    const void *object = state_of(r) != NULL ? control_object(r, scratch, &len) : NULL;

    m->ActualBytes = 0;
    if (object == NULL)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    len = m->TransferCount < len ? m->TransferCount : len;
    memcpy(r->data, object, len);
    m->ActualBytes = len;
    return finish(r, STATUS_SUCCESS, len);
}

// The echo of the data is what ReactOS and others send (KD reference, section 4.4).
enum kd_outcome kd_write_control_space(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    struct nt_processor_state *state = state_of(r);

    m->ActualBytes = 0;
    if (state == NULL || m->TargetBaseAddress != 2)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    uint32_t len = (uint32_t)sizeof(state->SpecialRegisters);
    len = r->data_len < len ? r->data_len : len;
    memcpy(&state->SpecialRegisters, r->data, len);
    m->ActualBytes = len;
    return finish(r, STATUS_SUCCESS, len);
}

#else

// A window into KPROCESSOR_STATE, clipped at its end. Return: bytes, 0 when it starts behind the end.
static uint32_t control_window(const struct kd_memory *m, uint32_t want)
{
    const uint32_t size = sizeof(struct nt_processor_state);

    if (m->TargetBaseAddress >= size)
        return 0;
    uint32_t room = size - (uint32_t)m->TargetBaseAddress;
    return want < room ? want : room;
}

enum kd_outcome kd_read_control_space(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    const struct nt_processor_state *state = state_of(r);
    uint32_t len = state != NULL ? control_window(m, m->TransferCount) : 0;

    m->ActualBytes = len;
    if (len == 0)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy(r->data, (const uint8_t *)state + m->TargetBaseAddress, len);
    return finish(r, STATUS_SUCCESS, len);
}

enum kd_outcome kd_write_control_space(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    struct nt_processor_state *state = state_of(r);
    uint32_t len = state != NULL ? control_window(m, r->data_len) : 0;

    m->ActualBytes = len;
    if (len == 0)
        return finish(r, STATUS_UNSUCCESSFUL, 0);
    memcpy((uint8_t *)state + m->TargetBaseAddress, r->data, len);
    return finish(r, STATUS_SUCCESS, len);
}

#endif

enum kd_outcome kd_read_msr(struct kd_request *r)
{
    struct kd_msr *msr = &r->m.u.Msr;
    uint64_t value = 0;
    int rc = hal_read_msr(msr->Msr, &value);

    msr->DataValueLow = (uint32_t)value;
    msr->DataValueHigh = (uint32_t)(value >> 32);
    return finish(r, rc == 0 ? STATUS_SUCCESS : STATUS_NO_SUCH_DEVICE, 0);
}

enum kd_outcome kd_write_msr(struct kd_request *r)
{
    const struct kd_msr *msr = &r->m.u.Msr;
    int rc = hal_write_msr(msr->Msr, (uint64_t)msr->DataValueHigh << 32 | msr->DataValueLow);

    return finish(r, rc == 0 ? STATUS_SUCCESS : STATUS_NO_SUCH_DEVICE, 0);
}

enum kd_outcome kd_continue(struct kd_request *r)
{
    return NT_SUCCESS(r->m.u.ContinueStatus) ? KD_HANDLED : KD_UNHANDLED;
}

static void set_trace_flag(bool on)
{
    struct nt_context *context = &nt_cpu_prcb(hal_cpu_index())->ProcessorState.ContextFrame;

    context->EFlags = (context->EFlags & ~NT_EFLAGS_TF) | (on ? NT_EFLAGS_TF : 0);
}

enum kd_outcome kd_continue2(struct kd_request *r)
{
    const struct kd_continue2 *c = &r->m.u.Continue2;

    if (!NT_SUCCESS(c->ContinueStatus))
        return KD_UNHANDLED;
    set_trace_flag(c->TraceFlag != 0);
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        struct nt_special_registers *special = &nt_cpu_prcb(cpu)->ProcessorState.SpecialRegisters;
        special->KernelDr7 = c->Dr7;
        special->KernelDr6 = 0;
    }
    if (c->CurrentSymbolStart != TRACE_RANGE_KEEP) {
        trace_first = c->CurrentSymbolStart;
        trace_last = c->CurrentSymbolEnd;
    }
    return KD_HANDLED;
}

bool kd_trace_swallows(const struct nt_exception_record *record, struct hal_frame *frame)
{
    uint64_t pc = frame->ip;

    if (record->ExceptionCode != (uint32_t)STATUS_SINGLE_STEP || trace_first == trace_last || pc < trace_first ||
        pc > trace_last)
        return false;
    frame->flags |= NT_EFLAGS_TF;
    return true;
}

enum kd_outcome kd_switch_processor(struct kd_request *r)
{
    r->target_cpu = r->m.Processor;
    if (r->target_cpu == hal_cpu_index() || !nt_cpu_is_online(r->target_cpu))
        return KD_SAME_CPU;
    return KD_SWITCH;
}
