// SPDX-License-Identifier: MIT
#include "setup/windows.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "setup/hive.h"
#include "setup/files.h"
#include "util/cleanup.h"

#define KERNEL_MAX (64u << 20)
#define SIGNATURE_DIRECTORY 4u

// ---- PE ------------------------------------------------------------------------------------------------------

static bool pe_header(const struct bytes *image, size_t *ret)
{
	size_t at;

	if (image->len < 64 || memcmp(image->data, "MZ", 2) != 0)
		return false;
	at = bytes_le32(image->data + 60);
	if (at > image->len || image->len - at < 24 + 2 || memcmp(image->data + at, "PE\0", 4) != 0)
		return false;
	*ret = at;
	return true;
}

bool windows_pe_machine(const struct bytes *image, uint16_t *ret)
{
	size_t at;

	if (!pe_header(image, &at))
		return false;
	*ret = bytes_le16(image->data + at + 4);
	return true;
}

bool windows_pe_is_signed(const struct bytes *image)
{
	size_t at;

	if (!pe_header(image, &at))
		return false;
	size_t directories = at + 24 + (bytes_le16(image->data + at + 24) == 0x20b ? 112 : 96), entry = directories + 8 * SIGNATURE_DIRECTORY;
	return entry + 8 <= image->len && bytes_le32(image->data + directories - 4) > SIGNATURE_DIRECTORY && bytes_le32(image->data + entry + 4) > 0;
}

// ---- The registry's word -------------------------------------------------------------------------------------

bool windows_generation_of(unsigned build, enum windows_generation *ret)
{
	if (build < 2600)
		return false;
	*ret = build < 6000 ? WINDOWS_XP : build < 9200 ? WINDOWS_VISTA : build < 22000 ? WINDOWS_8 : WINDOWS_11;
	return true;
}

static struct error *read_version(hive_h *h, void *arg)
{
	struct windows *w = arg;
	hive_node_h node = hive_find(h, hivex_root(h), "Microsoft\\Windows NT\\CurrentVersion");
	char *build = hive_string(h, node, "CurrentBuildNumber"), *product = hive_string(h, node, "ProductName");

	w->build = build ? (unsigned)strtoul(build, NULL, 10) : 0;
	for (size_t i = 0; product && product[i] && i + 1 < sizeof(w->product); i++)
		w->product[i] = product[i] >= ' ' && product[i] <= '~' ? product[i] : '?'; // it goes to a terminal
	free(build);
	free(product);
	return windows_generation_of(w->build, &w->generation) ? NULL : error_create(ENOTSUP, "its build number is %u; expected 2600 (XP) or later", w->build);
}

static struct error *find_build(int root, struct windows *w)
{
	char path[64], place[64];
	struct bytes head = { 0 };
	int fd CLEANUP_CLOSE = -1;

	snprintf(path, sizeof(path), "%s/System32/config/SOFTWARE", w->folder);
	struct error *error = files_open(root, path, &fd);
	if (error)
		return error;
	error = files_read(root, path, HIVE_SIZE_MAX, &head);
	if (!error)
		error = hive_check(&head);
	bytes_deinit(&head);
	snprintf(place, sizeof(place), "/proc/self/fd/%d", fd);
	if (!error)
		error = hive_look(place, read_version, w);
	return error_prefix(error, "%s", path);
}

static struct error *find_machine(int root, struct windows *w)
{
	char path[64];
	struct bytes kernel = { 0 };
	uint16_t machine = 0;

	snprintf(path, sizeof(path), "%s/System32/ntoskrnl.exe", w->folder);
	struct error *error = files_read(root, path, KERNEL_MAX, &kernel);
	bool is_pe = !error && windows_pe_machine(&kernel, &machine);
	bytes_deinit(&kernel);
	if (error)
		return error;
	w->is_x64 = machine == WINDOWS_MACHINE_X64;
	if (is_pe && (w->is_x64 || machine == WINDOWS_MACHINE_X86))
		return NULL;
	return error_create(ENOTSUP, "%s is for machine %04x; vmkd has modules for x64 (%04x) and x86 (%04x)", path, machine, WINDOWS_MACHINE_X64, WINDOWS_MACHINE_X86);
}

struct error *windows_find(int root, struct windows *ret)
{
	static const char *const folders[] = { "Windows", "WINNT" };
	struct windows w = { 0 };

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/System32/config/SOFTWARE", folders[i]);
		if (!files_exists(root, path))
			continue;
		snprintf(w.folder, sizeof(w.folder), "%s", folders[i]);
		struct error *error = find_build(root, &w);
		if (!error)
			error = find_machine(root, &w);
		if (!error)
			*ret = w;
		return error;
	}
	return error_create(ENOENT, "no Windows there");
}
