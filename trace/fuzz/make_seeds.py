#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the seeds of trace's fuzzers out of the golden vectors and the recorded sessions of wire/: trace/fuzz/make_seeds.py"""
import re
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import pcapng  # noqa: E402


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)


def vectors():
    text = (ROOT / "wire" / "selftest_vectors.inc").read_text()
    for block in re.findall(r"\{\n(.*?)\n\},", text, re.S):
        strings = re.findall(r'"([^"]*)"', block)
        frame = bytes.fromhex("".join(s for s in strings[1:] if re.fullmatch(r"[0-9A-F]+", s)))
        yield strings[0].split()[1].lower(), frame, pcapng.FROM_TARGET if ", true," in block else pcapng.TO_TARGET


def stop(pc):
    body = struct.pack("<IHHIIQQ", 0x3030, 6, 0, 1, 0, 0xFFFFF80000001000, pc).ljust(240, b"\0")
    return struct.pack("<IHHII", 0x30303030, 7, len(body), 0x80800000, sum(body)) + body + b"\xAA"


def memory(address, count, data=None):
    body = struct.pack("<IHHIIQII", 0x3130, 0, 0, 0, 0, address, count, len(data or b"")).ljust(56, b"\0") + (data or b"")
    return struct.pack("<IHHII", 0x30303030, 2, len(body), 0x80800000 | (data is not None), sum(body)) + body + b"\xAA"


def small_trace(order, resolution=9):
    writer = pcapng.Writer(order)
    writer.interface("guest", resolution=resolution)
    writer.interface("client 1", more=[(14, writer.pack("q", -5)), (3, b"pid 1 (x)")])
    writer.packet(0, 1, b"", more=[(1, b"registered")])
    writer.packet(0, 2, stop(1), pcapng.FROM_TARGET, [(4, writer.pack("Q", 3))])
    for address, data in ((0x1000, b"0123456789abcdef"), (0x1010, b"more bytes"), (0x1100, b"")):
        writer.packet(1, 3, memory(address, 16), pcapng.TO_TARGET)
        writer.packet(1, 4, memory(address, 16, data), pcapng.FROM_TARGET)
    go = struct.pack("<I", 0x313C).ljust(56, b"\0")
    writer.packet(0, 5, struct.pack("<IHHII", 0x30303030, 2, 56, 0x80800000, sum(go)) + go + b"\xAA", pcapng.TO_TARGET)
    writer.packet(0, 6, stop(2), pcapng.FROM_TARGET)
    writer.block(pcapng.STATISTICS, writer.pack("III", 0, 0, 7), [(4, writer.pack("Q", 9)), (5, writer.pack("Q", 1))])
    writer.block(0x0BAD, b"some other block")
    return writer.data


def main():
    for letter, frame, way in vectors():
        write("trace_decode", f"vector_{letter}", bytes([way]) + frame)
        if len(frame) > 16:
            write("trace_decode", f"body_{letter}", bytes([way | 4, frame[4]]) + frame[16:-1])
    questions = bytes([0, 2, 0, 16, 2, 4, 16, 2, 8, 20, 2, 0xF0, 4, 0x16, 0, 0, 4, 0, 0, 1, 0, 2, 0, 16, 1, 0, 0])
    for name, data in (("little", small_trace("<")), ("big", small_trace(">")), ("binary_time", small_trace("<", 0x8A))):
        write("trace_pcapng", name, b"\x10" + data)
        write("trace_player", name, struct.pack("<H", len(questions)) + questions + data)
    for name in ("x64-attached", "x64-boot", "i386-boot"):
        data = pcapng.session(ROOT / "wire" / "testdata" / f"{name}.txt")
        write("trace_pcapng", name, b"\x40" + data[:3000])
        write("trace_player", name, struct.pack("<H", 9) + b"\0\0\0\1\0\0\x18\0\0" + data[:12000])


if __name__ == "__main__":
    main()
