// SPDX-License-Identifier: MIT
// A monitor that says more than was asked, says it in pieces or says nonsense, and how virsh is called: a child of the test's plays QEMU, a script virsh.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/hmp.h"

#define GREETING "{\"QMP\": {}}\r\n"
#define READY "{\"return\": {}}\r\n"

static char folder[32], path[64];

// Says says[0] to who comes, and one of the others after each command.
static void be_qemu(int listener, const char *const says[])
{
	char line[512];
	int fd = accept(listener, NULL, NULL);

	for (size_t i = 0; says[i]; i++) {
		if (write(fd, says[i], strlen(says[i])) < 0 || read(fd, line, sizeof(line)) <= 0)
			break;
	}
	_exit(0);
}

static pid_t start_qemu(const char *const says[])
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pid_t pid;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	pid = fork();
	if (pid == 0)
		be_qemu(listener, says);
	close(listener);
	return pid;
}

static void stop_qemu(pid_t pid)
{
	waitpid(pid, NULL, 0);
	unlink(path);
}

static void answers(struct hmp *m, const char *expected)
{
	char *text = NULL;
	struct error *error = hmp_ask(m, "info x", &text);

	if (error)
		fail_msg("%s", error->text);
	assert_string_equal(text, expected);
	free(text);
}

// An event of which a part comes with the answer before it, and the rest with the next one.
static void events_in_pieces(void **state)
{
	static const char *const says[] = { GREETING, "{\"event\": \"A\"}\r\n" READY "{\"eve", "nt\": \"B\", \"data\": {\"x\": 1}}\r\n{\"return\": \"one\"}\r\n{\"event\":",
					    "\"C\"}\r\n{\"return\": \"two\"}\r\n", NULL };
	pid_t pid = start_qemu(says);
	struct hmp m;
	struct error *error = hmp_open_qmp(path, &m);

	(void)state;
	if (error)
		fail_msg("%s", error->text);
	answers(&m, "one");
	answers(&m, "two");
	hmp_close(&m);
	stop_qemu(pid);
}

static void no_monitors(void **state)
{
	static const char *const greetings[] = { "SSH-2.0-x\r\n", "{}\r\n", "[\"QMP\"]\n", "\n", "7\n" };

	(void)state;
	for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
		const char *const says[] = { greetings[i], NULL };
		pid_t pid = start_qemu(says);
		struct hmp m = { .fd = 77 };
		struct error *error = hmp_open_qmp(path, &m);

		assert_non_null(error);
		assert_non_null(strstr(error->text, "does not answer as a QMP monitor"));
		assert_int_equal(m.fd, 77);
		error_free(error);
		stop_qemu(pid);
	}
}

static void refusals_are_no_answers(void **state)
{
	static const char *const says[] = { GREETING, READY, "{\"error\": {\"desc\": \"no\"}}\r\n", "{\"return\": {\"text\": 1}}\r\n", NULL };
	pid_t pid = start_qemu(says);
	struct error *error;
	struct hmp m;
	char *text = NULL;

	(void)state;
	assert_null(hmp_open_qmp(path, &m));
	for (int i = 0; i < 3; i++) { // the third: it has gone
		error = hmp_ask(&m, "info x", &text);
		assert_non_null(error);
		assert_null(text);
		error_free(error);
	}
	hmp_close(&m);
	stop_qemu(pid);
}

// Whatever a domain is called, it is no option of virsh's.
static void domains_with_a_dash(void **state)
{
	char script[64];
	struct hmp m;
	FILE *file;

	(void)state;
	snprintf(script, sizeof(script), "%s/virsh", folder);
	file = fopen(script, "w");
	assert_non_null(file);
	fputs("#!/bin/sh\necho \"$*\"\n", file);
	fclose(file);
	assert_int_equal(chmod(script, 0755), 0);
	setenv("PATH", folder, 1);
	hmp_open_libvirt("--pretty", "qemu:///system", &m);
	answers(&m, "-q -c qemu:///system qemu-monitor-command --hmp --domain --pretty info x\n");
	hmp_close(&m);
	unlink(script);
}

static int make_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/vmkd-hmp-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/qmp", folder);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_monitors), cmocka_unit_test(refusals_are_no_answers), cmocka_unit_test(events_in_pieces), cmocka_unit_test(domains_with_a_dash),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
