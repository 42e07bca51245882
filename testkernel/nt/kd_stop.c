// SPDX-License-Identifier: MIT
// State changes and the conversation that follows each of them.
#include "testkernel/nt/kd.h"

#include "testkernel/nt/nt_data.h"

struct kd_context KdpContext = {.retries = 20};
uint8_t KdpMessageBuffer[KD_MESSAGE_SIZE];

// One per stop kind would do, but only one is ever being sent.
static struct kd_state_change change;

// Set by kd_bypass_imports; NULL: through the import address table, as kernels do.
static void(HAL_STDCALL *volatile send_directly)(uint32_t, struct kd_string *, struct kd_string *, struct kd_context *);
static uint32_t(HAL_STDCALL *volatile receive_directly)(uint32_t, struct kd_string *, struct kd_string *, uint32_t *, struct kd_context *);

void kd_bypass_imports(void)
{
    send_directly = KdSendPacket;
    receive_directly = KdReceivePacket;
}

uint32_t kd_port_receive(uint32_t type, struct kd_string *header, struct kd_string *data, uint32_t *ret_data_len, struct kd_context *context)
{
    if (receive_directly != NULL)
        return receive_directly(type, header, data, ret_data_len, context);
    return KdReceivePacket(type, header, data, ret_data_len, context);
}

void kd_send(uint32_t type, void *header, size_t header_len, const void *data, size_t data_len)
{
    // MaximumLength stays 0: transports must not rely on it when they send (KD reference, section 2.5).
    struct kd_string head = {.length = (uint16_t)header_len, .buffer = header};
    struct kd_string body = {.length = (uint16_t)data_len, .buffer = (void *)data};

    if (send_directly != NULL)
        send_directly(type, &head, data == NULL ? NULL : &body, &KdpContext);
    else
        KdSendPacket(type, &head, data == NULL ? NULL : &body, &KdpContext);
}

enum kd_receive kd_receive(uint32_t type, void *header, size_t header_len, uint32_t *ret_data_len)
{
    struct kd_string head = {.maximum_length = (uint16_t)header_len, .buffer = header};
    struct kd_string body = {.maximum_length = KD_MESSAGE_SIZE, .buffer = KdpMessageBuffer};
    uint32_t data_len = 0;
    uint32_t code;

    do {
        code = kd_port_receive(type, &head, &body, &data_len, &KdpContext);
    } while (code == KD_TIMED_OUT);
    if (code != KD_RECEIVED)
        return KD_RESEND;
    *ret_data_len = data_len <= KD_MESSAGE_SIZE ? data_len : KD_MESSAGE_SIZE;
    return KD_RECEIVED;
}

static uint16_t copy_instructions(uint8_t stream[16], uintptr_t pc)
{
    size_t copied;

    (void)hal_copy_from(stream, pc, 16, &copied); // the count says how much came
    return (uint16_t)copied;
}

// Breakpoints under the code that the report shows leave the table, and the report shows the code without them.
static void fill_instructions(struct nt_control_report *report, uintptr_t pc)
{
    uint16_t count = copy_instructions(report->InstructionStream, pc);

    if (count > 0 && kd_breakpoints_delete_range(pc, pc + count - 1) > 0)
        count = copy_instructions(report->InstructionStream, pc);
    report->InstructionCount = count;
}

static void fill_common(uint32_t new_state)
{
    const struct nt_kprcb *prcb = nt_cpu_prcb(hal_cpu_index());
    uintptr_t pc = nt_context_pc(&prcb->ProcessorState.ContextFrame);

    memset(&change, 0, sizeof(change));
    change.NewState = new_state;
    change.ProcessorLevel = nt_cpu_level();
    change.Processor = (uint16_t)prcb->Number;
    change.NumberProcessors = nt_cpu_online_count();
    change.Thread = nt_address(prcb->CurrentThread);
    change.ProgramCounter = nt_extend(pc);
    nt_cpu_fill_report(&change.ControlReport, prcb);
    fill_instructions(&change.ControlReport, pc);
    change.ControlReport.ReportFlags =
        NT_REPORT_INCLUDES_SEGS | (change.ControlReport.SegCs == NT_KERNEL_CS ? NT_REPORT_STANDARD_CS : 0);
}

static void send_reply(struct kd_request *r)
{
    kd_send(KD_STATE_MANIPULATE, &r->m, sizeof(r->m), r->data, r->data_len);
}

