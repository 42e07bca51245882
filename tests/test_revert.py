#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Guests that are put somewhere else: snapshots, resets, crashes, migration, pauses. The link comes back by itself, debuggers are told with
what KDCOM has for it, and the next one always gets a valid target. The judge is the client in kdclient.py, the second one `vmkd kd`.

    tests/test_revert.py             all
    tests/test_revert.py WORD…       the tests whose names contain one of the words
"""
import collections
import os
import random
import shutil
import struct
import subprocess
import threading
import time
from contextlib import contextmanager

from e2e import BOTH, DEBUGCON, DEBUGCON_X86, Folder, Skip, Way, attach, client_of, expect, main, refused, test
from kdclient import API, MANIPULATE, KdError, KdRefused, Print, Stop, Symbols, frame
from vm import GUARD_S, wait_for

LONG = "VMKD_CHECK_LONG" in os.environ
RAM = "32M"
# A word of the test kernel that nothing but these tests writes.
SPOT = "TkBench"


def need(program, package):
    if not shutil.which(program):
        raise Skip(f"{program} (Debian's {package})")


def hmp(vm, line):
    said = vm.qmp().call("human-monitor-command", **{"command-line": line})
    expect(not said, f"{line}: {said}")


def make_disk(path):
    need("qemu-img", "qemu-utils")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True, timeout=GUARD_S)
    return f"if=none,id=snapshot,format=qcow2,file={path}"


@contextmanager
def machine(way, *arguments, scenario="counter", qemu=()):
    """A VM with a disk that snapshots go into."""
    with Folder() as f:
        drive = make_disk(f.path / "snapshot.qcow2")
        with way.vm("revert", "--ram", RAM, "--scenario", scenario, *arguments, "--", "-drive", drive, *qemu) as vm:
            yield vm


def next_event(kd):
    event = kd.wait_event()
    while isinstance(event, Print):
        event = kd.wait_event()
    return event


def is_notice(event):
    return isinstance(event, Symbols) and event.is_unload and event.base & 0xFFFFFFFF == 0xFFFFFFFF


def told(kd):
    """The debugger hears, in KDCOM's words, that the kernel it knew is no more, and lets go of it."""
    event = next_event(kd)
    expect(is_notice(event), f"no notice, but {event}")
    kd.go()


def ready(kd):
    """Stopped, with the kernel's start behind it."""
    attach(kd)
    kd.resume()
    return attach(kd)


def symbols(kd):
    return kd.exports(kd.version().kern_base)


# ---- snapshots of a VM that lives on --------------------------------------------------------------------------------

PAUSED = Way("debugcon, paused when silent", *DEBUGCON.arguments, "--run", "--pause-when-silent=50")


@test("snapshot taken stopped and running, reverted to while stopped and running", (*BOTH, PAUSED))
def four_ways(way):
    with machine(way) as vm, client_of(vm) as kd:
        first = ready(kd)
        spot = symbols(kd)[SPOT]
        kd.write_virtual(spot, b"stopped!")
        hmp(vm, "savevm stopped")
        kd.write_virtual(spot, b"running!")
        kd.resume()
        hmp(vm, "savevm running")
        attach(kd)
        for now in ("stopped", "running") * 2:
            for then in ("stopped", "running"):
                kd.write_virtual(spot, b"another!")
                if now == "running":
                    kd.resume()
                hmp(vm, f"loadvm {then}")
                told(kd)
                stop = kd.wait_stop() if then == "stopped" else kd.break_in()
                expect(then == "running" or stop.pc == first.pc, f"{now}, {then}: another stop than the one that was saved")
                expect(kd.read_virtual(spot, 8) == f"{then}!".encode(), f"{now}, {then}: another memory than the one that was saved")
                kd.write_virtual(spot, b"written!")
                expect(kd.read_virtual(spot, 8) == b"written!", f"{now}, {then}: a write is lost")
        kd.resume()


# ---- the console's commands -----------------------------------------------------------------------------------------

def console(vm, *commands, status=0):
    """`vmkd kd -c`: its output."""
    got, text = vm.run("kd", f"vm:{vm.name}", "-t", GUARD_S, "-c", "; ".join(commands))
    expect(got == status, f"status {got} instead of {status}: {text}")
    return text


