#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`vmkd setup` on disk images made here: what it refuses, what it changes (read again by other programs than its own), and that --undo brings back every file.

    tests/test_setup.py             all
    tests/test_setup.py --long      more interruptions
    tests/test_setup.py WORD…       the tests whose names contain one of the words
"""
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from disks import (BOOTMGR, DATA_TYPE, ESP_TYPE, LOADER, MIB, RESERVED_TYPE, RESUME, add_to_ntfs, bcd_tree, digest, edit_hive, in_ntfs, kernel, log_of,
                   make_esp, make_gpt, make_hive, make_mbr, make_ntfs, read_esp, read_hive, read_ntfs, rights_of, run, set_dirty, software_tree, system_tree,
                   touch_header, with_shared_keys)
from report import Report
from vm import BUILD, GUARD_S, VMKD, wait_for

REPORT = Report()
TESTS = []
SKIPPED = 77
LONG = "--long" in sys.argv
# In memory: what is tested does not depend on the disk, and waits for it hundreds of times.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
KDCOM = b"the kdcom of Windows " * 500
CONFIG = "Windows/System32/config"
EFI_BCD = "EFI/Microsoft/Boot/BCD"
BOOT_INI = b'[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n[operating systems]\r\n' \
           b'multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="Microsoft Windows XP Professional" /noexecute=optin /fastdetect\r\n'


def test(title):
    def register(function):
        TESTS.append((title, function))
        return function
    return register


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(is_now, wanted, what):
    if is_now != wanted:
        keys = [k for k in sorted(set(is_now) | set(wanted)) if is_now.get(k) != wanted.get(k)] if isinstance(wanted, dict) else [f"{is_now!r:.200} instead of {wanted!r:.200}"]
        raise AssertionError(f"{what}: {keys}")


# ---- Disks with a Windows ------------------------------------------------------------------------------------

class Windows:
    """What a Windows of some build has on its disk, to be changed before it is made."""

    def __init__(self, folder, build=19045, product="Windows 10 Pro", machine=0x8664, **bcd):
        self.folder, self.build, self.machine = folder, build, machine
        self.winload = bcd.pop("winload", "winload.efi")
        self.files = {
            f"{CONFIG}/SOFTWARE": make_hive(folder / "SOFTWARE", software_tree(build, product)),
            f"{CONFIG}/SYSTEM": make_hive(folder / "SYSTEM", system_tree()),
            "Windows/System32/ntoskrnl.exe": kernel(machine),
            "Windows/System32/kdcom.dll": KDCOM,
            "Windows/System32/drivers/disk.sys": b"disk",
            "Users/me/file.txt": b"mine",
        }
        self.bcd = make_hive(folder / "BCD", bcd_tree(self.winload, **bcd))
        self.boot_files = {}  # beside the BCD


class Disk:
    """An image and the places of its volumes."""

    def __init__(self, path, offsets, volumes, kinds):
        self.path, self.offsets, self.volumes, self.kinds = path, offsets, volumes, kinds

    def files(self):
        """All files of all volumes, read without vmkd."""
        raw = self.path.with_suffix(".now")
        if self.path.suffix == ".qcow2":
            run("qemu-img", "convert", "-O", "raw", self.path, raw)
        else:
            run("cp", "--sparse=always", self.path, raw)
        found = {}
        for number, (offset, volume, kind) in enumerate(zip(self.offsets, self.volumes, self.kinds), 1):
            if kind == "none":
                continue
            part = self.path.with_suffix(f".part{number}")
            run("dd", f"if={raw}", f"of={part}", "bs=1M", f"skip={offset // MIB}", f"count={volume.stat().st_size // MIB}", "conv=sparse")
            found.update({f"{number}/{name}": data for name, data in (read_esp if kind == "fat" else read_ntfs)(part).items()})
            part.unlink()
        raw.unlink()
        return found


def finish(folder, disk, offsets, volumes, kinds, qcow2):
    if qcow2:
        run("qemu-img", "convert", "-O", "qcow2", disk, disk.with_suffix(".qcow2"))
        disk = disk.with_suffix(".qcow2")
    return Disk(disk, offsets, volumes, kinds)


def gpt_disk(windows, qcow2=True, more=(), touch=None):
    """ESP, a reserved partition, Windows; `touch(esp, ntfs)` may damage the volumes before they go onto the disk."""
    folder = windows.folder
    esp, reserved, ntfs = folder / "esp.raw", folder / "reserved.raw", folder / "ntfs.raw"
    make_esp(esp, {EFI_BCD: windows.bcd, "EFI/Microsoft/Boot/bootmgfw.efi": b"boot manager", **{f"EFI/Microsoft/Boot/{k}": v for k, v in windows.boot_files.items()}})
    reserved.write_bytes(bytes(MIB))
    make_ntfs(ntfs, windows.files)
    if touch:
        touch(esp, ntfs)
    volumes = [esp, reserved, ntfs] + [volume for volume, _ in more]
    offsets = make_gpt(folder / "disk.raw", [(esp, ESP_TYPE), (reserved, RESERVED_TYPE), (ntfs, DATA_TYPE)] + list(more))
    return finish(folder, folder / "disk.raw", offsets, volumes, ["fat", "none", "ntfs"] + ["ntfs"] * len(more), qcow2)


def mbr_disk(windows, separate=False, qcow2=False, logical=False, touch=None):
    """Windows alone, or behind a small active volume with the boot files; `logical`: in an extended partition."""
    folder = windows.folder
    boot = {"boot.ini": BOOT_INI} if windows.build < 6000 else {"Boot/BCD": windows.bcd, **{f"Boot/{k}": v for k, v in windows.boot_files.items()}}
    volumes = [folder / "ntfs.raw"]
    make_ntfs(volumes[0], {**windows.files, **({} if separate or logical else boot)})
    if separate or logical:
        volumes.insert(0, folder / "boot.raw")
        make_ntfs(volumes[0], boot, size=8 * MIB)
    for number in range(2 if logical else 0):
        volumes.insert(1, folder / f"data{number}.raw")
        make_ntfs(volumes[1], {"data": b"d"}, size=8 * MIB)
    if touch:
        touch(volumes[0], volumes[-1])
    offsets = make_mbr(folder / "disk.raw", volumes)
    return finish(folder, folder / "disk.raw", offsets, volumes, ["ntfs"] * len(volumes), qcow2)


def setup(disk, *options):
    return subprocess.run([VMKD, "setup", *options, str(getattr(disk, "path", disk))], capture_output=True, text=True, timeout=GUARD_S)


def done(disk, *options):
    result = setup(disk, *options)
    expect(result.returncode == 0, f"setup {options}: status {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def refused(disk, pattern, *options):
    """It ends with status 1 and one line that matches, and not a byte of the image is another one."""
    path = getattr(disk, "path", disk)
    before = digest(path)
    result = setup(disk, *options)
    expect(result.returncode == 1, f"status {result.returncode}: {result.stdout} {result.stderr}")
    expect(re.search(pattern, result.stderr), f"expected /{pattern}/, got: {result.stderr.strip()}")
    expect(result.stderr.count("\n") == 1, f"more than a line: {result.stderr}")
    expect(digest(path) == before, "the image was changed")
    nothing_left()


def nothing_left():
    """No folder of a `vmkd setup` that has ended; another test's may be at work at this moment."""
    def left():
        return [p for p in Path("/tmp").glob("vmkd-setup-*-*") if not Path(f"/proc/{p.name.split('-')[2]}").exists()]
    wait_for("no folder left behind", lambda: not left(), guard=30)


