// SPDX-License-Identifier: MIT
// The PE loader on images made here, each test with one thing wrong; and what a right one turns into. Runs on the host
// (so: x64 images only; the x86 way of the same code runs in check-hal.sh).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkernel/core/archive.h"
#include "testkernel/core/pe.h"

enum {
    HEADER = 0x80, // of the PE signature
    OPTIONAL = HEADER + 24,
    DIRECTORIES = OPTIONAL + 112,
    SECTIONS = OPTIONAL + 240,
    FILE_SIZE = 0x1000,
    IMAGE_SIZE = 0x4000,
    TEXT_RVA = 0x1000,
    DATA_RVA = 0x2000,
    RELOC_RVA = 0x3000,
    TEXT_AT = 0x400,
    DATA_AT = 0x600,
    RELOC_AT = 0xA00,
};
#define PREFERRED 0x140000000ull

static uint8_t file[FILE_SIZE];
static char last_log[256];

void text_log(const char *format, ...);
void text_log(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_log, sizeof last_log, format, args);
    va_end(args);
}

bool text_equal_nocase(const char *a, const char *b);
bool text_equal_nocase(const char *a, const char *b)
{
    return !strcmp(a, b);
}

static void set16(uint32_t at, uint16_t value)
{
    memcpy(file + at, &value, sizeof value);
}

static void set32(uint32_t at, uint32_t value)
{
    memcpy(file + at, &value, sizeof value);
}

static void set64(uint32_t at, uint64_t value)
{
    memcpy(file + at, &value, sizeof value);
}

static void set_directory(unsigned index, uint32_t rva, uint32_t size)
{
    set32(DIRECTORIES + index * 8, rva);
    set32(DIRECTORIES + index * 8 + 4, size);
}

static void set_section(unsigned index, uint32_t size, uint32_t rva, uint32_t at, uint32_t flags)
{
    uint32_t to = SECTIONS + index * 40;
    set32(to + 8, size);
    set32(to + 12, rva);
    set32(to + 16, size);
    set32(to + 20, at);
    set32(to + 36, flags);
}

// .data: import descriptor at 0, lookup table at 0x40, address table at 0x60, names from 0x80; exports from 0x100; a
// pointer to be relocated at 0x200.
static void make_data(void)
{
    set_directory(1, DATA_RVA, 40);
    set32(DATA_AT, DATA_RVA + 0x40);
    set32(DATA_AT + 12, DATA_RVA + 0x80);
    set32(DATA_AT + 16, DATA_RVA + 0x60);
    set64(DATA_AT + 0x40, DATA_RVA + 0x90);
    memcpy(file + DATA_AT + 0x80, "other.dll", 10);
    memcpy(file + DATA_AT + 0x92, "Wanted", 7);

    set_directory(0, DATA_RVA + 0x100, 0x80);
    set32(DATA_AT + 0x100 + 20, 1);                // functions
    set32(DATA_AT + 0x100 + 24, 1);                // names
    set32(DATA_AT + 0x100 + 28, DATA_RVA + 0x130); // addresses
    set32(DATA_AT + 0x100 + 32, DATA_RVA + 0x134); // name pointers
    set32(DATA_AT + 0x100 + 36, DATA_RVA + 0x138); // ordinals
    set32(DATA_AT + 0x130, TEXT_RVA + 0x10);
    set32(DATA_AT + 0x134, DATA_RVA + 0x140);
    memcpy(file + DATA_AT + 0x140, "Wanted", 7);

    set64(DATA_AT + 0x200, PREFERRED + TEXT_RVA + 4);
    set_directory(5, RELOC_RVA, 12);
    set32(RELOC_AT, DATA_RVA);
    set32(RELOC_AT + 4, 12);
    set16(RELOC_AT + 8, 10 << 12 | 0x200);
}

static int set_up(void **state)
{
    (void)state;
    memset(file, 0, sizeof file);
    last_log[0] = 0;
    file[0] = 'M';
    file[1] = 'Z';
    set32(0x3C, HEADER);
    set32(HEADER, 0x4550);
    set16(HEADER + 4, 0x8664);
    set16(HEADER + 6, 3);
    set32(HEADER + 8, 0x11223344);
    set16(HEADER + 20, 240);
    set16(OPTIONAL, 0x20B);
    set32(OPTIONAL + 16, TEXT_RVA);
    set64(OPTIONAL + 24, PREFERRED);
    set32(OPTIONAL + 56, IMAGE_SIZE);
    set32(OPTIONAL + 60, 0x400);
    set32(OPTIONAL + 64, 0x55667788);
    set32(OPTIONAL + 108, 16);
    set_section(0, 0x200, TEXT_RVA, TEXT_AT, 0x60000020);
    set_section(1, 0x400, DATA_RVA, DATA_AT, 0xC0000040);
    set_section(2, 0x100, RELOC_RVA, RELOC_AT, 0x42000040);
    file[TEXT_AT] = 0xC3;
    make_data();
    return 0;
}

