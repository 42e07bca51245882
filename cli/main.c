// SPDX-License-Identifier: MIT
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#ifdef VMKD_HAS_CONSOLE
#include "console/console.h"
#endif
#include "wire/link.h"

#define VMKD_VERSION "0.1"

struct command {
	const char *name, *arguments, *does;
	int (*fn)(int argc, char **argv);
	const char *options; // a line for each, NULL = none that need one
};

#define OPTIONS_OF_BOTH \
	"  --tcp ADDR:PORT            KDCOM on TCP, too, for WinDbg; a PORT alone: for this machine only\n" \
	"  --no-ram                   leave every answer to the guest; nothing is read from the VM's RAM\n" \
	"  --check-ram                the same, and hold the answers against RAM: differences on stderr and in `vmkd list`\n" \
	"  --absent                   while no debugger is attached the guest sees none; then no breakpoints in kernel code on x64 (PatchGuard)\n"
#define OPTIONS_OF_RUN \
	"  --link hook|debugcon       how guest and host meet; without it: the hook for KVM, else debugcon\n" \
	OPTIONS_OF_BOTH \
	"  --no-serve                 start the VM and leave it to a `vmkd serve`, of before (--stay) or of later\n" \
	"  --private-ram              hook: leave the VM's RAM private to QEMU instead of in a shared memfd; it is read more slowly\n" \
	"  --pause-when-silent[=MS]   debugcon: pause the VM while its guest is stopped and was asked nothing for MS (500)"
#define OPTIONS_OF_SERVE \
	OPTIONS_OF_BOTH \
	"  --stay                     wait for a VM of that name, serve it, and when it has ended wait for the next; debuggers stay attached\n" \
	"  --from STREAM              serve a stock KDCOM target instead of a VM: unix:PATH, tcp:HOST:PORT or serial:DEVICE[,BAUD]; it gets the name\n" \
	"NAME is what `vmkd run` was given, or VMKD_NAME in the environment of the VM."
#define OPTIONS_OF_ATTACH \
	"  --qmp SOCKET               the VM's QMP monitor (QEMU's -qmp unix:SOCKET,server=on,wait=off), which no other program may have at that moment\n" \
	"  --libvirt DOMAIN           the monitor of a libvirt domain, asked through virsh\n" \
	"  --connect URI              libvirt's, as virsh -c\n" \
	"PID is QEMU's process, with KVM. It goes on whatever happens to this command; the library stays until it ends."

