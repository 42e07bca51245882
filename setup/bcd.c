// SPDX-License-Identifier: MIT
#include "setup/bcd.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "setup/hive.h"

#define BOOTMGR "Objects\\{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
#define TYPE_WINDOWS_LOADER 0x10200003
#define MENU "24000001"    // display order, list of GUIDs
#define DEFAULT "23000003" // GUID
#define DEBUG "260000a0"
#define NAME "12000004"
#define PATH "12000002"
#define MENU_MAX 64u

enum element_type { BOOLEAN, INTEGER, STRING };

struct element {
	const char *id;
	enum element_type type;
	int value;
	const char *text;
	enum windows_generation since, until; // both included
};

// docs/guest.md says what each does. Integers are 8 bytes, booleans 1.
static const struct element elements[] = {
	{ NAME, STRING, 0, BCD_NAME, WINDOWS_VISTA, WINDOWS_11 },
	{ DEBUG, BOOLEAN, 1, NULL, WINDOWS_VISTA, WINDOWS_11 },           // debug
	{ "16000049", BOOLEAN, 1, NULL, WINDOWS_VISTA, WINDOWS_11 },           // test signing, of the boot library
	{ "26000027", BOOLEAN, 1, NULL, WINDOWS_VISTA, WINDOWS_11 },           // and of the kernel's loader
	{ "22000013", STRING, 0, "kdvmkd.dll", WINDOWS_VISTA, WINDOWS_VISTA }, // the transport
	{ "22000013", STRING, 0, "kdcom.dll", WINDOWS_8, WINDOWS_11 },
	{ "250000c2", INTEGER, 0, NULL, WINDOWS_8, WINDOWS_11 }, // the menu with F8 before the kernel is there
	{ "16000009", BOOLEAN, 0, NULL, WINDOWS_8, WINDOWS_11 }, // no automatic recovery
	{ "15000011", INTEGER, 0, NULL, WINDOWS_8, WINDOWS_11 }, // debug type: serial
	{ "12000019", STRING, 0, "", WINDOWS_8, WINDOWS_11 },    // bus parameters
	{ "16000048", BOOLEAN, 1, NULL, WINDOWS_11, WINDOWS_11 }, // no integrity checks
};

static hive_node_h elements_of(hive_h *h, const char *guid)
{
	char path[128];

	snprintf(path, sizeof(path), "Objects\\%s\\Elements", guid);
	return hive_find(h, hivex_root(h), path);
}

static hive_node_h bootmgr(hive_h *h)
{
	return hive_find(h, hivex_root(h), BOOTMGR "\\Elements");
}

bool bcd_is_guid(const char *text)
{
	static const char shape[] = "{hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh}";

	if (strlen(text) != BCD_GUID_SIZE - 1)
		return false;
	for (size_t i = 0; i < BCD_GUID_SIZE - 1; i++)
		if (shape[i] == 'h' ? !isxdigit((unsigned char)text[i]) : text[i] != shape[i])
			return false;
	return true;
}

// ---- Reading -------------------------------------------------------------------------------------------------

bool bcd_default(hive_h *h, char ret_guid[static BCD_GUID_SIZE])
{
	char *guid = hive_string(h, hive_find(h, bootmgr(h), DEFAULT), "Element");
	bool is_one = guid && bcd_is_guid(guid);

	if (is_one)
		memcpy(ret_guid, guid, BCD_GUID_SIZE);
	free(guid);
	return is_one;
}

bool bcd_has_debugging(hive_h *h, const char *guid)
{
	hive_node_h node = hive_find(h, elements_of(h, guid), DEBUG);
	hive_value_h value = node ? hivex_node_get_value(h, node, "Element") : 0;
	hive_type type;
	size_t len = 0;
	char *data = value ? hivex_value_value(h, value, &type, &len) : NULL;
	bool is_on = data && len > 0 && data[0];

	free(data);
	return is_on;
}

struct menu {
	size_t count;
	char guids[MENU_MAX][BCD_GUID_SIZE];
};

// The entries of the boot menu. -> false: there are too many, or one is no GUID.
static bool read_menu(hive_h *h, struct menu *ret)
{
	hive_node_h node = hive_find(h, bootmgr(h), MENU);
	hive_value_h value = node ? hivex_node_get_value(h, node, "Element") : 0;
	char **guids = value ? hivex_value_multiple_strings(h, value) : NULL;
	bool is_good = true;

	ret->count = 0;
	for (size_t i = 0; guids && guids[i]; i++) {
		bool is_end = !*guids[i]; // hivex gives the list's end as one more, empty string
		is_good = is_good && (is_end || (ret->count < MENU_MAX && bcd_is_guid(guids[i])));
		if (is_good && !is_end)
			memcpy(ret->guids[ret->count++], guids[i], BCD_GUID_SIZE);
		free(guids[i]);
	}
	free(guids);
	return is_good;
}

