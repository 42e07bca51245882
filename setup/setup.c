// SPDX-License-Identifier: MIT
#include "setup/setup.h"

#include <errno.h>
#include <stdio.h>

#include "setup/job.h"

static void advise(const struct job *job)
{
	enum windows_generation generation = job->windows.generation;

	printf("set up. Start the VM and choose \"" BCD_NAME "\" in its boot menu; `vmkd setup --undo` puts everything back\n");
	if (generation >= WINDOWS_8)
		puts("At EACH start: choose that entry, press F8, then \"Disable driver signature enforcement\" (F7); without that it does not start. The firmware's Secure Boot must be off");
	if (generation == WINDOWS_11)
		puts("NOT TRIED: Windows 11 with more than 4 GiB of RAM, and 24H2 (early builds of it crash with any replaced kdcom.dll)");
}

// A set-up that fails half-way is undone from its own journal, as `--undo` would.
static struct error *roll_back(struct job *job, struct error *why)
{
	unsigned count;
	struct error *error = undo_run(job, &count);

	if (!error || error->code == ENOENT) { // it had not even made its folder
		error_free(error);
		return error_prefix(why, "failed, and everything was put back");
	}
	why = error_prefix(why, "failed, and could not put everything back (%s); run `vmkd setup --undo`", error->text);
	error_free(error);
	return why;
}

static struct error *set_up(struct job *job)
{
	struct plan plan = { 0 };
	struct error *error = plan_make(job, &plan);

	if (!error)
		plan_show(job, &plan);
	if (!error && !job->options->is_dry_run) {
		error = job_make_writable(job);
		if (!error) {
			error = apply_run(job, &plan);
			if (error)
				error = roll_back(job, error);
		}
	}
	plan_deinit(&plan);
	return error;
}

static struct error *undo(struct job *job)
{
	unsigned count;

	if (job->options->is_dry_run)
		return undo_show(job);
	struct error *error = job_make_writable(job);
	if (!error)
		error = undo_run(job, &count);
	if (!error)
		printf("%u changes undone; nothing of vmkd is left in the guest\n", count);
	return error;
}

struct error *setup_run(const struct setup_options *options)
{
	static struct job job; // 128 partitions
	struct error *error = job_open(options, &job), *second;

	if (!error)
		error = error_prefix(options->is_undo ? undo(&job) : set_up(&job), "%s", options->image);
	second = job_close(&job);
	if (!error && !second && !options->is_undo && !options->is_dry_run)
		advise(&job);
	if (!error)
		return second;
	error_free(second);
	return error;
}
