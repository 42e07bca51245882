// SPDX-License-Identifier: MIT
// Byte streams that a KD target may be reached by, named as text and opened: a Unix socket, TCP, a serial device.
//
// Rules: one thread. Every descriptor is non-blocking and close-on-exec, and the caller's.
#ifndef UTIL_ENDPOINT_H
#define UTIL_ENDPOINT_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/sock.h"

#define ENDPOINT_FORMS "unix:PATH, tcp:HOST:PORT or serial:DEVICE[,BAUD]"
#define ENDPOINT_PATH_MAX 256u
#define ENDPOINT_BAUD_DEFAULT 115200u // what bcdedit and every serial KD guide uses

enum endpoint_kind { ENDPOINT_UNIX, ENDPOINT_TCP, ENDPOINT_SERIAL };

struct endpoint {
	enum endpoint_kind kind;
	char path[ENDPOINT_PATH_MAX]; // UNIX: socket, SERIAL: device
	struct sock_address host;     // TCP; a host is there
	uint32_t baud;                // SERIAL
};

// Parse ENDPOINT_FORMS ("serial:DEVICE,baud=N" as well); touches neither the network nor the file system. -> NULL and *ret, or EINVAL with what
// was expected: a form, a socket's path of less than 108 characters, a usual baud rate.
ERROR_MUST_CHECK struct error *endpoint_parse(const char *text, struct endpoint *ret);

// TCP: the addresses of its host, to be freed with freeaddrinfo; asks name servers, which may take their time. Others: *ret is NULL.
// -> NULL and *ret, or EHOSTUNREACH.
ERROR_MUST_CHECK struct error *endpoint_resolve(const struct endpoint *e, struct addrinfo **ret);

// Begin to connect without waiting. address: TCP, one of endpoint_resolve's; NULL for others. *ret_is_pending: wait until the descriptor can be written,
// then ask endpoint_finish. A serial device is opened for nobody else, raw, 8 bits without parity, what was in its buffers thrown away.
// -> NULL, *ret_fd and *ret_is_pending, or an error in one line with errno as its code: ENOENT, ECONNREFUSED, EAGAIN (a Unix socket's full
// backlog), EBUSY (a serial device that another program has), ENOTTY, ENAMETOOLONG, ...
ERROR_MUST_CHECK struct error *endpoint_begin(const struct endpoint *e, const struct addrinfo *address, int *ret_fd, bool *ret_is_pending);

// How a pending connection came out: 0, or an errno.
int endpoint_finish(int fd);

// All of it, waiting at most timeout_ms for each address. Errors as above, ETIMEDOUT besides.
ERROR_MUST_CHECK struct error *endpoint_connect(const struct endpoint *e, uint32_t timeout_ms, int *ret_fd);

#endif
