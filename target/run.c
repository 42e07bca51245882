// SPDX-License-Identifier: MIT
// Run control and breakpoints: the order of steps that keeps the kernel's table, its memory and the books in line.
// KD reference, section 6.5.
#include <inttypes.h>
#include <string.h>

#include "target/debugregs.h"
#include "target/error.h"
#include "target/target.h"
#include "util/ask.h"

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

static bool observes(const struct vmkd_error *error)
{
	return error && error->code == VMKD_E_CONTROL;
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
	(void)bptable_forget_table(&target->breakpoints); // how many were swept does not matter
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

// Writes the debug registers into every processor, if that is due.
static struct vmkd_error *arm(struct vmkd_target *target)
{
	struct bptable *table = &target->breakpoints;
	uint64_t values[DEBUGREGS_COUNT] = { 0 };
	uint32_t id = debugregs_assign(table, target->stop.report.dr7, &target->debug_own, &target->are_registers_due);

	if (id < BPTABLE_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT,
					 "expected a free debug register for breakpoint %u, but DR7 is %" PRIx64
					 ": clear a processor breakpoint (bc, bd), or those that another debugger left (r kdr7=0)",
					 id, target->stop.report.dr7);
	if (target->debug_own && target->processor_count > target->debug_processors)
		target->are_registers_due = true;
	if (!target->are_registers_due)
		return NULL;
	for (id = 0; id < BPTABLE_MAX; id++)
		if (table->entries[id].is_used && table->entries[id].has_register)
			values[table->entries[id].reg] = table->entries[id].address; // plain: a register of 32 bits holds no more
	uint64_t dr7 = debugregs_dr7(table, target->stop.report.dr7, target->debug_own, 0);
	for (uint32_t processor = 0; processor < target->processor_count; processor++) {
		struct vmkd_error *error = target_debug_registers_set(target, processor, values, target->debug_own, dr7);
		if (error)
			return error;
	}
	target->are_registers_due = false;
	target->debug_processors = target->processor_count;
	target->stop.report.dr7 = target->debug_given = dr7;
	return NULL;
}

// Writes what is enabled and missing, but no code breakpoint at `except` (NULL = everything).
static struct vmkd_error *write_missing(struct vmkd_target *target, const uint64_t *except)
{
	struct vmkd_error *error = NULL;

	for (uint32_t id = 0; !error && (id = bptable_next_missing(&target->breakpoints, id, except)) < BPTABLE_MAX; id++)
		error = write_one(target, id);
	return error ? error : arm(target);
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

static uint64_t stepping_bit(uint16_t processor)
{
	return processor < 64 ? 1ull << processor : 0;
}

// Takes a breakpoint's debug register from it; what the processors have in it is cleared at the next resume. Others than the one that reports may have
// met it already, and wait to report that.
static void release(struct vmkd_target *target, struct bp *bp)
{
	if (!bp->has_register)
		return;
	bp->has_register = false;
	target->are_registers_due = true;
	target->may_be_late |= ~stepping_bit(target->stop.processor);
}

// Takes every own debug register back.
static struct vmkd_error *disarm(struct vmkd_target *target)
{
	bool were_enabled[BPTABLE_MAX];

	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		struct bp *bp = &target->breakpoints.entries[id];
		were_enabled[id] = bp->is_enabled;
		release(target, bp);
		bp->is_enabled &= bp->kind == VMKD_BREAKPOINT_CODE; // or they would be armed again
	}
	struct vmkd_error *error = arm(target);
	for (uint32_t id = 0; id < BPTABLE_MAX; id++)
		target->breakpoints.entries[id].is_enabled = were_enabled[id];
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
	if (!error)
		error = disarm(target);
	if (!observes(error))
		return error;
	vmkd_error_destroy(error); // the broker takes out what is left when this debugger leaves
	return NULL;
}

// ---- resuming ----------------------------------------------------------------------------------------------------------------

static void forget_stop(struct vmkd_target *target)
{
	target->has_stop = false;
	target->is_pc_changed = false;
	target_registers_forget(target);
}

// without: debug registers that do not count until the next stop.
static struct vmkd_error *resume(struct vmkd_target *target, uint32_t status, bool trace, enum target_run run, uint32_t without)
{
	uint64_t dr7 = debugregs_dr7(&target->breakpoints, target->stop.report.dr7, target->debug_own, without);
	uint32_t serial = target->stop_serial;

	target->run = run;
	target->debug_without = without;
	target->is_leftover = false;
	// A failure status leaves the registers as they are: KD reference, section 4.4.
	target->debug_given = status == KD_CONTINUE_HANDLED ? dr7 : target->stop.report.dr7;
	if (trace) {
		target->step_processor = target->stop.processor;
		target->stepping |= stepping_bit(target->step_processor);
	}
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

static void note_hit(struct vmkd_target *target, struct bp *bp)
{
	uint32_t id = (uint32_t)(bp - target->breakpoints.entries);

	bp->hits++;
	target->reason = VMKD_STOP_BREAKPOINT;
	target->reason_breakpoint = id;
	if (!bp->is_one_shot)
		return;
	release(target, bp);
	bptable_remove(&target->breakpoints, id);
}

static bool find_hit(struct vmkd_target *target, uint64_t pc)
{
	struct bp *bp = bptable_find(&target->breakpoints, pc);

	if (!bp || !bp->is_enabled || !bp->was_dropped)
		return false;
	note_hit(target, bp);
	return true;
}

static void find_debug_reason(struct vmkd_target *target, const struct kd_state_change *change, bool was_stepping, bool may_be_late)
{
	// A step whose DR6 was lost is a step.
	uint64_t dr6 = change->report.dr6 | (was_stepping ? DEBUGREGS_DR6_STEP : 0);
	uint32_t hits = debugregs_hits(&target->breakpoints, dr6, target_address_out(target, change->pc));
	bool is_awaited = target->run != TARGET_RUN_NONE && target->step_processor == change->processor;

	for (uint32_t id = BPTABLE_MAX; id-- > 0;) // the lowest of several is the reason
		if (hits >> id & 1)
			note_hit(target, &target->breakpoints.entries[id]);
	if (hits == 0 && is_awaited && target->run == TARGET_RUN_STEP)
		target->reason = VMKD_STOP_STEP;
	may_be_late &= !(change->report.dr6 & DEBUGREGS_DR6_STEP);
	target->is_leftover = hits == 0 && !is_awaited && (was_stepping || may_be_late);
}

static void find_reason(struct vmkd_target *target, const struct kd_state_change *change)
{
	uint32_t code = change->u.exception.code;

	target->reason = VMKD_STOP_EXCEPTION;
	if (code == KD_STATUS_WAKE_DEBUGGER || target->is_switching) {
		target->reason = VMKD_STOP_SWITCHED;
		return;
	}
	uint64_t bit = stepping_bit(change->processor);
	bool was_stepping = target->stepping & bit, may_be_late = target->may_be_late & bit;
	target->stepping &= ~bit;
	target->may_be_late &= ~bit;
	if (code == KD_STATUS_SINGLE_STEP) {
		find_debug_reason(target, change, was_stepping, may_be_late);
	} else if (code == KD_STATUS_BREAKPOINT && !find_hit(target, target_address_out(target, change->pc))) {
		target->reason = target->was_break_in_asked ? VMKD_STOP_BREAK_IN : VMKD_STOP_INT3;
		target->was_break_in_asked = false;
	}
}

void target_run_stopped(struct vmkd_target *target, const struct kd_state_change *change)
{
	bptable_stopped(&target->breakpoints, target_address_out(target, change->pc), change->report.instruction_count);
	target->reason = VMKD_STOP_EXCEPTION;
	target->is_leftover = false;
	// Somebody else has written them, or a processor that was not there has come back with others.
	if (debugregs_part(change->report.dr7 ^ target->debug_given, target->debug_own))
		target->are_registers_due = true;
	if (change->state == KD_STATE_EXCEPTION)
		find_reason(target, change);
	if (target->run == TARGET_RUN_STEP && !target->is_leftover)
		target->run = TARGET_RUN_NONE;
	if (target->is_switching)
		return;
	target->origin = change->processor;
	target->origin_pc = target_address_out(target, change->pc);
	target->is_origin_int3 = change->state == KD_STATE_EXCEPTION && change->u.exception.code == KD_STATUS_BREAKPOINT;
}

// Control has gone to another debugger in the midst of it: the stop is everybody's.
static struct vmkd_error *drop_if_observing(struct vmkd_error *error)
{
	if (!observes(error))
		return error;
	vmkd_error_destroy(error);
	return NULL;
}

struct vmkd_error *target_run_hidden(struct vmkd_target *target, const struct vmkd_event *event, bool *ret_is_hidden)
{
	*ret_is_hidden = false;
	if (target->is_leftover && event->kind == VMKD_EVENT_EXCEPTION) {
		// Everything goes on as it was, with what the kernel has dropped for this stop, but not under a processor that still steps.
		struct vmkd_error *error = write_missing(target, target->run == TARGET_RUN_NONE ? NULL : &target->step_pc);
		if (!error)
			error = resume(target, KD_CONTINUE_HANDLED, false, target->run, target->debug_without);
		*ret_is_hidden = !error;
		return drop_if_observing(error);
	}
	if (target->run != TARGET_RUN_STEP_OVER)
		return NULL;
	bool is_stop = event->kind == VMKD_EVENT_EXCEPTION || event->kind == VMKD_EVENT_MODULE || event->kind == VMKD_EVENT_COMMAND ||
		       event->kind == VMKD_EVENT_SHUTDOWN;
	if (!is_stop)
		return NULL;
	target->run = TARGET_RUN_NONE;
	if (event->kind != VMKD_EVENT_EXCEPTION || event->exception_code != KD_STATUS_SINGLE_STEP || target->reason == VMKD_STOP_BREAKPOINT ||
	    event->processor != target->step_processor)
		return NULL; // something else came first: it is the caller's, and the next go steps again if it must
	// Two breakpoints in a row: the step ended on the next one, which has not been executed.
	struct bp *here = bptable_find(&target->breakpoints, event->pc);
	if (!here || !here->is_enabled)
		here = debugregs_find(&target->breakpoints, event->pc);
	if (here) {
		note_hit(target, here);
		return NULL;
	}
	struct vmkd_error *error = write_missing(target, NULL);
	if (!error)
		error = resume(target, KD_CONTINUE_HANDLED, false, TARGET_RUN_NONE, 0);
	*ret_is_hidden = !error;
	return drop_if_observing(error);
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

// Takes the breakpoint at the current instruction out of the kernel, so that the instruction can run. *ret: there is an enabled one, or a processor
// breakpoint, which is to be left out (registers_at).
static struct vmkd_error *clear_here(struct vmkd_target *target, uint64_t pc, bool *ret)
{
	struct bp *bp = bptable_find(&target->breakpoints, pc);

	*ret = (bp && bp->is_enabled) || debugregs_find(&target->breakpoints, pc);
	if (!bp)
		return NULL;
	return bp->handle ? restore_one(target, (uint32_t)(bp - target->breakpoints.entries)) : drop_stale(target, bp);
}

static uint32_t registers_at(struct vmkd_target *target, uint64_t pc)
{
	const struct bp *bp = debugregs_find(&target->breakpoints, pc);
	return bp && bp->has_register ? 1u << bp->reg : 0;
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

// What the others are told of goes on without this one's breakpoints and registers: its Continue only says that it waits for the next stop. Takes `error`,
// which says that another debugger has control.
static struct vmkd_error *resume_observing(struct vmkd_target *target, struct vmkd_error *error)
{
	vmkd_error_destroy(error);
	return resume(target, KD_CONTINUE_HANDLED, false, TARGET_RUN_NONE, 0);
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
	if (observes(error))
		return resume_observing(target, error);
	return error ? error : resume(target, KD_CONTINUE_HANDLED, false, TARGET_RUN_NONE, 0);
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
	target->step_processor = target->stop.processor;
	forget_stop(target);
	target->has_version = target->has_kdbg; // what was not asked at this stop may have been at the next
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
	// A failure status leaves the registers as they are, and one may have been left out for the last step.
	if (!is_handled && target->debug_without)
		target->are_registers_due = true;
	if (!error)
		error = write_missing(target, has_here ? &pc : NULL);
	if (observes(error))
		return resume_observing(target, error);
	if (error)
		return error;
	target->step_pc = pc;
	return resume(target, is_handled ? KD_CONTINUE_HANDLED : KD_CONTINUE_NOT_HANDLED, has_here,
		      has_here ? TARGET_RUN_STEP_OVER : TARGET_RUN_NONE, has_here ? registers_at(target, pc) : 0);
}

struct vmkd_error *vmkd_target_step(struct vmkd_target *target)
{
	bool has_here = false, is_int3 = false;
	uint64_t pc;

	if (target->backend->ops->is_recorded)
		return resume_recorded(target, TARGET_RUN_STEP);
	struct vmkd_error *error = target_check_control(target, "a step was asked for");

	if (!error)
		error = move_origin_past_int3(target);
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
	target->step_pc = pc;
	return error ? error : resume(target, KD_CONTINUE_HANDLED, true, TARGET_RUN_STEP, registers_at(target, pc));
}

static struct vmkd_error *leave(struct vmkd_target *target, bool exists, const char *entry, struct vmkd_error *(*call)(struct backend *))
{
	struct vmkd_error *error = need_stopped(target);

	if (!error)
		error = target_check_entry(target, exists, entry);
	if (!error)
		error = target_check_control(target, entry);
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

// The broker knows how the kernel has booted. One that does not answer is no reason to refuse.
static bool has_booted_alone(const struct vmkd_target *target)
{
	cJSON *answer = NULL;

	if (target->vm_name[0] == '\0')
		return false;
	struct error *error = ask_broker(target->vm_name, ask_command("status"), &answer, NULL);
	bool is_alone = !error && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(answer, "booted_alone"));
	if (error)
		target_log(target, VMKD_LOG_WARNING, "how %s booted is not known: %s", target->name, error->text);
	error_free(error);
	cJSON_Delete(answer);
	return is_alone;
}

static struct vmkd_error *check_guarded(const struct vmkd_target *target, uint64_t address)
{
	if (target->version.arch != VMKD_ARCH_X64 || !(address >> 63) || !has_booted_alone(target))
		return NULL;
	return vmkd_error_create(VMKD_E_GUARDED,
				 "%s booted without a debugger, so its kernel guards its code (PatchGuard): with a breakpoint written at %" PRIx64
				 " it would die of bug check 0x109 minutes later; use a processor breakpoint: ba e1 %" PRIx64
				 " (bp /f sets it all the same)",
				 target->name, address, address);
}

static struct vmkd_error *check_options(const struct vmkd_target *target, uint64_t address, const struct vmkd_breakpoint_options *options)
{
	if (options->kind == VMKD_BREAKPOINT_CODE)
		return options->is_forced ? NULL : check_guarded(target, address);
	if ((unsigned)options->kind > VMKD_BREAKPOINT_READ_WRITE)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a kind of breakpoint, got %d", (int)options->kind);
	const char *expected = debugregs_problem(options->kind, options->size, address, target_is_x86(target));
	if (!expected)
		return NULL;
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected %s for a processor breakpoint, got size %u at %" PRIx64, expected, options->size, address);
}

static struct vmkd_error *add(struct vmkd_target *target, uint64_t address, const struct vmkd_breakpoint_options *options, uint32_t *ret_id)
{
	struct bptable *table = &target->breakpoints;
	uint32_t id = 0;
	int outcome = options->kind == VMKD_BREAKPOINT_CODE
			      ? bptable_add(table, address, options->is_one_shot, &id)
			      : bptable_add_processor(table, options->kind, options->size, address, options->is_one_shot, &id);

	if (outcome == BPTABLE_E_EXISTS)
		return vmkd_error_create(VMKD_E_ARGUMENT, "breakpoint %u is already at %" PRIx64, id, address);
	if (outcome == BPTABLE_E_FULL)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u breakpoints, as many as the kernel has places: clear one", BPTABLE_MAX);
	*ret_id = id;
	return NULL;
}

struct vmkd_error *vmkd_breakpoint_set_with(struct vmkd_target *target, uint64_t address, const struct vmkd_breakpoint_options *options,
					    uint32_t *ret_id)
{
	static const struct vmkd_breakpoint_options plain = { .kind = VMKD_BREAKPOINT_CODE };
	uint64_t pc;
	uint32_t id = 0;
	struct vmkd_error *error = TARGET_CAN(target, breakpoint_write);

	if (!options)
		options = &plain;
	if (!error)
		error = prepare(target, &pc);
	if (error)
		return error;
	address = target_address_out(target, address);
	error = check_options(target, address, options);
	if (!error)
		error = add(target, address, options, &id);
	if (error)
		return error;
	if (options->kind != VMKD_BREAKPOINT_CODE)
		error = arm(target);
	else if (address != pc) // one at the current instruction is written when that has run
		error = write_one(target, id);
	if (error) {
		release(target, &target->breakpoints.entries[id]);
		bptable_remove(&target->breakpoints, id);
		return error;
	}
	*ret_id = id;
	return NULL;
}

struct vmkd_error *vmkd_breakpoint_set(struct vmkd_target *target, uint64_t address, bool one_shot, uint32_t *ret_id)
{
	const struct vmkd_breakpoint_options options = { .kind = VMKD_BREAKPOINT_CODE, .is_one_shot = one_shot };
	return vmkd_breakpoint_set_with(target, address, &options, ret_id);
}

static struct vmkd_error *take_out(struct vmkd_target *target, uint32_t id)
{
	struct bp *bp = bptable_get(&target->breakpoints, id);

	if (!bp)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no breakpoint %u: bl lists them", id);
	if (bp->handle == 0 && bp->stale == 0 && !bp->has_register)
		return NULL;
	struct vmkd_error *error = need_stopped(target);
	if (error)
		return error;
	if (bp->has_register) {
		release(target, bp);
		return NULL;
	}
	return bp->handle ? restore_one(target, id) : drop_stale(target, bp);
}

struct vmkd_error *vmkd_breakpoint_remove(struct vmkd_target *target, uint32_t id)
{
	struct vmkd_error *error = take_out(target, id);

	if (!error)
		bptable_remove(&target->breakpoints, id);
	return error;
}

static uint32_t enabled_processor_breakpoints(const struct vmkd_target *target)
{
	uint32_t count = 0;

	for (uint32_t id = 0; id < BPTABLE_MAX; id++) {
		const struct bp *bp = &target->breakpoints.entries[id];
		count += bp->is_used && bp->is_enabled && bp->kind != VMKD_BREAKPOINT_CODE;
	}
	return count;
}

struct vmkd_error *vmkd_breakpoint_enable(struct vmkd_target *target, uint32_t id, bool enable)
{
	struct bp *bp = bptable_get(&target->breakpoints, id);
	struct vmkd_error *error = NULL;

	if (!bp)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no breakpoint %u: bl lists them", id);
	if (!enable)
		error = take_out(target, id);
	else if (!bp->is_enabled && bp->kind != VMKD_BREAKPOINT_CODE && enabled_processor_breakpoints(target) >= DEBUGREGS_COUNT)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u processor breakpoints: disable another first", DEBUGREGS_COUNT);
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
						 .is_in_kernel = bp->handle != 0 || bp->has_register,
						 .hits = bp->hits,
						 .kind = bp->kind,
						 .size = bp->size };
		return true;
	}
	return false;
}
