# SPDX-License-Identifier: MIT
"""Disk images with a Windows in them, as far as `vmkd setup` can tell: registry hives written by hivexsh, NTFS by mkntfs and ntfs-3g, ESPs by mtools, partition
tables by sgdisk or by hand; and how all of it is read again without any code of vmkd's: reged for hives, ntfs-3g and mcopy for files."""
import hashlib
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

MIB = 1 << 20
SECTOR = 512
LOADER = "{5b0a1c4e-1111-4222-8333-0123456789ab}"
RESUME = "{5b0a1c4e-2222-4222-8333-0123456789ab}"
BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"


def run(*argv, **more):
    """Runs a program that must succeed; its output."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, **more)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace').strip()}")
    return done.stdout


# ---- Hives ---------------------------------------------------------------------------------------------------

def cell(data):
    size = (len(data) + 4 + 7) & ~7
    return struct.pack("<i", -size) + data.ljust(size - 4, b"\0")


def checksum(block):
    total = 0
    for (word,) in struct.iter_unpack("<I", block[:508]):
        total ^= word
    return {0: 1, 0xffffffff: 0xfffffffe}.get(total, total)


def empty_hive():
    """A hive with a root key and nothing else: what hivexsh starts from, since it cannot make one."""
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, 32, 0, 44) + b"\1\1\0\0\0\0\0\5\x12\0\0\0" * 2 + struct.pack("<BBHHH", 2, 0, 8, 0, 0)
    root = struct.pack("<2sHQIIIIIIIIIIIIIIIHH", b"nk", 0x2c, 0, 0, 0, 0, 0, 0xffffffff, 0xffffffff, 0, 0xffffffff, 0, 0xffffffff, 0, 0, 0, 0, 0, 4, 0) + b"root"
    root_cell = cell(root)
    sk_offset = 32 + len(root_cell)
    root = bytearray(root)
    struct.pack_into("<I", root, 44, sk_offset)
    root_cell = cell(bytes(root))
    sk_cell = cell(struct.pack("<2sHIIII", b"sk", 0, sk_offset, sk_offset, 1, len(descriptor)) + descriptor)
    used = 32 + len(root_cell) + len(sk_cell)
    hbin = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0, 0) + root_cell + sk_cell + struct.pack("<i", 4096 - used)
    base = bytearray(4096)
    struct.pack_into("<4sIIQIIIIIII", base, 0, b"regf", 7, 7, 0, 1, 5, 0, 1, 32, 4096, 1)
    struct.pack_into("<I", base, 508, checksum(base))
    return bytes(base) + hbin.ljust(4096, b"\0")


def text(value):
    return "string:" + value


def binary(kind, data):
    return f"hex:{kind}:" + ",".join(f"{b:02x}" for b in data)


def multi(*values):
    return binary(7, b"".join((v + "\0").encode("utf-16-le") for v in values) + b"\0\0")


def dword(value):
    return f"dword:{value:#x}"


def edit_hive(path, script):
    run("hivexsh", "-w", path, input=(script + "\ncommit\n").encode())


def script_of(tree, at="\\"):
    """hivexsh commands for {name: {...} or value text}."""
    values = {k: v for k, v in tree.items() if isinstance(v, str)}
    lines = [f"cd {at}", f"setval {len(values)}"] + [line for k, v in values.items() for line in (k, v)] if values else []
    for name, child in tree.items():
        if isinstance(child, dict):
            lines += [f"cd {at}", f"add {name}"]
            lines += script_of(child, at.rstrip("\\") + "\\" + name)
    return lines


def make_hive(path, tree):
    path.write_bytes(empty_hive())
    edit_hive(path, "\n".join(script_of(tree)))
    return path.read_bytes()


def element(value):
    return {"Element": value}


def bcd_tree(winload="winload.efi", default=LOADER, menu=(LOADER,), loaders=(LOADER,), debug=None, more=None):
    """The keys of a BCD as Windows lays it out; data that nobody looks at is short."""
    bootmgr = {"12000004": element(text("Windows Boot Manager")), "25000004": element(binary(3, struct.pack("<Q", 30)))}
    if default:
        bootmgr["23000003"] = element(text(default))
    if menu:
        bootmgr["24000001"] = element(multi(*menu))
    objects = {BOOTMGR: {"Description": {"Type": dword(0x10100002)}, "Elements": bootmgr}}
    for number, guid in enumerate(loaders):
        elements = {
            "11000001": element(binary(3, bytes(range(88)))),
            "12000002": element(text(f"\\Windows\\system32\\{winload}")),
            "12000004": element(text(f"Windows {number}")),
            "14000006": element(multi("{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}")),
            "21000001": element(binary(3, bytes(range(88)))),
            "22000002": element(text("\\Windows")),
            "23000003": element(text(RESUME)),
            "250000c2": element(binary(3, struct.pack("<Q", 1))),
        }
        if debug is not None:
            elements["260000a0"] = element(binary(3, bytes([debug])))
        objects[guid] = {"Description": {"Type": dword(0x10200003)}, "Elements": elements}
    objects[RESUME] = {"Description": {"Type": dword(0x10200004)}, "Elements": {"12000002": element(text("\\Windows\\system32\\winresume.efi"))}}
    objects.update(more or {})
    return {"Description": {"KeyName": text("BCD00000000"), "System": dword(1)}, "Objects": objects}


def software_tree(build, product):
    return {"Microsoft": {"Windows NT": {"CurrentVersion": {"CurrentBuildNumber": text(str(build)), "ProductName": text(product)}}}}


def system_tree(current=1):
    services = {"Services": {"Disk": {"Start": dword(0)}, "EventLog": {"System": {"disk": {"TypesSupported": dword(7)}}}}}
    return {"Select": {"Current": dword(current), "Default": dword(current)}, f"ControlSet{current:03}": services}


def read_hive(path):
    """{key path: {value name: text as reged writes it}}, by chntpw's reged."""
    out = path.with_suffix(".reg")
    out.unlink(missing_ok=True)
    run("reged", "-x", path, "HIVE", "\\", out)
    lines = out.read_bytes().decode("latin-1").replace("\\\r\n", "").replace("\\\n", "").splitlines()
    out.unlink()
    keys, key = {}, None
    for line in lines:
        if line.startswith("["):
            key = keys.setdefault(line[1:line.rindex("]")].removeprefix("HIVE").strip("\\"), {})
        elif key is not None and "=" in line:
            name, _, value = line.partition("=")
            key[name.strip('"')] = re.sub(r",\s+", ",", value).strip()
    return keys


