// SPDX-License-Identifier: MIT
// Scenarios that treat the transport module as only NT treats it: moved, put to sleep, restored from an old copy.
#include "testkernel/nt/scenario.h"

#include "testkernel/nt/bugcheck.h"
#include "testkernel/nt/exports.h"
#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/services.h"

// ---- relocate --------------------------------------------------------------------------------------------------

#define RELOCATE_PATTERN 0xB16B00B5u

static bool relocate_has_failed;

static bool relocate_check(void)
{
    hal_pa_t where = 0;
    unsigned changed = hal_image_old_changed(&hal_boot->images[1], &where);

    if (changed != 0 && !relocate_has_failed) {
        relocate_has_failed = true;
        hal_log("TK: relocate: %u words written, first at %llx\n", changed, (unsigned long long)where);
        scenario_fail("relocate: somebody wrote to the transport's old pages");
        hal_log("TK: verdict failed: relocate\n");
    }
    return !relocate_has_failed;
}

static void relocate_watch(void)
{
    (void)relocate_check(); // logs by itself
}

static void relocate_middle(uint64_t arg)
{
    (void)arg;
    if (hal_image_move(&hal_boot->images[1], RELOCATE_PATTERN) != 0)
        scenario_fail("relocate: no pages for the move");
}

static void run_relocate(uint64_t rounds)
{
    rounds = rounds != 0 ? rounds : 20;
    scenario_set_watch(relocate_watch);
    for (uint64_t i = 1; i <= rounds && relocate_check(); i++) {
        DbgPrint("TK: relocated, line %u of %u\n", (unsigned)i, (unsigned)rounds);
        scenario_wait_ticks(2);
    }
    if (relocate_check()) {
        scenario_pass("relocate: old pages untouched");
        hal_log("TK: verdict passed: relocate\n");
    }
}

// ---- power -----------------------------------------------------------------------------------------------------

static void run_d3d0(uint64_t rounds)
{
    bool is_right = true;

    rounds = rounds != 0 ? rounds : 3;
    for (uint64_t i = 1; i <= rounds; i++) {
        bool were_on = hal_interrupts_off();
        is_right &= NT_SUCCESS(KdD3Transition()) && NT_SUCCESS(KdD0Transition());
        hal_interrupts_restore(were_on);
        DbgPrint("TK: back in D0, round %u\n", (unsigned)i);
    }
    if (is_right)
        scenario_pass("d3d0: every transition succeeded");
    else
        scenario_fail("d3d0: a transition failed");
}

static uint8_t *image_page(const struct hal_image *image, uint32_t page)
{
    return (uint8_t *)image->base + (size_t)page * HAL_PAGE_SIZE;
}

static bool is_writable(const struct hal_image *image, uint32_t page)
{
    unsigned flags = 0;

    return hal_translate((hal_va_t)image_page(image, page), NULL, &flags) == 0 && (flags & HAL_MAP_WRITE) != 0;
}

static void copy_writable(const struct hal_image *image, uint8_t *copy, bool is_save)
{
    for (uint32_t page = 0; page < image->page_count; page++) {
        uint8_t *saved = copy + (size_t)page * HAL_PAGE_SIZE;
        if (!is_writable(image, page))
            continue;
        if (is_save)
            memcpy(saved, image_page(image, page), HAL_PAGE_SIZE);
        else
            memcpy(image_page(image, page), saved, HAL_PAGE_SIZE);
    }
}

// The memory image of a hibernation is older than what the host has seen since: prints go out while the image is
// being written, then the machine resumes from the image.
static void run_hibernate(uint64_t prints)
{
    const struct hal_image *image = &hal_boot->images[1];
    uint8_t *copy = hal_pool_alloc((size_t)image->page_count * HAL_PAGE_SIZE);

    if (copy == NULL) {
        scenario_fail("hibernate: no memory for the image");
        return;
    }
    nt_notify_hibernate();
    bool were_on = hal_interrupts_off();
    bool is_right = NT_SUCCESS(KdSave(1));
    copy_writable(image, copy, true);
    for (uint64_t i = 1; i <= (prints != 0 ? prints : 3); i++)
        DbgPrint("TK: writing the hibernation file, part %u\n", (unsigned)i);
    copy_writable(image, copy, false);
    is_right &= NT_SUCCESS(KdRestore(1));
    hal_interrupts_restore(were_on);
    for (unsigned i = 1; i <= 5; i++)
        DbgPrint("TK: resumed, line %u of 5\n", i);
    hal_pool_free(copy, (size_t)image->page_count * HAL_PAGE_SIZE);
    if (is_right)
        scenario_pass("hibernate: saved and restored");
    else
        scenario_fail("hibernate: KdSave or KdRestore failed");
}

// ---- cpl3 ------------------------------------------------------------------------------------------------------

#define BACKDOOR_MAGIC 0x564D5868u
#define BACKDOOR_PORT 0x5658u
#define ANSWER_TAG 0x4B44u
// The debugger link's own command and functions (docs/portcall.md), and VMware's for comparison.
#define LINK_COMMAND 0x4BDDu
#define LINK_FUNCTIONS 8u

