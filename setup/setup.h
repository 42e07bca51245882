// SPDX-License-Identifier: MIT
// Prepares the Windows in a stopped VM's disk image for vmkd, and undoes that, without booting it: `vmkd setup`.
#ifndef SETUP_SETUP_H
#define SETUP_SETUP_H

#include <stdbool.h>

#include "util/error.h"

struct setup_options {
	const char *image;  // raw or qcow2, a file or a block device
	bool is_undo;       // put everything back
	bool is_dry_run;    // say what would be done; the image is opened read-only
	bool trusts_backing; // a qcow2's backing files may be opened, whatever files of the host they are
	bool make_default;  // the new boot entry is booted when nobody chooses
};

// Does it, and says on stdout what it does, a line for each change. Needs root. The image is as before when there is an error, unless its text says
// otherwise; nothing stays mounted and no program running, whatever happens.
ERROR_MUST_CHECK struct error *setup_run(const struct setup_options *options);

#endif
