// SPDX-License-Identifier: MIT
// The loader's part: from QEMU's PVH start info to a running kernel image. Runs once, on CPU 0, interrupts off, with
// low memory mapped one to one. Every refusal is one log line and the end of QEMU with a verdict.
#include "testkernel/core/archive.h"
#include "testkernel/core/handoff.h"
#include "testkernel/core/image.h"
#include "testkernel/core/text.h"

// Xen's public/arch-x86/hvm/start_info.h describes these three.
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules_at, command_line_at, rsdp_at, ranges_at;
    uint32_t range_count, reserved;
};
struct module {
    uint64_t at, size, command_line_at, reserved;
};
struct start_range {
    uint64_t start, len;
    uint32_t type, reserved;
};

enum {
    START_MAGIC = 0x336EC578,
    RAM = 1,
    LARGE_PAGE = 2 << 20,
    DEBUG_EXIT = 0xF4,
    FIRST_FREE = 4 << 20, // the stub lives between 1 MiB and here
    MIN_FREE = 8 << 20,
};
#define FOUR_GIB   0x100000000ull
#define DIRECT_MAX (64ull << 30)

extern char boot_end[];
extern uint64_t boot_root[];
#if HAL_X86
extern uint32_t boot_has_nx;
#endif
_Noreturn void boot_enter(hal_va_t entry, const struct handoff *handoff);
void boot_main(const struct start_info *info);

static struct hal_range ranges[HANDOFF_RANGES];
static unsigned range_count;
static struct pages pages;
static struct paging paging;
static struct archive archive;

