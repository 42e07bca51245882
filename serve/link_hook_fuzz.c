// SPDX-License-Identifier: MIT
// A hostile VMM side: any messages on the hook's socket. What comes out as an event must keep the contract of serve/guest_link.h.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/guest_link.h"
#include "util/sock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct loop loop;
static int listener = -1;

static void nothing(void *arg)
{
	(void)arg;
}

static void on_registered(void *arg, const struct link_guest *guest)
{
	(void)arg;
	if (!guest)
		abort();
}

static void on_gone(void *arg, enum link_gone reason)
{
	(void)arg;
	(void)reason;
}

static void on_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	uint8_t sum = 0;

	(void)arg;
	if (head->body_len > LINK_BODY_MAX || head->hdr_len > head->body_len || !head->hdr_len)
		abort();
	for (uint32_t i = 0; i < head->body_len; i++)
		sum = (uint8_t)(sum + body[i]); // every byte must be there to read
	(void)sum;
}

static void on_waits(void *arg, const struct link_head *head)
{
	(void)arg;
	(void)head;
}

static void on_memory(void *arg, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	uint8_t sum = 0;

	(void)arg;
	if (len < offsetof(struct link_memory, pieces) || len > sizeof(*m) || fd_count > LINK_MEMORY_FILES_MAX)
		abort();
	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)m)[i]);
	(void)sum;
	for (uint32_t i = 0; i < fd_count; i++)
		if (fcntl(fds[i], F_GETFD) != FD_CLOEXEC)
			abort();
}

static const struct guest_link_events events = {
	nothing, nothing, on_registered, on_gone, on_packet, on_waits, nothing, nothing, nothing, on_memory,
};

static void must(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", error->text);
	exit(1);
}

static char folder[64] = "/tmp/link_hook_fuzz.XXXXXX";
static char path[96];

static void clean_up(void)
{
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{

	(void)argc;
	(void)argv;
	if (!mkdtemp(folder))
		exit(1);
	setenv("VMKD_RUNTIME_DIR", folder, 1);
	snprintf(path, sizeof(path), "%s/vm", folder);
	if (mkdir(path, 0700) < 0)
		exit(1);
	strcat(path, "/vmm.sock");
	must(sock_listen_unix(path, SOCK_SEQPACKET, 0, &listener));
	atexit(clean_up);
	must(loop_init(&loop));
	return 0;
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	if (!dir)
		exit(1);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

// -> false: the other end has hung up.
static bool send_with_fds(int fd, const void *bytes, size_t len, unsigned fd_count)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec part = { (void *)(uintptr_t)bytes, len };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (fd_count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.head = (struct cmsghdr){ CMSG_LEN(fd_count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		for (unsigned i = 0; i < fd_count; i++)
			memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &listener, sizeof(int));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

// Two bytes: length, and in the upper three bits half the number of descriptors that ride along; then a message. 0xFFFF is the greeting that every
// connection needs.
static void play(int fd, const uint8_t *data, size_t size)
{
	struct {
		struct link_head head;
		struct link_hello hello;
	} hello = { .head = { .type = LINK_HELLO, .body_len = sizeof(struct link_hello) }, .hello = { .version = LINK_VERSION } };

	while (size >= 2) {
		size_t len = data[0] | (size_t)(data[1] & 0x1F) << 8;
		bool is_greeting = data[0] == 0xFF && data[1] == 0xFF;
		unsigned fd_count = data[1] >> 5; // 0 to 7

		data += 2;
		size -= 2;
		if (is_greeting) {
			if (!send_with_fds(fd, &hello, sizeof(hello), 0))
				return;
			continue;
		}
		if (len > size)
			len = size;
		if (len && !send_with_fds(fd, data, len, 2 * fd_count)) // also more than are legal
			return;
		data += len;
		size -= len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guest_link *link;
	int fd, fds_before = count_fds();

	must(link_hook_create(&loop, "vm", &events, NULL, &link));
	must(loop_turn(&loop, 10));
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		abort();
	play(fd, data, size);
	for (int i = 0; i < 8; i++)
		must(loop_turn(&loop, 0));
	link->ops->breakin(link);
	link->ops->destroy(link);
	close(fd);
	if (count_fds() != fds_before)
		abort();
	return 0;
}
