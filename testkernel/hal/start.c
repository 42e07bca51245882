// SPDX-License-Identifier: MIT
// From the loader's jump to nt_start; log, options, and the ways to end.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

const struct hal_boot *hal_boot;
struct handoff *hal_handoff;
struct archive hal_archive;
struct hal_hooks hal_hooks = { nt_trap, nt_tick, nt_freeze };

_Noreturn void hal_main(struct handoff *handoff);

_Noreturn void hal_main(struct handoff *handoff)
{
    if (handoff->magic != HANDOFF_MAGIC || handoff->size != sizeof *handoff)
        hal_die("stub and kernel come from different builds");
    hal_handoff = handoff;
    hal_boot = &handoff->boot;
    (void)hal_asm_write_cr3((uintptr_t)handoff->root); // away from the stub's low map; cannot be refused
    hal_archive = (struct archive){ handoff->archive, handoff->archive_size };
    memory_init();
    cpu_init(0);
    const struct hal_image *images = hal_boot->images;
    hal_log("hal: %s, %u CPU(s), %llu MiB, %s at %p, %s (%s) at %p\n", HAL_X64 ? "x64" : "x86 PAE", hal_boot->cpu_count,
            (unsigned long long)(hal_boot->ram_size >> 20), images[0].name, (void *)images[0].base, images[1].name,
            images[1].file, (void *)images[1].base);

    char scenario[16];
    if (!hal_option("scenario", 0, scenario, sizeof scenario) && !strcmp(scenario, "hal"))
        hal_selftest();
    nt_start(hal_boot);
    hal_idle_forever();
}

_Noreturn void hal_die(const char *why)
{
    hal_log("hal: %s\n", why);
    hal_exit(HAL_VERDICT_CRASH);
}

// ------------------------------------------------------------------------------------------------ options, log --

int hal_option(const char *key, unsigned index, char *buf, size_t size)
{
    return text_option(hal_boot->command_line, key, index, buf, size);
}

uint64_t hal_option_number(const char *key, uint64_t fallback)
{
    char text[24];
    uint64_t value;
    return !hal_option(key, 0, text, sizeof text) && !text_number(text, &value) ? value : fallback;
}

void hal_log(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_vlog(format, args);
    va_end(args);
}

size_t hal_vformat(char *buf, size_t size, const char *format, va_list args)
{
    return text_vformat(buf, size, format, args);
}

size_t hal_format(char *buf, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t len = text_vformat(buf, size, format, args);
    va_end(args);
    return len;
}

// -------------------------------------------------------------------------------------------------------- ends --

_Noreturn void hal_exit(unsigned verdict)
{
    // isa-debug-exit makes QEMU's status 2 * value + 1. From 0x20 on it cannot be taken for one of QEMU's own.
    hal_out32(0xF4, 0x20 + (verdict & 31));
    hal_log("hal: exit with verdict %u, but there is no isa-debug-exit device\n", verdict);
    for (;;) {
        hal_interrupts_off();
        __asm__ volatile("hlt");
    }
}

_Noreturn void hal_reboot(void)
{
    hal_out8(0xCF9, 0x02);
    hal_out8(0xCF9, 0x06);
    hal_out8(0x64, 0xFE);
    for (;;)
        hal_pause();
}

_Noreturn void hal_triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) empty;
    __asm__ volatile("lidt %0; ud2" : : "m"(empty));
    for (;;)
        hal_pause();
}

_Noreturn void hal_idle_forever(void)
{
    for (;;)
        hal_halt();
}
