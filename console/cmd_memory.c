// SPDX-License-Identifier: MIT
// d* e* u s f .writemem .readmem
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "console/shell.h"
#include "console/disasm.h"

#define DUMP_DEFAULT 128u      // bytes that d* shows without a length
#define DUMP_BUFFER 4096u      // read and shown at a time, a multiple of a line
#define STRING_DEFAULT 1024u   // bytes that da and du look for a NUL in
#define CODE_DEFAULT 8u        // instructions
#define PATTERN_MAX 256u
#define CODE_MAX 0x10000u      // instructions at once
#define FILE_CHUNK 0x100000u   // between two looks at Ctrl-C
#define PATH_MAX_LEN 1024u

// ---- shared --------------------------------------------------------------------------------------------------------------------

// What cannot be read is shown as ??: a fault goes to *ret_fault, to be shown in this way and no more, or returned in the end.
static struct vmkd_error *read_shown(struct console *console, uint64_t address, uint8_t *bytes, size_t len, size_t *ret_done,
				     struct vmkd_error **ret_fault)
{
	struct vmkd_error *error = vmkd_target_read(console->target, VMKD_VIRTUAL, address, bytes, len, ret_done);

	*ret_fault = NULL;
	if (!error || error->code != VMKD_E_FAULT)
		return error;
	*ret_fault = error;
	return NULL;
}

// The end of a display of which not even the first byte could be read: a user has seen the ??, a script needs a status.
static struct vmkd_error *finish_fault(struct console *console, bool is_nothing_shown, struct vmkd_error *fault)
{
	if (fault && is_nothing_shown && !console->is_interactive)
		return fault;
	vmkd_error_destroy(fault);
	return NULL;
}

static struct vmkd_error *expect_end(const char *name, const char *rest)
{
	if (*rest == '\0')
		return NULL;
	return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected the end of the command before '%.40s'", name, rest);
}

static bool take_interrupt(void)
{
	if (!console_interrupts)
		return false;
	console_interrupts = 0;
	return true;
}

static struct vmkd_error *interrupted(const char *name)
{
	return vmkd_error_create(VMKD_E_STATE, "%s: interrupted", name);
}

// Parses the range of a display command; without an address it goes on where the last one ended, or at the current instruction.
static struct vmkd_error *display_range(struct console *console, const char *name, const char *arguments, unsigned unit,
					struct dump_position *position, struct expr_range *ret)
{
	struct expr_env env = session_env(console);
	struct expr_range range;
	uint64_t address = position->next;
	struct vmkd_error *error = expr_parse_range(&arguments, &env, unit, &range);

	if (!error)
		error = expect_end(name, arguments);
	if (!error && !range.has_address && !position->is_set)
		error = console_evaluate(console, "@$ip", &address);
	if (error)
		return error;
	if (!range.has_address)
		range.address = address;
	*ret = range;
	return NULL;
}

// ---- d* ------------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *dump_memory(struct console *console, const char *name, enum dump_style style, uint64_t address, uint64_t len)
{
	bool is_32bit = session_is_32bit(console);
	uint8_t bytes[DUMP_BUFFER];

	for (uint64_t at = 0; at < len;) {
		size_t chunk = len - at < sizeof(bytes) ? (size_t)(len - at) : sizeof(bytes), done = 0;
		struct vmkd_error *fault;
		if (take_interrupt())
			return interrupted(name);
		struct vmkd_error *error = read_shown(console, address + at, bytes, chunk, &done, &fault);
		if (error)
			return error;
		format_dump(console->out, style, address + at, is_32bit, bytes, chunk, done);
		error = finish_fault(console, at + done == 0, fault);
		if (error)
			return error;
		at += chunk;
	}
	console->dump.next = address + len;
	return NULL;
}

static struct vmkd_error *dump_string(struct console *console, unsigned unit, uint64_t address, uint64_t len)
{
	uint8_t bytes[STRING_DEFAULT];
	size_t want = len != 0 && len < sizeof(bytes) ? (size_t)len : sizeof(bytes), done = 0;
	struct vmkd_error *fault;
	struct vmkd_error *error = read_shown(console, address, bytes, want, &done, &fault);

	if (error)
		return error;
	if (done < unit) {
		char text[FORMAT_ADDRESS_MAX];
		fprintf(console->out, "%s  \"%s\"\n", format_address(text, address, session_is_32bit(console)), "????????");
		done = unit;
	} else {
		done = format_string(console->out, unit, address, session_is_32bit(console), bytes, done);
	}
	console->dump.next = address + done;
	return finish_fault(console, done <= unit, fault);
}

