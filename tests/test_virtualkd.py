#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Guests that carry VirtualKD's transport, served unmodified through the hook. No real one was at hand: the modules are testkernel/virtualkd/'s, written from
the VirtualKD reference alone; what they do is the reference's word for what kdbazis and kdvbox do.

    tests/test_virtualkd.py             all
    tests/test_virtualkd.py WORD…       the tests whose names contain one of the words
"""
import os
import shutil
import signal
import struct
import subprocess
import time

from e2e import Folder, Skip, Way, attach, client_of, expect, main, test
from kdclient import KdClosed, Prompt, Stop, Symbols
from vm import GUARD_S, RAM, wait_for


def way_of(module):
    return Way(module, "--accel", "kvm", "--link", "hook", "--transport", module)


REDUX, BAZIS30, KDVBOX = way_of("bazis2024"), way_of("bazis30"), way_of("kdvbox")
ALL = (REDUX, BAZIS30, KDVBOX)
FOUR_GIB = 1 << 32
WATCH_S = 3.0
# As in test_quiet.py: one vCPU that spins takes all of a core.
ASLEEP = 0.2


def vm_of(way, *more, scenario="counter"):
    return way.vm("vkd", "--scenario", scenario, *more)


def entry_of(vm):
    entry = vm.listed()
    expect(entry is not None, "vmkd list does not show the VM")
    return entry


def reads_mz(kd):
    expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no MZ at the kernel's base")


def ready(vm):
    """The kernel is up and runs."""
    with client_of(vm) as kd:
        attach(kd)
        reads_mz(kd)
        kd.resume()


def monitor(vm, line):
    said = vm.qmp().call("human-monitor-command", **{"command-line": line})
    expect(not said, f"{line}: {said}")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_share(pid):
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(WATCH_S)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start)


def sleeps(vm):
    share = cpu_share(entry_of(vm)["pid"])
    expect(share < ASLEEP, f"QEMU takes {share:.0%} of a core")


class Serving:
    """Another broker for a VM that has none."""

    def __init__(self, vm):
        self.vm = vm

    def __enter__(self):
        self.process = self.vm.start("serve", self.vm.name)
        wait_for("the next broker", lambda: entry_of(self.vm).get("broker_pid") == self.process.pid, alive=self.process)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        without_broker(self.vm, self.process.pid)


def without_broker(vm, killed):
    wait_for("the broker to be gone", lambda: entry_of(vm).get("broker_pid") != killed)


def kill_broker(vm):
    killed = entry_of(vm)["broker_pid"]
    os.kill(killed, signal.SIGKILL)
    without_broker(vm, killed)


def is_up(vm):
    wait_for("the kernel", lambda: "TK: up" in vm.output(), alive=vm.process)


# ---- no host of ours ------------------------------------------------------------------------------------------------

@test("a QEMU without the library is not taken for VirtualBox", (Way("x64", "--arch", "x64"), Way("x86", "--arch", "x86")))
def nobody_answers(way):
    for module in ("bazis2024", "bazis30", "kdvbox"):
        with way.vm("vkd", "--link", "serial", "--transport", module, "--scenario", "poweroff") as vm:
            vm.wait()
            expect("no kernel debugging" in vm.output(), f"{module}: {vm.output()}")
            expect("TK: up" in vm.output(), f"{module}: the kernel did not come up: {vm.output()}")


# ---- a boot, a stop, a conversation ---------------------------------------------------------------------------------

@test("boot, break-in, memory, registers, a step, two boots: each kind of module", ALL)
def life(way):
    with vm_of(way, "--reboot", "--cpus", 2) as vm, client_of(vm) as kd:
        boots(vm, kd)
        expect(entry_of(vm)["dialect"] == "virtualkd", f"{entry_of(vm)}")
        expect("virtualkd" in vm.run("list")[1], vm.run("list")[1])
        before = vm.stats()
        expect(before["registrations"] == 1 and before["refused"] == 0, f"{before}")
        vm.qmp().call("system_reset")
        notice = kd.wait_event()
        expect(isinstance(notice, Symbols) and notice.is_unload, f"{notice} is no notice of a reboot")
        boots(vm, kd)
        after = vm.stats()
        expect(after["registrations"] == 2 and after["boots"] == 2, f"{after}")


def boots(vm, kd):
    """Follow a boot to its end, then look around."""
    attach(kd)
    expect(kd.version().machine == 0x8664, "another machine")
    reads_mz(kd)
    kd.read_msr(0x1B)  # the guest's own answer
    kd.step_off_int3()  # this KVM knows none
    registers = kd.get_context()
    stop = kd.step()
    expect(isinstance(stop, Stop) and stop.pc != registers.pc, f"{stop} after a step from {registers.pc:#x}")
    counter = kd.exports(kd.version().kern_base)["TkCounter"]
    value = kd.read_u64(counter)
    while kd.read_u64(counter) == value:
        kd.resume()
        time.sleep(0.2)
        expect(isinstance(kd.break_in(), Stop), "no stop for a break-in")


@test("the boot's own words: prints and module loads, in order", ALL)
def words_of_the_boot(way):
    with vm_of(way, "--set", "break", scenario="print") as vm, client_of(vm) as kd:
        loads = []
        event = kd.attach()
        while not any("line 100 of 100" in text for text in kd.prints):
            if isinstance(event, Symbols):
                loads.append(event.name.lower())
                kd.go()
            elif isinstance(event, Stop):
                kd.resume()
            event = kd.wait_event()
        numbers = [int(text.split()[2]) for text in kd.prints if text.startswith("TK: line ")]
        expect(numbers == list(range(1, 101)), f"{numbers}")
        # Those before this client came were the broker's to continue.
        expect(vm.stats()["events_continued"] + len(loads) >= 2, f"{loads}, and {vm.stats()['events_continued']} before them")


@test("a module is loaded and unloaded, a question is answered", (REDUX, KDVBOX))
def talk(way):
    with vm_of(way, "--set", "break", "--scenario", "prompt", scenario="loadunload=2") as vm, client_of(vm) as kd:
        events = []
        kd.on_event = events.append
        attach(kd)
        kd.resume()
        prompt = None
        while prompt is None:
            event = kd.wait_event()
            if isinstance(event, Symbols):
                kd.go()
            elif isinstance(event, Stop):
                kd.resume()
            elif isinstance(event, Prompt):
                prompt = event
        kd.answer_prompt(prompt, "forty-two")
        kd.wait_print("forty-two")
        unloads = [e for e in events if isinstance(e, Symbols) and e.is_unload]
        expect(len(unloads) == 2, f"{len(unloads)} unloads")


@test("a file of the debugger's", (REDUX, KDVBOX))
def file(way):
    with vm_of(way, "--set", "break", scenario="kdfiles") as vm, client_of(vm) as kd:
        kd.files["tkfile.sys"] = bytes((i * 7 + i // 251) & 0xFF for i in range(10000))
        attach(kd)
        kd.resume()
        try:
            while True:
                event = kd.wait_event()
                if isinstance(event, Symbols):
                    kd.go()
                elif isinstance(event, Stop):
                    kd.resume()
        except KdClosed:  # the kernel compares the bytes, and ends with its verdict
            expect(vm.wait() == 0, f"the kernel's verdict: {vm.output()}")


@test("reads are answered from RAM, and as the guest would", (REDUX, KDVBOX))
def from_ram(way):
    if RAM == "no":
        raise Skip("RAM: VMKD_TEST_RAM=no")
    how = () if RAM == "check" else ("--run", "--check-ram")
    with vm_of(way, *how, scenario="idle") as vm, client_of(vm) as kd:
        attach(kd)
        base = kd.version().kern_base
        for page in range(16):
            kd.read_virtual(base + page * 4096, 1024)
        stats = vm.stats()
        expect(stats["ram_checked"] >= 16 and stats["ram_differences"] == 0, f"{stats}")
        kd.resume()
    if RAM == "yes":
        with vm_of(way, scenario="idle") as vm, client_of(vm) as kd:
            attach(kd)
            base = kd.version().kern_base
            kd.read_virtual(base, 1024)
            before = vm.stats()
            for _ in range(20):
                kd.read_virtual(base, 1024)
            after = vm.stats()
            expect(after["answers_from_ram"] - before["answers_from_ram"] == 20, f"{after}")
            expect(after["packets_in"] == before["packets_in"], "the guest was asked")


# ---- stopped --------------------------------------------------------------------------------------------------------

@test("stopped with 4 CPUs: no CPU is used, QEMU answers everything, and a reset gets through")
def stopped():
    with vm_of(REDUX, "--cpus", 4, "--reboot", scenario="smp") as vm, client_of(vm) as kd:
        attach(kd)
        sleeps(vm)
        qmp = vm.qmp()
        for _ in range(5):
            qmp.call("stop")
            expect(not qmp.call("query-status")["running"], "stop does not stop it")
            qmp.call("cont")
            expect("RIP=" in qmp.call("human-monitor-command", **{"command-line": "info registers -a"}), "no registers")
            reads_mz(kd)
            kd.read_msr(0x1B)
        expect(vm.stats()["dropped_deliver"] == 0, f"{vm.stats()}")
        qmp.call("system_reset")
        while not isinstance(kd.wait_event(), (Stop, Symbols)):
            pass
        attach(kd)
        kd.read_msr(0x1B)


@test("a guest that stops while nobody is there sleeps until somebody comes", (REDUX, KDVBOX))
def stops_alone(way):
    with vm_of(way, "--scenario", "break", scenario="wait=256") as vm:
        is_up(vm)
        kill_broker(vm)
        wait_for("the VM's sleep", lambda: cpu_share(entry_of(vm)["pid"]) < ASLEEP)
        with Serving(vm), client_of(vm) as kd:
            stop = kd.attach(break_in=False)  # the state change that nobody had heard
            expect(isinstance(stop, Stop), f"{stop}")
            reads_mz(kd)
            kd.read_msr(0x1B)
            kd.resume()


@test("prints while nobody is there are dropped, and heard again when somebody is", (REDUX, KDVBOX))
def prints_again(way):
    with vm_of(way, scenario="ticker=4") as vm:
        ready(vm)
        kill_broker(vm)
        time.sleep(1)
        with Serving(vm), client_of(vm) as kd:
            attach(kd)
            kd.resume()
            kd.prints.clear()
            wait_for("the ticker", lambda: kd.wait_event() and len([p for p in kd.prints if "TK:" in p]) >= 5)


# ---- brokers that come and go ---------------------------------------------------------------------------------------

@test("the broker is killed while the guest is stopped, runs, and talks: the next one goes on", (REDUX, KDVBOX))
def brokers(way):
    with vm_of(way, "--cpus", 2) as vm:
        ready(vm)
        kill_broker(vm)
        counter = stop = None
        for turn in range(6):
            with Serving(vm), client_of(vm) as kd:
                found = attach(kd)
                if stop is not None:
                    expect(found.pc == stop.pc, f"stopped at {found.pc:#x}, but was left at {stop.pc:#x}")
                counter = counter or kd.exports(kd.version().kern_base)["TkCounter"]
                value = kd.read_u64(counter)
                for _ in range(turn):  # the broker dies a little later each time, in the middle of the talk
                    kd.read_msr(0x1B)
                    kd.write_virtual(counter, struct.pack("<Q", value))
                stop = found if turn % 2 else None
                if stop is None:
                    kd.resume()
        expect(vm.qmp().call("query-status")["running"], "the VM does not run")
        with Serving(vm):
            ready(vm)
            stats = vm.stats()
            expect(stats["refused"] == 0, f"{stats}")


# ---- snapshots ------------------------------------------------------------------------------------------------------

@test("a snapshot taken broken in comes back broken in: in this VMM, and in another one", (REDUX, KDVBOX))
def snapshot(way):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img (Debian's qemu-utils)")
    with Folder() as f:
        disk = f.path / "snapshot.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, timeout=GUARD_S)
        drive = ["--", "-drive", f"if=none,id=snapshot,format=qcow2,file={disk}"]
        with vm_of(way, "--ram", "32M", *drive) as vm:
            with client_of(vm) as kd:
                first = attach(kd)
                monitor(vm, "savevm stopped")
                reads_mz(kd)
                kd.read_msr(0x1B)
                kd.resume()
            monitor(vm, "loadvm stopped")  # the kernel runs
            with client_of(vm) as kd:
                comes_back(kd, first)
                monitor(vm, "loadvm stopped")  # under a debugger that has broken in: QEMU's reset of the vCPUs is a reboot to it
                notice = kd.wait_event()
                expect(isinstance(notice, Symbols) and notice.is_unload, f"{notice} is no notice")
                expect(kd.wait_stop().pc == first.pc, "another stop than the one that was saved")
                kd.read_msr(0x1B)
                kd.resume()
            ready(vm)
        with vm_of(way, "--ram", "32M", *drive, "-loadvm", "stopped") as vm, client_of(vm) as kd:
            comes_back(kd, first)
            expect(entry_of(vm)["dialect"] == "virtualkd", f"{entry_of(vm)}")
            kd.resume()
            expect(isinstance(kd.break_in(), Stop), "no stop")


def comes_back(kd, first):
    stop = kd.attach(break_in=False)
    expect(isinstance(stop, Stop) and stop.pc == first.pc, f"{stop} is not the one that was saved")
    reads_mz(kd)
    kd.read_msr(0x1B)


# ---- where the buffer is --------------------------------------------------------------------------------------------

def physical(kd, address):
    """Where the kernel's page tables say that it lies (x64, 4 levels)."""
    table = kd.special_registers()["cr3"] & 0xFFFFFFFFFF000
    for shift in (39, 30, 21, 12):
        entry = struct.unpack("<Q", kd.read_physical(table + (address >> shift & 511) * 8, 8))[0]
        expect(entry & 1, f"{address:#x} is not mapped")
        table = entry & 0xFFFFFFFFFF000
        if shift in (30, 21) and entry & 0x80:
            break
    return (table & ~((1 << shift) - 1)) | address & (1 << shift) - 1


@test("a buffer above 4 GiB is found, though 32 bits of its address are told", ALL)
def above_4_gib(way):
    with vm_of(way, "--ram", "5G", scenario="idle") as vm, client_of(vm) as kd:
        module = []
        event = kd.attach()
        while isinstance(event, Symbols):
            module += [event.base] if event.name.lower() == "kdcom.dll" else []
            kd.go()
            event = kd.attach()
        base = module[0] if module else kd.version().kern_base
        expect(physical(kd, base) >= FOUR_GIB, "this test's images lie below 4 GiB")
        kd.read_msr(0x1B)
        stats = vm.stats()
        expect(stats["refused"] == 0 and stats["registrations"] == 1, f"{stats}")
        kd.resume()


if __name__ == "__main__":
    main()
