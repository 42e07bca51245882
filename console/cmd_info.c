// SPDX-License-Identifier: MIT
// r rdmsr wrmsr vertarget lm ~ ? .help .echo .sleep
#include <ctype.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "console/shell.h"

// ---- r -------------------------------------------------------------------------------------------------------------------------

struct register_reader {
	struct console *console;
	enum vmkd_arch arch;
	struct vmkd_error *error; // the first
};

static uint64_t read_register(void *closure, const char *name)
{
	struct register_reader *reader = closure;
	struct vmkd_register reg;
	struct vmkd_value value = { 0 };

	if (!reader->error && vmkd_register_find(reader->arch, name, &reg))
		reader->error = vmkd_target_register_get(reader->console->target, &reg, &value);
	return value.low;
}

static struct vmkd_error *show_all(struct console *console, enum vmkd_arch arch)
{
	struct register_reader reader = { .console = console, .arch = arch };

	// The first access tells whether registers can be had; then the display is complete or does not begin.
	(void)read_register(&reader, "efl");
	if (!reader.error)
		format_registers(console->out, arch, read_register, &reader);
	return reader.error ? reader.error : session_show_location(console);
}

static void show_one(struct console *console, const struct vmkd_register *reg, struct vmkd_value value)
{
	unsigned digits = reg->bits && reg->bits < 8 ? 1 : reg->size * 2u;

	fprintf(console->out, "%s=", reg->name);
	if (reg->size > 8)
		fprintf(console->out, "%0*" PRIx64 "%016" PRIx64 "\n", (int)(digits - 16), value.high, value.low);
	else
		fprintf(console->out, "%0*" PRIx64 "\n", (int)digits, value.low);
}

static struct vmkd_error *set_one(struct console *console, const struct vmkd_register *reg, const char *text)
{
	struct vmkd_value value = { 0 };
	struct vmkd_error *error = console_evaluate(console, text, &value.low);

	return error ? error : vmkd_target_register_set(console->target, reg, value);
}

// NAME or NAME=EXPRESSION, with or without @.
static struct vmkd_error *one_register(struct console *console, enum vmkd_arch arch, const char *text)
{
	struct vmkd_register reg;
	struct vmkd_value value;
	char name[32];

	text += *text == '@';
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$");
	if (len >= sizeof(name))
		len = sizeof(name) - 1;
	memcpy(name, text, len);
	name[len] = '\0';
	if (strcmp(name, "$ip") == 0)
		strcpy(name, arch == VMKD_ARCH_X86 ? "eip" : "rip");
	if (!vmkd_register_find(arch, name, &reg))
		return vmkd_error_create(VMKD_E_ARGUMENT, "r: expected a register of this machine, got '%.31s': r alone shows the usual ones", text);
	text += len + strspn(text + len, " \t");
	if (*text == '=')
		return set_one(console, &reg, text + 1);
	if (*text != '\0')
		return vmkd_error_create(VMKD_E_ARGUMENT, "r: expected '=' or the end of the command before '%.40s'", text);
	struct vmkd_error *error = vmkd_target_register_get(console->target, &reg, &value);
	if (!error)
		show_one(console, &reg, value);
	return error;
}

COMMAND(cmd_registers)
{
	enum vmkd_arch arch;
	char item[256];
	struct vmkd_error *error = session_arch(console, &arch);

	(void)name;
	if (error || *arguments == '\0')
		return error ? error : show_all(console, arch);
	// A list: r rax, rbx=5
	while (!error && *arguments != '\0') {
		size_t len = strcspn(arguments, ",");
		snprintf(item, sizeof(item), "%.*s", (int)len, arguments);
		error = one_register(console, arch, item);
		arguments += len;
		arguments += strspn(arguments, ", \t");
	}
	return error;
}

COMMAND(cmd_rdmsr)
{
	uint64_t msr, value;

	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = console_evaluate(console, arguments, &msr);
	if (!error && msr > UINT32_MAX)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "rdmsr: expected a register number of 32 bits");
	if (!error)
		error = vmkd_target_msr_read(console->target, (uint32_t)msr, &value);
	if (!error)
		fprintf(console->out, "msr[%" PRIx64 "] = %08" PRIx32 "`%08" PRIx32 "\n", msr, (uint32_t)(value >> 32), (uint32_t)value);
	return error;
}

