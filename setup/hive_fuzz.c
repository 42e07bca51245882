// SPDX-License-Identifier: MIT
// Whole hives through hivex: the boot entry and the service are added, and taken out again. What was changed is there in the hive that comes out.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "setup/bcd.h"
#include "setup/hive.h"
#include "setup/service.h"

#define GUID "{00000000-0000-4000-8000-000000000001}"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct error *change(hive_h *h, void *arg)
{
	char from[BCD_GUID_SIZE] = "";
	struct error *error = bcd_find_entry(h, from);

	(void)arg;
	if (!error) {
		(void)bcd_has_debugging(h, from);
		error = bcd_add_entry(h, from, GUID, WINDOWS_11, true);
	} else {
		error_free(error);
		error = service_add(h);
	}
	return error;
}

static struct error *change_back(hive_h *h, void *arg)
{
	struct error *error = service_remove(h);

	(void)arg;
	if (!error)
		error = bcd_remove_entry(h, GUID, GUID);
	if (!error && hive_find(h, hivex_root(h), "Objects\\" GUID))
		abort();
	return error;
}

static char folder[64];

static void remove_folder(void)
{
	rmdir(folder);
}

static void make_folder(void)
{
	snprintf(folder, sizeof(folder), "/dev/shm/vmkd-hive-fuzz-%d", getpid());
	mkdir(folder, 0700);
	atexit(remove_folder);
}

// The checksum is put right, and the sequence numbers are made one, so that what is behind them is reached.
static void seal(uint8_t *base)
{
	uint32_t sum = 0;

	memcpy(base + 8, base + 4, 4);
	for (unsigned i = 0; i < 508; i += 4)
		sum ^= bytes_le32(base + i);
	sum = sum == ~0u ? ~1u : sum ? sum : 1;
	for (unsigned i = 0; i < 4; i++)
		base[508 + i] = (uint8_t)(sum >> 8 * i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct bytes hive = { malloc(len + 1), len }, changed = { 0 }, back = { 0 };

	if (!folder[0])
		make_folder();
	memcpy(hive.data, data, len);
	if (len >= 512)
		seal(hive.data);
	struct error *error = hive_check(&hive);
	if (!error)
		error = hive_edit(folder, &hive, change, NULL, &changed);
	if (!error)
		error = hive_edit(folder, &changed, change_back, NULL, &back);
	error_free(error);
	bytes_deinit(&hive);
	bytes_deinit(&changed);
	bytes_deinit(&back);
	return 0;
}
