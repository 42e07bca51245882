// SPDX-License-Identifier: MIT
// PsLoadedModuleList, read as what it is: memory of a kernel that may be broken or hostile. KD reference, section 7.4.
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "target/error.h"
#include "target/target.h"
#include "wire/le.h"

#define MODULES_MAX 2048u    // Windows 11 has some 300
#define NAME_CHARS_MAX 512u  // UTF-16 units read of a name
#define NAME_BYTES_MAX (NAME_CHARS_MAX * 3 + 1)
#define PE_POINTER_AT 0x3Cu  // e_lfanew
#define PE_HEADER_MAX 0x400u // where real images have their PE header
#define PE_STAMP_AT 8u       // TimeDateStamp, behind "PE\0\0", Machine, NumberOfSections

struct entry {
	struct vmkd_module module; // its strings are the entry's own
	uint64_t link;             // address of the loader entry
};

struct vmkd_modules {
	struct entry *entries;
	size_t count, capacity;
	char *problem;
};

// ---- list ----------------------------------------------------------------------------------------------------------------------

void vmkd_modules_destroy(struct vmkd_modules *modules)
{
	if (!modules)
		return;
	for (size_t i = 0; i < modules->count; i++) {
		free((char *)modules->entries[i].module.name);
		free((char *)modules->entries[i].module.short_name);
		free((char *)modules->entries[i].module.path);
	}
	free(modules->entries);
	free(modules->problem);
	free(modules);
}

// The first problem is the one that explains the others.
__attribute__((format(printf, 2, 3))) static void set_problem(struct vmkd_modules *modules, const char *format, ...)
{
	va_list ap;

	if (modules->problem)
		return;
	va_start(ap, format);
	if (vasprintf(&modules->problem, format, ap) < 0)
		modules->problem = NULL;
	va_end(ap);
}

static bool has_link(const struct vmkd_modules *modules, uint64_t link)
{
	for (size_t i = 0; i < modules->count; i++)
		if (modules->entries[i].link == link)
			return true;
	return false;
}

static bool add(struct vmkd_modules *modules, const struct entry *entry)
{
	if (modules->count == modules->capacity) {
		size_t capacity = modules->capacity ? modules->capacity * 2 : 64;
		struct entry *entries = reallocarray(modules->entries, capacity, sizeof(*entries));
		if (!entries)
			return false;
		modules->entries = entries;
		modules->capacity = capacity;
	}
	modules->entries[modules->count++] = *entry;
	return true;
}

// ---- names ---------------------------------------------------------------------------------------------------------------------

static size_t put_utf8(char *to, uint32_t c)
{
	if (c < 0x80) {
		to[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		to[0] = (char)(0xC0 | c >> 6);
		to[1] = (char)(0x80 | (c & 0x3F));
		return 2;
	}
	to[0] = (char)(0xE0 | c >> 12);
	to[1] = (char)(0x80 | (c >> 6 & 0x3F));
	to[2] = (char)(0x80 | (c & 0x3F));
	return 3;
}

// UTF-16LE as UTF-8, at most NAME_BYTES_MAX with its NUL. Control characters and halves of surrogate pairs become '?': such a name is
// damage or an attack, and goes to a terminal next.
static void narrow(const uint8_t *utf16, size_t units, char ret[NAME_BYTES_MAX])
{
	size_t at = 0;

	for (size_t i = 0; i < units; i++) {
		uint32_t c = get_le16(utf16 + 2 * i);
		if (c == 0)
			break;
		if (c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0xD800 && c < 0xE000))
			c = '?';
		at += put_utf8(ret + at, c);
	}
	ret[at] = '\0';
}

// A name that cannot be read is no reason to lose the module. *ret = NULL only when memory is out.
static struct vmkd_error *read_name(struct vmkd_target *target, struct vmkd_modules *modules, uint64_t link, const struct kd_unicode *name,
				    char **ret)
{
	uint8_t utf16[NAME_CHARS_MAX * 2];
	char text[NAME_BYTES_MAX] = "";
	size_t len = name->len < sizeof(utf16) ? name->len : sizeof(utf16), done = 0;
	struct vmkd_error *error = NULL;

	if (name->len > sizeof(utf16))
		set_problem(modules, "the entry at %" PRIx64 " has a name of %u bytes; %zu are shown", link, name->len, sizeof(utf16));
	if (len > 0)
		error = vmkd_target_read(target, VMKD_VIRTUAL, name->buffer, utf16, len, &done);
	if (error && error->code != VMKD_E_FAULT)
		return error;
	if (error)
		set_problem(modules, "the name of the entry at %" PRIx64 " cannot be read: %s", link, error->message);
	vmkd_error_destroy(error);
	narrow(utf16, done / 2, text);
	*ret = strdup(text);
	return *ret ? NULL : error_no_memory();
}

// "ntoskrnl.exe" -> "nt" for the first entry, the kernel, whatever its file is called; else the name without its extension.
static char *shorten(const char *name, bool is_kernel)
{
	const char *dot = strrchr(name, '.');

	if (is_kernel)
		return strdup("nt");
	return strndup(name, dot && dot != name ? (size_t)(dot - name) : strlen(name));
}

