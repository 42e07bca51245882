// SPDX-License-Identifier: MIT
#include "util/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "util/cleanup.h"

#define BACKLOG_TRY_MS 20u
// A TCP peer that lost its power says nothing: it is asked after so many seconds of silence, and so often, before it counts as gone.
#define KEEPALIVE_IDLE_S 10
#define KEEPALIVE_STEP_S 5
#define KEEPALIVE_COUNT 3

// ---- Text ------------------------------------------------------------------------------------------------

static struct error *copy_path(const char *what, const char *path, size_t size, struct endpoint *e)
{
	size_t len = strlen(path);

	if (len == 0 || len >= size)
		return error_create(EINVAL, "expected %s of 1 to %zu characters, got %zu", what, size - 1, len);
	memcpy(e->path, path, len + 1);
	return NULL;
}

static struct error *parse_tcp(const char *address, struct endpoint *e)
{
	struct error *error = sock_parse_address(address, &e->host);

	e->kind = ENDPOINT_TCP;
	if (!error && !e->host.host[0])
		return error_create(EINVAL, "expected tcp:HOST:PORT, got 'tcp:%.200s' without a host", address);
	return error;
}

static bool find_speed(uint32_t baud, speed_t *ret)
{
	static const struct {
		uint32_t baud;
		speed_t speed;
	} speeds[] = { { 9600, B9600 }, { 19200, B19200 }, { 38400, B38400 }, { 57600, B57600 }, { 115200, B115200 }, { 230400, B230400 },
		       { 460800, B460800 }, { 500000, B500000 }, { 921600, B921600 }, { 1000000, B1000000 }, { 1500000, B1500000 },
		       { 2000000, B2000000 }, { 3000000, B3000000 }, { 4000000, B4000000 } };

	for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++)
		if (speeds[i].baud == baud) {
			*ret = speeds[i].speed;
			return true;
		}
	return false;
}

static struct error *parse_serial(const char *text, struct endpoint *e)
{
	struct error *error = copy_path("a serial device", text, sizeof(e->path), e);
	char *comma = strchr(e->path, ','), *end;
	const char *digits;
	unsigned long baud;
	speed_t speed;

	e->kind = ENDPOINT_SERIAL;
	e->baud = ENDPOINT_BAUD_DEFAULT;
	if (error || !comma)
		return error;
	*comma = 0;
	digits = comma + 1;
	if (strncmp(digits, "baud=", strlen("baud=")) == 0)
		digits += strlen("baud=");
	baud = strtoul(digits, &end, 10);
	if (comma == e->path || digits[0] < '0' || digits[0] > '9' || *end || baud == 0 || baud > UINT32_MAX)
		return error_create(EINVAL, "expected serial:DEVICE,BAUD with a baud rate such as 115200, got 'serial:%.200s'", text);
	e->baud = (uint32_t)baud;
	if (!find_speed(e->baud, &speed))
		return error_create(EINVAL, "expected a usual baud rate (9600 to 4000000, such as 115200), got %u", e->baud);
	return NULL;
}

// `text` behind its scheme, or NULL.
static const char *after_scheme(const char *text, const char *scheme)
{
	size_t len = strlen(scheme);

	return strncmp(text, scheme, len) == 0 ? text + len : NULL;
}

static struct error *parse(const char *text, struct endpoint *e)
{
	const char *rest;

	if ((rest = after_scheme(text, "unix:")) != NULL)
		return copy_path("a socket path", rest, sizeof(((struct sockaddr_un *)NULL)->sun_path), e);
	if ((rest = after_scheme(text, "tcp:")) != NULL)
		return parse_tcp(rest, e);
	if ((rest = after_scheme(text, "serial:")) != NULL)
		return parse_serial(rest, e);
	return error_create(EINVAL, "'%.200s' is not a stream: expected " ENDPOINT_FORMS, text);
}

struct error *endpoint_parse(const char *text, struct endpoint *ret)
{
	struct endpoint e = { .kind = ENDPOINT_UNIX };
	struct error *error = parse(text, &e);

