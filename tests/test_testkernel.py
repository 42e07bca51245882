#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The test kernel over its serial yardstick, driven by the independent client of kdclient.py.

    tests/test_testkernel.py [--arch x64|x86|both] [--link serial|debugcon|hook] [--accel tcg|kvm] [PATTERN…]

Prints `ok NAME` or `FAIL NAME: …` per case and ends with `N passed, N failed, N skipped`; exit status 1 on a failure. The
same cases run over the product's links (--link), where they show that the transport adds and loses nothing.
"""
import argparse
import os
import struct
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kdclient import (ACCESS_VIOLATION, API, ASSERTION, BREAKPOINT, DATA_MAX, DBG_EXCEPTION_NOT_HANDLED,
                      DIVIDE_BY_ZERO, MANIPULATE, NO_REPLY, RESEND, SINGLE_STEP, UNSUCCESSFUL, WAKE_DEBUGGER,
                      Command, KdClient, KdError, KdRefused, Print, Prompt, Stop, Symbols, control_frame, frame)
from vm import Hang, Vm  # noqa: E402

MACHINE = {"x64": 0x8664, "x86": 0x14C}
CASES = []


class Skip(Exception):
    """The case does not apply here; the text says why."""


def case(*scenarios, cpus=1, set_words=("break",), arch=None, attach=True, more=()):
    """A case that boots its own kernel. It is called with the machine and a client that waits in the first stop."""
    def register(function):
        CASES.append((function.__name__, function, scenarios, cpus, set_words, arch, attach, more))
        return function
    return register


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(got, wanted, what):
    if got != wanted:
        def show(value):
            return hex(value) if isinstance(value, int) else repr(value)
        raise AssertionError(f"{what}: expected {show(wanted)}, got {show(got)}")


def refused(call, what, status=UNSUCCESSFUL):
    try:
        call()
    except KdRefused as refusal:
        equal(refusal.status, status, f"status of {what}")
        return refusal.reply
    raise AssertionError(f"{what} was not refused")


class Machine:
    """One booted kernel with its client."""

    def __init__(self, options, arch, scenarios, cpus, set_words, more):
        self.options, self.arch, self.is64 = options, arch, arch == "x64"
        arguments = ["--arch", arch, "--cpus", cpus, "--accel", options.accel, "--link", options.link]
        for scenario in scenarios:
            arguments += ["--scenario", scenario]
        for word in set_words:
            arguments += ["--set", word]
        self.vm = Vm("t", *arguments, *more)
        self.kd = KdClient(timeout=options.timeout)

    def __enter__(self):
        self.vm.__enter__()
        self.kd.connect(str(self.vm.kd_socket()))
        return self

    def __exit__(self, *exc):
        self.kd.close()
        return self.vm.__exit__(*exc)

    def symbols(self):
        """The kernel's exports; needs a stop."""
        return self.kd.exports(self.kd.version().kern_base)

    def run_to_ready(self):
        """From the initial break to the scenario, where the other CPUs run; stopped again there."""
        self.kd.resume()
        self.kd.wait_print("TK: up")
        return self.kd.break_in()


def walk(kd, special, va):
    """Physical address of va by this client's own page walk; None when not mapped."""
    cr3, entry_mask = special["cr3"], 0x000FFFFFFFFFF000
    if kd.is64:
        table, shifts = cr3 & entry_mask, (39, 30, 21, 12)
    else:
        table, shifts = cr3 & 0xFFFFFFE0, (30, 21, 12)
        va &= 0xFFFFFFFF
    for shift in shifts:
        index = va >> shift & (0x3 if shift == 30 and not kd.is64 else 0x1FF)
        entry = struct.unpack("<Q", kd.read_physical(table + 8 * index, 8))[0]
        if not entry & 1:
            return None
        if shift == 12 or (entry & 0x80 and shift < 39 and (kd.is64 or shift == 21)):
            return (entry & entry_mask & ~((1 << shift) - 1)) | va & (1 << shift) - 1
        table = entry & entry_mask
    return None


# ---- boot and first look --------------------------------------------------------------------------------------

@case(attach=False)
def boot_in_nt_order(m):
    """Banner with the SYNC id, symbols of kernel, hal and transport, the initial break."""
    seen = []
    while True:
        event = m.kd.wait_event()
        seen.append(event)
        if isinstance(event, Stop):
            break
        if isinstance(event, Symbols):
            m.kd.go()
    symbols = [e for e in seen if isinstance(e, Symbols)]
    names = [e.name.split("\\")[-1] for e in symbols]
    check(isinstance(seen[0], Print), f"the first packet is {seen[0]}, not a print")
    check(m.kd.link.syncs_seen >= 1, "no packet with the SYNC id")
    check("test kernel" in seen[0].text, f"banner: {seen[0].text!r}")
    equal(names, ["ntoskrnl.exe", "hal.dll", "KDCOM.dll"], "modules announced")
    for e in symbols:
        check(not e.is_unload and e.size > 0 and e.name_length == len(e.name) + 1, f"{e}")
        equal(e.data[-1:], b"\0", "the name's end")
        equal(e.process_id, 2**64 - 1, "ProcessId")
    stop = seen[-1]
    equal(stop.code, BREAKPOINT, "code of the initial break")
    equal(stop.first_chance, 1, "FirstChance")
    equal(stop.address, stop.pc, "ExceptionAddress")
    equal(stop.instructions[:1], b"\xcc", "PC points at the int3")
    equal(stop.data, struct.pack("<I", 1), "trace data")
    equal(len(stop.body), 244, "size of the state change")
    equal(stop.report_flags, 3, "ReportFlags")
    equal(stop.cs, 0x10 if m.is64 else 0x08, "SegCs")
    equal(len(stop.instructions), 16, "InstructionCount")
    equal(stop.is64, m.is64, "64-bit addresses")
    status = m.kd.get_context()["rcx" if m.is64 else "eax"]
    equal(status & 0xFFFFFFFF, 1, "status of DbgBreakPointWithStatus")


