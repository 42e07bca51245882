// SPDX-License-Identifier: MIT
// Which of a process's files is taken for the guest's RAM.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/guest_ram.h"

#define SIZE 0x123000u
#define USER 61001

static int make_file(uint64_t size)
{
	int fd = memfd_create("guest-ram-test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

// A process with that one file open. user: 0 = as we are.
static pid_t start_process(int fd, int flags, uid_t user)
{
	char path[40], ready;
	int pipes[2], own;
	pid_t pid;

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, flags);
		close(fd);
		if (user && (setresgid(user, user, user) || setresuid(user, user, user) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)))
			_exit(1);
		prctl(PR_SET_PDEATHSIG, SIGKILL); // a change of users forgets it
		if (own >= 0 && write(pipes[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &ready, 1), 1);
	close(pipes[0]);
	return pid;
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static bool opens(pid_t pid, uid_t owner, uint64_t size)
{
	struct guest_ram ram;
	struct error *error;
	bool is_open;

	guest_ram_init(&ram);
	error = guest_ram_open(&ram, pid, owner, size);
	error_free(error);
	is_open = ram.fd >= 0;
	assert_int_equal(is_open, !error);
	guest_ram_close(&ram);
	return is_open;
}

static void test_takes_the_file_of_that_size(void **state)
{
	int fd = make_file(SIZE);
	pid_t pid = start_process(fd, O_RDWR, 0);

	(void)state;
	assert_true(opens(pid, geteuid(), SIZE));
	assert_false(opens(pid, geteuid(), SIZE + 4096));
	end_process(pid);
	assert_false(opens(pid, geteuid(), SIZE));
	close(fd);
}

// What the VMM cannot write is not its guest's RAM, though we could.
static void test_leaves_what_is_open_for_reading(void **state)
{
	int fd = make_file(SIZE);
	pid_t pid = start_process(fd, O_RDONLY, 0);

	(void)state;
	assert_false(opens(pid, geteuid(), SIZE));
	end_process(pid);
	close(fd);
}

static void test_leaves_other_users_processes(void **state)
{
	int fd = make_file(SIZE);
	pid_t pid;

	(void)state;
	if (geteuid())
		skip(); // only root could take them
	pid = start_process(fd, O_RDWR, USER);
	assert_true(opens(pid, USER, SIZE));
	assert_false(opens(pid, USER + 1, SIZE));
	end_process(pid);
	pid = start_process(fd, O_RDWR, 0);
	assert_false(opens(pid, USER, SIZE));
	end_process(pid);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_takes_the_file_of_that_size),
		cmocka_unit_test(test_leaves_what_is_open_for_reading),
		cmocka_unit_test(test_leaves_other_users_processes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
