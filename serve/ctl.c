// SPDX-License-Identifier: MIT
#include "serve/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/rundir.h"
#include "util/sock.h"

// A broker that is stopped, or a link that does not answer, must not hold up `vmkd stats`.
#define REFRESH_MS 500u
#define ANSWER_MAX (256u * 1024u)

struct ctl_client {
	struct ctl *ctl;
	struct loop_source source;
	int fd;
	bool wants_stats; // its answer waits for fresh figures
	struct buf in, out;
	struct ctl_client *next;
};

struct ctl {
	struct loop *loop;
	const struct ctl_ops *ops;
	void *arg;
	struct loop_source source;
	struct loop_timer refresh;
	int fd;
	char path[RUNDIR_PATH_MAX];
	struct ctl_client *clients;
	unsigned client_count;
};

// ---- Requests -------------------------------------------------------------------------------------------

enum ctl_command ctl_parse(const char *line, size_t len, const char **ret_error)
{
	const char *end = NULL, *cmd;
	cJSON *json = cJSON_ParseWithLengthOpts(line, len, &end, false);
	enum ctl_command command = CTL_BAD;

	cmd = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "cmd"));
	if (!json || !cJSON_IsObject(json))
		*ret_error = "expected one JSON object a line, like {\"cmd\":\"status\"}";
	else if (!cmd)
		*ret_error = "expected a \"cmd\" of type string";
	else if (strcmp(cmd, "status") == 0)
		command = CTL_STATUS;
	else if (strcmp(cmd, "stats") == 0)
		command = CTL_STATS;
	else
		*ret_error = "unknown cmd; expected \"status\" or \"stats\"";
	cJSON_Delete(json);
	return command;
}

static void client_end(struct ctl_client *c)
{
	struct ctl_client **at = &c->ctl->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->ctl->client_count--;
	loop_remove(c->ctl->loop, &c->source);
	close(c->fd);
	buf_deinit(&c->in);
	buf_deinit(&c->out);
	free(c);
}

// -> false: the client is gone.
static bool client_write(struct ctl_client *c)
{
	ssize_t done = 0;

	while (c->out.len && done >= 0) {
		done = send(c->fd, buf_data(&c->out), c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (done > 0)
			buf_consume(&c->out, (size_t)done);
	}
	if (done < 0 && errno != EAGAIN && errno != EINTR) {
		client_end(c);
		return false;
	}
	loop_change(c->ctl->loop, &c->source, c->out.len ? EPOLLOUT : EPOLLIN);
	return true;
}

static bool client_answer(struct ctl_client *c, cJSON *json)
{
	char *text = cJSON_PrintUnformatted(json);
	bool done = text && buf_put(&c->out, text, strlen(text)) && buf_put(&c->out, "\n", 1);

	free(text);
	cJSON_Delete(json);
	if (!done) {
		client_end(c);
		return false;
	}
	return client_write(c);
}

static bool answer_stats(struct ctl_client *c)
{
	cJSON *json = cJSON_CreateObject();

	c->wants_stats = false;
	c->ctl->ops->stats(c->ctl->arg, json);
	return client_answer(c, json);
}

static bool take_line(struct ctl_client *c, const char *line, size_t len)
{
	struct ctl *ctl = c->ctl;
	const char *why = "";
	cJSON *json;

	switch (ctl_parse(line, len, &why)) {
	case CTL_STATUS:
		json = cJSON_CreateObject();
		ctl->ops->status(ctl->arg, json);
		return client_answer(c, json);
	case CTL_STATS:
		c->wants_stats = true;
		if (!ctl->ops->refresh_stats(ctl->arg))
			return answer_stats(c);
		loop_timer_arm(ctl->loop, &ctl->refresh, REFRESH_MS);
		return true;
	default:
		json = cJSON_CreateObject();
		cJSON_AddStringToObject(json, "error", why);
		return client_answer(c, json);
	}
}

static void take_lines(struct ctl_client *c)
{
	// One answer at a time: requests behind a pending one wait in `in`.
	while (!c->wants_stats && c->in.len) {
		const char *line = (const char *)buf_data(&c->in), *end = memchr(line, '\n', c->in.len);
		char copy[CTL_LINE_MAX];
		size_t len;

		if (!end) {
			if (c->in.len >= CTL_LINE_MAX)
				client_end(c);
			return;
		}
		len = (size_t)(end - line);
		memcpy(copy, line, len);
		buf_consume(&c->in, len + 1);
		if (!take_line(c, copy, len))
			return;
	}
}

static void on_client(struct loop_source *source, uint32_t events)
{
	struct ctl_client *c = source->arg;
	uint8_t bytes[CTL_LINE_MAX];
	ssize_t len;

	if (events & EPOLLOUT && !client_write(c))
		return;
	len = recv(c->fd, bytes, CTL_LINE_MAX - c->in.len, MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	// A full buffer makes a read of 0 bytes too: while an answer is pending that is a peer that does not keep to one at a time.
	if (len <= 0 || !buf_put(&c->in, bytes, (size_t)len)) {
		client_end(c);
		return;
	}
	take_lines(c);
}

void ctl_stats_ready(struct ctl *ctl)
{
	struct ctl_client *c, *next;

	loop_timer_cancel(ctl->loop, &ctl->refresh);
	for (c = ctl->clients; c; c = next) {
		next = c->next;
		if (c->wants_stats && answer_stats(c))
			take_lines(c);
	}
}

static void on_refresh_timeout(struct loop_timer *timer)
{
	ctl_stats_ready(timer->arg);
}

// ---- Connections ------------------------------------------------------------------------------------------

static void on_listener(struct loop_source *source, uint32_t events)
{
	struct ctl *ctl = source->arg;
	int fd = sock_accept(ctl->fd);
	struct ctl_client *c;
	struct error *error;

	(void)events;
	if (fd < 0)
		return;
	c = ctl->client_count < CTL_CLIENTS_MAX && sock_peer_is_allowed(fd) ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		close(fd);
		return;
	}
	c->ctl = ctl;
	c->fd = fd;
	buf_init(&c->in, CTL_LINE_MAX);
	buf_init(&c->out, ANSWER_MAX);
	error = loop_add(ctl->loop, &c->source, fd, EPOLLIN, on_client, c);
	if (error) {
		error_free(error);
		close(fd);
		free(c);
		return;
	}
	c->next = ctl->clients;
	ctl->clients = c;
	ctl->client_count++;
}

struct error *ctl_create(struct loop *loop, const char *path, const struct ctl_ops *ops, void *arg, struct ctl **ret)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));
	struct error *error;

	if (!ctl)
		return error_create(ENOMEM, "out of memory");
	*ctl = (struct ctl){ .loop = loop, .ops = ops, .arg = arg, .fd = -1 };
	ctl->source.fd = -1;
	ctl->refresh = (struct loop_timer){ .fn = on_refresh_timeout, .arg = ctl };
	error = sock_listen_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &ctl->fd);
	if (!error) {
		strcpy(ctl->path, path);
		error = loop_add(loop, &ctl->source, ctl->fd, EPOLLIN, on_listener, ctl);
	}
	if (error) {
		ctl_destroy(ctl);
		return error;
	}
	*ret = ctl;
	return NULL;
}

void ctl_destroy(struct ctl *ctl)
{
	if (!ctl)
		return;
	while (ctl->clients)
		client_end(ctl->clients);
	loop_timer_cancel(ctl->loop, &ctl->refresh);
	loop_remove(ctl->loop, &ctl->source);
	if (ctl->fd >= 0) {
		close(ctl->fd);
		unlink(ctl->path);
	}
	free(ctl);
}
