// SPDX-License-Identifier: MIT
// The hook's link against a VMM side made by hand: greeting, order, refusals, and a peer that comes and goes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/guest_link.h"
#include "util/sock.h"
#include "vmm/fake_guest.h"
#include "wire/kdapi.h"

static struct loop loop;
static struct guest_link *link_under_test;
static char folder[64], path[96], log_text[1024];
static int listener, peer;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t len = strlen(log_text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(log_text + len, sizeof(log_text) - len, format, ap);
	va_end(ap);
}

static void on_up(void *arg)
{
	(void)arg;
	note("up ");
}

static void on_down(void *arg)
{
	(void)arg;
	note("down ");
}

static void on_registered(void *arg, const struct link_guest *guest)
{
	(void)arg;
	note("registered(%x) ", guest->arch);
}

static void on_gone(void *arg, enum link_gone reason)
{
	(void)arg;
	note("gone(%d) ", reason);
}

static void on_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	(void)arg;
	note("packet(%u %02x%s) ", head->kd_type, body[head->body_len - 1], head->flags & LINK_F_WAITS ? " waits" : "");
}

static void on_waits(void *arg, const struct link_head *head)
{
	(void)arg;
	note("waits(%u) ", head->want);
}

static void on_taken(void *arg)
{
	(void)arg;
	note("taken ");
}

static void on_stats(void *arg)
{
	(void)arg;
	note("stats(%u) ", (unsigned)link_under_test->stats.port_calls);
}

static void on_refused(void *arg)
{
	(void)arg;
	note("refused(%x) ", link_under_test->refused_version);
}

static uint32_t memory_pid;

static void on_memory(void *arg, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	(void)arg;
	for (uint32_t i = 0; i < fd_count; i++)
		assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
	memory_pid = m->pid;
	note("memory(%u,%u,%u) ", m->piece_count, (unsigned)len, fd_count);
}

static const struct guest_link_events events = { on_up, on_down, on_registered, on_gone, on_packet, on_waits, on_taken, on_stats, on_refused,
						  on_memory };

static void turns(int count)
{
	while (count--)
		assert_null(loop_turn(&loop, 30));
}

static void did(const char *expected)
{
	size_t len = strlen(log_text);

	if (len)
		log_text[len - 1] = 0;
	assert_string_equal(log_text, expected);
	log_text[0] = 0;
}

static void tell(uint16_t type, uint16_t flags, const void *body, uint32_t len, uint16_t kd_type, uint16_t hdr_len)
{
	uint8_t bytes[sizeof(struct link_head) + LINK_BODY_MAX];
	struct link_head head = { .type = type, .flags = flags, .body_len = len, .kd_type = kd_type, .hdr_len = hdr_len, .want = 2, .code = 1 };

	memcpy(bytes, &head, sizeof(head));
	if (len)
		memcpy(bytes + sizeof(head), body, len);
	assert_int_equal(send(peer, bytes, sizeof(head) + len, MSG_NOSIGNAL), sizeof(head) + len);
}

static struct link_head hear(void)
{
	uint8_t bytes[sizeof(struct link_head) + LINK_BODY_MAX];
	struct link_head head;

	assert_true(recv(peer, bytes, sizeof(bytes), MSG_DONTWAIT) >= (ssize_t)sizeof(head));
	memcpy(&head, bytes, sizeof(head));
	return head;
}

static void greet(uint32_t version, bool is_registered)
{
	struct link_hello hello = { .version = version, .pid = 4711, .is_registered = is_registered, .guest.arch = ARCH_X64, .port_calls = 7 };

	tell(LINK_HELLO, 0, &hello, sizeof(hello), 0, 0);
}

static void meet(void)
{
	struct link_head head;

	peer = -1;
	for (int i = 0; i < 1000 && peer < 0; i++) { // a peer that was refused is tried again only after a while
		turns(1);
		peer = accept(listener, NULL, NULL);
	}
	assert_true(peer >= 0);
	head = hear();
	assert_int_equal(head.type, LINK_ATTACH);
	assert_int_equal(head.seq, LINK_VERSION);
}