@case()
def version(m):
    v = m.kd.version()
    equal(v.protocol, 6, "ProtocolVersion")
    equal(v.secondary, 2 if m.is64 else 0, "KdSecondaryVersion")
    equal(v.flags, 7 if m.is64 else 3, "Flags")
    equal(v.machine, MACHINE[m.arch], "MachineType")
    equal((v.max_packet, v.max_state, v.max_manipulate), (12, 3, 0x31), "limits")
    equal((v.simulation, v.unused), (0, 0), "reserved fields")
    equal(v.major & 0xFF, 0x0F, "free build")
    if not m.is64:
        for address in (v.kern_base, v.loaded_modules, v.debugger_data):
            equal(address >> 32, 0xFFFFFFFF, "upper half of a 32-bit address")
    equal(m.kd.read_virtual(v.kern_base, 2), b"MZ", "the kernel's header")
    pe = v.kern_base + m.kd.read_u32(v.kern_base + 0x3C)
    equal(m.kd.read_virtual(pe, 6), b"PE\0\0" + struct.pack("<H", MACHINE[m.arch]), "PE signature and machine")


@case(cpus=2)
def kdbg(m):
    m.run_to_ready()
    kd, v = m.kd, m.kd.version()
    block, raw = kd.kdbg()
    check(len(raw) >= 0x340, f"Size {len(raw):#x}")

    def field(offset, size=8):
        return int.from_bytes(raw[offset:offset + size], "little")
    equal(field(0x18), v.kern_base, "KernBase")
    equal(field(0x48), v.loaded_modules, "PsLoadedModuleList")
    for offset in [*range(0x48, 0x290, 8), 0x2C8, 0x2D0, 0x2D8]:
        if offset not in (0x138, 0x210):  # MmPageSize is a value; there are no system calls
            kd.read_virtual(field(offset), 4)
    equal(field(0x138), 4096, "MmPageSize")
    equal(field(0x20), kd.exports(v.kern_base)["DbgBreakPointWithStatus"] + (0 if m.is64 else 4), "BreakpointWithStatus")
    check(kd.read_string(field(0x208)).startswith("7601."), "NtBuildLab")
    width = 8 if m.is64 else 4
    for cpu in range(2):
        prcb = kd.read_pointer(field(0x218) + cpu * width)
        check(prcb != 0, f"KiProcessorBlock[{cpu}]")
        equal(kd.read_u32(prcb + field(0x2BE, 2)) & 0xFF, cpu, f"Number of PRCB {cpu}")
        thread = kd.read_pointer(prcb + field(0x2B4, 2))
        kd.read_virtual(thread, 0x20)
        context = kd.read_virtual(prcb + field(0x2BC, 2), 0x4D0 if m.is64 else 0x2CC)
        equal(context, kd.request("GetContext", processor=cpu).data, f"CONTEXT in PRCB {cpu}")
        special = kd.read_virtual(prcb + field(0x2F2, 2), 0xE0 if m.is64 else 0x54)
        equal(special, bytes(kd.special_registers(cpu).raw), f"KSPECIAL_REGISTERS in PRCB {cpu}")
    equal(kd.read_pointer(field(0x218) + 2 * width), 0, "the end of KiProcessorBlock")
    head = field(0x50)
    process = kd.read_pointer(head)
    equal(kd.read_pointer(process), head, "the process list's end")
    check(b"System" in kd.read_virtual(process, 0x200), "the System process")
    buffer = kd.read_virtual(field(0x1E0), 256)
    check(b"test kernel" in buffer, "KdPrintCircularBuffer has the banner")
    equal(kd.read_pointer(field(0x2C8)), field(0x1E0), "KdPrintCircularBufferPtr")
    runs = kd.read_pointer(field(0x270))
    check(1 <= kd.read_u32(runs) <= 16, "MmPhysicalMemoryBlock.NumberOfRuns")


@case()
def kuser_shared_data(m):
    base = 0xFFFFF78000000000 if m.is64 else 0xFFFFFFFFFFDF0000
    equal(m.kd.read_u32(base + 0x260) & 0xFFFF, 7601, "NtBuildNumber")
    equal((m.kd.read_u32(base + 0x26C), m.kd.read_u32(base + 0x270)), (6, 1), "version")
    equal(m.kd.read_virtual(base + 0x2D4, 1)[0] & 3, 3, "KdDebuggerEnabled: enabled and present")
    before = m.kd.read_u64(base + 0x14)
    m.run_to_ready()
    check(m.kd.read_u64(base + 0x14) > before, "SystemTime moves")


@case()
def modules(m):
    found = m.kd.modules()
    equal([x.name for x in found], ["ntoskrnl.exe", "hal.dll", "KDCOM.dll"], "names")
    for x in found:
        check(x.path.endswith("\\" + x.name) and x.path.startswith("\\SystemRoot"), f"path {x.path}")
        equal(m.kd.read_virtual(x.base, 2), b"MZ", f"header of {x.name}")
        pe = x.base + m.kd.read_u32(x.base + 0x3C)
        equal(m.kd.read_u32(pe + 24 + 56), x.size, f"SizeOfImage of {x.name}")
    equal(found[0].base, m.kd.version().kern_base, "the kernel's base")


@case(more=("--kernel-name", "mykrnl.exe"))
def other_kernel_name(m):
    equal(m.kd.modules()[0].name, "mykrnl.exe", "the kernel's name")


@case(cpus=2)
def registers_of_all_cpus(m):
    stop = m.run_to_ready()
    equal(stop.processor_count, 2, "NumberProcessors")
    pages = set()
    for cpu in range(2):
        r, s = m.kd.get_context(cpu), m.kd.special_registers(cpu)
        equal(r["contextflags"], 0x10001F if m.is64 else 0x1003F, "ContextFlags")
        equal(r["cs"], 0x10 if m.is64 else 0x08, "cs")
        check(s["cr0"] & 0x80000001 == 0x80000001, "paging and protection are on")
        check(s["cr3"] != 0 and s["idtr"] != 0 and s["gdtr"] != 0, "cr3, idt, gdt")
        kpcr = s["gsbase"] if m.is64 else 0
        if m.is64:
            equal(int.from_bytes(m.kd.read_control_space(0, 8, cpu), "little"), kpcr, "KPCR by control space")
            prcb = int.from_bytes(m.kd.read_control_space(1, 8, cpu), "little")
            equal(m.kd.read_pointer(kpcr + 0x18), kpcr, "KPCR.Self")
            equal(m.kd.read_pointer(kpcr + 0x20), prcb, "KPCR.CurrentPrcb")
            thread = int.from_bytes(m.kd.read_control_space(3, 8, cpu), "little")
            equal(m.kd.read_pointer(prcb + 8), thread, "CurrentThread")
            equal(m.kd.read_pointer(kpcr + 0x38), s["idtr"], "KPCR.IdtBase")
            check(m.kd.read_pointer(kpcr + 0x108) != 0, "KdVersionBlock")
        pages.add(kpcr or s["gdtr"])
        check(0 < m.kd.read_virtual(r.pc | (0 if m.is64 else 0xFFFFFFFF00000000), 1)[0] < 256, "code at PC")
    equal(len(pages), 2, "each CPU has tables of its own")
    equal(m.kd.get_context(0).pc & 0xFFFFFFFF, stop.pc & 0xFFFFFFFF, "PC of the reporting CPU")
    for cpu in (2, 7, 32, 0xFFFF):
        refused(lambda: m.kd.get_context(cpu), f"GetContext of CPU {cpu}")
        refused(lambda: m.kd.read_control_space(0, 8, cpu), f"ReadControlSpace of CPU {cpu}")


