// SPDX-License-Identifier: MIT
#include "domain/edit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "domain/tree.h"

#define QEMU_NS "http://libvirt.org/schemas/domain/qemu/1.0"
#define OUR_NS "urn:vmkd:domain:1"
#define LIBRARY "libvmkd-vmm.so"
#define DOORBELL "vmkd-debugcon"
// ld.so splits LD_PRELOAD at both.
#define SEPARATORS " :"

static const char *const link_names[] = { "none", "hook", "debugcon" };

static struct error *no_memory(void)
{
	return error_create(ENOMEM, "out of memory");
}

// Cut to nothing when it does not fit.
static void copy_attribute(xmlNodePtr element, const char *name, char *ret, size_t size)
{
	xmlChar *text = tree_attribute(element, name);

	snprintf(ret, size, "%s", text && strlen((const char *)text) < size ? (const char *)text : "");
	xmlFree(text);
}

static void copy_content(xmlNodePtr element, char *ret, size_t size)
{
	xmlChar *text = element ? xmlNodeGetContent(element) : NULL;

	snprintf(ret, size, "%s", text && strlen((const char *)text) < size ? (const char *)text : "");
	xmlFree(text);
}

// ---- The note in the metadata -------------------------------------------------------------------------------

static xmlNodePtr find_note(xmlNodePtr root)
{
	return tree_child(tree_child(root, NULL, "metadata"), OUR_NS, "link");
}

// "made" lists, between blanks, the elements that exist only because of the link.
static bool has_made(xmlNodePtr note, const char *what)
{
	xmlChar *text = tree_attribute(note, "made");
	const char *at = text ? (const char *)text : "";
	size_t len = strlen(what);
	bool found = false;

	while (*at && !found) {
		size_t word = strcspn(at, " ");

		found = word == len && strncmp(at, what, len) == 0;
		at += word + (at[word] == ' ');
	}
	xmlFree(text);
	return found;
}

static enum domain_link link_of(xmlNodePtr note)
{
	for (enum domain_link link = DOMAIN_LINK_HOOK; link <= DOMAIN_LINK_DEBUGCON; link++)
		if (tree_attribute_is(note, "type", link_names[link]))
			return link;
	return DOMAIN_LINK_NONE;
}

// One of each is all that libvirt knows.
static struct error *check_singles(xmlNodePtr root)
{
	static const struct {
		const char *ns, *name;
	} singles[] = { { NULL, "metadata" }, { NULL, "memoryBacking" }, { QEMU_NS, "commandline" } };

	for (size_t i = 0; i < sizeof(singles) / sizeof(singles[0]); i++)
		if (tree_count(root, singles[i].ns, singles[i].name) > 1)
			return error_create(EINVAL, "the domain's XML has more than one <%s>; libvirt writes one", singles[i].name);
	return NULL;
}

static struct error *check_note(xmlNodePtr root)
{
	xmlNodePtr metadata = tree_child(root, NULL, "metadata"), note = find_note(root);

	if (!note)
		return NULL;
	if (tree_count(metadata, OUR_NS, "link") > 1 || link_of(note) == DOMAIN_LINK_NONE)
		return error_create(EINVAL, "the domain's metadata has a <link xmlns=\"" OUR_NS "\"> that vmkd did not write like that: expected one, of "
					    "type hook or debugcon; take it and what belongs to it out with `virsh edit`");
	return NULL;
}

// ---- RAM ----------------------------------------------------------------------------------------------------

static bool is_source(xmlNodePtr root, const char *type)
{
	return tree_attribute_is(tree_at(root, "memoryBacking/source"), "type", type);
}

// ---- Reading ------------------------------------------------------------------------------------------------

static void read_labels(xmlNodePtr root, struct domain_info *info)
{
	for (xmlNodePtr at = tree_child(root, NULL, "seclabel"); at; at = tree_next(at, NULL, "seclabel")) {
		bool is_off = tree_attribute_is(at, "type", "none");
		bool is_for_all = is_off && !xmlHasProp(at, (const xmlChar *)"model");

		info->is_apparmor_off |= is_for_all || (is_off && tree_attribute_is(at, "model", "apparmor"));
		info->is_selinux_off |= is_for_all || (is_off && tree_attribute_is(at, "model", "selinux"));
		if (tree_attribute_is(at, "model", "dac") && tree_attribute_is(at, "type", "static"))
			copy_content(tree_child(at, NULL, "label"), info->dac_label, sizeof(info->dac_label));
	}
}

