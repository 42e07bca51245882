#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vmkd doctor: what it says of machines and of VMs in each state, told apart by real QEMUs with the test kernel.

    tests/test_doctor.py [WORD…]      the tests whose titles contain one of the words
"""
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading

from e2e import BOTH, DEBUGCON, DEBUGCON_X86, HOOK, Folder, attach, client_of, expect, main, need_kvm, refused, test
from fake_vmm import HEAD, HELLO, LINK_VERSION
from vm import VMKD, wait_for

QEMU = "qemu-system-x86_64"


class Report:
    """What `vmkd doctor NAME --json` said."""

    def __init__(self, run, name=None, **more):
        self.status, text = run("doctor", *([name] if name else []), "--json", **more)
        self.json = json.loads(text)
        self.lines = {line["id"]: line for line in self.json["lines"]}
        self.situation = self.json.get("situation")
        failed = [line["id"] for line in self.json["lines"] if line["state"] == "failed"]
        expect(self.status == (1 if failed else 0), f"status {self.status}, failed: {failed}")
        expect(len(failed) == self.json["failed"], f"{self.json}")
        for line in self.json["lines"]:
            expect(line["text"] and bool(line["todo"]) == (line["state"] != "passed"), f"{line}")

    def says(self, name, state, *words):
        line = self.lines[name]
        expect(line["state"] == state, f"{line}, and not {state}")
        for word in words:
            expect(word in line["text"] + line["todo"], f"no '{word}' in {line}")


def doctor(vm, name=None):
    return Report(vm.run, name or vm.name)


def becomes(vm, situation):
    """The doctor's report, as soon as it says so."""
    def look():
        report = doctor(vm)
        return report.situation == situation and report
    return wait_for(f"the situation '{situation}'", look, alive=vm.process)


# ---- the machine --------------------------------------------------------------------------------------------------------

@test("wrong usage, names that are none")
def usage():
    with Folder() as f:
        refused(f.run("doctor", "--frob"), 2, "--frob")
        refused(f.run("doctor", "a", "b"), 2, "b")
        refused(f.run("doctor", "../x"), 1, "name")


@test("a machine without QEMU, with a folder that cannot be, and symbols that are nowhere")
def bad_machine():
    with Folder() as f:
        report = Report(f.run, env={"PATH": "/nonexistent", "_NT_SYMBOL_PATH": "srv*/nonexistent"})
        report.says("qemu", "failed", "install qemu-system-x86")
        report.says("symbols", "failed", "/nonexistent", "_NT_SYMBOL_PATH")
        report.says("installed", "passed", "libvmkd-vmm.so")
        os.chmod(f.path, 0o777)
        Report(f.run, env={"_NT_SYMBOL_PATH": "/"}).says("folder", "failed", str(f.path))


@test("a VM's folder whose facts are a pipe that nobody writes to")
def pipe_for_facts():
    with Folder() as f:
        (f.path / "win").mkdir(mode=0o700)
        os.mkfifo(f.path / "win" / "vm.json")
        Report(f.run, "win").says("vm", "failed", "win")
        expect(f.run("list")[0] == 0, "vmkd list")


