// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/qemu_args.h"

#define MIB (UINT64_C(1) << 20)

static struct qemu_args args;

// Words of a command line, split at blanks.
static int split(const char *line, char **argv, char *copy, size_t size)
{
	int argc = 0;

	snprintf(copy, size, "%s", line);
	for (char *word = strtok(copy, " "); word && argc < 31; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	return argc;
}

static struct error *read_line(const char *line, bool debugcon)
{
	char copy[1024], *argv[32];
	int argc = split(line, argv, copy, sizeof(copy));

	return qemu_read_args(argc, argv, debugcon, &args);
}

static void reads(const char *line, bool debugcon)
{
	struct error *error = read_line(line, debugcon);

	if (error)
		fail_msg("%s: %s", line, error->text);
}

static void refuses(const char *line, const char *part)
{
	struct error *error = read_line(line, true);

	if (!error)
		fail_msg("%s: was not refused", line);
	if (!strstr(error->text, part))
		fail_msg("%s: '%s' does not mention '%s'", line, error->text, part);
	error_free(error);
}

static void test_memory_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t size;
	} good[] = {
		{ "512", 512 * MIB }, { "512M", 512 * MIB }, { "6G", 6144 * MIB }, { "6g", 6144 * MIB }, { "1.5G", 1536 * MIB },
		{ "size=4096M,slots=2,maxmem=8G", 4096 * MIB }, { "2G,slots=4,maxmem=16G", 2048 * MIB }, { "0x100", 256 * MIB },
		{ "1048576k", 1024 * MIB }, { "134217728b", 128 * MIB }, { "slots=2,maxmem=8G", 0 }, { "512,size=1G", 1024 * MIB },
		{ "1000001b", 1007616 }, // rounded up to 8 KiB, as QEMU does
	};
	uint64_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct error *error = qemu_parse_memory(good[i].text, &size);

		if (error)
			fail_msg("%s", error->text);
		assert_true(size == good[i].size);
	}
}

static void test_bad_memory_sizes(void **state)
{
	static const char *const bad[] = { "size=", "x", "-5", "0", "6X", "6GB", "1e99", "nan", "inf", "99999999999999999999G", "size=0", "0x", " 5" };
	uint64_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error *error = qemu_parse_memory(bad[i], &size);

		if (!error)
			fail_msg("-m %s was not refused", bad[i]);
		error_free(error);
	}
}

static void test_accelerators(void **state)
{
	(void)state;
	reads("qemu-system-x86_64 -m 512", false);
	assert_int_equal(args.accel, QEMU_ACCEL_OTHER);
	reads("qemu-system-x86_64 -enable-kvm", false);
	assert_int_equal(args.accel, QEMU_ACCEL_KVM);
	reads("qemu-system-x86_64 --accel kvm,kernel-irqchip=split", false);
	assert_int_equal(args.accel, QEMU_ACCEL_KVM);
	reads("qemu-system-x86_64 -machine q35,accel=kvm:tcg", false);
	assert_int_equal(args.accel, QEMU_ACCEL_KVM_OR_OTHER);
	reads("qemu-system-x86_64 -accel kvm -accel tcg", false);
	assert_int_equal(args.accel, QEMU_ACCEL_KVM_OR_OTHER);
	reads("qemu-system-x86_64 -M pc,accel=tcg", false);
	assert_int_equal(args.accel, QEMU_ACCEL_OTHER);
	reads("/usr/bin/kvm -m 1G", false);
	assert_int_equal(args.accel, QEMU_ACCEL_KVM);
	reads("qemu-system-x86_64 -append -enable-kvm -name -daemonize", false);
	assert_int_equal(args.accel, QEMU_ACCEL_OTHER);
	assert_false(args.is_daemonized);
}