static void read_info(xmlNodePtr root, struct domain_info *info)
{
	xmlNodePtr note = find_note(root);

	copy_content(tree_child(root, NULL, "name"), info->name, sizeof(info->name));
	copy_attribute(root, "type", info->type, sizeof(info->type));
	read_labels(root, info);
	if (!note)
		return;
	info->link = link_of(note);
	copy_attribute(note, "name", info->link_name, sizeof(info->link_name));
	copy_attribute(note, "runtime", info->runtime_dir, sizeof(info->runtime_dir));
	copy_attribute(note, "library", info->library, sizeof(info->library));
}

static struct error *parse(const char *text, size_t len, xmlDocPtr *ret)
{
	xmlDocPtr doc = NULL;
	struct error *error = tree_parse(text, len, "domain", &doc);

	if (!error)
		error = check_singles(xmlDocGetRootElement(doc));
	if (!error)
		error = check_note(xmlDocGetRootElement(doc));
	if (error)
		xmlFreeDoc(doc);
	else
		*ret = doc;
	return error;
}

struct error *domain_read(const char *text, size_t len, struct domain_info *ret)
{
	struct domain_info info = { 0 };
	xmlDocPtr doc = NULL;
	struct error *error = parse(text, len, &doc);

	if (error)
		return error;
	read_info(xmlDocGetRootElement(doc), &info);
	xmlFreeDoc(doc);
	*ret = info;
	return NULL;
}

// ---- QEMU's command line ------------------------------------------------------------------------------------

// The last environment variable of that name: libvirt lets it win.
static xmlNodePtr find_env(xmlNodePtr commandline, const char *name)
{
	xmlNodePtr found = NULL;

	for (xmlNodePtr at = tree_child(commandline, QEMU_NS, "env"); at; at = tree_next(at, QEMU_NS, "env"))
		if (tree_attribute_is(at, "name", name))
			found = at;
	return found;
}

static bool add_env(xmlNodePtr commandline, const char *name, const char *value)
{
	xmlNodePtr env = tree_insert(commandline, commandline->ns, "env");

	return env && tree_set(env, "name", name) && tree_set(env, "value", value);
}

static bool add_argument(xmlNodePtr commandline, const char *value)
{
	xmlNodePtr argument = tree_insert(commandline, commandline->ns, "arg");

	return argument && tree_set(argument, "value", value);
}

// The pair in a row, libvirt keeps the order of arguments. -> the first of the two, NULL: it is not there.
static xmlNodePtr find_pair(xmlNodePtr commandline, const char *option, const char *value)
{
	for (xmlNodePtr at = tree_child(commandline, QEMU_NS, "arg"); at; at = tree_next(at, QEMU_NS, "arg")) {
		xmlNodePtr next = tree_next(at, QEMU_NS, "arg");

		if (next && tree_attribute_is(at, "value", option) && tree_attribute_is(next, "value", value))
			return at;
	}
	return NULL;
}

// ---- Refusals -----------------------------------------------------------------------------------------------

static bool attribute_has(xmlNodePtr element, const char *name, const char *part)
{
	xmlChar *text = tree_attribute(element, name);
	bool found = text && strstr((const char *)text, part);

	xmlFree(text);
	return found;
}

// A second way to the same guest: whoever set it up by hand takes it out by hand.
static struct error *check_by_hand(xmlNodePtr root)
{
	static const char how[] = "that `vmkd libvirt` did not write; take it out with `virsh edit` first";
	xmlNodePtr line = tree_child(root, QEMU_NS, "commandline");

	if (find_env(line, "VMKD_NAME") || find_env(line, "VMKD_RUNTIME_DIR") || attribute_has(find_env(line, "LD_PRELOAD"), "value", LIBRARY))
		return error_create(EEXIST, "the domain already has a qemu:env of vmkd's %s", how);
	for (xmlNodePtr at = tree_child(line, QEMU_NS, "arg"); at; at = tree_next(at, QEMU_NS, "arg"))
		if (attribute_has(at, "value", DOORBELL))
			return error_create(EEXIST, "the domain already has a qemu:arg with " DOORBELL " %s", how);
	return NULL;
}

static struct error *check_machine(xmlNodePtr root, const struct domain_wish *wish)
{
	xmlNodePtr type = tree_at(root, "os/type");
	bool is_kvm = tree_attribute_is(root, "type", "kvm");

