// SPDX-License-Identifier: MIT
// What a driver asks the kernel about: registry, module list, code integrity, and where it says what went wrong.
#include "testkernel/nt/driver_exports.h"
#include "testkernel/nt/driver_run.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/nt_modules.h"

// ---- module list ---------------------------------------------------------------------------------------------------

// Windows lists these too, and a driver that touches them where it runs dies: win32k.sys is only mapped in sessions, ntdll.dll is user memory.
static const struct {
    const char *path;
    uintptr_t base;
} strangers[] = {
    {"\\SystemRoot\\System32\\win32k.sys", NT_64BIT ? (uintptr_t)0xFFFFF96000000000ull : 0xBF800000u},
    {"\\SystemRoot\\System32\\ntdll.dll", 0x77000000u},
};
#define STRANGER_COUNT (sizeof(strangers) / sizeof(strangers[0]))
#define STRANGER_SIZE 0x100000u

static unsigned list_questions;

static bool is_unlisted(const struct nt_module *m)
{
    char what[16];
    unsigned image = (hal_va_t)m->ldr.DllBase == hal_boot->images[0].base ? 0 : (hal_va_t)m->ldr.DllBase == hal_boot->images[1].base ? 1 : 2;

    return image < 2 && hal_option("unlist", 0, what, sizeof(what)) == 0 && strcmp(what, image == 0 ? "kernel" : "transport") == 0;
}

static uint32_t list_growth(void)
{
    return list_questions * (uint32_t)hal_option_number("listgrows", 0);
}

static void put_module(struct nt_module_list *list, const char *path, uintptr_t base, uint32_t size)
{
    struct nt_module_information *m = &list->Modules[list->NumberOfModules];
    size_t name_at = strlen(path);

    memset(m, 0, sizeof(*m));
    while (name_at > 0 && path[name_at - 1] != '\\')
        name_at--;
    m->ImageBase = (void *)base;
    m->ImageSize = size;
    m->LoadOrderIndex = (uint16_t)list->NumberOfModules;
    m->LoadCount = 1;
    m->OffsetToFileName = (uint16_t)name_at;
    text_copy(m->FullPathName, sizeof(m->FullPathName), path);
    list->NumberOfModules++;
}

static uint32_t count_modules(void)
{
    const struct nt_module *m;
    uint32_t count = STRANGER_COUNT + list_growth();

    for (unsigned i = 0; (m = nt_modules_at(i)) != NULL; i++)
        count += !is_unlisted(m);
    return count;
}

static void fill_modules(struct nt_module_list *list)
{
    const struct nt_module *m;

    list->NumberOfModules = 0;
    for (unsigned i = 0; (m = nt_modules_at(i)) != NULL; i++) {
        if (!is_unlisted(m))
            put_module(list, m->path, (uintptr_t)m->ldr.DllBase, m->size);
    }
    for (unsigned i = 0; i < STRANGER_COUNT; i++)
        put_module(list, strangers[i].path, strangers[i].base, STRANGER_SIZE);
    for (uint32_t i = list_growth(); i > 0; i--)
        put_module(list, "\\SystemRoot\\System32\\drivers\\late.sys", strangers[0].base + i * STRANGER_SIZE, STRANGER_SIZE);
}

static ntstatus_t query_modules(void *buf, uint32_t len, uint32_t *ret_len)
{
    uint32_t needed = (uint32_t)sizeof(struct nt_module_list) + count_modules() * (uint32_t)sizeof(struct nt_module_information);

    list_questions++;
    if (ret_len != NULL)
        *ret_len = needed;
    if (len < needed)
        return STATUS_INFO_LENGTH_MISMATCH;
    fill_modules(buf);
    return STATUS_SUCCESS;
}

static ntstatus_t query_code_integrity(void *buf, uint32_t len, uint32_t *ret_len)
{
    struct nt_code_integrity *info = buf;
    char value[8];

    if (hal_option("ci", 0, value, sizeof(value)) == 0 && strcmp(value, "none") == 0)
        return STATUS_INVALID_INFO_CLASS;
    if (ret_len != NULL)
        *ret_len = sizeof(*info);
    if (len < sizeof(*info) || info->Length != sizeof(*info))
        return STATUS_INFO_LENGTH_MISMATCH;
    info->CodeIntegrityOptions = (uint32_t)hal_option_number("ci", 1);
    return STATUS_SUCCESS;
}

