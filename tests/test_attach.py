#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vmkd attach: the library into a QEMU that was started without it, and everything that must not harm that QEMU.

    tests/test_attach.py [--long] [WORD…]      the tests whose titles contain one of the words; --long: 50 fresh VMs, every step of a tracer that dies
"""
import ctypes
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import vm as vms
from e2e import KVM, Folder, Skip, attach, expect, main, need_kvm, refused, test
from kdclient import KdClient, KdTimeout, StateChange
from vm import BUILD, GUARD_S, ROOT, Qmp, die_with_parent, wait_for

LONG = "--long" in sys.argv
if LONG:
    sys.argv.remove("--long")
LIBRARY = "libvmkd-vmm.so"


class Plain:
    """QEMU with the test kernel as anybody may have started it: without a word of vmkd's. `with Plain(...) as plain: plain.attach()`."""

    def __init__(self, *options, name="plain", cpus=1, scenario="counter", wrapper=(), accel="kvm", transport="guest/x64/kdvmkd.dll", driver=None):
        if accel == "kvm":
            need_kvm()
        self.folder = Folder().__enter__()
        self.path, self.env, self.name, self.scenario = self.folder.path, self.folder.env, name, scenario
        self.options, self.cpus, self.wrapper, self.accel, self.transport, self.driver = options, cpus, wrapper, accel, BUILD / transport, driver
        self.qmp_path = self.path / "q.sock"
        self.process = self.broker = self.connection = None
        self.log = self.path / "vm.log"

    def archive(self):
        """The kernel and its transport, as tools/testkernel packs them."""
        folder = self.path / "archive"
        folder.mkdir()
        for part in (BUILD / "testkernel" / "x64" / "ntoskrnl.exe", self.transport, *([self.driver] if self.driver else [])):
            shutil.copy(part, folder)
        subprocess.run(["tar", "--format=ustar", "-cf", self.path / "archive.tar", "-C", folder, *os.listdir(folder)], check=True)

    def command(self):
        bios = ["-bios", "qboot.rom"] if self.accel == "kvm" and Path("/usr/share/qemu/qboot.rom").exists() else []
        cpu = ["-cpu", "host"] if self.accel == "kvm" else []
        return [*self.wrapper, "qemu-system-x86_64", "-name", self.name, "-machine", f"pc,accel={self.accel}", "-m", "256M", "-smp", f"{self.cpus},sockets={self.cpus}", *cpu, *bios,
                "-nodefaults", "-display", "none", "-kernel", str(BUILD / "testkernel" / "x64" / "boot.elf"), "-initrd", str(self.path / "archive.tar"),
                "-append", f"kernel=ntoskrnl.exe transport={self.transport.name} scenario={self.scenario}" + (f" break driver={self.driver.name}" if self.driver else ""), "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                "-chardev", "stdio,id=tklog,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=tklog", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", *self.options]

    def __enter__(self):
        self.archive()
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(self.command(), cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                            start_new_session=True, preexec_fn=die_with_parent)
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, Skip):
            print(f"---- the VM said:\n{self.output()[-2000:]}\n----", flush=True)
        self.close_qmp()
        for process in (self.broker, self.process):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.wait()
        self.folder.__exit__()
        return False

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def booted(self):
        wait_for("the boot", lambda: f"TK: scenario {self.scenario}" in self.output(), alive=self.process)
        return self

    def qmp(self):
        if not self.connection:
            wait_for("qmp", self.qmp_path.exists, alive=self.process)
            self.connection = Qmp(self.qmp_path)
        return self.connection

    def close_qmp(self):
        """For the next client: QEMU serves one at a time."""
        if self.connection:
            self.connection.close()
        self.connection = None

    def attach(self, name=None, pid=None, **more):
        wait_for("qmp", self.qmp_path.exists, alive=self.process)
        return self.folder.run("attach", pid or self.pid, name or self.name, "--qmp", self.qmp_path, **more)

    def attached(self, *parts):
        status, text = self.attach()
        expect(status == 0, f"vmkd attach ended with {status}: {text}")
        for part in parts or ("attached to process",):
            expect(part in text, f"'{part}' is not in: {text}")
        return text

    def serve(self, *options):
        """A broker, and a client that has stopped the kernel and read its memory."""
        if self.broker is None:
            self.broker = subprocess.Popen([vms.VMKD, "serve", self.name, *options], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        socket = self.path / self.name / "kd.sock"
        wait_for("kd.sock", socket.exists, alive=self.process)
        return KdClient(timeout=GUARD_S).connect(str(socket))

    def debugged(self):
        """A debugger stops the kernel, reads its head, and lets it go on."""
        with self.serve() as kd:
            attach(kd)
            version = kd.version()
            expect(kd.read_virtual(version.kern_base, 2) == b"MZ", "the kernel's head is not there")
            kd.resume()

    def unharmed(self):
        """It runs, and its monitor answers."""
        expect(self.process.poll() is None, f"QEMU has ended with {self.process.returncode}: {self.output()[-500:]}")
        expect(self.qmp().call("query-status")["status"] == "running", "the VM does not run any more")
        self.close_qmp()

    def has_library(self):
        return LIBRARY in Path(f"/proc/{self.pid}/maps").read_text()


# ---- who is refused ---------------------------------------------------------------------------------------------------

@test("vmkd attach says what is wrong with its arguments")
def usage():
    with Folder() as folder:
        for arguments, part in (((), "first argument"), (("x", "n", "--qmp", "s"), "x: expected the process number"), (("0", "n", "--qmp", "s"), "0: expected"),
                                (("99999999999", "n", "--qmp", "s"), "expected the process number"), (("1", "--qmp", "s"), "name"), (("1", "n"), "--qmp SOCKET or --libvirt DOMAIN"),
                                (("1", "n", "--qmp", "s", "--libvirt", "d"), "--qmp SOCKET or --libvirt DOMAIN"), (("1", "n", "--qmp"), "--qmp needs a value"),
                                (("1", "n", "m", "--qmp", "s"), "unexpected argument m"), (("1", "n", "--wrong"), "--wrong"), (("1", "n", "--qmp", "s", "--connect", "u"), "--connect")):
            refused(folder.run("attach", *arguments), 2, part)
        refused(folder.run("attach", "1", "../n", "--qmp", "s"), 1, "../n")


@test("processes that are no QEMU with KVM are refused")
def wrong_processes():
    with Folder() as folder:
        def refuse(pid, *parts, **more):
            refused(folder.run("attach", pid, "n", "--qmp", folder.path / "none.sock", **more), 1, *parts)

        refuse(next(n for n in range(4_000_000, 3_000_000, -1) if not Path(f"/proc/{n}").exists()), "there is no process")
        sleeper = subprocess.Popen(["sleep", "1000"], preexec_fn=die_with_parent)
        refuse(sleeper.pid, "no KVM virtual machine")
        os.kill(sleeper.pid, signal.SIGSTOP)
        wait_for("the stop", lambda: "\nState:\tT" in Path(f"/proc/{sleeper.pid}/status").read_text())
        refuse(sleeper.pid, "is stopped", "kill -CONT")
        sleeper.kill()
        wait_for("the end", lambda: "\nState:\tZ" in Path(f"/proc/{sleeper.pid}/status").read_text())
        refuse(sleeper.pid, "zombie")
        sleeper.wait()
        if Path("/proc/2/comm").read_text() == "kthreadd\n":
            refuse(2, "Linux kernel")


def compiled(folder, name, *options):
    """A program that sleeps in poll, and has an empty descriptor that looks like KVM's nowhere."""
    source = folder / "p.c"
    source.write_text('#include <poll.h>\n#include <fcntl.h>\n#include <sys/ioctl.h>\n#include <linux/kvm.h>\n#include <stdlib.h>\n'
                      'int main(int c, char **v) { int n = c > 1 ? atoi(v[1]) : 1, fd = open("/dev/kvm", O_RDWR); while (n--) if (ioctl(fd, KVM_CREATE_VM, 0) < 0) return 1; poll(0, 0, -1); }\n')
    program = folder / name
    done = subprocess.run(["gcc", "-O1", *options, "-o", program, source], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"a compiler for {' '.join(options)}")
    return program


def with_program(program, arguments, function):
    process = subprocess.Popen([program, *map(str, arguments)], preexec_fn=die_with_parent)
    try:
        wait_for("the VMs", lambda: sum("kvm-vm" in os.readlink(f) for f in fds(process.pid)) == int(arguments[0] if arguments else 1), alive=process)
        function(process)
        expect(process.poll() is None, f"the program has ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def fds(pid):
    return [f"/proc/{pid}/fd/{n}" for n in os.listdir(f"/proc/{pid}/fd")]


@test("programs with KVM that cannot take a library are refused, and live on")
def wrong_programs():
    need_kvm()
    with Folder() as folder:
        def refuse(process, *parts):
            refused(folder.run("attach", process.pid, "n", "--qmp", folder.path / "none.sock"), 1, *parts)

        with_program(compiled(folder.path, "static", "-static"), (), lambda p: refuse(p, "static"))
        with_program(compiled(folder.path, "two"), (2,), lambda p: refuse(p, "2 KVM virtual machines"))
        with_program(compiled(folder.path, "plain"), (), lambda p: refuse(p, "monitor"))


@test("a program of 32 bits is refused")
def thirty_two_bits():
    need_kvm()
    with Folder() as folder:
        with_program(compiled(folder.path, "m32", "-m32"), (), lambda p: refused(folder.run("attach", p.pid, "n", "--qmp", "s"), 1, "64-bit"))


@test("a QEMU without KVM is refused and told of debugcon")
def without_kvm():
    with Plain(accel="tcg") as plain:
        refused(plain.attach(), 1, "no KVM virtual machine", "debugcon")
        plain.unharmed()


@test("another user's QEMU is refused")
def another_user():
    with Plain() as plain:
        if os.geteuid() != 0:
            raise Skip("root, who can be another user")
        nobody = pwd.getpwnam("nobody")
        folder = Path(tempfile.mkdtemp(prefix="vmkd-test-"))
        try:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            copy = folder / "vmkd"  # where that user may read it
            shutil.copy(vms.VMKD, copy)
            shutil.copy(BUILD / LIBRARY, folder)

            def become():
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
            refused(plain.folder.run("attach", plain.pid, "n", "--qmp", "s", program=copy, env={"VMKD_RUNTIME_DIR": str(folder)}, preexec_fn=become, cwd="/"), 1, "may not be", "root")
        finally:
            shutil.rmtree(folder)
        expect(not plain.has_library(), "the library is there")
        plain.unharmed()


@test("a QEMU that is stopped or traced is refused")
def stopped_or_traced():
    with Plain() as plain:
        plain.booted()
        os.kill(plain.pid, signal.SIGSTOP)
        wait_for("the stop", lambda: "\nState:\tT" in Path(f"/proc/{plain.pid}/status").read_text())
        refused(plain.attach(), 1, "is stopped")
        os.kill(plain.pid, signal.SIGCONT)
        plain.unharmed()
        libc = ctypes.CDLL(None, use_errno=True)
        expect(libc.ptrace(0x4206, plain.pid, None, None) == 0, "PTRACE_SEIZE")
        refused(plain.attach(), 1, "is traced by process")
        expect(libc.ptrace(0x4207, plain.pid, None, None) == 0, "PTRACE_INTERRUPT")
        os.waitpid(plain.pid, 0x40000000)
        expect(libc.ptrace(17, plain.pid, None, None) == 0, "PTRACE_DETACH")
        plain.unharmed()


@test("a thread's number is refused, and its process named")
def threads():
    with Plain() as plain:
        plain.booted()
        thread = next(t for t in os.listdir(f"/proc/{plain.pid}/task") if int(t) != plain.pid)
        refused(plain.attach(pid=thread), 1, f"thread of process {plain.pid}")


@test("monitors that are none, somebody else's, or held are refused, and nothing is loaded")
def wrong_monitors():
    with Plain() as plain, Plain(name="other") as other:
        plain.booted()
        other.booted()
        none = plain.path / "none.sock"
        refused(plain.folder.run("attach", plain.pid, "n", "--qmp", none), 1, str(none))
        refused(plain.folder.run("attach", plain.pid, "n", "--qmp", other.qmp_path), 1, "another VM")
        refused(plain.folder.run("attach", plain.pid, "n", "--libvirt", "no-such-domain", "--connect", "test:///default"), 1, "virsh")
        expect(not plain.has_library() and not other.has_library(), "the library is there")
        plain.qmp()
        refused(plain.folder.run("attach", plain.pid, "n", "--qmp", plain.qmp_path), 1, "another program")
        plain.unharmed()
        other.unharmed()
        plain.attached()


@test("a runtime folder that cannot be is refused by the library, which then takes a better one")
def wrong_folder():
    with Plain() as plain:
        plain.booted()
        bad = plain.path / "bad"
        bad.mkdir(mode=0o700)
        (bad / "plain").write_text("a file where the VM's folder should be")
        refused(plain.attach(env={"VMKD_RUNTIME_DIR": str(bad)}), 1, str(bad / "plain"))
        plain.unharmed()
        plain.attached()
        plain.debugged()


# ---- a library that is refused --------------------------------------------------------------------------------------------

def program_with(folder, library):
    """A vmkd beside which `library` (a path, or None) is the library."""
    folder.mkdir()
    shutil.copy(vms.VMKD, folder / "vmkd")
    if library:
        shutil.copy(library, folder / LIBRARY)
    return folder / "vmkd"


@test("a library that QEMU's linker refuses does no harm")
def refused_library():
    with Plain() as plain:
        plain.booted()
        broken = plain.path / "broken.so"
        broken.write_bytes(b"\x7fELF" + bytes(200))
        refused(plain.attach(program=program_with(plain.path / "a", broken)), 1, "refused", LIBRARY)
        (plain.path / "s.c").write_text("extern int vmkd_no_such_function(void); int vmkd_x(void) { return vmkd_no_such_function(); }\n")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", broken, plain.path / "s.c"], check=True)
        refused(plain.attach(program=program_with(plain.path / "b", broken)), 1, "refused", LIBRARY)
        plain.unharmed()
        plain.attached()
        plain.debugged()


@test("a wrong library that is loaded is told from ours")
def wrong_library():
    with Plain() as plain:
        plain.booted()
        (plain.path / "s.c").write_text("int vmkd_old(void) { return 1; }\n")
        wrong = plain.path / "wrong.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", wrong, plain.path / "s.c"], check=True)
        refused(plain.attach(program=program_with(plain.path / "a", wrong)), 1, "another version")
        plain.unharmed()
        refused(plain.attach(), 1, "another version")
        plain.unharmed()


