// SPDX-License-Identifier: MIT
// Headers of the guest's files: a hive and its log (the first 16 bits say how long the hive is), a PE image, an image format.
#include <stdlib.h>
#include <string.h>

#include "setup/hive.h"
#include "setup/image.h"
#include "setup/windows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void seal(uint8_t *base)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < 508; i += 4)
		sum ^= bytes_le32(base + i);
	sum = sum == ~0u ? ~1u : sum ? sum : 1;
	for (unsigned i = 0; i < 4; i++)
		base[508 + i] = (uint8_t)(sum >> 8 * i);
}

static struct bytes copy(const uint8_t *data, size_t len)
{
	struct bytes bytes = { malloc(len + 1), len };

	memcpy(bytes.data, data, len);
	if (len >= 512)
		seal(bytes.data);
	return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t head[IMAGE_HEAD_LEN] = { 0 };
	enum image_format format;
	uint16_t machine;

	if (len < 2)
		return 0;
	size_t first = bytes_le16(data) < len - 2 ? bytes_le16(data) : len - 2;
	struct bytes hive = copy(data + 2, first), log = copy(data + 2 + first, len - 2 - first);
	struct error *error = hive_check(&hive);
	if (!error)
		error = hive_check_log(&hive, &log);
	error_free(error);
	if (windows_pe_machine(&hive, &machine))
		(void)windows_pe_is_signed(&hive);
	memcpy(head, hive.data, hive.len < sizeof(head) ? hive.len : sizeof(head));
	error_free(image_format(head, false, &format));
	bytes_deinit(&hive);
	bytes_deinit(&log);
	return 0;
}
