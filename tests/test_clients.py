#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many debuggers on one VM: who may do what, what each of them is told, and how control passes on. Clients are the independent one of tests/kdclient.py,
`vmkd kd` consoles and a libvmkd program.

    tests/test_clients.py            all
    tests/test_clients.py WORD…      the tests whose names contain one of the words
"""
import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import time

from e2e import BOTH, DEBUGCON, KVM, Folder, Skip, attach, client_of, expect, main, refused, test
from kdclient import API, DATA_MAX, KdRefused, KdTimeout, Print, Prompt, Stop, Symbols
from vm import BUILD, GUARD_S, ROOT, VMKD, wait_for

DENIED, UNSUCCESSFUL = 0xC0000022, 0xC0000001
RESET = b"iiii\x06\0\0\0\0\0\0\0\0\0\0\0"
CLIENTS_MAX = 64


# ---- what the tests share -------------------------------------------------------------------------------------------

@contextlib.contextmanager
def crowd(vm, count):
    """The controller, stopped, and count - 1 observers that know the stop."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(vm)) for _ in range(count)]
        attach(clients[0])
        for kd in clients[1:]:  # past the module loads that came while it was there
            expect(attach(kd).body == clients[0].stop.body, "an observer was told another stop")
        yield clients


def listen(vm):
    """An observer that waits for what comes."""
    kd = client_of(vm)
    kd.link.send_reset()
    return kd


def listed(vm):
    return vm.listed()["clients"]


def roles(vm):
    return [client["role"] for client in listed(vm)]


def control(vm, *arguments):
    return vm.run("control", vm.name, *arguments)


def done(result, *parts):
    status, text = result
    expect(status == 0 and all(part in text for part in parts), f"{status}: {text}")


def with_status(status, what, call):
    """The call is refused with this status, and at once: by serve, which asks nobody."""
    try:
        got = call()
    except KdRefused as refusal:
        expect(refusal.status == status, f"{what}: status {refusal.status:#x} instead of {status:#x}")
        return
    expect(False, f"{what}: not refused, {got}")


def runs_int3(way):
    return not (way.needs_kvm and KVM == "software")  # its emulator ends at an int3: "KVM internal error"


def exports(kd):
    return kd.exports(kd.version().kern_base)


def runs_on(kd, go=None):
    """Lets the target run for good: a slow one remembers a second break-in of attach(). An observer goes on until there is no stop more to be told."""
    go = go or kd.resume
    go()
    with contextlib.suppress(KdTimeout):
        while True:
            kd.wait_stop(timeout=0.5)
            go()


def stops_again(kd):
    """Lets the target run and stops it."""
    kd.resume()
    time.sleep(0.02)
    return kd.break_in()


def told(kd, words):
    """Waits for a line of serve's, or of the target's."""
    deadline = time.monotonic() + GUARD_S
    while not any(words in line for line in kd.prints):
        try:
            kd.wait_event(timeout=1)
        except KdTimeout:
            expect(time.monotonic() < deadline, f"'{words}' was not said: {kd.prints[-5:]}")


# ---- controller and observers ---------------------------------------------------------------------------------------

@test("reads while stopped are the same for all", BOTH)
def reads(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 4) as clients:
        base = clients[0].version().kern_base
        for kd in clients[1:]:
            expect(kd.version() == clients[0].version(), "version")
        for read in (lambda kd: kd.read_virtual(base, 3 * DATA_MAX), lambda kd: kd.read_physical(0x1000, 4096), lambda kd: bytes(kd.get_context().raw),
                     lambda kd: bytes(kd.special_registers().raw), lambda kd: kd.modules(), lambda kd: kd.query_memory(base)):
            expected = read(clients[0])
            for number, kd in enumerate(clients[1:], 2):
                expect(read(kd) == expected, f"client {number} reads something else")
        expect(roles(vm) == ["controller"] + ["observer"] * 3, f"{listed(vm)}")


