// SPDX-License-Identifier: MIT
// The link between the VMM side (libvmkd-vmm.so inside the VMM process) and the broker (`vmkd serve`):
// a Unix SOCK_SEQPACKET socket, RUNTIME/NAME/vmm.sock. The VMM side listens, one broker at a time connects; both run
// as the same user (or the broker as root, or as a member of the runtime folder's group), checked with SO_PEERCRED. One message = struct
// link_head + body; one KD packet = one message. Host byte order and layout: both ends are on one machine, and built from one source or refused by LINK_VERSION.
//
// Rules: each end bounds body_len before it looks, refuses an unknown type or version by closing the connection, and never
// blocks on a send: the VMM side treats a full socket buffer like no broker for the time being (the guest keeps its ring), the
// broker waits for POLLOUT.
#ifndef WIRE_LINK_H
#define WIRE_LINK_H

#include "wire/portcall.h"

#define LINK_VERSION 4u
#define LINK_BODY_MAX RECORD_BODY_MAX
#define LINK_NAME_MAX 64u // VM name with its NUL; [A-Za-z0-9._-], not starting with '.' or '-'

enum link_type {
	// VMM -> broker
	LINK_HELLO = 1,        // first message; body: struct link_hello. Who leaves without an ATTACH has only looked (vmkd doctor)
	LINK_REGISTERED = 2,   // a guest module has registered; body: struct link_guest
	LINK_UNREGISTERED = 3, // code = enum link_gone; no body
	LINK_PACKET = 4,       // a KD packet of the guest; body: message header, then data. LINK_F_WAITS may ride on it
	LINK_WAIT = 5,         // the guest waits for a packet of type `want` (when there was no packet for that to ride on)
	LINK_BREAKIN_TAKEN = 6, // the guest's poll has consumed a break-in
	LINK_STATS = 7,        // answer to LINK_STATS_GET; body: struct link_stats
	LINK_OTHER_VERSION = 8, // a guest module of another major version was refused; code = its AREA_VERSION; no body
	LINK_MEMORY = 9,        // where the guest's RAM is, whole and anew; body: struct link_memory; descriptors ride along (SCM_RIGHTS).
	                        // Before the first wait that the broker hears of, and again before the next wait after a change; at once
	                        // when the change comes during a wait

	// broker -> VMM
	LINK_ATTACH = 32,      // first message; seq = LINK_VERSION; no body
	LINK_DELIVER = 33,     // a KD packet for the waiting guest; body as LINK_PACKET. Legal only while the guest waits for that type:
	                       // otherwise it is dropped and counted (the guest may have been reset meanwhile)
	LINK_BREAKIN = 34,     // stop the guest at its next poll; again while pending: no effect
	LINK_RESEND = 35,      // end the guest's wait with CODE_RESEND: it sends its state change or prompt again
	LINK_STATS_GET = 36,
	LINK_BREAKIN_CANCEL = 37, // forget a break-in that was not taken (the guest stopped by itself)
};

// link_head.flags
#define LINK_F_WAITS (1u << 0)     // PACKET: and the guest now waits for `want`; the control registers are valid
#define LINK_F_RESUMES (1u << 1)   // DELIVER: this lets the guest run (Continue, Continue2, Reboot, ...): the VMM side
                                   // goes back to watching the socket from its own thread at once
#define LINK_F_DROPPABLE (1u << 2) // WAITS: nobody needs to answer; without a broker the wait ends by itself
#define LINK_F_NESTED (1u << 3)    // WAITS, WAIT: the vCPU runs a guest of its guest: CR3 is not enough to find its memory

#define LINK_VCPU_UNKNOWN 0xFFFFFFFFu

enum link_gone {
	LINK_GONE_RESET = 1,      // vCPU reset, QMP RESET, or a snapshot was loaded: what was known of the kernel is void
	LINK_GONE_SHUTDOWN = 2,   // triple fault
	LINK_GONE_BYE = 3,        // the guest said so
	LINK_GONE_AREA = 4,       // nonce or memory map no longer fit the registered pages
	LINK_GONE_GUEST_ERROR = 5, // the guest broke the contract of the rings
};

struct link_head {
	uint16_t type;     // enum link_type
	uint16_t flags;    // LINK_F_*
	uint32_t body_len; // bytes after this head, at most LINK_BODY_MAX
	uint32_t seq;      // PACKET, DELIVER: record.seq; ATTACH: LINK_VERSION
	uint16_t kd_type;  // PACKET, DELIVER
	uint16_t hdr_len;  // PACKET, DELIVER: bytes of message header at the start of the body
	uint16_t want;     // WAITS, WAIT: KD packet type waited for
	uint16_t reserved; // 0
	uint32_t code;     // UNREGISTERED: enum link_gone; OTHER_VERSION: the guest's AREA_VERSION
	uint32_t vcpu;     // WAITS, WAIT: the VMM's number of the waiting vCPU; LINK_VCPU_UNKNOWN (debugcon)
	uint32_t reserved2; // 0
	uint64_t cr0, cr3, cr4, efer; // WAITS, WAIT: of the waiting vCPU; all 0 = unknown
};
WIRE_ASSERT_SIZE(struct link_head, 64);

