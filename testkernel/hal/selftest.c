// SPDX-License-Identifier: MIT
// scenario=hal: the hal proves itself before anyone blames nt/ or a transport. Runs instead of nt_start; each
// test logs one line, and the verdict is pass only when every line is.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

#if HAL_X64
#define STACK_REGISTER "rsp"
#else
#define STACK_REGISTER "esp"
#endif

static unsigned failures;
static volatile unsigned ticks, trap_count, freeze_count;
static volatile uint32_t frozen_mask, release;
static volatile uintptr_t last_vector;
static bool (*on_trap)(struct hal_frame *frame);

static void report(const char *what, bool passed)
{
    hal_log("selftest: %s %s\n", passed ? "pass" : "FAIL", what);
    failures += !passed;
}

static bool test_trap(struct hal_frame *frame)
{
    trap_count++;
    last_vector = frame->vector;
    return on_trap ? on_trap(frame) : true;
}

static void test_tick(struct hal_frame *frame)
{
    (void)frame;
    ticks++;
}

static void test_freeze(struct hal_frame *frame)
{
    last_vector = frame->vector;
    __atomic_fetch_or(&frozen_mask, 1u << hal_cpu_index(), __ATOMIC_SEQ_CST);
    while (!release)
        hal_pause();
    __atomic_fetch_add(&freeze_count, 1, __ATOMIC_SEQ_CST);
}

// Until condition or some seconds have passed: a hang guard, no measurement.
#define WAIT_FOR(condition)                                                                                            \
    for (uint32_t guard_ = 20000000; guard_ && !(condition); guard_--)                                                 \
    hal_pause()

// --------------------------------------------------------------------------------------------------------- memory --

static void test_paging(void)
{
    uint8_t *memory = hal_pool_alloc(3 * HAL_PAGE_SIZE);
    hal_pa_t pa = 0, other = hal_page_alloc();
    unsigned flags;
    report("pool memory is writable, not executable",
           memory && !hal_translate((hal_va_t)memory, &pa, &flags) && flags == HAL_MAP_WRITE);
    report("the page behind a pool run is unmapped",
           hal_translate((hal_va_t)memory + 3 * HAL_PAGE_SIZE, NULL, NULL) == 1);
    memory[5] = 0x5A;
    report("the direct map shows the same memory", ((uint8_t *)hal_direct(pa))[5] == 0x5A);
    report("map replaces a page", !hal_map((hal_va_t)memory, other, HAL_MAP_WRITE));
    memory[5] = 0x11;
    report("the old page keeps its contents",
           ((uint8_t *)hal_direct(pa))[5] == 0x5A && ((uint8_t *)hal_direct(other))[5] == 0x11);
    report("unmap, then not mapped", !hal_unmap((hal_va_t)memory) && hal_translate((hal_va_t)memory, NULL, NULL) == 1);
    report("unmap twice is refused", hal_unmap((hal_va_t)memory) == 1);
    hal_page_free(pa);
    hal_page_free(other);
    report("page 0 is not mapped", hal_translate(0, NULL, NULL) == 1);
#if HAL_X64
    report("a non-canonical address is not mapped", hal_translate(0x0000900000000000ull, NULL, NULL) == 1);
#endif
}

static void test_copies(void)
{
    uint8_t *memory = hal_pool_alloc(2 * HAL_PAGE_SIZE), buf[64];
    size_t done = 99;
    memset(memory, 0x33, 2 * HAL_PAGE_SIZE);
    report("copy from mapped memory",
           !hal_copy_from(buf, (hal_va_t)memory + 4090, 12, &done) && done == 12 && buf[11] == 0x33);
    report("copy stops at an unmapped page",
           hal_copy_from(buf, (hal_va_t)memory + 2 * HAL_PAGE_SIZE - 10, 20, &done) == 1 && done == 10);
    report("copy refuses address 0", hal_copy_from(buf, 0, 1, &done) == 1 && done == 0);
    report("copy does not wrap around", hal_copy_from(buf, (hal_va_t)-4, 8, &done) == 1);
    report("copy refuses a device", hal_copy_from(buf, APIC_BASE, 4, &done) == 1 && done == 0);
    hal_pa_t pa;
    report("physical read and write", !hal_translate((hal_va_t)memory, &pa, NULL) && !hal_phys_write(pa, "abc", 4) &&
                                              !hal_phys_read(pa, buf, 4) && !strcmp((char *)memory, "abc") &&
                                              buf[1] == 'b');
    report("beyond the CPU's physical width", hal_phys_read(1ull << 52, buf, 1) == 1);
    report("RAM is RAM, the APIC is not",
           hal_pa_is_ram(pa, 4096) && !hal_pa_is_ram(0xFEE00000u, 4) && !hal_pa_is_ram(pa, 1ull << 60));
}

