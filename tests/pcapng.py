# SPDX-License-Identifier: MIT
"""pcapng files for tests, written and read without any code of trace/: in either byte order, whole or not."""
import struct
from dataclasses import dataclass, field

USER0 = 147
FROM_TARGET, TO_TARGET = 1, 2
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


def padded(data):
    return data + bytes(-len(data) % 4)


class Writer:
    """order: '<' or '>'."""

    def __init__(self, order="<"):
        self.order, self.data = order, b""
        self.block(SECTION, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def pack(self, form, *values):
        return struct.pack(self.order + form, *values)

    def options(self, options):
        if not options:
            return b""
        return b"".join(self.pack("HH", code, len(value)) + padded(value) for code, value in options) + self.pack("HH", 0, 0)

    def block(self, kind, body, options=()):
        body += self.options(options)
        length = len(body) + 12
        self.data += self.pack("II", kind, length) + body + self.pack("I", length)

    def interface(self, name, link=USER0, resolution=9, more=()):
        self.block(INTERFACE, self.pack("HHI", link, 0, 0), [(2, name.encode()), (9, bytes([resolution])), *more])

    def packet(self, interface, time, data, direction=0, more=()):
        options = [(2, self.pack("I", direction))] if direction else []
        self.block(PACKET, self.pack("IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(data), len(data)) + padded(data), [*options, *more])


@dataclass
class Packet:
    interface: int
    time: int
    data: bytes
    direction: int = 0
    flags: int = 0
    dropped: int = 0
    comment: str = ""


@dataclass
class File:
    interfaces: list = field(default_factory=list)  # dictionaries of options by number, "link"
    packets: list = field(default_factory=list)
    statistics: dict = field(default_factory=dict)  # interface -> (received, dropped)


def read(data):
    """A little-endian file of one section, as vmkd writes them; strict."""
    result, at = File(), 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body, again = data[at + 8:at + length - 4], struct.unpack_from("<I", data, at + length - 4)[0]
        assert length % 4 == 0 and again == length and len(body) == length - 12, f"a bad block at {at}"
        take(result, kind, body, at)
        at += length
    return result


def read_options(data):
    options, at = {}, 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert at + 4 == len(data), "something behind the last option"
            break
        options[code] = data[at + 4:at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
    return options


def number(options, code):
    return int.from_bytes(options.get(code, b""), "little")


def take(result, kind, body, at):
    if kind == SECTION:
        assert at == 0 and struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    elif kind == INTERFACE:
        result.interfaces.append({"link": struct.unpack_from("<H", body)[0], **read_options(body[8:])})
    elif kind == PACKET:
        interface, high, low, length, original = struct.unpack_from("<IIIII", body)
        assert length == original and interface < len(result.interfaces)
        options = read_options(body[20 + (length + 3) // 4 * 4:])
        flags = number(options, 2)
        result.packets.append(Packet(interface, high << 32 | low, body[20:20 + length], flags & 3, flags, number(options, 4),
                                     options.get(1, b"").decode()))
    elif kind == STATISTICS:
        interface = struct.unpack_from("<I", body)[0]
        options = read_options(body[12:])
        result.statistics[interface] = (number(options, 4), number(options, 5))
    else:
        raise AssertionError(f"an unknown block {kind:#x} at {at}")


# ---- KDCOM ---------------------------------------------------------------------------------------------------------------------------

def frames(stream):
    """The frames of a recorded byte stream, as a list; what is between them is left out."""
    result, at = [], 0
    while at + 16 <= len(stream):
        leader, _, length = struct.unpack_from("<IHH", stream, at)
        if leader == 0x69696969:
            result.append(stream[at:at + 16])
        elif leader == 0x30303030:
            result.append(stream[at:at + 17 + length])
        elif stream[at] == 0x62:
            result.append(stream[at:at + 1])
            at += 1
            continue
        else:
            at += 1
            continue
        at += len(result[-1])
    if stream[at:at + 1] == b"\x62":
        result.append(b"\x62")
    return result


def session(path, order="<"):
    """A session of wire/testdata as a trace: what was said to nobody, and each client, is one endpoint; a microsecond between two frames."""
    writer, endpoint, time, said = Writer(order), -1, 1_700_000_000_000_000_000, []
    for line in path.read_text().splitlines():
        if line == "C" or (line[:2] == "N " and endpoint < 0):
            endpoint += 1
            writer.interface(f"client {endpoint}")
            said.append([])
        elif line[:2] in ("T ", "D ", "N "):
            way = TO_TARGET if line[0] == "D" else FROM_TARGET
            data = bytes.fromhex(line[2:])
            if said[endpoint] and said[endpoint][-1][0] == way:
                said[endpoint][-1][1] += data
            else:
                said[endpoint].append([way, data])
    for endpoint, parts in enumerate(said):
        for way, data in parts:
            for frame in frames(data):
                time += 1000
                writer.packet(endpoint, time, frame, way)
    return writer.data
