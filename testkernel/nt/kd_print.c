// SPDX-License-Identifier: MIT
// Debug prints, prompts and the break-in poll.
#include "testkernel/nt/kd.h"

#include "testkernel/nt/nt_data.h"

uint8_t KdDebuggerNotPresent = 1;
uint8_t KdDebuggerEnabled;

#define PRINT_LENGTH_MAX 512u
#define PROMPT_LENGTH_MAX 512u

static void log_text(const char *text, size_t len)
{
    KdPrintWritePointer = KdPrintWritePointer == NULL ? KdPrintCircularBuffer : KdPrintWritePointer;
    for (size_t i = 0; i < len; i++) {
        *KdPrintWritePointer++ = text[i];
        if (KdPrintWritePointer == KdPrintCircularBuffer + NT_PRINT_BUFFER_SIZE) {
            KdPrintWritePointer = KdPrintCircularBuffer;
            KdPrintRolloverCount++;
        }
    }
}

static struct kd_debug_io debug_io_header(uint32_t api, size_t len)
{
    return (struct kd_debug_io){
        .ApiNumber = api,
        .ProcessorLevel = nt_cpu_level(),
        .Processor = (uint16_t)hal_cpu_index(),
        .LengthOfString = (uint32_t)len,
    };
}

bool kd_poll_break_in_owned(void)
{
    if (!KdDebuggerEnabled)
        return false;
    if (KdpContext.control_c_pending) {
        KdpContext.control_c_pending = 0;
        return true;
    }
    return kd_port_receive(KD_POLL_BREAKIN, NULL, NULL, NULL, NULL) == KD_RECEIVED;
}

bool kd_poll_break_in(void)
{
    bool is_wanted = false;
    bool were_on = hal_interrupts_off();

    if (kd_port_try_lock()) {
        is_wanted = kd_poll_break_in_owned();
        kd_port_unlock();
    }
    if (is_wanted)
        bench_stop_begin();
    hal_interrupts_restore(were_on);
    return is_wanted;
}

static bool print_owned(const char *text, size_t len)
{
    struct kd_debug_io io = debug_io_header(KD_PRINT_STRING, len);

    kd_send(KD_DEBUG_IO, &io, sizeof(io), text, len);
    return kd_poll_break_in_owned();
}

ntstatus_t kd_print(const char *text, size_t len, struct hal_frame *frame)
{
    static char copy[PRINT_LENGTH_MAX];
    size_t copied;

    kd_enter(frame);
    (void)hal_copy_from(copy, (hal_va_t)text, len < sizeof(copy) ? len : sizeof(copy), &copied); // bad text is short
    log_text(copy, copied);
    bool has_debugger = KdDebuggerEnabled && !KdDebuggerNotPresent;
    bool break_in = has_debugger && print_owned(copy, copied);
    kd_leave(frame);
    if (!has_debugger)
        return STATUS_UNSUCCESSFUL;
    return break_in ? STATUS_BREAKPOINT : STATUS_SUCCESS;
}

static uint32_t ask(const char *text, size_t len, size_t max_answer)
{
    struct kd_debug_io io, reply;
    uint32_t answer_len = 0;

    do {
        io = debug_io_header(KD_GET_STRING, len);
        io.LengthOfStringRead = (uint32_t)max_answer;
        kd_send(KD_DEBUG_IO, &io, sizeof(io), text, len);
    } while (kd_receive(KD_DEBUG_IO, &reply, sizeof(reply), &answer_len) == KD_RESEND);
    return answer_len < max_answer ? answer_len : (uint32_t)max_answer;
}

size_t kd_prompt(const char *text, size_t len, char *answer, size_t size, struct hal_frame *frame)
{
    static char copy[PROMPT_LENGTH_MAX];
    size_t copied, stored = 0;

    if (!KdDebuggerEnabled || KdDebuggerNotPresent)
        return 0;
    kd_enter(frame);
    (void)hal_copy_from(copy, (hal_va_t)text, len < sizeof(copy) ? len : sizeof(copy), &copied); // bad text is short
    log_text(copy, copied);
    uint32_t answer_len = ask(copy, copied, size < PROMPT_LENGTH_MAX ? size : PROMPT_LENGTH_MAX);
    (void)hal_copy_to((hal_va_t)answer, KdpMessageBuffer, answer_len, &stored); // a bad buffer gets what fits
    log_text((const char *)KdpMessageBuffer, answer_len);
    kd_leave(frame);
    return stored;
}
