// SPDX-License-Identifier: MIT
#include "cli/qemu_args.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/rundir.h"
#include "wire/portcall.h"

#define MIB (1024u * 1024u)
// QEMU's own default for every machine that has no other (hw/core/machine.c), and its rounding.
#define DEFAULT_RAM (128u * (uint64_t)MIB)
#define RAM_ALIGN 8192u
#define RAM_MAX (UINT64_C(1) << 46) // beyond every PC
#define ADDED_MAX 20

bool qemu_is_system_emulator(const char *program)
{
	static const char *const names[] = { "qemu-system-x86_64", "qemu-system-i386", "kvm", "qemu-kvm" };
	const char *base = strrchr(program, '/');

	base = base ? base + 1 : program;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(base, names[i]) == 0)
			return true;
	return false;
}

// ---- QEMU's "key=value,key=value" ---------------------------------------------------------------------------

struct option_value {
	char key[QEMU_ID_MAX];
	char value[256];
};

// Take the next item from *at, with ",," as a comma. A first item without '=' gets the key `implied`. -> false: the end.
// What does not fit is cut: such values are none of those looked for.
static bool next_item(const char **at, const char *implied, struct option_value *ret)
{
	const char *p = *at;
	char item[320];
	size_t len = 0;
	char *equals;

	if (!*p)
		return false;
	for (; *p; p++) {
		if (*p == ',' && p[1] != ',')
			break;
		p += *p == ',';
		if (len + 1 < sizeof(item))
			item[len++] = *p;
	}
	item[len] = 0;
	*at = *p ? p + 1 : p;
	equals = strchr(item, '=');
	if (equals)
		*equals = 0;
	snprintf(ret->key, sizeof(ret->key), "%.*s", (int)sizeof(ret->key) - 1, equals || !implied ? item : implied);
	snprintf(ret->value, sizeof(ret->value), "%.*s", (int)sizeof(ret->value) - 1, equals ? equals + 1 : implied ? item : "on");
	return true;
}

// The value of the last `key` in `text`. -> false: it is not there.
static bool find_item(const char *text, const char *implied, const char *key, char *ret, size_t size)
{
	const char *at = text, *name = implied;
	struct option_value item;
	bool found = false;

	while (next_item(&at, name, &item)) {
		name = NULL;
		if (strcmp(item.key, key) == 0) {
			snprintf(ret, size, "%.*s", (int)size - 1, item.value);
			found = true;
		}
	}
	return found;
}

// ---- Memory -------------------------------------------------------------------------------------------------

static struct error *bad_memory(const char *value)
{
	return error_create(EINVAL, "-m %s: expected a size like 512, 512M, 6G, or size=6G,slots=2,maxmem=8G", value);
}

// A size as QEMU's option parser takes it: decimal with an optional fraction, or hexadecimal without one; suffix b k M G T P E.
static bool parse_size(const char *text, uint64_t *ret)
{
	static const char suffixes[] = "bkmgtpe";
	bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	const char *suffix;
	double value, scale = MIB;
	char *end;

	if (!(text[0] >= '0' && text[0] <= '9'))
		return false;
	value = is_hex ? (double)strtoull(text, &end, 16) : strtod(text, &end);
	if (*end) {
		suffix = end[1] ? NULL : strchr(suffixes, *end | 0x20);
		if (!suffix)
			return false;
		scale = 1;
		for (const char *s = suffixes; s < suffix; s++)
			scale *= 1024;
	}
	value *= scale;
	if (!(value >= 1 && value <= (double)RAM_MAX))
		return false;
	*ret = (uint64_t)value;
	return true;
}

struct error *qemu_parse_memory(const char *value, uint64_t *ret_size)
{
	char text[256];
	uint64_t size = 0;

	if (find_item(value, "size", "size", text, sizeof(text)) && !parse_size(text, &size))
		return bad_memory(value);
	*ret_size = (size + RAM_ALIGN - 1) / RAM_ALIGN * RAM_ALIGN;
	return NULL;
}

// ---- Reading the command line -------------------------------------------------------------------------------