COMMAND(cmd_wrmsr)
{
	struct expr_env env = session_env(console);
	uint64_t msr, value;

	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = expr_list_item(&arguments, &env, &msr);
	if (!error)
		error = console_evaluate(console, arguments, &value);
	if (!error && msr > UINT32_MAX)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "wrmsr: expected a register number of 32 bits");
	return error ? error : vmkd_target_msr_write(console->target, (uint32_t)msr, value);
}

// ---- vertarget -----------------------------------------------------------------------------------------------------------------

#define NT_BUILD_LAB_AT 0x208u // KDDEBUGGER_DATA64.NtBuildLab (wdbgexts.h): address of the text

static void show_build_lab(struct console *console)
{
	uint8_t block[NT_BUILD_LAB_AT + 8];
	char lab[64] = "";
	size_t len, done = 0;
	uint64_t address = 0;
	struct vmkd_error *error = vmkd_target_kdbg_read(console->target, block, sizeof(block), &len);

	if (!error && len == sizeof(block)) {
		memcpy(&address, block + NT_BUILD_LAB_AT, sizeof(address)); // hosts of vmkd are little-endian, as x86 is
		if (address != 0)
			error = vmkd_target_read(console->target, VMKD_VIRTUAL, address, lab, sizeof(lab) - 1, &done);
	}
	vmkd_error_destroy(error); // one line less
	lab[done] = '\0';
	if (lab[0] == '\0')
		return;
	fputs("Built by: ", console->out);
	format_target_text(console->out, lab, strlen(lab));
	fputc('\n', console->out);
}

static const char *memory_way(struct console *console)
{
	switch (vmkd_target_memory_way(console->target)) {
	case VMKD_MEMORY_MAPPED: return "from the VM's RAM (mapped)";
	case VMKD_MEMORY_PROCESS: return "from the VM's RAM (process_vm_readv)";
	case VMKD_MEMORY_PACKETS: break;
	}
	return "in packets";
}

COMMAND(cmd_vertarget)
{
	struct vmkd_version version;
	char base[FORMAT_ADDRESS_MAX], list[FORMAT_ADDRESS_MAX], block[FORMAT_ADDRESS_MAX];

	if (*arguments != '\0')
		return console_usage(name);
	struct vmkd_error *error = vmkd_target_version(console->target, &version);
	if (error)
		return error;
	bool is_32bit = version.arch == VMKD_ARCH_X86;
	fprintf(console->out, "Windows Kernel Version %u %s (%u procs) %s %s\n", version.build, version.flags & 1 ? "MP" : "UP",
		version.processor_count, (version.major & 0xFF) == 0x0C ? "Checked" : "Free", is_32bit ? "x86 compatible" : "x64");
	show_build_lab(console);
	fprintf(console->out, "Kernel base = 0x%s PsLoadedModuleList = 0x%s\n", format_address(base, version.kernel_base, is_32bit),
		format_address(list, version.module_list, is_32bit));
	if (version.kdbg != 0)
		fprintf(console->out, "Debugger data = 0x%s (%x bytes)\n", format_address(block, version.kdbg, is_32bit), version.kdbg_size);
	fprintf(console->out, "Connected through %s, KD protocol %u\n", vmkd_target_name(console->target), version.protocol);
	fprintf(console->out, "Memory is read %s\n", memory_way(console));
	return NULL;
}

// ---- lm ------------------------------------------------------------------------------------------------------------------------

static void show_module(struct console *console, const struct vmkd_module *module, bool is_32bit, bool is_verbose)
{
	char start[FORMAT_ADDRESS_MAX], end[FORMAT_ADDRESS_MAX];
	uint32_t stamp;

	fprintf(console->out, "%s %s   ", format_address(start, module->base, is_32bit), format_address(end, module->base + module->size, is_32bit));
	format_target_text(console->out, module->short_name, strlen(module->short_name));
	fprintf(console->out, "%*s (", (int)(strlen(module->short_name) < 8 ? 8 - strlen(module->short_name) : 0), "");
	format_target_text(console->out, module->name, strlen(module->name));
	fputc(')', console->out);
	if (is_verbose) {
		struct vmkd_error *error = vmkd_module_timestamp(console->target, module->base, &stamp);
		fputs("\n    Image path: ", console->out);
		format_target_text(console->out, module->path, strlen(module->path));
		fputs("\n    Image name: ", console->out);
		format_target_text(console->out, module->name, strlen(module->name));
		fprintf(console->out, "\n    CheckSum:   %08X\n    ImageSize:  %08" PRIX64 "\n", module->checksum, module->size);
		if (error)
			fputs("    Timestamp:  not readable", console->out);
		else
			fprintf(console->out, "    Timestamp:  %08X", stamp);
		vmkd_error_destroy(error);
	}
	fputc('\n', console->out);
}

