// SPDX-License-Identifier: MIT
// Which partitions a disk has: an MBR with its extended partitions, or a GPT.
//
// A partition table is the guest's word. All of it is checked before any of it is used: bounds against the disk, CRCs of both GPT headers and their
// entries, overlaps, loops of extended partitions. A GPT whose first header is damaged is read from the second one at the disk's end; two good ones
// that say different things are refused. Pure: reads through `struct source` alone.
#ifndef SETUP_DISK_H
#define SETUP_DISK_H

#include "setup/source.h"
#include "util/error.h"

#define DISK_PARTITION_MAX 128u

struct disk_partition {
	unsigned number;       // as Linux counts: GPT entry or MBR slot from 1, logical ones from 5
	uint64_t offset, size; // bytes in the disk
	bool is_active;        // MBR: the firmware boots from here
	bool is_esp;           // GPT: an EFI system partition
};

struct disk {
	bool is_gpt;
	unsigned partition_count;
	struct disk_partition partitions[DISK_PARTITION_MAX]; // in the table's order, without empty entries
};

// Read the table. -> NULL and *ret; EINVAL with what is wrong where; EIO when the source cannot be read.
ERROR_MUST_CHECK struct error *disk_read(const struct source *source, struct disk *ret);

#endif