// The option's name without dashes; NULL when argv[i] is none.
static const char *option_name(const char *argument)
{
	if (argument[0] != '-' || !argument[1])
		return NULL;
	return argument + (argument[1] == '-' ? 2 : 1);
}

// Options whose value may be any text, an option's look included.
static bool takes_free_text(const char *name)
{
	static const char *const names[] = { "append", "name", "kernel", "initrd", "fw_cfg", "dtb", "drive", "cdrom", "hda", "pidfile", "D" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

struct accel_seen {
	bool kvm, other;
};

static void note_accels(struct accel_seen *seen, const char *list)
{
	while (*list) {
		size_t len = strcspn(list, ":");

		if (len == 3 && strncmp(list, "kvm", 3) == 0)
			seen->kvm = true;
		else
			seen->other = true;
		list += len + (list[len] == ':');
	}
}

struct backend_wish {
	const char *object; // value of the -object with this id, or NULL
	char type[64];
	bool is_shared;
};

static bool is_on(const char *text)
{
	return strcmp(text, "on") == 0 || strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "y") == 0;
}

// -object in QEMU's own syntax or as JSON. memory-backend-memfd is shared unless told otherwise, the others are not.
static bool object_has_id(const char *value, const char *id, struct backend_wish *ret)
{
	char seen[QEMU_ID_MAX] = "", share[16] = "";

	ret->type[0] = 0;
	if (value[0] == '{') {
		cJSON *json = cJSON_Parse(value);
		const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "id"));
		const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "qom-type"));
		const cJSON *shared = cJSON_GetObjectItemCaseSensitive(json, "share");

		snprintf(seen, sizeof(seen), "%.63s", text ? text : "");
		snprintf(ret->type, sizeof(ret->type), "%.63s", type ? type : "");
		if (shared)
			strcpy(share, cJSON_IsTrue(shared) ? "on" : "off");
		cJSON_Delete(json);
	} else {
		find_item(value, "qom-type", "id", seen, sizeof(seen));
		find_item(value, "qom-type", "qom-type", ret->type, sizeof(ret->type));
		find_item(value, "qom-type", "share", share, sizeof(share));
	}
	ret->is_shared = share[0] ? is_on(share) : strcmp(ret->type, "memory-backend-memfd") == 0;
	return strcmp(seen, id) == 0;
}

static struct error *check_backend(int argc, char *const *argv, const char *id, uint64_t ram_size)
{
	struct backend_wish wish = { 0 };

	for (int i = 1; i + 1 < argc; i++) {
		const char *name = option_name(argv[i]);

		if (!name || strcmp(name, "object") != 0 || !object_has_id(argv[i + 1], id, &wish))
			continue;
		if (wish.is_shared && (strcmp(wish.type, "memory-backend-memfd") == 0 || strcmp(wish.type, "memory-backend-file") == 0))
			return NULL;
		return error_create(EINVAL, "--link debugcon needs the guest's RAM as a shared file, but the backend '%s' is %s%s; "
					    "use -object memory-backend-memfd,id=%s,size=%lluM,share=on",
				    id, wish.type, wish.is_shared ? "" : " without share=on", id, (unsigned long long)(ram_size / MIB));
	}
	return error_create(EINVAL, "the command line uses the memory backend '%s' but has no -object with this id", id);
}

static struct error *note_numa(const char *value, struct qemu_args *a)
{
	char id[QEMU_ID_MAX];

	if (!find_item(value, "type", "memdev", id, sizeof(id)))
		return NULL;
	if (a->ram_id[0] && strcmp(a->ram_id, id) != 0)
		return error_create(ENOTSUP, "--link debugcon works with one memory backend, but NUMA nodes use '%s' and '%s'; "
					     "use one node, or --link hook with KVM", a->ram_id, id);
	strcpy(a->ram_id, id);
	return NULL;
}

// -machine: the last type and backend win. Any other key about memory is a wish of the user's.
static void note_machine(const char *value, struct qemu_args *a)
{
	const char *at = value, *name = "type";
	struct option_value item;

	while (next_item(&at, name, &item)) {
		name = NULL;
		if (strcmp(item.key, "type") == 0)
			snprintf(a->machine, sizeof(a->machine), "%.*s", (int)sizeof(a->machine) - 1, item.value);
		a->has_ram_wish |= strncmp(item.key, "memory", strlen("memory")) == 0 || strcmp(item.key, "confidential-guest-support") == 0;
	}
}

