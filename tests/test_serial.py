#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`vmkd serve --from`: the broker in front of a stock KDCOM target, which is the test kernel with its own serial transport on QEMU's stock serial
port. Here QEMU knows nothing of vmkd, and has a runtime folder of its own.

    tests/test_serial.py [WORD…]      the tests whose titles contain one of the words
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from e2e import Folder, Skip, attach, expect, main, refused, test
from kdclient import BREAKPOINT, KdClient, KdRefused, Stop, Symbols
from vm import GUARD_S, VMKD, Qmp, Vm, wait_for

NAME = "stock"  # what the broker calls the target; the VM is called otherwise


class Stock(Folder):
    """A stock target, a way to its serial port, and a broker in front."""

    def __init__(self, way="unix", *arguments):
        self.way, self.arguments = way, arguments
        self.vm = self.bridge = self.broker = None

    def __enter__(self):
        super().__enter__()
        self.start_target()
        self.stream = self.build_bridge()
        self.serve()
        return self

    def __exit__(self, *error):
        if error[0] is not None and self.broker:
            print(f"---- the broker said:\n{(self.path / 'broker.log').read_text()[-2000:]}\n----", flush=True)
        for process in (self.broker, self.bridge):
            if process:
                process.kill()
                process.wait()
        self.vm.__exit__(None, None, None)
        return super().__exit__(*error)

    def start_target(self):
        self.vm = Vm("target", "--link", "serial", "--scenario", "counter", "--reboot", *self.arguments, "--", "-qmp",
                     f"unix:{self.path}/qmp.sock,server=on,wait=off")
        self.vm.__enter__()
        self.vm.kd_socket()

    def end_target(self):
        self.vm.__exit__(None, None, None)

    def build_bridge(self):
        uart = self.vm.kd_socket()
        if self.way == "unix":
            return f"unix:{uart}"
        if not shutil.which("socat"):
            raise Skip("socat is not installed")
        if self.way == "tcp":
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            here, stream = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"tcp:localhost:{port}"
        else:
            device = self.path / "tty"
            here, stream = f"PTY,link={device},raw,echo=0", f"serial:{device},115200"
        command = ["socat", here, f"UNIX-CONNECT:{uart}"]
        self.bridge = subprocess.Popen(command)

        def is_there():
            if self.bridge.poll() is not None:  # QEMU's socket had its name already and nobody listening
                self.bridge = subprocess.Popen(command)
            return device.exists()

        if self.way == "serial":
            wait_for("socat's pseudo-terminal", is_there)
        return stream

    def serve(self, *options):
        with open(self.path / "broker.log", "ab") as out:
            self.broker = subprocess.Popen([VMKD, "serve", "--from", self.stream, *options, NAME], env=self.env, stdin=subprocess.DEVNULL,
                                           stdout=out, stderr=subprocess.STDOUT)
        wait_for("kd.sock", lambda: self.socket.exists() and self.listed(), alive=self.broker)

    def end_broker(self, how):
        self.broker.send_signal(how)
        status = self.broker.wait(GUARD_S)
        self.broker = None
        return status

    @property
    def socket(self):
        return self.path / NAME / "kd.sock"

    def client(self):
        return KdClient(timeout=GUARD_S).connect(str(self.socket))

    def listed(self):
        status, text = self.run("list", "--json")
        expect(status == 0, f"vmkd list: {text}")
        return next((e for e in json.loads(text) if e["name"] == NAME and "state" in e), None)

    def stats(self):
        status, text = self.run("stats", NAME, "--json")
        expect(status == 0, f"vmkd stats: {text}")
        return json.loads(text)

    def qmp(self, *commands):
        monitor = Qmp(self.path / "qmp.sock")
        try:
            return [monitor.call(command) for command in commands]
        finally:
            monitor.close()


def look_and_step(kd):
    """What a debugger does first, and a breakpoint."""
    version = kd.version()
    expect(kd.read_virtual(version.kern_base, 2) == b"MZ", "no MZ at the kernel's base")
    names = kd.exports(version.kern_base)
    counter = kd.read_u64(names["TkCounter"])
    expect(kd.write_breakpoint(names["TkTick"]), "no breakpoint handle")
    # A break-in byte that met a target which had just stopped is remembered by it, and stops it once more.
    for _ in range(4):
        kd.resume()
        stop = kd.wait_stop()
        if stop.pc == names["TkTick"]:
            break
    expect(stop.code == BREAKPOINT and stop.pc == names["TkTick"], f"{stop} instead of TkTick")
    expect(kd.read_u64(names["TkCounter"]) >= counter, "the counter went back")
    stepped = kd.step()
    expect(stepped.pc != names["TkTick"], f"step gives {stepped}")
    return names


