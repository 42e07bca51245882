#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Nothing printed is lost: a kernel that prints numbered lines flat out, by the hook and by debugcon, and ends in every way there is. What it
has printed it counts itself, in RAM that this test reads when the guest is dead.

    tests/test_prints.py             all
    tests/test_prints.py WORD…       the tests whose names contain one of the words
"""
import mmap
import os
import re
import signal
import struct
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from kdclient import KdClient, KdClosed, KdError, KdTimeout, Print, StateChange, Stop
from report import Report
from vm import GUARD_S, Hang, Vm, kvm, wait_for

REPORT = Report()
KVM, KVM_REMARK = kvm()
TESTS = []
RAM_BYTES = 64 << 20
LINE = re.compile(r"TK: flood (\d+) \.+\n")
WANTED, DONE, END = 0, 8, 24  # fields of the kernel's struct tk_flood
NO_END = 1 << 40  # lines


class Config:
    def __init__(self, name, some, many, slow, *arguments):
        self.name, self.arguments = name, arguments
        self.some, self.many = some, many  # lines: a second or two of a flood; a lot
        self.slow = slow  # seconds a line that make a debugger slower than the guest
        self.needs_kvm = "kvm" in arguments

    def vm(self, *more):
        return Vm("prints", "--ram", f"{RAM_BYTES >> 20}M", "--scenario", "flood", *self.arguments, *more)


IS_SLOW = KVM == "software"
HOOK = Config("hook KVM", 300 if IS_SLOW else 5000, 1500 if IS_SLOW else 10000, 0.02 if IS_SLOW else 0.002,
              "--accel", "kvm", "--link", "hook")
DEBUGCON = Config("debugcon TCG", 5000, 10000, 0.002, "--accel", "tcg", "--link", "debugcon")
BOTH = [HOOK, DEBUGCON]


def test(configs, title):
    """Registers a test for each configuration; it is called with the Config and fails by raising."""
    def register(function):
        for config in configs:
            TESTS.append((f"{title} [{config.name}]", function, config))
        return function
    return register


class Failed(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failed(what)


# ---- the guest's own count -------------------------------------------------------------------------------------

def physical(kd, address):
    """Where the kernel's page tables say that it lies (x64, 4 levels)."""
    table = kd.special_registers()["cr3"] & 0xFFFFFFFFFF000
    for shift in (39, 30, 21, 12):
        entry = struct.unpack("<Q", kd.read_physical(table + (address >> shift & 511) * 8, 8))[0]
        expect(entry & 1, f"{address:#x} is not mapped")
        table = entry & 0xFFFFFFFFFF000
        if shift in (30, 21) and entry & 0x80:
            break
    return (table & ~((1 << shift) - 1)) | address & (1 << shift) - 1


class GuestCount:
    """The kernel's TkFlood in the file that holds the VM's RAM: readable when the VM is dead. None in private RAM."""

    def __init__(self, vm, kd, address):
        self.at = physical(kd, address)
        self.map = None
        for name in os.scandir(f"/proc/{vm.listed()['pid']}/fd"):
            try:
                if os.stat(name.path).st_size == RAM_BYTES and "memfd" in os.readlink(name.path):
                    with open(name.path, "rb") as file:
                        self.map = mmap.mmap(file.fileno(), RAM_BYTES, prot=mmap.PROT_READ)
            except OSError:
                continue

    def lines(self):
        return struct.unpack_from("<Q", self.map, self.at + DONE)[0]


# ---- the debugger ----------------------------------------------------------------------------------------------

class Reader:
    """A debugger that lets the flood begin and reads it; pause: seconds that it takes over each line."""

    def __init__(self, vm, lines=NO_END, end=0, pause=0):
        self.pause = pause
        self.kd = KdClient(timeout=GUARD_S)
        self.kd.connect(str(vm.kd_socket()))
        stop = self.kd.attach()
        while not isinstance(stop, Stop):
            self.kd.go()
            stop = self.kd.attach()
        flood = self.kd.exports(self.kd.version().kern_base)["TkFlood"]
        self.count = GuestCount(vm, self.kd, flood)
        self.kd.write_virtual(flood + END, struct.pack("<Q", end))
        self.kd.write_virtual(flood + WANTED, struct.pack("<Q", lines))
        self.kd.prints.clear()
        self.numbers = []  # of the flood's lines, as they came

    def one(self, deadline):
        """Reads one event. False: the connection has ended."""
        try:
            event = self.kd._next_event(deadline)
            if event is None:
                raise Hang(f"no print and no end; {len(self.numbers)} lines came, {self.count.lines()} were printed")
            line = isinstance(event, Print) and LINE.fullmatch(event.text)
            if line:
                self.numbers.append(int(line[1]))
            if isinstance(event, StateChange):
                self.kd.go()  # a slow target stops once more for the break-in of the beginning
        except KdClosed:
            return False
        if self.pause:
            time.sleep(self.pause)
        return True

    def read(self, count):
        """Until so many lines are there, or the end."""
        deadline = time.monotonic() + GUARD_S
        while len(self.numbers) < count and self.one(deadline):
            pass

    def read_to_the_end(self):
        self.read(NO_END)
        self.kd.close()


def is_complete(numbers):
    return numbers == list(range(1, len(numbers) + 1))


def first_fault(numbers):
    for index, number in enumerate(numbers):
        if number != index + 1:
            return f"line {index + 1} of those received is number {number}; around it {numbers[max(0, index - 3):index + 4]}"
    return "none"


def judge(reader, printed):
    """printed: by the guest's count, which it advances after each line: one more may have come."""
    numbers = reader.numbers
    expect(is_complete(numbers), first_fault(numbers))
    expect(printed > 0, "the guest printed nothing")
    expect(len(numbers) in (printed, printed + 1), f"the guest printed {printed} lines, {len(numbers)} came")


