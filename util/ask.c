// SPDX-License-Identifier: MIT
#include "util/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/rundir.h"
#include "util/sock.h"

#define ANSWER_MAX (512u * 1024u)
#define PART_MAX 4096u

static struct error *no_answer(const char *vm_name, int code)
{
	if (code == EAGAIN)
		return error_create(ETIMEDOUT, "the broker of %s does not answer (is it stopped?)", vm_name);
	return error_create(EPROTO, "the broker of %s hung up: %s", vm_name, code ? strerror(code) : "end of stream");
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// Up to its newline and not a byte more: what follows is for whoever gets the connection. Who sends a byte now and then has no longer than others.
static struct error *read_line(int fd, const char *vm_name, struct buf *in)
{
	int64_t deadline = now_ms() + ASK_TIMEOUT_S * 1000;

	while (!in->len || buf_data(in)[in->len - 1] != '\n') {
		uint8_t *room = buf_reserve(in, PART_MAX), *end;
		ssize_t len;

		if (now_ms() >= deadline)
			return no_answer(vm_name, EAGAIN);
		if (!room)
			return error_create(EPROTO, "the broker of %s sent an answer without end", vm_name);
		len = recv(fd, room, PART_MAX, MSG_PEEK);
		end = len > 0 ? memchr(room, '\n', (size_t)len) : NULL;
		if (len > 0)
			len = recv(fd, room, end ? (size_t)(end + 1 - room) : (size_t)len, 0);
		if (len <= 0)
			return no_answer(vm_name, len < 0 ? errno : 0);
		buf_commit(in, (size_t)len);
	}
	return NULL;
}

static struct error *read_answer(int fd, const char *vm_name, cJSON **ret)
{
	struct error *error;
	const char *text;
	struct buf in;
	cJSON *json;

	buf_init(&in, ANSWER_MAX);
	error = read_line(fd, vm_name, &in);
	json = error ? NULL : cJSON_ParseWithLength((const char *)buf_data(&in), in.len);
	buf_deinit(&in);
	if (error)
		return error;
	text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "error"));
	if (!cJSON_IsObject(json))
		error = error_create(EPROTO, "the broker of %s sent something that is not JSON (another version of vmkd?)", vm_name);
	else if (text)
		error = error_create(EIO, "the broker of %s says: %s", vm_name, text);
	if (error)
		cJSON_Delete(json);
	else
		*ret = json;
	return error;
}

static struct error *send_line(int fd, const char *vm_name, const cJSON *request)
{
	char *text = request ? cJSON_PrintUnformatted(request) : NULL;
	struct iovec parts[2] = { { text, text ? strlen(text) : 0 }, { "\n", 1 } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	struct error *error = NULL;

	if (!text)
		error = error_create(ENOMEM, "out of memory");
	else if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
		error = no_answer(vm_name, errno);
	free(text);
	return error;
}

static struct error *ask(int fd, const char *vm_name, const cJSON *request, cJSON **ret)
{
	struct timeval timeout = { .tv_sec = ASK_TIMEOUT_S }, none = { 0 };
	struct error *error;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	error = send_line(fd, vm_name, request);
	if (!error)
		error = read_answer(fd, vm_name, ret);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	return error;
}

struct error *ask_broker(const char *vm_name, cJSON *request, cJSON **ret, int *ret_fd)
{
	char path[RUNDIR_PATH_MAX];
	int fd CLEANUP_CLOSE = -1;
	struct error *error = rundir_path(vm_name, "ctl.sock", path);

	if (!error)
		error = sock_connect_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &fd); // a stopped broker lets in only so many
	if (!error && fcntl(fd, F_SETFL, 0) < 0)
		error = no_answer(vm_name, errno);
	if (!error)
		error = ask(fd, vm_name, request, ret);
	cJSON_Delete(request);
	if (!error && ret_fd)
		*ret_fd = cleanup_take_fd(&fd);
	return error;
}

cJSON *ask_command(const char *cmd)
{
	cJSON *request = cJSON_CreateObject();

	cJSON_AddStringToObject(request, "cmd", cmd);
	return request;
}