	if (!is_kvm && !tree_attribute_is(root, "type", "qemu"))
		return error_create(ENOTSUP, "the domain is not QEMU's: expected <domain type='kvm'> or 'qemu'");
	if (!is_kvm && wish->link == DOMAIN_LINK_HOOK)
		return error_create(EINVAL, "the hook needs KVM and this is a <domain type='qemu'>: use --link debugcon, or make it type='kvm'");
	if (!tree_attribute_is(type, "arch", "x86_64") && !tree_attribute_is(type, "arch", "i686"))
		return error_create(ENOTSUP, "the domain is no PC: expected <type arch='x86_64'> or 'i686' in <os>");
	if (tree_child(root, NULL, "launchSecurity"))
		return error_create(ENOTSUP, "the domain's memory is encrypted (<launchSecurity>), so no host side can share any with the guest");
	return NULL;
}

// What the debugcon link cannot live with. Where the domain says nothing about its RAM, enabling says it.
static struct error *check_ram(xmlNodePtr root)
{
	static const char how[] = "make it <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>, or use --link hook with KVM";

	if (tree_count(tree_at(root, "cpu/numa"), NULL, "cell") > 1)
		return error_create(ENOTSUP, "--link debugcon works with one memory backend, but the domain has several NUMA cells; use one, or --link "
					     "hook with KVM");
	if (tree_at(root, "devices/memory"))
		return error_create(ENOTSUP, "--link debugcon works with one memory backend, but the domain has a <memory> device besides; take it out, or use "
					     "--link hook with KVM");
	if (is_source(root, "anonymous"))
		return error_create(EINVAL, "--link debugcon needs the guest's RAM as a shared file, but memoryBacking says source anonymous; %s", how);
	if (tree_attribute_is(tree_at(root, "memoryBacking/access"), "mode", "private") ||
	    tree_attribute_is(tree_at(root, "cpu/numa/cell"), "memAccess", "private"))
		return error_create(EINVAL, "--link debugcon needs the guest's RAM as a shared file, but the domain says access private; %s", how);
	return NULL;
}

// What XML 1.0 can hold in an attribute and libvirt hands on: no control characters.
static bool is_plain(const char *text)
{
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7F)
			return false;
	return *text && strlen(text) < DOMAIN_TEXT_MAX && xmlCheckUTF8((const unsigned char *)text);
}

static struct error *check_wish(const struct domain_wish *wish)
{
	size_t count = 0;

	if (!is_plain(wish->name) || !is_plain(wish->runtime_dir))
		return error_create(EINVAL, "the runtime folder '%s' cannot be written into XML; expected a UTF-8 path of at most %u bytes", wish->runtime_dir,
				    DOMAIN_TEXT_MAX - 1);
	if (wish->link == DOMAIN_LINK_HOOK && (!is_plain(wish->library) || strpbrk(wish->library, SEPARATORS)))
		return error_create(EINVAL, "%s: a library with a blank, ':' or a control character in its path cannot be preloaded; move vmkd to another folder",
				    wish->library);
	for (; wish->link == DOMAIN_LINK_DEBUGCON && wish->arguments[count]; count++)
		if (!is_plain(wish->arguments[count]) || count == DOMAIN_ARGUMENTS_MAX)
			return error_create(EINVAL, "'%s' cannot be an argument in XML", wish->arguments[count]);
	return NULL;
}

static struct error *check(xmlNodePtr root, const struct domain_wish *wish)
{
	struct error *error = check_wish(wish);

	if (!error)
		error = check_machine(root, wish);
	if (!error && wish->link == DOMAIN_LINK_DEBUGCON)
		error = check_ram(root);
	return error ? error : check_by_hand(root);
}

// ---- Enabling -----------------------------------------------------------------------------------------------

struct making {
	xmlNodePtr root, commandline, note;
	char made[128];
};

static void note_made(struct making *m, const char *what)
{
	size_t len = strlen(m->made);

	snprintf(m->made + len, sizeof(m->made) - len, "%s%s", len ? " " : "", what);
}

// The child of the root, made if it is not there.
static xmlNodePtr provide(struct making *m, const char *name)
{
	xmlNodePtr there = tree_child(m->root, NULL, name);

	if (there)
		return there;
	note_made(m, name);
	return tree_insert(m->root, NULL, name);
}

static xmlNodePtr provide_commandline(struct making *m)
{
	xmlNodePtr there = tree_child(m->root, QEMU_NS, "commandline");

	if (there)
		return there;
	note_made(m, "commandline");
	return tree_insert_with_ns(m->root, "qemu", QEMU_NS, "commandline");
}

