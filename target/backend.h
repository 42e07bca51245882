// SPDX-License-Identifier: MIT
// What a kind of target must be able to do, so that everything above (memory of any length, registers by name, breakpoints, modules) is
// written once. Two kinds exist, the KDCOM stream (kd.c) and the trace (replay.c); dumps come in behind the same
// table. A NULL entry means that this kind cannot do it.
//
// Rules: one thread, but for break_in. Addresses are as on the wire (those of a 32-bit target sign-extended). Every entry that blocks
// ends with an answer or an error of its own accord.
#ifndef TARGET_BACKEND_H
#define TARGET_BACKEND_H

#include "vmkd/vmkd.h"
#include "wire/kdapi.h"

struct backend;

// What the backend tells its owner the moment it happens, also in the middle of another call.
struct backend_owner {
	void *closure;
	// The target is stopped. is_repeated: it says the same again. change->data is not for keeping.
	void (*stopped)(void *closure, const struct kd_state_change *change, bool is_repeated);
	// A new kernel talks. Return the number of breakpoints that were lost, for the event.
	uint32_t (*restarted)(void *closure);
	// Something was heard from the target, or the connection changed otherwise: before its effect.
	void (*turned)(void *closure);
	void (*log)(void *closure, enum vmkd_log_level level, const char *text);
};

struct backend_ops {
	const char *kind; // for messages: "KDCOM stream"
	bool is_recorded; // it goes on the way it went then: nothing is prepared for going on, and nothing is left behind

	void (*destroy)(struct backend *backend);
	enum vmkd_state (*state)(const struct backend *backend);
	int (*poll_fd)(const struct backend *backend);
	int (*poll_timeout)(const struct backend *backend);
	uint32_t (*machine)(const struct backend *backend); // KD_MACHINE_*, 0 = not known yet
	void (*break_in)(struct backend *backend); // async-signal-safe
	struct vmkd_error *(*resync)(struct backend *backend);
	// Another kernel is there, and has not said so: as if it had just been connected to. Tells the owner, and queues VMKD_EVENT_RESTARTED.
	struct vmkd_error *(*start_over)(struct backend *backend);
	// Stopped, and nothing that the target sent waits to be looked at. One system call.
	bool (*is_quiet)(const struct backend *backend);

	// As vmkd_target_wait, without the target's own hidden stops. deadline: stream_now() milliseconds.
	struct vmkd_error *(*wait)(struct backend *backend, uint64_t deadline, struct vmkd_event *ret);
	// Forgets stops that were not fetched: the target is about to go on from them.
	void (*forget_stops)(struct backend *backend);
	struct vmkd_error *(*answer_prompt)(struct backend *backend, const char *text, size_t len);
	struct vmkd_error *(*answer_file)(struct backend *backend, uint32_t status, uint64_t handle, uint64_t size, const void *data,
					  size_t length);

	// All below need a stopped target and say STATE otherwise.
	struct vmkd_error *(*version)(struct backend *backend, struct kd_version *ret);
	// At most KD_DATA_MAX bytes. *ret_done and *ret_status are set on success; fewer bytes than asked are no error.
	struct vmkd_error *(*read)(struct backend *backend, enum vmkd_space space, uint64_t address, void *buffer, uint32_t len,
				   uint32_t *ret_done, uint32_t *ret_status);
	struct vmkd_error *(*write)(struct backend *backend, enum vmkd_space space, uint64_t address, const void *data, uint32_t len,
				    uint32_t *ret_done, uint32_t *ret_status);
	// NOT_FOUND: searched without a hit. UNSUPPORTED: the caller searches itself.
	struct vmkd_error *(*search)(struct backend *backend, uint64_t address, uint64_t len, const void *pattern, uint32_t pattern_len,
				     uint64_t *ret);
	struct vmkd_error *(*context_get)(struct backend *backend, uint16_t processor, void *buffer, size_t size, size_t *ret_size);
	struct vmkd_error *(*context_set)(struct backend *backend, uint16_t processor, const void *context, size_t size);
	struct vmkd_error *(*control_read)(struct backend *backend, uint16_t processor, uint64_t index, void *buffer, uint32_t size,
					   uint32_t *ret_size);
	struct vmkd_error *(*control_write)(struct backend *backend, uint16_t processor, uint64_t index, const void *data, uint32_t size);
	struct vmkd_error *(*msr_read)(struct backend *backend, uint32_t msr, uint64_t *ret);
	struct vmkd_error *(*msr_write)(struct backend *backend, uint32_t msr, uint64_t value);
	// TARGET: the kernel refused. Handles are 1 to 32.
	struct vmkd_error *(*breakpoint_write)(struct backend *backend, uint64_t address, uint32_t *ret_handle);
	struct vmkd_error *(*breakpoint_restore)(struct backend *backend, uint32_t handle);
	struct vmkd_error *(*resume)(struct backend *backend, uint32_t status, bool trace, uint64_t dr7);
	// Behind the notice of a reboot: lets go of a machine that may not answer a question any more. Knows nothing of its architecture.
	struct vmkd_error *(*resume_reboot)(struct backend *backend);
	// Until the other processor has reported.
	struct vmkd_error *(*switch_processor)(struct backend *backend, uint16_t processor);
	struct vmkd_error *(*reboot)(struct backend *backend);
	struct vmkd_error *(*crash)(struct backend *backend);
};

// Every kind begins with this.
struct backend {
	const struct backend_ops *ops;
};

// The KDCOM stream. fd and options as vmkd_target_open_fd; `name` and `owner` are copied, options may not be NULL.
// Return NULL and *ret; OS, NO_MEMORY.
struct vmkd_error *kd_create(int fd, const char *name, const struct vmkd_open_options *options, const struct backend_owner *owner,
			     struct backend **ret);

#endif
