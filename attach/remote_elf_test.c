// SPDX-License-Identifier: MIT
// A library's symbols from its memory: of this very process's C library, and of small images in which one thing is wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "attach/remote_elf.h"

#define BASE 0x7F0000000000u
#define SYMBOL "dlopen"

// What a linker makes of one exported function, "dlopen", and one imported one.
struct image {
	Elf64_Ehdr head;
	Elf64_Phdr segments[2];
	Elf64_Dyn dynamic[5];
	Elf64_Sym symbols[3];
	uint32_t hash[4];    // buckets, first symbol, bloom words, shift
	uint64_t bloom;
	uint32_t bucket, chain[2];
	char strings[32];
	uint8_t code[16];
};

struct fixture {
	struct image image;
	struct remote_object object;
	bool is_ended; // reading fails
};

static bool read_image(void *arg, uint64_t address, void *ret, size_t len)
{
	struct fixture *f = arg;
	if (f->is_ended)
		return false;
	assert_true(address >= BASE && address - BASE <= sizeof(f->image) && len <= sizeof(f->image) - (address - BASE)); // never outside
	memcpy(ret, (uint8_t *)&f->image + (address - BASE), len);
	return true;
}

static uint32_t hash_of(const char *name)
{
	uint32_t h = 5381;
	for (; *name; name++)
		h = h * 33 + (uint8_t)*name;
	return h;
}

static struct fixture fixture(void)
{
	struct fixture f = { .object = { .start = BASE, .end = BASE + sizeof(struct image), .read = read_image } };
	struct image *i = &f.image;
	memcpy(i->head.e_ident, ELFMAG, SELFMAG);
	i->head.e_ident[EI_CLASS] = ELFCLASS64;
	i->head.e_ident[EI_DATA] = ELFDATA2LSB;
	i->head.e_type = ET_DYN;
	i->head.e_machine = EM_X86_64;
	i->head.e_phoff = offsetof(struct image, segments);
	i->head.e_phentsize = sizeof(Elf64_Phdr);
	i->head.e_phnum = 2;
	i->segments[0] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_memsz = sizeof(*i) };
	i->segments[1] = (Elf64_Phdr){ .p_type = PT_DYNAMIC, .p_vaddr = offsetof(struct image, dynamic) };
	i->dynamic[0] = (Elf64_Dyn){ .d_tag = DT_SYMTAB, .d_un.d_ptr = BASE + offsetof(struct image, symbols) }; // glibc has added the base
	i->dynamic[1] = (Elf64_Dyn){ .d_tag = DT_STRTAB, .d_un.d_ptr = offsetof(struct image, strings) };        // musl has not
	i->dynamic[2] = (Elf64_Dyn){ .d_tag = DT_STRSZ, .d_un.d_val = sizeof(i->strings) };
	i->dynamic[3] = (Elf64_Dyn){ .d_tag = DT_GNU_HASH, .d_un.d_ptr = offsetof(struct image, hash) };
	memcpy(i->strings, "\0dlopen\0dlopenx", 15);
	i->symbols[1] = (Elf64_Sym){ .st_name = 8, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 1, .st_value = 1 };
	i->symbols[2] = (Elf64_Sym){ .st_name = 1, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 1, .st_value = offsetof(struct image, code) };
	i->hash[0] = 1;
	i->hash[1] = 1;
	i->hash[2] = 1;
	i->bucket = 1;
	i->chain[0] = hash_of("dlopen") & ~1u; // the same hash, another name
	i->chain[1] = hash_of("dlopen") | 1;
	return f;
}

static int find(struct fixture *f, uint64_t *ret)
{
	f->object.arg = f;
	return remote_elf_find(&f->object, SYMBOL, ret);
}

static void assert_outcome(struct fixture f, int outcome)
{
	uint64_t address = 42;
	assert_int_equal(find(&f, &address), outcome);
	assert_int_equal(address, 42);
}

static void a_function_is_found(void **state)
{
	struct fixture f = fixture();
	uint64_t address = 0;
	(void)state;
	assert_int_equal(find(&f, &address), REMOTE_ELF_OK);
	assert_int_equal(address, BASE + offsetof(struct image, code));
}

