// SPDX-License-Identifier: MIT
// What the parts of libvmkd-vmm.so share: one lock, one guest's calls, one link.
//
// Rules: everything here is touched under `lock`, whose holder never blocks: sends and receives are non-blocking, sleeping is done without it.
// It is taken in vCPU threads after an exit that is ours, in ioctls that change memory slots or reset a vCPU, and in the link's thread; never
// on the way of an ordinary KVM_RUN, never in a signal handler. The lock is innermost: nothing of the VMM's is taken under it.
#ifndef VMM_HOOK_H
#define VMM_HOOK_H

#include <pthread.h>

#include "vmm/virtualkd.h"
#include "vmm/vm.h"

struct hook {
	pthread_mutex_t lock;
	bool is_active;        // the link is open; else the library lets everything pass
	struct call call;
	struct virtualkd virtualkd; // of a guest that has VirtualKD's module
	bool has_guest;        // a module is registered; read without the lock, as a hint
	struct vm *owner;      // the VM whose guest is, or was last, registered
	struct vcpu *caller;   // the vCPU that made the last call
	int wake_fd;           // eventfd: wakes the vCPU that sleeps in park_call
	bool has_sleeper;      // a vCPU sleeps there, and reads the broker's socket itself
	uint32_t ram_version;  // another one whenever the owner's RAM is, or may be, elsewhere; not 0
};

extern struct hook hook;

// For vmm/late.c: the library was loaded into a VMM whose VM is there already. hook_is_following: a name is known and VMs are followed.
bool hook_is_following(void);
// Follow the VM vm_fd, blind (vmm/vm.h): nothing of its guest's is answered before its slots are told. The ioctl is not in anybody's way yet.
// `next`: whom the others have called until now, NULL = us. -> the VM, or NULL: folder_complaint() says why, and everything is as before.
typedef int hook_ioctl_fn(int fd, unsigned long request, ...);
struct vm *hook_follow_late(const char *name, const char *folder, int kvm_fd, int vm_fd, hook_ioctl_fn *next);
// Ours. The name `ioctl` means the libc's to a library that was not preloaded.
hook_ioctl_fn hook_ioctl;

// Milliseconds of CLOCK_MONOTONIC.
uint64_t hook_now_ms(void);

// The libc's ioctl.
int hook_next_ioctl(int fd, unsigned long request, void *arg);

#endif
