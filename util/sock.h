// SPDX-License-Identifier: MIT
// Sockets with messages a user understands. Every descriptor is close-on-exec; what is returned is owned by the caller.
#ifndef UTIL_SOCK_H
#define UTIL_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "util/error.h"

#define SOCK_HOST_MAX 256u
// A killed process's listeners live until the kernel has closed its descriptors, perhaps after its locks: who listens waits for that.
#define SOCK_LISTEN_PATIENCE_MS 1000

// "HOST:PORT", "[V6]:PORT", ":PORT" or "PORT".
struct sock_address {
	char host[SOCK_HOST_MAX]; // "" = none was given
	char port[6];             // 1 to 65535, decimal
};

// Split and check; names are not resolved. -> NULL and *ret, or an error that shows the expected forms.
ERROR_MUST_CHECK struct error *sock_parse_address(const char *text, struct sock_address *ret);

// Connect to a Unix socket; type is SOCK_STREAM or SOCK_SEQPACKET, `flags` may hold SOCK_NONBLOCK: then a listener that lets nobody in (a stopped process) is not
// waited for. Errors keep errno: ENOENT nothing there, ECONNREFUSED nobody listens (a dead socket), EAGAIN (SOCK_NONBLOCK) its queue is full, EACCES, ENAMETOOLONG.
ERROR_MUST_CHECK struct error *sock_connect_unix(const char *path, int type, int flags, int *ret_fd);

// Connect by TCP (blocking, all addresses of the name in turn), with TCP_NODELAY: KD is a conversation of small packets.
ERROR_MUST_CHECK struct error *sock_connect_tcp(const struct sock_address *address, int flags, int *ret_fd);

// Listen on a Unix socket with mode 0600, or 0660 in a shared runtime folder (util/rundir.h). A socket file that nobody listens on any more is replaced; one that stays in
// use for SOCK_LISTEN_PATIENCE_MS is EADDRINUSE.
ERROR_MUST_CHECK struct error *sock_listen_unix(const char *path, int type, int flags, int *ret_fd);

// Listen on TCP, with the same patience. host "" = loopback (127.0.0.1). *ret_loopback tells whether only this machine can reach it.
ERROR_MUST_CHECK struct error *sock_listen_tcp(const struct sock_address *address, int flags, int *ret_fd,
						    bool *ret_loopback);

// Who knocks next, non-blocking and close-on-exec. -> -1: nobody, or out of descriptors: then that one is hung up on, since a connection that waits
// keeps a loop awake. One thread.
int sock_accept(int listener);

// One message of a SOCK_SEQPACKET socket, at once, with the descriptors that ride on it: close-on-exec, the caller's, at most fds_max of them
// (up to SOCK_FDS_MAX). -> its whole length, which may be more than `size`; 0 the end; -1 and errno (EAGAIN nothing there), and no descriptors.
// *ret_is_cut: there were more of them, which the kernel has closed.
#define SOCK_FDS_MAX 16u
ssize_t sock_receive(int fd, void *buffer, size_t size, int *fds, uint32_t fds_max, uint32_t *ret_fd_count, bool *ret_is_cut);

// Process and user at the other end of a connected Unix socket. -> false: not a Unix socket.
bool sock_peer(int fd, pid_t *ret_pid, uid_t *ret_uid);

// May the other end of this accepted connection have what we serve? Yes: this user and root; in a shared runtime folder the members of its group
// (primary, or by SO_PEERGROUPS); and everybody who has come by anything but a Unix socket, which is the listener's business.
bool sock_peer_is_allowed(int fd);

// The other end for people: "pid 123 (windbg)" or "192.0.2.1:4711".
void sock_describe_peer(int fd, char *ret_text, size_t text_size);

#endif
