#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What must not happen: calls of a guest that has nothing to say, CPU while it is stopped, a VM that stays paused. Counted, never timed:
what is judged by CPU time separates asleep from spinning, which lie far apart.

    tests/test_quiet.py             all
    tests/test_quiet.py WORD…       the tests whose names contain one of the words
"""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from e2e import BOTH, DEBUGCON, Skip, attach, client_of, expect, main, test
from kdclient import KdError, KdRefused, Stop, Symbols
from vm import GUARD_S, RAM, wait_for

WATCH_S = 3.0
# QEMU's CPU time while every vCPU sleeps is a few percent of one core on the slowest machine; one vCPU that spins takes all of one.
ASLEEP = 0.2
COUNTERS = {"hook": "port_calls", "debugcon": "doorbells"}  # of calls
PAUSE_MS = 100


def vm_of(way, *more, scenario="idle"):
    return way.vm("quiet", "--scenario", scenario, *more)


def up(vm, kd):
    """Past the boot, every CPU there, stopped."""
    attach(kd)
    wait_for("the kernel", lambda: "TK: up" in vm.output() or (kd.resume(), time.sleep(0.2), kd.break_in()) and False)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_share(pid):
    """Of one core, over WATCH_S."""
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(WATCH_S)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start)


# ---- while it runs ----------------------------------------------------------------------------------------------------

@test("a running guest that says nothing makes no calls: 4 CPUs, clock at 1000 Hz", BOTH)
def idle_guest(link):
    counter = COUNTERS[link]
    with vm_of(link, "--cpus", 4, "--hz", 1000) as vm, client_of(vm) as kd:
        up(vm, kd)
        kd.resume()
        vm.stats()  # what the resume still owed has been said
        time.sleep(0.5)
        before, start = vm.stats()[counter], time.monotonic()
        expect(before > 0, f"{counter} counts nothing")
        time.sleep(WATCH_S)
        made, seconds = vm.stats()[counter] - before, time.monotonic() - start
        expect(made <= 2 * seconds, f"{made} {counter} in {seconds:.1f} s")
        kd.break_in()  # and the guest was alive all the time
        expect(kd.version().protocol == 6, "no answer")


@test("a request costs one call when the guest answers it, and none from RAM", BOTH)
def one_call(link):
    def calls(ask):
        before = vm.stats()
        for _ in range(50):
            ask()
        after = vm.stats()
        # A call that QEMU's own needs have ended is made again.
        return after[COUNTERS[link]] - before[COUNTERS[link]] - (after["retries"] - before["retries"])

    with vm_of(link) as vm, client_of(vm) as kd:
        up(vm, kd)
        base = kd.version().kern_base
        # The reply goes out with the call that waits for the next request.
        made = calls(lambda: kd.read_msr(0x1B))
        expect(made == 50, f"{made} calls for 50 requests that the guest answers")
        if RAM != "no":
            made = calls(lambda: kd.read_virtual(base, 4))
            expect(made == (0 if RAM == "yes" else 50), f"{made} calls for 50 reads, RAM: {RAM}")


# ---- while it is stopped ------------------------------------------------------------------------------------------------

def rfb_greeting(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(GUARD_S)
        s.connect(str(path))
        return s.recv(12)


@test("stopped in the debugger with 4 CPUs: no CPU is used, and QEMU answers everything", BOTH)
def stopped(link):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    with tempfile.TemporaryDirectory(prefix="vmkd-quiet-") as folder:
        disk = f"{folder}/disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, timeout=GUARD_S)
        extra = ["--", "-drive", f"if=none,id=d,format=qcow2,file={disk}", "-vnc", f"unix:{folder}/vnc.sock"]
        with vm_of(link, "--cpus", 4, "--ram", "64M", "--reboot", *extra, scenario="smp") as vm, client_of(vm) as kd:
            up(vm, kd)
            pid = vm.listed()["pid"]
            share = cpu_share(pid)
            # debugcon has nobody inside QEMU who could make the guest sleep: --pause-when-silent is for that.
            expect(link == "debugcon" or share < ASLEEP, f"QEMU takes {share:.0%} of a core")
            look_around(vm, folder)
            expect(kd.version().protocol == 6, "no answer after all that")
            kd.read_msr(0x1B)  # the guest's own
            vm.qmp().call("system_reset")
            while not isinstance(kd.wait_event(), (Stop, Symbols)):
                pass
            vm.qmp().call("quit")
            vm.wait()


def look_around(vm, folder):
    def monitor(line):
        return vm.qmp().call("human-monitor-command", **{"command-line": line})

    qmp = vm.qmp()
    expect(qmp.call("query-status")["running"], "not running")
    expect("RIP=" in monitor("info registers -a"), "no registers")
    expect(rfb_greeting(f"{folder}/vnc.sock").startswith(b"RFB "), "VNC says nothing")
    qmp.call("stop")
    expect(not qmp.call("query-status")["running"], "stop does not stop it")
    qmp.call("cont")
    expect(qmp.call("query-status")["running"], "cont does not continue it")
    said = monitor("savevm here")
    expect(not said, f"savevm: {said}")


# ---- --pause-when-silent -----------------------------------------------------------------------------------------------

class PausedVm:
    """A VM that vmkd pauses, and what can be asked about it."""

    def __init__(self, *more, scenario="smp", ms=PAUSE_MS, cpus=2):
        self.vm = vm_of(DEBUGCON, "--cpus", cpus, "--run", f"--pause-when-silent={ms}", *more, scenario=scenario)

    def __enter__(self):
        self.vm.__enter__()
        self.kd = client_of(self.vm)
        up(self.vm, self.kd)
        return self

    def __exit__(self, *exc):
        self.kd.close()
        return self.vm.__exit__(*exc)

    def runs(self):
        return self.vm.qmp().call("query-status")["running"]

    def mark(self):
        return self.vm.runtime / "paused"

    def until_paused(self):
        wait_for("the pause", lambda: not self.runs() and self.vm.stats()["pauses"], alive=self.vm.process)

    def asks_guest(self):
        """A request that only the guest can answer."""
        self.kd.read_msr(0x1B)

    def watchdog(self):
        for child in self.children():
            if Path(f"/proc/{child}/comm").read_text().strip() == "vmkd-watchdog":
                return int(child)
        return 0

    def children(self):
        broker = self.vm.listed()["broker_pid"]
        return Path(f"/proc/{broker}/task/{broker}/children").read_text().split()


class Asking:
    """A request to the guest whose answer may take its time."""

    def __init__(self, p):
        self.error = None
        self.thread = threading.Thread(target=self.ask, args=(p,), daemon=True)
        self.thread.start()

    def ask(self, p):
        try:
            p.asks_guest()
        except KdError as error:
            self.error = error

    def is_done(self):
        return not self.thread.is_alive()

    def finish(self):
        self.thread.join(GUARD_S)
        expect(self.is_done(), "no answer")
        if self.error:
            raise self.error


@test("a silent VM is paused: no CPU, memory is read all the same, and the guest answers when asked")
def pause_and_resume():
    with PausedVm(cpus=4) as p:
        p.until_paused()
        expect(p.mark().exists(), "no mark of the pause")
        share = cpu_share(p.vm.listed()["pid"])
        expect(share < ASLEEP, f"QEMU takes {share:.0%} of a core")
        expect(any("paused by vmkd" in r for r in p.vm.listed()["remarks"]), "vmkd list does not say so")
        base = p.kd.version().kern_base
        wait_for("the pause", lambda: not p.runs())
        pauses = p.vm.stats()["pauses"]
        expect(p.kd.read_virtual(base, 2) == b"MZ" and p.kd.version().kern_base == base, "memory")
        expect(RAM != "yes" or (not p.runs() and p.vm.stats()["pauses"] == pauses), "the VM was resumed for what RAM could have answered")
        for number in range(1, 4):
            p.asks_guest()
            p.kd.resume()
            p.kd.break_in()
            wait_for("the next pause", lambda: not p.runs() and p.vm.stats()["pauses"] >= pauses + number)
        p.kd.resume()
        wait_for("the guest to run", p.runs)
        time.sleep(5 * PAUSE_MS / 1000)
        expect(p.runs() and not p.mark().exists(), "a guest that runs was paused")
        expect(p.vm.stats()["pauses_undone"] == 0, "who has ended our pauses?")


@test("a user's own stop and cont over QMP are left as they are")
def users_pause():
    with PausedVm() as p:
        p.until_paused()
        p.vm.qmp().call("cont")
        wait_for("the note of it", lambda: p.vm.stats()["pauses_undone"] == 1)
        time.sleep(5 * PAUSE_MS / 1000)
        expect(p.runs() and not p.mark().exists(), "paused again although the user wants it to run")
        p.vm.qmp().call("stop")
        asking = Asking(p)  # the guest, which may not run
        for _ in range(10):
            p.vm.stats()
            expect(not p.runs() and not asking.is_done(), "the user's pause was ended")
        p.vm.qmp().call("cont")
        asking.finish()
        p.asks_guest()


@test("a broker that is killed leaves no VM paused: the watchdog takes it back")
def killed_broker():
    with PausedVm() as p:
        p.until_paused()
        watchdog = p.watchdog()
        expect(watchdog, "no watchdog")
        os.kill(p.vm.listed()["broker_pid"], signal.SIGKILL)
        wait_for("the VM to run", p.runs)
        wait_for("the mark to go", lambda: not p.mark().exists())
        wait_for("the watchdog's end", lambda: not is_there(watchdog))
        serves(p)


@test("a broker that takes over ends its predecessor's pause itself")
def successor():
    with PausedVm() as p:
        p.until_paused()
        watchdog = p.watchdog()
        os.kill(watchdog, signal.SIGSTOP)
        os.kill(p.vm.listed()["broker_pid"], signal.SIGKILL)
        time.sleep(0.3)
        expect(not p.runs(), "who has resumed it?")
        serves(p)
        expect(p.runs() and not p.mark().exists(), "still paused")
        os.kill(watchdog, signal.SIGCONT)
        wait_for("the watchdog's end", lambda: not is_there(watchdog))
        expect(p.runs(), "the watchdog did harm")


def is_there(pid):
    """A process that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def serves(p):
    """Another broker, and a debugger that gets answers from the guest."""
    broker = p.vm.start("serve", p.vm.name)
    try:
        wait_for("the new broker", lambda: (p.vm.listed() or {}).get("broker_pid") == broker.pid, alive=broker)
        with client_of(p.vm) as kd:
            attach(kd)
            kd.read_msr(0x1B)
            kd.resume()
    finally:
        broker.terminate()
        broker.wait()


