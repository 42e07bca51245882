// SPDX-License-Identifier: MIT
// What stands behind the public struct vmkd_target: one backend, and all that is remembered about the target on this side of it.
// For target/ alone.
#ifndef TARGET_TARGET_H
#define TARGET_TARGET_H

#include <stdatomic.h>

#include "target/backend.h"
#include "target/bptable.h"
#include "wire/kddata.h"
#include "wire/kdregs.h"

#define TARGET_NAME_MAX 300u

// A processor's registers as the target told them in this stop.
struct target_context {
	bool is_valid;
	uint16_t processor;
	size_t len;
	uint8_t bytes[KD_CONTEXT_SIZE_MAX];
};

enum target_run {
	TARGET_RUN_NONE,
	TARGET_RUN_STEP,      // vmkd_target_step: the stop is the caller's
	TARGET_RUN_STEP_OVER, // vmkd_target_go: one step off a breakpoint, then on; the stop is hidden
};

struct vmkd_target {
	struct backend *backend;
	struct target_ram *ram; // NULL: packets only
	char name[TARGET_NAME_MAX];
	char vm_name[64]; // of vm:NAME; "" = another kind
	struct vmkd_open_options options;

	// the stop
	bool has_stop;
	uint32_t stop_serial; // counts stops that are news
	struct kd_state_change stop; // its data is not valid
	struct vmkd_event last_stop; // as delivered; no texts
	// The processor that stopped by itself, when another was made the current one since: it is the one that must get past its break
	// instruction or breakpoint before the target goes on.
	bool is_switching; // the next stop is the answer to a switch
	uint16_t origin;
	uint64_t origin_pc;
	bool is_origin_int3; // it stopped by a break instruction
	uint32_t processor_count;
	bool is_pc_changed; // registers were set since the stop: its pc is no longer the processor's
	enum target_run run;
	// A revert is behind us, and the broker may still be telling of it in the way KDCOM has for it: as of a reboot. Until stream_now() says so; 0 = no.
	uint64_t revert_until;
	bool is_revert_told;
	// Processors below 64 that were sent on for one instruction and have not reported since: something else may come first.
	uint64_t stepping;
	uint16_t step_processor; // of `run`
	uint64_t step_pc;        // where it stepped from
	uint64_t may_be_late; // ... that may have met a processor breakpoint which has been taken away meanwhile
	bool is_leftover; // the stop is the end of such a step, or such a meeting, and nobody's any more
	atomic_bool was_break_in_asked; // set by any thread or signal handler
	bool has_synthetic; // an event of this side comes first: a step that only moved past an int3
	struct vmkd_event synthetic;
	// reason and breakpoint of the stop, found when it happened, delivered with its event
	enum vmkd_stop_reason reason;
	uint32_t reason_breakpoint;

	// known of this kernel
	bool has_version;
	struct vmkd_version version;
	bool has_kdbg;
	uint32_t kdbg_len;
	uint8_t kdbg[KD_DATA_SIZE_MAX];

	// known of this stop
	struct target_context context;
	struct target_context special;

	struct bptable breakpoints;
	bool needs_sweep; // the kernel's table may hold breakpoints of others
	// processor breakpoints
	uint32_t debug_own;        // debug registers that this session has used (target/debugregs.h)
	uint32_t debug_without;    // of these, not armed while an instruction under them is stepped over
	bool are_registers_due;    // they are to be written before the target goes on
	uint64_t debug_given;      // DR7 as the target was given it last
	uint32_t debug_processors; // that they were written into
};

__attribute__((format(printf, 3, 4))) void target_log(const struct vmkd_target *target, enum vmkd_log_level level, const char *format, ...);

// The entry `entry` of the backend's table exists; UNSUPPORTED otherwise.
#define TARGET_CAN(target, entry) target_check_entry((target), (target)->backend->ops->entry != NULL, #entry)
struct vmkd_error *target_check_entry(const struct vmkd_target *target, bool exists, const char *entry);

// Fills version and KDBG if they are not known.
struct vmkd_error *target_learn(struct vmkd_target *target);

// 32 bits, as far as known; false before the first stop.
bool target_is_x86(const struct vmkd_target *target);
// An address as the wire wants it, and as users see it.
uint64_t target_address_in(const struct vmkd_target *target, uint64_t address);
uint64_t target_address_out(const struct vmkd_target *target, uint64_t address);

// control.c: VMKD_E_CONTROL if another debugger is known to have control of this VM. what: what it keeps from being done.
struct vmkd_error *target_check_control(struct vmkd_target *target, const char *what);

// registers.c: forgets what is known of the registers; the program counter; moving it.
void target_registers_forget(struct vmkd_target *target);
struct vmkd_error *target_pc_get(struct vmkd_target *target, uint64_t *ret);
struct vmkd_error *target_pc_set(struct vmkd_target *target, uint64_t pc);

// Writes the debug registers of the set `which` and DR7 of a processor. What is known of its special registers is forgotten.
struct vmkd_error *target_debug_registers_set(struct vmkd_target *target, uint32_t processor, const uint64_t values[4], uint32_t which,
					      uint64_t dr7);

// run.c: a new stop has happened: bring the books in line, find its reason.
void target_run_stopped(struct vmkd_target *target, const struct kd_state_change *change);
// The event of a stop that is hidden from the caller: deal with it. Return NULL with *ret_is_hidden.
struct vmkd_error *target_run_hidden(struct vmkd_target *target, const struct vmkd_event *event, bool *ret_is_hidden);
// Lets go of a machine that has said it reboots: its processors may not answer a question any more.
struct vmkd_error *target_resume_reboot(struct vmkd_target *target);
// snapshot.c: the same for what a broker says about a revert that the caller knows of.
struct vmkd_error *target_revert_hidden(struct vmkd_target *target, const struct vmkd_event *event, bool *ret_is_hidden);
// Puts the original bytes over the break instructions of own breakpoints in what was read from [address, address + len).
void target_breakpoints_hide(const struct vmkd_target *target, uint64_t address, uint8_t *bytes, size_t len);
// Takes those in [address, address + len) out of the kernel, because the range is about to be written.
struct vmkd_error *target_breakpoints_clear_range(struct vmkd_target *target, uint64_t address, size_t len);
// Takes every own breakpoint out of the kernel.
struct vmkd_error *target_breakpoints_withdraw(struct vmkd_target *target);
// Continue2 as the target stands, past a break instruction if it is at one. Does not touch breakpoints.
struct vmkd_error *target_resume_plain(struct vmkd_target *target);

#endif