@test("snapshot, revert and snapshots in the console", BOTH)
def commands(way):
    with machine(way) as vm:
        vm.kd_socket()
        text = console(vm, ".break", "snapshots", f"eb nt!{SPOT} 31 32 33", "snapshot stopped", "snapshots", f"eb nt!{SPOT} 34", "bp nt!TkInner",
                       "revert stopped", f"da nt!{SPOT} L3", "bl", "r $ip")
        expect("There are no snapshots" in text and "Snapshot stopped is taken." in text and "MiB  stopped" in text, text)
        expect("back at snapshot stopped" in text and "started over" in text and '"123"' in text, text)
        expect(text.count("DbgBreakPointWithStatus") >= 2, f"the fresh stop is not shown: {text}")
        expect("reboots" not in text, f"a revert is shown as a reboot: {text}")
        expect(" 0 e " in text, f"the breakpoint has left the list: {text}")
        text = console(vm, "snapshot running", "revert stopped", f"da nt!{SPOT} L3", "revert running", ".sleep 100", f"db nt!{SPOT} L1")
        expect("The target runs." in text and '"123"' in text, text)
        text = console(vm, "revert stopped", "qs")
        expect("DbgBreakPointWithStatus" in text, f"a stop that was reverted to is not shown: {text}")
        with client_of(vm) as kd:
            attach(kd)
            kd.resume()


@test("what the console's snapshots cannot do is one clear line")
def impossible():
    with machine(DEBUGCON) as vm:
        vm.kd_socket()
        refused(vm.run("kd", f"vm:{vm.name}", "-c", "revert nothing"), 1, "no snapshot 'nothing'", "snapshots")
        for name in ("../up", "-n", "", "a b", "x" * 64, "a'b", 'a"b'):
            refused(vm.run("kd", f"vm:{vm.name}", "-c", f"snapshot {name}"), 1, "expected")
        refused(vm.run("kd", f"unix:{vm.runtime}/kd.sock", "-c", "snapshot x"), 1, "not a vm:NAME")
        vm.qmp()  # somebody else holds the monitor
        refused(vm.run("kd", f"vm:{vm.name}", "-c", "snapshots"), 1, "somebody else holds the QMP monitor", vm.name)
        expect(vm.qmp().call("query-status")["running"], "a refused command has paused the VM")
    with DEBUGCON.vm("plain", "--ram", RAM, "--scenario", "counter") as vm:  # no disk at all
        vm.kd_socket()
        refused(vm.run("kd", f"vm:{vm.name}", "-c", "snapshot x"), 1, "qcow2", "qemu-img create")
        expect(vm.qmp().call("query-status")["running"], "a refused command has paused the VM")
        (vm.runtime / "qmp.sock").unlink()
        refused(vm.run("kd", f"vm:{vm.name}", "-c", "snapshot x"), 1, "no QMP monitor", "vmkd run")


@test("a breakpoint of the snapshot's time is hit, or gone with its kernel")
def breakpoints():
    with machine(DEBUGCON) as vm, client_of(vm) as kd:
        attach(kd)
        inner = symbols(kd)["TkInner"]
        original = kd.read_virtual(inner, 1)
        hmp(vm, "savevm without")
        handle = kd.write_breakpoint(inner)
        hmp(vm, "savevm with")
        hmp(vm, "loadvm without")
        told(kd)
        kd.wait_stop()
        expect(kd.read_virtual(inner, 1) == original, "the break instruction is still there")
        try:
            kd.restore_breakpoint(handle)
            raise KdError("the kernel has a breakpoint that its memory does not show")
        except KdRefused:
            pass
        hmp(vm, "loadvm with")
        told(kd)
        kd.wait_stop()
        kd.resume()
        expect(kd.wait_stop().pc == inner, "the snapshot's breakpoint does not stop the kernel")
        # libvmkd's books: what the snapshot's kernel has in its table is nobody's, and does not stay in its code.
        kd.resume()
    with machine(DEBUGCON) as vm:
        vm.kd_socket()
        text = console(vm, ".break", "snapshot without", "bp nt!TkInner", "g", "bc 0", "bp nt!TkMiddle", "g", "snapshot with", "revert without", "bl",
                       "g", "r $ip", "revert with", "bc *", "bp nt!TkTick", "g", "g", "g", "bl")
        expect(text.count("Breakpoint 0 hit\nnt!TkMiddle:") == 2, f"a breakpoint of this session is lost by a revert: {text}")
        expect(text.count("Breakpoint 0 hit\nnt!TkTick:") == 3, f"what the snapshot had in its table stops the kernel: {text}")