static int setup(void **state)
{
	struct error *error;

	(void)state;
	strcpy(folder, "/tmp/link_hook_test.XXXXXX");
	if (!mkdtemp(folder) || setenv("VMKD_RUNTIME_DIR", folder, 1) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/vm", folder);
	if (mkdir(path, 0700) < 0)
		return -1;
	strcat(path, "/vmm.sock");
	error = sock_listen_unix(path, SOCK_SEQPACKET, SOCK_NONBLOCK, &listener);
	if (!error)
		error = loop_init(&loop);
	if (!error)
		error = link_hook_create(&loop, "vm", &events, NULL, &link_under_test);
	log_text[0] = 0;
	peer = -1;
	return error ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	link_under_test->ops->destroy(link_under_test);
	loop_deinit(&loop);
	close(listener);
	if (peer >= 0)
		close(peer);
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	return rmdir(folder);
}

static void test_session(void **state)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };
	struct link_guest guest = { .arch = ARCH_X86 };
	struct link_stats stats = { .port_calls = 5 };

	(void)state;
	meet();
	greet(LINK_VERSION, true);
	tell(LINK_REGISTERED, 0, &guest, sizeof(guest), 0, 0);
	body[sizeof(body) - 1] = 0x77;
	tell(LINK_PACKET, 0, body, sizeof(body), KD_PACKET_STATE_CHANGE, KD_STATE_CHANGE_SIZE);
	tell(LINK_WAIT, 0, NULL, 0, 0, 0);
	tell(LINK_PACKET, LINK_F_WAITS, body, 60, KD_PACKET_MANIPULATE, 56);
	tell(LINK_BREAKIN_TAKEN, 0, NULL, 0, 0, 0);
	tell(LINK_STATS, 0, &stats, sizeof(stats), 0, 0);
	tell(LINK_UNREGISTERED, 0, NULL, 0, 0, 0);
	turns(8);
	did("up registered(8664) registered(14c) packet(7 77) waits(2) packet(2 00 waits) taken stats(5) gone(1)");
	assert_int_equal(link_under_test->pid, 4711);
	assert_int_equal(link_under_test->messages_refused, 0);
}

static void test_module_of_another_version(void **state)
{
	const struct link_head refused = { .type = LINK_OTHER_VERSION, .code = 7u << 16 };
	struct link_guest guest = { .arch = ARCH_X64 };

	(void)state;
	meet();
	greet(LINK_VERSION, false);
	assert_int_equal(send(peer, &refused, sizeof(refused), 0), sizeof(refused));
	turns(2);
	did("up refused(70000)");
	tell(LINK_REGISTERED, 0, &guest, sizeof(guest), 0, 0);
	turns(2);
	assert_int_equal(link_under_test->refused_version, 0); // the right one was installed
}

static void test_what_is_sent(void **state)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };
	struct link_head head;

	(void)state;
	link_under_test->ops->breakin(link_under_test); // nobody there: swallowed
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	link_under_test->ops->deliver(link_under_test, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), true);
	head = hear();
	assert_int_equal(head.type, LINK_DELIVER);
	assert_int_equal(head.flags, LINK_F_RESUMES);
	assert_int_equal(head.body_len, sizeof(body));
	assert_int_equal(head.hdr_len, sizeof(body));
	link_under_test->ops->breakin(link_under_test);
	link_under_test->ops->resend(link_under_test);
	assert_int_equal(hear().type, LINK_BREAKIN);
	assert_int_equal(hear().type, LINK_RESEND);
}

static void test_another_version(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION - 1, false);
	turns(1);
	did("");
	assert_non_null(strstr(link_under_test->remark, "restart the VM"));
	assert_int_equal(link_under_test->library_version, LINK_VERSION - 1);
	assert_false(link_under_test->is_up);
}

// A newer library's greeting may have any length: it is the version that is told.
static void test_newer_version(void **state)
{
	const uint32_t hello[40] = { LINK_VERSION + 1 };

	(void)state;
	meet();
	tell(LINK_HELLO, 0, hello, sizeof(hello), 0, 0);
	turns(1);
	did("");
	assert_non_null(strstr(link_under_test->remark, "use the vmkd that came with it"));
	assert_int_equal(link_under_test->library_version, LINK_VERSION + 1);
	close(peer);
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	did("up");
	assert_int_equal(link_under_test->library_version, 0);
	assert_int_equal(link_under_test->calls_before, 7);
}

