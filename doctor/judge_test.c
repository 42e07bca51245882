// SPDX-License-Identifier: MIT
// Every line of the doctor in every state that it has, from a machine and a VM with which everything is well and one fact changed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "doctor/judge.h"
#include "wire/link.h"

static struct doctor_host host;
static struct doctor_vm vm;
static struct doctor_line lines[DOCTOR_LINES_MAX];
static size_t line_count;

// A guest that runs, served, with a debugger.
static void be_well(void)
{
	host = (struct doctor_host){ .machine = "x86_64", .kvm_api = 12, .qemu = "/usr/bin/qemu-system-x86_64", .qemu_version = { 7, 2 }, .library = "/usr/lib/vmkd/libvmkd-vmm.so",
				     .has_modules = true, .ptrace_scope = -1, .folder = "/run/user/1/vmkd", .symbols = "https://symbols", .is_symbols_reached = FACT_YES };
	vm = (struct doctor_vm){ .name = "win", .is_alive = true, .pid = 7, .age_s = 30, .program = "/usr/bin/qemu-system-x86_64", .program_version = { 7, 2 }, .link = "hook",
				 .is_library_mapped = FACT_YES, .is_vmm_listening = true, .broker_pid = 8, .broker_version = LINK_VERSION, .state = "running",
				 .client_count = 1, .client = "pid 9 (vmkd)", .has_calls = true, .calls = 5, .call_ms = 300, .is_registered = true, .arch = "x64", .dialect = "vmkd",
				 .guest_version = "1.0", .booted_alone = FACT_NO, .ram_mode = "on", .ram_way = "file", .is_nested = FACT_NO };
}

static void judge(bool has_vm)
{
	const struct doctor_facts facts = { .host = host, .vm = has_vm ? &vm : NULL };

	line_count = doctor_judge(&facts, lines);
}

static const struct doctor_line *line_of(const char *id)
{
	for (size_t i = 0; i < line_count; i++)
		if (strcmp(lines[i].id, id) == 0)
			return &lines[i];
	fail_msg("there is no line %s", id);
	return NULL;
}

// The line has this state, and what it says, or what is to be done, has the word.
static void says(const char *id, enum doctor_state state, const char *word)
{
	const struct doctor_line *l;

	judge(true);
	l = line_of(id);
	if (l->state != state || (!strstr(l->text, word) && !strstr(l->todo, word)))
		fail_msg("%s: %s: %s -> %s; expected %s and '%s'", id, doctor_state_name(l->state), l->text, l->todo, doctor_state_name(state), word);
}

