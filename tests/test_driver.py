#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vmkd.sys in the test kernel: it takes over a kernel that was booted with another transport, gives it back, and says why where it cannot.

    tests/test_driver.py [WORD…]     those tests whose titles contain one of the words; VMKD_CHECK_LONG=1: all rounds
"""
import os
import re
import signal
import time

from e2e import GUARD_S, Way, attach, expect, main, test
from kdclient import KdClient, KdClosed, KdTimeout, StateChange, Symbols
from pe_messages import messages
from vm import BUILD, wait_for

LONG = "VMKD_CHECK_LONG" in os.environ
ROUNDS = 1000 if LONG else 50

NOT_SUPPORTED = 0xC00000BB
IO_TIMEOUT = 0xC00000B5
PORT_DISCONNECTED = 0xC0000037
NO_MEMORY = 0xC0000017
NOT_FOUND = 0xC0000225
INSUFFICIENT_RESOURCES = 0xC000009A
ACCESS_VIOLATION = 0xC0000005
PROCEDURE_NOT_FOUND = 0xC000007A


def way(name, arch, *arguments):
    made = Way(name, "--arch", arch, *arguments)
    made.arch = arch
    return made


def with_cpus(where, count):
    return way(f"{where}, {count} CPUs", where.arch, *where.arguments[2:], "--cpus", count)


# The kernel is booted with KDCOM on COM1 (--uart); the link is there for the driver.
X64 = way("x64 debugcon", "x64", "--accel", "tcg", "--link", "debugcon", "--uart")
X86 = way("x86 debugcon", "x86", "--accel", "tcg", "--link", "debugcon", "--uart")
HOOK = way("x64 hook", "x64", "--accel", "kvm", "--link", "hook", "--uart")
NO_HOST_X64 = way("x64, no host", "x64", "--accel", "tcg", "--link", "serial")
NO_HOST_X86 = way("x86, no host", "x86", "--accel", "tcg", "--link", "serial")
BOTH_ARCHES = (X64, X86)


ODD_KERNEL = "krnl_odd.bin"
ODD_NAMES = ["transportname=serial.x", "drivername=a", "service=K"]


def driver_path(arch):
    return BUILD / "guest" / arch / "vmkd.sys"


def words(*options):
    """--set for each KEY=VALUE."""
    return [argument for option in options for argument in ("--set", option)]


def scenarios(*names):
    return [argument for name in names for argument in ("--scenario", name)]


# A kernel that nobody debugs at its boot: the driver refuses that on x64 unless forced.
def forced(where):
    return ["force=1"] if where.arch == "x64" else []


class Ended:
    """What a VM has said that ran to its end."""

    def __init__(self, vm, status):
        self.status, self.text = status, vm.output()
        self.starts = [int(code, 16) for code in re.findall(r"^TK: driver start ([0-9a-f]{8})", self.text, re.M)]
        self.failed = re.findall(r"^TK: failed: (.*)", self.text, re.M)

    def expect_pass(self):
        expect(self.status == 0 and not self.failed, f"status {self.status}, {self.failed or self.text[-600:]}")


def run_to_end(where, *arguments, driver="vmkd"):
    with where.vm("driver", "--driver", driver, *arguments) as vm:
        return Ended(vm, vm.wait())


# ---- the kernel's own books ------------------------------------------------------------------------------------------

def tkdriver(where, force, *arguments):
    return run_to_end(where, "--cpus", 2, *scenarios("drivercycle=2"), *words(f"force={force}"), *arguments,
                      driver=BUILD / "testkernel" / where.arch / "tkdriver.sys")


@test("the test kernel starts and stops a driver that behaves", (NO_HOST_X64, NO_HOST_X86))
def books_are_balanced(where):
    ended = tkdriver(where, 0)
    ended.expect_pass()
    expect(ended.starts == [0, 0], f"starts gave {ended.starts}")


FAULTS = [
    (0x1, "leaves things behind", "left behind: pool, 100 bytes"),
    (0x2, "leaves things behind", "left behind: contiguous memory, 12288 bytes"),
    (0x4, "leaves things behind", "left behind: a mapping, 16 bytes"),
    (0x8, "leaves things behind", "1 keys open"),
    (0x10, "leaves things behind", "1 log entries not written"),
    (0x20, "has written outside of its pool", ""),
    (0x40, "somebody has written to contiguous memory that was given back", ""),
    (0x80, "leaves things behind", "a DPC of CPU 1, queued or in its routine"),
    (0x100, "start gave another status than expected", "start gave c0000001, expected 00000000"),
    (0x200, "cannot be stopped", "driver stop c0000010"),
    (0x400, "calls ZwClose at IRQL 2", ""),
    (0x800, "what it leaves of the debugger's state is not what it found", "KdDebuggerNotPresent 0, was 1"),
    (0x1000, "writes a log entry that reaches beyond its end", ""),
]


@test("and finds what one does wrong", (NO_HOST_X64, NO_HOST_X86))
def books_find_faults(where):
    for force, verdict, line in FAULTS if LONG or where is NO_HOST_X64 else FAULTS[::4]:
        ended = tkdriver(where, force)
        expect(ended.status == 1 and any(verdict in text for text in ended.failed), f"force={force:#x}: {ended.failed}")
        expect(line in ended.text, f"force={force:#x}: '{line}' is not in {ended.text[-500:]}")


# ---- refusals and failures --------------------------------------------------------------------------------------------

# What goes wrong, the status it must give, and a word that both event and host's line must have.
FAILURES = [
    ("no contiguous memory", ["fail=contiguous"], NO_MEMORY, "contiguous"),
    ("no pool", ["fail=pool"], INSUFFICIENT_RESOURCES, "pool"),
    ("no alias", ["fail=map"], ACCESS_VIOLATION, "map"),
    ("the kernel is not in the module list", ["unlist=kernel"], NOT_FOUND, "kernel"),
    ("the transport is not in the module list", ["unlist=transport"], NOT_FOUND, "no loaded module"),
    ("the transport exports neither function", ["unexport=KdSendPacket", "unexport=KdReceivePacket"], NOT_FOUND, "no loaded module"),
    ("the transport does not export KdReceivePacket", ["unexport=KdReceivePacket"], PROCEDURE_NOT_FOUND, "export"),
    ("the transport does not export KdSendPacket", ["unexport=KdSendPacket"], PROCEDURE_NOT_FOUND, "export"),
    ("memory integrity", ["ci=0x401"], NOT_SUPPORTED, "integrity"),
    ("a kernel that calls around its import table", ["bypass"], NOT_SUPPORTED, "import"),
    ("two groups of processors", ["groups=2"], NOT_SUPPORTED, "processors"),
    ("a module list that grows faster than it is read", ["listgrows=1000"], INSUFFICIENT_RESOURCES, "pool"),
]


def start_and_stay(where, status, *arguments):
    """A VM whose kernel has tried to start the driver once and runs on, and what it must have said."""
    return where.vm("driver", "--driver", "vmkd", *scenarios("driverstart", "driverwait=1"), *words(f"expect={status:#x}"), *arguments)


def wait_for_start(vm):
    wait_for("the end of driverstart", lambda: "TK: scenario driverwait" in vm.output(), alive=vm.process)
    return Ended(vm, 0)


def event_of(ended):
    """(message number, status) of the one event that is an error."""
    events = re.findall(r"^TK: event ([c-f][0-9a-f]{7}) status ([0-9a-f]{8})", ended.text, re.M)
    expect(len(events) == 1, f"{len(events)} events: {ended.text[-800:]}")
    return [int(number, 16) for number in events[0]]


def judge_event(where, ended, status, word):
    """The event's text, filled in as the event viewer does it."""
    number, told = event_of(ended)
    table = messages(driver_path(where.arch))
    expect(number in table, f"event {number:#x} is not in the driver's message table {[hex(n) for n in table]}")
    expect(told == status, f"the event's status is {told:#x}, expected {status:#x}")
    strings = ["\\Driver\\vmkd", *re.findall(r"^TK: event string (.*)", ended.text, re.M)]
    text = re.sub(r"%(\d)", lambda m: strings[int(m[1]) - 1] if int(m[1]) <= len(strings) else m[0], table[number])
    expect("%" not in text, f"an insertion is missing in: {text}")
    expect(word.lower() in text.lower(), f"'{word}' is not in the event's text: {text}")
    return number


