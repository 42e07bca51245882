#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Stock QEMU with libvmkd-vmm.so and the test kernel: what QMP gets while a vCPU waits for the debugger.

usage: vmm/qemu_test.py [BUILD]     exit status 0 passed, 1 failed, 77 skipped (says what is missing)

The script is the broker. Deadlines are hang guards; how long an answer took is printed, not judged.
"""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
HANG = 30
LINK_VERSION = 4
HELLO, REGISTERED, UNREGISTERED, PACKET, WAIT, BREAKIN_TAKEN, STATS = 1, 2, 3, 4, 5, 6, 7
ATTACH, DELIVER, BREAKIN, RESEND, STATS_GET, CANCEL = 32, 33, 34, 35, 36, 37
F_WAITS, F_RESUMES, F_DROPPABLE = 1, 2, 4
GONE_RESET, GONE_BYE = 1, 3
HEAD = struct.Struct("<HHIIHHHHIII4Q")
MANIPULATE, STATE_CHANGE = 2, 7
GET_CONTEXT, SET_CONTEXT, CONTINUE2 = 0x3132, 0x3133, 0x313C
RIP = 0xF8  # in an amd64 CONTEXT (KD reference, section 6.1)


class Failure(Exception):
    pass


def check(truth, what):
    if not truth:
        raise Failure(what)
    print("ok:", what, flush=True)


class Broker:
    """One connection to vmm.sock."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(HANG)
        self.socket.connect(path)
        self.hello = self.read()
        self.send(ATTACH, seq=LINK_VERSION)

    def read(self):
        data = self.socket.recv(8192)
        if not data:
            raise EOFError
        f = HEAD.unpack_from(data)
        keys = ("type", "flags", "body_len", "seq", "kd_type", "hdr_len", "want", "reserved", "code", "vcpu", "r2",
                "cr0", "cr3", "cr4", "efer")
        message = dict(zip(keys, f))
        message["body"] = data[HEAD.size:]
        return message

    def send(self, kind, flags=0, seq=0, kd_type=0, hdr_len=0, body=b""):
        head = HEAD.pack(kind, flags, len(body), seq, kd_type, hdr_len, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        self.socket.send(head + body)

    def until(self, *kinds):
        """The next message of one of these types; load notices on the way are continued."""
        while True:
            m = self.read()
            if m["type"] in kinds:
                return m
            if self.is_load_notice(m):
                self.go()

    @staticmethod
    def is_load_notice(m):
        return m["type"] == PACKET and m["kd_type"] == STATE_CHANGE and m["body"][:4] == b"\x31\x30\0\0"

    def until_stop(self):
        """The guest has stopped with an exception and waits."""
        while True:
            m = self.until(PACKET, WAIT)
            if self.is_load_notice(m):
                if not m["flags"] & F_WAITS:
                    self.until(WAIT)
                self.go()
            elif m["type"] == PACKET and m["kd_type"] == STATE_CHANGE:
                return m if m["flags"] & F_WAITS else self.until(WAIT)

    def request(self, api, data=b""):
        body = struct.pack("<IHHI", api, 0, 0, 0).ljust(56, b"\0")
        self.send(DELIVER, kd_type=MANIPULATE, hdr_len=56, body=body + data)
        reply = self.until(PACKET)
        if reply["kd_type"] != MANIPULATE or not reply["flags"] & F_WAITS:
            raise Failure(f"a reply to {api:#x} that waits for more was expected, got {reply}")
        return reply["body"]

    def go_on(self):
        """Continue behind the breakpoint instruction that stopped the kernel, as debuggers do."""
        context = bytearray(self.request(GET_CONTEXT)[56:])
        rip = struct.unpack_from("<Q", context, RIP)[0] + 1
        struct.pack_into("<Q", context, RIP, rip)
        self.request(SET_CONTEXT, bytes(context))
        self.go()

    def go(self):
        body = struct.pack("<IHHII", CONTINUE2, 0, 0, 0, 0) + struct.pack("<I", 0x00010002)
        self.send(DELIVER, flags=F_RESUMES, kd_type=MANIPULATE, hdr_len=56, body=body.ljust(56, b"\0"))

    def stats(self):
        self.send(STATS_GET)
        return self.until(STATS)["body"]


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(HANG)
        connect(self.socket, path)
        self.file = self.socket.makefile("rw")
        json.loads(self.file.readline())
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        start = time.monotonic()
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise Failure(f"QMP ended during {command}")
            answer = json.loads(line)
            if "event" not in answer:
                if command != "qmp_capabilities":
                    print(f"    {command} answered in {(time.monotonic() - start) * 1000:.1f} ms")
                return answer["return"]

    def monitor(self, line):
        return self.ask("human-monitor-command", **{"command-line": line})


def connect(sock, path):
    for _ in range(HANG * 100):
        try:
            sock.connect(path)
            return
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)
    raise Failure(f"nobody listens at {path}")