static _Noreturn void give_up(const char *why)
{
    text_log("boot: %s\n", why);
    __asm__ volatile("outl %0, %1" : : "a"(0x20 + HAL_VERDICT_USAGE), "Nd"((uint16_t)DEBUG_EXIT));
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void copy_ranges(const struct start_info *info)
{
    const struct start_range *from = (const void *)(uintptr_t)info->ranges_at;
    for (uint32_t i = 0; i < info->range_count && range_count < HANDOFF_RANGES; i++)
        ranges[range_count++] = (struct hal_range){ from[i].start, from[i].len, from[i].type, 0 };
    if (!range_count)
        give_up("no memory map from the firmware");
}

// The low zone: the RAM range that holds FIRST_FREE, cut off where the archive begins (QEMU puts it high).
static struct zone low_zone(const struct module *initrd)
{
    struct zone zone = { 0, 0, 0 };
    for (unsigned i = 0; i < range_count; i++) {
        uint64_t end = ranges[i].start + ranges[i].len;
        if (ranges[i].type == RAM && ranges[i].start <= FIRST_FREE && end > FIRST_FREE)
            zone = (struct zone){ FIRST_FREE, end, 0 };
    }
    if (zone.end > initrd->at && initrd->at >= zone.next)
        zone.end = initrd->at & ~(uint64_t)(HAL_PAGE_SIZE - 1);
#if HAL_X86
    if (zone.end > DIRECT_LIMIT)
        zone.end = DIRECT_LIMIT;
#endif
    if (zone.end < zone.next + MIN_FREE || (uintptr_t)boot_end > FIRST_FREE)
        give_up("too little memory: 32 MiB are the least");
    return zone;
}

static struct zone high_zone(uint64_t direct_len)
{
    struct zone zone = { 0, 0, 0 };
    for (unsigned i = 0; HAL_X64 && i < range_count; i++) {
        uint64_t end = ranges[i].start + ranges[i].len;
        if (ranges[i].type == RAM && ranges[i].start >= FOUR_GIB && end <= direct_len)
            zone = (struct zone){ ranges[i].start, end, 0 };
    }
    return zone;
}

static void must(int result, const char *what)
{
    if (result)
        give_up(what);
}

// Top-level entries for everything the boot and the kernel will ever map. All at once and followed by a load of CR3,
// because a CPU need not notice a PAE top-level entry that comes later.
static void reserve_top_entries(void)
{
    static const hal_va_t users[] = { HAL_DIRECT_MAP, KERNEL_BASE, IMAGES_BASE,     POOL_BASE,
                                      ARCHIVE_BASE,   APIC_BASE,   HAL_SHARED_DATA, WINDOW_BASE };
    for (unsigned i = 0; i < sizeof users / sizeof users[0]; i++)
        must(paging_reserve(&paging, users[i]), "no memory for tables");
    __asm__ volatile("mov %0, %%cr3" : : "r"((uintptr_t)boot_root) : "memory");
}

#if HAL_X64
// All RAM, and devices below 4 GiB too.
static uint64_t direct_map_len(void)
{
    uint64_t len = FOUR_GIB;
    for (unsigned i = 0; i < range_count; i++) {
        uint64_t end = ranges[i].start + ranges[i].len;
        if (ranges[i].type == RAM && end > len)
            len = end;
    }
    return len < DIRECT_MAX ? len : DIRECT_MAX;
}
#else
static uint64_t direct_map_len(void)
{
    return DIRECT_LIMIT;
}
#endif

static uint64_t map_direct(void)
{
    uint64_t len = direct_map_len();
    for (uint64_t pa = 0; pa < len; pa += LARGE_PAGE)
        must(paging_map_large(&paging, (hal_va_t)(HAL_DIRECT_MAP + pa), pa, HAL_MAP_WRITE), "no memory for tables");
    return len;
}

static void map_archive(const struct module *initrd)
{
    uint64_t first = initrd->at & ~(uint64_t)(LARGE_PAGE - 1);
    for (uint64_t pa = first; pa < initrd->at + initrd->size; pa += LARGE_PAGE)
        must(paging_map_large(&paging, (hal_va_t)(ARCHIVE_BASE + (pa - first)), pa, 0), "no memory for tables");
    archive =
            (struct archive){ (const uint8_t *)(ARCHIVE_BASE + (uintptr_t)(initrd->at - first)), (size_t)initrd->size };
}

static void map_fixed(void)
{
    hal_pa_t shared = pages_alloc(&pages);
    must(!shared || paging_map(&paging, HAL_SHARED_DATA, shared, HAL_MAP_WRITE), "no memory for tables");
    memset((void *)HAL_SHARED_DATA, 0, HAL_PAGE_SIZE);
    must(paging_map(&paging, APIC_BASE, 0xFEE00000u, HAL_MAP_WRITE | HAL_MAP_NOCACHE), "no memory for tables");
    for (unsigned i = 0; i < HAL_MAX_CPUS; i++) {
        hal_va_t va = WINDOW_BASE + i * (hal_va_t)HAL_PAGE_SIZE;
        must(paging_map(&paging, va, 0, 0), "no memory for tables");
        *paging_entry(&paging, va) = 0;
    }
}

// The kernel's root, without the low one-to-one map; the kernel switches to it. x86: the lowest entry gets an empty
// table, because a running CPU would not notice a top-level PAE entry added later.
static hal_pa_t make_root(void)
{
    hal_pa_t root = pages_alloc(&pages);
    must(!root, "no memory for tables");
    uint64_t *to = (uint64_t *)(HAL_DIRECT_MAP + (uintptr_t)root);
    memset(to, 0, HAL_PAGE_SIZE);
#if HAL_X64
    memcpy(to + 256, boot_root + 256, 256 * sizeof *to);
#else
    memcpy(to + 2, boot_root + 2, 2 * sizeof *to);
    hal_pa_t low = pages_alloc(&pages);
    must(!low, "no memory for tables");
    memset((void *)(HAL_DIRECT_MAP + (uintptr_t)low), 0, HAL_PAGE_SIZE);
    to[0] = low | PTE_PRESENT;
#endif
    return root;
}

static struct handoff *make_handoff(const struct start_info *info)
{
    hal_pa_t first = 0;
    for (size_t done = 0; done < sizeof(struct handoff); done += HAL_PAGE_SIZE) {
        hal_pa_t pa = pages_alloc(&pages); // nothing was returned yet, so they follow each other
        must(!pa, "no memory");
        first = first ? first : pa;
    }
    struct handoff *handoff = (struct handoff *)(HAL_DIRECT_MAP + (uintptr_t)first);
    memset(handoff, 0, sizeof *handoff);
    handoff->magic = HANDOFF_MAGIC;
    handoff->size = sizeof *handoff;
    if (info->command_line_at)
        text_copy(handoff->command_line, sizeof handoff->command_line, (const char *)(uintptr_t)info->command_line_at);
    memcpy(handoff->ranges, ranges, sizeof ranges);
    handoff->loader_block[0] = handoff->loader_block[1] = (uintptr_t)handoff->loader_block; // an empty list
    return handoff;
}

// QEMU's fw_cfg, item 5: the number of CPUs present.
static unsigned count_cpus(void)
{
    uint8_t low, high;
    __asm__ volatile("outw %0, %1" : : "a"((uint16_t)5), "Nd"((uint16_t)0x510));
    __asm__ volatile("inb %1, %0" : "=a"(low) : "Nd"((uint16_t)0x511));
    __asm__ volatile("inb %1, %0" : "=a"(high) : "Nd"((uint16_t)0x511));
    unsigned count = low | (unsigned)high << 8;
    return count < 1 ? 1 : count > HAL_MAX_CPUS ? HAL_MAX_CPUS : count;
}

static hal_va_t load_images(struct handoff *handoff)
{
    char kernel[HAL_NAME_SIZE] = "ntoskrnl.exe", transport[HAL_NAME_SIZE] = "kdvmkd.dll";
    struct images images = { &paging, &archive, handoff->images, false };
    struct hal_image *list = handoff->images;
    struct pe kernel_pe, transport_pe;
    if (text_option(handoff->command_line, "kernel", 0, kernel, sizeof kernel) == 2 ||
        text_option(handoff->command_line, "transport", 0, transport, sizeof transport) == 2)
        give_up("kernel= or transport= is longer than 63 characters");
    must(image_place(&images, &list[0], kernel, kernel, KERNEL_BASE, &kernel_pe), "the kernel cannot be loaded");
    hal_va_t next = (list[0].base + list[0].size + IMAGE_GAP) & ~(hal_va_t)(IMAGE_GAP - 1);
    char word[2];
    images.is_contiguous = text_option(handoff->command_line, "contiguous", 0, word, sizeof word) == 0; // the transport alone
    must(image_place(&images, &list[1], transport, "KDCOM.dll", next, &transport_pe), "the transport cannot be loaded");
    must(image_bind(&images, &list[0], &kernel_pe), "the kernel's imports cannot be bound");
    must(image_bind(&images, &list[1], &transport_pe), "the transport's imports cannot be bound");
    image_protect(&images, &list[0], &kernel_pe);
    image_protect(&images, &list[1], &transport_pe);
    must(!list[0].entry, "the kernel has no entry point");
    return list[0].entry;
}

static bool has_nx(void)
{
#if HAL_X64
    return true;
#else
    return boot_has_nx;
#endif
}

void boot_main(const struct start_info *info)
{
    if (info->magic != START_MAGIC || info->version < 1)
        give_up("not started by PVH version 1 or later (QEMU -kernel)");
    if (info->module_count < 1)
        give_up("no archive: start QEMU with -initrd");
    struct module initrd = *(const struct module *)(uintptr_t)info->modules_at;
    copy_ranges(info);
    pages = (struct pages){ .low = low_zone(&initrd) };
    paging = (struct paging){ (uintptr_t)boot_root, &pages, has_nx() };

    reserve_top_entries();
    uint64_t direct_len = map_direct();
    pages.direct = HAL_DIRECT_MAP;
    pages.high = high_zone(direct_len);
    map_archive(&initrd);
    map_fixed();

    struct handoff *handoff = make_handoff(info);
    hal_va_t entry = load_images(handoff);
    handoff->boot = (struct hal_boot){
        .command_line = handoff->command_line,
        .ranges = handoff->ranges,
        .range_count = range_count,
        .cpu_count = count_cpus(),
        .images = handoff->images,
        .loader_block = handoff->loader_block,
    };
    for (unsigned i = 0; i < range_count; i++)
        handoff->boot.ram_size += ranges[i].type == RAM ? ranges[i].len : 0;
    handoff->direct_len = direct_len;
    handoff->archive = archive.bytes;
    handoff->archive_size = archive.size;
    handoff->trampoline_root = (uintptr_t)boot_root;
    handoff->root = make_root();
    handoff->pages = pages;
    boot_enter(entry, handoff);
}
