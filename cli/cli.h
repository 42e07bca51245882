// SPDX-License-Identifier: MIT
// The sub-commands of vmkd. Each gets its own argv (argv[0] is the command's name) and returns the exit status: 0 done, 1
// failed with one line on stderr, 2 wrong usage; `run` returns the VM's status.
#ifndef CLI_CLI_H
#define CLI_CLI_H

// vmkd run, serve, attach, list, control, history, stats, trace, setup, doctor; see above.
int cli_run(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_attach(int argc, char **argv);
int cli_list(int argc, char **argv);
int cli_control(int argc, char **argv);
int cli_history(int argc, char **argv);
int cli_stats(int argc, char **argv);
int cli_trace(int argc, char **argv);
int cli_setup(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_libvirt(int argc, char **argv);

#define CLI_USAGE_STATUS 2
#define CLI_RAM_CONFLICT "--no-ram and --check-ram: expected one of them"

// "vmkd COMMAND: TEXT" and how to use it, on stderr. -> CLI_USAGE_STATUS.
__attribute__((format(printf, 2, 3))) int cli_usage(const char *command, const char *format, ...);

#endif
