// SPDX-License-Identifier: MIT
// Run control and breakpoints: the order of steps that keeps the kernel's table, its memory and the books in line.
// KD reference, section 6.5.
#include <inttypes.h>
#include <string.h>

#include "target/error.h"
#include "target/target.h"

#define INT3 0xCCu

static struct vmkd_error *need_stopped(const struct vmkd_target *target)
{
	enum vmkd_state state = target->backend->ops->state(target->backend);

	if (state == VMKD_STATE_STOPPED && target->has_stop)
		return NULL;
	if (state == VMKD_STATE_GONE)
		return vmkd_error_create(VMKD_E_GONE, "the connection to %s has ended", target->name);
	if (state == VMKD_STATE_UNKNOWN)
		return vmkd_error_create(VMKD_E_STATE, "expected a stopped target, but %s has said nothing yet: break in first (Ctrl-C, or -b)",
					 target->name);
	return vmkd_error_create(VMKD_E_STATE, "expected a stopped target, but it is %s: %s",
				 state == VMKD_STATE_RUNNING ? "running" : "waiting for an answer",
				 state == VMKD_STATE_RUNNING ? "break in first (Ctrl-C, or -b)" : "answer its prompt first");
}

// ---- the kernel's table --------------------------------------------------------------------------------------------------------

// A debugger that died may have left breakpoints there; nobody would know what they are. Handles are table places plus one.
static struct vmkd_error *sweep(struct vmkd_target *target)
{
	struct vmkd_error *error = NULL;

	if (!target->needs_sweep || target->options.keep_foreign_breakpoints)
		return NULL;
	for (uint32_t handle = 1; handle <= BPTABLE_MAX && !error; handle++) {
		error = target->backend->ops->breakpoint_restore(target->backend, handle);
		if (error && error->code == VMKD_E_TARGET) { // nothing under this handle: the usual answer
			vmkd_error_destroy(error);
			error = NULL;
		}
	}
	if (error)
		return error;
	target->needs_sweep = false;
	(void)bptable_forget_kernel(&target->breakpoints); // how many were swept does not matter
	return NULL;
}

// A kernel may keep what the reference says it drops at a stop. Takes such a breakpoint out; that nothing is there any more is fine.
static struct vmkd_error *drop_stale(struct vmkd_target *target, struct bp *bp)
{
	if (bp->stale == 0 || !bptable_handle_is_free(&target->breakpoints, bp->stale))
		return NULL;
	struct vmkd_error *error = target->backend->ops->breakpoint_restore(target->backend, bp->stale);
	if (error && error->code == VMKD_E_TARGET) {
		vmkd_error_destroy(error);
		error = NULL;
	}
	if (!error)
		bp->stale = 0;
	return error;
}

static struct vmkd_error *write_one(struct vmkd_target *target, uint32_t id)
{
	struct backend *backend = target->backend;
	struct bp *bp = bptable_get(&target->breakpoints, id);
	uint64_t address = target_address_in(target, bp->address);
	uint32_t handle;

	// What is under it, for target_breakpoints_hide. Where that cannot be read now, nothing is hidden.
	uint8_t original = INT3;
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, bp->address, &original, 1, NULL);
	if (error && error->code != VMKD_E_FAULT)
		return error;
	vmkd_error_destroy(error);
	bp->original = original;
	error = backend->ops->breakpoint_write(backend, address, &handle);

	if (error && error->code == VMKD_E_TARGET && bp->stale != 0) {
		vmkd_error_destroy(error);
		error = drop_stale(target, bp);
		if (!error)
			error = backend->ops->breakpoint_write(backend, address, &handle);
	}
	if (error && error->code == VMKD_E_TARGET) {
		uint32_t status = error->status;
		vmkd_error_destroy(error);
		return error_fault(bp->address, status,
				   "the kernel refuses a breakpoint at %" PRIx64 " (status %08" PRIx32
				   "): expected an address that can be written, and a free place among its %u breakpoints",
				   bp->address, status, BPTABLE_MAX);
	}
	if (error) {
		// It may have been written all the same: clear the table before the next resume.
		if (error->code == VMKD_E_RESTARTED || error->code == VMKD_E_TIMEOUT)
			target->needs_sweep = true;
		return error;
	}
	bptable_written(&target->breakpoints, id, handle);
	return NULL;
}

static struct vmkd_error *restore_one(struct vmkd_target *target, uint32_t id)
{
	struct bp *bp = bptable_get(&target->breakpoints, id);
	struct vmkd_error *error = target->backend->ops->breakpoint_restore(target->backend, bp->handle);