def changes(kd, where):
    """What an observer may not do, all that KD has a reply for."""
    context = kd.get_context()
    return {
        "WriteVirtual": lambda: kd.write_virtual(where, b"\x5a"), "WritePhysical": lambda: kd.write_physical(0x1000, b"\x5a"),
        "FillMemory": lambda: kd.fill(where, 16, b"\x5a"), "SetContext": lambda: kd.set_context(context),
        "SetContextEx": lambda: kd.set_context_ex(0x30, b"\x0b\0\x10\0"), "WriteControlSpace": lambda: kd.set_special_registers(kd.special_registers()),
        "WriteBreakPoint": lambda: kd.write_breakpoint(where), "WriteMsr": lambda: kd.write_msr(0xC0000102, 0), "ReadIo": lambda: kd.read_io(0x61, 1),
        "WriteIo": lambda: kd.write_io(0x80, 1, 0), "SetBusData": lambda: kd.set_bus_data(0, 0, 0, b"\0"),
        "WriteBreakPointEx": lambda: kd.request("WriteBreakPointEx", struct.pack("<II", 1, 0), struct.pack("<QII", where, 0, 0)),
        "RestoreBreakPointEx": lambda: kd.request("RestoreBreakPointEx", struct.pack("<II", 1, 0), struct.pack("<I", 1)),
        "WriteCustomBreakPoint": lambda: kd.request("WriteCustomBreakPoint", struct.pack("<QQ", where, 0)),
        "PageIn": lambda: kd.request("PageIn"), "an API nobody knows": lambda: kd.request_or_raise(0x31FF),
    }


def refuse_unknown(kd, api):
    reply = kd.request_raw(api)
    if reply.status & 0x80000000:
        raise KdRefused(f"{api:#x}", reply.status, reply)
    return reply


@test("an observer changes nothing: refused with a status, or without effect", BOTH)
def observer(way):
    with way.vm("clients", "--cpus", "2", "--scenario", "counter") as vm, crowd(vm, 3) as (one, two, three):
        where = exports(one)["TkCpuCounters"]
        two.request_or_raise = lambda api: refuse_unknown(two, api)
        asked, before = vm.stats()["packets_in"], one.read_virtual(where, 16)
        for what, call in changes(two, where).items():
            with_status(DENIED, what, call)
        for handle in range(33):
            two.restore_breakpoint(handle)  # as WinDbg does when it connects
        after = vm.stats()["packets_in"]
        expect(one.read_virtual(where, 16) == before, "memory has changed")
        # Reads may come from RAM or be the guest's; what is refused may not cost it anything.
        expect(after - asked <= len(changes(two, where)) + 8, f"{after - asked} packets went to the guest")
        with_status(DENIED, "SwitchProcessor", lambda: answered_switch(two, 1))
        stop = one.stop
        for api in ("Reboot", "CauseBugCheck", "ClearInternalBreakPoints"):
            two.link.send(2, struct.pack("<IHHII", API[api], 0, 0, 0, 0) + bytes(40))
        expect(one.read_virtual(where, 16) == before and three.read_virtual(where, 16) == before, "the others were disturbed")
        expect(one.attach().body == stop.body, "another stop than before")
        expect(vm.stats()["boots"] == 1, "rebooted")


def answered_switch(kd, processor):
    """SwitchProcessor by somebody who may not: a status where a real target has no reply."""
    body = struct.pack("<IHHII", API["SwitchProcessor"], 0, processor, 0, 0) + bytes(40)
    expect(kd.link.send(2, body), "not acknowledged")
    reply = kd._wait_reply(API["SwitchProcessor"], body, GUARD_S)
    if reply.status & 0x80000000:
        raise KdRefused("SwitchProcessor", reply.status, reply)
    return reply


@test("breakpoints of the controller hit though an observer connects and restores 1 to 32, and all are told", BOTH)
def breakpoint_hits(way):
    if not runs_int3(way):
        raise Skip("an int3 in the guest (software KVM ends there)")
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        tick = exports(one)["TkTick"]
        for number in range(3):
            one.write_breakpoint(tick)
            with client_of(vm) as three:
                three.attach()
                for handle in range(1, 33):
                    three.restore_breakpoint(handle)
            one.resume()
            two.go()
            expect(one.wait_stop().pc == tick and two.wait_stop().pc == tick, f"round {number}: not at TkTick")
            expect(bytes(two.get_context().raw) == bytes(one.get_context().raw), "contexts differ")