	if (!error)
		*ret = e;
	return error;
}

// ---- Sockets ---------------------------------------------------------------------------------------------

static struct error *connect_error(const struct endpoint *e, int code, const char *what_to_try)
{
	char where[ENDPOINT_PATH_MAX + sizeof(e->host.port) + 8];

	if (e->kind == ENDPOINT_TCP)
		snprintf(where, sizeof(where), "%s port %s", e->host.host, e->host.port);
	else
		snprintf(where, sizeof(where), "%s", e->path);
	return error_create(code, "cannot connect to %s: %s%s%s", where, strerror(code), what_to_try[0] ? "; " : "", what_to_try);
}

static const char *socket_advice(const struct endpoint *e, int code)
{
	if (code == ENOENT)
		return "expected the socket of a VM's serial port or of a broker";
	if (code == ECONNREFUSED)
		return e->kind == ENDPOINT_TCP ? "nobody listens there: vmkd run --tcp makes one" : "nobody listens there: is the VM running?";
	return "";
}

static struct error *begin_unix(const struct endpoint *e, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd CLEANUP_CLOSE = -1;

	if (strlen(e->path) >= sizeof(address.sun_path)) // one that was not parsed here
		return error_create(ENAMETOOLONG, "expected a socket path of at most %zu characters: %s", sizeof(address.sun_path) - 1, e->path);
	strcpy(address.sun_path, e->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return connect_error(e, errno, socket_advice(e, errno));
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

static void set_option(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof(value)); // without it things are slower or later, not wrong
}

static struct error *begin_tcp(const struct endpoint *e, const struct addrinfo *address, int *ret_fd, bool *ret_is_pending)
{
	int fd CLEANUP_CLOSE = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->ai_protocol);

	if (fd < 0)
		return connect_error(e, errno, "");
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); // KD is a conversation of small packets
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_STEP_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT);
	*ret_is_pending = connect(fd, address->ai_addr, address->ai_addrlen) < 0;
	if (*ret_is_pending && errno != EINPROGRESS)
		return connect_error(e, errno, socket_advice(e, errno));
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

struct error *endpoint_resolve(const struct endpoint *e, struct addrinfo **ret)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	int code;

	*ret = NULL;
	if (e->kind != ENDPOINT_TCP)
		return NULL;
	code = getaddrinfo(e->host.host, e->host.port, &hints, ret);
	if (code != 0)
		return error_create(EHOSTUNREACH, "cannot find the host %s: %s", e->host.host, gai_strerror(code));
	return NULL;
}

// ---- Serial lines ----------------------------------------------------------------------------------------

// Origin: UNIX98_PTY_SLAVE_MAJOR and the seven behind it (Linux, Documentation/admin-guide/devices.txt).
static bool is_pty(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && major(st.st_rdev) >= 136 && major(st.st_rdev) <= 143;
}

// Two debuggers on one line take each other's bytes. The lock is for programs that look; TIOCEXCL for all others, but a pseudo-terminal would keep it
// after its holder's death.
static struct error *claim(int fd, const struct endpoint *e)
{
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return error_create(EBUSY, "%s is in use by another program", e->path);
	if (!is_pty(fd))
		(void)ioctl(fd, TIOCEXCL);
	return NULL;
}

static struct error *set_line(int fd, const struct endpoint *e)
{
	struct termios settings;
	speed_t speed = B0;

	(void)find_speed(e->baud, &speed); // was found when it was parsed
	if (tcgetattr(fd, &settings) < 0)
		return error_create(ENOTTY, "%s is not a serial device: expected one such as /dev/ttyS0", e->path);
	cfmakeraw(&settings);
	settings.c_cflag |= CLOCAL | CREAD;
	settings.c_cflag &= ~(tcflag_t)(CRTSCTS | CSTOPB | PARENB);
	settings.c_cc[VMIN] = 1;
	settings.c_cc[VTIME] = 0;
	(void)cfsetispeed(&settings, speed); // cannot fail for a constant of this host
	(void)cfsetospeed(&settings, speed);
	if (tcsetattr(fd, TCSANOW, &settings) < 0)
		return error_create(errno, "cannot set up %s for %u baud: %s", e->path, e->baud, strerror(errno));
	// Stale bytes of an earlier session would only be skipped as noise.
	(void)tcflush(fd, TCIOFLUSH);
	return NULL;
}

