// SPDX-License-Identifier: MIT
#include "testkernel/nt/driver_run.h"

#include "testkernel/nt/driver_exports.h"
#include "testkernel/nt/driver_image.h"
#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/nt_modules.h"
#include "testkernel/nt/scenario.h"

#define DRIVER_FOLDER "\\SystemRoot\\system32\\drivers\\"
#define SERVICES "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\"
#define COUNTED_MAX 16u

static struct nt_driver_object driver;
static struct hal_image *driver_image; // NULL: none is loaded
static struct nt_module *driver_module;
static uint8_t not_present_before, shared_before;

// ---- options -------------------------------------------------------------------------------------------------------

static struct {
    char name[16];
    uint64_t calls;
} counted[COUNTED_MAX];

static uint64_t count_call(const char *what)
{
    for (unsigned i = 0; i < COUNTED_MAX; i++) {
        if (counted[i].name[0] == 0)
            text_copy(counted[i].name, sizeof(counted[i].name), what);
        if (strcmp(counted[i].name, what) == 0)
            return ++counted[i].calls;
    }
    return 0;
}

bool driver_is_to_fail(const char *what)
{
    uint64_t call = count_call(what), wanted;
    size_t len = strlen(what);
    char word[32];

    for (unsigned i = 0; hal_option("fail", i, word, sizeof(word)) == 0; i++) {
        if (strncmp(word, what, len) != 0)
            continue;
        if (word[len] == 0 || (word[len] == ':' && text_number(word + len + 1, &wanted) == 0 && wanted == call))
            return true;
    }
    return false;
}

static void option_or(const char *key, const char *fallback, char *buf, size_t size)
{
    if (hal_option(key, 0, buf, size) != 0)
        text_copy(buf, size, fallback);
}

const char *driver_registry_path(void)
{
    static char path[sizeof(SERVICES) + HAL_NAME_SIZE];
    char service[HAL_NAME_SIZE];

    option_or("service", "vmkd", service, sizeof(service));
    (void)hal_format(path, sizeof(path), "%s%s", SERVICES, service);
    return path;
}

// ---- judgements ----------------------------------------------------------------------------------------------------

void driver_accuse(const char *what)
{
    static char said[16][96];
    char text[96];

    (void)hal_format(text, sizeof(text), "driver: %s", what);
    for (unsigned i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        if (strcmp(said[i], text) == 0)
            return;
        if (said[i][0] == 0) {
            text_copy(said[i], sizeof(said[i]), text);
            break;
        }
    }
    scenario_fail(text);
}

void driver_expect_passive(const char *function)
{
    bool were_on = hal_interrupts_off();
    uint8_t irql = nt_cpu_pcr(hal_cpu_index())->Irql;
    char text[64];

    hal_interrupts_restore(were_on);
    if (were_on && irql == NT_PASSIVE_LEVEL)
        return;
    (void)hal_format(text, sizeof(text), "calls %s at IRQL %u, interrupts %s", function, irql, were_on ? "on" : "off");
    driver_accuse(text);
}

const struct nt_driver_object *driver_object(void)
{
    return driver_image != NULL ? &driver : NULL;
}

#if NT_64BIT
extern const volatile uintptr_t send_entry __asm__("__imp_KdSendPacket"), receive_entry __asm__("__imp_KdReceivePacket");
#else
extern const volatile uintptr_t send_entry __asm__("__imp__KdSendPacket@16"), receive_entry __asm__("__imp__KdReceivePacket@20");
#endif

void driver_read_entries(unsigned spins, uintptr_t ret[2])
{
    uintptr_t send = send_entry;

    while (spins-- > 0)
        hal_pause();
    ret[1] = receive_entry;
    ret[0] = send;
}

void driver_write_send_entry(uintptr_t value)
{
    size_t done;

    (void)hal_copy_to((hal_va_t)&send_entry, &value, sizeof(value), &done); // the kernel's image is mapped
}

bool driver_is_transport_redirected(void)
{
    const struct hal_image *transport = &hal_boot->images[1];
    uintptr_t entries[2];

    driver_read_entries(0, entries);
    return hal_image_find(entries[0]) != transport || hal_image_find(entries[1]) != transport;
}

bool driver_check_leaks(const char *when)
{
    unsigned left = driver_memory_held() + driver_services_held() + driver_dpcs_held();

    driver_memory_check_freed();
    if (left == 0)
        return true;
    hal_log("TK: driver: %u things left behind %s\n", left, when);
    scenario_fail("driver: leaves things behind");
    return false;
}

// ---- start and stop ------------------------------------------------------------------------------------------------

