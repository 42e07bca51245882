// SPDX-License-Identifier: MIT
// Runtime folders that a group shares: which are taken for one, what is made in them, and who may connect there.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

#define MEMBER 61001u // users and a group that exist nowhere
#define STRANGER 61003u
#define GROUP 61010u

// In a child that is another user: fn's result, 0 to 100.
static int as_user(uid_t uid, gid_t gid, bool with_group, int (*fn)(void))
{
	const gid_t groups[] = { GROUP };
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (setgroups(with_group, groups) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			_exit(101);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_in_range(WEXITSTATUS(status), 0, 100);
	return WEXITSTATUS(status);
}

static void need_root(void)
{
	if (geteuid() == 0)
		return;
	print_message("only root can be two users\n");
	skip();
}

static int base_error(void)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_base(path);
	int code = error ? error->code : 0;

	error_free(error);
	return code;
}

static int create_error(void)
{
	struct error *error = rundir_create("theirs");
	int code = error ? error->code : 0;

	error_free(error);
	return code;
}

static unsigned mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st.st_mode & 07777;
}

static void make_shared(char *base, size_t size)
{
	snprintf(base, size, "%s/group-XXXXXX", scratch);
	assert_non_null(mkdtemp(base));
	assert_int_equal(chmod(base, 02770), 0);
	setenv("VMKD_RUNTIME_DIR", base, 1);
}

static void test_shared_folders(void **state)
{
	char base[96], path[RUNDIR_PATH_MAX], vm[128];
	gid_t group;
	int fd;

	(void)state;
	make_shared(base, sizeof(base));
	umask(077); // what this user keeps from the group must not matter
	ok(rundir_create("vm"));
	ok(rundir_create("vm"));
	snprintf(vm, sizeof(vm), "%s/vm", base);
	assert_int_equal(mode_of(vm), 02770);
	ok(rundir_path("vm", "lock", path));
	assert_true(rundir_is_shared(path, &group));
	assert_int_equal(group, getegid());
	fd = rundir_open(path, O_RDWR | O_CREAT);
	assert_true(fd >= 0);
	assert_int_equal(mode_of(path), 0660);
	close(fd);
	unlink(path);
	ok(rundir_path("vm", "ctl.sock", path));
	ok(sock_listen_unix(path, SOCK_STREAM, 0, &fd));
	assert_int_equal(mode_of(path), 0660);
	close(fd);
	assert_false(rundir_is_shared("/tmp/x", &group));
	assert_int_equal(umask(0), 077); // as it was
	snprintf(path, sizeof(path), "%sx/lock", base);
	assert_false(rundir_is_shared(path, &group)); // beside it
}

static void test_shared_folders_that_are_not(void **state)
{
	static const mode_t bad[] = { 0770, 02771, 02775, 02774, 02760, 02720, 0777, 02777 };
	char base[96], vm[128];
	gid_t group;

	(void)state;
	make_shared(base, sizeof(base));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(chmod(base, bad[i]), 0);
		assert_int_equal(base_error(), EPERM);
		snprintf(vm, sizeof(vm), "%s/vm", base);
		assert_false(rundir_is_shared(vm, &group));
	}
	assert_int_equal(chmod(base, 02770), 0);
	assert_int_equal(base_error(), 0);
	assert_int_equal(mkdir(vm, 0700), 0); // of one member alone
	assert_int_equal(chmod(vm, 0700), 0);
	fails(rundir_create("vm"), EPERM, "expected mode 2770");
	assert_int_equal(chmod(vm, 02775), 0);
	fails(rundir_create("vm"), EPERM, "expected mode 2770");
	snprintf(vm, sizeof(vm), "%s/link", base);
	assert_int_equal(symlink(base, vm), 0);
	fails(rundir_create("link"), ENOTDIR, "not a folder");
}

