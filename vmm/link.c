// SPDX-License-Identifier: MIT
#include "vmm/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/folder.h"
#include "vmm/hook.h"
#include "vmm/memory.h"
#include "vmm/park.h"

#define THREAD_STACK (64u * 1024u) // the thread calls nothing deep
// While the guest is stopped its vCPU reads the socket. One that got a packet and then never calls again (it died of it) would leave
// the broker unheard, so the thread looks once in a while.
#define LOOK_MS 1000

static struct link {
	char name[LINK_NAME_MAX];
	const char *folder; // of all VMs; NULL: the environment says
	struct sockaddr_un address; // of the listening socket
	int listen_fd, fd, wake_fd;
	struct ucred peer;
	bool is_full;       // the last send found no room
	bool is_starved;    // ... because the kernel has no memory: then the socket may be called writable all the time
	uint64_t full_since_ms;
	short watched;      // events of fd that the thread's poll has
} at = { .listen_fd = -1, .fd = -1, .wake_fd = -1 };

// What the connected broker knows of the guest's RAM, and what is about to be told.
static struct {
	bool is_wanted;      // the thread has to look, now
	bool is_found;       // `report` is of `version` and has not been sent
	uint32_t version;    // hook.ram_version
	uint32_t told;       // the version that the broker knows; 0 = none, or nothing for certain
	uint32_t generation; // of the last message
	struct memory_report report;
} ram;

// ---- Names --------------------------------------------------------------------------------------

static bool is_valid_name(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
	return len > 0 && len < LINK_NAME_MAX && !name[len] && name[0] != '.' && name[0] != '-';
}

// The folder of all VMs: as `vmkd` chooses it. -> snprintf's result.
static int runtime_dir(char *out, size_t size)
{
	const char *dir = at.folder ? at.folder : getenv("VMKD_RUNTIME_DIR");
	if (dir && *dir)
		return snprintf(out, size, "%s", dir);
	dir = getenv("XDG_RUNTIME_DIR");
	if (dir && *dir)
		return snprintf(out, size, "%s/vmkd", dir);
	return snprintf(out, size, "/tmp/vmkd-%u", (unsigned)geteuid());
}

bool link_prepare(const char *name, const char *folder)
{
	if (!name)
		name = getenv("VMKD_NAME");
	if (!name || !*name)
		return false;
	if (!is_valid_name(name)) {
		folder_complain("not a name of 1 to 63 letters, digits, '.', '_' and '-'", "VMKD_NAME",
		                "the VM runs without a debugger link");
		return false;
	}
	memcpy(at.name, name, strlen(name) + 1);
	at.folder = folder;
	return true;
}

const char *link_name(void)
{
	return at.name;
}

static bool make_address(void)
{
	char dir[sizeof(at.address.sun_path)];
	char vm_dir[sizeof(dir)];
	int len = runtime_dir(dir, sizeof(dir));
	int vm_len = snprintf(vm_dir, sizeof(vm_dir), "%s/%s", dir, at.name);
	at.address.sun_family = AF_UNIX;
	int path_len = snprintf(at.address.sun_path, sizeof(at.address.sun_path), "%s/vmm.sock", vm_dir);
	if (len >= (int)sizeof(dir) || vm_len >= (int)sizeof(vm_dir) || path_len >= (int)sizeof(at.address.sun_path)) {
		folder_complain("longer than a socket's name may be (107 bytes)", "VMKD_RUNTIME_DIR", "set it to a shorter path");
		return false;
	}
	return folder_make(dir, vm_dir);
}

// ---- The listening socket -----------------------------------------------------------------------

static bool is_somebody_listening(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool is_live = fd >= 0 && (!connect(fd, (struct sockaddr *)&at.address, sizeof(at.address)) || errno == EAGAIN);
	if (fd >= 0)
		close(fd);
	return is_live;
}

