// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/ntkernel.h"
#include "guest/kdvmkd/nt_undocumented.h"
#include "guest/kdvmkd/peimage.h"
#include "wire/portcall.h"

#define MSR_EFER 0xC0000080u

extern const char __ImageBase[]; // made by the linker

// ---- Instructions --------------------------------------------------------------------------------

static uint32_t port_call(void *ctx, uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi)
{
	(void)ctx; // instructions need none
	uint32_t eax = PORTCALL_MAGIC, ecx = fn << 16 | PORTCALL_COMMAND, edx = PORTCALL_PORT;
	// Whoever else may answer this port changes any of these (KD reference, section 9.1). The host reads and writes memory.
	__asm__ volatile("inl %%dx, %%eax" : "+a"(eax), "+b"(ebx), "+c"(ecx), "+d"(edx), "+S"(esi), "+D"(edi) : : "memory", "cc");
	return eax;
}

static uint8_t port_read(void *ctx, uint16_t port)
{
	(void)ctx; // instructions need none
	uint8_t value;
	__asm__ volatile("inb %%dx, %%al" : "=a"(value) : "d"(port) : "memory");
	return value;
}

static void port_write(void *ctx, uint16_t port, uint8_t value)
{
	(void)ctx; // instructions need none
	__asm__ volatile("outb %%al, %%dx" : : "a"(value), "d"(port) : "memory");
}

static void pause_cpu(void *ctx)
{
	(void)ctx; // instructions need none
	__asm__ volatile("pause" : : : "memory");
}

static uint64_t read_cycles(void *ctx)
{
	(void)ctx; // instructions need none
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

#define READ_CR(n)                                                      \
	({                                                              \
		uintptr_t value_;                                       \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(value_)); \
		(uint64_t)value_;                                       \
	})

static void reload_translations(void *ctx)
{
	(void)ctx; // instructions need none
	uintptr_t cr3 = (uintptr_t)READ_CR(3);
	__asm__ volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
}

static void read_control_regs(void *ctx, struct control_regs *ret)
{
	(void)ctx; // instructions need none
	ret->cr0 = READ_CR(0);
	ret->cr3 = READ_CR(3);
	ret->cr4 = READ_CR(4);
	ret->efer = 0;
#ifndef __i386__
	uint32_t low, high; // every CPU with long mode has this register; others may not
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_EFER));
	ret->efer = (uint64_t)high << 32 | low;
#endif
}

// ---- Shared user data ------------------------------------------------------------------------------

static volatile uint8_t *shared(uint32_t offset)
{
	return (volatile uint8_t *)(uintptr_t)(SHARED_USER_DATA + offset);
}

static uint64_t read_interrupt_time(void *ctx)
{
	(void)ctx; // a fixed address needs none
	const volatile uint32_t *words = (const volatile uint32_t *)shared(SHARED_INTERRUPT_TIME);
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t high = words[1], low = words[0];
		if (high == words[2])
			return (uint64_t)high << 32 | low;
	}
	return 0; // another CPU was frozen while it wrote: no clock, the cycles count
}

static void write_shared_present(const struct ntkernel *k, bool is_present)
{
	volatile uint8_t *byte = shared(SHARED_KD_DEBUGGER_ENABLED);
	uint8_t old = *byte;
	uint8_t new = is_present ? old | SHARED_KD_PRESENT : old & (uint8_t)~SHARED_KD_PRESENT;
	if (new == old)
		return;
	if (!k->set_global_data) {
		*byte = new;
		return;
	}
	rtl_set_system_global_data_fn set = (rtl_set_system_global_data_fn)(uintptr_t)k->set_global_data;
	(void)set(GLOBAL_DATA_KD_DEBUGGER_ENABLED, &new, sizeof(new)); // where it fails, nobody depends on the bit
}

// ---- The kernel --------------------------------------------------------------------------------------

void ntkernel_read_presence(struct ntkernel_presence *ret)
{
	ret->is_absent = KdDebuggerNotPresent;
	ret->is_shared = *shared(SHARED_KD_DEBUGGER_ENABLED) & SHARED_KD_PRESENT;
}

void ntkernel_write_presence(const struct ntkernel *k, const struct ntkernel_presence *presence)
{
	if (KdDebuggerNotPresent != presence->is_absent)
		KdDebuggerNotPresent = presence->is_absent;
	write_shared_present(k, presence->is_shared);
}

bool ntkernel_is_debugged(void)
{
	return KdDebuggerEnabled || *shared(SHARED_KD_DEBUGGER_ENABLED) & SHARED_KD_ENABLED;
}

static void set_present(void *ctx, bool is_present)
{
	struct ntkernel_presence presence = { .is_absent = !is_present, .is_shared = is_present };
	ntkernel_write_presence(ctx, &presence);
}

static gpa_t physical(void *ctx, const void *page)
{
	(void)ctx; // the kernel knows
	return (gpa_t){ (uint64_t)MmGetPhysicalAddress((void *)(uintptr_t)page) };
}

static uint64_t module_base(void *ctx)
{
	(void)ctx; // the linker knows
	return (uint64_t)(uintptr_t)__ImageBase;
}

static const struct machine this_machine = {
	.port_call = port_call,
	.port_read = port_read,
	.port_write = port_write,
	.pause = pause_cpu,
	.cycles = read_cycles,
	.interrupt_time = read_interrupt_time,
	.physical = physical,
	.control_regs = read_control_regs,
	.reload_translations = reload_translations,
	.set_present = set_present,
	.module_base = module_base,
};

const struct machine *ntkernel_machine(void)
{
	return &this_machine;
}

bool ntkernel_is_mapped(const void *page)
{
	return MmGetPhysicalAddress((void *)(uintptr_t)page) != 0;
}

void ntkernel_init(struct ntkernel *k)
{
	struct peimage kernel;
	if (k->is_searched)
		return;
	k->is_searched = true;
	if (peimage_find((const void *)&KdDebuggerEnabled, ntkernel_is_mapped, &kernel))
		k->set_global_data = peimage_export(&kernel, "RtlSetSystemGlobalData");
}