def touch_header(path, **fields):
    """Sets fields of a hive's base block, and its checksum unless that is one of them."""
    data = bytearray(path.read_bytes())
    offsets = {"sequence1": 4, "sequence2": 8, "checksum": 508}
    for name, value in fields.items():
        struct.pack_into("<I", data, offsets[name], value)
    if "checksum" not in fields:
        struct.pack_into("<I", data, 508, checksum(data))
    path.write_bytes(data)


def log_of(hive, newer_by=0):
    """A log of Windows 8.1 or later beside a hive, with one entry `newer_by` steps ahead of the hive."""
    base = bytearray(hive[:512])
    struct.pack_into("<I", base, 28, 6)
    struct.pack_into("<I", base, 508, checksum(base))
    sequence = struct.unpack_from("<I", hive, 8)[0]
    return bytes(base) + struct.pack("<4sIIIII", b"HvLE", 512, 0, sequence + newer_by, 4096, 0).ljust(512, b"\0")


def with_shared_keys(hive, guid, lender):
    """The hive with each element of an entry having all elements of another one for its own, so that few bytes are a million keys."""
    data = bytearray(hive)

    def key(name, parent):
        for cell in range(0, len(data) - 4096 - 80, 8):
            nk = data[4096 + cell + 4:]
            if nk[:2] == b"nk" and nk[76:].startswith(name) and parent in (None, struct.unpack_from("<I", nk, 16)[0]):
                return cell
        raise KeyError(name)

    def children(guid):
        keys = struct.unpack_from("<I", data, 4096 + key(b"Elements", key(guid.encode(), None)) + 32)[0]
        return keys, struct.unpack_from("<H", data, 4096 + keys + 6)[0]
    keys, count = children(guid)
    for number in range(count):
        child = struct.unpack_from("<I", data, 4096 + keys + 8 + 8 * number)[0]
        lent, lent_count = children(lender)
        struct.pack_into("<I", data, 4096 + child + 24, lent_count)
        struct.pack_into("<I", data, 4096 + child + 32, lent)
    return bytes(data)


# ---- PE ------------------------------------------------------------------------------------------------------

def kernel(machine=0x8664):
    return b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", machine) + bytes(300)


# ---- Volumes -------------------------------------------------------------------------------------------------

def write_tree(folder, files):
    for name, data in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# ntfs-3g goes on a moment after the unmount; nothing may be done with the file before it has ended.
IN_NTFS = """set -e
ntfs-3g -o "no_detach,$3" "$1" "$2" & driver=$!
until mountpoint -q "$2"; do kill -0 $driver; sleep 0.02; done
status=0
(cd "$4" && eval "$5") || status=$?
umount "$2"
wait $driver
exit $status"""


def in_ntfs(volume, command, folder, options="noatime"):
    """Runs a shell command in `folder` with the volume mounted on $2, where nobody else sees it."""
    mount = volume.with_suffix(".mount")
    mount.mkdir(exist_ok=True)
    return run("unshare", "-m", "sh", "-c", IN_NTFS, "sh", volume, mount, options, folder, command)


def make_ntfs(path, files, size=24 * MIB, sector=0):
    with open(path, "wb") as f:
        f.truncate(size)
    run("mkntfs", "-F", "-Q", "-q", "-s", SECTOR, "-p", sector or 2048, path)
    add_to_ntfs(path, files)


def add_to_ntfs(path, files):
    source = path.with_suffix(".tree")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    write_tree(source, files)
    in_ntfs(path, 'cp -r . "$2"', source)
    shutil.rmtree(source)


