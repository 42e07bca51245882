// SPDX-License-Identifier: MIT
// Processors: descriptor tables, the local APIC, starting the others, requests between them, the clock.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

enum {
#if HAL_X64
    // NT's selectors on amd64: 10 18 kernel, 23 2B 33 user, 40 TSS, 53 32-bit TEB.
    GDT_TSS = 8,
    IDT_ENTRY = 16,
#else
    // NT's selectors on i386: 08 10 kernel, 1B 23 user, 28 TSS, 30 KPCR, 3B TEB.
    GDT_TSS = 5,
    GDT_PCR = 6,
    IDT_ENTRY = 8,
#endif
    TSS_SIZE = 0x68,
    GATE_KERNEL = 0x8E,
    GATE_USER = 0xEE,
    IST_DOUBLE_FAULT = 1,
    IST_NMI = 2,
    AP_PAGE = 0x8000, // SIPI vector 8
    AP_PARAMETERS = 0x8F00,
    START_POLLS = 20000000,
};
#define MSR_GS_BASE        0xC0000101u
#define MSR_KERNEL_GS_BASE 0xC0000102u

struct cpu hal_cpus[HAL_MAX_CPUS];

static uint64_t idt[256 * IDT_ENTRY / 8] __attribute__((aligned(16)));
static unsigned running = 1;
static volatile uint32_t flush_lock;

struct descriptor_pointer {
    uint16_t limit;
    uintptr_t base;
} __attribute__((packed));

// --------------------------------------------------------------------------------------------- descriptor tables --

static void set_gate(unsigned vector, unsigned type, unsigned ist)
{
    uintptr_t handler = (uintptr_t)hal_stubs + vector * 16;
    uint64_t low = (handler & 0xFFFF) | (uint64_t)HAL_CS_KERNEL << 16 | (uint64_t)type << 40 |
                   (uint64_t)(handler >> 16 & 0xFFFF) << 48;
#if HAL_X64
    idt[vector * 2] = low | (uint64_t)ist << 32;
    idt[vector * 2 + 1] = handler >> 32;
#else
    (void)ist;
    idt[vector] = low;
#endif
}

static void make_idt(void)
{
    for (unsigned vector = 0; vector < 256; vector++)
        set_gate(vector, GATE_KERNEL, 0);
    static const uint8_t user[] = { HAL_TRAP_BP, 4, HAL_TRAP_ASSERT, HAL_TRAP_SERVICE, HAL_TRAP_USER_END };
    for (unsigned i = 0; i < sizeof user; i++)
        set_gate(user[i], GATE_USER, 0);
    set_gate(HAL_TRAP_DF, GATE_KERNEL, IST_DOUBLE_FAULT);
    set_gate(HAL_TRAP_NMI, GATE_KERNEL, IST_NMI);
}

static uint64_t descriptor(uintptr_t base, uint32_t limit, uint32_t access, uint32_t flags)
{
    return (limit & 0xFFFF) | (uint64_t)(base & 0xFFFFFF) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24 & 0xFF) << 56;
}

static void make_gdt(struct cpu *cpu)
{
    uint64_t *gdt = cpu->gdt;
    uintptr_t tss = (uintptr_t)cpu->tss;
#if HAL_X64
    gdt[2] = descriptor(0, 0, 0x9B, 2);        // 10 kernel code, 64 bit
    gdt[3] = descriptor(0, 0xFFFFF, 0x93, 12); // 18 kernel data
    gdt[4] = descriptor(0, 0xFFFFF, 0xFB, 12); // 23 user code, 32 bit
    gdt[5] = descriptor(0, 0xFFFFF, 0xF3, 12); // 2B user data
    gdt[6] = descriptor(0, 0, 0xFB, 2);        // 33 user code, 64 bit
    gdt[GDT_TSS] = descriptor(tss, TSS_SIZE - 1, 0x89, 0);
    gdt[GDT_TSS + 1] = tss >> 32;
    gdt[10] = descriptor(0, 0xFFFFF, 0xF3, 4); // 53
#else
    gdt[1] = descriptor(0, 0xFFFFF, 0x9B, 12);
    gdt[2] = descriptor(0, 0xFFFFF, 0x93, 12);
    gdt[3] = descriptor(0, 0xFFFFF, 0xFB, 12);
    gdt[4] = descriptor(0, 0xFFFFF, 0xF3, 12);
    gdt[GDT_TSS] = descriptor(tss, TSS_SIZE - 1, 0x89, 0);
    gdt[GDT_PCR] = descriptor((uintptr_t)cpu->kpcr, 0x1FFF, 0x93, 4);
    gdt[7] = descriptor(0, 0xFFF, 0xF3, 4);
#endif
}

