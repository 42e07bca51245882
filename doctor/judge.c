// SPDX-License-Identifier: MIT
#include "doctor/judge.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wire/link.h"

#define KVM_API 12 // every kernel's since 2007 (Documentation/virt/kvm/api.rst)
// What was tried with it: older ones may do, and nobody knows.
#define QEMU_MAJOR 7u
#define QEMU_MINOR 2u

const char *doctor_state_name(enum doctor_state state)
{
	static const char *const names[] = { [DOCTOR_PASSED] = "passed", [DOCTOR_FAILED] = "FAILED", [DOCTOR_UNKNOWN] = "unknown" };

	return names[state];
}

const char *doctor_situation_name(enum doctor_situation situation)
{
	static const char *const names[] = {
		[SITUATION_UNKNOWN] = "unknown",           [SITUATION_NO_VM] = "no VM",
		[SITUATION_NO_LIBRARY] = "no library",     [SITUATION_SKEW] = "other version",
		[SITUATION_NEVER_CALLED] = "never called", [SITUATION_HOST_LATE] = "host late",
		[SITUATION_STOPPED] = "called and stopped", [SITUATION_TALKING] = "talking",
	};

	return names[situation];
}

// ---- Verdicts ---------------------------------------------------------------------------------------------

__attribute__((format(printf, 2, 3))) static void pass(struct doctor_line *l, const char *format, ...)
{
	va_list ap;

	l->state = DOCTOR_PASSED;
	va_start(ap, format);
	vsnprintf(l->text, sizeof(l->text), format, ap);
	va_end(ap);
}

__attribute__((format(printf, 4, 5))) static void object(struct doctor_line *l, enum doctor_state state, const char *todo, const char *format, ...)
{
	va_list ap;

	l->state = state;
	snprintf(l->todo, sizeof(l->todo), "%s", todo);
	va_start(ap, format);
	vsnprintf(l->text, sizeof(l->text), format, ap);
	va_end(ap);
}
#define fail(l, todo, ...) object(l, DOCTOR_FAILED, todo, __VA_ARGS__)
#define doubt(l, todo, ...) object(l, DOCTOR_UNKNOWN, todo, __VA_ARGS__)

// "12 s", "3 min", "5 h".
static const char *describe_time(uint64_t s, char ret[FACTS_WORD_MAX])
{
	if (s < 120)
		snprintf(ret, FACTS_WORD_MAX, "%u s", (unsigned)s);
	else if (s < 7200)
		snprintf(ret, FACTS_WORD_MAX, "%u min", (unsigned)(s / 60));
	else
		snprintf(ret, FACTS_WORD_MAX, "%u h", (unsigned)(s / 3600));
	return ret;
}

static bool is(const char *text, const char *word)
{
	return strcmp(text, word) == 0;
}

static bool needs_no_hook(const struct doctor_vm *vm)
{
	return is(vm->link, "debugcon") || is(vm->link, "serial");
}

// ---- How it stands ----------------------------------------------------------------------------------------

static bool is_library_skewed(const struct doctor_vm *vm)
{
	return vm->library_version && vm->library_version != LINK_VERSION;
}

static bool is_broker_skewed(const struct doctor_vm *vm)
{
	return vm->broker_pid && !vm->broker_error[0] && vm->broker_version != LINK_VERSION;
}

static bool is_recent(const struct doctor_vm *vm)
{
	return vm->is_waiting || (vm->calls && vm->call_ms < DOCTOR_SILENCE_MS);
}

static enum doctor_situation find_call_situation(const struct doctor_vm *vm)
{
	if (!vm->has_calls)
		return SITUATION_UNKNOWN;
	if (!vm->is_registered && vm->refused_version[0])
		return SITUATION_SKEW;
	if (!vm->calls && !vm->is_registered)
		return vm->gone[0] ? SITUATION_STOPPED : SITUATION_NEVER_CALLED;
	if (!is_recent(vm) || vm->gone[0])
		return SITUATION_STOPPED;
	return vm->broker_pid ? SITUATION_TALKING : SITUATION_HOST_LATE;
}