def host_line(vm):
    def line():
        status, text = vm.run("history", "driver")
        lines = [l for l in text.splitlines() if l.startswith("vmkd.sys:")]
        return lines and lines[-1] if status == 0 else None
    return wait_for("the driver's line in vmkd history", line, alive=vm.process)


def fails(where, options, status, word):
    with start_and_stay(where, status, *words(*options)) as vm:
        ended = wait_for_start(vm)
        expect(not ended.failed, f"{ended.failed}")
        line = host_line(vm)
        expect(word.lower() in line.lower(), f"'{word}' is not in the line on the host: {line}")
        return judge_event(where, ended, status, word), line


@test("what can go wrong, each with its status, its event and its line on the host", BOTH_ARCHES)
def failures(where):
    said = {}
    for title, options, status, word in FAILURES:
        number, line = fails(where, [*options, *forced(where)], status, word)
        said.setdefault(line, []).append(title)
        print(f"   {title}: {status:08x}, event {number:08x}, {line}", flush=True)
    expect(len(said) == len({word for *_, word in FAILURES}), f"lines and what they are said for: {said}")


@test("no host: STATUS_PORT_DISCONNECTED and an event", (NO_HOST_X64, NO_HOST_X86))
def no_host(where):
    with start_and_stay(where, PORT_DISCONNECTED, *words(*forced(where))) as vm:
        ended = wait_for_start(vm)
        expect(not ended.failed, f"{ended.failed}")
        judge_event(where, ended, PORT_DISCONNECTED, "host")


