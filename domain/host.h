// SPDX-License-Identifier: MIT
// What this host would let a domain's QEMU do: read the library, use the runtime folder. Looks, and changes nothing; checks.h judges.
//
// Rules: any thread. Files and users are looked up as they are at that moment; texts that do not fit are cut and then found nowhere.
#ifndef DOMAIN_HOST_H
#define DOMAIN_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "domain/edit.h"
#include "util/error.h"

enum answer { ANSWER_UNKNOWN, ANSWER_NO, ANSWER_YES };

#define HOST_RULES_MAX 3u

struct host_facts {
	// Asked
	bool is_session;                  // libvirtd runs as the user, for him alone
	enum domain_link link;
	char library[DOMAIN_TEXT_MAX];    // hook
	char runtime_dir[DOMAIN_TEXT_MAX];
	// libvirtd's answers
	bool has_apparmor, has_selinux;   // it confines its VMs with that
	bool is_apparmor_off, is_selinux_off; // but not this one
	bool is_user_known;               // whom QEMU will run as:
	uid_t uid;
	gid_t gid;
	char user[64];                    // his name, or the number
	// Looked at
	enum answer is_library_readable;  // by QEMU's user
	char blocked_at[DOMAIN_TEXT_MAX]; // NO, UNKNOWN: the file or folder that does not let him through
	char open_at[DOMAIN_TEXT_MAX];    // a file or folder on the library's way that anybody may replace; "" = none
	bool has_runtime_dir, is_folder, is_user_in_group, is_caller_in_group;
	mode_t mode;                      // of the runtime folder
	uid_t owner;
	gid_t group;
	char group_name[64];              // or the number
	enum answer is_selinux_enforcing;
	size_t rule_count;                // that AppArmor needs
	char rules[HOST_RULES_MAX][DOMAIN_TEXT_MAX + 16];
	enum answer has_rules;            // all of them, in the local additions
	uid_t caller;
};

// A user as libvirt writes one: "+64055:+107", "64055:107", "libvirt-qemu:kvm", "libvirt-qemu". -> false: nobody by that name.
bool host_parse_label(const char *text, uid_t *ret_uid, gid_t *ret_gid);

// Take the models and QEMU's user from `virsh capabilities`; the domain's own wishes go before. -> NULL, or an error: no capabilities.
ERROR_MUST_CHECK struct error *host_read_capabilities(struct host_facts *f, const char *text, size_t len, const struct domain_info *domain);

// Look at everything else, for what was asked and answered. apparmor: the folder of its policy, "/etc/apparmor.d".
void host_look(struct host_facts *f, const char *apparmor);

#endif
