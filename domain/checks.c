// SPDX-License-Identifier: MIT
#include "domain/checks.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SELINUX_HOOK ", and virtd_t give it its environment (allow virtd_t svirt_t:process noatsecure;), else LD_PRELOAD is dropped"
#define LOCAL_RULES "/etc/apparmor.d/local/abstractions/libvirt-qemu"

struct judge {
	const struct host_facts *f;
	check_tell_fn *tell;
	void *arg;
};

__attribute__((format(printf, 3, 4))) static void say(const struct judge *j, enum check_state state, const char *format, ...)
{
	char text[CHECK_TEXT_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	j->tell(j->arg, state, text);
}

static void judge_user(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (f->is_user_known)
		say(j, CHECK_PASSED, "QEMU runs as %s", f->user);
	else
		say(j, CHECK_UNKNOWN, "whom QEMU runs as: libvirt's capabilities name no user for it (<secmodel> dac), or the domain's <seclabel> names one "
				      "that is not there");
}

static void judge_library(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (f->is_library_readable == ANSWER_YES)
		say(j, CHECK_PASSED, "%s may read %s", f->user, f->library);
	else if (f->is_library_readable == ANSWER_NO)
		say(j, CHECK_FAILED, "%s may not read %s, %s does not let it: install vmkd (make install), or chmod o+rX %s", f->user, f->library,
		    f->blocked_at, f->blocked_at);
	else
		say(j, CHECK_UNKNOWN, "whether QEMU's user may read %s: look at %s", f->library, f->blocked_at);
	if (f->open_at[0])
		say(j, CHECK_FAILED, "anybody may replace %s, which then runs in QEMU: chmod o-w %s", f->library, f->open_at);
}

static bool is_below_dev(const char *path)
{
	return strncmp(path, "/dev/", 5) == 0;
}

static void judge_dev(const struct judge *j)
{
	const struct host_facts *f = j->f;
	const char *path = f->link == DOMAIN_LINK_HOOK && is_below_dev(f->library) ? f->library : f->runtime_dir;

	if (is_below_dev(path))
		say(j, CHECK_FAILED, "libvirt gives QEMU a /dev of its own (namespaces in qemu.conf), and %s is not in it: choose another folder", path);
}

// ---- The runtime folder -------------------------------------------------------------------------------------

static void judge_missing_folder(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (!f->is_session)
		say(j, CHECK_FAILED, "%s is missing%s: groupadd vmkd; install -d -o root -g vmkd -m 2770 %s; usermod -aG vmkd %s; usermod -aG vmkd YOU; and for "
				     "the next boot: echo 'd %s 2770 root vmkd' > /etc/tmpfiles.d/vmkd.conf",
		    f->runtime_dir, f->link == DOMAIN_LINK_DEBUGCON ? ", and QEMU does not start without it" : "", f->runtime_dir,
		    f->is_user_known ? f->user : "QEMU's user", f->runtime_dir);
	else if (f->link == DOMAIN_LINK_DEBUGCON)
		say(j, CHECK_FAILED, "%s is missing, and QEMU does not start without it: install -d -m 700 %s; and for the next login: a line 'd %s 0700' in "
				     "~/.config/user-tmpfiles.d/vmkd.conf",
		    f->runtime_dir, f->runtime_dir, f->runtime_dir);
	else
		say(j, CHECK_PASSED, "%s is made by the library when the VM starts", f->runtime_dir);
}

static void judge_group_folder(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (f->owner != 0 && (!f->is_user_known || f->owner != f->uid))
		say(j, CHECK_FAILED, "%s is a group's folder that belongs to user %u; expected root: chown root %s", f->runtime_dir, (unsigned)f->owner,
		    f->runtime_dir);
	else if (f->is_user_in_group)
		say(j, CHECK_PASSED, "%s is for the group %s, and %s is in it", f->runtime_dir, f->group_name, f->user);
	else if (f->is_user_known)
		say(j, CHECK_FAILED, "%s is for the group %s, and %s is not in it: usermod -aG %s %s", f->runtime_dir, f->group_name, f->user,
		    f->group_name, f->user);
	else
		say(j, CHECK_UNKNOWN, "whether QEMU's user is in the group %s, for which %s is", f->group_name, f->runtime_dir);
}

static void judge_own_folder(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (!f->is_user_known)
		say(j, CHECK_UNKNOWN, "whether %s (user %u, mode %04o) is for QEMU's user", f->runtime_dir, (unsigned)f->owner, (unsigned)f->mode);
	else if (f->owner == f->uid && !(f->mode & (S_IWGRP | S_IWOTH)))
		say(j, CHECK_PASSED, "%s is for %s alone", f->runtime_dir, f->user);
	else
		say(j, CHECK_FAILED, "%s has user %u and mode %04o; expected %s, or mode 2770 with a group that %s is in: chown root:vmkd %s; chmod 2770 %s",
		    f->runtime_dir, (unsigned)f->owner, (unsigned)f->mode, f->is_session ? "yours with mode 0700" : "QEMU's user with mode 0700", f->user,
		    f->runtime_dir, f->runtime_dir);
}

static bool is_for_group(const struct host_facts *f)
{
	return (f->mode & (S_ISGID | S_IRWXG | S_IRWXO)) == (S_ISGID | S_IRWXG);
}

static void judge_folder(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (!f->has_runtime_dir)
		judge_missing_folder(j);
	else if (!f->is_folder)
		say(j, CHECK_FAILED, "%s is not a folder: remove it, or set VMKD_RUNTIME_DIR", f->runtime_dir);
	else if (is_for_group(f))
		judge_group_folder(j);
	else
		judge_own_folder(j);
}

// The debugcon link is made of RAM that is found among QEMU's descriptors; the hook's library lets in whom its folder is for.
static void judge_broker(const struct judge *j)
{
	const struct host_facts *f = j->f;
	bool may_all = f->caller == 0 || (f->is_user_known && f->caller == f->uid);

	if (f->is_session || !f->has_runtime_dir || !f->is_folder)
		return;
	if (may_all)
		say(j, CHECK_PASSED, "you may serve it");
	else if (f->link == DOMAIN_LINK_DEBUGCON)
		say(j, CHECK_PASSED, "only root or %s may serve a VM with the link debugcon: run `vmkd serve` with sudo; debuggers may be anybody whom %s is for",
		    f->is_user_known ? f->user : "QEMU's user", f->runtime_dir);
	else if (is_for_group(f) && f->is_caller_in_group)
		say(j, CHECK_PASSED, "you may serve it: you are in the group %s", f->group_name);
	else if (is_for_group(f))
		say(j, CHECK_FAILED, "you may not serve it, only the group %s may: usermod -aG %s YOU, then log in again", f->group_name, f->group_name);
	else
		say(j, CHECK_PASSED, "only root may serve it, %s is not for a group: run `vmkd serve` with sudo", f->runtime_dir);
}

// ---- Confinement --------------------------------------------------------------------------------------------

static void judge_apparmor(const struct judge *j)
{
	const struct host_facts *f = j->f;
	char rules[HOST_RULES_MAX * (DOMAIN_TEXT_MAX + 32)] = "";

	for (size_t i = 0; i < f->rule_count; i++)
		snprintf(rules + strlen(rules), sizeof(rules) - strlen(rules), "%s'%s'", i ? ", " : "", f->rules[i]);
	if (!f->has_apparmor)
		say(j, CHECK_PASSED, "libvirt does not confine its VMs with AppArmor here");
	else if (f->is_apparmor_off)
		say(j, CHECK_PASSED, "this domain is not confined by AppArmor (its <seclabel>)");
	else if (f->has_rules == ANSWER_YES)
		say(j, CHECK_PASSED, "AppArmor's " LOCAL_RULES " lets the link through");
	else
		say(j, f->has_rules == ANSWER_NO ? CHECK_FAILED : CHECK_UNKNOWN,
		    "AppArmor: " LOCAL_RULES " must have the lines %s; a VM's profile is made from it when the VM starts", rules);
}

static void judge_selinux(const struct judge *j)
{
	const struct host_facts *f = j->f;

	if (!f->has_selinux)
		say(j, CHECK_PASSED, "libvirt does not confine its VMs with SELinux here");
	else if (f->is_selinux_off)
		say(j, CHECK_PASSED, "this domain is not confined by SELinux (its <seclabel>)");
	else if (f->is_selinux_enforcing == ANSWER_NO)
		say(j, CHECK_PASSED, "SELinux is permissive");
	else
		say(j, CHECK_UNKNOWN,
		    "SELinux: the policy must let QEMU's type use %s (semanage fcontext -a -t qemu_var_run_t '%s(/.*)?'; restorecon -R %s)%s; or take "
		    "the domain out of it: <seclabel type='none' model='selinux'/>",
		    f->runtime_dir, f->runtime_dir, f->runtime_dir, f->link == DOMAIN_LINK_HOOK ? SELINUX_HOOK : "");
}

void checks_judge(const struct host_facts *f, check_tell_fn *tell, void *arg)
{
	const struct judge j = { f, tell, arg };

	judge_user(&j);
	if (f->link == DOMAIN_LINK_HOOK)
		judge_library(&j);
	judge_dev(&j);
	judge_folder(&j);
	judge_broker(&j);
	judge_apparmor(&j);
	judge_selinux(&j);
}