// One fact is changed, one line judged, and everything is well again.
#define CASE(id, state, word, ...) \
	do { \
		be_well(); \
		__VA_ARGS__; \
		says(id, DOCTOR_##state, word); \
	} while (0)

static void all_is_well(void **state)
{
	(void)state;
	be_well();
	judge(true);
	assert_int_equal(line_count, 20);
	for (size_t i = 0; i < line_count; i++) {
		if (lines[i].state != DOCTOR_PASSED)
			fail_msg("%s: %s", lines[i].id, lines[i].text);
		assert_true(lines[i].text[0] && !lines[i].todo[0]);
	}
	judge(false);
	assert_int_equal(line_count, 7);
	assert_int_equal(doctor_find_situation(&vm), SITUATION_TALKING);
}

// Nothing at all was found out: nothing passes but what needs nothing, and each line says what to do.
static void nothing_is_known(void **state)
{
	(void)state;
	host = (struct doctor_host){ .kvm_error = ENOENT };
	vm = (struct doctor_vm){ .name = "win", .is_alive = true };
	judge(true);
	for (size_t i = 0; i < line_count; i++) {
		bool may_pass = strcmp(lines[i].id, "vm") == 0 || strcmp(lines[i].id, "ptrace") == 0 || strcmp(lines[i].id, "folder") == 0;

		if (!may_pass && lines[i].state == DOCTOR_PASSED)
			fail_msg("%s passes: %s", lines[i].id, lines[i].text);
		if (lines[i].state != DOCTOR_PASSED)
			assert_true(lines[i].text[0] && lines[i].todo[0]);
	}
}

static void lines_of_the_machine(void **state)
{
	(void)state;
	CASE("kvm", FAILED, "adduser USER kvm", host.kvm_error = EACCES);
	CASE("kvm", FAILED, "firmware", host.kvm_error = ENOENT);
	CASE("kvm", FAILED, "version 11", host.kvm_api = 11);
	CASE("kvm", PASSED, "12", );
	CASE("kvm", PASSED, "not needed: the link is debugcon", host.kvm_error = ENOENT; strcpy(vm.link, "debugcon"));
	CASE("qemu", FAILED, "install", vm.program[0] = host.qemu[0] = 0);
	CASE("qemu", UNKNOWN, "does not say", vm.program_version = (struct doctor_version){ 0 });
	CASE("qemu", UNKNOWN, "5.2", vm.program_version = (struct doctor_version){ 5, 2 });
	CASE("qemu", UNKNOWN, "7.1", vm.program_version = (struct doctor_version){ 7, 1 });
	CASE("qemu", PASSED, "tried: 7.2", vm.program_version = (struct doctor_version){ 10, 0 });
	CASE("qemu", PASSED, "/opt/q", strcpy(vm.program, "/opt/q"));
	CASE("qemu", PASSED, "version 8.0", vm.program[0] = 0; host.qemu_version = (struct doctor_version){ 8, 0 });
	CASE("installed", FAILED, "libvmkd-vmm.so is not", host.library[0] = 0);
	CASE("installed", FAILED, "vmkd-guest", host.has_modules = false);
	CASE("installed", PASSED, "/usr/lib/vmkd", );
	CASE("folder", FAILED, "belongs to somebody", strcpy(host.folder_error, "/run/x belongs to somebody else"));
	CASE("folder", PASSED, "/run/user/1/vmkd", );
	CASE("arch", FAILED, "aarch64", strcpy(host.machine, "aarch64"));
	CASE("arch", FAILED, "emulated by qemu-system-arm", strcpy(vm.program, "/usr/bin/qemu-system-arm"));
	CASE("arch", PASSED, "x86 guest", strcpy(vm.arch, "x86"); strcpy(vm.program, "/usr/bin/qemu-system-i386"));
	CASE("arch", UNKNOWN, "not known yet", vm.arch[0] = 0);
	CASE("symbols", UNKNOWN, "no route", host.is_symbols_reached = FACT_NO; strcpy(host.symbols_error, "no route"));
	CASE("symbols", FAILED, "_NT_SYMBOL_PATH", host.is_symbols_reached = FACT_NO; host.is_symbols_chosen = true; strcpy(host.symbols_error, "no route"));
	CASE("symbols", UNKNOWN, "a proxy", host.is_symbols_reached = FACT_UNKNOWN; host.is_symbols_chosen = true; strcpy(host.symbols_error, "there is a proxy"));
	CASE("symbols", PASSED, "https://symbols", );
}

static void rights(void **state)
{
	(void)state;
	CASE("ptrace", PASSED, "not needed", host.ptrace_scope = 3);
	CASE("ptrace", PASSED, "may read the VMM", strcpy(vm.ram_way, "process"); host.ptrace_scope = 2);
	CASE("ptrace", PASSED, "may be traced", vm.ram_way[0] = 0; host.ptrace_scope = 0);
	CASE("ptrace", PASSED, "every process", vm.ram_way[0] = 0; host.ptrace_scope = 2; host.is_tracer = true);
	CASE("ptrace", UNKNOWN, "as root", vm.ram_way[0] = 0; host.ptrace_scope = 1);
	CASE("ptrace", UNKNOWN, "no process may be traced", vm.ram_way[0] = 0; host.ptrace_scope = 3);
}

static void vm_and_broker(void **state)
{
	(void)state;
	CASE("vm", FAILED, "no other", vm.is_alive = false);
	CASE("vm", FAILED, "there are: a, b", vm.is_alive = false; strcpy(vm.others, "a, b"));
	CASE("vm", PASSED, "pid 7", );
	CASE("vm", PASSED, "win runs", vm.pid = 0);
	CASE("hook", PASSED, "not needed: the link is debugcon", strcpy(vm.link, "debugcon"); vm.is_vmm_listening = false);
	CASE("hook", FAILED, "-accel kvm", vm.is_vmm_listening = false);
	CASE("hook", FAILED, "AppArmor", vm.is_vmm_listening = false; vm.is_library_mapped = FACT_NO);
	CASE("hook", FAILED, "vmm.sock", vm.is_vmm_listening = false; vm.is_library_mapped = FACT_UNKNOWN);
	CASE("hook", UNKNOWN, "there is no VM", vm.is_alive = false);
	CASE("hook", PASSED, "follows the VM", );
	CASE("broker", FAILED, "vmkd serve win", vm.broker_pid = 0; vm.is_registered = false; vm.calls = 0);
	CASE("broker", FAILED, "the host side is late", vm.broker_pid = 0);
	CASE("broker", FAILED, "cannot be asked: no answer", strcpy(vm.broker_error, "no answer"));
	CASE("broker", FAILED, "has not reached", strcpy(vm.state, "no VMM"));
	CASE("broker", FAILED, "refused", strcpy(vm.state, "no target"); strcpy(vm.remark, "tcp:x: refused"));
	CASE("broker", FAILED, "a?[2J?b", strcpy(vm.state, "no target"); strcpy(vm.remark, "a\x1b[2J\nb"));
	CASE("broker", PASSED, "serves the VM: ?c", strcpy(vm.state, "\x1b" "c"));
	CASE("broker", UNKNOWN, "no VM", vm.broker_pid = 0; vm.is_alive = false);
	CASE("broker", PASSED, "running", );
	CASE("broker", PASSED, "came 3 min ago, after 70 calls", vm.calls_before = 70; vm.broker_s = 200);
}

static void version_skew(void **state)
{
	(void)state;
	CASE("version", FAILED, "library in the VMM is older", vm.library_version = LINK_VERSION - 1);
	CASE("version", FAILED, "library in the VMM is newer", vm.library_version = LINK_VERSION + 1);
	CASE("version", PASSED, "guest module 1.0", vm.library_version = LINK_VERSION);
	CASE("version", FAILED, "of an older vmkd", vm.broker_version = 0);
	CASE("version", FAILED, "of a newer vmkd", vm.broker_version = LINK_VERSION + 1);
	CASE("version", FAILED, "module is newer: it speaks 2.0", strcpy(vm.refused_version, "2.0"));
	CASE("version", FAILED, "module is older: it speaks 0.9", strcpy(vm.refused_version, "0.9"));
	CASE("version", UNKNOWN, "has not said", vm.is_registered = false);
	CASE("version", PASSED, "speaks virtualkd", strcpy(vm.dialect, "virtualkd"));
	CASE("module", FAILED, "2.0 was refused", strcpy(vm.refused_version, "2.0"); vm.is_registered = false);
	CASE("module", PASSED, "dialect vmkd", );
}

static void situation_is(enum doctor_situation situation)
{
	if (doctor_find_situation(&vm) != situation)
		fail_msg("'%s' instead of '%s'", doctor_situation_name(doctor_find_situation(&vm)), doctor_situation_name(situation));
}

static void the_guest_never_called(void **state)
{
	(void)state;
	be_well();
	vm.is_registered = false;
	vm.calls = vm.call_ms = 0;
	vm.dialect[0] = vm.arch[0] = 0;
	situation_is(SITUATION_NEVER_CALLED);
	says("port", DOCTOR_FAILED, "never called, and the VM runs for 30 s");
	says("calls", DOCTOR_UNKNOWN, "port reached");
	says("module", DOCTOR_FAILED, "none has been seen");
	says("debug", DOCTOR_UNKNOWN, "bcdedit");
	says("entry", DOCTOR_UNKNOWN, "boot menu");
	says("alone", DOCTOR_UNKNOWN, "module");
	vm.broker_pid = 0; // whoever serves it: it is the guest
	situation_is(SITUATION_NEVER_CALLED);
	vm.age_s = 8000;
	says("port", DOCTOR_FAILED, "for 2 h");
}

static void the_guest_called_and_stopped(void **state)
{
	static const char *const reasons[][2] = { { "reset", "was reset" }, { "shutdown", "triple fault" }, { "bye", "good-bye" }, { "area", "somebody else" }, { "error", "broke the rules" } };

	(void)state;
	be_well();
	vm.call_ms = DOCTOR_SILENCE_MS; // 10 s
	situation_is(SITUATION_STOPPED);
	says("calls", DOCTOR_FAILED, "stopped, 10 s ago, without a word");
	says("port", DOCTOR_PASSED, "5 calls");
	vm.call_ms = DOCTOR_SILENCE_MS - 1;
	situation_is(SITUATION_TALKING);
	vm.call_ms = 180000;
	vm.is_waiting = true; // in the debugger all the while
	situation_is(SITUATION_TALKING);
	says("calls", DOCTOR_PASSED, "waits in one");
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		be_well();
		vm.is_registered = false;
		strcpy(vm.gone, reasons[i][0]);
		situation_is(SITUATION_STOPPED); // whenever it was: it has no registration any more
		says("calls", DOCTOR_FAILED, reasons[i][1]);
		says("module", DOCTOR_FAILED, "any more");
		says("entry", DOCTOR_UNKNOWN, "earlier boot");
		says("debug", DOCTOR_UNKNOWN, "this boot");
	}
	vm.calls = 0; // a new broker's count, or another link's
	situation_is(SITUATION_STOPPED);
	says("port", DOCTOR_PASSED, "has called");
	be_well();
	vm.is_registered = false; // it has just come, or is refused for something
	situation_is(SITUATION_TALKING);
	says("module", DOCTOR_UNKNOWN, "not registered yet");
	vm.call_ms = DOCTOR_SILENCE_MS;
	situation_is(SITUATION_STOPPED);
	says("calls", DOCTOR_FAILED, "never registered");
}