# ---- another QEMU process -------------------------------------------------------------------------------------------

def entry_state(vm):
    entry = vm.listed()
    return entry and entry["state"]


ROUNDS = 50 if LONG else 3


@test(f"a snapshot taken broken in comes back broken in, in {ROUNDS} new QEMU processes", (*BOTH, DEBUGCON_X86))
def new_process(way):
    with Folder() as f:
        drive = make_disk(f.path / "snapshot.qcow2")
        arguments = ["--ram", RAM, "--scenario", "counter", "--", "-drive", drive]
        with way.vm("revert", *arguments) as vm, client_of(vm) as kd:
            first = ready(kd)
            spot = symbols(kd)[SPOT]
            kd.write_virtual(spot, b"stopped!")
            hmp(vm, "savevm stopped")
        for i in range(ROUNDS):
            with way.vm("revert", *arguments, "-loadvm", "stopped") as vm:
                vm.kd_socket()
                wait_for("a guest that waits for a debugger", lambda: entry_state(vm) == "waiting for a debugger", alive=vm.process)
                with client_of(vm) as kd:
                    expect(attach(kd).pc == first.pc, f"round {i}: another stop than the one that was saved")
                    expect(kd.read_virtual(spot, 8) == b"stopped!", f"round {i}: another memory than the one that was saved")
                    kd.write_virtual(spot, b"written!")
                    kd.resume()
                    kd.break_in()
                    expect(kd.read_virtual(spot, 8) == b"written!", f"round {i}: a write is lost")
                    kd.resume()


def migrated(vm):
    status = vm.qmp().call("query-migrate").get("status")
    expect(status not in ("failed", "cancelled"), f"the migration has {status}")
    return status == "completed"


def migrate(vm, path):
    vm.qmp().call("migrate", uri=f"exec:cat > {path}")
    wait_for("the migration", lambda: migrated(vm))


@test("migration to a file and back, of a guest that runs and of one that is stopped", BOTH)
def to_file(way):
    for was in ("stopped", "running"):
        with Folder() as f:
            arguments = ["--ram", RAM, "--scenario", "counter", "--"]
            with way.vm("revert", *arguments) as vm, client_of(vm) as kd:
                first = ready(kd)
                spot = symbols(kd)[SPOT]
                kd.write_virtual(spot, b"migrated")
                if was == "running":
                    kd.resume()
                migrate(vm, f.path / "state")
            with way.vm("revert", *arguments, "-incoming", f"exec:cat {f.path}/state") as vm, client_of(vm) as kd:
                stop = attach(kd)
                expect(was == "running" or stop.pc == first.pc, "another stop than the one that was saved")
                expect(kd.read_virtual(spot, 8) == b"migrated", "another memory than the one that was saved")
                kd.step_off_int3()
                kd.step()
                kd.resume()
                kd.break_in()
                kd.resume()


# ---- migration while the debugger talks -----------------------------------------------------------------------------

# Bytes a second. CREEP is a page in a tenth of a second, which is how often QEMU looks for what has changed then.
SLOW, CREEP, FAST = 500_000, 10_000, 1 << 30


def limit(vm, bandwidth, downtime_ms):
    vm.qmp().call("migrate-set-parameters", **{"max-bandwidth": bandwidth, "downtime-limit": downtime_ms})


def migrating(vm):
    """QEMU's figures of a migration that goes on."""
    info = vm.qmp().call("query-migrate")
    expect(info.get("status") in ("setup", "active"), f"the migration has not waited for the debugger: {info}")
    return info.get("ram", {})