# ---- refusals --------------------------------------------------------------------------------------------------------

@test("what cannot be is one line")
def refusals():
    with Folder() as folder:
        for text in ("", "x", "vm:x", "unix:", "tcp:5000", "tcp:host:0", "serial:", "serial:/dev/null,12345", "unix:" + "a" * 200):
            refused(folder.run("serve", "--from", text, "x"), 1, "--from", "expected")
        refused(folder.run("serve", "--from", "unix:/x", "../x"), 1, "name")
        refused(folder.run("serve", "--from", "tcp:no.such.host.invalid:5000", "x"), 1, "cannot find the host")
        refused(folder.run("serve", "--from"), 2, "--from needs a value")
        refused(folder.run("serve", "--from", "unix:/x"), 2, "name is missing")
        refused(folder.run("serve", "--from", "unix:/x", "--stay", "x"), 2, "--stay")
        refused(folder.run("serve", "--from", "unix:/x", "--no-ram", "x"), 2, "--no-ram")
        left = [p for p in folder.path.iterdir() if p.name != "x" or list(p.iterdir())]
        expect(not left, f"left behind: {left}")


@test("a name that is in use is refused")
def name_clash():
    with Stock() as stock:
        refused(stock.run("serve", "--from", "unix:/nonexistent", NAME), 1, "already served", str(stock.broker.pid))
        refused(stock.run("run", NAME, "--", "qemu-system-x86_64", "-accel", "tcg"), 1, "already served")
    with Vm("taken", "--link", "debugcon") as vm:
        vm.kd_socket()
        refused(vm.run("serve", "--from", "unix:/nonexistent", "taken"), 1, "in use by the VM")


# ---- sessions --------------------------------------------------------------------------------------------------------

@test("a session through the broker", ("unix", "tcp", "serial"))
def session(way):
    with Stock(way) as stock:
        with stock.client() as kd:
            attach(kd)
            look_and_step(kd)
            entry = stock.listed()
            expect(entry["link"] == "serial" and entry["state"] == "broken in", f"list says {entry}")
            expect(entry["arch"] == "x64", f"list says {entry}")
            kd.resume()
        stats = stock.stats()
        expect(stats["refused"] == 0, f"the broker refused something: {stats}")


@test("many debuggers on one stock target")
def many():
    with Stock() as stock, stock.client() as holder, stock.client() as first, stock.client() as second:
        attach(holder)
        names = look_and_step(holder)
        for kd in (first, second):
            attach(kd)
            expect(kd.stop.pc == holder.stop.pc, f"{kd.stop} beside {holder.stop}")
            expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no MZ at the kernel's base")
            try:
                kd.write_breakpoint(names["TkTick"])
                raise AssertionError("an observer may set breakpoints")
            except KdRefused:
                pass
        for kd in (first, second, holder):
            kd.resume()
        holder.break_in()
        for kd in (first, second):
            stop = kd.wait_stop()
            expect(stop.pc == holder.stop.pc, f"{stop} beside {holder.stop}")
        roles = sorted(c["role"] for c in stock.listed()["clients"])
        expect(roles == ["controller", "observer", "observer"], f"list says {roles}")


@test("vmkd kd through the broker, x64 and x86", ("x64", "x86"))
def console(arch):
    with Stock("unix", "--arch", arch) as stock:
        for _ in range(2):
            status, text = stock.run("kd", f"vm:{NAME}", "-b", "-c", "vertarget; lm; r; q")
            expect(status == 0 and "ntoskrnl.exe" in text.lower(), f"status {status}: {text}")


@test("several processors")
def processors():
    with Stock("unix", "--cpus", "4") as stock, stock.client() as kd:
        attach(kd)
        deadline = time.monotonic() + GUARD_S
        while kd.stop.processor_count != 4:
            expect(time.monotonic() < deadline, f"{kd.stop.processor_count} processors")
            kd.resume()
            time.sleep(0.2)
            kd.break_in()
        for cpu in (3, 1, 0):
            stop = kd.switch_processor(cpu)
            expect(stop.processor == cpu, f"switched to {cpu}, {stop.processor} reports")
            expect(kd.get_context()["efl"] & 2, f"CPU {cpu}: no context")


# ---- what happens to a target --------------------------------------------------------------------------------------------

@test("a reset is told, stopped and running", ("stopped", "running"))
def reset(state):
    with Stock() as stock, stock.client() as kd:
        attach(kd)
        first = kd.version().kern_base
        if state == "running":
            kd.resume()
        syncs = kd.link.syncs_seen
        stock.qmp("system_reset")
        event = kd.wait_event()
        while not isinstance(event, Symbols) or kd.link.syncs_seen == syncs:
            if isinstance(event, Symbols):
                kd.go()
            event = kd.wait_event()
        attach(kd)
        expect(kd.version().kern_base == first, "another kernel")
        look_and_step(kd)


