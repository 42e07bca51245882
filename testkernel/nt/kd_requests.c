// SPDX-License-Identifier: MIT
// Which function answers which request (KD reference, section 4.3), and the requests that need no file of their own.
#include "testkernel/nt/kd.h"

#include "testkernel/nt/nt_data.h"

static enum kd_outcome fail_with(struct kd_request *r, ntstatus_t status)
{
    r->m.ReturnStatus = status;
    r->data_len = 0;
    return KD_REPLY;
}

static enum kd_outcome refuse(struct kd_request *r)
{
    return fail_with(r, STATUS_UNSUCCESSFUL);
}

static enum kd_outcome get_version(struct kd_request *r)
{
    r->m.u.Version = KdVersionBlock;
    return fail_with(r, STATUS_SUCCESS);
}

// No calls are special here: the list is empty.
static enum kd_outcome query_special_calls(struct kd_request *r)
{
    r->m.u.NumberOfSpecialCalls = 0;
    return fail_with(r, STATUS_SUCCESS);
}

// A check of memory below 4 GiB on kernels booted with /NOLOWMEM; this one keeps no such promise to check.
static enum kd_outcome check_low_memory(struct kd_request *r)
{
    return fail_with(r, STATUS_SUCCESS);
}

static enum kd_outcome clear_internal_breakpoints(struct kd_request *r)
{
    (void)r;
    return KD_SILENT;
}

static enum kd_outcome reboot(struct kd_request *r)
{
    (void)r;
    hal_reboot();
}

static enum kd_outcome cause_bugcheck(struct kd_request *r)
{
    (void)r;
    return KD_BUGCHECK;
}

// Numbers without a name (0x314A to 0x314F, 0x3154, 0x3155) stay NULL: unknown.
static kd_handler *const handlers[KD_API_MAX - KD_API_FIRST] = {
    [KD_API_READ_VIRTUAL - KD_API_FIRST] = kd_read_virtual,
    [KD_API_WRITE_VIRTUAL - KD_API_FIRST] = kd_write_virtual,
    [KD_API_GET_CONTEXT - KD_API_FIRST] = kd_get_context,
    [KD_API_SET_CONTEXT - KD_API_FIRST] = kd_set_context,
    [KD_API_WRITE_BREAKPOINT - KD_API_FIRST] = kd_write_breakpoint,
    [KD_API_RESTORE_BREAKPOINT - KD_API_FIRST] = kd_restore_breakpoint,
    [KD_API_CONTINUE - KD_API_FIRST] = kd_continue,
    [KD_API_READ_CONTROL_SPACE - KD_API_FIRST] = kd_read_control_space,
    [KD_API_WRITE_CONTROL_SPACE - KD_API_FIRST] = kd_write_control_space,
    [KD_API_READ_IO - KD_API_FIRST] = kd_read_io,
    [KD_API_WRITE_IO - KD_API_FIRST] = kd_write_io,
    [KD_API_REBOOT - KD_API_FIRST] = reboot,
    [KD_API_CONTINUE2 - KD_API_FIRST] = kd_continue2,
    [KD_API_READ_PHYSICAL - KD_API_FIRST] = kd_read_physical,
    [KD_API_WRITE_PHYSICAL - KD_API_FIRST] = kd_write_physical,
    [KD_API_QUERY_SPECIAL_CALLS - KD_API_FIRST] = query_special_calls,
    [KD_API_SET_SPECIAL_CALL - KD_API_FIRST] = refuse,
    [KD_API_CLEAR_SPECIAL_CALLS - KD_API_FIRST] = refuse,
    [KD_API_SET_INTERNAL_BREAKPOINT - KD_API_FIRST] = refuse,
    [KD_API_GET_INTERNAL_BREAKPOINT - KD_API_FIRST] = refuse,
    [KD_API_READ_IO_EXTENDED - KD_API_FIRST] = kd_read_io_extended,
    [KD_API_WRITE_IO_EXTENDED - KD_API_FIRST] = kd_write_io_extended,
    [KD_API_GET_VERSION - KD_API_FIRST] = get_version,
    [KD_API_WRITE_BREAKPOINT_EX - KD_API_FIRST] = kd_refuse_breakpoint_ex,
    [KD_API_RESTORE_BREAKPOINT_EX - KD_API_FIRST] = kd_refuse_breakpoint_ex,
    [KD_API_CAUSE_BUGCHECK - KD_API_FIRST] = cause_bugcheck,
    [KD_API_SWITCH_PROCESSOR - KD_API_FIRST] = kd_switch_processor,
    [KD_API_PAGE_IN - KD_API_FIRST] = refuse,
    [KD_API_READ_MSR - KD_API_FIRST] = kd_read_msr,
    [KD_API_WRITE_MSR - KD_API_FIRST] = kd_write_msr,
    [KD_API_SEARCH_MEMORY - KD_API_FIRST] = kd_search_memory,
    [KD_API_GET_BUS_DATA - KD_API_FIRST] = kd_get_bus_data,
    [KD_API_SET_BUS_DATA - KD_API_FIRST] = kd_set_bus_data,
    [KD_API_CHECK_LOW_MEMORY - KD_API_FIRST] = check_low_memory,
    [KD_API_CLEAR_INTERNAL_BREAKPOINTS - KD_API_FIRST] = clear_internal_breakpoints,
    [KD_API_FILL_MEMORY - KD_API_FIRST] = kd_fill_memory,
    [KD_API_QUERY_MEMORY - KD_API_FIRST] = kd_query_memory,
    [KD_API_SWITCH_PARTITION - KD_API_FIRST] = refuse,
    [KD_API_WRITE_CUSTOM_BREAKPOINT - KD_API_FIRST] = refuse,
    [KD_API_GET_CONTEXT_EX - KD_API_FIRST] = kd_get_context_ex,
    [KD_API_SET_CONTEXT_EX - KD_API_FIRST] = kd_set_context_ex,
};

enum kd_outcome kd_request_dispatch(struct kd_request *r)
{
    uint32_t index = r->m.ApiNumber - KD_API_FIRST;

    bench_request_begin(r->m.ApiNumber);
    enum kd_outcome outcome =
        index < KD_API_MAX - KD_API_FIRST && handlers[index] != NULL ? handlers[index](r) : refuse(r);
    bench_request_end(r->m.ApiNumber);
    return outcome;
}
