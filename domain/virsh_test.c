// SPDX-License-Identifier: MIT
// virsh that is not there, that fails, that says too much: a script of the test's own is found in PATH in its place.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "domain/virsh.h"

static char folder[64], script[96];
static const char *const words[] = { "dominfo", "--domain", "a b", NULL };

static void be_virsh(const char *text)
{
	FILE *file = fopen(script, "w");

	assert_non_null(file);
	fprintf(file, "#!/bin/sh\nPATH=/usr/bin:/bin\n%s\n", text);
	fclose(file);
	assert_int_equal(chmod(script, 0755), 0);
}

static unsigned count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void fails(int code, const char *part)
{
	char *ret = NULL;
	struct error *error = virsh_ask("qemu:///system", words, &ret);

	assert_non_null(error);
	assert_null(ret);
	if (error->code != code || !strstr(error->text, part))
		fail_msg("expected %d and '%s', got %d: %s", code, part, error->code, error->text);
	error_free(error);
}

static void answers(const char *uri, const char *expected)
{
	char *ret = NULL;
	struct error *error = virsh_ask(uri, words, &ret);

	if (error)
		fail_msg("%s", error->text);
	assert_string_equal(ret, expected);
	free(ret);
}

static void test_failures(void **state)
{
	unsigned before = count_descriptors();

	(void)state;
	unlink(script);
	fails(ENOENT, "libvirt-clients");
	be_virsh("echo half an answer; echo 'error: failed to get domain' >&2; echo 'error: no such thing' >&2; exit 1");
	fails(EIO, "virsh: failed to get domain error: no such thing");
	be_virsh("exit 3");
	fails(EIO, "says nothing");
	be_virsh("kill -9 $$");
	fails(EIO, "was killed");
	be_virsh("exec cat /dev/zero");
	fails(EFBIG, "more than");
	be_virsh("head -c 3000 /dev/zero | tr '\\0' x >&2; exit 1");
	fails(EIO, "xxx");
	assert_int_equal(count_descriptors(), before);
}

static void test_answers(void **state)
{
	(void)state;
	be_virsh("for word; do echo \"<$word>\"; done; echo $LC_ALL");
	answers("qemu:///system", "<-q>\n<--connect>\n<qemu:///system>\n<dominfo>\n<--domain>\n<a b>\nC\n");
	answers(NULL, "<-q>\n<dominfo>\n<--domain>\n<a b>\nC\n");
	be_virsh("cat; echo 'a warning' >&2"); // nothing to read there: no terminal's input is taken
	answers(NULL, "");
	be_virsh("yes | head -c 200000 | tr -d '\\n'"); // more than a pipe holds
	{
		char *ret = NULL;

		assert_null(virsh_ask(NULL, words, &ret));
		assert_int_equal(strlen(ret), 100000);
		free(ret);
	}
}

static void test_define(void **state)
{
	char expected[128], got[128] = "";
	struct error *error;
	FILE *file;

	(void)state;
	be_virsh("shift 3; [ $# = 2 ] && [ $1 = define ] && cat \"$2\" > \"${0%/*}/defined\"");
	error = virsh_define("qemu:///session", "<domain>\n</domain>\n");
	if (error)
		fail_msg("%s", error->text);
	snprintf(expected, sizeof(expected), "%s/defined", folder);
	file = fopen(expected, "r");
	assert_non_null(file);
	assert_true(fread(got, 1, sizeof(got) - 1, file) > 0);
	fclose(file);
	unlink(expected);
	assert_string_equal(got, "<domain>\n</domain>\n");
	be_virsh("echo 'error: XML error' >&2; exit 1");
	error = virsh_define(NULL, "<domain/>");
	assert_non_null(error);
	assert_non_null(strstr(error->text, "XML error"));
	error_free(error);
}

static void test_lines(void **state)
{
	static const char text[] = "Id:             -\nState:          shut off\nManaged save:   no\nPersistent: yes";

	(void)state;
	assert_true(virsh_line_is(text, "State", "shut off"));
	assert_true(virsh_line_is(text, "Persistent", "yes"));
	assert_true(virsh_line_is(text, "Managed save", "no"));
	assert_false(virsh_line_is(text, "State", "shut"));
	assert_false(virsh_line_is(text, "State", "shut off now"));
	assert_false(virsh_line_is(text, "save", "no"));
	assert_false(virsh_line_is(text, "Sta", "shut off"));
	assert_false(virsh_line_is("", "State", ""));
}

static int make_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/vmkd-virsh-test-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(script, sizeof(script), "%s/virsh", folder);
	return setenv("PATH", folder, 1); // and the real one is not found; the scripts set their own
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(script);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_define),
		cmocka_unit_test(test_lines),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
