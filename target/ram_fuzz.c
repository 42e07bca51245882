// SPDX-License-Identifier: MIT
// Any bytes as what a broker sends on ram.sock, in its stop page and in the guest's RAM: no crash, nothing written outside the buffer, no
// descriptor left open.
//
// Input: 1 byte: what the descriptors are; 1 byte: how many; then the head of the stop page behind its lock (magic and on), the message, and the
// rest is the beginning of RAM.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "target/ram.h"
#include "target/target.h"
#include "wire/link.h"
#include "wire/stop_page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE 0x8000u
#define FDS_MAX 16u
#define PAGE_AT offsetof(struct stop_page, magic)
#define PAGE_LEN (sizeof(struct stop_page) - PAGE_AT)
#define GUARD 64u

// A target that is always stopped and has nothing to say: the packets are not what is tried here.
static bool is_quiet(const struct backend *backend)
{
	(void)backend;
	return true;
}

static const struct backend_ops OPS = { .kind = "fuzzer", .is_quiet = is_quiet };

static int make_file(const uint8_t *data, size_t at, size_t len, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) != 0 || pwrite(fd, data, len, (off_t)at) != (ssize_t)len || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
		abort();
	return fd;
}

static int make_page(const uint8_t *data)
{
	uint32_t owner = 1;
	int fd = make_file(data, PAGE_AT, PAGE_LEN, STOP_PAGE_SIZE);

	if (pwrite(fd, &owner, sizeof(owner), offsetof(struct stop_page, owner)) != sizeof(owner))
		abort();
	return fd;
}

static void send_message(int socket, const uint8_t *data, size_t len, const int *fds, uint32_t fd_count)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (fd_count > 0) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(fd_count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.head), fds, fd_count * sizeof(int));
	}
	(void)!sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void read_at(struct target_ram *ram, enum vmkd_space space, uint64_t address)
{
	uint8_t bytes[0x2000 + GUARD];
	size_t len = sizeof(bytes) - GUARD;

	memset(bytes + len, 0x5A, GUARD);
	if (target_ram_read(ram, space, address, bytes, len) > len)
		abort();
	for (size_t i = 0; i < GUARD; i++)
		if (bytes[len + i] != 0x5A)
			abort();
}

static void read_everywhere(struct target_ram *ram)
{
	static const uint64_t ADDRESSES[] = { 0, 0xFFF, 0x7FFF, 0x80000000, 0xFFFFF000, 0x7FFFFFFFF000, 0xFFFF800000000000, 0xFFFFFFFFFFFFE000 };

	for (size_t i = 0; i < sizeof(ADDRESSES) / sizeof(ADDRESSES[0]); i++) {
		read_at(ram, VMKD_VIRTUAL, ADDRESSES[i]);
		read_at(ram, VMKD_PHYSICAL, ADDRESSES[i]);
	}
	(void)target_ram_way(ram);
}

static size_t message_size(const uint8_t *data, size_t size)
{
	struct link_head head;

	if (size < sizeof(head))
		return size;
	memcpy(&head, data, sizeof(head));
	return head.body_len < size - sizeof(head) ? sizeof(head) + head.body_len : size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct backend backend = { .ops = &OPS };
	struct vmkd_target target = { .backend = &backend };
	int sockets[2], fds[FDS_MAX];

	if (size < 2 + PAGE_LEN || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
		return 0;
	uint8_t kinds = data[0], fd_count = data[1] % FDS_MAX;
	const uint8_t *message = data + 2 + PAGE_LEN;
	size_t left = size - 2 - PAGE_LEN, len = message_size(message, left);
	int page = make_page(data + 2);
	size_t ram_len = left - len < RAM_SIZE ? left - len : RAM_SIZE;
	int ram_file = make_file(message + len, 0, ram_len, RAM_SIZE);
	for (uint8_t i = 0; i < FDS_MAX; i++) // the first is the page and the others RAM, unless `kinds` says otherwise
		fds[i] = (i == 0) != (kinds >> (i % 8) & 1) ? page : ram_file;
	send_message(sockets[1], message, len, fds, fd_count);
	if (kinds & 0x80)
		send_message(sockets[1], message, len, fds, fd_count);
	struct target_ram *ram = target_ram_create(sockets[0], &target);
	if (!ram)
		abort();
	read_everywhere(ram);
	target_ram_destroy(ram);
	close(sockets[1]);
	close(page);
	close(ram_file);
	int next = dup(STDERR_FILENO); // the lowest free one: it climbs when something is left open
	if (next > 100)
		abort();
	close(next);
	return 0;
}