COMMAND(cmd_dump)
{
	struct expr_range range;
	char style = name[1] != '\0' ? name[1] : console->dump.command[1] != '\0' ? console->dump.command[1] : 'b';
	enum dump_style dump = style == 'w' ? DUMP_WORDS : style == 'd' ? DUMP_DWORDS : style == 'q' ? DUMP_QWORDS : DUMP_BYTES;
	bool is_string = style == 'a' || style == 'u';
	unsigned unit = is_string ? (style == 'u' ? 2 : 1) : dump_unit(dump);
	struct vmkd_error *error = display_range(console, name, arguments, unit, &console->dump, &range);

	if (!error && is_string)
		error = dump_string(console, unit, range.address, range.len);
	else if (!error) // an end inside an element shows that element
		error = dump_memory(console, name, dump, range.address,
				    range.len ? (range.len + unit - 1) / unit * unit : DUMP_DEFAULT);
	if (error)
		return error;
	console->dump.is_set = true;
	snprintf(console->dump.command, sizeof(console->dump.command), "d%c", style);
	return NULL;
}

// ---- e* ------------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *collect_values(struct console *console, const char *text, unsigned unit, uint8_t *bytes, size_t size, size_t *ret_len)
{
	struct expr_env env = session_env(console);
	size_t len = 0;

	env.is_32bit = env.is_32bit && unit < 8; // eq writes 64 bits on any machine
	while (*text != '\0') {
		const char *start = text;
		uint64_t value;
		struct vmkd_error *error = expr_list_item(&text, &env, &value);
		if (error)
			return error;
		// Both -1 and ff…ff are fine for a unit: what is lost must be all zeros or all ones.
		uint64_t mask = unit >= 8 ? UINT64_MAX : (1ull << 8 * unit) - 1;
		if ((value & ~mask) != 0 && (value | mask) != (env.is_32bit ? UINT32_MAX : UINT64_MAX))
			return vmkd_error_create(VMKD_E_ARGUMENT, "expected a value of %u bytes, got '%.20s'", unit, start);
		if (len + unit > size)
			return vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %zu values", size / unit);
		for (unsigned i = 0; i < unit; i++)
			bytes[len++] = (uint8_t)(value >> 8 * i);
	}
	*ret_len = len;
	return NULL;
}

COMMAND(cmd_edit)
{
	struct expr_env env = session_env(console);
	unsigned unit = name[1] == 'w' ? 2 : name[1] == 'd' ? 4 : name[1] == 'q' ? 8 : 1;
	uint8_t bytes[PATTERN_MAX * 8];
	uint64_t address;
	size_t len;

	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = expr_list_item(&arguments, &env, &address);
	if (!error)
		error = collect_values(console, arguments, unit, bytes, sizeof(bytes), &len);
	if (!error && len == 0)
		error = console_usage(name);
	if (!error)
		error = vmkd_target_write(console->target, VMKD_VIRTUAL, address, bytes, len, NULL);
	return error;
}

// ---- s, f ----------------------------------------------------------------------------------------------------------------------

// RANGE VALUES: a range ends where a list begins, so the length is part of it and required.
static struct vmkd_error *range_and_values(struct console *console, const char *name, const char *arguments, struct expr_range *range,
					   uint8_t *bytes, size_t size, size_t *ret_len)
{
	struct expr_env env = session_env(console);

	struct vmkd_error *error = expr_list_item(&arguments, &env, &range->address);
	if (error)
		return error;
	uint64_t count;
	bool is_length = *arguments == 'L' || *arguments == 'l';
	bool is_unlimited = is_length && arguments[1] == '?';
	arguments += is_length + is_unlimited;
	if (*arguments == '\0')
		return console_usage(name);
	error = expr_list_item(&arguments, &env, &count);
	if (!error && !is_length && count < range->address)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected an end address above %" PRIx64, name, range->address);
	if (error)
		return error;
	range->len = is_length ? count : count - range->address + 1;
	if (range->len == 0 || (range->len > EXPR_RANGE_MAX && !is_unlimited))
		return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected a length from 1 to %llx (L?… lifts the limit)", name, EXPR_RANGE_MAX);
	error = collect_values(console, arguments, 1, bytes, size, ret_len);
	return !error && *ret_len == 0 ? console_usage(name) : error;
}

