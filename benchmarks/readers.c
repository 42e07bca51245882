// SPDX-License-Identifier: MIT
// Programs that read the guest's memory beside the one that is measured: each has its own connection to ram.sock (wire/stop_page.h).
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "benchmarks/kdbench.h"
#include "wire/link.h"

static int connect_reader(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path)
		die("%s: longer than a socket's name may be", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
		die("%s: %s", path, strerror(errno));
	return fd;
}

// The first message: the map, with the stop page and the files behind it. -> the first file of RAM.
static int take_map(int fd)
{
	static uint8_t bytes[sizeof(struct link_head) + sizeof(struct link_memory)];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * (1 + LINK_MEMORY_FILES_MAX))];
	} control;
	struct iovec part = { bytes, sizeof bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	int fds[1 + LINK_MEMORY_FILES_MAX];

	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) <= 0)
		die("ram.sock: no map of the guest's RAM came");
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len < CMSG_LEN(2 * sizeof(int)))
		die("ram.sock: no file of the guest's RAM came");
	memcpy(fds, CMSG_DATA(head), head->cmsg_len - CMSG_LEN(0));
	return fds[1];
}

// Reads random pages of the RAM for ever.
_Noreturn static void read_for_ever(int ram)
{
	struct stat facts;
	uint8_t page[PAGE];

	if (fstat(ram, &facts))
		die("the guest's RAM: %s", strerror(errno));
	const uint8_t *bytes = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_SHARED, ram, 0);
	if (bytes == MAP_FAILED)
		die("the guest's RAM: %s", strerror(errno));
	for (;;) {
		memcpy(page, bytes + next_random() % ((uint64_t)facts.st_size / PAGE) * PAGE, PAGE);
		__asm__ volatile("" : : "r"(page) : "memory");
	}
}

static void start_busy(const char *socket)
{
	pid_t pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	read_for_ever(take_map(connect_reader(socket)));
}

void bench_readers(const char *socket, unsigned long count, unsigned long busy)
{
	char byte;

	for (unsigned long i = 0; i < busy && i < count; i++)
		start_busy(socket);
	for (unsigned long i = busy; i < count; i++)
		(void)take_map(connect_reader(socket)); // held until the end
	printf("ready\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		continue;
}
