// SPDX-License-Identifier: MIT
#include "console/exports.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

// PE, as far as the export directory needs it (Microsoft's PE format).
#define PE_POINTER_AT 0x3Cu
#define PE_POINTER_MAX 0x400u
#define PE_OPTIONAL_AT 0x18u // behind "PE\0\0" and the file header
#define PE32_MAGIC 0x10Bu
#define PE32_EXPORTS_AT 96u  // in the optional header
#define PE64_MAGIC 0x20Bu
#define PE64_EXPORTS_AT 112u
#define DIRECTORY_SIZE 40u
#define FUNCTION_COUNT_AT 0x14u
#define NAME_COUNT_AT 0x18u
#define FUNCTIONS_AT 0x1Cu
#define NAMES_AT 0x20u
#define ORDINALS_AT 0x24u

struct export {
	uint32_t rva;
	const char *name; // in exports.text
};

struct exports {
	struct export *entries; // by rva
	size_t count;
	char *text; // a copy of the directory, with a NUL behind it
};

static uint32_t load32(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

// ---- from bytes ----------------------------------------------------------------------------------------------------------------

struct directory {
	const uint8_t *bytes;
	uint32_t len, rva;
};

// The table of `count` elements of `size` bytes at `rva`, or NULL when it does not lie in the directory.
static const uint8_t *table_at(const struct directory *directory, uint32_t rva, uint64_t count, uint32_t size)
{
	uint64_t offset = (uint64_t)rva - directory->rva;

	if (rva < directory->rva || offset > directory->len || count * size > directory->len - offset)
		return NULL;
	return directory->bytes + offset;
}

static bool is_plain(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (name[i] <= 0x20 || name[i] >= 0x7F)
			return false;
	return len > 0 && len < EXPORTS_NAME_MAX;
}

static int compare(const void *a, const void *b)
{
	const struct export *x = a, *y = b;
	return x->rva < y->rva ? -1 : x->rva > y->rva;
}

static void add(struct exports *exports, const struct directory *directory, uint32_t name_rva, uint32_t function_rva)
{
	const uint8_t *name = table_at(directory, name_rva, 1, 1);
	bool is_forwarder = function_rva >= directory->rva && function_rva - directory->rva < directory->len;

	if (!name || is_forwarder)
		return;
	const char *text = exports->text + (name - directory->bytes);
	if (is_plain(text, strnlen(text, EXPORTS_NAME_MAX)))
		exports->entries[exports->count++] = (struct export){ .rva = function_rva, .name = text };
}

static void collect(struct exports *exports, const struct directory *directory)
{
	uint32_t function_count = load32(directory->bytes + FUNCTION_COUNT_AT), name_count = load32(directory->bytes + NAME_COUNT_AT);
	const uint8_t *functions = table_at(directory, load32(directory->bytes + FUNCTIONS_AT), function_count, 4);
	const uint8_t *names = table_at(directory, load32(directory->bytes + NAMES_AT), name_count, 4);
	const uint8_t *ordinals = table_at(directory, load32(directory->bytes + ORDINALS_AT), name_count, 2);

	if (!functions || !names || !ordinals)
		return;
	exports->entries = calloc(name_count ? name_count : 1, sizeof(*exports->entries));
	if (!exports->entries)
		return;
	for (uint32_t i = 0; i < name_count; i++) {
		uint32_t index = (uint32_t)(ordinals[2 * i] | ordinals[2 * i + 1] << 8);
		if (index < function_count)
			add(exports, directory, load32(names + 4 * i), load32(functions + 4 * index));
	}
	qsort(exports->entries, exports->count, sizeof(*exports->entries), compare);
}

struct exports *exports_parse(const uint8_t *bytes, uint32_t len, uint32_t rva)
{
	struct directory directory = { .bytes = bytes, .len = len, .rva = rva };
	struct exports *exports = calloc(1, sizeof(*exports));

	if (!exports)
		return NULL;
	exports->text = malloc((size_t)len + 1);
	if (!exports->text) {
		free(exports);
		return NULL;
	}
	memcpy(exports->text, bytes, len);
	exports->text[len] = '\0';
	if (len >= DIRECTORY_SIZE)
		collect(exports, &directory);
	return exports;
}

void exports_destroy(struct exports *exports)
{
	if (!exports)
		return;
	free(exports->entries);
	free(exports->text);
	free(exports);
}

size_t exports_count(const struct exports *exports)
{
	return exports->count;
}

bool exports_find(const struct exports *exports, const char *name, uint32_t *ret_rva)
{
	for (size_t i = 0; i < exports->count; i++)
		if (strcasecmp(exports->entries[i].name, name) == 0) {
			*ret_rva = exports->entries[i].rva;
			return true;
		}
	return false;
}

const char *exports_nearest(const struct exports *exports, uint32_t rva, uint32_t *ret_offset)
{
	size_t low = 0, high = exports->count;

	while (low < high) { // the first above rva
		size_t middle = low + (high - low) / 2;
		if (exports->entries[middle].rva <= rva)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	*ret_offset = rva - exports->entries[low - 1].rva;
	return exports->entries[low - 1].name;
}

// ---- from a target -------------------------------------------------------------------------------------------------------------

// Where the image says that its export directory is; size 0 = nowhere.
static struct vmkd_error *locate(struct vmkd_target *target, uint64_t base, uint32_t *ret_rva, uint32_t *ret_size)
{
	uint8_t head[PE_POINTER_AT + 4], pe[PE_OPTIONAL_AT + PE64_EXPORTS_AT + 8];
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, base, head, sizeof(head), NULL);

	*ret_size = 0;
	if (error || head[0] != 'M' || head[1] != 'Z' || load32(head + PE_POINTER_AT) > PE_POINTER_MAX)
		return error;
	error = vmkd_target_read(target, VMKD_VIRTUAL, base + load32(head + PE_POINTER_AT), pe, sizeof(pe), NULL);
	if (error || memcmp(pe, "PE\0\0", 4) != 0)
		return error;
	uint32_t magic = (uint32_t)(pe[PE_OPTIONAL_AT] | pe[PE_OPTIONAL_AT + 1] << 8);
	if (magic != PE32_MAGIC && magic != PE64_MAGIC)
		return NULL;
	const uint8_t *entry = pe + PE_OPTIONAL_AT + (magic == PE32_MAGIC ? PE32_EXPORTS_AT : PE64_EXPORTS_AT);
	*ret_rva = load32(entry);
	*ret_size = load32(entry + 4);
	return NULL;
}

static struct vmkd_error *read_directory(struct vmkd_target *target, uint64_t base, uint8_t **ret, uint32_t *ret_rva, uint32_t *ret_len)
{
	uint32_t rva, size;
	size_t done = 0;
	struct vmkd_error *error = locate(target, base, &rva, &size);

	if (error || size == 0 || size > EXPORTS_SIZE_MAX)
		return error;
	uint8_t *bytes = malloc(size);
	if (!bytes)
		return vmkd_error_create(VMKD_E_NO_MEMORY, "no memory for the names of %x bytes that a module exports", size);
	error = vmkd_target_read(target, VMKD_VIRTUAL, base + rva, bytes, size, &done);
	*ret = bytes;
	*ret_rva = rva;
	*ret_len = (uint32_t)done;
	return error;
}

struct vmkd_error *exports_read(struct vmkd_target *target, uint64_t base, struct exports **ret)
{
	uint8_t *bytes = NULL;
	uint32_t rva = 0, len = 0;
	struct vmkd_error *error = read_directory(target, base, &bytes, &rva, &len);

	if (error && error->code == VMKD_E_FAULT) { // paged out in part: what came is of use only if the tables are in it
		vmkd_error_destroy(error);
		error = NULL;
	}
	struct exports *exports = error ? NULL : exports_parse(bytes ? bytes : (const uint8_t *)"", len, rva);
	free(bytes);
	if (!error && !exports)
		return vmkd_error_create(VMKD_E_NO_MEMORY, "no memory for the names that a module exports");
	if (!error)
		*ret = exports;
	return error;
}
