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
import time
from concurrent.futures import ThreadPoolExecutor

import e2e
from e2e import KVM, Way, expect, main, test
from kdclient import KdClient, KdClosed, Print, StateChange, Stop
from vm import GUARD_S, Hang, wait_for

RAM_BYTES = 64 << 20
LINE = re.compile(r"TK: flood (\d+) \.+\n")
WANTED, DONE, END = 0, 8, 24  # fields of the kernel's struct tk_flood
NO_END = 1 << 40  # lines


class Flood(Way):
    """some, many: lines, a second or two of a flood and a lot; slow: seconds a line that make a debugger slower than the guest."""

    def __new__(cls, way, some, many, slow):
        flood = super().__new__(cls, way, *way.arguments)
        flood.some, flood.many, flood.slow = some, many, slow
        return flood

    def vm(self, *more):
        return super().vm("prints", "--ram", f"{RAM_BYTES >> 20}M", "--scenario", "flood", *more)


IS_SLOW = KVM == "software"
HOOK = Flood(e2e.HOOK, 300 if IS_SLOW else 5000, 1500 if IS_SLOW else 10000, 0.02 if IS_SLOW else 0.002)
DEBUGCON = Flood(e2e.DEBUGCON, 5000, 10000, 0.002)
BOTH = [HOOK, DEBUGCON]


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


def ends(way, end, pause=0):
    with way.vm() as vm:
        reader = Reader(vm, pause=pause)
        expect(reader.count.map, "the VM's RAM is in no file")
        flooding(reader, way.some)
        end(vm)
        reader.pause = 0  # a broker whose VM has ended waits 3 s for its debugger
        reader.read_to_the_end()
        judge(reader, reader.count.lines())


@test("triple fault right after the last line", BOTH)
def triple_fault(way):
    with way.vm() as vm:
        reader = Reader(vm, lines=way.many, end=1)
        reader.kd.resume()
        reader.read_to_the_end()
        judge(reader, reader.count.lines())
        expect(reader.count.lines() == way.many, f"the guest printed {reader.count.lines()} lines, told were {way.many}")


@test("system_reset in the middle", BOTH)
def system_reset(way):
    ends(way, by_reset)


@test("quit in the middle", BOTH)
def quit_in_the_middle(way):
    ends(way, by_quit)


@test("SIGKILL in the middle", BOTH)
def sigkill(way):
    ends(way, by_kill)


# The broker holds the guest back for this debugger, and what it holds is not lost either.
@test("SIGKILL before a slow debugger", BOTH)
def sigkill_slow(way):
    ends(way, by_kill, pause=way.slow)


@test("quit before a slow debugger", BOTH)
def quit_slow(way):
    ends(way, by_quit, pause=way.slow)


# The next kernel prints from the beginning, and what the last one had printed came before that.
@test("system_reset, and the next kernel", BOTH)
def reset_and_reboot(way):
    with way.vm("--reboot") as vm:
        reader = Reader(vm)
        flooding(reader, way.some)
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
@test("SIGKILL with private RAM", [HOOK])
def sigkill_private(way):
    with way.vm("--run", "--private-ram") as vm:
        reader = Reader(vm)
        expect(reader.count.map is None, "RAM is in a file")
        reader.kd.resume()
        reader.read(way.some)
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


def flood(way, pause, lines):
    with way.vm() as vm:
        reader = Reader(vm, lines=lines + way.some, pause=pause)
        flooding(reader, way.some)
        before = so_far(vm, reader)
        reader.read(lines)
        made, printed, seconds = (b - a for a, b in zip(before, so_far(vm, reader)))
        reader.read(lines + way.some)
        numbers = reader.numbers
        expect(numbers == list(range(1, lines + way.some + 1)), f"{len(numbers)} lines; {first_fault(numbers)}")
        print(f"note {way}: {made} calls for {printed} lines in {seconds:.1f} s", flush=True)
        # What a running guest does anyway, a call or two a second, counts where a hundred lines take as long as that: under a software KVM.
        expect(made <= printed / 100 + 2 * seconds + 2, f"{made} calls for {printed} lines in {seconds:.1f} s")
        expect(vm.stats()["prints_dropped"] == 0, f"prints were dropped: {vm.stats()}")


@test("at most a call for 100 lines", BOTH)
def calls_in_a_flood(way):
    flood(way, 0, way.many * 2)


@test("at most a call for 100 lines, a slow debugger", BOTH)
def calls_before_slow(way):
    flood(way, way.slow / 4, way.many)


if __name__ == "__main__":
    main()
