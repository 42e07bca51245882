// SPDX-License-Identifier: MIT
#include "setup/volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "setup/files.h"
#include "util/cleanup.h"

#define STEP_US 10000u
#define STEPS 6000u // a minute
// ntfs-3g's exit statuses (its manual page).
#define NTFS_HIBERNATED 14
#define NTFS_UNCLEAN 15

// ---- NTFS ----------------------------------------------------------------------------------------------------

static struct error *unfinished(void)
{
	return error_create(EBUSY, "Windows has not finished with it (the NTFS log is not empty). Start Windows, shut it down properly, then try again");
}

static struct error *why_not(const struct program *p)
{
	int status = WIFEXITED(p->status) ? WEXITSTATUS(p->status) : -1;

	if (status == NTFS_HIBERNATED)
		return error_create(EBUSY, "Windows is hibernated on it. Start it and shut it down fully: `shutdown /s /t 0` with Fast Startup off (`powercfg /h off`)");
	if (status == NTFS_UNCLEAN)
		return unfinished();
	return error_create(EIO, "ntfs-3g: %s", sandbox_said(p));
}

static bool is_mount(const char *folder, dev_t outside)
{
	struct stat st;

	return stat(folder, &st) == 0 && st.st_dev != outside;
}

// ntfs-3g mounts read-only what it must not write, and says so nowhere else.
static struct error *finish_mount(struct mounted *m, bool is_read_only, struct mounted *ret)
{
	struct statvfs fs;

	m->root = open(m->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (m->root >= 0 && (is_read_only || (fstatvfs(m->root, &fs) == 0 && !(fs.f_flag & ST_RDONLY)))) {
		*ret = *m;
		return NULL;
	}
	error_free(volumes_unmount(m));
	return unfinished();
}

struct error *volumes_mount(struct sandbox *s, const char *file, bool is_read_only, struct mounted *ret)
{
	// The log is not thrown away, whatever state it is in; devices and programs of the guest are nothing but files. With "permissions" new files get an
	// access list that says what their mode says; without it everybody in the guest could write into a kernel driver of ours.
	const char *options = is_read_only ? "ro,norecover,no_detach,nodev,nosuid,noexec,noatime" : "norecover,permissions,no_detach,nodev,nosuid,noexec,noatime";
	struct mounted m = { .sandbox = s, .root = -1 };
	struct stat outside;

	snprintf(m.file, sizeof(m.file), "%s", file);
	snprintf(m.folder, sizeof(m.folder), "%s-mounted", file);
	if ((mkdir(m.folder, 0700) < 0 && errno != EEXIST) || stat(m.folder, &outside) < 0)
		return error_create(errno, "cannot make %s: %s", m.folder, strerror(errno));
	struct error *error = sandbox_start(s, (char *[]){ "ntfs-3g", "-o", (char *)(uintptr_t)options, m.file, m.folder, NULL }, &m.driver);
	if (error)
		return error;
	for (unsigned i = 0; i < STEPS && !sandbox_is_interrupted(); i++) {
		if (is_mount(m.folder, outside.st_dev))
			return finish_mount(&m, is_read_only, ret);
		if (sandbox_has_ended(s, &m.driver))
			return why_not(&m.driver);
		usleep(STEP_US);
	}
	error_free(sandbox_stop(s, &m.driver));
	return error_create(ETIMEDOUT, "ntfs-3g does not get ready");
}

struct error *volumes_unmount(struct mounted *m)
{
	if (m->root >= 0)
		close(m->root);
	m->root = -1;
	if (m->driver.pid == 0)
		return NULL;
	if (umount2(m->folder, 0) < 0) {
		struct error *error = error_create(errno, "cannot unmount a volume: %s", strerror(errno));
		error_free(sandbox_stop(m->sandbox, &m->driver));
		return error;
	}
	for (unsigned i = 0; i < STEPS && !sandbox_has_ended(m->sandbox, &m->driver); i++)
		usleep(STEP_US);
	return sandbox_stop(m->sandbox, &m->driver);
}

// ---- FAT -----------------------------------------------------------------------------------------------------

void volumes_use_fat(struct sandbox *s, const char *file, struct mounted *ret)
{
	*ret = (struct mounted){ .sandbox = s, .is_fat = true, .root = -1 };
	snprintf(ret->file, sizeof(ret->file), "%s", file);
}

// Runs one of the mtools. -> ENOENT: there is no such file in the volume.
static struct error *mtool(const struct mounted *m, char *const argv[])
{
	struct program p;
	int status;
	struct error *error = sandbox_run(m->sandbox, argv, &p, &status);