enum doctor_situation doctor_find_situation(const struct doctor_vm *vm)
{
	if (!vm->is_alive)
		return SITUATION_NO_VM;
	if (vm->broker_error[0])
		return SITUATION_UNKNOWN;
	if (is_library_skewed(vm) || is_broker_skewed(vm))
		return SITUATION_SKEW;
	if (is(vm->link, "serial"))
		return is(vm->state, "no target") ? SITUATION_UNKNOWN : SITUATION_TALKING;
	if (is(vm->link, "hook") && !vm->is_vmm_listening)
		return SITUATION_NO_LIBRARY;
	return find_call_situation(vm);
}

// ---- This machine -----------------------------------------------------------------------------------------

static void judge_kvm(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_host *h = &f->host;

	if (h->kvm_error && f->vm && needs_no_hook(f->vm))
		pass(l, "not needed: the link is %s", f->vm->link);
	else if (h->kvm_error == EACCES || h->kvm_error == EPERM)
		fail(l, "add this user to the group that owns it: adduser USER kvm, then log in again", "/dev/kvm may not be used: %s", strerror(h->kvm_error));
	else if (h->kvm_error)
		fail(l, "turn virtualization on in the firmware and load kvm_intel or kvm_amd (in a VM: nested virtualization); "
		     "without KVM vmkd works through debugcon, slower: vmkd run --link debugcon",
		     "/dev/kvm cannot be opened: %s", strerror(h->kvm_error));
	else if (h->kvm_api != KVM_API)
		fail(l, "use a kernel whose /dev/kvm is KVM's", "/dev/kvm speaks API version %d, not %d", h->kvm_api, KVM_API);
	else
		pass(l, "/dev/kvm can be used, API version %d", h->kvm_api);
}

static void judge_qemu(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm && f->vm->program[0] ? f->vm : NULL;
	const char *path = vm ? vm->program : f->host.qemu;
	struct doctor_version v = vm ? vm->program_version : f->host.qemu_version;

	if (!path[0])
		fail(l, "install qemu-system-x86", "no qemu-system-x86_64, qemu-kvm or kvm in PATH");
	else if (!v.major)
		doubt(l, "see what its --version says; vmkd was tried with QEMU 7.2", "%s does not say its version", path);
	else if (v.major < QEMU_MAJOR || (v.major == QEMU_MAJOR && v.minor < QEMU_MINOR))
		doubt(l, "use 7.2 or later if something does not work", "%s is version %u.%u, older than what was tried", path, v.major, v.minor);
	else
		pass(l, "%s, version %u.%u%s", path, v.major, v.minor, v.major == QEMU_MAJOR && v.minor == QEMU_MINOR ? "" : " (tried: 7.2)");
}

static void judge_installed(const struct doctor_facts *f, struct doctor_line *l)
{
	if (!f->host.library[0])
		fail(l, "install vmkd whole: make, or make install", "libvmkd-vmm.so is not where vmkd looks for it");
	else if (!f->host.has_modules)
		fail(l, "install the guest's files, too: the package vmkd-guest, or make install", "kdvmkd.dll for x64 and x86 is not where vmkd looks for it");
	else
		pass(l, "%s, and kdvmkd.dll for x64 and x86", f->host.library);
}

static void judge_folder(const struct doctor_facts *f, struct doctor_line *l)
{
	if (f->host.folder_error[0])
		fail(l, "make it this user's with mode 0700, or shared as docs/permissions.md says; or set VMKD_RUNTIME_DIR", "%s", f->host.folder_error);
	else
		pass(l, "%s", f->host.folder);
}

static bool is_x86(const char *machine)
{
	return is(machine, "x86_64") || is(machine, "amd64");
}

static const char *file_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void judge_arch(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;
	const char *program = vm ? file_of(vm->program) : "";
	bool is_other = strncmp(program, "qemu-system-", 12) == 0 && !is(program + 12, "x86_64") && !is(program + 12, "i386");

	if (!is_x86(f->host.machine))
		fail(l, "use an x86-64 host; elsewhere only debugcon with an emulated x86 guest could work, and was never tried", "this machine is %s", f->host.machine);
	else if (is_other)
		fail(l, "vmkd is for x86 and x86-64 guests", "the VM is emulated by %s", program);
	else if (vm && vm->arch[0])
		pass(l, "an %s guest on %s", vm->arch, f->host.machine);
	else if (vm)
		doubt(l, "it is told by the guest's module", "%s; the guest's is not known yet", f->host.machine);
	else
		pass(l, "%s", f->host.machine);
}