@test("a QEMU in another mount namespace does not see the library, and is refused")
def mount_namespace():
    if os.geteuid() != 0:
        raise Skip("root, who can make mount namespaces")
    with Folder() as place:
        program = program_with(place.path / "a", BUILD / LIBRARY)
        hide = f"mount -t tmpfs none {shlex.quote(str(place.path / 'a'))} && exec \"$@\""
        with Plain(wrapper=("unshare", "-m", "sh", "-c", hide, "sh")) as plain:
            plain.booted()
            refused(plain.attach(program=program), 1, "another mount namespace")
            expect(not plain.has_library(), "the library is there")
            plain.unharmed()
            plain.attached()  # the other one it does see
            plain.unharmed()


# ---- it works ---------------------------------------------------------------------------------------------------------

@test("attach, serve, debug; a second attach says so and changes nothing")
def it_works():
    with Plain(cpus=2) as plain:
        plain.booted()
        expect("2 of 2 vCPUs" in plain.attached(), "not both vCPUs come through")
        plain.debugged()
        plain.attached("already", "nothing was changed")
        plain.debugged()
        refused(plain.attach(name="else"), 1, "has the name plain already")
        plain.unharmed()


@test("a VM that `vmkd run` has started is attached to already")
def already_hooked():
    from e2e import HOOK
    with HOOK.vm("hooked", "--scenario", "counter") as vm:
        vm.qmp()
        vm.qmp_connection.close()
        vm.qmp_connection = None
        pid = vm.listed()["pid"]
        status, text = vm.run("attach", pid, "hooked", "--qmp", vm.runtime / "qmp.sock")
        expect(status == 0 and "already" in text, text)
        refused(vm.run("attach", pid, "else", "--qmp", vm.runtime / "qmp.sock"), 1, "has the name hooked already")


