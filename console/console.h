// SPDX-License-Identifier: MIT
#ifndef CONSOLE_CONSOLE_H
#define CONSOLE_CONSOLE_H

// `vmkd kd TARGET [-b] [-c COMMANDS] [-t SECONDS] [-v]`: argv[0] is "kd". Owns the terminal while it runs.
// Return the exit status: 0, 1 = a command or the connection failed (one line on stderr says why), 2 = bad arguments.
int console_main(int argc, char **argv);

#endif
