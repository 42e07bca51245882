// SPDX-License-Identifier: MIT
// The port call and the shared area: the one contract between the guest module (kdvmkd.dll) and the
// host side, whichever of the two ways in it uses.
//
// The area is a set of 4 KiB pages of guest RAM that the guest module owns. Page 0 is the head
// (struct area_head); then tx_pages pages of the transmit ring (guest to host) and rx_pages pages
// of the receive ring (host to guest). Pages need not be contiguous in guest-physical memory; the
// head lists them. Every page starts with struct page_head, whose nonce tells the host that the page is
// still ours before it writes.
//
// Hook (KVM): a call is `in eax, dx` with the registers below, made at CPL 0. The result is EAX.
// Debugcon (any accelerator): the guest writes call_fn and its arguments into the head, then
// call_seq, then sends one byte DOORBELL_RING to the isa-debugcon port; it spins until reply_seq ==
// call_seq and takes the result from reply_code. It rings only if ring_seen == ring_seq, so at
// most one byte is in flight and a host that reads nothing never blocks the VMM. Registration, which
// the host cannot find in an area it does not know yet, sends DOORBELL_HELLO followed by the
// guest-physical address of the head (see below), at most HELLO_BUDGET times unanswered.
// Under the hook the guest fills the same words, so the host has one code for both.
//
// Trust: the host trusts nothing in the area. It keeps its own ring indexes, copies a record header once before
// it looks at it, and refuses what cannot be. The guest does the same with the host's words
// (a restored snapshot shows them in the past).
//
// Who writes what: `guest` fields are written by the guest only, `host` fields by the host only and only
// during a call (or a wait, which is a call) after it has re-read the nonce; `attention` is the one word
// that the host writes at other times. What the host writes into guest RAM is invisible to the VMM's dirty map,
// so the guest increments page_head.touch of every page the host may have written, in the same call.
#ifndef WIRE_PORTCALL_H
#define WIRE_PORTCALL_H

#include "wire/compiler.h"

// ---- Port call registers -------------------------------------------------------------------
// VMware's backdoor convention (KD reference, section 9.1): magic in EAX, command in the low half of
// ECX, port in DX. Our command is none of VMware's, and its low byte is beyond QEMU's vmport
// table, which looks at that byte alone (0x44 is the highest it knows).
#define PORTCALL_PORT 0x5658u
#define PORTCALL_MAGIC 0x564D5868u // 'VMXh'
#define PORTCALL_COMMAND 0x4BDDu   // low 16 bits of ECX; the high 16 bits are enum call_fn

// EAX after the call: RESULT_TAG | enum call_code. Anything else means nobody answered
// (0xFFFFFFFF from a bus without a device, PORTCALL_MAGIC from an emulator that ignores the port).
#define RESULT_TAG 0x4B440000u // 'KD' << 16
#define RESULT_TAG_MASK 0xFFFF0000u

enum call_fn {
	// Hand over the area. EBX/ESI = low/high half of the guest-physical address of page 0,
	// EDI = AREA_VERSION of the guest. The guest has filled every `guest` field of the head;
	// both rings start anew: the host reads records from tx_base and writes them from rx_tail.
	// -> OK, VERSION, REFUSED (head or pages are not what they must be), RETRY.
	CALL_REGISTER = 1,
	// Collect the transmit ring; with CALL_F_WAIT, then sleep until a packet of type call_want is in the receive
	// ring. EBX = call_seq. -> OK (waited: a packet is there; else: collected), RETRY, TIMEOUT, RESEND,
	// REREGISTER, NOBODY, REFUSED.
	CALL_EXCHANGE = 2,
	// Break-in poll and heartbeat; collects the transmit ring as well. EBX = call_seq.
	// -> OK (no break-in), BREAKIN (consumed by this call), NOBODY, RETRY, REREGISTER, REFUSED.
	CALL_POLL = 3,
	// The area is about to go away (power-down, hibernation). EBX = call_seq. -> OK, RETRY.
	// The guest must not make other calls afterwards than CALL_REGISTER.
	CALL_UNREGISTER = 4,
};

enum call_code {
	CODE_OK = 0,
	// The VMM needs this vCPU (pause, reset, QMP). Nothing was lost; make the same call again at once.
	CODE_RETRY = 1,
	CODE_TIMEOUT = 2, // nothing came; KdReceivePacket returns 1
	// The host wants the state change or prompt again (new debugger, RESEND, RESET); KdReceivePacket returns 2.
	CODE_RESEND = 3,
	// The host does not know this area (any more): reset, restored snapshot, restarted host. Register,
	// send what was not acknowledged again, then make the call again. A legal answer to every call.
	CODE_REREGISTER = 4,
	// There is a link, but no broker behind it. Nothing was collected; what may be dropped may be dropped.
	CODE_NOBODY = 5,
	CODE_VERSION = 6, // the host speaks another AREA_VERSION major; see area_head.host_version
	CODE_REFUSED = 7, // malformed area, ring or arguments; the host has counted it
	CODE_BREAKIN = 8, // CALL_POLL only
};