// RAM above 4 GiB needs the window on x86; x64 reaches it through the direct map.
static void test_high_memory(void)
{
    for (unsigned i = 0; i < hal_boot->range_count; i++) {
        const struct hal_range *r = &hal_boot->ranges[i];
        hal_pa_t pa = r->start + r->len - 4096;
        uint32_t before, there, value = 0x12345678;
        if (r->type != 1 || r->start < 0x100000000ull)
            continue;
        bool works = !hal_phys_read(pa, &before, 4) && !hal_phys_write(pa, &value, 4) &&
                     !hal_phys_read(pa, &there, 4) && !hal_phys_write(pa, &before, 4);
        report("RAM above 4 GiB", works && there == value);
    }
}

static void test_rights(void)
{
    unsigned code, data, constant;
    static uint8_t variable;
    static const uint8_t fixed = 1;
    bool found = !hal_translate((hal_va_t)test_rights, NULL, &code) &&
                 !hal_translate((hal_va_t)&variable, NULL, &data) && !hal_translate((hal_va_t)&fixed, NULL, &constant);
    report("code is executable and read-only", found && code == HAL_MAP_EXEC);
    report("data is writable and not executable", found && data == HAL_MAP_WRITE);
    report("constants are neither", found && constant == 0);
}

// A write to code faults because CR0.WP is set; the same through hal_copy_to works and takes effect.
__attribute__((noinline)) static int patched(void)
{
    int value;
    __asm__ volatile("movl $0x11111111, %0" : "=a"(value)); // B8 11 11 11 11
    return value;
}

static bool skip_store(struct hal_frame *frame)
{
    frame->ip += 2; // mov %cl, (%eax): two bytes
    return frame->vector == HAL_TRAP_PF;
}

static uint8_t *find_patched(void)
{
    uint8_t *at = (uint8_t *)(uintptr_t)patched;
    while (at[0] != 0xB8 || at[1] != 0x11)
        at++;
    return at;
}

static void test_write_protection(void)
{
    uint8_t *at = find_patched(), low = 0x22;
    size_t done;
    trap_count = 0;
    on_trap = skip_store;
    __asm__ volatile("movb %%cl, (%0)" : : "a"(at), "c"(0x22) : "memory");
    on_trap = NULL;
    report("a plain write to code faults", trap_count == 1 && last_vector == HAL_TRAP_PF && patched() == 0x11111111);
    report("cr2 has the address", hal_read_cr(2) == (uintptr_t)at);
    report("hal_copy_to writes read-only code",
           !hal_copy_to((hal_va_t)at + 1, &low, 1, &done) && patched() == 0x11111122);
    low = 0x11;
    report("and back", !hal_copy_to((hal_va_t)at + 1, &low, 1, &done) && patched() == 0x11111111);
}

// ---------------------------------------------------------------------------------------------------- traps, CPU --

static bool record_step(struct hal_frame *frame)
{
    frame->flags &= ~(uintptr_t)0x100;
    return true;
}

__attribute__((naked, noinline)) static uintptr_t raise_breakpoint(void)
{
    __asm__(HAL_SOFT_INT_BEFORE("3") "int3\n" HAL_SOFT_INT_BEHIND "ret");
}

__attribute__((naked, noinline)) static void raise_service(void)
{
    __asm__(HAL_SOFT_INT_BEFORE("2D") "int $0x2D\n" HAL_SOFT_INT_BEHIND "ret");
}