	if (error && error->code == VMKD_E_TARGET) {
		// The kernel knows no such handle (any more): that is what was wanted.
		target_log(target, VMKD_LOG_WARNING, "breakpoint %u: %s", id, error->message);
		vmkd_error_destroy(error);
		error = NULL;
	}
	if (!error)
		bptable_restored(&target->breakpoints, id);
	return error;
}

// Writes what is enabled and missing, but nothing at `except` (NULL = everything).
static struct vmkd_error *write_missing(struct vmkd_target *target, const uint64_t *except)
{
	struct vmkd_error *error = NULL;

	for (uint32_t id = 0; !error && (id = bptable_next_missing(&target->breakpoints, id, except)) < BPTABLE_MAX; id++)
		error = write_one(target, id);
	return error;
}

void target_breakpoints_hide(const struct vmkd_target *target, uint64_t address, uint8_t *bytes, size_t len)
{
	for (uint32_t id = 0; id < target->breakpoints.end; id++) {
		const struct bp *bp = &target->breakpoints.entries[id];
		bool may_be_there = bp->is_used && (bp->handle != 0 || bp->stale != 0);
		if (may_be_there && bp->address - address < len && bytes[bp->address - address] == INT3)
			bytes[bp->address - address] = bp->original;
	}
}

struct vmkd_error *target_breakpoints_clear_range(struct vmkd_target *target, uint64_t address, size_t len)
{
	struct vmkd_error *error = NULL;

	for (uint32_t id = 0; !error && (id = bptable_next_written(&target->breakpoints, id)) < BPTABLE_MAX; id++)
		if (target->breakpoints.entries[id].address - address < len)
			error = restore_one(target, id);
	return error;
}

struct vmkd_error *target_breakpoints_withdraw(struct vmkd_target *target)
{
	struct vmkd_error *error = need_stopped(target);

	if (!error)
		error = sweep(target);
	for (uint32_t id = 0; !error && (id = bptable_next_written(&target->breakpoints, id)) < BPTABLE_MAX; id++)
		error = restore_one(target, id);
	for (uint32_t id = 0; !error && id < BPTABLE_MAX; id++)
		error = drop_stale(target, &target->breakpoints.entries[id]);
	return error;
}

// ---- resuming ----------------------------------------------------------------------------------------------------------------

static void forget_stop(struct vmkd_target *target)
{
	target->has_stop = false;
	target->is_pc_changed = false;
	target_registers_forget(target);
}

static struct vmkd_error *resume(struct vmkd_target *target, uint32_t status, bool trace, enum target_run run)
{
	uint64_t dr7 = target->stop.report.dr7;
	uint32_t serial = target->stop_serial;

	target->run = run;
	target->backend->ops->forget_stops(target->backend);
	struct vmkd_error *error = target->backend->ops->resume(target->backend, status, trace, dr7);
	// The next stop may have come already, while the packet was on its way.
	if (!error && target->stop_serial == serial)
		forget_stop(target);
	else if (error)
		target->run = TARGET_RUN_NONE;
	return error;
}

static bool is_rebooting(const struct vmkd_target *target)
{
	return target->has_stop && target->last_stop.kind == VMKD_EVENT_SHUTDOWN && target->last_stop.module_base == KD_BASE_REBOOT;
}

struct vmkd_error *target_resume_reboot(struct vmkd_target *target)
{
	uint32_t serial = target->stop_serial;

	target->run = TARGET_RUN_NONE;
	target->backend->ops->forget_stops(target->backend);
	struct vmkd_error *error = target->backend->ops->resume_reboot(target->backend);
	if (!error && target->stop_serial == serial)
		forget_stop(target);
	return error;
}

// ---- stops ---------------------------------------------------------------------------------------------------------------------

static bool find_hit(struct vmkd_target *target, uint64_t pc)
{
	struct bp *bp = bptable_find(&target->breakpoints, pc);

	if (!bp || !bp->is_enabled || !bp->was_dropped)
		return false;
	bp->hits++;
	target->reason = VMKD_STOP_BREAKPOINT;
	target->reason_breakpoint = (uint32_t)(bp - target->breakpoints.entries);
	if (bp->is_one_shot)
		bptable_remove(&target->breakpoints, target->reason_breakpoint);
	return true;
}