def begin_slow_migration(vm, path):
    """Returns when almost everything was sent once."""
    limit(vm, SLOW, 1)
    vm.qmp().call("migrate", uri=f"exec:cat > {path}")
    wait_for("the first pass over the memory", lambda: migrating(vm).get("remaining", 1 << 30) < 1 << 20, alive=vm.process)
    limit(vm, CREEP, 1)


# A guest that waits in the debugger touches next to nothing, and a migration with nothing left to send ends. So a device writes: fw_cfg by
# DMA, whose descriptor the debugger has left in a page that nobody uses.
DMA_AT = 0x6000


NO_ITEM, READ, SELECT = 0x3FFF << 16, 2, 8  # of an item that does not exist fw_cfg reads zeros


def prepare_dma(kd, address=0):
    """For touch_memory, which writes into the descriptor itself, and for one write of zeros at `address`."""
    kd.write_physical(DMA_AT, struct.pack(">IIQIIQ", 0, 0, 0, NO_ITEM | READ | SELECT, 4, address))


def touch_memory(vm, descriptor=DMA_AT):
    for port, value in ((0x514, 0), (0x518, int.from_bytes(struct.pack(">I", descriptor), "little"))):
        hmp(vm, f"o /w {port} {value}")


def find_area(kd):
    """The guest-physical address of the shared area's head."""
    for page in range(0, 32 << 20, 4096):
        try:
            head = kd.read_physical(page, 0x208)
        except KdRefused:
            continue  # no RAM
        if head[0x10:0x18] == b"VMKDAREA" and head[0x200:0x208] == struct.pack("<Q", page):
            return page
    raise KdError("there is no shared area in the guest's memory")


def wait_for_passes(vm, count):
    end = migrating(vm).get("dirty-sync-count", 0) + count

    def done():
        touch_memory(vm)
        return migrating(vm)["dirty-sync-count"] >= end
    wait_for("passes over the memory", done, alive=vm.process)


def end_migration(vm):
    limit(vm, FAST, 1000)
    wait_for("the migration", lambda: migrated(vm))


# With the hook the guest that waits is asleep and touches nothing: the migration would not wait for it.
@test("what the host has written last is not half there behind a migration", (DEBUGCON,))
def last_words(way):
    """The VMM does not know that the host wrote into the guest's memory. Here it has sent the page before, and never sends it again."""
    size = 80  # as much data as makes a record that divides the ring: behind the end lies the same record of an earlier lap
    with Folder() as f:
        arguments = ["--ram", RAM, "--scenario", "counter", "--"]
        with way.vm("revert", *arguments) as vm, client_of(vm) as kd:
            ready(kd)
            spot = symbols(kd)["TkFlood"]
            prepare_dma(kd, find_area(kd) + 0xFFC)  # reserved, and 0
            begin_slow_migration(vm, f.path / "state")
            wait_for_passes(vm, 3)
            written = 0
            for written in range(1, 120):
                kd.write_virtual(spot, bytes([written]) * size)
                touch_memory(vm)
            wait_for_passes(vm, 3)  # what the guest has touched is sent
            vm.qmp().call("stop")
            touch_memory(vm, DMA_AT + 16)  # the head is sent again, as if the guest had written it
            kd.link.write(write_request(kd, spot, bytes([written + 1]) * size))
            time.sleep(0.5)
            end_migration(vm)
        with way.vm("revert", *arguments, "-incoming", f"exec:cat {f.path}/state") as vm, client_of(vm) as kd:
            wait_for("the guest to come", lambda: vm.qmp().call("query-status")["status"] != "inmigrate")
            vm.qmp().call("cont")
            attach(kd)
            got = kd.read_virtual(spot, size)
            expect(got in (bytes([written]) * size, bytes([written + 1]) * size), f"{got.hex()} instead of {written:02x} or one more")


def write_request(kd, address, data):
    """The frame of a WriteVirtual, for those who do not wait for what comes of it."""
    union = struct.pack("<QII", address & (1 << 64) - 1, len(data), 0)
    body = struct.pack("<IHHII", API["WriteVirtual"], 0, kd.stop.processor, 0, 0) + union.ljust(40, b"\0") + data
    return frame(MANIPULATE, kd.link.next_id, body)


