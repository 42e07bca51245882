#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""VM, broker and debugger without one another: `vmkd serve --stay`, `vmkd run --no-serve`, `--absent`, and a VM that does not end when it is told to.

    tests/test_presence.py [WORD…]      the tests whose titles contain one of the words
"""
import os
import signal
import subprocess
import sys
import time

from e2e import BOTH, DEBUGCON, HOOK, Folder, attach, expect, main, need_kvm, refused, test
from kdclient import KdClient, Symbols
from vm import BUILD, GUARD_S, ROOT, VMKD, Vm, die_with_parent, wait_for


BOOTED = "TK: scenario counter"


class Stay:
    """A staying broker in a runtime folder of its own, and VMs that get its name one after the other."""

    def __init__(self, *options):
        self.vm = Vm("stay", "--link", "debugcon")  # for its folder and its helpers; never started itself
        self.broker = self.vm.start("serve", "--stay", *options, "stay")
        self.vm.process = self.broker
        self.current = None

    def __enter__(self):
        self.vm.kd_socket()
        return self

    def __exit__(self, *error):
        self.end_vm(signal.SIGKILL)
        self.broker.kill()
        self.broker.wait()
        return self.vm.__exit__(*error)

    def start_vm(self, way, *arguments):
        if way.needs_kvm:
            need_kvm()
        command = [ROOT / "tools" / "testkernel", "stay", *way.arguments, "--scenario", "counter", "--run", "--no-serve", *arguments]
        self.current = subprocess.Popen(command, cwd=ROOT, env=self.vm.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)

    def end_vm(self, how=signal.SIGKILL):
        if self.current:
            os.killpg(self.current.pid, how)
            self.current.wait(GUARD_S)
            self.current = None

    def listed(self, condition, what):
        return wait_for(what, lambda: (lambda e: e and condition(e) and e)(self.vm.listed()), alive=self.broker)

    def client(self):
        return KdClient(timeout=GUARD_S).connect(str(self.vm.runtime / "kd.sock"))


def look(kd):
    attach(kd)
    expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no MZ at the kernel's base")


# ---- --stay ------------------------------------------------------------------------------------------------------------

@test("a debugger outlives its VMs", BOTH)
def outlives(way):
    with Stay() as stay, stay.client() as kd:
        stay.listed(lambda e: e["state"] == "no VMM" and len(e["clients"]) == 1, "a debugger without a VM")
        for _ in range(3):
            stay.start_vm(way)
            look(kd)
            entry = stay.listed(lambda e: e["state"] == "broken in", "the VM in list")
            expect(entry["link"] == str(way), f"list says {entry}")
            kd.resume()
            stay.end_vm()
            event = kd.wait_event()  # as of a reset
            while not isinstance(event, Symbols):
                event = kd.wait_event()
            kd.go()
            stay.listed(lambda e: e["state"] == "no VMM", "the end in list")


@test("the next VM may be reached another way")
def another_way():
    need_kvm()
    with Stay() as stay, stay.client() as kd:
        for way in (DEBUGCON, HOOK, DEBUGCON):
            stay.start_vm(way)
            look(kd)
            expect(stay.listed(lambda e: e["state"] == "broken in", "the VM")["link"] == str(way), "the link in list")
            stay.end_vm()
            stay.listed(lambda e: e["state"] == "no VMM", "its end in list")


@test("a VM that vmkd did not start, with the library")
def by_itself():
    need_kvm()
    with Stay() as stay:
        for _ in range(2):
            qemu = subprocess.Popen(["qemu-system-x86_64", "-accel", "kvm", "-nodefaults", "-display", "none", "-S"], stdin=subprocess.DEVNULL,
                                    env={**stay.vm.env, "LD_PRELOAD": str(BUILD / "libvmkd-vmm.so"), "VMKD_NAME": "stay"}, preexec_fn=die_with_parent)
            try:
                entry = stay.listed(lambda e: e["state"] == "no guest module", "the VM in list")
                expect(entry["pid"] == qemu.pid and entry["link"] == "hook", f"list says {entry}")
            finally:
                qemu.kill()
                qemu.wait()
            stay.listed(lambda e: e["state"] == "no VMM", "its end in list")


@test("a staying broker ends by signal and leaves nothing", ("SIGTERM", "SIGINT"))
def ends(name):
    with Stay() as stay:
        refused(stay.vm.run("serve", "--stay", "stay"), 1, "already served", str(stay.broker.pid))
        refused(stay.vm.run("run", "stay", "--", "qemu-system-x86_64", "-accel", "tcg"), 1, "already served")
        stay.broker.send_signal(getattr(signal, name))
        expect(stay.broker.wait(GUARD_S) == 0, "the status")
        expect(not stay.vm.runtime.exists(), "the folder is still there")


@test("a staying broker that ends leaves its VM alone")
def leaves_the_vm():
    with Stay() as stay:
        stay.start_vm(DEBUGCON)
        with stay.client() as kd:
            look(kd)
            kd.resume()
        stay.broker.terminate()
        expect(stay.broker.wait(GUARD_S) == 0, "the status")
        stay.broker = stay.vm.process = stay.vm.start("serve", "stay")
        wait_for("kd.sock", (stay.vm.runtime / "kd.sock").exists, alive=stay.broker)
        with stay.client() as kd:
            look(kd)
            kd.resume()
        stay.end_vm()
        expect(stay.broker.wait(GUARD_S) == 0, "the status of a broker that does not stay")


@test("--no-serve is for brokers that come later, too")
def no_serve():
    with Folder() as folder:
        refused(folder.run("run", "--no-serve", "--tcp", "1", "x", "--", "true"), 2, "--no-serve")
        refused(folder.run("run", "--no-serve", "--absent", "x", "--", "true"), 2, "--no-serve")
        status, text = folder.run("run", "--no-serve", "--link", "hook", "x", "--", "sh", "-c", "exit 7")
        expect(status == 7, f"the VM's status is {status}: {text}")
        expect(not (folder.path / "x").exists(), "the folder is still there")


# ---- --absent -------------------------------------------------------------------------------------------------------------

@test("without a debugger the guest sees none, with one it does", BOTH)
def absent(way):
    with way.vm("absent", "--scenario", "counter", "--run", "--absent") as vm:
        vm.kd_socket()
        wait_for("a boot", lambda: BOOTED in vm.output(), alive=vm.process)
        entry = vm.listed()
        expect(entry["state"] == "no client (--absent)", f"list says {entry}")
        stats = vm.stats()
        expect(stats["boots"] == 0 and stats["prints"] == 0, f"the broker has heard of the guest: {stats}")
        before = None
        for _ in range(3):
            with KdClient(timeout=GUARD_S).connect(str(vm.kd_socket())) as kd:
                look(kd)
                names = kd.exports(kd.version().kern_base)
                counter = kd.read_u64(names["TkCounter"])
                expect(before is None or counter > before, f"the counter stands at {counter}")
                before = counter
                expect(vm.listed()["booted_alone"], "the guest saw a debugger in its boot")
                kd.resume()
                time.sleep(0.2)
            wait_for("nobody in list", lambda: vm.listed()["state"] == "no client (--absent)", alive=vm.process)
            time.sleep(0.3)


@test("by default a boot sees a debugger", BOTH)
def present(way):
    with way.vm("present", "--scenario", "counter") as vm:
        wait_for("a boot", lambda: vm.stats()["boots"] == 1 if vm.kd_socket() else False, alive=vm.process)
        with KdClient(timeout=GUARD_S).connect(str(vm.kd_socket())) as kd:
            look(kd)
            expect(not vm.listed()["booted_alone"], "the guest has not seen a debugger in its boot")


# ---- a VM that does not end ----------------------------------------------------------------------------------------------------

DEAF = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('ready', flush=True); [signal.pause() for _ in iter(int, 1)]"


@test("a VM that does not end when told is killed by the second signal", ("SIGTERM", "SIGINT"))
def deaf_vm(name):
    how = getattr(signal, name)
    with Folder() as folder:
        process = subprocess.Popen([VMKD, "run", "--link", "hook", "x", "--", sys.executable, "-c", DEAF], env=folder.env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            while "ready" not in process.stdout.readline():
                pass
            process.send_signal(how)
            process.send_signal(how)  # too early: nobody has been told what it would do
            line = process.stdout.readline()
            expect("still there" in line and "again" in line, f"vmkd says {line}")
            process.send_signal(how)
            expect(process.wait(GUARD_S) == 128 + signal.SIGKILL, f"status {process.returncode}")
            expect(not (folder.path / "x").exists(), "the folder is still there")
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


if __name__ == "__main__":
    main()
