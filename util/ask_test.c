// SPDX-License-Identifier: MIT
// Brokers that keep who asks them waiting: nobody waits for them without end.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/ask.h"
#include "util/sock.h"

static char folder[64], path[96];

static int listen_as_broker(void)
{
	int fd = -1;

	assert_null(sock_listen_unix(path, SOCK_STREAM, 0, &fd));
	return fd;
}

static void fails(int code)
{
	cJSON *answer = NULL;
	struct error *error = ask_broker("vm", ask_command("status"), &answer, NULL);

	assert_non_null(error);
	if (error->code != code)
		fail_msg("%d, not %d: %s", error->code, code, error->text);
	assert_null(answer);
	error_free(error);
}

static void says_a_byte_now_and_then(int listener)
{
	int fd = accept(listener, NULL, NULL);

	for (int i = 0; i < 400 && send(fd, "x", 1, MSG_NOSIGNAL) == 1; i++) // 8 s, and it hangs up
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	_exit(0);
}

static void a_byte_now_and_then_is_no_answer(void **state)
{
	int listener = listen_as_broker();
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		says_a_byte_now_and_then(listener);
	fails(ETIMEDOUT);
	waitpid(pid, NULL, 0);
	close(listener);
}

// Who gave up stands in its queue until it goes on.
static void a_stopped_broker_with_a_full_queue(void **state)
{
	int listener = listen_as_broker(), fds[64], count = 0;
	struct error *error = NULL;

	(void)state;
	assert_int_equal(listen(listener, 1), 0);
	while (!error && count < 64) {
		error = sock_connect_unix(path, SOCK_STREAM, SOCK_NONBLOCK, &fds[count]);
		count += !error;
	}
	assert_non_null(error);
	error_free(error);
	fails(EAGAIN);
	while (count)
		close(fds[--count]);
	close(listener);
}

static int make_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/vmkd-ask-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	setenv("VMKD_RUNTIME_DIR", folder, 1);
	snprintf(path, sizeof(path), "%s/vm", folder);
	if (mkdir(path, 0700) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/vm/ctl.sock", folder);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(path);
	path[strlen(path) - strlen("/ctl.sock")] = 0;
	return rmdir(path) || rmdir(folder) ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_byte_now_and_then_is_no_answer), cmocka_unit_test(a_stopped_broker_with_a_full_queue),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