static void parse(struct pe *ret)
{
    assert_int_equal(pe_parse(file, sizeof file, "test.dll", ret), PE_OK);
}

static void refused(const char *why)
{
    struct pe pe;
    assert_int_equal(pe_parse(file, sizeof file, "test.dll", &pe), PE_E_FORMAT);
    assert_non_null(strstr(last_log, why));
}

// -------------------------------------------------------------------------------------------------------- refusals --

static void refuses_what_is_no_image(void **state)
{
    (void)state;
    file[0] = 'X';
    refused("no MZ header");
    set_up(NULL);
    set32(HEADER, 0x4551);
    refused("no PE signature");
    set_up(NULL);
    set32(0x3C, sizeof file - 100);
    refused("no PE signature");
    set_up(NULL);
    set32(0x3C, 0xFFFFFFF0);
    refused("no PE signature");
    struct pe pe;
    assert_int_equal(pe_parse(file, 100, "test.dll", &pe), PE_E_FORMAT);
}

static void refuses_other_machines(void **state)
{
    (void)state;
    set16(HEADER + 4, 0x14C);
    refused("another machine");
    set_up(NULL);
    set16(OPTIONAL, 0x10B);
    refused("another machine");
}

static void refuses_impossible_sizes(void **state)
{
    (void)state;
    set32(OPTIONAL + 56, 0x7FFFFFFF);
    refused("impossible sizes");
    set_up(NULL);
    set32(OPTIONAL + 56, 0xFFFFFFFF); // rounding up to a page would make it 0
    refused("impossible sizes");
    set_up(NULL);
    set32(OPTIONAL + 60, sizeof file + 1);
    refused("impossible sizes");
    set_up(NULL);
    set32(OPTIONAL + 60, SECTIONS + 3 * 40 - 1); // the section table is not within the headers
    refused("impossible sizes");
    set_up(NULL);
    set16(HEADER + 6, 0xFFFF);
    refused("impossible sizes");
    set_up(NULL);
    set16(HEADER + 20, 100);
    refused("optional header too short");
    set_up(NULL);
    set32(OPTIONAL + 108, 5);
    refused("optional header too short");
    set_up(NULL);
    set32(OPTIONAL + 16, IMAGE_SIZE);
    refused("entry point outside");
}

static void refuses_bad_sections(void **state)
{
    (void)state;
    set_section(1, 0x400, DATA_RVA, sizeof file - 0x3FF, 0xC0000040);
    refused("beyond the end of the file");
    set_up(NULL);
    set_section(1, 0x400, DATA_RVA, 0xFFFFFF00, 0xC0000040); // start + size wraps in 32 bits
    refused("beyond the end of the file");
    set_up(NULL);
    set_section(1, 0x400, DATA_RVA + 0x200, DATA_AT, 0xC0000040);
    refused("not page-aligned");
    set_up(NULL);
    set_section(1, 0x400, TEXT_RVA, DATA_AT, 0xC0000040);
    refused("overlaps");
    set_up(NULL);
    set_section(2, 0x400, IMAGE_SIZE, RELOC_AT, 0x42000040);
    refused("outside of the image");
    set_up(NULL);
    set_section(0, 0x200, 0, TEXT_AT, 0x60000020); // over the headers
    refused("overlaps");
    set_up(NULL);
    set_section(0, 0x200, TEXT_RVA, TEXT_AT, 0xE0000020);
    refused("both writable and executable");
}

static int load_status(uint8_t *memory)
{
    struct pe pe;
    parse(&pe);
    memset(memory, 0, IMAGE_SIZE);
    return pe_load(&pe, memory);
}

