// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/installed.h"

// This program, copied into BIN of a tree of its own, looks for argv[1] there.
static int look(const char *file)
{
	char *path = NULL;
	struct error *err = installed_find(file, &path);

	printf("%s\n", err ? "not found" : path);
	error_free(err);
	free(path);
	return 0;
}

static void run(const char *command)
{
	assert_int_equal(system(command), 0);
}

struct tree {
	char root[64];
};

static int make_tree(void **state)
{
	static struct tree t;
	char command[256];

	strcpy(t.root, "/tmp/vmkd-installed-XXXXXX");
	assert_non_null(mkdtemp(t.root));
	snprintf(command, sizeof(command), "mkdir -p %s/bin %s/lib/vmkd %s/share/vmkd/guest && cp /proc/%d/exe %s/bin/look", t.root, t.root, t.root, (int)getpid(), t.root);
	run(command);
	*state = &t;
	return 0;
}

static int remove_tree(void **state)
{
	struct tree *t = *state;
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", t->root);
	run(command);
	return 0;
}

static void put(const struct tree *t, const char *path)
{
	char command[256];

	snprintf(command, sizeof(command), "echo x > %s/%s", t->root, path);
	run(command);
}

static void expect_found(const struct tree *t, const char *file, const char *where)
{
	char command[256], line[256] = "", expected[256];
	FILE *out;

	snprintf(command, sizeof(command), "%s/bin/look %s", t->root, file);
	out = popen(command, "r");
	assert_non_null(out);
	assert_non_null(fgets(line, sizeof(line), out));
	assert_int_equal(pclose(out), 0);
	line[strcspn(line, "\n")] = 0;
	snprintf(expected, sizeof(expected), "%s%s%s", where ? t->root : "not found", where ? "/" : "", where ? where : "");
	assert_string_equal(line, expected);
}

static void what_is_nowhere_is_not_found(void **state)
{
	expect_found(*state, "libvmkd-vmm.so", NULL);
}

static void each_place_is_looked_at(void **state)
{
	struct tree *t = *state;

	put(t, "share/vmkd/guest/kdvmkd.dll");
	expect_found(t, "guest/kdvmkd.dll", "share/vmkd/guest/kdvmkd.dll");
	put(t, "lib/vmkd/libvmkd-vmm.so");
	expect_found(t, "libvmkd-vmm.so", "lib/vmkd/libvmkd-vmm.so");
	put(t, "bin/libvmkd-vmm.so"); // a build folder comes first
	expect_found(t, "libvmkd-vmm.so", "bin/libvmkd-vmm.so");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_nowhere_is_not_found, make_tree, remove_tree),
		cmocka_unit_test_setup_teardown(each_place_is_looked_at, make_tree, remove_tree),
	};

	if (argc > 1)
		return look(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
