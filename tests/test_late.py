#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A host that comes late: what a kernel printed before, what it looks like by then, and what must not be done to it.

    tests/test_late.py [WORD…]      the tests whose titles contain one of the words
"""
import json
import re
import signal
import socket

from e2e import BOTH, DEBUGCON, DEBUGCON_X86, HOOK, KVM, attach, client_of, expect, main, refused, test
from kdclient import Print
from vm import BUILD, GUARD_S, Vm, wait_for

EVERY = (HOOK, DEBUGCON, DEBUGCON_X86)
LINES = 1500 if KVM == "software" else 4000  # more than the kernel's own ring of 32 KiB holds
X64 = (HOOK, DEBUGCON)


def numbers(text, total=LINES):
    return [int(n) for n in re.findall(rf"TK: line (\d+) of {total}\b", text)]


def is_run(found, last):
    return found == list(range(last - len(found) + 1, last + 1))


class Late:
    """A VM without a broker, which comes later: `with Late(way, …) as late: late.serve()`."""

    def __init__(self, way, *scenarios, cpus=1):
        words = [word for scenario in scenarios for word in ("--scenario", scenario)]
        self.vm = way.vm("late", *words, "--cpus", cpus, "--reboot", "--run", "--no-serve")
        self.last = scenarios[-1].partition("=")[0]
        self.broker = None

    def __enter__(self):
        self.vm.__enter__()
        self.booted()
        return self

    def __exit__(self, *error):
        self.kill_broker()
        return self.vm.__exit__(*error)

    def booted(self):
        wait_for("the boot", lambda: f"TK: scenario {self.last}" in self.vm.output(), alive=self.vm.process)

    def serve(self, *options):
        self.broker = self.vm.start("serve", "late", *options)
        self.status()

    def kill_broker(self):
        if self.broker:
            self.broker.kill()
            self.broker.wait()
            self.broker = None

    def status(self):
        """What the broker says, when it has found the guest."""
        def ask():
            try:
                with socket.socket(socket.AF_UNIX) as ctl:
                    ctl.settimeout(GUARD_S)
                    ctl.connect(str(self.vm.runtime / "ctl.sock"))
                    ctl.sendall(b'{"cmd":"status"}\n')
                    answer = json.loads(ctl.makefile().readline())
            except OSError:
                return None
            return answer if answer.get("guest") or answer["state"] not in ("no VMM", "no guest module") else None
        return wait_for("the guest behind the broker", ask, alive=self.vm.process)

    def kd(self, commands, status=0, *more):
        got, text = self.vm.run("kd", "vm:late", "-t", str(int(GUARD_S)), *more, "-c", commands)
        expect(got == status, f"'{commands}' ended with {got}, expected {status}:\n{text}")
        return text

    def history(self, *options):
        got, text = self.vm.run("history", "late", *options)
        expect(got == 0, f"vmkd history ended with {got}: {text}")
        return text


# ---- refusals ----------------------------------------------------------------------------------------------------------

@test("vmkd history says what is wrong")
def history_refusals():
    vm = Vm("nobody")  # for its folder; never started
    for arguments, status, part in (((), 2, "name is missing"), (("a", "b"), 2, "unexpected argument b"), (("--lines",), 2, "--lines"),
                                    (("a", "--lines", "0"), 2, "--lines"), (("a", "--lines", "x"), 2, "--lines"), (("--x", "a"), 2, "--x"),
                                    (("nobody",), 1, "nobody")):
        refused(vm.run("history", *arguments), status, part)


@test("bp in the kernel of an x64 guest that booted alone is refused, unless forced", X64)
def bp_is_refused(way):
    with Late(way, "counter") as late:
        late.serve()
        expect(late.status()["booted_alone"] is True, f"status says {late.status()}")
        text = late.kd("bp nt!TkTick; .echo never", 1)
        last = text.strip().splitlines()[-1]
        for part in ("PatchGuard", "0x109", "ba e1 fffff80", "bp /f"):
            expect(part in last, f"'{part}' is not in: {last}")
        expect("never" not in text, text)
        if way == HOOK and KVM == "software":
            return  # int3 and the debug registers do not work in a guest there
        text = late.kd("ba e1 nt!TkTick; g; db nt!TkTick L1; p 4; g nt!TkOuter; db nt!TkOuter L1; bl; bc *; bp /f nt!TkInner; g; bl")
        expect(text.count("Breakpoint 0 hit") == 2, text)
        expect(not re.search(r"^[0-9a-f`]+  cc", text, re.M), f"a break instruction in the code:\n{text}")


@test("bp is not refused where nobody guards the code")
def bp_is_allowed():
    with Late(DEBUGCON_X86, "counter") as late:
        late.serve()
        expect(late.status()["booted_alone"] is True, f"status says {late.status()}")
        expect("Breakpoint 0 hit" in late.kd("bp nt!TkTick; g"), "no hit on x86")
    with DEBUGCON.vm("late", "--scenario", "counter") as vm:
        got, text = vm.kd("bp nt!TkTick; g")
        expect(got == 0 and "Breakpoint 0 hit" in text, text)


# ---- what was before -----------------------------------------------------------------------------------------------------

@test("the kernel's own buffer: state, modules and old lines, for a broker that was not there", EVERY)
def old_lines(way):
    with Late(way, f"print={LINES}", "counter") as late:
        late.serve()
        text = late.kd("lm; r; .echo end", 0, "-b")
        at = text.index("Break instruction exception")
        found = numbers(text[:at])
        expect(found and is_run(found, LINES), f"the lines {found[:3]} to {found[-3:]}, {len(found)} of them, are no run up to {LINES}:\n{text[:500]}")
        expect(len(found) > 100 and not numbers(text[at:]), f"{len(found)} lines came before the stop")
        expect(re.search(r"ntoskrnl\.exe", text[at:]) and re.search(r"kdcom\.dll", text[at:], re.I), f"modules:\n{text[at:]}")
        whole = numbers(late.history())
        expect(is_run(whole, LINES) and len(whole) > 1000, f"history has {whole[:3]} to {whole[-3:]}")
        last = late.history("--lines", "3").splitlines()
        expect(len(last) == 3 and late.history().endswith("\n".join(last) + "\n"), f"the last lines are {last}")
        with client_of(late.vm) as kd:  # the next one is told without a stop
            said = ""
            while "and from now on" not in said:
                event = kd.wait_event()
                said += event.text if isinstance(event, Print) else ""
            expect(is_run(numbers(said), LINES), f"a second debugger was told {said[:200]}")


@test("lines of before a broker, and of its own time, once each and in order", (DEBUGCON, HOOK))
def lines_meet(way):
    with Late(way, "print=50", "later=1", "flood") as late:
        late.serve()
        late.kd("r", 0, "-b")
        before = late.history()
        expect(is_run(numbers(before, 50), 50) and numbers(before, 50)[0] == 1, f"before: {before}")
        late.kd("eq nt!TkFlood 5", 0, "-b")
        wait_for("the flood", lambda: "flood done" in late.history())
        late.kill_broker()
        late.serve()
        late.kd("r", 0, "-b")
        text = late.history()
        for line in ("TK: line 1 of 50", "TK: line 50 of 50", "TK: later", "TK: flood 1 ", "TK: flood 5 ", "TK: flood done"):
            expect(text.count(line + "\n") + text.count(line + ".") == 1, f"'{line}' is there {text.count(line)} times:\n{text}")
        expect(text.index("TK: line 50") < text.index("TK: later") < text.index("TK: flood 1 ") < text.index("TK: flood done"), f"out of order:\n{text}")


@test("a broker that was there all along tells who comes the last lines", BOTH)
def lines_at_attach(way):
    with way.vm("late", "--scenario", f"print={LINES}", "--scenario", "counter") as vm:
        vm.kd_socket()
        wait_for("the prints", lambda: f"line {LINES} of" in vm.run("history", "late", "--lines", "20")[1], alive=vm.process)
        with client_of(vm) as kd:
            said = ""
            while "and from now on" not in said:
                event = kd.wait_event()
                said += event.text if isinstance(event, Print) else ""
            found = numbers(said)
            expect(len(found) > 100 and is_run(found, LINES), f"told {found[:3]} to {found[-3:]}")
            attach(kd)
            expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "no MZ at the kernel's base")


# ---- no host -------------------------------------------------------------------------------------------------------------

@test("a guest without any host boots, and says nothing to nobody")
def no_host():
    for arch in ("x64", "x86"):
        with Vm("alone", "--arch", arch, "--link", "serial", "--transport", BUILD / "guest" / arch / "kdvmkd.dll", "--scenario", f"print={LINES}",
                "--scenario", "counter") as vm:
            wait_for("the boot", lambda: "TK: scenario counter" in vm.output(), alive=vm.process)


@test("a boot that nobody serves costs a few calls, and the host that comes later is found", EVERY)
def few_calls(way):
    with Late(way, f"print={LINES}", "loadunload", "counter") as late:
        late.serve()
        stats = late.vm.stats()
        seconds = stats["seconds"]
        # By the hook these count from the VM's start: polls before phase 1 are calls, then one a second; thousands of prints cost none.
        print(f"note {stats['port_calls']} calls in {seconds} s, {LINES} prints", flush=True)
        expect(stats["port_calls"] < LINES // 10, f"{stats['port_calls']} calls for {LINES} prints")
        expect(late.status()["booted_alone"] is True, "booted_alone is not told")


@test("booted with a broker is not alone", EVERY)
def not_alone(way):
    with way.vm("late", "--scenario", "counter") as vm:
        wait_for("the boot", lambda: "TK: scenario counter" in vm.output(), alive=vm.process)
        expect(wait_for("the guest", lambda: (e := vm.listed()) and e["state"] == "running" and e)["booted_alone"] is False, "booted alone")


@test("a guest that booted alone and boots again with a broker is not alone any more", (DEBUGCON,))
def reboot_is_not_alone(way):
    with Late(way, "counter") as late:
        late.serve()
        expect(late.status()["booted_alone"] is True, "booted_alone is not told")
        late.vm.qmp().call("system_reset")
        wait_for("the next boot", lambda: (s := late.status()) and not s["booted_alone"] and s["state"] == "running")
        expect("Breakpoint 0 hit" in late.kd("bp nt!TkTick; g", 0, "-b"), "no hit")


if __name__ == "__main__":
    main()