COMMAND(cmd_search)
{
	struct expr_range range;
	uint8_t pattern[PATTERN_MAX];
	size_t len;
	bool is_32bit;
	uint64_t found;
	struct vmkd_error *error = range_and_values(console, name, arguments, &range, pattern, sizeof(pattern), &len);

	if (error)
		return error;
	is_32bit = session_is_32bit(console);
	for (uint64_t at = range.address, end = range.address + range.len - 1; at <= end; at = found + 1) {
		uint8_t bytes[16];
		size_t done;
		if (take_interrupt())
			return interrupted(name);
		error = vmkd_target_search(console->target, at, end - at + 1, pattern, len, &found);
		if (error && error->code == VMKD_E_NOT_FOUND) {
			vmkd_error_destroy(error);
			return NULL;
		}
		struct vmkd_error *fault = NULL;
		if (!error)
			error = read_shown(console, found, bytes, sizeof(bytes), &done, &fault);
		vmkd_error_destroy(fault);
		if (error)
			return error;
		format_dump(console->out, DUMP_BYTES, found, is_32bit, bytes, sizeof(bytes), done);
		if (found == UINT64_MAX)
			break;
	}
	return NULL;
}

COMMAND(cmd_fill)
{
	struct expr_range range;
	uint8_t pattern[PATTERN_MAX];
	size_t len, done;
	struct vmkd_error *error = range_and_values(console, name, arguments, &range, pattern, sizeof(pattern), &len);

	if (!error)
		error = vmkd_target_fill(console->target, VMKD_VIRTUAL, range.address, range.len, pattern, len, &done);
	if (!error)
		fprintf(console->out, "Filled 0x%zx bytes\n", done);
	return error;
}

// ---- u -------------------------------------------------------------------------------------------------------------------------

static void print_instruction(struct console *console, uint64_t address, bool is_32bit, const uint8_t *bytes, const struct disasm *instruction)
{
	char text[FORMAT_ADDRESS_MAX];

	fprintf(console->out, "%s ", format_address(text, address, is_32bit));
	for (unsigned i = 0; i < instruction->length; i++)
		fprintf(console->out, "%02x", bytes[i]);
	fprintf(console->out, "%*s%s\n", (int)(instruction->length < 8 ? 16 - 2 * instruction->length : 1), "", instruction->text);
}

// count: instructions; end: address that ends it, 0 = the count alone.
static struct vmkd_error *unassemble(struct console *console, uint64_t address, uint64_t count, uint64_t end)
{
	enum vmkd_arch arch;
	uint8_t bytes[DUMP_BUFFER];
	size_t done = 0, at = 0;
	struct disasm instruction;
	char symbol[NAMES_TEXT_MAX];
	struct vmkd_error *fault = NULL, *error = session_arch(console, &arch);

	if (error)
		return error;
	fprintf(console->out, "%s:\n", session_describe(console, address, symbol));
	for (uint64_t i = 0; i < count && (end == 0 || address + at < end); i++) {
		if (done - at < DISASM_LENGTH_MAX) {
			address += at;
			at = 0;
			vmkd_error_destroy(fault);
			error = read_shown(console, address, bytes, sizeof(bytes), &done, &fault);
			if (error)
				return error;
		}
		if (at >= done) {
			char text[FORMAT_ADDRESS_MAX];
			fprintf(console->out, "%s ??              ???\n", format_address(text, address + at, arch == VMKD_ARCH_X86));
			break;
		}
		disasm_decode(arch, address + at, bytes + at, done - at, &instruction);
		print_instruction(console, address + at, arch == VMKD_ARCH_X86, bytes + at, &instruction);
		at += instruction.length;
	}
	console->code.next = address + at;
	console->code.is_set = true;
	return finish_fault(console, done == 0, fault);
}

COMMAND(cmd_unassemble)
{
	struct expr_range range;
	struct vmkd_error *error = display_range(console, name, arguments, 1, &console->code, &range);

	if (error)
		return error;
	// `u ADDR L5` counts instructions, `u ADDR LAST` ends at an address.
	if (range.len == 0)
		return unassemble(console, range.address, CODE_DEFAULT, 0);
	if (range.is_counted)
		return unassemble(console, range.address, range.len < CODE_MAX ? range.len : CODE_MAX, 0);
	return unassemble(console, range.address, CODE_MAX, range.address + range.len);
}

// ---- files ---------------------------------------------------------------------------------------------------------------------

// The first word of *text, or a "quoted" one; *text moves behind it and the blanks that follow.
static struct vmkd_error *take_path(const char *name, const char **text, char ret[PATH_MAX_LEN])
{
	const char *start = *text, *end;

	if (*start == '"') {
		start++;
		end = strchr(start, '"');
		if (!end)
			return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected a closing quote behind the file name", name);
	} else {
		end = start + strcspn(start, " \t");
	}
	size_t len = (size_t)(end - start);
	if (len == 0)
		return console_usage(name);
	if (len >= PATH_MAX_LEN)
		return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected a file name of at most %u characters", name, PATH_MAX_LEN - 1);
	memcpy(ret, start, len);
	ret[len] = '\0';
	end += *end == '"';
	*text = end + strspn(end, " \t");
	return NULL;
}