static void find_reason(struct vmkd_target *target, const struct kd_state_change *change)
{
	uint32_t code = change->u.exception.code;

	target->reason = VMKD_STOP_EXCEPTION;
	if (code == KD_STATUS_WAKE_DEBUGGER || target->is_switching) {
		target->reason = VMKD_STOP_SWITCHED;
	} else if (code == KD_STATUS_SINGLE_STEP && target->run == TARGET_RUN_STEP) {
		target->reason = VMKD_STOP_STEP;
	} else if (code == KD_STATUS_BREAKPOINT && !find_hit(target, target_address_out(target, change->pc))) {
		target->reason = target->was_break_in_asked ? VMKD_STOP_BREAK_IN : VMKD_STOP_INT3;
		target->was_break_in_asked = false;
	}
}

void target_run_stopped(struct vmkd_target *target, const struct kd_state_change *change)
{
	bptable_stopped(&target->breakpoints, target_address_out(target, change->pc), change->report.instruction_count);
	target->reason = VMKD_STOP_EXCEPTION;
	if (change->state == KD_STATE_EXCEPTION)
		find_reason(target, change);
	if (target->run == TARGET_RUN_STEP)
		target->run = TARGET_RUN_NONE;
	if (target->is_switching)
		return;
	target->origin = change->processor;
	target->origin_pc = target_address_out(target, change->pc);
	target->is_origin_int3 = change->state == KD_STATE_EXCEPTION && change->u.exception.code == KD_STATUS_BREAKPOINT;
}

struct vmkd_error *target_run_hidden(struct vmkd_target *target, const struct vmkd_event *event, bool *ret_is_hidden)
{
	*ret_is_hidden = false;
	if (target->run != TARGET_RUN_STEP_OVER)
		return NULL;
	bool is_stop = event->kind == VMKD_EVENT_EXCEPTION || event->kind == VMKD_EVENT_MODULE || event->kind == VMKD_EVENT_COMMAND ||
		       event->kind == VMKD_EVENT_SHUTDOWN;
	if (!is_stop)
		return NULL;
	target->run = TARGET_RUN_NONE;
	if (event->kind != VMKD_EVENT_EXCEPTION || event->exception_code != KD_STATUS_SINGLE_STEP)
		return NULL; // something else came first: it is the caller's, and the next go steps again if it must
	// Two breakpoints in a row: the step ended on the next one, which has not been executed.
	struct bp *here = bptable_find(&target->breakpoints, event->pc);
	if (here && here->is_enabled) {
		target->reason = VMKD_STOP_BREAKPOINT;
		target->reason_breakpoint = (uint32_t)(here - target->breakpoints.entries);
		here->hits++;
		if (here->is_one_shot)
			bptable_remove(&target->breakpoints, target->reason_breakpoint);
		return NULL;
	}
	struct vmkd_error *error = write_missing(target, NULL);
	if (!error)
		error = resume(target, KD_CONTINUE_HANDLED, false, TARGET_RUN_NONE);
	*ret_is_hidden = !error;
	return error;
}

// ---- going on ------------------------------------------------------------------------------------------------------------------

// The current instruction is a break instruction of the code itself, and the stop is its doing: the kernel would run into it again.
static struct vmkd_error *is_at_int3(struct vmkd_target *target, uint64_t pc, bool *ret)
{
	uint8_t byte = 0;

	*ret = false;
	if (!target->is_origin_int3 || target->stop.processor != target->origin || pc != target->origin_pc)
		return NULL;
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, pc, &byte, 1, NULL);
	if (error && error->code == VMKD_E_FAULT) {
		vmkd_error_destroy(error);
		return NULL;
	}
	*ret = !error && byte == INT3;
	return error;
}

// Takes the breakpoint at the current instruction out of the kernel, so that the instruction can run. *ret: there is an enabled one.
static struct vmkd_error *clear_here(struct vmkd_target *target, uint64_t pc, bool *ret)
{
	struct bp *bp = bptable_find(&target->breakpoints, pc);

	*ret = bp && bp->is_enabled;
	if (!bp)
		return NULL;
	return bp->handle ? restore_one(target, (uint32_t)(bp - target->breakpoints.entries)) : drop_stale(target, bp);
}

static struct vmkd_error *prepare(struct vmkd_target *target, uint64_t *ret_pc)
{
	struct vmkd_error *error = need_stopped(target);

	if (!error)
		error = TARGET_CAN(target, resume);
	if (!error)
		error = target_learn(target);
	if (!error)
		error = sweep(target);
	if (!error)
		error = target_pc_get(target, ret_pc);
	return error;
}

