// SPDX-License-Identifier: MIT
// One instruction each: registers, ports, PCI configuration space.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

void hal_interrupts_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

bool hal_interrupts_off(void)
{
    uintptr_t flags;
    __asm__ volatile("pushf; pop %0; cli" : "=r"(flags) : : "memory");
    return flags & 0x200;
}

void hal_interrupts_restore(bool were_on)
{
    if (were_on)
        hal_interrupts_on();
}

void hal_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

void hal_halt(void)
{
    __asm__ volatile("sti; hlt" : : : "memory");
}

uint64_t hal_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

void hal_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t ret[4])
{
    __asm__ volatile("cpuid" : "=a"(ret[0]), "=b"(ret[1]), "=c"(ret[2]), "=d"(ret[3]) : "0"(leaf), "2"(subleaf));
}

// --------------------------------------------------------------------------------------------------- registers --

#define READ(text)                                                                                                     \
    ({                                                                                                                 \
        uintptr_t value_;                                                                                              \
        __asm__ volatile("mov %%" text ", %0" : "=r"(value_));                                                         \
        value_;                                                                                                        \
    })
#define WRITE(text, value) __asm__ volatile("mov %0, %%" text : : "r"(value) : "memory")

uintptr_t hal_read_cr(unsigned number)
{
    switch (number) {
    case 0:
        return READ("cr0");
    case 2:
        return READ("cr2");
    case 3:
        return READ("cr3");
    case 4:
        return READ("cr4");
#if HAL_X64
    case 8:
        return READ("cr8");
#endif
    default:
        return 0;
    }
}

void hal_write_cr(unsigned number, uintptr_t value)
{
    switch (number) {
    case 0:
        (void)hal_asm_write_cr0(value); // a refusal leaves the register as it was, which is the contract
        break;
    case 2:
        WRITE("cr2", value);
        break;
    case 3:
        (void)hal_asm_write_cr3(value);
        break;
    case 4:
        (void)hal_asm_write_cr4(value);
        break;
#if HAL_X64
    case 8:
        (void)hal_asm_write_cr8(value);
        break;
#endif
    default:
        break;
    }
}

uintptr_t hal_read_dr(unsigned number)
{
    switch (number) {
    case 0:
        return READ("dr0");
    case 1:
        return READ("dr1");
    case 2:
        return READ("dr2");
    case 3:
        return READ("dr3");
    case 6:
        return READ("dr6");
    case 7:
        return READ("dr7");
    default:
        return 0;
    }
}

int hal_write_dr(unsigned number, uintptr_t value)
{
    switch (number) {
    case 0:
        WRITE("dr0", value);
        return 0;
    case 1:
        WRITE("dr1", value);
        return 0;
    case 2:
        WRITE("dr2", value);
        return 0;
    case 3:
        WRITE("dr3", value);
        return 0;
    case 6:
        return hal_asm_write_dr6(value);
    case 7:
        return hal_asm_write_dr7(value);
    default:
        return 1;
    }
}

int hal_read_msr(uint32_t msr, uint64_t *ret)
{
    uint64_t value;
    int refused = hal_asm_rdmsr(msr, &value);
    if (!refused)
        *ret = value;
    return refused;
}

int hal_write_msr(uint32_t msr, uint64_t value)
{
    return hal_asm_wrmsr(msr, value);
}

struct descriptor_pointer {
    uint16_t limit;
    uintptr_t base;
} __attribute__((packed));

struct hal_table hal_sgdt(void)
{
    struct descriptor_pointer at;
    __asm__ volatile("sgdt %0" : "=m"(at));
    return (struct hal_table){ at.limit, at.base };
}

struct hal_table hal_sidt(void)
{
    struct descriptor_pointer at;
    __asm__ volatile("sidt %0" : "=m"(at));
    return (struct hal_table){ at.limit, at.base };
}

uint16_t hal_str(void)
{
    uint32_t selector;
    __asm__ volatile("str %0" : "=r"(selector));
    return (uint16_t)selector;
}

uint16_t hal_sldt(void)
{
    uint32_t selector;
    __asm__ volatile("sldt %0" : "=r"(selector));
    return (uint16_t)selector;
}

uint16_t hal_segment(unsigned which)
{
    switch (which) {
    case 0:
        return (uint16_t)READ("cs");
    case 1:
        return (uint16_t)READ("ss");
    case 2:
        return (uint16_t)READ("ds");
    case 3:
        return (uint16_t)READ("es");
    case 4:
        return (uint16_t)READ("fs");
    case 5:
        return (uint16_t)READ("gs");
    default:
        return 0;
    }
}

void hal_capture(struct hal_frame *ret)
{
    memset(ret, 0, sizeof *ret);
    hal_asm_capture(ret);
    ret->vector = 0xFF;
    ret->cs = hal_segment(0);
    ret->ss = hal_segment(1);
    ret->ds = hal_segment(2);
    ret->es = hal_segment(3);
    ret->fs = hal_segment(4);
    ret->gs = hal_segment(5);
}

// -------------------------------------------------------------------------------------------------- ports, PCI --

uint8_t hal_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

uint16_t hal_in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

uint32_t hal_in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void hal_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

void hal_out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

void hal_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint16_t pci_select(unsigned bus, unsigned device, unsigned function, unsigned offset)
{
    uint32_t address = 1u << 31 | (bus & 255) << 16 | (device & 31) << 11 | (function & 7) << 8 | (offset & 0xFC);
    hal_out32(0xCF8, address);
    return (uint16_t)(0xCFC + (offset & 3));
}

uint32_t hal_pci_read(unsigned bus, unsigned device, unsigned function, unsigned offset, unsigned size)
{
    uint16_t port = pci_select(bus, device, function, offset);
    return size == 1 ? hal_in8(port) : size == 2 ? hal_in16(port) : hal_in32(port);
}

void hal_pci_write(unsigned bus, unsigned device, unsigned function, unsigned offset, unsigned size, uint32_t value)
{
    uint16_t port = pci_select(bus, device, function, offset);
    if (size == 1)
        hal_out8(port, (uint8_t)value);
    else if (size == 2)
        hal_out16(port, (uint16_t)value);
    else
        hal_out32(port, value);
}
