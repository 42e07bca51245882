#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The whole way in stock QEMU: kernel, kdvmkd.dll, VMM side, broker, and a client that shares no code with any of them.

    tests/test_e2e.py             all
    tests/test_e2e.py WORD…       the tests whose names contain one of the words
"""
import os
import signal
import sys
import time
import traceback

from kdclient import BREAKPOINT, Command, KdClient, KdClosed, KdError, KdTimeout, Print, Prompt, SINGLE_STEP, Stop, Symbols
from report import Report
from vm import GUARD_S, Hang, Vm, finish_ram, kvm, wait_for

REPORT = Report()
KVM, KVM_REMARK = kvm()
TESTS = []


class Config:
    """A way to run the test kernel."""

    def __init__(self, name, *arguments, needs_kvm=False):
        self.name, self.arguments, self.needs_kvm = name, arguments, needs_kvm

    def vm(self, *more, scenarios=("counter",)):
        words = [a for s in scenarios for a in ("--scenario", s)]
        return Vm("e2e", *self.arguments, *words, *more)


def hook(cpus):
    return Config(f"x64 hook KVM, {cpus} CPU", "--accel", "kvm", "--link", "hook", "--cpus", cpus, needs_kvm=True)


def debugcon(arch, cpus, *more):
    name = f"{arch} debugcon TCG, {cpus} CPU" + "".join(f", {word}" for word in more if not word.startswith("--"))
    return Config(name, "--arch", arch, "--accel", "tcg", "--link", "debugcon", "--cpus", cpus, *more)


HOOK = hook(1)
DEBUGCON = debugcon("x64", 1)
BOTH = [HOOK, DEBUGCON]
MATRIX = [hook(1), hook(4), hook(8), debugcon("x64", 1), debugcon("x64", 4), debugcon("x64", 8), debugcon("x86", 1),
          debugcon("x86", 4), debugcon("x64", 1, "--machine", "q35")]


def test(configs, title):
    """Registers a test for each configuration; it is called with the Config and fails by raising."""
    def register(function):
        for config in configs:
            TESTS.append((f"{title} [{config.name}]", function, config))
        return function
    return register


class Failed(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Failed(what)


def client(vm):
    kd = KdClient(timeout=GUARD_S)
    kd.connect(str(vm.kd_socket()))
    return kd


def attach(kd):
    """Stopped, past every module notice."""
    stop = kd.attach()
    while not isinstance(stop, Stop):
        kd.go()
        stop = kd.attach()
    return stop


def kernel_exports(kd):
    return kd.exports(kd.version().kern_base)


# ---- sessions --------------------------------------------------------------------------------------------------

@test(MATRIX, "session")
def session(config):
    cpus = int(config.arguments[config.arguments.index("--cpus") + 1])
    with config.vm() as vm, client(vm) as kd:
        attach(kd)
        version = kd.version()
        expect(kd.read_virtual(version.kern_base, 2) == b"MZ", "no MZ at the kernel's base")
        names = [m.name.lower() for m in kd.modules()]
        expect(names[0] == "ntoskrnl.exe" and "kdcom.dll" in names, f"modules are {names}")
        names = kd.exports(version.kern_base)
        tick, counter = names["TkTick"], names["TkCounter"]
        look_at_processors(kd, cpus)
        if not (config.needs_kvm and KVM == "software"):  # its emulator ends at an int3: "KVM internal error"
            breakpoint_and_step(kd, tick, counter)
        else:
            runs_on(kd, counter)
        leave(kd)
        stats = vm.stats()
        expect(find_number(stats, "refused") == 0, f"the host refused guest input: {stats}")


def look_at_processors(kd, cpus):
    # SMP start-up may not be through at the first stop.
    wait_for_cpus(kd, cpus)
    for cpu in range(cpus):
        if cpu != kd.stop.processor:
            stop = kd.switch_processor(cpu)
            expect(stop.processor == cpu, f"switched to {cpu}, CPU {stop.processor} reports")
        special = kd.special_registers()
        cr0, cr3 = special["cr0"], special["cr3"]
        expect(cr0 & 0x80000001 == 0x80000001 and cr3 & ~0xFFF, f"CPU {cpu}: cr0 {cr0:#x}, cr3 {cr3:#x}")
        expect(kd.get_context()["efl"] & 2, f"CPU {cpu}: no context")
    if cpus > 1:
        kd.switch_processor(0)


def wait_for_cpus(kd, cpus):
    deadline = time.monotonic() + GUARD_S
    while kd.stop.processor_count != cpus:
        expect(time.monotonic() < deadline, f"{kd.stop.processor_count} of {cpus} CPUs")
        kd.resume()
        time.sleep(0.2)
        kd.break_in()


def breakpoint_and_step(kd, tick, counter):
    for round_number in range(3):
        before = kd.read_u64(counter)
        handle = kd.write_breakpoint(tick)
        expect(handle, "no breakpoint handle")
        kd.resume()
        stop = kd.wait_stop()
        expect(stop.code == BREAKPOINT and stop.pc == tick, f"round {round_number}: {stop} instead of TkTick at {tick:#x}")
        if kd.is64:
            expect(kd.get_context()["rcx"] == 1, "TkTick's argument is not 1")
        stepped = kd.step()
        expect(stepped.code == SINGLE_STEP and stepped.pc != tick, f"step gives {stepped}")
        expect(kd.read_u64(counter) >= before, "the counter went back")


def runs_on(kd, counter):
    """Runs between stops: the counter moves, if not at once (the scenario may not have begun) then after some rounds."""
    before, deadline = kd.read_u64(counter), time.monotonic() + GUARD_S
    while kd.read_u64(counter) <= before:
        expect(time.monotonic() < deadline, "the counter stands still")
        kd.resume()
        time.sleep(0.2)
        kd.break_in()


def leave(kd):
    """Removes breakpoints and lets the target run."""
    for handle in range(1, 33):
        try:
            kd.restore_breakpoint(handle)
        except KdError:
            pass  # not set
    kd.resume()


def find_number(tree, name):
    """The number called `name` in `vmkd stats --json`, at whatever depth."""
    if isinstance(tree, dict):
        if name in tree and isinstance(tree[name], (int, float)):
            return tree[name]
        for value in tree.values():
            found = find_number(value, name)
            if found is not None:
                return found
    return None


@test([debugcon("x64", 1, "--ram", "6G"), debugcon("x64", 1, "--machine", "q35", "--ram", "6G")], "6 GiB")
def six_gib(config):
    """Where RAM above the hole is at another offset of the file than its address says."""
    with config.vm() as vm, client(vm) as kd:
        attach(kd)
        for gib in (1, 4, 5, 6):
            address = (gib << 30) + 0x123450
            pattern = os.urandom(64)
            kd.write_physical(address, pattern)
            expect(kd.read_physical(address, 64) == pattern, f"physical memory at {address:#x} reads back otherwise")
            virtual = 0xFFFF800000000000 + address
            expect(kd.read_virtual(virtual, 64) == pattern, f"virtual memory at {virtual:#x} reads otherwise")
        leave(kd)


@test(BOTH, "the console")
def console(config):
    with config.vm() as vm:
        status, text = vm.kd("vertarget; r; lm; ~; db nt L10; q")
        expect(status == 0, f"vmkd kd ended with {status}:\n{text}")
        for word in ("rip", "ntoskrnl", "4d 5a"):
            expect(word in text.lower(), f"'{word}' is not in:\n{text}")
        # Whatever the console left behind, the next one finds a kernel that runs or can be stopped.
        status, text = vm.kd("r rip; q")
        expect(status == 0 and "rip" in text.lower(), f"the second console: {status}\n{text}")
        status, text = vm.kd("db 0 L1; q")
        expect(status != 0, f"reading address 0 succeeded:\n{text}")


@test([debugcon("x64", 2, "--kernel-name", "mykernel.exe"), hook(2)], "kernel under another name")
def other_name(config):
    more = () if "--kernel-name" in config.arguments else ("--kernel-name", "mykernel.exe")
    with config.vm(*more) as vm, client(vm) as kd:
        attach(kd)
        names = [m.name.lower() for m in kd.modules()]
        expect("mykernel.exe" in names and "ntoskrnl.exe" not in names, f"modules are {names}")
        leave(kd)
        kd.close()
        status, text = vm.kd("lm; q")
        expect(status == 0 and "mykernel" in text.lower(), f"lm: {status}\n{text}")


@test(BOTH, "clients come and go")
def come_and_go(config):
    with config.vm() as vm:
        base = None
        for round_number in range(5):
            with client(vm) as kd:
                attach(kd)
                base = base or kd.version().kern_base
                expect(kd.read_virtual(base, 2) == b"MZ", f"round {round_number}")
                if round_number % 2:
                    leave(kd)  # else it goes away in the middle of the stop
        with client(vm) as kd:
            kd.link.write(b"\x30\x30\x30\x30garbage" * 50)
        with client(vm) as kd:
            attach(kd)
            expect(kd.read_virtual(base, 2) == b"MZ", "after garbage")
            leave(kd)


# ---- scenarios -------------------------------------------------------------------------------------------------

def run_to_verdict(config, *words, attached=True, more=()):
    """Runs scenarios to their end with a client that lets everything run; (verdict, prints, log)."""
    with config.vm(*more, scenarios=words) as vm:
        prints = []
        if attached:
            with client(vm) as kd:
                kd.files = {}
                drive(kd, vm)
                prints = kd.prints
        status = vm.wait()
        return status, prints, vm.output()


def drive(kd, vm):
    """Lets the target run on from every stop until its connection ends."""
    kd.link.send_reset()
    while True:
        try:
            event = kd.wait_event(timeout=1)
        except KdTimeout:
            if vm.process.poll() is not None:
                return
            continue
        except (KdClosed, OSError):
            return
        try:
            if isinstance(event, (Stop, Symbols, Command)):
                kd.resume() if isinstance(event, Stop) else kd.go()
        except (KdClosed, KdTimeout, OSError):
            return


def ends_well(*words, more=()):
    def run(config):
        status, _, log = run_to_verdict(config, *words, more=more)
        expect(status == 0, f"verdict {status}; the log ends:\n{log[-1500:]}")
        expect("verdict failed" not in log, log[-1500:])
    return run


test(BOTH + [debugcon("x86", 1)], "power: D3 and D0")(ends_well("d3d0"))
test(BOTH + [debugcon("x86", 1)], "power: hibernation")(ends_well("hibernate"))
test(BOTH, "no answer outside CPL 0")(ends_well("cpl3"))
test(BOTH + [debugcon("x86", 1)], "a kernel without RtlSetSystemGlobalData")(ends_well("noglobaldata", "poweroff"))
test(BOTH, "a kernel with a read-only shared page")(ends_well("readonlyshared", "poweroff"))
test(BOTH, "drivers come and go")(ends_well("loadunload=3", "poweroff"))


@test(BOTH + [debugcon("x86", 1)], "the module is moved to other pages")
def relocate(config):
    with config.vm(scenarios=("relocate=60", "wait=64", "poweroff")) as vm:
        stops = 0
        with client(vm) as kd:
            # Requests, answers and break-ins while it prints: each makes the host write into the area.
            for _ in range(3):
                try:
                    attach(kd)
                    base = kd.version().kern_base
                    kd.read_virtual(base, 4000)
                    kd.get_context()
                    stops += 1
                    kd.resume()
                except (KdClosed, OSError):
                    break
            drive(kd, vm)
        status = vm.wait()
        log = vm.output()
        expect(status == 0 and "verdict passed: relocate" in log and "verdict failed" not in log, f"{status}:\n{log[-1500:]}")
        expect(stops > 0, "the kernel had ended before the client could stop it")


@test(BOTH + [debugcon("x86", 1)], "a print flood arrives whole, in order, once")
def print_flood(config):
    lines = 300
    # An interpreted guest needs about a clock tick for a line of 511 characters, so there is nothing to gather: short ones then.
    is_slow = config.needs_kvm and KVM == "software"
    word, prefix = ("print", "TK: line ") if is_slow else ("printflood", "TK: flood ")
    with config.vm(scenarios=("wait=128", f"{word}={lines}", "prompt", "wait=64")) as vm:
        with client(vm) as kd:
            kd.answers["TK: your name? "] = "all of them"
            kd.link.send_reset()
            wait_for_print(kd, "TK: you said")
            numbers = [int(p.split()[2]) for p in kd.prints if p.startswith(prefix) and "done" not in p]
            expect(numbers == list(range(1, lines + 1)), f"{len(numbers)} lines, in this order: {numbers[:20]} ...")
        stats = vm.stats()
        calls = max(find_number(stats, "port_calls") or 0, find_number(stats, "doorbells") or 0)
        expect((find_number(stats, "packets_out") or 0) >= lines, f"{stats}")
        expect(0 < calls < lines * 3 // 4, f"{calls} calls for {lines} prints: they are not gathered")


def wait_for_print(kd, text):
    """Waits for a print, letting everything else run on."""
    deadline = time.monotonic() + GUARD_S
    while not any(text in p for p in kd.prints):
        expect(time.monotonic() < deadline, f"no print '{text}'; the last ones: {kd.prints[-3:]}")
        try:
            event = kd.wait_event(timeout=5)
        except KdTimeout:
            continue
        if isinstance(event, Stop):
            kd.resume()
        elif isinstance(event, (Symbols, Command)):
            kd.go()


@test(BOTH + [debugcon("x86", 1)], "DbgPrompt")
def prompt(config):
    with config.vm(scenarios=("wait=128", "prompt", "wait=64")) as vm, client(vm) as kd:
        kd.answers["TK: your name? "] = "vmkd"
        kd.link.send_reset()
        wait_for_print(kd, "TK: you said")
        expect(any("you said 'vmkd' (4 characters)" in p for p in kd.prints), f"{kd.prints[-3:]}")


@test(BOTH, "a file from the debugger (.kdfiles)")
def kdfiles(config):
    size = 10000
    content = bytes((i * 7 + i // 251) & 0xFF for i in range(size))
    with config.vm(scenarios=("wait=128", "kdfiles")) as vm:
        with client(vm) as kd:
            kd.files = {"tkfile.sys": content}
            drive(kd, vm)
        status = vm.wait()
        expect(status == 0, f"verdict {status}:\n{vm.output()[-1500:]}")


@test(BOTH, "exceptions arrive")
def exceptions(config):
    with config.vm(scenarios=("wait=128", "exception", "wait=64")) as vm, client(vm) as kd:
        codes = []
        kd.on_event = lambda event: codes.append(event.code) if isinstance(event, Stop) else None
        kd.link.send_reset()
        deadline = time.monotonic() + GUARD_S
        while not any("exceptions survived" in p for p in kd.prints):
            expect(time.monotonic() < deadline, f"codes so far {[hex(c) for c in codes]}")
            try:
                event = kd.wait_event(timeout=5)
            except KdTimeout:
                continue
            if isinstance(event, Symbols):
                kd.go()
            elif isinstance(event, Stop) and event.code in (BREAKPOINT, 0xC0000420):
                kd.resume()
            elif isinstance(event, Stop):
                kd.go(status=0x80010001)  # not handled: the kernel's own guards are
        for code in (0xC0000005, 0xC0000094, BREAKPOINT):
            expect(code in codes, f"{code:#x} is not among {[hex(c) for c in codes]}")


# ---- what a VMM does -------------------------------------------------------------------------------------------

@test(BOTH, "reboot by the debugger")
def reboot(config):
    with config.vm("--reboot") as vm, client(vm) as kd:
        attach(kd)
        kd.reboot()
        event = kd.wait_event()
        while isinstance(event, (Print, Symbols)):
            if isinstance(event, Symbols):
                kd.go()
            if any("up," in p for p in kd.prints):
                break
            event = kd.wait_event()
        attach(kd)
        expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no kernel after the reboot")
        leave(kd)


@test(BOTH, "QMP while the guest is stopped")
def qmp_while_stopped(config):
    with config.vm("--reboot") as vm, client(vm) as kd:
        attach(kd)
        for _ in range(10):
            expect(vm.qmp().call("query-status")["running"], "QMP says the VM does not run")
        vm.qmp().call("stop")
        expect(not vm.qmp().call("query-status")["running"], "stop does not stop")
        vm.qmp().call("query-cpus-fast")
        vm.qmp().call("cont")
        expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no answer after stop and cont")
        vm.qmp().call("human-monitor-command", **{"command-line": "info registers"})
        kd.resume()
        kd.break_in()
        leave(kd)


@test(BOTH, "reset from outside while stopped")
def reset_while_stopped(config):
    with config.vm("--reboot") as vm, client(vm) as kd:
        for _ in range(3):
            attach(kd)
            vm.qmp().call("system_reset")
            kd.prints.clear()
            kd.stop = None
            wait_for_print(kd, "TK: up")
        attach(kd)
        expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no kernel after the resets")
        leave(kd)


@test(BOTH, "quit from outside while stopped")
def quit_while_stopped(config):
    with config.vm() as vm, client(vm) as kd:
        attach(kd)
        vm.qmp().call("quit")
        expect(vm.wait() == 0, "the VM's exit status is not 0")


@test(BOTH, "a broker that sleeps (SIGSTOP) under load")
def broker_sleeps(config):
    with config.vm(scenarios=("printflood=100000",)) as vm, client(vm) as kd:
        kd.link.send_reset()
        wait_for_print(kd, "TK: flood 20 ")
        broker = broker_pid(vm)
        os.kill(broker, signal.SIGSTOP)
        try:
            for _ in range(20):
                vm.qmp().call("query-status")
                time.sleep(0.05)
        finally:
            os.kill(broker, signal.SIGCONT)
        kd.prints.clear()
        wait_for_print(kd, "TK: flood ")


@test(BOTH, "a broker that dies (SIGKILL) under load, and its successor")
def broker_dies(config):
    with config.vm(scenarios=("printflood=100000",)) as vm:
        with client(vm) as kd:
            kd.link.send_reset()
            wait_for_print(kd, "TK: flood 20 ")
            qmp = vm.qmp()
            os.kill(broker_pid(vm), signal.SIGKILL)
            for _ in range(20):
                qmp.call("query-status")
                time.sleep(0.05)
        qmp.close()
        vm.qmp_connection = None
        successor = vm.start("serve", vm.name)
        try:
            with wait_for("the successor", lambda: try_client(vm)) as kd:
                attach(kd)
                expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no kernel through the successor")
                kd.resume()
                wait_for_print(kd, "TK: flood ")
                with_qmp(vm, lambda monitor: monitor.call("quit"))
        finally:
            successor.terminate()
            successor.wait()


def with_qmp(vm, action):
    action(vm.qmp())


def try_client(vm):
    try:
        return KdClient(timeout=GUARD_S).connect(str(vm.runtime / "kd.sock"), timeout=0.2)
    except KdTimeout:
        return None


def broker_pid(vm):
    """The process that serves the VM: whoever listens on kd.sock."""
    entry = vm.listed()
    expect(entry is not None, "vmkd list does not show the VM")
    for key in ("broker_pid", "broker", "serve_pid"):
        if isinstance(entry.get(key), int):
            return entry[key]
    raise Failed(f"vmkd list --json names no broker process: {entry}")


# ---- running ---------------------------------------------------------------------------------------------------

def main():
    print(f"note KVM: {KVM} ({KVM_REMARK})")
    words = sys.argv[1:]
    for name, function, config in TESTS:
        if words and not any(word in name for word in words):
            continue
        if config.needs_kvm and KVM == "missing":
            REPORT.skip(name, f"KVM: {KVM_REMARK}")
            continue
        start = time.monotonic()
        try:
            function(config)
        except (Failed, Hang, KdError, OSError, RuntimeError, KeyError, ValueError) as problem:
            traceback.print_exc(file=sys.stdout)
            REPORT.fail(name, f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}")
        else:
            REPORT.ok(f"{name} ({time.monotonic() - start:.0f} s)")
    finish_ram(REPORT)
    return REPORT.finish()


if __name__ == "__main__":
    sys.exit(main())