// Whose memory is read, or who is to be changed: what needs the right at all.
static void judge_ptrace(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_host *h = &f->host;

	if (f->vm && is(f->vm->ram_way, "file"))
		pass(l, "not needed: the VM's RAM is a file that the broker maps");
	else if (f->vm && is(f->vm->ram_way, "process"))
		pass(l, "the broker may read the VMM's memory");
	else if (h->is_tracer || h->ptrace_scope <= 0)
		pass(l, h->is_tracer ? "this user may trace every process" : "processes of this user may be traced");
	else if (h->ptrace_scope >= 3)
		doubt(l, "nothing, unless `vmkd attach` is to be used: that needs a reboot with kernel.yama.ptrace_scope below 3",
		      "no process may be traced (kernel.yama.ptrace_scope is 3): no `vmkd attach`");
	else
		doubt(l, "nothing, unless `vmkd attach` is to be used: run that one as root", "only root may trace (kernel.yama.ptrace_scope is %d)", h->ptrace_scope);
}

static void judge_symbols(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_host *h = &f->host;

	if (h->is_symbols_reached == FACT_YES)
		pass(l, "%s can be reached", h->symbols);
	else if (h->is_symbols_reached == FACT_NO && h->is_symbols_chosen)
		fail(l, "set _NT_SYMBOL_PATH to a folder or a server that can be reached", "%s of _NT_SYMBOL_PATH: %s", h->symbols, h->symbols_error);
	else
		doubt(l, "debuggers on other machines fetch their own; here set _NT_SYMBOL_PATH to a folder that has them", "%s: %s", h->symbols, h->symbols_error);
}

// ---- The VM: host side --------------------------------------------------------------------------------------

static void judge_vm(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (!vm->is_alive && vm->others[0])
		fail(l, "name one of these, or start it: vmkd run NAME -- qemu-system-x86_64 ...", "no VM named %s runs; there are: %s", vm->name, vm->others);
	else if (!vm->is_alive)
		fail(l, "start it: vmkd run NAME -- qemu-system-x86_64 ...; or with the library (docs/manual); or vmkd attach", "no VM named %s runs, and no other", vm->name);
	else if (vm->pid)
		pass(l, "%s runs, pid %d", vm->name, vm->pid);
	else
		pass(l, "%s runs", vm->name);
}

static void judge_hook(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (!vm->is_alive)
		doubt(l, "start the VM", "there is no VM");
	else if (needs_no_hook(vm))
		pass(l, "not needed: the link is %s", vm->link);
	else if (vm->is_vmm_listening)
		pass(l, "libvmkd-vmm.so follows the VM");
	else if (vm->is_library_mapped == FACT_YES)
		fail(l, "run it with KVM (-accel kvm), or with --link debugcon; what the library said stands in QEMU's stderr",
		     "libvmkd-vmm.so is in the VMM, but not on its way: no KVM, or its socket could not be made");
	else if (vm->is_library_mapped == FACT_NO)
		fail(l, "start it with vmkd run, vmkd libvirt enable, or LD_PRELOAD and VMKD_NAME; see whether AppArmor or SELinux keeps the library away (vmkd libvirt status)",
		     "libvmkd-vmm.so is not in the VMM");
	else
		fail(l, "see whether /proc/PID/maps of the VMM has libvmkd-vmm.so, as the VMM's user or root", "nothing listens on vmm.sock");
}

static void judge_broker(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;
	char todo[FACTS_TEXT_MAX], age[FACTS_WORD_MAX];

	snprintf(todo, sizeof(todo), "start one: vmkd serve %s (--stay: for every boot of the VM)", vm->name);
	if (!vm->is_alive && !vm->broker_pid)
		doubt(l, "start the VM", "there is no VM");
	else if (!vm->broker_pid && doctor_find_situation(vm) == SITUATION_HOST_LATE)
		fail(l, todo, "the host side is late: the guest calls, and nobody serves it");
	else if (!vm->broker_pid)
		fail(l, todo, "nobody serves the VM");
	else if (vm->broker_error[0])
		fail(l, "end that process (it may be stopped or hung) and start another: vmkd serve", "pid %d cannot be asked: %s", vm->broker_pid, vm->broker_error);
	else if (is(vm->state, "no VMM") || is(vm->state, "no target"))
		fail(l, vm->remark[0] ? vm->remark : "see `vmkd list`; is this the VM that it waits for?", "pid %d has not reached the VM", vm->broker_pid);
	else if (vm->calls_before)
		pass(l, "pid %d serves the VM: %s; it came %s ago, after %llu calls", vm->broker_pid, vm->state, describe_time(vm->broker_s, age), (unsigned long long)vm->calls_before);
	else
		pass(l, "pid %d serves the VM: %s", vm->broker_pid, vm->state);
}