// One of memoryBacking's settings, unless it is there.
static bool provide_setting(struct making *m, const char *name, const char *attribute, const char *value)
{
	xmlNodePtr backing = provide(m, "memoryBacking"), setting;

	if (!backing || tree_child(backing, NULL, name))
		return backing;
	note_made(m, name);
	setting = tree_insert(backing, NULL, name);
	return setting && tree_set(setting, attribute, value);
}

// Does the domain say where its RAM is? Then the hook leaves that alone; it works with any.
static bool has_ram_wish(xmlNodePtr root)
{
	return tree_at(root, "memoryBacking/source") || tree_at(root, "memoryBacking/access") || tree_at(root, "memoryBacking/hugepages") ||
	       tree_at(root, "cpu/numa") || tree_at(root, "devices/memory");
}

// With huge pages libvirt has a file anyway.
static bool share_ram(struct making *m)
{
	bool is_file = tree_at(m->root, "memoryBacking/hugepages") || provide_setting(m, "source", "type", "memfd");

	return is_file && provide_setting(m, "access", "mode", "shared");
}

static bool add_preload(struct making *m, const char *library)
{
	xmlNodePtr env = find_env(m->commandline, "LD_PRELOAD");
	xmlChar *old = tree_attribute(env, "value");
	char *both = NULL;
	bool is_set;

	if (!env) {
		note_made(m, "preload");
		return add_env(m->commandline, "LD_PRELOAD", library);
	}
	if (!old)
		note_made(m, "value");
	is_set = asprintf(&both, "%s:%s", library, old ? (const char *)old : "") >= 0 && tree_set(env, "value", both);
	free(both);
	xmlFree(old);
	return is_set;
}

static bool add_hook(struct making *m, const struct domain_wish *wish)
{
	return add_preload(m, wish->library) && add_env(m->commandline, "VMKD_NAME", wish->name) &&
	       add_env(m->commandline, "VMKD_RUNTIME_DIR", wish->runtime_dir) && tree_set(m->note, "library", wish->library) &&
	       (wish->private_ram || has_ram_wish(m->root) || share_ram(m));
}

static bool add_debugcon(struct making *m, const struct domain_wish *wish)
{
	for (const char *const *at = wish->arguments; *at; at++) {
		xmlNodePtr noted = tree_insert(m->note, m->note->ns, "argument");

		if (!noted || !tree_set(noted, "value", *at) || !add_argument(m->commandline, *at))
			return false;
	}
	return share_ram(m);
}

static bool enable(xmlNodePtr root, const struct domain_wish *wish)
{
	struct making m = { .root = root };
	xmlNodePtr metadata = provide(&m, "metadata");

	m.note = metadata ? tree_insert_with_ns(metadata, "vmkd", OUR_NS, "link") : NULL;
	m.commandline = m.note ? provide_commandline(&m) : NULL;
	if (!m.commandline || !tree_set(m.note, "type", link_names[wish->link]) || !tree_set(m.note, "name", wish->name) ||
	    !tree_set(m.note, "runtime", wish->runtime_dir))
		return false;
	if (wish->link == DOMAIN_LINK_HOOK ? !add_hook(&m, wish) : !add_debugcon(&m, wish))
		return false;
	return tree_set(m.note, "made", m.made);
}

// ---- Disabling ----------------------------------------------------------------------------------------------

static void remove_if_empty(xmlNodePtr element)
{
	if (element && tree_is_empty(element))
		tree_remove(element);
}

// -> true: it was there as it was added.
static bool remove_if(xmlNodePtr element, const char *attribute, const char *value)
{
	if (!element || !tree_attribute_is(element, attribute, value))
		return false;
	tree_remove(element);
	return true;
}

// `library` out of a list, with the separator behind it, or before it at the end. -> false: it is not in it.
static bool cut_out(char *list, const char *library)
{
	size_t len = strlen(library);

	for (char *at = list; *at; at += strcspn(at, SEPARATORS), at += strspn(at, SEPARATORS)) {
		if (strcspn(at, SEPARATORS) != len || strncmp(at, library, len) != 0)
			continue;
		if (at[len])
			memmove(at, at + len + 1, strlen(at + len + 1) + 1);
		else
			at[at > list ? -1 : 0] = 0;
		return true;
	}
	return false;
}

