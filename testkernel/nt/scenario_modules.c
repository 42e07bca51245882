// SPDX-License-Identifier: MIT
// Scenarios about images: drivers that come and go, drivers from the debugger, self-test modules.
#include "testkernel/nt/scenario.h"

#include "testkernel/nt/kd.h"
#include "testkernel/nt/nt_modules.h"
#include "testkernel/nt/services.h"

#define DRIVER_FOLDER "\\SystemRoot\\system32\\drivers\\"

// Any image that the archive holds will do; the transport's own file is always there.
static void run_loadunload(uint64_t times)
{
    char file[HAL_NAME_SIZE];
    struct hal_image *image;

    if (hal_option("driver", 0, file, sizeof(file)) != 0)
        (void)hal_format(file, sizeof(file), "%s", hal_boot->images[1].file);
    for (uint64_t i = 0; i < (times != 0 ? times : 1); i++) {
        if (hal_image_load(file, "tkdriver.sys", &image) != 0) {
            scenario_fail("loadunload: the driver's image does not load");
            return;
        }
        struct nt_module *m = nt_modules_add(DRIVER_FOLDER, image->name, image->base, image->size, image->entry,
                                             image->checksum);
        if (m != NULL) {
            nt_modules_announce(m);
            DbgPrint("TK: tkdriver.sys at %p\n", (void *)image->base);
            nt_modules_announce_unload(m);
            nt_modules_remove(m);
        }
        hal_image_unload(image);
    }
    DbgPrint("TK: tkdriver.sys unloaded\n");
}

// What the file that the debugger offers must hold at an offset: no period of a power of two.
static uint8_t expected_byte(uint64_t offset)
{
    return (uint8_t)(offset * 7 + offset / 251);
}

static bool check_chunk(const uint8_t *buf, uint64_t offset, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        if (buf[i] != expected_byte(offset + i)) {
            hal_log("TK: kdfiles: byte %llu is %02x\n", (unsigned long long)(offset + i), buf[i]);
            return false;
        }
    }
    return true;
}

static bool check_file(const struct kd_remote_file *file)
{
    static uint8_t buf[KD_FILE_DATA_MAX];
    uint64_t offset = 0;

    while (offset < file->length) {
        uint32_t len = 0;
        if (!NT_SUCCESS(kd_file_read(file, offset, buf, sizeof(buf), &len)) || len == 0)
            return false;
        if (!check_chunk(buf, offset, len))
            return false;
        offset += len;
    }
    return offset == file->length;
}

static void run_kdfiles(uint64_t arg)
{
    struct kd_remote_file file;
    bool is_right = false;

    (void)arg;
    ntstatus_t status = kd_file_open(DRIVER_FOLDER "tkfile.sys", &file);
    if (NT_SUCCESS(status)) {
        is_right = check_file(&file);
        status = kd_file_close(&file);
    }
    hal_log("TK: kdfiles: status %x\n", (unsigned)status);
    if (NT_SUCCESS(status) && is_right)
        scenario_pass("kdfiles: the debugger's file came over unchanged");
    else
        scenario_fail("kdfiles: no file, or other bytes than expected");
}

static unsigned selftest_passed;

static void selftest_log(const char *line)
{
    if (strncmp(line, "ok", 2) == 0)
        selftest_passed++;
    hal_log("%s\n", line);
}

typedef int selftest_fn(void (*log)(const char *));

static void run_selftest(uint64_t arg)
{
    char file[HAL_NAME_SIZE];
    struct hal_image *image;

    (void)arg;
    if (hal_option("selftest", 0, file, sizeof(file)) != 0 || hal_image_load(file, file, &image) != 0) {
        scenario_fail("selftest: selftest=FILE must name an image in the archive");
        return;
    }
    selftest_fn *test = (selftest_fn *)hal_image_export(image, "SelfTest");
    if (test == NULL) {
        scenario_fail("selftest: the image has no export SelfTest");
        return;
    }
    int failures = test(selftest_log);
    hal_log("SELFTEST passed %u failed %d\n", selftest_passed, failures);
    if (failures == 0 && selftest_passed > 0)
        scenario_pass("selftest");
    else
        scenario_fail("selftest: failures, or nothing was tested");
}

const struct scenario scenarios_modules[] = {
    {.name = "loadunload", .help = "loads and unloads a driver (driver=FILE, else the transport's) N times",
     .run = run_loadunload},
    {.name = "kdfiles", .help = "fetches tkfile.sys from the debugger and checks it", .run = run_kdfiles,
     .ends = true},
    {.name = "selftest", .help = "runs SelfTest of the image selftest=FILE", .run = run_selftest, .ends = true},
    {0},
};