static void refuses_bad_relocations(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    set16(RELOC_AT + 8, 3 << 12 | 0x200);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // a 32-bit relocation in a 64-bit image
    set_up(NULL);
    set32(RELOC_AT, IMAGE_SIZE - 0x1000);
    set16(RELOC_AT + 8, 10 << 12 | 0xFF9);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // its last byte lies behind the image
    set_up(NULL);
    set32(RELOC_AT, 0);
    set16(RELOC_AT + 8, 10 << 12 | 0x3C);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // in the headers
    set_up(NULL);
    set32(RELOC_AT + 4, 7);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // no room for its own header
    set_up(NULL);
    set32(RELOC_AT + 4, 13);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // longer than the directory
    set_up(NULL);
    set_directory(5, 0, 0);
    set16(HEADER + 22, 1);
    assert_int_equal(load_status(memory), PE_E_FORMAT); // stripped
    assert_non_null(strstr(last_log, "stripped"));
    free(memory);
}

// --------------------------------------------------------------------------------------------------------- loading --

static void loads_and_relocates(void **state)
{
    (void)state;
    struct pe pe;
    parse(&pe);
    assert_int_equal(pe.timestamp, 0x11223344);
    assert_int_equal(pe.checksum, 0x55667788);
    assert_int_equal(pe.size_of_image, IMAGE_SIZE);
    assert_int_equal(pe.entry, TEXT_RVA);
    uint8_t *memory = calloc(1, IMAGE_SIZE);
    assert_int_equal(pe_load(&pe, memory), PE_OK);
    uint64_t pointer;
    memcpy(&pointer, memory + DATA_RVA + 0x200, sizeof pointer);
    assert_int_equal(pointer, (uintptr_t)memory + TEXT_RVA + 4);
    assert_int_equal(memory[TEXT_RVA], 0xC3);
    assert_int_equal(memory[TEXT_RVA + 0x200], 0); // what the file does not have stays zero
    free(memory);
}

static void gives_each_page_its_rights(void **state)
{
    (void)state;
    struct pe pe;
    parse(&pe);
    assert_int_equal(pe_page_rights(&pe, 0), 0);
    assert_int_equal(pe_page_rights(&pe, TEXT_RVA), HAL_MAP_EXEC);
    assert_int_equal(pe_page_rights(&pe, DATA_RVA), HAL_MAP_WRITE);
    assert_int_equal(pe_page_rights(&pe, RELOC_RVA), 0);
}

static void moves_without_relocations_unless_stripped(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    set_directory(5, 0, 0);
    assert_int_equal(load_status(memory), PE_OK);
    free(memory);
}

static struct hal_image exporter;
static bool is_there;

static const struct hal_image *find(void *context, const char *name)
{
    assert_ptr_equal(context, &exporter);
    assert_string_equal(name, "other.dll");
    return is_there ? &exporter : NULL;
}

// Loads the image, which exports what it imports, and binds it against itself.
static int bind(uint8_t *memory)
{
    struct pe pe;
    parse(&pe);
    memset(memory, 0, IMAGE_SIZE);
    assert_int_equal(pe_load(&pe, memory), PE_OK);
    exporter.base = (hal_va_t)memory;
    return pe_bind(&pe, memory, find, &exporter);
}

static void binds_by_name(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    is_there = true;
    assert_int_equal(bind(memory), PE_OK);
    uint64_t slot;
    memcpy(&slot, memory + DATA_RVA + 0x60, sizeof slot);
    assert_int_equal(slot, (uintptr_t)memory + TEXT_RVA + 0x10);
    assert_int_equal(pe_export(memory, "Wanted"), (uintptr_t)memory + TEXT_RVA + 0x10);
    assert_int_equal(pe_export(memory, "Wante"), 0);
    set32(DATA_AT, 0); // no lookup table: the address table holds the names
    set64(DATA_AT + 0x60, DATA_RVA + 0x90);
    assert_int_equal(bind(memory), PE_OK);
    free(memory);
}

static void reports_unresolved_imports(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    is_there = false;
    assert_int_equal(bind(memory), PE_E_UNRESOLVED);
    assert_string_equal(last_log, "pe: test.dll imports Wanted from other.dll, which is not loaded\n");
    is_there = true;
    file[DATA_AT + 0x92] = 'H';
    assert_int_equal(bind(memory), PE_E_UNRESOLVED);
    assert_string_equal(last_log, "pe: test.dll imports Hanted from other.dll, which has no such export\n");
    set64(DATA_AT + 0x40, 1ull << 63 | 7);
    assert_int_equal(bind(memory), PE_E_UNRESOLVED);
    assert_non_null(strstr(last_log, "an ordinal"));
    free(memory);
}