@case()
def control_space(m):
    if m.is64:
        equal(len(m.kd.read_control_space(2, 0xE0)), 0xE0, "special registers")
        equal(len(m.kd.read_control_space(2, 0x100)), 0xE0, "clipped to their size")
        equal(len(m.kd.read_control_space(2, 0xD8)), 0xD8, "an older debugger's size")
        refused(lambda: m.kd.read_control_space(4, 8), "index 4")
        refused(lambda: m.kd.read_control_space(2**63, 8), "a wild index")
        refused(lambda: m.kd.write_control_space(0, bytes(8)), "writing the KPCR's address")
        raw = m.kd.read_control_space(2, 0xE0)
        reply = m.kd.write_control_space(2, raw)
        equal(reply.data, raw, "the echo")
    else:
        whole = m.kd.read_control_space(0, 0x320)
        equal(len(whole), 0x320, "KPROCESSOR_STATE")
        equal(whole[:0x2CC], m.kd.request("GetContext").data, "CONTEXT first")
        equal(len(m.kd.read_control_space(0x31C, 0x100)), 4, "clipped at the end")
        refused(lambda: m.kd.read_control_space(0x320, 4), "behind the end")
        refused(lambda: m.kd.read_control_space(2**40, 4), "a wild offset")


# ---- memory ---------------------------------------------------------------------------------------------------

@case()
def read_and_write(m):
    kd, sym = m.kd, m.symbols()
    where = sym["TkBench"]
    old = kd.read_virtual(where, 16)
    kd.write_virtual(where, b"0123456789abcdef")
    equal(kd.read_virtual(where, 16), b"0123456789abcdef", "read back")
    kd.write_virtual(where, old)
    code = sym["TkTick"]
    byte = kd.read_virtual(code, 1)
    kd.write_virtual(code, b"\x90")
    equal(kd.read_virtual(code, 1), b"\x90", "code behind its read-only protection")
    kd.write_virtual(code, byte)
    equal(kd.read_virtual(code, 1), byte, "code restored")
    for count in (1, 2, 3, 7, 8, 2049, DATA_MAX):
        equal(len(kd.read_virtual_once(kd.version().kern_base + 1, count)[0]), count, f"{count} bytes at once")


@case()
def read_is_clipped(m):
    base = m.kd.version().kern_base
    for count in (DATA_MAX + 1, 0x1000, 0x10000, 0xFFFFFFFF):
        data, status = m.kd.read_virtual_once(base, count)
        equal((len(data), status), (DATA_MAX, 0), f"a read of {count:#x}")
    data, status = m.kd.read_virtual_once(base, 0)
    equal((len(data), status), (0, 0), "a read of nothing")


@case()
def bad_addresses(m):
    kd = m.kd
    wild = [0, 0x1000, 0x1234, 0x7FFFFFFF0000, 0x0000800000000000, 0xFFFF7FFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF,
            0xFFFFFFFFFFFFF000, 0x8000000000000000] if m.is64 else [0, 0x1000, 0x7FFE1000, 0xFFFFFFFFFFFFFFFF]
    for address in wild:
        data, status = kd.read_virtual_once(address, 16)
        equal((len(data), status), (0, UNSUCCESSFUL), f"reading {address:#x}")
        reply = refused(lambda: kd.write_virtual(address, b"x" * 16), f"writing {address:#x}")
        equal(struct.unpack_from("<I", reply.union, 12)[0], 0, "ActualBytes")
        refused(lambda: kd.set_context_ex(0xFFFFFFFF, b"x" * 16), "a context window beyond everything")
    equal(kd.read_virtual(kd.version().kern_base, 2), b"MZ", "alive afterwards")


def end_of_mapping(kd, address):
    """First unmapped page behind address."""
    page = address & ~0xFFF
    while kd.read_virtual_once(page, 1)[1] == 0:
        page += 0x1000
    return page


@case()
def partial_transfer(m):
    hal = m.kd.modules()[1]  # pool memory with an unmapped page behind it
    end = end_of_mapping(m.kd, hal.base)
    data, status = m.kd.read_virtual_once(end - 10, 64)
    equal((len(data), status), (10, UNSUCCESSFUL), "a read across the end")
    reply = refused(lambda: m.kd.write_virtual(end - 6, b"y" * 20), "a write across the end")
    equal(struct.unpack_from("<I", reply.union, 12)[0], 6, "ActualBytes of the write")
    equal(m.kd.read_virtual(end - 6, 6), b"y" * 6, "the prefix is written")


@case()
def physical_memory(m):
    kd, special = m.kd, m.kd.special_registers()
    base = kd.version().kern_base
    for va in (base, m.symbols()["KdVersionBlock"], kd.modules()[2].base):
        pa = walk(kd, special, va)
        check(pa is not None, f"{va:#x} does not translate")
        count = min(256, 4096 - (pa & 4095))
        equal(kd.read_physical(pa, count), kd.read_virtual(va, count), f"{va:#x} by its physical address")
    check(walk(kd, special, 0x1234) is None, "page 0 is mapped")
    pa = walk(kd, special, m.symbols()["TkBench"])
    old = kd.read_physical(pa, 8)
    kd.write_physical(pa, b"physical")
    equal(kd.read_virtual(m.symbols()["TkBench"], 8), b"physical", "written by physical address")
    kd.write_physical(pa, old)
    data = kd.request_raw(API["ReadPhysical"], struct.pack("<QII", 0xFFFFFFFFFFFFF000, 16, 0))
    equal(data.status, UNSUCCESSFUL, "beyond every physical address")


