// SPDX-License-Identifier: MIT
#include "attach/hmp.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/sock.h"

#define ANSWER_MAX (8u << 20) // a memory tree of some 100 KB, doubled by JSON's escapes
#define CHUNK 65536u
#define GREETING_S 5

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// More of what fd has to say. -> 1; 0: it has ended; -1: it says nothing before `deadline`, or too much.
static int read_more(int fd, struct buf *b, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int64_t left = deadline - now_ms();
	uint8_t *room = buf_reserve(b, CHUNK);
	ssize_t got;

	if (!room || left <= 0 || poll(&p, 1, (int)left) != 1)
		return -1;
	got = read(fd, room, CHUNK);
	if (got > 0)
		buf_commit(b, (size_t)got);
	return got > 0 ? 1 : got == 0 ? 0 : -1;
}

// ---- QMP --------------------------------------------------------------------------------------------------

// The next object; events are passed over. -> NULL: none.
static cJSON *read_object(int fd, struct buf *b, int64_t deadline)
{
	for (;;) {
		const uint8_t *data = buf_data(b), *newline = data ? memchr(data, '\n', b->len) : NULL;
		cJSON *object;

		if (!newline) {
			if (read_more(fd, b, deadline) <= 0)
				return NULL;
			continue;
		}
		object = cJSON_ParseWithLength((const char *)data, (size_t)(newline - data));
		buf_consume(b, (size_t)(newline - data) + 1);
		if (!object || !cJSON_GetObjectItemCaseSensitive(object, "event"))
			return object;
		cJSON_Delete(object);
	}
}

static bool send_object(int fd, cJSON *object)
{
	char *text = cJSON_PrintUnformatted(object);
	size_t len = text ? strlen(text) : 0;
	bool is_sent = false;

	if (text) {
		text[len] = '\n'; // in place of the NUL
		is_sent = send(fd, text, len + 1, MSG_NOSIGNAL) == (ssize_t)(len + 1);
	}
	free(text);
	cJSON_Delete(object);
	return is_sent;
}

static cJSON *command(const char *name, const char *line)
{
	cJSON *object = cJSON_CreateObject();

	cJSON_AddStringToObject(object, "execute", name);
	if (line)
		cJSON_AddStringToObject(cJSON_AddObjectToObject(object, "arguments"), "command-line", line);
	return object;
}

// -> the answer, or NULL. `object` is taken; NULL: only listen, for the greeting, which comes at once unless another client holds the monitor.
static cJSON *exchange(struct hmp *m, cJSON *object)
{
	int64_t deadline = now_ms() + (object ? HMP_TIMEOUT_S : GREETING_S) * 1000;

	return !object || send_object(m->fd, object) ? read_object(m->fd, &m->in, deadline) : NULL;
}

struct error *hmp_open_qmp(const char *path, struct hmp *ret)
{
	struct hmp m = { .fd = -1 };
	cJSON *greeting, *answer = NULL;
	struct error *error = sock_connect_unix(path, SOCK_STREAM, 0, &m.fd);
	bool is_ready;

	if (error)
		return error_prefix(error, "the VM's monitor");
	buf_init(&m.in, ANSWER_MAX);
	greeting = exchange(&m, NULL);
	if (cJSON_GetObjectItemCaseSensitive(greeting, "QMP"))
		answer = exchange(&m, command("qmp_capabilities", NULL));
	is_ready = cJSON_GetObjectItemCaseSensitive(answer, "return");
	cJSON_Delete(greeting);
	cJSON_Delete(answer);
	if (is_ready) {
		*ret = m;
		return NULL;
	}
	hmp_close(&m);
	return error_create(ETIMEDOUT, "%s does not answer as a QMP monitor of QEMU's; if another program is connected to it, end that first (QEMU serves one at a time)", path);
}

static struct error *ask_qmp(struct hmp *m, const char *line, char **ret)
{
	cJSON *answer = exchange(m, command("human-monitor-command", line));
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, "return"));
	char *copy = text ? strdup(text) : NULL;

	cJSON_Delete(answer);
	if (!copy)
		return error_create(EPROTO, "QEMU's monitor has no answer to \"%s\"", line);
	*ret = copy;
	return NULL;
}

// ---- libvirt ----------------------------------------------------------------------------------------------

void hmp_open_libvirt(const char *domain, const char *connect, struct hmp *ret)
{
	*ret = (struct hmp){ .fd = -1, .domain = domain, .connect = connect };
}

static int start_virsh(const struct hmp *m, const char *line, int output, pid_t *ret)
{
	const char *argv[10] = { "virsh", "-q" };
	int argc = 2, code;
	posix_spawn_file_actions_t actions;

	if (m->connect) {
		argv[argc++] = "-c";
		argv[argc++] = m->connect;
	}
	argv[argc++] = "qemu-monitor-command";
	argv[argc++] = "--hmp";
	argv[argc++] = "--domain"; // the next word is one, also with a dash
	argv[argc++] = m->domain;
	argv[argc] = line;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
	code = posix_spawnp(ret, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return code;
}

static struct error *ask_virsh(const struct hmp *m, const char *line, char **ret)
{
	int64_t deadline = now_ms() + HMP_TIMEOUT_S * 1000;
	int ends[2], status = -1, more = 1, code;
	struct error *error = NULL;
	struct buf b;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return error_create(errno, "cannot make a pipe: %s", strerror(errno));
	code = start_virsh(m, line, ends[1], &pid);
	close(ends[1]);
	if (code) {
		close(ends[0]);
		return error_create(code, "virsh cannot be started: %s; install libvirt-clients", strerror(code));
	}
	buf_init(&b, ANSWER_MAX);
	while (more > 0)
		more = read_more(ends[0], &b, deadline);
	close(ends[0]);
	if (more < 0)
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!more && b.len && status == 0)
		*ret = strndup((const char *)buf_data(&b), b.len);
	else
		error = error_create(EPROTO, "virsh qemu-monitor-command --hmp %s \"%s\": %.*s", m->domain, line, (int)(b.len < 200 ? b.len : 200),
				     b.len ? (const char *)buf_data(&b) : "no answer");
	buf_deinit(&b);
	return error;
}

struct error *hmp_ask(struct hmp *m, const char *line, char **ret)
{
	return m->fd >= 0 ? ask_qmp(m, line, ret) : ask_virsh(m, line, ret);
}

void hmp_close(struct hmp *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	buf_deinit(&m->in);
}
