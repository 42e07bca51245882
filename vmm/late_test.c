// SPDX-License-Identifier: MIT
// libvmkd-vmm.so loaded by a VMM whose VM is there already: this program, with the guest of vmm/tiny_vm. The steps in the order of vmm/late.h, and each
// wrong one before the right one. Exit status 77: no KVM here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/late.h"
#include "vmm/tiny_vm.h"

#define SKIPPED 77
#define NAME "latetest"
#define NEW_GPA (20u << 20)

static struct late_args args;
static void (*attach)(struct late_args *);
static char folder[] = "/tmp/vmkd-late-XXXXXX";

static uint32_t step(enum late_step what)
{
	args.version = LATE_VERSION;
	args.step = what;
	args.outcome = LATE_UNANSWERED;
	snprintf(args.name, sizeof(args.name), "%s", NAME);
	snprintf(args.folder, sizeof(args.folder), "%s", folder);
	attach(&args);
	return args.outcome;
}

// What the monitor would say.
static void fill_slots(bool has_extra)
{
	args.slots[0] = (struct late_slot){ .gpa = 0, .size = RAM_SIZE, .host = (uintptr_t)m.ram };
	args.slots[1] = (struct late_slot){ .gpa = EXTRA_GPA, .size = EXTRA_SIZE, .host = (uintptr_t)m.extra };
	args.slot_count = has_extra ? 2 : 1;
}

static void assert_left_to_the_vmm(void)
{
	layout_area(m.ram, 0, AREA_FIRST);
	load_register();
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_LEFT_TO_VMM);
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE); // its OUT
}

static void other_versions_are_refused(void **state)
{
	(void)state;
	args = (struct late_args){ .version = LATE_VERSION + 1, .step = LATE_HOOK };
	attach(&args);
	assert_int_equal(args.outcome, LATE_REFUSED);
	assert_non_null(strstr(args.text, "version"));
}

static void slots_before_the_hook_are_refused(void **state)
{
	(void)state;
	fill_slots(true);
	assert_int_equal(step(LATE_MEMORY), LATE_REFUSED);
}

static void a_folder_that_cannot_be_is_refused_and_another_taken(void **state)
{
	(void)state;
	args = (struct late_args){ .version = LATE_VERSION, .step = LATE_HOOK, .name = NAME, .folder = "/dev/null" };
	attach(&args);
	assert_int_equal(args.outcome, LATE_REFUSED);
	assert_non_null(strstr(args.text, "/dev/null"));
	assert_left_to_the_vmm();
}

static void until_the_slots_are_told_calls_are_the_vmms(void **state)
{
	(void)state;
	assert_int_equal(step(LATE_HOOK), LATE_DONE);
	assert_true(args.is_blind);
	assert_int_equal(args.vcpu_count, 2);
	assert_int_equal(args.vcpus_seen, 0);
	assert_left_to_the_vmm();
	assert_int_equal(step(LATE_HOOK), LATE_ALREADY); // as after a caller that died
	assert_true(args.is_blind);
	assert_int_equal(args.vcpus_seen, 1);
}

static void slots_that_cannot_be_are_refused(void **state)
{
	(void)state;
	assert_int_equal(step(LATE_STATUS), LATE_DONE);
	fill_slots(true);
	args.slots[1].host++;
	assert_int_equal(step(LATE_MEMORY), LATE_REFUSED);
	fill_slots(true);
	args.slots[1].size = 0;
	assert_int_equal(step(LATE_MEMORY), LATE_REFUSED);
	fill_slots(true);
	args.slots[0].gpa = UINT64_MAX - 4095;
	assert_int_equal(step(LATE_MEMORY), LATE_REFUSED);
	fill_slots(true);
	args.slot_count = LATE_SLOTS_MAX + 1;
	assert_int_equal(step(LATE_MEMORY), LATE_REFUSED);
	assert_true(step(LATE_STATUS) == LATE_DONE && args.is_blind);
}