def make_archive(work):
    os.mkdir(f"{work}/archive")
    shutil.copy(f"{BUILD}/testkernel/x64/ntoskrnl.exe", f"{work}/archive/")
    shutil.copy(f"{BUILD}/guest/x64/kdvmkd.dll", f"{work}/archive/")
    shutil.copy(f"{BUILD}/x64/kdhostile.dll", f"{work}/archive/")
    subprocess.run("tar --format=ustar -cf ../archive.tar *", shell=True, cwd=f"{work}/archive", check=True)


def start_qemu(work, words, cpus):
    env = dict(os.environ, LD_PRELOAD=f"{BUILD}/libvmkd-vmm.so", VMKD_NAME="vm", VMKD_RUNTIME_DIR=work)
    command = ["qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "host", "-m", "256M", "-smp", f"{cpus},sockets={cpus}", "-nodefaults",
               "-display", "none", "-kernel", f"{BUILD}/testkernel/x64/boot.elf", "-initrd", f"{work}/archive.tar",
               "-append", "kernel=ntoskrnl.exe " + words,
               "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-qmp", f"unix:{work}/qmp.sock,server=on,wait=off",
               "-chardev", f"file,id=log,path={work}/log", "-device", "isa-debugcon,iobase=0xe9,chardev=log"]
    if os.path.exists("/usr/share/qemu/qboot.rom"):
        command += ["-bios", "qboot.rom"]
    return subprocess.Popen(command, env=env)


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def wait_for_socket(work):
    probe = f"{work}/vm/vmm.sock"
    for _ in range(HANG * 100):
        if os.path.exists(probe):
            time.sleep(0.02)  # between bind and listen
            return probe
        time.sleep(0.01)
    raise Failure("the library has made no socket")


def qmp_while_waiting(work, qemu):
    qmp = Qmp(f"{work}/qmp.sock")
    broker = Broker(wait_for_socket(work))
    check(broker.hello["type"] == HELLO, "the library greets")
    stop = broker.until_stop()
    check(stop["want"] == MANIPULATE and stop["cr3"] and stop["cr0"] & 0x80000000, "the kernel waits, with its CR3")

    check(qmp.ask("query-status")["status"] == "running", "query-status")
    check("RIP" in qmp.monitor("info registers"), "info registers")
    for _ in range(5):
        qmp.ask("stop")
        check(qmp.ask("query-status")["status"] == "paused", "stop")
        qmp.ask("cont")
        check(qmp.ask("query-status")["status"] == "running", "cont")
    before = cpu_ticks(qemu.pid)
    time.sleep(1)
    used = cpu_ticks(qemu.pid) - before
    check(used <= 20, f"waiting uses no CPU ({used} ticks of 10 ms in a second)")

    broker.go_on()
    broker.send(BREAKIN)
    check(broker.until(BREAKIN_TAKEN), "Continue and break in again")
    broker.until_stop()

    qmp.ask("stop")
    broker.send(STATS_GET)  # somebody has to take it when the VM goes on
    time.sleep(0.1)
    qmp.ask("cont")
    broker.go_on()
    broker.send(BREAKIN)
    broker.until_stop()
    check(True, "a packet that comes while the VM is paused is taken afterwards")

    qmp.ask("system_reset")
    gone = broker.until(UNREGISTERED)
    check(gone["code"] == GONE_RESET, "system_reset while waiting ends the registration")
    broker.until(REGISTERED)
    broker.until_stop()
    check(True, "the guest is back after the reset")

    broker.socket.close()
    time.sleep(0.1)
    check(qmp.ask("query-status")["status"] == "running", "query-status without a broker")
    broker = Broker(f"{work}/vm/vmm.sock")
    broker.until_stop()
    check(True, "a new broker gets the stop again")
    qmp.ask("quit")
    check(broker.until(UNREGISTERED)["code"] == GONE_BYE, "the library says goodbye")
    check(qemu.wait(HANG) == 0, "quit while waiting")
    check(not os.path.exists(f"{work}/vm/vmm.sock"), "the socket is gone")