// ---- entries -------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *fill(struct vmkd_target *target, struct vmkd_modules *modules, const struct kd_module *from, struct entry *entry)
{
	char *name = NULL, *path = NULL, *short_name = NULL;
	struct vmkd_error *error = read_name(target, modules, entry->link, &from->base_name, &name);

	if (!error)
		error = read_name(target, modules, entry->link, &from->full_name, &path);
	if (!error && !(short_name = shorten(name, modules->count == 0)))
		error = error_no_memory();
	entry->module.name = name;
	entry->module.path = path;
	entry->module.short_name = short_name;
	entry->module.entry = entry->link;
	entry->module.base = target_address_out(target, from->base);
	entry->module.size = from->image_size;
	entry->module.checksum = from->checksum;
	if (!error && !add(modules, entry))
		error = error_no_memory();
	if (error) {
		free(name);
		free(path);
		free(short_name);
	}
	return error;
}

// A pointer pair of the target. *ret_flink in the plain form.
static struct vmkd_error *read_head(struct vmkd_target *target, uint64_t head, uint64_t *ret_flink)
{
	uint8_t bytes[8];
	size_t size = target_is_x86(target) ? 4 : 8;
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, head, bytes, size, NULL);

	if (!error)
		*ret_flink = size == 4 ? get_le32(bytes) : get_le64(bytes);
	return error;
}

// One entry. *link moves on, or becomes 0 when the walk must end.
static struct vmkd_error *read_entry(struct vmkd_target *target, struct vmkd_modules *modules, uint64_t *link)
{
	uint8_t bytes[KD_MODULE_SIZE_X64];
	size_t size = target_is_x86(target) ? KD_MODULE_SIZE_X86 : KD_MODULE_SIZE_X64;
	struct entry entry = { .link = *link };
	struct kd_module module;
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, *link, bytes, size, NULL);

	*link = 0;
	if (error && error->code == VMKD_E_FAULT) {
		set_problem(modules, "the list breaks off behind %zu modules: %s", modules->count, error->message);
		vmkd_error_destroy(error);
		return NULL;
	}
	if (error)
		return error;
	int outcome = kd_module_decode(bytes, size, target->version.machine, &module);
	if (outcome != KD_OK) {
		set_problem(modules, "the entry at %" PRIx64 ", behind %zu modules, is damaged (%d)", entry.link, modules->count, outcome);
		return NULL;
	}
	*link = target_address_out(target, module.flink);
	return fill(target, modules, &module, &entry);
}

static struct vmkd_error *walk(struct vmkd_target *target, struct vmkd_modules *modules)
{
	uint64_t head = target->version.module_list, link;
	struct vmkd_error *error = read_head(target, head, &link);

	while (!error && link != head && link != 0) {
		if (has_link(modules, link)) {
			set_problem(modules, "the list runs in a circle: behind %zu modules it comes back to %" PRIx64, modules->count, link);
			break;
		}
		if (modules->count == MODULES_MAX) {
			set_problem(modules, "the list has more than %u modules; the rest is not read", MODULES_MAX);
			break;
		}
		error = read_entry(target, modules, &link);
	}
	if (!error && link == 0)
		set_problem(modules, "the list ends with a null pointer behind %zu modules", modules->count);
	return error;
}

struct vmkd_error *vmkd_modules_read(struct vmkd_target *target, struct vmkd_modules **ret)
{
	struct vmkd_error *error = target_learn(target);

	if (error)
		return error;
	if (target->version.module_list == 0)
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "this kernel does not say where its list of modules is");
	struct vmkd_modules *modules = calloc(1, sizeof(*modules));
	if (!modules)
		return error_no_memory();
	error = walk(target, modules);
	if (error) {
		vmkd_modules_destroy(modules);
		return error;
	}
	*ret = modules;
	return NULL;
}

// ---- headers -------------------------------------------------------------------------------------------------------------------

struct vmkd_error *vmkd_module_timestamp(struct vmkd_target *target, uint64_t base, uint32_t *ret)
{
	uint8_t bytes[64], header[PE_STAMP_AT + 4];
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, base, bytes, sizeof(bytes), NULL);

	if (error)
		return error;
	uint32_t at = get_le32(bytes + PE_POINTER_AT);
	if (bytes[0] != 'M' || bytes[1] != 'Z' || at > PE_HEADER_MAX)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no PE image at %" PRIx64, base);
	error = vmkd_target_read(target, VMKD_VIRTUAL, base + at, header, sizeof(header), NULL);
	if (error)
		return error;
	if (memcmp(header, "PE\0\0", 4) != 0)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "there is no PE header at %" PRIx64, base + at);
	*ret = get_le32(header + PE_STAMP_AT);
	return NULL;
}

// ---- questions -----------------------------------------------------------------------------------------------------------------

size_t vmkd_modules_count(const struct vmkd_modules *modules)
{
	return modules->count;
}

const struct vmkd_module *vmkd_modules_at(const struct vmkd_modules *modules, size_t index)
{
	return index < modules->count ? &modules->entries[index].module : NULL;
}

const struct vmkd_module *vmkd_modules_find_address(const struct vmkd_modules *modules, uint64_t address)
{
	for (size_t i = 0; i < modules->count; i++) {
		const struct vmkd_module *module = &modules->entries[i].module;
		if (address - module->base < module->size)
			return module;
	}
	return NULL;
}

const struct vmkd_module *vmkd_modules_find_name(const struct vmkd_modules *modules, const char *name)
{
	for (size_t i = 0; i < modules->count; i++) {
		const struct vmkd_module *module = &modules->entries[i].module;
		if (strcasecmp(name, module->short_name) == 0 || strcasecmp(name, module->name) == 0)
			return module;
	}
	return NULL;
}

const char *vmkd_modules_problem(const struct vmkd_modules *modules)
{
	return modules->problem;
}