static void slots_of_before_a_change_are_refused(void **state)
{
	(void)state;
	assert_int_equal(step(LATE_STATUS), LATE_DONE);
	uint32_t before = args.changes;
	assert_int_equal(set_slot(5, NEW_GPA, EXTRA_SIZE, m.extra), 0);
	assert_int_equal(set_slot(5, NEW_GPA, 0, m.extra), 0);
	fill_slots(true);
	assert_int_equal(step(LATE_MEMORY), LATE_CHANGED);
	assert_int_equal(args.changes, before + 2);
	assert_true(args.is_blind);
	fill_slots(true);
	assert_int_equal(step(LATE_MEMORY), LATE_DONE); // with the count that came back
	assert_false(args.is_blind);
	register_area();
}

static void a_slot_that_goes_is_known_by_its_addresses(void **state)
{
	(void)state;
	register_area();
	assert_int_equal(set_slot(1, EXTRA_GPA, 0, m.extra), 0);
	assert_int_equal(step(LATE_STATUS), LATE_DONE);
	assert_false(args.is_blind);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_NOBODY); // still registered
	layout_area(m.extra, EXTRA_GPA, 16);
	load_register();
	assert_code(CODE_REFUSED); // no RAM any more
	assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
	register_area();
}

// Number 0 is m.ram's; by the number alone nobody can say so.
static void a_slot_that_goes_and_is_not_known_makes_blind(void **state)
{
	(void)state;
	register_area();
	assert_int_equal(set_slot(0, 0, 0, NULL), 0);
	assert_int_equal(step(LATE_STATUS), LATE_DONE);
	assert_true(args.is_blind);
	assert_int_equal(set_slot(0, 0, RAM_SIZE, m.ram), 0);
	assert_left_to_the_vmm();
	assert_int_equal(step(LATE_HOOK), LATE_ALREADY);
	fill_slots(true);
	assert_int_equal(step(LATE_MEMORY), LATE_DONE);
	register_area();
}

static void each_vcpu_comes_through(void **state)
{
	(void)state;
	m.cpu[1].block->ecx = 0;
	(void)cpu_run(&m.cpu[1]);
	assert_int_equal(step(LATE_STATUS), LATE_DONE);
	assert_int_equal(args.vcpus_seen, 2);
	assert_string_equal(args.name, NAME);
}

static void *load(void)
{
	char path[4096], library[4200];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
	path[len > 0 ? len : 0] = 0;
	snprintf(library, sizeof(library), "%s/../libvmkd-vmm.so", dirname(path));
	return dlopen(library, RTLD_NOW);
}

static int run(int kvm)
{
	machine_create(kvm);
	void *library = load();
	if (library)
		*(void **)&attach = dlsym(library, LATE_SYMBOL);
	if (!attach) {
		printf("the library: %s\n", dlerror());
		return 1;
	}
	alarm(120); // a hang guard, not an assertion
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_versions_are_refused),
		cmocka_unit_test(slots_before_the_hook_are_refused),
		cmocka_unit_test(a_folder_that_cannot_be_is_refused_and_another_taken),
		cmocka_unit_test(until_the_slots_are_told_calls_are_the_vmms),
		cmocka_unit_test(slots_that_cannot_be_are_refused),
		cmocka_unit_test(slots_of_before_a_change_are_refused),
		cmocka_unit_test(a_slot_that_goes_is_known_by_its_addresses),
		cmocka_unit_test(a_slot_that_goes_and_is_not_known_makes_blind),
		cmocka_unit_test(each_vcpu_comes_through),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	machine_end();
	return failed;
}

int main(void)
{
	char dir[64];
	int status = 1, kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		return SKIPPED;
	}
	if (!mkdtemp(folder))
		return 1;
	pid_t pid = fork();
	if (pid == 0)
		exit(run(kvm));
	waitpid(pid, &status, 0);
	snprintf(dir, sizeof(dir), "%s/%s", folder, NAME);
	if (rmdir(dir) || rmdir(folder)) { // fails if the library left its socket
		perror(dir);
		return 1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