static void test_ram(void **state)
{
	(void)state;
	reads("qemu-system-x86_64", true);
	assert_true(args.ram_size == 128 * MIB);
	reads("qemu-system-x86_64 -m 1G --m 2G -append -m 5", true);
	assert_true(args.ram_size == 2048 * MIB);
	assert_string_equal(args.ram_id, "");
	reads("qemu-system-x86_64 -m 2G -object memory-backend-memfd,id=ram0,size=2G -machine q35,memory-backend=ram0", true);
	assert_string_equal(args.ram_id, "ram0");
	reads("qemu-system-x86_64 -m 2G -object memory-backend-file,id=m,mem-path=/dev/shm/a,,b,share=on,size=2G -numa node,memdev=m", true);
	assert_string_equal(args.ram_id, "m");
	reads("qemu-system-x86_64 -object {\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"share\":true} -M memory-backend=m", true);
	assert_string_equal(args.ram_id, "m");
}

static void test_ram_that_cannot_be_reached(void **state)
{
	(void)state;
	refuses("qemu -M memory-backend=m -object memory-backend-ram,id=m,size=1G", "memory-backend-ram");
	refuses("qemu -M memory-backend=m -object memory-backend-ram,id=m,size=1G,share=on", "memory-backend-memfd");
	refuses("qemu -M memory-backend=m -object memory-backend-file,id=m,size=1G,mem-path=/x", "share=on");
	refuses("qemu -M memory-backend=m -object memory-backend-memfd,id=m,size=1G,share=off", "share=on");
	refuses("qemu -M memory-backend=m", "no -object");
	refuses("qemu -mem-path /dev/hugepages", "-mem-path");
	refuses("qemu -object memory-backend-memfd,id=a,size=1G -object memory-backend-memfd,id=b,size=1G -numa node,memdev=a -numa node,memdev=b",
		"NUMA");
	refuses("qemu -m lots", "expected a size");
	reads("qemu -mem-path /dev/hugepages", false); // the hook does not care
}

static void test_whose_ram_may_be_shared(void **state)
{
	static const char *const free_lines[] = {
		"kvm -m 2G", "qemu -machine q35,accel=kvm", "qemu -M pc-i440fx-7.2", "qemu -machine accel=kvm -M microvm", "qemu -M isapc",
		"qemu -m 1G,slots=2,maxmem=4G -mem-prealloc -object memory-backend-ram,id=d,size=1G -device pc-dimm,memdev=d",
		"qemu -append -mem-path -name memory-backend=x",
	};
	static const char *const wishes[] = {
		"qemu -M q35,memory-backend=m -object memory-backend-file,id=m,mem-path=/dev/hugepages,size=1G", "qemu -numa node,memdev=m",
		"qemu -numa node,mem=1G", "qemu -mem-path /dev/hugepages -mem-prealloc", "qemu -M pc,memory-encryption=sev0",
		"qemu -M pc,confidential-guest-support=tdx", "qemu -M memory.size=1G", "qemu -readconfig vm.cfg", "qemu -M x-remote",
		"qemu -M pc -machine none",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(free_lines) / sizeof(free_lines[0]); i++) {
		reads(free_lines[i], false);
		if (!qemu_may_share_ram(&args))
			fail_msg("%s: nothing speaks against it", free_lines[i]);
	}
	for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
		reads(wishes[i], false);
		if (qemu_may_share_ram(&args))
			fail_msg("%s: that is the user's", wishes[i]);
	}
}

// What is added behind the QMP socket.
static void expect_ram(const char *line, enum qemu_additions additions, const char *expected)
{
	char copy[256], *argv[32], **longer, ram_id[QEMU_ID_MAX], joined[1024] = "";
	int argc = split(line, argv, copy, sizeof(copy));

	reads(line, false);
	assert_null(qemu_extend_args(argc, argv, "vm", &args, additions, &longer, ram_id));
	for (char **at = longer + argc + 2; *at; at++)
		snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s ", *at);
	assert_string_equal(joined, expected);
	assert_string_equal(ram_id, "");
	qemu_free_args(longer);
}

