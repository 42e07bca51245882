// SPDX-License-Identifier: MIT
#include "setup/job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "setup/bootini.h"
#include "setup/hive.h"
#include "setup/service.h"

#define MODULE_MAX (64u << 20)

// ---- The journal ---------------------------------------------------------------------------------------------

static struct error *check_offsets(const struct job *job, const struct journal *j)
{
	if (j->windows_offset == job->disk.partitions[job->windows_index].offset && j->boot_offset == job->disk.partitions[job->boot_index].offset)
		return NULL;
	return error_create(EINVAL, "the partitions are not where they were when it was set up; put them back, or use the journal by hand");
}

static struct error *read_journal(const struct job *job, struct journal *ret)
{
	struct bytes text = { 0 };
	struct error *error = files_read(job->windows_volume.root, job_own_path(job, JOURNAL_FILE), JOURNAL_SIZE_MAX, &text);

	if (error && error->code == ENOENT && files_exists(job->windows_volume.root, job_own_path(job, "journal.txt"))) {
		error_free(error);
		return error_create(EEXIST, "it was prepared by install.cmd, whose journal is in \\%s\\" JOURNAL_FOLDER "; uninstall.cmd in the guest undoes that", job->windows.folder);
	}
	if (error)
		return error;
	error = journal_parse(&text, ret);
	bytes_deinit(&text);
	return error ? error : check_offsets(job, ret);
}

static bool is_content(const struct bytes *bytes, const struct content *content)
{
	return bytes->len == content->size && bytes_sum(bytes->data, bytes->len) == content->sum;
}

// ---- One step back -------------------------------------------------------------------------------------------

static const struct journal_step *rename_of(const struct journal *j, const char *path)
{
	for (unsigned i = 0; i < j->step_count; i++)
		if (j->steps[i].op == JOURNAL_RENAME && strcmp(j->steps[i].path, path) == 0)
			return &j->steps[i];
	return NULL;
}

static void kept_path(const struct journal_step *s, char ret[static FILES_PATH_MAX])
{
	const char *slash = strrchr(s->path, '/');

	snprintf(ret, FILES_PATH_MAX, "%.*s%s", slash ? (int)(slash + 1 - s->path) : 0, s->path, s->name);
}

// A file of ours goes. One with a name of Windows' goes only while it is still ours, since an update may have put a new one there, and while what
// it stands for can take its place: Windows does not start without one.
static struct error *undo_create(const struct job *job, const struct journal *j, const struct journal_step *s, unsigned *count)
{
	int root = job->windows_volume.root;
	const struct journal_step *rename = rename_of(j, s->path);
	struct bytes now = { 0 };
	char kept[FILES_PATH_MAX];

	if (!files_exists(root, s->path))
		return NULL;
	if (rename) {
		struct error *error = files_read(root, s->path, MODULE_MAX, &now);
		bool is_ours = !error && is_content(&now, &s->after);
		bytes_deinit(&now);
		if (error || !is_ours)
			return error;
		kept_path(rename, kept);
		if (!files_exists(root, kept))
			return error_create(EINVAL, "%s: the original, kept as %s, is gone; put one of this Windows there under either name, then try again", s->path, rename->name);
	}
	++*count;
	return files_remove(root, s->path);
}

static struct error *undo_rename(const struct job *job, const struct journal_step *s, unsigned *count)
{
	int root = job->windows_volume.root;
	char kept[FILES_PATH_MAX];

	kept_path(s, kept);
	if (!files_exists(root, kept))
		return NULL;
	++*count;
	if (!files_exists(root, s->path))
		return files_rename(root, kept, s->path);
	printf("%s: Windows has put a new one there since; it stays\n", s->path);
	return files_remove(root, kept);
}

struct removal {
	const struct journal *journal;
	enum journal_kind kind;
};

static struct error *remove_from_hive(hive_h *h, void *arg)
{
	const struct removal *r = arg;

	if (r->kind == JOURNAL_SYSTEM)
		return service_remove(h);
	return r->journal->guid[0] ? bcd_remove_entry(h, r->journal->guid, r->journal->former) : NULL;
}

// What is ours is taken out of contents that have changed since, and the rest stays as it is now.
static struct error *without_ours(const struct job *job, const struct journal *j, const struct journal_step *s, const struct bytes *now, struct bytes *ret)
{
	struct removal removal = { j, s->kind };

	printf("%s: it was changed since; only what is vmkd's is taken out\n", s->path);
	if (s->kind == JOURNAL_BOOTINI)
		return bootini_remove(now, ret);
	return hive_edit(sandbox_folder(job->sandbox), now, remove_from_hive, &removal, ret);
}

static struct error *read_kept(const struct job *job, const struct journal_step *s, struct bytes *ret)
{
	char name[32];

	snprintf(name, sizeof(name), "%u.saved", s->number);
	struct error *error = files_read(job->windows_volume.root, job_own_path(job, name), HIVE_SIZE_MAX, ret);
	if (!error && !is_content(ret, &s->before)) {
		bytes_deinit(ret);
		return error_create(EINVAL, "%s is not what was kept there", name);
	}
	return error;
}

