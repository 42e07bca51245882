// SPDX-License-Identifier: MIT
// What vmkd puts into a libvirt domain's XML, and takes out again. Text in, text out: who talks to libvirt is somebody else.
//
//   hook       qemu:commandline: qemu:env LD_PRELOAD, VMKD_NAME, VMKD_RUNTIME_DIR; RAM in a shared memfd where the domain says nothing about it
//   debugcon   qemu:commandline: the arguments given; RAM in a shared memfd
//   both       metadata: a <link xmlns="urn:vmkd:domain:1"> that says what was added, since libvirt orders and formats anew. Nothing else
//              remembers it.
//
// Everything else stays as it was. Disabling takes out exactly what was added, as far as it still is what was added; what somebody has changed since
// is left and counted. A text that nobody has touched in between comes back byte for byte, as libxml2 prints it.
//
// Rules: any thread; no I/O. The XML is hostile: bounded by tree_parse, and nothing in it is followed.
#ifndef DOMAIN_EDIT_H
#define DOMAIN_EDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

#define DOMAIN_TEXT_MAX 512u // bytes of a name or path in here, with the NUL; a longer one is refused or cut as said
#define DOMAIN_ARGUMENTS_MAX 16u

enum domain_link { DOMAIN_LINK_NONE, DOMAIN_LINK_HOOK, DOMAIN_LINK_DEBUGCON };

// What the XML says. Texts that are missing or do not fit are "".
struct domain_info {
	char name[DOMAIN_TEXT_MAX];        // libvirt's
	char type[16];                     // "kvm", "qemu", ...
	char dac_label[DOMAIN_TEXT_MAX];   // the user that the domain chose for its QEMU, "+64055:+107" or "user:group"; "" = libvirtd's choice
	bool is_apparmor_off, is_selinux_off; // <seclabel type='none' model=...>
	enum domain_link link;             // as enabled; what follows is of the link
	char link_name[DOMAIN_TEXT_MAX];   // VMKD_NAME
	char runtime_dir[DOMAIN_TEXT_MAX];
	char library[DOMAIN_TEXT_MAX];     // hook
};

struct domain_wish {
	enum domain_link link;         // not NONE
	const char *name;              // VMKD_NAME: a valid one, the caller has checked
	const char *runtime_dir;
	const char *library;           // hook: absolute path
	bool private_ram;              // hook: leave RAM as it is
	const char *const *arguments;  // debugcon: QEMU's, option and value by turns, NULL-terminated, at most DOMAIN_ARGUMENTS_MAX
};

// -> NULL and *ret, or an error: no domain XML, or a link that vmkd did not write like that.
ERROR_MUST_CHECK struct error *domain_read(const char *text, size_t len, struct domain_info *ret);

// The text with the link in it; one that is there already is taken out first. -> NULL and *ret, to be freed with free. Errors: as domain_read; a
// domain that the link cannot work in (no KVM for the hook, RAM that cannot be shared for debugcon, memory encryption, no PC), or one that has been
// given the library or the doorbell by hand.
ERROR_MUST_CHECK struct error *domain_enable(const char *text, size_t len, const struct domain_wish *wish, char **ret);

// The text without the link. *ret_left: things that had been added and are no longer as they were added; they stay. Errors: as domain_read; no link.
ERROR_MUST_CHECK struct error *domain_disable(const char *text, size_t len, char **ret, unsigned *ret_left);

#endif
