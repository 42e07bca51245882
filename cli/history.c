// SPDX-License-Identifier: MIT
// vmkd history: what a VM's kernel has printed last.
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ask.h"
#include "cli/cli.h"
#include "util/ask.h"

static bool parse_lines(const char *word, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(word, &end, 10);
	return word[0] >= '1' && word[0] <= '9' && !*end && !errno;
}

// The last lines; the end of a text that has no newline counts as one.
static const char *last_lines(const char *text, unsigned long lines)
{
	const char *at = text + strlen(text);

	if (at > text && at[-1] == '\n')
		at--;
	while (at > text && (at[-1] != '\n' || --lines > 0))
		at--;
	return at;
}

int cli_history(int argc, char **argv)
{
	const char *name = NULL;
	unsigned long lines = 0; // all
	cJSON *answer = NULL;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--lines") == 0) {
			if (i + 1 == argc || !parse_lines(argv[++i], &lines))
				return cli_usage("history", "--lines: expected how many, 1 or more");
		} else if (argv[i][0] == '-' || name) {
			return cli_usage("history", "unexpected argument %s", argv[i]);
		} else {
			name = argv[i];
		}
	}
	if (!name)
		return cli_usage("history", "the VM's name is missing");
	struct error *error = cli_ask(name, ask_command("history"), &answer, NULL);
	if (error)
		return error_report("vmkd history", error);
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, "text"));
	size_t len = text ? strlen(text) : 0;
	if (len > 0)
		fputs(lines ? last_lines(text, lines) : text, stdout);
	if (len > 0 && text[len - 1] != '\n')
		putchar('\n');
	cJSON_Delete(answer);
	return fflush(stdout) == 0 ? 0 : 1;
}
