// SPDX-License-Identifier: MIT
// Arguments, and the three ways to get commands.
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "console/console.h"
#include "console/line.h"
#include "console/shell.h"

#define FIRST_STATE_MS 700u // a stopped target answers the RESET of the start in this time
#define PROMPT_SIZE 32

static const char USAGE[] = "usage: vmkd kd TARGET [-b] [-c COMMANDS] [-t SECONDS] [-v] [--no-ram]\n"
			    "  TARGET       vm:NAME, unix:PATH, tcp:HOST:PORT, serial:DEVICE[,baud=N] or trace:FILE\n"
			    "  -b           break in at once\n"
			    "  -c COMMANDS  run them (a ; b ; …) and exit; status 1 when one fails, and the rest is left out. One that needs a\n"
			    "               stopped target breaks in for itself; g waits for the next stop\n"
			    "  -t SECONDS   give up after so long\n"
			    "  -v           tell about the connection on stderr; twice: every packet\n"
			    "  --no-ram     read memory in packets only, as of a target that is no VM; vertarget says how it is read\n"
			    "Without -c commands come from stdin. At the end the target runs on without this session's breakpoints; qs leaves it stopped.\n";

struct arguments {
	const char *url, *commands;
	bool is_breaking_in, no_ram;
	unsigned verbosity;
	uint64_t limit_ms;
};

// ---- small things --------------------------------------------------------------------------------------------------------------

// Beside the counter, the thread inside vmkd_target_wait must notice: the signal interrupts its poll.
static void on_interrupt(int number)
{
	(void)number;
	console_interrupts++;
}

static void on_log(void *closure, enum vmkd_log_level level, const char *text)
{
	const struct arguments *arguments = closure;

	if ((unsigned)level <= arguments->verbosity)
		fprintf(stderr, "vmkd kd: %s\n", text);
}

// Consumes the error. Return 1, the exit status.
static int report(struct console *console, struct vmkd_error *error)
{
	if (console)
		fflush(console->out);
	fprintf(stderr, "vmkd kd: %s\n", error->message);
	vmkd_error_destroy(error);
	return 1;
}

static int usage_error(const char *text, const char *what)
{
	fprintf(stderr, "vmkd kd: %s%s; vmkd kd --help shows the usage\n", text, what);
	return 2;
}

// ---- arguments -----------------------------------------------------------------------------------------------------------------

static bool parse_seconds(const char *text, uint64_t *ret_ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end != '\0' || !(seconds > 0) || seconds > 1e6)
		return false;
	*ret_ms = (uint64_t)(seconds * 1000) + 1;
	return true;
}

// Return -1 = go on, else the exit status.
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
	static const struct option LONG[] = { { "help", no_argument, NULL, 'h' }, { "no-ram", no_argument, NULL, 'r' }, { NULL, 0, NULL, 0 } };
	int option;

	optind = 0; // the program has parsed before
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":bc:t:vh", LONG, NULL)) != -1) {
		switch (option) {
		case 'b': arguments->is_breaking_in = true; break;
		case 'c': arguments->commands = optarg; break;
		case 'v': arguments->verbosity++; break;
		case 'r': arguments->no_ram = true; break;
		case 't':
			if (!parse_seconds(optarg, &arguments->limit_ms))
				return usage_error("-t: expected seconds above 0, got ", optarg);
			break;
		case 'h':
			fputs(USAGE, stdout);
			return 0;
		case ':': return usage_error("expected an argument behind ", argv[optind - 1]);
		default: return usage_error("unknown option ", argv[optind - 1]);
		}
	}
	if (optind + 1 != argc)
		return usage_error(optind == argc ? "expected a TARGET, such as vm:NAME" : "expected one TARGET, got also ",
				   optind == argc ? "" : argv[optind + 1]);
	arguments->url = argv[optind];
	return -1;
}

// ---- the start -----------------------------------------------------------------------------------------------------------------

static void greet(struct console *console)
{
	switch (vmkd_target_state(console->target)) {
	case VMKD_STATE_RUNNING:
		fprintf(console->out, "Connected to %s, which is running. Ctrl-C breaks in, .help helps.\n", vmkd_target_name(console->target));
		break;
	case VMKD_STATE_UNKNOWN:
		fprintf(console->out, "Connected to %s, which has said nothing yet. Ctrl-C breaks in, .help helps.\n",
			vmkd_target_name(console->target));
		break;
	default:
		break;
	}
}

