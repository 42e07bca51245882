# SPDX-License-Identifier: MIT
"""The exports of a PE image: name -> offset from its base. Tests and ./demo find functions of the test kernel with it, as long as
nothing here reads PDBs."""
import struct


def exports(path):
    data = path.read_bytes()
    header = struct.unpack_from("<I", data, 0x3C)[0]
    sections, optional_size = struct.unpack_from("<H", data, header + 6)[0], struct.unpack_from("<H", data, header + 20)[0]
    optional = header + 24
    is_64bit = struct.unpack_from("<H", data, optional)[0] == 0x20B
    directory = struct.unpack_from("<I", data, optional + (112 if is_64bit else 96))[0]
    table = [struct.unpack_from("<IIII", data, optional + optional_size + 40 * i + 8) for i in range(sections)]

    def offset(rva):
        """File offset of an RVA. Rows of the table are virtual size, RVA, raw size, raw offset."""
        for virtual_size, start, raw_size, raw in table:
            if start <= rva < start + max(virtual_size, raw_size):
                return raw + rva - start
        raise ValueError(f"{path}: RVA {rva:#x} is in no section")

    at = offset(directory)
    count, functions, names, ordinals = struct.unpack_from("<IIII", data, at + 24)
    result = {}
    for i in range(count):
        name = offset(struct.unpack_from("<I", data, offset(names) + 4 * i)[0])
        ordinal = struct.unpack_from("<H", data, offset(ordinals) + 2 * i)[0]
        result[data[name:data.index(b"\0", name)].decode()] = struct.unpack_from("<I", data, offset(functions) + 4 * ordinal)[0]
    return result
