#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Answers from RAM, the whole way: whoever answers, broker or guest, the bytes are the same; what must go to the guest does; --check-ram
finds a guest that lies.

    tests/test_ram.py             all
    tests/test_ram.py WORD…       the tests whose names contain one of the words
"""
import ctypes
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.pop("VMKD_TEST_RAM", None)  # these tests say themselves what a broker does with RAM

from e2e import DEBUGCON, DEBUGCON_X86, HOOK, Skip, attach, client_of, expect, main, test  # noqa: E402
from fake_vmm import BASE, BASE_GPA, F_NESTED, LONG_MODE, RAM_SIZE, REMOTE, FakeRam, FakeVmm  # noqa: E402
from kdclient import API, DATA_MAX, MANIPULATE, UNSUCCESSFUL, KdClient, KdTimeout, Stop  # noqa: E402
from vm import GUARD_S, VMKD, die_with_parent, wait_for  # noqa: E402

PAGE = 4096
RAM = 256 << 20
BIG = 8 << 20  # of TkBigMap

ALL = (HOOK, DEBUGCON, DEBUGCON_X86)


def variables(kd, *names):
    """The values of the kernel's 8-byte variables."""
    exports = kd.exports(kd.version().kern_base)
    return [kd.extend(kd.read_u64(exports[name])) for name in names]


def ask(kd, body):
    """The whole body of the answer to this whole body."""
    expect(kd.link.send(MANIPULATE, body), "a request was not acknowledged")
    deadline = time.monotonic() + GUARD_S
    while True:
        for i, (packet_type, reply) in enumerate(kd.link.received):
            if packet_type == MANIPULATE:
                del kd.link.received[i]
                return reply
        expect(kd.link.pump(deadline) is not None, "no answer")


# ---- the same bytes --------------------------------------------------------------------------------------------

HERE, GUEST = True, False  # who answers while RAM is used


def head(api, union, processor=0):
    # Level, status and padding are nobody's business, and come back as the guest does it.
    return struct.pack("<IHHII", API[api], 6, processor, 0, 0) + union.ljust(40, b"\0")


def read(where, address, count, flags=0):
    return head(where, struct.pack("<QII", address & (1 << 64) - 1, count, flags))


def search(address, length, pattern):
    return head("SearchMemory", struct.pack("<QQI", address & (1 << 64) - 1, length, len(pattern))) + pattern