static void refuses_after_hello(void)
{
	turns(2);
	did("up memory(0,24,0) down");
	assert_int_equal(link_under_test->messages_refused, 1);
	close(peer);
	meet(); // and it comes back
	greet(LINK_VERSION, false);
	turns(2);
	did("up");
}

static void test_unknown_message(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, false);
	tell(99, 0, NULL, 0, 0, 0);
	refuses_after_hello();
}

static void test_damaged_messages(void **state)
{
	struct link_head head = { .type = LINK_PACKET, .body_len = 5, .hdr_len = 1 };
	uint8_t body[16] = { 0 };

	(void)state;
	meet();
	greet(LINK_VERSION, false);
	assert_true(send(peer, &head, sizeof(head), 0) > 0); // promises more than it has
	refuses_after_hello();
	link_under_test->messages_refused = 0;
	tell(LINK_PACKET, 0, body, sizeof(body), KD_PACKET_DEBUG_IO, 17); // header beyond the body
	turns(2);
	did("memory(0,24,0) down");
	assert_int_equal(link_under_test->messages_refused, 1);
}

static void test_oversized_message(void **state)
{
	static uint8_t big[sizeof(struct link_head) + LINK_BODY_MAX + 1];
	struct link_head head = { .type = LINK_PACKET, .body_len = LINK_BODY_MAX + 1, .hdr_len = 16, .kd_type = KD_PACKET_DEBUG_IO };

	(void)state;
	meet();
	greet(LINK_VERSION, false);
	memcpy(big, &head, sizeof(head));
	assert_true(send(peer, big, sizeof(big), 0) > 0);
	refuses_after_hello();
}

static void test_nothing_before_the_greeting(void **state)
{
	(void)state;
	meet();
	tell(LINK_WAIT, 0, NULL, 0, 0, 0);
	turns(1);
	did("");
	assert_int_equal(link_under_test->messages_refused, 1);
}

static void test_peer_goes_and_comes(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	close(peer);
	turns(1);
	did("up memory(0,24,0) down");
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	did("up");
}

// ---- LINK_MEMORY ----------------------------------------------------------------------------------------

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

// A message of `len` body bytes with `fd` attached fd_count times.
static void tell_with_fds(uint16_t type, const void *body, uint32_t len, int fd, unsigned fd_count)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct link_head head = { .type = type, .body_len = len };
	struct iovec parts[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)body, len } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control,
				  .msg_controllen = CMSG_SPACE(fd_count * sizeof(int)) };

	assert_true(fd_count <= 16);
	control.head = (struct cmsghdr){ CMSG_LEN(fd_count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	for (unsigned i = 0; i < fd_count; i++)
		memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &fd, sizeof(int));
	assert_int_equal(sendmsg(peer, &message, MSG_NOSIGNAL), sizeof(head) + len);
}

static void test_memory(void **state)
{
	struct link_memory memory = {
		.generation = 1, .pid = 1, .piece_count = LINK_MEMORY_PIECES_MAX, .file_count = LINK_MEMORY_FILES_MAX,
	};
	int before;

	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	before = count_fds();
	tell_with_fds(LINK_MEMORY, &memory, sizeof(memory), listener, LINK_MEMORY_FILES_MAX);
	memory.piece_count = 2;
	tell_with_fds(LINK_MEMORY, &memory, offsetof(struct link_memory, pieces) + 2 * sizeof(memory.pieces[0]), listener, 1);
	tell(LINK_MEMORY, 0, &memory, offsetof(struct link_memory, pieces), 0, 0);
	turns(3);
	did("up memory(120,3864,8) memory(2,88,1) memory(2,24,0)");
	assert_int_equal(memory_pid, getpid()); // who sent it, whatever it says
	assert_int_equal(count_fds(), before);
}

static void refuses_with_fds(uint16_t type, uint32_t len, unsigned fd_count)
{
	struct link_memory memory = { .generation = 1 };
	uint8_t body[sizeof(memory) + 1] = { 0 };
	int before = count_fds();

	memcpy(body, &memory, sizeof(memory));
	tell_with_fds(type, body, len, listener, fd_count);
	turns(1);
	did("memory(0,24,0) down");
	assert_int_equal(count_fds(), before - 1); // the connection itself
	close(peer);
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	did("up");
	assert_int_equal(count_fds(), before);
}

