#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""memory/'s page walks against QEMU's own, under TCG: every mapping of `info tlb` and its neighbours, gva2gpa, the bytes of memsave, for the
test kernels and for guests whose tables this test lays out; for those also what the processor itself says of each address.

    tests/test_walk.py             all
    tests/test_walk.py WORD…       the guests whose names contain one of the words
"""
import os
import re
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from report import Report
from vm import BUILD, GUARD_S, ROOT, Qmp, die_with_parent, wait_for

REPORT = Report()
TRANSLATE = BUILD / "tests" / "walk" / "translate"
GUEST = BUILD / "tests" / "walk" / "guest.elf"
OK, ADDRESS, ABSENT, RESERVED, TABLE = range(5)
PAGE, LARGE, GIB = 0x1000, 0x200000, 0x40000000
P, RW, PS, NX = 1, 2, 0x80, 1 << 63
PSE, PAE, LA57 = 0x10, 0x20, 0x1000
SCE, LME, NXE = 1, 0x100, 0x800
PARAMETERS, ADDRESSES, RESULTS = 0x200000, 0x200020, 0x210000  # tests/walk/guest.S
SAMPLES = 150  # of gva2gpa and memsave, which cost a round trip each


class Machine:
    """A VM whose RAM is a file of ours. start() leaves it stopped before its first instruction."""

    def __init__(self, command, ram, machine):
        self.folder = tempfile.TemporaryDirectory(prefix="vmkd-walk-")
        self.path = Path(self.folder.name)
        self.ram, self.log = self.path / "ram", self.path / "log"
        self.more = ["-object", f"memory-backend-file,id=vmkd-walk,size={ram},mem-path={self.ram},share=on", "-machine",
                     f"{machine}memory-backend=vmkd-walk", "-m", ram, "-qmp", f"unix:{self.path}/qmp,server=on,wait=off", "-S"]
        self.command, self.process, self.qmp = command, None, None

    def __enter__(self):
        try:
            environment = {**os.environ, "VMKD_RUNTIME_DIR": str(self.path), "VMKD_BUILD": str(BUILD)}
            self.process = subprocess.Popen([*self.command(self), *self.more], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                            preexec_fn=die_with_parent)
            wait_for("QMP", (self.path / "qmp").exists, alive=self.process)
            self.qmp = Qmp(self.path / "qmp")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.qmp:
            try:
                self.qmp.call("quit")
            except (RuntimeError, ConnectionError, OSError):
                pass
            self.qmp.close()
        if self.process:
            if not self.qmp:
                self.process.terminate()
            self.process.wait(GUARD_S)
        self.folder.cleanup()

    def hmp(self, line):
        return self.qmp.call("human-monitor-command", **{"command-line": line})

    def run_until(self, text):
        self.qmp.call("cont")
        wait_for(f"'{text}' in the guest's log", lambda: self.log.exists() and text in self.log.read_text(errors="replace"), alive=self.process)
        self.qmp.call("stop")

    def map(self):
        """[(gpa, size, file offset)] of what QEMU calls ram in the system's address space."""
        tree, pieces = self.hmp("info mtree -f"), []
        view = next(v for v in tree.split("FlatView #") if re.search(r'^ AS "memory"', v, re.M))
        for first, last, kind, offset in re.findall(r"^  (\w{16})-(\w{16}) \(prio \S+ (\w+)\): vmkd-walk(?: @(\w+))?", view, re.M):
            if kind == "ram":
                pieces.append((int(first, 16), int(last, 16) - int(first, 16) + 1, int(offset or "0", 16)))
        return pieces

    def registers(self):
        text = self.hmp("info registers")
        return [int(re.search(rf"\b{name}=(\w+)", text).group(1), 16) for name in ("CR0", "CR3", "CR4", "EFER")]

    def tlb(self):
        """{first address of a page: (gpa, is it large)}, as QEMU walks. For PAE the address has the NX bit."""
        return {int(va, 16): (int(gpa, 16) & ~NX, flags[2] == "P") for va, gpa, flags in
                re.findall(r"^(\w{16}): (\w{16}) ([-XGPDACTUW]{9})\s*$", self.hmp("info tlb"), re.M)}

    def gva2gpa(self, va):
        text = self.hmp(f"gva2gpa {va:#x}")
        found = re.match(r"gpa: (\w+)", text)
        return int(found.group(1), 16) if found else None

    def memory(self, va, size):
        """The guest's bytes as QEMU translates; None where it cannot."""
        out = self.path / "bytes"
        try:
            self.qmp.call("memsave", val=va - (va >> 63 << 64), size=size, filename=str(out))
        except RuntimeError:
            return None
        return out.read_bytes()


