// SPDX-License-Identifier: MIT
// What the target says, and what the console does about it.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "console/shell.h"
#include "console/disasm.h"
#include "console/line.h"

volatile sig_atomic_t console_interrupts;

#define WAIT_STEP_MS 200 // how long a Ctrl-C that came just before a wait may go unnoticed

uint64_t console_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// ---- modules and names ---------------------------------------------------------------------------------------------------------

const char *session_describe(struct console *console, uint64_t address, char buffer[NAMES_TEXT_MAX])
{
	return names_describe(&console->names, console->target, address, buffer);
}

struct vmkd_error *session_arch(struct console *console, enum vmkd_arch *ret)
{
	struct vmkd_version version;
	struct vmkd_error *error = vmkd_target_version(console->target, &version);

	if (!error)
		*ret = version.arch;
	return error;
}

bool session_is_32bit(struct console *console)
{
	enum vmkd_arch arch = VMKD_ARCH_UNKNOWN;

	vmkd_error_destroy(session_arch(console, &arch)); // not known: 64 bits hold everything
	return arch == VMKD_ARCH_X86;
}

// ---- expressions ---------------------------------------------------------------------------------------------------------------

static bool get_register(void *closure, const char *name, bool is_marked, uint64_t *ret)
{
	struct console *console = closure;
	enum vmkd_arch arch = VMKD_ARCH_UNKNOWN;
	struct vmkd_register reg;
	struct vmkd_value value;
	struct vmkd_event stop;

	if (strcmp(name, "$thread") == 0 && vmkd_target_last_stop(console->target, &stop)) {
		*ret = stop.thread;
		return true;
	}
	struct vmkd_error *error = session_arch(console, &arch);
	if (strcmp(name, "$ip") == 0)
		name = arch == VMKD_ARCH_X86 ? "eip" : "rip";
	else if (strcmp(name, "$csp") == 0)
		name = arch == VMKD_ARCH_X86 ? "esp" : "rsp";
	bool is_found = !error && vmkd_register_find(arch, name, &reg);
	if (is_found && !is_marked)
		is_found = reg.group == VMKD_REGISTERS_GENERAL || reg.group == VMKD_REGISTERS_PART;
	if (is_found)
		error = vmkd_target_register_get(console->target, &reg, &value);
	if (is_found && !error)
		*ret = value.low;
	is_found = is_found && !error;
	vmkd_error_destroy(error);
	return is_found;
}

static struct vmkd_error *resolve(void *closure, const char *name, uint64_t *ret)
{
	struct console *console = closure;
	bool is_found;

	if (console->symbols.resolve) {
		struct vmkd_error *error = console->symbols.resolve(console->symbols.closure, name, ret);
		if (error != EXPR_UNKNOWN_NAME)
			return error;
	}
	struct vmkd_error *error = names_resolve(&console->names, console->target, name, ret, &is_found);
	return error || is_found ? error : EXPR_UNKNOWN_NAME;
}

static struct vmkd_error *read_value(void *closure, uint64_t address, unsigned size, uint64_t *ret)
{
	struct console *console = closure;
	uint8_t bytes[8];
	uint64_t value = 0;
	struct vmkd_error *error = vmkd_target_read(console->target, VMKD_VIRTUAL, address, bytes, size, NULL);

	if (error)
		return error;
	for (unsigned i = size; i > 0; i--)
		value = value << 8 | bytes[i - 1];
	*ret = value;
	return NULL;
}

struct expr_env session_env(struct console *console)
{
	return (struct expr_env){ .closure = console,
				  .is_32bit = vmkd_target_state(console->target) == VMKD_STATE_STOPPED && session_is_32bit(console),
				  .get_register = get_register,
				  .resolve = resolve,
				  .read = read_value };
}

struct vmkd_error *console_evaluate(struct console *console, const char *text, uint64_t *ret)
{
	struct expr_env env = session_env(console);
	return expr_evaluate(text, &env, ret);
}

// ---- where the processor is ----------------------------------------------------------------------------------------------------

struct vmkd_error *session_show_location(struct console *console)
{
	enum vmkd_arch arch;
	uint64_t pc;
	uint8_t bytes[DISASM_LENGTH_MAX];
	size_t done;
	char symbol[NAMES_TEXT_MAX], address[FORMAT_ADDRESS_MAX];
	struct disasm instruction;
	struct vmkd_error *error = session_arch(console, &arch);

	if (error)
		return error;
	if (!get_register(console, "$ip", true, &pc))
		return NULL;
	fprintf(console->out, "%s:\n%s ", session_describe(console, pc, symbol),
		format_address(address, pc, arch == VMKD_ARCH_X86));
	error = vmkd_target_read(console->target, VMKD_VIRTUAL, pc, bytes, sizeof(bytes), &done);
	if (done == 0) {
		fputs("??              ???\n", console->out);
	} else {
		disasm_decode(arch, pc, bytes, done, &instruction);
		for (unsigned i = 0; i < instruction.length; i++)
			fprintf(console->out, "%02x", bytes[i]);
		fprintf(console->out, "%*s%s\n", (int)(instruction.length < 8 ? 16 - 2 * instruction.length : 1), "", instruction.text);
	}
	if (error && error->code == VMKD_E_FAULT) {
		vmkd_error_destroy(error);
		error = NULL;
	}
	return error;
}