static struct vmkd_error *begin(struct console *console, const struct arguments *arguments)
{
	control_tell_observer(console);
	if (arguments->is_breaking_in) {
		// The library gives a stopped target the time to say so before the byte goes out.
		return console->is_interactive ? session_break_in(console) : session_need_stop(console);
	}
	struct vmkd_error *error = session_learn_state(console, FIRST_STATE_MS);
	if (!error && console->is_interactive)
		greet(console);
	return error;
}

// ---- commands from a pipe, or from -c ------------------------------------------------------------------------------------------

struct reader {
	char bytes[8192]; // more than a command may have
	size_t len;
	bool is_ended;
};

// Takes a line out of what was read. -> false: none is complete.
static bool take_line(struct reader *reader, char *text, size_t size)
{
	char *end = memchr(reader->bytes, '\n', reader->len);
	bool is_full = reader->len == sizeof(reader->bytes);

	if (!end && !(reader->len > 0 && (reader->is_ended || is_full)))
		return false;
	size_t len = end ? (size_t)(end - reader->bytes) : reader->len;
	snprintf(text, size, "%.*s", (int)len, reader->bytes);
	text[strcspn(text, "\r")] = '\0';
	len += end != NULL;
	reader->len -= len;
	memmove(reader->bytes, reader->bytes + len, reader->len);
	return true;
}

// Waits for input, and lets the target have its say meanwhile: what it sends must be acknowledged.
static struct vmkd_error *read_more(struct console *console, struct reader *reader)
{
	struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = vmkd_target_fd(console->target), .events = POLLIN } };
	uint64_t now = console_now();
	int timeout = vmkd_target_poll_timeout(console->target);

	if (console->deadline != 0 && now >= console->deadline)
		return vmkd_error_create(VMKD_E_TIMEOUT, "no more commands came before the time of -t was over");
	uint64_t left = console->deadline ? console->deadline - now : UINT64_MAX;
	if (left < INT32_MAX && (timeout < 0 || (uint64_t)timeout > left))
		timeout = (int)left;
	fflush(console->out);
	if (poll(fds, 2, timeout) > 0 && fds[0].revents) {
		ssize_t count = read(STDIN_FILENO, reader->bytes + reader->len, sizeof(reader->bytes) - reader->len);
		reader->is_ended = count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN);
		reader->len += count > 0 ? (size_t)count : 0;
	}
	return session_drain(console);
}

static struct vmkd_error *run_stream(struct console *console)
{
	struct reader reader = { .len = 0 };
	char text[sizeof(reader.bytes) + 1];
	struct vmkd_error *error = NULL;

	while (!error && console->quit == QUIT_NOT) {
		if (take_line(&reader, text, sizeof(text)))
			error = command_run_line(console, text);
		else if (reader.is_ended)
			break;
		else
			error = read_more(console, &reader);
	}
	return error;
}

// ---- commands from a terminal --------------------------------------------------------------------------------------------------

static const char *make_prompt(struct console *console, char ret[PROMPT_SIZE])
{
	switch (vmkd_target_state(console->target)) {
	case VMKD_STATE_STOPPED:
		snprintf(ret, PROMPT_SIZE, "%u: kd> ", vmkd_target_processor(console->target));
		break;
	case VMKD_STATE_PROMPT:
		snprintf(ret, PROMPT_SIZE, "answer> ");
		break;
	default:
		snprintf(ret, PROMPT_SIZE, "*running* kd> ");
		break;
	}
	return ret;
}

// Errors do not end an interactive session; a connection that has ended does.
static bool show_error(struct console *console, struct vmkd_error *error)
{
	bool is_over = error->code == VMKD_E_GONE || error->code == VMKD_E_REFUSED || vmkd_target_state(console->target) == VMKD_STATE_GONE;

	fflush(console->out);
	fprintf(stderr, "%s\n", error->message);
	vmkd_error_destroy(error);
	return is_over;
}