static int make_tss(struct cpu *cpu)
{
#if HAL_X64
    uintptr_t stacks[2];
    for (unsigned i = 0; i < 2; i++) {
        stacks[i] = (uintptr_t)memory_stack();
        if (!stacks[i])
            return 1;
    }
    memcpy(cpu->tss + 0x24, stacks, sizeof stacks); // IST1, IST2
#else
    uint32_t ss0 = HAL_SS_KERNEL;
    memcpy(cpu->tss + 8, &ss0, sizeof ss0);
#endif
    uint16_t no_port_map = TSS_SIZE; // beyond the limit: CPL 3 gets ports by IOPL alone
    memcpy(cpu->tss + 0x66, &no_port_map, sizeof no_port_map);
    return 0;
}

void cpu_set_base(const struct cpu *cpu)
{
#if HAL_X64
    uint64_t base = (uintptr_t)cpu->kpcr;
    (void)hal_write_msr(MSR_GS_BASE, base); // both exist on every CPU with long mode
    (void)hal_write_msr(MSR_KERNEL_GS_BASE, base);
#else
    (void)cpu; // FS comes with its selector
#endif
}

void hal_cpu_tables(unsigned cpu, struct hal_cpu_tables *ret)
{
    *ret = (struct hal_cpu_tables){
        .gdt = (hal_va_t)hal_cpus[cpu].gdt,
        .idt = (hal_va_t)idt,
        .tss = (hal_va_t)hal_cpus[cpu].tss,
        .gdt_limit = sizeof hal_cpus[cpu].gdt - 1,
        .idt_limit = sizeof idt - 1,
    };
}

unsigned hal_cpu_index(void)
{
    return (unsigned)((hal_sgdt().base - (uintptr_t)hal_cpus) / HAL_PAGE_SIZE);
}

unsigned hal_cpu_count(void)
{
    return running;
}

// ------------------------------------------------------------------------------------------------------- the APIC --

static uint32_t apic_read(unsigned reg)
{
    return *(volatile uint32_t *)(APIC_BASE + reg);
}

static void apic_write(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(APIC_BASE + reg) = value;
}

void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

static void apic_init(void)
{
    enum { MASKED = 1 << 16, SOFTWARE_ENABLE = 0x100 };
    apic_write(APIC_SPURIOUS, SOFTWARE_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_LVT_LINT0, MASKED);
    apic_write(APIC_LVT_LINT1, MASKED);
    apic_write(APIC_LVT_TIMER, MASKED);
}

static void apic_send(unsigned cpu, uint32_t command)
{
    enum { BUSY = 1 << 12 };
    bool were_on = hal_interrupts_off(); // both halves together
    while (apic_read(APIC_ICR_LOW) & BUSY)
        hal_pause();
    apic_write(APIC_ICR_HIGH, hal_cpus[cpu].apic_id << 24);
    apic_write(APIC_ICR_LOW, command);
    hal_interrupts_restore(were_on);
}

enum {
    SEND_FIXED = 0x4000,
    SEND_NMI = 0x4400,
    SEND_INIT = 0x4500,
    SEND_STARTUP = 0x4600,
};

void hal_send_freeze(uint32_t cpu_mask, bool as_nmi)
{
    unsigned self = hal_cpu_index();
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        if (cpu != self && cpu_mask & 1u << cpu && hal_cpus[cpu].is_running)
            apic_send(cpu, as_nmi ? SEND_NMI : SEND_FIXED | HAL_TRAP_FREEZE);
    }
}

void hal_flush_all(void)
{
    unsigned self = hal_cpu_index();
    uint32_t before[HAL_MAX_CPUS];
    (void)hal_asm_write_cr3(hal_read_cr(3)); // the current value is never refused
    // With interrupts as they are: who waits here may be frozen, and those it waits for may be about to freeze it.
    while (__atomic_exchange_n(&flush_lock, 1, __ATOMIC_ACQUIRE))
        hal_pause();
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        before[cpu] = hal_cpus[cpu].flushes_done;
        if (cpu != self && hal_cpus[cpu].is_running)
            apic_send(cpu, SEND_FIXED | VECTOR_FLUSH);
    }
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        while (cpu != self && hal_cpus[cpu].is_running && hal_cpus[cpu].flushes_done == before[cpu])
            hal_pause();
    }
    __atomic_store_n(&flush_lock, 0, __ATOMIC_RELEASE);
}

void hal_timer_start(unsigned hz)
{
    enum { PERIODIC = 1 << 17, DIVIDE_BY_1 = 0xB, MIN_HZ = 64, MAX_HZ = 1000 };
    // QEMU's and KVM's local APIC both count nanoseconds of the bus clock. This kernel runs nowhere else.
    const uint32_t bus_hz = 1000000000;
    hz = hz < MIN_HZ ? MIN_HZ : hz > MAX_HZ ? MAX_HZ : hz;
    apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, PERIODIC | HAL_TRAP_CLOCK);
    apic_write(APIC_TIMER_COUNT, bus_hz / hz);
}

