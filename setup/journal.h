// SPDX-License-Identifier: MIT
// The journal of a set-up: what was changed in the image, with what it takes to undo it. It lies in the image, in \Windows\vmkd\setup.txt, so that undo
// needs nothing else.
//
// One line per change, written and on the disk *before* the change. Contents that are replaced are kept beside it, as NUMBER.saved. Undoing works
// backwards through the lines, and each step of it finds out whether there is still something to do: so it may be interrupted and repeated.
//
//   vmkd setup 1
//   volume LETTER OFFSET            b: where the boot files are, w: Windows; byte offset in the disk
//   rename w NAME PATH              the file was given another name in its folder
//   create w SIZE SUM PATH          a file was made
//   replace KIND LETTER NUMBER SIZE SUM PATH    contents with this size and sum lie in NUMBER.saved
//   wrote NUMBER SIZE SUM           ... and were replaced by what has this size and sum
//   entry GUID FORMER               the boot entry that was added, and the default one before it
//   done                            nothing is missing
//
// Pure text. A journal comes from the guest's disk: everything is checked, and paths lead nowhere but into the volume (setup/files.h).
#ifndef SETUP_JOURNAL_H
#define SETUP_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "setup/bcd.h"
#include "setup/files.h"

#define JOURNAL_STEP_MAX 16u
#define JOURNAL_SIZE_MAX 16384u
#define JOURNAL_FOLDER "vmkd"      // of the Windows folder
#define JOURNAL_FILE "setup.txt"   // install.cmd has its own there, journal.txt

enum journal_op { JOURNAL_RENAME, JOURNAL_CREATE, JOURNAL_REPLACE };
enum journal_kind { JOURNAL_BCD, JOURNAL_BOOTINI, JOURNAL_SYSTEM }; // of what is replaced: how to take out our part when Windows has changed it since

struct content {
	uint64_t size, sum;
};

struct journal_step {
	enum journal_op op;
	enum journal_kind kind;     // REPLACE
	char volume;                // 'b' or 'w'
	unsigned number;            // REPLACE: of the .saved file
	bool is_written;            // REPLACE: its `wrote` line is there
	struct content before, after; // REPLACE; CREATE: after
	char name[64];              // RENAME
	char path[FILES_PATH_MAX];
};

struct journal {
	uint64_t boot_offset, windows_offset; // of the volumes
	bool is_done;
	char guid[BCD_GUID_SIZE], former[BCD_GUID_SIZE]; // empty: there is no such line
	unsigned step_count;
	struct journal_step steps[JOURNAL_STEP_MAX];
};

// Read a journal. A last line without an end is one that was being written when the set-up died, and does not count: its change was not made.
// -> EINVAL and the line that makes no sense.
ERROR_MUST_CHECK struct error *journal_parse(const struct bytes *text, struct journal *ret);

// The lines for a new journal, a step, what follows it. `ret`: JOURNAL_LINE_MAX bytes; the lines end in CR LF, for whoever reads them in the guest.
#define JOURNAL_LINE_MAX (FILES_PATH_MAX + 256u)
void journal_head(uint64_t boot_offset, uint64_t windows_offset, char ret[static JOURNAL_LINE_MAX]);
void journal_step_line(const struct journal_step *step, char ret[static JOURNAL_LINE_MAX]);
void journal_wrote_line(const struct journal_step *step, char ret[static JOURNAL_LINE_MAX]);

#endif
