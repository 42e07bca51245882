// SPDX-License-Identifier: MIT
// What util/ refuses, that the loop survives sources that go away in the middle of a batch, and that it polls when that pays and never else.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/loop.h"
#include "util/rundir.h"
#include "util/sock.h"

static char scratch[64];

static void ok(struct error *error)
{
	if (error)
		fail_msg("%s", error->text);
}

static void fails(struct error *error, int code, const char *part)
{
	assert_non_null(error);
	assert_int_equal(error->code, code);
	if (!strstr(error->text, part))
		fail_msg("'%s' does not mention '%s'", error->text, part);
	error_free(error);
}

static void test_names(void **state)
{
	char long_name[65];

	(void)state;
	memset(long_name, 'a', sizeof(long_name));
	long_name[64] = 0;
	assert_false(rundir_name_is_valid(""));
	assert_false(rundir_name_is_valid("."));
	assert_false(rundir_name_is_valid(".."));
	assert_false(rundir_name_is_valid("-x"));
	assert_false(rundir_name_is_valid("a/b"));
	assert_false(rundir_name_is_valid("a b"));
	assert_false(rundir_name_is_valid("n\xc3\xa9"));
	assert_false(rundir_name_is_valid(long_name));
	long_name[63] = 0;
	assert_true(rundir_name_is_valid(long_name));
	assert_true(rundir_name_is_valid("win11-24H2_a.b"));
	fails(rundir_check_name("../etc"), EINVAL, "../etc");
	fails(rundir_check_name(""), EINVAL, "empty");
}

static void test_base_order(void **state)
{
	char path[RUNDIR_PATH_MAX];

	(void)state;
	setenv("VMKD_RUNTIME_DIR", "/a", 1);
	setenv("XDG_RUNTIME_DIR", "/b", 1);
	ok(rundir_path("vm", "kd.sock", path));
	assert_string_equal(path, "/a/vm/kd.sock");
	unsetenv("VMKD_RUNTIME_DIR");
	ok(rundir_path("vm", NULL, path));
	assert_string_equal(path, "/b/vmkd/vm");
	unsetenv("XDG_RUNTIME_DIR");
	ok(rundir_base(path));
	assert_int_equal(strncmp(path, "/tmp/vmkd-", 10), 0);
}

static void test_base_refusals(void **state)
{
	char path[RUNDIR_PATH_MAX] = "untouched", long_path[300];

	(void)state;
	memset(long_path, 'x', sizeof(long_path));
	long_path[0] = '/';
	long_path[200] = 0;
	setenv("VMKD_RUNTIME_DIR", long_path, 1);
	fails(rundir_base(path), ENAMETOOLONG, "VMKD_RUNTIME_DIR");
	setenv("VMKD_RUNTIME_DIR", "relative", 1);
	fails(rundir_base(path), EINVAL, "absolute");
	long_path[80] = 0;
	setenv("VMKD_RUNTIME_DIR", long_path, 1);
	fails(rundir_path("a-rather-long-name-of-a-vm-x", "kd.sock", path), ENAMETOOLONG, "shorter");
	assert_string_equal(path, "untouched");
	unsetenv("VMKD_RUNTIME_DIR");
}

// Whatever is found in a folder that others can write would be theirs: `vmkd list` and `vmkd kd` must not look into it.
static void test_foreign_base_is_refused(void **state)
{
	char base[96], link[104], path[RUNDIR_PATH_MAX] = "untouched";

	(void)state;
	snprintf(base, sizeof(base), "%s/open", scratch);
	snprintf(link, sizeof(link), "%s/open-link", scratch);
	assert_int_equal(mkdir(base, 0700), 0);
	assert_int_equal(symlink(base, link), 0);
	setenv("VMKD_RUNTIME_DIR", link, 1);
	fails(rundir_base(path), ENOTDIR, "not a folder");
	setenv("VMKD_RUNTIME_DIR", base, 1);
	assert_int_equal(chmod(base, 0770), 0);
	fails(rundir_path("vm", "kd.sock", path), EPERM, "open to other users");
	assert_string_equal(path, "untouched");
	assert_int_equal(chmod(base, 0700), 0);
	ok(rundir_path("vm", "kd.sock", path));
	assert_int_equal(rmdir(base), 0);
	assert_int_equal(unlink(link), 0);
	unsetenv("VMKD_RUNTIME_DIR");
}