@test("a kernel that was not booted with /debug is left alone", BOTH_ARCHES)
def not_debugged(where):
    fails(where, ["nokd", *forced(where)], NOT_SUPPORTED, "debug")


@test("an x64 kernel that booted without a debugger is left alone, unless Force is 1", (X64,))
def booted_alone(where):
    for options in ([], ["force=0"], ["force=2"], ["force=1", "forcetype=1"], ["force=1", "forcelen=1"], ["force=1", "forcelen=64"],
                    ["force=1", "fail=key"]):
        fails(where, options, NOT_SUPPORTED, "debugger")
    run_to_end(where, *scenarios("drivercycle=1"), *words("force=1")).expect_pass()


@test("a 32-bit kernel has no such guard: it needs no Force", (X86,))
def booted_alone_x86(where):
    run_to_end(where, *scenarios("drivercycle=1")).expect_pass()


@test("a kernel that was booted with kdvmkd.dll needs no driver", [way(w, w.arch, *w.arguments[2:-1]) for w in BOTH_ARCHES])
def booted_with_vmkd(where):
    for options in (forced(where), ["ci=0x401"], ["groups=2"]):
        fails(where, options, NOT_SUPPORTED, "kdvmkd.dll")


@test("a processor that takes no interrupts for seconds: the driver gives up, and everything is as it was", BOTH_ARCHES if LONG else (X64,))
def busy_processor(where):
    with start_and_stay(where, IO_TIMEOUT, "--cpus", 2, *words("latedpc=12000", *forced(where))) as vm:
        ended = wait_for_start(vm)
        expect(not ended.failed, f"{ended.failed}")
        expect("busy" in host_line(vm), f"the line on the host is {host_line(vm)}")
        judge_event(where, ended, IO_TIMEOUT, "busy")


@test("each allocation, mapping and question may fail once: nothing is left", BOTH_ARCHES if LONG else (X64,))
def one_failure_each(where):
    for what in ("pool", "contiguous", "map", "query", "key", "log"):
        for call in range(1, 20):
            with start_and_stay(where, 0, *words(f"fail={what}:{call}", *forced(where))) as vm:
                ended = wait_for_start(vm)
            told = [text for text in ended.failed if "another status" not in text]
            expect(not told, f"{what}, call {call}: {told}")
            if ended.starts == [0]:
                break
        else:
            expect(False, f"{what}: the driver never starts")


# ---- it works ----------------------------------------------------------------------------------------------------------

PLACES = [(X64, 1), (X64, 4), (X64, 8), (X86, 1), (X86, 8), (HOOK, 2)]


@test("started and stopped, while other CPUs watch the kernel's import table",
      [with_cpus(w, n) for w, n in PLACES + [(X64, 2), (X86, 2), (X86, 4), (HOOK, 1), (HOOK, 4)] * LONG])
def cycles(where):
    ended = run_to_end(where, *scenarios("driverlook", "drivercycle=5"), *words(*forced(where), "hz=250"))
    ended.expect_pass()
    expect(ended.starts == [0] * 5, f"starts gave {ended.starts}")
    looks = int(re.search(r"(\d+) looks of other CPUs", ended.text)[1])
    expect(looks > 0 or where.arguments[-1] == 1, "nobody looked")