static bool is_ram_option(const char *name)
{
	return strcmp(name, "numa") == 0 || strcmp(name, "mem-path") == 0 || strcmp(name, "readconfig") == 0;
}

static struct error *note_option(const char *name, const char *value, bool debugcon, struct accel_seen *seen, struct qemu_args *a)
{
	char text[256];
	uint64_t size;
	struct error *error;

	a->has_ram_wish |= is_ram_option(name);
	if (strcmp(name, "enable-kvm") == 0) {
		seen->kvm = true;
	} else if (strcmp(name, "daemonize") == 0) {
		a->is_daemonized = true;
	} else if (!value) {
		return NULL;
	} else if (strcmp(name, "accel") == 0) {
		if (find_item(value, "accel", "accel", text, sizeof(text)))
			note_accels(seen, text);
	} else if (strcmp(name, "machine") == 0 || strcmp(name, "M") == 0) {
		if (find_item(value, "type", "accel", text, sizeof(text)))
			note_accels(seen, text);
		find_item(value, "type", "memory-backend", a->ram_id, sizeof(a->ram_id));
		note_machine(value, a);
	} else if (strcmp(name, "m") == 0) {
		error = qemu_parse_memory(value, &size);
		if (!error && size)
			a->ram_size = size;
		return error;
	} else if (strcmp(name, "numa") == 0 && debugcon) {
		return note_numa(value, a);
	} else if (strcmp(name, "mem-path") == 0 && debugcon) {
		return error_create(EINVAL, "--link debugcon needs the guest's RAM as a shared file, and -mem-path %s is not shared; use "
					    "-object memory-backend-file,id=ram,mem-path=%s,size=SIZE,share=on -machine memory-backend=ram",
				    value, value);
	}
	return NULL;
}

struct error *qemu_read_args(int argc, char *const *argv, bool debugcon, struct qemu_args *ret)
{
	struct qemu_args a = { .ram_size = DEFAULT_RAM };
	const char *base = strrchr(argv[0], '/');
	struct accel_seen seen = { 0 };
	struct error *error = NULL;

	base = base ? base + 1 : argv[0];
	seen.kvm = strcmp(base, "kvm") == 0 || strcmp(base, "qemu-kvm") == 0;
	for (int i = 1; i < argc && !error; i++) {
		const char *name = option_name(argv[i]);

		if (!name)
			continue;
		error = note_option(name, i + 1 < argc ? argv[i + 1] : NULL, debugcon, &seen, &a);
		i += takes_free_text(name);
	}
	if (!error && debugcon && a.ram_id[0])
		error = check_backend(argc, argv, a.ram_id, a.ram_size);
	if (error)
		return error;
	a.accel = !seen.kvm ? QEMU_ACCEL_OTHER : seen.other ? QEMU_ACCEL_KVM_OR_OTHER : QEMU_ACCEL_KVM;
	*ret = a;
	return NULL;
}

// ---- Extending it -------------------------------------------------------------------------------------------

struct arg_list {
	char **argv;
	int count;
	bool is_broken; // memory ran out
};

static void add(struct arg_list *list, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		list->is_broken = true;
	else
		list->argv[list->count++] = copy;
}

// "PREFIX=PATH,SUFFIX" with the path's commas doubled, as QEMU wants them.
static void add_path_option(struct arg_list *list, const char *option, const char *prefix, const char *path, const char *suffix)
{
	char escaped[2 * RUNDIR_PATH_MAX], text[2 * RUNDIR_PATH_MAX + 128];
	size_t len = 0;

	for (const char *p = path; *p; p++) {
		escaped[len++] = *p;
		if (*p == ',')
			escaped[len++] = ',';
	}
	escaped[len] = 0;
	snprintf(text, sizeof(text), "%s%s%s", prefix, escaped, suffix);
	add(list, option);
	add(list, text);
}

