// SPDX-License-Identifier: MIT
#include "setup/hive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define BASE_BLOCK 4096u
#define CHECKED_BYTES 508u // the checksum follows
#define SECTOR 512u
#define NAME_MAX_LEN 255u // of a key

// ---- Is it safe to change ------------------------------------------------------------------------------------

static uint32_t checksum(const uint8_t *base)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < CHECKED_BYTES; i += 4)
		sum ^= bytes_le32(base + i);
	return sum == 0xffffffffu ? 0xfffffffeu : sum ? sum : 1;
}

static bool base_is_whole(const uint8_t *base)
{
	return memcmp(base, "regf", 4) == 0 && checksum(base) == bytes_le32(base + CHECKED_BYTES);
}

struct error *hive_check(const struct bytes *hive)
{
	const uint8_t *base = hive->data;

	if (hive->len < BASE_BLOCK || memcmp(base, "regf", 4) != 0)
		return error_create(EINVAL, "it is no registry hive (no \"regf\" at its start)");
	if (checksum(base) != bytes_le32(base + CHECKED_BYTES))
		return error_create(EINVAL, "its header has a wrong checksum: let Windows repair it, or restore it");
	if (bytes_le32(base + 4) != bytes_le32(base + 8))
		return error_create(EBUSY, "its sequence numbers differ (%u and %u): Windows has not finished writing it. Start Windows, shut it down properly, then try again",
		                    bytes_le32(base + 4), bytes_le32(base + 8));
	if (bytes_le32(base + 20) != 1 || bytes_le32(base + 40) > hive->len - BASE_BLOCK)
		return error_create(EINVAL, "its header speaks of version %u and %u bytes, but the file has %zu: it is cut off, or not a hive of Windows NT", bytes_le32(base + 20),
		                    bytes_le32(base + 40), hive->len - BASE_BLOCK);
	return NULL;
}

static bool is_newer(uint32_t a, uint32_t than)
{
	return (int32_t)(a - than) > 0;
}

// Entries of a log of Windows 8.1 and later: the highest sequence number in the unbroken run of them.
static bool entries_are_newer(const struct bytes *log, uint32_t than)
{
	for (size_t at = SECTOR; at + 40 <= log->len && memcmp(log->data + at, "HvLE", 4) == 0;) {
		uint32_t size = bytes_le32(log->data + at + 4);
		if (is_newer(bytes_le32(log->data + at + 12), than))
			return true;
		if (size < SECTOR || size % SECTOR || size > log->len - at)
			return false;
		at += size;
	}
	return false;
}

struct error *hive_check_log(const struct bytes *hive, const struct bytes *log)
{
	uint32_t sequence = bytes_le32(hive->data + 8);

	if (log->len < SECTOR || !base_is_whole(log->data))
		return NULL; // empty, or never used: nothing that Windows could take over
	if (is_newer(bytes_le32(log->data + 8), sequence) || entries_are_newer(log, sequence))
		return error_create(EBUSY, "its log holds changes that the hive does not have yet. Start Windows, shut it down properly, then try again");
	return NULL;
}

// ---- The tree inside -----------------------------------------------------------------------------------------

struct error *hive_failure(const char *what)
{
	return error_create(EINVAL, "%s: hivex: %s", what, strerror(errno));
}

hive_node_h hive_find(hive_h *h, hive_node_h from, const char *path)
{
	char name[NAME_MAX_LEN + 1];

	while (from && *path) {
		size_t len = strcspn(path, "\\");
		if (len > NAME_MAX_LEN)
			return 0;
		memcpy(name, path, len);
		name[len] = 0;
		from = hivex_node_get_child(h, from, name);
		path += len + (path[len] == '\\');
	}
	return from;
}