// ---- events --------------------------------------------------------------------------------------------------------------------

static uint64_t register_value(void *closure, const char *name)
{
	uint64_t value = 0;

	(void)get_register(closure, name, true, &value); // 0 stands for what cannot be had
	return value;
}

static struct vmkd_error *show_registers(struct console *console)
{
	enum vmkd_arch arch;
	struct vmkd_error *error = session_arch(console, &arch);

	if (!error)
		format_registers(console->out, arch, register_value, console);
	return error;
}

static bool has_breakpoint(struct console *console, uint32_t id)
{
	struct vmkd_breakpoint bp;

	for (uint32_t i = 0; vmkd_breakpoint_at(console->target, i, &bp); i++)
		if (bp.id == id)
			return true;
	return false;
}

static struct vmkd_error *show_exception(struct console *console, const struct vmkd_event *event)
{
	switch (event->reason) {
	case VMKD_STOP_STEP:
	case VMKD_STOP_SWITCHED:
		break;
	case VMKD_STOP_BREAKPOINT:
		if (has_breakpoint(console, event->breakpoint)) // one for a single g has gone with its hit
			fprintf(console->out, "Breakpoint %u hit\n", event->breakpoint);
		break;
	case VMKD_STOP_BREAK_IN:
	case VMKD_STOP_INT3:
	case VMKD_STOP_EXCEPTION:
		fprintf(console->out, "%s - code %08x (%s)\n", format_exception_name(event->exception_code), event->exception_code,
			event->is_first_chance ? "first chance" : "!!! second chance !!!");
		break;
	}
	if (event->reason == VMKD_STOP_EXCEPTION && event->exception_code != 0x80000004) {
		for (uint32_t i = 0; i < event->parameter_count && event->exception_code == 0xC0000005 && i < 2; i++)
			fprintf(console->out, "Parameter[%u]: %" PRIx64 "\n", i, event->parameters[i]);
		struct vmkd_error *error = show_registers(console);
		if (error)
			return error;
	}
	return session_show_location(console);
}

static void show_module(struct console *console, const struct vmkd_event *event)
{
	char start[FORMAT_ADDRESS_MAX], end[FORMAT_ADDRESS_MAX];
	bool is_32bit = session_is_32bit(console);

	fprintf(console->out, "%s: %s %s   ", event->is_unload ? "ModUnload" : "ModLoad", format_address(start, event->module_base, is_32bit),
		format_address(end, event->module_base + event->module_size, is_32bit));
	format_target_text(console->out, event->text, event->text_len);
	fputc('\n', console->out);
}

static void show_shutdown(struct console *console, const struct vmkd_event *event)
{
	fprintf(console->out, "The target %s...\n", event->module_base == UINT64_MAX ? "shuts down or reboots" : "hibernates");
}

static void show_restart(struct console *console, const struct vmkd_event *event)
{
	fputs("The target has started over", console->out);
	if (event->lost_breakpoints > 0)
		fprintf(console->out, "; %u breakpoints were in the old kernel and are set again at the next resume", event->lost_breakpoints);
	fputc('\n', console->out);
}

static void keep_prompt(struct console *console, const struct vmkd_event *event)
{
	size_t len = event->text_len < sizeof(console->prompt) - 1 ? event->text_len : sizeof(console->prompt) - 1;

	memcpy(console->prompt, event->text, len);
	console->prompt[len] = '\0';
	console->has_prompt = true;
	format_target_text(console->out, event->text, event->text_len);
	fputs("\n(the target waits for an answer: .answer TEXT)\n", console->out);
}

// The text of an event, and whether it is a stop for the user; a stop that is not goes on.
static struct vmkd_error *show(struct console *console, const struct vmkd_event *event, bool *ret_is_stop, bool *ret_goes_on)
{
	switch (event->kind) {
	case VMKD_EVENT_NONE:
	case VMKD_EVENT_FILE: // not asked for
		break;
	case VMKD_EVENT_PRINT:
		format_target_text(console->out, event->text, event->text_len);
		break;
	case VMKD_EVENT_PROMPT:
		keep_prompt(console, event);
		*ret_is_stop = true;
		break;
	case VMKD_EVENT_MODULE:
		show_module(console, event);
		names_forget(&console->names);
		*ret_goes_on = true;
		break;
	case VMKD_EVENT_SHUTDOWN:
		show_shutdown(console, event);
		*ret_goes_on = true;
		break;
	case VMKD_EVENT_COMMAND:
		// Shown, not run: a guest must not command the host's console.
		fputs("The target wants this command to be run (it was not): ", console->out);
		format_target_text(console->out, event->text, event->text_len);
		fputc('\n', console->out);
		*ret_goes_on = true;
		break;
	case VMKD_EVENT_RESTARTED:
		show_restart(console, event);
		names_forget(&console->names);
		console->dump.is_set = console->code.is_set = false;
		break;
	case VMKD_EVENT_EXCEPTION:
		*ret_is_stop = true;
		if (!event->is_repeated)
			return show_exception(console, event);
		break;
	}
	return NULL;
}

