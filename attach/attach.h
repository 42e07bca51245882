// SPDX-License-Identifier: MIT
// `vmkd attach`: libvmkd-vmm.so into a QEMU that runs already, in the steps of vmm/late.h.
//
// Rules: blocks for as long as the process, its monitor and its linker take, each with a limit of its own. Whenever it ends, also by SIGKILL, the process goes on;
// what was not done yet is done by the next attempt.
#ifndef ATTACH_ATTACH_H
#define ATTACH_ATTACH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct attach_options {
	pid_t pid;
	const char *name;    // the VM's, a valid one (util/rundir.h)
	const char *folder;  // of all VMs
	const char *library; // libvmkd-vmm.so, absolute
	const char *qmp;     // the monitor's socket, or NULL
	const char *domain, *connect; // of libvirt, or NULL
};

struct attach_result {
	bool was_attached; // before us, completely
	bool is_paused;    // the VM does not run, so nobody can tell whether its vCPUs come through
	uint32_t slot_count, vcpu_count, vcpus_seen;
};

// -> NULL and *ret, or an error that says what was wrong and what to do.
ERROR_MUST_CHECK struct error *attach_run(const struct attach_options *o, struct attach_result *ret);

#endif
