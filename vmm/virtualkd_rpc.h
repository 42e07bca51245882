// SPDX-License-Identifier: MIT
// The bytes of VirtualKD's requests and replies, as its modules exchange them with VirtualBox (VirtualKD reference, sections 2 and 4): found in guest RAM, judged,
// answered in place. What they mean is vmm/virtualkd.h's.
//
// Rules: no I/O, no clock, no locks, no allocation, no state. Guest memory is hostile and another vCPU may be changing it: each byte of a request is
// copied once and judged in the copy; a reply is written whole or not at all, into RAM only and never past the capacity that the request told.
#ifndef VMM_VIRTUALKD_RPC_H
#define VMM_VIRTUALKD_RPC_H

#include "vmm/area.h"

// The probe (section 1.1): an OUT of VMware's magic to VMware's port, with these registers, and then an IN.
#define VKD_PROBE_PORT PORTCALL_PORT
#define VKD_PROBE_MAGIC PORTCALL_MAGIC
#define VKD_PROBE_EBX 0xC9435052u
#define VKD_PROBE_ECX 0x0000001Eu
#define VKD_PROBE_ANSWER 0x584F4256u // "VBOX"
#define VKD_STRAY_PORT 0xFFFFu       // one OUT of the magic there closes a channel that was never opened
#define VKD_RPC_PORT 0x5659u         // OUT of the low 32 bits of the buffer's address

#define VKD_BUFFER_SIZE 0x20400u // the whole buffer, which is what every known module tells (section 2.2)
#define VKD_CONTEXT_SIZE 6u

enum vkd_command { VKD_VERSION = 'v', VKD_TEST = 't', VKD_RECEIVE = 'r', VKD_SEND = 's' };

#define VKD_TYPE_POLL 8u // VKD_RECEIVE: the break-in poll

// Return codes of VKD_RECEIVE (section 4.6).
enum vkd_receive_code { VKD_RECEIVED = 0, VKD_TIMED_OUT = 1, VKD_RESEND = 2 };

// Globals (section 4.3) in replies.
#define VKD_GLOBALS_PRESENT 0x0304u // there is a debugger
#define VKD_GLOBALS_DROPPED 0x0105u // there is none: the packet was dropped
#define VKD_GLOBALS_AGAIN 0x0307u   // VKD_SEND: send that again
#define VKD_GLOBAL_RETRY 0x0002u

struct vkd_buffer {
	uint16_t length, max_length; // bytes
};

struct vkd_request {
	gpa_t at;
	uint32_t capacity; // bytes from `at` on that a reply may use, at most VKD_BUFFER_SIZE
	enum vkd_command command;
	uint32_t version;  // VKD_VERSION
	uint32_t kd_type;  // VKD_RECEIVE, VKD_SEND
	uint32_t globals;
	struct vkd_buffer first, second;
	uint8_t context[VKD_CONTEXT_SIZE];
	uint32_t body_len; // VKD_SEND: first.length + second.length
	uint8_t body[RECORD_BODY_MAX];
};

enum vkd_outcome {
	VKD_OK = 0,
	VKD_E_NONE = 1,    // no request there: nothing may be written
	VKD_E_REFUSED = 2, // a request, but not one that can be: vkd_refuse
};

// Where is the buffer whose address ends in `low`? `wide`: what the guest had in RAX (one module of 64 bits leaves the whole address there, section 8.1b). Buffers above
// 4 GiB are looked for (8.1a): first at *high, the upper half that was right last time. -> VKD_OK (*ret, *high), VKD_E_NONE.
WIRE_MUST_CHECK int vkd_find(const struct gpa_map *map, uint32_t low, uint64_t wide, uint32_t *high, gpa_t *ret);

// Read the request at `at`. -> VKD_OK; VKD_E_REFUSED (at, capacity and command are set); VKD_E_NONE. *ret is unspecified otherwise.
WIRE_MUST_CHECK int vkd_read(const struct gpa_map *map, gpa_t at, struct vkd_request *ret);

// Replies. -> false: not RAM (any more), or no room in the capacity; nothing was written, by which the guest knows that its request has failed.
// vkd_refuse: the reply that makes the guest's request fail.
bool vkd_refuse(const struct gpa_map *map, const struct vkd_request *r);
bool vkd_reply_version(const struct gpa_map *map, const struct vkd_request *r, uint32_t version);
bool vkd_reply_test(const struct gpa_map *map, const struct vkd_request *r);
bool vkd_reply_send(const struct gpa_map *map, const struct vkd_request *r, uint32_t globals);
// Without a packet: code is not VKD_RECEIVED, but for a poll: there it says that a break-in is wanted.
bool vkd_reply_code(const struct gpa_map *map, const struct vkd_request *r, uint32_t code, uint32_t globals);
// With a packet, for which vkd_has_room said true.
bool vkd_reply_packet(const struct gpa_map *map, const struct vkd_request *r, uint32_t globals, const uint8_t *body, uint32_t body_len);

// The guest's buffers take a packet of that length: its header fills the first, the rest fits into the second.
bool vkd_has_room(const struct vkd_request *r, uint32_t body_len);

#endif