// ---- Debugcon -------------------------------------------------------------------------------
// isa-debugcon with iobase and readback of ours: reading the port yields DEBUGCON_READBACK, which tells the
// module that the device is there (QEMU's default is 0xE9 at port 0xE9, used by firmware for logs).
#define DEBUGCON_PORT 0x565Au
#define DEBUGCON_READBACK 0x4Bu
#define DOORBELL_RING 0x52u // 'R': look at the head of the registered area
// 'H', then 8 bytes: guest-physical address of page 0, little endian, then 1 byte: the sum of those 8 bytes.
// The call itself (call_fn = CALL_REGISTER) is in the head like any other.
#define DOORBELL_HELLO 0x48u
#define DOORBELL_HELLO_LEN 10u
// The VMM blocks after about 1.9 KB that nobody reads. 8 unanswered hellos are 80 bytes; then the guest is silent until
// the host sets ATTENTION_CALL (a host that attaches late finds the head by scanning, see area_head.poll_count).
#define HELLO_BUDGET 8u

// ---- The area ---------------------------------------------------------------------------------
#define AREA_MAGIC 0x41455241444B4D56ull // the bytes "VMKDAREA"
#define AREA_VERSION_MAJOR 1u // differs: CODE_VERSION
#define AREA_VERSION_MINOR 0u // differs: both keep to the smaller one
#define AREA_VERSION (AREA_VERSION_MAJOR << 16 | AREA_VERSION_MINOR)

#define AREA_PAGE_SIZE 4096u
#define AREA_PAGE_HEAD 16u                                // sizeof(struct page_head)
#define AREA_PAGE_PAYLOAD (AREA_PAGE_SIZE - AREA_PAGE_HEAD) // 4080 ring bytes a page
// Origin: a record of the largest KD packet (RECORD_HEAD + 4000 = 4024 bytes) fits one page of payload, so one
// receive page would do; the second lets the host place a packet while the last one is being read. 8
// transmit pages hold about 290 debug prints of 64 bytes, so that a half-full ring still is over 100 lines a call.
#define AREA_TX_PAGES 8u
#define AREA_RX_PAGES 2u
#define AREA_PAGES (1u + AREA_TX_PAGES + AREA_RX_PAGES)
#define AREA_PAGES_MAX 64u // what a host accepts: the length of page_gpa[]
#define AREA_TX_PAGES_MIN 2u
#define AREA_RX_PAGES_MIN 2u

// Feature bits, offered by the guest (area_head.features) and accepted by the host (host_features, a subset).
// A bit that one side does not know is not accepted and changes nothing.
#define AREA_FEATURE_CONTROL_REGS (1u << 0) // cr0..efer are written before each CALL_EXCHANGE with CALL_F_WAIT
#define AREA_FEATURE_PRINT_BATCH (1u << 1)  // debug prints may stay in the ring until the next call or tick
// Records of the receive ring carry a sum. A migration that ends between the host's writing and the guest's reading may bring the head as it is and
// the ring's pages as they were, since the VMM does not know that the host wrote (seen): what lies there then is a request of an earlier lap.
#define AREA_FEATURE_RX_SUM (1u << 2)

// area_head.call_flags of CALL_EXCHANGE.
#define CALL_F_WAIT (1u << 0) // sleep until a packet of type call_want is there
// With WAIT: what was sent may be dropped when nobody listens (KD reference, section 1.9), so after a while without
// a broker the host answers CODE_NOBODY instead of waiting for ever.
#define CALL_F_DROPPABLE (1u << 1)

// area_head.host_flags
#define HOST_F_LISTENER (1u << 0) // a broker is connected: prints are worth sending

// area_head.attention: bits set by the host at any time, taken (order_take) by the guest's poll.
#define ATTENTION_BREAKIN (1u << 0) // the debugger wants the kernel to stop
#define ATTENTION_CALL (1u << 1)    // make a CALL_POLL now (a broker has come; a late host wants to be registered with)

// area_head.guest_state
#define GUEST_PHASE1 (1u << 0)      // KdDebuggerInitialize1 was called
#define GUEST_NOT_PRESENT (1u << 1) // the module has set KdDebuggerNotPresent
// No broker listened when the kernel came to phase 1, so that it saw no debugger. Stays for the kernel's life: an x64 Windows guards its code from then
// on (bug check 0x109). Whoever comes later may ask: link_guest.state (wire/link.h).
#define GUEST_BOOTED_ALONE (1u << 2)

#define ARCH_X64 0x8664u // PE machine numbers
#define ARCH_X86 0x014Cu

