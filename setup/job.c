// SPDX-License-Identifier: MIT
#include "setup/job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define NONE UINT32_MAX

// ---- The disk ------------------------------------------------------------------------------------------------

static bool read_file(void *arg, uint64_t offset, void *ret, size_t len)
{
	const int *fd = arg;

	for (size_t done = 0; done < len;) {
		ssize_t part = pread(*fd, (char *)ret + done, len - done, (off_t)(offset + done));
		if (part <= 0)
			return false;
		done += (size_t)part;
	}
	return true;
}

static struct error *read_volumes(struct job *job)
{
	int fd CLEANUP_CLOSE = open(image_disk(job->image), O_RDONLY | O_CLOEXEC);
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
	struct source disk = { .size = (uint64_t)size, .read = read_file, .arg = &fd };
	struct error *error = size >= 0 ? disk_read(&disk, &job->disk) : error_create(errno, "cannot read the disk: %s", strerror(errno));

	for (unsigned i = 0; !error && i < job->disk.partition_count; i++) {
		const struct disk_partition *p = &job->disk.partitions[i];
		struct source part = { .offset = p->offset, .size = p->size, .read = read_file, .arg = &fd };
		error = error_prefix(volume_read(&part, &job->volumes[i]), "partition %u", p->number);
	}
	return error;
}

static struct error *open_disk(struct job *job)
{
	const char *path = job->options->image;
	bool is_wanted[DISK_PARTITION_MAX];
	struct error *error = image_open(job->sandbox, path, job->options->is_dry_run, job->options->trusts_backing, &job->image);

	if (!error)
		error = read_volumes(job);
	if (!error && job->disk.partition_count == 0)
		error = error_create(ENOENT, "its partition table is empty");
	for (unsigned i = 0; i < DISK_PARTITION_MAX; i++)
		is_wanted[i] = job->volumes[i].kind == VOLUME_NTFS || job->volumes[i].kind == VOLUME_FAT;
	if (!error)
		error = image_cut(job->image, &job->disk, is_wanted);
	return error_prefix(error, "%s", path);
}

// ---- Which of its partitions ---------------------------------------------------------------------------------

static unsigned number_of(const struct job *job, unsigned index)
{
	return job->disk.partitions[index].number;
}

static struct error *look_for_windows(struct job *job, unsigned index)
{
	struct windows found;
	struct mounted m = { .root = -1 };

	if (job->volumes[index].is_dirty)
		return error_create(EBUSY, "it is marked as dirty: Windows wants to check it. Start Windows, let it (`chkdsk /f`), shut it down properly, then try again");
	struct error *error = volumes_mount(job->sandbox, image_partition(job->image, index), true, &m);
	if (error)
		return error;
	error = windows_find(m.root, &found);
	if (error && error->code == ENOENT) {
		error_free(error);
		return volumes_unmount(&m);
	}
	if (!error && job->windows_index != NONE)
		error = error_create(ENOTSUP, "there is a second Windows, beside the one on partition %u; vmkd setup can tell which is meant only where there is one. Use install.cmd in the guest",
		                     number_of(job, job->windows_index));
	if (error) {
		error_free(volumes_unmount(&m));
		return error;
	}
	job->windows = found;
	job->windows_index = index;
	job->windows_volume = m;
	return NULL;
}

static struct error *find_windows(struct job *job)
{
	unsigned locked = NONE;

	job->windows_index = NONE;
	for (unsigned i = 0; i < job->disk.partition_count; i++) {
		if (job->volumes[i].kind == VOLUME_BITLOCKER)
			locked = i;
		// One that cannot be looked at may be the one that is meant, so that is no reason to go on.
		struct error *error = job->volumes[i].kind == VOLUME_NTFS ? look_for_windows(job, i) : NULL;
		if (error)
			return error_prefix(error, "partition %u", number_of(job, i));
	}
	if (job->windows_index != NONE)
		return NULL;
	if (locked != NONE)
		return error_create(ENOTSUP, "partition %u is encrypted with BitLocker; turn that off in the guest (`manage-bde -off C:`), or use install.cmd there", number_of(job, locked));
	return error_create(ENOENT, "no Windows on any of the %u partitions", job->disk.partition_count);
}

// A volume with the boot files: mounted, unless it is that of Windows or FAT.
static struct error *use_boot_volume(struct job *job, unsigned index)
{
	struct error *error = NULL;

	job->boot_index = index;
	if (index == job->windows_index)
		return NULL;
	if (job->volumes[index].kind == VOLUME_FAT)
		volumes_use_fat(job->sandbox, image_partition(job->image, index), &job->boot_volume);
	else if (job->volumes[index].kind == VOLUME_NTFS)
		error = volumes_mount(job->sandbox, image_partition(job->image, index), true, &job->boot_volume);
	else
		error = error_create(ENOTSUP, "it holds the boot files, and is neither NTFS nor FAT");
	return error_prefix(error, "partition %u", number_of(job, index));
}