@case()
def search_fill_query(m):
    kd = m.kd
    bench = m.symbols()["TkBench"]
    base = kd.version().kern_base
    equal(kd.search(base, 0x1000, b"PE\0\0"), base + kd.read_u32(base + 0x3C), "the PE signature")
    equal(kd.search(bench - 64, 4096, b"TKBENCH\0"), bench, "a pattern somewhere inside")
    refused(lambda: kd.search(base, 0x1000, b"\x01\x80no such\x7f\xfetext"), "a pattern that is not there", 0xC0000273)
    refused(lambda: kd.search(base, 2, b"MZ\x78"), "a pattern longer than the range", 0xC000000D)
    refused(lambda: kd.search(2**64 - 4, 64, b"MZ"), "a range that wraps", 0xC000000D)
    refused(lambda: kd.request("SearchMemory", struct.pack("<QQI", base, 4096, 4000), b"MZ"),
            "a pattern longer than the packet", 0xC000000D)
    old = kd.read_virtual(bench, 32)
    equal(kd.fill(bench, 10, b"abc"), 10, "bytes filled")
    equal(kd.read_virtual(bench, 12), b"abcabcabca" + old[10:12], "the pattern, repeated and cut")
    kd.fill(walk(kd, kd.special_registers(), bench), 4, b"\0\1", physical=True)
    equal(kd.read_virtual(bench, 5), b"\0\1\0\1b", "filled by physical address")
    kd.write_virtual(bench, old)
    reply = refused(lambda: kd.fill(0x1000, 16, b"z"), "filling unmapped memory")
    equal(struct.unpack_from("<I", reply.union, 8)[0], 0, "bytes filled there")
    refused(lambda: kd.fill(bench, 16, b""), "an empty pattern", 0xC000000D)
    refused(lambda: kd.request("FillMemory", struct.pack("<QIHH", bench, 16, 3, 1), b"z"), "unknown flags", 0xC000000D)
    equal(kd.query_memory(base), (2, 7), "kernel address")
    equal(kd.query_memory(0x10000), (0, 7), "user address")
    refused(lambda: kd.request("QueryMemory", struct.pack("<QQII", base, 0, 1, 0)), "AddressSpace 1", 0xC000000D)


# ---- processors, ports, buses ---------------------------------------------------------------------------------

@case()
def contexts(m):
    kd = m.kd
    size = 0x4D0 if m.is64 else 0x2CC
    raw = kd.request_raw(API["SetContext"], struct.pack("<I", 0), bytes(size))
    equal(raw.status, UNSUCCESSFUL, "SetContext before GetContext")
    registers = kd.get_context()
    equal(len(registers.raw), size, "size of CONTEXT")
    kd.set_context(registers)
    short = kd.request_raw(API["SetContext"], struct.pack("<I", 0), bytes(registers.raw[:100]))
    equal(short.status, UNSUCCESSFUL, "SetContext with a short CONTEXT")
    window, copied = kd.get_context_ex(0x30, 0x40)
    equal((window, copied), (bytes(registers.raw[0x30:0x70]), 0x40), "a window")
    for offset, count in ((size, 1), (0, size + 1), (0xFFFFFFFF, 0xFFFFFFFF), (0x10, size)):
        reply = refused(lambda: kd.get_context_ex(offset, count), f"window {offset:#x}+{count:#x}")
        equal(struct.unpack_from("<I", reply.union, 8)[0], 0, "BytesCopied")
    name = "rbx" if m.is64 else "ebx"
    at, width = registers.layout[name]
    value = (0x1122334455667788).to_bytes(8, "little")[:width]
    equal(kd.set_context_ex(at, value), width, "a register written by window")
    equal(kd.get_context()[name].to_bytes(width, "little"), value, "and read back")
    kd.set_context(registers)


@case(arch="x64")
def msr(m):
    check(m.kd.read_msr(0xC0000080) & 0x500 == 0x500, "EFER: long mode")
    equal(m.kd.read_msr(0xC0000101), m.kd.special_registers()["gsbase"], "GS base")
    star = m.kd.read_msr(0xC0000082)
    m.kd.write_msr(0xC0000082, 0xFFFFF80012345678)
    equal(m.kd.read_msr(0xC0000082), 0xFFFFF80012345678, "LSTAR written")
    m.kd.write_msr(0xC0000082, star)
    reply = m.kd.request_raw(API["ReadMsr"], struct.pack("<III", 0x12345678, 0, 0))
    check(reply.status in (0, 0xC000000E), f"an unknown MSR: {reply.status:#x}")  # QEMU's TCG reads 0, hardware faults


@case()
def ports(m):
    kd = m.kd
    kd.write_io(0xCF8, 4, 0x80000000)
    equal(kd.read_io(0xCF8, 4), 0x80000000, "CONFIG_ADDRESS")
    vendor = kd.read_io(0xCFC, 2)
    equal(vendor, 0x8086, "the host bridge's vendor")
    equal(kd.read_io_extended(0xCFC, 4) & 0xFFFF, vendor, "the same by the extended request")
    reply = refused(lambda: kd.read_io(0xCF9, 2), "a misaligned port", 0x80000002)
    equal(struct.unpack_from("<I", reply.union, 8)[0], 0, "DataSize of a failure")
    refused(lambda: kd.read_io(0xCF8, 3), "three bytes", 0xC000000D)
    refused(lambda: kd.write_io(0xCF9, 4, 0), "a misaligned write", 0x80000002)
    refused(lambda: kd.read_io(0x10000, 1), "a port beyond the last", 0xC000000D)
    refused(lambda: kd.read_io(0xFFFFFFFFFFFFFFFC, 4), "a port at the end of the numbers", 0xC000000D)
    refused(lambda: kd.read_io_extended(0xCFC, 4, interface=5), "another interface", 0xC000000D)
    refused(lambda: kd.read_io_extended(0xCFC, 4, bus=1), "another bus", 0xC000000D)
    refused(lambda: kd.read_io_extended(0xCFC, 4, space=0), "another address space", 0xC000000D)