// "2.1" against AREA_VERSION.
static bool is_newer(const char *version)
{
	unsigned major = 0, minor = 0;

	if (sscanf(version, "%u.%u", &major, &minor) < 1)
		return false;
	return major > AREA_VERSION_MAJOR || (major == AREA_VERSION_MAJOR && minor > AREA_VERSION_MINOR);
}

static void judge_version(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (is_library_skewed(vm) && vm->library_version < LINK_VERSION)
		fail(l, "restart the VM, so that it gets this vmkd's library", "the library in the VMM is older: link version %u, this vmkd's is %u", vm->library_version, LINK_VERSION);
	else if (is_library_skewed(vm))
		fail(l, "use the vmkd that the library came with", "the library in the VMM is newer: link version %u, this vmkd's is %u", vm->library_version, LINK_VERSION);
	else if (is_broker_skewed(vm) && vm->broker_version < LINK_VERSION)
		fail(l, "end the broker and start this vmkd's: vmkd serve", "the broker (pid %d) is of an older vmkd", vm->broker_pid);
	else if (is_broker_skewed(vm))
		fail(l, "use the vmkd that the broker is of", "the broker (pid %d) is of a newer vmkd", vm->broker_pid);
	else if (vm->refused_version[0] && is_newer(vm->refused_version))
		fail(l, "install a newer vmkd on this host, or this vmkd's modules in the guest", "the guest's module is newer: it speaks %s, this vmkd %u.%u", vm->refused_version,
		     AREA_VERSION_MAJOR, AREA_VERSION_MINOR);
	else if (vm->refused_version[0])
		fail(l, "install this vmkd's modules in the guest (vmkd-guest.iso)", "the guest's module is older: it speaks %s, this vmkd %u.%u", vm->refused_version,
		     AREA_VERSION_MAJOR, AREA_VERSION_MINOR);
	else if (!vm->is_registered)
		doubt(l, "it is told by the guest's module", "vmkd speaks %u.%u; the guest has not said what it does", AREA_VERSION_MAJOR, AREA_VERSION_MINOR);
	else if (!is(vm->dialect, "vmkd"))
		pass(l, "the guest speaks %s, which has no version of ours", vm->dialect);
	else
		pass(l, "guest module %s, vmkd %u.%u, link %u", vm->guest_version, AREA_VERSION_MAJOR, AREA_VERSION_MINOR, LINK_VERSION);
}

// ---- The VM: guest side -------------------------------------------------------------------------------------

static void judge_port(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;
	char age[FACTS_WORD_MAX];

	if (is(vm->link, "serial"))
		pass(l, "not needed: the target has its own transport");
	else if (vm->is_registered || vm->calls)
		pass(l, "%llu calls so far", (unsigned long long)vm->calls);
	else if (doctor_find_situation(vm) == SITUATION_NEVER_CALLED)
		fail(l, "boot the entry \"vmkd debugging\"; if there is none, install the module in the guest (vmkd-guest.iso, vmkd setup)",
		     "the guest has never called, and the VM runs for %s", vm->age_s ? describe_time(vm->age_s, age) : "some time");
	else if (vm->gone[0])
		pass(l, "the guest has called");
	else
		doubt(l, "see the lines above", "it is not known whether the guest has called");
}

static const char *describe_gone(const char *gone)
{
	if (is(gone, "reset"))
		return "the machine was reset, or a snapshot was loaded";
	if (is(gone, "shutdown"))
		return "the machine was switched off, or died of a triple fault";
	if (is(gone, "bye"))
		return "the module said good-bye (the driver was stopped)";
	if (is(gone, "area"))
		return "the module's pages were given to somebody else";
	return "its module broke the rules of the shared area";
}