static void prepare_images(void)
{
    char name[HAL_NAME_SIZE];
    const struct hal_image *images = hal_boot->images;

    driver_image_forget_imports(&images[0]);
    for (unsigned i = 0; hal_option("lacks", i, name, sizeof(name)) == 0; i++)
        (void)driver_image_hide_export(&images[0], name); // done already at the second start
    if (hal_option("noimports", 0, name, sizeof(name)) == 0)
        driver_image_hide_import_table(&images[0]);
    if (hal_option("bypass", 0, name, sizeof(name)) == 0)
        kd_bypass_imports();
    for (unsigned i = 0; hal_option("unexport", i, name, sizeof(name)) == 0; i++)
        (void)driver_image_hide_export(&images[1], name); // likewise
}

static bool load(void)
{
    char file[HAL_NAME_SIZE], name[HAL_NAME_SIZE];

    if (driver_image != NULL || hal_option("driver", 0, file, sizeof(file)) != 0)
        return false;
    option_or("drivername", file, name, sizeof(name));
    struct hal_image *image;
    if (hal_image_load(file, name, &image) != 0)
        return false;
    driver_image = image;
    driver_module = nt_modules_add(DRIVER_FOLDER, image->name, image->base, image->size, image->entry, image->checksum);
    if (driver_module != NULL)
        nt_modules_announce(driver_module);
    return true;
}

static void unload(void)
{
    KeFlushQueuedDpcs(); // what is left of them has been judged; this test goes on
    if (driver_module != NULL) {
        nt_modules_announce_unload(driver_module);
        nt_modules_remove(driver_module);
    }
    hal_image_unload(driver_image);
    driver_image = NULL;
}

static void fill_object(void)
{
    static uint16_t name[] = u"\\Driver\\vmkd";

    driver = (struct nt_driver_object){
        .Type = NT_IO_TYPE_DRIVER,
        .Size = sizeof(driver),
        .DriverStart = (void *)driver_image->base,
        .DriverSize = driver_image->size,
        .DriverSection = driver_module,
        .DriverName = {sizeof(name) - 2, sizeof(name), name},
        .DriverInit = (void *)driver_image->entry,
    };
}

// The path has no terminator, ends at an unmapped page, and is gone after DriverEntry: Windows promises no more.
static ntstatus_t call_entry(void)
{
    const char *path = driver_registry_path();
    uint16_t len = (uint16_t)(2 * strlen(path));
    uint8_t *page = hal_pool_alloc(HAL_PAGE_SIZE);

    if (page == NULL)
        return STATUS_INSUFFICIENT_RESOURCES;
    uint16_t *wide = (uint16_t *)(page + HAL_PAGE_SIZE - len);
    for (unsigned i = 0; i < len / 2u; i++)
        wide[i] = (uint8_t)path[i];
    struct nt_unicode_string registry_path = {len, len, wide};
    ntstatus_t status = ((nt_driver_entry *)driver_image->entry)(&driver, &registry_path);
    hal_pool_free(page, HAL_PAGE_SIZE);
    return status;
}

static uint8_t shared_bits(void)
{
    return *(volatile uint8_t *)(uintptr_t)(HAL_SHARED_DATA + NT_SHARED_KD_ENABLED);
}

// What a driver that does not run, or no longer, must have left as it was.
static void check_untouched(const char *when)
{
    if (KdDebuggerNotPresent != not_present_before || shared_bits() != shared_before) {
        hal_log("TK: driver: KdDebuggerNotPresent %u, was %u; shared bits %x, were %x\n", KdDebuggerNotPresent, not_present_before,
                shared_bits(), shared_before);
        driver_accuse("what it leaves of the debugger's state is not what it found");
    }
    if (driver_is_transport_redirected())
        driver_accuse("the kernel's import table does not lead to its transport again");
    (void)driver_check_leaks(when); // judged there
}

ntstatus_t driver_start(void)
{
    prepare_images();
    if (!load() || driver_image->entry == 0) {
        scenario_fail("driver: driver=FILE must name an image in the archive with an entry, and one at a time");
        return STATUS_NOT_FOUND;
    }
    not_present_before = KdDebuggerNotPresent;
    shared_before = shared_bits();
    fill_object();
    ntstatus_t status = call_entry();
    hal_log("TK: driver start %08x\n", (unsigned)status);
    if (NT_SUCCESS(status)) {
        driver_image_discard(driver_image);
        return status;
    }
    check_untouched("by a driver that did not start");
    unload();
    return status;
}

ntstatus_t driver_stop(void)
{
    if (driver_image == NULL || driver.DriverUnload == NULL) {
        hal_log("TK: driver stop %08x\n", (unsigned)STATUS_INVALID_DEVICE_REQUEST);
        return STATUS_INVALID_DEVICE_REQUEST;
    }
    driver.DriverUnload(&driver);
    check_untouched("by a driver that was stopped");
    unload();
    hal_log("TK: driver stop %08x\n", STATUS_SUCCESS);
    return STATUS_SUCCESS;
}
