// SPDX-License-Identifier: MIT
#include "setup/job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "setup/files.h"

// The journal as it is written: the whole text each time, so that what is on the disk is always the start of it.
struct book {
	struct job *job;
	struct bytes text;
	char buffer[JOURNAL_SIZE_MAX];
};

static struct error *note(struct book *book, const char *line)
{
	size_t len = strlen(line);

	if (len > sizeof(book->buffer) - book->text.len)
		return error_create(ENOSPC, "the journal is full");
	book->text.data = (uint8_t *)book->buffer;
	memcpy(book->text.data + book->text.len, line, len);
	book->text.len += len;
	return files_write(book->job->windows_volume.root, job_own_path(book->job, JOURNAL_FILE), &book->text);
}

static struct error *check_not_interrupted(void)
{
	return sandbox_is_interrupted() ? error_create(EINTR, "interrupted") : NULL;
}

// What is replaced is kept first, all of it: a volume that fills up has then lost nothing.
static struct error *keep_contents(struct job *job, const struct plan *plan)
{
	struct error *error = NULL;

	for (unsigned i = 0; !error && i < plan->count; i++) {
		const struct change *c = &plan->changes[i];
		char name[32];
		snprintf(name, sizeof(name), "%u.saved", c->step.number);
		if (c->step.op == JOURNAL_REPLACE)
			error = files_write(job->windows_volume.root, job_own_path(job, name), &c->before);
	}
	return error;
}

static struct error *rename_file(struct job *job, const struct journal_step *s)
{
	char to[FILES_PATH_MAX];

	snprintf(to, sizeof(to), "%.*s%s", (int)(strrchr(s->path, '/') + 1 - s->path), s->path, s->name);
	return files_rename(job->windows_volume.root, s->path, to);
}

// Complete under a name of ours before it gets the one that counts.
static struct error *create_file(struct job *job, const struct change *c)
{
	int root = job->windows_volume.root;
	struct error *error = files_write(root, job_own_path(job, "new"), &c->after);

	if (!error)
		error = files_let_read(root, job_own_path(job, "new"));
	return error ? error : files_rename(root, job_own_path(job, "new"), c->step.path);
}

static struct error *replace_contents(struct book *book, const struct change *c)
{
	char line[JOURNAL_LINE_MAX];
	struct error *error = volumes_write(job_volume(book->job, c->step.volume), c->step.path, &c->after);

	if (error)
		return error;
	journal_wrote_line(&c->step, line);
	return note(book, line);
}

static struct error *apply_change(struct book *book, const struct change *c)
{
	char line[JOURNAL_LINE_MAX];
	struct error *error = check_not_interrupted();

	journal_step_line(&c->step, line);
	if (!error)
		error = note(book, line);
	if (error)
		return error;
	switch (c->step.op) {
	case JOURNAL_RENAME: return rename_file(book->job, &c->step);
	case JOURNAL_CREATE: return create_file(book->job, c);
	case JOURNAL_REPLACE: return replace_contents(book, c);
	}
	return NULL;
}

struct error *apply_run(struct job *job, struct plan *plan)
{
	struct book book = { .job = job };
	char line[JOURNAL_LINE_MAX];
	struct error *error = files_make_folder(job->windows_volume.root, job_own_path(job, ""));

	if (!error)
		error = keep_contents(job, plan);
	journal_head(job->disk.partitions[job->boot_index].offset, job->disk.partitions[job->windows_index].offset, line);
	if (!error)
		error = note(&book, line);
	if (!error && plan->guid[0]) {
		snprintf(line, sizeof(line), "entry %s %s\r\n", plan->guid, plan->former);
		error = note(&book, line);
	}
	for (unsigned i = 0; !error && i < plan->count; i++)
		error = apply_change(&book, &plan->changes[i]);
	return error ? error : note(&book, "done\r\n");
}
