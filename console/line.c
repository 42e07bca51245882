// SPDX-License-Identifier: MIT
#include "console/line.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HISTORY_MAX 1000
#define PATH_SIZE 512
#define CANDIDATES_MAX 200 // shown; more help nobody

struct line {
	struct console *console;
	EditLine *edit;
	History *history;
	char history_path[PATH_SIZE];
	const char *prompt;
	bool is_output_open; // output has begun: the prompt is off the screen
	bool is_fresh_needed;
	enum line_outcome ended; // why the last read ended without a character
	struct vmkd_error *error;
	char kept[1024]; // typed before an event took the line away
	char text[4096];
};

static char *prompt_of(EditLine *edit)
{
	struct line *line;

	el_get(edit, EL_CLIENTDATA, &line);
	return (char *)line->prompt;
}

// ---- output around the line ----------------------------------------------------------------------------------------------------

void line_output_begin(struct console *console)
{
	if (!console->is_prompting || !console->line || console->line->is_output_open)
		return;
	console->line->is_output_open = true;
	fputs("\r\x1b[K", console->out);
}

void line_output_end(struct console *console)
{
	fflush(console->out);
	if (!console->is_prompting || !console->line || !console->line->is_output_open)
		return;
	console->line->is_output_open = false;
	el_set(console->line->edit, EL_REFRESH);
}

// ---- reading -------------------------------------------------------------------------------------------------------------------

static bool take_events(struct line *line)
{
	struct vmkd_event event;
	bool is_stop = false;

	for (;;) {
		struct vmkd_error *error = vmkd_target_wait(line->console->target, 0, &event);
		if (!error && event.kind == VMKD_EVENT_NONE)
			return true;
		if (!error)
			error = session_handle(line->console, &event, &is_stop);
		if (error) {
			line->error = error;
			line->ended = LINE_FAILED;
			return false;
		}
		if (is_stop && !event.is_repeated) {
			line->ended = LINE_EVENT;
			return false;
		}
	}
}

// Waits for a key or for the target. -> true: a key.
static bool wait_for_key(struct line *line)
{
	for (;;) {
		struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN },
					{ .fd = vmkd_target_fd(line->console->target), .events = POLLIN } };
		if (console_interrupts) {
			console_interrupts = 0;
			line->ended = LINE_INTERRUPTED;
			return false;
		}
		if (!take_events(line))
			return false;
		if (poll(fds, 2, vmkd_target_poll_timeout(line->console->target)) < 0 && errno != EINTR)
			return false;
		if (fds[0].revents)
			return true;
	}
}

// libedit shows the prompt before it makes the terminal raw. A Ctrl-D in between is the line discipline's end of file, which Linux turns into a NUL
// when the mode changes: the user's wish to leave. Nobody types a NUL (Ctrl-@) here.
#define CTRL_D 4

static int get_char(EditLine *edit, wchar_t *ret)
{
	struct line *line;
	char byte;

	el_get(edit, EL_CLIENTDATA, &line);
	if (!wait_for_key(line))
		return 0;
	ssize_t count = read(STDIN_FILENO, &byte, 1);
	if (count <= 0) {
		line->ended = LINE_END;
		return 0;
	}
	*ret = byte ? (unsigned char)byte : CTRL_D;
	return 1;
}

static void keep_typed(struct line *line)
{
	const LineInfo *info = el_line(line->edit);
	size_t len = (size_t)(info->lastchar - info->buffer);

	if (len >= sizeof(line->kept))
		len = sizeof(line->kept) - 1;
	memcpy(line->kept, info->buffer, len);
	line->kept[len] = '\0';
}

static enum line_outcome finish(struct line *line, struct vmkd_error **ret_error)
{
	*ret_error = line->error;
	line->error = NULL;
	if (line->ended == LINE_EVENT)
		keep_typed(line);
	el_reset(line->edit);
	return line->ended;
}

static void remember(struct line *line)
{
	HistEvent event;

	if (line->text[0] != '\0')
		history(line->history, &event, H_ENTER, line->text);
}

enum line_outcome line_read(struct line *line, const char *prompt, const char **ret, struct vmkd_error **ret_error)
{
	int count;

	line->prompt = prompt;
	line->ended = LINE_END;
	line->console->is_prompting = true;
	if (line->kept[0] != '\0')
		el_push(line->edit, line->kept);
	line->kept[0] = '\0';
	const char *text = el_gets(line->edit, &count);
	line->console->is_prompting = false;
	line->is_output_open = false;
	if (!text || count <= 0)
		return finish(line, ret_error);
	snprintf(line->text, sizeof(line->text), "%.*s", (int)strcspn(text, "\r\n"), text);
	remember(line);
	*ret = line->text;
	return LINE_OK;
}

// ---- completion ----------------------------------------------------------------------------------------------------------------

struct candidates {
	const char *word;
	size_t len;
	char common[EXPR_NAME_MAX];
	size_t common_len;
	unsigned count;
	const char *names[CANDIDATES_MAX];
};

