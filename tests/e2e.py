# SPDX-License-Identifier: MIT
"""The head of the end-to-end tests: how a test is registered and run, the ways into a guest, and what every debugger in them does first.

    @test("what holds", BOTH)
    def what_holds(way):
        with way.vm("name", "--scenario", "counter") as vm, client_of(vm) as kd:
            attach(kd)
            expect(kd.read_virtual(...) == ..., "what was seen instead")

    if __name__ == "__main__":
        main()
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from kdclient import KdClient, Stop
from report import Report
from vm import GUARD_S, VMKD, Vm, kvm

REPORT = Report()
KVM, KVM_REMARK = kvm()
HAS_KVM = KVM != "missing"
TESTS = []


class Failed(Exception):
    """What a test expects does not hold."""


class Skip(Exception):
    """What a test needs is not there."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def need_kvm():
    if not HAS_KVM:
        raise Skip(f"KVM ({KVM_REMARK})")


class Way(str):
    """A way into a guest: its name, and the arguments that tools/testkernel takes for it."""

    def __new__(cls, name, *arguments):
        way = super().__new__(cls, name)
        way.arguments = arguments
        way.needs_kvm = "kvm" in arguments
        return way

    def vm(self, name, *more, **keywords):
        if self.needs_kvm:
            need_kvm()
        return Vm(name, *self.arguments, *more, **keywords)


HOOK = Way("hook", "--accel", "kvm", "--link", "hook")
DEBUGCON = Way("debugcon", "--accel", "tcg", "--link", "debugcon")
DEBUGCON_X86 = Way("debugcon x86", "--arch", "x86", "--accel", "tcg", "--link", "debugcon")
BOTH = (HOOK, DEBUGCON)


def test(title, ways=None):
    """Registers a test, which fails by raising; with `ways` it is called once for each, with that way."""
    def register(function):
        if ways is None:
            TESTS.append((title, function, ()))
        for way in ways or ():
            TESTS.append((f"{title} [{way}]", function, (way,)))
        return function
    return register


# ---- what every debugger does ---------------------------------------------------------------------------------------

def client_of(vm, timeout=GUARD_S):
    return KdClient(timeout=timeout).connect(str(vm.kd_socket()))


def attach(kd):
    """Stopped, past every module notice."""
    stop = kd.attach()
    while not isinstance(stop, Stop):
        kd.go()
        stop = kd.attach()
    return stop


class Folder:
    """A runtime folder of its own, and vmkd in it."""

    def __enter__(self):
        self.path = Path(tempfile.mkdtemp(prefix="vmkd-test-"))
        self.env = {**os.environ, "VMKD_RUNTIME_DIR": str(self.path)}
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def run(self, *arguments, program=VMKD, **more):
        """(status, stdout + stderr)."""
        environment = {**self.env, **more.pop("env", {})}
        done = subprocess.run([program, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=GUARD_S, **more)
        return done.returncode, done.stdout


def refused(result, status, *parts):
    """The status, one clear line (whatever else was said before it), and these words in it."""
    got, text = result
    lines = text.strip().splitlines()
    expect(got == status, f"status {got} instead of {status}: {text}")
    expect(lines and lines[-1].startswith("vmkd"), f"not a line of vmkd's: {text}")
    for part in parts:
        expect(part in lines[-1], f"'{part}' is not in: {lines[-1]}")


# ---- running --------------------------------------------------------------------------------------------------------

def run_one(title, function, arguments):
    begun = time.monotonic()
    try:
        function(*arguments)
    except Skip as why:
        REPORT.skip(title, str(why))
    except Exception as error:  # a fault of the test itself is a failure, too
        traceback.print_exc(file=sys.stdout)
        lines = str(error).splitlines() or [""]
        REPORT.fail(title, f"{type(error).__name__}: {lines[0]}")
    else:
        REPORT.ok(f"{title} ({time.monotonic() - begun:.0f} s)")


def main():
    """Runs the tests whose titles contain one of the command line's words; without words all. Ends the process with the status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the VM of the moment ends with us
    print(f"note KVM: {KVM} ({KVM_REMARK})", flush=True)
    words = sys.argv[1:]
    for title, function, arguments in TESTS:
        if not words or any(word in title for word in words):
            run_one(title, function, arguments)
    REPORT.exit()