@test("a paused VM is attached to, and comes through when it runs")
def paused():
    with Plain() as plain:
        plain.booted()
        plain.qmp().call("stop")
        plain.close_qmp()
        plain.attached("is paused")
        plain.qmp().call("cont")
        plain.debugged()
        plain.unharmed()


@test("a VM that has not booted yet is attached to, and its boot is seen")
def before_boot():
    with Plain("-S") as plain:
        plain.attached("is paused")
        plain.qmp().call("cont")
        plain.booted()
        plain.debugged()


@test("resets and a migration to a file: slots that come and go are known afterwards")
def slots_come_and_go():
    with Plain() as plain:
        plain.booted()
        plain.attached()
        plain.debugged()
        for _ in range(3):
            boots = plain.output().count("TK: scenario")
            plain.qmp().call("system_reset")
            wait_for("the next boot", lambda: plain.output().count("TK: scenario") > boots, alive=plain.process)
            plain.debugged()
        migrate(plain)
        plain.qmp().call("cont")
        plain.debugged()
        plain.close_qmp()
        plain.attached("already", "nothing was changed")  # not blind


def migrate(plain):
    plain.qmp().call("migrate", uri=f"exec:cat >{plain.path}/migrated")
    wait_for("the migration", lambda: plain.qmp().call("query-migrate")["status"] == "completed", alive=plain.process)