@test("reads of an observer while the target runs fail at once", BOTH)
def reads_while_running(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        base = one.version().kern_base
        runs_on(one)
        for what, call in {"ReadVirtual": lambda: two.read_virtual(base, 2), "GetContext": two.get_context, "GetVersion": two.version,
                           "ReadControlSpace": two.special_registers, "ReadPhysical": lambda: two.read_physical(0x1000, 4)}.items():
            with_status(UNSUCCESSFUL, what, call)
        with_status(DENIED, "WriteVirtual", lambda: two.write_virtual(base, b"x"))
        two.restore_breakpoint(1)
        expect(vm.listed()["state"] == "running", f"{vm.listed()}")
        one.break_in()
        expect(two.read_virtual(base, 2) == b"MZ", "an observer at an older stop reads what there is")


@test("an observer's Continue: answered by the next stop, or at once by the latest one", BOTH)
def observer_continues(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 3) as (one, two, three):
        two.go()
        try:
            raise AssertionError(f"{two.wait_stop(timeout=0.5)}: an observer's Continue has let the target run, or was answered without a stop")
        except KdTimeout:
            pass
        one.read_virtual(one.version().kern_base, 2)
        first = stops_again(one)
        expect(two.wait_stop().body == first.body, "not the next stop")
        for _ in range(3):
            last = stops_again(one)
        two.go()
        expect(two.wait_stop().body == last.body, "not the latest stop")
        three.go_old()
        expect(three.wait_stop().body == last.body, "Continue: not the latest stop")


@test("module loads and prompts: all of them, in order, for each observer", BOTH)
def events(way):
    with way.vm("clients", "--scenario", "prompt", "--scenario", "loadunload=5", "--scenario", "counter") as vm, client_of(vm) as one:
        one.link.send_reset()
        prompt = next_of(one, Prompt)
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(contextlib.closing(listen(vm))) for _ in range(5)]
            for kd in others:
                told(kd, "your name?")
            one.answer_prompt(prompt, "crowd")
            seen = [modules_until_unloaded(kd) for kd in (one, *others)]
        expect(len(seen[0]) == 10 and [unload for unload, _ in seen[0]] == [False, True] * 5, f"{seen[0]}")
        for number, events_of_one in enumerate(seen[1:], 2):
            expect(events_of_one == seen[0], f"client {number} saw {events_of_one}")


def next_of(kd, kind):
    while True:
        event = kd.wait_event()
        if isinstance(event, kind):
            return event
        if isinstance(event, (Symbols, Stop)):
            kd.go()


def modules_until_unloaded(kd):
    """(is_unload, base) of each notice up to the scenario's last line."""
    seen = []
    while True:
        event = kd.wait_event()
        if isinstance(event, Symbols):
            seen.append((event.is_unload, event.base))
            kd.go()
        elif isinstance(event, Print) and "tkdriver.sys unloaded" in event.text:
            return seen


# ---- nobody has control ---------------------------------------------------------------------------------------------

@test("without a controller load events go on and are seen; control is taken by acting", BOTH)
def nobody(way):
    with way.vm("clients", "--scenario", "prompt", "--scenario", "loadunload=3", "--scenario", "counter") as vm, client_of(vm) as one:
        one.link.send_reset()
        prompt = next_of(one, Prompt)
        with contextlib.closing(listen(vm)) as two:
            told(two, "your name?")
            one.answer_prompt(prompt, "nobody")
            first = next_of_modules(one)
            done(control(vm, "give"), "free")
            wait_for("the guest to go on by itself", lambda: vm.stats()["events_continued"] >= 6, alive=vm.process)
            expect(roles(vm) == ["observer"] * 2, f"{listed(vm)}")
            seen = modules_until_unloaded(two)
            expect(len(seen) == 6 and seen[0] == (first.is_unload, first.base), f"{seen}")
            expect(roles(vm) == ["observer"] * 2, f"{listed(vm)}")
            stop = two.break_in()
            expect(roles(vm) == ["observer", "controller"], f"{listed(vm)}")
            one.go()
            expect(one.wait_stop().body == stop.body, "the former controller is told")
            with_status(DENIED, "WriteVirtual", lambda: one.write_virtual(one.stop.pc, b"\x90"))


def next_of_modules(kd):
    while True:
        event = kd.wait_event()
        if isinstance(event, Symbols):
            return event


@test("what takes free control: a write, a breakpoint, a break-in, a Continue; not a read", BOTH)
def acting(way):
    def write(kd, where):
        kd.write_virtual(where, b"\x11")

    def set_breakpoint(kd, where):
        kd.restore_breakpoint(kd.write_breakpoint(where))

    def resume(kd, _where):
        stops_again(kd)

    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        where = exports(one)["TkCpuCounters"]
        for act in (write, set_breakpoint, resume):
            for kd, expected in ((two, ["observer", "controller"]), (one, ["controller", "observer"])):
                kd.attach(break_in=False)
                done(control(vm, "give"), "free")
                kd.read_virtual(where, 4)
                expect(roles(vm) == ["observer"] * 2, "a read has taken control")
                act(kd, where)
                expect(roles(vm) == expected, f"{act.__name__}: {listed(vm)}")