class Talk:
    """A debugger that reads, writes, steps, goes on and breaks in, and knows what must be in the guest's memory afterwards."""

    SLOTS, SLOT = 64, 8192

    def __init__(self, kd, seed):
        self.kd, self.random = kd, random.Random(seed)
        sym = symbols(kd)
        self.base = kd.read_u64(sym["TkBigMap"])
        self.memory = {slot: kd.read_virtual(self.at(slot), 256) for slot in range(self.SLOTS)}
        self.under_way = None  # (slot, bytes): perhaps written, perhaps not
        self.done = collections.Counter()

    def at(self, slot):
        return self.base + slot * self.SLOT + 4000  # across a page's end

    def write(self):
        slot, data = self.random.randrange(self.SLOTS), self.random.randbytes(256)
        self.under_way = (slot, data)
        self.kd.write_virtual(self.at(slot), data)
        self.memory[slot], self.under_way = data, None

    def read(self):
        slot = self.random.randrange(self.SLOTS)
        expect(self.kd.read_virtual(self.at(slot), 256) == self.memory[slot], f"slot {slot} is read as something else")

    def step(self):
        self.kd.step_off_int3()
        self.kd.step()

    def run(self):
        self.kd.resume()
        time.sleep(self.random.random() / 20)
        self.kd.break_in()

    def turn(self):
        what = self.random.choices((self.write, self.read, self.step, self.run), (8, 8, 1, 2))[0]
        what()
        self.done[what.__name__] += 1

    def until(self, is_over):
        while not is_over():
            self.turn()

    def check(self, kd):
        """Every byte is right, in whatever process the guest is now."""
        for slot, data in self.memory.items():
            got = kd.read_virtual(self.at(slot), 256)
            may_be = [data] + [d for s, d in [self.under_way or (None, None)] if s == slot]
            expect(got in may_be, f"slot {slot}: {got[:8].hex()}… instead of {data[:8].hex()}…")


def talk_through(way, path, ends_talking):
    arguments = ["--ram", "64M", "--bigmap", "8", "--scenario", "counter", "--"]
    with way.vm("revert", *arguments) as vm, client_of(vm) as kd:
        ready(kd)
        kd.timeout = 15 if ends_talking else kd.timeout
        talk = Talk(kd, 4)
        limit(vm, 2_000_000, 1)
        vm.qmp().call("migrate", uri=f"exec:cat > {path}")
        total = lambda: sum(talk.done.values())  # noqa: E731
        talk.until(lambda: total() >= 100 and migrating(vm).get("remaining", 1 << 30) < 4 << 20)
        expect(migrating(vm), "the migration is over")
        limit(vm, FAST, 1000)
        try:  # the VM is taken away in the middle of something
            if ends_talking:
                talk.until(lambda: vm.qmp().call("query-migrate")["status"] == "completed")
        except KdError:
            pass
        wait_for("the migration", lambda: migrated(vm))
    with way.vm("revert", *arguments, "-incoming", f"exec:cat {path}") as vm, client_of(vm) as kd:
        attach(kd)
        talk.check(kd)
        kd.resume()
        kd.break_in()
        kd.resume()
    return talk


@test("migration with the debugger talking all the while: every byte is right afterwards", BOTH)
def talking(way):
    with Folder() as f:
        for ends_talking in (False, True):
            talk = talk_through(way, f.path / "state", ends_talking)
            expect(all(talk.done[what] for what in ("write", "read", "step", "run")), f"only {talk.done} were done")


# ---- pauses ---------------------------------------------------------------------------------------------------------

@test("QMP stop and cont at any moment of a transfer", BOTH)
def pauses(way):
    with machine(way, "--bigmap", 4) as vm, client_of(vm) as kd:
        ready(kd)
        talk = Talk(kd, 5)
        over = threading.Event()

        def pause():
            while not over.is_set():
                vm.qmp().call("stop")
                time.sleep(0.01)
                vm.qmp().call("cont")
                time.sleep(0.01)
        thread = threading.Thread(target=pause)
        vm.qmp()
        thread.start()
        try:
            talk.until(lambda: sum(talk.done.values()) >= (2000 if LONG else 150))
        finally:
            over.set()
            thread.join()
        talk.check(kd)
        vm.qmp().call("stop")  # a paused VM is asked: the answer comes when it runs
        kd.link.write(write_request(kd, talk.at(0), talk.memory[0]))
        time.sleep(0.2)
        vm.qmp().call("cont")