# ---- What it refuses -----------------------------------------------------------------------------------------

@test("refused: BitLocker")
def _(folder):
    def lock(_, ntfs):
        with open(ntfs, "r+b") as f:
            f.seek(3)
            f.write(b"-FVE-FS-")
    refused(gpt_disk(Windows(folder), touch=lock), "partition 3 is encrypted with BitLocker")


@test("refused: a volume marked as dirty")
def _(folder):
    refused(gpt_disk(Windows(folder), touch=lambda esp, ntfs: set_dirty(ntfs)), "partition 3: it is marked as dirty.*chkdsk")


@test("refused: a dirty boot volume, clean Windows")
def _(folder):
    windows = Windows(folder, 7601, "Windows 7", winload="winload.exe")
    refused(mbr_disk(windows, separate=True, touch=lambda boot, ntfs: set_dirty(boot)), "partition 1: it is marked as dirty")


@test("refused: hibernated, also by Fast Startup")
def _(folder):
    windows = Windows(folder)
    windows.files["hiberfil.sys"] = b"HIBR" + bytes(8000)
    refused(gpt_disk(windows), "hibernated.*powercfg")


def open_log(_, ntfs):
    """The NTFS log as a crash leaves it: two restart pages with a client that has not gone."""
    data = bytearray(ntfs.read_bytes())
    cluster = struct.unpack_from("<H", data, 11)[0] * data[13]
    record = struct.unpack_from("<Q", data, 48)[0] * cluster + 2 * 1024
    at = record + struct.unpack_from("<H", data, record + 20)[0]
    while struct.unpack_from("<I", data, at)[0] != 0x80:
        at += struct.unpack_from("<I", data, at + 4)[0]
    runs = at + struct.unpack_from("<H", data, at + 32)[0]
    first = runs + 1 + (data[runs] & 15)
    start = int.from_bytes(data[first:first + (data[runs] >> 4)], "little") * cluster
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHhhh", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, 1, 0)
    struct.pack_into("<QHHHHIHHQ", page, 48, 0, 1, 0xffff, 0, 0, 0, 0xd0, 0x40, 2 * MIB)
    struct.pack_into("<IHH", page, 48 + 40, 0, 0x30, 0x40)
    struct.pack_into("<QQHHHH", page, 48 + 0x40, 0, 0, 0xffff, 0xffff, 0, 0)
    data[start:start + 8192] = page * 2
    ntfs.write_bytes(data)


@test("refused: an NTFS log that is not empty")
def _(folder):
    refused(gpt_disk(Windows(folder), touch=open_log), "partition 3: Windows has not finished with it")


@test("refused: a BCD with unequal sequence numbers")
def _(folder):
    windows = Windows(folder)
    touch_header(folder / "BCD", sequence1=9, sequence2=8)
    windows.bcd = (folder / "BCD").read_bytes()
    refused(gpt_disk(windows), r"BCD: its sequence numbers differ \(9 and 8\)")


@test("refused: a BCD with a wrong checksum, one that is cut off, one that is none")
def _(folder):
    windows = Windows(folder)
    good = windows.bcd
    touch_header(folder / "BCD", checksum=1)
    windows.bcd = (folder / "BCD").read_bytes()
    refused(gpt_disk(windows), "BCD: its header has a wrong checksum")
    windows.bcd = good[:8192]
    refused(gpt_disk(windows), "BCD: .*cut off")
    windows.bcd = b"hello" * 2000
    refused(gpt_disk(windows), "BCD: it is no registry hive")


@test("refused: a log with something newer than the hive, on FAT and on NTFS")
def _(folder):
    windows = Windows(folder)
    windows.boot_files["BCD.LOG1"] = log_of(windows.bcd, newer_by=1)
    refused(gpt_disk(windows), "BCD: its log holds changes")
    windows.boot_files.clear()
    windows.files[f"{CONFIG}/SYSTEM.LOG2"] = log_of(windows.files[f"{CONFIG}/SYSTEM"], newer_by=3)
    refused(gpt_disk(windows), "SYSTEM: its log holds changes")


@test("refused: SYSTEM or SOFTWARE unfinished")
def _(folder):
    for name in ("SYSTEM", "SOFTWARE"):
        windows = Windows(folder)
        touch_header(folder / name, sequence1=4, sequence2=3)
        windows.files[f"{CONFIG}/{name}"] = (folder / name).read_bytes()
        refused(gpt_disk(windows), f"{name}: its sequence numbers differ")