static void judge_stop(const struct doctor_vm *vm, struct doctor_line *l)
{
	char age[FACTS_WORD_MAX];

	describe_time(vm->call_ms / 1000, age);
	if (vm->gone[0])
		fail(l, "if it boots, wait; else boot the entry \"vmkd debugging\", or start the driver again", "the guest called and stopped, %s ago: %s", age, describe_gone(vm->gone));
	else if (vm->is_registered)
		fail(l, "see whether the VM is paused (QMP: query-status), or hangs with interrupts off; a reset brings it back", "the guest called and stopped, %s ago, without a word", age);
	else
		fail(l, "boot the entry \"vmkd debugging\" again; `vmkd stats` counts what was refused", "the guest called and stopped, %s ago; its module never registered", age);
}

static void judge_calls(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;
	char age[FACTS_WORD_MAX], serve[FACTS_TEXT_MAX];

	snprintf(serve, sizeof(serve), "vmkd serve %s", vm->name);
	switch (doctor_find_situation(vm)) {
	case SITUATION_STOPPED:
		judge_stop(vm, l);
		break;
	case SITUATION_HOST_LATE:
		fail(l, serve, "the host side is late: %llu calls, the last one %s ago, and nobody serves the VM", (unsigned long long)vm->calls, describe_time(vm->call_ms / 1000, age));
		break;
	case SITUATION_NEVER_CALLED:
		doubt(l, "see \"port reached\"", "there was none");
		break;
	case SITUATION_TALKING:
		if (vm->is_waiting)
			pass(l, "the guest waits in one, for a debugger");
		else if (!vm->has_calls)
			pass(l, "not needed: the target has its own transport");
		else
			pass(l, "%s ago", describe_time(vm->call_ms / 1000, age));
		break;
	default:
		doubt(l, "see the lines above", "not known");
	}
}

static void judge_module(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (vm->is_registered)
		pass(l, "registered, dialect %s", vm->dialect);
	else if (vm->refused_version[0])
		fail(l, "see \"versions\"", "a module of version %s was refused", vm->refused_version);
	else if (doctor_find_situation(vm) == SITUATION_STOPPED)
		fail(l, "see \"last call\"", "none is registered any more");
	else if (doctor_find_situation(vm) == SITUATION_NEVER_CALLED)
		fail(l, "see \"port reached\"", "none has been seen");
	else if (doctor_find_situation(vm) == SITUATION_TALKING)
		doubt(l, "look again in a moment; if it stays so, `vmkd stats` counts what was refused", "it calls, and has not registered yet");
	else
		doubt(l, "see the lines above", "not known");
}

static bool was_seen(const struct doctor_vm *vm)
{
	return vm->is_registered || vm->gone[0] || vm->refused_version[0];
}

static void judge_debug(const struct doctor_facts *f, struct doctor_line *l)
{
	if (f->vm->is_registered)
		pass(l, "yes: its transport calls us");
	else if (was_seen(f->vm))
		doubt(l, "it was when its module was seen", "not known for this boot");
	else
		doubt(l, "in the guest: bcdedit /enum {current} must show debug and our transport; status.cmd of vmkd-guest.iso says the same", "only the guest knows");
}

static void judge_entry(const struct doctor_facts *f, struct doctor_line *l)
{
	if (f->vm->is_registered)
		pass(l, "the guest has booted one with a module that calls us");
	else if (was_seen(f->vm))
		doubt(l, "choose \"vmkd debugging\" at the next boot, or make it the default: install.cmd /default", "it was at an earlier boot; not known for this one");
	else
		doubt(l, "choose \"vmkd debugging\" in the boot menu, or make it the default: install.cmd /default", "only the guest knows");
}

static void judge_alone(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (vm->is_registered && vm->booted_alone == FACT_YES && is(vm->arch, "x64"))
		fail(l, "set no breakpoints in code (PatchGuard stops the guest with 0x109): use `ba`; or restart the guest now that a broker is there", "the kernel booted without a debugger");
	else if (vm->is_registered && vm->booted_alone == FACT_YES)
		pass(l, "the kernel booted without a debugger, which an i386 one does not mind");
	else if (vm->is_registered && vm->booted_alone == FACT_NO && is(vm->dialect, "vmkd"))
		pass(l, "the kernel booted with one");
	else
		doubt(l, is(vm->dialect, "") ? "it is told by the guest's module" : "breakpoints in code are safe only if a broker was there at boot", "not known");
}