struct module_filter {
	bool is_verbose, has_address, has_pattern;
	uint64_t address;
	const char *pattern;
};

// "lmv", "lm v a ADDR", "lmvm PATTERN": letters in the name or behind it; a and m take the rest.
static struct vmkd_error *parse_filter(struct console *console, const char *name, const char *arguments, struct module_filter *filter)
{
	const char *letters = name + 2;

	for (;;) {
		if (*letters == '\0') {
			if (*arguments == '\0')
				return NULL;
			letters = arguments;
			arguments = "";
		}
		if (*letters == ' ') {
			letters++;
			continue;
		}
		char option = *letters++;
		const char *rest = *letters ? letters + strspn(letters, " ") : arguments;
		if (option == 'v' || option == 'k') {
			filter->is_verbose = filter->is_verbose || option == 'v';
		} else if (option == 'a' && *rest != '\0') {
			filter->has_address = true;
			return console_evaluate(console, rest, &filter->address);
		} else if (option == 'm' && *rest != '\0') {
			filter->has_pattern = true;
			filter->pattern = rest;
			return NULL;
		} else {
			return console_usage("lm");
		}
	}
}

static bool passes(const struct module_filter *filter, const struct vmkd_module *module)
{
	if (filter->has_address)
		return filter->address - module->base < module->size;
	if (filter->has_pattern)
		return fnmatch(filter->pattern, module->short_name, FNM_CASEFOLD) == 0 || fnmatch(filter->pattern, module->name, FNM_CASEFOLD) == 0;
	return true;
}

COMMAND(cmd_lm)
{
	struct module_filter filter = { .is_verbose = false };
	struct vmkd_modules *modules;
	size_t shown = 0;
	struct vmkd_error *error = parse_filter(console, name, arguments, &filter);

	if (error)
		return error;
	names_forget(&console->names); // what is asked for is what is there now
	error = names_modules(&console->names, console->target, &modules);
	if (error)
		return error;
	bool is_32bit = session_is_32bit(console);
	fprintf(console->out, is_32bit ? "start    end        module name (image)\n" : "start             end                 module name (image)\n");
	for (size_t i = 0; i < vmkd_modules_count(modules); i++) {
		const struct vmkd_module *module = vmkd_modules_at(modules, i);
		if (!passes(&filter, module))
			continue;
		show_module(console, module, is_32bit, filter.is_verbose);
		shown++;
	}
	if (vmkd_modules_problem(modules)) {
		fputs("The list is not complete: ", console->out);
		format_target_text(console->out, vmkd_modules_problem(modules), strlen(vmkd_modules_problem(modules)));
		fputc('\n', console->out);
	}
	if (shown == 0 && (filter.has_address || filter.has_pattern))
		return vmkd_error_create(VMKD_E_NOT_FOUND, "lm: no module %s: lm alone lists all %zu",
					 filter.has_address ? "holds this address" : "has such a name", vmkd_modules_count(modules));
	return NULL;
}

COMMAND(cmd_reload)
{
	struct vmkd_modules *modules;

	if (*arguments != '\0')
		return console_usage(name);
	names_forget(&console->names);
	return names_modules(&console->names, console->target, &modules);
}

// ---- ~ -------------------------------------------------------------------------------------------------------------------------

// What other processors do, their saved contexts tell.
static struct vmkd_error *show_processor(struct console *console, uint32_t processor, enum vmkd_arch arch)
{
	uint8_t context[2048];
	size_t size;
	uint64_t pc = 0;
	struct vmkd_register reg;
	char address[FORMAT_ADDRESS_MAX], symbol[NAMES_TEXT_MAX];
	struct vmkd_error *error = vmkd_target_context_get(console->target, processor, context, sizeof(context), &size);

