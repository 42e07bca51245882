/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_CORE_HANDOFF_H
#define TESTKERNEL_CORE_HANDOFF_H
/*
 * What the boot stub passes to the kernel's entry, and the address map both agree on. All pointers are kernel
 * addresses (direct map or archive). The block itself lies in pages of its own and stays for ever.
 */
#include "testkernel/core/pages.h"

#if HAL_X64
#define KERNEL_BASE  0xFFFFF80002A00000ull
#define IMAGES_BASE  0xFFFFF88000000000ull
#define POOL_BASE    0xFFFFFA8000000000ull
#define ARCHIVE_BASE 0xFFFFF8A000000000ull
#define APIC_BASE    0xFFFFFFFFFFFE0000ull
#define WINDOW_BASE  0xFFFFFFFFFFFD0000ull /* one page per CPU for physical addresses outside of the direct map */
#else
#define KERNEL_BASE  0x80800000u
#define IMAGES_BASE  0x8A000000u
#define POOL_BASE    0x90000000u
#define ARCHIVE_BASE 0xB0000000u
#define APIC_BASE    0xFFFE0000u
#define WINDOW_BASE  0xFFFD0000u
#define DIRECT_LIMIT 0x10000000u
#endif

enum {
    HANDOFF_MAGIC = 0x6B746B76,
    HANDOFF_RANGES = 32,
    IMAGE_GAP = 2 << 20,
    POOL_PAGES = 16384, /* 64 MiB of addresses */
};

struct handoff {
    uint32_t magic;
    uint32_t size;
    hal_pa_t root;            /* the kernel's page tables */
    hal_pa_t trampoline_root; /* the same, with low memory mapped one to one as well: for starting CPUs */
    uint64_t direct_len;      /* of the direct map, bytes */
    struct pages pages;
    const void *archive;
    size_t archive_size;
    struct hal_boot boot;
    struct hal_range ranges[HANDOFF_RANGES];
    struct hal_image images[HAL_MAX_IMAGES];
    char command_line[2048];
    uintptr_t loader_block[512];
};

#endif
