#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The stages of ./check: runs them two at a time where they do not disturb each other, keeps each one's output in
build/check/, adds up their results. Called by ./check, which has installed the packages."""
import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "check"
SLOTS = 2  # stages at a time: made for two cores; `make -j` inside a build stage takes both
SKIPPED = 77  # exit status of a test that can test nothing here
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped\s*$", re.M)


class Stage:
    """One line of ./check --list.

    command: run in the root; prints ok/FAIL/skip lines and a summary, or nothing (then its exit status is one result).
    needs:   stages that must have passed. slots: how many of SLOTS it takes. guard: seconds after which it counts as hung
    (a hang guard, several times what a slow machine takes; no test depends on it).
    """

    def __init__(self, name, title, command, needs=(), slots=1, guard=900, only_when_asked=False):
        self.name, self.title, self.command = name, title, command
        self.needs, self.slots, self.guard = needs, slots, guard
        self.only_when_asked = only_when_asked
        self.state = "waiting"  # running, passed, failed, skipped
        self.counts = (0, 0, 0)
        self.seconds = 0.0


def make(*args):
    return ["make", "--no-print-directory", f"-j{os.cpu_count() or 2}", *args]


def python(script, *args):
    return [sys.executable, "-u", script, *args]


def starts(*ways):
    """What tests/conformance is to start."""
    return [word for way in ways for word in ("--start", way)]


def with_ram(how, command):
    """The command with brokers that answer from RAM, do not, or compare: tests/vm.py."""
    return ["env", f"VMKD_TEST_RAM={how}", *command]


# The console's cases in which a UART and a target that serves one debugger make a difference; all others with --long.
CONSOLE_ON_A_UART = ("looks_around", "memory_is_edited", "steps", "prints_and_prompts", "module_loads", "reboot", "crash", "sigint", "qs_leaves",
                     "a_dead_port", "the_connection_breaks", "a_serial_line")
# Guests under the real /dev/kvm share the host with nobody, so a run of these takes the machine. Once, with the compiler that we ship with.
KVM_UNITS = ("-vmm-hook", "-vmm-virtualkd-hook")


def stages(long):
    fuzz_args = ["--seconds", "3600"] if long else ["--runs", "20000"]
    soak_args = ["--seconds", "600", "--kills", "1000", "--resets", "200"] if long else ["--seconds", "20", "--kills", "8", "--resets", "4", "--is-loaded"]
    how_long = ["--long"] if long else []
    built = ("build",)
    return [
        Stage("layering", "includes follow the arrows of docs/architecture.md", ["tools/check-layering"]),
        Stage("contracts", "every function of a header has its contract", ["tools/check-contracts"]),
        Stage("sizes", "files and functions stay short", ["tools/check-sizes"]),
        Stage("words", "no unfinished places, no private paths, shell scripts clean", ["tools/check-words"]),
        Stage("build", "everything with gcc, warnings are errors", make("all", "tests", "guest-iso"), slots=2, guard=1800),
        Stage("build-clang", "host programs and tests with clang", make("O=build/clang", "CC=clang", "host", "tests"),
              slots=2, guard=1800),
        Stage("build-asan", "tests with AddressSanitizer and UBSan",
              make("O=build/asan", "CC=clang", "SAN=address,undefined", "host", "tests"), slots=2, guard=1800),
        Stage("docs", "docs/portcall.md and the README say what the sources say", ["tools/check-docs"], built),
        Stage("pe", "imports, exports, sections, relocations of both kdvmkd.dll", ["tests/pe.sh"], built),
        Stage("unit", "unit tests, gcc", python("tests/units.py", "build"), built, slots=2),  # its KVM guests share the host with nobody
        Stage("unit-clang", "unit tests, clang", python("tests/units.py", "build/clang", *([] if long else KVM_UNITS)), ("build-clang",),
              slots=2 if long else 1),
        Stage("unit-asan", "unit tests, sanitizers", python("tests/units.py", "build/asan", "SAN=address,undefined"), ("build-asan",)),
        Stage("wire-m32", "wire/ as a 32-bit Linux program", python("tests/wire_m32.py"), built),
        Stage("fuzz", "libFuzzer targets from their seeds", python("tests/fuzzers.py", *fuzz_args), built, slots=2,
              guard=7200 if long else 1800),
        Stage("wire-guest", "wire/'s vectors in mingw-built code, inside the test kernel", ["tests/wire_guest.sh"], built),
        Stage("kdclient", "the independent client against worked packets", python("tests/test_kdclient.py"), ()),
        Stage("conformance", "KDCOM conversations: the suite against itself and a plain target, and the broker under debugcon",
              python("tests/conformance", *starts("self", "stock", "debugcon", *(["debugcon-tcp"] if long else []))), built, guard=1800),
        Stage("faultlink", "real debuggers through a stream on which things go wrong", python("tests/test_faultlink.py"), built, guard=1800),
        Stage("conformance-hook", "KDCOM conversations with the broker under the hook on TCP",
              python("tests/conformance", *starts("hook-tcp", *(["virtualkd", "hook"] if long else []))), built, guard=1800),
        Stage("conformance-serial", "KDCOM conversations with a stock serial target", python("tests/conformance", *starts("serial")), built, guard=1800,
              only_when_asked=not long),
        Stage("hal", "the test kernel's machine layer", ["testkernel/check-hal.sh"], built),
        Stage("testkernel", "the NT face over the serial yardstick", python("tests/test_testkernel.py"), built,
              guard=1800),
        Stage("broker", "vmkd serve, run, list, stats", python("tests/test_broker.py"), built, guard=1800),
        Stage("clients", "many debuggers on one VM: control, observers, who is told what", python("tests/test_clients.py"), built, guard=1800),
        Stage("soak", "a crowd of debuggers; brokers killed and machines reset in the middle of transfers", python("tests/soak.py", *soak_args), built,
              slots=2 if long else 1, guard=14400 if long else 1800),
        Stage("serial", "vmkd serve --from: a stock target on a Unix socket, TCP, a serial line", python("tests/test_serial.py"), built, guard=1800),
        Stage("presence", "vmkd serve --stay, --absent, a VM that does not end", python("tests/test_presence.py"), built, guard=1800),
        Stage("revert", "snapshots, migration, resets, pauses: the link comes back by itself", python("tests/test_revert.py"), built, guard=3600),
        Stage("console", "vmkd kd through the broker", python("tests/test_console.py", "--link", "debugcon"), built, guard=1800),
        Stage("console-serial", "vmkd kd on a stock serial target", python("tests/test_console.py", "--link", "serial", *([] if long else ["--arch", "x64", *CONSOLE_ON_A_UART])),
              built, guard=1800),
        Stage("permissions", "VM, broker and client as different users, in a folder that a group shares", python("tests/test_permissions.py"), built,
              guard=1800),
        Stage("libram", "libvmkd reads the VM's RAM by itself", python("tests/test_libram.py"), built, guard=1800),
        Stage("hook", "libvmkd-vmm.so in QEMU, with a broker and a guest of the test's own", python("vmm/qemu_test.py"), built),
        Stage("virtualkd", "guests with VirtualKD's transport", python("tests/test_virtualkd.py"), built, guard=1800),
        Stage("walk", "page walks against QEMU's own, in every paging mode", python("tests/test_walk.py"), built),
        Stage("hostile", "a hostile guest module against VMM and broker", python("tests/test_hostile.py"), built),
        Stage("e2e", "the whole way: guest, VMM, broker, client", python("tests/test_e2e.py"), built, guard=2400),
        Stage("ram", "answers from RAM against the guest's own", python("tests/test_ram.py"), built),
        Stage("e2e-ram", "the whole way, every answer held against RAM", with_ram("check", python("tests/test_e2e.py", *([] if long else ["session", "6 GiB"]))),
              built, guard=2400),
        Stage("console-ram", "vmkd kd, every answer held against RAM",
              with_ram("check", python("tests/test_console.py", "--link", "debugcon")), built, guard=1800, only_when_asked=not long),
        Stage("quiet", "no calls while running, no CPU while stopped, no VM left paused", python("tests/test_quiet.py"), built, guard=1800),
        Stage("bench", "./bench: its judgements, and a short run's rows, CSV and picture; no figure is judged", python("tests/test_bench.py"), built),
        Stage("late", "a host that comes late: old lines, modules, what must not be done to the kernel", python("tests/test_late.py"), built, guard=1800),
        Stage("prints", "nothing printed is lost, however the guest ends", python("tests/test_prints.py"), built, guard=2400),
        Stage("trace", "vmkd trace, replays, and tshark's reading of the same files", python("tests/test_trace.py"), built, guard=1800),
        Stage("sign", "signatures and page hashes of the guest's binaries, a changed byte, the same bytes again", python("tests/test_sign.py"), built),
        Stage("medium", "install.cmd, uninstall.cmd under Wine, for each Windows generation", python("tests/test_medium.py", *how_long), built, guard=1800),
        Stage("setup", "vmkd setup: disk images made here, changed, read by others, undone", python("tests/test_setup.py", *how_long), built, guard=1800),
        Stage("driver", "vmkd.sys in the test kernel: found, started, refused, stopped", python("tests/test_driver.py"), built, guard=1800),
        Stage("attach", "vmkd attach: a QEMU that runs, and processes that are none", python("tests/test_attach.py", *how_long), built, guard=1800),
        Stage("libvirt", "vmkd libvirt with libvirt's own daemon", python("tests/test_libvirt.py"), built, guard=1800),
        Stage("doctor", "vmkd doctor: what it says of each state of a VM", python("tests/test_doctor.py"), built, guard=1800),
        Stage("package", "make install, the Debian package, pages and completions", python("tests/test_package.py"), built, slots=2, guard=1800),
        Stage("chroot", "a fresh Debian 12: the packages, doctor, the demo", ["tests/chroot.sh"], built, slots=2, guard=7200, only_when_asked=not long),
        Stage("demo", "./demo without a terminal", ["tests/demo.sh"], built),
        Stage("mutants", "small faults that the tests must notice", python("tests/mutants.py"), built, slots=2,
              guard=5400, only_when_asked=True),
    ]


class Run:
    """Schedules stages; every output line goes through say() so that two stages never mix within one."""

    def __init__(self, chosen):
        self.stages = chosen
        self.by_name = {s.name: s for s in chosen}
        self.lock = threading.Condition()
        self.free = SLOTS

    def say(self, text):
        print(text, flush=True)

    def blocked_by(self, stage):
        """The first needed stage that did not pass, or None. 'waiting' or 'running' ones are not known yet."""
        for need in stage.needs:
            other = self.by_name.get(need)
            if other and other.state in ("failed", "skipped"):
                return other
        return None

    def is_ready(self, stage):
        return all(self.by_name[n].state == "passed" for n in stage.needs if n in self.by_name)

    def all(self):
        threads = []
        with self.lock:
            while any(s.state == "waiting" for s in self.stages):
                started = False
                for stage in self.stages:
                    if stage.state != "waiting":
                        continue
                    blocker = self.blocked_by(stage)
                    if blocker:
                        self.conclude(stage, "failed", (0, 1, 0), f"FAIL {stage.name}: not run, {blocker.name} failed")
                        started = True
                        break
                    if not self.is_ready(stage):
                        continue
                    if stage.slots > self.free:
                        break  # in order: a later small stage does not overtake a big one for ever
                    self.free -= stage.slots
                    stage.state = "running"
                    thread = threading.Thread(target=self.one, args=(stage,))
                    thread.start()
                    threads.append(thread)
                    started = True
                    break
                if not started:
                    self.lock.wait()
        for thread in threads:
            thread.join()

    def one(self, stage):
        start = time.monotonic()
        log = LOGS / f"{stage.name}.log"
        status, hung = execute(stage, log)
        text = log.read_text(errors="replace")
        stage.seconds = time.monotonic() - start
        counts, notes = judge(stage, status, hung, text)
        with self.lock:
            self.free += stage.slots
            state = "failed" if counts[1] else "passed"
            self.conclude(stage, state, counts, notes)
            self.lock.notify_all()

    def conclude(self, stage, state, counts, notes):
        stage.state, stage.counts, stage.notes = state, counts, notes
        passed, failed, skipped = counts
        # One short line a stage: a build server may show only part of what is printed. Logs are build/check/STAGE.log.
        self.say(f"{stage.name:14}{passed:5} passed{f', {failed} failed' if failed else ''}"
                 f"{f', {skipped} skipped' if skipped else ''} ({stage.seconds:.0f} s)")
        if notes:
            self.say(notes)


def execute(stage, log):
    """Runs the stage's command with its own process group. Returns (exit status, hung)."""
    with open(log, "wb") as out:
        try:
            process = subprocess.Popen(stage.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            out.write(f"FAIL {stage.name}: cannot start {stage.command[0]}: {error.strerror}\n".encode())
            return 127, False
        try:
            return process.wait(stage.guard), False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return -signal.SIGKILL, True


def judge(stage, status, hung, text):
    """(passed, failed, skipped) and the lines worth showing."""
    lines = text.splitlines()
    shown = [l for l in lines if l.startswith(("FAIL", "skip ", "note "))]
    summaries = SUMMARY.findall(text)
    if summaries:
        passed, failed, skipped = (int(n) for n in summaries[-1])
    else:
        passed = sum(l.startswith(("ok ", "ok: ")) for l in lines)
        failed = sum(l.startswith("FAIL") for l in lines)
        skipped = sum(l.startswith("skip ") for l in lines)
        if passed + failed + skipped == 0 and status == 0:
            passed = 1
    if status == SKIPPED and not failed:
        return (0, 0, 1), f"   skip {stage.name}: {lines[-1] if lines else 'it says not why'}"
    if hung:
        failed += 1
        shown.append(f"FAIL {stage.name}: hung, killed after {stage.guard} s; its last lines:")
        shown += ["   | " + l for l in lines[-8:]]
    elif status != 0 and failed == 0:
        failed = 1
        shown.append(f"FAIL {stage.name}: exit status {status}; its last lines:")
        shown += ["   | " + l for l in lines[-12:]]
    return (passed, failed, skipped), "\n".join("   " + l for l in shown)


def choose(all_stages, names, mutants):
    """The stages to run: those named and what they need, or all but the ones run only when asked for."""
    by_name = {s.name: s for s in all_stages}
    if mutants:
        names = names + ["mutants"]
    if not names:
        return [s for s in all_stages if not s.only_when_asked]
    wanted = set()

    def add(name):
        if name not in by_name:
            sys.exit(f"./check: no stage '{name}'; there are: {' '.join(by_name)}")
        if name not in wanted:
            wanted.add(name)
            for need in by_name[name].needs:
                add(need)

    for name in names:
        add(name)
    return [s for s in all_stages if s.name in wanted]


def main():
    parser = argparse.ArgumentParser(prog="./check", description="builds vmkd and runs every test")
    parser.add_argument("--long", action="store_true", help="fuzz for an hour, more runs of what depends on luck")
    parser.add_argument("--mutants", action="store_true", help="apply small faults; each must make a test fail")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="this stage and what it needs")
    parser.add_argument("--list", action="store_true", help="list the stages")
    args = parser.parse_args()
    every = stages(args.long)
    if args.list:
        for stage in every:
            print(f"{stage.name:12} {stage.title}{' (only when asked for)' if stage.only_when_asked else ''}")
        return 0
    if args.long:
        os.environ["VMKD_CHECK_LONG"] = "1"
    chosen = choose(every, args.stage, args.mutants)
    LOGS.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    Run(chosen).all()
    total = [sum(s.counts[i] for s in chosen) for i in range(3)]
    bad = [s.name for s in chosen if s.state == "failed"]
    for stage in chosen:
        if stage.state == "failed":
            print(f"-- {stage.name}: {stage.title} (build/check/{stage.name}.log)\n{stage.notes}")
    print(f"{len(chosen)} stages in {time.monotonic() - start:.0f} s" + (f"; failed: {' '.join(bad)}" if bad else ""))
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