@test("without its watchdog a broker pauses nothing")
def no_watchdog():
    with PausedVm(ms=3000) as p:
        os.kill(p.watchdog(), signal.SIGKILL)
        p.asks_guest()  # the silence begins anew
        time.sleep(4)
        expect(p.runs() and p.vm.stats()["pauses"] == 0, "paused, and nobody could have undone it")


@test("a reset during the pause: the guest boots, the debugger is told")
def reset():
    with PausedVm("--reboot") as p:
        p.until_paused()
        p.vm.qmp().call("system_reset")
        while not isinstance(p.kd.wait_event(), (Stop, Symbols)):
            pass
        wait_for("the second boot", lambda: p.vm.output().count("TK: up") >= 2 or (go_on(p.kd), False)[1])
        attach(p.kd)
        p.asks_guest()


def go_on(kd):
    try:
        kd.resume()
        kd.break_in()
    except KdError:
        pass


@test("snapshots during the pause: one of a stopped guest, one of a running guest")
def snapshots():
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    with tempfile.TemporaryDirectory(prefix="vmkd-quiet-") as folder:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{folder}/d.qcow2", "64M"], check=True, timeout=GUARD_S)
        with PausedVm("--ram", "32M", "--", "-drive", f"if=none,id=d,format=qcow2,file={folder}/d.qcow2") as p:
            def monitor(line):
                said = p.vm.qmp().call("human-monitor-command", **{"command-line": line})
                expect(not said, f"{line}: {said}")

            p.kd.resume()
            monitor("savevm running")
            p.kd.break_in()
            p.until_paused()
            monitor("savevm stopped")
            p.asks_guest()
            wait_for("the pause", lambda: not p.runs())
            monitor("loadvm stopped")
            attach(p.kd)
            try:
                p.asks_guest()  # the first to find out that another time of the guest waits there: for debuggers that is a reboot
            except KdRefused:
                attach(p.kd)
                p.asks_guest()
            wait_for("the pause", lambda: not p.runs())
            known = p.vm.stats()["registrations"]
            monitor("loadvm running")  # nobody is in a wait there, so nobody may be paused
            wait_for("the guest to run", p.runs)
            wait_for("its registration", lambda: p.vm.stats()["registrations"] > known)
            p.kd.expect_refresh()  # it may stop where it was stopped before
            p.kd.break_in()
            p.asks_guest()


