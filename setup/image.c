// SPDX-License-Identifier: MIT
#include "setup/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define PATH_SIZE 96u      // of files in the sandbox's folder
#define OPTION_SIZE 9000u  // a path of 4096 bytes, each comma doubled
#define ARGUMENT_MAX (8u + 6u * DISK_PARTITION_MAX)
#define NBD_MAX 16u     // as many devices has the kernel's module, unless told
#define PROGRAM_MAX NBD_MAX
#define START_STEP_US 10000u
#define START_STEPS 6000u // a minute: a long chain of backing files on a cold disk

// ---- Format --------------------------------------------------------------------------------------------------

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// Offsets and bits: QEMU's docs/interop/qcow2.txt.
static struct error *check_qcow2(const uint8_t *head, bool may_have_backing)
{
	bool has_backing = be32(head + 8) || be32(head + 12);
	uint32_t version = be32(head + 4), encryption = be32(head + 32), incompatible = version >= 3 ? be32(head + 76) : 0;

	if (version < 2 || version > 3)
		return error_create(ENOTSUP, "qcow2 of version %u; expected 2 or 3", version);
	if (encryption)
		return error_create(ENOTSUP, "the image is encrypted; `qemu-img convert` makes one that is not");
	if (incompatible & 2)
		return error_create(ENOTSUP, "the image is marked as corrupt; `qemu-img check -r all` may repair it");
	if (incompatible & 4)
		return error_create(ENOTSUP, "the image keeps its data in another file; `qemu-img convert` makes one that does not");
	if (has_backing && !may_have_backing)
		return error_create(EPERM, "the image has a backing file, which would be opened as root, whatever it is: `qemu-img info` shows it; if it is as it should be, add --backing");
	return NULL;
}

struct error *image_format(const uint8_t head[static IMAGE_HEAD_LEN], bool may_have_backing, enum image_format *ret)
{
	static const struct {
		unsigned offset;
		const char *magic, *name;
	} others[] = { { 0, "KDMV", "VMDK" }, { 0, "# Disk DescriptorFile", "VMDK" }, { 0, "vhdxfile", "VHDX" }, { 0, "conectix", "VHD" }, { 64, "\x7f\x10\xda\xbe", "VDI" }, { 0, "QED", "QED" }, { 0, "LUKS\xba\xbe", "LUKS" } };

	if (memcmp(head, "QFI\xfb", 4) == 0) {
		struct error *error = check_qcow2(head, may_have_backing);
		if (!error)
			*ret = IMAGE_QCOW2;
		return error;
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (memcmp(head + others[i].offset, others[i].magic, strlen(others[i].magic)) == 0)
			return error_create(ENOTSUP, "it is a %s image; expected raw or qcow2 (`qemu-img convert -O qcow2` makes one)", others[i].name);
	*ret = IMAGE_RAW;
	return NULL;
}

// ---- Programs that serve it ------------------------------------------------------------------------------------

struct image {
	struct sandbox *sandbox;
	bool is_read_only, is_nbd;
	char disk[PATH_SIZE];
	char partitions[DISK_PARTITION_MAX][PATH_SIZE];
	unsigned program_count; // in the order of their start
	struct program programs[PROGRAM_MAX];
};

struct arguments {
	unsigned count;
	char *words[ARGUMENT_MAX + 1];
};

static void arguments_deinit(struct arguments *a)
{
	for (unsigned i = 0; i < a->count; i++)
		free(a->words[i]);
}

__attribute__((format(printf, 2, 3))) static void add(struct arguments *a, const char *format, ...)
{
	static char option[OPTION_SIZE];
	va_list ap;

	va_start(ap, format);
	vsnprintf(option, sizeof(option), format, ap);
	va_end(ap);
	a->words[a->count] = strdup(option);
	a->count += a->count < ARGUMENT_MAX && a->words[a->count];
}

// QEMU's options end at a comma; two of them are one.
static void double_commas(const char *text, char *ret, size_t size)
{
	size_t len = 0;

	for (; *text && len + 3 < size; text++) {
		ret[len++] = *text;
		if (*text == ',')
			ret[len++] = ',';
	}
	ret[len] = 0;
}

static struct error *make_file(const char *path)
{
	int fd CLEANUP_CLOSE = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	return fd >= 0 ? NULL : error_create(errno, "cannot make %s: %s", path, strerror(errno));
}

static struct error *why_not(const struct program *p)
{
	const char *said = sandbox_said(p);

	if (strstr(said, "lock"))
		return error_create(EBUSY, "it is in use; shut the VM down (or end whatever has it open) first [%s]", said);
	return error_create(EIO, "%s", said);
}

// Starts a program and waits until `is_ready`; that it ends before is an error.
static struct error *start(struct image *image, char *const argv[], const char *path, bool (*is_ready)(const struct program *p, const char *path))
{
	struct program *p = &image->programs[image->program_count];