# ---- vmkd control ---------------------------------------------------------------------------------------------------

@test("control: wrong usage, and VMs and clients that are not there")
def control_refusals():
    with Folder() as f:
        for words, part in (((), "name is missing"), (("x", "steal"), "steal"), (("x", "take", "0"), "number"), (("x", "take", "one"), "number"),
                            (("x", "take", "4294967296"), "number"), (("x", "take", "1", "2"), "number"), (("x", "--frob"), "--frob"),
                            (("x", "give", "--force"), "--force"), (("x", "show", "1"), "show"), (("x", "--force"), "--force")):
            refused(f.run("control", *words), 2, part)
        refused(f.run("control", "ghost"), 1, "ghost", "vmkd list")
        refused(f.run("control", "../x"), 1, "name")
    with DEBUGCON.vm("clients", "--scenario", "counter") as vm:
        vm.kd_socket()
        refused(control(vm, "take"), 1, "nobody is attached")
        refused(control(vm, "take", "7"), 1, "nobody is attached")
        done(control(vm), "control is free")
        with crowd(vm, 3):
            refused(control(vm, "take"), 1, "Name it", "1 (", "2 (", "3 (", str(os.getpid()))
            refused(control(vm, "give", "9"), 1, "no client 9", "1 (")


@test("control: show, take, ask, force, give", BOTH)
def passing_on(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 3) as (one, two, three):
        where = exports(one)["TkCpuCounters"]
        done(control(vm), "1  controller", "2  observer", "3  observer")
        refused(control(vm, "take", 2), 1, "client 1", "told", "client 2", "--force")
        runs_on(one)
        told(one, "asks for control")
        one.break_in()
        expect([c["asks"] for c in listed(vm)] == [False, True, False], f"{listed(vm)}")
        refused(control(vm, "take", 3), 1, "client 3")
        done(control(vm, "give"), "client 2")  # who asked first
        expect(roles(vm) == ["observer", "controller", "observer"] and [c["asks"] for c in listed(vm)] == [False, False, True], f"{listed(vm)}")
        two.attach()
        two.write_virtual(where, b"\x22")
        with_status(DENIED, "the former controller", lambda: one.write_virtual(where, b"\x11"))
        done(control(vm, "take", 1, "--force"), "client 1")
        one.attach()
        one.write_virtual(where, b"\x33")
        with_status(DENIED, "who was taken control from", lambda: two.write_virtual(where, b"\x22"))
        expect(three.read_virtual(where, 1) == b"\x33", "what the last controller wrote")
        done(control(vm, "give", 2), "client 2")
        done(control(vm, "take", 2), "client 2")  # has it
        done(control(vm, "give"), "client 3")  # had asked
        done(control(vm, "give"), "free")