// Serves requests until one of them ends the conversation or the state change has to be sent again.
static enum kd_outcome serve_requests(void)
{
    static struct kd_request r;

    for (;;) {
        r.data = KdpMessageBuffer;
        if (kd_receive(KD_STATE_MANIPULATE, &r.m, sizeof(r.m), &r.data_len) == KD_RESEND)
            return KD_NONE;
        enum kd_outcome result = kd_request_dispatch(&r);
        if (result == KD_REPLY)
            send_reply(&r);
        else if (result == KD_SWITCH)
            return kd_switch_to(r.target_cpu);
        else if (result != KD_SILENT)
            return result;
    }
}

static bool may_be_dropped(void)
{
    return change.NewState == KD_STATE_LOAD_SYMBOLS && KdDebuggerNotPresent;
}

// The state change is rebuilt by nobody while it is repeated: what the debugger changed meanwhile it knows itself.
static enum kd_outcome converse(const void *data, size_t data_len)
{
    struct kd_state_change mine = change; // another CPU's report overwrites the shared one
    enum kd_outcome result;

    bench_stop_end();
    do {
        kd_send(KD_STATE_CHANGE64, &mine, sizeof(mine), data, data_len);
        if (may_be_dropped())
            return KD_HANDLED;
        result = serve_requests();
    } while (result == KD_NONE || result == KD_SAME_CPU);
    return result;
}

enum kd_outcome kd_report_exception(const struct nt_exception_record *record, bool first_chance)
{
    static const uint32_t no_trace_data[1] = {1}; // an array whose first element counts its elements

    KdpContext.control_c_pending = 0; // the debugger has what it asked for
    fill_common(KD_STATE_EXCEPTION);
    change.u.Exception.Record = *record;
    change.u.Exception.FirstChance = first_chance;
    return converse(no_trace_data, sizeof(no_trace_data));
}

enum kd_outcome kd_report_switch(void)
{
    struct nt_exception_record record = {.ExceptionCode = (uint32_t)STATUS_WAKE_SYSTEM_DEBUGGER};
    bool saved = KdSave(0) == STATUS_SUCCESS;

    record.ExceptionAddress = nt_extend(nt_context_pc(&nt_cpu_prcb(hal_cpu_index())->ProcessorState.ContextFrame));
    enum kd_outcome result = kd_report_exception(&record, true);
    if (saved)
        (void)KdRestore(0); // its status has no use: the dialogue is over
    return result;
}

enum kd_outcome kd_report_symbols(const struct kd_string *path, const struct nt_symbols_info *info, bool is_unload)
{
    uint8_t name[256];
    size_t len = 0;

    fill_common(KD_STATE_LOAD_SYMBOLS);
    struct kd_load_symbols *symbols = &change.u.LoadSymbols;
    if (path != NULL) {
        size_t want = path->length < sizeof(name) - 1 ? path->length : sizeof(name) - 1;
        (void)hal_copy_from(name, (hal_va_t)path->buffer, want, &len); // a bad name is a short name
        name[len++] = 0;
    }
    symbols->PathNameLength = (uint32_t)len;
    symbols->BaseOfDll = nt_address(info->BaseOfDll);
    symbols->ProcessId = nt_address(info->ProcessId);
    symbols->CheckSum = info->CheckSum;
    symbols->SizeOfImage = info->SizeOfImage;
    symbols->UnloadSymbols = is_unload;
    return converse(len > 0 ? name : NULL, len);
}

static size_t append_text(uint8_t *buf, size_t used, size_t size, const struct kd_string *text, size_t max)
{
    size_t want = text->length < max ? text->length : max;
    size_t copied = 0;

    if (want > size - used - 1)
        want = size - used - 1;
    (void)hal_copy_from(buf + used, (hal_va_t)text->buffer, want, &copied); // a bad string is a short string
    buf[used + copied] = 0;
    return used + copied + 1;
}

enum kd_outcome kd_report_command(const struct kd_string *name, const struct kd_string *command)
{
    static uint8_t text[1024];
    size_t len;

    fill_common(KD_STATE_COMMAND_STRING);
    len = append_text(text, 0, sizeof(text), name, 127);
    len = append_text(text, len, sizeof(text), command, sizeof(text));
    return converse(text, len);
}
