#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""VM, broker and client as different unprivileged users (docs/permissions.md): a folder that a group shares, RAM in a memfd and private RAM, and
who is refused. Users and group are numbers that exist nowhere; root can be them.

    tests/test_permissions.py             all
    tests/test_permissions.py WORD…       the tests whose names contain one of the words
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from report import Report
from vm import BUILD, GUARD_S, Hang, die_with_parent, kvm, wait_for

REPORT = Report()
KVM, KVM_REMARK = kvm()
GROUP = 61010
TESTS = []
NAME = "vm"
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


class Skip(Exception):
    pass


def test(title):
    def register(function):
        TESTS.append((title, function))
        return function
    return register


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


class User:
    """Nobody in particular; in GROUP or not. /dev/kvm's group comes along: who may use KVM is not what is tested here."""

    def __init__(self, uid, is_member):
        groups = [GROUP] if is_member else []
        try:
            groups.append(os.stat("/dev/kvm").st_gid)
        except OSError:
            pass
        self.command = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--inh-caps=-all", "--bounding-set=-all"]
        self.command += ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
        self.uid = uid


OWNER, MEMBER, STRANGER = User(61001, True), User(61002, True), User(61003, False)


class Site:
    """A folder with copies of what the users run (the checkout may be out of their reach), and a runtime folder."""

    def __init__(self, uid, gid, mode):
        self.uid, self.gid, self.mode = uid, gid, mode
        self.processes = []

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-users-"))
        self.folder.chmod(0o755)
        self.runtime = self.folder / "run"
        self.runtime.mkdir()
        os.chown(self.runtime, self.uid, self.gid)
        self.runtime.chmod(self.mode)
        for path in (BUILD / "vmkd", BUILD / "libvmkd-vmm.so", BUILD / "testkernel/x64/boot.elf"):
            shutil.copy(path, self.folder)
        shutil.copy(BUILD / "testkernel/x64/ntoskrnl.exe", self.folder)
        shutil.copy(BUILD / "guest/x64/kdvmkd.dll", self.folder)
        subprocess.run(["tar", "--format=ustar", "-cf", "archive.tar", "ntoskrnl.exe", "kdvmkd.dll"], cwd=self.folder, check=True)
        for path in self.folder.iterdir():
            if path != self.runtime:
                path.chmod(0o755)
        return self

    def __exit__(self, kind, error, trace):
        for process, log in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if error is not None:
                print(f"---- {log.name}:\n{log.read_text(errors='replace')[-2000:]}\n----", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def environment(self, **more):
        return {"PATH": os.environ["PATH"], "VMKD_RUNTIME_DIR": str(self.runtime), "HOME": "/nonexistent", **more}

    def start(self, user, what, *command, **environment):
        """Starts a command as that user; its output is kept for a failure's sake."""
        log = self.folder / f"{what}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen([*(user.command if user else []), *map(str, command)], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, env=self.environment(**environment), preexec_fn=die_with_parent)
        self.processes.append((process, log))
        return process

    def run(self, user, *arguments):
        """vmkd as that user: (status, output)."""
        try:
            done = subprocess.run([*(user.command if user else []), str(self.folder / "vmkd"), *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment(), timeout=GUARD_S, check=False)
        except subprocess.TimeoutExpired as hung:
            raise Hang(f"vmkd {' '.join(arguments)}: {(hung.stdout or b'').decode(errors='replace')[-500:]}") from None
        return done.returncode, done.stdout.decode(errors="replace")

    def qemu(self, accel, *more):
        command = ["qemu-system-x86_64", "-machine", f"pc,accel={accel}", "-m", "64M", "-nodefaults", "-display", "none", "-kernel", "boot.elf",
                   "-initrd", "archive.tar", "-append", "kernel=ntoskrnl.exe transport=kdvmkd.dll scenario=counter", *more]
        if accel == "kvm":
            command += ["-cpu", "host"]
            if "-bios" not in more and os.path.exists("/usr/share/qemu/qboot.rom"):
                command += ["-bios", "qboot.rom"]
        return command

    def start_vm(self, user, *more):
        """QEMU with the library in front, as anybody's service would start it."""
        vm = self.start(user, "qemu", *self.qemu("kvm", *more), LD_PRELOAD=str(self.folder / "libvmkd-vmm.so"), VMKD_NAME=NAME)
        wait_for("vmm.sock", (self.runtime / NAME / "vmm.sock").exists, alive=vm)
        return vm

    def serve(self, user):
        broker = self.start(user, "serve", self.folder / "vmkd", "serve", NAME)
        wait_for("kd.sock", (self.runtime / NAME / "kd.sock").exists, alive=broker)
        return broker

    def read_memory(self, user, *options):
        """Breaks in and reads the kernel's beginning: the console's output."""
        status, text = self.run(user, "kd", f"vm:{NAME}", "-b", "-t", str(int(GUARD_S)), *options, "-c", "vertarget; db nt L200; qs")
        expect(status == 0, f"vmkd kd: status {status}: {text}")
        expect("4d 5a" in text, f"the kernel's first bytes: {text}")
        return text

    def from_ram(self, user):
        status, text = self.run(user, "stats", NAME, "--json")
        expect(status == 0, f"vmkd stats: {text}")
        return json.loads(text)["answers_from_ram"]

    def listed(self, user):
        status, text = self.run(user, "list", "--json")
        expect(status == 0, f"vmkd list: {text}")
        entries = json.loads(text)
        entries = entries if isinstance(entries, list) else entries.get("vms", [])
        return next((e for e in entries if e.get("name") == NAME), None)


def group_site():
    return Site(0, GROUP, 0o2770)


def need_kvm():
    if KVM == "missing":
        raise Skip(f"KVM ({KVM_REMARK})")
    if subprocess.run([*OWNER.command, "sh", "-c", "test -r /dev/kvm && test -w /dev/kvm"]).returncode:
        raise Skip("a /dev/kvm that is open to ordinary users")


def memfd():
    return ["-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-machine", "memory-backend=ram"]


def expect_strangers_outside(site):
    status, text = site.run(STRANGER, "list")
    expect(status != 0 and "join the group" in text, f"list as a stranger: {status} {text}")
    status, text = site.run(STRANGER, "kd", f"vm:{NAME}", "-c", "q")
    expect(status != 0 and "join the group" in text, f"kd as a stranger: {status} {text}")
    status, text = site.run(STRANGER, "kd", f"unix:{site.runtime}/{NAME}/kd.sock", "-c", "q")
    expect(status != 0 and "ermission denied" in text, f"kd.sock as a stranger: {status} {text}")
    status, text = site.run(STRANGER, "serve", NAME)
    expect(status != 0 and "join the group" in text, f"serve as a stranger: {status} {text}")


@test("group folder, RAM in a memfd: another member's broker answers from RAM, strangers stay outside")
def hook_with_memfd():
    need_kvm()
    with group_site() as site:
        site.start_vm(OWNER, *memfd())
        site.serve(MEMBER)
        site.read_memory(MEMBER, "--no-ram")
        expect(site.from_ram(MEMBER) > 0, "the broker's answers are the guest's")
        text = site.read_memory(MEMBER)
        expect("from the VM's RAM (mapped)" in text, f"how memory is read: {text}")
        entry = site.listed(MEMBER)
        expect(entry and not [r for r in entry["remarks"] if "RAM" in r], f"list: {entry}")
        # The VM's own user, the third way round, and root are no strangers.
        site.read_memory(OWNER)
        site.read_memory(None)
        expect_strangers_outside(site)


@test("group folder, a video card's private RAM beside the memfd: answers from RAM, and nothing to complain of")
def hook_with_memfd_and_video():
    need_kvm()
    with group_site() as site:
        site.start_vm(OWNER, *memfd(), "-vga", "std", "-bios", "bios-256k.bin")  # SeaBIOS maps the card
        site.serve(MEMBER)
        site.read_memory(MEMBER, "--no-ram")
        expect(site.from_ram(MEMBER) > 0, "the broker's answers are the guest's")
        remarks = site.listed(MEMBER)["remarks"]
        expect(not [r for r in remarks if "RAM" in r], f"list: {remarks}")


@test("group folder, private RAM: the guest answers another member, and list says why")
def hook_with_private_ram():
    need_kvm()
    with group_site() as site:
        site.start_vm(OWNER)
        site.serve(MEMBER)
        text = site.read_memory(MEMBER)
        expect("in packets" in text, f"how memory is read: {text}")
        expect(site.from_ram(MEMBER) == 0, "somebody has read another user's process")
        remarks = site.listed(MEMBER)["remarks"]
        expect(any("private to QEMU's process" in r for r in remarks), f"list: {remarks}")


@test("one user, private RAM: read from QEMU's process")
def hook_with_private_ram_of_ones_own():
    need_kvm()
    if YAMA.exists() and YAMA.read_text().strip() not in "01":
        raise Skip(f"{YAMA} is {YAMA.read_text().strip()}: only the privileged may")
    with Site(OWNER.uid, OWNER.uid, 0o700) as site:
        site.start_vm(OWNER)
        site.serve(OWNER)
        site.read_memory(OWNER, "--no-ram")
        expect(site.from_ram(OWNER) > 0, "the guest has answered")
        remarks = site.listed(OWNER)["remarks"]
        expect(not [r for r in remarks if "RAM" in r], f"list: {remarks}")


@test("one user's folder: nobody else, not even of the group; root may")
def private_folder():
    need_kvm()
    with Site(OWNER.uid, GROUP, 0o700) as site:
        site.start_vm(OWNER, *memfd())
        for user in (MEMBER, STRANGER):
            for command in (("list",), ("serve", NAME), ("kd", f"vm:{NAME}", "-c", "q")):
                status, text = site.run(user, *command)
                expect(status != 0 and "belongs to user 61001" in text, f"{command[0]} as {user.uid}: {status} {text}")
        site.serve(None)
        site.read_memory(None, "--no-ram")
        expect(site.from_ram(None) > 0, "root's broker has no RAM")


@test("the VM's user is not in the group: QEMU runs, one line says why nobody can debug it")
def vm_outside():
    need_kvm()
    with group_site() as site:
        vm = site.start(STRANGER, "qemu", *site.qemu("kvm"), LD_PRELOAD=str(site.folder / "libvmkd-vmm.so"), VMKD_NAME=NAME)
        log = site.folder / "qemu.log"
        line = wait_for("its line", lambda: [t for t in log.read_text().splitlines() if t.startswith("vmkd: ")], alive=vm)
        expect(len(line) == 1 and str(site.runtime) in line[0] and "group" in line[0], f"on stderr: {line}")
        expect(vm.poll() is None, "the VM ended")
        expect(not (site.runtime / NAME).exists(), "it made a folder")


@test("group folder, vmkd run with debugcon: members are clients of the owner's broker")
def debugcon():
    with group_site() as site:
        run = site.start(OWNER, "run", site.folder / "vmkd", "run", "--link", "debugcon", NAME, "--", *site.qemu("tcg"))
        wait_for("kd.sock", (site.runtime / NAME / "kd.sock").exists, alive=run)
        site.read_memory(MEMBER, "--no-ram")
        expect(site.from_ram(MEMBER) > 0, "the broker's answers are the guest's")
        text = site.read_memory(MEMBER)
        expect("from the VM's RAM (mapped)" in text, f"how memory is read: {text}")
        expect(site.listed(MEMBER), "list does not show it")
        expect_strangers_outside(site)
        status, text = site.run(MEMBER, "serve", NAME)
        expect(status != 0 and "already served" in text, f"a second broker: {status} {text}")
        status, text = site.run(MEMBER, "run", "--link", "debugcon", NAME, "--", *site.qemu("tcg"))
        expect(status != 0 and "in use" in text, f"a second VM of this name: {status} {text}")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@test("group folder: what a dead VM left behind another member removes, and takes its name")
def tidy_up():
    with group_site() as site:
        run = site.start(OWNER, "run", site.folder / "vmkd", "run", "--link", "debugcon", NAME, "--", *site.qemu("tcg"))
        for path in ("lock", "vm.lock", "vm.json", "kd.sock", "ctl.sock"):
            wait_for(path, (site.runtime / NAME / path).exists, alive=run)
            mode = (site.runtime / NAME / path).stat()
            expect(mode.st_mode & 0o777 == 0o660 and mode.st_gid == GROUP, f"{path}: mode {mode.st_mode:o}, group {mode.st_gid}")
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.kill()
        for child in children:  # QEMU; it may have gone with its parent
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                pass
        run.wait()
        wait_for("their end", lambda: not any(is_alive(child) for child in children))
        again = site.start(MEMBER, "again", site.folder / "vmkd", "run", "--link", "debugcon", NAME, "--", *site.qemu("tcg"))
        wait_for("the new broker", lambda: site.run(OWNER, "stats", NAME)[0] == 0, alive=again)
        site.read_memory(OWNER)


def missing():
    if os.geteuid() != 0:
        return "root, who can be two users"
    for tool in ("setpriv", "qemu-system-x86_64"):
        if not shutil.which(tool):
            return tool
    return None


def main():
    words = sys.argv[1:]
    reason = missing()
    for title, function in TESTS:
        if words and not any(word in title for word in words):
            continue
        if reason:
            REPORT.skip(title, reason)
            continue
        try:
            function()
            REPORT.ok(title)
        except Skip as skipped:
            REPORT.skip(title, skipped)
        except Exception as error:  # whatever it was, the others still run
            if not isinstance(error, (AssertionError, Hang)):
                traceback.print_exc()
            REPORT.fail(title, str(error) or type(error).__name__)
    return REPORT.finish()


if __name__ == "__main__":
    sys.exit(main())