@test("started and stopped while every CPU prints", BOTH_ARCHES)
def cycles_among_prints(where):
    run_to_end(where, "--cpus", 4, *scenarios("drivertalk", "drivercycle=5"), *words(*forced(where))).expect_pass()


@test("kernel, transport, driver and service under odd names", BOTH_ARCHES)
def odd_names(where):
    run_to_end(where, "--kernel-name", ODD_KERNEL, *scenarios("drivercycle=2"), *words(*forced(where), *ODD_NAMES)).expect_pass()


@test("a kernel as old as XP, and one without an import table directory", BOTH_ARCHES)
def old_kernels(where):
    for options in (["ci=none", "lacks=KeFlushQueuedDpcs", "lacks=KeQueryActiveGroupCount", "lacks=RtlSetSystemGlobalData"], ["noimports"],
                    ["listgrows=2"]):
        ended = run_to_end(where, "--cpus", 2, *scenarios("drivercycle=2"), *words(*options, *forced(where)))
        expect(ended.status == 0 and not ended.failed, f"{options}: {ended.failed or ended.text[-500:]}")


# ---- with debuggers ----------------------------------------------------------------------------------------------------

class Debugged:
    """A kernel with a debugger at its own transport, COM1, from its first packet on; TkDriver is where it starts and stops the driver."""

    def __init__(self, where, *arguments):
        self.vm = where.vm("driver", "--driver", "vmkd", *arguments, *scenarios("drivermailbox"), *words("break"))

    def __enter__(self):
        self.vm.__enter__()
        path = self.vm.runtime / "com1.sock"
        wait_for("com1.sock", path.exists, alive=self.vm.process)
        self.old = KdClient(timeout=GUARD_S).connect(str(path))
        attach(self.old)
        self.names = self.old.exports(self.old.version().kern_base)
        return self

    def __exit__(self, *error):
        self.old.close()
        return self.vm.__exit__(*error)

    def order(self, kd, wanted):
        """Writes the order and lets the kernel run; for the debugger that is stopped."""
        kd.write_virtual(self.names["TkDriver"], wanted.to_bytes(8, "little"))
        kd.resume()

    def state(self, kd):
        """(orders executed, status of the last)."""
        raw = kd.read_virtual(self.names["TkDriver"], 24)
        return int.from_bytes(raw[16:24], "little"), int.from_bytes(raw[8:12], "little")

    def be_there(self):
        """The old debugger takes what the kernel sends it at the moment."""
        try:
            if isinstance(self.old.wait_event(0.1), StateChange):
                self.old.resume()
        except KdTimeout:
            pass

    def wait_log(self, what, count):
        def has_come():
            self.be_there()
            return self.vm.output().count(f"TK: driver {what}") >= count
        wait_for(f"{count} times '{what}'", has_come, alive=self.vm.process)

    def finish(self):
        self.order(self.old, 3)
        while self.vm.process.poll() is None:
            try:
                self.be_there()
            except KdClosed:
                break
        Ended(self.vm, self.vm.wait()).expect_pass()


@test("a debugger over vmkd while it runs, the old one again when it has stopped", (X64, X86, HOOK))
def old_transport_again(where):
    with Debugged(where, "--cpus", 2) as d:
        for again in (1, 2):
            d.order(d.old, 1)
            d.wait_log("start 00000000", again)
            with KdClient(timeout=GUARD_S).connect(str(d.vm.kd_socket())) as new:
                attach(new)
                expect(new.read_virtual(new.version().kern_base, 2) == b"MZ", "no kernel over the link")
                expect("vmkd.sys" in [m.name for m in new.modules()], f"modules are {[m.name for m in new.modules()]}")
                new.switch_processor(1 - new.stop.processor)
                new.resume()
                new.wait_print("TK: driver mailbox")
                new.break_in()
                d.order(new, 2)
            d.wait_log("stop 00000000", again)
            attach(d.old)
            expect(d.state(d.old) == (2 * again, 0), f"the mailbox says {d.state(d.old)}")
            expect("vmkd.sys" not in [m.name for m in d.old.modules()], "the driver is still in the list")
            d.old.resume()
            d.old.wait_print("TK: driver mailbox")
            d.old.break_in()
        d.finish()


