// SPDX-License-Identifier: MIT
// One run of `vmkd setup`: the image taken apart into the two volumes that matter, and what is going to be changed in them. Internal to this folder.
#ifndef SETUP_JOB_H
#define SETUP_JOB_H

#include "setup/disk.h"
#include "setup/image.h"
#include "setup/journal.h"
#include "setup/setup.h"
#include "setup/volume.h"
#include "setup/volumes.h"
#include "setup/windows.h"

struct job {
	const struct setup_options *options;
	struct sandbox *sandbox;
	struct image *image;
	struct disk disk;
	struct volume volumes[DISK_PARTITION_MAX]; // of the disk's partitions
	unsigned windows_index, boot_index;        // which partitions those are; may be the same
	struct windows windows;
	struct mounted windows_volume, boot_volume; // the latter unused when both are the same
	char boot_path[64];                         // of the BCD or boot.ini
};

// Open the image and find both volumes, mounted read-only. The caller closes the job, also after an error.
ERROR_MUST_CHECK struct error *job_open(const struct setup_options *options, struct job *job);
ERROR_MUST_CHECK struct error *job_close(struct job *job);

// Both volumes can be written from here on.
ERROR_MUST_CHECK struct error *job_make_writable(struct job *job);

// The volume that a journal calls 'b' or 'w'.
const struct mounted *job_volume(const struct job *job, char letter);

// "Windows/vmkd/NAME"; static, valid until the second next call.
const char *job_own_path(const struct job *job, const char *name);

// ---- What is going to be changed (plan.c) and the change (apply.c) ---------------------------------------------

#define PLAN_MAX 8u

struct change {
	struct journal_step step;
	struct bytes before, after; // of a CREATE after, of a REPLACE both
};

struct plan {
	unsigned count;
	struct change changes[PLAN_MAX];
	char guid[BCD_GUID_SIZE], former[BCD_GUID_SIZE]; // empty for boot.ini
};

// Work out every byte of the change, and refuse what stands in its way. Nothing is written.
ERROR_MUST_CHECK struct error *plan_make(struct job *job, struct plan *ret);
void plan_deinit(struct plan *plan);

// May `hive`, the contents of `path`, be changed? It and its logs as setup/hive.h has them; the error names the path.
ERROR_MUST_CHECK struct error *plan_check_hive(const struct mounted *m, const char *path, const struct bytes *hive);

// Say it on stdout, a line for each change.
void plan_show(const struct job *job, const struct plan *plan);

// Do it, journaled. -> whatever went wrong; then part of it is done, and undo_run undoes that.
ERROR_MUST_CHECK struct error *apply_run(struct job *job, struct plan *plan);

// ---- Undo (undo.c) ---------------------------------------------------------------------------------------------

// Put back what the journal in the image says, in writable volumes. *ret_count: how many things were put back. ENOENT: there is no journal.
ERROR_MUST_CHECK struct error *undo_run(struct job *job, unsigned *ret_count);

// Say on stdout what that would be.
ERROR_MUST_CHECK struct error *undo_show(struct job *job);

#endif