@test("who takes control of a running target stops it, and who is told a stop continues it", BOTH)
def taking_while_running(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        runs_on(one)
        runs_on(two, two.go)
        two.link.write(b"b")
        told(two, "has control")  # its break-in went nowhere
        expect(vm.listed()["state"] == "running", f"{vm.listed()}")
        done(control(vm, "take", 2, "--force"))
        stop = two.break_in()
        expect(one.wait_stop().body == stop.body, "the former controller is told")
        one.go()
        expect(vm.listed()["state"] == "broken in", "an observer's Continue")
        two.resume()
        wait_for("the target to run", lambda: vm.listed()["state"] == "running")


# ---- coming and leaving -----------------------------------------------------------------------------------------------

DEBUGGER = """
import sys, time
sys.path.insert(0, "tests")
from e2e import attach
from kdclient import KdClient
kd = KdClient(timeout=600).connect(sys.argv[1])
attach(kd)
print(kd.write_breakpoint(int(sys.argv[2], 16)), flush=True)
time.sleep(3600)
"""


@test("a controller killed with SIGKILL: its breakpoints are gone, control is free", BOTH)
def killed(way):
    with way.vm("clients", "--scenario", "counter") as vm, client_of(vm) as watcher:
        attach(watcher)
        where = exports(watcher)["TkCpuCounters"]
        before = watcher.read_virtual(where, 16)
        runs_on(watcher)
        done(control(vm, "give"), "free")
        debugger = subprocess.Popen([sys.executable, "-c", DEBUGGER, str(vm.kd_socket()), f"{where:x}"], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        try:
            expect(int(debugger.stdout.readline()) > 0, "no breakpoint")
            watcher.wait_stop()
            expect(watcher.read_virtual(where, 1) == b"\xcc" and roles(vm) == ["observer", "controller"], f"{listed(vm)}")
        finally:
            debugger.kill()
            debugger.wait()
        wait_for("the dead one to be noticed", lambda: roles(vm) == ["observer"])
        expect(watcher.read_virtual(where, 16) == before, "a breakpoint was left in the kernel")
        watcher.restore_breakpoint(watcher.write_breakpoint(where))
        watcher.resume()
        wait_for("the target to run", lambda: vm.listed()["state"] == "running")
        expect(roles(vm) == ["controller"], f"{listed(vm)}")


@test("who comes back at once finds control free", BOTH)
def comes_back(way):
    with way.vm("clients", "--scenario", "counter") as vm:
        for _ in range(20):
            with client_of(vm) as kd:
                attach(kd)
                kd.write_virtual(kd.version().kern_base, b"MZ")


@test("breakpoints of two clients at one address: it stays while one of them needs it", BOTH)
def shared_breakpoint(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        where = exports(one)["TkCpuCounters"]
        before = one.read_virtual(where, 1)
        mine = one.write_breakpoint(where)
        done(control(vm, "give", 2))
        two.attach()
        theirs = two.write_breakpoint(where)
        with_status(UNSUCCESSFUL, "the same client twice", lambda: two.write_breakpoint(where))
        done(control(vm, "give", 1))
        one.restore_breakpoint(mine)
        expect(one.read_virtual(where, 1) == b"\xcc", "taken out though another client needs it")
        with_status(UNSUCCESSFUL, "restored twice", lambda: one.restore_breakpoint(mine))
        done(control(vm, "give", 2))
        two.restore_breakpoint(theirs)
        expect(two.read_virtual(where, 1) == before, "left in")


@test("a 65th client is told why in one line", [DEBUGCON])
def too_many(way):
    with way.vm("clients", "--scenario", "counter") as vm, contextlib.ExitStack() as stack:
        path = str(vm.kd_socket())
        for _ in range(CLIENTS_MAX):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        wait_for("all of them to be in", lambda: len(listed(vm)) == CLIENTS_MAX)
        status, text = vm.run("kd", f"vm:{vm.name}", "-c", "r; q")
        expect(status == 1 and text.count("has 64") == 1 and text.strip().count("\n") == 0 and vm.name in text, f"{status}: {text}")
        expect(vm.stats()["clients"]["turned_away"] == 1 and len(listed(vm)) == CLIENTS_MAX, f"{vm.stats()}")
        stack.close()
        with client_of(vm) as kd:
            attach(kd)
            expect(roles(vm) == ["controller"], f"{listed(vm)}")


@test("list shows who is who, a line for each", BOTH)
def who_is_who(way):
    with way.vm("clients", "--scenario", "counter") as vm:
        vm.kd_socket()
        status, text = vm.run("list")
        expect(status == 0 and text.splitlines()[1].endswith(" -"), text)
        with crowd(vm, 3):
            control(vm, "take", 3)
            status, text = vm.run("list")
        header, *lines = text.splitlines()
        at = header.index("CLIENTS")
        expect(status == 0 and len(lines) == 3 and "vmkd" in lines[0] and "broken in" in lines[0], text)
        for number, line in enumerate(lines, 1):
            role = "controller" if number == 1 else "observer"
            expect(re.fullmatch(rf" *{number} {role} +pid {os.getpid()} \(.*\)(, asks for control)?", line[at - 1:]), f"line {number}: {line}")
        expect(lines[2].endswith("asks for control") and not lines[1].endswith("control"), text)


# ---- many, of all kinds ---------------------------------------------------------------------------------------------

@test("consoles and a libvmkd program observe beside a debugger, and disturb nobody", BOTH)
def kinds(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two):
        pc, base = one.stop.pc, one.version().kern_base
        word = one.read_virtual(base, 16).hex(" ")
        consoles = [subprocess.Popen([VMKD, "kd", f"vm:{vm.name}", "-c", f"r rip; db {base:#x} L10; q"], env=vm.env, cwd=ROOT, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(4)]
        program = subprocess.Popen([BUILD / "examples" / "read", f"vm:{vm.name}"], env=vm.env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        for console in consoles:
            text, _ = console.communicate(timeout=GUARD_S)
            expect(console.returncode == 0 and f"{pc:016x}" in text.replace("`", "") and "4d 5a" in text, f"{console.returncode}: {text}")
        text, _ = program.communicate(timeout=GUARD_S)
        expect(program.returncode == 0 and word in text, f"{program.returncode}: {text}")
        expect(vm.listed()["state"] == "broken in", "one of them has let the target run")
        expect(one.attach().pc == pc and two.read_virtual(base, 2) == b"MZ", "disturbed")


@test("the console: who has control, what an observer is told, take, force, give", BOTH)
def console_control(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 1) as (one,):
        where = exports(one)["TkCpuCounters"]
        target = ("kd", f"vm:{vm.name}", "-c")

        def denied(command):
            status, text = vm.run(*target, command)
            line = text.strip().splitlines()[-1]
            expect(status == 1 and line.startswith("vmkd kd:") and ("observes" in line), f"{command}: {status}: {text}")
            return text

        text = denied(f"eb {where:#x} 5a")
        expect(text.count("Client 1 (pid ") == 1 and str(os.getpid()) in text, text)
        for command in (f"bp {where:#x}", "r rax=1", "t", "~0s" if one.stop.processor else "p", ".reboot", ".crash", "wrmsr c0000102 0", f"f {where:#x} L 4 5a"):
            denied(command)
        expect(one.read_virtual(where, 4) == bytes(4) and vm.stats()["boots"] == 1, "an observer has changed something")
        denied("control take")
        done(vm.run(*target, "control; q"), "has control; this console observes", "Clients: 2")
        refused(vm.run(*target, "control give"), 1, "no control")
        refused(vm.run(*target, "control frob"), 1, "expected: control")
        done(vm.run(*target, f"control take force; eb {where:#x} 77; control give; control; qs"), "This console has control", "Control is free")
        expect(one.read_virtual(where, 1) == b"\x77" and vm.listed()["state"] != "running", f"{vm.listed()}")
        with socket.socket(socket.AF_UNIX) as s:  # a target that is no vm:NAME
            s.bind(str(vm.folder / "x"))
            s.listen()
            refused(vm.run("kd", f"unix:{vm.folder / 'x'}", "-c", "control"), 1, "not a vm:NAME")


@test("16 clients: a step, a breakpoint and a break-in are told to each of them, 10 rounds", BOTH)
def sixteen(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 16) as clients:
        one, others = clients[0], clients[1:]
        tick = exports(one)["TkTick"]
        for number in range(10):
            if number % 2 == 0 and runs_int3(way):
                one.write_breakpoint(tick)
                one.resume()
                stop = one.wait_stop()
                expect(stop.pc == tick, f"round {number}: {stop.pc:#x}")
            else:
                stop = stops_again(one)
            for kd in others:
                kd.go()
            for kd in others:
                expect(kd.wait_stop().body == stop.body, f"round {number}: an observer was told another stop")
            memory = [kd.read_virtual(tick, 64) for kd in clients]
            expect(len(set(memory)) == 1, f"round {number}: memory differs")
        counts = vm.stats()["clients"]
        expect(counts["bad_checksum"] + counts["noise"] + counts["truncated"] == 0, f"{counts}")


@test("clients that read nothing, and one that floods, do not hold up the others", BOTH)
def hostile(way):
    with way.vm("clients", "--scenario", "counter") as vm, crowd(vm, 2) as (one, two), contextlib.ExitStack() as stack:
        base = one.version().kern_base
        expected = one.read_virtual(base, 2 * DATA_MAX)
        bad = []
        for _ in range(4):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.connect(str(vm.kd_socket()))
            s.setblocking(False)
            bad.append(s)
        flood = (RESET + b"b" * 200 + os.urandom(300)) * 50
        for number in range(50):
            for s in bad:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    s.send(flood)
            expect(one.read_virtual(base, 2 * DATA_MAX) == expected and two.read_virtual(base, 64) == expected[:64], f"round {number}")
            if number % 10 == 0:
                two.go()
                stop = stops_again(one)
                expect(two.wait_stop().body == stop.body, f"round {number}: not told")


if __name__ == "__main__":
    main()