@test("refused: no Windows, two of them, one too old, one for another processor")
def _(folder):
    windows = Windows(folder)
    files = windows.files
    windows.files = {"data.txt": b"nothing here"}
    refused(gpt_disk(windows), "no Windows on any of the 3 partitions")
    windows.files = files
    second = folder / "second.raw"
    make_ntfs(second, files)
    refused(gpt_disk(windows, more=[(second, DATA_TYPE)]), "partition 4: there is a second Windows, beside the one on partition 3")
    refused(gpt_disk(Windows(folder, 2195, "Windows 2000")), "build number is 2195")
    refused(gpt_disk(Windows(folder, machine=0xaa64)), "ntoskrnl.exe is for machine aa64")


@test("refused: an image in use")
def _(folder):
    disk = gpt_disk(Windows(folder))
    address = folder / "nbd.sock"
    holder = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={disk.path}", "--blockdev", "driver=qcow2,node-name=d,file=f",
                               "--nbd-server", f"addr.type=unix,addr.path={address}", "--export", "nbd,id=e,node-name=d,writable=on"])
    try:
        wait_for("the other user of the image", address.exists)
        result = setup(disk)
        expect(result.returncode == 1 and "it is in use" in result.stderr, result.stderr)
        result = setup(disk, "--dry-run")
        expect(result.returncode == 1 and "it is in use" in result.stderr, result.stderr)
    finally:
        holder.terminate()
        holder.wait()
    done(disk)


@test("refused: no room on the volume of Windows, none on the ESP")
def _(folder):
    windows = Windows(folder)
    disk = gpt_disk(windows, touch=lambda esp, ntfs: in_ntfs(ntfs, 'dd if=/dev/zero of="$2/fill" bs=64k 2>/dev/null || true', folder))
    refused(disk, "bytes are needed on the volume of Windows, and [0-9]+ are free")

    def fill(esp, _):
        (folder / "fill").write_bytes(bytes(38 * MIB))
        for size in (38 * MIB, MIB, 64 * 1024, 4096, 512):
            (folder / "fill").write_bytes(bytes(size))
            while subprocess.run(["mcopy", "-i", esp, folder / "fill", f"::/fill{random.random()}"], capture_output=True).returncode == 0:
                pass
    disk = gpt_disk(windows, touch=fill)
    before = disk.files()
    result = setup(disk)
    expect(result.returncode == 1 and "failed, and everything was put back" in result.stderr, result.stderr)
    equal(disk.files(), before, "files after a failed set-up")


@test("refused: set up already, by vmkd setup or by install.cmd")
def _(folder):
    windows = Windows(folder)
    disk = gpt_disk(windows)
    done(disk)
    refused(disk, "set up already")
    windows.files["Windows/vmkd/journal.txt"] = b"keep*-*-*end\r\n"
    disk = gpt_disk(windows)
    refused(disk, "prepared by install.cmd.*uninstall.cmd")
    refused(disk, "prepared by install.cmd.*uninstall.cmd", "--undo")


@test("refused: files or a service of that name, a kdcom.dll that is missing, debugging in the old entry")
def _(folder):
    for name, pattern in (("Windows/System32/kdvmkd.dll", "kdvmkd.dll is there already"), ("Windows/System32/KDCOM_vmkd_original.dll", "kdcom_vmkd_original.dll is there already"),
                          ("Windows/System32/drivers/VMKD.SYS", "drivers/vmkd.sys is there already")):
        windows = Windows(folder)
        windows.files[name] = b"somebody's"
        refused(gpt_disk(windows), pattern)
    windows = Windows(folder)
    edit_hive(folder / "SYSTEM", "cd \\ControlSet001\\Services\nadd vmkd")
    windows.files[f"{CONFIG}/SYSTEM"] = (folder / "SYSTEM").read_bytes()
    refused(gpt_disk(windows), 'there is a service "vmkd" already')
    windows = Windows(folder)
    del windows.files["Windows/System32/kdcom.dll"]
    refused(gpt_disk(windows), "kdcom.dll is missing")
    refused(gpt_disk(Windows(folder, debug=1)), "has debugging on")


@test("refused: a boot menu that does not say which entry")
def _(folder):
    other = "{5b0a1c4e-3333-4222-8333-0123456789ab}"
    refused(gpt_disk(Windows(folder, default=None, loaders=(LOADER, other), menu=(LOADER, other))), "2 of its menu do; expected one")
    refused(gpt_disk(Windows(folder, default=None, menu=())), "0 of its menu do")


@test("refused: a truncated qcow2, and other formats")
def _(folder):
    disk = gpt_disk(Windows(folder))
    whole = disk.path.read_bytes()
    disk.path.write_bytes(whole[:len(whole) // 2])
    refused(disk, "disk.qcow2: ")
    for name, head, pattern in (("encrypted", struct.pack(">4sIQIIQI", b"QFI\xfb", 3, 0, 0, 16, MIB, 2), "encrypted"),
                                ("data file", struct.pack(">4sIQIIQI", b"QFI\xfb", 3, 0, 0, 16, MIB, 0).ljust(72, b"\0") + struct.pack(">Q", 4), "another file"),
                                ("version 9", struct.pack(">4sI", b"QFI\xfb", 9), "version 9"),
                                ("VMDK", b"KDMV", "VMDK"), ("VHDX", b"vhdxfile", "VHDX"), ("text", b"hello", "no partition table|cannot read the disk")):
        path = folder / f"{name}.img"
        path.write_bytes(head.ljust(MIB, b"\0"))
        refused(path, pattern)
    refused_without_image = setup(folder / "nowhere.img")
    expect(refused_without_image.returncode == 1 and "No such file" in refused_without_image.stderr, refused_without_image.stderr)


@test("an image on a backing file is changed only where that is trusted, and the file stays as it is")
def _(folder):
    disk = gpt_disk(Windows(folder))
    base = folder / "base.qcow2"
    disk.path.rename(base)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", str(disk.path)], check=True)
    before = digest(base)
    refused(disk, "backing file.*--backing")
    refused(disk, "backing file.*--backing", "--undo")
    done(disk, "--backing")
    done(disk, "--undo", "--backing")
    expect(digest(base) == before, "the backing file was changed")


@test("refused: a raw image whose guest wrote itself a backing file")
def _(folder):
    path = folder / "guest.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", str(path), "1M"], check=True)
    refused(path, "backing file.*--backing")


