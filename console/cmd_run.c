// SPDX-License-Identifier: MIT
// g t p, breakpoints, break-in, prompts, reboot, quitting
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "console/shell.h"
#include "console/disasm.h"

#define STEPS_MAX 100000u

static struct vmkd_error *last_exception(struct console *console, struct vmkd_event *ret)
{
	if (vmkd_target_last_stop(console->target, ret))
		return NULL;
	// Says in which state the target is.
	struct vmkd_version version;
	struct vmkd_error *error = vmkd_target_version(console->target, &version);
	return error ? error : vmkd_error_create(VMKD_E_STATE, "the target is not stopped");
}

// ---- g -------------------------------------------------------------------------------------------------------------------------

// Plain g passes on an exception that nobody has looked at, as WinDbg does; break instructions and steps are the debugger's own.
static enum vmkd_continue default_continue(const struct vmkd_event *stop)
{
	bool is_own = stop->kind != VMKD_EVENT_EXCEPTION || stop->exception_code == 0x80000003 || stop->exception_code == 0x80000004 ||
		      stop->exception_code == 0x80000007;
	return is_own ? VMKD_CONTINUE_HANDLED : VMKD_CONTINUE_NOT_HANDLED;
}

static bool stops_before(enum vmkd_breakpoint_kind kind)
{
	return kind == VMKD_BREAKPOINT_CODE || kind == VMKD_BREAKPOINT_EXECUTE;
}

// A breakpoint for one `g ADDRESS` or one step over. *ret_is_ours: it was set here and must go.
static struct vmkd_error *set_temporary(struct console *console, uint64_t address, uint32_t *ret_id, bool *ret_is_ours)
{
	struct vmkd_breakpoint bp;

	*ret_is_ours = false;
	for (uint32_t i = 0; vmkd_breakpoint_at(console->target, i, &bp); i++)
		if (bp.address == address && bp.is_enabled && stops_before(bp.kind))
			return NULL; // the user's own does it
	struct vmkd_error *error = vmkd_breakpoint_set(console->target, address, true, ret_id);
	if (error && error->code == VMKD_E_GUARDED) { // nobody asked for it to be in the code
		const struct vmkd_breakpoint_options options = { .kind = VMKD_BREAKPOINT_EXECUTE, .size = 1, .is_one_shot = true };
		vmkd_error_destroy(error);
		error = vmkd_breakpoint_set_with(console->target, address, &options, ret_id);
	}
	*ret_is_ours = !error;
	return error;
}

// It may have removed itself, or the target may run and cannot be asked.
static void drop_temporary(struct console *console, uint32_t id, uint64_t address)
{
	struct vmkd_breakpoint bp;

	for (uint32_t i = 0; vmkd_breakpoint_at(console->target, i, &bp); i++)
		if (bp.id == id && bp.address == address && bp.is_one_shot)
			vmkd_error_destroy(vmkd_breakpoint_remove(console->target, id));
}

static struct vmkd_error *go_and_wait(struct console *console, enum vmkd_continue how)
{
	struct vmkd_error *error = vmkd_target_go(console->target, how);
	return error ? error : session_wait(console, 0);
}

COMMAND(cmd_go)
{
	struct vmkd_event stop;
	uint64_t address = 0;
	uint32_t id = 0;
	bool is_temporary = false;
	enum vmkd_state state = vmkd_target_state(console->target);

	// It goes already: there is nothing to do but wait. An address needs a stop to be looked up and set.
	if ((state == VMKD_STATE_RUNNING || state == VMKD_STATE_UNKNOWN) && *arguments == '\0')
		return session_wait(console, 0);
	struct vmkd_error *error = session_need_stop(console);
	if (!error)
		error = last_exception(console, &stop);
	if (!error && *arguments != '\0')
		error = console_evaluate(console, arguments, &address);
	if (!error && *arguments != '\0')
		error = set_temporary(console, address, &id, &is_temporary);
	if (error)
		return error;
	enum vmkd_continue how = default_continue(&stop);
	if (name[1] == 'h')
		how = VMKD_CONTINUE_HANDLED;
	else if (name[1] == 'n')
		how = VMKD_CONTINUE_NOT_HANDLED;
	error = go_and_wait(console, how);
	if (is_temporary)
		drop_temporary(console, id, address);
	return error;
}

// ---- t, p ----------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *step_into(struct console *console)
{
	struct vmkd_error *error = vmkd_target_step(console->target);
	return error ? error : session_wait(console, 0);
}

// Runs to `address`, for this thread alone: others that come by there are sent on, in silence.
static struct vmkd_error *run_to(struct console *console, uint64_t address, uint64_t thread)
{
	uint32_t id = 0;
	bool is_temporary;
	struct vmkd_event stop;
	struct vmkd_error *error;

