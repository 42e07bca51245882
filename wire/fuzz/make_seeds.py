#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the seeds of wire's fuzzers out of the golden vectors and the recorded sessions: wire/fuzz/make_seeds.py"""
import re
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIRE = HERE.parent
STRUCTURES = {7: 0, 2: 1, 3: 2, 11: 3, 9: 4, 10: 5}  # packet type -> selector of kdapi_fuzz.c


def vectors():
    text = (WIRE / "selftest_vectors.inc").read_text()
    for block in re.findall(r"\{\n(.*?)\n\},", text, re.S):
        strings = re.findall(r'"([^"]*)"', block)
        hexes = [s for s in strings[1:] if re.fullmatch(r"[0-9A-F]+", s)]
        yield strings[0].split()[1].lower(), bytes.fromhex("".join(hexes)), "X86" in block, ", true," in block


def session(name, direction):
    lines = (WIRE / "testdata" / name).read_text().splitlines()
    return b"".join(bytes.fromhex(line[2:]) for line in lines if line.startswith(direction + " "))


def peer(data):
    """Ops of kdcom_fuzz.c that let `data` come from the peer."""
    return b"".join(bytes([len(part) - 1]) + part for part in (data[i:i + 128] for i in range(0, len(data), 128)))


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)


def main():
    expect, later, drain = b"\x83\x02", b"\x80\xff", b"\x81\xff"
    for letter, frame, is_x86, is_from_target in vectors():
        role = b"\x03" if is_from_target else b"\x02"
        write("wire_kdcom", f"vector_{letter}", role + expect + peer(frame) + later)
        if len(frame) > 16:
            selector = STRUCTURES[struct.unpack_from("<H", frame, 4)[0]] | (0x10 if is_x86 else 0)
            write("wire_kdapi", f"vector_{letter}", bytes([selector]) + frame[16:-1])
            body = frame[16:-1]
            record = struct.pack("<IHHIHHII", (24 + len(body) + 7) & ~7, struct.unpack_from("<H", frame, 4)[0], 0, 1,
                                 {7: 240, 2: 56, 3: 16, 11: 64}[struct.unpack_from("<H", frame, 4)[0]], 0, 0, 0)
            hdr_len = struct.unpack_from("<H", record, 12)[0]
            record = record[:16] + struct.pack("<II", len(body) - hdr_len, 0) + body
            record += bytes(-len(record) % 8)
            ring = b"\0" * 5 + b"\0" + struct.pack(">HH", 0, len(record)) + record + b"\2" + struct.pack(">H", len(record) // 8) + b"\3"
            write("wire_ring", f"vector_{letter}", ring)
    for name in ("x64-attached", "x64-boot", "i386-boot"):
        write("wire_kdcom", f"{name}_target", b"\x03" + peer(session(name + ".txt", "T")[:3000]) + later)
        write("wire_kdcom", f"{name}_debugger", b"\x02" + expect + peer(session(name + ".txt", "D")[:2000]) + later)
    ack = bytes.fromhex("69696969040000000000808000000000")
    send = b"\x82\x07\x0f\x00"
    write("wire_kdcom", "target_sends", b"\x00" + send + later + drain + peer(ack) + send + b"\x84" + later * 30)
    write("wire_kdcom", "debugger_continues", b"\x01" + b"\x82\x02\x04\x02" + later * 5 + drain + b"\x85\x86\x87")
    write("wire_kdapi", "version", b"\x06" + bytes(range(40)))
    write("wire_kdapi", "module_x64", b"\x07" + bytes(0x80))
    write("wire_kdapi", "data_block", b"\x07" + bytes(20) + struct.pack("<I", 0x3A8) + bytes(0x3A8 - 24))
    write("wire_kdapi", "context_x64", b"\x08" + bytes(0x4D0))
    write("wire_kdapi", "context_x86", b"\x18" + bytes(0x2CC))
    write("wire_kdapi", "special_x64", b"\x09" + bytes(0xF0))
    write("wire_ring", "put_take", b"\0" * 5 + b"\4\2\0\x10" * 4 + b"\3" * 5)
    write("wire_ring", "wrap", b"\0" + struct.pack(">I", 0x80000000 // 8160 * 8160 - 8) + b"\4\2\x0f\x68" + b"\3\4\7\0\4\3")


if __name__ == "__main__":
    main()
