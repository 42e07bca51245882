#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The KD client's framing and decoding against worked packets of the KD reference (section 10), without a target."""
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kdclient import (ACK, BREAKPOINT, MANIPULATE, RESEND, RESET, FrameReader, KdLink, Stop, Symbols,  # noqa: E402
                      Version, control_frame, decode_event, frame)

GET_VERSION = bytes.fromhex("30303030020038000000808077000000" "4631" + "00" * 54 + "aa")
VERSION_REPLY = bytes.fromhex(
    "303030300200380001008080970c0000" "46310000000000000000000000000000"
    "0f00ce0e0602070064860c03310000000000200000f8ffff00413d0000f8ffff003f3d0000f8ffff" "aa")
PRINT = bytes.fromhex("3030303003001600010080806c020000" "30320000060000000600000000000000" "48656c6c6f0a" "aa")
INT3 = bytes.fromhex(
    "303030300700f40000088080161b0000" "30300000060000000100000000000000" "402a3c0000f8ffff3012250000f8ffff"
    "03000080000000000000000000000000" "3012250000f8ffff0100000000000000" + "00" * 16 * 7 +
    "00000000000000000100000000000000" "f00fffff000000000004000000000000" "4602000010000300ccc3cccccccccccc"
    "90909090ccc3cccc10002b002b005300" "01000000" "aa")


class Pipe:
    """Stands in for the socket: collects what the link writes."""

    def __init__(self):
        self.sent = []

    def sendall(self, data):
        self.sent.append(data)


def read_all(data, chunk):
    reader, found = FrameReader(), []
    for at in range(0, len(data), chunk):
        reader.feed(data[at:at + chunk])
        while (item := reader.next()) is not None:
            found.append(item)
    return found


def test_frames_are_the_reference_s():
    assert frame(MANIPULATE, 0x80800000, struct.pack("<I", 0x3146) + bytes(52)) == GET_VERSION
    assert control_frame(RESET) == b"iiii\x06" + bytes(11)
    assert control_frame(ACK, 0x80800000) == bytes.fromhex("69696969040000000000808000000000")


def test_reader_in_any_chunks():
    stream = b"noise 0i" + INT3 + control_frame(RESEND) + b"\x62" + PRINT + VERSION_REPLY
    whole = read_all(stream, len(stream))
    assert [(k, t) for k, t, _i, _b in whole] == [("data", 7), ("control", RESEND), ("data", 3), ("data", 2)]
    for chunk in (1, 2, 3, 7, 16, 17, 64):
        assert read_all(stream, chunk) == whole, chunk


def test_reader_refuses_damage():
    for at, name in ((12, "checksum"), (17, "body"), (len(PRINT) - 1, "trailer"), (7, "size above 4000")):
        damaged = bytearray(PRINT)
        damaged[at] ^= 0x10
        kinds = [item[0] for item in read_all(bytes(damaged) + control_frame(ACK), 5)]
        assert "data" not in kinds and "bad" in kinds, (name, kinds)


def test_state_changes():
    stop = decode_event(7, read_all(INT3, 300)[0][3])
    assert isinstance(stop, Stop)
    assert (stop.code, stop.pc, stop.address, stop.thread) == (
        BREAKPOINT, 0xFFFFF80000251230, 0xFFFFF80000251230, 0xFFFFF800003C2A40)
    assert (stop.is64, stop.dr6, stop.dr7, stop.eflags, stop.cs, stop.first_chance) == (
        True, 0xFFFF0FF0, 0x400, 0x246, 0x10, 1)
    assert stop.instructions[:2] == b"\xcc\xc3" and len(stop.instructions) == 16 and stop.data == b"\1\0\0\0"
    notice = bytearray(240)
    struct.pack_into("<I", notice, 0, 0x3031)
    struct.pack_into("<IIQ", notice, 0x20, 0, 0, 2**64 - 1)
    notice[0x40] = 1
    symbols = decode_event(7, bytes(notice))
    assert isinstance(symbols, Symbols) and symbols.is_unload and symbols.base == 2**64 - 1 and symbols.name == ""


def test_version():
    version = Version(*struct.unpack("<HHBBHHBBBBHQQQ", VERSION_REPLY[32:72]))
    assert (version.major, version.minor, version.protocol, version.flags) == (0x0F, 0x0ECE, 6, 7)
    assert version.kern_base == 0xFFFFF80000200000


def test_ids():
    link = KdLink(Pipe())
    body = struct.pack("<IHHII", 0x3230, 6, 0, 1, 0) + b"x"
    assert link._accept(3, 0x80800800, body)          # SYNC: ids start anew
    assert link.sock.sent[-1] == control_frame(ACK, 0x80800000)
    assert not link._accept(3, 0x80800800, body)      # our ACK was lost
    assert link._accept(3, 0x80800001, body)
    assert not link._accept(3, 0x80800001, body)      # a repetition: acknowledged, dropped
    assert link.sock.sent[-1] == control_frame(ACK, 0x80800001)
    assert link._accept(3, 0x80800000, body)
    assert len(link.received) == 3
    link._handle("control", RESET, 0, b"")
    assert link.sock.sent[-1] == control_frame(RESET) and link.expected == link.next_id == 0x80800000
    link.send_reset()
    count = len(link.sock.sent)
    link._handle("control", RESET, 0, b"")            # the answer to ours is not answered
    assert len(link.sock.sent) == count


def main():
    passed = failed = 0
    for name, function in sorted(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            function()
            passed += 1
            print(f"ok {name[5:]}")
        except AssertionError as error:
            failed += 1
            line = error.__traceback__.tb_next.tb_lineno
            print(f"FAIL {name[5:]}: line {line}: {error}")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