@case()
def pci(m):
    kd = m.kd
    header = kd.get_bus_data(0, 0, 0, 64)
    equal((len(header), header[:2]), (64, b"\x86\x80"), "the host bridge")
    equal(kd.get_bus_data(0, 0, 2, 2), header[2:4], "two bytes inside")
    equal(len(kd.get_bus_data(0, 0, 0xF0, 64)), 16, "clipped at 256")
    line = kd.get_bus_data(0, 1, 0x3C, 1)
    equal(kd.set_bus_data(0, 1, 0x3C, b"\x0b"), 1, "a byte written")
    equal(kd.get_bus_data(0, 1, 0x3C, 1) in (b"\x0b", line), True, "interrupt line")
    refused(lambda: kd.get_bus_data(0, 31, 0, 64), "an empty slot")
    refused(lambda: kd.get_bus_data(0, 0, 0, 64, bus_type=0), "another bus type")
    refused(lambda: kd.get_bus_data(1 << 20, 0, 0, 4), "a wild bus")
    refused(lambda: kd.get_bus_data(0, 0, 0xFFFFFFFF, 4), "a wild offset")


@case()
def every_api_number(m):
    kd = m.kd
    acting = NO_REPLY | {API[n] for n in ("WriteIo", "WriteIoExtended", "WriteMsr", "SetBusData", "WriteVirtual",
                                          "WritePhysical", "SetContext", "SetContextEx", "WriteControlSpace")}
    known = set(API.values())
    for api in [*range(0x3120, 0x3172), 0, 1, 0x3030, 0x3230, 0xFFFFFFFF, 0x80003130]:
        if api in acting:
            continue
        for union in (b"", b"\xff" * 40):
            reply = kd.request_raw(api, union)
            if api not in known:
                equal((reply.status, len(reply.data), reply.union), (UNSUCCESSFUL, 0, union.ljust(40, b"\0")),
                      f"unknown API {api:#x}")
    for name in ("SetSpecialCall", "ClearSpecialCalls", "SetInternalBreakPoint", "GetInternalBreakPoint", "PageIn",
                 "WriteBreakPointEx", "RestoreBreakPointEx", "SwitchPartition", "WriteCustomBreakPoint"):
        refused(lambda: kd.request(name), name)
    equal(struct.unpack_from("<I", kd.request("QuerySpecialCalls").union)[0], 0, "special calls")
    equal(kd.request("CheckLowMemory").status, 0, "CheckLowMemory")
    kd.request("ClearInternalBreakPoints")
    equal(kd.version().machine, MACHINE[m.arch], "alive afterwards")


# ---- breakpoints and steps ------------------------------------------------------------------------------------