static const char *device_advice(int code)
{
	if (code == EACCES)
		return "are you in the group that owns it (dialout)?";
	return code == EBUSY ? "another program has it" : "";
}

static struct error *begin_serial(const struct endpoint *e, int *ret_fd)
{
	int fd CLEANUP_CLOSE = open(e->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	struct error *error;

	if (fd < 0)
		return connect_error(e, errno, device_advice(errno));
	error = claim(fd, e);
	if (!error)
		error = set_line(fd, e);
	if (!error)
		*ret_fd = cleanup_take_fd(&fd);
	return error;
}

// ---- Together ----------------------------------------------------------------------------------------------

struct error *endpoint_begin(const struct endpoint *e, const struct addrinfo *address, int *ret_fd, bool *ret_is_pending)
{
	bool is_pending = false;
	struct error *error = NULL;

	switch (e->kind) {
	case ENDPOINT_UNIX:
		error = begin_unix(e, ret_fd);
		break;
	case ENDPOINT_TCP:
		error = begin_tcp(e, address, ret_fd, &is_pending);
		break;
	case ENDPOINT_SERIAL:
		error = begin_serial(e, ret_fd);
		break;
	}
	if (!error)
		*ret_is_pending = is_pending;
	return error;
}

int endpoint_finish(int fd)
{
	int code = 0;
	socklen_t len = sizeof(code);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0 ? errno : code;
}

// A full backlog makes a non-blocking connect fail with EAGAIN instead of making it wait; poll cannot wait for that.
static struct error *begin_patiently(const struct endpoint *e, const struct addrinfo *address, uint32_t timeout_ms, int *ret_fd, bool *ret_is_pending)
{
	struct error *error;

	for (uint32_t waited = 0;; waited += BACKLOG_TRY_MS) {
		error = endpoint_begin(e, address, ret_fd, ret_is_pending);
		if (!error || error->code != EAGAIN || e->kind != ENDPOINT_UNIX)
			return error;
		error_free(error);
		if (waited >= timeout_ms)
			return connect_error(e, ETIMEDOUT, "");
		(void)poll(NULL, 0, (int)BACKLOG_TRY_MS);
	}
}

static struct error *connect_one(const struct endpoint *e, const struct addrinfo *address, uint32_t timeout_ms, int *ret_fd)
{
	struct pollfd poll_fd = { .events = POLLOUT };
	int fd CLEANUP_CLOSE = -1, code;
	bool is_pending = false;
	struct error *error = begin_patiently(e, address, timeout_ms, &fd, &is_pending);

	if (error)
		return error;
	if (is_pending) {
		poll_fd.fd = fd;
		code = poll(&poll_fd, 1, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms) == 0 ? ETIMEDOUT : endpoint_finish(fd);
		if (code)
			return connect_error(e, code, socket_advice(e, code));
	}
	*ret_fd = cleanup_take_fd(&fd);
	return NULL;
}

struct error *endpoint_connect(const struct endpoint *e, uint32_t timeout_ms, int *ret_fd)
{
	struct addrinfo *list;
	struct error *error = endpoint_resolve(e, &list);

	if (error)
		return error;
	error = connect_one(e, list, timeout_ms, ret_fd);
	for (const struct addrinfo *at = list ? list->ai_next : NULL; error && at; at = at->ai_next) {
		error_free(error);
		error = connect_one(e, at, timeout_ms, ret_fd);
	}
	if (list)
		freeaddrinfo(list);
	return error;
}
