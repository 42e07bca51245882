// SPDX-License-Identifier: MIT
// Any text as a line of commands for a console whose target has said nothing: every command must refuse or do what needs none. What would
// write files or wait is left out by the console being a terminal's (nothing breaks in) and by a line without dots.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "console/shell.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const char *text)
{
	struct console console = { .is_interactive = true };
	char *out = NULL;
	size_t out_len;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		abort();
	console.out = open_memstream(&out, &out_len);
	struct vmkd_error *error = vmkd_target_open_fd(fds[0], "fuzz", NULL, &console.target);
	if (error || !console.out)
		abort();
	console.deadline = console_now(); // whatever waits is over
	error = command_run_line(&console, text);
	if (error && (strchr(error->message, '\n') || error->message[0] == '\0'))
		abort();
	vmkd_error_destroy(error);
	names_forget(&console.names);
	vmkd_target_close(console.target);
	fclose(console.out);
	free(out);
	close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[512];

	if (size >= sizeof(text) || memchr(data, '.', size) || memchr(data, '\n', size))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	run(text);
	return 0;
}