// Enter alone repeats the last line, as WinDbg does: steps go on, dumps and code go on behind what was shown. What cannot be taken
// back (.reboot, .crash, q) is not repeated by a slip.
static const char *repeated(struct console *console, const char *text)
{
	if (text[strspn(text, " \t")] == '\0')
		return vmkd_target_state(console->target) == VMKD_STATE_STOPPED ? console->last_line : "";
	size_t len = strcspn(text, " \t");
	bool goes_on = (text[0] == 'd' || text[0] == 'u') && len <= 2 && !strchr(text, ';');
	bool is_final = text[0] == '.' || text[0] == 'q';
	snprintf(console->last_line, sizeof(console->last_line), "%.*s", is_final ? 0 : goes_on ? (int)len : (int)strlen(text), text);
	return text;
}

static struct vmkd_error *run_typed(struct console *console, const char *text)
{
	if (vmkd_target_state(console->target) != VMKD_STATE_PROMPT)
		return command_run_line(console, repeated(console, text));
	console->has_prompt = false;
	return vmkd_target_answer_prompt(console->target, text, strlen(text));
}

static int run_terminal(struct console *console)
{
	char prompt[PROMPT_SIZE];
	const char *text = NULL;
	struct vmkd_error *error = NULL;

	while (console->quit == QUIT_NOT) {
		enum line_outcome outcome = line_read(console->line, make_prompt(console, prompt), &text, &error);
		switch (outcome) {
		case LINE_OK:
			console_interrupts = 0;
			error = run_typed(console, text);
			break;
		case LINE_END:
			fputc('\n', console->out);
			console->quit = QUIT_RESUME;
			break;
		case LINE_INTERRUPTED:
			fputc('\n', console->out);
			error = session_break_in(console);
			break;
		case LINE_EVENT:
		case LINE_FAILED:
			break;
		}
		if (error && show_error(console, error))
			return 1;
		error = NULL;
	}
	return 0;
}

// ---- the end -------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *leave(struct console *console)
{
	enum vmkd_state state = vmkd_target_state(console->target);

	if (state == VMKD_STATE_GONE)
		return NULL;
	if (state == VMKD_STATE_PROMPT) { // a prompt that nobody answers would hang the kernel for ever
		struct vmkd_error *error = vmkd_target_answer_prompt(console->target, "", 0);
		if (error)
			return error;
	}
	return vmkd_target_detach(console->target, console->quit != QUIT_STOPPED);
}

static int run(struct console *console, const struct arguments *arguments)
{
	int status = 0;
	struct vmkd_error *error = begin(console, arguments);

	if (error && console->is_interactive && !show_error(console, error))
		error = NULL;
	if (!error && arguments->commands)
		error = command_run_line(console, arguments->commands);
	else if (!error && console->is_interactive)
		status = run_terminal(console);
	else if (!error)
		error = run_stream(console);
	if (error)
		status = report(console, error);
	error = leave(console);
	if (error)
		status = report(console, error);
	return status;
}

static void set_signals(void)
{
	struct sigaction action = { .sa_handler = on_interrupt }; // no SA_RESTART: waits must wake

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
}

int console_main(int argc, char **argv)
{
	struct arguments arguments = { .url = NULL };
	struct console console = { .out = stdout };
	int status = parse_arguments(argc, argv, &arguments);

	if (status >= 0)
		return status;
	struct vmkd_open_options options = { .no_ram = arguments.no_ram,
					     .log = arguments.verbosity ? on_log : NULL,
					     .log_closure = &arguments };
	console.is_verbose = arguments.verbosity > 0;
	console.is_interactive = !arguments.commands && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	if (arguments.limit_ms)
		console.deadline = console_now() + arguments.limit_ms;
	struct vmkd_error *error = vmkd_target_open(arguments.url, &options, &console.target);
	if (error)
		return report(NULL, error);
	set_signals();
	if (console.is_interactive) {
		setlocale(LC_CTYPE, ""); // libedit asks for the terminal's character set
		console.line = line_create(&console);
	}
	console.is_interactive = console.line != NULL;
	status = run(&console, &arguments);
	line_destroy(console.line);
	names_forget(&console.names);
	vmkd_target_close(console.target);
	return fflush(stdout) == 0 ? status : 1;
}