static void refuses_bad_import_tables(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    is_there = true;
    set32(DATA_AT, 0xFFFFFFFC);
    assert_int_equal(bind(memory), PE_E_FORMAT);
    set_up(NULL);
    set32(DATA_AT + 16, 0x3C); // would write the headers
    assert_int_equal(bind(memory), PE_E_FORMAT);
    set_up(NULL);
    set32(DATA_AT + 12, IMAGE_SIZE);
    assert_int_equal(bind(memory), PE_E_FORMAT);
    free(memory);
}

static void follows_no_forwarders_and_bad_exports(void **state)
{
    (void)state;
    uint8_t *memory = malloc(IMAGE_SIZE);
    set32(DATA_AT + 0x130, DATA_RVA + 0x120); // inside of the export directory: a forwarder
    assert_int_equal(load_status(memory), PE_OK);
    assert_int_equal(pe_export(memory, "Wanted"), 0);
    set_up(NULL);
    set32(DATA_AT + 0x130, IMAGE_SIZE);
    assert_int_equal(load_status(memory), PE_OK);
    assert_int_equal(pe_export(memory, "Wanted"), 0);
    set_up(NULL);
    set16(DATA_AT + 0x138, 1); // an ordinal beyond the addresses
    assert_int_equal(load_status(memory), PE_OK);
    assert_int_equal(pe_export(memory, "Wanted"), 0);
    set_up(NULL);
    set32(DATA_AT + 0x100 + 24, 0x40000001); // names * 4 wraps in 32 bits
    assert_int_equal(load_status(memory), PE_OK);
    assert_int_equal(pe_export(memory, "Wanted"), 0);
    free(memory);
}

// --------------------------------------------------------------------------------------------------------- archive --

static void put_member(uint32_t at, const char *name, const char *size)
{
    memset(file + at, 0, 512);
    memcpy(file + at, name, strlen(name));
    memcpy(file + at + 124, size, 11);
    memcpy(file + at + 257, "ustar", 5);
}

static void reads_an_archive(void **state)
{
    (void)state;
    struct archive archive = { file, sizeof file };
    const void *data;
    size_t size;
    memset(file, 0, sizeof file);
    put_member(0, "one", "00000000003");
    put_member(1024, "two", "00000001001"); // 513 bytes: two blocks
    put_member(2560, "three", "00000000000");
    assert_int_equal(archive_find(&archive, "two", &data, &size), 0);
    assert_ptr_equal(data, file + 1536);
    assert_int_equal(size, 513);
    assert_int_equal(archive_find(&archive, "three", &data, &size), 0);
    assert_string_equal(archive_name(&archive, 2), "three");
    assert_null(archive_name(&archive, 3));
    assert_int_equal(archive_find(&archive, "four", &data, &size), 1);
}

static void ends_a_damaged_archive(void **state)
{
    (void)state;
    struct archive archive = { file, sizeof file };
    const void *data;
    size_t size;
    memset(file, 0, sizeof file);
    put_member(0, "one", "77777777777");
    assert_int_equal(archive_find(&archive, "one", &data, &size), 1);
    put_member(0, "one", "0000000000x");
    assert_int_equal(archive_find(&archive, "one", &data, &size), 1);
    put_member(0, "one", "00000000003");
    memset(file, 'a', 100); // a name without an end
    assert_null(archive_name(&archive, 0));
    put_member(0, "one", "00000000003");
    archive.size = 514; // one byte of the member is missing
    assert_int_equal(archive_find(&archive, "one", &data, &size), 1);
    archive.size = 515;
    assert_int_equal(archive_find(&archive, "one", &data, &size), 0);
    assert_null(archive_name(&archive, 1));
    archive.size = 511;
    assert_null(archive_name(&archive, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(refuses_what_is_no_image, set_up),
        cmocka_unit_test_setup(refuses_other_machines, set_up),
        cmocka_unit_test_setup(refuses_impossible_sizes, set_up),
        cmocka_unit_test_setup(refuses_bad_sections, set_up),
        cmocka_unit_test_setup(refuses_bad_relocations, set_up),
        cmocka_unit_test_setup(loads_and_relocates, set_up),
        cmocka_unit_test_setup(gives_each_page_its_rights, set_up),
        cmocka_unit_test_setup(moves_without_relocations_unless_stripped, set_up),
        cmocka_unit_test_setup(binds_by_name, set_up),
        cmocka_unit_test_setup(reports_unresolved_imports, set_up),
        cmocka_unit_test_setup(refuses_bad_import_tables, set_up),
        cmocka_unit_test_setup(follows_no_forwarders_and_bad_exports, set_up),
        cmocka_unit_test(reads_an_archive),
        cmocka_unit_test(ends_a_damaged_archive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
