# SPDX-License-Identifier: MIT
"""What the test-kernel cases of tk_*.py share: a case boots a kernel of its own and gets it with a client attached."""
import struct
import time

from kdclient import UNSUCCESSFUL, Command, KdClient, KdError, KdRefused, Stop, Symbols
from vm import Vm

MACHINE = {"x64": 0x8664, "x86": 0x14C}
CASES = []


class Skip(Exception):
    """The case does not apply here; the text says why."""


def case(*scenarios, cpus=1, set_words=("break",), arch=None, attach=True, link=None, more=()):
    """A case that boots its own kernel. It is called with the machine and a client that waits in the first stop."""
    def register(function):
        CASES.append((function.__name__, function, scenarios, cpus, set_words, arch, attach, link, more))
        return function
    return register


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(got, wanted, what):
    if got != wanted:
        def show(value):
            return hex(value) if isinstance(value, int) else repr(value)
        raise AssertionError(f"{what}: expected {show(wanted)}, got {show(got)}")


def refused(call, what, status=UNSUCCESSFUL):
    try:
        call()
    except KdRefused as refusal:
        equal(refusal.status, status, f"status of {what}")
        return refusal.reply
    raise AssertionError(f"{what} was not refused")


class Machine:
    """One booted kernel with its client."""

    def __init__(self, options, arch, scenarios, cpus, set_words, more):
        self.options, self.arch, self.is64 = options, arch, arch == "x64"
        arguments = ["--arch", arch, "--cpus", cpus, "--accel", options.accel, "--link", options.link]
        for scenario in scenarios:
            arguments += ["--scenario", scenario]
        for word in set_words:
            arguments += ["--set", word]
        self.vm = Vm("t", *arguments, *more)
        self.kd = KdClient(timeout=options.timeout)
        self._symbols = None

    def __enter__(self):
        self.vm.__enter__()
        self.kd.connect(str(self.vm.kd_socket()))
        return self

    def __exit__(self, *exc):
        self.kd.close()
        return self.vm.__exit__(*exc)

    def symbols(self):
        """The kernel's exports; the first call needs a stop."""
        if self._symbols is None:
            self._symbols = self.kd.exports(self.kd.version().kern_base)
        return self._symbols

    def run_until(self, condition, what):
        """Lets the kernel run for moments until condition() holds at a stop. Leaves it stopped."""
        for _ in range(200):
            self.kd.resume()
            time.sleep(0.05)
            self.kd.break_in()
            if condition():
                return
        raise AssertionError(f"never: {what}")

    def run_to_ready(self):
        """From the initial break to the scenario, where the other CPUs run; stopped again there."""
        self.kd.resume()
        self.kd.wait_print("TK: up")
        return self.kd.break_in()


def walk(kd, special, va):
    """Physical address of va by this client's own page walk; None when not mapped."""
    cr3, entry_mask = special["cr3"], 0x000FFFFFFFFFF000
    if kd.is64:
        table, shifts = cr3 & entry_mask, (39, 30, 21, 12)
    else:
        table, shifts = cr3 & 0xFFFFFFE0, (30, 21, 12)
        va &= 0xFFFFFFFF
    for shift in shifts:
        index = va >> shift & (0x3 if shift == 30 and not kd.is64 else 0x1FF)
        entry = struct.unpack("<Q", kd.read_physical(table + 8 * index, 8))[0]
        if not entry & 1:
            return None
        if shift == 12 or (entry & 0x80 and shift < 39 and (kd.is64 or shift == 21)):
            return (entry & entry_mask & ~((1 << shift) - 1)) | va & (1 << shift) - 1
        table = entry & entry_mask
    return None


def pump_to_end(m):
    """Serves events until the machine ends."""
    try:
        while True:
            event = m.kd.wait_event()
            if isinstance(event, (Symbols, Command)):
                m.kd.go()
    except KdError:
        pass


def verdict_case(name, *scenarios, **more):
    def run(m):
        m.kd.resume()
        pump_to_end(m)
        equal(m.vm.wait(), 0, "exit status")
        check("TK: verdict passed" in m.vm.output(), "the verdict in the log")
    run.__name__ = name
    case(*scenarios, **more)(run)


def run_case(options, arch, entry):
    name, function, scenarios, cpus, set_words, only, attach, link, more = entry
    if only is not None and only != arch:
        raise Skip(f"{only} only")
    if link is not None and options.link not in link.split():
        raise Skip(f"not with --link {options.link}")
    with Machine(options, arch, scenarios, cpus, set_words, more) as m:
        if attach:
            first = m.kd.attach(break_in="break" not in set_words)
            if not isinstance(first, Stop):  # a module notice of the boot
                m.kd.go()
                m.kd.wait_stop() if "break" in set_words else m.kd.break_in()
        function(m)