static void offer(struct candidates *candidates, const char *name)
{
	if (strncasecmp(name, candidates->word, candidates->len) != 0)
		return;
	if (candidates->count < CANDIDATES_MAX)
		candidates->names[candidates->count] = name;
	if (candidates->count++ == 0) {
		snprintf(candidates->common, sizeof(candidates->common), "%s", name);
		candidates->common_len = strlen(candidates->common);
		return;
	}
	size_t same = 0;
	while (same < candidates->common_len && strncasecmp(&candidates->common[same], &name[same], 1) == 0 && name[same])
		same++;
	candidates->common_len = same;
}

static void offer_registers(struct console *console, struct candidates *candidates)
{
	enum vmkd_arch arch;
	struct vmkd_register reg;

	if (vmkd_target_state(console->target) != VMKD_STATE_STOPPED)
		return;
	struct vmkd_error *error = session_arch(console, &arch);
	for (size_t i = 0; !error && vmkd_register_at(arch, i, &reg); i++)
		offer(candidates, reg.name);
	vmkd_error_destroy(error); // no names then
}

static void offer_modules(struct console *console, struct candidates *candidates)
{
	for (size_t i = 0; console->names.modules && i < vmkd_modules_count(console->names.modules); i++)
		offer(candidates, vmkd_modules_at(console->names.modules, i)->short_name);
}

static void show_candidates(struct console *console, const struct candidates *candidates)
{
	line_output_begin(console);
	for (unsigned i = 0; i < candidates->count && i < CANDIDATES_MAX; i++)
		fprintf(console->out, "%s%s", i ? "  " : "", candidates->names[i]);
	fputc('\n', console->out);
	line_output_end(console);
}

static unsigned char complete(EditLine *edit, int key)
{
	struct line *line;
	const LineInfo *info = el_line(edit);
	const char *start = info->cursor;

	(void)key;
	el_get(edit, EL_CLIENTDATA, &line);
	while (start > info->buffer && !strchr(" ;@+-*/()=", start[-1]))
		start--;
	struct candidates candidates = { .word = start, .len = (size_t)(info->cursor - start) };
	bool is_first = true;
	for (const char *at = info->buffer; at < start; at++)
		is_first = *at == ';' || (is_first && *at == ' ');
	if (is_first)
		for (const struct command *command = COMMANDS; command->name; command++)
			offer(&candidates, command->name);
	else
		offer_registers(line->console, &candidates);
	if (!is_first)
		offer_modules(line->console, &candidates);
	if (candidates.count == 0)
		return CC_REFRESH_BEEP;
	if (candidates.common_len > candidates.len) {
		candidates.common[candidates.common_len] = '\0';
		el_insertstr(edit, candidates.common + candidates.len);
		return CC_REFRESH;
	}
	if (candidates.count > 1)
		show_candidates(line->console, &candidates);
	return CC_REDISPLAY;
}

// ---- life ----------------------------------------------------------------------------------------------------------------------

// $XDG_STATE_HOME/vmkd/history, else ~/.local/state/vmkd/history. Without a home there is no history file.
static void find_history(struct line *line)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char folder[PATH_SIZE - 16];
	int len;

	if (state && state[0] == '/')
		len = snprintf(folder, sizeof(folder), "%s/vmkd", state);
	else if (home && home[0] == '/')
		len = snprintf(folder, sizeof(folder), "%s/.local/state/vmkd", home);
	else
		return;
	if (len < 0 || (size_t)len >= sizeof(folder))
		return;
	for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		(void)mkdir(folder, 0700); // the last one tells
		*slash = '/';
	}
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return;
	snprintf(line->history_path, sizeof(line->history_path), "%s/history", folder);
}

static void load_history(struct line *line)
{
	HistEvent event;

	find_history(line);
	history(line->history, &event, H_SETSIZE, HISTORY_MAX);
	history(line->history, &event, H_SETUNIQUE, 1);
	if (line->history_path[0] != '\0')
		history(line->history, &event, H_LOAD, line->history_path);
}

struct line *line_create(struct console *console)
{
	struct line *line = calloc(1, sizeof(*line));

	if (!line)
		return NULL;
	line->console = console;
	line->prompt = "";
	line->history = history_init();
	line->edit = el_init("vmkd", stdin, stdout, stderr);
	if (!line->history || !line->edit) {
		line_destroy(line);
		return NULL;
	}
	el_set(line->edit, EL_CLIENTDATA, line);
	el_set(line->edit, EL_PROMPT, prompt_of);
	el_set(line->edit, EL_EDITOR, "emacs");
	el_set(line->edit, EL_SIGNAL, 0);
	el_set(line->edit, EL_HIST, history, line->history);
	el_set(line->edit, EL_GETCFN, get_char);
	el_set(line->edit, EL_ADDFN, "vmkd-complete", "complete the word", complete);
	el_set(line->edit, EL_BIND, "^I", "vmkd-complete", NULL);
	el_set(line->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
	load_history(line);
	return line;
}

void line_destroy(struct line *line)
{
	HistEvent event;

	if (!line)
		return;
	if (line->history_path[0] != '\0')
		history(line->history, &event, H_SAVE, line->history_path);
	if (line->history)
		history_end(line->history);
	if (line->edit)
		el_end(line->edit);
	free(line);
}