@test("a machine with which all is well; the text is the list as JSON has it")
def good_machine():
    with Folder() as f, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        away = {name: "" for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY")}
        env = {**away, "_NT_SYMBOL_PATH": f"srv*/tmp*http://127.0.0.1:{server.getsockname()[1]}/symbols"}
        report = Report(f.run, env=env)
        report.says("symbols", "passed", "127.0.0.1")
        report.says("qemu", "passed" if "7.2" in report.lines["qemu"]["text"] else report.lines["qemu"]["state"], QEMU)
        behind = Report(f.run, env={**env, "https_proxy": "http://me:secret@proxy:1"})
        behind.says("symbols", "unknown", "proxy", "https_proxy")
        expect("secret" not in str(behind.json), "a password for all to see")
        _, text = f.run("doctor", env=env)
        lines = text.splitlines()
        expect(len(lines) == len(report.lines) + 1, text)
        for line, told in zip(lines, report.json["lines"]):
            state = {"failed": "FAILED"}.get(told["state"], told["state"])
            expect(line.split()[0] == state and told["text"] in line and told["todo"] in line, f"{line}\n{told}")
        expect(lines[-1].startswith(f"{report.json['passed']} passed, {report.json['failed']} failed"), lines[-1])


@test("a server of symbols that does not listen")
def dead_server():
    with Folder() as f, socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and no listen()
        env = {"_NT_SYMBOL_PATH": f"http://127.0.0.1:{server.getsockname()[1]}", "https_proxy": "", "HTTPS_PROXY": "", "http_proxy": "", "all_proxy": "", "ALL_PROXY": ""}
        Report(f.run, env=env).says("symbols", "failed", "refused")


@test("there is no VM of that name")
def no_vm():
    with DEBUGCON.vm("there", "--scenario", "counter") as vm:
        vm.kd_socket()
        report = doctor(vm, "elsewhere")
        expect(report.situation == "no VM", report.situation)
        report.says("vm", "failed", "there are: there")
        report.says("broker", "unknown")


# ---- three causes of one complaint -----------------------------------------------------------------------------------------

def plain_qemu(f, way, *options):
    """A VM whose guest is its firmware."""
    if way.needs_kvm:
        need_kvm()
    accel = "kvm" if way == "hook" else "tcg"
    return subprocess.Popen([VMKD, "run", "--link", str(way), *options, "plain", "--", QEMU, "-machine", f"pc,accel={accel}", "-m", "64", "-display", "none",
                             "-nodefaults"], env=f.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def plain(way, *options):
    with Folder() as f:
        process = plain_qemu(f, way, *options)
        try:
            yield f, process
        finally:
            process.terminate()
            process.wait()


@test("the guest never called", BOTH)
def never_called(way):
    with plain(way) as (f, process):
        report = wait_for("a VM", lambda: (lambda r: r.situation == "never called" and r)(Report(f.run, "plain")), alive=process)
        report.says("port", "failed", "never called", "vmkd debugging")
        report.says("broker", "passed", "no guest module")
        report.says("hook", "passed", "follows the VM" if way == "hook" else "not needed")
        report.says("calls", "unknown")
        report.says("module", "failed", "none has been seen")
        report.says("debug", "unknown", "bcdedit")
        report.says("entry", "unknown", "boot menu")
        report.says("qemu", "passed", "qemu-system", "7.2")  # of the VM's own program


@test("the guest never called, and nobody serves it")
def never_called_alone():
    with plain(HOOK, "--no-serve") as (f, process):
        report = wait_for("a VM", lambda: (lambda r: r.situation == "never called" and r)(Report(f.run, "plain")), alive=process)
        report.says("port", "failed", "never called")
        report.says("broker", "failed", "nobody serves", "vmkd serve plain")


@test("nobody serves it, and with debugcon nobody can say more")
def unserved_debugcon():
    with plain(DEBUGCON, "--no-serve") as (f, process):
        report = wait_for("a VM", lambda: (lambda r: r.lines["vm"]["state"] == "passed" and r)(Report(f.run, "plain")), alive=process)
        expect(report.situation == "unknown", report.situation)
        report.says("broker", "failed", "nobody serves")
        for name in ("port", "calls", "module", "debug", "alone", "ram"):
            report.says(name, "unknown")


@test("the guest called and stopped: a VM that is paused")
def paused():
    with HOOK.vm("hook", "--scenario", "counter") as hook, DEBUGCON.vm("debugcon", "--scenario", "counter") as debugcon:
        for vm in (hook, debugcon):
            becomes(vm, "talking")
            vm.qmp().call("stop")
        for vm in (hook, debugcon):  # the ten seconds pass for both
            report = becomes(vm, "called and stopped")
            report.says("calls", "failed", "without a word", "paused")
            report.says("port", "passed", "calls so far")
            vm.qmp().call("cont")
            becomes(vm, "talking")


@test("the guest called and stopped: it is gone, with the reason", BOTH)
def gone(way):
    with way.vm("gone", "--scenario", "triplefault", "--", "-no-shutdown") as vm:
        report = becomes(vm, "called and stopped")
        report.says("calls", "failed", "triple fault" if way == "hook" else "ago")
        report.says("module", "failed", "any more")
        report.says("entry", "unknown", "earlier boot")


@test("the host side is late; and a doctor's look is no broker")
def host_late():
    with HOOK.vm("late", "--scenario", "counter", "--run", "--no-serve") as vm:
        report = becomes(vm, "host late")
        report.says("broker", "failed", "late", "vmkd serve late")
        report.says("calls", "failed", "nobody serves")
        report.says("module", "passed", "registered")
        wait_for("the kernel's start", lambda: "TK: scenario counter" in vm.output(), alive=vm.process)
        for _ in range(5):
            doctor(vm)
        broker = vm.start("serve", "late")
        try:
            report = becomes(vm, "talking")
            report.says("broker", "passed", "after", "calls")
            report.says("alone", "failed", "PatchGuard")  # none of the looks was a debugger for the kernel
            with client_of(vm) as kd:
                attach(kd)
                doctor(vm).says("calls", "passed", "waits")
        finally:
            broker.terminate()
            broker.wait()
        becomes(vm, "host late")


# ---- all is well, more or less -----------------------------------------------------------------------------------------------

@test("a guest with which all is well: running, stopped, debugged", (*BOTH, DEBUGCON_X86))
def well(way):
    with way.vm("well", "--scenario", "counter") as vm:
        report = becomes(vm, "talking")
        for name in ("vm", "hook", "broker", "version", "port", "calls", "module", "debug", "entry", "alone"):
            report.says(name, "passed")
        report.says("arch", "passed", "x86 guest" if way == "debugcon x86" else "x64 guest")
        report.says("client", "unknown", "vmkd kd vm:well")
        with client_of(vm) as kd:
            attach(kd)
            kd.read_virtual(kd.version().kern_base, 2)
            report = doctor(vm)
            report.says("calls", "passed", "waits")
            report.says("client", "passed", f"pid {os.getpid()}")
            report.says("ram", "passed", "file")
            report.says("ptrace", "passed", "not needed")
            report.says("nested", *(["passed"] if way == "hook" else ["unknown", "debugcon"]))
            expect(report.status == 0, f"status {report.status}: {report.json}")


@test("RAM that is private to QEMU, and RAM that is left to the guest")
def ram():
    for option, state, word in (("--private-ram", "passed", "VMM's memory"), ("--no-ram", "unknown", "--no-ram")):
        with HOOK.vm("ram", "--scenario", "counter", "--run", option) as vm, client_of(vm) as kd:
            attach(kd)
            doctor(vm).says("ram", state, word)


@test("a broker that lets go while nobody debugs (--absent)")
def absent():
    with HOOK.vm("absent", "--scenario", "counter", "--run", "--absent") as vm:
        report = becomes(vm, "unknown")  # as soon as the library is there
        report.says("broker", "passed", "--absent")
        report.says("calls", "unknown")
        with client_of(vm) as kd:
            attach(kd)
            doctor(vm).says("calls", "passed", "waits")


@test("a broker that is stopped")
def stopped_broker():
    with HOOK.vm("hung", "--scenario", "counter", "--run", "--no-serve") as vm:
        becomes(vm, "host late")
        broker = vm.start("serve", "hung")
        try:
            becomes(vm, "talking")
            broker.send_signal(signal.SIGSTOP)
            report = doctor(vm)
            expect(report.situation == "unknown", report.situation)
            report.says("broker", "failed", f"pid {broker.pid}", "cannot be asked")
        finally:
            broker.kill()
            broker.wait()


@test("a VMM that is stopped: nobody waits for it, however often it is looked at")
def stopped_vmm():
    with HOOK.vm("still", "--scenario", "counter", "--run", "--no-serve") as vm:
        pid = int(becomes(vm, "host late").lines["vm"]["text"].split()[-1])
        os.kill(pid, signal.SIGSTOP)
        try:
            with contextlib.ExitStack() as others, contextlib.suppress(BlockingIOError):
                while True:  # until no more may wait there
                    other = others.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    other.setblocking(False)
                    other.connect(str(vm.runtime / "vmm.sock"))
            report = doctor(vm)
            expect(report.situation == "unknown", report.situation)
            report.says("broker", "failed", "nobody serves")
        finally:
            os.kill(pid, signal.SIGCONT)
        becomes(vm, "host late")


@test("a library that is not in the VMM")
def no_library():
    with Folder() as f:
        process = subprocess.Popen([VMKD, "run", "--link", "hook", "--no-serve", "bare", "--", "sleep", "1000"], env=f.env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            report = wait_for("a VM", lambda: (lambda r: r.lines["vm"]["state"] == "passed" and r)(Report(f.run, "bare")), alive=process)
            expect(report.situation == "no library", report.situation)
            report.says("hook", "failed", "no KVM")  # it is preloaded, and never saw a VM made
        finally:
            process.terminate()
            process.wait()


@test("a stock target")
def stock():
    with DEBUGCON.vm("com", "--link", "serial", "--scenario", "counter") as vm:
        target = vm.kd_socket()
        broker = vm.start("serve", "--from", f"unix:{target}", "stock")
        try:
            report = wait_for("the target", lambda: (lambda r: r.situation == "talking" and r)(doctor(vm, "stock")), alive=vm.process)
            report.says("port", "passed", "own transport")
            report.says("version", "passed", "kdcom")
            report.says("ram", "passed", "not needed")
        finally:
            broker.terminate()
            broker.wait()


# ---- version skew -------------------------------------------------------------------------------------------------------------

class FakeLibrary:
    """A library in a VMM that greets whoever comes, in a version of its own."""

    def __init__(self, folder, version, length=144, refused=0):
        self.path = folder / "fake"
        self.path.mkdir(mode=0o700)
        body = (struct.pack("<IIII", version, os.getpid(), 0, 0) + bytes(40) + b"fake".ljust(64, b"\0") + struct.pack("<IIQQ", refused, 0, 3, 0) + bytes(256))[:length]
        self.greeting = HEAD.pack(HELLO, 0, len(body), *([0] * (len(HEAD.unpack(bytes(HEAD.size))) - 3))) + body
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path / "vmm.sock"))
        self.listener.listen(4)
        self.peers = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                self.peers.append(peer)
                peer.send(self.greeting)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            peer.close()


@test("another library in the VMM: older, newer, of any length, with a broker and without")
def library_skew():
    for version, length, word in ((LINK_VERSION - 1, 128, "library in the VMM is older"), (LINK_VERSION + 1, 200, "library in the VMM is newer")):
        with Folder() as f, FakeLibrary(f.path, version, length):
            report = Report(f.run, "fake")
            expect(report.situation == "other version", report.situation)
            report.says("version", "failed", word, str(version))
            broker = subprocess.Popen([VMKD, "serve", "fake"], env=f.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                report = wait_for("the broker's word", lambda: (lambda r: r.lines["version"]["state"] == "failed" and r)(Report(f.run, "fake")), alive=broker)
                report.says("version", "failed", word)
                report.says("broker", "failed", "link version")
            finally:
                broker.terminate()
                broker.wait()


@test("another guest module: older, newer, with a broker and without")
def module_skew():
    for refused_version, word in ((0x00000005, "module is older: it speaks 0.5"), (0x00020001, "module is newer: it speaks 2.1")):
        with Folder() as f, FakeLibrary(f.path, LINK_VERSION, refused=refused_version):
            report = Report(f.run, "fake")
            expect(report.situation == "other version", report.situation)
            report.says("version", "failed", word)
            report.says("module", "failed", "was refused")
            broker = subprocess.Popen([VMKD, "serve", "fake"], env=f.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for("the broker's word", lambda: Report(f.run, "fake").lines["broker"]["state"] == "passed", alive=broker)
                Report(f.run, "fake").says("version", "failed", word)
            finally:
                broker.terminate()
                broker.wait()


if __name__ == "__main__":
    main()