def stopped_broker(work, qemu):
    """A broker process that is stopped, then killed."""
    qmp = Qmp(f"{work}/qmp.sock")
    path = wait_for_socket(work)
    pid = os.fork()
    if pid == 0:
        try:
            broker = Broker(path)
            broker.until_stop()
            while True:
                signal.pause()
        finally:
            os._exit(1)
    time.sleep(1.5)
    os.kill(pid, signal.SIGSTOP)
    qmp.ask("stop")
    qmp.ask("cont")
    check("RIP" in qmp.monitor("info registers"), "QMP answers with a stopped broker")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    check(qmp.ask("query-status")["status"] == "running", "QMP answers with a killed broker")
    broker = Broker(path)
    broker.until_stop()
    broker.go_on()
    check(True, "the next broker gets the stop and lets the guest run")
    qmp.ask("quit")
    check(qemu.wait(HANG) == 0, "quit while the guest runs")


def other_cpus_sleep(work, qemu):
    """The kernel keeps the other CPUs spinning while one waits; they must not use the host's."""
    qmp = Qmp(f"{work}/qmp.sock")
    broker = Broker(wait_for_socket(work))
    broker.until_stop()
    broker.go_on()
    time.sleep(1)  # for the other CPUs to come up
    for _ in range(3):
        broker.send(BREAKIN)
        broker.until_stop()
        time.sleep(0.2)
        before = cpu_ticks(qemu.pid)
        time.sleep(1)
        used = cpu_ticks(qemu.pid) - before
        check(used <= 20, f"nobody spins ({used} ticks of 10 ms in a second)")
        qmp.ask("stop")
        check("RIP" in qmp.monitor("info registers -a"), "stop, info registers -a")
        qmp.ask("cont")
        broker.go_on()
    qmp.ask("system_reset")
    broker.until(UNREGISTERED)
    broker.until_stop()
    check(True, "reset, and the guest is back")
    time.sleep(0.1)
    qmp.ask("quit")
    check(qemu.wait(HANG) == 0, "quit while waiting")


def hostile_guest(work, qemu):
    """The transport that attacks its host, with a broker that takes everything."""
    qmp = Qmp(f"{work}/qmp.sock")
    broker = Broker(wait_for_socket(work))
    verdict, messages = "", 0
    broker.socket.settimeout(0.5)
    deadline = time.monotonic() + 4 * HANG
    while "verdict" not in verdict and time.monotonic() < deadline:
        try:
            broker.read()
            messages += 1
        except socket.timeout:
            with open(f"{work}/log", encoding="utf-8", errors="replace") as f:
                verdict = "".join(line for line in f if line.startswith("hostile:"))
    print(verdict, end="")
    check("verdict passed" in verdict, "the attacks end, and the host wrote nowhere else")
    broker.socket.settimeout(HANG)
    stats = struct.unpack("<13Q", broker.stats())
    check(stats[8] > 0, f"the library refused {stats[8]} times in {stats[0]} calls, {messages} messages to the broker")
    check(qmp.ask("query-status")["status"] == "running", "the VMM is alive")
    qmp.ask("quit")
    check(qemu.wait(HANG) == 0, "quit")


def missing():
    for what in (f"{BUILD}/libvmkd-vmm.so", f"{BUILD}/testkernel/x64/ntoskrnl.exe", f"{BUILD}/guest/x64/kdvmkd.dll",
                 f"{BUILD}/x64/kdhostile.dll"):
        if not os.path.exists(what):
            return f"{what} is missing; run make"
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is missing"
    return "" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "/dev/kvm is missing or not permitted"


def run(test, words, cpus=1):
    work = tempfile.mkdtemp(prefix="vmkd-vmm-")
    qemu = None
    try:
        make_archive(work)
        qemu = start_qemu(work, words, cpus)
        test(work, qemu)
        return True
    except (Failure, OSError, EOFError) as error:
        print(f"FAILED: {test.__name__}: {error or type(error).__name__}")
        if os.path.exists(f"{work}/log"):
            with open(f"{work}/log", encoding="utf-8", errors="replace") as f:
                print(f.read()[-2000:])
        return False
    finally:
        if qemu and qemu.poll() is None:
            qemu.kill()
            qemu.wait()
        shutil.rmtree(work)


def main():
    reason = missing()
    if reason:
        print("skipped:", reason)
        return 77
    passed = [run(qmp_while_waiting, "transport=kdvmkd.dll break"), run(stopped_broker, "transport=kdvmkd.dll break"),
              run(other_cpus_sleep, "transport=kdvmkd.dll break", 2),
              run(hostile_guest, "transport=kdhostile.dll", 2)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
