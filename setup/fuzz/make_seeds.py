#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the seeds of setup/'s fuzz targets: small disks, volumes, hives and texts of the usual kind."""
import struct
import sys
import tempfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))
from disks import bcd_tree, kernel, log_of, make_hive, mbr_entry, system_tree  # noqa: E402

SECTORS = 64


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)


def mbr():
    disk = bytearray(SECTORS * 512)
    disk[446:462] = mbr_entry(7, 2, 8, active=True)
    disk[462:478] = mbr_entry(0x0f, 16, 40)
    disk[510:512] = b"\x55\xaa"
    for at, following in ((16, 16), (32, None)):
        disk[at * 512 + 446:at * 512 + 462] = mbr_entry(7, 1, 8)
        if following:
            disk[at * 512 + 462:at * 512 + 478] = mbr_entry(5, following, 1)
        disk[at * 512 + 510:at * 512 + 512] = b"\x55\xaa"
    return bytes(disk)


def gpt():
    disk = bytearray(SECTORS * 512)
    disk[446:462] = mbr_entry(0xee, 1, 0xffffffff)
    disk[510:512] = b"\x55\xaa"
    entries = b"".join(bytes([kind]) + b"\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b" + bytes(16) + struct.pack("<QQ", first, last) + bytes(80)
                       for kind, first, last in ((0x28, 6, 9), (0x29, 10, 40)))
    for lba, at in ((1, 2), (SECTORS - 1, SECTORS - 2)):
        header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, lba, SECTORS - lba, 3, 60, b"disk", at, 2, 128, zlib.crc32(entries))
        header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
        disk[lba * 512:lba * 512 + 92] = header
        disk[at * 512:at * 512 + 256] = entries
    return bytes(disk)


def ntfs():
    volume = bytearray(8192)
    struct.pack_into("<3s8sHB", volume, 0, b"\xeb\x52\x90", b"NTFS    ", 512, 1)
    struct.pack_into("<QQQbBBBb", volume, 40, 16, 4, 4, -10 + 0, 0, 0, 0, 1)
    record = bytearray(1024)
    struct.pack_into("<4sHH", record, 0, b"FILE", 48, 3)
    struct.pack_into("<H", record, 20, 56)
    struct.pack_into("<HH", record, 48, 1, 0)
    struct.pack_into("<IIBBHHHIHH", record, 56, 0x70, 40, 0, 0, 24, 0, 0, 12, 24, 0)
    struct.pack_into("<QBBH", record, 80, 0, 3, 1, 1)
    struct.pack_into("<I", record, 96, 0xffffffff)
    struct.pack_into("<H", record, 510, 1)
    struct.pack_into("<H", record, 1022, 1)
    volume[4 * 512 + 3 * 1024:4 * 512 + 4 * 1024] = record
    return bytes(volume)


def main():
    for name, first, data in (("mbr", 0, mbr()), ("gpt", 0, gpt()), ("gpt-sealed", 1, gpt()), ("ntfs", 2, ntfs()), ("bitlocker", 2, b"\xeb\x52\x90-FVE-FS-".ljust(512, b"\0"))):
        write("setup_disk", name, bytes([first]) + data)
    with tempfile.TemporaryDirectory() as folder:
        bcd = make_hive(Path(folder) / "bcd", bcd_tree())
        system = make_hive(Path(folder) / "system", system_tree())
    write("setup_hive", "bcd", bcd)
    write("setup_hive", "system", system)
    base = system[:4096] + bytes(4096)
    write("setup_guest", "hive", struct.pack("<H", len(base)) + base + log_of(base, 1))
    write("setup_guest", "pe", struct.pack("<H", 0xffff) + kernel())
    write("setup_guest", "qcow2", struct.pack("<H", 0xffff) + struct.pack(">4sI", b"QFI\xfb", 3) + bytes(104))
    write("setup_text", "boot.ini", b'[boot loader]\r\ntimeout=30\r\ndefault=a\\W\r\n[operating systems]\r\na\\W="XP" /fastdetect\r\nb="O"\r\n')
    write("setup_text", "journal", b"vmkd setup 1\r\nvolume b 1048576\r\nvolume w 44040192\r\nentry {5b0a1c4e-1111-4222-8333-0123456789ab} {5b0a1c4e-2222-4222-8333-0123456789ab}\r\n"
          b"rename w kept.dll Windows/System32/kdcom.dll\r\ncreate w 10 00000000deadbeef Windows/System32/kdcom.dll\r\n"
          b"replace bcd b 5 16384 0123456789abcdef EFI/Microsoft/Boot/BCD\r\nwrote 5 20480 0123456789abcdef\r\ndone\r\n")


if __name__ == "__main__":
    main()
