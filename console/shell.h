// SPDX-License-Identifier: MIT
// `vmkd kd`: a console in WinDbg's dialect on one target. It uses libvmkd's public header and nothing else of target/.
//
//   main.c      arguments, and the three ways to get commands: -c, a pipe, a terminal
//   line.c      the terminal: editing, history, completion, output that does not spoil the line being typed
//   session.c   events of the target: what is printed, what goes on by itself, waiting
//   command.c   splitting and dispatch; the table of commands is in commands.c
//   cmd_*.c     the commands, by family
//   names.c, exports.c   names of addresses
//   expr.c, format.c, disasm.c   pure helpers
//
// Rules: one thread. A command returns an error and prints none; who runs the command shows it, once. Text of the target is shown through
// format_target_text only.
#ifndef CONSOLE_SHELL_H
#define CONSOLE_SHELL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "console/expr.h"
#include "console/format.h"
#include "console/names.h"
#include "vmkd/vmkd.h"

struct line;

// What a memory command without an address goes on with.
struct dump_position {
	char command[3]; // "db", … that `d` repeats
	uint64_t next;
	bool is_set;
};

// A hook for symbols: returns NULL, an error, or EXPR_UNKNOWN_NAME. To be filled by who knows symbols.
struct symbol_resolver {
	void *closure;
	struct vmkd_error *(*resolve)(void *closure, const char *name, uint64_t *ret);
};

enum quit { QUIT_NOT, QUIT_RESUME, QUIT_STOPPED };

struct console {
	struct vmkd_target *target;
	FILE *out;
	struct line *line; // NULL without a terminal
	bool is_interactive;
	bool is_verbose;
	char last_line[512]; // what Enter alone repeats; "" = nothing
	bool is_prompting; // the user is typing: output must go around the line
	enum quit quit;
	uint64_t deadline; // milliseconds of console_now; 0 = none
	struct names names;
	struct symbol_resolver symbols; // asked before the exports
	struct dump_position dump;
	struct dump_position code;
	// a prompt of the target that waits for an answer
	bool has_prompt;
	char prompt[512];
};

// Set by SIGINT, cleared by who acts on it: a long command stops, a wait breaks in.
extern volatile sig_atomic_t console_interrupts;

uint64_t console_now(void); // monotonic, milliseconds

// ---- session.c -----------------------------------------------------------------------------------------------------------------

// Shows an event and does what goes without saying (goes on behind a module load). *ret_is_stop: the target stopped for the user.
struct vmkd_error *session_handle(struct console *console, const struct vmkd_event *event, bool *ret_is_stop);
// Waits for a stop, breaking in on Ctrl-C; a second Ctrl-C gives up waiting. limit_ms: 0 = console->deadline alone.
// Return NULL when stopped, or when the target waits for the answer to a prompt; TIMEOUT; STATE after a second Ctrl-C; GONE.
struct vmkd_error *session_wait(struct console *console, uint64_t limit_ms);
// Takes what has come so far without waiting.
struct vmkd_error *session_drain(struct console *console);
// Gives a stopped target the time to say so, where nothing is known of it.
struct vmkd_error *session_learn_state(struct console *console, uint64_t limit_ms);
// Breaks in and waits.
struct vmkd_error *session_break_in(struct console *console);
// For a command that needs a stopped target: a script breaks in, a user at a terminal is told how.
struct vmkd_error *session_need_stop(struct console *console);
// Where the processor is: nt+0x12: and the instruction there. Nothing is printed when it cannot be known.
struct vmkd_error *session_show_location(struct console *console);
// names_describe for this console.
const char *session_describe(struct console *console, uint64_t address, char buffer[NAMES_TEXT_MAX]);
bool session_is_32bit(struct console *console);
// Hooks for expressions, on this console.
struct expr_env session_env(struct console *console);
// The machine's architecture; STATE, … when it is not known and cannot be asked.
struct vmkd_error *session_arch(struct console *console, enum vmkd_arch *ret);

// ---- command.c -----------------------------------------------------------------------------------------------------------------

// Runs one line, which may hold several commands separated by ';'. Ends at the first that fails.
struct vmkd_error *command_run_line(struct console *console, const char *text);

struct command {
	const char *name;
	const char *arguments; // for help
	const char *help;
	// arguments: behind the name and blanks, never NULL.
	struct vmkd_error *(*run)(struct console *console, const char *name, const char *arguments);
	bool is_symbol; // one character that is no letter: "?expr", "~1s"
	bool needs_stop; // a script that finds the target running breaks in for it
};
extern const struct command COMMANDS[]; // ends with a NULL name; in the order of help

// ---- commands ------------------------------------------------------------------------------------------------------------------

#define COMMAND(function) struct vmkd_error *function(struct console *console, const char *name, const char *arguments)
COMMAND(cmd_dump);
COMMAND(cmd_edit);
COMMAND(cmd_unassemble);
COMMAND(cmd_search);
COMMAND(cmd_fill);
COMMAND(cmd_writemem);
COMMAND(cmd_readmem);
COMMAND(cmd_registers);
COMMAND(cmd_rdmsr);
COMMAND(cmd_wrmsr);
COMMAND(cmd_go);
COMMAND(cmd_step);
COMMAND(cmd_step_over);
COMMAND(cmd_bp);
COMMAND(cmd_ba);
COMMAND(cmd_bl);
COMMAND(cmd_bc);
COMMAND(cmd_be);
COMMAND(cmd_break);
COMMAND(cmd_answer);
COMMAND(cmd_reboot);
COMMAND(cmd_crash);
COMMAND(cmd_resync);
COMMAND(cmd_control);
COMMAND(cmd_snapshot);
COMMAND(cmd_revert);
COMMAND(cmd_snapshots);
COMMAND(cmd_quit);
COMMAND(cmd_vertarget);
COMMAND(cmd_lm);
COMMAND(cmd_reload);
COMMAND(cmd_processors);
COMMAND(cmd_evaluate);
COMMAND(cmd_help);
COMMAND(cmd_echo);
COMMAND(cmd_sleep);

// One line if another debugger has control of this VM. Never fails.
void control_tell_observer(struct console *console);

// One expression that must be all of `text`. Needs no stopped target unless the expression does.
struct vmkd_error *console_evaluate(struct console *console, const char *text, uint64_t *ret);
// "expected COMMAND ARGUMENTS" for a command that was used wrongly.
struct vmkd_error *console_usage(const char *name);

#endif