static struct vmkd_error *file_and_range(struct console *console, const char *name, const char *arguments, char path[PATH_MAX_LEN],
					 struct expr_range *range)
{
	struct expr_env env = session_env(console);
	struct vmkd_error *error = take_path(name, &arguments, path);

	if (!error)
		error = expr_parse_range(&arguments, &env, 1, range);
	if (!error)
		error = expect_end(name, arguments);
	if (!error && !range->has_address)
		error = console_usage(name);
	return error;
}

static struct vmkd_error *file_error(const char *verb, const char *path)
{
	return vmkd_error_create(VMKD_E_OS, "cannot %s %s: %s", verb, path, strerror(errno));
}

static struct vmkd_error *copy_to_file(struct console *console, const struct expr_range *range, FILE *file, const char *path, uint64_t *done)
{
	static uint8_t bytes[FILE_CHUNK]; // one console, one thread

	while (*done < range->len) {
		size_t chunk = range->len - *done < sizeof(bytes) ? (size_t)(range->len - *done) : sizeof(bytes), got = 0;
		if (take_interrupt())
			return interrupted(".writemem");
		struct vmkd_error *error = vmkd_target_read(console->target, VMKD_VIRTUAL, range->address + *done, bytes, chunk, &got);
		if (fwrite(bytes, 1, got, file) != got && !error)
			error = file_error("write", path);
		*done += got;
		if (error)
			return error;
	}
	return NULL;
}

COMMAND(cmd_writemem)
{
	char path[PATH_MAX_LEN];
	struct expr_range range;
	uint64_t done = 0;
	struct vmkd_error *error = file_and_range(console, name, arguments, path, &range);

	if (error)
		return error;
	if (range.len == 0)
		return console_usage(name);
	// Before the file is opened: an address that was mistyped must not cost what the file held.
	uint8_t first;
	error = vmkd_target_read(console->target, VMKD_VIRTUAL, range.address, &first, sizeof(first), NULL);
	if (error)
		return error;
	FILE *file = fopen(path, "wb");
	if (!file)
		return file_error("write", path);
	fprintf(console->out, "Writing %" PRIx64 " bytes", range.len);
	error = copy_to_file(console, &range, file, path, &done);
	fprintf(console->out, "; %" PRIx64 " written\n", done);
	if (fclose(file) != 0 && !error)
		error = file_error("write", path);
	return error;
}

static struct vmkd_error *copy_from_file(struct console *console, const struct expr_range *range, FILE *file, const char *path, uint64_t *done)
{
	static uint8_t bytes[FILE_CHUNK]; // as above

	while (*done < range->len) {
		size_t chunk = range->len - *done < sizeof(bytes) ? (size_t)(range->len - *done) : sizeof(bytes), put = 0;
		if (take_interrupt())
			return interrupted(".readmem");
		size_t got = fread(bytes, 1, chunk, file);
		if (got < chunk && ferror(file))
			return file_error("read", path);
		struct vmkd_error *error = vmkd_target_write(console->target, VMKD_VIRTUAL, range->address + *done, bytes, got, &put);
		*done += put;
		if (error)
			return error;
		if (got < chunk)
			return vmkd_error_create(VMKD_E_ARGUMENT, "%s has %" PRIx64 " bytes, expected %" PRIx64 "; what it has was written", path, *done,
						 range->len);
	}
	return NULL;
}

// Without a length the whole file is meant.
static struct vmkd_error *file_length(FILE *file, const char *path, uint64_t *ret)
{
	if (fseeko(file, 0, SEEK_END) != 0)
		return file_error("read", path);
	off_t len = ftello(file);
	rewind(file);
	if (len <= 0 || (uint64_t)len > EXPR_RANGE_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "%s: expected a file of 1 to %llx bytes, or a length", path, EXPR_RANGE_MAX);
	*ret = (uint64_t)len;
	return NULL;
}

COMMAND(cmd_readmem)
{
	char path[PATH_MAX_LEN];
	struct expr_range range;
	uint64_t done = 0;
	struct vmkd_error *error = file_and_range(console, name, arguments, path, &range);

	if (error)
		return error;
	FILE *file = fopen(path, "rb");
	if (!file)
		return file_error("read", path);
	if (range.len == 0)
		error = file_length(file, path, &range.len);
	if (!error) {
		fprintf(console->out, "Reading %" PRIx64 " bytes", range.len);
		error = copy_from_file(console, &range, file, path, &done);
		fprintf(console->out, "; %" PRIx64 " put into memory\n", done);
	}
	fclose(file);
	return error;
}