static void the_host_is_late(void **state)
{
	(void)state;
	be_well();
	vm.broker_pid = 0;
	situation_is(SITUATION_HOST_LATE);
	says("calls", DOCTOR_FAILED, "late: 5 calls, the last one 0 s ago");
	says("calls", DOCTOR_FAILED, "vmkd serve win");
	vm.client_count = 0; // which no VM without a broker has
	says("client", DOCTOR_UNKNOWN, "broker");
	vm.call_ms = 20000;
	situation_is(SITUATION_STOPPED); // the guest is silent, too
	vm.is_waiting = true;
	situation_is(SITUATION_HOST_LATE); // it waits for one
}

static void what_nobody_can_say(void **state)
{
	(void)state;
	be_well();
	strcpy(vm.link, "debugcon");
	vm.broker_pid = 0;
	vm.has_calls = vm.is_registered = false;
	vm.calls = 0;
	situation_is(SITUATION_UNKNOWN);
	says("port", DOCTOR_UNKNOWN, "not known");
	says("calls", DOCTOR_UNKNOWN, "not known");
	says("module", DOCTOR_UNKNOWN, "not known");
	be_well();
	strcpy(vm.broker_error, "no answer");
	vm.client_count = 0;
	situation_is(SITUATION_UNKNOWN);
	says("client", DOCTOR_UNKNOWN, "broker");
	be_well();
	vm.is_vmm_listening = false;
	situation_is(SITUATION_NO_LIBRARY);
	vm.library_version = LINK_VERSION + 1;
	situation_is(SITUATION_SKEW);
	vm.is_alive = false;
	situation_is(SITUATION_NO_VM);
	be_well();
	vm.is_registered = false;
	strcpy(vm.refused_version, "2.0");
	situation_is(SITUATION_SKEW);
}

