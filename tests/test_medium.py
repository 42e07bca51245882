#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""install.cmd, uninstall.cmd and status.cmd of the guest medium, under Wine's cmd. tests/test_medium.py [--long] [--only NAME] [--part NAME]

Each Windows generation is a folder with the tools that it has (tests/medium_stub.c plays all of them, in a language that nobody
knows) and a state that they keep. What is held against each other is everything: that state, and every file's bytes.

Cut short at any point: the script runs once with a stop before each of its lines; at each stop everything is written down. Each
different situation is then put in place and uninstall.cmd must make of it what there was before. Nothing here is a real Windows."""
import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report import Report  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("VMKD_BUILD", ROOT / "build")).resolve()
MEDIUM = BUILD / "guest" / "medium"
STUB = BUILD / "tests" / "medium-stub.exe"
SKIPPED = 77
HANG_GUARD_S = 300

BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
WINDOWS = "{1f2e3d4c-0000-11ee-9abc-00155d012345}"
OTHER = "{a1b2c3d4-1111-11ee-9abc-00155d012345}"
VERSION = r"reg/HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion/CurrentBuildNumber"
SECURE_BOOT = r"reg/HKLM\SYSTEM\CurrentControlSet\Control\SecureBoot\State/UEFISecureBootEnabled"
ADMIN = r"reg/HKU\S-1-5-19/x"
EVENTS = r"reg/HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd/"
BOOT_INI = (b"[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n\r\n; mine! 100% <^> & more\r\n"
            b"[operating systems]\r\n"
            b"multi(0)disk(0)rdisk(0)partition(2)\\WINDOWS=\"Another, not ours\" /fastdetect\r\n"
            b"multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS=\"Home! & (Work) 100% ^<x>\" /noexecute=optin /fastdetect /debugport=com1\r\n"
            b"C:\\CMDCONS\\BOOTSECT.DAT=\"Recovery! Console\" /cmdcons\r\n")
OURS = (b"multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS=\"vmkd debugging\" /DEBUG /DEBUGPORT=vmkd /noexecute=optin /fastdetect"
        b" /debugport=com1\r\n")
EVERYWHERE = ["reg", "sc", "attrib", "find", "fc"]


MENU = ("/default", "/timeout", "5")


class Generation:
    """options: what its round trip says to install.cmd."""

    def __init__(self, name, build, arch, way, tools=(), options=()):
        self.name, self.build, self.arch, self.way = name, build, arch, way
        self.tools, self.options = EVERYWHERE + list(tools), options


GENERATIONS = [
    Generation("XP", 2600, "x86", "bootini"),
    Generation("2003 x64", 3790, "x64", "bootini", ["certutil"], MENU),
    Generation("Vista", 6002, "x86", "dbgtransport", ["bcdedit", "certutil", "takeown", "icacls"], MENU),
    Generation("7", 7601, "x64", "dbgtransport", ["bcdedit", "certutil", "takeown", "icacls", "manage-bde"]),
    Generation("8", 9200, "x86", "kdcom", ["bcdedit", "certutil", "takeown", "icacls", "manage-bde"]),
    Generation("10", 19045, "x64", "kdcom", ["bcdedit", "certutil", "takeown", "icacls", "manage-bde"], MENU),
    Generation("11", 22631, "x64", "kdcom", ["bcdedit", "certutil", "takeown", "icacls", "manage-bde"]),
]


def seconds(value):
    """A BCD integer as the registry has it."""
    return value.to_bytes(8, "little").hex()


class Guest:
    """One Windows: drive G:, its tools and their state. The scripts come from drive M:, the medium."""

    def __init__(self, wine, generation):
        self.wine, self.generation = wine, generation
        self.root = Path(tempfile.mkdtemp(prefix="vmkd-medium-"))
        self.drive, self.stub = self.root / "drive", self.root / "stub"
        system32 = self.drive / "WINDOWS" / "System32"
        (system32 / "drivers").mkdir(parents=True)
        self.stub.mkdir()
        self.tools = {Path("WINDOWS/System32") / f"{tool}.exe" for tool in generation.tools}
        for tool in self.tools:
            os.link(self.wine.stub, self.drive / tool)
        self.tools.add(Path("WINDOWS/System32/cmd.exe"))
        shutil.copy(self.wine.prefix / "drive_c/windows/system32/cmd.exe", system32)  # what FOR /F and pipes start
        (system32 / "kdcom.dll").write_bytes(b"Microsoft's kdcom.dll\r\n")
        store = self.drive / "WINDOWS" / "WinSxS"
        store.mkdir()
        os.link(system32 / "kdcom.dll", store / "kdcom.dll")
        if generation.way == "bootini":
            (self.drive / "boot.ini").write_bytes(BOOT_INI)
        self.write_state(self.first_state())

    def first_state(self):
        state = {"build": str(self.generation.build), VERSION: f"REG_SZ {self.generation.build}", ADMIN: "REG_SZ x",
                 r"reg/HKLM\SYSTEM\CurrentControlSet\Control/SystemStartOptions": "REG_SZ  NOEXECUTE=OPTIN"}
        if self.generation.way == "bootini":
            return state | {"attr/G:\\boot.ini": "ASHR",
                            r"reg/HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup/BootDir": "REG_SZ G:\\",
                            r"reg/HKLM\SYSTEM\CurrentControlSet\Control/SystemBootDevice": "REG_SZ multi(0)disk(0)rdisk(0)partition(1)"}
        bcd = {"bcd.current": WINDOWS, f"bcd/{BOOTMGR}/type": "10100002", f"bcd/{BOOTMGR}/23000003": OTHER,
               f"bcd/{BOOTMGR}/24000001": f"{WINDOWS} {OTHER}", f"bcd/{BOOTMGR}/25000004": seconds(30)}
        for guid, name in ((WINDOWS, "Windows! & \"more\""), (OTHER, "Rescue")):
            bcd |= {f"bcd/{guid}/type": "10200003", f"bcd/{guid}/12000004": name, f"bcd/{guid}/22000002": r"\Windows\system32\winload.exe",
                    f"bcd/{guid}/23000003": "{deadbeef-2222-11ee-9abc-00155d012345}"}
        return state | bcd | ({SECURE_BOOT: "REG_DWORD 0x0"} if self.generation.build >= 9200 else {})

    def write_state(self, state):
        (self.stub / "state.txt").write_text("".join(f"{k}={v}\n" for k, v in state.items()))

    def state(self):
        return dict(line.split("=", 1) for line in (self.stub / "state.txt").read_text().splitlines())

    def change(self, **settings):
        """Settings of the stub, or with a dict as `also` any keys; None takes a key away."""
        also = settings.pop("also", {})
        state = self.state() | {k.replace("_", "-"): v for k, v in settings.items()} | also
        self.write_state({k: v for k, v in state.items() if v is not None})

    def situation(self):
        """Everything: the state of the tools, every file's bytes, every folder."""
        files = {}
        for path in sorted(self.drive.rglob("*")):
            name = path.relative_to(self.drive)
            if name not in self.tools:
                files[str(name)] = path.read_bytes() if path.is_file() else None
        return self.state(), files

    def restore(self, situation):
        state, files = situation
        for path in sorted(self.drive.rglob("*"), reverse=True):
            if path.relative_to(self.drive) not in self.tools:
                if path.is_dir():
                    if not any(path.iterdir()):
                        path.rmdir()
                else:
                    path.unlink()
        for name, data in files.items():
            if data is None:
                (self.drive / name).mkdir(exist_ok=True)
            else:
                (self.drive / name).write_bytes(data)
        self.write_state(state)

    def calls(self):
        path = self.stub / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, script, *args, fail=None, at_stop=None, environment=()):
        """Runs a script of the medium. -> exit status, output. at_stop: called before each of its lines."""
        self.wine.drives(g=self.drive, s=self.stub)
        (self.stub / "calls.txt").unlink(missing_ok=True)
        (self.stub / "tick").unlink(missing_ok=True)
        machine = {"x64": "AMD64", "x86": "x86"}[self.generation.arch]
        lines = ["@echo off", r"set SystemRoot=G:\WINDOWS", "set SystemDrive=G:", f"set PROCESSOR_ARCHITECTURE={machine}",
                 "set PROCESSOR_ARCHITEW6432=", "set VMKD_STUB=S:", f"set VMKD_STUB_FAIL={fail or ''}", *environment,
                 f"{'T' if at_stop else 'M'}:\\{script} {' '.join(args)}"]
        (self.stub / "run.cmd").write_bytes("".join(l + "\r\n" for l in lines).encode())
        return self.wine.run(r"S:\run.cmd", self.stub / "tick", at_stop)

    def remove(self):
        shutil.rmtree(self.root)