static bool open_listener(void)
{
	at.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (at.listen_fd < 0) {
		folder_complain(strerror(errno), "socket", "the VM runs without a debugger link");
		return false;
	}
	if (is_somebody_listening()) {
		folder_complain("another VM of this name is running", at.address.sun_path, "set VMKD_NAME to another name");
		return false;
	}
	(void)unlink(at.address.sun_path); // left by a VM that died; there may be none
	// The mode is set between bind and listen, when nobody can connect yet.
	if (bind(at.listen_fd, (struct sockaddr *)&at.address, sizeof(at.address)) ||
	    chmod(at.address.sun_path, folder_socket_mode()) || listen(at.listen_fd, 4)) {
		folder_complain(strerror(errno), at.address.sun_path, "the VM runs without a debugger link");
		return false;
	}
	return true;
}

// ---- The connection -----------------------------------------------------------------------------

int link_fd(void)
{
	return at.fd;
}

bool link_is_starved(void)
{
	return at.is_starved;
}

uint64_t link_full_since_ms(void)
{
	return at.full_since_ms;
}

static void forget_report(void)
{
	if (ram.is_found)
		memory_close(&ram.report);
	ram.is_found = false;
}

static void drop_broker(void)
{
	if (at.fd < 0)
		return;
	close(at.fd);
	forget_report();
	memory_forbid();
	ram.is_wanted = false;
	ram.told = ram.generation = 0;
	at.fd = -1;
	at.is_full = at.is_starved = false;
	call_broker_gone(&hook.call, hook_now_ms());
	park_wake(); // its ppoll still has the closed descriptor
}

// With `count` descriptors, of which the broker gets copies. -> enum link_send_outcome, without a word to hook.call.
static int send_bytes(const struct link_head *head, const void *body, const int *fds, uint32_t count)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * LINK_MEMORY_FILES_MAX)];
	} control = { .head = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * count) } };
	struct iovec parts[2] = {
		{ .iov_base = (void *)(uintptr_t)head, .iov_len = sizeof(*head) },
		{ .iov_base = (void *)(uintptr_t)body, .iov_len = head->body_len },
	};
	struct msghdr m = { .msg_iov = parts, .msg_iovlen = 2 };
	if (at.fd < 0)
		return LINK_DEAD;
	if (count) {
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * count);
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
	}
	if (sendmsg(at.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
		at.is_full = at.is_starved = false;
		return LINK_SENT;
	}
	// ETOOMANYREFS: more descriptors are on their way to brokers than this user may have open; reading them frees them.
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS) {
		if (!at.is_full)
			at.full_since_ms = hook_now_ms();
		at.is_full = true;
		at.is_starved = errno != EAGAIN && errno != EWOULDBLOCK;
		return LINK_FULL;
	}
	drop_broker();
	return LINK_DEAD;
}

// ---- Where the RAM is ---------------------------------------------------------------------------

static void wake_thread(void)
{
	(void)eventfd_write(at.wake_fd, 1); // fails only when it is set already
}

static int send_memory(struct memory_report *r)
{
	r->message.generation = ram.generation + 1;
	memory_forbid();
	r->message.is_permitted = memory_is_remote(&r->message) && memory_permit(&at.peer);
	const struct link_head head = { .type = LINK_MEMORY, .body_len = memory_message_len(&r->message) };
	int outcome = send_bytes(&head, &r->message, r->fds, r->message.file_count);
	if (outcome == LINK_SENT)
		ram.generation++;
	return outcome;
}

// Make sure that the broker knows where the RAM is. -> enum link_send_outcome.
static int tell_memory(void)
{
	if (ram.told == hook.ram_version)
		return LINK_SENT;
	if (!ram.is_found || ram.version != hook.ram_version) {
		ram.is_wanted = true;
		wake_thread();
		return LINK_HELD;
	}
	int outcome = send_memory(&ram.report);
	if (outcome == LINK_SENT)
		ram.told = ram.version;
	if (outcome != LINK_FULL)
		forget_report();
	return outcome;
}

void link_ram_changes(bool is_lost)
{
	static struct memory_report nothing; // under the lock
	hook.ram_version += hook.ram_version == UINT32_MAX ? 2 : 1;
	if (!ram.told || !call_is_awaited(&hook.call))
		return;
	nothing.message.pid = (uint32_t)getpid();
	wake_thread();
	if (is_lost) {
		(void)send_memory(&nothing); // full: the broker reads nothing at all
		ram.told = 0;
	}
}

