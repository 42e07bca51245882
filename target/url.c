// SPDX-License-Identifier: MIT
#include "target/url.h"

#include <stdlib.h>
#include <string.h>

#include "target/error.h"

#define BAUD_DEFAULT 115200u // what bcdedit and every serial KD guide uses

static struct vmkd_error *bad_url(const char *text)
{
	return vmkd_error_create(VMKD_E_ARGUMENT,
				 "'%.200s' is not a target: expected vm:NAME, unix:PATH, tcp:HOST:PORT or serial:DEVICE[,baud=N]", text);
}

static struct vmkd_error *copy_path(const char *what, const char *path, char ret[URL_PATH_MAX])
{
	size_t len = strlen(path);

	if (len == 0 || len >= URL_PATH_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected %s of 1 to %u characters, got %zu", what, URL_PATH_MAX - 1, len);
	memcpy(ret, path, len + 1);
	return NULL;
}

static struct vmkd_error *parse_vm(const char *name, struct url *url)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_check_name(name);

	if (!error)
		error = rundir_path(name, "kd.sock", path);
	if (error)
		return error_import(VMKD_E_ARGUMENT, error);
	error_free(rundir_path(name, "ram.sock", url->ram_path)); // a character too long for a socket: packets do, then
	url->kind = URL_UNIX;
	url->is_vm = true;
	return copy_path("a socket path", path, url->path);
}

static struct vmkd_error *parse_tcp(const char *address, struct url *url)
{
	url->kind = URL_TCP;
	struct error *error = sock_parse_address(address, &url->host);
	if (!error && url->host.host[0] == '\0')
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected tcp:HOST:PORT, got 'tcp:%.200s' without a host", address);
	return error_import(VMKD_E_ARGUMENT, error);
}

static struct vmkd_error *parse_serial(const char *text, struct url *url)
{
	struct vmkd_error *error = copy_path("a serial device", text, url->path);

	if (error)
		return error;
	url->kind = URL_SERIAL;
	url->baud = BAUD_DEFAULT;
	char *comma = strchr(url->path, ',');
	if (!comma)
		return NULL;
	*comma = '\0';
	char *end;
	const char *digits = comma + 1 + strlen("baud=");
	if (comma == url->path || strncmp(comma + 1, "baud=", strlen("baud=")) != 0)
		return bad_url(text);
	unsigned long baud = strtoul(digits, &end, 10);
	if (digits[0] < '0' || digits[0] > '9' || *end != '\0' || baud == 0 || baud > UINT32_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a baud rate such as 115200, got '%.40s'", digits);
	url->baud = (uint32_t)baud;
	return NULL;
}

// `text` behind its scheme, or NULL.
static const char *after_scheme(const char *text, const char *scheme)
{
	size_t len = strlen(scheme);
	return strncmp(text, scheme, len) == 0 ? text + len : NULL;
}

static struct vmkd_error *parse(const char *text, struct url *url)
{
	const char *rest;

	if ((rest = after_scheme(text, "vm:")) != NULL)
		return parse_vm(rest, url);
	if ((rest = after_scheme(text, "unix:")) != NULL)
		return copy_path("a socket path", rest, url->path);
	if ((rest = after_scheme(text, "tcp:")) != NULL)
		return parse_tcp(rest, url);
	if ((rest = after_scheme(text, "serial:")) != NULL)
		return parse_serial(rest, url);
	return bad_url(text);
}

struct vmkd_error *url_parse(const char *text, struct url *ret)
{
	struct url url = { .kind = URL_UNIX };
	struct vmkd_error *error = parse(text, &url);

	if (!error)
		*ret = url;
	return error;
}