// The stop of a step that only moved past a break instruction: nothing has run.
static void make_synthetic(struct vmkd_target *target, uint64_t pc)
{
	target->synthetic = target->last_stop;
	target->synthetic.kind = VMKD_EVENT_EXCEPTION;
	target->synthetic.exception_code = KD_STATUS_SINGLE_STEP;
	target->synthetic.exception_address = pc;
	target->synthetic.reason = VMKD_STOP_STEP;
	target->synthetic.is_first_chance = true;
	target->synthetic.is_repeated = false;
	target->synthetic.pc = pc;
	target->has_synthetic = true;
	target->backend->ops->forget_stops(target->backend);
	// From now on the kernel is at this instruction as after a step: the int3 behind it is history.
	target->stop.pc = target_address_in(target, pc);
	target->origin_pc = pc;
	target->is_origin_int3 = false;
}

// The processor that stopped by itself is the one to go on from: what it must step over is known for the current one only.
static struct vmkd_error *return_to_origin(struct vmkd_target *target)
{
	struct vmkd_error *error = need_stopped(target);

	if (error || target->stop.processor == target->origin || target->origin >= target->processor_count)
		return error;
	return vmkd_target_switch_processor(target, target->origin);
}

// A step of another processor lets that one go on, too.
static struct vmkd_error *move_origin_past_int3(struct vmkd_target *target)
{
	uint16_t current = target->stop.processor;
	uint64_t pc;
	bool is_int3 = false;
	struct vmkd_error *error = need_stopped(target);

	if (error || current == target->origin || !target->is_origin_int3)
		return error;
	error = return_to_origin(target);
	if (!error)
		error = prepare(target, &pc);
	if (!error)
		error = is_at_int3(target, pc, &is_int3);
	if (!error && is_int3)
		error = target_pc_set(target, pc + 1);
	target->is_origin_int3 = false;
	if (!error)
		error = vmkd_target_switch_processor(target, current);
	return error;
}

struct vmkd_error *target_resume_plain(struct vmkd_target *target)
{
	uint64_t pc;
	bool is_int3 = false;

	if (is_rebooting(target))
		return target_resume_reboot(target);
	struct vmkd_error *error = return_to_origin(target);
	if (!error)
		error = prepare(target, &pc);
	if (!error)
		error = is_at_int3(target, pc, &is_int3);
	if (!error && is_int3)
		error = target_pc_set(target, pc + 1);
	if (!error)
		error = resume(target, KD_CONTINUE_HANDLED, false, TARGET_RUN_NONE);
	return error;
}

// A trace goes on whatever is done to it: no register and no breakpoint has to be right for that.
static struct vmkd_error *resume_recorded(struct vmkd_target *target, enum target_run run)
{
	struct vmkd_error *error = need_stopped(target);

	if (!error)
		error = target->backend->ops->resume(target->backend, KD_CONTINUE_HANDLED, false, 0);
	if (error)
		return error;
	target->run = run;
	forget_stop(target);
	return NULL;
}

struct vmkd_error *vmkd_target_go(struct vmkd_target *target, enum vmkd_continue how)
{
	bool is_handled = how == VMKD_CONTINUE_HANDLED, has_here = false, is_int3 = false;
	uint64_t pc;

	if (target->backend->ops->is_recorded)
		return resume_recorded(target, TARGET_RUN_NONE);
	if (is_rebooting(target))
		return target_resume_reboot(target);
	struct vmkd_error *error = return_to_origin(target);
	if (!error)
		error = prepare(target, &pc);
	// Not handled: the handlers run, not the instruction, so there is nothing to step over.
	if (!error && is_handled)
		error = clear_here(target, pc, &has_here);
	if (!error && is_handled)
		error = is_at_int3(target, pc, &is_int3);
	if (!error && is_int3) {
		// A breakpoint right behind it is still to come.
		error = target_pc_set(target, pc + 1);
		has_here = false;
	}
	if (!error)
		error = write_missing(target, has_here ? &pc : NULL);
	if (error)
		return error;
	return resume(target, is_handled ? KD_CONTINUE_HANDLED : KD_CONTINUE_NOT_HANDLED, has_here,
		      has_here ? TARGET_RUN_STEP_OVER : TARGET_RUN_NONE);
}

struct vmkd_error *vmkd_target_step(struct vmkd_target *target)
{
	bool has_here = false, is_int3 = false;
	uint64_t pc;

	if (target->backend->ops->is_recorded)
		return resume_recorded(target, TARGET_RUN_STEP);
	struct vmkd_error *error = move_origin_past_int3(target);