	if (image->program_count == PROGRAM_MAX)
		return error_create(E2BIG, "more than %u programs would be needed", PROGRAM_MAX);
	struct error *error = sandbox_start(image->sandbox, argv, p);
	if (error)
		return error;
	image->program_count++;
	for (unsigned i = 0; i < START_STEPS && !sandbox_is_interrupted(); i++) {
		if (is_ready(p, path))
			return NULL;
		if (sandbox_has_ended(image->sandbox, p))
			return why_not(p);
		usleep(START_STEP_US);
	}
	return error_create(ETIMEDOUT, "%s does not get ready", p->name);
}

static bool has_contents(const struct program *p, const char *path)
{
	struct stat st;

	(void)p;
	return stat(path, &st) == 0 && st.st_size > 0;
}

static const char *yes_no(bool is)
{
	return is ? "on" : "off";
}

// ---- FUSE: one daemon for the disk, one for all partitions -----------------------------------------------------

static void add_export(struct arguments *a, const char *node, const char *path, bool is_read_only)
{
	add(a, "--export");
	add(a, "fuse,id=e-%s,node-name=%s,mountpoint=%s,writable=%s,growable=off", node, node, path, yes_no(!is_read_only));
}

// It writes its pid when everything is exported.
static struct error *start_daemon(struct image *image, struct arguments *a)
{
	char pid_file[PATH_SIZE];

	snprintf(pid_file, sizeof(pid_file), "%s/pid", sandbox_folder(image->sandbox));
	unlink(pid_file); // the daemon's before
	add(a, "--pidfile");
	add(a, "%s", pid_file);
	return start(image, a->words, pid_file, has_contents);
}

static struct error *serve_by_fuse(struct image *image, const char *name, enum image_format format, bool is_device)
{
	struct arguments a = { 0 };
	struct error *error;

	snprintf(image->disk, sizeof(image->disk), "%s/disk", sandbox_folder(image->sandbox));
	error = make_file(image->disk);
	if (error)
		return error;
	add(&a, "qemu-storage-daemon");
	add(&a, "--blockdev");
	add(&a, "driver=%s,node-name=file,read-only=%s,filename=%s", is_device ? "host_device" : "file", yes_no(image->is_read_only), name);
	add(&a, "--blockdev");
	add(&a, "driver=%s,node-name=disk,file=file,read-only=%s", format == IMAGE_QCOW2 ? "qcow2" : "raw", yes_no(image->is_read_only));
	add_export(&a, "disk", image->disk, image->is_read_only);
	error = start_daemon(image, &a);
	arguments_deinit(&a);
	return error;
}

static struct error *cut_by_fuse(struct image *image, const struct disk *disk, const bool *is_wanted)
{
	struct arguments a = { 0 };
	struct error *error = NULL;

	add(&a, "qemu-storage-daemon");
	for (unsigned i = 0; !error && i < disk->partition_count; i++) {
		const struct disk_partition *p = &disk->partitions[i];
		char node[16];
		if (!is_wanted[i])
			continue;
		snprintf(node, sizeof(node), "p%u", i);
		snprintf(image->partitions[i], PATH_SIZE, "%s/%s", sandbox_folder(image->sandbox), node);
		error = make_file(image->partitions[i]);
		add(&a, "--blockdev"); // its lock is the first daemon's
		add(&a, "driver=file,node-name=f%u,filename=%s,locking=off,read-only=%s", i, image->disk, yes_no(image->is_read_only));
		add(&a, "--blockdev");
		add(&a, "driver=raw,node-name=%s,file=f%u,offset=%" PRIu64 ",size=%" PRIu64 ",read-only=%s", node, i, p->offset, p->size, yes_no(image->is_read_only));
		add_export(&a, node, image->partitions[i], image->is_read_only);
	}
	if (!error)
		error = start_daemon(image, &a);
	arguments_deinit(&a);
	return error;
}

// ---- NBD: a device of the kernel for the disk, and one for each partition --------------------------------------

// The kernel tells which thread has connected a device. -> 0: nobody, or there is no such device.
static int thread_of(const char *device)
{
	char path[PATH_SIZE + 16];
	int thread = 0;

	snprintf(path, sizeof(path), "/sys/block/%s/pid", device + strlen("/dev/"));
	FILE *file = fopen(path, "re");
	if (file && fscanf(file, "%d", &thread) != 1)
		thread = 0;
	if (file)
		fclose(file);
	return thread;
}

static bool is_connected(const struct program *p, const char *device)
{
	char path[PATH_SIZE];
	int thread = thread_of(device), fd CLEANUP_CLOSE = open(device, O_RDONLY | O_CLOEXEC);

	snprintf(path, sizeof(path), "/proc/%d/task/%d", p->pid, thread);
	return thread > 0 && access(path, F_OK) == 0 && fd >= 0 && lseek(fd, 0, SEEK_END) > 0;
}

// Connects what the words describe to a free device. Somebody else may take that at the same moment: then the next.
static struct error *connect_nbd(struct image *image, struct arguments *a, char ret_path[static PATH_SIZE])
{
	add(a, "-c");
	for (unsigned number = 0; number < NBD_MAX; number++) {
		snprintf(ret_path, PATH_SIZE, "/dev/nbd%u", number);
		if (access(ret_path, R_OK | W_OK) < 0 || thread_of(ret_path))
			continue;
		add(a, "%s", ret_path);
		struct error *error = start(image, a->words, ret_path, is_connected);
		if (!error || !thread_of(ret_path))
			return error;
		error_free(error);
		free(a->words[--a->count]);
		a->words[a->count] = NULL;
	}
	return error_create(ENODEV, "neither qemu-storage-daemon with FUSE nor a free /dev/nbd device for qemu-nbd (`modprobe nbd`)");
}

static void begin_nbd(const struct image *image, struct arguments *a)
{
	add(a, "qemu-nbd");
	add(a, "--verbose"); // it stays in the foreground then
	if (image->is_read_only)
		add(a, "--read-only");
	add(a, "--image-opts");
}

static struct error *serve_by_nbd(struct image *image, const char *name, enum image_format format, bool is_device)
{
	struct arguments a = { 0 };

