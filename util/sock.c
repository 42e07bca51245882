// SPDX-License-Identifier: MIT
#include "util/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/rundir.h"

#define BIND_TRY_MS 20

static struct error *bad_address(const char *text)
{
	return error_create(EINVAL, "'%s' is not an address: expected HOST:PORT, [IPV6]:PORT or PORT, with PORT from 1 to 65535", text);
}

static bool port_is_valid(const char *port)
{
	size_t len = strlen(port);

	return len >= 1 && len <= 5 && strspn(port, "0123456789") == len && atoi(port) >= 1 && atoi(port) <= 65535;
}

struct error *sock_parse_address(const char *text, struct sock_address *ret)
{
	const char *colon = strrchr(text, ':'), *host = text, *port = colon ? colon + 1 : text;
	size_t host_len = colon ? (size_t)(colon - text) : 0;
	struct sock_address address = { 0 };

	if (host_len && text[0] == '[') {
		if (host_len < 3 || text[host_len - 1] != ']')
			return bad_address(text);
		host++;
		host_len -= 2;
	} else if (memchr(text, ':', host_len)) {
		return bad_address(text); // a bare IPv6 address: which colon begins the port?
	}
	if (host_len >= sizeof(address.host) || !port_is_valid(port))
		return bad_address(text);
	memcpy(address.host, host, host_len);
	strcpy(address.port, port);
	*ret = address;
	return NULL;
}

static struct error *unix_address(const char *path, struct sockaddr_un *ret)
{
	if (strlen(path) >= sizeof(ret->sun_path))
		return error_create(ENAMETOOLONG, "%s: a socket's path has at most %zu characters", path, sizeof(ret->sun_path) - 1);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(ret->sun_path, path);
	return NULL;
}

static struct error *new_socket(int family, int type, int *ret_fd)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_create(errno, "cannot create a socket: %s", strerror(errno));
	*ret_fd = fd;
	return NULL;
}

static void set_flags(int fd, int flags)
{
	if (flags & SOCK_NONBLOCK)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static struct error *connect_failed(const char *path, int code)
{
	if (code == ENOENT)
		return error_create(code, "%s: there is no such socket", path);
	if (code == ECONNREFUSED)
		return error_create(code, "%s: nobody listens there any more (a dead socket)", path);
	if (code == EAGAIN)
		return error_create(code, "%s: others wait there already, and nobody lets them in", path);
	return error_create(code, "%s: cannot connect: %s", path, strerror(code));
}

struct error *sock_connect_unix(const char *path, int type, int flags, int *ret_fd)
{
	int fd CLEANUP_CLOSE = -1;
	struct sockaddr_un address;
	struct error *error = unix_address(path, &address);

	if (!error)
		error = new_socket(AF_UNIX, type, &fd);
	if (error)
		return error;
	set_flags(fd, flags);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return connect_failed(path, errno);
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

static struct error *resolve(const struct sock_address *address, bool is_listening, struct addrinfo **ret)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	const char *host = address->host[0] ? address->host : "127.0.0.1";
	int code;

	if (is_listening)
		hints.ai_flags = AI_PASSIVE;
	code = getaddrinfo(host, address->port, &hints, ret);
	if (code)
		return error_create(EHOSTUNREACH, "%s: cannot find this host: %s", host, gai_strerror(code));
	return NULL;
}

struct error *sock_connect_tcp(const struct sock_address *address, int flags, int *ret_fd)
{
	int fd CLEANUP_CLOSE = -1, one = 1, code = 0;
	struct addrinfo *list = NULL;
	struct error *error = resolve(address, false, &list);

	if (error)
		return error;
	for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
			break;
		code = errno;
		if (fd >= 0)
			close(cleanup_take_fd(&fd));
	}
	freeaddrinfo(list);
	if (fd < 0)
		return error_create(code, "tcp:%s:%s: cannot connect: %s", address->host[0] ? address->host : "127.0.0.1",
				    address->port, strerror(code));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	set_flags(fd, flags);
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

// Given up for a moment to accept, and hang up, when there is no other.
static int spare_fd = -1;

static void keep_spare(void)
{
	if (spare_fd < 0)
		spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

// A socket file outlives its process. -> true: nobody listens on it and it was removed.
static bool remove_if_dead(const char *path, int type)
{
	int fd CLEANUP_CLOSE = -1;
	struct stat st;
	struct error *error;
	int code;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	error = sock_connect_unix(path, type, 0, &fd);
	code = error ? error->code : 0;
	error_free(error);
	return code == ECONNREFUSED && unlink(path) == 0;
}

// One listener at a time is the caller's business; an address in use belongs to a process whose end the kernel has not finished. -> bind's.
static int bind_patiently(int fd, const struct sockaddr *address, socklen_t len, const char *path, int type)
{
	int result = bind(fd, address, len);

	for (int waited = 0; result < 0 && errno == EADDRINUSE && waited < SOCK_LISTEN_PATIENCE_MS; waited += BIND_TRY_MS) {
		if (!path || !remove_if_dead(path, type))
			nanosleep(&(struct timespec){ .tv_nsec = BIND_TRY_MS * 1000000l }, NULL);
		result = bind(fd, address, len);
	}
	return result;
}

struct error *sock_listen_unix(const char *path, int type, int flags, int *ret_fd)
{
	int fd CLEANUP_CLOSE = -1, result;
	struct sockaddr_un address;
	struct error *error = unix_address(path, &address);
	mode_t mask;
	gid_t group;

	if (!error)
		error = new_socket(AF_UNIX, type, &fd);
	if (error)
		return error;
	mask = umask(rundir_is_shared(path, &group) ? 0117 : 0177);
	result = bind_patiently(fd, (struct sockaddr *)&address, sizeof(address), path, type);
	umask(mask);
	if (result < 0 || listen(fd, SOMAXCONN) < 0)
		return error_create(errno, "%s: cannot listen: %s", path, strerror(errno));
	keep_spare();
	set_flags(fd, flags);
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
	return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

struct error *sock_listen_tcp(const struct sock_address *address, int flags, int *ret_fd, bool *ret_loopback)
{
	int fd CLEANUP_CLOSE = -1, one = 1, code = 0;
	struct addrinfo *list = NULL;
	struct error *error = resolve(address, true, &list);
	bool loopback;

	if (error)
		return error;
	loopback = is_loopback(list->ai_addr);
	fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind_patiently(fd, list->ai_addr, list->ai_addrlen, NULL, 0) < 0 || listen(fd, SOMAXCONN) < 0)
		code = errno;
	freeaddrinfo(list);
	if (code)
		return error_create(code, "tcp:%s:%s: cannot listen: %s; choose an address of this machine and a port that is free",
				    address->host[0] ? address->host : "127.0.0.1", address->port, strerror(code));
	set_flags(fd, flags);
	*ret_fd = cleanup_take_fd(&fd);
	*ret_loopback = loopback;
	return NULL;
}

int sock_accept(int listener)
{
	int fd;

	keep_spare();
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0 || (errno != EMFILE && errno != ENFILE) || spare_fd < 0)
		return fd;
	close(spare_fd);
	spare_fd = -1;
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	keep_spare();
	return -1;
}

ssize_t sock_receive(int fd, void *buffer, size_t size, int *fds, uint32_t fds_max, uint32_t *ret_fd_count, bool *ret_is_cut)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(SOCK_FDS_MAX * sizeof(int))];
	} control;
	struct iovec part = { buffer, size };
	// Not CMSG_SPACE: the kernel would fill the padding with one more descriptor. Whatever the sender did, those it lets through are in one list.
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(fds_max * sizeof(int)),
	};
	ssize_t len = recvmsg(fd, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
	const struct cmsghdr *c = len >= 0 ? CMSG_FIRSTHDR(&message) : NULL;

	*ret_fd_count = 0;
	*ret_is_cut = len >= 0 && message.msg_flags & MSG_CTRUNC;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		*ret_fd_count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), *ret_fd_count * sizeof(int));
	}
	return len;
}