__attribute__((naked, noinline)) static void raise_assert(void)
{
    __asm__(HAL_SOFT_INT_BEFORE("2C") "int $0x2C\n" HAL_SOFT_INT_BEHIND "ret");
}

static void test_traps(void)
{
    trap_count = 0;
    (void)raise_breakpoint();
    report("int 3 arrives and returns", trap_count == 1 && last_vector == HAL_TRAP_BP);
    raise_service();
    report("int 2Dh", trap_count == 2 && last_vector == HAL_TRAP_SERVICE);
    raise_assert();
    report("int 2Ch", trap_count == 3 && last_vector == HAL_TRAP_ASSERT);
    on_trap = record_step;
    __asm__ volatile("pushf; orl $0x100, (%%" STACK_REGISTER "); popf; nop; nop" : : : "memory", "cc");
    on_trap = NULL;
    report("single step", trap_count == 4 && last_vector == HAL_TRAP_DB && (hal_read_dr(6) & 0x4000));
}

static bool change_registers(struct hal_frame *frame)
{
#if HAL_X64
    frame->rax = 0x1122334455667788ull;
#else
    frame->eax = 0x55667788;
#endif
    return true;
}

static void test_frame(void)
{
    on_trap = change_registers;
    uintptr_t value = raise_breakpoint();
    on_trap = NULL;
    report("a changed register reaches the code", (uint32_t)value == 0x55667788);
    struct hal_frame frame;
    hal_capture(&frame);
    report("capture", hal_image_find(frame.ip) == &hal_handoff->images[0] && frame.cs == HAL_CS_KERNEL &&
                              frame.sp > (uintptr_t)&frame - HAL_PAGE_SIZE &&
                              frame.sp < (uintptr_t)&frame + HAL_PAGE_SIZE);
}

#if HAL_X86
static bool lower_stack(struct hal_frame *frame)
{
    frame->sp -= 8; // into the words the frame itself lies in
    frame->ecx = frame->sp;
    return true;
}

static void test_changed_stack(void)
{
    uint32_t before, after, told;
    on_trap = lower_stack;
    __asm__ volatile("mov %%esp, %0; int3; mov %%esp, %1; mov %0, %%esp"
                     : "=&r"(before), "=&r"(after), "=c"(told)
                     :
                     : "memory");
    on_trap = NULL;
    report("a changed stack pointer at CPL 0", after == before - 8 && told == after);
}
#endif

// QEMU's TCG reads unknown MSRs as 0 and ignores writes to them; reserved bits of CR4 even stop it.
static bool is_tcg(void)
{
    uint32_t r[4];
    hal_cpuid(0x40000000u, 0, r);
    return r[1] == 0x54474354; // "TCGT"
}

static void test_refusals(void)
{
    uint64_t value = 77;
    report("an instruction that faults is refused", hal_asm_fault() == 1 && hal_asm_fault() == 1);
    if (is_tcg())
        return;
    report("reading an unknown MSR fails, output untouched", hal_read_msr(0x1234ABCD, &value) == 1 && value == 77);
    report("writing an unknown MSR fails", hal_write_msr(0x1234ABCD, 1) == 1);
    uintptr_t cr4 = hal_read_cr(4);
    hal_write_cr(4, cr4 | 1u << 31);
    report("a refused CR4 leaves it alone", hal_read_cr(4) == cr4);
}

static void test_registers(void)
{
    uint64_t value;
    report("the APIC base MSR reads", !hal_read_msr(0x1B, &value) && (value & 0xFFFFF000u) == 0xFEE00000u);
    report("debug registers",
           !hal_write_dr(0, 0x1234) && hal_read_dr(0) == 0x1234 && !hal_write_dr(0, 0) && hal_write_dr(9, 0));
    report("task register and descriptor tables",
           hal_str() == (HAL_X64 ? 0x40 : 0x28) && hal_sldt() == 0 && hal_sidt().limit + 1u == (HAL_X64 ? 4096 : 2048));
    uintptr_t first;
    memset(hal_cpus[0].kpcr, 0x5C, sizeof first);
#if HAL_X64
    __asm__ volatile("mov %%gs:0, %0" : "=r"(first));
#else
    __asm__ volatile("mov %%fs:0, %0" : "=r"(first));
#endif
    report("the KPCR stands at the segment base", (uint32_t)first == 0x5C5C5C5C);
    report("PCI 0:0.0 is an Intel bridge", hal_pci_read(0, 0, 0, 0, 2) == 0x8086 && hal_pci_read(0, 31, 7, 0, 4) != 0);
}

