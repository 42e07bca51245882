// SPDX-License-Identifier: MIT
// What a QMP monitor may say to who asks for snapshots: the first byte chooses the question, the rest is its side of the conversation.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "target/monitor.h"
#include "target/snapshot.h"
#include "target/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Errors are one line; lists end and hold names.
static void judge(struct vmkd_error *error, const struct vmkd_snapshot *list, size_t count)
{
	if (error && (error->message[0] == '\0' || strchr(error->message, '\n')))
		abort();
	for (size_t i = 0; !error && i < count; i++)
		if (list[i].name[0] == '\0' || list[i].size == 0 || strlen(list[i].name) >= sizeof(list[i].name) || (i && list[i - 1].taken_at > list[i].taken_at))
			abort();
	vmkd_error_destroy(error);
}

static void converse(struct monitor *monitor, uint8_t question)
{
	static struct vmkd_snapshot list[SNAPSHOTS_MAX];
	uint64_t deadline = stream_now() + 10000;
	size_t count = 0;

	if (question % 2)
		judge(snapshot_list(monitor, deadline, list, &count), list, count);
	else
		judge(snapshot_command(monitor, "vm", "take a snapshot", "savevm", "x", deadline), NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct monitor *monitor = NULL;
	int fds[2], room = 1 << 20;

	if (size < 1 || size > 65536)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0 || setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) != 0)
		abort();
	if (send(fds[1], data + 1, size - 1, MSG_DONTWAIT) < (ssize_t)size - 1)
		abort();
	shutdown(fds[1], SHUT_WR); // nothing waits for ever
	struct vmkd_error *error = monitor_open_fd(fds[0], "vm", stream_now() + 10000, &monitor);
	if (error)
		close(fds[0]);
	else
		converse(monitor, data[0]);
	judge(error, NULL, 0);
	monitor_close(monitor);
	close(fds[1]);
	return 0;
}