class Walks:
    """memory/'s answers for one machine as it stands, asked all at once."""

    def __init__(self, machine):
        self.head = [f"map {gpa:x} {size:x} {offset:x}" for gpa, size, offset in machine.map()]
        self.head.append("regs " + " ".join(f"{r:x}" for r in machine.registers()))
        self.ram = machine.ram

    def ask(self, lines):
        text = "\n".join(self.head + lines) + "\n"
        done = subprocess.run([TRANSLATE, self.ram], input=text, capture_output=True, text=True, timeout=GUARD_S)
        answers = done.stdout.splitlines()
        if done.returncode or len(answers) != len(lines):
            raise AssertionError(f"translate: status {done.returncode}, {len(answers)} answers to {len(lines)} questions")
        return [a.split(" ") for a in answers]

    def find(self, addresses):
        """{va: (outcome, gpa, size of the page)}"""
        addresses = list(addresses)
        return {va: (int(o), int(gpa, 16), int(size, 16)) for va, (o, gpa, size) in zip(addresses, self.ask([f"find {va:x}" for va in addresses]))}

    def read(self, ranges):
        """[(outcome, bytes)] of [(va, size)]"""
        return [(int(o), bytes.fromhex(text)) for o, text in self.ask([f"read {va:x} {size:x}" for va, size in ranges])]