@test("a broker that has not heard of the end writes nothing into memory that was given back", (X64, X86, HOOK))
def broker_misses_the_end(where):
    life = scenarios("driverstart", "driverwait=64", "driverstop", "driverwait=128", "driverstart", "driverstop", "driverend")
    with where.vm("driver", "--driver", "vmkd", *life, *words(*forced(where))) as vm:
        wait_for("the start", lambda: "TK: driver start 0" in vm.output(), alive=vm.process)
        broker = vm.listed()["broker_pid"]
        os.kill(broker, signal.SIGSTOP)
        wait_for("the stop", lambda: "TK: driver stop 0" in vm.output())
        os.kill(broker, signal.SIGCONT)
        ended = Ended(vm, vm.wait())
    ended.expect_pass()
    expect(ended.starts == [0, 0], f"starts gave {ended.starts}")


@test("redirected once more behind it: stopping waits, says why, and ends when the other has given back", BOTH_ARCHES)
def redirected_again(where):
    with Debugged(where, "--cpus", 2, *scenarios("driverlook")) as d:
        chain = d.names["TkDriver"] + 32
        d.order(d.old, 1)
        d.wait_log("start 00000000", 1)
        with KdClient(timeout=GUARD_S).connect(str(d.vm.kd_socket())) as new:
            attach(new)
            new.write_virtual(chain, bytes([1]))
            new.resume()
            new.wait_print("TK: driver mailbox")
            new.break_in()
            expect(new.read_virtual(chain, 1) == bytes([2]), "nobody redirected it once more")
            d.order(new, 2)
            wait_for("the warning", lambda: "TK: event 8" in d.vm.output(), alive=d.vm.process)
            new.break_in()
            expect("TK: driver stop" not in d.vm.output(), "the driver has gone from under the other's feet")
            new.write_virtual(chain, bytes([3]))
            new.resume()
            d.wait_log("stop 00000000", 1)
        attach(d.old)
        d.finish()


class Reader:
    """A debugger that breaks in, reads and lets go, again and again, whether the driver is there or not."""

    def __init__(self, vm):
        self.kd = KdClient(timeout=GUARD_S).connect(str(vm.kd_socket()))
        self.counter = None
        self.rounds = []  # in which it has read
        self.notices = 0  # of another kernel

    def read(self):
        expect(self.kd.read_virtual(self.kd.version().kern_base, 2) == b"MZ", "no kernel at its place")
        if self.counter is None:
            self.counter = self.kd.exports(self.kd.version().kern_base)["TkDriver"] + 16
        self.rounds.append(int.from_bytes(self.kd.read_virtual(self.counter, 8), "little"))

    def take_prints(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                event = self.kd.wait_event(0.05)
            except KdTimeout:
                continue
            self.notices += isinstance(event, Symbols)
            if isinstance(event, StateChange):
                self.kd.resume()

    def run(self):
        """Until the VM ends."""
        try:
            while True:
                self.kd.break_in()  # no attach(): each round begins with a notice, which would be all that it ever meets
                self.read()
                self.kd.resume()
                self.take_prints(0.1)  # without a pause the kernel would do nothing but stop
        except KdClosed:
            self.kd.close()


# Under a software KVM a round takes seconds.
@test("starts and stops, under odd names, while a debugger reads", [with_cpus(w, n) for w, n in [(X64, 2), (X86, 2), (HOOK, 2)] + [(X64, 4)] * LONG])
def many_rounds(where):
    rounds = ROUNDS if where.endswith(" debugcon, 2 CPUs") else ROUNDS // 10
    options = words(*forced(where), "hz=250", "driverhold=3", *ODD_NAMES)
    with where.vm("driver", "--kernel-name", ODD_KERNEL, "--driver", "vmkd", *scenarios("drivertalk", f"drivercycle={rounds}"), *options) as vm:
        reader = Reader(vm)
        reader.run()
        ended = Ended(vm, vm.wait())
    ended.expect_pass()
    expect(ended.starts == [0] * rounds, f"{len(ended.starts)} starts")
    expect(reader.notices <= 1, f"it was told {reader.notices} times of another kernel; that the machine was switched off would be one")
    seen = len(set(reader.rounds))
    expect(seen > 1, f"the debugger has read {len(reader.rounds)} times, in rounds {sorted(set(reader.rounds))}")
    print(f"   {len(reader.rounds)} stops with reads, in {seen} of {rounds} rounds", flush=True)


if __name__ == "__main__":
    main()
