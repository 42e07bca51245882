// SPDX-License-Identifier: MIT
#include "serve/ram_sock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "serve/ram_files.h"
#include "util/cleanup.h"
#include "util/rundir.h"
#include "util/sock.h"
#include "wire/order.h"
#include "wire/stop_page.h"

#define FDS_MAX (1u + LINK_MEMORY_FILES_MAX)
// Room for a few messages of the largest size. What lies unread there keeps descriptors open, so it is not the system's default.
#define SEND_BUFFER 16384

_Static_assert(sizeof(pthread_mutex_t) <= offsetof(struct stop_page, magic), "the lock fits its place in the page");

struct program {
	struct ram_sock *owner;
	struct loop_source source;
	int fd; // -1 = free
};

struct ram_sock {
	struct loop *loop;
	struct loop_source source;
	int listener;
	char path[RUNDIR_PATH_MAX];
	struct stop_page *page; // NULL when off
	int page_fd; // for readers; -1 when off
	uint32_t generation; // of what is told
	struct ram_files files;
	struct program programs[RAM_SOCK_PROGRAMS_MAX];
};

// ---- The stop page ------------------------------------------------------------------------------------

// The kernel looks through the locks of a thread that ends and marks those that others might wait for: that is how a reader learns of our
// end without a system call. What it marks is the futex word, which C libraries keep in front.
static struct error *take_ownership(struct stop_page *page)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)page;
	pthread_mutexattr_t attr;
	int code;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	code = pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
	if (!code)
		code = pthread_mutex_lock(lock);
	if (code)
		return error_create(code, "ram.sock: no lock that outlives its owner: %s", strerror(code));
	if (page->owner == (uint32_t)gettid())
		return NULL;
	pthread_mutex_unlock(lock);
	return error_create(ENOTSUP, "ram.sock: this C library keeps a lock's owner elsewhere than at its beginning; programs read memory "
				     "through the guest instead");
}

static void give_up_ownership(struct stop_page *page)
{
	pthread_mutex_unlock((pthread_mutex_t *)page);
}

// Nobody but us can write it from now on, whoever gets a descriptor; nor can it be cut short under a reader.
static struct error *seal(int fd, int *ret_reader)
{
	char path[40];

	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		return error_create(errno, "ram.sock: cannot seal the stop page: %s (a kernel before 5.1?)", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	*ret_reader = open(path, O_RDONLY | O_CLOEXEC);
	if (*ret_reader < 0)
		return error_create(errno, "ram.sock: cannot open the stop page for reading: %s", strerror(errno));
	return NULL;
}

static struct error *map_page(int fd, struct stop_page **ret)
{
	struct stop_page *page;

	if (fd < 0 || ftruncate(fd, STOP_PAGE_SIZE) < 0)
		return error_create(errno, "ram.sock: cannot make the stop page: %s", strerror(errno));
	page = mmap(NULL, STOP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return error_create(errno, "ram.sock: cannot map the stop page: %s", strerror(errno));
	*ret = page;
	return NULL;
}

static struct error *make_page(struct ram_sock *s)
{
	int fd CLEANUP_CLOSE = memfd_create("vmkd-stop-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stop_page *page = NULL;
	struct error *error = map_page(fd, &page);

	if (error)
		return error;
	error = take_ownership(page);
	if (!error) {
		error = seal(fd, &s->page_fd);
		if (error)
			give_up_ownership(page); // or it would stay on the thread's list, unmapped
	}
	if (error) {
		munmap(page, STOP_PAGE_SIZE);
		return error;
	}
	page->magic = STOP_PAGE_MAGIC;
	page->version = STOP_PAGE_VERSION;
	s->page = page;
	return NULL;
}

static bool is_asleep(const struct ram_sock *s)
{
	return s->page->epoch & 1;
}

void ram_sock_wakes(struct ram_sock *s)
{
	if (!s || !s->page || !is_asleep(s))
		return;
	// Pairs with the reader's second look at the epoch: what the guest does from now on, and what is written here next, comes after it.
	order_store_release64(&s->page->epoch, s->page->epoch + 1);
	order_fence_release();
}

// Pairs with the reader's acquire of the epoch: registers and generation are in place.
static void fall_asleep(struct ram_sock *s)
{
	order_store_release64(&s->page->epoch, s->page->epoch + 1);
}

void ram_sock_sleeps(struct ram_sock *s, const struct walk_regs *regs, uint32_t vcpu)
{
	if (!s || !s->page)
		return;
	ram_sock_wakes(s);
	s->page->cr0 = regs->cr0;
	s->page->cr3 = regs->cr3;
	s->page->cr4 = regs->cr4;
	s->page->efer = regs->efer;
	s->page->vcpu = vcpu;
	fall_asleep(s);
}

// ---- Programs -----------------------------------------------------------------------------------------

static void hang_up(struct program *p)
{
	loop_remove(p->owner->loop, &p->source);
	close(p->fd);
	p->fd = -1;
}

// It says something, which no program does, or it has gone.
static void on_program(struct loop_source *source, uint32_t events)
{
	(void)events;
	hang_up(source->arg);
}

static void tell(struct program *p)
{
	const struct ram_files *files = &p->owner->files;
	const struct link_memory *m = &files->memory;
	uint32_t fds_len = (1 + m->file_count) * (uint32_t)sizeof(int);
	size_t len = offsetof(struct link_memory, pieces) + m->piece_count * sizeof(m->pieces[0]);
	struct link_head head = { .type = LINK_MEMORY, .body_len = (uint32_t)len };
	struct iovec parts[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)m, len } };
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = { .head = { CMSG_LEN(fds_len), SOL_SOCKET, SCM_RIGHTS } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = CMSG_SPACE(fds_len) };

