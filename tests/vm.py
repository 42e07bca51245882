# SPDX-License-Identifier: MIT
"""A test kernel in QEMU for a test: started through tools/testkernel in a runtime folder of its own, spoken to by QMP, `vmkd kd -c`
and `vmkd stats`, and ended for sure."""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("VMKD_BUILD", ROOT / "build"))
VMKD = BUILD / "vmkd"
# A hang guard for one step, several times what the slowest machine needs. Nothing is ever judged by it but "it hangs".
GUARD_S = float(os.environ.get("VMKD_TEST_GUARD_S", "180"))


# What the brokers of all VMs do with RAM (the reader of a suite's results should know): "yes" they answer from it, "no" they do not,
# "check" they hold the guest's answers against it, and any difference fails the test that the VM belongs to.
RAM = os.environ.get("VMKD_TEST_RAM", "yes")
RAM_OPTION = {"yes": [], "no": ["--run", "--no-ram"], "check": ["--run", "--check-ram"]}[RAM]
RAM_VERDICT = re.compile(r"--check-ram: (\d+) bytes of RAM compared with the guest's answers, (\d+) differ")
ram_compared = 0  # bytes, in all VMs of this process


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In the child: a test that is killed takes its VM with it."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Hang(Exception):
    """A step did not end within its hang guard."""


def kvm():
    """('hardware'|'software'|'missing', remark) from the probe."""
    out = subprocess.run([BUILD / "tools" / "kvm-probe"], capture_output=True, text=True).stdout.strip()
    kind, _, remark = out.partition(" ")
    return kind or "missing", remark


class RamDiffers(ValueError):
    """What the guest says is in its memory is not what is there."""


def finish_ram(report):
    """At a suite's end: whether anything was compared at all."""
    if RAM == "check":
        report.check(f"--check-ram: {ram_compared} bytes of guest RAM compared, no difference", ram_compared > 0, "nothing was compared")


def wait_for(what, condition, guard=GUARD_S, alive=None):
    """Calls condition() until it gives something true, which is returned. alive: a process that must go on living meanwhile."""
    end = time.monotonic() + guard
    while True:
        value = condition()
        if value:
            return value
        if alive is not None and alive.poll() is not None:
            raise Hang(f"{what}: the VM ended with status {alive.returncode}")
        if time.monotonic() > end:
            raise Hang(f"{what}: not within {guard:.0f} s")
        time.sleep(0.02)


class Qmp:
    """A QMP monitor. One at a time per socket, as QEMU wants it."""

    def __init__(self, path, guard=GUARD_S):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(guard)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw")
        self.events = []
        json.loads(self.file.readline())
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        """The command's answer; raises Hang when none comes."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        try:
            self.file.write(json.dumps(message) + "\n")
            self.file.flush()
            while True:
                line = self.file.readline()
                if not line:
                    raise ConnectionError(f"QMP closed during {command}")
                answer = json.loads(line)
                if "event" in answer:
                    self.events.append(answer["event"])
                elif "error" in answer:
                    raise RuntimeError(f"{command}: {answer['error']['desc']}")
                else:
                    return answer["return"]
        except socket.timeout:
            raise Hang(f"QMP does not answer {command}") from None

    def close(self):
        self.file.close()
        self.socket.close()


class Vm:
    """with Vm("x", "--link", "hook") as vm: … The arguments are tools/testkernel's."""

    def __init__(self, name, *arguments, environment=None):
        self.name = name
        self.arguments = [str(a) for a in (*RAM_OPTION, *arguments)]
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-test-"))
        self.log = self.folder / "vm.log"
        self.env = {**os.environ, "VMKD_RUNTIME_DIR": str(self.folder), **(environment or {})}
        self.process = None
        self.qmp_connection = None

    def __enter__(self):
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([ROOT / "tools" / "testkernel", self.name, *self.arguments], cwd=ROOT,
                                            env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                            start_new_session=True, preexec_fn=die_with_parent)
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            print(f"---- the VM {self.name} said:\n{self.output()[-3000:]}\n----", flush=True)
        self.end()
        verdict = RAM_VERDICT.search(self.output())
        shutil.rmtree(self.folder, ignore_errors=True)
        if verdict:
            self.judge_ram(*map(int, verdict.groups()), error, verdict)
        return False

    @staticmethod
    def judge_ram(compared, differ, error, verdict):
        global ram_compared
        ram_compared += compared
        if RAM == "check" and differ and error is None:
            raise RamDiffers(verdict.string[verdict.start():].splitlines()[0])

    def output(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def runtime(self):
        return self.folder / self.name

    def end(self):
        """Ends the VM and everything started with it."""
        if self.qmp_connection:
            self.qmp_connection.close()
            self.qmp_connection = None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def wait(self, guard=GUARD_S):
        """The exit status, when the VM ends by itself."""
        try:
            return self.process.wait(guard)
        except subprocess.TimeoutExpired:
            raise Hang(f"the VM {self.name} did not end by itself") from None

    def kd_socket(self):
        return wait_for("kd.sock", lambda: (self.runtime / "kd.sock").exists() and self.runtime / "kd.sock", alive=self.process)

    def qmp(self):
        if self.qmp_connection is None:
            path = self.runtime / "qmp.sock"
            wait_for("qmp.sock", path.exists, alive=self.process)
            self.qmp_connection = Qmp(path)
        return self.qmp_connection

    def run(self, *arguments, guard=GUARD_S, **more):
        """Runs build/vmkd with this VM's runtime folder: (status, stdout + stderr)."""
        try:
            done = subprocess.run([VMKD, *map(str, arguments)], cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=guard, **more)
        except subprocess.TimeoutExpired as hung:
            raise Hang(f"vmkd {' '.join(map(str, arguments))}: {(hung.stdout or b'').decode(errors='replace')[-500:]}") from None
        return done.returncode, done.stdout.decode(errors="replace")

    def start(self, *arguments):
        """Starts build/vmkd in the background with this VM's runtime folder."""
        return subprocess.Popen([VMKD, *map(str, arguments)], cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def kd(self, commands, guard=GUARD_S):
        """`vmkd kd -b -c COMMANDS`: breaks in first."""
        self.kd_socket()
        return self.run("kd", f"vm:{self.name}", "-b", "-c", commands, guard=guard)

    def stats(self):
        status, text = self.run("stats", self.name, "--json")
        if status:
            raise RuntimeError(f"vmkd stats: {text}")
        return json.loads(text)

    def listed(self):
        """This VM's entry of `vmkd list --json`, or None."""
        status, text = self.run("list", "--json")
        if status:
            raise RuntimeError(f"vmkd list: {text}")
        entries = json.loads(text)
        entries = entries if isinstance(entries, list) else entries.get("vms", [])
        return next((e for e in entries if e.get("name") == self.name), None)