	do {
		error = set_temporary(console, address, &id, &is_temporary);
		if (!error)
			error = go_and_wait(console, VMKD_CONTINUE_HANDLED);
		if (is_temporary)
			drop_temporary(console, id, address);
	} while (!error && is_temporary && vmkd_target_last_stop(console->target, &stop) && stop.reason == VMKD_STOP_BREAKPOINT &&
		 stop.pc == address && stop.thread != thread);
	return error;
}

static struct vmkd_error *step_over(struct console *console)
{
	enum vmkd_arch arch;
	uint64_t pc;
	uint8_t bytes[DISASM_LENGTH_MAX];
	size_t done;
	struct disasm instruction;
	struct vmkd_event stop;
	struct vmkd_error *error = last_exception(console, &stop);

	if (!error)
		error = session_arch(console, &arch);
	if (!error)
		error = console_evaluate(console, "@$ip", &pc);
	if (error)
		return error;
	vmkd_error_destroy(vmkd_target_read(console->target, VMKD_VIRTUAL, pc, bytes, sizeof(bytes), &done)); // then it is a plain step
	disasm_decode(arch, pc, bytes, done, &instruction);
	if (instruction.is_valid && (instruction.is_call || instruction.is_repeated))
		return run_to(console, pc + instruction.length, stop.thread);
	return step_into(console);
}

// [COUNT] steps; something else than a step ends them.
static struct vmkd_error *steps(struct console *console, const char *arguments, struct vmkd_error *(*step)(struct console *))
{
	uint64_t count = 1;
	struct vmkd_event stop;
	struct vmkd_error *error = *arguments ? console_evaluate(console, arguments, &count) : NULL;

	if (!error && (count == 0 || count > STEPS_MAX))
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected 1 to %x steps", STEPS_MAX);
	while (!error && count-- > 0) {
		error = step(console);
		if (error || !vmkd_target_last_stop(console->target, &stop) || stop.kind != VMKD_EVENT_EXCEPTION)
			break;
		if (stop.reason != VMKD_STOP_STEP && stop.reason != VMKD_STOP_BREAKPOINT)
			break;
		if (console_interrupts) {
			console_interrupts = 0;
			break;
		}
	}
	return error;
}

COMMAND(cmd_step)
{
	(void)name;
	return steps(console, arguments, step_into);
}

COMMAND(cmd_step_over)
{
	(void)name;
	return steps(console, arguments, step_over);
}

// ---- breakpoints ---------------------------------------------------------------------------------------------------------------

// The kernel accepts a breakpoint on a page that is not there and sets it when the page comes in (KD reference, section 4.4): right for a
// driver that is paged out, surprising for a mistyped address.
static void note_absent_page(struct console *console, uint64_t address)
{
	uint8_t byte;
	size_t done;
	struct vmkd_error *error = vmkd_target_read(console->target, VMKD_VIRTUAL, address, &byte, 1, &done);

	if (error)
		fprintf(console->out, "(nothing is mapped there now: the kernel sets it when the page comes in)\n");
	vmkd_error_destroy(error);
}

static struct vmkd_error *set_breakpoint(struct console *console, const char *expression, const struct vmkd_breakpoint_options *options,
					 uint64_t *ret_address)
{
	uint64_t address;
	uint32_t id;
	struct vmkd_error *error = console_evaluate(console, expression, &address);

	if (!error)
		error = vmkd_breakpoint_set_with(console->target, address, options, &id);
	if (error)
		return error;
	if (console->is_interactive)
		fprintf(console->out, "breakpoint %u\n", id);
	*ret_address = address;
	return NULL;
}

COMMAND(cmd_bp)
{
	struct vmkd_breakpoint_options options = { .kind = VMKD_BREAKPOINT_CODE };
	uint64_t address;

	if (strncmp(arguments, "/f", 2) == 0 && (arguments[2] == ' ' || arguments[2] == '\t' || arguments[2] == '\0')) {
		options.is_forced = true;
		arguments += 2 + strspn(arguments + 2, " \t");
	}
	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = set_breakpoint(console, arguments, &options, &address);
	if (!error)
		note_absent_page(console, address);
	return error;
}

// e1, w4, r8: the access and the size, as WinDbg writes them.
static const char ACCESS[] = { [VMKD_BREAKPOINT_CODE] = ' ', [VMKD_BREAKPOINT_EXECUTE] = 'e', [VMKD_BREAKPOINT_WRITE] = 'w', [VMKD_BREAKPOINT_READ_WRITE] = 'r' };