static struct error *bad_menu(void)
{
	return error_create(EINVAL, "the boot menu is not a list of at most %u entries", MENU_MAX);
}

static bool ends_in_winload(const char *path)
{
	const char *name = path ? strrchr(path, '\\') : NULL;

	return name && (strcasecmp(name, "\\winload.exe") == 0 || strcasecmp(name, "\\winload.efi") == 0);
}

// Does the entry start Windows? One that resumes from hibernation, repairs, or tests memory does not.
static bool starts_windows(hive_h *h, const char *guid)
{
	char path[128];
	int32_t type = 0;

	snprintf(path, sizeof(path), "Objects\\%s\\Description", guid);
	hive_node_h description = hive_find(h, hivex_root(h), path);
	hive_value_h value = description ? hivex_node_get_value(h, description, "Type") : 0;
	if (value)
		type = hivex_value_dword(h, value);
	char *program = hive_string(h, hive_find(h, elements_of(h, guid), PATH), "Element");
	bool is_loader = type == TYPE_WINDOWS_LOADER && ends_in_winload(program);
	free(program);
	return is_loader;
}

struct error *bcd_find_entry(hive_h *h, char ret_guid[static BCD_GUID_SIZE])
{
	char guid[BCD_GUID_SIZE];
	struct menu menu;
	unsigned found = 0;

	if (!bootmgr(h))
		return error_create(ENOENT, "it has no boot manager's object; is this the BCD of a Windows installation?");
	if (bcd_default(h, guid) && starts_windows(h, guid)) {
		memcpy(ret_guid, guid, BCD_GUID_SIZE);
		return NULL;
	}
	if (!read_menu(h, &menu))
		return bad_menu();
	for (size_t i = 0; i < menu.count; i++)
		if (starts_windows(h, menu.guids[i])) {
			memcpy(guid, menu.guids[i], BCD_GUID_SIZE);
			found++;
		}
	if (found != 1)
		return error_create(ENOENT, "its default entry does not start Windows, and %u of its menu do; expected one. Choose a default with bcdedit in the guest", found);
	memcpy(ret_guid, guid, BCD_GUID_SIZE);
	return NULL;
}

// ---- Writing -------------------------------------------------------------------------------------------------

// In a damaged or hostile hive many keys may share their children, so few bytes can be millions of keys. Windows' own entries have some thirty elements of some hundred bytes.
#define COPY_KEYS_MAX 1024u
#define COPY_BYTES_MAX (1u << 20)

struct copy {
	hive_h *h;
	unsigned keys_left;
	size_t bytes_left;
};

static bool copy_value(struct copy *copy, hive_value_h from, hive_node_h to)
{
	hive_type type;
	size_t len;
	char *name = hivex_value_key(copy->h, from), *data = hivex_value_value(copy->h, from, &type, &len);
	bool is_done = name && data;

	if (is_done && len >= copy->bytes_left) {
		errno = EFBIG;
		is_done = false;
	}
	if (is_done) {
		copy->bytes_left -= len + 1;
		is_done = hive_set(copy->h, to, name, type, data, len);
	}
	free(name);
	free(data);
	return is_done;
}

static bool copy_values(struct copy *copy, hive_node_h from, hive_node_h to)
{
	hive_value_h *values = hivex_node_values(copy->h, from);
	bool is_done = values;

	for (size_t i = 0; is_done && values[i]; i++)
		is_done = copy_value(copy, values[i], to);
	free(values);
	return is_done;
}

#define DEPTH_MAX 4 // an entry has two levels

static bool copy_tree(struct copy *copy, hive_node_h from, hive_node_h to, int depth)
{
	if (copy->keys_left == 0) {
		errno = EFBIG;
		return false;
	}
	copy->keys_left--;
	hive_node_h *children = depth < DEPTH_MAX && copy_values(copy, from, to) ? hivex_node_children(copy->h, from) : NULL;
	bool is_done = children;

	for (size_t i = 0; is_done && children[i]; i++) {
		char *name = hivex_node_name(copy->h, children[i]);
		hive_node_h child = name ? hivex_node_add_child(copy->h, to, name) : 0;
		is_done = child && copy_tree(copy, children[i], child, depth + 1);
		free(name);
	}
	free(children);
	return is_done;
}

