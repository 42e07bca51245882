# SPDX-License-Identifier: MIT
"""The message table of a PE file, as the event viewer reads it: {number: text}. Offsets are those of Microsoft's PE format specification and of
MESSAGE_RESOURCE_DATA in its headers."""
import struct
from pathlib import Path

MESSAGE_TABLE = 11
IS_FOLDER = 0x80000000


class Resources:
    """The resource directory of a file."""

    def __init__(self, path):
        self.file = Path(path).read_bytes()
        pe = self.u32(0x3C)
        self.sections = [struct.unpack_from("<IIII", self.file, pe + 24 + self.u16(pe + 20) + 40 * i + 8) for i in range(self.u16(pe + 6))]
        directories = pe + 24 + (112 if self.u16(pe + 24) == 0x20B else 96)
        self.root = self.offset(self.u32(directories + 8 * 2))

    def u16(self, at):
        return struct.unpack_from("<H", self.file, at)[0]

    def u32(self, at):
        return struct.unpack_from("<I", self.file, at)[0]

    def offset(self, rva):
        """Where the file holds what the image has at rva."""
        for virtual_size, start, raw_size, raw in self.sections:
            if start <= rva < start + max(virtual_size, raw_size):
                return raw + rva - start
        raise ValueError(f"no section holds {rva:#x}")

    def entries(self, at):
        """(id, offset) of a directory of the tree."""
        for i in range(self.u16(at + 12) + self.u16(at + 14)):
            yield self.u32(at + 16 + 8 * i), self.u32(at + 20 + 8 * i)

    def data(self, wanted):
        """(language, offset in the file, bytes) of every resource of a type."""
        for kind, types in self.entries(self.root):
            if kind != wanted:
                continue
            for _, names in self.entries(self.root + (types & ~IS_FOLDER)):
                for language, leaf in self.entries(self.root + (names & ~IS_FOLDER)):
                    at = self.root + leaf
                    yield language, self.offset(self.u32(at)), self.u32(at + 4)


def messages(path):
    """{number: text} of all languages; a number in two languages counts once."""
    found, resources = {}, Resources(path)
    for _, at, size in resources.data(MESSAGE_TABLE):
        for block in range(resources.u32(at)):
            low, high, where = struct.unpack_from("<III", resources.file, at + 4 + 12 * block)
            for number in range(low, high + 1):
                length, flags = struct.unpack_from("<HH", resources.file, at + where)
                assert where + length <= size and length > 4, f"message {number:#x} leaves its table"
                text = resources.file[at + where + 4:at + where + length]
                found[number] = text.decode("utf-16-le" if flags & 1 else "latin-1").rstrip("\0\r\n")
                where += length
    return found