static void test_refused_memory(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	did("up");
	refuses_with_fds(LINK_MEMORY, offsetof(struct link_memory, pieces), LINK_MEMORY_FILES_MAX + 1); // too many descriptors
	refuses_with_fds(LINK_MEMORY, offsetof(struct link_memory, pieces), 16);
	refuses_with_fds(LINK_MEMORY, offsetof(struct link_memory, pieces) - 1, 2); // too short
	refuses_with_fds(LINK_MEMORY, sizeof(struct link_memory) + 1, 2);
	refuses_with_fds(LINK_WAIT, 0, 1); // not here
	refuses_with_fds(LINK_HELLO, 0, 3); // not now
	assert_int_equal(link_under_test->messages_refused, 6);
}

// ---- The end of the VMM -------------------------------------------------------------------------------

#define RAM_PAGES 32u

static int ram_fd;
static struct fake_guest guest;

static void say(uint8_t byte)
{
	uint8_t body[17] = { 0 };

	body[16] = byte;
	fake_guest_send(&guest, KD_PACKET_DEBUG_IO, 16, body, sizeof(body));
}

static void make_ram(void)
{
	uint8_t *ram;

	ram_fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(ram_fd, RAM_PAGES * AREA_PAGE_SIZE), 0);
	ram = mmap(NULL, RAM_PAGES * AREA_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	assert_true(ram != MAP_FAILED);
	guest = (struct fake_guest){ 0 };
	fake_guest_init(&guest, ram, 0x100000, 2, 4, 2, 0x1234567);
}

static void lose_ram(void)
{
	munmap(guest.ram, RAM_PAGES * AREA_PAGE_SIZE);
	close(ram_fd);
}

// A VMM whose guest says three things, of which it has passed on the first.
static void tell_three(void)
{
	struct link_memory m = { .generation = 1, .piece_count = 1, .file_count = 1,
				 .pieces = { { .gpa = 0x100000, .size = RAM_PAGES * AREA_PAGE_SIZE } } };
	struct link_guest registration = { .arch = ARCH_X64, .head_gpa = fake_guest_head(&guest).v };
	struct {
		struct link_head head;
		uint8_t body[17];
	} packet = { { .type = LINK_PACKET, .body_len = 17, .seq = 1, .kd_type = KD_PACKET_DEBUG_IO, .hdr_len = 16 }, { [16] = 0xA1 } };

	greet(LINK_VERSION, false);
	tell_with_fds(LINK_MEMORY, &m, offsetof(struct link_memory, pieces) + sizeof(m.pieces[0]), ram_fd, 1);
	tell(LINK_REGISTERED, 0, &registration, sizeof(registration), 0, 0);
	say(0xA1);
	say(0xA2);
	say(0xA3);
	assert_int_equal(send(peer, &packet, sizeof(packet.head) + 17, MSG_NOSIGNAL), sizeof(packet.head) + 17);
}

// The process that listens is the VMM. -> its id.
static pid_t start_vmm(void)
{
	int pipe_fds[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(pipe_fds), 0);
	assert_true(unlink(path) == 0 && close(listener) == 0);
	pid = fork();
	if (pid == 0) {
		if (sock_listen_unix(path, SOCK_SEQPACKET, 0, &listener) || write(pipe_fds[1], "x", 1) != 1)
			_exit(1);
		peer = accept(listener, NULL, NULL);
		tell_three();
		for (;;)
			pause();
	}
	assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return pid;
}

static void test_last_words(void **state)
{
	pid_t vmm;
	int status;

	(void)state;
	make_ram();
	vmm = start_vmm();
	while (!strstr(log_text, "packet"))
		turns(1);
	did("up memory(1,56,1) registered(8664) packet(3 a1)");
	assert_int_equal(kill(vmm, SIGKILL), 0);
	while (!strstr(log_text, "down"))
		turns(1);
	did("packet(3 a2) packet(3 a3) memory(0,24,0) down");
	assert_int_equal(waitpid(vmm, &status, 0), vmm);
	lose_ram();
	assert_null(sock_listen_unix(path, SOCK_SEQPACKET, 0, &listener));
}

