// SPDX-License-Identifier: MIT
#include "target/url.h"

#include <errno.h>
#include <string.h>

#include "target/error.h"

static struct vmkd_error *parse_vm(const char *name, struct url *url)
{
	struct error *error = rundir_check_name(name);

	_Static_assert(sizeof(url->at.path) >= RUNDIR_PATH_MAX, "a path of the runtime folder fits");
	if (!error)
		error = rundir_path(name, "kd.sock", url->at.path);
	if (error)
		return error_import(VMKD_E_ARGUMENT, error);
	error_free(rundir_path(name, "ram.sock", url->ram_path)); // a character too long for a socket: packets do, then
	url->is_vm = true;
	return NULL;
}

static struct vmkd_error *parse_trace(const char *path, struct url *url)
{
	size_t len = strlen(path);

	if (len == 0 || len >= sizeof(url->at.path))
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected trace:FILE with a path of 1 to %zu characters, got %zu", sizeof(url->at.path) - 1, len);
	memcpy(url->at.path, path, len + 1);
	url->is_trace = true;
	return NULL;
}

static bool is_stream(const char *text)
{
	return strncmp(text, "unix:", 5) == 0 || strncmp(text, "tcp:", 4) == 0 || strncmp(text, "serial:", 7) == 0;
}

struct vmkd_error *url_parse(const char *text, struct url *ret)
{
	struct url url = { .at = { .kind = ENDPOINT_UNIX } };
	struct vmkd_error *error;

	if (strncmp(text, "vm:", 3) == 0)
		error = parse_vm(text + 3, &url);
	else if (strncmp(text, "trace:", 6) == 0)
		error = parse_trace(text + 6, &url);
	else if (is_stream(text))
		error = error_import(VMKD_E_ARGUMENT, endpoint_parse(text, &url.at));
	else
		error = vmkd_error_create(VMKD_E_ARGUMENT, "'%.200s' is not a target: expected vm:NAME, trace:FILE, " ENDPOINT_FORMS, text);
	if (!error)
		*ret = url;
	return error;
}

static const char *vm_advice(int code)
{
	return code == ENOENT	    ? "; no such VM: vmkd list shows those that run" :
	       code == ECONNREFUSED ? "; its broker is not running: vmkd serve NAME starts one" :
				      "";
}

struct vmkd_error *url_connect(const struct url *url, uint32_t timeout_ms, int *ret_fd)
{
	struct error *error = endpoint_connect(&url->at, timeout_ms, ret_fd);
	int code = error ? error->code : 0;

	if (url->is_vm && (code == ENOENT || code == ECONNREFUSED)) {
		error_free(error);
		error = error_create(code, "cannot connect to %s: %s%s", url->at.path, strerror(code), vm_advice(code));
	}
	return error_import(code == EINVAL || code == ENAMETOOLONG ? VMKD_E_ARGUMENT : VMKD_E_CONNECT, error);
}