// mov $0x1234, %eax; mov $0x80, %dx; out %al, (%dx); int $0x2E / ...; cli; hlt
static const uint8_t user_port[] = { 0xB8, 0x34, 0x12, 0, 0, 0x66, 0xBA, 0x80, 0, 0xEE, 0xCD, 0x2E };
static const uint8_t user_halt[] = { 0xB8, 0x99, 0, 0, 0, 0xF4 };
static const uint8_t user_break[] = { 0xCC, 0xCD, 0x2E };
static const uint8_t user_touch[] = { 0xA0, 0, 0, 0, 0xF0, 0, 0, 0, 0, 0xCD, 0x2E };

// A software KVM runs CPL 3 on the real CPU, which knows nothing of the guest's IOPL and gates.
static void test_user_instructions(void)
{
    struct hal_frame regs = { 0 };
#if HAL_X64
    if (hal_lacks_soft_int)
        return;
    int result = hal_run_user(user_port, sizeof user_port, &regs);
    report("CPL 3 with IOPL 3 writes a port", result == 0 && regs.rax == 0x1234 && (regs.cs & 3) == 3);
#else
    int result = hal_run_user(user_port, sizeof user_port, &regs);
    report("CPL 3 with IOPL 3 writes a port", result == 0 && regs.eax == 0x1234 && (regs.cs & 3) == 3);
#endif
    trap_count = 0;
    report("int 3 at CPL 3 is nt's", hal_run_user(user_break, sizeof user_break, &regs) == 0 && trap_count == 1);
}

static void test_user(void)
{
    struct hal_frame regs = { 0 };
    test_user_instructions();
    report("hlt at CPL 3 ends by #GP",
           hal_run_user(user_halt, sizeof user_halt, &regs) == 1 && regs.vector == HAL_TRAP_GP);
    report("a bad address at CPL 3 is a page fault",
           hal_run_user(user_touch, sizeof user_touch, &regs) == 1 && regs.vector == HAL_TRAP_PF);
    report("too much user code is refused", hal_run_user(user_halt, HAL_PAGE_SIZE + 1, &regs) == 2);
    report("the user pages are gone",
           hal_translate(0x10000, NULL, NULL) == 1 && hal_translate(0x20000, NULL, NULL) == 1);
    uintptr_t first;
#if HAL_X64
    __asm__ volatile("mov %%gs:0, %0" : "=r"(first));
#else
    __asm__ volatile("mov %%fs:0, %0" : "=r"(first));
#endif
    report("the segment base survived", (uint32_t)first == 0x5C5C5C5C);
}

// ------------------------------------------------------------------------------------------------- clock and CPUs --

static void test_clock(void)
{
    hal_timer_start(1000);
    hal_interrupts_on();
    WAIT_FOR(ticks >= 3);
    hal_interrupts_off();
    report("the clock ticks", ticks >= 3);
    hal_timer_stop();
    hal_interrupts_on();
    hal_pause();
    hal_interrupts_off();
}

static void freeze_round(bool as_nmi)
{
    uint32_t others = (1u << hal_cpu_count()) - 2;
    release = frozen_mask = freeze_count = 0;
    hal_send_freeze(~0u, as_nmi);
    WAIT_FOR(frozen_mask == others);
    report(as_nmi ? "NMI freezes all others" : "vector E1 freezes all others", frozen_mask == others);
    release = 1;
    WAIT_FOR(freeze_count == hal_cpu_count() - 1);
    report("and they go on", freeze_count == hal_cpu_count() - 1);
    if (others)
        report("with its vector", last_vector == (as_nmi ? HAL_TRAP_NMI : HAL_TRAP_FREEZE));
}

