// SPDX-License-Identifier: MIT
#include "serve/vmdir.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "serve/proc.h"
#include "util/cleanup.h"

// A folder that young may belong to a VM that is just starting (the library makes it, then binds its socket).
#define YOUNG_SECONDS 5
// A killed holder keeps its lock until the kernel has taken its memory apart and closed its descriptors.
#define LOCK_PATIENCE_MS 1000
#define LOCK_TRY_MS 5
// Others look whether a lock is held by taking it for a moment (lock_holder), so one refusal proves nothing.
#define LOCK_LOOK_MS 50
#define FACTS_MAX 4096u

// ---- Locks --------------------------------------------------------------------------------------------

static int read_pid(int fd)
{
	char text[16] = "";
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);

	return len > 0 ? atoi(text) : 0;
}

static void write_pid(int fd, int pid)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d\n", pid);

	// For people and messages only: the lock itself is what counts.
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) < 0)
		return;
}

static bool is_still_at(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static bool lock_patiently(int fd)
{
	for (int waited = 0; waited < LOCK_PATIENCE_MS; waited += LOCK_TRY_MS) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		// Who has just taken it may not have written its pid yet: then the former holder's is read, and read again.
		if (waited >= LOCK_LOOK_MS && !proc_is_ending(read_pid(fd)))
			return false;
		usleep(LOCK_TRY_MS * 1000);
	}
	return false;
}

// -> NULL: locked. EBUSY: held by *ret_pid. The file may be removed between opening and locking it (vmdir_clean): then once more.
static struct error *lock_file(const char *path, int *ret_fd, int *ret_pid)
{
	for (int tries = 0; tries < 100; tries++) {
		int fd CLEANUP_CLOSE = rundir_open(path, O_RDWR | O_CREAT);

		if (fd < 0)
			return error_create(errno, "cannot open %s: %s", path, strerror(errno));
		if (!lock_patiently(fd)) {
			*ret_pid = read_pid(fd);
			return error_create(EBUSY, "%s is locked", path);
		}
		if (is_still_at(fd, path)) {
			*ret_fd = cleanup_take_fd(&fd);
			return NULL;
		}
	}
	return error_create(EAGAIN, "%s keeps changing", path);
}

// -> pid of who holds the lock, -1 if somebody unknown does, 0 if nobody.
static int lock_holder(const char *path)
{
	int fd CLEANUP_CLOSE = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	int pid;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	pid = read_pid(fd);
	return pid > 0 ? pid : -1;
}

struct error *vmdir_lock_broker(const char *name, int *ret_fd)
{
	char path[RUNDIR_PATH_MAX];
	int pid = 0;
	struct error *error = rundir_path(name, "lock", path);

	if (error)
		return error;
	error = lock_file(path, ret_fd, &pid);
	if (!error) {
		write_pid(*ret_fd, getpid());
		return NULL;
	}
	if (error->code != EBUSY)
		return error;
	error_free(error);
	return error_create(EBUSY, "%s is already served by pid %d: use `vmkd kd vm:%s`, or end that process first", name, pid, name);
}

// The last VM of this name may have died in a pause (serve/pause.h).
static void forget_pause(const char *name)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, "paused", path);

	if (!error)
		unlink(path); // mostly not there
	error_free(error);
}

struct error *vmdir_lock_vm(const char *name, int *ret_fd)
{
	char path[RUNDIR_PATH_MAX];
	int pid = 0;
	struct error *error;

	if (vmdir_vm_is_alive(name, &pid))
		return error_create(EBUSY, "the name %s is in use by the VM with pid %d: end that VM or choose another name", name, pid);
	error = rundir_path(name, "vm.lock", path);
	if (error)
		return error;
	error = lock_file(path, ret_fd, &pid);
	if (!error) {
		write_pid(*ret_fd, getpid());
		forget_pause(name);
		return NULL;
	}
	if (error->code != EBUSY)
		return error;
	error_free(error);
	return error_create(EBUSY, "the name %s is in use by the VM with pid %d: end that VM or choose another name", name, pid);
}

void vmdir_note_vm_pid(int fd, int pid)
{
	write_pid(fd, pid);
}

// ---- Beside the folder ----------------------------------------------------------------------------------