struct page_head {
	uint64_t nonce; // guest: the same in every page of the area, new at every registration, never 0
	uint32_t index; // guest: 0 for the head, then 1..pages-1
	uint32_t touch; // guest: incremented whenever the host may have written the page
};
WIRE_ASSERT_SIZE(struct page_head, 16);
WIRE_ASSERT_AT(struct page_head, nonce, 0);
WIRE_ASSERT_AT(struct page_head, index, 8);
WIRE_ASSERT_AT(struct page_head, touch, 12);

// Page 0. Ring positions are running byte counters, always multiples of RECORD_ALIGN; the byte at
// position p lies at offset AREA_PAGE_HEAD + r % AREA_PAGE_PAYLOAD of the ring's page r / AREA_PAGE_PAYLOAD, where r = p %
// (pages * AREA_PAGE_PAYLOAD). A ring never holds more than its capacity. Because the capacity does not divide 2^32,
// positions wrap at ring_wrap(capacity) instead (wire/ring.h): the largest multiple of the capacity not above 2^31.
struct area_head {
	struct page_head page;
	uint64_t magic;       // 0x010 guest: AREA_MAGIC
	uint32_t version;     // 0x018 guest: AREA_VERSION
	uint32_t page_count;  // 0x01C guest: pages of the area, this one included
	uint32_t features;    // 0x020 guest: AREA_FEATURE_*
	uint32_t arch;        // 0x024 guest: ARCH_*
	uint32_t tx_pages;    // 0x028 guest
	uint32_t rx_pages;    // 0x02C guest
	uint64_t module_base; // 0x030 guest: virtual address of the module's image, for people; 0 = unknown
	uint64_t reserved38;  // 0x038 0

	// The current call.
	uint32_t tx_head;     // 0x040 guest: end of the valid records in the transmit ring
	uint32_t rx_tail;     // 0x044 guest: end of what it has taken from the receive ring
	uint32_t call_seq;    // 0x048 guest: number of the call, +1 for each new one; a repeated (RETRY) call keeps it
	uint32_t call_fn;     // 0x04C guest: enum call_fn
	uint32_t call_flags;  // 0x050 guest: CALL_F_*
	uint32_t call_want;   // 0x054 guest: packet type waited for
	uint32_t poll_count;  // 0x058 guest: +1 at every break-in poll and every turn of a wait: it advances while the guest lives
	uint32_t rx_done_seq; // 0x05C guest: record.seq of the last host packet it has taken; a repeated one is dropped
	uint32_t tx_base;     // 0x060 guest, for CALL_REGISTER: position of the first record that was not acknowledged
	uint32_t ring_seq;    // 0x064 guest, debugcon: doorbells rung
	uint32_t guest_state; // 0x068 guest: GUEST_*
	uint32_t processor;   // 0x06C guest: CPU that makes the call, as KD counts them; 0xFFFFFFFF = unknown
	uint32_t dropped;     // 0x070 guest: packets dropped because nobody listened, since boot
	uint32_t refused;     // 0x074 guest: host words or records that could not be and were ignored, since boot
	uint64_t reserved78;  // 0x078 0

	// Control registers of the waiting CPU (AREA_FEATURE_CONTROL_REGS); a 32-bit guest zero-extends.
	uint64_t cr0;         // 0x080 guest
	uint64_t cr3;         // 0x088 guest
	uint64_t cr4;         // 0x090 guest
	uint64_t efer;        // 0x098 guest
	uint64_t reserved_a0[4];

	// The host's half of the call, written inside it.
	uint32_t tx_tail;       // 0x0C0 host: end of what it has taken from the transmit ring
	uint32_t rx_head;       // 0x0C4 host: end of the valid records in the receive ring
	uint32_t reply_code;    // 0x0C8 host: RESULT_TAG | enum call_code
	uint32_t reply_seq;     // 0x0CC host: call_seq that reply_code answers; written last (release)
	uint32_t tx_done_seq;   // 0x0D0 host: record.seq of the last guest packet it has taken
	uint32_t host_version;  // 0x0D4 host: AREA_VERSION of the host, also when it answers CODE_VERSION
	uint32_t host_features; // 0x0D8 host: the features it accepted
	uint32_t host_flags;    // 0x0DC host: HOST_F_*
	uint32_t ring_seen;     // 0x0E0 host, debugcon: ring_seq whose byte it has read
	uint32_t reserved_e4[7];

	uint32_t attention;     // 0x100 host sets bits, guest takes them: ATTENTION_*
	uint32_t reserved_104[63];