static void test_cpus(void)
{
    report("all CPUs start", hal_start_cpus() == hal_boot->cpu_count && hal_cpu_index() == 0);
    freeze_round(true);
    freeze_round(false);
    freeze_round(true);
    hal_interrupts_on();
    hal_flush_all();
    hal_interrupts_off();
    report("a flush comes back from every CPU", true); // a hang is the failure
}

// --------------------------------------------------------------------------------------------------------- images --

static void test_move(void)
{
    struct hal_image *image = &hal_handoff->images[1];
    hal_va_t export = hal_image_export(image, "KdSendPacket");
    report("exports are found, others not", export && !hal_image_export(image, "KdNothing"));
    uint32_t before = *(uint32_t *)export;
    hal_pa_t old, now;
    unsigned flags, flags_now;
    (void)hal_translate(export, &old, &flags);
    report("the transport moves", !hal_image_move(image, 0xDEADBEEF));
    report("to other pages, same rights", !hal_translate(export, &now, &flags_now) && now != old && flags == flags_now);
    report("with the same contents", *(uint32_t *)export == before);
    report("the old pages hold the pattern", hal_image_old_changed(image, NULL) == 0);
    uint8_t one = 1;
    hal_pa_t where = 0;
    (void)hal_phys_write(old, &one, 1);
    report("a byte written there is found", hal_image_old_changed(image, &where) == 1 && where == (old & ~3ull));
    report("and it moves again", !hal_image_move(image, 0xDEADBEEF) && hal_image_old_changed(image, NULL) == 0);
}

static void test_images(void)
{
    struct hal_image *image, *second;
    const char *file = hal_handoff->images[1].file;
    report("a file that is not there", hal_image_load("nothing.sys", "nothing.sys", &image) == 1);
    int result = hal_image_load(file, "again.sys", &image);
    report("a driver image loads", result == 0 && image->base && hal_image_find(image->base + 5) == image);
    hal_va_t base = image->base;
    report("a second one beside it", !hal_image_load(file, "other.sys", &second) && second->base != base);
    hal_image_unload(second);
    hal_image_unload(image);
    report("unloaded means unmapped", hal_translate(base, NULL, NULL) == 1 && !hal_image_find(base));
    for (unsigned i = 0; i < 50 && !result; i++) {
        result = hal_image_load(file, "again.sys", &image);
        if (!result)
            hal_image_unload(image);
    }
    report("loading and unloading leaks no slot", !result);
}

static void test_text(void)
{
    char buf[64];
    size_t len = hal_format(buf, sizeof buf, "%s %05u %x %llx %d %c%%", "a", 42u, 0xBEEFu, 0x123456789ABCull, -5, 'z');
    report("formats", !strcmp(buf, "a 00042 beef 123456789abc -5 z%") && len == strlen(buf));
    report("formats are cut off", hal_format(buf, 4, "abcdef") == 6 && !strcmp(buf, "abc"));
    report("options", !hal_option("scenario", 0, buf, sizeof buf) && !strcmp(buf, "hal") &&
                              hal_option("nothing", 0, buf, sizeof buf) == 1 && hal_option("scenario", 0, buf, 3) == 2);
    report("files", !strcmp(hal_file_name(0), hal_file_name(0)) && !hal_file_name(1000));
}

_Noreturn void hal_selftest(void)
{
    hal_hooks = (struct hal_hooks){ test_trap, test_tick, test_freeze };
    test_text();
    test_paging();
    test_copies();
    test_high_memory();
    test_rights();
    test_write_protection();
    test_traps();
    test_frame();
#if HAL_X86
    test_changed_stack();
#endif
    test_refusals();
    test_registers();
    test_user();
    test_clock();
    test_cpus();
    test_move();
    test_images();
    hal_log("selftest: %u failed\n", failures);
    hal_exit(failures ? HAL_VERDICT_FAIL : HAL_VERDICT_PASS);
}
