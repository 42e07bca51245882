// SPDX-License-Identifier: MIT
// Where the runtime files of VMs live: $VMKD_RUNTIME_DIR, else $XDG_RUNTIME_DIR/vmkd, else /tmp/vmkd-UID, and in it
// one folder per VM name. Everything is for its owner alone: whoever reaches kd.sock controls a kernel.
//
// Or for a group: a base of mode 2770 (setgid, nothing for others) that belongs to root or to this user, and whose group this process is in, is
// shared by that group: folders in it get mode 2770, sockets and files 0660, and the group's members may connect
// (docs/permissions.md).
//
// Files of a VM: kd.sock (KDCOM stream), ctl.sock (the broker's control socket), vmm.sock (the VMM side's
// listener), qmp.sock, debugcon.sock, monitor.sock (debugcon: QMP for the broker), paused (serve/pause.h), vm.json (facts of the VM), lock
// (held by the broker), vm.lock (held by the VM).
#ifndef UTIL_RUNDIR_H
#define UTIL_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "util/error.h"

// Origin: a path must fit sockaddr_un.sun_path with its NUL.
#define RUNDIR_PATH_MAX 108u
#define RUNDIR_NAME_MAX 63u // characters of a VM name

// [A-Za-z0-9._-], 1 to 63 characters, not starting with '.' or '-' (a hidden file, an option).
bool rundir_name_is_valid(const char *name);

// As above, with a message that says which rule was broken.
ERROR_MUST_CHECK struct error *rundir_check_name(const char *name);

// The base folder, not created. -> NULL and *ret, or an error when the path is too long for sockets in it, or when the folder is there and
// not shared as above, and belongs to somebody else (root may be told another user's by VMKD_RUNTIME_DIR), may be written by others, or is no folder.
ERROR_MUST_CHECK struct error *rundir_base(char ret[RUNDIR_PATH_MAX]);

// BASE/NAME or, with `file`, BASE/NAME/FILE; nothing is created. Errors: bad name, path too long, a base as above.
ERROR_MUST_CHECK struct error *rundir_path(const char *name, const char *file, char ret[RUNDIR_PATH_MAX]);

// Create base and BASE/NAME with mode 0700 where missing; BASE/NAME with 2770 in a shared base. A folder that belongs to somebody else, is a
// symbolic link or is open to others is refused: /tmp is everybody's. In a shared base any member may own BASE/NAME. Errors: bad name, the above,
// mkdir's.
ERROR_MUST_CHECK struct error *rundir_create(const char *name);

// -> true: `path` lies in the base folder, and that is shared by *ret_group.
bool rundir_is_shared(const char *path, gid_t *ret_group);

// Open, or create for whom the folder is for (0600 or 0660), a file at `path`; the name must be no symbolic link. -> open's, close-on-exec.
int rundir_open(const char *path, int flags);

#endif
