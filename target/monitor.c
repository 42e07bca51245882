// SPDX-License-Identifier: MIT
#include "target/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "target/error.h"
#include "target/stream.h"
#include "target/url.h"
#include "util/buf.h"
#include "util/cleanup.h"

#define READ_SIZE 16384u
#define TEXT_MAX 400u // of QEMU's words in a message

struct monitor {
	int fd;
	char vm_name[64];
	struct buf in;
	uint32_t id; // of the last question
};

// ---- lines ---------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *gone(const struct monitor *m, int os_error)
{
	return vmkd_error_create(VMKD_E_GONE, "the QMP monitor of %s hung up: %s (has the VM ended?)", m->vm_name,
				 os_error ? strerror(os_error) : "end of stream");
}

// -> NULL: poll may be left; TIMEOUT.
static struct vmkd_error *wait_ready(const struct monitor *m, short events, uint64_t deadline)
{
	struct pollfd fd = { .fd = m->fd, .events = events };

	for (;;) {
		uint64_t now = stream_now();
		if (now >= deadline)
			return vmkd_error_create(VMKD_E_TIMEOUT, "QEMU of %s has not answered in time; it may still do what it was asked for",
						 m->vm_name);
		int ms = deadline - now > INT32_MAX ? INT32_MAX : (int)(deadline - now);
		int count = poll(&fd, 1, ms);
		if (count > 0)
			return NULL;
		if (count < 0 && errno != EINTR)
			return gone(m, errno);
	}
}

static struct vmkd_error *send_line(struct monitor *m, const char *text, uint64_t deadline)
{
	size_t len = strlen(text);

	while (len > 0) {
		ssize_t done = send(m->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (done < 0 && errno != EAGAIN && errno != EINTR)
			return gone(m, errno);
		text += done > 0 ? done : 0;
		len -= done > 0 ? (size_t)done : 0;
		struct vmkd_error *error = done < 0 ? wait_ready(m, POLLOUT, deadline) : NULL;
		if (error)
			return error;
	}
	return NULL;
}

static struct vmkd_error *read_more(struct monitor *m, uint64_t deadline)
{
	struct vmkd_error *error = wait_ready(m, POLLIN, deadline);
	uint8_t *room = error ? NULL : buf_reserve(&m->in, READ_SIZE);

	if (error)
		return error;
	if (!room)
		return vmkd_error_create(VMKD_E_PROTOCOL, "the QMP monitor of %s sent a line of more than %u bytes", m->vm_name,
					 MONITOR_LINE_MAX - READ_SIZE);
	ssize_t len = recv(m->fd, room, READ_SIZE, MSG_DONTWAIT);
	if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR))
		return gone(m, len < 0 ? errno : 0);
	buf_commit(&m->in, len > 0 ? (size_t)len : 0);
	return NULL;
}

// The next line as JSON. A line that is none is an error: whoever sends such is no QMP monitor.
static struct vmkd_error *read_line(struct monitor *m, uint64_t deadline, cJSON **ret)
{
	size_t looked_at = 0;
	const uint8_t *end = NULL;

	while (!end) {
		if (m->in.len > looked_at)
			end = memchr(buf_data(&m->in) + looked_at, '\n', m->in.len - looked_at);
		if (end)
			break;
		looked_at = m->in.len;
		struct vmkd_error *error = read_more(m, deadline);
		if (error)
			return error;
	}
	size_t len = (size_t)(end - buf_data(&m->in));
	cJSON *json = cJSON_ParseWithLength((const char *)buf_data(&m->in), len);
	buf_consume(&m->in, len + 1);
	if (!cJSON_IsObject(json)) {
		cJSON_Delete(json);
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected the QMP monitor of %s, got a line that is no JSON object", m->vm_name);
	}
	*ret = json;
	return NULL;
}

// One line of printable characters: what QEMU says goes into messages.
static void make_plain(const char *text, char *ret, size_t size)
{
	size_t len = 0;

	for (; *text && len + 1 < size; text++) {
		bool is_blank = (unsigned char)*text <= ' ' || *text == 0x7F;
		if (!is_blank)
			ret[len++] = *text;
		else if (len > 0 && ret[len - 1] != ' ')
			ret[len++] = ' ';
	}
	while (len > 0 && ret[len - 1] == ' ')
		len--;
	ret[len] = '\0';
}

// ---- questions -----------------------------------------------------------------------------------------------------------------

static struct vmkd_error *refusal(const struct monitor *m, const char *command, const cJSON *error)
{
	const char *said = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "desc"));
	char text[TEXT_MAX];

	make_plain(said ? said : "no reason given", text, sizeof(text));
	return vmkd_error_create(VMKD_E_TARGET, "QEMU of %s refuses %s: %s", m->vm_name, command, text);
}