// The thread has been told to look. The lock is let go meanwhile, and what was found may be old when it is back: then it is looked for anew.
static void find_memory(void)
{
	static struct memory_ranges ranges; // the thread's alone
	static struct memory_report report;
	const struct gpa_map map = hook.owner ? vm_map(hook.owner) : (struct gpa_map){ 0 };
	uint32_t version = hook.ram_version;
	memory_note(&map, &ranges);
	pthread_mutex_unlock(&hook.lock);
	memory_find(&ranges, &report);
	pthread_mutex_lock(&hook.lock);
	if (!ram.is_wanted) { // the broker has left
		memory_close(&report);
		return;
	}
	forget_report();
	ram.report = report;
	ram.version = version;
	ram.is_found = true;
	ram.is_wanted = false;
	park_wake();
}

// A guest that sleeps in a wait already does not tell of a change itself.
static void settle_memory(void)
{
	for (;;) {
		if (at.fd >= 0 && call_is_awaited(&hook.call))
			(void)tell_memory();
		if (!ram.is_wanted)
			return;
		find_memory();
	}
}

// ---- Messages -----------------------------------------------------------------------------------

bool link_is_wait(const struct link_head *head)
{
	return head->type == LINK_WAIT || head->flags & LINK_F_WAITS;
}

int link_send(const struct call_message *message)
{
	int outcome = link_is_wait(&message->head) ? tell_memory() : LINK_SENT;
	if (outcome == LINK_SENT)
		outcome = send_bytes(&message->head, message->body, NULL, 0);
	if (outcome == LINK_SENT)
		call_sent(&hook.call);
	return outcome;
}

void link_receive(void)
{
	static union { // under the lock
		struct link_head head;
		uint8_t bytes[sizeof(struct link_head) + LINK_BODY_MAX + 1]; // one more: a longer message shows
	} in;
	while (at.fd >= 0 && !call_is_answered(&hook.call)) {
		ssize_t len = recv(at.fd, &in, sizeof(in), MSG_DONTWAIT);
		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		int outcome = len <= 0 ? CALL_E_LINK : call_feed(&hook.call, &in, (size_t)len);
		if (outcome == CALL_E_LINK_VERSION)
			folder_complain("speaks another version of the link", "the broker",
			                "use vmkd and libvmkd-vmm.so of one build");
		if (outcome == CALL_E_LINK || outcome == CALL_E_LINK_VERSION)
			drop_broker();
	}
}

// One broker at a time; of this user, root, or the group (vmm/folder.h). A refused one sees the end of the stream instead of a LINK_HELLO.
static bool may_connect(int fd, struct ucred *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || !folder_admits(fd, &cred)) {
		folder_complain("belongs to another user", "a broker that has connected", "it was refused");
		return false;
	}
	struct pollfd former = { .fd = at.fd, .events = POLLRDHUP };
	if (at.fd >= 0 && poll(&former, 1, 0) > 0)
		drop_broker(); // dead, and nobody was watching; what it had still to say does not matter any more
	if (at.fd >= 0) {
		dprintf(STDERR_FILENO, "vmkd: %s: broker %d was refused, broker %d serves this VM; stop that one first\n",
		        at.name, (int)cred.pid, (int)at.peer.pid);
		return false;
	}
	*ret = cred;
	return true;
}