ntstatus_t HAL_STDCALL ZwQuerySystemInformation(uint32_t class, void *buf, uint32_t len, uint32_t *ret_len)
{
    driver_expect_passive("ZwQuerySystemInformation");
    if (driver_is_to_fail("query"))
        return STATUS_INSUFFICIENT_RESOURCES;
    switch (class) {
    case NT_SYSTEM_MODULE_INFORMATION:
        return query_modules(buf, len, ret_len);
    case NT_SYSTEM_CODE_INTEGRITY_INFORMATION:
        return query_code_integrity(buf, len, ret_len);
    default:
        return STATUS_INVALID_INFO_CLASS;
    }
}

// ---- registry ------------------------------------------------------------------------------------------------------

#define HANDLE_MAX 8u
#define HANDLE_FIRST ((uintptr_t)(intptr_t)-0x1000) // a kernel handle has its high bit set

enum key { KEY_NONE, KEY_SERVICE, KEY_PARAMETERS };
static enum key handles[HANDLE_MAX];

static uint16_t lower(uint16_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint16_t)(c + 'a' - 'A') : c;
}

// Without regard to case, as the registry does it. Return: how many characters of name the text covers, or -1.
static int match(const struct nt_unicode_string *name, unsigned at, const char *text)
{
    unsigned len = name->Length / 2u, i = 0;

    for (; text[i] != 0; i++) {
        if (at + i >= len || lower(name->Buffer[at + i]) != lower((uint8_t)text[i]))
            return -1;
    }
    return (int)i;
}

static bool equals(const struct nt_unicode_string *name, unsigned at, const char *text)
{
    int len = match(name, at, text);

    return len >= 0 && at + (unsigned)len == name->Length / 2u;
}

static bool has_force(void)
{
    char value[16];

    return hal_option("force", 0, value, sizeof(value)) == 0;
}

static enum key key_of_handle(void *handle)
{
    uintptr_t index = (uintptr_t)handle - HANDLE_FIRST;

    return index % 4 == 0 && index / 4 < HANDLE_MAX ? handles[index / 4] : KEY_NONE;
}

static enum key find_key(const struct nt_object_attributes *attributes)
{
    const struct nt_unicode_string *name = attributes->ObjectName;
    unsigned at = 0;

    if (attributes->RootDirectory == NULL) {
        int len = match(name, 0, driver_registry_path());
        if (len < 0)
            return KEY_NONE;
        at = (unsigned)len;
        if (at == name->Length / 2u)
            return KEY_SERVICE;
        if (name->Buffer[at++] != '\\')
            return KEY_NONE;
    } else if (key_of_handle(attributes->RootDirectory) != KEY_SERVICE) {
        return KEY_NONE;
    }
    return equals(name, at, "Parameters") && has_force() ? KEY_PARAMETERS : KEY_NONE;
}

ntstatus_t HAL_STDCALL ZwOpenKey(void **ret, uint32_t access, const struct nt_object_attributes *attributes)
{
    driver_expect_passive("ZwOpenKey");
    if (attributes->Length != sizeof(*attributes) || attributes->ObjectName == NULL)
        return STATUS_INVALID_PARAMETER;
    if ((attributes->Attributes & NT_OBJ_KERNEL_HANDLE) == 0)
        driver_accuse("opens a key with a handle that user programs could use");
    if ((access & (NT_KEY_QUERY_VALUE | NT_GENERIC_READ)) == 0)
        driver_accuse("opens a key without the right to ask for its values");
    if (driver_is_to_fail("key"))
        return STATUS_INSUFFICIENT_RESOURCES;
    enum key key = find_key(attributes);
    for (unsigned i = 0; key != KEY_NONE && i < HANDLE_MAX; i++) {
        if (handles[i] != KEY_NONE)
            continue;
        handles[i] = key;
        *ret = (void *)(HANDLE_FIRST + 4 * i);
        return STATUS_SUCCESS;
    }
    return key == KEY_NONE ? STATUS_OBJECT_NAME_NOT_FOUND : STATUS_INSUFFICIENT_RESOURCES;
}

ntstatus_t HAL_STDCALL ZwQueryValueKey(void *handle, const struct nt_unicode_string *name, uint32_t class, void *buf, uint32_t len,
                                       uint32_t *ret_len)
{
    struct nt_key_value_partial *value = buf;
    uint32_t force = (uint32_t)hal_option_number("force", 0), force_len = (uint32_t)hal_option_number("forcelen", sizeof(force));
    enum key key = key_of_handle(handle);

    driver_expect_passive("ZwQueryValueKey");
    if (key == KEY_NONE)
        return STATUS_INVALID_HANDLE;
    if (class != NT_KEY_VALUE_PARTIAL_INFORMATION)
        return STATUS_INVALID_PARAMETER;
    if (key != KEY_PARAMETERS || !equals(name, 0, "Force"))
        return STATUS_OBJECT_NAME_NOT_FOUND;
    *ret_len = (uint32_t)sizeof(*value) + force_len;
    if (len < sizeof(*value))
        return STATUS_BUFFER_TOO_SMALL;
    *value = (struct nt_key_value_partial){0, (uint32_t)hal_option_number("forcetype", NT_REG_DWORD), force_len};
    if (len < *ret_len)
        return STATUS_BUFFER_OVERFLOW;
    memset(value->Data, 0, force_len);
    memcpy(value->Data, &force, force_len < sizeof(force) ? force_len : sizeof(force));
    return STATUS_SUCCESS;
}