	begin_nbd(image, &a);
	add(&a, "driver=%s,file.driver=%s,file.filename=%s", format == IMAGE_QCOW2 ? "qcow2" : "raw", is_device ? "host_device" : "file", name);
	struct error *error = connect_nbd(image, &a, image->disk);
	arguments_deinit(&a);
	return error;
}

static struct error *cut_by_nbd(struct image *image, const struct disk *disk, const bool *is_wanted)
{
	struct error *error = NULL;

	for (unsigned i = 0; !error && i < disk->partition_count; i++) {
		const struct disk_partition *p = &disk->partitions[i];
		struct arguments a = { 0 };
		if (!is_wanted[i])
			continue;
		begin_nbd(image, &a);
		add(&a, "driver=raw,offset=%" PRIu64 ",size=%" PRIu64 ",file.driver=host_device,file.locking=off,file.filename=%s", p->offset, p->size, image->disk);
		error = connect_nbd(image, &a, image->partitions[i]);
		arguments_deinit(&a);
	}
	return error;
}

// ---- Either ----------------------------------------------------------------------------------------------------

static bool has_no_fuse(const struct error *error)
{
	return error && (error->code == ENOENT || strstr(error->text, "does not accept value 'fuse'"));
}

static struct error *serve(struct image *image, const char *path, enum image_format format, bool is_device)
{
	char name[OPTION_SIZE];
	struct error *error;

	double_commas(path, name, sizeof(name));
	error = serve_by_fuse(image, name, format, is_device);
	if (!has_no_fuse(error))
		return error;
	error_free(error);
	image->is_nbd = true;
	return serve_by_nbd(image, name, format, is_device);
}

static struct error *look_at_format(const char *path, bool may_have_backing, enum image_format *ret, bool *ret_is_device)
{
	uint8_t head[IMAGE_HEAD_LEN] = { 0 };
	struct stat st;
	int fd CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_create(errno, "cannot open it: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_create(EINVAL, "expected a disk image or a block device");
	if (read(fd, head, sizeof(head)) < 0)
		return error_create(errno, "cannot read it: %s", strerror(errno));
	if (S_ISBLK(st.st_mode)) { // QEMU's locks tell of other QEMUs, not of a mount of the host's
		int own CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC | O_EXCL);
		if (own < 0)
			return error_create(errno, "%s", errno == EBUSY ? "it is in use on this host (mounted, or part of LVM or RAID)" : strerror(errno));
	}
	*ret_is_device = S_ISBLK(st.st_mode);
	return image_format(head, may_have_backing, ret);
}

struct error *image_open(struct sandbox *s, const char *path, bool is_read_only, bool may_have_backing, struct image **ret)
{
	enum image_format format;
	bool is_device;
	char *real = realpath(path, NULL);
	struct image *image = calloc(1, sizeof(*image));
	struct error *error = !image ? error_create(ENOMEM, "out of memory") : !real ? error_create(errno, "cannot open it: %s", strerror(errno)) : look_at_format(real, may_have_backing, &format, &is_device);

	if (!error) {
		image->sandbox = s;
		image->is_read_only = is_read_only;
		error = serve(image, real, format, is_device);
	}
	free(real);
	if (error)
		free(image); // its programs end with the sandbox
	else
		*ret = image;
	return error;
}

const char *image_disk(const struct image *image)
{
	return image->disk;
}

struct error *image_cut(struct image *image, const struct disk *disk, const bool is_wanted[static DISK_PARTITION_MAX])
{
	return (image->is_nbd ? cut_by_nbd : cut_by_fuse)(image, disk, is_wanted);
}

const char *image_partition(const struct image *image, unsigned index)
{
	return image->partitions[index];
}

struct error *image_close(struct image *image)
{
	struct error *first = NULL;

	while (image && image->program_count > 0) {
		struct error *error = sandbox_stop(image->sandbox, &image->programs[--image->program_count]);
		if (first)
			error_free(error);
		else
			first = error;
	}
	free(image);
	return first;
}