void hal_timer_stop(void)
{
    apic_write(APIC_TIMER_COUNT, 0);
}

// ------------------------------------------------------------------------------------------------------- starting --

#if HAL_X64
uint8_t hal_lacks_soft_int;

// Cycles of 400 instructions, the best of three: some hundreds, or 100 000 and more where they are interpreted.
static uint64_t loop_cycles(void)
{
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < 3; i++) {
        uint32_t count = 200;
        uint64_t start = hal_tsc();
        __asm__ volatile("1: decl %0; jnz 1b" : "+r"(count) : : "cc");
        uint64_t cycles = hal_tsc() - start;
        best = cycles < best ? cycles : best;
    }
    return best;
}

// Trying it out would end the VM, so: a KVM that needs more than 50 cycles for an instruction.
static void find_soft_int(void)
{
    uint32_t r[4];
    hal_cpuid(0x40000000u, 0, r);
    bool is_kvm = r[1] == 0x4B4D564B; // "KVMK"
    hal_lacks_soft_int = is_kvm && loop_cycles() > 20000;
}
#else
static void find_soft_int(void)
{
}
#endif

void cpu_init(unsigned index)
{
    enum { CR0_BITS = 0x80010023, CR4_BITS = 0x38 }; // PG WP NE MP PE; PAE PSE DE
    struct cpu *cpu = &hal_cpus[index];
    if (index == 0) {
        find_soft_int();
        make_idt();
        hal_out8(0x21, 0xFF); // no interrupt from the old controllers
        hal_out8(0xA1, 0xFF);
    }
    cpu->kpcr = nt_kpcr(index);
    make_gdt(cpu);
    if (make_tss(cpu))
        hal_die("no memory for a CPU's stacks");
    struct descriptor_pointer gdtr = { sizeof cpu->gdt - 1, (uintptr_t)cpu->gdt };
    struct descriptor_pointer idtr = { sizeof idt - 1, (uintptr_t)idt };
    hal_asm_load_tables(&gdtr, &idtr);
    __asm__ volatile("ltr %w0" : : "r"(GDT_TSS * 8));
    cpu_set_base(cpu);
    (void)hal_asm_write_cr0(CR0_BITS); // plain architectural bits: every CPU with PAE takes them
    (void)hal_asm_write_cr4(CR4_BITS);
    apic_init();
    cpu->apic_id = apic_read(APIC_ID) >> 24;
    cpu->is_running = 1;
}

_Noreturn void hal_ap_main(unsigned index);

_Noreturn void hal_ap_main(unsigned index)
{
    cpu_init(index);
    nt_cpu_start(index);
    __atomic_store_n(&hal_cpus[index].is_running, 2, __ATOMIC_RELEASE); // pairs with start_cpu
    hal_idle_forever();
}

struct ap_parameters {
    uint64_t trampoline_root, root, stack, entry, index, has_nx;
};

static void delay(void)
{
    for (unsigned i = 0; i < 50; i++)
        hal_out8(0x80, 0); // the traditional microsecond
}

static bool wait_for(unsigned cpu, uint32_t polls)
{
    while (polls-- && __atomic_load_n(&hal_cpus[cpu].is_running, __ATOMIC_ACQUIRE) != 2)
        hal_pause();
    return hal_cpus[cpu].is_running == 2;
}

static bool start_cpu(unsigned cpu)
{
    struct ap_parameters p = {
        .trampoline_root = hal_handoff->trampoline_root,
        .root = hal_handoff->root,
        .stack = (uintptr_t)memory_stack(),
        .entry = (uintptr_t)hal_ap_high,
        .index = cpu,
        .has_nx = hal_paging.has_nx,
    };
    if (!p.stack || hal_phys_write(AP_PARAMETERS, &p, sizeof p))
        return false;
    hal_cpus[cpu].apic_id = cpu; // one thread per socket, as tools/testkernel starts QEMU
    apic_send(cpu, SEND_INIT);
    delay();
    apic_send(cpu, SEND_STARTUP | AP_PAGE >> 12);
    if (wait_for(cpu, START_POLLS / 100))
        return true;
    apic_send(cpu, SEND_STARTUP | AP_PAGE >> 12);
    return wait_for(cpu, START_POLLS);
}

unsigned hal_start_cpus(void)
{
    if (hal_phys_write(AP_PAGE, hal_ap_code, (size_t)(hal_ap_code_end - hal_ap_code)))
        return running;
    for (unsigned cpu = 1; cpu < hal_boot->cpu_count; cpu++) {
        if (!start_cpu(cpu)) {
            hal_log("hal: CPU %u does not start\n", cpu);
            break;
        }
        running++;
    }
    return running;
}