// ---- The VM: who uses it ------------------------------------------------------------------------------------

static void judge_client(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;
	char todo[FACTS_TEXT_MAX];

	snprintf(todo, sizeof(todo), "attach one: vmkd kd vm:%s", vm->name);
	if (vm->client_count)
		pass(l, "%u, %s", vm->client_count, vm->client);
	else if (!vm->broker_pid || vm->broker_error[0])
		doubt(l, "see \"broker\"", "nobody can say");
	else
		doubt(l, todo, "none is attached now");
}

static void judge_ram(const struct doctor_facts *f, struct doctor_line *l)
{
	const struct doctor_vm *vm = f->vm;

	if (is(vm->link, "serial"))
		pass(l, "not needed: a stock target's answers are its own");
	else if (is(vm->ram_mode, "off") || is(vm->ram_mode, "check"))
		doubt(l, "nothing, if that is what was wanted", "the broker was told to leave answers to the guest (--%s-ram)", is(vm->ram_mode, "off") ? "no" : "check");
	else if (is(vm->ram_way, "file"))
		pass(l, "mapped from a file");
	else if (is(vm->ram_way, "process"))
		pass(l, "read from the VMM's memory; a memory backend with share=on would be faster");
	else if (vm->ram_remark[0] && vm->is_registered)
		fail(l, "give the VM RAM of type memory-backend-memfd,share=on, or run VMM and broker as one user", "%s", vm->ram_remark);
	else
		doubt(l, "it is found out when a guest stops for the first time", "not known");
}

static void judge_nested(const struct doctor_facts *f, struct doctor_line *l)
{
	if (f->vm->is_nested == FACT_YES)
		fail(l, "turn off virtualization-based security and Hyper-V in the guest, or take vmx, svm from its CPU: until then memory is read through the guest, slower",
		     "the guest runs a guest of its own");
	else if (f->vm->is_nested == FACT_NO)
		pass(l, "none: its processors run the kernel itself");
	else if (!is(f->vm->link, "hook"))
		doubt(l, "nothing, if memory reads right; else --no-ram", "over %s nobody can say", f->vm->link[0] ? f->vm->link : "this link");
	else
		doubt(l, "it is seen when the guest stops: break in once", "not known");
}

// ---- The list -----------------------------------------------------------------------------------------------

static const struct rule {
	const char *id, *title;
	bool is_of_vm; // only when one was named
	void (*judge)(const struct doctor_facts *f, struct doctor_line *l);
} rules[] = {
	{ "kvm", "/dev/kvm", false, judge_kvm },
	{ "qemu", "QEMU version", false, judge_qemu },
	{ "installed", "vmkd's files", false, judge_installed },
	{ "folder", "runtime folder", false, judge_folder },
	{ "arch", "architecture", false, judge_arch },
	{ "ptrace", "ptrace rights", false, judge_ptrace },
	{ "symbols", "symbols", false, judge_symbols },
	{ "vm", "VM", true, judge_vm },
	{ "hook", "hook loaded", true, judge_hook },
	{ "broker", "broker", true, judge_broker },
	{ "version", "versions", true, judge_version },
	{ "port", "port reached", true, judge_port },
	{ "calls", "last call", true, judge_calls },
	{ "module", "guest module", true, judge_module },
	{ "debug", "debug mode", true, judge_debug },
	{ "entry", "boot entry", true, judge_entry },
	{ "alone", "debugger at boot", true, judge_alone },
	{ "client", "debugger now", true, judge_client },
	{ "ram", "RAM access", true, judge_ram },
	{ "nested", "nested guest", true, judge_nested },
};
_Static_assert(sizeof(rules) / sizeof(rules[0]) <= DOCTOR_LINES_MAX, "there is room for all");

static void make_plain(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7F)
			*text = '?';
}

size_t doctor_judge(const struct doctor_facts *facts, struct doctor_line ret[DOCTOR_LINES_MAX])
{
	size_t count = 0;

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		if (rules[i].is_of_vm && !facts->vm)
			continue;
		ret[count] = (struct doctor_line){ .id = rules[i].id, .title = rules[i].title };
		rules[i].judge(facts, &ret[count]);
		make_plain(ret[count].text);
		make_plain(ret[count++].todo);
	}
	return count;
}
