// SPDX-License-Identifier: MIT
// The kernel-debugger engine: how this kernel stops for a debugger and what it answers while stopped.
//
//   trap -> kd_enter: this CPU owns the debugger, the others are frozen, KdSave
//        -> kd_report_*: state change, conversation until Continue
//        -> kd_leave: KdRestore, registers back, the others thaw
//
// Rules: interrupts are off from kd_enter to kd_leave and nothing in between may fault, print, or take a lock that a
// frozen CPU could hold. One message buffer serves everything, so only the owner and, after SwitchProcessor, the
// reporting CPU may send.
#pragma once
#include "testkernel/nt/kd_wire.h"
#include "testkernel/nt/nt_cpu.h"

extern uint8_t KdDebuggerNotPresent; // exported, written by the transport
extern uint8_t KdDebuggerEnabled;    // exported
extern struct kd_context KdpContext;
extern uint8_t KdpMessageBuffer[KD_MESSAGE_SIZE];

// How a stop ends, or what a request does to the conversation.
enum kd_outcome {
    KD_NONE,       // not decided yet
    KD_REPLY,      // request: send the reply
    KD_SILENT,     // request: no reply packet exists for it
    KD_HANDLED,    // run on, exception handled
    KD_UNHANDLED,  // run on, exception dispatching continues
    KD_SWITCH,     // another CPU becomes the reporter
    KD_SAME_CPU,   // SwitchProcessor to this one or to none: report once more
    KD_BUGCHECK,   // CauseBugCheck
};

// ---- kd_freeze.c: who owns the debugger ------------------------------------------------------------------------

// Returns with all other CPUs frozen and this one's state saved; may itself be frozen by others first.
void kd_enter(struct hal_frame *frame);
void kd_leave(struct hal_frame *frame);
// The debugger is busy on this very CPU: an exception now is the engine's own fault.
bool kd_is_entered_here(void);
// Hands the conversation to another CPU and waits for it to come back. Return: KD_SAME_CPU when this CPU is selected
// again, otherwise the outcome that another CPU's conversation ended with.
enum kd_outcome kd_switch_to(unsigned cpu);

// try-lock around the transport for the break-in poll, which runs while the other CPUs do.
bool kd_port_try_lock(void);
void kd_port_unlock(void);

// ---- kd_stop.c: state changes and conversations ----------------------------------------------------------------

// All of them: between kd_enter and kd_leave, on the reporting CPU; they send the state change as often as the
// debugger wants it and serve its requests.
// Return: KD_HANDLED, KD_UNHANDLED (means nothing for notices) or KD_BUGCHECK: the caller leaves, then bug-checks.
enum kd_outcome kd_report_exception(const struct nt_exception_record *record, bool first_chance);
// The artificial stop of a CPU that SwitchProcessor has selected.
enum kd_outcome kd_report_switch(void);
// path may be NULL (shutdown notices); it and the names below are copied, bad pointers shorten them.
enum kd_outcome kd_report_symbols(const struct kd_string *path, const struct nt_symbols_info *info, bool is_unload);
// The debugger may execute the command; the kernel waits for Continue.
enum kd_outcome kd_report_command(const struct kd_string *name, const struct kd_string *command);
// Hands one packet to the transport, which returns when it was acknowledged or may be dropped (then it has set
// KdDebuggerNotPresent). data may be NULL. Lengths in bytes, together at most KD_PACKET_MAX_SIZE.
void kd_send(uint32_t type, void *header, size_t header_len, const void *data, size_t data_len);
// The transport's KdReceivePacket, its codes as they come.
uint32_t kd_port_receive(uint32_t type, struct kd_string *header, struct kd_string *data, uint32_t *ret_data_len, struct kd_context *context);
// From now on the kernel calls the functions that its import address table leads to now, whatever becomes of the table.
void kd_bypass_imports(void);
// Receives one packet of a type into header and KdpMessageBuffer. Never returns KD_TIMED_OUT.
enum kd_receive kd_receive(uint32_t type, void *header, size_t header_len, uint32_t *ret_data_len);

// ---- kd_requests*.c: one function per request ------------------------------------------------------------------

struct kd_request {
    struct kd_manipulate m;
    uint8_t *data;       // KdpMessageBuffer: request data in, reply data out
    uint32_t data_len;   // bytes of request data; the handler sets the reply's
    unsigned target_cpu; // of a switch
};

typedef enum kd_outcome kd_handler(struct kd_request *r);

// Executes r->m. Return: KD_REPLY (r->m and r->data hold the reply), KD_SILENT, or how the conversation ends.
enum kd_outcome kd_request_dispatch(struct kd_request *r);
// A new stop: SetContext wants a GetContext first.
void kd_requests_begin_stop(void);

kd_handler kd_read_virtual, kd_write_virtual, kd_read_physical, kd_write_physical, kd_search_memory, kd_fill_memory,
    kd_query_memory;
kd_handler kd_get_context, kd_set_context, kd_get_context_ex, kd_set_context_ex, kd_read_control_space,
    kd_write_control_space, kd_read_msr, kd_write_msr, kd_continue, kd_continue2, kd_switch_processor;
kd_handler kd_read_io, kd_write_io, kd_read_io_extended, kd_write_io_extended, kd_get_bus_data, kd_set_bus_data;
kd_handler kd_write_breakpoint, kd_restore_breakpoint, kd_refuse_breakpoint_ex;

// A trace range set by Continue2 swallows single steps inside it (KD reference, section 4.4).
bool kd_trace_swallows(const struct nt_exception_record *record, struct hal_frame *frame);

// ---- kd_breakpoints.c ------------------------------------------------------------------------------------------

// Takes every breakpoint in [first, last] out of memory and out of the table. Return: how many there were.
unsigned kd_breakpoints_delete_range(uintptr_t first, uintptr_t last);
// Writes breakpoints whose page was absent when they were set and has since appeared.
void kd_breakpoints_set_pending(void);

// ---- kd_print.c, kd_file.c -------------------------------------------------------------------------------------

// Text to the circular buffer and to the debugger. Return: STATUS_SUCCESS, STATUS_BREAKPOINT when a break-in came
// with it, STATUS_UNSUCCESSFUL when there is no debugger.
ntstatus_t kd_print(const char *text, size_t len, struct hal_frame *frame);
// Asks the debugger's user. Return: characters put into answer.
size_t kd_prompt(const char *text, size_t len, char *answer, size_t size, struct hal_frame *frame);
bool kd_poll_break_in(void);
// The same inside kd_enter: the port is already this CPU's.
bool kd_poll_break_in_owned(void);

struct kd_remote_file {
    uint64_t handle;
    uint64_t length;
};

// The .kdfiles exchange. Return: the debugger's status; passive context.
ntstatus_t kd_file_open(const char *name, struct kd_remote_file *ret);
ntstatus_t kd_file_read(const struct kd_remote_file *file, uint64_t offset, void *buf, uint32_t len, uint32_t *ret_len);
ntstatus_t kd_file_close(const struct kd_remote_file *file);
