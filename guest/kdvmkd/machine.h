// SPDX-License-Identifier: MIT
// What the transport needs from the machine and from the kernel it runs in. Everything that is NT or an instruction a user program
// may not execute stands behind this table, so that the whole rest is ordinary code that the host's unit tests and fuzzers run.
//
// Rules: every function may be called at any IRQL, with interrupts off and all other CPUs frozen; none blocks, none
// allocates, none touches pageable memory or floating-point registers.
#ifndef GUEST_KDVMKD_MACHINE_H
#define GUEST_KDVMKD_MACHINE_H

#include "wire/compiler.h"

struct control_regs {
	uint64_t cr0, cr3, cr4; // zero-extended in a 32-bit guest
	uint64_t efer;          // 0 in a 32-bit guest
};

struct machine {
	// `in eax, dx` with the registers of wire/portcall.h; fn is enum call_fn. Returns EAX, whoever answered.
	// The host reads and writes the shared area meanwhile.
	uint32_t (*port_call)(void *ctx, uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi);
	uint8_t (*port_read)(void *ctx, uint16_t port);
	void (*port_write)(void *ctx, uint16_t port, uint8_t value);
	// One turn of a spin.
	void (*pause)(void *ctx);
	// The time stamp counter. Its rate is unknown, it may stand still, it may jump (migration).
	uint64_t (*cycles)(void *ctx);
	// KUSER_SHARED_DATA.InterruptTime, 100 ns. Stands still while interrupts are off and in the early boot.
	uint64_t (*interrupt_time)(void *ctx);
	// The guest-physical address behind a virtual one.
	gpa_t (*physical)(void *ctx, const void *page);
	void (*control_regs)(void *ctx, struct control_regs *ret);
	// Has this CPU look translations up anew (CR3 written with its own value).
	void (*reload_translations)(void *ctx);
	// Tell the kernel whether a debugger listens: KdDebuggerNotPresent and bit 1 of KUSER_SHARED_DATA.KdDebuggerEnabled
	// (KD reference, section 1.9). Writes only what differs.
	void (*set_present)(void *ctx, bool is_present);
	// Where the module's image is at this moment; for people.
	uint64_t (*module_base)(void *ctx);
};

#endif
