# SPDX-License-Identifier: MIT
"""Test-kernel cases: registers, ports, buses, and every request number there is."""
import struct

from kdclient import API, NO_REPLY, UNSUCCESSFUL
from tk_harness import MACHINE, case, check, equal, refused


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