	memcpy(CMSG_DATA(&control.head), &p->owner->page_fd, sizeof(int));
	memcpy(CMSG_DATA(&control.head) + sizeof(int), files->fds, fds_len - sizeof(int));
	// A program that has not even read what came before would go on with memory that is no more.
	if (sendmsg(p->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		hang_up(p);
}

static struct program *find_free(struct ram_sock *s)
{
	for (uint32_t i = 0; i < RAM_SOCK_PROGRAMS_MAX; i++)
		if (s->programs[i].fd < 0)
			return &s->programs[i];
	return NULL;
}

static void on_connection(struct loop_source *source, uint32_t events)
{
	struct ram_sock *s = source->arg;
	int fd CLEANUP_CLOSE = sock_accept(s->listener), size = SEND_BUFFER;
	struct program *p = find_free(s);
	struct error *error;

	(void)events;
	if (fd < 0 || !s->page || !p || !sock_peer_is_allowed(fd))
		return;
	(void)!setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); // if not, it is the default
	error = loop_add(s->loop, &p->source, fd, EPOLLIN | EPOLLRDHUP, on_program, p);
	if (error) {
		error_free(error); // out of memory: the program is hung up
		return;
	}
	p->fd = cleanup_take_fd(&fd);
	tell(p);
}

// ---- Memory -------------------------------------------------------------------------------------------

void ram_sock_memory(struct ram_sock *s, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	bool was_asleep;

	if (!s || !s->page)
		return;
	was_asleep = is_asleep(s);
	ram_sock_wakes(s);
	(void)ram_files_keep(&s->files, m, len, fds, fd_count); // not kept: programs are told of none
	s->files.memory.generation = ++s->generation; // ours: the link's begins again with each connection
	s->files.memory.is_permitted = 0;             // that was for the broker
	s->page->memory_generation = s->generation;
	for (uint32_t i = 0; i < RAM_SOCK_PROGRAMS_MAX; i++)
		if (s->programs[i].fd >= 0)
			tell(&s->programs[i]);
	if (was_asleep)
		fall_asleep(s);
}

// ---- Life ---------------------------------------------------------------------------------------------

static struct error *start(struct ram_sock *s, const char *vm_name, bool is_off)
{
	struct error *error = rundir_path(vm_name, "ram.sock", s->path);

	if (!error && !is_off)
		error = make_page(s);
	if (!error)
		error = sock_listen_unix(s->path, SOCK_SEQPACKET, SOCK_NONBLOCK, &s->listener);
	if (!error)
		error = loop_add(s->loop, &s->source, s->listener, EPOLLIN, on_connection, s);
	return error;
}

struct error *ram_sock_create(struct loop *loop, const char *vm_name, bool is_off, struct ram_sock **ret)
{
	struct ram_sock *s = calloc(1, sizeof(*s));
	struct error *error;

	if (!s)
		return error_create(ENOMEM, "out of memory");
	s->loop = loop;
	s->listener = s->source.fd = s->page_fd = -1;
	for (uint32_t i = 0; i < RAM_SOCK_PROGRAMS_MAX; i++)
		s->programs[i] = (struct program){ .owner = s, .source.fd = -1, .fd = -1 };
	error = start(s, vm_name, is_off);
	if (error) {
		ram_sock_destroy(s);
		return error;
	}
	*ret = s;
	return NULL;
}

void ram_sock_destroy(struct ram_sock *s)
{
	if (!s)
		return;
	if (s->listener >= 0) {
		unlink(s->path);
		loop_remove(s->loop, &s->source);
		close(s->listener);
	}
	for (uint32_t i = 0; i < RAM_SOCK_PROGRAMS_MAX; i++)
		if (s->programs[i].fd >= 0)
			hang_up(&s->programs[i]);
	ram_files_drop(&s->files);
	if (s->page) {
		ram_sock_wakes(s);
		give_up_ownership(s->page);
		munmap(s->page, STOP_PAGE_SIZE);
	}
	if (s->page_fd >= 0)
		close(s->page_fd);
	free(s);
}
