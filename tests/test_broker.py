#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vmkd run, serve, list and stats: with real QEMU and the test kernel, and with all the input they must refuse.

    tests/test_broker.py             all
    tests/test_broker.py WORD…       the tests whose names contain one of the words
"""
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from e2e import BOTH, DEBUGCON, Failed, Folder, Skip, attach, client_of, expect, main, need_kvm, refused, test
from kdclient import KdClient, KdClosed, KdError, KdTimeout, Print, Symbols
from vm import BUILD, GUARD_S, RAM, Qmp, wait_for

VMKD = str(BUILD / "vmkd")
QEMU = "qemu-system-x86_64"
RESET = b"iiii\x06\0\0\0\0\0\0\0\0\0\0\0"


def vm_of(way, *more, scenario="counter", **keywords):
    return way.vm("broker", "--scenario", scenario, *more, **keywords)


def reads_mz(kd):
    expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no MZ at the kernel's base")


def ready(vm):
    """The kernel is up and runs."""
    with client_of(vm) as kd:
        attach(kd)
        reads_mz(kd)
        kd.resume()


def entry_of(vm):
    entry = vm.listed()
    expect(entry is not None, "vmkd list does not show the VM")
    return entry


def state_becomes(vm, state):
    wait_for(f"the state '{state}'", lambda: entry_of(vm)["state"] == state)


# ---- input that cannot be ---------------------------------------------------------------------------------------

@test("wrong usage: status 2 and how it goes")
def usage():
    with Folder() as f:
        refused(f.run(), 2, "vmkd help")
        refused(f.run("frobnicate"), 2, "frobnicate", "vmkd help")
        refused(f.run("run"), 2, "name is missing")
        refused(f.run("run", "x"), 2, "--")
        refused(f.run("run", "x", "--"), 2, "command line is missing")
        refused(f.run("run", "--link", "serial", "x", "--", QEMU), 2, "hook or debugcon")
        refused(f.run("run", "--link"), 2, "needs a value")
        refused(f.run("run", "--frob", "x", "--", QEMU), 2, "--frob")
        refused(f.run("run", "--no-ram", "--check-ram", "x", "--", QEMU), 2, "one of them")
        refused(f.run("serve", "--check-ram", "x", "--no-ram"), 2, "one of them")
        refused(f.run("serve"), 2, "name is missing")
        refused(f.run("serve", "a", "b"), 2, "one name")
        refused(f.run("serve", "a", "--tcp"), 2, "needs a value")
        refused(f.run("list", "--frob"), 2, "--frob")
        refused(f.run("stats"), 2, "name is missing")
        refused(f.run("stats", "a", "b"), 2, "b")
        status, text = f.run("help")
        expect(status == 0 and "vmkd serve" in text, text)
        for command in ("run", "serve"):
            status, text = f.run(command, "--help")
            usage_line, *lines = text.splitlines()
            for option in re.findall(r"--[a-z-]+", usage_line):
                expect(status == 0 and any(line.startswith(f"  {option}") for line in lines), f"{command} --help: nothing about {option}")
        status, text = f.run("--version")
        expect(status == 0 and text.startswith("vmkd "), text)


@test("names that are none")
def bad_names():
    with Folder() as f:
        for name in ("../etc", ".hidden", "a b", "a/b", "", "x" * 64, "ü"):
            refused(f.run("run", "--", name) if name.startswith("-") else f.run("run", name, "--", QEMU), 1, "name")
            refused(f.run("serve", name), 1, "name")
            refused(f.run("stats", name), 1, "name")
        expect(list(f.path.iterdir()) == [], "a refused name left files behind")


@test("a VM that is not there")
def missing_vm():
    with Folder() as f:
        refused(f.run("serve", "ghost"), 1, "ghost", "vmkd run")
        refused(f.run("stats", "ghost"), 1, "ghost", "vmkd list")
        refused(f.run("kd", "vm:ghost", "-c", "q"), 1, "ghost")
        status, text = f.run("list")
        expect(status == 0 and "no VMs" in text, text)
        expect(json.loads(f.run("list", "--json")[1]) == [], "list --json is not empty")


@test("a dead socket")
def dead_socket():
    with Folder() as f:
        path = f.path / "dead.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.close()
        refused(f.run("kd", f"unix:{path}", "-c", "q"), 1, "dead.sock")
        refused(f.run("kd", f"unix:{path}.not", "-c", "q"), 1, "dead.sock.not")


@test("QEMU is missing, is no program, or fails by itself")
def bad_qemu():
    with Folder() as f:
        refused(f.run("run", "x", "--", "qemu-system-z80"), 1, "qemu-system-z80", "PATH")
        refused(f.run("run", "x", "--", "/nowhere/qemu-system-x86_64"), 1, "/nowhere")
        plain = f.path.with_suffix(".txt")
        plain.write_text("no program")
        refused(f.run("run", "x", "--", str(plain)), 1, "not an executable")
        plain.chmod(0o755)
        refused(f.run("run", "x", "--", str(plain)), 1, "cannot be executed")
        plain.unlink()
        status, text = f.run("run", "x", "--", QEMU, "-no-such-option")
        expect(status == 1 and "no-such-option" in text, f"{status}: {text}")
        expect(not (f.path / "x").exists(), "a VM that failed left its folder")


@test("links that cannot be")
def bad_links():
    with Folder() as f:
        refused(f.run("run", "--link", "hook", "x", "--", QEMU, "-m", "64"), 1, "KVM", "--link debugcon")
        refused(f.run("run", "--link", "debugcon", "x", "--", "/bin/true"), 1, "/bin/true", "qemu-system-x86_64")
        backend = ["-object", "memory-backend-ram,id=r,size=64M", "-machine", "memory-backend=r"]
        refused(f.run("run", "x", "--", QEMU, "-m", "64", *backend), 1, "memory-backend-memfd", "share=on")
        refused(f.run("run", "x", "--", QEMU, "-m", "much"), 1, "much", "6G")
        refused(f.run("run", "x", "--", QEMU, "-mem-path", "/dev/hugepages"), 1, "share=on")
        refused(f.run("run", "--private-ram", "x", "--", QEMU, "-m", "64"), 1, "--private-ram", "--link hook")


@test("/dev/kvm is not permitted")
def no_kvm():
    if not os.path.exists("/dev/kvm"):
        raise Skip("/dev/kvm")
    if os.geteuid() != 0 or os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
        raise Skip("root, and a /dev/kvm that is not open to everybody")
    # The checkout may lie where nobody else may look.
    with Folder() as f, tempfile.TemporaryDirectory() as copies:
        os.chmod(copies, 0o755)
        for name in ("vmkd", "libvmkd-vmm.so"):
            shutil.copy(BUILD / name, copies)
        os.chown(f.path, 65534, 65534)
        refused(f.run("run", "x", "--", QEMU, "-accel", "kvm", program=Path(copies) / "vmkd", cwd="/", user=65534, group=65534,
                      extra_groups=[]), 1, "/dev/kvm", "not permitted", "tcg")


@test("runtime folders that cannot be")
def bad_folders():
    with Folder() as f:
        long = "/tmp/" + "x" * 100
        refused(f.run("list", env={"VMKD_RUNTIME_DIR": long}), 1, "VMKD_RUNTIME_DIR")
        for command in ("serve", "stats"):
            refused(f.run(command, "x", env={"VMKD_RUNTIME_DIR": "relative"}), 1, "absolute")
            refused(f.run(command, "x", env={"VMKD_RUNTIME_DIR": "/etc/passwd"}), 1, "/etc/passwd", "not a folder")
        refused(f.run("list", env={"VMKD_RUNTIME_DIR": "relative"}), 1, "absolute")
        f.path.chmod(0o755)
        refused(f.run("run", "x", "--", QEMU), 1, "0700", str(f.path))
        f.path.chmod(0o700)
        (f.path / "x").symlink_to("/tmp")
        refused(f.run("run", "x", "--", QEMU), 1, "not a folder")


@test("TCP addresses that cannot be")
def bad_tcp():
    with Folder() as f, socket.socket() as taken:
        for address in ("host", "1.2.3.4:", ":0", "65536", "::1:5", "x:y"):
            refused(f.run("run", "--tcp", address, "x", "--", QEMU), 1, "HOST:PORT")
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(f.run("run", "--tcp", str(port), "x", "--", QEMU), 1, "127.0.0.1", "cannot listen")
        expect(not (f.path / "x" / "kd.sock").exists(), "a broker that could not start left its socket")


# ---- one VM, from its start to its end ------------------------------------------------------------------------------

@test("the life of a VM in vmkd list", BOTH)
def life(link):
    with vm_of(link) as vm:
        ready(vm)
        entry = entry_of(vm)
        expect(entry["link"] == link and entry["state"] == "running" and entry["clients"] == [], f"{entry}")
        expect(os.path.exists(f"/proc/{entry['pid']}") and "qemu" in os.readlink(f"/proc/{entry['pid']}/exe"), f"{entry}")
        for name in ("kd.sock", "ctl.sock"):
            mode = stat.S_IMODE((vm.runtime / name).stat().st_mode)
            expect(mode == 0o600, f"{name} has mode {mode:o}")
        expect(stat.S_IMODE(vm.runtime.stat().st_mode) == 0o700, "the folder is open to others")
        with client_of(vm) as kd:
            attach(kd)
            entry = entry_of(vm)
            expect(entry["state"] == "broken in" and str(os.getpid()) in entry["clients"][0]["name"], f"{entry}")
            kd.read_virtual(kd.version().kern_base, 3944)
        state_becomes(vm, "waiting for a debugger")
        status, text = vm.run("list")
        expect(status == 0 and "waiting for a debugger" in text and link in text, text)
        stats = vm.stats()
        for name in ("port_calls", "packets_out", "packets_in", "bytes_out", "bytes_in", "answers_from_ram", "retries", "refused"):
            expect(isinstance(stats.get(name), int), f"no {name} in {stats}")
        read = {"yes": "bytes_from_ram", "no": "bytes_out", "check": "ram_checked_bytes"}[RAM]
        expect(stats["bytes_out"] > 1000 and stats[read] >= 3944 and stats["packets_in"] > 2 and stats["refused"] == 0, f"{stats}")
        status, text = vm.run("stats", vm.name)
        expect(status == 0 and "port_calls" in text, text)


@test("exit statuses: the VM's own, and 128 + signal", BOTH)
def statuses(link):
    with vm_of(link) as vm:
        ready(vm)
        vm.qmp().call("quit")
        expect(vm.wait() == 0, f"quit: {vm.process.returncode}")
        wait_for("the folder to go", lambda: not vm.runtime.exists())
    with vm_of(link) as vm:
        ready(vm)
        os.kill(entry_of(vm)["pid"], signal.SIGKILL)
        expect(vm.wait() == 137, f"killed: {vm.process.returncode}")


@test("SIGTERM and SIGINT to vmkd run end the VM in order", BOTH)
def signals(link):
    for number in (signal.SIGTERM, signal.SIGINT):
        with vm_of(link) as vm:
            ready(vm)
            entry = entry_of(vm)
            os.kill(entry["broker_pid"], number)
            vm.wait()
            expect(not os.path.exists(f"/proc/{entry['pid']}"), "the VM lives on")
            expect("terminating on signal" in vm.output(), vm.output())


@test("a name that is in use names the VM's pid", BOTH)
def name_clash(link):
    with vm_of(link) as vm:
        ready(vm)
        entry = entry_of(vm)
        refused(vm.run("run", vm.name, "--", QEMU, "-m", "64"), 1, vm.name, str(entry["pid"]))
        refused(vm.run("serve", vm.name), 1, vm.name, str(entry["broker_pid"]))
        ready(vm)  # neither of them did any harm


@test("the folders of dead VMs are tidied up")
def tidy():
    with Folder() as f:
        dead = f.path / "dead"
        dead.mkdir(mode=0o700)
        for name in ("kd.sock", "vmm.sock"):
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(str(dead / name))
        (dead / "vm.json").write_text('{"name":"dead","pid":1,"link":"hook"}')
        (dead / "vm.lock").write_text("1\n")
        os.utime(dead, (0, 0))
        status, text = f.run("list")
        expect(status == 0 and "dead" not in text and not dead.exists(), text)


@test("TCP: loopback by default, a warning otherwise")
def tcp():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with vm_of(DEBUGCON, "--run", "--tcp", "--run", str(port)) as vm:
        vm.kd_socket()
        with KdClient(timeout=GUARD_S).connect(f"127.0.0.1:{port}") as kd:
            attach(kd)
            reads_mz(kd)
            expect("127.0.0.1" in entry_of(vm)["clients"][0]["name"], f"{entry_of(vm)}")
        expect("authentication" not in vm.output(), vm.output())
    with vm_of(DEBUGCON, "--run", "--tcp", "--run", f"0.0.0.0:{port}") as vm:
        vm.kd_socket()
        expect("no authentication" in vm.output() and f"0.0.0.0:{port}" in vm.output(), vm.output())


# ---- debuggers ------------------------------------------------------------------------------------------------------

@test("a debugger comes and goes 100 times", BOTH)
def hundred(link):
    with vm_of(link) as vm:
        with client_of(vm) as kd:
            attach(kd)
            base = kd.version().kern_base
        for round_number in range(100):
            with client_of(vm) as kd:
                kd.attach()
                if round_number % 3 == 0:
                    expect(kd.read_virtual(base, 2) == b"MZ", f"round {round_number}")
                elif round_number % 3 == 1:  # gone in the middle of a request
                    kd.link.send(2, struct.pack("<IHHII", 0x3130, 0, 0, 0, 0) + struct.pack("<QII", base, 3944, 0).ljust(40, b"\0"))
        stats = vm.stats()
        expect(stats["clients"]["connections"] >= 101 and stats["clients"]["turned_away"] == 0, f"{stats}")
        expect(stats["boots"] == 1 and stats["refused"] == 0, f"{stats}")
        ready(vm)


@test("a debugger that reads nothing stalls nobody", BOTH)
def deaf(link):
    with vm_of(link, "--scenario", "wait", scenario="printflood=3000") as vm:
        with socket.socket(socket.AF_UNIX) as deaf_one:
            deaf_one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf_one.connect(str(vm.kd_socket()))
            # The kernel's own log tells that the flood has come to its end, however many of its lines were dropped on the way.
            wait_for("the flood's end", lambda: "TK: scenario wait" in vm.output(), alive=vm.process)
            expect(vm.qmp().call("query-status"), "QMP")


@test("garbage from a debugger is counted and survived", BOTH)
def garbage(link):
    with vm_of(link) as vm:
        ready(vm)
        data = b"0000\x02\x00\xff\xff" + os.urandom(64) + b"0000\x02\x00\x10\x00" + bytes(24) + b"\xaa" + b"iiii\x63\x00" + bytes(10)
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(vm.kd_socket()))
                try:
                    s.sendall(RESET + data * 20 + os.urandom(2000))
                except OSError:
                    pass  # hung up on: as good
        wait_for("the last of them to be gone", lambda: not entry_of(vm)["clients"])
        counts = vm.stats()["clients"]
        expect(counts["bad_size"] + counts["bad_control"] + counts["noise"] + counts["bad_checksum"] + counts["truncated"] > 0, f"{counts}")
        ready(vm)


@test("garbage on the control socket is survived")
def ctl_garbage():
    with vm_of(DEBUGCON) as vm:
        ready(vm)
        for data, answer in ((b"{}\n", b"error"), (b"[1]\n", b"error"), (b'{"cmd":"frob"}\n', b"error"), (b"\xff\xfe\n", b"error"),
                             (b"x" * 5000, b""), (b'{"cmd":"status"}\n', b'"state"'), (b'{"cmd":"stats"}\n{"cmd":"status"}\n', b"port_calls")):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(GUARD_S)
                s.connect(str(vm.runtime / "ctl.sock"))
                try:
                    s.sendall(data)
                    got = s.recv(65536)
                except ConnectionError:
                    got = b""
                expect(answer in got if answer else got == b"", f"{data[:40]}: {got[:80]}")
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        for s in sockets:
            s.connect(str(vm.runtime / "ctl.sock"))
        for s in sockets:
            s.close()
        wait_for("the control socket", lambda: vm.run("stats", vm.name)[0] == 0)


# ---- what the broker costs ------------------------------------------------------------------------------------------

def switches_of(pid):
    """How often the process was given a processor and left it: a program that makes a system call, or polls, cannot do so without."""
    status = Path(f"/proc/{pid}/status").read_text()
    return [int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line]


def anonymous_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def sleeps_on(pid, seconds=3):
    """True when the process did not run at all for so long."""
    before = switches_of(pid)
    time.sleep(seconds)
    return switches_of(pid) == before


@test("a broker with a stopped guest and a silent debugger does not run at all", BOTH)
def idle(link):
    with vm_of(link) as vm:
        with client_of(vm) as kd:
            attach(kd)
            base = kd.version().kern_base
            for _ in range(300):  # a burst, so that polling has been learned
                kd.read_virtual(base, 4)
            broker = entry_of(vm)["broker_pid"]
            wait_for("the broker to sleep", lambda: sleeps_on(broker), alive=vm.process)
            before = vm.stats()
            expect(before["polls_rewarded"] <= before["polls"], f"{before}")
            # However the broker came by them: each byte once.
            counts = before["clients"]
            for name in ("noise", "duplicates", "unwanted", "bad_checksum", "bad_trailer", "truncated", "resends_out"):
                expect(counts[name] == 0, f"{name}: {counts}")
            wait_for("the broker to sleep again", lambda: sleeps_on(broker), alive=vm.process)
            after = vm.stats()
            # Asking for stats is what happened between the two: a connection, a request, its answer, perhaps the library's.
            expect(after["sleeps"] - before["sleeps"] < 20, f"{before['sleeps']} .. {after['sleeps']}")
            reads_mz(kd)


@test("a debugger that asks and never reads is given no memory, and others are served", BOTH)
def deaf_asker(link):
    with vm_of(link) as vm:
        ready(vm)
        broker = entry_of(vm)["broker_pid"]
        before = anonymous_kb(broker)
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(vm.kd_socket()))
            asker.setblocking(False)
            # RESETs are answered, each by a RESET and the state change, and so are break-ins: nothing of it is ever read.
            flood, full = (RESET + b"b" * 200) * 100, 0
            for _ in range(2000):
                try:
                    asker.send(flood)
                    full = 0
                except BlockingIOError:
                    full += 1
                    time.sleep(0.005)
                if full == 100:
                    break
            expect(vm.stats()["clients"]["connections"] >= 2, "stats")
            expect(vm.qmp().call("query-status"), "QMP")
            expect(anonymous_kb(broker) - before < 1024, f"{before} kB, then {anonymous_kb(broker)} kB")
        wait_for("the asker to be gone", lambda: not entry_of(vm)["clients"])
        ready(vm)


# ---- brokers and guests that go away ------------------------------------------------------------------------------------

@test("a broker dies, the VM lives on, the next one takes over", BOTH)
def successor(link):
    with vm_of(link) as vm:
        with client_of(vm) as kd:
            attach(kd)
            vm.qmp()
            os.kill(entry_of(vm)["broker_pid"], signal.SIGKILL)
            expect(vm.qmp().call("query-status")["running"], "the VM does not run")
        entry = wait_for("the broker to be gone", lambda: not entry_of(vm).get("broker_pid") and entry_of(vm))
        expect("no broker" in entry["remarks"][0] and "vmkd serve" in entry["remarks"][0], f"{entry}")
        refused(vm.run("stats", vm.name), 1, "nobody serves", str(entry["pid"]))
        for _ in range(3):
            with_successor(vm)
        expect(vm.qmp().call("query-status")["running"], "the VM does not run")


def with_successor(vm):
    process = vm.start("serve", vm.name)
    try:
        with wait_for("the successor", lambda: try_client(vm)) as kd:
            attach(kd)
            reads_mz(kd)
            if process.pid % 2:
                kd.resume()
    finally:
        process.kill()
        process.wait()


def try_client(vm):
    try:
        return KdClient(timeout=GUARD_S).connect(str(vm.runtime / "kd.sock"), timeout=0.2)
    except (KdTimeout, KdError):
        return None


@test("a broker is killed and started again at once, 10 times", BOTH)
def at_once(link):
    with vm_of(link) as vm:
        ready(vm)
        killed = entry_of(vm)["broker_pid"]
        log = vm.folder / "serve.log"
        for _ in range(10):
            with open(log, "wb") as out:
                os.kill(killed, signal.SIGKILL)
                process = subprocess.Popen([VMKD, "serve", vm.name], env=vm.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            try:
                wait_for("the next broker", lambda: b"serving" in log.read_bytes() or process.poll() is not None)
                expect(process.poll() is None, log.read_text())
                refused(vm.run("serve", vm.name), 1, vm.name, str(process.pid))  # while this one lives nobody waits for its end
                ready(vm)
            finally:
                killed = process.pid
        process.kill()
        process.wait()


@test("what a killed broker's kernel has not let go yet is waited for", BOTH)
def not_let_go(link):
    with vm_of(link) as vm:
        ready(vm)
        killed = entry_of(vm)["broker_pid"]
        os.kill(killed, signal.SIGKILL)
        wait_for("the broker to be gone", lambda: not entry_of(vm).get("broker_pid"))
        kd_path = vm.runtime / "kd.sock"
        with open(vm.runtime / "lock", "r+") as lock, socket.socket(socket.AF_UNIX) as listener:
            # This test holds what the dead one had, and lets go of it a little later, one after the other.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            expect(int(lock.read()) == killed, "the lock does not name its last holder")
            kd_path.unlink()
            listener.bind(str(kd_path))
            listener.listen()
            process = subprocess.Popen([VMKD, "serve", vm.name], env=vm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT)
            try:
                time.sleep(0.2)
                fcntl.flock(lock, fcntl.LOCK_UN)
                time.sleep(0.2)
                listener.close()
                said = process.stdout.readline().decode()
                expect("serving" in said, said)
                ready(vm)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()


def monitor(vm, line):
    said = vm.qmp().call("human-monitor-command", **{"command-line": line})
    expect(not said, f"{line}: {said}")


@test("a snapshot of a stopped guest, loaded under three kinds of debugger", BOTH)
def snapshot(link):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    with Folder() as f:
        disk = f.path / "snapshot.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, timeout=GUARD_S)
        drive = ["--", "-drive", f"if=none,id=snapshot,format=qcow2,file={disk}"]
        with vm_of(link, "--ram", "32M", *drive) as vm:
            with client_of(vm) as kd:
                first = attach(kd)
                monitor(vm, "savevm stopped")
                reads_mz(kd)
                kd.resume()
            monitor(vm, "loadvm stopped")  # nobody is there, the kernel runs
            with client_of(vm) as kd:
                expect(attach(kd).pc == first.pc, "another stop than the one that was saved")
                reads_mz(kd)
                monitor(vm, "loadvm stopped")  # under a debugger that has broken in
                # KDCOM has no other word for it than a reboot.
                notice = kd.wait_event()
                expect(isinstance(notice, Symbols) and notice.is_unload, f"{notice} is no notice")
                expect(kd.wait_stop().pc == first.pc, "another stop than the one that was saved")
                for _ in range(5):
                    reads_mz(kd)
            with client_of(vm) as kd:
                expect(attach(kd).pc == first.pc, "another stop than the one that was saved")
                reads_mz(kd)
                kd.resume()
            ready(vm)


@test("a broker that is stopped does not stop QMP, list or stats", BOTH)
def sleeper(link):
    with vm_of(link) as vm:
        ready(vm)
        broker = entry_of(vm)["broker_pid"]
        os.kill(broker, signal.SIGSTOP)
        try:
            for _ in range(5):
                vm.qmp().call("query-status")
            entry = entry_of(vm)
            expect(any("cannot be asked" in r and str(broker) in r for r in entry["remarks"]), f"{entry}")
            refused(vm.run("stats", vm.name), 1, "does not answer")
        finally:
            os.kill(broker, signal.SIGCONT)
        ready(vm)


@test("a reset from outside reaches the debugger as a reboot", BOTH)
def reset(link):
    with vm_of(link, "--reboot") as vm, client_of(vm) as kd:
        attach(kd)
        events = []
        kd.on_event = events.append
        vm.qmp().call("system_reset")
        deadline = time.monotonic() + GUARD_S
        while not any(isinstance(e, Symbols) and e.base & 0xFFFFFFFF == 0xFFFFFFFF and e.is_unload for e in events):
            expect(time.monotonic() < deadline, f"no notice: {events}")
            kd.wait_event()
        kd.go()
        fresh = kd.wait_event()
        while isinstance(fresh, Print):
            fresh = kd.wait_event()
        expect(isinstance(fresh, Symbols) and not fresh.is_unload, f"after the notice came {fresh}")
        kd.go()
        attach(kd)
        reads_mz(kd)
        expect(vm.stats()["boots"] == 2, f"{vm.stats()}")


@test("ten resets without a debugger", BOTH)
def resets(link):
    with vm_of(link, "--reboot") as vm:
        ready(vm)
        for _ in range(10):
            vm.qmp().call("system_reset")
            time.sleep(0.1)
        ready(vm)


@test("a guest without our module", BOTH)
def no_module(link):
    if link.needs_kvm:
        need_kvm()
    accel = "kvm" if link == "hook" else "tcg"
    with Folder() as f:
        process = subprocess.Popen([VMKD, "run", "--link", link, "plain", "--", QEMU, "-machine", f"pc,accel={accel}", "-m", "64",
                                    "-display", "none", "-nodefaults"], env=f.env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for("the VM", lambda: any(e["state"] == "no guest module" for e in json.loads(f.run("list", "--json")[1])), alive=process)
            with KdClient(timeout=3).connect(str(f.path / "plain" / "kd.sock")) as kd:
                try:
                    kd.attach()
                    raise Failed("somebody answered")
                except KdTimeout:
                    expect(kd.link.resets_seen > 0, "RESET was not answered")
        finally:
            process.terminate()
            process.wait()


class Plain:
    """A VM without a guest of ours, under `vmkd run`."""

    def __init__(self, folder, link, *qemu, options=()):
        if link.needs_kvm:
            need_kvm()
        accel = "kvm" if link == "hook" else "tcg"
        self.socket = folder.path / "plain" / "qmp.sock"
        self.process = subprocess.Popen([VMKD, "run", "--link", link, *options, "plain", "--", QEMU, "-accel", accel, "-m", "64", "-display",
                                         "none", "-nodefaults", *qemu], env=folder.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Not by SIGTERM: stock QEMU 7.2 can wait for ever in monitor_cleanup when it is told to end while a QMP command is on its way (seen).
        for pid in self.children():
            os.kill(int(pid), signal.SIGKILL)
        self.process.terminate()
        self.process.communicate(timeout=GUARD_S)

    def children(self):
        try:
            return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except FileNotFoundError:
            return []

    def qmp(self):
        """A monitor, or None: the VM has ended."""
        wait_for("qmp.sock", lambda: self.socket.exists() or self.process.poll() is not None)
        return Qmp(self.socket) if self.process.poll() is None else None

    def ram(self):
        """Names of the mappings of the VM that have the RAM's size."""
        pid = wait_for("the VM's pid", lambda: next(iter(self.children()), 0))
        self.qmp().close()
        names = []
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, _, last = line.split()[0].partition("-")
            if int(last, 16) - int(first, 16) == 64 << 20:
                names.append(" ".join(line.split()[5:]) + " " + line.split()[1][3])
        return names