def virtual_reads(kd, base, big, mixed, rom):
    for count in (1, 2, 3, 4, 7, 8, 100, DATA_MAX - 1, DATA_MAX, DATA_MAX + 1, 4000, 65536, 0xFFFFFFFF):
        yield HERE, read("ReadVirtual", base, count)
    yield GUEST, read("ReadVirtual", base, 0)
    yield HERE, read("ReadVirtual", big, 16, flags=0x1234)  # the field is for the reply
    for at in (PAGE, 5 * PAGE, BIG // 2, BIG // 2 + (1 << 21)):  # scattered pages, then large ones
        for count in (2, 4, 200, DATA_MAX):
            yield HERE, read("ReadVirtual", big + at - count // 2, count)
    for page in range(9):
        if page != rom:
            yield page % 2 == 0, read("ReadVirtual", mixed + page * PAGE, 16)
            yield page % 2 == 0, read("ReadVirtual", mixed + page * PAGE + 100, DATA_MAX)
    for address in (0, 1 << 47, (1 << 63) - 4, -(1 << 47) - 8, -1, -4):
        yield GUEST, read("ReadVirtual", address, 8)
    if not kd.is64:
        yield HERE, read("ReadVirtual", base & 0xFFFFFFFF, 100)
        yield GUEST, read("ReadVirtual", base & 0xFFFFFFFF | 0x1234 << 32, 100)


def physical_reads(rom):
    for flags in range(5):
        yield flags < 2, read("ReadPhysical", 0x1000, 64, flags)
    for count in (1, 2, 4, 100, DATA_MAX, DATA_MAX + 1, 1 << 20):
        yield HERE, read("ReadPhysical", RAM - 0x10000 + 3, count)
    yield GUEST, read("ReadPhysical", 0x1000, 0)
    for address in (*([] if rom else [0xF0000 - 2, 0xF0000]), 0xFEE00020, RAM - (1 << 17) + (1 << 30), 1 << 40, (1 << 64) - 4):
        yield GUEST, read("ReadPhysical", address, 4)


def searches(kd, big, mixed):
    def word(address):
        return struct.pack("<Q", address if kd.is64 else address & 0xFFFFFFFF)
    for at in (0, 8, PAGE - 8, 17 * PAGE, 0x20000):
        yield HERE, search(big, 0x20100, word(big + at))
        yield HERE, search(big + 1, 0x20100, word(big + at)[1:] + word(big + at + 8)[:3])
    yield HERE, search(big, 16, word(big + 8))
    yield GUEST, search(big, 15, word(big + 8))    # its last byte is outside
    yield GUEST, search(big, 8, word(big) + b"x")  # longer than the range
    yield GUEST, search(big, 0x2000, b"not there")
    yield GUEST, search(big, 0x2000, b"")
    yield GUEST, search(mixed, 3 * PAGE, word(mixed + 2 * PAGE))  # behind an absent page
    yield HERE, search(mixed, 3 * PAGE, word(mixed + 8))          # before it
    yield GUEST, search(-0x1000, 0x2000, b"ab")
    if not kd.is64:
        yield HERE, search(big & 0xFFFFFFFF, 0x2000, word(big + 0x1008))


def registers(kd):
    """Twice each: the first of a stop is the guest's in any case."""
    size = 0x4D0 if kd.is64 else 0x2CC
    for count in range(2):
        yield None, head("GetVersion", b"")
        yield None, head("GetVersion", b"\xAA" * 40, processor=9)
        yield None, head("GetContext", b"")
        yield None, head("GetContext", b"\x55" * 40)
        yield None, head("GetContext", b"", processor=8)  # there is none
        for offset, length in ((0, size), (0x30, 8), (size, 0), (size - 1, 2)):
            yield None, head("GetContextEx", struct.pack("<III", offset, length, 0))


def requests(kd, base, big, mixed, rom):
    """rom: the page of TkMixed that is none here, since the firmware left its shadow writable, and that this kernel will not read all the same."""
    yield from virtual_reads(kd, base, big, mixed, rom)
    yield from physical_reads(rom)
    yield from searches(kd, big, mixed)
    yield from registers(kd)


def replace_broker(vm, *options):
    """The broker dies, the VM goes on with another one. Returns its process."""
    os.kill(vm.listed()["broker_pid"], signal.SIGKILL)
    (vm.runtime / "kd.sock").unlink(missing_ok=True)
    process = vm.start("serve", vm.name, *options)
    wait_for("the successor", lambda: can_connect(vm), alive=process)
    return process


def can_connect(vm):
    try:
        KdClient().connect(str(vm.runtime / "kd.sock"), timeout=0.1).close()
        return True
    except KdTimeout:
        return False


@test("the same bytes from RAM and from the guest", ALL)
def same_bytes(way):
    with way.vm("ram", "--bigmap", BIG >> 20, "--scenario", "counter") as vm:
        with client_of(vm) as kd:
            attach(kd)
            where = kd.version().kern_base, *variables(kd, "TkBigMap", "TkMixed")
            asked = list(requests(kd, *where, rom=5 if way == HOOK else None))
            answers = []
            for who, body in asked:
                before = vm.stats() if who is not None else None
                answers.append(ask(kd, body))
                if who is not None:
                    count = vm.stats()["answers_from_ram"] - before["answers_from_ram"]
                    expect(count == who, f"request {describe(body)}: {count} answers from RAM")
            stats = vm.stats()
            expect(stats["answers_repeated"] > 8, f"{stats['answers_repeated']} answers repeated")
        successor = replace_broker(vm, "--no-ram")
        try:
            with client_of(vm) as kd:
                expect(isinstance(kd.attach(), Stop), "the stop has gone")
                for (_, body), answer in zip(asked, answers):
                    guests = ask(kd, body)
                    expect(guests == answer, f"request {describe(body)}: RAM {answer[:72].hex()} ({len(answer)} bytes), "
                           f"guest {guests[:72].hex()} ({len(guests)} bytes)")
                stats = vm.stats()
                expect(stats["answers_from_ram"] == stats["answers_repeated"] == sum(stats["asked_guest"].values()) == 0,
                       f"--no-ram: {stats}")
                expect(any("--no-ram" in r for r in vm.listed()["remarks"]), f"list: {vm.listed()}")
        finally:
            successor.terminate()
            successor.wait()


def describe(body):
    name = next(n for n, api in API.items() if api == struct.unpack_from("<I", body)[0])
    return f"{name} {body[16:40].hex()} {body[56:].hex()}"


# ---- reasons ---------------------------------------------------------------------------------------------------

@test("why the guest was asked", ALL)
def reasons(way):
    with way.vm("ram", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        mixed, = variables(kd, "TkMixed")
        kd.query_memory(mixed)
        kd.get_context()
        for page in (1, 3, 5, 7):
            ask(kd, read("ReadVirtual", mixed + page * PAGE, 4))
        ask(kd, read("ReadVirtual", mixed, 0))
        ask(kd, search(mixed, PAGE, b"not there"))
        asked = vm.stats()["asked_guest"]
        for reason, least in (("kind", 1), ("form", 1), ("absent", 1), ("not_ram", 2), ("not_found", 1), ("first", 2)):
            expect(asked[reason] >= least, f"{reason}: {asked}")
        expect(asked["nested"] == asked["mode"] == asked["awake"] == asked["too_long"] == 0, str(asked))
        expect(vm.listed()["remarks"] == [], f"list: {vm.listed()}")


# ---- what changes ----------------------------------------------------------------------------------------------

@test("what is written is read", ALL)
def written(way):
    with way.vm("ram", "--bigmap", BIG >> 20, "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        big, = variables(kd, "TkBigMap")
        for at in (4, PAGE - 3, BIG - 9):
            before = kd.read_virtual(big + at, 8)
            data = bytes(b ^ 0xFF for b in before)
            kd.write_virtual(big + at, data)
            expect(kd.read_virtual(big + at, 8) == data, f"at +{at:#x} the old bytes")
            kd.fill(big + at, 4, b"\x12\x34")
            expect(kd.read_virtual(big + at, 8) == b"\x12\x34\x12\x34" + data[4:], f"at +{at:#x}: the fill does not show")
        data = os.urandom(32)
        kd.write_physical(RAM - 0x10000 + 5, data)
        expect(kd.read_physical(RAM - 0x10000 + 5, 32) == data, "physical memory")
        expect(vm.stats()["answers_from_ram"] >= 10, "RAM was not used")


@test("contexts: repeated, and never stale", ALL)
def contexts(way):
    with way.vm("ram", "--scenario", "counter") as vm:
        with client_of(vm) as kd:
            attach(kd)
            register = "rbx" if kd.is64 else "ebx"
            first = kd.get_context()
            asked = vm.stats()["asked_guest"]["first"]
            expect(kd.get_context().raw == first.raw, "two contexts of one stop")
            expect(vm.stats()["asked_guest"]["first"] == asked, "the second GetContext went to the guest")
        # Another debugger: the guest was asked for the context in this stop, so it accepts a new one.
        with client_of(vm) as kd:
            attach(kd)
            context = kd.get_context()
            expect(vm.stats()["answers_repeated"] >= 2, "the context was not repeated for the second debugger")
            changed = (context[register] ^ 0x5A5A) & 0x7FFFFFFF
            old, context[register] = context[register], changed
            kd.set_context(context)
            expect(kd.get_context()[register] == changed, "a stale context after SetContext")
            if not kd.is64:  # control space begins with the context there
                kd.write_control_space(0xA4, struct.pack("<I", changed + 1))
                expect(kd.get_context()[register] == changed + 1, "a stale context after WriteControlSpace")
            context[register] = old
            kd.set_context(context)
            expect(kd.get_context()[register] == old, "a stale context after the second SetContext")
            version = kd.version()
            kd.resume()
            kd.break_in()
            asked = vm.stats()["asked_guest"]["first"]
            kd.get_context()
            expect(vm.stats()["asked_guest"]["first"] == asked + 1, "the context of another stop was repeated")
            expect(kd.version() == version and vm.stats()["asked_guest"]["first"] == asked + 1, "the version was asked for again")
            kd.go()


@test("contexts of several processors, steps", [DEBUGCON, DEBUGCON_X86])
def processors(way):
    with way.vm("ram", "--cpus", 2, "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        deadline = time.monotonic() + GUARD_S
        while kd.stop.processor_count != 2:
            expect(time.monotonic() < deadline, "one CPU only")
            kd.resume()
            time.sleep(0.1)
            kd.break_in()
        pcs = [kd.get_context(cpu).pc for cpu in (0, 1)]
        expect([kd.get_context(cpu).pc for cpu in (0, 1)] == pcs, "contexts mixed up")
        here = kd.stop.processor
        expect(kd.extend(pcs[here]) == kd.stop.pc, f"{pcs} of CPU {here}, stopped at {kd.stop.pc:#x}")
        stop = kd.switch_processor(1 - here)
        expect(stop.processor == 1 - here and kd.get_context(1 - here).pc == pcs[1 - here], "after the switch")
        kd.switch_processor(here)
        tick = kd.exports(kd.version().kern_base)["TkTick"]
        kd.write_breakpoint(tick)
        kd.resume()
        stop = kd.wait_stop()
        for _ in range(3):
            expect(kd.extend(kd.get_context().pc) == stop.pc, "the context is not of this stop")
            stop = kd.step()
        kd.resume()


@test("another boot", [DEBUGCON])
def another_boot(way):
    with way.vm("ram", "--reboot", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        kd.version()
        kd.version()
        first = vm.stats()["asked_guest"]["first"]
        vm.qmp().call("system_reset")
        wait_for("the second boot", lambda: vm.stats()["boots"] == 2, alive=vm.process)
        kd.close()
        with client_of(vm) as again:
            attach(again)
            again.version()
            expect(vm.stats()["asked_guest"]["first"] == first + 1, "the version of the boot before was repeated")
            again.go()


@test("private RAM", [HOOK])
def private_ram(way):
    """Read across processes, or said to be out of reach."""
    with way.vm("ram", "--run", "--private-ram", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no kernel")
        if not vm.stats()["answers_from_ram"]:
            expect(any("private" in r for r in vm.listed()["remarks"]), f"list: {vm.listed()}")


# ---- --check-ram -----------------------------------------------------------------------------------------------

@test("--check-ram finds a guest that lies", ALL)
def liar(way):
    with way.vm("ram", "--lie", "--run", "--check-ram", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        base = kd.version().kern_base
        at = kd.exports(base)["TkLie"] + 13
        kd.read_virtual(base, DATA_MAX)
        kd.read_virtual(at - 13, 13)
        stats = vm.stats()
        expect(stats["ram_differences"] == 0 and stats["ram_checked_bytes"] > DATA_MAX, f"before the lie: {stats}")
        told = kd.read_virtual(at - 13, 64)
        expect(told[13] == ord("3") ^ 0xFF, "the guest does not lie")
        kd.read_virtual(at, 1)
        stats = vm.stats()
        expect(stats["ram_differences"] == 2, f"{stats['ram_differences']} instead of two lies, {stats['ram_checked_bytes']} bytes compared")
        expect(stats["answers_from_ram"] == stats["answers_repeated"] == 0, f"in this mode nothing is answered here: {stats}")
        line = f"at 0x{at & (1 << 64) - 1:X}: the guest says {told[13]:02X}, RAM has {told[13] ^ 0xFF:02X}"
        expect(any(line in r for r in vm.listed()["remarks"]), f"'{line}' is not in {vm.listed()['remarks']}")
        wait_for("the message", lambda: len(re.findall(re.escape(line), vm.output())) == 2, alive=vm.process)
        kd.go()


# ---- a VMM side of the test's own ------------------------------------------------------------------------------

class Broker:
    """`vmkd serve` for a FakeVmm, a debugger attached to the stopped guest, and two ways to ask."""

    def __init__(self, *options):
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-test-"))
        self.env = {**os.environ, "VMKD_RUNTIME_DIR": str(self.folder)}
        self.vmm = FakeVmm(self.folder, "fake")
        self.ram = FakeRam()
        self.kd = self.process = None

    def __enter__(self):
        self.vmm.__enter__()
        self.process = subprocess.Popen([VMKD, "serve", "fake", *self.options], env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=die_with_parent)
        expect(self.vmm.is_greeted.wait(GUARD_S), "the broker does not attach")
        return self

    def __exit__(self, *_exc):
        if self.kd:
            self.kd.close()
        self.vmm.__exit__()
        self.process.terminate()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self):
        self.vmm.stop()
        self.kd = KdClient(timeout=GUARD_S).connect(str(self.folder / "fake" / "kd.sock"))
        expect(isinstance(self.kd.attach(), Stop), "no stop")
        return self

    def vmkd(self, *arguments):
        return subprocess.run([VMKD, *arguments], env=self.env, capture_output=True, text=True, timeout=GUARD_S).stdout

    def remarks(self):
        return json.loads(self.vmkd("list", "--json"))[0]["remarks"]

    def stats(self):
        return json.loads(self.vmkd("stats", "fake", "--json"))

    def read(self, address=BASE, count=16):
        """The bytes from RAM, or None: the guest was asked."""
        asked = len(self.vmm.delivered)
        reply = ask(self.kd, read("ReadVirtual", address, count))
        if len(self.vmm.delivered) > asked:
            expect(struct.unpack_from("<I", reply, 8)[0] == UNSUCCESSFUL, "the guest's answer did not come")
            return None
        return reply[56:]




@test("a map of RAM that comes, changes and goes")
def map_changes():
    with Broker() as b:
        b.stop()
        expect(b.read() is None, "without a map RAM was read")
        expect(any("not known where" in r for r in b.remarks()), f"list: {b.remarks()}")
        b.ram.bytes[BASE_GPA:BASE_GPA + 16] = b"the first of two"
        b.vmm.memory([b.ram.piece()], [b.ram.fd])  # during a wait
        b.stats()  # the broker has taken it
        expect(b.read() == b"the first of two" and b.remarks() == [], f"{b.read()}, list: {b.remarks()}")
        other = FakeRam()
        other.bytes[BASE_GPA:BASE_GPA + 16] = b"the second, then"
        b.vmm.memory([other.piece()], [other.fd], generation=2)
        b.stats()
        expect(b.read() == b"the second, then", f"after a change: {b.read()}")
        for what, pieces, fds in (("beyond the file", [b.ram.piece(size=RAM_SIZE + 4096)], [b.ram.fd]),
                                  ("no descriptor", [b.ram.piece()], []),
                                  ("overlapping", [b.ram.piece(), b.ram.piece(gpa=4096, size=4096)], [b.ram.fd])):
            b.vmm.memory([b.ram.piece()], [b.ram.fd])
            b.vmm.memory(pieces, fds)
            b.stats()
            expect(b.read() is None, f"{what}: RAM was read")
            expect(any("cannot be" in r for r in b.remarks()), f"{what}: list: {b.remarks()}")
        b.vmm.memory([])
        b.stats()
        expect(b.read() is None and any("not known where" in r for r in b.remarks()), f"list: {b.remarks()}")


@test("registers that are unknown, a guest's guest")
def registers_unknown():
    with Broker() as b:
        b.vmm.memory([b.ram.piece()], [b.ram.fd])
        b.vmm.registers = (0, 0, 0, 0)
        b.stop()
        expect(b.read() is None and any("registers" in r for r in b.remarks()), f"list: {b.remarks()}")
        b.vmm.registers, b.vmm.flags = LONG_MODE, F_NESTED
        expect(b.read() is None, "the wait before was of unknown registers")
        expect(b.read() is None and any("virtualization-based" in r for r in b.remarks()), f"list: {b.remarks()}")
        b.vmm.flags = 0
        expect(b.read() is None, "the wait before was nested")
        expect(b.read() is not None and b.remarks() == [], f"list: {b.remarks()}")
        asked = b.stats()["asked_guest"]
        expect(asked["mode"] == 2 and asked["nested"] == 2, str(asked))


@test("the stop page: no epoch in which the guest's guest's registers would be taken for its own")
def nested_epoch():
    with Broker() as b:
        b.vmm.memory([b.ram.piece()], [b.ram.fd])
        b.stop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ram:
            ram.connect(str(b.folder / "fake" / "ram.sock"))
            _, fds, _, _ = socket.recv_fds(ram, 1 << 16, 9)
        page = mmap.mmap(fds[0], PAGE, prot=mmap.PROT_READ)
        for fd in fds:
            os.close(fd)
        for flags, is_asleep in ((0, 1), (F_NESTED, 0), (0, 1)):
            b.vmm.flags = flags
            b.vmm.wait()
            b.stats()
            epoch, = struct.unpack_from("<Q", page, 80)
            expect(epoch % 2 == is_asleep, f"flags {flags}: epoch {epoch}")


@test("RAM is read when the guest has come back, not before")
def comes_back():
    with Broker() as b:
        b.vmm.memory([b.ram.piece()], [b.ram.fd])
        b.stop()
        b.vmm.on_deliver = lambda request: b.ram.bytes.__setitem__(slice(BASE_GPA, BASE_GPA + 4), b"done")
        b.ram.bytes[BASE_GPA:BASE_GPA + 4] = b"todo"
        expect(b.read(count=4) == b"todo", "the first reading")
        ask(b.kd, head("QueryMemory", b""))
        expect(b.read(count=4) == b"done", "what the guest did meanwhile is not seen")
        # Its tables have changed, and so have the registers that lead to them.
        b.ram.bytes[0x10000:0x14000] = b.ram.bytes[0x1000:0x5000]
        for shift, table in ((39, 0x10000), (30, 0x11000), (21, 0x12000)):
            b.ram.entry(table, shift, table + 0x1000)
        struct.pack_into("<Q", b.ram.bytes, 0x13000, 0xC0000 | 3)
        b.ram.bytes[0xC0000:0xC0004] = b"anew"
        b.vmm.registers = (LONG_MODE[0], 0x10000, *LONG_MODE[2:])
        expect(b.read(count=4) == b"done", "new registers before the guest said them")
        b.vmm.wait()
        b.stats()
        expect(b.read(count=4) == b"anew", "old registers")


@test("RAM in another process")
def remote():
    """Read with the kernel's knowledge of who the VMM is: this test's process, whatever the message says."""
    with Broker() as b:
        address = ctypes.addressof(ctypes.c_char.from_buffer(b.ram.bytes))
        b.ram.bytes[BASE_GPA:BASE_GPA + 16] = b"across processes"
        b.vmm.memory([b.ram.piece(at=address, file=REMOTE)], pid=1)
        b.stop()
        expect(b.read() == b"across processes" and b.remarks() == [], f"{b.read()}, list: {b.remarks()}")
        b.vmm.memory([b.ram.piece(at=4096, file=REMOTE)])  # nothing is ever mapped there
        b.stats()
        expect(b.read() is None and any("private" in r for r in b.remarks()), f"list: {b.remarks()}")


class Successor:
    """A process of an ordinary user that listens in the VMM's place, and on demand gives its own to a program that runs with root's rights."""

    USER = 61001

    def __init__(self, listener, program):
        go_on, self.pipe = os.pipe()
        said, say = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            die_with_parent()
            os.setresgid(self.USER, self.USER, self.USER)
            os.setresuid(self.USER, self.USER, self.USER)
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, as after an exec
            listener.listen(1)  # from here on the kernel names this process to whoever connects
            os.write(say, b"!")
            os.read(go_on, 1)
            os.execv(program, [program, "1000"])
        os.read(said, 1)
        for fd in (go_on, said, say):
            os.close(fd)

    def exec(self, program):
        os.write(self.pipe, b"!")
        wait_for("the other program", lambda: os.readlink(f"/proc/{self.pid}/exe") == program)
        first = Path(f"/proc/{self.pid}/maps").read_text().split("-")[0]
        return int(first, 16)

    def end(self):
        os.close(self.pipe)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@test("root's broker reads a user's VMM, and no program that has taken its place")
def deputy():
    if os.geteuid() != 0:
        raise Skip("only root can start root's broker")
    b = Broker()
    program = str(b.folder / "of-root")
    shutil.copy("/bin/sleep", program)
    os.chmod(program, 0o4755)
    b.folder.chmod(0o755)
    vmm = Successor(b.vmm.listener, program)
    try:
        with b:
            address = ctypes.addressof(ctypes.c_char.from_buffer(b.ram.bytes))  # there, too: it was forked off
            b.ram.bytes[BASE_GPA:BASE_GPA + 16] = b"across processes"
            b.vmm.memory([b.ram.piece(at=address, file=REMOTE)])
            b.stop()
            expect(b.read() == b"across processes" and b.remarks() == [], f"{b.read()}, list: {b.remarks()}")
            secret = vmm.exec(program)
            tables = b.ram.piece(size=BASE_GPA)
            b.vmm.memory([tables, b.ram.piece(gpa=BASE_GPA, size=4096, at=secret, file=REMOTE)], [b.ram.fd])
            b.stats()
            got = b.read()
            expect(got is None, f"what it read of root's program: {got}")
    finally:
        vmm.end()


@test("--check-ram with a guest that refuses")
def check_refusal():
    with Broker("--check-ram") as b:
        b.vmm.memory([b.ram.piece()], [b.ram.fd])
        b.stop()
        expect(b.read() is None, "RAM answered")
        stats = b.stats()
        expect(stats["ram_checked"] == stats["ram_differences"] == 1, str(stats))
        expect(any("56 bytes and status 0xC0000001, RAM has 72 bytes" in r for r in b.remarks()), f"list: {b.remarks()}")


if __name__ == "__main__":
    main()