	uint64_t page_gpa[AREA_PAGES_MAX]; // 0x200 guest: guest-physical address of each page, [0] = this page
	uint8_t reserved_400[AREA_PAGE_SIZE - 0x400];
};
WIRE_ASSERT_SIZE(struct area_head, 4096);
WIRE_ASSERT_AT(struct area_head, magic, 0x10);
WIRE_ASSERT_AT(struct area_head, version, 0x18);
WIRE_ASSERT_AT(struct area_head, page_count, 0x1C);
WIRE_ASSERT_AT(struct area_head, features, 0x20);
WIRE_ASSERT_AT(struct area_head, arch, 0x24);
WIRE_ASSERT_AT(struct area_head, tx_pages, 0x28);
WIRE_ASSERT_AT(struct area_head, rx_pages, 0x2C);
WIRE_ASSERT_AT(struct area_head, module_base, 0x30);
WIRE_ASSERT_AT(struct area_head, tx_head, 0x40);
WIRE_ASSERT_AT(struct area_head, rx_tail, 0x44);
WIRE_ASSERT_AT(struct area_head, call_seq, 0x48);
WIRE_ASSERT_AT(struct area_head, call_fn, 0x4C);
WIRE_ASSERT_AT(struct area_head, call_flags, 0x50);
WIRE_ASSERT_AT(struct area_head, call_want, 0x54);
WIRE_ASSERT_AT(struct area_head, poll_count, 0x58);
WIRE_ASSERT_AT(struct area_head, rx_done_seq, 0x5C);
WIRE_ASSERT_AT(struct area_head, tx_base, 0x60);
WIRE_ASSERT_AT(struct area_head, ring_seq, 0x64);
WIRE_ASSERT_AT(struct area_head, guest_state, 0x68);
WIRE_ASSERT_AT(struct area_head, processor, 0x6C);
WIRE_ASSERT_AT(struct area_head, dropped, 0x70);
WIRE_ASSERT_AT(struct area_head, refused, 0x74);
WIRE_ASSERT_AT(struct area_head, cr0, 0x80);
WIRE_ASSERT_AT(struct area_head, cr3, 0x88);
WIRE_ASSERT_AT(struct area_head, cr4, 0x90);
WIRE_ASSERT_AT(struct area_head, efer, 0x98);
WIRE_ASSERT_AT(struct area_head, tx_tail, 0xC0);
WIRE_ASSERT_AT(struct area_head, rx_head, 0xC4);
WIRE_ASSERT_AT(struct area_head, reply_code, 0xC8);
WIRE_ASSERT_AT(struct area_head, reply_seq, 0xCC);
WIRE_ASSERT_AT(struct area_head, tx_done_seq, 0xD0);
WIRE_ASSERT_AT(struct area_head, host_version, 0xD4);
WIRE_ASSERT_AT(struct area_head, host_features, 0xD8);
WIRE_ASSERT_AT(struct area_head, host_flags, 0xDC);
WIRE_ASSERT_AT(struct area_head, ring_seen, 0xE0);
WIRE_ASSERT_AT(struct area_head, attention, 0x100);
WIRE_ASSERT_AT(struct area_head, page_gpa, 0x200);

// ---- Records ------------------------------------------------------------------------------------
// One KD packet in a ring: this head, then hdr_len bytes of message header, then data_len bytes of message data,
// then padding to RECORD_ALIGN. A record may cross pages (never a page head: positions skip those) and the end of the ring.
#define RECORD_ALIGN 8u
#define RECORD_HEAD 24u
#define RECORD_BODY_MAX 4000u // PACKET_MAX_SIZE (KD reference, section 1.1)
#define RECORD_MAX (RECORD_HEAD + RECORD_BODY_MAX)

struct record_head {
	uint32_t len;      // 0x00 whole record with head and padding: a multiple of RECORD_ALIGN, at most RECORD_MAX
	uint16_t kd_type;  // 0x04 KD packet type (2, 3, 7, 9, 10, 11)
	uint16_t flags;    // 0x06 0
	uint32_t seq;      // 0x08 +1 for each packet in this direction, 1 first; survives a registration
	uint16_t hdr_len;  // 0x0C message header: 56, 240, 16, 64, 12 by kd_type
	uint16_t reserved; // 0x0E 0
	uint32_t data_len; // 0x10 message data; hdr_len + data_len <= RECORD_BODY_MAX
	uint32_t sum;      // 0x14 AREA_FEATURE_RX_SUM, receive ring: record_sum of wire/ring.h; else 0
};
WIRE_ASSERT_SIZE(struct record_head, RECORD_HEAD);
WIRE_ASSERT_AT(struct record_head, len, 0);
WIRE_ASSERT_AT(struct record_head, kd_type, 4);
WIRE_ASSERT_AT(struct record_head, flags, 6);
WIRE_ASSERT_AT(struct record_head, seq, 8);
WIRE_ASSERT_AT(struct record_head, hdr_len, 12);
WIRE_ASSERT_AT(struct record_head, data_len, 16);

#endif