# ---- how it ends -----------------------------------------------------------------------------------------------

def flooding(reader, lines):
    """Lets the guest go, and returns when it has printed so many lines: it is in the middle of it."""
    reader.kd.resume()
    reader.read(lines)
    wait_for("the flood", lambda: reader.count.lines() >= lines)


def by_quit(vm):
    vm.qmp().call("quit")


def by_reset(vm):
    vm.qmp().call("system_reset")  # QEMU runs with -no-reboot: that is its end


def by_kill(vm):
    os.kill(vm.listed()["pid"], signal.SIGKILL)


def ends(config, end, pause=0):
    with config.vm() as vm:
        reader = Reader(vm, pause=pause)
        expect(reader.count.map, "the VM's RAM is in no file")
        flooding(reader, config.some)
        end(vm)
        reader.pause = 0  # a broker whose VM has ended waits 3 s for its debugger
        reader.read_to_the_end()
        judge(reader, reader.count.lines())


@test(BOTH, "triple fault right after the last line")
def triple_fault(config):
    with config.vm() as vm:
        reader = Reader(vm, lines=config.many, end=1)
        reader.kd.resume()
        reader.read_to_the_end()
        judge(reader, reader.count.lines())
        expect(reader.count.lines() == config.many, f"the guest printed {reader.count.lines()} lines, told were {config.many}")


@test(BOTH, "system_reset in the middle")
def system_reset(config):
    ends(config, by_reset)


@test(BOTH, "quit in the middle")
def quit_in_the_middle(config):
    ends(config, by_quit)


@test(BOTH, "SIGKILL in the middle")
def sigkill(config):
    ends(config, by_kill)


# The broker holds the guest back for this debugger, and what it holds is not lost either.
@test(BOTH, "SIGKILL before a slow debugger")
def sigkill_slow(config):
    ends(config, by_kill, pause=config.slow)


@test(BOTH, "quit before a slow debugger")
def quit_slow(config):
    ends(config, by_quit, pause=config.slow)


# The next kernel prints from the beginning, and what the last one had printed came before that.
@test(BOTH, "system_reset, and the next kernel")
def reset_and_reboot(config):
    with config.vm("--reboot") as vm:
        reader = Reader(vm)
        flooding(reader, config.some)
        before = reader.count.lines()
        by_reset(vm)
        reader.kd.prints.clear()
        deadline = time.monotonic() + GUARD_S
        while not any(text.startswith("TK: up") for text in reader.kd.prints[-1:]) and reader.one(deadline):
            pass
        numbers = reader.numbers
        expect(is_complete(numbers), first_fault(numbers))
        expect(len(numbers) >= before, f"{before} lines were printed before the reset, {len(numbers)} came")


# RAM that is in no file dies with QEMU: what was in the ring then is lost, and nothing else is.
@test([HOOK], "SIGKILL with private RAM")
def sigkill_private(config):
    with config.vm("--run", "--private-ram") as vm:
        reader = Reader(vm)
        expect(reader.count.map is None, "RAM is in a file")
        reader.kd.resume()
        reader.read(config.some)
        by_kill(vm)
        reader.read_to_the_end()
        expect(is_complete(reader.numbers), first_fault(reader.numbers))


# ---- how much it costs -----------------------------------------------------------------------------------------

def so_far(vm, reader):
    """Port calls or doorbells (a doorbell is what announces a call), the lines that were printed, and the time."""
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(lambda: (vm.stats(), reader.count.lines()))
        while not asked.done() and reader.one(time.monotonic() + GUARD_S):
            pass  # a debugger that stops reading for a second is not waited for
    stats, lines = asked.result()
    return max(stats["port_calls"], stats["doorbells"]), lines, time.monotonic()


def flood(config, pause, lines):
    with config.vm() as vm:
        reader = Reader(vm, lines=lines + config.some, pause=pause)
        flooding(reader, config.some)
        before = so_far(vm, reader)
        reader.read(lines)
        made, printed, seconds = (b - a for a, b in zip(before, so_far(vm, reader)))
        reader.read(lines + config.some)
        numbers = reader.numbers
        expect(numbers == list(range(1, lines + config.some + 1)), f"{len(numbers)} lines; {first_fault(numbers)}")
        print(f"note {config.name}: {made} calls for {printed} lines in {seconds:.1f} s", flush=True)
        # What a running guest does anyway, a call or two a second, counts where a hundred lines take as long as that: under a software KVM.
        expect(made <= printed / 100 + 2 * seconds + 2, f"{made} calls for {printed} lines in {seconds:.1f} s")
        expect(vm.stats()["prints_dropped"] == 0, f"prints were dropped: {vm.stats()}")


@test(BOTH, "at most a call for 100 lines")
def calls_in_a_flood(config):
    flood(config, 0, config.many * 2)


@test(BOTH, "at most a call for 100 lines, a slow debugger")
def calls_before_slow(config):
    flood(config, config.slow / 4, config.many)


def main():
    print(f"note KVM: {KVM} ({KVM_REMARK})")
    words = sys.argv[1:]
    for name, function, config in TESTS:
        if words and not any(word in name for word in words):
            continue
        if config.needs_kvm and KVM == "missing":
            REPORT.skip(name, f"no KVM: {KVM_REMARK}")
            continue
        begun = time.monotonic()
        try:
            function(config)
            REPORT.ok(f"{name} ({time.monotonic() - begun:.0f} s)")
        except (Failed, Hang, KdError, KdTimeout) as error:
            REPORT.fail(name, error)
        except Exception:  # a fault of the test itself is a failure, too
            REPORT.fail(name, traceback.format_exc())
    REPORT.exit()


if __name__ == "__main__":
    main()
