// SPDX-License-Identifier: MIT
// The files in a guest's volume: NTFS mounted with ntfs-3g in the sandbox's namespace, FAT (an ESP) with mtools and without a mount.
//
// Paths as in setup/files.h; for NTFS `root` is the mounted volume's root and setup/files.h has the rest. What is written is on the disk when the function
// returns, as far as the image's server is concerned.
#ifndef SETUP_VOLUMES_H
#define SETUP_VOLUMES_H

#include <stdbool.h>

#include "setup/bytes.h"
#include "setup/sandbox.h"
#include "util/error.h"

struct mounted {
	struct sandbox *sandbox;
	struct program driver;
	char file[96];   // the partition's
	char folder[96]; // where it is mounted
	bool is_fat;     // nothing is mounted then
	int root;        // NTFS: the root, open; -1: not mounted
};

// Mount NTFS, `file` being the partition. -> EBUSY: hibernated or not cleanly unmounted; EIO with ntfs-3g's reason.
ERROR_MUST_CHECK struct error *volumes_mount(struct sandbox *s, const char *file, bool is_read_only, struct mounted *ret);

// A FAT volume; nothing to undo.
void volumes_use_fat(struct sandbox *s, const char *file, struct mounted *ret);

// Unmount and wait until everything is written. Nothing mounted is fine.
ERROR_MUST_CHECK struct error *volumes_unmount(struct mounted *m);

// Read or write a whole file of either kind. Writing FAT: the new file is complete under another name before the old one goes.
ERROR_MUST_CHECK struct error *volumes_read(const struct mounted *m, const char *path, size_t max, struct bytes *ret);
ERROR_MUST_CHECK struct error *volumes_write(const struct mounted *m, const char *path, const struct bytes *bytes);

// Remove what a volumes_write that was cut short may have left beside the file.
ERROR_MUST_CHECK struct error *volumes_forget(const struct mounted *m, const char *path);

#endif