def read_ntfs(path):
    """{path: bytes} of the files, {path/: None} of the folders."""
    target = path.with_suffix(".read")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    in_ntfs(path, 'cp -rP "$2"/. .', target, "ro,norecover")
    found = snapshot_folder(target)
    shutil.rmtree(target)
    return found


def rights_of(descriptor):
    """{SID: access mask} of a self-relative security descriptor's access list ([MS-DTYP] 2.4.6)."""
    acl = struct.unpack_from("<I", descriptor, 16)[0]
    count, at, rights = struct.unpack_from("<H", descriptor, acl + 4)[0], acl + 8, {}
    for _ in range(count):
        kind, _flags, size, mask = struct.unpack_from("<BBHI", descriptor, at)
        parts = struct.unpack_from(f"<{descriptor[at + 9]}I", descriptor, at + 16)
        sid = "-".join(str(n) for n in (descriptor[at + 8], descriptor[at + 15], *parts))
        rights[sid] = rights.get(sid, 0) | (mask if kind == 0 else 0)
        at += size
    return rights


def snapshot_folder(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name + "/"] = None
        else:
            found[name] = path.read_bytes()
    return found


def make_esp(path, files, size=40 * MIB):
    with open(path, "wb") as f:
        f.truncate(size)
    run("mkfs.vfat", "-F", "32", "-s", "1", path)
    source = path.with_suffix(".tree")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    write_tree(source, files)
    for entry in sorted(source.iterdir()):
        run("mcopy", "-s", "-i", path, entry, "::/")
    shutil.rmtree(source)


def read_esp(path):
    target = path.with_suffix(".read")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    run("mcopy", "-s", "-n", "-i", path, "::/*", target)
    found = snapshot_folder(target)
    shutil.rmtree(target)
    return found


def set_dirty(path):
    """Sets the dirty flag in $Volume, record 3 of the master file table."""
    data = bytearray(path.read_bytes())
    cluster = struct.unpack_from("<H", data, 11)[0] * data[13]
    record = struct.unpack_from("<Q", data, 48)[0] * cluster + 3 * 1024
    at = record + struct.unpack_from("<H", data, record + 20)[0]
    while struct.unpack_from("<I", data, at)[0] != 0x70:
        at += struct.unpack_from("<I", data, at + 4)[0]
    data[at + struct.unpack_from("<H", data, at + 20)[0] + 10] |= 1
    path.write_bytes(data)


# ---- Disks ---------------------------------------------------------------------------------------------------

ESP_TYPE, DATA_TYPE, RESERVED_TYPE = "EF00", "0700", "0C01"


def copy_into(disk, volume, offset):
    run("dd", f"if={volume}", f"of={disk}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse")


def make_gpt(disk, volumes):
    """volumes: (file, type code) in the order of their partitions, each on a MiB boundary. -> their offsets."""
    offsets, at = [], MIB
    for volume, _ in volumes:
        offsets.append(at)
        at += (volume.stat().st_size + MIB - 1) // MIB * MIB
    with open(disk, "wb") as f:
        f.truncate(at + MIB)
    command = ["sgdisk"]
    for number, ((volume, kind), offset) in enumerate(zip(volumes, offsets), 1):
        first = offset // SECTOR
        command += ["-n", f"{number}:{first}:{first + volume.stat().st_size // SECTOR - 1}", "-t", f"{number}:{kind}"]
    run(*command, disk)
    for (volume, _), offset in zip(volumes, offsets):
        copy_into(disk, volume, offset)
    return offsets


def mbr_entry(kind, first, count, active=False):
    return struct.pack("<B3sB3sII", 0x80 if active else 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", first, count)


def make_mbr(disk, volumes, active=0):
    """volumes: files; those from the fourth on become logical partitions. -> their offsets."""
    offsets, at = [], MIB
    for number, volume in enumerate(volumes):
        at += MIB if number >= 3 else 0  # room for its table
        offsets.append(at)
        at += (volume.stat().st_size + MIB - 1) // MIB * MIB
    with open(disk, "wb") as f:
        f.truncate(at + MIB)
        sector = bytearray(SECTOR)
        for number, (volume, offset) in enumerate(zip(volumes[:3], offsets)):
            sector[446 + 16 * number:462 + 16 * number] = mbr_entry(7, offset // SECTOR, volume.stat().st_size // SECTOR, number == active)
        if len(volumes) > 3:
            start = offsets[3] - MIB
            sector[494:510] = mbr_entry(0x0f, start // SECTOR, (at - start) // SECTOR)
        sector[510:] = b"\x55\xaa"
        f.write(sector)
        for number in range(3, len(volumes)):
            table = bytearray(SECTOR)
            table[446:462] = mbr_entry(7, MIB // SECTOR, volumes[number].stat().st_size // SECTOR)
            if number + 1 < len(volumes):
                table[462:478] = mbr_entry(5, (offsets[number + 1] - MIB - start) // SECTOR, 1)
            table[510:] = b"\x55\xaa"
            f.seek(offsets[number] - MIB)
            f.write(table)
    for volume, offset in zip(volumes, offsets):
        copy_into(disk, volume, offset)
    return offsets


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
