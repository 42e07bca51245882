// SPDX-License-Identifier: MIT
#include "domain/host.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "domain/tree.h"

#define GROUPS_MAX 128
#define POLICY_LINE_MAX 1024

// ---- Users --------------------------------------------------------------------------------------------------

static bool parse_number(const char *text, unsigned *ret)
{
	char *end;
	unsigned long number;

	text += *text == '+';
	if (!(*text >= '0' && *text <= '9'))
		return false;
	number = strtoul(text, &end, 10);
	if (*end || number >= (unsigned)-1)
		return false;
	*ret = (unsigned)number;
	return true;
}

static bool find_user(const char *text, uid_t *ret_uid, gid_t *ret_gid)
{
	struct passwd *user;
	unsigned number;
	bool is_number = parse_number(text, &number);

	user = is_number ? getpwuid(number) : getpwnam(text);
	if (!user && !is_number)
		return false;
	*ret_uid = user ? user->pw_uid : number;
	*ret_gid = user ? user->pw_gid : (gid_t)-1;
	return true;
}

static bool find_group(const char *text, gid_t *ret)
{
	struct group *group;
	unsigned number;

	if (parse_number(text, &number)) {
		*ret = number;
		return true;
	}
	group = getgrnam(text);
	if (group)
		*ret = group->gr_gid;
	return group;
}

bool host_parse_label(const char *text, uid_t *ret_uid, gid_t *ret_gid)
{
	char user[64];
	const char *colon = strchr(text, ':');
	uid_t uid;
	gid_t gid;

	if ((size_t)snprintf(user, sizeof(user), "%.*s", (int)(colon ? colon - text : (ptrdiff_t)strlen(text)), text) >= sizeof(user))
		return false;
	if (!find_user(user, &uid, &gid) || (colon && !find_group(colon + 1, &gid)))
		return false;
	*ret_uid = uid;
	*ret_gid = gid;
	return true;
}

static void set_user(struct host_facts *f, uid_t uid, gid_t gid)
{
	struct passwd *user = getpwuid(uid);

	f->is_user_known = true;
	f->uid = uid;
	f->gid = gid;
	if (user)
		snprintf(f->user, sizeof(f->user), "%.63s", user->pw_name);
	else
		snprintf(f->user, sizeof(f->user), "%u", (unsigned)uid);
}

// libvirt gives QEMU the groups that its user has in the database.
static bool is_in_group(uid_t uid, gid_t gid, gid_t group)
{
	struct passwd *user = getpwuid(uid);
	gid_t groups[GROUPS_MAX];
	int count = GROUPS_MAX;

	if (gid == group)
		return true;
	if (!user || getgrouplist(user->pw_name, gid, groups, &count) < 0)
		return false;
	for (int i = 0; i < count; i++)
		if (groups[i] == group)
			return true;
	return false;
}

static bool is_caller_in_group(gid_t group)
{
	gid_t groups[GROUPS_MAX];
	int count = getgroups(GROUPS_MAX, groups);

	if (geteuid() == 0 || getegid() == group)
		return true;
	for (int i = 0; i < count; i++)
		if (groups[i] == group)
			return true;
	return false;
}

// ---- What libvirtd says -------------------------------------------------------------------------------------

static bool is_model(xmlNodePtr secmodel, const char *name)
{
	xmlChar *text = xmlNodeGetContent(tree_child(secmodel, NULL, "model"));
	bool is_so = text && xmlStrEqual(text, (const xmlChar *)name);

	xmlFree(text);
	return is_so;
}

static void take_base_label(struct host_facts *f, xmlNodePtr secmodel, const char *type)
{
	for (xmlNodePtr at = tree_child(secmodel, NULL, "baselabel"); at; at = tree_next(at, NULL, "baselabel")) {
		xmlChar *text = tree_attribute_is(at, "type", type) ? xmlNodeGetContent(at) : NULL;
		uid_t uid;
		gid_t gid;

		if (text && host_parse_label((const char *)text, &uid, &gid))
			set_user(f, uid, gid);
		xmlFree(text);
	}
}

struct error *host_read_capabilities(struct host_facts *f, const char *text, size_t len, const struct domain_info *domain)
{
	xmlDocPtr doc = NULL;
	struct error *error = tree_parse(text, len, "capabilities", &doc);
	xmlNodePtr at;
	uid_t uid;
	gid_t gid;

	if (error)
		return error;
	for (at = tree_child(tree_at(xmlDocGetRootElement(doc), "host"), NULL, "secmodel"); at; at = tree_next(at, NULL, "secmodel")) {
		f->has_apparmor |= is_model(at, "apparmor");
		f->has_selinux |= is_model(at, "selinux");
		if (is_model(at, "dac"))
			take_base_label(f, at, domain->type);
	}
	xmlFreeDoc(doc);
	f->is_apparmor_off = domain->is_apparmor_off;
	f->is_selinux_off = domain->is_selinux_off;
	if (f->is_session)
		set_user(f, geteuid(), getegid());
	else if (domain->dac_label[0] && host_parse_label(domain->dac_label, &uid, &gid))
		set_user(f, uid, gid);
	else if (domain->dac_label[0])
		f->is_user_known = false;
	return NULL;
}

// ---- The library --------------------------------------------------------------------------------------------

// By the mode alone. An access control list may say otherwise.
static bool mode_allows(const struct host_facts *f, const struct stat *st, unsigned bit)
{
	if (st->st_uid == f->uid)
		return st->st_mode & (bit << 6);
	if (is_in_group(f->uid, f->gid, st->st_gid))
		return st->st_mode & (bit << 3);
	return st->st_mode & bit;
}