static void test_shared_folders_of_others(void **state)
{
	char base[96], vm[128];

	(void)state;
	need_root();
	make_shared(base, sizeof(base));
	assert_int_equal(chown(base, 0, GROUP) | chmod(base, 02770), 0);
	assert_int_equal(as_user(MEMBER, MEMBER, true, base_error), 0);
	assert_int_equal(as_user(MEMBER, GROUP, false, base_error), 0); // his primary group
	assert_int_equal(as_user(STRANGER, STRANGER, false, base_error), EACCES);
	assert_int_equal(as_user(MEMBER, MEMBER, true, create_error), 0);
	snprintf(vm, sizeof(vm), "%s/theirs", base);
	assert_int_equal(mode_of(vm), 02770);
	assert_int_equal(as_user(STRANGER, STRANGER, true, create_error), 0); // there already, of another member
	assert_int_equal(chown(vm, MEMBER, MEMBER) | chmod(vm, 02770), 0);
	assert_int_equal(as_user(STRANGER, STRANGER, true, create_error), EPERM); // of another group
	assert_int_equal(chown(base, STRANGER, GROUP) | chmod(base, 02770), 0);
	assert_int_equal(as_user(MEMBER, MEMBER, true, base_error), EPERM); // of neither root nor this user
	assert_int_equal(as_user(STRANGER, STRANGER, true, base_error), 0);
	assert_int_equal(base_error(), 0); // root may be told another user's
}

// ---- Who may connect ----------------------------------------------------------------------------------------

static char socket_link[40]; // /proc/self/fd/N of the socket: the way past the folder, which would keep most of them out already

// -> 0: welcome.
static int connect_and_read(void)
{
	char byte = 1;
	int fd = -1;
	struct error *error = sock_connect_unix(socket_link, SOCK_STREAM, 0, &fd);

	if (error)
		return 99;
	return read(fd, &byte, 1) == 1 ? byte : 98;
}

// Whether the user may have what a listener in MEMBER's process serves.
static bool is_welcome(int listener, uid_t uid, gid_t gid, bool with_group)
{
	pid_t pid = fork();
	int status, answer;

	assert_true(pid >= 0);
	if (pid == 0) {
		const gid_t groups[] = { GROUP };

		if (setgroups(1, groups) || setresgid(MEMBER, MEMBER, MEMBER) || setresuid(MEMBER, MEMBER, MEMBER))
			_exit(1);
		int fd = accept(listener, NULL, NULL);
		char refusal = !sock_peer_is_allowed(fd);
		_exit(write(fd, &refusal, 1) != 1);
	}
	answer = as_user(uid, gid, with_group, connect_and_read);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_in_range(answer, 0, 1);
	return answer == 0;
}

static int listen_for_all(void)
{
	char path[RUNDIR_PATH_MAX];
	int listener, fd;

	ok(rundir_path("theirs", "kd.sock", path));
	ok(sock_listen_unix(path, SOCK_STREAM, 0, &listener));
	assert_int_equal(chmod(path, 0666), 0); // the rule alone is asked
	fd = open(path, O_PATH);
	assert_true(fd >= 0);
	snprintf(socket_link, sizeof(socket_link), "/proc/self/fd/%d", fd);
	return listener;
}

static void test_peers(void **state)
{
	char base[96], path[RUNDIR_PATH_MAX];
	int listener;

	(void)state;
	need_root();
	make_shared(base, sizeof(base));
	assert_int_equal(chown(base, 0, GROUP) | chmod(base, 02770), 0);
	assert_int_equal(as_user(MEMBER, MEMBER, true, create_error), 0);
	listener = listen_for_all();
	assert_false(is_welcome(listener, STRANGER, STRANGER, false));
	assert_true(is_welcome(listener, STRANGER, STRANGER, true));
	assert_true(is_welcome(listener, STRANGER, GROUP, false));
	assert_true(is_welcome(listener, MEMBER, MEMBER, false));
	assert_true(is_welcome(listener, 0, 0, false));
	close(listener);
	// In a folder of one user no group helps.
	assert_int_equal(chown(base, MEMBER, GROUP) | chmod(base, 0700), 0);
	ok(rundir_path("theirs", "kd.sock", path));
	unlink(path);
	listener = listen_for_all();
	assert_false(is_welcome(listener, STRANGER, STRANGER, true));
	assert_false(is_welcome(listener, STRANGER, GROUP, false));
	assert_true(is_welcome(listener, MEMBER, MEMBER, false));
	assert_true(is_welcome(listener, 0, 0, false));
	close(listener);
}

// ---- Start ----------------------------------------------------------------------------------------------------

static int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/vmkd-rundir-XXXXXX");
	return mkdtemp(scratch) && chmod(scratch, 0755) == 0 ? 0 : -1;
}

static int remove_scratch(void **state)
{
	char command[100];

	(void)state;
	unsetenv("VMKD_RUNTIME_DIR");
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_folders),
		cmocka_unit_test(test_shared_folders_that_are_not),
		cmocka_unit_test(test_shared_folders_of_others),
		cmocka_unit_test(test_peers),
	};

	return cmocka_run_group_tests_name("rundir", tests, make_scratch, remove_scratch) ? 1 : 0;
}