static void test_folders_are_private(void **state)
{
	char base[96], other[128];
	struct stat st;

	(void)state;
	snprintf(base, sizeof(base), "%s/run", scratch);
	setenv("VMKD_RUNTIME_DIR", base, 1);
	umask(0);
	ok(rundir_create("vm"));
	ok(rundir_create("vm"));
	snprintf(other, sizeof(other), "%s/vm", base);
	assert_int_equal(stat(other, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	chmod(other, 0755);
	fails(rundir_create("vm"), EPERM, "0700");
	snprintf(other, sizeof(other), "%s/link", base);
	assert_int_equal(symlink("/tmp", other), 0);
	fails(rundir_create("link"), ENOTDIR, "not a folder");
	unsetenv("VMKD_RUNTIME_DIR");
}

static void test_addresses(void **state)
{
	static const char *const bad[] = { "", ":", "0", "65536", "host", "host:", "host:x", "::1:5", "[::1]", "[]:5", "[::1:5", "1.2.3.4:99999", "5x" };
	struct sock_address a;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		fails(sock_parse_address(bad[i], &a), EINVAL, "expected HOST:PORT");
	ok(sock_parse_address("5000", &a));
	assert_string_equal(a.host, "");
	assert_string_equal(a.port, "5000");
	ok(sock_parse_address("[::1]:5000", &a));
	assert_string_equal(a.host, "::1");
	ok(sock_parse_address("host.example:1", &a));
	assert_string_equal(a.host, "host.example");
}

// Out of descriptors: whoever knocks is hung up on, and the listener does not stay readable for ever.
static void test_no_descriptor_for_who_knocks(void **state)
{
	struct rlimit old, now;
	char path[96], byte;
	int listener, knocking[2], fd;
	struct pollfd wait = { .events = POLLIN };

	(void)state;
	snprintf(path, sizeof(path), "%s/full", scratch);
	ok(sock_listen_unix(path, SOCK_STREAM, 0, &listener));
	for (int i = 0; i < 2; i++)
		ok(sock_connect_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &knocking[i]));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	fd = dup(listener); // the lowest free one
	now = (struct rlimit){ .rlim_cur = (rlim_t)fd, .rlim_max = old.rlim_max };
	close(fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
	fd = sock_accept(listener);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(fd, -1);
	assert_int_equal(recv(knocking[0], &byte, 1, 0), 0);
	fd = sock_accept(listener);
	assert_true(fd >= 0);
	wait.fd = listener;
	assert_int_equal(poll(&wait, 1, 0), 0);
	close(fd);
	close(knocking[0]);
	close(knocking[1]);
	close(listener);
}

static void test_unix_sockets(void **state)
{
	int listener CLEANUP_CLOSE = -1, fd CLEANUP_CLOSE = -1;
	char path[96], who[64];
	struct stat st;
	pid_t pid;
	uid_t uid;

	(void)state;
	snprintf(path, sizeof(path), "%s/sock", scratch);
	fails(sock_connect_unix(path, SOCK_STREAM, 0, &fd), ENOENT, "no such socket");
	ok(sock_listen_unix(path, SOCK_STREAM, 0, &listener));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	fails(sock_listen_unix(path, SOCK_STREAM, 0, &fd), EADDRINUSE, "cannot listen");
	ok(sock_connect_unix(path, SOCK_STREAM, 0, &fd));
	assert_true(sock_peer(fd, &pid, &uid));
	assert_int_equal(pid, getpid());
	sock_describe_peer(fd, who, sizeof(who));
	assert_int_equal(strncmp(who, "pid ", 4), 0);
	close(cleanup_take_fd(&fd));
	close(cleanup_take_fd(&listener));
	fails(sock_connect_unix(path, SOCK_STREAM, 0, &fd), ECONNREFUSED, "dead socket");
	ok(sock_listen_unix(path, SOCK_STREAM, 0, &listener)); // replaces the dead one
}

// A stopped process lets nobody in; who must not wait is told so.
static void test_a_full_queue_is_not_waited_for(void **state)
{
	struct error *error = NULL;
	int listener, fds[1024], count = 0;
	char path[96];

	(void)state;
	snprintf(path, sizeof(path), "%s/queue", scratch);
	ok(sock_listen_unix(path, SOCK_SEQPACKET, 0, &listener));
	assert_int_equal(listen(listener, 1), 0);
	while (!error && count < 1024) {
		error = sock_connect_unix(path, SOCK_SEQPACKET, SOCK_NONBLOCK, &fds[count]);
		count += !error;
	}
	fails(error, EAGAIN, "nobody lets them in");
	assert_true(count > 0);
	while (count)
		close(fds[--count]);
	close(listener);
}

// It may call itself anything, and is shown on terminals.
static void test_names_of_peers_move_no_cursor(void **state)
{
	char was[16], who[64];
	const char *name;
	int fds[2];

	(void)state;
	assert_int_equal(prctl(PR_GET_NAME, was), 0);
	assert_int_equal(prctl(PR_SET_NAME, "\x1b[2J\x07\x7f\xc3x y"), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	sock_describe_peer(fds[0], who, sizeof(who));
	assert_int_equal(prctl(PR_SET_NAME, was), 0);
	close(fds[0]);
	close(fds[1]);
	name = strchr(who, '(');
	assert_non_null(name);
	assert_string_equal(name, "(?[2J???x y)");
}

static void test_tcp_default_is_loopback(void **state)
{
	int fd CLEANUP_CLOSE = -1, other CLEANUP_CLOSE = -1;
	struct sock_address a;
	bool loopback = false;

	(void)state;
	for (int port = 40123; port < 40223 && fd < 0; port++) {
		char text[16];

		snprintf(text, sizeof(text), "%d", port);
		ok(sock_parse_address(text, &a));
		error_free(sock_listen_tcp(&a, 0, &fd, &loopback));
	}
	assert_true(fd >= 0);
	assert_true(loopback);
	fails(sock_listen_tcp(&a, 0, &other, &loopback), EADDRINUSE, "127.0.0.1");
	ok(sock_connect_tcp(&a, SOCK_NONBLOCK, &other));
}

// A history that stays full: what is put at the end must not move everything that is there each time.
static void test_a_full_buf_moves_seldom(void **state)
{
	const uint8_t *before;
	unsigned moves = 0;
	struct buf b;

	(void)state;
	buf_init(&b, 1024);
	for (unsigned i = 0; i < 1024; i++)
		assert_true(buf_put(&b, &(uint8_t){ (uint8_t)i }, 1));
	for (unsigned i = 1024; i < 1024 + 8192; i++) {
		buf_consume(&b, 1);
		before = buf_data(&b) - 1;
		assert_true(buf_put(&b, &(uint8_t){ (uint8_t)i }, 1));
		moves += buf_data(&b) != before + 1;
		assert_int_equal(buf_data(&b)[0], (uint8_t)(i - 1023));
		assert_int_equal(buf_data(&b)[1023], (uint8_t)i);
	}
	assert_true(moves <= 9); // the first one gives it the room
	assert_true(b.cap <= 4096);
	buf_deinit(&b);
}

static void test_buf_is_bounded(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 10);
	assert_true(buf_put(&b, "0123456789", 10));
	assert_false(buf_put(&b, "x", 1));
	assert_null(buf_reserve(&b, SIZE_MAX));
	buf_consume(&b, 4);
	assert_true(buf_put(&b, "abcd", 4));
	assert_int_equal(b.len, 10);
	assert_memory_equal(buf_data(&b), "456789abcd", 10);
	buf_consume(&b, 1000);
	assert_int_equal(b.len, 0);
	buf_deinit(&b);
	assert_true(buf_put(&b, "y", 1));
	buf_deinit(&b);
}

static void test_buf_against_a_plain_copy(void **state)
{
	uint8_t model[4096], byte = 0;
	size_t len = 0;
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	srand(1);
	for (int i = 0; i < 20000; i++) {
		size_t n = (size_t)rand() % 300;
		uint8_t piece[300];

		if (rand() & 1) {
			for (size_t k = 0; k < n; k++)
				piece[k] = byte++;
			assert_int_equal(buf_put(&b, piece, n), len + n <= 1000);
			if (len + n <= 1000) {
				memcpy(model + len, piece, n);
				len += n;
			}
		} else {
			buf_consume(&b, n);
			n = n < len ? n : len;
			memmove(model, model + n, len - n);
			len -= n;
		}
		assert_int_equal(b.len, len);
		if (len)
			assert_memory_equal(buf_data(&b), model, len);
	}
	buf_deinit(&b);
}

// ---- Polling -------------------------------------------------------------------------------------------

static struct polling polling_that_learned(uint64_t gap_ns, int gaps)
{
	struct polling p;

	polling_init(&p);
	p.is_off = false; // whatever this machine has
	for (int i = 0; i < gaps; i++) {
		(void)polling_begin(&p);
		polling_end(&p, gap_ns);
	}
	return p;
}

static void test_polling_begins_with_none(void **state)
{
	struct polling p = polling_that_learned(0, 0);

	(void)state;
	assert_int_equal(polling_begin(&p), 0);
}

static void test_polling_grows_with_short_gaps_only(void **state)
{
	struct polling p = polling_that_learned(1000, 1);

	(void)state;
	assert_int_equal(polling_begin(&p), POLLING_START_NS);
	p = polling_that_learned(1000, 1000);
	assert_int_equal(polling_begin(&p), POLLING_START_NS); // it covers them
	p = polling_that_learned(35000, 1000);
	assert_int_equal(polling_begin(&p), 4 * POLLING_START_NS);
	p = polling_that_learned(POLLING_MAX_NS + 1, 1000);
	assert_int_equal(polling_begin(&p), 0);
}

static void test_polling_never_beyond_the_bound(void **state)
{
	struct polling p = polling_that_learned(POLLING_MAX_NS, 1000);

	(void)state;
	assert_int_equal(polling_begin(&p), POLLING_MAX_NS);
}

static void test_polling_falls_to_nothing(void **state)
{
	struct polling p = polling_that_learned(POLLING_MAX_NS, 1000);
	uint64_t spent = 0;

	(void)state;
	for (int i = 0; i < 10; i++) {
		spent += polling_begin(&p);
		polling_end(&p, 1000000000u);
	}
	assert_int_equal(polling_begin(&p), 0);
	assert_true(spent < 2 * POLLING_MAX_NS); // all that the end of a burst costs
}

static void test_polling_pays_for_a_lost_processor(void **state)
{
	struct polling p = polling_that_learned(1000, 10);
	unsigned slept = 0;

	(void)state;
	assert_int_not_equal(polling_begin(&p), 0);
	polling_lost(&p);
	while (!polling_begin(&p))
		slept++;
	assert_int_equal(slept, POLLING_SKIP_MIN);
	for (int i = 0; i < 20; i++)
		polling_lost(&p);
	for (slept = 0; !polling_begin(&p); slept++)
		;
	assert_int_equal(slept, POLLING_SKIP_MAX);
	for (unsigned i = 0; i < POLLING_SKIP_MAX; i++)
		polling_end(&p, 1000); // forgiven
	polling_lost(&p);
	for (slept = 0; !polling_begin(&p); slept++)
		;
	assert_int_equal(slept, POLLING_SKIP_MIN);
}

static void test_polling_is_off_on_one_processor(void **state)
{
	struct polling p;
	cpu_set_t all, one;
	int first = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	while (!CPU_ISSET(first, &all))
		first++;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	polling_init(&p);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_true(p.is_off);
	p.window_ns = POLLING_MAX_NS;
	assert_int_equal(polling_begin(&p), 0);
}

// ---- Loop ------------------------------------------------------------------------------------------------

static struct loop loop;
static struct loop_source source_a, source_b;
static int calls;

static void remove_both(struct loop_source *source, uint32_t events)
{
	(void)source;
	(void)events;
	calls++;
	loop_remove(&loop, &source_a);
	loop_remove(&loop, &source_b);
}

static void test_loop_removed_source_is_not_called(void **state)
{
	int a[2], b[2];

	(void)state;
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	ok(loop_init(&loop));
	ok(loop_add(&loop, &source_a, a[0], EPOLLIN, remove_both, NULL));
	ok(loop_add(&loop, &source_b, b[0], EPOLLIN, remove_both, NULL));
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	ok(loop_turn(&loop, 0));
	assert_int_equal(calls, 1);
	loop_deinit(&loop);
	close(a[0]), close(a[1]), close(b[0]), close(b[1]);
}

static int looks, reads;
static bool is_byte_expected;

static bool expect_byte(struct loop_source *source)
{
	(void)source;
	return is_byte_expected;
}

static bool take_byte(struct loop_source *source)
{
	char byte;

	looks++;
	if (read(source->fd, &byte, 1) != 1)
		return false;
	reads++;
	return true;
}

static int settled;

static void settle_bytes(struct loop_source *source)
{
	(void)source;
	settled++;
}

static const struct loop_polling byte_polling = { .is_expected = expect_byte, .take = take_byte, .settle = settle_bytes };

static void take_byte_awake(struct loop_source *source, uint32_t events)
{
	(void)events;
	looks--; // this one is none
	(void)take_byte(source);
}

// A loop with one polled source at the end of a pipe, whose window is open as far as it goes.
static void make_polled_pipe(int pipe_ends[2])
{
	assert_int_equal(pipe2(pipe_ends, O_NONBLOCK), 0);
	ok(loop_init(&loop));
	ok(loop_add(&loop, &source_a, pipe_ends[0], EPOLLIN, take_byte_awake, NULL));
	loop_poll(&loop, &source_a, &byte_polling);
	source_a.polling.is_off = false;
	source_a.polling.window_ns = POLLING_MAX_NS;
	is_byte_expected = true;
	looks = reads = settled = 0;
}

static void end_polled_pipe(int pipe_ends[2])
{
	loop_remove(&loop, &source_a);
	loop_deinit(&loop);
	close(pipe_ends[0]), close(pipe_ends[1]);
}

static void test_loop_finds_by_looking(void **state)
{
	int p[2];

	(void)state;
	make_polled_pipe(p);
	for (int i = 0; i < LOOP_STRAIGHT; i++) {
		assert_int_equal(write(p[1], "x", 1), 1);
		ok(loop_turn(&loop, -1));
	}
	assert_int_equal(reads, LOOP_STRAIGHT);
	assert_int_equal(loop.sleeps, 0);
	assert_int_equal(loop.rewarded, LOOP_STRAIGHT);
	assert_int_equal(settled, 0);
	ok(loop_turn(&loop, 1)); // asks epoll
	assert_int_equal(settled, 1);
	end_polled_pipe(p);
}

static int other_calls;

static void note_other(struct loop_source *source, uint32_t events)
{
	(void)events;
	other_calls++;
	loop_remove(&loop, source);
}

static void test_loop_burst_starves_nobody(void **state)
{
	int p[2], other[2];

	(void)state;
	make_polled_pipe(p);
	assert_int_equal(pipe(other), 0);
	ok(loop_add(&loop, &source_b, other[0], EPOLLIN, note_other, NULL));
	assert_int_equal(write(other[1], "x", 1), 1);
	for (int i = 0; i <= LOOP_STRAIGHT; i++) {
		assert_int_equal(write(p[1], "x", 1), 1);
		ok(loop_turn(&loop, -1));
	}
	assert_int_equal(other_calls, 1);
	close(other[0]), close(other[1]);
	end_polled_pipe(p);
}

// Of two sources in a burst none is looked at first for ever.
static void test_loop_looks_at_one_after_the_other(void **state)
{
	int p[2], other[2];
	char bytes[8];

	(void)state;
	make_polled_pipe(p);
	assert_int_equal(pipe2(other, O_NONBLOCK), 0);
	ok(loop_add(&loop, &source_b, other[0], EPOLLIN, take_byte_awake, NULL));
	loop_poll(&loop, &source_b, &byte_polling);
	source_b.polling = source_a.polling;
	assert_int_equal(write(p[1], "aaaaaaaa", 8), 8);
	assert_int_equal(write(other[1], "bbbbbbbb", 8), 8);
	for (int i = 0; i < 8; i++)
		ok(loop_turn(&loop, -1));
	assert_int_equal(loop.sleeps, 0);
	assert_int_equal(read(p[0], bytes, sizeof(bytes)), 4);
	assert_int_equal(read(other[0], bytes, sizeof(bytes)), 4);
	loop_remove(&loop, &source_b);
	close(other[0]), close(other[1]);
	end_polled_pipe(p);
}

// However often the loop wakes for other reasons: one gap, one try, and no look after it.
static void test_loop_polls_a_gap_once(void **state)
{
	int p[2], first;

	(void)state;
	make_polled_pipe(p);
	ok(loop_turn(&loop, 1));
	first = looks;
	assert_true(first > 0);
	for (int i = 0; i < 20; i++)
		ok(loop_turn(&loop, 1));
	assert_int_equal(looks, first);
	assert_int_equal(loop.sleeps, 21);
	end_polled_pipe(p);
}

// Not a source that is not to be read (its client does not read either), nor one whose peer has no reason to speak, nor one that was removed.
static void test_loop_looks_only_where_something_may_come(void **state)
{
	int p[2];

	(void)state;
	make_polled_pipe(p);
	loop_change(&loop, &source_a, 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	ok(loop_turn(&loop, 1));
	loop.is_quiet = false;
	loop_change(&loop, &source_a, EPOLLIN);
	is_byte_expected = false;
	ok(loop_turn(&loop, 1)); // this turn finds the byte asleep
	assert_int_equal(reads, 1);
	loop.is_quiet = false;
	is_byte_expected = true;
	loop_remove(&loop, &source_a);
	ok(loop_turn(&loop, 1));
	assert_int_equal(looks, 0);
	end_polled_pipe(p);
}

// The peer is silent, and something else wakes the loop: that must not keep the window open for ever.
static void test_loop_unlearns_without_the_peer(void **state)
{
	int p[2], other[2];

	(void)state;
	make_polled_pipe(p);
	assert_int_equal(pipe(other), 0);
	for (int i = 0; i < 8; i++) {
		loop.is_quiet = true;
		loop.quiet_ns = loop_now_ns() - POLLING_MAX_NS - 1;
		source_a.is_hot = true;
		ok(loop_add(&loop, &source_b, other[0], EPOLLIN, note_other, NULL));
		assert_int_equal(write(other[1], "x", 1), 1);
		ok(loop_turn(&loop, -1));
	}
	assert_int_equal(source_a.polling.window_ns, 0);
	close(other[0]), close(other[1]);
	end_polled_pipe(p);
}

static char order[8];

static void note(struct loop_timer *timer)
{
	strcat(order, timer->arg);
	if (order[0] && order[1])
		loop_stop(&loop);
}

static void test_loop_timers_fire_in_order(void **state)
{
	struct loop_timer late = { .fn = note, .arg = "L" }, early = { .fn = note, .arg = "E" }, never = { .fn = note, .arg = "N" };

	(void)state;
	ok(loop_init(&loop));
	loop_timer_arm(&loop, &late, 5);
	loop_timer_arm(&loop, &never, 1);
	loop_timer_arm(&loop, &early, 1);
	loop_timer_cancel(&loop, &never);
	loop_timer_cancel(&loop, &never);
	ok(loop_run(&loop));
	assert_string_equal(order, "EL");
	loop_deinit(&loop);
}

static void send_with_descriptors(int fd, size_t len, uint32_t count)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = { .head = { CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	static uint8_t bytes[64];
	struct iovec part = { bytes, len };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	for (uint32_t i = 0; i < count; i++)
		memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &fd, sizeof(int));
	assert_int_equal(sendmsg(fd, &message, 0), len);
}

static int lowest_free_descriptor(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static void test_received_descriptors_are_bounded(void **state)
{
	int ends[2], fds[3];
	uint8_t buffer[16];
	uint32_t count = 9;
	bool is_cut = true;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(sock_receive(ends[1], buffer, sizeof(buffer), fds, 3, &count, &is_cut), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(count, 0);
	// More than asked for, an odd number of them, in a message that is too long: nothing stays open but what we have.
	int free_before = lowest_free_descriptor();
	send_with_descriptors(ends[0], 17, 4);
	assert_int_equal(sock_receive(ends[1], buffer, sizeof(buffer), fds, 3, &count, &is_cut), 17);
	assert_int_equal(count, 3);
	assert_true(is_cut);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
		close(fds[i]);
	}
	assert_int_equal(lowest_free_descriptor(), free_before);
	send_with_descriptors(ends[0], 5, 0);
	assert_int_equal(sock_receive(ends[1], buffer, sizeof(buffer), fds, 3, &count, &is_cut), 5);
	assert_int_equal(count, 0);
	assert_false(is_cut);
	close(ends[0]);
	assert_int_equal(sock_receive(ends[1], buffer, sizeof(buffer), fds, 3, &count, &is_cut), 0);
	close(ends[1]);
}

static void test_errors(void **state)
{
	struct error *error = error_prefix(error_create(7, "%s", "inner"), "outer %d", 1);

	(void)state;
	fails(error, 7, "outer 1: inner");
	fails(error_create(7, "it says: %s", "a\nb\r\t\x1b[2Jc\x7f\n"), 7, "it says: a b   [2Jc");
	error = error_create(7, "%s", "\x1b\n");
	assert_string_equal(error->text, "");
	error_free(error);
	assert_null(error_prefix(NULL, "nothing"));
	error_free(NULL);
}

static int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/util_test.XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_base_order),
		cmocka_unit_test(test_base_refusals),
		cmocka_unit_test(test_foreign_base_is_refused),
		cmocka_unit_test(test_folders_are_private),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_unix_sockets),
		cmocka_unit_test(test_a_full_queue_is_not_waited_for),
		cmocka_unit_test(test_names_of_peers_move_no_cursor),
		cmocka_unit_test(test_no_descriptor_for_who_knocks),
		cmocka_unit_test(test_received_descriptors_are_bounded),
		cmocka_unit_test(test_tcp_default_is_loopback),
		cmocka_unit_test(test_buf_is_bounded),
		cmocka_unit_test(test_a_full_buf_moves_seldom),
		cmocka_unit_test(test_buf_against_a_plain_copy),
		cmocka_unit_test(test_polling_begins_with_none),
		cmocka_unit_test(test_polling_grows_with_short_gaps_only),
		cmocka_unit_test(test_polling_never_beyond_the_bound),
		cmocka_unit_test(test_polling_falls_to_nothing),
		cmocka_unit_test(test_polling_pays_for_a_lost_processor),
		cmocka_unit_test(test_polling_is_off_on_one_processor),
		cmocka_unit_test(test_loop_finds_by_looking),
		cmocka_unit_test(test_loop_burst_starves_nobody),
		cmocka_unit_test(test_loop_looks_at_one_after_the_other),
		cmocka_unit_test(test_loop_polls_a_gap_once),
		cmocka_unit_test(test_loop_looks_only_where_something_may_come),
		cmocka_unit_test(test_loop_unlearns_without_the_peer),
		cmocka_unit_test(test_loop_removed_source_is_not_called),
		cmocka_unit_test(test_loop_timers_fire_in_order),
		cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
