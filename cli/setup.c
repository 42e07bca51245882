// SPDX-License-Identifier: MIT
// vmkd setup: prepares the Windows in a disk image, and undoes that.
#include <stdbool.h>
#include <string.h>

#include "cli/cli.h"
#include "setup/setup.h"

int cli_setup(int argc, char **argv)
{
	struct setup_options options = { 0 };

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--undo") == 0)
			options.is_undo = true;
		else if (strcmp(argv[i], "--dry-run") == 0)
			options.is_dry_run = true;
		else if (strcmp(argv[i], "--default") == 0)
			options.make_default = true;
		else if (strcmp(argv[i], "--backing") == 0)
			options.trusts_backing = true;
		else if (argv[i][0] == '-' || options.image)
			return cli_usage("setup", "unexpected argument %s", argv[i]);
		else
			options.image = argv[i];
	}
	if (!options.image)
		return cli_usage("setup", "the disk image is missing");
	if (options.is_undo && options.make_default)
		return cli_usage("setup", "--default with --undo: expected one of them");
	struct error *error = setup_run(&options);
	return error ? error_report("vmkd setup", error) : 0;
}