def sample(items, count=SAMPLES):
    """The first, the last, and what lies evenly between."""
    items = sorted(items)
    return items if len(items) <= count else [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def differences(pairs):
    """What to say of [(what, ours, theirs)]: "" or the first that differ."""
    wrong = [f"{what}: ours {ours}, QEMU's {theirs}" for what, ours, theirs in pairs if ours != theirs]
    return f"{len(wrong)} of {len(pairs)} differ: " + "; ".join(wrong[:4]) if wrong else ""


def judge(name, pairs):
    pairs = list(pairs)
    REPORT.check(f"{name} ({len(pairs)})", pairs and not differences(pairs), differences(pairs) or "nothing to compare")


def show(found):
    return hex(found) if found is not None else "nothing"


def compare_tlb(name, walks, tlb, faulty=(), high=()):
    """Every mapping of `info tlb`. faulty: pages that a processor refuses, which `info tlb` does not know; high: 4 MiB pages above 4 GiB, whose address
    it does not show."""
    tlb = {va: entry for va, entry in tlb.items() if va not in faulty and va not in high}
    found = walks.find(tlb)
    judge(f"{name}: every mapping of info tlb", (
        (hex(va), (show(found[va][1] if not found[va][0] else None), found[va][2] > PAGE), (show(gpa), is_large)) for va, (gpa, is_large) in tlb.items()))
    return {va: found[va][2] for va in tlb}


def compare_neighbours(name, machine, walks, sizes, more=(), faulty=()):
    """First and last bytes of pages, and what is before and behind them, with gva2gpa."""
    asked = set(more)
    for va in sample(sizes):
        asked |= {va, va + sizes[va] - 1}
    edges = [va + sizes[va] for va in sizes if (va + sizes[va]) not in sizes] + [va - 1 for va in sizes if va]
    asked |= {va for va in sample(edges) if 0 <= va < 1 << 64}
    asked = {va for va in asked if va & -PAGE not in faulty}
    found = walks.find(asked)
    judge(f"{name}: gva2gpa of pages and their neighbours", ((hex(va), show(found[va][1] if not found[va][0] else None), show(machine.gva2gpa(va)))
                                                             for va in sorted(asked)))


def compare_bytes(name, machine, walks, sizes, ranges=()):
    """Whole pages and runs across their ends against memsave. Where ours cannot read (no RAM), QEMU's may."""
    ranges = [*ranges, *((va, PAGE) for va in sample(sizes)), *((va + sizes[va] - 100, 3 * PAGE) for va in sample(sizes, 40))]
    pairs = []
    for (va, size), (_, ours) in zip(ranges, walks.read(ranges)):
        theirs = machine.memory(va, len(ours)) if ours else None
        if theirs is not None and ours.strip(b"\0"):
            pairs.append((hex(va), ours, theirs))
    judge(f"{name}: bytes of memsave", pairs)


# ---- the test kernels

def kernel(arch, ram, machine):
    name = f"test kernel {arch}"
    command = lambda m: ["tools/testkernel", "walk", "--arch", arch, "--accel", "tcg", "--link", "serial", "--machine", machine, "--ram", ram,
                         "--bigmap", "8", "--log", m.log, "--"]
    with Machine(command, ram, "") as machine_:
        machine_.run_until("TK: up")
        walks, tlb = Walks(machine_), machine_.tlb()
        sizes = compare_tlb(name, walks, tlb)
        REPORT.check(f"{name}: it has small and large pages", {PAGE, LARGE} <= set(sizes.values()), str(set(sizes.values())))
        compare_neighbours(name, machine_, walks, sizes)
        compare_bytes(name, machine_, walks, sizes)


# ---- guests of our own

class Layout:
    """Page tables and registers for tests/walk/guest.S. Everything lies at 3 MiB and up, which they map to itself with all from 1 MiB."""

    def __init__(self, levels, cr4, efer, ram="256M"):
        self.levels, self.cr4, self.efer, self.ram = levels, cr4, efer, ram
        self.cr3, self.flags = 0, 1
        self.words = {}        # gpa -> bytes
        self.free = 0x300000
        self.tables = {}
        self.marks = []        # places with bytes to be recognised
        self.probes = []
        self.faulty, self.high = set(), set()
        self.bits, self.entry = (10, 4) if levels == 2 else (9, 8)
        if levels:
            self.root = self.cr3 = self.table()
            for va in range(0x100000, 0x400000, PAGE):
                self.map(va, va)

    def table(self):
        self.free += PAGE
        return self.free - PAGE

    def put(self, gpa, entry):
        self.words[gpa] = entry.to_bytes(self.entry, "little")

    def entry_at(self, va, level):
        """Where the entry of this level for va is; makes the tables above."""
        table, depth = self.root, self.levels
        while True:
            at = table + (va >> 12 + (depth - 1) * self.bits & (1 << self.bits) - 1) * self.entry
            if depth == level:
                return at
            if at not in self.tables:
                self.tables[at] = self.table()
                self.put(at, self.tables[at] | P | (0 if self.levels == 3 and depth == 3 else RW))
            table, depth = self.tables[at], depth - 1

    def map(self, va, gpa, level=1, flags=P | RW):
        self.put(self.entry_at(va, level), gpa | flags | (PS if level > 1 else 0))

    def mark(self, gpa):
        self.marks.append(gpa)
        return gpa

    def probe(self, *addresses):
        self.probes += addresses

    def fault(self, va, size=PAGE):
        """An address to which the processor will object though there is an entry."""
        self.probe(va)
        self.faulty |= {va & -size}


def lay_flat():
    layout = Layout(0, 0, 0)
    layout.flags = 0
    layout.probe(0x100000, layout.mark(0x5000000) + 5, 0xFFFFFFF0)
    return layout


def lay_two_levels():
    """4 KiB and 4 MiB pages, PSE-36, the bit that is reserved there."""
    layout = Layout(2, PSE, 0, "5G")
    layout.map(0x80000000, layout.mark(0x5003000))
    layout.map(0x80002000, 0x5004000 | 0xFF8)
    layout.map(0xFFFFF000, 0x5005000)
    layout.map(0x81000000, layout.mark(0x6000000), level=2)
    layout.map(0x82000000, 0x400000 | 0x1000, level=2)  # PAT
    layout.map(0x83000000, 1 << 13, level=2)             # 4 GiB
    layout.mark(1 << 32)
    layout.high.add(0x83000000)
    layout.map(0x84000000, 0x6000000 | 1 << 21, level=2)
    layout.fault(0x84000000)
    layout.probe(0x80000000, 0x80000FFF, 0x80001000, 0x80002000, 0xFFFFFFFF, 0x81000010, 0x813FFFFF, 0x82000000, 0x83000007, 0x833FFFFF, 0x90000000, 0)
    return layout


def lay_two_levels_without_pse():
    layout = Layout(2, 0, 0)
    layout.map(0x80000000, layout.mark(0x5003000))
    at = layout.entry_at(0x80000000, 2)
    layout.words[at] = (int.from_bytes(layout.words[at], "little") | PS).to_bytes(4, "little")
    layout.probe(0x80000000, 0x80001000)
    return layout


def lay_pae(nxe):
    layout = Layout(3, PAE, NXE | SCE if nxe else SCE, "5G")
    layout.cr3 |= 0x18
    layout.map(0x80000000, layout.mark(0x5003000))
    layout.map(0x80002000, layout.mark(1 << 32))
    layout.map(0x80400000, 0x6000000, level=2)
    layout.map(0x80600000, (1 << 32) + LARGE | 0x1000, level=2)
    layout.mark(0x6000000)
    layout.mark((1 << 32) + LARGE)
    layout.map(0x80800000, 0x6000000 | 1 << 13, level=2)
    layout.fault(0x80800000)
    layout.map(0x80003000, 0x5003000 | 1 << 52)
    layout.fault(0x80003000)
    layout.map(0x80A00000, 0x5003000)
    layout.words[layout.entry_at(0x80A00000, 2)] = (layout.tables[layout.entry_at(0x80A00000, 2)] | P | 1 << 62).to_bytes(8, "little")
    layout.fault(0x80A00000)
    layout.map(0x80004000, 0x5003000 | NX)
    layout.map(0x80C00000, 0x6000000 | NX, level=2)
    for va in (0x80004000, 0x80C00000):
        (layout.probe if nxe else layout.fault)(va)
    layout.probe(0x80000123, 0x80001000, 0x80002004, 0x80400000, 0x805FFFFF, 0x80600010, 0x40000000, 0xFFFFFFFF, 0)
    return layout


def lay_long(levels, nxe):
    layout = Layout(levels, PAE | (LA57 if levels == 5 else 0), LME | (NXE if nxe else 0), "5G")
    layout.cr3 |= 0x18
    kernel_base = 0xFFFFF80000000000
    layout.map(kernel_base, layout.mark(0x5003000))
    layout.map(kernel_base + 2 * PAGE, layout.mark(1 << 32) | 0x7FF0000000000F98)
    layout.map(kernel_base + LARGE, layout.mark(0x6000000), level=2)
    layout.map(kernel_base + 2 * LARGE, (1 << 32) + LARGE | 0x1000, level=2)
    layout.mark((1 << 32) + LARGE)
    layout.map(kernel_base + GIB, 1 << 32, level=3)
    layout.map(kernel_base + 2 * GIB, 0x40000000 | 0x1000, level=3)
    layout.map((1 << 64) - PAGE, 0x5004000)
    layout.map(0x00007FFFFFFFF000, 0x5005000)
    layout.probe(0x00007FFFFFFFFFFF, 0x0000800000000000, 0xFFFF7FFFFFFFFFFF, 0xFFFF800000000000)
    layout.probe(0x0000F80000000000, 0x01FFF80000000000, 0xFEFFF80000000000)
    if levels == 5:
        layout.map(0x00ABCDE012345000, 0x5003000)
        layout.map(0xFF00F80000000000, 0x5004000)
        layout.probe(0x00ABCDE012345003, 0xFF00F80000000010, 0x0100F80000000000)
    for i, bad in enumerate((1 << 13, 1 << 20)):
        layout.map(kernel_base + (3 + i) * LARGE, 0x6000000 | bad, level=2)
        layout.fault(kernel_base + (3 + i) * LARGE)
    layout.map(kernel_base + 3 * GIB, 0x40000000 | 1 << 29, level=3)
    layout.fault(kernel_base + 3 * GIB)
    for i, (level, step) in enumerate(((1, PAGE), (2, LARGE), (3, GIB))):
        va = kernel_base + (1 << 40) + i * (1 << 35) + 5 * step
        layout.map(va, 0x40000000 | NX, level)
        (layout.probe if nxe else layout.fault)(va)
    for level in range(4, levels + 1):  # PS where no page can be
        va = kernel_base + (1 << 41) if level == 4 else 0xFF10F80000000000
        layout.map(va, 0x5003000)
        at = layout.entry_at(va, level)
        layout.words[at] = (layout.tables[at] | P | PS).to_bytes(8, "little")
        layout.fault(va)
    layout.probe(kernel_base + 0xFFF, kernel_base + PAGE, kernel_base + 2 * PAGE, kernel_base + LARGE, kernel_base + 2 * LARGE - 1)
    layout.probe(kernel_base + 2 * LARGE + 7, kernel_base + GIB + 9, kernel_base + 2 * GIB + 3, kernel_base + (1 << 39), (1 << 64) - 1, 0)
    return layout


def write_guest(path, pieces, layout):
    """Parameters, tables and marks into the RAM file, each at its guest-physical address."""
    words = dict(layout.words)
    words[PARAMETERS] = struct.pack("<5I", layout.cr4, layout.efer, layout.cr3, layout.flags, len(layout.probes))
    words[ADDRESSES] = struct.pack(f"<{len(layout.probes)}Q", *layout.probes)
    for gpa in layout.marks:
        words[gpa] = bytes((gpa >> 20) + (gpa >> 12) + i * 7 + i // 251 & 0xFF for i in range(2 * PAGE))
    with open(path, "r+b") as file:
        for gpa, value in words.items():
            base, _, offset = next(p for p in pieces if p[0] <= gpa < p[0] + p[1])
            file.seek(offset + gpa - base)
            file.write(value)


def processor_says(path, pieces, count):
    base, _, offset = next(p for p in pieces if p[0] <= RESULTS < p[0] + p[1])
    with open(path, "rb") as file:
        file.seek(offset + RESULTS - base)
        return struct.unpack(f"<{count}Q", file.read(8 * count))


def verdict(result):
    """(outcome, byte) from what the guest noted."""
    byte, vector, code = result & 0xFF, result >> 8 & 0xFF, result >> 16
    if not vector:
        return OK, byte
    if vector == 13:
        return ADDRESS, None
    return (RESERVED if code & 8 else ABSENT if not code & 1 else f"#PF {code:#x}"), None


def guest(name, layout):
    command = lambda m: ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-no-reboot", "-kernel", GUEST,
                         "-chardev", f"file,id=log,path={m.log}", "-device", "isa-debugcon,iobase=0xe9,chardev=log"]
    with Machine(command, layout.ram, "q35,") as machine:
        pieces = machine.map()
        write_guest(machine.ram, pieces, layout)
        machine.run_until("D")
        walks = Walks(machine)
        found = walks.find(layout.probes)
        bytes_read = dict(zip(layout.probes, walks.read([(va, 1) for va in layout.probes])))
        said = dict(zip(layout.probes, map(verdict, processor_says(machine.ram, pieces, len(layout.probes)))))
        in_ram = {va for va in said if any(base <= found[va][1] < base + size for base, size, _ in pieces)}
        judge(f"{name}: what the processor says", ((hex(va), (found[va][0], bytes_read[va][1][0] if bytes_read[va][1] else None),
                                                    (said[va][0], said[va][1] if va in in_ram else None)) for va in layout.probes))
        if layout.faulty:
            REPORT.check(f"{name}: the processor objects where it should", all(said[va][0] == RESERVED for va in layout.faulty),
                         str([hex(va) for va in layout.faulty if said[va][0] != RESERVED]))
        sizes = {}
        if layout.flags:
            sizes = compare_tlb(name, walks, machine.tlb(), layout.faulty, layout.high)
        compare_neighbours(name, machine, walks, sizes, layout.probes, layout.faulty)
        compare_bytes(name, machine, walks, sizes, [(va, PAGE + 5) for va in layout.probes])


GUESTS = [
    ("test kernel x64", kernel, "x64", "5G", "q35"),
    ("test kernel x86", kernel, "x86", "256M", "pc"),
    ("no paging", guest, lay_flat),
    ("two levels", guest, lay_two_levels),
    ("two levels without PSE", guest, lay_two_levels_without_pse),
    ("PAE", guest, lay_pae, True),
    ("PAE without NX", guest, lay_pae, False),
    ("four levels", guest, lay_long, 4, True),
    ("four levels without NX", guest, lay_long, 4, False),
    ("five levels", guest, lay_long, 5, True),
]


def main():
    for name, function, *arguments in GUESTS:
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        try:
            if function is kernel:
                kernel(*arguments)
            else:
                guest(name, arguments[0](*arguments[1:]))
        except Exception as error:  # a case that breaks is one failure, and the next one still runs
            traceback.print_exc()
            REPORT.fail(name, f"{type(error).__name__}: {error}")
    return REPORT.finish()


if __name__ == "__main__":
    sys.exit(main())
