# SPDX-License-Identifier: MIT
"""Test-kernel cases: memory."""
import struct

from kdclient import API, DATA_MAX, UNSUCCESSFUL
from tk_harness import case, check, equal, refused, walk


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


def own_addresses(kd, start, count):
    """What a filled mapping holds there."""
    at = start if kd.is64 else start & 0xFFFFFFFF
    first = at & ~7
    words = b"".join(struct.pack("<Q", first + 8 * i) for i in range((at - first + count + 7) // 8))
    return words[at - first:at - first + count]


@case(more=("--bigmap", "64"))
def big_mapping(m):
    kd, sym, special = m.kd, m.symbols(), m.kd.special_registers()
    base, size = kd.extend(kd.read_u64(sym["TkBigMap"])), kd.read_u64(sym["TkBigMapSize"])
    equal(size, 64 << 20, "the mapping's size")
    half = base + size // 2
    for at in (base, base + 0xFFD, half - 1001, half, half + (2 << 20) - 500, base + size - 3000):
        equal(kd.read_virtual(at, 3000), own_addresses(kd, at, 3000), f"the words at {at:#x}")
    equal(kd.read_virtual_once(base + size - 1, 2)[0], own_addresses(kd, base + size - 1, 1), "a read across the end")
    small, large = ([walk(kd, special, at + i * step) for i in range(4)] for at, step in ((base, 0x1000), (half, 2 << 20)))
    check(all(b != a + 0x1000 for a, b in zip(small, small[1:])), f"4 KiB pages lie in a row: {small}")
    equal([b - a for a, b in zip(large, large[1:])], [-(2 << 20)] * 3, "the order of the 2 MiB pages")


@case()
def mixed_mapping(m):
    kd, page = m.kd, 0x1000
    base = kd.extend(kd.read_u64(m.symbols()["TkMixed"]))
    for number in range(0, 9, 2):
        at = base + number * page
        data, status = kd.read_virtual_once(at + page - 8, 16)
        equal((data, status), (own_addresses(kd, at + page - 8, 8), UNSUCCESSFUL), f"page {number}, and on into no RAM")
    special = kd.special_registers()
    equal([walk(kd, special, base + n * page) for n in (1, 3, 5, 7)], [None, 0xFEE00000, 0xF0000, 0xFFFFFF000], "what lies between")
    equal(kd.read_physical(0xFEE00030, 4)[1:3], b"\0\x05", "the local APIC's version register, by physical address")


@case(set_words=("break", "lie=1"), link="serial")
def lies(m):
    """Over serial: vmkd may answer from RAM, which tells the truth."""
    kd, where = m.kd, m.symbols()["TkLie"]
    pa = walk(kd, kd.special_registers(), where)
    truth = b"The byte at 13 is told wrong where a test asks for it."
    told = truth[:13] + bytes([truth[13] ^ 0xFF]) + truth[14:]
    equal(kd.read_virtual(where, len(truth)), told, "what a virtual read says")
    equal(kd.read_physical(pa, len(truth)), told, "what a physical read says")
    equal(kd.read_virtual(where + 14, 4) + kd.read_virtual(where, 13), truth[14:18] + truth[:13], "what lies beside it")
    equal(kd.search(where, 64, truth), where, "the memory itself")
