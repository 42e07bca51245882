// SPDX-License-Identifier: MIT
// Constructors of the public struct vmkd_error for what happens inside target/. Each returns an error that the caller owns and passes
// on; none returns NULL. Any thread.
#ifndef TARGET_ERROR_H
#define TARGET_ERROR_H

#include "util/error.h"
#include "vmkd/vmkd.h"

// A static object: reporting that memory is short needs none. Destroying it is legal and does nothing.
struct vmkd_error *error_no_memory(void);

// A failing system call: "WHAT: strerror".
__attribute__((format(printf, 2, 3))) struct vmkd_error *error_os(int os_error, const char *format, ...);

// The target refused an address.
__attribute__((format(printf, 3, 4))) struct vmkd_error *error_fault(uint64_t address, uint32_t status, const char *format, ...);

// The target answered a request with a failure status. That of a broker whose other client has control makes code VMKD_E_CONTROL.
struct vmkd_error *error_status(const char *what, uint32_t status);

// `what` is not to be had, since another debugger has control. Code VMKD_E_CONTROL.
struct vmkd_error *error_control(const char *name, const char *what, const struct vmkd_control *control);

// A util error crosses the border: consumes it. NULL stays NULL.
struct vmkd_error *error_import(enum vmkd_error_code code, struct error *error);

#endif