COMMAND(cmd_ba)
{
	struct vmkd_breakpoint_options options = { .kind = VMKD_BREAKPOINT_CODE };
	uint64_t address;
	const char *size = *arguments ? arguments + 1 + strspn(arguments + 1, " \t") : arguments; // `ba w 4` as well as `ba w4`

	for (unsigned kind = VMKD_BREAKPOINT_EXECUTE; kind < sizeof(ACCESS); kind++)
		if (tolower((unsigned char)*arguments) == ACCESS[kind])
			options.kind = (enum vmkd_breakpoint_kind)kind;
	if (options.kind == VMKD_BREAKPOINT_CODE || !isdigit((unsigned char)*size) || (size[1] != ' ' && size[1] != '\t'))
		return console_usage(name);
	options.size = (uint32_t)(*size - '0');
	return set_breakpoint(console, size + 1 + strspn(size + 1, " \t"), &options, &address);
}

COMMAND(cmd_bl)
{
	struct vmkd_breakpoint bp;
	bool is_stopped = vmkd_target_state(console->target) == VMKD_STATE_STOPPED;
	bool is_32bit = is_stopped && session_is_32bit(console);
	char address[FORMAT_ADDRESS_MAX], symbol[NAMES_TEXT_MAX], access[16];

	if (*arguments != '\0')
		return console_usage(name);
	for (uint32_t i = 0; vmkd_breakpoint_at(console->target, i, &bp); i++) {
		snprintf(access, sizeof(access), " %c %u ", ACCESS[bp.kind], bp.size);
		fprintf(console->out, "%2u %c Disable Clear  %s %s hits %" PRIu64 "  %s\n", bp.id, bp.is_enabled ? 'e' : 'd',
			format_address(address, bp.address, is_32bit), bp.kind == VMKD_BREAKPOINT_CODE ? "" : access, bp.hits,
			is_stopped ? session_describe(console, bp.address, symbol) : "");
	}
	return NULL;
}

typedef struct vmkd_error *breakpoint_call(struct console *console, uint32_t id, char what);

static struct vmkd_error *change_one(struct console *console, uint32_t id, char what)
{
	return what == 'c' ? vmkd_breakpoint_remove(console->target, id) : vmkd_breakpoint_enable(console->target, id, what == 'e');
}

static struct vmkd_error *change_all(struct console *console, char what)
{
	struct vmkd_breakpoint bp;
	struct vmkd_error *error = NULL;

	for (uint32_t i = vmkd_breakpoint_count(console->target); i > 0 && !error; i--)
		if (vmkd_breakpoint_at(console->target, i - 1, &bp))
			error = change_one(console, bp.id, what);
	return error;
}

// "0 2-4 7" or "0,2", decimal as bl shows them.
static struct vmkd_error *change_list(struct console *console, const char *name, const char *text)
{
	while (*text != '\0') {
		char *end;
		unsigned long first = strtoul(text, &end, 10), last = first;
		if (end != text && *end == '-' && isdigit((unsigned char)end[1]))
			last = strtoul(end + 1, &end, 10);
		if (end == text || !isdigit((unsigned char)*text) || last < first || last >= VMKD_BREAKPOINTS_MAX)
			return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected breakpoint numbers from 0 to %u (0 2 4-6) or *, got '%.20s'", name,
						 VMKD_BREAKPOINTS_MAX - 1, text);
		for (unsigned long id = first; id <= last; id++) {
			struct vmkd_error *error = change_one(console, (uint32_t)id, name[1]);
			if (error)
				return error;
		}
		text = end + strspn(end, " ,\t");
	}
	return NULL;
}

COMMAND(cmd_bc)
{
	if (*arguments == '\0')
		return console_usage(name);
	if (strcmp(arguments, "*") == 0)
		return change_all(console, name[1]);
	return change_list(console, name, arguments);
}

COMMAND(cmd_be)
{
	return cmd_bc(console, name, arguments);
}

// ---- the session ---------------------------------------------------------------------------------------------------------------

COMMAND(cmd_break)
{
	(void)name;
	(void)arguments;
	return session_break_in(console);
}

COMMAND(cmd_answer)
{
	(void)name;
	struct vmkd_error *error = vmkd_target_answer_prompt(console->target, arguments, strlen(arguments));
	if (!error)
		console->has_prompt = false;
	return error;
}

COMMAND(cmd_reboot)
{
	(void)name;
	if (*arguments != '\0')
		return console_usage(name);
	struct vmkd_error *error = vmkd_target_reboot(console->target);
	if (!error)
		fputs("The target restarts.\n", console->out);
	names_forget(&console->names);
	return error;
}

COMMAND(cmd_crash)
{
	if (*arguments != '\0')
		return console_usage(name);
	struct vmkd_error *error = vmkd_target_crash(console->target);
	return error ? error : session_wait(console, 0);
}

COMMAND(cmd_resync)
{
	(void)name;
	(void)arguments;
	return vmkd_target_resync(console->target);
}

COMMAND(cmd_quit)
{
	if (*arguments != '\0')
		return console_usage(name);
	console->quit = strcmp(name, "qs") == 0 ? QUIT_STOPPED : QUIT_RESUME;
	return NULL;
}
