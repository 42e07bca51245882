// SPDX-License-Identifier: MIT
// From a line of text to calls of commands.
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "console/shell.h"

#define COMMAND_MAX 4096u // bytes of one command

struct vmkd_error *console_usage(const char *name)
{
	for (const struct command *command = COMMANDS; command->name; command++)
		if (strcmp(command->name, name) == 0)
			return vmkd_error_create(VMKD_E_ARGUMENT, "expected: %s %s", name, command->arguments);
	return vmkd_error_create(VMKD_E_ARGUMENT, "%s is used in another way: .help shows how", name);
}

// Where the name of a command ends: letters, behind a dot too; one character for symbols.
static size_t name_length(const char *text)
{
	size_t len = *text == '.';

	while (isalpha((unsigned char)text[len]))
		len++;
	return len > 0 ? len : 1;
}

static const struct command *find(const char *text, size_t len)
{
	for (const struct command *command = COMMANDS; command->name; command++)
		if (strlen(command->name) == len && strncasecmp(command->name, text, len) == 0)
			return command;
	return NULL;
}

static struct vmkd_error *run_one(struct console *console, const char *text)
{
	size_t len = name_length(text);
	const struct command *command = find(text, len);

	if (!command)
		return vmkd_error_create(VMKD_E_ARGUMENT, "there is no command '%.*s': .help lists them", (int)(len < 40 ? len : 40), text);
	const char *arguments = text + len;
	arguments += strspn(arguments, " \t");
	struct vmkd_error *error = command->needs_stop ? session_need_stop(console) : NULL;
	return error ? error : command->run(console, command->name, arguments);
}

// Copies the command at *text, without the blanks around it, and moves *text behind its ';'. A ';' in double quotes is text.
static struct vmkd_error *take_command(const char **text, char ret[COMMAND_MAX])
{
	const char *start = *text + strspn(*text, " \t"), *end = start;
	bool is_quoted = false;

	while (*end != '\0' && (is_quoted || *end != ';')) {
		is_quoted ^= *end == '"';
		end++;
	}
	*text = end + (*end == ';');
	while (end > start && isspace((unsigned char)end[-1]))
		end--;
	size_t len = (size_t)(end - start);
	if (len >= COMMAND_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a command of at most %u characters", COMMAND_MAX - 1);
	memcpy(ret, start, len);
	ret[len] = '\0';
	return NULL;
}

struct vmkd_error *command_run_line(struct console *console, const char *text)
{
	char command[COMMAND_MAX];

	while (*text != '\0' && console->quit == QUIT_NOT) {
		struct vmkd_error *error = take_command(&text, command);
		if (!error && command[0] != '\0')
			error = run_one(console, command);
		fflush(console->out); // who reads the other end of a pipe waits for it
		if (error)
			return error;
	}
	return NULL;
}