@test("during a migration")
def during_migration():
    with Plain() as plain:
        plain.booted()
        plain.qmp().call("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
        plain.qmp().call("migrate", uri=f"exec:cat >{plain.path}/migrated")
        wait_for("the migration's begin", lambda: plain.qmp().call("query-migrate")["status"] == "active", alive=plain.process)
        plain.close_qmp()
        plain.attached()
        state = plain.qmp().call("query-migrate")["status"]
        plain.qmp().call("migrate_cancel")
        wait_for("the migration's end", lambda: plain.qmp().call("query-migrate")["status"] in ("cancelled", "completed"), alive=plain.process)
        plain.debugged()
        expect(state == "active", f"the migration was {state} when the library had come")


@test("with QEMU's seccomp sandbox, and with RAM that others can map")
def sandbox():
    with Plain("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
               "-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-machine", "memory-backend=ram") as plain:
        plain.booted()
        plain.attached()
        plain.debugged()
        plain.unharmed()


@test("eight vCPUs")
def many_vcpus():
    with Plain(cpus=8) as plain:
        plain.booted()
        expect("8 of 8 vCPUs" in plain.attached(), "not all vCPUs come through")
        plain.debugged()


@test("the driver in a guest that runs, no reboot: attach, serve, start it, and a debugger is there; stop it, and the old one is back")
def driver_late():
    folder = Path(tempfile.mkdtemp(prefix="vmkd-test-"))
    com1 = folder / "com1.sock"
    try:
        with Plain("-chardev", f"socket,id=com1,path={com1},server=on,wait=off", "-serial", "chardev:com1", scenario="drivermailbox", transport="testkernel/x64/kduart.dll",
                   driver=BUILD / "guest" / "x64" / "vmkd.sys") as plain:
            wait_for("com1.sock", com1.exists, alive=plain.process)
            with KdClient(timeout=GUARD_S).connect(str(com1)) as old:
                start_the_driver(plain, old)
    finally:
        shutil.rmtree(folder)


def start_the_driver(plain, old):
    def order(kd, wanted):
        kd.write_virtual(mailbox, wanted.to_bytes(8, "little"))
        kd.resume()

    def is_said(what):
        try:  # the old debugger takes what the kernel sends it
            if isinstance(old.wait_event(0.1), StateChange):
                old.resume()
        except KdTimeout:
            pass
        return what in plain.output()

    attach(old)
    mailbox = old.exports(old.version().kern_base)["TkDriver"]
    plain.attached()
    plain.serve().close()
    order(old, 1)
    wait_for("the driver", lambda: is_said("TK: driver start 00000000"), alive=plain.process)
    with plain.serve() as new:
        attach(new)
        expect(new.read_virtual(new.version().kern_base, 2) == b"MZ", "the kernel's head is not there")
        order(new, 2)
    wait_for("the driver's end", lambda: is_said("TK: driver stop 00000000"), alive=plain.process)
    attach(old)
    old.resume()
    plain.unharmed()


# ---- a tracer that dies ---------------------------------------------------------------------------------------------------

SHIM = """
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>
long ptrace(enum __ptrace_request r, ...)
{
	static int n;
	va_list l;
	va_start(l, r);
	pid_t pid = va_arg(l, pid_t);
	void *a = va_arg(l, void *), *d = va_arg(l, void *);
	va_end(l);
	if (++n == atoi(getenv("DIE_AT")))
		kill(getpid(), SIGKILL);
	return syscall(SYS_ptrace, r, pid, a, d);
}
"""


@test("vmkd attach is killed at one step after the other; QEMU lives, and the next attach finishes")
def killed_tracer():
    with Folder() as folder:
        (folder.path / "shim.c").write_text(SHIM)
        shim = folder.path / "shim.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, folder.path / "shim.c"], check=True)
        step, stride, status = 1, 5 if LONG else 300, None
        while status != 0:
            with Plain() as plain:
                plain.booted()
                status, text = plain.attach(env={"LD_PRELOAD": str(shim), "DIE_AT": str(step)})
                plain.unharmed()
                expect(status in (0, -signal.SIGKILL), text)
                expect(plain.attach()[0] == 0, "the next attach does not finish")
                plain.debugged()
                plain.unharmed()
            step += stride
        expect(step > 2 * stride, "no step was reached")
        print(f"note killed at steps 1 to {step - 2 * stride}, every {stride}", flush=True)


@test("fresh VMs, one after the other")
def fresh():
    count = 50 if LONG else 3
    for i in range(count):
        with Plain(cpus=1 + i % 4) as plain:
            if i % 2:
                plain.booted()  # else in the middle of its boot
            plain.attached()
            plain.booted()
            plain.debugged()
            plain.unharmed()
    print(f"note {count} VMs", flush=True)


if __name__ == "__main__":
    main()