static bool remove_preload(xmlNodePtr note, xmlNodePtr commandline, const char *library)
{
	xmlNodePtr env = find_env(commandline, "LD_PRELOAD");
	xmlChar *list = tree_attribute(env, "value");
	bool found = list && *library && cut_out((char *)list, library);

	if (found && !*list && has_made(note, "preload"))
		tree_remove(env);
	else if (found && !*list && has_made(note, "value"))
		xmlUnsetProp(env, (const xmlChar *)"value");
	else if (found)
		found = tree_set(env, "value", (const char *)list);
	xmlFree(list);
	return found;
}

static unsigned remove_hook(xmlNodePtr note, xmlNodePtr commandline)
{
	char text[DOMAIN_TEXT_MAX];
	unsigned left = 0;

	copy_attribute(note, "library", text, sizeof(text));
	left += !remove_preload(note, commandline, text);
	copy_attribute(note, "name", text, sizeof(text));
	left += !remove_if(find_env(commandline, "VMKD_NAME"), "value", text);
	copy_attribute(note, "runtime", text, sizeof(text));
	left += !remove_if(find_env(commandline, "VMKD_RUNTIME_DIR"), "value", text);
	return left;
}

static bool remove_pair(xmlNodePtr commandline, const char *option, const char *value)
{
	xmlNodePtr first = find_pair(commandline, option, value);

	if (!first)
		return false;
	tree_remove(tree_next(first, QEMU_NS, "arg"));
	tree_remove(first);
	return true;
}

static unsigned remove_arguments(xmlNodePtr note, xmlNodePtr commandline)
{
	char option[DOMAIN_TEXT_MAX], value[DOMAIN_TEXT_MAX];
	unsigned left = 0;

	for (xmlNodePtr at = tree_child(note, OUR_NS, "argument"); at; at = tree_next(at, OUR_NS, "argument")) {
		copy_attribute(at, "value", option, sizeof(option));
		at = tree_next(at, OUR_NS, "argument");
		if (!at)
			return left + 1;
		copy_attribute(at, "value", value, sizeof(value));
		left += !remove_pair(commandline, option, value);
	}
	return left;
}

static unsigned remove_ram(xmlNodePtr root, xmlNodePtr note)
{
	unsigned left = 0;

	if (has_made(note, "source"))
		left += !remove_if(tree_at(root, "memoryBacking/source"), "type", "memfd");
	if (has_made(note, "access"))
		left += !remove_if(tree_at(root, "memoryBacking/access"), "mode", "shared");
	if (has_made(note, "memoryBacking"))
		remove_if_empty(tree_child(root, NULL, "memoryBacking"));
	return left;
}

static unsigned disable(xmlNodePtr root)
{
	xmlNodePtr note = find_note(root), metadata = note->parent, commandline = tree_child(root, QEMU_NS, "commandline");
	bool made_metadata = has_made(note, "metadata");
	unsigned left;

	left = link_of(note) == DOMAIN_LINK_HOOK ? remove_hook(note, commandline) : remove_arguments(note, commandline);
	left += remove_ram(root, note);
	if (has_made(note, "commandline"))
		remove_if_empty(commandline);
	tree_remove(note);
	if (made_metadata)
		remove_if_empty(metadata);
	return left;
}

// ---- Both ---------------------------------------------------------------------------------------------------

struct error *domain_enable(const char *text, size_t len, const struct domain_wish *wish, char **ret)
{
	xmlDocPtr doc = NULL;
	struct error *error = parse(text, len, &doc);
	xmlNodePtr root;

	if (error)
		return error;
	root = xmlDocGetRootElement(doc);
	if (find_note(root) && disable(root) > 0)
		error = error_create(EBUSY, "the domain's link was changed by hand since it was enabled: `vmkd libvirt disable` first, then `virsh "
					    "edit` for what is left");
	if (!error)
		error = check(root, wish);
	if (!error && !enable(root, wish))
		error = no_memory();
	if (!error)
		error = tree_print(doc, ret);
	xmlFreeDoc(doc);
	return error;
}

struct error *domain_disable(const char *text, size_t len, char **ret, unsigned *ret_left)
{
	xmlDocPtr doc = NULL;
	struct error *error = parse(text, len, &doc);
	xmlNodePtr root;
	unsigned left;

	if (error)
		return error;
	root = xmlDocGetRootElement(doc);
	if (!find_note(root)) {
		xmlFreeDoc(doc);
		return error_create(ENOENT, "the domain has no link of vmkd's; `vmkd libvirt enable` makes one");
	}
	left = disable(root);
	error = tree_print(doc, ret);
	if (!error)
		*ret_left = left;
	xmlFreeDoc(doc);
	return error;
}