static bool set_element(hive_h *h, hive_node_h all, const struct element *e)
{
	uint8_t number[8] = { (uint8_t)e->value };
	hive_node_h node = hive_make(h, all, e->id);

	if (!node)
		return false;
	if (e->type == STRING)
		return hive_set_string(h, node, "Element", hive_t_REG_SZ, e->text);
	return hive_set(h, node, "Element", hive_t_REG_BINARY, number, e->type == BOOLEAN ? 1 : 8);
}

static bool write_menu(hive_h *h, const struct menu *menu)
{
	uint8_t wide[2 * (MENU_MAX * BCD_GUID_SIZE + 1)] = { 0 };
	size_t len = 0;
	hive_node_h node = hive_make(h, bootmgr(h), MENU);

	for (size_t i = 0; i < menu->count; i++)
		for (size_t c = 0; c < BCD_GUID_SIZE; c++, len += 2)
			wide[len] = (uint8_t)menu->guids[i][c];
	return node && hive_set(h, node, "Element", hive_t_REG_MULTI_SZ, wide, len + 2);
}

static bool write_default(hive_h *h, const char *guid)
{
	hive_node_h node = hive_make(h, bootmgr(h), DEFAULT);

	return node && hive_set_string(h, node, "Element", hive_t_REG_SZ, guid);
}

static struct error *add_to_menu(hive_h *h, const char *from, const char *guid)
{
	struct menu menu;

	if (!read_menu(h, &menu) || menu.count + 2 > MENU_MAX)
		return bad_menu();
	if (menu.count == 0) // a menu that was never written shows the default entry alone
		memcpy(menu.guids[menu.count++], from, BCD_GUID_SIZE);
	memcpy(menu.guids[menu.count++], guid, BCD_GUID_SIZE);
	return write_menu(h, &menu) ? NULL : hive_failure("the boot menu");
}

struct error *bcd_add_entry(hive_h *h, const char *from, const char *guid, enum windows_generation generation, bool make_default)
{
	char path[128];
	hive_node_h objects = hive_find(h, hivex_root(h), "Objects");

	snprintf(path, sizeof(path), "Objects\\%s", from);
	hive_node_h old = hive_find(h, hivex_root(h), path), new = objects && old ? hivex_node_add_child(h, objects, guid) : 0;
	struct copy copy = { .h = h, .keys_left = COPY_KEYS_MAX, .bytes_left = COPY_BYTES_MAX };
	if (!new || !copy_tree(&copy, old, new, 0))
		return errno == EFBIG ? error_create(EINVAL, "the boot entry has more than %u keys, or %u bytes in them; is the BCD damaged?", COPY_KEYS_MAX, COPY_BYTES_MAX) :
		                        hive_failure("copying the boot entry");
	for (size_t i = 0; i < sizeof(elements) / sizeof(elements[0]); i++) {
		const struct element *e = &elements[i];
		if (generation >= e->since && generation <= e->until && !set_element(h, elements_of(h, guid), e))
			return hive_failure("the new boot entry");
	}
	if (make_default && !write_default(h, guid))
		return hive_failure("the default boot entry");
	return add_to_menu(h, from, guid);
}

struct error *bcd_remove_entry(hive_h *h, const char *guid, const char *former)
{
	char path[128], now[BCD_GUID_SIZE];
	struct menu menu, rest = { 0 };

	snprintf(path, sizeof(path), "Objects\\%s", guid);
	hive_node_h node = hive_find(h, hivex_root(h), path);
	if (node && hivex_node_delete_child(h, node) < 0)
		return hive_failure("deleting the boot entry");
	if (!bootmgr(h))
		return NULL;
	if (!read_menu(h, &menu))
		return bad_menu();
	for (size_t i = 0; i < menu.count; i++)
		if (strcasecmp(menu.guids[i], guid) != 0)
			memcpy(rest.guids[rest.count++], menu.guids[i], BCD_GUID_SIZE);
	if (rest.count != menu.count && !write_menu(h, &rest))
		return hive_failure("the boot menu");
	if (bcd_default(h, now) && strcasecmp(now, guid) == 0 && !write_default(h, former))
		return hive_failure("the default boot entry");
	return NULL;
}