@test("a snapshot of a running guest, loaded while the VM is paused: what was stopped is not read any more")
def snapshot_under_a_stop():
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    with tempfile.TemporaryDirectory(prefix="vmkd-quiet-") as folder:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{folder}/d.qcow2", "64M"], check=True, timeout=GUARD_S)
        drive = f"if=none,id=d,format=qcow2,file={folder}/d.qcow2"
        with vm_of(DEBUGCON, "--ram", "32M", "--", "-drive", drive, scenario="smp") as vm, client_of(vm) as kd:
            up(vm, kd)
            kd.resume()
            vm.qmp().call("human-monitor-command", **{"command-line": "savevm running"})
            kd.break_in()
            base = kd.version().kern_base
            expect(kd.read_virtual(base, 2) == b"MZ", "memory")
            vm.qmp().call("stop")
            vm.qmp().call("human-monitor-command", **{"command-line": "loadvm running"})
            before = vm.stats()
            reading = threading.Thread(target=read_in_vain, args=(kd, base), daemon=True)
            reading.start()
            wait_for("the request", lambda: vm.stats()["requests"] > before["requests"])
            expect(vm.stats()["answers_from_ram"] == before["answers_from_ram"], "RAM was read as that of the stopped guest")
            vm.qmp().call("cont")
            wait_for("its registration", lambda: vm.stats()["registrations"] > before["registrations"])
            kd.link.sock.shutdown(socket.SHUT_RDWR)
            reading.join(GUARD_S)


def read_in_vain(kd, address):
    try:
        kd.read_virtual(address, 2)
    except (KdError, OSError):
        pass


@test("a QEMU that does not answer QMP for a while")
def deaf_qemu():
    with PausedVm(ms=500) as p:
        pid = p.vm.listed()["pid"]
        p.asks_guest()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)  # stop has been sent, and nobody reads it
        asking = Asking(p)
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        asking.finish()
        p.asks_guest()
        p.until_paused()


if __name__ == "__main__":
    main()