class WineSlipped(Exception):
    """Under load Wine's cmd now and then cannot start a program that is there (seen: once in some thousand starts)."""


class Wine:
    """A Wine prefix of the test's own, in the build folder so that it is made once. One test at a time: the drive letters are in it."""

    def __init__(self, scratch):
        self.prefix = BUILD / "tests" / "medium-wine"
        self.lock = open(BUILD / "tests" / "medium-wine.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.stub = scratch / "stub.exe"
        shutil.copy(STUB, self.stub)
        self.env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "WINEPREFIX": str(self.prefix), "WINEDEBUG": "-all", "HOME": str(scratch),
                    "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=", "LC_ALL": "C.UTF-8"}
        if not (self.prefix / "system.reg").exists():
            subprocess.run(["wine", "wineboot", "-i"], env=self.env, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=HANG_GUARD_S)
        medium, stops = scratch / "medium", scratch / "stops"
        shutil.copytree(MEDIUM, medium)
        shutil.copytree(MEDIUM, stops)
        for script in stops.glob("*.cmd"):
            script.write_bytes(with_stops(script.read_bytes()))
        self.medium = medium
        self.drives(m=medium, t=stops)

    def drives(self, **letters):
        for letter, folder in letters.items():
            link = self.prefix / "dosdevices" / f"{letter}:"
            link.unlink(missing_ok=True)
            link.symlink_to(folder)

    def run(self, script, tick, at_stop):
        process = subprocess.Popen(["wine", "cmd", "/c", script], env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        if at_stop:
            while process.poll() is None:
                if tick.exists():
                    at_stop()
                    tick.unlink()
                time.sleep(0.001)
        output = process.communicate(timeout=HANG_GUARD_S)[0].decode(errors="replace")
        if re.search(r"Can't recognize '(bcdedit|sc|certutil|icacls|takeown|reg|find|fc|attrib) ", output):
            raise WineSlipped(output)
        return process.returncode, output

    def end(self):
        subprocess.run(["wineserver", "-k"], env=self.env, check=False)


def with_stops(script):
    """The script with a stop before each line that does something."""
    lines = []
    begun = False
    for line in script.decode().split("\r\n"):
        word = line.strip().split(" ")[0].lower()
        if begun and word and word not in ("rem", ")") and word[0] not in ":)" and "%errorlevel%" not in line:
            lines.append("call :stop_here")
        begun |= word == "cd"
        lines.append(line)
    lines += [":stop_here", r"echo x>S:\tick", ":stopped", r"if exist S:\tick goto :stopped", "exit /b 0", ""]
    return "\r\n".join(lines).encode()


def difference(now, before):
    """"" or what differs between two situations."""
    text = []
    for a, b in zip(now, before):
        for key in sorted(set(a) | set(b)):
            if a.get(key, "absent") != b.get(key, "absent"):
                text.append(f"{key}: {a.get(key, 'absent')!r}, before {b.get(key, 'absent')!r}")
    return "; ".join(text)


# ---- What an installation is ------------------------------------------------------------------------------------------

def medium_file(generation, name):
    return (MEDIUM / generation.arch / name).read_bytes()


def expected_entry(generation, source):
    """The elements of the copied boot entry. The same table as docs/guest.md."""
    elements = dict(source) | {"12000004": "vmkd debugging", "260000a0": "01", "16000049": "01", "26000027": "01",
                               "22000013": "kdvmkd.dll" if generation.way == "dbgtransport" else "kdcom.dll"}
    if generation.build >= 9200:
        elements |= {"250000c2": seconds(0), "16000009": "00", "15000011": seconds(0), "12000019": ""}
    if generation.build >= 22000:
        elements |= {"16000048": "01"}
    return elements


def elements_of(state, guid):
    prefix = f"bcd/{guid}/"
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def added_entry(state, before):
    return next((k.split("/")[1] for k in state if k.endswith("/type") and k not in before), None)


def expected(generation, before, state):
    """The situation after install.cmd, except for the journal; None without a new boot entry where one belongs."""
    want, files = dict(before[0]), dict(before[1])
    want |= {"svc/vmkd": "binPath=\\SystemRoot\\System32\\drivers\\vmkd.sys type=kernel start=demand error=normal "
                         "DisplayName=vmkd kernel debugging transport ",
             EVENTS + "EventMessageFile": r"REG_EXPAND_SZ %SystemRoot%\System32\drivers\vmkd.sys", EVENTS + "TypesSupported": "REG_DWORD 7"}
    files |= {"WINDOWS/System32/drivers/vmkd.sys": medium_file(generation, "vmkd.sys"), "WINDOWS/vmkd": None}
    if generation.way == "bootini":
        # With /default our line comes first, else behind the one it was copied from.
        text = BOOT_INI.replace(b"timeout=30", b"timeout=5") if generation.options else BOOT_INI
        at = text.index(b"multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS=\"" if generation.options else b"C:\\CMDCONS")
        files |= {"boot.ini": text[:at] + OURS + text[at:], "WINDOWS/System32/kdvmkd.dll": medium_file(generation, "kdvmkd.dll")}
        return want, files
    thumbprint = (MEDIUM / "vmkd-test.id").read_text().strip()
    want |= {f"cert/{store}/{thumbprint}": "1" for store in ("Root", "TrustedPublisher")}
    guid = added_entry(state, before[0])
    if not guid:
        return None
    entry = expected_entry(generation, elements_of(before[0], WINDOWS))
    want |= {f"bcd/{guid}/{k}": v for k, v in entry.items()} | {f"bcd/{BOOTMGR}/24000001": f"{WINDOWS} {OTHER} {guid}"}
    if generation.options:
        want |= {f"bcd/{BOOTMGR}/23000003": guid, f"bcd/{BOOTMGR}/25000004": seconds(5)}
    if generation.way == "dbgtransport":
        return want, files | {"WINDOWS/System32/kdvmkd.dll": medium_file(generation, "kdvmkd.dll")}
    original = "WINDOWS/System32/kdcom.dll"
    files |= {"WINDOWS/System32/kdcom_vmkd_original.dll": files[original], original: medium_file(generation, "kdvmkd.dll")}
    for key in ("owner", "acl"):  # of the original, wherever its name is now
        mark = next((k for k in state if k.startswith(key + "/")), None)
        want |= {mark: {"owner": "S-1-5-32-544", "acl": "stock+*S-1-5-32-544:F"}[key]}
    return want, files


def without_keepsakes(situation):
    """A situation without what is kept for the undo."""
    state, files = situation
    return state, {k: v for k, v in files.items() if not k.startswith("WINDOWS/vmkd/")}


# ---- The tests ----------------------------------------------------------------------------------------------------------

def round_trip(report, guest):
    name, before = guest.generation.name, guest.situation()
    inode = (guest.drive / "WINDOWS/System32/kdcom.dll").stat().st_ino
    status, output = guest.run("install.cmd", *guest.generation.options)
    installed = guest.situation()
    want = expected(guest.generation, before, installed[0])
    wrong = "no boot entry was made" if want is None else difference(without_keepsakes(installed), want)
    report.check(f"{name}: installed as specified {' '.join(guest.generation.options)}", status == 0 and not wrong, f"status {status}; {wrong}; it said: {output}")
    texts = {"bootini": "boot menu", "dbgtransport": "test signing", "kdcom": "shutdown /s /t 0"}
    said = texts[guest.generation.way] in output and ("F8" in output) == (guest.generation.way == "kdcom") and ("4 GiB" in output) == (guest.generation.build >= 22000)
    report.check(f"{name}: the user is told what to do at the next start", said, output)
    status, output = guest.run("install.cmd", "/default", "/timeout", "3")
    wrong = difference(guest.situation(), installed)
    report.check(f"{name}: a second time nothing changes", status == 0 and not wrong, f"status {status}; {wrong}; it said: {output}")
    status, output = guest.run("uninstall.cmd")
    wrong = difference(guest.situation(), before)
    report.check(f"{name}: undone to the byte", status == 0 and not wrong, f"status {status}; {wrong}; it said: {output}")
    report.check(f"{name}: kdcom.dll is the same file as ever, not a copy",
                 (guest.drive / "WINDOWS/System32/kdcom.dll").stat().st_ino == inode)


def what_status_says(report, guest):
    """status.cmd of a Windows with and without, and with each piece missing."""
    name, before = guest.generation.name, guest.situation()
    status, output = guest.run("status.cmd")
    report.check(f"{name}: status.cmd says that there is nothing", status == 1 and "not installed" in output, output)
    guest.run("install.cmd")
    installed = guest.situation()
    status, output = guest.run("status.cmd")
    report.check(f"{name}: status.cmd finds it complete", status == 0 and "WRONG" not in output and guest.situation() == installed,
                 f"status {status}: {output}")
    state, files = installed
    unseen = []
    for key in [k for k in state if k.startswith("svc/") or (k.endswith("/type") and k not in before[0])]:
        prefix = key.removesuffix("/type")
        guest.restore(({k: v for k, v in state.items() if not k.startswith(prefix)}, files))
        if guest.run("status.cmd")[0] != 2:
            unseen.append(key)
    for file in ("WINDOWS/System32/drivers/vmkd.sys", {"bootini": "boot.ini"}.get(guest.generation.way, "WINDOWS/vmkd/journal.txt")):
        data = {"boot.ini": BOOT_INI, "WINDOWS/vmkd/journal.txt": b"keep*-*-*end\r\n"}.get(file)
        guest.restore((state, {k: v for k, v in files.items() if k != file} | ({file: data} if data else {})))
        if guest.run("status.cmd")[0] != 2:
            unseen.append(file)
    report.check(f"{name}: status.cmd sees what is missing", not unseen, f"{unseen}")
    guest.restore(before)
    status, output = guest.run("uninstall.cmd")
    report.check(f"{name}: nothing to undo is no failure", status == 0 and guest.situation() == before, output)


def driver_only(report, guest):
    before = guest.situation()
    status, output = guest.run("install.cmd", "/driver")
    state, files = guest.situation()
    new = {k for k in files if k not in before[1]}
    right = new == {"WINDOWS/System32/drivers/vmkd.sys", "WINDOWS/vmkd", "WINDOWS/vmkd/journal.txt"} and not added_entry(state, before[0])
    report.check(f"{guest.generation.name}: /driver brings the driver alone", status == 0 and right and "svc/vmkd" in state, f"{new} {output}")
    status, output = guest.run("uninstall.cmd")
    report.check(f"{guest.generation.name}: /driver is undone", status == 0 and not difference(guest.situation(), before), output)


def refused(report, guest, why, says, *args, environment=(), status=1, **settings):
    """install.cmd must not change anything in such a machine, and say why."""
    before = guest.situation()
    guest.change(**settings)
    changed = guest.situation()
    got, output = guest.run("install.cmd", *args, environment=environment)
    wrong = difference(guest.situation(), changed)
    report.check(f"{guest.generation.name}: refused: {why}", got == status and says in output and not wrong,
                 f"status {got}, {wrong}, it said: {output}")
    guest.restore(before)


def refusals(report, by_way):
    xp, seven, ten = by_way["bootini"], by_way["dbgtransport"], by_way["kdcom"]
    refused(report, ten, "no administrator", "administrator", also={ADMIN: None})
    refused(report, ten, "Secure Boot is on", "Secure Boot", also={SECURE_BOOT: "REG_DWORD 0x1"})
    refused(report, ten, "BitLocker, without the word for it", "BitLocker", bitlocker="1")
    refused(report, ten, "a 32-bit cmd", "32-bit cmd", environment=["set PROCESSOR_ARCHITEW6432=AMD64"])
    refused(report, ten, "ARM64", "ARM64", environment=["set PROCESSOR_ARCHITECTURE=ARM64"])
    refused(report, ten, "a folder with a blank", "blank", environment=[r"set SystemRoot=G:\WINDOWS 1"])
    refused(report, ten, "the entry in use has debugging on", "debugging on", also={f"bcd/{WINDOWS}/260000a0": "01"})
    refused(report, ten, "a service of that name", "service", also={"svc/vmkd": "x"})
    refused(report, ten, "an entry of that name", "vmkd debugging", also={f"bcd/{OTHER}/12000004": "vmkd debugging"})
    refused(report, ten, "an unknown build", "build", also={VERSION: "REG_SZ 8102"})
    refused(report, ten, "no build at all", "build", also={VERSION: None})
    refused(report, ten, "Windows 2000", "build", also={VERSION: "REG_SZ 2195"})
    for wrong in ("-1", "1000", "010", "5+5", ""):
        refused(report, ten, f"/timeout {wrong}", "/timeout wants", "/timeout", wrong)
    refused(report, ten, "an unknown option", "usage", "/quick")
    refused(report, ten, "the menu's time cannot be read", "cannot be read", "/timeout", "5", also={f"bcd/{BOOTMGR}/type": None})
    for guest, name in ((ten, "kdcom_vmkd_original.dll"), (seven, "kdvmkd.dll"), (seven, "drivers/vmkd.sys")):
        path = guest.drive / "WINDOWS" / "System32" / name
        path.write_bytes(b"somebody's")
        refused(report, guest, f"there is a {name}", path.name)
        path.unlink()
    boot_ini = xp.drive / "boot.ini"
    for why, says, text in (
            ("boot.ini has no line of ours", "no line of the form", BOOT_INI.replace(b"partition(1)", b"partition(3)")),
            ("boot.ini's line has no name", "no line of the form", BOOT_INI.replace(b"\"Home! & (Work) 100% ^<x>\"", b"Home")),
            ("boot.ini's line has too many quotes", "no line of the form", BOOT_INI.replace(b"Home! & (Work)", b"Home \" | (Work)")),
            ("boot.ini has our port", "already", BOOT_INI + OURS),
            ("boot.ini is full", "ten", BOOT_INI + b"".join(b"C:\\%d=\"x\"\r\n" % i for i in range(8)))):
        boot_ini.write_bytes(text)
        refused(report, xp, why, says)
        boot_ini.write_bytes(BOOT_INI)
    boot_ini.unlink()
    refused(report, xp, "there is no boot.ini", "not there")
    boot_ini.write_bytes(BOOT_INI)


def prepared_from_outside(report, guest):
    """A Windows with the journal of `vmkd setup`: the scripts leave it alone, and say whose it is."""
    start, keep = guest.situation(), guest.drive / "WINDOWS" / "vmkd"
    keep.mkdir()
    (keep / "setup.txt").write_bytes(b"vmkd setup 1\r\n")
    before = guest.situation()
    for script, wanted in (("install.cmd", 1), ("uninstall.cmd", 1), ("status.cmd", 0)):
        status, output = guest.run(script)
        wrong = difference(guest.situation(), before)
        report.check(f"{guest.generation.name}: {script} in a Windows that vmkd setup has prepared", status == wanted and '"vmkd setup"' in output and not wrong,
                     f"status {status}, {wrong}, it said: {output}")
    guest.restore(start)


def there_and_back(report, guest, what, *args, meanwhile=None, says=None, boot_ini=None, **settings):
    """Installs and uninstalls in a machine with these settings. meanwhile(before) does what a user does in between; -> what must be there then."""
    start = guest.situation()
    guest.change(**settings)
    if boot_ini:
        (guest.drive / "boot.ini").write_bytes(boot_ini)
    before = guest.situation()
    status, output = guest.run("install.cmd", *args)
    if meanwhile:
        before = meanwhile(before)
    status2, output2 = guest.run("uninstall.cmd")
    wrong = difference(guest.situation(), before)
    report.check(f"{guest.generation.name}: {what}", (status, status2) == (0, 0) and not wrong and (not says or says in output + output2),
                 f"{status} {status2}; {wrong}; {output} {output2}")
    guest.restore(start)


def user_in_between(report, by_way):
    xp, eleven = by_way["bootini"], by_way["kdcom"]
    theirs = {f"bcd/{BOOTMGR}/23000003": WINDOWS, f"bcd/{BOOTMGR}/25000004": seconds(12)}

    def set_menu(before):
        eleven.change(also=theirs)
        return before[0] | theirs, before[1]

    there_and_back(report, eleven, "default and time that the user changed since stay", "/default", "/timeout", "5", meanwhile=set_menu)

    line = b"multi(0)disk(0)rdisk(0)partition(4)\\WINNT=\"New\" /sos\r\n"

    def add_line(before):
        with (xp.drive / "boot.ini").open("ab") as f:
            f.write(line)
        return before[0], before[1] | {"boot.ini": BOOT_INI + line}

    there_and_back(report, xp, "lines that the user added to boot.ini since stay", meanwhile=add_line, says="changed since")
    update_in_between(report, eleven)
    original_removed(report, eleven)


def update_in_between(report, guest):
    """Windows Update brings a kdcom.dll of its own. The old file is WinSxS's alone then and keeps our ACL; nobody can know that."""
    name, new = guest.generation.name, b"a newer kdcom.dll of Microsoft's\r\n"
    before = guest.situation()
    guest.run("install.cmd")
    kdcom = guest.drive / "WINDOWS/System32/kdcom.dll"
    kdcom.with_suffix(".new").write_bytes(new)
    kdcom.with_suffix(".new").replace(kdcom)
    status, output = guest.run("status.cmd")
    report.check(f"{name}: status.cmd sees that an update replaced kdcom.dll", status == 2 and "kdcom.dll" in output, output)
    status, output = guest.run("uninstall.cmd")
    want = before[1] | {"WINDOWS/System32/kdcom.dll": new}
    report.check(f"{name}: an update's kdcom.dll stays", status == 0 and guest.situation()[1] == want, output)
    guest.restore(before)


def original_removed(report, guest):
    """Windows does not start without a kdcom.dll, so ours stays until there is another one."""
    name = guest.generation.name
    before = guest.situation()
    status, output = guest.run("install.cmd")
    if not report.check(f"{name}: install.cmd after an update", status == 0, output):
        return
    (guest.drive / "WINDOWS/System32/kdcom_vmkd_original.dll").unlink()
    status, output = guest.run("uninstall.cmd")
    kdcom = guest.drive / "WINDOWS/System32/kdcom.dll"
    report.check(f"{name}: without the original kdcom.dll ours stays, and uninstall.cmd says so",
                 status == 3 and "is gone" in output and kdcom.read_bytes() == medium_file(guest.generation, "kdvmkd.dll"), output)
    kdcom.write_bytes(b"what sfc has brought\r\n")
    status, output = guest.run("uninstall.cmd")
    want = before[1] | {"WINDOWS/System32/kdcom.dll": b"what sfc has brought\r\n"}
    report.check(f"{name}: with a kdcom.dll of Windows' again all is undone", status == 0 and guest.situation()[1] == want, output)
    guest.restore(before)


def peculiarities(report, by_way):
    """Machines that differ from the ordinary."""
    xp, eleven = by_way["bootini"], by_way["kdcom"]
    there_and_back(report, eleven, "the new entry's GUID comes first in bcdedit's sentence; it takes no empty strings", guid_first="1", picky="1",
                   says="going on without")
    there_and_back(report, eleven, "the boot menu had no time of its own; BitLocker, with the word for it", "/bitlocker", "/timeout", "7", bitlocker="1",
                   also={f"bcd/{BOOTMGR}/25000004": None})
    there_and_back(report, xp, "a boot.ini without attributes and last line end, no BootDir in the registry", boot_ini=BOOT_INI.rstrip(b"\r\n"),
                   also={"attr/G:\\boot.ini": None, r"reg/HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup/BootDir": None})
    thumbprint = (MEDIUM / "vmkd-test.id").read_text().strip()
    there_and_back(report, eleven, "a certificate that was there before stays; no Secure Boot key at all", also={f"cert/Root/{thumbprint}": "1", SECURE_BOOT: None})


def torn_journal(report, guest):
    """The last line of the journal in some of its lengths: its change was never begun. Each of these would hurt."""
    start = guest.situation()
    guest.change(also={f"cert/Root/{'0' * 40}": "1"})
    before = guest.situation()
    wrong = []
    for line in (f"entry*{OTHER}*-*end", f"cert*Root*{'0' * 40}*end", "file*System32\\kdcom.dll*-*end"):
        for cut in (len(line) - 1, len(line) - 3, len(line) - 5):
            (guest.drive / "WINDOWS/vmkd").mkdir(exist_ok=True)
            (guest.drive / "WINDOWS/vmkd/journal.txt").write_bytes(b"keep*-*-*end\r\n" + line[:cut].encode())
            guest.run("uninstall.cmd")
            if guest.situation() != before:
                wrong.append(f"{line[:cut]}: {difference(guest.situation(), before)}")
                guest.restore(before)
    report.check(f"{guest.generation.name}: a torn last line of the journal undoes nothing", not wrong, f"{wrong}")
    guest.restore(start)


def stops(guest, script, *args):
    """Runs the script; all different situations before its lines, in order, and the last one."""
    seen = []

    def look():
        situation = guest.situation()
        if situation not in seen:
            seen.append(situation)

    status, output = guest.run(script, *args, at_stop=look)
    look()
    if status:
        raise RuntimeError(f"{script} with stops: status {status}: {output}")
    return seen


def cut_short(report, guest, *args, every=1):
    """install.cmd, and then uninstall.cmd, cut short in each situation there is; then uninstall.cmd."""
    name, before = guest.generation.name, guest.situation()
    places = stops(guest, "install.cmd", *args)
    undoing = stops(guest, "uninstall.cmd")
    report.check(f"{name}: enough places to cut it short at", len(places) > 15 and len(undoing) > 8 and places[0] == before == undoing[-1],
                 f"{len(places)} and {len(undoing)}")
    wrong = []
    for when, situations in (("install", places), ("uninstall", undoing)):
        for number, situation in list(enumerate(situations))[::every]:
            guest.restore(situation)
            status, output = guest.run("uninstall.cmd")
            if status or guest.situation() != before:
                wrong.append(f"{when} at {number}: status {status}: {difference(guest.situation(), before)}: {output}")
    guest.restore(before)
    report.check(f"{name}: install and uninstall cut short, then undone{'' if every == 1 else ', some places'}: {' '.join(args)}", not wrong,
                 f"{len(wrong)} of {len(places) + len(undoing)}: {wrong[:3]}")


def failing_tools(report, guest, *args, every=1):
    """Each call of a tool fails once: install.cmd undoes everything or has done without; uninstall.cmd never leaves anything."""
    name, before = guest.generation.name, guest.situation()
    guest.run("install.cmd", *args)
    calls = guest.calls()
    guest.run("uninstall.cmd")
    undo_calls = len(guest.calls())
    wrong = []
    for number in range(1, len(calls) + 1, every):
        status, output = guest.run("install.cmd", *args, fail=number)
        left = difference(guest.situation(), before)
        if status in (1, 2) and left or status not in (0, 1, 2, 3):
            wrong.append(f"call {number} ({calls[number - 1]}): status {status} and {left}: {output}")
        status, output = guest.run("uninstall.cmd")
        if status or guest.situation() != before:
            wrong.append(f"call {number} ({calls[number - 1]}), undone: {difference(guest.situation(), before)}: {output}")
            guest.restore(before)
    for number in range(1, undo_calls + 1, every):
        guest.run("install.cmd", *args)
        guest.run("uninstall.cmd", fail=number)
        status, output = guest.run("uninstall.cmd")
        if status or guest.situation() != before:
            wrong.append(f"undo's call {number}: {difference(guest.situation(), before)}: {output}")
            guest.restore(before)
    report.check(f"{name}: every tool fails once{'' if every == 1 else ', some of them'}", not wrong, f"{len(wrong)}: {wrong[:3]}")


# ---- Which of them ----------------------------------------------------------------------------------------------------

# Of each generation, or of all three ways together; in a short run some for one generation only, and a sample.
EACH = {"trip": round_trip, "status": what_status_says,
        "cut": lambda report, guest, every=1: cut_short(report, guest, *MENU, every=every),
        "fail": lambda report, guest, every=1: failing_tools(report, guest, *MENU, every=every)}
SHORT = {"status": ("11",), "cut": ("11",), "fail": ("11",)}
SHORT_EVERY = {"cut": {"every": 12}, "fail": {"every": 31}}
TOGETHER = {"refused": refusals, "odd": peculiarities, "between": user_in_between,
            "outside": lambda report, by_way: prepared_from_outside(report, by_way["kdcom"]),
            "driver": lambda report, by_way: driver_only(report, by_way["dbgtransport"]),
            "torn": lambda report, by_way: torn_journal(report, by_way["kdcom"])}


def fresh(wine, generations, test, *arguments, **keywords):
    """test(report, guest or {way: guest}, ...) on guests of its own; anew, at most three times, when Wine has slipped."""
    for attempt in range(1, 4):
        guests = [Guest(wine, generation) for generation in generations]
        try:
            return test(*arguments, guests[0] if len(guests) == 1 else {g.generation.way: g for g in guests}, **keywords)
        except WineSlipped as slip:
            print(f"   note Wine could not start a program, once more: {str(slip)[:200]!r}", flush=True)
            if attempt == 3:
                raise
        finally:
            for guest in guests:
                guest.remove()


def run(report, wine, args, is_long):
    generations = [g for g in GENERATIONS if args.only in ("", g.name)]
    for generation in generations:
        for part, test in EACH.items():
            if args.part in ("", part) and (is_long or args.only or generation.name in SHORT.get(part, [generation.name])):
                fresh(wine, [generation], test, report, **({} if is_long else SHORT_EVERY.get(part, {})))
    by_way = list({g.way: g for g in generations}.values())
    for part, test in TOGETHER.items():
        if args.part in ("", part) and len(by_way) == 3:
            fresh(wine, by_way, test, report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--long", action="store_true", help="cut every generation short at every place, let every call fail")
    parser.add_argument("--only", default="", metavar="NAME", choices=["", *(g.name for g in GENERATIONS)], help="one generation")
    parser.add_argument("--part", default="", choices=["", *EACH, *TOGETHER], help="one part")
    args = parser.parse_args()
    for needed in (MEDIUM / "install.cmd", STUB):
        if not needed.exists():
            print(f"{needed} is missing; build with make")
            sys.exit(1)
    if not shutil.which("wine"):
        print("no wine here; tools/setup check installs it")
        sys.exit(SKIPPED)
    report = Report()
    scratch = Path(tempfile.mkdtemp(prefix="vmkd-medium-"))
    try:
        wine = Wine(scratch)
        try:
            run(report, wine, args, args.long or "VMKD_CHECK_LONG" in os.environ)
        finally:
            wine.end()
    finally:
        shutil.rmtree(scratch)
    report.exit()


if __name__ == "__main__":
    main()
