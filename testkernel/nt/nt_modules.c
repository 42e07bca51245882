// SPDX-License-Identifier: MIT
#include "testkernel/nt/nt_modules.h"

#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/services.h"

#define MODULE_MAX 40u
#define LDRP_ENTRY_INSERTED 0x00004000u
#define SYSTEM_FOLDER "\\SystemRoot\\system32\\"

static struct nt_module modules[MODULE_MAX];

// A header is all that a debugger reads of an image without code; hal.dll is one, because this kernel's hal is part
// of the kernel image and NT's debuggers expect a second entry of that name.
#define HAL_IMAGE_SIZE 0x2000u

struct pe_header_page {
    uint16_t magic;
    uint8_t reserved0[0x3A];
    uint32_t pe_offset;
    uint32_t signature;
    uint16_t machine;
    uint16_t section_count;
    uint32_t timestamp;
    uint32_t symbols[2];
    uint16_t optional_size;
    uint16_t characteristics;
    uint16_t optional_magic;
    uint8_t reserved1[0x1E];
    uint32_t section_alignment;
    uint32_t file_alignment;
    uint8_t reserved2[0x10];
    uint32_t image_size;
    uint32_t headers_size;
    uint32_t checksum;
    uint8_t reserved3[0xA0];
};
NT_ASSERT_AT(struct pe_header_page, pe_offset, 0x3C);
NT_ASSERT_AT(struct pe_header_page, optional_magic, 0x58);
NT_ASSERT_AT(struct pe_header_page, section_alignment, 0x58 + 0x20);
NT_ASSERT_AT(struct pe_header_page, image_size, 0x58 + 0x38);
NT_ASSERT_AT(struct pe_header_page, checksum, 0x58 + 0x40);

static hal_va_t make_hal_image(void)
{
    struct pe_header_page *pe = hal_pool_alloc(HAL_IMAGE_SIZE);

    if (pe == NULL)
        return 0;
    pe->magic = 0x5A4D;
    pe->pe_offset = offsetof(struct pe_header_page, signature);
    pe->signature = 0x00004550;
    pe->machine = NT_MACHINE;
    pe->timestamp = 0x4CE7C669;
    pe->optional_size = NT_64BIT ? 0xF0 : 0xE0;
    pe->characteristics = 0x2022; // executable, large addresses, DLL
    pe->optional_magic = NT_64BIT ? 0x20B : 0x10B;
    pe->section_alignment = HAL_PAGE_SIZE;
    pe->file_alignment = 0x200;
    pe->image_size = HAL_IMAGE_SIZE;
    pe->headers_size = 0x400;
    return (hal_va_t)pe;
}

static struct nt_module *free_module(void)
{
    for (unsigned i = 0; i < MODULE_MAX; i++) {
        if (!modules[i].is_used)
            return &modules[i];
    }
    return NULL;
}

static void set_names(struct nt_module *m, const char *folder, const char *name)
{
    size_t len = hal_format(m->path, sizeof(m->path), "%s%s", folder, name);
    size_t prefix = strlen(folder);

    len = len < sizeof(m->path) ? len : sizeof(m->path) - 1;
    for (size_t i = 0; i < len; i++)
        m->wide_path[i] = (uint8_t)m->path[i];
    m->ldr.FullDllName = (struct nt_unicode_string){(uint16_t)(len * 2), sizeof(m->wide_path), m->wide_path};
    m->ldr.BaseDllName = (struct nt_unicode_string){
        (uint16_t)((len - prefix) * 2), (uint16_t)(sizeof(m->wide_path) - prefix * 2), m->wide_path + prefix};
}

struct nt_module *nt_modules_add(const char *folder, const char *name, hal_va_t base, uint32_t size, hal_va_t entry,
                                 uint32_t checksum)
{
    struct nt_module *m = free_module();

    if (m == NULL)
        return NULL;
    memset(m, 0, sizeof(*m));
    m->is_used = true;
    m->size = size;
    m->checksum = checksum;
    m->ldr.DllBase = (void *)base;
    m->ldr.EntryPoint = (void *)entry;
    m->ldr.SizeOfImage = size;
    m->ldr.CheckSum = checksum;
    m->ldr.Flags = LDRP_ENTRY_INSERTED;
    m->ldr.LoadCount = 1;
    set_names(m, folder, name);
    struct nt_list_entry *links = &m->ldr.InLoadOrderLinks;
    links->Flink = &PsLoadedModuleList;
    links->Blink = PsLoadedModuleList.Blink;
    PsLoadedModuleList.Blink->Flink = links;
    PsLoadedModuleList.Blink = links;
    return m;
}

void nt_modules_remove(struct nt_module *m)
{
    m->ldr.InLoadOrderLinks.Blink->Flink = m->ldr.InLoadOrderLinks.Flink;
    m->ldr.InLoadOrderLinks.Flink->Blink = m->ldr.InLoadOrderLinks.Blink;
    m->is_used = false;
}

const struct nt_module *nt_modules_at(unsigned index)
{
    for (unsigned i = 0; i < MODULE_MAX; i++) {
        if (modules[i].is_used && index-- == 0)
            return &modules[i];
    }
    return NULL;
}

static void add_boot_image(const struct hal_image *image)
{
    char name[HAL_NAME_SIZE];

    if (image != &hal_boot->images[1] || hal_option("transportname", 0, name, sizeof(name)) != 0)
        text_copy(name, sizeof(name), image->name);
    (void)nt_modules_add(SYSTEM_FOLDER, name, image->base, image->size, image->entry, image->checksum);
}

void nt_modules_init(const struct hal_boot *boot)
{
    hal_va_t hal_base = make_hal_image();

    add_boot_image(&boot->images[0]);
    if (hal_base != 0)
        (void)nt_modules_add(SYSTEM_FOLDER, "hal.dll", hal_base, HAL_IMAGE_SIZE, hal_base, 0);
    add_boot_image(&boot->images[1]);
    for (unsigned i = 2; i < HAL_MAX_IMAGES; i++) {
        if (boot->images[i].base != 0)
            add_boot_image(&boot->images[i]);
    }
}

static void string_of(const struct nt_module *m, struct kd_string *ret)
{
    *ret = (struct kd_string){
        .length = (uint16_t)strlen(m->path), .maximum_length = sizeof(m->path), .buffer = (void *)m->path};
}

void nt_modules_announce(const struct nt_module *m)
{
    struct kd_string path;
    const struct nt_symbols_info info = {m->ldr.DllBase, (void *)(intptr_t)-1, m->checksum, m->size};

    string_of(m, &path);
    DbgLoadImageSymbols(&path, &info);
}

void nt_modules_announce_unload(const struct nt_module *m)
{
    struct kd_string path;
    const struct nt_symbols_info info = {m->ldr.DllBase, (void *)(intptr_t)-1, m->checksum, m->size};

    string_of(m, &path);
    DbgUnLoadImageSymbols(&path, &info);
}

void nt_modules_announce_all(void)
{
    for (unsigned i = 0; i < MODULE_MAX; i++) {
        if (modules[i].is_used)
            nt_modules_announce(&modules[i]);
    }
}
