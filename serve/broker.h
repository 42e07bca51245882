// SPDX-License-Identifier: MIT
// One VM's broker: the guest's link on one side, a debugger on the other, the session between them, the control socket beside.
//
// Rules: one thread, one loop. The caller holds the broker's lock (serve/vmdir.h) and follows the VM's process.
#ifndef SERVE_BROKER_H
#define SERVE_BROKER_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"

struct broker_options {
	const char *name; // of the VM; its runtime folder exists
	const char *link; // "hook", "debugcon" or "serial"
	const char *from; // serial: the stock target's stream (ENDPOINT_FORMS of util/endpoint.h)
	const char *ram_id; // debugcon: QEMU's memory backend that is the guest's RAM
	const char *tcp;  // ADDR:PORT to listen on besides kd.sock; NULL = do not
	bool no_ram;      // do not answer from RAM
	bool check_ram;   // nor here, but hold the guest's answers against it
	bool is_absent;   // while there is no client, the guest shall not see a debugger
	uint32_t pause_ms; // debugcon: pause the VM when a stopped guest was given nothing for so long; 0 = never
	int watchdog_fd;   // from watchdog_start (serve/watchdog.h), with pause_ms
	int vm_pid;       // 0 = not known yet
	// Called once when the VMM side is there for the first time; NULL = nobody asks.
	void (*on_up)(void *arg, int vm_pid);
	void *arg;
};

struct broker;

// Listen on kd.sock, ctl.sock and perhaps TCP (with a warning on stderr when that address is not loopback), and reach for the link.
// Strings of `options` are copied. -> NULL and *ret, or an error; nothing is left behind then.
ERROR_MUST_CHECK struct error *broker_create(struct loop *loop, const struct broker_options *options, struct broker **ret);

// Another VM has the name now, and is reached like this (of the options: link, ram_id, vm_pid); the clients stay. A link that is like this already
// connects by itself. -> NULL; an error, and the link is as it was.
ERROR_MUST_CHECK struct error *broker_follow(struct broker *broker, const char *link, const char *ram_id, int vm_pid);

// The process at the other end of the link, 0 while there is none.
int broker_vm_pid(const struct broker *broker);

// Hang up on everybody and remove the sockets. NULL is fine.
void broker_destroy(struct broker *broker);

// The VM's process has ended: take what its side of the link still holds, and give the debugger BROKER_LINGER_MS to read it (and
// whatever else it has not read). To be called before broker_destroy, or the last DbgPrint before a power-off is lost.
// -> NULL, or the loop's error.
#define BROKER_LINGER_MS 3000u // a debugger that reads takes microseconds a line; a stopped one must not hold up the VM's end
ERROR_MUST_CHECK struct error *broker_linger(struct broker *broker);

#endif