static struct error *undo_replace(const struct job *job, const struct journal *j, const struct journal_step *s, unsigned *count)
{
	const struct mounted *m = job_volume(job, s->volume);
	struct bytes now = { 0 }, new = { 0 };
	struct error *error = volumes_read(m, s->path, HIVE_SIZE_MAX, &now);
	bool is_missing = error && error->code == ENOENT;

	if (error && !is_missing)
		return error;
	error_free(error);
	if (!is_missing && is_content(&now, &s->before)) {
		bytes_deinit(&now);
		return volumes_forget(m, s->path);
	}
	// Without its `wrote` line it may be half of the old and half of the new.
	if (is_missing || !s->is_written || is_content(&now, &s->after))
		error = read_kept(job, s, &new);
	else
		error = without_ours(job, j, s, &now, &new);
	if (!error)
		error = volumes_write(m, s->path, &new);
	++*count;
	bytes_deinit(&now);
	bytes_deinit(&new);
	return error_prefix(error, "%s", s->path);
}

// Before anything is undone: has Windows finished with each hive that is going to be? One whose writing we did not finish is what we kept of it, whatever it is.
static struct error *check_hives(const struct job *job, const struct journal *j)
{
	struct error *error = NULL;

	for (unsigned i = 0; !error && i < j->step_count; i++) {
		const struct journal_step *s = &j->steps[i];
		struct bytes now = { 0 };
		if (s->op != JOURNAL_REPLACE || s->kind == JOURNAL_BOOTINI || !s->is_written)
			continue;
		error = volumes_read(job_volume(job, s->volume), s->path, HIVE_SIZE_MAX, &now);
		if (!error && !is_content(&now, &s->before))
			error = plan_check_hive(job_volume(job, s->volume), s->path, &now);
		if (error && error->code == ENOENT) { // it will be put back
			error_free(error);
			error = NULL;
		}
		bytes_deinit(&now);
	}
	return error;
}

// ---- All of it -----------------------------------------------------------------------------------------------

static struct error *undo_step(const struct job *job, const struct journal *j, const struct journal_step *s, unsigned *count)
{
	switch (s->op) {
	case JOURNAL_CREATE: return undo_create(job, j, s, count);
	case JOURNAL_RENAME: return undo_rename(job, s, count);
	case JOURNAL_REPLACE: return undo_replace(job, j, s, count);
	}
	return NULL;
}

static struct error *remove_if_there(const struct job *job, const char *name)
{
	const char *path = job_own_path(job, name);

	return files_exists(job->windows_volume.root, path) ? files_remove(job->windows_volume.root, path) : NULL;
}

// The folder and what set-up puts there; the journal last, so that an interrupted undo is continued.
static struct error *remove_folder(const struct job *job)
{
	int root = job->windows_volume.root;
	struct error *error = remove_if_there(job, "new");

	for (unsigned i = 1; !error && i <= PLAN_MAX; i++) {
		char name[32];
		snprintf(name, sizeof(name), "%u.saved", i);
		error = remove_if_there(job, name);
	}
	if (!error)
		error = remove_if_there(job, JOURNAL_FILE);
	if (!error && files_exists(root, job_own_path(job, "")))
		error = files_remove_folder(root, job_own_path(job, ""));
	if (error && error->code == ENOTEMPTY) {
		printf("%s: somebody else's files are in it; it stays\n", job_own_path(job, ""));
		error_free(error);
		error = NULL;
	}
	return error;
}

static struct error *nothing_to_undo(void)
{
	return error_create(ENOENT, "it is not set up by `vmkd setup`; nothing to undo");
}

struct error *undo_run(struct job *job, unsigned *ret_count)
{
	struct journal *j = calloc(1, sizeof(*j));
	struct error *error = j ? read_journal(job, j) : error_create(ENOMEM, "out of memory");
	bool has_none = error && error->code == ENOENT;
	unsigned count = 0;

	// A folder without a journal: interrupted before the first change.
	if (has_none && files_exists(job->windows_volume.root, job_own_path(job, ""))) {
		error_free(error);
		error = NULL;
	} else if (has_none) {
		error_free(error);
		error = nothing_to_undo();
	}
	if (!error && j)
		error = check_hives(job, j);
	for (unsigned i = j ? j->step_count : 0; !error && i-- > 0;)
		error = undo_step(job, j, &j->steps[i], &count);
	if (!error)
		error = remove_folder(job);
	free(j);
	if (!error)
		*ret_count = count;
	return error;
}

struct error *undo_show(struct job *job)
{
	static const char *const words[] = { "would get its name back", "would be removed", "would be put back" };
	struct journal *j = calloc(1, sizeof(*j));
	struct error *error = j ? read_journal(job, j) : error_create(ENOMEM, "out of memory");

	if (error && error->code == ENOENT && !files_exists(job->windows_volume.root, job_own_path(job, ""))) {
		error_free(error);
		error = nothing_to_undo();
	}
	for (unsigned i = !error ? j->step_count : 0; i-- > 0;)
		printf("%s: %s\n", j->steps[i].path, words[j->steps[i].op]);
	free(j);
	return error;
}
