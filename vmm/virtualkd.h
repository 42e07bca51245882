// SPDX-License-Identifier: MIT
// Guests with VirtualKD's transport (kdbazis of VirtualKD and VirtualKD-Redux, ReactOS's kdvbox), unmodified: the VirtualBox leg, hook only.
//
// Their module knows nothing of the shared area. So a stand-in for kdvmkd.dll lives here, in the VMM: it has an area in our own memory, puts what
// the guest sends into its ring, and makes the calls of vmm/call.h that kdvmkd.dll would make. To that machine, and to the broker behind it,
// a VirtualKD guest is a guest like any other: kicks, resends, brokers that come and go, resets are dealt with once.
//
//   guest            stand-in                                     struct call
//   v                a new area                                   CALL_REGISTER
//   t                -
//   s  print         into the ring                                CALL_EXCHANGE, so that it is read at once
//      the rest      into the ring, where it waits for the 'r' that follows
//   r  poll          answered at once                             CALL_POLL when there is something to take
//      the rest      -                                            CALL_EXCHANGE, CALL_F_WAIT
//
// Answers of a wait: OK -> the packet; RESEND, REREGISTER, NOBODY (which only droppable waits get) -> 2, the kernel says its state again;
// RETRY, for the VMM wants the vCPU, and all others -> 1, the kernel calls again.
// Packets when there is no broker: what may be dropped is (globals 0105); the rest waits in the ring and the guest in its 'r', asleep. When even the
// ring is full: globals 0307, the guest sends again.
//
// A guest that comes with 's' or 'r' without a 'v' (a restored snapshot: the module looked for its VMM long ago) is registered as well, unless another module is: of two modules in
// one guest the one that registers last has the link.
//
// Rules: as vmm/call.h (no I/O, no clock, no lock; under the caller's lock). Guest memory is touched inside the guest's OUT only.
#ifndef VMM_VIRTUALKD_H
#define VMM_VIRTUALKD_H

#include "vmm/call.h"
#include "vmm/virtualkd_rpc.h"

// What the guest is made to wait for before it sends again what nobody could take: it would come back at once.
#define VIRTUALKD_REST_MS 50u

struct virtualkd {
	uint8_t memory[AREA_PAGES][AREA_PAGE_SIZE] __attribute__((aligned(4096)));
	uint8_t *page[AREA_PAGES];
	struct gpa_range range; // the memory above, at an address that no guest has
	struct ring tx, rx;
	uint64_t nonce;
	uint32_t call_seq;
	uint32_t tx_seq;  // of the last packet put, ever
	uint32_t high;    // upper half of the buffer's address, as found last
	bool is_droppable_wait; // of the last question sent
	bool has_question;      // it is in the ring from question_start on, if it has not been taken
	uint32_t question_start;
	uint32_t parked_want;   // the wait of that type was answered "again" by a RETRY; 0 = none
};

// One OUT to VKD_RPC_PORT.
struct virtualkd_exit {
	uint32_t value; // what was put out
	uint64_t rax;
	uint32_t arch;  // ARCH_* of the code
	uint32_t vcpu;  // the VMM's number
	uint64_t cr0, cr3, cr4, efer;
};

// One request from its beginning to its end: on the vCPU's own stack, as another vCPU may poll meanwhile.
struct virtualkd_rpc {
	struct vkd_request request;
	bool is_put; // its packet is in the ring
};

enum virtualkd_next {
	VIRTUALKD_NOT_OURS = 0, // no request of VirtualKD's: leave it to the VMM
	VIRTUALKD_DONE = 1,     // answered
	VIRTUALKD_CALL = 2,     // a call is open: drive it to its answer (vmm/call.h), then virtualkd_end
	VIRTUALKD_REST = 3,     // answered with "again": let the guest go on after VIRTUALKD_REST_MS, or a kick
};

// Before the first guest.
void virtualkd_init(struct virtualkd *k);

// A request has arrived.
WIRE_MUST_CHECK enum virtualkd_next virtualkd_begin(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                                    struct virtualkd_rpc *rpc, uint64_t now_ms);
// The open call has been answered with `code`, enum call_code; `map` may have changed since. -> VIRTUALKD_DONE, VIRTUALKD_REST.
WIRE_MUST_CHECK enum virtualkd_next virtualkd_end(struct virtualkd *k, struct call *c, const struct gpa_map *map, struct virtualkd_rpc *rpc,
                                                  uint32_t code);

#endif