@test("refused: partitions that overlap, lie outside, or a damaged GPT; the second GPT serves")
def _(folder):
    disk = mbr_disk(Windows(folder, 7601, "Windows 7", winload="winload.exe"), separate=True)
    data = bytearray(disk.path.read_bytes())
    first = struct.unpack_from("<I", data, 446 + 8)[0]
    struct.pack_into("<I", data, 462 + 8, first + 8)
    disk.path.write_bytes(data)
    refused(disk, "partitions 1 and 2 overlap")
    struct.pack_into("<I", data, 462 + 12, 0xffffff00)
    disk.path.write_bytes(data)
    refused(disk, "does not lie within the disk")
    disk = gpt_disk(Windows(folder), qcow2=False)
    data = bytearray(disk.path.read_bytes())
    data[512 + 56] ^= 1  # the disk's GUID in the first header
    disk.path.write_bytes(data)
    done(disk, "--dry-run")
    data[len(data) - 512 + 56] ^= 1
    disk.path.write_bytes(data)
    refused(disk, "neither copy of it is whole")


@test("refused: links in the volume do not lead out of it")
def _(folder):
    victim = folder / "victim"
    victim.mkdir()
    for place in ("Windows/System32/drivers", "Windows/vmkd"):
        windows = Windows(folder)
        if place.endswith("drivers"):
            del windows.files["Windows/System32/drivers/disk.sys"]
        disk = gpt_disk(windows, touch=lambda esp, ntfs: in_ntfs(ntfs, f'ln -s {victim} "$2/{place}"', folder))
        before = disk.files()
        result = setup(disk)
        expect(result.returncode == 1, f"{place}: {result.stdout}")
        equal(disk.files(), before, f"files with a link at {place}")
        expect(not list(victim.iterdir()), f"written outside of the volume: {list(victim.iterdir())}")