# ---- resets ---------------------------------------------------------------------------------------------------------

def reset_outside(vm, kd):
    vm.qmp().call("system_reset")


def reboot_asked(vm, kd):
    kd.reboot()


def crash(vm, kd):
    kd.cause_bugcheck()
    expect(isinstance(next_event(kd), Stop), "a bug check does not stop for the debugger")
    kd.reboot()


def triple_fault(vm, kd):
    flood = symbols(kd)["TkFlood"]
    kd.write_virtual(flood + 24, struct.pack("<Q", 1))
    kd.write_virtual(flood, struct.pack("<Q", 3))
    kd.resume()


@test("reset, reboot, crash and triple fault: the link comes back by itself", BOTH)
def resets(way):
    with way.vm("revert", "--ram", RAM, "--scenario", "flood", "--reboot") as vm, client_of(vm) as kd:
        ready(kd)
        for end in (reset_outside, reboot_asked, crash, triple_fault):
            end(vm, kd)
            event = next_event(kd)
            if is_notice(event):
                kd.go()
                event = next_event(kd)
            expect(isinstance(event, Symbols) and not event.is_unload, f"{end.__name__}: no new kernel, but {event}")
            kd.go()
            ready(kd)
            symbols(kd)


# ---- two debuggers --------------------------------------------------------------------------------------------------

@test("two debuggers are told of a revert, and both are where the snapshot was", BOTH)
def two(way):
    with machine(way) as vm, client_of(vm) as first, client_of(vm) as second:
        stop = ready(first)
        spot = symbols(first)[SPOT]
        first.write_virtual(spot, b"stopped!")
        hmp(vm, "savevm stopped")
        second.attach()
        for _ in range(3):
            first.write_virtual(spot, b"another!")
            expect(second.read_virtual(spot, 8) == b"another!", "the second one does not see what the first one wrote")
            hmp(vm, "loadvm stopped")
            for kd in (second, first):
                told(kd)
            for kd in (first, second):
                expect(kd.wait_stop().pc == stop.pc, "another stop than the one that was saved")
                expect(kd.read_virtual(spot, 8) == b"stopped!", "another memory than the one that was saved")
        first.resume()


# ---- suspend --------------------------------------------------------------------------------------------------------

PM1_CONTROL, SLEEP_TO_RAM = 0x604, 1 << 13 | 1 << 10  # where SeaBIOS puts the PIIX4's, and its S3


def query(vm):
    return vm.qmp().call("query-status")["status"]


@test("suspend to RAM and wake up: the firmware starts the kernel again, and the link comes back", BOTH)
def suspend(way):
    """The test kernel leaves no waking vector, so that this is a reset with the memory kept. How a kernel comes back from S3 with its memory
    was not tried."""
    with way.vm("revert", "--ram", RAM, "--scenario", "counter", "--reboot") as vm, client_of(vm) as kd:
        ready(kd)
        kd.link.write(io_request(kd, PM1_CONTROL, 2, SLEEP_TO_RAM))
        wait_for("the VM to sleep", lambda: query(vm) == "suspended", alive=vm.process)
        expect(vm.listed() is not None, "vmkd list hangs on a VM that sleeps")
        vm.qmp().call("system_wakeup")
        event = next_event(kd)
        if is_notice(event):
            kd.go()
            event = next_event(kd)
        expect(isinstance(event, Symbols) and not event.is_unload, f"no new kernel, but {event}")
        kd.go()
        ready(kd)
        symbols(kd)
        kd.resume()


def io_request(kd, port, size, value):
    """The frame of a WriteIo, for those who do not wait for what comes of it."""
    body = struct.pack("<IHHII", API["WriteIo"], 0, kd.stop.processor, 0, 0) + struct.pack("<QII", port, size, value).ljust(40, b"\0")
    return frame(MANIPULATE, kd.link.next_id, body)


if __name__ == "__main__":
    main()