static const struct command commands[] = {
	{ "run", "[--link hook|debugcon] [--tcp ADDR:PORT] [--no-ram|--check-ram] [--absent] [--no-serve] [--private-ram] [--pause-when-silent[=MS]] NAME -- qemu-system-x86_64 ARGS...",
	  "start a VM with the link in place and serve it until it ends", cli_run, OPTIONS_OF_RUN },
	{ "serve", "NAME [--tcp ADDR:PORT] [--no-ram|--check-ram] [--absent] [--stay | --from STREAM]",
	  "serve a VM that was started with the library preloaded, or whose `vmkd run` died; or a stock target", cli_serve, OPTIONS_OF_SERVE },
	{ "attach", "PID NAME --qmp SOCKET | --libvirt DOMAIN [--connect URI]", "bring the library into a QEMU that runs already, once; then `vmkd serve NAME`", cli_attach, OPTIONS_OF_ATTACH },
	{ "list", "[--json]", "the VMs: name, pid, link, dialect, state, clients", cli_list, NULL },
	{ "control", "NAME [show|take|give] [CLIENT] [--force]", "who of a VM's debuggers may change it, and who observes", cli_control,
	  "  show      all clients with their numbers and roles\n"
	  "  take      for CLIENT, the only observer if none is named; whoever has control is asked for it, with --force it is taken from him\n"
	  "  give      to CLIENT; without one to who asked first, else it is free" },
#ifdef VMKD_HAS_CONSOLE
	{ "kd", "TARGET [-c COMMANDS] ...", "the console; TARGET is vm:NAME, unix:PATH, tcp:HOST:PORT, serial:DEVICE or trace:FILE; `vmkd kd --help` has the options", console_main, NULL },
#endif
	{ "history", "NAME [--lines N]", "what its kernel printed last (DbgPrint), at most 64 KiB of it", cli_history, NULL },
	{ "doctor", "[NAME] [--json]", "what of the way from guest to debugger works, what does not, and what to do", cli_doctor, NULL },
	{ "stats", "NAME [--json]", "counters since the start", cli_stats, NULL },
	{ "trace", "NAME FILE.pcapng [--force] | show FILE.pcapng [--json]",
	  "record every KD packet until Ctrl-C, `-` = to stdout; or show what was recorded (Wireshark reads it, too)", cli_trace, NULL },
	{ "setup", "IMAGE [--default] [--dry-run] [--backing] | IMAGE --undo [--dry-run] [--backing]", "prepare the Windows in a stopped VM's disk image (raw, qcow2, a block device), or undo that", cli_setup,
	  "  --default                  the new boot entry is booted when nobody chooses; without it the default stays\n"
	  "  --undo                     put back everything that `vmkd setup` changed in the image\n"
	  "  --dry-run                  say what would be done; the image is opened read-only\n"
	  "  --backing                  a qcow2's backing files may be opened, too (`qemu-img info` shows them)\n"
	  "Needs root, ntfs-3g, and qemu-storage-daemon; for an EFI system partition mtools. What it does to a Windows: docs/guest.md." },
	{ "libvirt", "enable|disable|status DOMAIN [--link hook|debugcon] [--connect URI] [--name NAME] [--private-ram] [--force] [--dry-run]",
	  "the link in a libvirt domain, and out of it again", cli_libvirt,
	  "  enable                     write it into the domain's definition, if nothing stands in its way; with the next start it is there\n"
	  "  disable                    take out what enable added\n"
	  "  status                     what is there, and what an administrator must allow; status 1 if something is missing\n"
	  "  --link hook|debugcon       how guest and host meet; without it: the hook for KVM, else debugcon\n"
	  "  --connect URI              of a libvirtd of this machine; without it: virsh's own choice\n"
	  "  --name NAME                of the VM for vmkd; without it: the domain's\n"
	  "  --private-ram              hook: leave the VM's RAM private to QEMU instead of in a shared memfd\n"
	  "  --force                    write it although a check has failed\n"
	  "  --dry-run                  print the definition instead" },
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

int cli_usage(const char *command, const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "vmkd %s: ", command);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, "; usage: vmkd %s %s\n", command, find_command(command)->arguments);
	return CLI_USAGE_STATUS;
}

static int help(void)
{
	puts("vmkd: Windows kernel debugging inside VMs at the speed of memory\n");
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		printf("  vmkd %s %s\n      %s\n", commands[i].name, commands[i].arguments, commands[i].does);
	puts("  vmkd help | --version\n\n"
	     "Runtime files: $VMKD_RUNTIME_DIR, else $XDG_RUNTIME_DIR/vmkd, else /tmp/vmkd-UID; NAME/kd.sock there is the KDCOM stream.");
	return 0;
}

static bool asks_for_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int help_for(const struct command *command)
{
	printf("usage: vmkd %s %s\n       %s\n", command->name, command->arguments, command->does);
	if (command->options)
		puts(command->options);
	return 0;
}

static int version(void)
{
	printf("vmkd %s (guest module ABI %u.%u, link %u)\n", VMKD_VERSION, AREA_VERSION_MAJOR, AREA_VERSION_MINOR, LINK_VERSION);
	return 0;
}

int main(int argc, char **argv)
{
	const struct command *command = argc > 1 ? find_command(argv[1]) : NULL;

	if (argc > 1 && (strcmp(argv[1], "help") == 0 || asks_for_help(argv[1])))
		return help();
	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return version();
	if (!command) {
		if (argc > 1)
			fprintf(stderr, "vmkd: there is no command '%s'; `vmkd help` lists them\n", argv[1]);
		else
			fputs("vmkd: a command is missing; `vmkd help` lists them\n", stderr);
		return CLI_USAGE_STATUS;
	}
	if (argc > 2 && asks_for_help(argv[2]) && strcmp(command->name, "kd") != 0) // which has more to say
		return help_for(command);
	return command->fn(argc - 1, argv + 1);
}
