// SPDX-License-Identifier: MIT
// What the runtime folder of a VM says about it: who serves it, whether it lives, how it was started. And tidying up
// after those that do not.
//
// A VM that `vmkd run` started inherits a descriptor with a lock on vm.lock: it is held exactly as long as the
// VM's process lives, whatever becomes of process ids. A VM that others started is alive while somebody listens on vmm.sock, or, with
// debugcon, on its monitor beside the folder.
#ifndef SERVE_VMDIR_H
#define SERVE_VMDIR_H

#include <stdbool.h>

#include "util/error.h"
#include "util/rundir.h"

// The sockets of a debugcon VM that others started: BASE/NAME and this. QEMU makes them before anything of ours runs, and after the host's boot the
// folder NAME is not there.
#define VMDIR_BELL_BESIDE ".debugcon.sock"
#define VMDIR_MONITOR_BESIDE ".monitor.sock"

struct vm_facts {
	char name[RUNDIR_NAME_MAX + 1];
	int pid;        // of the VM, 0 = unknown
	char link[16];  // "hook", "debugcon", "serial"; "" = unknown
	char ram_id[64]; // debugcon: id of the memory backend whose file is the guest's RAM; "" = unknown: the one that is shared
};

// Become the broker of `name` (the folder exists). -> NULL and *ret_fd, which holds the lock until it is closed; an error that names the
// present broker's pid.
ERROR_MUST_CHECK struct error *vmdir_lock_broker(const char *name, int *ret_fd);

// Claim the name for a VM about to be started. *ret_fd is to be inherited by the VM and closed here; it is close-on-exec until the
// caller says otherwise. -> NULL; an error that names the pid of the VM that has the name.
ERROR_MUST_CHECK struct error *vmdir_lock_vm(const char *name, int *ret_fd);
// The VM's pid, for messages of others. fd: from vmdir_lock_vm.
void vmdir_note_vm_pid(int fd, int pid);

// vm.json. Reading: a missing or malformed file gives facts that are unknown, never an error; a VM whose monitor is beside its folder needs none.
ERROR_MUST_CHECK struct error *vmdir_write_facts(const struct vm_facts *facts);
void vmdir_read_facts(const char *name, struct vm_facts *ret);

bool vmdir_vm_is_alive(const char *name, int *ret_pid); // *ret_pid: 0 = unknown
bool vmdir_vmm_listens(const char *name);               // the library in the VMM, or the monitor beside the folder
int vmdir_broker_pid(const char *name);                 // 0 = nobody serves it

// Where a debugcon VM's doorbell and monitor are: beside the folder if somebody listens there, else in it. -> NULL, or rundir_path's error.
ERROR_MUST_CHECK struct error *vmdir_debugcon_paths(const char *name, char ret_bell[RUNDIR_PATH_MAX], char ret_monitor[RUNDIR_PATH_MAX]);

// The VM has ended and its last broker is leaving (lock already let go): remove the folder unless somebody has settled in again.
void vmdir_remove(const char *name);

// Call fn for each VM folder, in the order of names, after removing the folders of dead VMs.
ERROR_MUST_CHECK struct error *vmdir_each(void (*fn)(void *arg, const char *name), void *arg);

#endif