static void test_ram_for_the_hook(void **state)
{
	(void)state;
	expect_ram("kvm -m 1G", QEMU_ADD_QMP, "");
	expect_ram("kvm -m 1G", QEMU_ADD_SHARED_RAM,
		   "-object memory-backend-memfd,id=pc.ram,size=1073741824,share=on -machine memory-backend=pc.ram ");
	expect_ram("kvm -M microvm", QEMU_ADD_SHARED_RAM,
		   "-object memory-backend-memfd,id=microvm.ram,size=134217728,share=on -machine memory-backend=microvm.ram ");
}

static void test_extended_line(void **state)
{
	char copy[256], *argv[32], **longer, ram_id[QEMU_ID_MAX], joined[4096] = "";
	int argc = split("qemu-system-x86_64 -m 6G", argv, copy, sizeof(copy));

	(void)state;
	setenv("VMKD_RUNTIME_DIR", "/r,un", 1);
	reads("qemu-system-x86_64 -m 6G", true);
	assert_null(qemu_extend_args(argc, argv, "vm", &args, QEMU_ADD_DEBUGCON, &longer, ram_id));
	for (char **at = longer; *at; at++)
		snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s ", *at);
	assert_string_equal(joined,
			    "qemu-system-x86_64 -m 6G -qmp unix:/r,,un/vm/qmp.sock,server=on,wait=off "
			    "-chardev socket,id=vmkd-debugcon,path=/r,,un/vm/debugcon.sock,server=on,wait=off "
			    "-device isa-debugcon,iobase=0x565a,readback=0x4b,chardev=vmkd-debugcon "
			    "-qmp unix:/r,,un/vm/monitor.sock,server=on,wait=off "
			    "-object memory-backend-memfd,id=pc.ram,size=6442450944,share=on -machine memory-backend=pc.ram ");
	assert_string_equal(ram_id, "pc.ram");
	qemu_free_args(longer);
	assert_null(qemu_extend_args(argc, argv, "vm", &args, QEMU_ADD_QMP, &longer, ram_id));
	assert_string_equal(longer[argc], "-qmp");
	assert_null(longer[argc + 2]);
	assert_string_equal(ram_id, "");
	qemu_free_args(longer);
	unsetenv("VMKD_RUNTIME_DIR");
}

static void test_doorbell_elsewhere(void **state)
{
	static const char *const expected[] = { "-chardev", "socket,id=vmkd-debugcon,path=/a,,b/c.sock,server=on,wait=off", "-device",
						"isa-debugcon,iobase=0x565a,readback=0x4b,chardev=vmkd-debugcon", "-qmp",
						"unix:/m.sock,server=on,wait=off" };
	char **argv = NULL;

	(void)state;
	assert_null(qemu_doorbell_args("/a,b/c.sock", "/m.sock", &argv));
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
		assert_string_equal(argv[i], expected[i]);
	assert_null(argv[sizeof(expected) / sizeof(expected[0])]);
	qemu_free_args(argv);
}

static void test_programs(void **state)
{
	(void)state;
	assert_true(qemu_is_system_emulator("qemu-system-x86_64"));
	assert_true(qemu_is_system_emulator("/opt/qemu/bin/qemu-system-i386"));
	assert_true(qemu_is_system_emulator("kvm"));
	assert_false(qemu_is_system_emulator("qemu-system-aarch64"));
	assert_false(qemu_is_system_emulator("cloud-hypervisor"));
	assert_false(qemu_is_system_emulator("qemu-system-x86_64/x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_sizes),
		cmocka_unit_test(test_bad_memory_sizes),
		cmocka_unit_test(test_accelerators),
		cmocka_unit_test(test_ram),
		cmocka_unit_test(test_ram_that_cannot_be_reached),
		cmocka_unit_test(test_whose_ram_may_be_shared),
		cmocka_unit_test(test_ram_for_the_hook),
		cmocka_unit_test(test_extended_line),
		cmocka_unit_test(test_doorbell_elsewhere),
		cmocka_unit_test(test_programs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
