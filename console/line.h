// SPDX-License-Identifier: MIT
// The terminal: editing, history and completion (libedit), while the target is watched. Output that comes while the user types goes above the
// line; the line is drawn again below.
#ifndef CONSOLE_LINE_H
#define CONSOLE_LINE_H

#include "console/shell.h"

// Takes over stdin and stdout, which are terminals. Return NULL when that is not possible: the caller reads plain lines then.
struct line *line_create(struct console *console);
// Saves the history; NULL is fine.
void line_destroy(struct line *line);

enum line_outcome {
	LINE_OK,          // a line was typed
	LINE_END,         // Ctrl-D
	LINE_INTERRUPTED, // Ctrl-C
	LINE_EVENT,       // the target stopped: the prompt is another one now; what was typed is kept for the next call
	LINE_FAILED,      // *ret_error: the connection ended
};

// Reads a line, handling events of the target meanwhile. *ret: valid until the next call, without newline.
enum line_outcome line_read(struct line *line, const char *prompt, const char **ret, struct vmkd_error **ret_error);

// Around every output: moves the cursor off the line being typed, and draws it again. Fine at any time, with any console.
void line_output_begin(struct console *console);
void line_output_end(struct console *console);

#endif