// Whose packets these are.
enum link_dialect {
	LINK_DIALECT_VMKD = 0,      // kdvmkd.dll: the port call, the shared area
	LINK_DIALECT_VIRTUALKD = 1, // kdbazis, kdvbox: the VirtualBox leg of VirtualKD (hook only); page_count, features, head_gpa 0
	LINK_DIALECT_KDCOM = 2,     // a stock target on a byte stream (vmkd serve --from); version, features, page_count, head_gpa 0
};

struct link_guest {
	uint32_t version;  // AREA_VERSION of the guest; VIRTUALKD: what it said of itself, 0 = nothing
	uint32_t features; // accepted AREA_FEATURE_*
	uint32_t arch;     // ARCH_*
	uint32_t page_count;
	uint64_t module_base;
	uint64_t head_gpa;
	uint32_t dialect;  // enum link_dialect
	uint32_t state;    // GUEST_* of area_head.guest_state when this message was made; 0 for other dialects
};
WIRE_ASSERT_SIZE(struct link_guest, 40);

struct link_hello {
	uint32_t version;       // LINK_VERSION; first in every version, so judged before the length
	uint32_t pid;           // of the VMM process
	uint32_t is_registered; // 0/1: `guest` is valid
	uint32_t is_waiting;    // 0/1: the guest waits; it is told CODE_RESEND as soon as the broker has attached
	struct link_guest guest;
	char name[LINK_NAME_MAX]; // NUL-terminated
	// AREA_VERSION of the guest module that was refused for it last, 0 = none since the last registration. For a clear message only.
	uint32_t refused_version;
	uint32_t reserved;
	uint64_t port_calls, last_call_ms; // as in struct link_stats
};
WIRE_ASSERT_SIZE(struct link_hello, 144);

// One piece of guest RAM: of writable memory slots only (hook), or of what QEMU's memory tree calls ram (debugcon). ROM, MMIO and SMRAM are in none.
#define LINK_MEMORY_REMOTE 0xFFFFFFFFu
#define LINK_MEMORY_PIECES_MAX 120u
#define LINK_MEMORY_FILES_MAX 8u
struct link_memory_piece {
	uint64_t gpa;  // page-aligned
	uint64_t size; // bytes, whole pages, not 0
	uint64_t at;   // offset in the file, page-aligned; LINK_MEMORY_REMOTE: address in the VMM process
	uint32_t file; // index among the descriptors; LINK_MEMORY_REMOTE: not in a file that both could map
	uint32_t reserved; // 0
};
WIRE_ASSERT_SIZE(struct link_memory_piece, 32);

// Pieces ascend and do not overlap. The sender cuts the list at LINK_MEMORY_PIECES_MAX and says so: what is not in it is asked of the guest.
struct link_memory {
	uint32_t generation;  // 1, 2, ... within one connection
	uint32_t pid;         // of the VMM process
	uint32_t piece_count; // at most LINK_MEMORY_PIECES_MAX
	uint32_t file_count;  // descriptors with this message, at most LINK_MEMORY_FILES_MAX
	uint32_t is_cut;      // 0/1: there are more pieces
	uint32_t is_permitted; // 0/1: the receiver was given the right to read the VMM process (process_vm_readv), as far as the sender can tell
	struct link_memory_piece pieces[LINK_MEMORY_PIECES_MAX]; // body_len counts the used ones only
};
WIRE_ASSERT_SIZE(struct link_memory, 24 + 32 * LINK_MEMORY_PIECES_MAX);
_Static_assert(sizeof(struct link_memory) <= LINK_BODY_MAX, "fits a message");

// Counters since the VMM process started (hook) or the broker started (debugcon).
struct link_stats {
	uint64_t port_calls;     // calls answered, RETRY included
	uint64_t doorbells;      // debugcon bytes
	uint64_t packets_out;    // guest -> broker
	uint64_t packets_in;     // broker -> guest
	uint64_t bytes_out;      // KD bytes (header + data) guest -> broker
	uint64_t bytes_in;
	uint64_t retries;        // calls ended with CODE_RETRY
	uint64_t registrations;
	uint64_t refused;        // guest input refused: bad area, record, index, length, CPL
	uint64_t refused_cpl;    // of which: calls from outside CPL 0 (left to the VMM)
	uint64_t refused_version;
	uint64_t dropped_deliver; // DELIVERs that came when the guest did not wait for them
	uint64_t last_call_ms;    // when the last call came, by CLOCK_MONOTONIC; 0 = none has
};
WIRE_ASSERT_SIZE(struct link_stats, 104);

#endif