static void headers_of_others_are_refused(void **state)
{
	(void)state;
	struct fixture f = fixture();
	f.image.head.e_ident[0] = 'M';
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.head.e_ident[EI_CLASS] = ELFCLASS32;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.head.e_machine = EM_AARCH64;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.head.e_phnum = 65;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.head.e_phentsize = 32;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.head.e_phoff = UINT64_MAX - 8;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.segments[1].p_type = PT_NULL;
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.object.end = BASE + 32;
	assert_outcome(f, REMOTE_ELF_E_READ);
}

static void tables_elsewhere_are_refused(void **state)
{
	(void)state;
	struct fixture f = fixture();
	f.image.segments[1].p_vaddr = 0x10000000;
	assert_outcome(f, REMOTE_ELF_E_READ);
	f = fixture();
	f.image.dynamic[0].d_un.d_ptr = 0x10000000;
	assert_outcome(f, REMOTE_ELF_E_READ);
	f = fixture();
	f.image.dynamic[3].d_un.d_ptr = sizeof(struct image) - 8;
	assert_outcome(f, REMOTE_ELF_E_READ);
	f = fixture();
	f.image.dynamic[3].d_tag = DT_HASH; // the old one is not read
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.hash[2] = UINT32_MAX;
	assert_outcome(f, REMOTE_ELF_E_READ);
	f = fixture();
	f.image.bucket = 0x40000000;
	assert_outcome(f, REMOTE_ELF_E_READ);
	f = fixture();
	f.image.chain[1] &= ~1u; // the chain goes on behind its end
	f.image.symbols[2].st_shndx = SHN_UNDEF;
	f.object.end = BASE + offsetof(struct image, strings);
	assert_outcome(f, REMOTE_ELF_E_READ);
}

static void what_is_no_such_function_is_not_found(void **state)
{
	(void)state;
	struct fixture f = fixture();
	f.image.hash[0] = 0;
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.bucket = 0;
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.hash[1] = 2; // the bucket's symbol is before the first
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.image.symbols[2].st_shndx = SHN_UNDEF;
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.symbols[2].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_GNU_IFUNC); // its value is not the function
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.symbols[2].st_name = 8;
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.symbols[2].st_name = UINT32_MAX;
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.dynamic[2].d_un.d_val = 4; // the strings end in the name
	assert_outcome(f, REMOTE_ELF_E_SYMBOL);
	f = fixture();
	f.image.symbols[2].st_value = sizeof(struct image);
	assert_outcome(f, REMOTE_ELF_E_FORMAT);
	f = fixture();
	f.is_ended = true;
	assert_outcome(f, REMOTE_ELF_E_READ);
}

// ---- This process ------------------------------------------------------------------------------------------

static bool read_self(void *arg, uint64_t address, void *ret, size_t len)
{
	(void)arg;
	memcpy(ret, (void *)(uintptr_t)address, len);
	return true;
}

static int find_libc(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct remote_object *o = arg;
	(void)size;
	if (!strstr(info->dlpi_name, "libc.so."))
		return 0;
	o->start = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD)
			o->end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
	return 1;
}

static void our_own_c_library_says_what_dlsym_says(void **state)
{
	static const char *const names[] = { "dlopen", "malloc", "ioctl", "getpid", "poll" };
	struct remote_object libc = { .read = read_self };
	uint64_t address = 0;
	void *handle = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	(void)state;
	assert_int_equal(dl_iterate_phdr(find_libc, &libc), 1);
	assert_non_null(handle);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(remote_elf_find(&libc, names[i], &address), REMOTE_ELF_OK);
		assert_ptr_equal((void *)(uintptr_t)address, dlsym(handle, names[i]));
	}
	assert_int_equal(remote_elf_find(&libc, "dlopen_no_such", &address), REMOTE_ELF_E_SYMBOL);
	dlclose(handle);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_of_others_are_refused),
		cmocka_unit_test(tables_elsewhere_are_refused),
		cmocka_unit_test(what_is_no_such_function_is_not_found),
		cmocka_unit_test(a_function_is_found),
		cmocka_unit_test(our_own_c_library_says_what_dlsym_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