// -> false: not now (no descriptor is free), and the listener stays readable.
static bool accept_broker(void)
{
	int fd = accept4(at.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return errno == EAGAIN || errno == ECONNABORTED || errno == EINTR;
	struct ucred peer;
	if (!may_connect(fd, &peer)) {
		close(fd);
		return true;
	}
	at.fd = fd;
	at.peer = peer;
	struct link_hello hello;
	call_hello(&hook.call, (uint32_t)getpid(), at.name, &hello);
	const struct link_head head = { .type = LINK_HELLO, .body_len = sizeof(hello) };
	if (send_bytes(&head, &hello, NULL, 0) != LINK_SENT)
		drop_broker();
	return true;
}

// ---- The thread ---------------------------------------------------------------------------------

// While the guest is stopped, what comes is for its vCPU; while one sleeps on the socket, even the end is.
static bool is_room_wanted(void)
{
	return at.is_full && (hook.call.owed || hook.call.ending);
}

static short events_to_watch(void)
{
	short events = call_is_stopped(&hook.call) ? 0 : POLLIN;
	return (short)(events | (is_room_wanted() && !at.is_starved ? POLLOUT : 0));
}

// -> poll's: -1 = nothing but the descriptors matters.
static int time_to_look(void)
{
	if (at.fd >= 0 && at.is_starved && is_room_wanted() && !hook.has_sleeper)
		return LINK_STARVED_MS;
	return at.fd >= 0 && (call_is_stopped(&hook.call) || hook.has_sleeper) ? LOOK_MS : -1;
}

void link_settle(void)
{
	struct call_message message;
	while (call_step(&hook.call, hook_now_ms(), &message) == CALL_SEND && link_send(&message) == LINK_SENT)
		;
	if (at.fd >= 0 && events_to_watch() & ~at.watched)
		wake_thread();
}

void link_drain(uint64_t ms)
{
	uint64_t deadline = hook_now_ms() + ms;
	link_settle();
	for (uint64_t now = hook_now_ms(); is_room_wanted() && now < deadline; now = hook_now_ms()) {
		struct pollfd room = { .fd = at.is_starved ? -1 : at.fd, .events = POLLOUT };
		(void)poll(&room, 1, at.is_starved ? (int)LINK_STARVED_MS : (int)(deadline - now));
		link_settle();
	}
}

// A message for a wait stays in the socket until the guest repeats the call; the end of the broker does not.
static void serve(short broker_events)
{
	if (hook.has_sleeper)
		return;
	if (!call_is_awaited(&hook.call) || broker_events & (POLLHUP | POLLERR))
		link_receive();
	link_settle();
}

static void *thread_main(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_mutex_lock(&hook.lock);
		settle_memory();
		at.watched = hook.has_sleeper ? 0 : events_to_watch();
		struct pollfd fds[3] = {
			{ .fd = at.listen_fd, .events = POLLIN },
			{ .fd = at.wake_fd, .events = POLLIN },
			{ .fd = hook.has_sleeper ? -1 : at.fd, .events = at.watched },
		};
		int timeout_ms = time_to_look();
		pthread_mutex_unlock(&hook.lock);
		if (poll(fds, 3, timeout_ms) < 0)
			continue;
		pthread_mutex_lock(&hook.lock);
		eventfd_t ignored;
		if (fds[1].revents)
			(void)eventfd_read(at.wake_fd, &ignored); // it says only: look again
		serve(fds[2].fd == at.fd ? fds[2].revents : 0);
		bool is_accepted = !fds[0].revents || accept_broker();
		park_wake();
		pthread_mutex_unlock(&hook.lock);
		if (!is_accepted)
			(void)poll(NULL, 0, LOOK_MS); // the VMM is out of descriptors: do not spin on it
	}
	return NULL;
}

static bool start_thread(void)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	// Signals belong to the VMM: the new thread inherits a mask that blocks them all.
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = pthread_create(&thread, &attr, thread_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		folder_complain(strerror(err), "thread", "the VM runs without a debugger link");
	return !err;
}

bool link_start(void)
{
	at.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (at.wake_fd >= 0 && make_address() && open_listener() && start_thread())
		return true;
	if (at.listen_fd >= 0)
		close(at.listen_fd);
	if (at.wake_fd >= 0)
		close(at.wake_fd);
	at.listen_fd = at.wake_fd = -1;
	return false;
}

void link_stop(void)
{
	(void)unlink(at.address.sun_path);
	drop_broker();
}

void link_abandon(void)
{
	if (at.fd >= 0)
		close(at.fd);
	if (at.listen_fd >= 0)
		close(at.listen_fd);
	at.fd = at.listen_fd = -1;
	forget_report();
}
