// SPDX-License-Identifier: MIT
// The folder of the VM's socket, and who may connect: this user and root; or, where the folder of all VMs is shared with a group, that
// group's members, too. The same rules as util/rundir.h and util/sock.h have for the broker's own sockets (this library links nothing of them).
//
// Shared is a base of mode 2770 (setgid, nothing for others) that belongs to root or to this user and whose group this process is in.
//
// Rules: folder_make once, before the link's thread starts; the rest from one thread at a time.
#ifndef VMM_FOLDER_H
#define VMM_FOLDER_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

// Make `base` and `vm` in it where missing, and judge what is there. -> true; false: one line on stderr said why.
bool folder_make(const char *base, const char *vm);

// For sockets in the VM's folder.
mode_t folder_socket_mode(void);

// True: this peer of the connection fd may attach.
bool folder_admits(int fd, const struct ucred *peer);

// One line on stderr: "vmkd: ABOUT: WHAT; HINT".
void folder_complain(const char *what, const char *about, const char *hint);
// The last such line without "vmkd: ", perhaps cut; "" = none. Valid until the next one.
const char *folder_complaint(void);

#endif
