// SPDX-License-Identifier: MIT
// The VMM's end of the link to the broker (wire/link.h): the listening socket, one connection, one thread.
//
// Rules: everything but link_prepare and link_start under hook.lock. Nothing blocks. The thread sleeps in poll without the lock; it
// accepts brokers, reads what they send while the guest runs, and finds out where the guest's RAM is (vmm/memory.h), also without the lock. While a vCPU sleeps in a wait that vCPU reads the socket
// itself, so a packet costs one wake-up, of the thread that needs it. Both read under the lock and without blocking, so
// who comes second finds nothing and no message is lost.
#ifndef VMM_LINK_H
#define VMM_LINK_H

#include "vmm/call.h"

// When to try again after a message that the kernel had no memory for.
#define LINK_STARVED_MS 10u

// The VM's name and the folder of all VMs; NULL: those of the environment (VMKD_NAME, VMKD_RUNTIME_DIR). `folder` is kept, not copied.
// -> true: there is a name and it is valid. False: silence, or one line on stderr.
bool link_prepare(const char *name, const char *folder);
// The name; "" = none.
const char *link_name(void);

// Create the folder and the socket and start the thread. -> false: one line on stderr said why.
bool link_start(void);

// The process ends: close, and remove the socket's name.
void link_stop(void);
// In a forked child: close the descriptors, leave the names alone.
void link_abandon(void);

enum link_send_outcome {
	LINK_SENT = 0, // call_sent was called
	LINK_FULL = 1, // the broker does not read; call_step shows the message again
	LINK_DEAD = 2, // the broker is gone, and hook.call knows
	LINK_HELD = 3, // a wait, whose broker has to learn first where the RAM is: the thread looks, and wakes the sleeper when it knows
};

// True: this message tells of a wait, alone or with a packet.
bool link_is_wait(const struct link_head *head);

// Hand a message of call_step to the broker, whole or not at all. -> enum link_send_outcome.
int link_send(const struct call_message *message);

// Read and obey what the broker has sent, until a packet was delivered or there is no more.
void link_receive(void);

// Outside calls: send what is owed as far as the socket takes it, and have the thread watch what has to be watched.
void link_settle(void);

// The process ends: send what is owed, and wait for a broker that does not take it, but not longer than `ms`.
void link_drain(uint64_t ms);

// The owner's RAM is about to change; is_lost: some of it goes away or elsewhere. A guest in a wait: the broker is told at once that it
// knows nothing any more, which is in its socket before KVM takes the memory, and the thread finds out how it is then. What remains is the time until
// the broker reads that: an answer that it is just making may still be of the memory that the guest had. A guest that runs:
// the broker is told before the next wait, and does not answer from RAM before that.
void link_ram_changes(bool is_lost);

// The connected broker's socket; -1 = none.
int link_fd(void);

// After LINK_FULL: the kernel had no memory for the message, so waiting for room would return at once, again and again.
bool link_is_starved(void);

// Since when the broker has not taken a message (hook_now_ms); only after LINK_FULL.
uint64_t link_full_since_ms(void);

#endif
