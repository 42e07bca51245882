// SPDX-License-Identifier: MIT
#include "serve/ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/rundir.h"
#include "util/sock.h"

// A broker that is stopped, or a link that does not answer, must not hold up `vmkd stats`.
#define REFRESH_MS 500u
#define ANSWER_MAX (512u * 1024u) // 64 KB of history, every byte of which may be written as \xNN

struct ctl_client {
	struct ctl *ctl;
	struct loop_source source;
	int fd;
	bool wants_stats; // its answer waits for fresh figures
	bool wants_trace; // once it has read its answer, the connection belongs to the trace
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

static const char *string_of(const cJSON *json, const char *name)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
}

static bool parse_do(const char *text, enum ctl_control *ret)
{
	static const char *const names[] = { [CTL_CONTROL_SHOW] = "show", [CTL_CONTROL_TAKE] = "take", [CTL_CONTROL_GIVE] = "give" };

	for (unsigned i = 0; text && i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]))
			continue;
		*ret = (enum ctl_control)i;
		return true;
	}
	return false;
}

// -> false: there, and no number of a client.
static bool parse_client(const cJSON *json, uint32_t *ret)
{
	double value = cJSON_IsNumber(json) ? json->valuedouble : json ? 0 : 1;

	if (!(value >= 1 && value <= UINT32_MAX) || (double)(uint32_t)value != value)
		return false;
	*ret = json ? (uint32_t)value : 0;
	return true;
}

static const char *parse_control(const cJSON *json, struct ctl_request *ret)
{
	const cJSON *force = cJSON_GetObjectItemCaseSensitive(json, "force");

	if (!parse_do(string_of(json, "do"), &ret->control))
		return "expected \"do\" to be \"show\", \"take\" or \"give\"";
	if (!parse_client(cJSON_GetObjectItemCaseSensitive(json, "client"), &ret->client))
		return "expected \"client\" to be the number of a client";
	if (force && !cJSON_IsBool(force))
		return "expected \"force\" to be true or false";
	ret->is_forced = cJSON_IsTrue(force);
	return NULL;
}

static const struct {
	const char *name;
	enum ctl_command command;
} commands[] = {
	{ "status", CTL_STATUS }, { "stats", CTL_STATS }, { "control", CTL_CONTROL }, { "history", CTL_HISTORY }, { "trace", CTL_TRACE },
};

// -> NULL, or what is wrong.
static const char *parse(const cJSON *json, struct ctl_request *ret)
{
	const char *cmd = string_of(json, "cmd");

	if (!json || !cJSON_IsObject(json))
		return "expected one JSON object a line, like {\"cmd\":\"status\"}";
	if (!cmd)
		return "expected a \"cmd\" of type string";
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(cmd, commands[i].name))
			continue;
		ret->command = commands[i].command;
		return ret->command == CTL_CONTROL ? parse_control(json, ret) : NULL;
	}
	return "unknown cmd; expected \"status\", \"stats\", \"control\", \"history\" or \"trace\"";
}

struct ctl_request ctl_parse(const char *line, size_t len, const char **ret_error)
{
	struct ctl_request request = { .command = CTL_BAD };
	const char *end = NULL, *error;
	cJSON *json = cJSON_ParseWithLengthOpts(line, len, &end, false);

	error = parse(json, &request);
	cJSON_Delete(json);
	if (!error)
		return request;
	*ret_error = error;
	return (struct ctl_request){ .command = CTL_BAD };
}

char *ctl_escape(const uint8_t *text, size_t len)
{
	char *escaped = malloc(4 * len + 1), *at = escaped;

	for (size_t i = 0; escaped && i < len; i++) {
		if ((text[i] >= 0x20 && text[i] < 0x7F) || text[i] == '\t' || text[i] == '\n')
			*at++ = (char)text[i];
		else
			at += sprintf(at, "\\x%02X", text[i]);
	}
	if (escaped)
		*at = '\0';
	return escaped;
}

// -> its socket, which is the caller's.
static int client_free(struct ctl_client *c)
{
	struct ctl_client **at = &c->ctl->clients;
	int fd = c->fd;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->ctl->client_count--;
	loop_remove(c->ctl->loop, &c->source);
	buf_deinit(&c->in);
	buf_deinit(&c->out);
	free(c);
	return fd;
}

static void client_end(struct ctl_client *c)
{
	close(client_free(c));
}

// -> false: the client is gone, or the connection another's.
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
	if (c->wants_trace && !c->out.len) {
		struct ctl *ctl = c->ctl;

		ctl->ops->trace(ctl->arg, client_free(c));
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

static bool answer_error(struct ctl_client *c, const char *why)
{
	cJSON *json = cJSON_CreateObject();

	cJSON_AddStringToObject(json, "error", why);
	return client_answer(c, json);
}

static bool answer_control(struct ctl_client *c, const struct ctl_request *request)
{
	cJSON *json = cJSON_CreateObject();
	pid_t pid = 0;
	uid_t uid;

	(void)sock_peer(c->fd, &pid, &uid); // of a Unix socket there is one
	c->ctl->ops->control(c->ctl->arg, request, pid, json);
	return client_answer(c, json);
}

static bool answer_history(struct ctl_client *c)
{
	cJSON *json = cJSON_CreateObject();
	size_t len = 0;
	const uint8_t *text = c->ctl->ops->history(c->ctl->arg, &len);
	char *escaped = ctl_escape(text, len);

	cJSON_AddStringToObject(json, "text", escaped ? escaped : "");
	free(escaped);
	return client_answer(c, json);
}

static bool answer_trace(struct ctl_client *c)
{
	cJSON *json;

	if (!c->ctl->ops->trace)
		return answer_error(c, "this broker cannot trace");
	json = cJSON_CreateObject();
	cJSON_AddTrueToObject(json, "ok");
	c->wants_trace = true;
	return client_answer(c, json);
}

static bool take_line(struct ctl_client *c, const char *line, size_t len)
{
	struct ctl *ctl = c->ctl;
	const char *why = "";
	struct ctl_request request = ctl_parse(line, len, &why);
	cJSON *json;

	switch (request.command) {
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
	case CTL_CONTROL:
		return answer_control(c, &request);
	case CTL_HISTORY:
		return answer_history(c);
	case CTL_TRACE:
		return answer_trace(c);
	default:
		return answer_error(c, why);
	}
}

static void take_lines(struct ctl_client *c)
{
	// One answer at a time: requests behind a pending one wait in `in`.
	while (!c->wants_stats && !c->wants_trace && c->in.len) {
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