// BASE/NAME and `end`, which is no longer than a socket's name in the folder.
static struct error *path_beside(const char *name, const char *end, char ret[RUNDIR_PATH_MAX])
{
	struct error *error = rundir_path(name, end + 1, ret);

	if (!error)
		ret[strlen(ret) - strlen(end)] = '.';
	return error;
}

static bool find_monitor_beside(const char *name, unsigned long *ret_inode)
{
	char sock[RUNDIR_PATH_MAX];
	struct error *error = path_beside(name, VMDIR_MONITOR_BESIDE, sock);
	bool listens = !error && proc_find_unix_listener(sock, ret_inode);

	error_free(error);
	return listens;
}

struct error *vmdir_debugcon_paths(const char *name, char ret_bell[RUNDIR_PATH_MAX], char ret_monitor[RUNDIR_PATH_MAX])
{
	unsigned long inode;
	bool is_beside = find_monitor_beside(name, &inode);
	struct error *error = is_beside ? path_beside(name, VMDIR_BELL_BESIDE, ret_bell) : rundir_path(name, "debugcon.sock", ret_bell);

	if (error)
		return error;
	return is_beside ? path_beside(name, VMDIR_MONITOR_BESIDE, ret_monitor) : rundir_path(name, "monitor.sock", ret_monitor);
}

// ---- Facts --------------------------------------------------------------------------------------------

struct error *vmdir_write_facts(const struct vm_facts *facts)
{
	char path[RUNDIR_PATH_MAX], temporary[RUNDIR_PATH_MAX + 8];
	struct error *error = rundir_path(facts->name, "vm.json", path);
	cJSON *json = cJSON_CreateObject();
	char *text = NULL;
	FILE *file = NULL;
	bool done;
	int fd;

	if (error)
		goto out;
	cJSON_AddStringToObject(json, "name", facts->name);
	cJSON_AddNumberToObject(json, "pid", facts->pid);
	cJSON_AddStringToObject(json, "link", facts->link);
	cJSON_AddStringToObject(json, "ram_id", facts->ram_id);
	text = cJSON_Print(json);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = text ? rundir_open(temporary, O_WRONLY | O_CREAT | O_TRUNC) : -1;
	file = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (fd >= 0 && !file)
		close(fd);
	done = file && fprintf(file, "%s\n", text) > 0;
	if (file && fclose(file) != 0)
		done = false;
	if (!done || rename(temporary, path) < 0)
		error = error_create(errno, "cannot write %s: %s", path, strerror(errno));
out:
	free(text);
	cJSON_Delete(json);
	return error;
}

static void copy_text(const cJSON *json, const char *key, char *to, size_t size)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));

	if (text && strlen(text) < size)
		strcpy(to, text);
}

void vmdir_read_facts(const char *name, struct vm_facts *ret)
{
	char path[RUNDIR_PATH_MAX], text[FACTS_MAX];
	struct error *error = rundir_path(name, "vm.json", path);
	int fd CLEANUP_CLOSE = -1;
	unsigned long inode;
	cJSON *json;
	double pid;
	ssize_t len;

	*ret = (struct vm_facts){ 0 };
	if (error) {
		error_free(error);
		return;
	}
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	if (find_monitor_beside(name, &inode)) {
		strcpy(ret->link, "debugcon");
		return;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); // in a group's folder it may be a pipe of somebody's
	len = fd < 0 ? -1 : read(fd, text, sizeof(text));
	json = len > 0 ? cJSON_ParseWithLength(text, (size_t)len) : NULL;
	if (!json)
		return;
	pid = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "pid"));
	if (pid > 0 && pid < 1e9)
		ret->pid = (int)pid;
	copy_text(json, "link", ret->link, sizeof(ret->link));
	copy_text(json, "ram_id", ret->ram_id, sizeof(ret->ram_id));
	cJSON_Delete(json);
}

// ---- Life and death -----------------------------------------------------------------------------------

static bool find_vmm(const char *name, unsigned long *ret_inode)
{
	char sock[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, "vmm.sock", sock);
	bool listens = !error && proc_find_unix_listener(sock, ret_inode);

	error_free(error);
	return listens || find_monitor_beside(name, ret_inode);
}

bool vmdir_vmm_listens(const char *name)
{
	unsigned long inode;

	return find_vmm(name, &inode);
}

