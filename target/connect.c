// SPDX-License-Identifier: MIT
// url_connect: sockets and serial lines, each with a deadline and a message that says what to try.
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "target/error.h"
#include "target/url.h"
#include "util/cleanup.h"

static struct vmkd_error *connect_error(int os_error, const char *where, const char *what_to_try)
{
	struct vmkd_error *error = vmkd_error_create(VMKD_E_CONNECT, "cannot connect to %s: %s%s%s", where, strerror(os_error),
						     what_to_try[0] ? "; " : "", what_to_try);
	if (error->code == VMKD_E_CONNECT)
		error->os_error = os_error;
	return error;
}

// ---- Unix sockets --------------------------------------------------------------------------------------------------------------

static const char *unix_advice(const struct url *url, int os_error)
{
	if (url->is_vm)
		return os_error == ENOENT	? "no such VM: vmkd list shows those that run" :
		       os_error == ECONNREFUSED ? "its broker is not running: vmkd serve NAME starts one" :
						  "";
	if (os_error == ENOENT)
		return "expected the socket of a VM's serial port or of a broker";
	return os_error == ECONNREFUSED ? "nobody listens there: is the VM running?" : "";
}

// A full backlog makes a non-blocking connect fail with EAGAIN instead of making it wait; poll cannot wait for that.
static int connect_unix_retrying(int fd, const struct sockaddr_un *address, uint32_t timeout_ms)
{
	const uint32_t step_ms = 20;

	for (uint32_t waited = 0;; waited += step_ms) {
		if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
			return 0;
		if (errno != EAGAIN)
			return errno;
		if (waited >= timeout_ms)
			return ETIMEDOUT;
		(void)poll(NULL, 0, (int)step_ms);
	}
}

static struct vmkd_error *connect_unix(const struct url *url, uint32_t timeout_ms, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_os(errno, "cannot create a socket");
	if (strlen(url->path) >= sizeof(address.sun_path))
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a socket path of at most %zu characters: %s",
					 sizeof(address.sun_path) - 1, url->path);
	strcpy(address.sun_path, url->path);
	int os_error = connect_unix_retrying(fd, &address, timeout_ms);
	if (os_error != 0)
		return connect_error(os_error, url->path, unix_advice(url, os_error));
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

// ---- TCP -----------------------------------------------------------------------------------------------------------------------

// 0, or an errno.
static int finish_connect(int fd, uint32_t timeout_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };
	int os_error = 0;
	socklen_t len = sizeof(os_error);

	if (poll(&poll_fd, 1, (int)timeout_ms) == 0)
		return ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &os_error, &len) < 0)
		return errno;
	return os_error;
}

static int connect_one(const struct addrinfo *info, uint32_t timeout_ms, int *ret_fd)
{
	int one = 1, os_error = 0;
	int fd CLEANUP_CLOSE = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, info->ai_protocol);

	if (fd < 0)
		return errno;
	if (connect(fd, info->ai_addr, info->ai_addrlen) < 0)
		os_error = errno == EINPROGRESS ? finish_connect(fd, timeout_ms) : errno;
	if (os_error != 0)
		return os_error;
	// KD is a conversation of small packets; failing to set it only makes it slow.
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*ret_fd = cleanup_take_fd(&fd);
	return 0;
}

static struct vmkd_error *connect_tcp(const struct url *url, uint32_t timeout_ms, int *ret_fd)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	char where[SOCK_HOST_MAX + 16];
	int os_error = EHOSTUNREACH;

	snprintf(where, sizeof(where), "%s port %s", url->host.host, url->host.port);
	int code = getaddrinfo(url->host.host, url->host.port, &hints, &list);
	if (code != 0)
		return vmkd_error_create(VMKD_E_CONNECT, "cannot find the host %s: %s", url->host.host, gai_strerror(code));
	for (const struct addrinfo *info = list; info && os_error != 0; info = info->ai_next)
		os_error = connect_one(info, timeout_ms, ret_fd);
	freeaddrinfo(list);
	if (os_error != 0)
		return connect_error(os_error, where, os_error == ECONNREFUSED ? "nobody listens there: vmkd run --tcp makes one" : "");
	return NULL;
}

// ---- serial lines --------------------------------------------------------------------------------------------------------------

static bool find_speed(uint32_t baud, speed_t *ret)
{
	static const struct {
		uint32_t baud;
		speed_t speed;
	} SPEEDS[] = { { 9600, B9600 },	    { 19200, B19200 },	 { 38400, B38400 },   { 57600, B57600 },     { 115200, B115200 },
		       { 230400, B230400 }, { 460800, B460800 }, { 921600, B921600 }, { 1500000, B1500000 }, { 3000000, B3000000 } };

	for (size_t i = 0; i < sizeof(SPEEDS) / sizeof(SPEEDS[0]); i++)
		if (SPEEDS[i].baud == baud) {
			*ret = SPEEDS[i].speed;
			return true;
		}
	return false;
}

static struct vmkd_error *set_line(int fd, const struct url *url, speed_t speed)
{
	struct termios settings;

	if (tcgetattr(fd, &settings) < 0)
		return vmkd_error_create(VMKD_E_CONNECT, "%s is not a serial device: expected one such as /dev/ttyS0", url->path);
	cfmakeraw(&settings);
	settings.c_cflag |= CLOCAL | CREAD;
	settings.c_cflag &= ~(tcflag_t)(CRTSCTS | CSTOPB | PARENB);
	settings.c_cc[VMIN] = 1;
	settings.c_cc[VTIME] = 0;
	(void)cfsetispeed(&settings, speed); // cannot fail for a constant of this host
	(void)cfsetospeed(&settings, speed);
	if (tcsetattr(fd, TCSANOW, &settings) < 0)
		return error_os(errno, "cannot set up %s for %u baud", url->path, url->baud);
	// Stale bytes of an earlier session would only be skipped as noise.
	(void)tcflush(fd, TCIOFLUSH);
	return NULL;
}

static struct vmkd_error *connect_serial(const struct url *url, int *ret_fd)
{
	speed_t speed;

	if (!find_speed(url->baud, &speed))
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a usual baud rate (9600 to 3000000, such as 115200), got %u", url->baud);
	int fd CLEANUP_CLOSE = open(url->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return connect_error(errno, url->path, errno == EACCES ? "are you in the group that owns it (dialout)?" : "");
	struct vmkd_error *error = set_line(fd, url, speed);
	if (!error)
		*ret_fd = cleanup_take_fd(&fd);
	return error;
}

struct vmkd_error *url_connect(const struct url *url, uint32_t timeout_ms, int *ret_fd)
{
	switch (url->kind) {
	case URL_UNIX: return connect_unix(url, timeout_ms, ret_fd);
	case URL_TCP: return connect_tcp(url, timeout_ms, ret_fd);
	case URL_SERIAL: return connect_serial(url, ret_fd);
	}
	return vmkd_error_create(VMKD_E_ARGUMENT, "unknown kind of target");
}