static struct error *find_boot_volume(struct job *job)
{
	unsigned found = NONE;

	if (job->disk.is_gpt && job->windows.generation == WINDOWS_XP)
		return error_create(ENOTSUP, "Windows of build %u on a GPT disk; expected an MBR one", job->windows.build);
	for (unsigned i = 0; i < job->disk.partition_count; i++) {
		const struct disk_partition *p = &job->disk.partitions[i];
		if (!(job->disk.is_gpt ? p->is_esp : p->is_active))
			continue;
		if (found != NONE)
			return error_create(ENOTSUP, "partitions %u and %u both say that the VM boots from them; expected one", number_of(job, found), p->number);
		found = i;
	}
	if (found == NONE)
		return error_create(ENOENT, job->disk.is_gpt ? "there is no EFI system partition, where the boot configuration would be" : "no partition is marked as the active one, where the boot configuration would be");
	snprintf(job->boot_path, sizeof(job->boot_path), "%s",
	         job->windows.generation == WINDOWS_XP ? "boot.ini" : job->disk.is_gpt ? "EFI/Microsoft/Boot/BCD" : "Boot/BCD");
	return use_boot_volume(job, found);
}

// ---- Is it at rest -------------------------------------------------------------------------------------------

// A hibernation file says so by its first letters, in either case [evidence.md, "Disks and hives"]. Fast Startup hibernates, too.
static struct error *check_not_hibernated(const struct job *job)
{
	char magic[5] = "";
	int fd CLEANUP_CLOSE = -1;
	struct error *error = files_open(job->windows_volume.root, "hiberfil.sys", &fd);

	if (error && error->code == ENOENT) {
		error_free(error);
		return NULL;
	}
	if (error || read(fd, magic, 4) < 4)
		return error;
	if (strcasecmp(magic, "hibr") != 0 && strcasecmp(magic, "rstr") != 0)
		return NULL;
	return error_create(EBUSY, "Windows is hibernated (as Fast Startup does at each shutdown). Start it, turn that off (`powercfg /h off`), shut it down, then try again");
}

// ---- Life ----------------------------------------------------------------------------------------------------

struct error *job_open(const struct setup_options *options, struct job *job)
{
	*job = (struct job){ .options = options, .windows_volume.root = -1, .boot_volume.root = -1 };
	struct error *error = sandbox_begin(&job->sandbox);

	if (!error)
		error = open_disk(job);
	if (!error)
		error = error_prefix(find_windows(job), "%s", options->image);
	if (!error)
		error = error_prefix(find_boot_volume(job), "%s", options->image);
	if (!error)
		error = error_prefix(check_not_hibernated(job), "%s", options->image);
	if (error)
		return error;
	printf("partition %u: %s, build %u, %s\n", number_of(job, job->windows_index), job->windows.product[0] ? job->windows.product : "Windows", job->windows.build,
	       job->windows.is_x64 ? "x64" : "x86");
	printf("partition %u: its boot files, %s\n", number_of(job, job->boot_index), job->boot_path);
	return NULL;
}

struct error *job_close(struct job *job)
{
	struct error *errors[3] = { volumes_unmount(&job->boot_volume), volumes_unmount(&job->windows_volume), image_close(job->image) };
	struct error *first = NULL;

	sandbox_end(job->sandbox);
	for (size_t i = 0; i < 3; i++) {
		if (first)
			error_free(errors[i]);
		else
			first = errors[i];
	}
	return first;
}

static struct error *remount(struct job *job, unsigned index, struct mounted *m)
{
	if (m->is_fat || m->root < 0)
		return NULL;
	struct error *error = volumes_unmount(m);
	if (!error)
		error = volumes_mount(job->sandbox, image_partition(job->image, index), false, m);
	return error_prefix(error, "partition %u", number_of(job, index));
}

struct error *job_make_writable(struct job *job)
{
	struct error *error = remount(job, job->windows_index, &job->windows_volume);

	return error ? error : remount(job, job->boot_index, &job->boot_volume);
}

const struct mounted *job_volume(const struct job *job, char letter)
{
	return letter == 'w' || job->boot_index == job->windows_index ? &job->windows_volume : &job->boot_volume;
}

const char *job_own_path(const struct job *job, const char *name)
{
	static char paths[2][128];
	static unsigned turn;
	char *path = paths[turn++ % 2];

	snprintf(path, sizeof(paths[0]), "%s/" JOURNAL_FOLDER "%s%s", job->windows.folder, *name ? "/" : "", name);
	return path;
}