@test("RAM is a shared memfd, unless the user wants it otherwise", BOTH)
def shared_ram(link):
    with Folder() as f:
        with Plain(f, link) as vm:
            expect(any("memfd" in name and name.endswith(" s") for name in vm.ram()), f"no memfd: {vm.ram()}")
        with Plain(f, link, "-mem-prealloc", "-machine", "q35") as vm:
            expect(any("memfd" in name and name.endswith(" s") for name in vm.ram()), f"no memfd: {vm.ram()}")
        if link == "debugcon":
            return
        with Plain(f, link, options=["--private-ram"]) as vm:
            expect(not any("memfd" in name for name in vm.ram()), f"--private-ram: {vm.ram()}")
        own = ["-object", f"memory-backend-file,id=own,size=64M,mem-path={f.path}/own,share=on", "-machine", "memory-backend=own"]
        with Plain(f, link, *own) as vm:
            expect(not any("memfd" in name for name in vm.ram()), f"the user's backend: {vm.ram()}")
        with Plain(f, link, "-mem-path", str(f.path)) as vm:
            expect(not any("memfd" in name for name in vm.ram()), f"-mem-path: {vm.ram()}")


@test("a snapshot taken without vmkd is loaded with it", BOTH)
def foreign_snapshot(link):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    if link.needs_kvm:
        need_kvm()
    with Folder() as f:
        drive = ["-drive", f"if=none,id=d,format=qcow2,file={f.path}/d.qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{f.path}/d.qcow2", "64M"], check=True, timeout=GUARD_S)
        alone = [QEMU, "-accel", "kvm" if link == "hook" else "tcg", "-m", "64", "-display", "none", "-nodefaults", *drive, "-monitor", "stdio"]
        subprocess.run(alone, input=b"savevm before\nquit\n", stdout=subprocess.DEVNULL, check=True, timeout=GUARD_S)
        with Plain(f, link, *drive, "-loadvm", "before") as vm:
            qmp = vm.qmp()
            expect(qmp, "QEMU does not take the snapshot: " + (vm.process.stderr.read() if not qmp else ""))
            expect(qmp.call("query-status")["running"], "it does not run")
            qmp.close()


if __name__ == "__main__":
    main()