static void a_stock_target(void **state)
{
	(void)state;
	be_well();
	strcpy(vm.link, "serial");
	strcpy(vm.dialect, "kdcom");
	vm.is_vmm_listening = vm.has_calls = false;
	vm.calls = 0;
	vm.ram_mode[0] = vm.ram_way[0] = 0;
	situation_is(SITUATION_TALKING);
	says("port", DOCTOR_PASSED, "own transport");
	says("calls", DOCTOR_PASSED, "own transport");
	says("ram", DOCTOR_PASSED, "stock");
	says("alone", DOCTOR_UNKNOWN, "only if a broker was there");
	strcpy(vm.state, "no target");
	situation_is(SITUATION_UNKNOWN);
}

static void the_rest_of_a_vm(void **state)
{
	(void)state;
	CASE("debug", PASSED, "calls us", );
	CASE("entry", PASSED, "has booted", );
	CASE("alone", FAILED, "0x109", vm.booted_alone = FACT_YES);
	CASE("alone", PASSED, "i386", vm.booted_alone = FACT_YES; strcpy(vm.arch, "x86"));
	CASE("alone", PASSED, "booted with one", );
	CASE("alone", UNKNOWN, "not known", strcpy(vm.dialect, "virtualkd"));
	CASE("client", PASSED, "1, pid 9 (vmkd)", );
	CASE("client", UNKNOWN, "vmkd kd vm:win", vm.client_count = 0);
	CASE("ram", PASSED, "a file", );
	CASE("ram", PASSED, "share=on", strcpy(vm.ram_way, "process"));
	CASE("ram", UNKNOWN, "--no-ram", strcpy(vm.ram_mode, "off"));
	CASE("ram", UNKNOWN, "--check-ram", strcpy(vm.ram_mode, "check"));
	CASE("ram", FAILED, "private to QEMU", strcpy(vm.ram_way, "none"); strcpy(vm.ram_remark, "it is private to QEMU's process"));
	CASE("ram", UNKNOWN, "first time", strcpy(vm.ram_way, "none"));
	CASE("nested", FAILED, "Hyper-V", vm.is_nested = FACT_YES);
	CASE("nested", UNKNOWN, "break in", vm.is_nested = FACT_UNKNOWN);
	CASE("nested", UNKNOWN, "over debugcon nobody", vm.is_nested = FACT_UNKNOWN; strcpy(vm.link, "debugcon"));
	CASE("nested", PASSED, "kernel itself", );
	CASE("calls", PASSED, "0 s ago", );
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_well),
		cmocka_unit_test(nothing_is_known),
		cmocka_unit_test(lines_of_the_machine),
		cmocka_unit_test(rights),
		cmocka_unit_test(vm_and_broker),
		cmocka_unit_test(version_skew),
		cmocka_unit_test(the_guest_never_called),
		cmocka_unit_test(the_guest_called_and_stopped),
		cmocka_unit_test(the_host_is_late),
		cmocka_unit_test(what_nobody_can_say),
		cmocka_unit_test(a_stock_target),
		cmocka_unit_test(the_rest_of_a_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