@test("refused: a user without the right to mount")
def _(folder):
    disk = gpt_disk(Windows(folder))
    folder.chmod(0o755)
    vmkd = folder / "vmkd"
    shutil.copy(VMKD, vmkd)
    disk.path.chmod(0o666)
    result = subprocess.run(["setpriv", "--reuid", "61001", "--regid", "61001", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", vmkd, "setup", disk.path],
                            capture_output=True, text=True, timeout=GUARD_S)
    expect(result.returncode == 1 and "needs root" in result.stderr, result.stderr)


# ---- What it does --------------------------------------------------------------------------------------------

def entry_of(keys):
    guids = {k.split("\\")[1] for k in keys if k.startswith("Objects\\") and k.count("\\") == 1}
    new = [g for g in guids if keys.get(f"Objects\\{g}\\Elements\\12000004", {}).get("Element") == '"vmkd debugging"']
    expect(len(new) == 1, f"entries of ours: {new}")
    return new[0]


def elements_of(keys, guid):
    prefix = f"Objects\\{guid}\\Elements\\"
    return {k.removeprefix(prefix): v["Element"] for k, v in keys.items() if k.startswith(prefix)}


def multi_of(value):
    data = bytes(int(b, 16) for b in value.removeprefix("hex(7):").split(","))
    return [g for g in data.decode("utf-16-le").split("\0") if g]


ON, OFF, ZERO = "hex:01", "hex:00", "hex:00,00,00,00,00,00,00,00"
ELEMENTS_VISTA = {"12000004": '"vmkd debugging"', "260000a0": ON, "16000049": ON, "26000027": ON, "22000013": '"kdvmkd.dll"'}
ELEMENTS_8 = {**ELEMENTS_VISTA, "22000013": '"kdcom.dll"', "250000c2": ZERO, "16000009": OFF, "15000011": ZERO, "12000019": '""'}
ELEMENTS_11 = {**ELEMENTS_8, "16000048": ON}


def check_bcd(folder, before, after, elements, default):
    """The BCD as another reader sees it: a copy of the entry with these elements, at the menu's end; nothing else is another."""
    (folder / "before").write_bytes(before)
    (folder / "after").write_bytes(after)
    old, new = read_hive(folder / "before"), read_hive(folder / "after")
    guid = entry_of(new)
    equal(elements_of(new, guid), {**elements_of(old, LOADER), **elements}, "elements of the new entry")
    equal(new[f"Objects\\{guid}\\Description"], old[f"Objects\\{LOADER}\\Description"], "its type")
    menu, default_key = f"Objects\\{BOOTMGR}\\Elements\\24000001", f"Objects\\{BOOTMGR}\\Elements\\23000003"
    equal(multi_of(new[menu]["Element"]), multi_of(old[menu]["Element"]) + [guid], "the boot menu")
    equal(new[default_key]["Element"], f'"{guid}"' if default else f'"{LOADER}"', "the default entry")
    rest = {k: v for k, v in new.items() if not k.startswith(f"Objects\\{guid}") and k not in (menu, default_key)}
    equal(rest, {k: v for k, v in old.items() if k not in (menu, default_key)}, "everything else")


def check_system(folder, before, after):
    (folder / "before").write_bytes(before)
    (folder / "after").write_bytes(after)
    old, new = read_hive(folder / "before"), read_hive(folder / "after")
    service = new.pop("ControlSet001\\Services\\vmkd")
    source = new.pop("ControlSet001\\Services\\EventLog\\System\\vmkd")
    wide = ",".join(f"{b:02x}" for b in "\\SystemRoot\\System32\\drivers\\vmkd.sys\0".encode("utf-16-le"))
    equal(service, {"Type": "dword:00000001", "Start": "dword:00000003", "ErrorControl": "dword:00000001", "ImagePath": f"hex(2):{wide}",
                    "DisplayName": '"vmkd kernel debugging transport"'}, "the service")
    expect(source["TypesSupported"] == "dword:00000007" and source["EventMessageFile"].startswith("hex(2):25,00,53,00"), f"the event source: {source}")
    equal(new, old, "the rest of SYSTEM")


def ours(name, arch="x64"):
    for place in (BUILD / "guest/medium" / arch / name, BUILD / "guest" / arch / name):
        if place.is_file():
            return place.read_bytes()
    raise FileNotFoundError(name)


def round_trip(folder, disk, windows, boot, way, elements, arch="x64", options=()):
    """Dry run, set up, look, again, undo, again."""
    at = f"{len(disk.volumes)}/"
    before = disk.files()
    image = digest(disk.path)
    plan = done(disk, "--dry-run", *options)
    expect("would be" in plan and digest(disk.path) == image, "a dry run changes nothing and says what it would")
    done(disk, *options)
    after = disk.files()
    system32 = f"{at}Windows/System32/"
    changed = {k for k in set(before) | set(after) if before.get(k) != after.get(k) and not k.startswith(f"{at}Windows/vmkd/")}
    wanted = {boot, f"{system32}config/SYSTEM", f"{system32}drivers/vmkd.sys"}
    wanted |= {f"{system32}kdvmkd.dll"} if way == "own name" else {f"{system32}kdcom.dll", f"{system32}kdcom_vmkd_original.dll"}
    equal(sorted(changed), sorted(wanted), "files that are others")
    module = f"{system32}kdvmkd.dll" if way == "own name" else f"{system32}kdcom.dll"
    expect(after[module] == ours("kdvmkd.dll", arch) and after[f"{system32}drivers/vmkd.sys"] == ours("vmkd.sys", arch), "our files are not those of the build")
    expect(way == "own name" or after[f"{system32}kdcom_vmkd_original.dll"] == KDCOM, "the original kdcom.dll")
    if elements:
        check_bcd(folder, before[boot], after[boot], elements, "--default" in options)
    check_system(folder, before[f"{system32}config/SYSTEM"], after[f"{system32}config/SYSTEM"])
    refused(disk, "set up already", *options)
    image = digest(disk.path)
    expect("would be" in done(disk, "--undo", "--dry-run") and digest(disk.path) == image, "a dry undo changes nothing")
    done(disk, "--undo")
    equal(disk.files(), before, "files after undo")
    refused(disk, "nothing to undo", "--undo")
    nothing_left()
    return after[boot]


@test("Windows 10, GPT, qcow2: changed, read again by another reader, undone file for file")
def _(folder):
    windows = Windows(folder)
    windows.boot_files["BCD.LOG1"] = log_of(windows.bcd)  # nothing newer: no reason to refuse
    round_trip(folder, gpt_disk(windows), windows, f"1/{EFI_BCD}", "kdcom", ELEMENTS_8)


@test("Windows 11, GPT, raw, --default; x64")
def _(folder):
    windows = Windows(folder, 22631, "Windows 10 Pro")
    round_trip(folder, gpt_disk(windows, qcow2=False), windows, f"1/{EFI_BCD}", "kdcom", ELEMENTS_11, options=("--default",))


@test("Windows 8.1, MBR, boot files in a volume of their own, x86")
def _(folder):
    windows = Windows(folder, 9600, "Windows 8.1", machine=0x14c, winload="winload.exe")
    round_trip(folder, mbr_disk(windows, separate=True), windows, "1/Boot/BCD", "kdcom", ELEMENTS_8, arch="x86")


@test("Windows 7, MBR, raw, one volume: the module by its own name")
def _(folder):
    windows = Windows(folder, 7601, "Windows 7 Professional", winload="winload.exe")
    round_trip(folder, mbr_disk(windows), windows, "1/Boot/BCD", "own name", ELEMENTS_VISTA)


@test("Vista in a logical partition, qcow2, x86")
def _(folder):
    windows = Windows(folder, 6002, "Windows Vista", machine=0x14c, winload="winload.exe")
    round_trip(folder, mbr_disk(windows, logical=True, qcow2=True), windows, "1/Boot/BCD", "own name", ELEMENTS_VISTA, arch="x86")


@test("XP: boot.ini, the old default and a new one")
def _(folder):
    line = b'multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="vmkd debugging" /DEBUG /DEBUGPORT=vmkd /noexecute=optin /fastdetect\r\n'
    old = BOOT_INI.splitlines(True)
    windows = Windows(folder, 2600, "Microsoft Windows XP", machine=0x14c)
    found = round_trip(folder, mbr_disk(windows), windows, "1/boot.ini", "own name", None, arch="x86")
    equal(found.splitlines(True), old + [line], "boot.ini")
    found = round_trip(folder, mbr_disk(windows), windows, "1/boot.ini", "own name", None, arch="x86", options=("--default",))
    equal(found.splitlines(True), old[:-1] + [line] + old[-1:], "boot.ini with --default")


# qemu-nbd as far as we use it, with loop devices; in a mount namespace where there are such devices and no qemu-storage-daemon.
FAKE_NBD = """#!/bin/bash
while [ $# -gt 0 ]; do
	case $1 in
	--verbose) ;;
	--read-only) options=-r ;;
	--image-opts) description=$2; shift ;;
	-c) device=$2; shift ;;
	*) exit 3 ;;
	esac
	shift
done
IFS=, read -ra words <<<"$description"
for word in "${words[@]}"; do
	case $word in
	offset=*) options+=" -o ${word#*=}" ;;
	size=*) options+=" --sizelimit ${word#*=}" ;;
	file.filename=*) file=${word#*=} ;;
	esac
done
loop=$(losetup $options --find --show "$file") || exit 1
trap 'umount "$device"; rm -f /sys/block/${device#/dev/}/pid; losetup -d "$loop"; exit 0' TERM
mount --bind "$loop" "$device" || exit 1
echo $$ > /sys/block/${device#/dev/}/pid
echo "$description" >> "$FAKE_NBD_LOG"
while :; do sleep 0.1; done
"""
WITH_NBD = """set -e
mount -t tmpfs none /sys/block
mkdir /sys/block/nbd0 /sys/block/nbd1 /sys/block/nbd2 /sys/block/nbd3
echo 1 > /sys/block/nbd1/pid
mount -t tmpfs none /dev
mknod /dev/null c 1 3; mknod /dev/zero c 1 5; mknod /dev/urandom c 1 9; mknod /dev/fuse c 10 229; mknod /dev/loop-control c 10 237
for number in $(seq 0 31); do mknod /dev/loop$number b 7 $number; done
: > /dev/nbd0; : > /dev/nbd1; : > /dev/nbd2; : > /dev/nbd3
exec "$@"
"""


@test("qemu-nbd in place of qemu-storage-daemon (its part played by loop devices)")
def _(_):
    with tempfile.TemporaryDirectory(prefix="vmkd-disks-", dir="/tmp") as folder: # /dev is another one in there
        by_nbd(Path(folder))


def by_nbd(folder):
    tools = folder / "tools"
    tools.mkdir()
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in Path(place).iterdir():
            link = tools / program.name
            if program.name not in ("qemu-storage-daemon", "qemu-nbd") and not link.is_symlink():
                link.symlink_to(program)
    (tools / "qemu-nbd").write_text(FAKE_NBD)
    (tools / "qemu-nbd").chmod(0o755)
    log = folder / "log"
    disk = mbr_disk(Windows(folder, 7601, "Windows 7", winload="winload.exe"), separate=True)
    before = disk.files()
    for options in ([], ["--undo"]):
        result = subprocess.run(["unshare", "-m", "sh", "-c", WITH_NBD, "sh", VMKD, "setup", *options, disk.path], capture_output=True, text=True, timeout=GUARD_S,
                                env={**os.environ, "PATH": str(tools), "FAKE_NBD_LOG": str(log)})
        expect(result.returncode == 0, f"{options}: {result.stderr}")
        expect((disk.files() == before) == bool(options), f"{options}: files")
        nothing_left()
    said = log.read_text().splitlines()
    expect(len(said) == 6 and said[0] == f"driver=raw,file.driver=file,file.filename={disk.path}", said)
    expect(said[1].startswith(f"driver=raw,offset={MIB},size={8 * MIB},file.driver=host_device,") and said[1].endswith("file.filename=/dev/nbd0"), said[1])


@test("a block device in place of a file")
def _(folder):
    disk = mbr_disk(Windows(folder, 7601, "Windows 7", winload="winload.exe"))
    before = disk.files()
    loop = run("losetup", "--find", "--show", disk.path).decode().strip()
    try:
        done(loop)
        expect(disk.files() != before, "nothing was changed")
        done(loop, "--undo")
    finally:
        run("losetup", "-d", loop)
    equal(disk.files(), before, "files after undo")


@test("a block device that the host uses is refused")
def _(folder):
    disk = mbr_disk(Windows(folder, 7601, "Windows 7", winload="winload.exe"))
    loop = run("losetup", "--find", "--show", disk.path).decode().strip()
    try:
        held = os.open(loop, os.O_RDONLY | os.O_EXCL)  # as a mount holds it
        try:
            refused(Path(loop), "in use on this host")
        finally:
            os.close(held)
    finally:
        run("losetup", "-d", loop)


# ntfs-3g answers only who has room for all of it, which os.getxattr tries to do without.
SHOW_ACL = """python3 -c 'import ctypes, sys
room = ctypes.create_string_buffer(65536)
for name in sys.argv[1:]:
    size = ctypes.CDLL(None).getxattr(name.encode(), b"system.ntfs_acl", room, 65536)
    print(name, room.raw[:size].hex())' """
ADMINISTRATORS, SYSTEM = "1-5-32-544", "1-5-18"
FILE_READ, FILE_WRITE = 0x1, 0x2 | 0x4 | 0x10 | 0x40 | 0x100 | 0x10000 | 0x40000 | 0x80000


@test("what is put into the guest can be written by its administrators alone, and what is kept read by nobody else")
def _(folder):
    disk = mbr_disk(Windows(folder, 9600, "Windows 8.1", winload="winload.exe"))
    done(disk)
    names = ("Windows/System32/kdcom.dll", "Windows/System32/drivers/vmkd.sys", "Windows/vmkd", "Windows/vmkd/setup.txt", "Windows/vmkd/4.saved")
    shown = []
    change_volume(disk, 1, lambda part: shown.extend(in_ntfs(part, f'cd "$2" && {SHOW_ACL} {" ".join(names)}', folder).decode().splitlines()))
    expect(len(shown) == len(names), shown)
    for line in shown:
        name, descriptor = line.split()
        rights = rights_of(bytes.fromhex(descriptor))
        for sid, mask in rights.items():
            if sid not in (ADMINISTRATORS, SYSTEM):
                expect(not mask & FILE_WRITE, f"{name}: {sid} may write it: {mask:#x}")
                expect("/vmkd/" not in name or not mask & FILE_READ, f"{name}: {sid} may read it: {mask:#x}")
        expect(rights.get(ADMINISTRATORS, 0) & FILE_WRITE and rights.get(SYSTEM, 0) & FILE_READ, f"{name}: {rights}")


# ---- Undo after somebody has changed things ------------------------------------------------------------------

def change_volume(disk, number, change):
    """Replaces volume `number` of a raw disk by what change(file) makes of it."""
    volume = disk.volumes[number - 1]
    part = disk.path.with_suffix(".change")
    run("dd", f"if={disk.path}", f"of={part}", "bs=1M", f"skip={disk.offsets[number - 1] // MIB}", f"count={volume.stat().st_size // MIB}")
    change(part)
    run("dd", f"if={part}", f"of={disk.path}", "bs=1M", f"seek={disk.offsets[number - 1] // MIB}", "conv=notrunc")
    part.unlink()


@test("undo after Windows has changed BCD, SYSTEM and kdcom.dll: what is ours goes, what is new stays")
def _(folder):
    disk = gpt_disk(Windows(folder), qcow2=False)
    before = disk.files()
    done(disk, "--default")
    after = disk.files()

    def change_bcd(part):
        (folder / "BCD").write_bytes(after[f"1/{EFI_BCD}"])
        edit_hive(folder / "BCD", f"cd \\Objects\\{RESUME_ELEMENTS}\nadd 26000006\ncd 26000006\nsetval 1\nElement\nhex:3:01")
        run("mcopy", "-o", "-i", part, folder / "BCD", f"::/{EFI_BCD}")

    def change_windows(part):
        (folder / "SYSTEM").write_bytes(after[f"3/{CONFIG}/SYSTEM"])
        edit_hive(folder / "SYSTEM", "cd \\ControlSet001\\Services\nadd newcomer\ncd \\\nadd ControlSet002\ncd ControlSet002\nadd Services\ncd Services\nadd vmkd")
        add_to_ntfs(part, {f"{CONFIG}/SYSTEM": (folder / "SYSTEM").read_bytes(), "Windows/System32/kdcom.dll": b"a newer kdcom", "Windows/new.txt": b"new"})
    change_volume(disk, 1, change_bcd)
    change_volume(disk, 3, change_windows)
    said = done(disk, "--undo")
    expect(said.count("it was changed since") == 2 and "Windows has put a new one there" in said, said)
    now = disk.files()
    equal({k for k in set(now) ^ set(before)}, {"3/Windows/new.txt"}, "the list of files")
    expect(now["3/Windows/System32/kdcom.dll"] == b"a newer kdcom", "the new kdcom.dll")
    (folder / "now").write_bytes(now[f"1/{EFI_BCD}"])
    (folder / "old").write_bytes(before[f"1/{EFI_BCD}"])
    keys, old = read_hive(folder / "now"), read_hive(folder / "old")
    equal(keys.pop(f"Objects\\{RESUME_ELEMENTS}\\26000006"), {"Element": ON}, "what Windows added")
    equal(keys, old, "the BCD without it")
    (folder / "now").write_bytes(now[f"3/{CONFIG}/SYSTEM"])
    keys = read_hive(folder / "now")
    expect("ControlSet001\\Services\\newcomer" in keys and not [k for k in keys if "vmkd" in k], f"SYSTEM: {[k for k in keys if 'vmkd' in k]}")


@test("undo while a hive's log is pending or its sequence numbers differ: refused before anything is undone")
def _(folder):
    disk = mbr_disk(Windows(folder, 9600, "Windows 8.1", winload="winload.exe"))
    before = disk.files()
    done(disk)
    system = disk.files()[f"1/{CONFIG}/SYSTEM"]
    (folder / "SYSTEM.good").write_bytes(system)
    change_volume(disk, 1, lambda part: add_to_ntfs(part, {f"{CONFIG}/SYSTEM.LOG1": log_of(system, newer_by=1)}))
    after = disk.files()
    for pattern in ("SYSTEM: its log holds changes", "SYSTEM: its sequence numbers differ"):
        result = setup(disk, "--undo")
        expect(result.returncode == 1 and pattern in result.stderr, f"{result.returncode}: {result.stderr}")
        equal(disk.files(), after, "files after a refused undo")
        (folder / "SYSTEM").write_bytes(system)
        touch_header(folder / "SYSTEM", sequence1=77)
        change_volume(disk, 1, lambda part: add_to_ntfs(part, {f"{CONFIG}/SYSTEM": (folder / "SYSTEM").read_bytes()}))
        after = disk.files()
    change_volume(disk, 1, lambda part: in_ntfs(part, f'rm "$2/{CONFIG}/SYSTEM.LOG1"; cp SYSTEM.good "$2/{CONFIG}/SYSTEM"', folder))
    done(disk, "--undo")
    equal(disk.files(), before, "files after undo")


@test("undo without the original kdcom.dll: ours stays, as Windows does not start without one; with it back, all is undone")
def _(folder):
    disk = mbr_disk(Windows(folder, 9600, "Windows 8.1", winload="winload.exe"))
    before = disk.files()
    done(disk)
    kept = "Windows/System32/kdcom_vmkd_original.dll"
    change_volume(disk, 1, lambda part: in_ntfs(part, f'rm "$2/{kept}"', folder))
    result = setup(disk, "--undo")
    expect(result.returncode == 1 and "is gone" in result.stderr, f"{result.returncode}: {result.stderr}")
    expect(disk.files()["1/Windows/System32/kdcom.dll"] == ours("kdvmkd.dll"), "a Windows without kdcom.dll")
    change_volume(disk, 1, lambda part: add_to_ntfs(part, {kept: KDCOM}))
    done(disk, "--undo")
    equal(disk.files(), before, "files after undo")


RESUME_ELEMENTS = "{5b0a1c4e-2222-4222-8333-0123456789ab}\\Elements"


@test("undo with a boot.ini that was edited since: only our line goes")
def _(folder):
    disk = mbr_disk(Windows(folder, 2600, "Microsoft Windows XP", machine=0x14c))
    done(disk)
    edited = disk.files()["1/boot.ini"].replace(b"timeout=30", b"timeout=5")
    change_volume(disk, 1, lambda part: add_to_ntfs(part, {"boot.ini": edited}))
    done(disk, "--undo")
    equal(disk.files()["1/boot.ini"], BOOT_INI.replace(b"timeout=30", b"timeout=5"), "boot.ini")


@test("a boot entry of a hundred elements that each have the same two hundred keys is refused")
def _(folder):
    windows = Windows(folder)
    for guid, count in ((LOADER, 100), (RESUME, 200)):
        more = "".join(f"\nadd 2600{number:04x}" for number in range(0x1000, 0x1000 + count))
        edit_hive(folder / "BCD", f"cd \\Objects\\{guid}\\Elements{more}")
    windows.bcd = with_shared_keys((folder / "BCD").read_bytes(), LOADER, RESUME)
    refused(gpt_disk(windows), "more than 1024 keys")


@test("a journal that makes no sense is refused, and leads nowhere outside of the volume")
def _(folder):
    for text, pattern in ((b"rubbish\r\n", "line 1 of the journal"), (b"vmkd setup 1\r\nvolume b 1\r\nvolume w 2\r\n", "not where they were"),
                          (b"vmkd setup 1\r\nvolume b 1048576\r\nvolume w %d\r\ncreate w 1 0 ../../../etc/passwd\r\n", "Invalid argument|nothing"),
                          (b"vmkd setup 1\r\nvolume b 1048576\r\nvolume w %d\r\nreplace bcd b 1 1 0 /etc/passwd\r\n", "Invalid argument|etc/passwd"),
                          (b"vmkd setup 1\r\nvolume b 1048576\r\nvolume w %d\r\nrename w ../x Windows/System32/kdcom.dll\r\n", "line 4")):
        windows = Windows(folder)
        windows.files["Windows/vmkd/setup.txt"] = text.replace(b"%d", str(42 * MIB).encode())
        disk = gpt_disk(windows)
        before = disk.files()
        result = setup(disk, "--undo")
        expect(os.path.exists("/etc/passwd"), "it left the volume")
        if result.returncode:
            expect(re.search(pattern, result.stderr), f"{text}: {result.stderr}")
        equal({k: v for k, v in disk.files().items() if "/vmkd" not in k}, {k: v for k, v in before.items() if "/vmkd" not in k}, f"files after {text}")


# ---- Interrupted ---------------------------------------------------------------------------------------------

def words_of(place):
    try:
        return (place / "cmdline").read_bytes()
    except OSError:
        return b""


def is_of(process, place):
    """Does /proc/N belong to this `vmkd setup`: itself, what watches over it, a program in its sandbox?"""
    words = words_of(place)
    return f"vmkd-setup-{process.pid}-".encode() in words or str(process.args[-1]).encode() in words


def programs_of(process):
    return [words_of(place).replace(b"\0", b" ").decode(errors="replace") for place in Path("/proc").glob("[0-9]*") if is_of(process, place)]


def journal_lines(process):
    """How many lines its journal has at this moment: seen through its mount namespace."""
    for path in Path(f"/proc/{process.pid}/root/tmp").glob("vmkd-setup-*-*/p*-mounted/Windows/vmkd/setup.txt"):
        return len(path.read_bytes().splitlines())
    return 0


def interrupt(disk, options, number, is_time):
    """Sends a signal as soon as is_time(process) says so. It is stopped while that looks, so that nothing is missed on a busy machine."""
    process = subprocess.Popen([VMKD, "setup", *options, disk.path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        try:
            if is_time(process):
                break
        except OSError:
            pass  # it is just mounting or unmounting
        process.send_signal(signal.SIGCONT)
        time.sleep(0.0003)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=GUARD_S)
    wait_for("the end of its programs", lambda: not programs_of(process))
    nothing_left()
    return process.returncode, said


def after(seconds):
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() > end


def how_long(disk):
    start = time.monotonic()
    done(disk)
    middle = time.monotonic()
    done(disk, "--undo")
    return middle - start, time.monotonic() - middle


@test("Ctrl-C and SIGTERM at any moment: all of it or nothing, and nothing keeps running")
def _(folder):
    disk = gpt_disk(Windows(folder))
    before = disk.files()
    whole, _ = how_long(disk)
    moments = [after(random.random() * whole) for _ in range(40 if LONG else 6)]
    moments += [lambda process, n=n: journal_lines(process) >= n for n in (1, 3, 5, 7, 9)]
    rolled_back = 0
    for turn, moment in enumerate(moments):
        status, said = interrupt(disk, [], (signal.SIGINT, signal.SIGTERM)[turn % 2], moment)
        rolled_back += "everything was put back: interrupted" in said
        now = disk.files()
        if now != before:
            expect(now.get("3/Windows/vmkd/setup.txt", b"").endswith(b"done\r\n"), f"half a set-up after {status} {said}")
            done(disk, "--undo")
            equal(disk.files(), before, "files after undo")
    print(f"  put back {rolled_back} times")
    expect(rolled_back > 0, "no signal came in the middle of the change")


@test("killed at any moment: --undo brings back every file, also when that is killed, too")
def _(folder):
    disk = gpt_disk(Windows(folder))
    before = disk.files()
    whole, back = how_long(disk)
    reached = set()
    moments = [lambda process, n=n: journal_lines(process) >= n for n in range(1, 12)] * (5 if LONG else 1)
    moments += [after(random.random() * whole) for _ in range(40 if LONG else 4)]
    for moment in moments:
        interrupt(disk, [], signal.SIGKILL, moment)
        reached.add(len(disk.files().get("3/Windows/vmkd/setup.txt", b"").splitlines()))
        interrupt(disk, ["--undo"], signal.SIGKILL, after(random.random() * back))
        result = setup(disk, "--undo")
        expect(result.returncode == 0 or "nothing to undo" in result.stderr, result.stderr)
        equal(disk.files(), before, "files after undo")
    print(f"  lines of the journal when it was killed: {sorted(reached)}")
    expect(len(reached) > 4, "it was always killed at the same place")
    run("qemu-img", "check", disk.path)


# ---- The command line ----------------------------------------------------------------------------------------

@test("wrong usage: status 2 and how to use it")
def _(folder):
    for words in ([], ["a", "b"], ["--what", "a"], ["--undo", "--default", "a"]):
        result = subprocess.run([VMKD, "setup", *words], capture_output=True, text=True, timeout=GUARD_S)
        expect(result.returncode == 2 and "usage: vmkd setup" in result.stderr, f"{words}: {result.stderr}")


def main():
    words = [w for w in sys.argv[1:] if w != "--long"]
    if os.geteuid() != 0:
        REPORT.skip("vmkd setup", "needs root, which mounts volumes")
        REPORT.finish()
        return SKIPPED
    for title, function in TESTS:
        if words and not any(word in title for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="vmkd-disks-", dir=SCRATCH) as folder:
            try:
                function(Path(folder))
                REPORT.ok(title)
            except Exception as why:
                if not isinstance(why, AssertionError):
                    traceback.print_exc()
                REPORT.fail(title, str(why))
    return REPORT.finish()


if __name__ == "__main__":
    sys.exit(main())