struct vmkd_error *session_handle(struct console *console, const struct vmkd_event *event, bool *ret_is_stop)
{
	bool goes_on = false;

	*ret_is_stop = false;
	if (event->kind == VMKD_EVENT_NONE)
		return NULL;
	line_output_begin(console);
	struct vmkd_error *error = show(console, event, ret_is_stop, &goes_on);
	if (!error && goes_on && vmkd_target_state(console->target) == VMKD_STATE_STOPPED)
		error = vmkd_target_go(console->target, VMKD_CONTINUE_HANDLED);
	line_output_end(console);
	return error;
}

// ---- waiting -------------------------------------------------------------------------------------------------------------------

struct vmkd_error *session_drain(struct console *console)
{
	struct vmkd_event event;
	bool is_stop;

	for (;;) {
		struct vmkd_error *error = vmkd_target_wait(console->target, 0, &event);
		if (error || event.kind == VMKD_EVENT_NONE)
			return error;
		error = session_handle(console, &event, &is_stop);
		if (error)
			return error;
	}
}

static struct vmkd_error *wait_over(struct console *console, uint64_t waited_ms)
{
	if (waited_ms == 0)
		return vmkd_error_create(VMKD_E_TIMEOUT, "no time is left to wait for a stop (the limit of -t is reached); the target is left running");
	if (vmkd_target_state(console->target) == VMKD_STATE_UNKNOWN)
		return vmkd_error_create(VMKD_E_TIMEOUT,
					 "nothing came from %s for %" PRIu64
					 " ms: expected a kernel with debugging on behind it; is the VM running, and is this its debug port?",
					 vmkd_target_name(console->target), waited_ms);
	return vmkd_error_create(VMKD_E_TIMEOUT, "the target did not stop within %" PRIu64 " ms; it is still running", waited_ms);
}

struct vmkd_error *session_wait(struct console *console, uint64_t limit_ms)
{
	uint64_t start = console_now();
	uint64_t end = limit_ms != 0 ? start + limit_ms : UINT64_MAX;
	unsigned breaks = 0;
	struct vmkd_event event;
	bool is_stop = false;

	if (console->deadline != 0 && console->deadline < end)
		end = console->deadline;
	while (!is_stop) {
		uint64_t now = console_now();
		if (now >= end)
			return wait_over(console, now - start);
		if (console_interrupts) {
			console_interrupts = 0;
			if (++breaks > 1)
				return vmkd_error_create(VMKD_E_STATE, "the target does not answer the break-in; it is left running (Ctrl-C tries "
								       "again, .resync starts the connection over)");
			vmkd_target_break_in(console->target);
		}
		uint64_t step = end - now < WAIT_STEP_MS ? end - now : WAIT_STEP_MS;
		fflush(console->out);
		struct vmkd_error *error = vmkd_target_wait(console->target, (int)step, &event);
		if (!error)
			error = session_handle(console, &event, &is_stop);
		if (error)
			return error;
	}
	return NULL;
}

struct vmkd_error *session_learn_state(struct console *console, uint64_t limit_ms)
{
	uint64_t end = console_now() + limit_ms, now;

	while (vmkd_target_state(console->target) == VMKD_STATE_UNKNOWN && (now = console_now()) < end && !console_interrupts) {
		struct vmkd_event event;
		bool is_stop;
		struct vmkd_error *error = vmkd_target_wait(console->target, (int)(end - now), &event);
		if (!error)
			error = session_handle(console, &event, &is_stop);
		if (error)
			return error;
	}
	return NULL;
}

struct vmkd_error *session_break_in(struct console *console)
{
	if (vmkd_target_state(console->target) == VMKD_STATE_STOPPED)
		return NULL;
	vmkd_target_break_in(console->target);
	return session_wait(console, 0);
}

#define BREAK_IN_MS 60000u // for scripts without a limit of their own: a guest may be booting
#define SILENT_MS 3000u    // a break-in takes a clock tick; whoever looks on wants to know why nothing happens

struct vmkd_error *session_need_stop(struct console *console)
{
	enum vmkd_state state = vmkd_target_state(console->target);

	if (console->is_interactive || (state != VMKD_STATE_RUNNING && state != VMKD_STATE_UNKNOWN))
		return NULL; // the command says best what is wrong
	vmkd_target_break_in(console->target);
	struct vmkd_error *error = session_wait(console, SILENT_MS);
	if (!error || error->code != VMKD_E_TIMEOUT || (console->deadline != 0 && console_now() >= console->deadline))
		return error;
	vmkd_error_destroy(error);
	fprintf(stderr, "vmkd kd: waiting for %s to stop; vmkd list shows what it does (Ctrl-C twice gives up)\n",
		vmkd_target_name(console->target));
	return session_wait(console, BREAK_IN_MS - SILENT_MS);
}