ntstatus_t HAL_STDCALL ZwClose(void *handle)
{
    driver_expect_passive("ZwClose");
    if (key_of_handle(handle) == KEY_NONE) {
        driver_accuse("closes what it has not opened");
        return STATUS_INVALID_HANDLE;
    }
    handles[((uintptr_t)handle - HANDLE_FIRST) / 4] = KEY_NONE;
    return STATUS_SUCCESS;
}

// ---- error log -----------------------------------------------------------------------------------------------------

#define ENTRY_MAX 4u
#define FRESH 0xCD

static struct {
    bool is_used;
    uint8_t size;
    _Alignas(16) uint8_t bytes[NT_ERROR_LOG_MAX];
} entries[ENTRY_MAX];

void *HAL_STDCALL IoAllocateErrorLogEntry(void *io_object, uint8_t size)
{
    if (io_object == NULL || io_object != driver_object())
        driver_accuse("makes a log entry for an object that is not its own");
    if (size < sizeof(struct nt_error_log_packet) || size > NT_ERROR_LOG_MAX)
        driver_accuse("makes a log entry of a size that Windows refuses");
    else if (!driver_is_to_fail("log")) {
        for (unsigned i = 0; i < ENTRY_MAX; i++) {
            if (entries[i].is_used)
                continue;
            entries[i].is_used = true;
            entries[i].size = size;
            memset(entries[i].bytes, FRESH, sizeof(entries[i].bytes));
            return entries[i].bytes;
        }
    }
    return NULL;
}

static bool log_data(const struct nt_error_log_packet *p, unsigned size)
{
    if (p->DumpDataSize % 4 != 0 || offsetof(struct nt_error_log_packet, DumpData) + p->DumpDataSize > size)
        return false;
    for (unsigned i = 0; i < p->DumpDataSize / 4u; i++)
        hal_log("TK: event data %08x\n", p->DumpData[i]);
    return true;
}

// Characters beyond ASCII are shown as '?': no text of an insertion needs them.
static bool log_strings(const struct nt_error_log_packet *p, unsigned size)
{
    const uint8_t *bytes = (const uint8_t *)p;
    unsigned at = p->StringOffset;

    if (p->NumberOfStrings != 0 && (at % 2 != 0 || at < offsetof(struct nt_error_log_packet, DumpData) + p->DumpDataSize))
        return false;
    for (unsigned i = 0; i < p->NumberOfStrings; i++) {
        char text[NT_ERROR_LOG_MAX];
        unsigned len = 0;
        uint16_t c;
        do {
            if (at + 2 > size)
                return false;
            c = (uint16_t)(bytes[at] | bytes[at + 1] << 8);
            text[len++] = c < 0x7F ? (char)c : '?';
            at += 2;
        } while (c != 0);
        hal_log("TK: event string %s\n", text);
    }
    return true;
}

void HAL_STDCALL IoWriteErrorLogEntry(void *entry)
{
    const struct nt_error_log_packet *p = entry;

    for (unsigned i = 0; i < ENTRY_MAX; i++) {
        if (entries[i].bytes != entry || !entries[i].is_used)
            continue;
        hal_log("TK: event %08x status %08x unique %08x\n", p->ErrorCode, p->FinalStatus, p->UniqueErrorValue);
        if (!log_data(p, entries[i].size) || !log_strings(p, entries[i].size))
            driver_accuse("writes a log entry that reaches beyond its end");
        entries[i].is_used = false;
        return;
    }
    driver_accuse("writes a log entry that is none");
}

unsigned driver_services_held(void)
{
    unsigned keys = 0, logs = 0;

    for (unsigned i = 0; i < HANDLE_MAX; i++)
        keys += handles[i] != KEY_NONE;
    for (unsigned i = 0; i < ENTRY_MAX; i++)
        logs += entries[i].is_used;
    if (keys + logs != 0)
        hal_log("TK: driver: left behind: %u keys open, %u log entries not written\n", keys, logs);
    return keys + logs;
}