// Until the answer to the last question; events and answers to anything else are skipped.
static struct vmkd_error *read_answer(struct monitor *m, const char *command, uint64_t deadline, cJSON **ret)
{
	for (;;) {
		cJSON *line = NULL, *value, *failure;
		struct vmkd_error *error = read_line(m, deadline, &line);
		if (error)
			return error;
		const cJSON *id = cJSON_GetObjectItemCaseSensitive(line, "id");
		bool is_ours = cJSON_IsNumber(id) && id->valuedouble == (double)m->id;
		value = is_ours ? cJSON_DetachItemFromObjectCaseSensitive(line, "return") : NULL;
		failure = is_ours ? cJSON_GetObjectItemCaseSensitive(line, "error") : NULL;
		if (failure && !value)
			error = refusal(m, command, failure);
		cJSON_Delete(line);
		if (value)
			*ret = value;
		if (value || error)
			return error;
	}
}

struct vmkd_error *monitor_execute(struct monitor *m, const char *command, cJSON *arguments, uint64_t deadline, cJSON **ret)
{
	cJSON *request = cJSON_CreateObject();
	bool is_whole = cJSON_AddStringToObject(request, "execute", command) && cJSON_AddNumberToObject(request, "id", ++m->id);

	if (arguments)
		is_whole = cJSON_AddItemToObject(request, "arguments", arguments) && is_whole;
	char *text = is_whole ? cJSON_PrintUnformatted(request) : NULL;
	cJSON_Delete(request);
	struct vmkd_error *error = text ? send_line(m, text, deadline) : error_no_memory();
	if (!error)
		error = send_line(m, "\n", deadline);
	free(text);
	return error ? error : read_answer(m, command, deadline, ret);
}

struct vmkd_error *monitor_human(struct monitor *m, const char *line, uint64_t deadline, char *ret_text, size_t size)
{
	cJSON *arguments = cJSON_CreateObject(), *answer = NULL;

	if (!cJSON_AddStringToObject(arguments, "command-line", line)) {
		cJSON_Delete(arguments);
		return error_no_memory();
	}
	struct vmkd_error *error = monitor_execute(m, "human-monitor-command", arguments, deadline, &answer);
	if (error)
		return error;
	if (cJSON_IsString(answer))
		make_plain(cJSON_GetStringValue(answer), ret_text, size);
	else
		error = vmkd_error_create(VMKD_E_PROTOCOL, "expected text from the monitor of %s", m->vm_name);
	cJSON_Delete(answer);
	return error;
}

// ---- life ----------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *held(const char *vm_name)
{
	return vmkd_error_create(VMKD_E_REFUSED,
				 "somebody else holds the QMP monitor of %s, which takes one client at a time: end that one's connection to qmp.sock "
				 "(or QEMU itself hangs)",
				 vm_name);
}

static struct vmkd_error *negotiate(struct monitor *m, uint64_t deadline)
{
	uint64_t greeting_at = stream_now() + MONITOR_GREETING_MS;
	cJSON *answer = NULL;
	struct vmkd_error *error = read_line(m, greeting_at < deadline ? greeting_at : deadline, &answer);

	if (error && error->code == VMKD_E_TIMEOUT) {
		vmkd_error_destroy(error);
		return held(m->vm_name);
	}
	if (error)
		return error;
	bool is_greeting = cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(answer, "QMP"));
	cJSON_Delete(answer);
	if (!is_greeting)
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected QEMU's greeting from the QMP monitor of %s, got something else", m->vm_name);
	answer = NULL;
	error = monitor_execute(m, "qmp_capabilities", NULL, deadline, &answer);
	cJSON_Delete(answer);
	return error;
}

struct vmkd_error *monitor_open_fd(int fd, const char *vm_name, uint64_t deadline, struct monitor **ret)
{
	struct monitor *m = calloc(1, sizeof(*m));

	if (!m)
		return error_no_memory();
	m->fd = fd;
	snprintf(m->vm_name, sizeof(m->vm_name), "%s", vm_name);
	buf_init(&m->in, MONITOR_LINE_MAX);
	struct vmkd_error *error = negotiate(m, deadline);
	if (error) {
		m->fd = -1; // stays the caller's
		monitor_close(m);
		return error;
	}
	*ret = m;
	return NULL;
}

struct vmkd_error *monitor_open(const char *path, const char *vm_name, uint64_t deadline, struct monitor **ret)
{
	struct url url = { .at = { .kind = ENDPOINT_UNIX } };
	int fd CLEANUP_CLOSE = -1;

	snprintf(url.at.path, sizeof(url.at.path), "%s", path);
	struct vmkd_error *error = url_connect(&url, MONITOR_GREETING_MS, &fd);
	if (error && error->os_error == ETIMEDOUT) { // so many wait there already
		vmkd_error_destroy(error);
		return held(vm_name);
	}
	if (error) {
		vmkd_error_destroy(error);
		return vmkd_error_create(VMKD_E_CONNECT,
					 "%s has no QMP monitor at %s: expected a VM that `vmkd run` has started and that lives (vmkd list)", vm_name,
					 path);
	}
	error = monitor_open_fd(fd, vm_name, deadline, ret);
	if (!error)
		(void)cleanup_take_fd(&fd); // the monitor's now
	return error;
}

void monitor_close(struct monitor *m)
{
	if (!m)
		return;
	if (m->fd >= 0)
		close(m->fd);
	buf_deinit(&m->in);
	free(m);
}
