// SPDX-License-Identifier: MIT
// snapshot, revert, snapshots
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "console/shell.h"

#define LISTED_MAX 200u
#define REVERTED_MS 1500u // a guest of another time notices within a second, and says so if it is stopped

// What is left of -t; 0 = the library's own limit.
static uint32_t time_left(const struct console *console)
{
	uint64_t now = console_now();

	if (console->deadline == 0)
		return 0;
	return console->deadline > now ? (uint32_t)(console->deadline - now < UINT32_MAX ? console->deadline - now : UINT32_MAX) : 1;
}

COMMAND(cmd_snapshot)
{
	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = vmkd_snapshot_take(console->target, arguments, time_left(console));
	if (!error)
		fprintf(console->out, "Snapshot %s is taken.\n", arguments);
	return error;
}

COMMAND(cmd_revert)
{
	if (*arguments == '\0')
		return console_usage(name);
	struct vmkd_error *error = vmkd_snapshot_revert(console->target, arguments, time_left(console));
	if (error)
		return error;
	console->has_prompt = false;
	fprintf(console->out, "The VM is back at snapshot %s.\n", arguments);
	error = session_learn_state(console, REVERTED_MS);
	if (!error && vmkd_target_state(console->target) != VMKD_STATE_STOPPED && vmkd_target_state(console->target) != VMKD_STATE_PROMPT)
		fputs("The target runs.\n", console->out);
	return error;
}

static void show_size(FILE *out, uint64_t bytes)
{
	fprintf(out, "%8.1f MiB", (double)bytes / (1u << 20));
}

static void show_snapshot(struct console *console, const struct vmkd_snapshot *snapshot)
{
	time_t seconds = (time_t)snapshot->taken_at;
	uint64_t clock = snapshot->vm_clock_ms / 1000;
	char date[32] = "?";
	struct tm tm;

	if (localtime_r(&seconds, &tm) && strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm) == 0)
		strcpy(date, "?");
	fprintf(console->out, "%-19s  %4" PRIu64 ":%02u:%02u  ", date, clock / 3600, (unsigned)(clock / 60 % 60), (unsigned)(clock % 60));
	show_size(console->out, snapshot->size);
	fputs("  ", console->out);
	format_target_text(console->out, snapshot->name, strlen(snapshot->name));
	fputc('\n', console->out);
}

COMMAND(cmd_snapshots)
{
	if (*arguments != '\0')
		return console_usage(name);
	struct vmkd_snapshot *list = calloc(LISTED_MAX, sizeof(*list));
	size_t count = 0;
	struct vmkd_error *error = list ? vmkd_snapshots_read(console->target, list, LISTED_MAX, &count)
					: vmkd_error_create(VMKD_E_NO_MEMORY, "out of memory");
	if (!error && count == 0)
		fputs("There are no snapshots: snapshot NAME takes one.\n", console->out);
	else if (!error)
		fputs("taken                 vm clock          size  name\n", console->out);
	for (size_t i = 0; !error && i < count && i < LISTED_MAX; i++)
		show_snapshot(console, &list[i]);
	if (!error && count > LISTED_MAX)
		fprintf(console->out, "and %zu more\n", count - LISTED_MAX);
	free(list);
	return error;
}
