// SPDX-License-Identifier: MIT
// A disk image as files: the whole disk, and each partition, whatever format the image has.
//
// QEMU's own code reads and writes the image (qemu-storage-daemon, exported through FUSE; qemu-nbd where there is no FUSE), and takes QEMU's locks: an
// image that a VM uses is refused. Two programs in a row, since QEMU lets only one node write to a disk: one exports the disk, the next cuts it (with
// qemu-nbd, one for each partition).
#ifndef SETUP_IMAGE_H
#define SETUP_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "setup/disk.h"
#include "setup/sandbox.h"

enum image_format { IMAGE_RAW, IMAGE_QCOW2 };

#define IMAGE_HEAD_LEN 112u // as much as is looked at

// The format, from the first bytes (0s behind a shorter image). -> ENOTSUP: another format, or a qcow2 with something that stands in the way, and what to do; EPERM: a qcow2 that names a
// backing file, without may_have_backing. Whoever may write the first sector, the guest of a raw image for one, may name any file of the host there, and root would open it.
ERROR_MUST_CHECK struct error *image_format(const uint8_t head[static IMAGE_HEAD_LEN], bool may_have_backing, enum image_format *ret);

struct image;

// Open and lock the image. -> EBUSY: somebody uses it; ENOTSUP, EPERM (image_format), EIO and others with their reasons. `s` must outlive the image.
ERROR_MUST_CHECK struct error *image_open(struct sandbox *s, const char *path, bool is_read_only, bool may_have_backing, struct image **ret);

// The path of the whole disk as a file or device; valid until image_close.
const char *image_disk(const struct image *image);

// Make those partitions of the disk files or devices of their own that is_wanted[index] says. Once.
ERROR_MUST_CHECK struct error *image_cut(struct image *image, const struct disk *disk, const bool is_wanted[static DISK_PARTITION_MAX]);

// The path of a wanted partition, after image_cut; valid until image_close.
const char *image_partition(const struct image *image, unsigned index);

// Write everything out and let go; NULL is fine. -> EIO: not everything may have reached the image.
ERROR_MUST_CHECK struct error *image_close(struct image *image);

#endif
