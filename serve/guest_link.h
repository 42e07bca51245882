// SPDX-License-Identifier: MIT
// The way to the guest's module, behind one table: through libvmkd-vmm.so inside the VMM (link_hook.c), through the shared area
// directly (link_debugcon.c), or to a stock target's transport on a byte stream (link_serial.c). KD packets and what the guest waits for, as wire/link.h words it; no KD meaning here.
//
// Rules: one thread, on the broker's loop. Functions of ops never block and never call events back before they return, so
// the session may call them from inside an event. A link that is down swallows what it is given. Links reconnect by themselves until
// destroyed.
#ifndef SERVE_GUEST_LINK_H
#define SERVE_GUEST_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/loop.h"
#include "wire/link.h"

struct guest_link_events {
	void (*up)(void *arg);   // the VMM side is there; link->pid is known
	void (*down)(void *arg); // it went away; the guest is unknown from now on
	void (*registered)(void *arg, const struct link_guest *guest);
	void (*gone)(void *arg, enum link_gone reason);
	// head: type LINK_PACKET, lengths checked; body: head->body_len bytes, valid during the call. The wait may ride on it (LINK_F_WAITS).
	void (*packet)(void *arg, const struct link_head *head, const uint8_t *body);
	void (*waits)(void *arg, const struct link_head *head);
	void (*breakin_taken)(void *arg);
	void (*stats)(void *arg); // link->stats is fresh
	void (*refused)(void *arg); // a guest module of another version came: link->refused_version. Again each time it tries
	// Where the guest's RAM is, whole and anew (wire/link.h, LINK_MEMORY). m: len bytes, judged by whoever uses it; fds: fd_count of them, borrowed
	// during the call. piece_count 0: nothing is known any more.
	void (*memory)(void *arg, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count);
};

struct guest_link;
struct pause;

struct guest_link_ops {
	const char *name; // "hook", "debugcon", "serial"
	void (*deliver)(struct guest_link *link, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes);
	void (*breakin)(struct guest_link *link);
	void (*breakin_cancel)(struct guest_link *link);
	void (*resend)(struct guest_link *link);
	// The guest that came to its wait is not there any more, and nobody has told so yet (events.gone follows). NULL: all that ends a wait is told.
	bool (*has_left)(struct guest_link *link);
	// Take no more from the guest for now (or again): the debugger is behind. The guest's DbgPrint then waits, as it does for a debugger
	// on a wire, for as long as both ends put up with it. A wait and what rides on it is never held back.
	void (*hold)(struct guest_link *link, bool is_held);
	// --absent: without a client the kernel shall not see a debugger. False: as if no broker were there (the VMM side is not attached to, the guest told
	// NOBODY); true, as it is at first: attach, as a broker that has just come. NULL: this link cannot.
	void (*set_present)(struct guest_link *link, bool is_present);
	void (*ask_stats)(struct guest_link *link); // -> events.stats, soon, if the link is up
	void (*destroy)(struct guest_link *link);
};

#define GUEST_LINK_REMARK_MAX 240u

// The common part; backends embed it as their first member.
struct guest_link {
	const struct guest_link_ops *ops;
	const struct guest_link_events *events;
	void *arg; // for events
	struct loop *loop;
	bool is_up;
	int pid;                   // of the VMM process, 0 = unknown
	uid_t owner;               // of the VMM process, as the kernel says; valid during events.memory
	uint32_t refused_version;  // AREA_VERSION of a guest module that this host does not speak, 0 = none, or registered since
	uint32_t library_version;  // LINK_VERSION of a library that this host does not speak, 0 = none
	uint64_t calls_before;     // that the guest had made when this link met it; hook only
	uint64_t messages_refused; // of the VMM side, or doorbell bytes that mean nothing
	struct link_stats stats;   // as of the last events.stats
	const struct pause *pause; // of VMs that are paused while nothing is asked of them (serve/pause.h); NULL = this link does not pause
	char remark[GUEST_LINK_REMARK_MAX]; // why something does not work, for `vmkd list`; "" = nothing
};

// Connect to the library's listener (vmm.sock of this VM), now or whenever it appears.
// -> NULL and *ret, to be ended with ops->destroy; errors: bad name, memory.
ERROR_MUST_CHECK struct error *link_hook_create(struct loop *loop, const char *vm_name, const struct guest_link_events *events,
						void *arg, struct guest_link **ret);

// Attach to debugcon.sock and monitor.sock of this VM, and to its RAM, which is the memory backend `ram_id` of QEMU. As above.
// pause_ms, watchdog_fd: for pause_init (serve/pause.h); 0, -1: never pause the VM.
ERROR_MUST_CHECK struct error *link_debugcon_create(struct loop *loop, const char *vm_name, const char *ram_id, uint32_t pause_ms, int watchdog_fd,
						    const struct guest_link_events *events, void *arg, struct guest_link **ret);

// Talk KDCOM to the target at `from` (ENDPOINT_FORMS of util/endpoint.h), now or whenever it can be reached. A guest counts as registered while the line
// is open, whether it says something or not. -> as above; errors: `from` is none, its host is not known, memory.
ERROR_MUST_CHECK struct error *link_serial_create(struct loop *loop, const char *from, const struct guest_link_events *events, void *arg,
						  struct guest_link **ret);

#endif
