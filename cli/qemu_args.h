// SPDX-License-Identifier: MIT
// What `vmkd run` has to know about a QEMU command line, and what it adds to one. Pure functions on strings: nothing is
// opened, nothing is started.
//
// A command line is read as QEMU reads it (both -x and --x, values merged, the last one wins), as far as these
// options go. Values of options that take free text are skipped, so that `-append "-m 5"` is no -m.
#ifndef CLI_QEMU_ARGS_H
#define CLI_QEMU_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

enum qemu_accel {
	QEMU_ACCEL_OTHER,        // TCG, or nothing was asked for
	QEMU_ACCEL_KVM,          // KVM or failure
	QEMU_ACCEL_KVM_OR_OTHER, // KVM if possible ("kvm:tcg")
};

#define QEMU_ID_MAX 64u

struct qemu_args {
	enum qemu_accel accel;
	uint64_t ram_size;         // bytes, as QEMU will round it
	char ram_id[QEMU_ID_MAX];  // memory backend the user chose; "" = none
	char machine[QEMU_ID_MAX]; // type; "" = QEMU's default
	bool has_ram_wish;         // the line says where RAM comes from, or may say so where vmkd cannot read it
	bool is_daemonized;
};

// "qemu-system-x86_64", "/usr/bin/kvm", ...: a system emulator for PCs.
bool qemu_is_system_emulator(const char *program);

// "-m" in all its forms: "512", "6G", "1.5g", "size=4096M,slots=2,maxmem=8G". Bytes, MiB without a suffix.
// -> NULL and *ret_size (0 when only other keys are given: the default stays), or an error.
ERROR_MUST_CHECK struct error *qemu_parse_memory(const char *value, uint64_t *ret_size);

// Read the arguments (argv[0] is the program). For `debugcon` the guest's RAM must be reachable as a file: a backend of
// the user's own that is not shared is an error which says what to write instead. -> NULL and *ret, or an error.
ERROR_MUST_CHECK struct error *qemu_read_args(int argc, char *const *argv, bool debugcon, struct qemu_args *ret);

// May RAM be put into a memfd without changing what the user asked for? The machine is a PC that vmkd knows, and nothing on the line says
// where RAM comes from (a backend, NUMA nodes, -mem-path, encryption, a configuration file).
bool qemu_may_share_ram(const struct qemu_args *args);

enum qemu_additions {
	QEMU_ADD_QMP,        // a QMP socket for whoever wants it; the others have it too
	QEMU_ADD_SHARED_RAM, // RAM in a memfd: only when qemu_may_share_ram says so
	QEMU_ADD_DEBUGCON,   // the doorbell, a second QMP socket for the broker, and RAM in a memfd unless the user has a backend
};

// A NULL-terminated copy of argv with what vmkd needs behind it. The memfd's backend gets the name that QEMU itself gives to the machine's
// RAM, so that a snapshot taken without vmkd can be loaded, and the other way round. ret_ram_id: for debugcon the backend's id, else "".
// Free with qemu_free_args.
ERROR_MUST_CHECK struct error *qemu_extend_args(int argc, char *const *argv, const char *vm_name, const struct qemu_args *args,
						enum qemu_additions additions, char ***ret, char ret_ram_id[QEMU_ID_MAX]);
void qemu_free_args(char **argv);

// The doorbell and the broker's monitor of the link debugcon at these paths: options and values by turns, NULL-terminated. Free with
// qemu_free_args.
ERROR_MUST_CHECK struct error *qemu_doorbell_args(const char *bell_path, const char *monitor_path, char ***ret);

#endif
