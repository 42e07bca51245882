// SPDX-License-Identifier: MIT
// The VM's folder: which are trusted, what is made, and who may attach. Users and groups here exist nowhere; only root can be them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/folder.h"

#define VM_USER 61001u
#define OTHER 61002u
#define GROUP 61010u

static char scratch[] = "/tmp/vmkd-folder-XXXXXX";
static char base[64], vm[80];

static void become(uid_t uid, gid_t gid, bool with_group)
{
	const gid_t groups[] = { GROUP };
	if (setgroups(with_group, groups) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		_exit(101);
}

static int status_of(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 100);
	return WEXITSTATUS(status);
}

static void need_root(void)
{
	if (geteuid() == 0)
		return;
	print_message("only root can be two users\n");
	skip();
}

// A base of this owner, group and mode, without a VM's folder in it.
static void make_base(uid_t uid, gid_t gid, mode_t mode)
{
	(void)rmdir(vm);
	assert_int_equal(chown(base, uid, gid), 0);
	assert_int_equal(chmod(base, mode), 0);
}

// -> what folder_make says in a process of this user; its lines on stderr are not shown.
static bool makes(uid_t uid, bool with_group)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		become(uid, uid, with_group);
		umask(077);
		if (!freopen("/dev/null", "w", stderr))
			_exit(102);
		bool is_made = folder_make(base, vm);
		_exit(is_made ? folder_socket_mode() == 0660 ? 2 : 1 : 0);
	}
	int status = status_of(pid);
	if (status)
		assert_int_equal(status, with_group ? 2 : 1);
	return status;
}

static mode_t mode_of(const char *path)
{
	struct stat st;
	assert_int_equal(lstat(path, &st), 0);
	return st.st_mode & 07777;
}

static void bases_that_are_refused(void **state)
{
	(void)state;
	static const mode_t open_ones[] = { 0770, 0777, 01777, 02775, 02771, 02730, 0720 };
	need_root();
	for (size_t i = 0; i < sizeof(open_ones) / sizeof(open_ones[0]); i++) {
		make_base(VM_USER, GROUP, open_ones[i]);
		assert_false(makes(VM_USER, true));
		make_base(0, GROUP, open_ones[i]);
		assert_false(makes(VM_USER, true));
	}
	make_base(OTHER, GROUP, 02770); // of neither root nor this user
	assert_false(makes(VM_USER, true));
	make_base(0, GROUP, 02770);
	assert_false(makes(VM_USER, false)); // not in the group
	make_base(OTHER, OTHER, 0700);
	assert_false(makes(VM_USER, true));
}

static void a_folder_of_one_user(void **state)
{
	(void)state;
	need_root();
	make_base(VM_USER, VM_USER, 0700);
	assert_true(makes(VM_USER, false));
	assert_int_equal(mode_of(vm), 0700);
	assert_int_equal(chown(vm, OTHER, OTHER), 0);
	assert_false(makes(VM_USER, false));
}

static void a_folder_of_a_group(void **state)
{
	(void)state;
	need_root();
	make_base(0, GROUP, 02770);
	assert_true(makes(VM_USER, true));
	assert_int_equal(mode_of(vm), 02770); // whatever the umask
	assert_true(makes(OTHER, true));       // there already, made by a member
	assert_int_equal(chmod(vm, 0700), 0);
	assert_false(makes(VM_USER, true)); // no use to the group
	assert_int_equal(chown(vm, VM_USER, VM_USER) | chmod(vm, 02770), 0);
	assert_false(makes(VM_USER, true)); // another group's
	make_base(VM_USER, GROUP, 02770);
	assert_true(makes(VM_USER, true));
}

// Whether the VM's user admits a peer that was this user when the connection was made: one process is both, one after the other.
static bool admits(uid_t uid, gid_t gid, bool with_group)
{
	const gid_t groups[] = { GROUP };
	int ends[2];
	struct ucred peer;
	socklen_t len = sizeof(peer);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (setgroups(with_group, groups) || setegid(gid) || seteuid(uid) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
			_exit(101);
		if (seteuid(0) || setegid(0) || getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.uid != uid)
			_exit(102);
		become(VM_USER, VM_USER, true);
		if (!folder_make(base, vm))
			_exit(103);
		_exit(folder_admits(ends[0], &peer));
	}
	return status_of(pid);
}

static void who_may_attach(void **state)
{
	(void)state;
	need_root();
	make_base(0, GROUP, 02770);
	assert_true(admits(VM_USER, VM_USER, false));
	assert_true(admits(0, 0, false));
	assert_true(admits(OTHER, OTHER, true));
	assert_true(admits(OTHER, GROUP, false));
	assert_false(admits(OTHER, OTHER, false));
	make_base(VM_USER, GROUP, 0700);
	assert_true(admits(VM_USER, VM_USER, false));
	assert_true(admits(0, 0, false));
	assert_false(admits(OTHER, OTHER, true)); // a group does not help here
	assert_false(admits(OTHER, GROUP, false));
	assert_false(admits(OTHER, OTHER, false));
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(scratch) || chmod(scratch, 0755))
		return -1;
	snprintf(base, sizeof(base), "%s/run", scratch);
	snprintf(vm, sizeof(vm), "%s/vm", base);
	return mkdir(base, 0700);
}

static int clean_up(void **state)
{
	(void)state;
	(void)rmdir(vm);
	(void)rmdir(base);
	return rmdir(scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bases_that_are_refused),
		cmocka_unit_test(a_folder_of_one_user),
		cmocka_unit_test(a_folder_of_a_group),
		cmocka_unit_test(who_may_attach),
	};
	return cmocka_run_group_tests_name("folder", tests, set_up, clean_up) ? 1 : 0;
}
