// SPDX-License-Identifier: MIT
// What a partition holds, as far as `vmkd setup` must know before it lets a driver near it: NTFS (clean or dirty), FAT, BitLocker, or something else.
//
// The dirty flag is read from record 3 of the master file table ($Volume), without mounting. Facts about NTFS: docs/evidence.md, "Disks and hives".
// Pure: reads through `struct source` alone.
#ifndef SETUP_VOLUME_H
#define SETUP_VOLUME_H

#include "setup/source.h"
#include "util/error.h"

enum volume_kind { VOLUME_OTHER, VOLUME_NTFS, VOLUME_FAT, VOLUME_BITLOCKER };

struct volume {
	enum volume_kind kind;
	bool is_dirty; // NTFS: Windows wants a check of this volume
};

// Look at the partition that `source` is. -> NULL and *ret; EINVAL: it says that it is NTFS, and is not; EIO.
ERROR_MUST_CHECK struct error *volume_read(const struct source *source, struct volume *ret);

#endif