hive_node_h hive_make(hive_h *h, hive_node_h from, const char *path)
{
	char name[NAME_MAX_LEN + 1];

	while (from && *path) {
		size_t len = strcspn(path, "\\");
		if (len > NAME_MAX_LEN)
			return 0;
		memcpy(name, path, len);
		name[len] = 0;
		hive_node_h child = hivex_node_get_child(h, from, name);
		from = child ? child : hivex_node_add_child(h, from, name);
		path += len + (path[len] == '\\');
	}
	return from;
}

char *hive_string(hive_h *h, hive_node_h node, const char *name)
{
	hive_value_h value = node ? hivex_node_get_value(h, node, name) : 0;
	hive_type type;
	size_t len;

	if (!value || hivex_value_type(h, value, &type, &len) < 0 || (type != hive_t_REG_SZ && type != hive_t_REG_EXPAND_SZ))
		return NULL;
	return hivex_value_string(h, value);
}

bool hive_set(hive_h *h, hive_node_h node, const char *name, hive_type type, const void *data, size_t len)
{
	hive_set_value value = { .key = (char *)(uintptr_t)name, .t = type, .len = len, .value = (char *)(uintptr_t)data };

	return hivex_node_set_value(h, node, &value, 0) == 0;
}

bool hive_set_string(hive_h *h, hive_node_h node, const char *name, hive_type type, const char *text)
{
	uint8_t wide[2 * (NAME_MAX_LEN + 1)] = { 0 };
	size_t len = strlen(text);

	if (len > NAME_MAX_LEN) {
		errno = ENAMETOOLONG;
		return false;
	}
	for (size_t i = 0; i < len; i++)
		wide[2 * i] = (uint8_t)text[i];
	return hive_set(h, node, name, type, wide, 2 * (len + 1));
}

// ---- Copies for hivex ----------------------------------------------------------------------------------------

static struct error *write_copy(const char *path, const struct bytes *bytes)
{
	int fd CLEANUP_CLOSE = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	for (size_t at = 0; fd >= 0 && at < bytes->len;) {
		ssize_t done = write(fd, bytes->data + at, bytes->len - at);
		if (done < 0)
			return error_create(errno, "cannot write %s: %s", path, strerror(errno));
		at += (size_t)done;
	}
	return fd >= 0 ? NULL : error_create(errno, "cannot make %s: %s", path, strerror(errno));
}

static struct error *read_copy(const char *path, struct bytes *ret)
{
	int fd CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	struct bytes bytes = { 0 };

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_create(errno, "cannot read %s: %s", path, strerror(errno));
	bytes.data = malloc((size_t)st.st_size + 1);
	while (bytes.data && bytes.len < (size_t)st.st_size) {
		ssize_t done = read(fd, bytes.data + bytes.len, (size_t)st.st_size - bytes.len);
		if (done <= 0)
			break;
		bytes.len += (size_t)done;
	}
	if (bytes.len != (size_t)st.st_size) {
		bytes_deinit(&bytes);
		return error_create(EIO, "cannot read %s as a whole", path);
	}
	*ret = bytes;
	return NULL;
}

struct error *hive_edit(const char *folder, const struct bytes *hive, struct error *(*edit)(hive_h *h, void *arg), void *arg, struct bytes *ret)
{
	char path[4096];
	hive_h *h = NULL;

	snprintf(path, sizeof(path), "%s/hive", folder);
	struct error *error = write_copy(path, hive);
	if (!error) {
		h = hivex_open(path, HIVEX_OPEN_WRITE);
		error = h ? edit(h, arg) : hive_failure("the hive is damaged");
	}
	if (!error && hivex_commit(h, NULL, 0) < 0)
		error = hive_failure("cannot write the hive");
	if (h)
		hivex_close(h);
	if (!error)
		error = read_copy(path, ret);
	unlink(path);
	return error;
}

struct error *hive_look(const char *path, struct error *(*look)(hive_h *h, void *arg), void *arg)
{
	hive_h *h = hivex_open(path, 0);
	struct error *error = h ? look(h, arg) : hive_failure("the hive is damaged");

	if (h)
		hivex_close(h);
	return error;
}