	if (error)
		return error;
	if (vmkd_register_find(arch, arch == VMKD_ARCH_X86 ? "eip" : "rip", &reg) && (size_t)reg.offset + reg.size <= size)
		memcpy(&pc, context + reg.offset, reg.size); // little-endian host
	fprintf(console->out, "%c %2u  pc %s  %s\n", processor == vmkd_target_processor(console->target) ? '.' : ' ', processor,
		format_address(address, pc, arch == VMKD_ARCH_X86), session_describe(console, pc, symbol));
	return NULL;
}

COMMAND(cmd_processors)
{
	enum vmkd_arch arch;
	char *end;
	struct vmkd_error *error = session_arch(console, &arch);

	if (error)
		return error;
	uint32_t count = vmkd_target_processor_count(console->target);
	if (*arguments == '\0' || strcmp(arguments, "*") == 0) {
		for (uint32_t i = 0; i < count && !error && !console_interrupts; i++)
			error = show_processor(console, i, arch);
		return error;
	}
	unsigned long processor = strtoul(arguments, &end, 10);
	if (!isdigit((unsigned char)*arguments) || (*end != '\0' && strcmp(end, "s") != 0))
		return console_usage(name);
	if (processor >= count)
		return vmkd_error_create(VMKD_E_ARGUMENT, "~: expected a processor from 0 to %u, got %lu", count - 1, processor);
	if (*end == '\0')
		return show_processor(console, (uint32_t)processor, arch);
	error = vmkd_target_switch_processor(console->target, (uint32_t)processor);
	return error ? error : session_drain(console);
}

// ---- ?, help, scripts ----------------------------------------------------------------------------------------------------------

COMMAND(cmd_evaluate)
{
	uint64_t value;
	char text[FORMAT_ADDRESS_MAX];

	if (*arguments == '\0')
		return cmd_help(console, name, arguments);
	struct vmkd_error *error = console_evaluate(console, arguments, &value);
	bool is_stopped = vmkd_target_state(console->target) == VMKD_STATE_STOPPED;
	if (error && !is_stopped && !console->is_interactive) { // numbers need no target, names do
		vmkd_error_destroy(error);
		error = session_need_stop(console);
		if (!error)
			error = console_evaluate(console, arguments, &value);
	}
	if (error)
		return error;
	bool is_32bit = session_env(console).is_32bit;
	int64_t number = is_32bit ? (int32_t)value : (int64_t)value;
	fprintf(console->out, "Evaluate expression: %" PRId64 " = %s\n", number, format_address(text, value, is_32bit));
	return NULL;
}

// How wide UTF-8 text is: the usages have an ellipsis of three bytes. At most 30.
static size_t columns(const char *text)
{
	size_t count = 0;

	for (; *text && count < 30; text++)
		count += ((unsigned char)*text & 0xC0) != 0x80;
	return count;
}

COMMAND(cmd_help)
{
	(void)name;
	for (const struct command *command = COMMANDS; command->name; command++) {
		if (command->help[0] == '\0' || (*arguments != '\0' && strcmp(arguments, command->name) != 0))
			continue;
		char usage[64];
		snprintf(usage, sizeof(usage), "%s %s", command->name, command->arguments);
		fprintf(console->out, "  %s%*s %s\n", usage, (int)(30 - columns(usage)), "", command->help);
	}
	if (*arguments == '\0')
		fputs("Numbers are hexadecimal unless marked: 0n10, 0x10, 0t10, 0y10. RANGE is ADDRESS, ADDRESS LAST or ADDRESS L COUNT; names in\n"
		      "expressions: @rax, @$ip, modules (nt), poi(EXPR). Ctrl-C breaks in. Several commands: a ; b. Enter repeats the last.\n",
		      console->out);
	return NULL;
}

COMMAND(cmd_echo)
{
	(void)name;
	fprintf(console->out, "%s\n", arguments);
	return NULL;
}

COMMAND(cmd_sleep)
{
	char *end;
	unsigned long ms = strtoul(arguments, &end, 10);

	if (!isdigit((unsigned char)*arguments) || *end != '\0' || ms > 3600000)
		return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected milliseconds from 0 to 3600000 (decimal), got '%.20s'", name, arguments);
	uint64_t end_at = console_now() + ms;
	while (console_now() < end_at && !console_interrupts) {
		struct vmkd_event event;
		bool is_stop;
		fflush(console->out);
		struct vmkd_error *error = vmkd_target_wait(console->target, (int)(end_at - console_now()), &event);
		if (!error)
			error = session_handle(console, &event, &is_stop);
		if (error)
			return error;
	}
	return NULL;
}