bool sock_peer(int fd, pid_t *ret_pid, uid_t *ret_uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int family;
	socklen_t family_len = sizeof(family);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_len) < 0 || family != AF_UNIX)
		return false;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	*ret_pid = cred.pid;
	*ret_uid = cred.uid;
	return true;
}

static bool is_in_group(int fd, gid_t group)
{
	socklen_t len = 0;
	gid_t *groups;
	bool found = false;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) == 0 || errno != ERANGE)
		return false; // it has none
	groups = malloc(len);
	if (groups && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0) {
		for (size_t i = 0; i < len / sizeof(*groups); i++)
			found |= groups[i] == group;
	}
	free(groups);
	return found;
}

bool sock_peer_is_allowed(int fd)
{
	struct sockaddr_un own = { 0 };
	socklen_t own_len = sizeof(own) - 1, len = sizeof(struct ucred);
	struct ucred peer;
	pid_t pid;
	uid_t uid;
	gid_t group;

	if (!sock_peer(fd, &pid, &uid) || uid == geteuid() || uid == 0)
		return true;
	// The accepted end has the listener's name.
	if (getsockname(fd, (struct sockaddr *)&own, &own_len) < 0 || !rundir_is_shared(own.sun_path, &group))
		return false;
	return (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.gid == group) || is_in_group(fd, group);
}

static void describe_process(pid_t pid, char *ret_text, size_t text_size)
{
	char path[64], name[32] = "";
	int fd CLEANUP_CLOSE = -1;
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);
	name[len > 0 ? len : 0] = 0;
	name[strcspn(name, "\n")] = 0;
	for (char *c = name; *c; c++) // it is shown on terminals, and a process may call itself anything
		*c = *c >= ' ' && *c < 0x7F ? *c : '?';
	if (name[0])
		snprintf(ret_text, text_size, "pid %d (%s)", (int)pid, name);
	else
		snprintf(ret_text, text_size, "pid %d", (int)pid);
}

void sock_describe_peer(int fd, char *ret_text, size_t text_size)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[64], port[8];
	pid_t pid;
	uid_t uid;

	if (sock_peer(fd, &pid, &uid))
		describe_process(pid, ret_text, text_size);
	else if (getpeername(fd, (struct sockaddr *)&address, &len) == 0 &&
		 getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
			     NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(ret_text, text_size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	else
		snprintf(ret_text, text_size, "an unknown peer");
}