// It lets go of us and lives on: the guest tells the rest through the next connection.
static void test_connection_ends_and_vmm_lives(void **state)
{
	(void)state;
	make_ram();
	meet();
	tell_three();
	turns(4);
	did("up memory(1,56,1) registered(8664) packet(3 a1)");
	close(peer);
	turns(1);
	did("memory(0,24,0) down");
	meet();
	lose_ram();
}

// The VMM exits in good order; what its socket had no room for is in the ring.
static void test_vmm_says_goodbye(void **state)
{
	const struct link_head bye = { .type = LINK_UNREGISTERED, .code = LINK_GONE_BYE }, reset = { .type = LINK_UNREGISTERED, .code = LINK_GONE_RESET };

	(void)state;
	make_ram();
	meet();
	tell_three();
	assert_int_equal(send(peer, &bye, sizeof(bye), 0), sizeof(bye));
	turns(6);
	did("up memory(1,56,1) registered(8664) packet(3 a1) packet(3 a2) packet(3 a3) gone(3)");
	close(peer);
	turns(1);
	did("memory(0,24,0) down");
	meet();
	tell_three(); // a reset: that memory is somebody else's by now
	assert_int_equal(send(peer, &reset, sizeof(reset), 0), sizeof(reset));
	turns(6);
	did("up memory(1,56,1) registered(8664) packet(3 a1) gone(1)");
	lose_ram();
}

// The kernel reports that before what the peer had sent.
static void test_end_with_something_of_ours_unread(void **state)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	tell(LINK_PACKET, 0, body, sizeof(body), KD_PACKET_MANIPULATE, sizeof(body));
	tell(LINK_BREAKIN_TAKEN, 0, NULL, 0, 0, 0);
	link_under_test->ops->breakin(link_under_test);
	close(peer);
	turns(4);
	did("up packet(2 00) taken memory(0,24,0) down");
	meet();
}

// While the debugger is behind, even the end waits.
static void test_held_link_does_not_end(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	link_under_test->ops->hold(link_under_test, true);
	tell(LINK_WAIT, 0, NULL, 0, 0, 0);
	close(peer);
	turns(3);
	did("up");
	link_under_test->ops->hold(link_under_test, false);
	turns(2);
	did("waits(2) memory(0,24,0) down");
	meet();
}

static void test_held_link_takes_nothing(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, false);
	turns(1);
	link_under_test->ops->hold(link_under_test, true);
	tell(LINK_WAIT, 0, NULL, 0, 0, 0);
	turns(2);
	did("up");
	link_under_test->ops->hold(link_under_test, false);
	turns(1);
	did("waits(2)");
}

static void test_absent_is_not_connected(void **state)
{
	(void)state;
	meet();
	greet(LINK_VERSION, true);
	turns(2);
	did("up registered(8664)");
	link_under_test->ops->set_present(link_under_test, false);
	did(""); // nothing is told from inside an op
	turns(3);
	did("memory(0,24,0) down");
	assert_int_equal(recv(peer, path, 1, MSG_DONTWAIT), 0);
	close(peer);
	turns(10);
	assert_int_equal(accept(listener, NULL, NULL), -1);
	link_under_test->ops->set_present(link_under_test, true);
	meet();
	greet(LINK_VERSION, true);
	turns(2);
	did("up registered(8664)");
}

static void test_absent_from_the_start(void **state)
{
	(void)state;
	link_under_test->ops->set_present(link_under_test, false);
	turns(10);
	assert_int_equal(accept(listener, NULL, NULL), -1);
	link_under_test->ops->set_present(link_under_test, true);
	link_under_test->ops->set_present(link_under_test, false);
	link_under_test->ops->set_present(link_under_test, true);
	meet();
	did("");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_session),
		T(test_module_of_another_version),
		T(test_what_is_sent),
		T(test_another_version),
		T(test_newer_version),
		T(test_unknown_message),
		T(test_damaged_messages),
		T(test_oversized_message),
		T(test_nothing_before_the_greeting),
		T(test_peer_goes_and_comes),
		T(test_memory),
		T(test_refused_memory),
		T(test_last_words),
		T(test_connection_ends_and_vmm_lives),
		T(test_vmm_says_goodbye),
		T(test_end_with_something_of_ours_unread),
		T(test_held_link_does_not_end),
		T(test_held_link_takes_nothing),
		T(test_absent_is_not_connected),
		T(test_absent_from_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