// What QEMU calls the RAM of a machine that it makes itself (query-machines, default-ram-id). NULL = a machine unknown here.
static const char *ram_id_of(const char *machine)
{
	static const char *const names[] = { "", "pc", "q35", "isapc" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(machine, names[i]) == 0)
			return "pc.ram";
	if (strncmp(machine, "pc-", 3) == 0) // pc-i440fx-7.2, pc-q35-7.2, ...
		return "pc.ram";
	return strcmp(machine, "microvm") == 0 ? "microvm.ram" : NULL;
}

bool qemu_may_share_ram(const struct qemu_args *args)
{
	return !args->has_ram_wish && ram_id_of(args->machine);
}

static void add_memory(struct arg_list *list, const char *id, uint64_t ram_size)
{
	char text[128];

	snprintf(text, sizeof(text), "memory-backend-memfd,id=%s,size=%llu,share=on", id, (unsigned long long)ram_size);
	add(list, "-object");
	add(list, text);
	snprintf(text, sizeof(text), "memory-backend=%s", id);
	add(list, "-machine");
	add(list, text);
}

static const char *our_ram_id(const struct qemu_args *args)
{
	const char *id = ram_id_of(args->machine);

	return id ? id : "vmkd-ram";
}

static void add_doorbell(struct arg_list *list, const char *bell_path, const char *monitor_path)
{
	char text[128];

	add_path_option(list, "-chardev", "socket,id=vmkd-debugcon,path=", bell_path, ",server=on,wait=off");
	snprintf(text, sizeof(text), "isa-debugcon,iobase=0x%x,readback=0x%x,chardev=vmkd-debugcon", DEBUGCON_PORT, DEBUGCON_READBACK);
	add(list, "-device");
	add(list, text);
	add_path_option(list, "-qmp", "unix:", monitor_path, ",server=on,wait=off");
}

static struct error *add_debugcon(struct arg_list *list, const char *vm_name, const struct qemu_args *args)
{
	char bell[RUNDIR_PATH_MAX], monitor[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(vm_name, "debugcon.sock", bell);

	if (!error)
		error = rundir_path(vm_name, "monitor.sock", monitor);
	if (error)
		return error;
	add_doorbell(list, bell, monitor);
	if (!args->ram_id[0])
		add_memory(list, our_ram_id(args), args->ram_size);
	return NULL;
}

struct error *qemu_extend_args(int argc, char *const *argv, const char *vm_name, const struct qemu_args *args,
			       enum qemu_additions additions, char ***ret, char ret_ram_id[QEMU_ID_MAX])
{
	struct arg_list list = { .argv = calloc((size_t)argc + ADDED_MAX, sizeof(char *)) };
	char path[RUNDIR_PATH_MAX];
	struct error *error;

	if (!list.argv)
		return error_create(ENOMEM, "out of memory");
	for (int i = 0; i < argc; i++)
		add(&list, argv[i]);
	error = rundir_path(vm_name, "qmp.sock", path);
	if (!error)
		add_path_option(&list, "-qmp", "unix:", path, ",server=on,wait=off");
	if (!error && additions == QEMU_ADD_DEBUGCON)
		error = add_debugcon(&list, vm_name, args);
	if (!error && additions == QEMU_ADD_SHARED_RAM)
		add_memory(&list, our_ram_id(args), args->ram_size);
	if (!error && list.is_broken)
		error = error_create(ENOMEM, "out of memory");
	if (error) {
		qemu_free_args(list.argv);
		return error;
	}
	snprintf(ret_ram_id, QEMU_ID_MAX, "%s", additions != QEMU_ADD_DEBUGCON ? "" : args->ram_id[0] ? args->ram_id : our_ram_id(args));
	*ret = list.argv;
	return NULL;
}

struct error *qemu_doorbell_args(const char *bell_path, const char *monitor_path, char ***ret)
{
	struct arg_list list = { .argv = calloc(ADDED_MAX, sizeof(char *)) };

	if (list.argv)
		add_doorbell(&list, bell_path, monitor_path);
	if (!list.argv || list.is_broken) {
		qemu_free_args(list.argv);
		return error_create(ENOMEM, "out of memory");
	}
	*ret = list.argv;
	return NULL;
}

void qemu_free_args(char **argv)
{
	for (char **at = argv; at && *at; at++)
		free(*at);
	free(argv);
}