	if (!error)
		error = prepare(target, &pc);
	if (!error)
		error = clear_here(target, pc, &has_here);
	if (!error)
		error = is_at_int3(target, pc, &is_int3);
	if (!error && is_int3) {
		error = target_pc_set(target, pc + 1);
		if (!error)
			make_synthetic(target, pc + 1);
		return error;
	}
	if (!error)
		error = write_missing(target, &pc);
	return error ? error : resume(target, KD_CONTINUE_HANDLED, true, TARGET_RUN_STEP);
}

static struct vmkd_error *leave(struct vmkd_target *target, bool exists, const char *entry, struct vmkd_error *(*call)(struct backend *))
{
	struct vmkd_error *error = need_stopped(target);

	if (!error)
		error = target_check_entry(target, exists, entry);
	if (!error)
		error = call(target->backend);
	if (!error)
		forget_stop(target);
	return error;
}

struct vmkd_error *vmkd_target_reboot(struct vmkd_target *target)
{
	const struct backend_ops *ops = target->backend->ops;
	return leave(target, ops->reboot != NULL, "reboot", ops->reboot);
}

struct vmkd_error *vmkd_target_crash(struct vmkd_target *target)
{
	const struct backend_ops *ops = target->backend->ops;
	// The bug check's own break instruction must stop as one, so breakpoints stay as they are.
	return leave(target, ops->crash != NULL, "crash", ops->crash);
}

// ---- breakpoints, public -------------------------------------------------------------------------------------------------------

struct vmkd_error *vmkd_breakpoint_set(struct vmkd_target *target, uint64_t address, bool one_shot, uint32_t *ret_id)
{
	uint64_t pc;
	uint32_t id = 0;
	struct vmkd_error *error = TARGET_CAN(target, breakpoint_write);

	if (!error)
		error = prepare(target, &pc);
	if (error)
		return error;
	address = target_address_out(target, address);
	int outcome = bptable_add(&target->breakpoints, address, one_shot, &id);
	if (outcome == BPTABLE_E_EXISTS)
		return vmkd_error_create(VMKD_E_ARGUMENT, "breakpoint %u is already at %" PRIx64, id, address);
	if (outcome == BPTABLE_E_FULL)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u breakpoints, as many as the kernel has places: clear one", BPTABLE_MAX);
	// One at the current instruction is written when that has run.
	error = address == pc ? NULL : write_one(target, id);
	if (error) {
		bptable_remove(&target->breakpoints, id);
		return error;
	}
	*ret_id = id;
	return NULL;
}

static struct vmkd_error *take_out(struct vmkd_target *target, uint32_t id)
{
	struct bp *bp = bptable_get(&target->breakpoints, id);

	if (!bp)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no breakpoint %u: bl lists them", id);
	if (bp->handle == 0 && bp->stale == 0)
		return NULL;
	struct vmkd_error *error = need_stopped(target);
	if (error)
		return error;
	return bp->handle ? restore_one(target, id) : drop_stale(target, bp);
}

struct vmkd_error *vmkd_breakpoint_remove(struct vmkd_target *target, uint32_t id)
{
	struct vmkd_error *error = take_out(target, id);

	if (!error)
		bptable_remove(&target->breakpoints, id);
	return error;
}

struct vmkd_error *vmkd_breakpoint_enable(struct vmkd_target *target, uint32_t id, bool enable)
{
	struct bp *bp = bptable_get(&target->breakpoints, id);
	struct vmkd_error *error = NULL;

	if (!bp)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no breakpoint %u: bl lists them", id);
	if (!enable)
		error = take_out(target, id);
	if (!error)
		bp->is_enabled = enable; // written at the next resume
	return error;
}

uint32_t vmkd_breakpoint_count(const struct vmkd_target *target)
{
	uint32_t count = 0;
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		count += target->breakpoints.entries[id].is_used;
	return count;
}

bool vmkd_breakpoint_at(const struct vmkd_target *target, uint32_t index, struct vmkd_breakpoint *ret)
{
	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		const struct bp *bp = &target->breakpoints.entries[id];
		if (!bp->is_used || index-- > 0)
			continue;
		*ret = (struct vmkd_breakpoint){ .id = id,
						 .address = bp->address,
						 .is_enabled = bp->is_enabled,
						 .is_one_shot = bp->is_one_shot,
						 .is_in_kernel = bp->handle != 0,
						 .hits = bp->hits };
		return true;
	}
	return false;
}