	if (error || status == 0)
		return error;
	const char *said = sandbox_said(&p);
	return error_create(strstr(said, "not found") ? ENOENT : strstr(said, "ull") ? ENOSPC : EIO, "%s", said);
}

static struct error *fat_read(const struct mounted *m, const char *path, size_t max, struct bytes *ret)
{
	char copy[128], inside[FILES_PATH_MAX + 4];
	int folder CLEANUP_CLOSE = open(sandbox_folder(m->sandbox), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	snprintf(copy, sizeof(copy), "%s/from-fat", sandbox_folder(m->sandbox));
	snprintf(inside, sizeof(inside), "::/%s", path);
	unlink(copy);
	struct error *error = mtool(m, (char *[]){ "mcopy", "-n", "-i", (char *)(uintptr_t)m->file, inside, copy, NULL });
	if (!error)
		error = files_read(folder, "from-fat", max, ret);
	unlink(copy);
	return error_prefix(error, "%s", path);
}

static struct error *fat_remove(const struct mounted *m, char *inside)
{
	struct error *error = mtool(m, (char *[]){ "mdel", "-i", (char *)(uintptr_t)m->file, inside, NULL });

	if (!error || error->code != ENOENT)
		return error;
	error_free(error);
	return NULL;
}

static struct error *fat_replace(const struct mounted *m, const char *path, char *copy)
{
	char old[FILES_PATH_MAX + 4], new[FILES_PATH_MAX + 16];
	char *file = (char *)(uintptr_t)m->file;

	snprintf(old, sizeof(old), "::/%s", path);
	snprintf(new, sizeof(new), "::/%s.vmkd", path);
	struct error *error = mtool(m, (char *[]){ "mcopy", "-o", "-i", file, copy, new, NULL });
	if (error) {
		error_free(fat_remove(m, new));
		return error;
	}
	error = fat_remove(m, old);
	return error ? error : mtool(m, (char *[]){ "mren", "-i", file, new, old, NULL });
}

static struct error *fat_write(const struct mounted *m, const char *path, const struct bytes *bytes)
{
	char copy[128];
	int folder CLEANUP_CLOSE = open(sandbox_folder(m->sandbox), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	snprintf(copy, sizeof(copy), "%s/to-fat", sandbox_folder(m->sandbox));
	struct error *error = files_write(folder, "to-fat", bytes);
	if (!error)
		error = fat_replace(m, path, copy);
	unlink(copy);
	return error_prefix(error, "%s", path);
}

// ---- Either --------------------------------------------------------------------------------------------------

struct error *volumes_read(const struct mounted *m, const char *path, size_t max, struct bytes *ret)
{
	return m->is_fat ? fat_read(m, path, max, ret) : files_read(m->root, path, max, ret);
}

struct error *volumes_write(const struct mounted *m, const char *path, const struct bytes *bytes)
{
	return m->is_fat ? fat_write(m, path, bytes) : files_write(m->root, path, bytes);
}

struct error *volumes_forget(const struct mounted *m, const char *path)
{
	char new[FILES_PATH_MAX + 16];

	snprintf(new, sizeof(new), "::/%s.vmkd", path);
	return m->is_fat ? fat_remove(m, new) : NULL;
}
