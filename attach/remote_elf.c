// SPDX-License-Identifier: MIT
#include "attach/remote_elf.h"

#include <elf.h>
#include <string.h>

// libc has 14 program headers and 30 dynamic entries; a chain has as many symbols as share a bucket, a handful.
#define SEGMENTS_MAX 64u
#define DYNAMIC_MAX 256u
#define CHAIN_MAX 65536u
#define NAME_MAX_LEN 64u

struct tables {
	uint64_t bias;
	uint64_t symbols, strings, strings_size, hash;
};

struct hash_head {
	uint32_t bucket_count, first_symbol, bloom_count, bloom_shift;
};

static bool read_at(const struct remote_object *o, uint64_t address, void *ret, size_t len)
{
	return address >= o->start && address <= o->end && len <= o->end - address && o->read(o->arg, address, ret, len);
}

static bool is_header_ours(const Elf64_Ehdr *h)
{
	return memcmp(h->e_ident, ELFMAG, SELFMAG) == 0 && h->e_ident[EI_CLASS] == ELFCLASS64 && h->e_ident[EI_DATA] == ELFDATA2LSB &&
	       h->e_machine == EM_X86_64 && h->e_type == ET_DYN && h->e_phentsize == sizeof(Elf64_Phdr) && h->e_phnum <= SEGMENTS_MAX;
}

// Where the dynamic section is, and what to add to the file's addresses.
static int read_header(const struct remote_object *o, uint64_t *ret_bias, uint64_t *ret_dynamic)
{
	uint64_t first = UINT64_MAX, dynamic = UINT64_MAX;
	Elf64_Ehdr head;
	Elf64_Phdr p;

	if (!read_at(o, o->start, &head, sizeof(head)))
		return REMOTE_ELF_E_READ;
	if (!is_header_ours(&head) || head.e_phoff > o->end - o->start)
		return REMOTE_ELF_E_FORMAT;
	for (unsigned i = 0; i < head.e_phnum; i++) {
		if (!read_at(o, o->start + head.e_phoff + i * sizeof(p), &p, sizeof(p)))
			return REMOTE_ELF_E_READ;
		if (p.p_type == PT_LOAD && first == UINT64_MAX)
			first = p.p_vaddr;
		if (p.p_type == PT_DYNAMIC)
			dynamic = p.p_vaddr;
	}
	if (first == UINT64_MAX || dynamic == UINT64_MAX)
		return REMOTE_ELF_E_FORMAT;
	*ret_bias = o->start - first;
	*ret_dynamic = *ret_bias + dynamic;
	return REMOTE_ELF_OK;
}

// The dynamic linker has added the bias already; musl's has not. read_at refuses what is neither.
static uint64_t address_of(const struct remote_object *o, uint64_t bias, uint64_t value)
{
	return value >= o->start && value < o->end ? value : bias + value;
}

static int read_tables(const struct remote_object *o, struct tables *ret)
{
	struct tables t = { 0 };
	uint64_t at = 0;
	Elf64_Dyn d = { .d_tag = DT_NULL };
	int outcome = read_header(o, &t.bias, &at);

	for (unsigned i = 0; !outcome && i < DYNAMIC_MAX; i++) {
		if (!read_at(o, at + i * sizeof(d), &d, sizeof(d)))
			return REMOTE_ELF_E_READ;
		if (d.d_tag == DT_NULL)
			break;
		if (d.d_tag == DT_SYMTAB)
			t.symbols = address_of(o, t.bias, d.d_un.d_ptr);
		else if (d.d_tag == DT_STRTAB)
			t.strings = address_of(o, t.bias, d.d_un.d_ptr);
		else if (d.d_tag == DT_STRSZ)
			t.strings_size = d.d_un.d_val;
		else if (d.d_tag == DT_GNU_HASH)
			t.hash = address_of(o, t.bias, d.d_un.d_ptr);
	}
	if (!outcome && (!t.symbols || !t.strings || !t.hash))
		outcome = REMOTE_ELF_E_FORMAT;
	if (!outcome)
		*ret = t;
	return outcome;
}

static uint32_t gnu_hash(const char *name)
{
	uint32_t h = 5381;

	for (; *name; name++)
		h = h * 33 + (uint8_t)*name;
	return h;
}

static bool is_named(const struct remote_object *o, const struct tables *t, const Elf64_Sym *symbol, const char *name)
{
	char there[NAME_MAX_LEN];
	size_t size = strlen(name) + 1;

	return size <= sizeof(there) && symbol->st_name <= t->strings_size && size <= t->strings_size - symbol->st_name &&
	       read_at(o, t->strings + symbol->st_name, there, size) && memcmp(there, name, size) == 0;
}

static bool is_function(const Elf64_Sym *s)
{
	return ELF64_ST_TYPE(s->st_info) == STT_FUNC && s->st_shndx != SHN_UNDEF && s->st_value;
}

// The symbols of one bucket stand one behind the other, with their hashes at `hashes`; the last one's has bit 0 set.
static int walk_chain(const struct remote_object *o, const struct tables *t, uint64_t hashes, uint32_t first, uint32_t index, const char *name, uint64_t *ret)
{
	uint32_t wanted = gnu_hash(name), hash;
	Elf64_Sym symbol;

	for (uint32_t n = 0; n < CHAIN_MAX; n++) {
		uint64_t i = (uint64_t)index + n;

		if (!read_at(o, hashes + (i - first) * sizeof(hash), &hash, sizeof(hash)))
			return REMOTE_ELF_E_READ;
		if ((hash | 1) == (wanted | 1)) {
			if (!read_at(o, t->symbols + i * sizeof(symbol), &symbol, sizeof(symbol)))
				return REMOTE_ELF_E_READ;
			if (is_function(&symbol) && is_named(o, t, &symbol, name)) {
				uint64_t address = t->bias + symbol.st_value;

				if (address < o->start || address >= o->end)
					return REMOTE_ELF_E_FORMAT;
				*ret = address;
				return REMOTE_ELF_OK;
			}
		}
		if (hash & 1)
			return REMOTE_ELF_E_SYMBOL;
	}
	return REMOTE_ELF_E_FORMAT;
}

int remote_elf_find(const struct remote_object *o, const char *symbol, uint64_t *ret)
{
	struct tables t;
	struct hash_head head;
	uint64_t buckets;
	uint32_t index;
	int outcome = read_tables(o, &t);

	if (outcome)
		return outcome;
	if (!read_at(o, t.hash, &head, sizeof(head)))
		return REMOTE_ELF_E_READ;
	if (!head.bucket_count)
		return REMOTE_ELF_E_SYMBOL;
	buckets = t.hash + sizeof(head) + (uint64_t)head.bloom_count * sizeof(uint64_t);
	if (!read_at(o, buckets + (uint64_t)(gnu_hash(symbol) % head.bucket_count) * sizeof(index), &index, sizeof(index)))
		return REMOTE_ELF_E_READ;
	if (!index)
		return REMOTE_ELF_E_SYMBOL;
	if (index < head.first_symbol)
		return REMOTE_ELF_E_FORMAT;
	return walk_chain(o, &t, buckets + (uint64_t)head.bucket_count * sizeof(index), head.first_symbol, index, symbol, ret);
}