bool vmdir_vm_is_alive(const char *name, int *ret_pid)
{
	char lock[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, "vm.lock", lock);
	unsigned long inode;
	int holder;

	if (error) {
		error_free(error);
		return false;
	}
	holder = lock_holder(lock);
	if (holder) {
		*ret_pid = holder > 0 ? holder : 0;
		return true;
	}
	if (!find_vmm(name, &inode))
		return false;
	*ret_pid = proc_find_socket_owner(inode);
	return true;
}

int vmdir_broker_pid(const char *name)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, "lock", path);
	int pid = 0;

	if (!error)
		pid = lock_holder(path);
	error_free(error);
	return pid;
}

static bool is_young(const char *folder)
{
	struct stat st;

	return stat(folder, &st) == 0 && time(NULL) - st.st_mtime < YOUNG_SECONDS;
}

static void remove_files(const char *folder)
{
	static const char *const files[] = { "kd.sock", "ctl.sock", "vmm.sock", "ram.sock", "qmp.sock", "monitor.sock", "debugcon.sock",
					     "vm.json", "vm.json.new", "vm.lock", "lock", "paused" };
	char path[RUNDIR_PATH_MAX + 32];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
		unlink(path);
	}
	rmdir(folder); // stays if somebody keeps other things in it
}

// A QEMU that was killed leaves them.
static void remove_beside(const char *name)
{
	static const char *const ends[] = { VMDIR_BELL_BESIDE, VMDIR_MONITOR_BESIDE };
	char path[RUNDIR_PATH_MAX];

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		struct error *error = path_beside(name, ends[i], path);

		if (!error)
			unlink(path);
		error_free(error);
	}
}

static void remove_if_dead(const char *name, bool spare_young)
{
	char folder[RUNDIR_PATH_MAX], lock[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder);
	int fd CLEANUP_CLOSE = -1, pid;

	if (!error)
		error = rundir_path(name, "lock", lock);
	// The broker's lock is held while removing, so no broker settles in meanwhile.
	if (!error && access(folder, F_OK) == 0 && !(spare_young && is_young(folder)))
		error = lock_file(lock, &fd, &pid);
	if (!error && fd >= 0 && !vmdir_vm_is_alive(name, &pid)) {
		remove_files(folder);
		remove_beside(name);
	}
	error_free(error);
}

void vmdir_remove(const char *name)
{
	remove_if_dead(name, false);
}

// Cut a monitor's name to the VM's. -> false: it is none.
static bool is_beside(char *name)
{
	size_t len = strlen(name), end = strlen(VMDIR_MONITOR_BESIDE);

	if (len <= end || strcmp(name + len - end, VMDIR_MONITOR_BESIDE) != 0)
		return false;
	name[len - end] = 0;
	return true;
}

// A VM's folder; or the monitor of one that has no folder yet, which is listed under its VM's name.
static int is_vm(const struct dirent *entry)
{
	char folder[RUNDIR_PATH_MAX], name[256];
	struct error *error;
	bool is_new;

	if (entry->d_type != DT_SOCK)
		return rundir_name_is_valid(entry->d_name) && (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN);
	snprintf(name, sizeof(name), "%s", entry->d_name);
	error = is_beside(name) ? rundir_path(name, NULL, folder) : error_create(EINVAL, "no VM's");
	is_new = !error && access(folder, F_OK) < 0;
	error_free(error);
	return is_new;
}

struct error *vmdir_each(void (*fn)(void *arg, const char *name), void *arg)
{
	char base[RUNDIR_PATH_MAX];
	struct dirent **entries;
	struct error *error = rundir_base(base);
	int count;

	if (error)
		return error;
	count = scandir(base, &entries, is_vm, alphasort);
	if (count < 0 && errno == ENOENT)
		return NULL;
	if (count < 0)
		return error_create(errno, "cannot read the runtime folder %s: %s; VMKD_RUNTIME_DIR or XDG_RUNTIME_DIR names it", base, strerror(errno));
	for (int i = 0; i < count; i++) {
		int pid;

		if (entries[i]->d_type == DT_SOCK)
			is_beside(entries[i]->d_name);
		if (vmdir_broker_pid(entries[i]->d_name) || vmdir_vm_is_alive(entries[i]->d_name, &pid))
			fn(arg, entries[i]->d_name);
		else
			remove_if_dead(entries[i]->d_name, true);
		free(entries[i]);
	}
	free(entries);
	return NULL;
}