@test("the target ends, another one comes, the debugger stays", ("unix", "tcp"))
def next_target(way):
    with Stock(way) as stock, stock.client() as kd:
        attach(kd)
        stock.end_target()
        entry = wait_for("the end in list", lambda: (lambda e: e["remarks"] and e)(stock.listed()), alive=stock.broker)
        expect("target" in entry["remarks"][0] or "connect" in entry["remarks"][0], f"list says {entry}")
        stock.start_target()
        if way != "unix":
            stock.bridge.kill()
            stock.bridge.wait()
        if way == "tcp":
            port = stock.stream.rsplit(":", 1)[1]
            stock.bridge = subprocess.Popen(["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"UNIX-CONNECT:{stock.vm.kd_socket()}"])
        else:
            link_to(stock)
        attach(kd)
        look_and_step(kd)


def link_to(stock):
    """The new VM has a folder of its own: the stream's name is made to lead there."""
    path = Path(stock.stream.removeprefix("unix:"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(stock.vm.kd_socket())


@test("a target that is not there yet is waited for")
def late_target():
    with Stock() as stock:
        stock.end_broker(signal.SIGTERM)
        expect(not stock.socket.exists(), "kd.sock is still there")
        real, stock.stream = stock.stream, f"unix:{stock.path}/later.sock"
        stock.serve()
        entry = wait_for("a remark", lambda: (lambda e: e["remarks"] and e)(stock.listed()))
        expect("later.sock" in entry["remarks"][0], f"list says {entry}")
        with stock.client() as kd:
            (stock.path / "later.sock").symlink_to(real.removeprefix("unix:"))
            attach(kd)
            look_and_step(kd)
        expect(stock.end_broker(signal.SIGINT) == 0, "the broker's status after SIGINT")


@test("--absent: the line is closed while there is no debugger")
def absent():
    with Stock() as stock:
        stock.end_broker(signal.SIGTERM)
        stock.serve("--absent")
        for _ in range(2):
            wait_for("nobody", lambda: stock.listed()["state"] == "no client (--absent)", alive=stock.broker)
            with socket.socket(socket.AF_UNIX) as other:  # QEMU serves one at a time
                other.connect(stock.stream.removeprefix("unix:"))
                other.settimeout(GUARD_S)
                other.send(b"b")
                expect(other.recv(1), "the target does not answer another program")
            with stock.client() as kd:
                attach(kd)
                look_and_step(kd)
                kd.resume()


@test("the VM is paused in the middle of a request")
def paused():
    with Stock() as stock, stock.client() as kd:
        attach(kd)
        base = kd.version().kern_base
        stock.qmp("stop")
        kd.link.send(2, bytes.fromhex("30310000" "00000000" "0000000000000000") + base.to_bytes(8, "little") + (64).to_bytes(4, "little") + bytes(28))
        time.sleep(4)
        stock.qmp("cont")
        attach(kd)
        look_and_step(kd)


# ---- what happens to the broker ----------------------------------------------------------------------------------------------

@test("the broker is killed and started again", ("stopped", "running", "unix", "tcp", "serial"))
def killed_broker(what):
    with Stock(what if what in ("unix", "tcp", "serial") else "unix") as stock:
        with stock.client() as kd:
            attach(kd)
            names = kd.exports(kd.version().kern_base)
            if what == "running":
                kd.resume()
                time.sleep(0.2)
            stock.end_broker(signal.SIGKILL)
        stock.serve()
        with stock.client() as kd:
            stop = attach(kd)
            expect(isinstance(stop, Stop), f"{stop}")
            expect(kd.exports(kd.version().kern_base) == names, "other exports")
            look_and_step(kd)
            kd.resume()


@test("killed between any two steps of a talk")
def killed_anywhere():
    with Stock() as stock:
        before = 0
        for step in range(12):
            with stock.client() as kd:
                attach(kd)
                names = kd.exports(kd.version().kern_base)
                counter = kd.read_u64(names["TkCounter"])
                expect(counter >= before, f"step {step}: the counter went back from {before} to {counter}")
                before = counter
                if step % 2:
                    kd.resume()
                os.kill(stock.broker.pid, signal.SIGKILL)  # with what it has not written
                stock.broker.wait(GUARD_S)
            stock.serve()
        with stock.client() as kd:
            attach(kd)
            look_and_step(kd)


if __name__ == "__main__":
    main()
