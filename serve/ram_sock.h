// SPDX-License-Identifier: MIT
// RUNTIME/NAME/ram.sock: programs of this host that read the stopped guest's memory by themselves. The contract with them, and the order
// in which the stop page changes, is wire/stop_page.h.
//
// Rules: one thread, on the broker's loop, and that thread must be the one that lives as long as the broker does: it is named in the page.
// Nothing blocks. A program that reads too slowly or sends anything is hung up; one that waits costs nothing.
// Every function but create may be called with NULL: a broker that could not open ram.sock does without.
#ifndef SERVE_RAM_SOCK_H
#define SERVE_RAM_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/walk.h"
#include "util/error.h"
#include "util/loop.h"
#include "wire/link.h"

// Programs at a time; one more is hung up. Origin: sixteen debuggers with a few tools each.
#define RAM_SOCK_PROGRAMS_MAX 64u

struct ram_sock;

// Make the stop page and listen on ram.sock of this VM. is_off (--no-ram, --check-ram): listen, and hang up on whoever comes.
// -> NULL and *ret, or an error for a remark: bad name, sockets, a kernel without sealed memfds, a C library whose locks are not
// what wire/stop_page.h needs.
ERROR_MUST_CHECK struct error *ram_sock_create(struct loop *loop, const char *vm_name, bool is_off, struct ram_sock **ret);
// Hangs up on every program; the page says that nobody keeps it true.
void ram_sock_destroy(struct ram_sock *s);

// Where RAM is, as guest_link_events.memory has it; descriptors are duplicated. Every program is told. What cannot be (counts, lengths,
// descriptors missing) or cannot be kept counts as no memory at all.
void ram_sock_memory(struct ram_sock *s, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count);

// The guest sleeps in a wait, and its RAM may be read with these registers: the epoch becomes odd. vcpu: the VMM's number.
// In a sleep already: the old one ends first.
void ram_sock_sleeps(struct ram_sock *s, const struct walk_regs *regs, uint32_t vcpu);
// To be called BEFORE anything is handed to the guest, and when it is reset, gone or lost: the epoch becomes even. Fine when it is.
void ram_sock_wakes(struct ram_sock *s);

#endif
