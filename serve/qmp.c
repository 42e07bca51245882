// SPDX-License-Identifier: MIT
#include "serve/qmp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/sock.h"

#define ANSWERS_MAX 16u           // commands under way
#define LINE_MAX_SIZE (1u << 20)  // `info mtree -f` of a big machine is about 30 KB
#define READ_SIZE 16384u

struct qmp {
	struct loop *loop;
	const struct qmp_events *events;
	void *arg;
	struct loop_source source;
	int fd;
	bool is_closing;
	struct buf in, out;
	struct awaited {
		qmp_answer_fn *fn;
		void *arg;
	} answers[ANSWERS_MAX]; // oldest first
	unsigned answer_count;
};

static void close_soon(struct qmp *q)
{
	if (q->is_closing)
		return;
	q->is_closing = true;
	loop_remove(q->loop, &q->source);
	q->events->closed(q->arg);
}

static void flush(struct qmp *q)
{
	ssize_t done = send(q->fd, buf_data(&q->out), q->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (done > 0)
		buf_consume(&q->out, (size_t)done);
	loop_change(q->loop, &q->source, q->out.len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

bool qmp_execute(struct qmp *q, const char *command, qmp_answer_fn *answer, void *arg)
{
	if (q->is_closing || q->answer_count == ANSWERS_MAX || !buf_put(&q->out, command, strlen(command)) || !buf_put(&q->out, "\n", 1))
		return false;
	q->answers[q->answer_count++] = (struct awaited){ answer, arg };
	flush(q);
	return true;
}

static void take_answer(struct qmp *q, const cJSON *value)
{
	struct awaited answer;

	if (!q->answer_count)
		return;
	answer = q->answers[0];
	q->answer_count--;
	memmove(q->answers, q->answers + 1, q->answer_count * sizeof(q->answers[0]));
	if (answer.fn)
		answer.fn(answer.arg, value);
}

static void take_line(struct qmp *q, const char *line, size_t len)
{
	cJSON *json = cJSON_ParseWithLength(line, len);
	const char *event = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "event"));
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, "return");

	if (event)
		q->events->event(q->arg, event);
	else if (value || cJSON_GetObjectItemCaseSensitive(json, "error"))
		take_answer(q, value);
	// Else the greeting, or something this client does not need to know.
	cJSON_Delete(json);
}

static void take_lines(struct qmp *q)
{
	const char *line, *end;

	while (q->in.len && (line = (const char *)buf_data(&q->in), end = memchr(line, '\n', q->in.len))) {
		char *copy = strndup(line, (size_t)(end - line)); // a callback may read more into the buffer

		buf_consume(&q->in, (size_t)(end - line) + 1);
		if (copy)
			take_line(q, copy, strlen(copy));
		free(copy);
	}
}

// -> false: nothing more is there.
static bool read_some(struct qmp *q)
{
	uint8_t *room = buf_reserve(&q->in, READ_SIZE);
	ssize_t len = room && !q->is_closing ? recv(q->fd, room, READ_SIZE, MSG_DONTWAIT) : 0;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (len <= 0) {
		close_soon(q);
		return false;
	}
	buf_commit(&q->in, (size_t)len);
	return (size_t)len == READ_SIZE;
}

void qmp_drain(struct qmp *q)
{
	while (read_some(q))
		;
	take_lines(q);
}

static void on_socket(struct loop_source *source, uint32_t events)
{
	struct qmp *q = source->arg;

	if (events & EPOLLOUT)
		flush(q);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		qmp_drain(q);
}

struct error *qmp_create(struct loop *loop, const char *path, const struct qmp_events *events, void *arg, struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));
	struct error *error;

	if (!q)
		return error_create(ENOMEM, "out of memory");
	*q = (struct qmp){ .loop = loop, .events = events, .arg = arg, .fd = -1 };
	q->source.fd = -1;
	buf_init(&q->in, LINE_MAX_SIZE);
	buf_init(&q->out, READ_SIZE);
	error = sock_connect_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &q->fd);
	if (!error)
		error = loop_add(loop, &q->source, q->fd, EPOLLIN, on_socket, q);
	if (error) {
		qmp_destroy(q);
		return error;
	}
	(void)qmp_execute(q, "{\"execute\":\"qmp_capabilities\"}", NULL, NULL); // the first command finds room
	*ret = q;
	return NULL;
}

void qmp_destroy(struct qmp *q)
{
	if (!q)
		return;
	loop_remove(q->loop, &q->source);
	if (q->fd >= 0)
		close(q->fd);
	buf_deinit(&q->in);
	buf_deinit(&q->out);
	free(q);
}

int qmp_pid(const struct qmp *q, uid_t *ret_owner)
{
	pid_t pid = 0;

	*ret_owner = 0;
	return sock_peer(q->fd, &pid, ret_owner) ? (int)pid : 0;
}
