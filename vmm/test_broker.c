// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include "vmm/test_broker.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire/kdapi.h"

char broker_socket_path[108];

int broker_connect(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", broker_socket_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

void broker_send(struct broker *b, struct link_head head, const void *body)
{
	uint8_t bytes[sizeof(head) + LINK_BODY_MAX];
	memcpy(bytes, &head, sizeof(head));
	if (body)
		memcpy(bytes + sizeof(head), body, head.body_len);
	assert_int_equal(send(b->fd, bytes, sizeof(head) + head.body_len, MSG_NOSIGNAL),
	                 (ssize_t)(sizeof(head) + head.body_len));
}

// Into b->head and b->body; descriptors into fds. -> their number, -1 at the end of the stream.
static int read_message(struct broker *b, int fds[LINK_MEMORY_FILES_MAX])
{
	uint8_t bytes[sizeof(b->head) + LINK_BODY_MAX];
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * LINK_MEMORY_FILES_MAX)];
	} control;
	struct iovec part = { bytes, sizeof(bytes) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	ssize_t len = recvmsg(b->fd, &message, MSG_CMSG_CLOEXEC);
	if (len <= 0) {
		b->head = (struct link_head){ 0 }; // no type: loops that wait for one end here
		return -1;
	}
	assert_true((size_t)len >= sizeof(b->head));
	assert_false(message.msg_flags & MSG_CTRUNC);
	memcpy(&b->head, bytes, sizeof(b->head));
	assert_int_equal(b->head.body_len, (size_t)len - sizeof(b->head));
	memcpy(b->body, bytes + sizeof(b->head), b->head.body_len);
	const struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (!c)
		return 0;
	assert_int_equal(c->cmsg_type, SCM_RIGHTS);
	memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
}

static void close_memory(struct broker *b)
{
	for (uint32_t i = 0; i < b->memory.file_count; i++)
		close(b->memory_fds[i]);
	b->memory = (struct link_memory){ 0 };
}

void broker_close(struct broker *b)
{
	close_memory(b);
	close(b->fd);
}

static void note_memory(struct broker *b, const int *fds, int count)
{
	assert_in_range(b->head.body_len, offsetof(struct link_memory, pieces), sizeof(b->memory));
	close_memory(b);
	memcpy(&b->memory, b->body, b->head.body_len);
	memcpy(b->memory_fds, fds, sizeof(b->memory_fds));
	assert_int_equal(b->memory.file_count, count);
	assert_int_equal(b->head.body_len, offsetof(struct link_memory, pieces) + b->memory.piece_count * sizeof(struct link_memory_piece));
	assert_int_equal(b->memory.generation, ++b->memory_count);
	assert_int_equal(b->memory.pid, getpid());
}

uint16_t broker_read(struct broker *b)
{
	for (;;) {
		int fds[LINK_MEMORY_FILES_MAX];
		int count = read_message(b, fds);
		if (count < 0)
			return 0;
		if (b->head.type != LINK_MEMORY) {
			assert_int_equal(count, 0);
			return b->head.type;
		}
		note_memory(b, fds, count);
	}
}

void broker_read_memory(struct broker *b)
{
	int fds[LINK_MEMORY_FILES_MAX];
	int count = read_message(b, fds);
	assert_true(count >= 0);
	assert_int_equal(b->head.type, LINK_MEMORY);
	note_memory(b, fds, count);
}

struct link_hello broker_hello(struct broker *b)
{
	struct link_hello hello;
	b->fd = broker_connect();
	b->memory_count = 0;
	b->memory = (struct link_memory){ 0 };
	assert_int_equal(broker_read(b), LINK_HELLO);
	assert_int_equal(b->head.body_len, sizeof(hello));
	memcpy(&hello, b->body, sizeof(hello));
	return hello;
}

struct link_stats broker_stats(struct broker *b)
{
	struct link_stats stats;
	broker_send(b, (struct link_head){ .type = LINK_STATS_GET }, NULL);
	while (broker_read(b) != LINK_STATS)
		assert_int_not_equal(b->head.type, 0);
	memcpy(&stats, b->body, sizeof(stats));
	return stats;
}

struct link_hello broker_attach(struct broker *b)
{
	struct link_hello hello = broker_hello(b);
	broker_send(b, (struct link_head){ .type = LINK_ATTACH, .seq = LINK_VERSION }, NULL);
	return hello;
}

void broker_deliver(struct broker *b, uint16_t flags, const void *body, uint32_t len)
{
	broker_send(b, (struct link_head){
		.type = LINK_DELIVER, .flags = flags, .kd_type = KD_PACKET_MANIPULATE, .hdr_len = KD_MANIPULATE_SIZE,
		.body_len = len,
	}, body);
}

pid_t broker_spawn(void)
{
	int fds[2];
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct broker b;
		(void)broker_attach(&b);
		(void)broker_stats(&b); // its answer says that the library has read LINK_ATTACH
		(void)!write(fds[1], "", 1);
		for (;;)
			pause();
	}
	char byte;
	close(fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	return pid;
}

void broker_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

void wait_until_free(void)
{
	for (int i = 0; i < 2000; i++) {
		struct broker b = { .fd = broker_connect() };
		uint16_t type = broker_read(&b);
		close(b.fd);
		if (type == LINK_HELLO)
			return;
		usleep(5000);
	}
	fail_msg("%s", "the library holds on to a broker that is gone");
}