@case("counter")
def breakpoint_hit_and_removed(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    tick = sym["TkTick"]
    original = kd.read_virtual(tick, 16)
    counts = []
    for _ in range(3):
        handle = kd.write_breakpoint(tick)
        check(1 <= handle <= 32, f"handle {handle}")
        equal(kd.read_virtual(tick, 1), b"\xcc", "the int3 in memory")
        kd.resume()
        stop = kd.wait_stop()
        equal((stop.code, stop.pc), (BREAKPOINT, tick), "where it stopped")
        equal(stop.instructions, original, "the report shows the original code")
        equal(kd.read_virtual(tick, 16), original, "and so does memory")
        refused(lambda: kd.restore_breakpoint(handle), "the handle of a deleted breakpoint")
        counts.append(kd.read_u64(sym["TkCounter"]))
        step = kd.step()
        equal(step.code, SINGLE_STEP, "the step off the breakpoint")
        check(tick < step.pc <= tick + 16, "one instruction further")
        check(step.dr6 & 0x4000, "Dr6.BS")
        check(not step.eflags & 0x100, "TF is not left on")
    equal(counts[1:], [counts[0] + 1, counts[0] + 2], "every call stops once")


@case()
def breakpoint_table(m):
    kd, base = m.kd, m.symbols()["TkCpuCounters"]  # 64 bytes that nobody writes in this scenario
    old = kd.read_virtual(base, 40)
    handles = [kd.write_breakpoint(base + i) for i in range(32)]
    equal(sorted(handles), list(range(1, 33)), "32 handles")
    reply = refused(lambda: kd.write_breakpoint(base + 32), "the 33rd breakpoint")
    equal(struct.unpack_from("<I", reply.union, 8)[0], 0, "its handle")
    equal(kd.read_virtual(base, 40), b"\xcc" * 32 + old[32:], "memory")
    for handle in handles:
        kd.restore_breakpoint(handle)
    equal(kd.read_virtual(base, 40), old, "memory restored")
    first = kd.write_breakpoint(base)
    refused(lambda: kd.write_breakpoint(base), "a second breakpoint at the same address")
    kd.restore_breakpoint(first)
    for handle in (0, 33, 0xFFFFFFFF, first):
        refused(lambda: kd.restore_breakpoint(handle), f"handle {handle}")
    pending = kd.write_breakpoint(0x10000)
    check(pending, "a breakpoint on an absent page is accepted")
    refused(lambda: kd.write_breakpoint(0x10000), "a second pending one")
    kd.restore_breakpoint(pending)
    for handle in range(1, 33):
        refused(lambda: kd.restore_breakpoint(handle), f"handle {handle} when there are none")


@case("counter")
def step_into_and_over(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkOuter"])
    kd.resume()
    equal(kd.wait_stop().pc, sym["TkOuter"], "in TkOuter")
    seen = set()
    for _ in range(40):
        seen.add(kd.step().pc)
    check(sym["TkMiddle"] in seen and sym["TkInner"] in seen, "stepping enters the calls")
    stack = "rsp" if m.is64 else "esp"
    kd.write_breakpoint(sym["TkInner"])
    kd.resume()
    equal(kd.wait_stop().pc, sym["TkInner"], "in TkInner")
    back = kd.read_pointer(kd.extend(kd.get_context()[stack]))
    kd.write_breakpoint(back)
    kd.go()
    equal(kd.wait_stop().pc, back, "a temporary breakpoint at the return address")


@case("counter")
def trace_range(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkInner"])
    kd.resume()
    stop = kd.wait_stop()
    kd.go(trace=True, first=stop.pc & (2**64 - 1 if m.is64 else 0xFFFFFFFF),
          last=(stop.pc + 8) & (2**64 - 1 if m.is64 else 0xFFFFFFFF))
    out = kd.wait_stop()
    equal(out.code, SINGLE_STEP, "a step")
    check(not stop.pc <= out.pc <= stop.pc + 8, "outside the range")


@case("counter")
def hardware_breakpoints(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    special = kd.special_registers()
    special["kdr0"] = sym["TkWatched"]
    special["kdr1"] = sym["TkInner"]
    kd.set_special_registers(special)
    kd.step_off_int3()
    kd.go(dr7=0x400 | 1 | 0xD << 16)  # DR0: write, 4 bytes
    stop = kd.wait_stop()
    equal((stop.code, stop.dr6 & 0xF), (SINGLE_STEP, 1), "the data breakpoint")
    check(sym["TkTick"] < stop.pc < sym["TkTick"] + 64, "behind the write")
    equal(stop.dr7 & 0xFFFFFFFF, 0x400 | 1 | 0xD << 16, "Dr7 in the report")
    kd.go(dr7=0x400 | 1 << 2)  # DR1: execute
    stop = kd.wait_stop()
    equal((stop.code, stop.dr6 & 0xF, stop.pc), (SINGLE_STEP, 2, sym["TkInner"]), "the execution breakpoint")
    before = kd.read_u64(sym["TkCounter"])
    kd.go(dr7=0)
    time.sleep(0.2)
    stop = kd.break_in()
    equal(stop.code, BREAKPOINT, "nothing but the break-in once Dr7 is 0")
    check(kd.read_u64(sym["TkCounter"]) > before, "it ran")


@case("counter")
def changed_registers_take_effect(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkTick"])
    kd.resume()
    kd.wait_stop()
    before = kd.read_u64(sym["TkCounter"])
    registers = kd.get_context()
    if m.is64:
        registers["rcx"] = 1000
        kd.set_context(registers)
    else:
        kd.write_virtual(kd.extend(registers["esp"]) + 4, struct.pack("<I", 1000))
    kd.write_breakpoint(sym["TkOuter"])
    kd.go()
    kd.wait_stop()
    equal(kd.read_u64(sym["TkCounter"]), before + 1000, "TkCounter after TkTick(1000)")
    registers = kd.get_context()
    registers.pc = sym["TkInner"] & 0xFFFFFFFFFFFFFFFF
    kd.set_context(registers)
    stop = kd.step()
    check(sym["TkInner"] < stop.pc < sym["TkInner"] + 16, "a moved PC")


# ---- several processors ---------------------------------------------------------------------------------------

@case("later", cpus=2)
def switch_processor(m):
    first = m.run_to_ready()
    kd = m.kd
    equal(first.processor, 0, "the clock's CPU breaks in")
    other = kd.switch_processor(1)
    equal((other.code, other.processor, other.processor_count), (WAKE_DEBUGGER, 1, 2), "the other CPU reports")
    equal(other.pc & 0xFFFFFFFF, kd.get_context(1).pc & 0xFFFFFFFF, "with its own PC")
    equal(kd.read_virtual(kd.version().kern_base, 2), b"MZ", "requests on the other CPU")
    same = kd.switch_processor(1)
    equal((same.code, same.processor), (WAKE_DEBUGGER, 1), "switching to the same CPU")
    for cpu in (2, 31, 0xFFFF):
        same = kd.switch_processor(cpu)
        equal((same.code, same.processor), (WAKE_DEBUGGER, 1), f"switching to CPU {cpu}")
    back = kd.switch_processor(0)
    equal((back.code, back.processor, back.pc), (first.code, 0, first.pc), "back to the first stop")
    kd.switch_processor(1)
    kd.resume()
    kd.wait_print("TK: later")
    stop = kd.break_in()
    equal((stop.code, stop.processor), (BREAKPOINT, 0), "continued from the other CPU, broken in again")


@case("smp", cpus=4)
def all_cpus_stop_together(m):
    m.run_to_ready()
    kd = m.kd
    counters = m.symbols()["TkCpuCounters"]

    def read():
        return struct.unpack("<4Q", kd.read_virtual(counters, 32))
    kd.resume()
    kd.wait_print("TK: smp")
    time.sleep(0.3)
    stop = kd.break_in()
    equal(stop.processor_count, 4, "NumberProcessors")
    before = read()
    check(all(before), f"every CPU counts: {before}")
    spin = m.symbols()["TkSpin"]
    for cpu in range(1, 4):
        pc = kd.extend(kd.get_context(cpu).pc)
        check(spin <= pc < spin + 256, f"CPU {cpu} is at {pc:#x}, not in TkSpin")
    time.sleep(0.2)
    equal(read(), before, "nobody counts while stopped")
    for cpu in (3, 1, 2, 0, 2):
        equal(kd.switch_processor(cpu).processor, cpu, "switch")
    kd.resume()
    time.sleep(0.3)
    kd.break_in()
    check(all(b > a for a, b in zip(before, read())), "every CPU counts again")


@case("smp", cpus=4)
def breakpoints_on_all_cpus(m):
    """Several CPUs run into one breakpoint at once; each stop is consistent and none is lost."""
    m.run_to_ready()
    kd = m.kd
    kd.resume()
    kd.wait_print("TK: smp")
    time.sleep(0.2)
    kd.break_in()
    reporters = set()
    for i in range(12):
        pc = kd.extend(kd.get_context(1 + i % 3).pc)
        kd.write_breakpoint(pc)
        kd.resume()
        stop = kd.wait_stop()
        equal((stop.code, stop.pc), (BREAKPOINT, pc), "the breakpoint")
        check(stop.instructions[:1] != b"\xcc", "the original code in the report")
        reporters.add(stop.processor)
    check(reporters - {0}, f"stops of other CPUs than the first: {reporters}")


@case("counter", cpus=2)
def hardware_breakpoint_leaves_others(m):
    """Dr7 of Continue2 goes to every CPU; an address that only one CPU touches stops that one."""
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    for cpu in range(2):
        special = kd.special_registers(cpu)
        special["kdr0"] = sym["TkInner"]
        kd.set_special_registers(special, cpu)
    kd.step_off_int3()
    kd.go(dr7=0x401)
    stop = kd.wait_stop()
    equal((stop.code, stop.processor, stop.pc), (SINGLE_STEP, 0, sym["TkInner"]), "the stop")
    equal(kd.special_registers(1)["kdr7"] & 0xFF, 1, "Dr7 of the other CPU")


# ---- exceptions -----------------------------------------------------------------------------------------------

@case("exception")
def exceptions(m):
    kd, sym = m.kd, m.symbols()
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.pc, stop.first_chance), (ACCESS_VIOLATION, sym["TkFaultRead"], 1), "the read")
    equal((stop.parameter_count, stop.information[:2]), (2, (0, 0x1234)), "its parameters")
    kd.go(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal((stop.code, stop.pc), (ACCESS_VIOLATION, sym["TkFaultWrite"]), "the write")
    equal(stop.information[:2], (1, 0x1234), "its parameters")
    kd.go_old(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal((stop.code, stop.pc), (DIVIDE_BY_ZERO, sym["TkFaultDivide"]), "the division")
    registers = kd.get_context()
    registers["rcx" if m.is64 else "ecx"] = 1  # repaired, so it is executed again
    kd.set_context(registers)
    kd.go()
    stop = kd.wait_stop()
    equal((stop.code, stop.pc), (BREAKPOINT, sym["DbgBreakPoint"]), "no first chance, then the int3")
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.instructions[:2]), (ASSERTION, b"\xcd\x2c"), "the assertion")
    kd.go()
    kd.wait_print("exceptions survived")


@case("secondchance", set_words=("break", "bugcheck=exit"))
def second_chance(m):
    kd = m.kd
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.first_chance), (ACCESS_VIOLATION, 0), "second chance at once")
    kd.go(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the bug check's break")
    code = struct.unpack("<Q" if m.is64 else "<I", kd.read_virtual(m.symbols()["KiBugCheckData"], 8 if m.is64 else 4))[0]
    equal(code, 0x1E, "KMODE_EXCEPTION_NOT_HANDLED")
    kd.resume()
    kd.wait_stop()
    kd.resume()
    equal(m.vm.wait(), 1, "exit status")


@case("bugcheck", set_words=("break", "bugcheck=exit"))
def bugcheck(m):
    kd, data = m.kd, m.symbols()["KiBugCheckData"]
    kd.resume()
    kd.wait_print("Fatal System Error: 0xdeaddead")
    for status in (3, 4):
        stop = kd.wait_stop()
        equal(stop.code, BREAKPOINT, "a break")
        equal(kd.get_context()["rcx" if m.is64 else "eax"] & 0xFFFFFFFF, status, "its status")
        words = struct.unpack("<5Q" if m.is64 else "<5I", kd.read_virtual(data, 40 if m.is64 else 20))
        equal(words, (0xDEADDEAD, 1, 2, 3, 4), "KiBugCheckData")
        kd.resume()
    equal(m.vm.wait(), 1, "exit status")


@case(cpus=2, set_words=("break", "bugcheck=exit"))
def crash_by_request(m):
    kd = m.kd
    m.run_to_ready()
    data = m.symbols()["KiBugCheckData"]
    kd.switch_processor(1)
    kd.cause_bugcheck()
    stop = kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the bug check's break")
    width = 8 if m.is64 else 4
    equal(int.from_bytes(kd.read_virtual(data, width), "little"), 0xE2, "MANUALLY_INITIATED_CRASH")
    kd.resume()
    kd.wait_stop()
    kd.resume()
    equal(m.vm.wait(), 1, "exit status")


# ---- prints, prompts, modules, files --------------------------------------------------------------------------

@case("print=60", "poweroff")
def prints_in_order(m):
    m.kd.resume()
    m.kd.wait_print("line 60 of 60")
    lines = [t for t in m.kd.prints if t.startswith("TK: line")]
    equal(lines, [f"TK: line {i} of 60\n" for i in range(1, 61)], "all lines, once, in order")
    equal(m.vm.wait(), 0, "exit status")


@case("printflood=400")
def break_into_prints(m):
    m.kd.resume()
    m.kd.wait_print("flood 5 ")
    m.kd.break_in()
    check("flood 400 " not in "".join(m.kd.prints), "broken in before the end")
    m.kd.resume()
    m.kd.wait_print("flood done")
    numbers = [int(t.split()[2]) for t in m.kd.prints if t.startswith("TK: flood ") and t.split()[2].isdigit()]
    equal(numbers, list(range(1, 401)), "no line lost or doubled")


@case("prompt")
def prompt(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Prompt):
        if isinstance(event, Symbols):
            kd.go()
    equal(event.text, "TK: your name? ", "the question")
    equal(event.max_answer, 79, "room for the answer")
    kd.link.write(control_frame(RESEND))
    equal(kd.wait_event().text, "TK: your name? ", "the question again after a RESEND")
    kd.answer_prompt(event, "Ada")
    kd.wait_print("you said 'Ada' (3 characters)")


@case("prompt")
def prompt_answer_too_long(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Prompt):
        if isinstance(event, Symbols):
            kd.go()
    kd.answer_prompt(event, "x" * 3000)
    kd.wait_print("(79 characters)")


@case("command")
def command_string(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Command):
        if isinstance(event, Symbols):
            kd.go()
    equal((event.name, event.command), ("TK", ".echo hello!"), "name and command")
    check(kd.version().protocol == 6, "requests are served meanwhile")
    kd.go()


@case("loadunload=2", "poweroff")
def load_and_unload(m):
    kd, seen = m.kd, []
    kd.resume()
    while True:
        event = kd.wait_event()
        if isinstance(event, Symbols):
            seen.append(event)
            if not event.is_unload:
                names = [x.name for x in kd.modules()]
                equal(names[-1], "tkdriver.sys", "the list's last module")
                equal(kd.read_virtual(event.base, 2), b"MZ", "its header")
            kd.go()
        elif isinstance(event, Print) and "tkdriver.sys unloaded" in event.text:
            break
    equal([(e.is_unload, e.name.split("\\")[-1]) for e in seen], [(False, "tkdriver.sys"), (True, "tkdriver.sys")] * 2,
          "events")
    equal(m.vm.wait(), 0, "exit status")


def kdfile_content(size):
    return bytes((i * 7 + i // 251) & 0xFF for i in range(size))


@case("kdfiles")
def kdfiles(m):
    m.kd.files["tkfile.sys"] = kdfile_content(10000)
    m.kd.resume()
    pump_to_end(m)
    equal(m.vm.wait(), 0, "exit status")


@case("kdfiles")
def kdfiles_refused(m):
    m.kd.files["other.sys"] = b"x"
    m.kd.resume()
    pump_to_end(m)
    equal(m.vm.wait(), 1, "exit status")
    check("c000000f" in m.vm.output(), "the status arrived")


def pump_to_end(m):
    """Serves events until the machine ends."""
    try:
        while True:
            event = m.kd.wait_event()
            if isinstance(event, (Symbols, Command)):
                m.kd.go()
    except KdError:
        pass


# ---- ends and beginnings --------------------------------------------------------------------------------------

@case("reboot")
def shutdown_notice(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Symbols):
        pass
    equal((event.is_unload, event.base, event.name_length, len(event.body)), (True, 2**64 - 1, 0, 240), "the notice")
    kd.go()
    equal(m.vm.wait(), 0, "exit status")


@case()
def reboot_by_request(m):
    m.kd.reboot()
    equal(m.vm.wait(), 0, "exit status")


@case(more=("--reboot",), attach=True)
def reconnect_after_reboot(m):
    syncs = m.kd.link.syncs_seen
    m.kd.reboot()
    stop = m.kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the initial break of the second boot")
    check(m.kd.link.syncs_seen > syncs, "ids started anew")
    equal(m.kd.read_virtual(m.kd.version().kern_base, 2), b"MZ", "requests after the reboot")


@case(set_words=())
def attach_late(m):
    """Nobody listened at boot; a break-in finds the kernel all the same."""
    equal(m.kd.read_virtual(m.kd.version().kern_base, 2), b"MZ", "memory")
    m.kd.resume()
    for _ in range(3):
        equal(m.kd.break_in().code, BREAKPOINT, "broken in")
        m.kd.resume()


# ---- the link -------------------------------------------------------------------------------------------------

@case()
def resend_repeats_the_state_change(m):
    kd = m.kd
    first = kd.stop
    kd.link.write(control_frame(RESEND))
    again = kd.wait_stop()
    equal((again.code, again.pc, again.body), (first.code, first.pc, first.body), "the same state change")
    again = kd.attach()
    equal(again.body, first.body, "and again after a RESET")


@case()
def damaged_requests(m):
    kd = m.kd
    body = struct.pack("<IHHII", API["GetVersion"], 0, 0, 0, 0) + bytes(40)
    good = frame(MANIPULATE, kd.link.next_id, body)
    wrong_sum = bytearray(good)
    wrong_sum[12] ^= 1
    for name, bad in (("checksum", bytes(wrong_sum)), ("trailer", good[:-1] + b"\x00"),
                      ("short header", frame(MANIPULATE, kd.link.next_id, body[:20]))):
        kd.link.write(bad)
        deadline = time.monotonic() + 10
        while (got := kd.link.pump(deadline)) is not None and got[:2] != ("control", RESEND):
            pass
        check(got is not None, f"a damaged {name} is answered with RESEND")
    equal(kd.version().protocol, 6, "a good request afterwards")


@case()
def noise_between_frames(m):
    for noise in (b"\x00", b"00", b"iii", b"0i0i0i", bytes(range(256)).replace(b"b", b"")):
        m.kd.link.write(noise)
        equal(m.kd.version().protocol, 6, f"a request behind {noise[:8]!r}")


@case()
def biggest_request(m):
    where = m.symbols()["TkBench"] + 0x40
    old = m.kd.read_virtual(where, 256)
    m.kd.fill(where, 256, b"x" * DATA_MAX)
    equal(m.kd.read_virtual(where, 256), b"x" * 256, "a request of 4000 bytes")
    m.kd.write_virtual(where, old)


# ---- the transport as NT treats it ----------------------------------------------------------------------------

def verdict_case(name, *scenarios, **more):
    def run(m):
        m.kd.resume()
        pump_to_end(m)
        equal(m.vm.wait(), 0, "exit status")
        check("TK: verdict passed" in m.vm.output(), "the verdict in the log")
    run.__name__ = name
    case(*scenarios, **more)(run)


verdict_case("relocate", "relocate", "poweroff")
verdict_case("power_transitions", "d3d0")
verdict_case("user_mode_port_call", "cpl3")
verdict_case("no_global_data", "noglobaldata", "poweroff")


@case("hibernate")
def hibernate(m):
    kd, notices = m.kd, []
    kd.resume()
    kd.wait_print("resumed, line 5 of 5")
    kd.on_event = notices.append
    lines = [t for t in kd.prints if "resumed, line" in t]
    equal(lines, [f"TK: resumed, line {i} of 5\n" for i in range(1, 6)], "every line after the resume")
    equal(m.vm.wait(), 0, "exit status")


@case("relocate", set_words=("break",))
def debug_after_relocation(m):
    stop = m.run_to_ready()
    check(stop.code == BREAKPOINT, "broken in")
    equal(m.kd.read_virtual(m.kd.modules()[2].base, 2), b"MZ", "the moved transport")
    m.kd.resume()
    m.kd.wait_print("relocated, line 20")
    check("verdict failed" not in m.vm.output(), "the old pages stay untouched")


# ---- running them ---------------------------------------------------------------------------------------------

def run_case(options, arch, entry):
    name, function, scenarios, cpus, set_words, only, attach, more = entry
    if only is not None and only != arch:
        raise Skip(f"{only} only")
    with Machine(options, arch, scenarios, cpus, set_words, more) as m:
        if attach:
            first = m.kd.attach()
            if not isinstance(first, Stop):  # a module notice of the boot
                m.kd.go()
                m.kd.wait_stop() if "break" in set_words else m.kd.break_in()
        function(m)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", choices=("x64", "x86", "both"), default="both")
    parser.add_argument("--link", choices=("serial", "debugcon", "hook"), default="serial")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg")
    parser.add_argument("--timeout", type=float, default=60.0, help="hang guard of one step, in seconds")
    parser.add_argument("--trace", action="store_true", help="print the stack of failures")
    parser.add_argument("patterns", nargs="*", help="only cases whose name contains one of these")
    return parser.parse_args()


def main():
    options = arguments()
    passed = failed = skipped = 0
    for arch in ("x64", "x86") if options.arch == "both" else (options.arch,):
        for entry in CASES:
            if options.patterns and not any(p in entry[0] for p in options.patterns):
                continue
            name = f"{arch} {entry[0]}"
            try:
                run_case(options, arch, entry)
                passed += 1
                print(f"ok {name}", flush=True)
            except Skip as why:
                skipped += 1
                print(f"skip {name}: {why}", flush=True)
            except (AssertionError, KdError, Hang, OSError, KeyError, struct.error) as error:
                failed += 1
                print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
                if options.trace:
                    traceback.print_exc()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