static enum answer allows(const struct host_facts *f, const char *path, unsigned bit)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == EACCES ? ANSWER_UNKNOWN : ANSWER_NO;
	if (mode_allows(f, &st, bit))
		return ANSWER_YES;
	return getxattr(path, "system.posix_acl_access", NULL, 0) > 0 ? ANSWER_UNKNOWN : ANSWER_NO;
}

// Whoever may write a file or a folder on the way decides what runs in QEMU. In a sticky folder only the owner of a name may replace it.
static bool is_open(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && st.st_mode & S_IWOTH && !(S_ISDIR(st.st_mode) && st.st_mode & S_ISVTX);
}

// One file or folder on the way. -> false: enough is known.
static bool look_at_step(struct host_facts *f, const char *path, unsigned bit)
{
	enum answer answer = f->is_user_known ? allows(f, path, bit) : ANSWER_UNKNOWN;

	if (!f->open_at[0] && is_open(path))
		snprintf(f->open_at, sizeof(f->open_at), "%s", path);
	if (answer == ANSWER_YES)
		return true;
	f->is_library_readable = answer;
	snprintf(f->blocked_at, sizeof(f->blocked_at), "%s", path);
	return false;
}

static void look_at_library(struct host_facts *f)
{
	char path[DOMAIN_TEXT_MAX];

	f->is_library_readable = ANSWER_YES;
	for (size_t i = 0; f->library[i]; i++) {
		if (f->library[i] != '/')
			continue;
		memcpy(path, f->library, i + 1);
		path[i > 0 ? i : 1] = 0;
		if (!look_at_step(f, path, S_IXOTH))
			return;
	}
	look_at_step(f, f->library, S_IROTH);
}

// ---- The runtime folder -------------------------------------------------------------------------------------

static void look_at_runtime_dir(struct host_facts *f)
{
	struct group *group;
	struct stat st;

	f->has_runtime_dir = lstat(f->runtime_dir, &st) == 0;
	if (!f->has_runtime_dir)
		return;
	f->is_folder = S_ISDIR(st.st_mode);
	f->mode = st.st_mode & 07777;
	f->owner = st.st_uid;
	f->group = st.st_gid;
	f->is_user_in_group = f->is_user_known && is_in_group(f->uid, f->gid, st.st_gid);
	f->is_caller_in_group = is_caller_in_group(st.st_gid);
	group = getgrgid(st.st_gid);
	if (group)
		snprintf(f->group_name, sizeof(f->group_name), "%.63s", group->gr_name);
	else
		snprintf(f->group_name, sizeof(f->group_name), "%u", (unsigned)st.st_gid);
}

// ---- Confinement --------------------------------------------------------------------------------------------

// Every profile may map libraries of the system's own folders (abstractions/base of AppArmor).
static bool is_system_library(const char *path)
{
	static const char *const folders[] = { "/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/lib/", "/lib32/", "/lib64/" };

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (strncmp(path, folders[i], strlen(folders[i])) == 0)
			return true;
	return false;
}

static void add_rule(struct host_facts *f, const char *path, const char *rights)
{
	snprintf(f->rules[f->rule_count], sizeof(f->rules[0]), "%s%s", path, rights);
	f->rule_count++;
}

static void make_rules(struct host_facts *f)
{
	f->rule_count = 0;
	if (f->link == DOMAIN_LINK_HOOK && !is_system_library(f->library))
		add_rule(f, f->library, " mr,");
	add_rule(f, f->runtime_dir, "/ r,");
	add_rule(f, f->runtime_dir, "/** rwk,");
}

// The same words, whatever blanks are around them.
static bool is_rule(const char *line, const char *rule)
{
	line += strspn(line, " \t");
	return strncmp(line, rule, strlen(rule)) == 0 && line[strlen(rule) + strspn(line + strlen(rule), " \t\r\n")] == 0;
}

// -> YES or NO; UNKNOWN when the file cannot be read.
static enum answer file_has_rule(const char *path, const char *rule)
{
	FILE *file = fopen(path, "re");
	char line[POLICY_LINE_MAX];
	enum answer answer = file ? ANSWER_NO : ANSWER_UNKNOWN;

	while (file && answer == ANSWER_NO && fgets(line, sizeof(line), file))
		if (is_rule(line, rule))
			answer = ANSWER_YES;
	if (file)
		fclose(file);
	return answer;
}

static void look_at_rules(struct host_facts *f, const char *apparmor)
{
	char path[DOMAIN_TEXT_MAX];

	make_rules(f);
	snprintf(path, sizeof(path), "%s/local/abstractions/libvirt-qemu", apparmor);
	f->has_rules = ANSWER_YES;
	for (size_t i = 0; i < f->rule_count && f->has_rules == ANSWER_YES; i++)
		f->has_rules = file_has_rule(path, f->rules[i]);
}

static enum answer selinux_enforces(void)
{
	FILE *file = fopen("/sys/fs/selinux/enforce", "re");
	int digit = file ? fgetc(file) : EOF;

	if (file)
		fclose(file);
	return digit == '1' ? ANSWER_YES : digit == '0' ? ANSWER_NO : ANSWER_UNKNOWN;
}

void host_look(struct host_facts *f, const char *apparmor)
{
	f->caller = geteuid();
	if (f->link == DOMAIN_LINK_HOOK)
		look_at_library(f);
	look_at_runtime_dir(f);
	look_at_rules(f, apparmor);
	f->is_selinux_enforcing = selinux_enforces();
}