static uint32_t port_call_at_cpl3(uint32_t command)
{
    static const uint8_t code[] = {0xED, 0xCD, 0x2E}; // in eax, dx; int 2Eh
    struct hal_frame regs;

    memset(&regs, 0, sizeof(regs));
#if NT_64BIT
    regs.rax = BACKDOOR_MAGIC;
    regs.rcx = command;
    regs.rdx = BACKDOOR_PORT;
    return hal_run_user(code, sizeof(code), &regs) == 0 ? (uint32_t)regs.rax : 0;
#else
    regs.eax = BACKDOOR_MAGIC;
    regs.ecx = command;
    regs.edx = BACKDOOR_PORT;
    return hal_run_user(code, sizeof(code), &regs) == 0 ? regs.eax : 0;
#endif
}

static bool is_answered(uint32_t command)
{
    uint32_t eax = port_call_at_cpl3(command);

    hal_log("TK: cpl3: command %08x gives %08x\n", command, eax);
    return eax >> 16 == ANSWER_TAG;
}

static void run_cpl3(uint64_t arg)
{
    bool answered = false;

    (void)arg;
    for (uint32_t function = 0; function < LINK_FUNCTIONS; function++)
        answered |= is_answered(function << 16 | LINK_COMMAND);
    answered |= is_answered(0x0A);
    if (answered)
        scenario_fail("cpl3: a call from user mode was answered");
    else
        scenario_pass("cpl3: no call from user mode was answered");
}

// ---- noglobaldata ----------------------------------------------------------------------------------------------

struct pe_export_directory {
    uint32_t reserved[6];
    uint32_t name_count;
    uint32_t functions;
    uint32_t names;
};

static const struct pe_export_directory *export_directory(hal_va_t base)
{
    uint32_t pe, rva;
    // DataDirectory[0] behind signature, file header and the optional header's fixed part.
    const uint32_t at = 4 + 20 + (NT_64BIT ? 112 : 96);

    memcpy(&pe, (const uint8_t *)base + 0x3C, sizeof(pe));
    memcpy(&rva, (const uint8_t *)base + pe + at, sizeof(rva));
    return (const struct pe_export_directory *)(base + rva);
}

// An older kernel: the name is not in the table, so the module must write the shared page itself.
static void hide_export(const char *name)
{
    hal_va_t base = hal_boot->images[0].base;
    const struct pe_export_directory *dir = export_directory(base);
    const uint32_t *names = (const uint32_t *)(base + dir->names);
    size_t done;

    for (uint32_t i = 0; i < dir->name_count; i++) {
        hal_va_t text = base + names[i];
        // The last letter changes to '_', which keeps the table sorted.
        if (strcmp((const char *)text, name) == 0)
            (void)hal_copy_to(text + strlen(name) - 1, "_", 1, &done); // the kernel's own page is there
    }
}

static void noglobaldata_early(uint64_t arg)
{
    (void)arg;
    hide_export("RtlSetSystemGlobalData");
    hide_export("RtlGetSystemGlobalData");
}

static void run_noglobaldata(uint64_t arg)
{
    uint8_t bits = *((const uint8_t *)(uintptr_t)HAL_SHARED_DATA + NT_SHARED_KD_ENABLED);

    (void)arg;
    DbgPrint("TK: KUSER_SHARED_DATA.KdDebuggerEnabled is %u without RtlSetSystemGlobalData\n", bits);
    if (TkGlobalDataCalls == 0)
        scenario_pass("noglobaldata: the hidden export was not called");
    else
        scenario_fail("noglobaldata: the hidden export was called");
}

// The opposite: the page is read-only, as on the newest kernels, so writing it directly is a fault.
static void readonlyshared_early(uint64_t arg)
{
    (void)arg;
    if (hal_protect((hal_va_t)HAL_SHARED_DATA, 0) != 0)
        scenario_fail("readonlyshared: the page is not mapped");
}

static void run_readonlyshared(uint64_t arg)
{
    (void)arg;
    DbgPrint("TK: RtlSetSystemGlobalData was called %u times\n", TkGlobalDataCalls);
    scenario_pass("readonlyshared: nobody faulted");
}

const struct scenario scenarios_transport[] = {
    {.name = "relocate", .help = "moves the transport's pages after phase 0 and watches the old ones",
     .middle = relocate_middle, .run = run_relocate},
    {.name = "d3d0", .help = "power transitions D3 and D0, N rounds", .run = run_d3d0, .ends = true},
    {.name = "hibernate", .help = "saves, goes on printing N lines, resumes from the older copy",
     .run = run_hibernate, .ends = true},
    {.name = "cpl3", .help = "port calls from user mode must stay unanswered", .run = run_cpl3, .ends = true},
    {.name = "noglobaldata", .help = "hides RtlSetSystemGlobalData", .early = noglobaldata_early,
     .run = run_noglobaldata},
    {.name = "readonlyshared", .help = "KUSER_SHARED_DATA is read-only", .early = readonlyshared_early,
     .run = run_readonlyshared},
    {0},
};
