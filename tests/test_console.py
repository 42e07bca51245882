#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`vmkd kd` against the test kernel: every command, its refusals, scripts and a terminal.

    tests/test_console.py [--link serial|debugcon|both] [--arch x64|x86|both] [PATTERN…]

serial is a stock target (unix:PATH), debugcon the product's own way (vm:NAME). Prints `ok NAME` or `FAIL NAME: …` per case
and ends with `N passed, N failed, N skipped`; exit status 1 on a failure.
"""
import argparse
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from report import Report  # noqa: E402
from vm import GUARD_S, ROOT, VMKD, Hang, Vm, finish_ram, wait_for  # noqa: E402

CASES = []
# What these say comes once, at the start: the console must be there by then.
EARLY = {"print", "prompt", "command", "loadunload", "exception", "later"}
GUARD = str(int(GUARD_S))


class Skip(Exception):
    """The case does not apply; the text says why."""


def case(*scenarios, cpus=1, set_words=(), more=(), alone=False):
    """A case on a kernel of its own. alone: on one link and one architecture is enough."""
    def register(function):
        CASES.append((function.__name__, function, scenarios, cpus, set_words, more, alone))
        return function
    return register


def need_terminal():
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError as error:
        raise Skip(f"no pseudo terminal here ({error}; is /dev/pts mounted?)") from None


def check(condition, text):
    if not condition:
        raise AssertionError(text)


class Guest:
    """One kernel, and how a console reaches it."""

    def __init__(self, vm, link, arch):
        self.vm, self.link, self.arch = vm, link, arch
        self.is64 = arch == "x64"
        self.ip, self.sp, self.ax = ("rip", "rsp", "rax") if self.is64 else ("eip", "esp", "eax")

    @property
    def url(self):
        socket = self.vm.kd_socket()
        return f"unix:{socket}" if self.link == "serial" else f"vm:{self.vm.name}"

    def kd(self, commands, *options, status=0):
        got, text = self.vm.run("kd", self.url, "-t", GUARD, *options, "-c", commands)
        check(got == status, f"'{commands}' ended with {got}, expected {status}:\n{text}")
        return text

    def watch(self, *patterns, answers=()):
        """Lets the kernel run until the output has all the patterns, and ends the console then. answers: (pattern, command)
        pairs, each given once per time that its pattern appears."""
        answers = ((r" - code [0-9a-f]{8} \(", "g"), *answers)
        process = subprocess.Popen([VMKD, "kd", self.url, "-t", GUARD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env=self.vm.env, cwd=ROOT, bufsize=0)
        text, given = "", [0] * len(answers)
        try:
            process.stdin.write(b"g\n")
            while not all(re.search(p, text, re.M) for p in patterns):
                for i, (pattern, command) in enumerate(answers):
                    if len(re.findall(pattern, text)) > given[i]:
                        given[i] += 1
                        process.stdin.write(command.encode() + b"\n")
                if not select.select([process.stdout], [], [], GUARD_S)[0]:
                    raise Hang(f"not all of {patterns} in:\n{text}")
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    raise AssertionError(f"the console ended with {process.wait()} before all of {patterns}:\n{text}")
                text += data.decode(errors="replace")
        except BrokenPipeError:
            rest = process.stdout.read().decode(errors="replace")
            raise AssertionError(f"the console ended with {process.wait()}:\n{text}{rest}") from None
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        return text

    def value(self, expression):
        """The value of an expression, from a fresh console."""
        return number(self.kd(f"? {expression}"))

    def counts_on(self, when):
        """The kernel runs between consoles, for a while at least: the next one may break in before its first instruction."""
        before = self.value("dwo(nt!TkCounter)")
        wait_for(f"the counter to move {when}", lambda: time.sleep(0.1) or self.value("dwo(nt!TkCounter)") != before)


def number(text):
    found = re.findall(r"Evaluate expression: -?\d+ = ([0-9a-f`]+)", text)
    check(found, f"no value in:\n{text}")
    return int(found[-1].replace("`", ""), 16)


def must_match(text, *patterns):
    for pattern in patterns:
        check(re.search(pattern, text, re.M), f"nothing like '{pattern}' in:\n{text}")


def in_order(text, *pieces):
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        check(found >= 0, f"no '{piece}' behind what came before it in:\n{text}")
        at = found + len(piece)


# ---- refusals ----------------------------------------------------------------------------------------------------------------

@case(alone=True)
def bad_commands_give_one_line_and_a_status(guest):
    for commands, says in (
        ("nosuch", "there is no command 'nosuch'"),
        ("r nosuch", "expected a register"),
        (f"r {guest.ax}=", "expected a number"),
        (f"r {guest.ax}=1 2", "end of the expression"),
        ("r al=100", "1 bytes"),
        ("db nt L0", "at least one element"),
        ("db nt L?", "expected"),
        ("db 0 L1", "cannot read memory at 0"),
        ("? 1/0", "division by zero"),
        ("? nt!nosuch", "cannot resolve"),
        ("eb nt", "expected: eb"),
        ("eb nt 100", "expected a value of 1 bytes"),
        ("eb 0 1", "cannot write memory at 0"),
        ("bp", "expected: bp"),
        ("bp /f", "expected: bp"),
        ("ba", "expected: ba"),
        ("ba x1 nt", "expected: ba"),
        ("ba w", "expected: ba"),
        ("ba e4 nt", "expected size 1"),
        ("ba w3 nt", "expected size 1, 2, 4 or 8"),
        ("ba w4 nt+2", "a multiple of the size"),
        ("bc 9", "no breakpoint 9"),
        ("bc x", "expected breakpoint numbers"),
        ("~7s", "expected a processor"),
        ("~x", "expected: ~"),
        ("t 0", "expected 1 to"),
        ("lm m nosuch*", "no module"),
        ("lm z", "expected: lm"),
        (".writemem /nonexistent/x nt L10", "cannot write /nonexistent/x"),
        (".readmem /nonexistent/x nt", "cannot read /nonexistent/x"),
        (".writemem /tmp/x", "expected: .writemem"),
        (".sleep x", "milliseconds"),
        (".answer x", "has not asked"),
    ):
        text = guest.kd(f"{commands}; .echo still-here", status=1)
        lines = [line for line in text.splitlines() if line.startswith("vmkd kd: ")]
        check(len(lines) == 1 and says in lines[0], f"'{commands}': expected one line with '{says}', got:\n{text}")
        check("still-here" not in text, f"'{commands}' did not end the script:\n{text}")


@case(alone=True)
def bad_arguments(guest):
    for arguments, status, says in (
        ((), 2, "expected a TARGET"),
        (("nonsense",), 1, "expected vm:NAME"),
        (("vm:nosuch",), 1, "vmkd list"),
        (("unix:/nonexistent",), 1, "cannot connect"),
        (("tcp:127.0.0.1:1",), 1, "cannot connect"),
        (("serial:/dev/null",), 1, "not a serial device"),
        (("a", "b"), 2, "expected one TARGET"),
        (("-x",), 2, "unknown option"),
        (("-t", "no", "vm:x"), 2, "seconds"),
        (("-c",), 2, "expected an argument"),
    ):
        got, text = guest.vm.run("kd", *arguments)
        check(got == status and says in text and len(text.splitlines()) == 1,
              f"kd {' '.join(arguments)}: expected {status} and '{says}', got {got}:\n{text}")


@case(alone=True)
def a_dead_port_ends_in_a_message(guest):
    """Somebody listens, nobody is a kernel."""
    import socket
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen(1)
        got, text = guest.vm.run("kd", f"unix:{folder}/s", "-t", "2", "-c", "r")
    check(got == 1 and "nothing came from" in text, f"{got}: {text}")


@case("idle", alone=True)
def a_go_without_end_ends_with_t(guest):
    got, text = guest.vm.run("kd", guest.url, "-t", "4", "-c", "g; .echo never")
    check(got == 1 and re.search("did not stop within|nothing came from", text) and "never" not in text, f"{got}: {text}")
    guest.kd("r")  # and it left an orderly target


# ---- looking -----------------------------------------------------------------------------------------------------------------

@case("counter", cpus=2)
def looks_around(guest):
    text = guest.kd("vertarget; r; ~; lm; lmv m nt; db nt L20; dw nt L8; dd nt L4; dq nt L2; u @$ip L3")
    must_match(text, r"Windows Kernel Version 7601 MP \(2 procs\) Free " + ("x64" if guest.is64 else "x86"),
               rf"{guest.ip}=[0-9a-f]+", r"iopl=0 .* nz|zr", r"cs=00(08|10)  ss=00", r"^\.  0  pc", r"^   1  pc",
               r"^[0-9a-f`]+ [0-9a-f`]+   nt +\(ntoskrnl\.exe\)", r"Image path: .*ntoskrnl\.exe", r"Timestamp: +[0-9A-F]{8}",
               r"^[0-9a-f`]+  4d 5a [0-9a-f ]{17}-.*  MZ", r"^[0-9a-f`]+  5a4d ", r"^[0-9a-f`]+  [0-9a-f]{4}5a4d ",
               r"^[0-9a-f`]+  [0-9a-f]{8}`[0-9a-f]{4}5a4d ", r"^[0-9a-f`]+ cc +int3")


@case("counter")
def expressions(guest):
    check(guest.value("nt!TkTick - nt") == guest.value("TkTick-nt"), "a name with and without its module")
    check(guest.value("by(nt)+100*by(nt+1)") == 0x5A4D, "the image's first bytes")
    check(guest.value("wo(nt)") == 0x5A4D and guest.value("0n10+0y1+0t7") == 18, "numbers")
    check(guest.value(f"@{guest.ip}") == guest.value("@$ip") == guest.value("."), "the program counter")
    sign = 0xFFFFFFFFFFFFFFFF if guest.is64 else 0xFFFFFFFF
    check(guest.value("@$ip*0-1") == sign, "the width")
    text = guest.kd("lm a nt+100; ? nt")
    check(len(re.findall(r"\(ntoskrnl.exe\)", text)) == 1 and "hal" not in text, text)


@case("counter")
def strings_and_continued_dumps(guest):
    text = guest.kd("eb nt+700 41 42 43 0; da nt+700; ew nt+700 68 69 0; du nt+700; db nt L10; d L10; db L10; dd; ? nt")
    base = number(text)
    must_match(text, r'"ABC"', r'"hi"')
    lines = [int(m.replace("`", ""), 16) for m in re.findall(r"^([0-9a-f`]+)  [0-9a-f]{2} ", text, re.M)]
    check(lines[-3:] == [base, base + 16, base + 32], f"continued at {[hex(x) for x in lines]}")


@case("counter")
def registers_are_set(guest):
    before = guest.kd(f"r {guest.ax}, efl")
    text = guest.kd(f"r {guest.ax}=12345678; r eax, ax, ah, al; r zf=1; r zf; r zf=0; r zf; r {guest.ax}; r @efl; r cr0; r xmm0; "
                    f"r {'rax' if guest.is64 else 'eax'}={re.search('ax=([0-9a-f]+)', before)[1]}")
    in_order(text, "eax=12345678", "ax=5678", "ah=56", "al=78", "zf=1", "zf=0", "12345678", "efl=", "cr0=", "xmm0=")


@case("counter")
def memory_is_edited_found_and_copied(guest):
    with tempfile.TemporaryDirectory() as folder:
        text = guest.kd(f"eb nt+600 de ad be ef; dd nt+600 L1; ed nt+600 11223344 aabbccdd; db nt+600 L8; eq nt+600 0102030405060708; "
                        f"dq nt+600 L1; s nt L1000 08 07 06; f nt+610 L10 ab cd; db nt+610 L10; "
                        f".writemem {folder}/a nt L1000; .writemem \"{folder}/b c\" nt+600 nt+607; "
                        f".readmem \"{folder}/b c\" nt+618; db nt+618 L8; .readmem {folder}/a nt+700 L4; db nt+700 L4")
        in_order(text, "efbeadde", "44 33 22 11 dd cc bb aa", "01020304`05060708",
                 "08 07 06 05 04 03 02 01", "ab cd ab cd ab cd ab cd-ab cd", "1000 written", "8 written", "8 put into memory",
                 "08 07 06 05 04 03 02 01", "4 put into memory", "4d 5a")
        with open(f"{folder}/a", "rb") as file:
            data = file.read()
        check(len(data) == 0x1000 and data[:2] == b"MZ" and data[0x600:0x608] == bytes(range(8, 0, -1)), "the file is not the memory")
        # A file that is too short, and a range that is not all there: an error, and what could be done was done.
        guest.kd(f".readmem {folder}/a nt+700 L2000", status=1)
        text = guest.kd(f".writemem {folder}/part nt L?40000000", status=1)
        must_match(text, r"cannot read memory at")
        check(os.path.getsize(f"{folder}/part") >= 0x1000, "the readable part is not in the file")


# ---- processor breakpoints ---------------------------------------------------------------------------------------------------

def numbers(text):
    return [int(n.replace("`", ""), 16) for n in re.findall(r"Evaluate expression: -?\d+ = ([0-9a-f`]+)", text)]


@case("counter")
def processor_breakpoints_stop_where_code_is_executed(guest):
    """Once a round, each of them; nothing is in the code."""
    rounds = "g; ? dwo(nt!TkCounter); ? @$ip-nt!TkTick; " * 4
    text = guest.kd(f"ba e1 nt!TkTick; bl; {rounds} bl; db nt!TkTick L1; t; r kdr7; bc 0; bl; .echo end")
    check(text.count("Breakpoint 0 hit") == 4, text)
    values = numbers(text)
    check(values[1::2] == [0] * 4 and [v - values[0] for v in values[::2]] == [0, 1, 2, 3], f"rounds {values}:\n{text}")
    must_match(text, r"^ 0 e Disable Clear  [0-9a-f`]+  e 1  hits 0  nt!TkTick", r" hits 4 ")
    check(not re.search(r"^[0-9a-f`]+  cc", text, re.M), f"a break instruction is in the code:\n{text}")
    check("nt!TkTick" not in text[text.rindex("kdr7="):], f"it is still listed:\n{text}")


@case("counter")
def processor_breakpoints_watch_data(guest):
    size = 8 if guest.is64 else 4
    text = guest.kd(f"ba w4 nt!TkWatched; {'g; ? dwo(nt!TkWatched); ' * 4} bc *; ba r {size} nt!TkCounter; g; r {guest.ip}; g; r {guest.ip}; bl")
    check(text.count("Breakpoint 0 hit") == 6, text)
    values = numbers(text)
    check([v - values[0] for v in values] == [0, 1, 2, 3], f"written {values}:\n{text}")
    must_match(text, rf" r {size}  hits 2 ")


@case("counter")
def four_processor_breakpoints(guest):
    four = "ba e1 nt!TkTick; ba e1 nt!TkInner; ba w4 nt!TkWatched; ba e1 nt!TkOuter; "
    text = guest.kd(four + "ba e1 nt!TkMiddle", status=1)
    must_match(text, r"vmkd kd: expected a free debug register for breakpoint 4")
    text = guest.kd(four + "g; g; g; g; g; bd 2; ba e1 nt!TkMiddle; g; g; g; g; g; bl; be 2", status=1)
    hits = [int(n) for n in re.findall(r"Breakpoint (\d) hit", text)]
    rounds = [0, 2, 3, 1], [0, 3, 4, 1]  # TkTick and its write, TkOuter, TkMiddle, TkInner
    for order, seen in zip(rounds, (hits[:5], hits[5:])):
        start = order.index(seen[0])
        check(seen == [order[(start + i) % 4] for i in range(5)], f"hits {hits}:\n{text}")
    must_match(text, r"^ 2 d Disable Clear .* w 4 ", r"vmkd kd: expected at most 4 processor breakpoints")


@case("counter")
def processor_breakpoints_go_with_their_session(guest):
    guest.kd("ba e1 nt!TkTick; g")
    text = guest.kd("? @kdr7&ff; bl; ba w4 nt!TkWatched; qs")
    check(number(text) == 0, f"left behind:\n{text}")
    text = guest.kd("? @kdr7&ff; r")
    check(number(text) == 0, f"left behind in a stopped target:\n{text}")


@case("counter")
def processor_breakpoints_beside_others(guest):
    """Steps, a code breakpoint, and a step off both at one address."""
    text = guest.kd("ba e1 nt!TkTick; bp nt!TkTick; bp nt!TkInner; g; t; g; g; p; g; bl; ? @$ip-nt!TkTick")
    hits = [int(n) for n in re.findall(r"Breakpoint (\d) hit", text)]
    check(len(hits) == 4 and set(hits[::2]) <= {0, 1} and hits[1::2] in ([2, 2], [2, 0], [2, 1]) or hits.count(2) == 2, f"hits {hits}:\n{text}")


@case("counter", more=("--reboot",))
def processor_breakpoints_after_a_reboot(guest):
    text = guest.kd("ba e1 nt!TkTick; g; .reboot; g; .echo again; g; bl", "-b")
    in_order(text, "Breakpoint 0 hit", "restarts", "1 breakpoints were in the old kernel", "Breakpoint 0 hit", "again", "Breakpoint 0 hit", "hits 3")


@case("smp", cpus=4)
def processor_breakpoints_on_every_processor(guest):
    for cpu in (1, 3, 0, 2):
        text = guest.kd(f"ba w4 nt!TkCpuCounters+{8 * cpu:x}; g; ~; g; ~; bl", "-b")
        check(text.count("Breakpoint 0 hit") == 2 and len(re.findall(rf"^\.  {cpu}  pc", text, re.M)) == 2, f"processor {cpu}:\n{text}")


@case("smp", cpus=4)
def processors_meet_at_a_breakpoint(guest):
    """Three run the same loop: each stop is a hit, whoever else has run into it meanwhile. Those who wait to report it when it is gone say nothing."""
    rounds = 6 if guest.link == "serial" else 24  # a UART that four processors want to poll
    text = guest.kd(f"~1s; {'t; ' * 8} ba e1 @$ip; {'g; ~; ' * rounds} bc *; bp nt!TkSpinBoot; g; ~", "-b")
    hits = text.count("Breakpoint 0 hit")
    check(hits == rounds + 1 and "Single step exception" not in text, f"{hits} hits:\n{text}")
    came = re.findall(r"^\.  (\d)  pc", text, re.M)
    check((len(set(came[:rounds])) > 1 or guest.link == "serial") and "0" not in came[:rounds] and came[rounds] == "0", f"processors {came} came:\n{text}")


# ---- running -----------------------------------------------------------------------------------------------------------------

@case("counter")
def breakpoints(guest):
    text = guest.kd("bp nt!TkTick; bp nt!TkInner; bl; g; g; g; bl; u nt!TkInner L1; .echo --; bd 0; g; g; .echo --; be 0; bc 1; g; g; "
                    ".echo --; bc *; bl")
    both, inner, tick, none = text.split("--\n")
    in_order(both, " 0 e Disable Clear", "hits 0  nt!TkTick", " 1 e ", "Breakpoint", " hit")
    check(both.count(" hit\n") == 3 and "Breakpoint 0 hit" in both and "Breakpoint 1 hit" in both, both)
    check(not re.search(r"^[0-9a-f`]+ cc +int3", both[both.index("hits 1"):], re.M), f"a breakpoint shows in the code:\n{both}")
    check(inner.count("Breakpoint 1 hit") == 2 and "Breakpoint 0" not in inner, inner)
    check(tick.count("Breakpoint 0 hit") == 2 and "Breakpoint 1" not in tick, tick)
    check(not none.strip(), f"bc * left some: {none}")
    # The console is gone, and so are they: the kernel runs on.
    guest.counts_on("after breakpoints")


@case("counter")
def steps(guest):
    text = guest.kd("t; r; t 3; g nt!TkOuter; p; p; p; p; p; r " + guest.ip + "; bl")
    check("Breakpoint" not in text, f"a temporary breakpoint was announced:\n{text}")
    check("TkMiddle" not in text and "TkInner" not in text, f"p went into a call:\n{text}")
    text = guest.kd("g nt!TkOuter; t 8")
    check("TkMiddle" in text, f"t 8 from TkOuter did not go into TkMiddle:\n{text}")


@case("counter", cpus=2)
def processors(guest):
    text = guest.kd("~; ~1s; r " + guest.ip + "; ~1; t; ~0s; ~0; ~1s; .echo done")
    in_order(text, ".  0", "   1", guest.ip + "=", ".  1", ".  0", "done")
    guest.counts_on("after a switch")
    # From the other processor g still gets the first one off its breakpoint, and past its break instruction.
    text = guest.kd("bp nt!TkTick; ~1s; g; ~1s; g; .echo fine")
    check(text.count("Breakpoint 0 hit") == 2 and "fine" in text, text)


@case("exception", set_words=("break",))
def exceptions(guest):
    text = guest.watch(r"Access violation - code c0000005 \((first chance|!!! second chance !!!)\)", r"^Parameter\[1\]")
    must_match(text, rf"{guest.ip}=[0-9a-f]+", r"nt!TkFaultRead")


@case("print", "prompt", set_words=("break",))
def prints_and_prompts(guest):
    text = guest.watch(r"TK: you said 'Ada' \(3 characters\)", answers=((r"waits for an answer", ".answer Ada\ng"),))
    in_order(text, "TK: line 1 of 100", "TK: line 100 of 100", "your name?", "you said 'Ada' (3 characters)")


@case("loadunload", set_words=("break",))
def module_loads_are_shown_and_go_on(guest):
    guest.watch(r"^ModLoad: [0-9a-f`]+ [0-9a-f`]+   .+", r"^ModUnload: ")


@case("command", "print", set_words=("break",))
def commands_of_the_guest_are_not_run(guest):
    text = guest.watch(r"wants this command to be run \(it was not\): .echo hello!", "TK: line 100 of 100")
    check("\nhello!" not in text, f"the guest's command was run:\n{text}")


@case("counter", more=("--reboot",))
def reboot(guest):
    text = guest.kd("bp nt!TkTick; g; .reboot; g; .echo again; bl; bc *; lm", "-b")
    in_order(text, "Breakpoint 0 hit", "restarts", "Breakpoint 0 hit", "again", "ntoskrnl")


@case("counter")
def crash(guest):
    text = guest.kd(".crash; r; lm; .echo there")
    in_order(text, "ntoskrnl", "there")


@case("counter")
def qs_leaves_the_target_stopped(guest):
    first = guest.kd(f"g nt!TkInner; r {guest.ip}; qs")
    time.sleep(0.5)
    second = guest.kd(f"r {guest.ip}")
    pattern = rf"^{guest.ip}=[0-9a-f]+"
    check(re.search(pattern, first, re.M)[0] == re.search(pattern, second, re.M)[0], f"it ran:\n{first}\n{second}")


@case("counter", alone=True)
def commands_from_a_pipe(guest):
    def run(text):
        done = subprocess.run([VMKD, "kd", guest.url, "-t", GUARD], input=text, capture_output=True, text=True, env=guest.vm.env, cwd=ROOT,
                              timeout=GUARD_S)
        return done.returncode, done.stdout, done.stderr
    status, out, err = run("r\n\n? 1+1\nq\n? never\n")
    check(status == 0 and "Evaluate expression: 2" in out and "= 00000000`00000000" not in out and not err, f"{status} {out} {err}")
    check("\x1b" not in out, "colours or cursor movement without a terminal")
    status, out, err = run("bogus\n? 2\n")
    check(status == 1 and "no command 'bogus'" in err, f"{status} {out} {err}")


@case("counter", alone=True)
def the_connection_breaks(guest):
    process = subprocess.Popen([VMKD, "kd", guest.url, "-t", GUARD, "-c", "r; g"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=guest.vm.env, cwd=ROOT)
    process.stdout.readline()
    guest.vm.end()
    out, err = process.communicate(timeout=GUARD_S)
    check(process.returncode == 1 and len(err.splitlines()) == 1 and "connection" in err, f"{process.returncode}\n{out}\n{err}")


@case("counter", alone=True)
def a_serial_line(guest):
    """A terminal device in between, as with a real serial port."""
    if not shutil.which("socat"):
        raise Skip("socat is not installed")
    need_terminal()
    device = f"{guest.vm.folder}/line"
    socat = subprocess.Popen(["socat", f"PTY,link={device},raw,echo=0", f"UNIX-CONNECT:{guest.vm.kd_socket()}"])
    try:
        wait_for("the line", lambda: os.path.exists(device))
        got, text = guest.vm.run("kd", f"serial:{device}", "-t", GUARD, "-c", f"r {guest.ip}; lm; .writemem {guest.vm.folder}/x nt L3000")
        check(got == 0 and "ntoskrnl" in text and "3000 written" in text, f"{got}:\n{text}")
    finally:
        socat.kill()
        socat.wait()


@case("counter")
def a_second_debugger_observes(guest):
    if guest.link == "serial":
        raise Skip("QEMU's own socket serves one and lets others wait")
    first = subprocess.Popen([VMKD, "kd", guest.url, "-b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=guest.vm.env, cwd=ROOT)
    try:
        lines = iter(first.stdout.readline, "")  # prints of the start may come before
        check(any("Break instruction" in line for line in lines), "the first one has not broken in")
        text = guest.kd("r; q")
        check(f"{guest.ip}=" in text, f"the second one does not see registers:\n{text}")
        out, _ = first.communicate(f"r {guest.ip}\n? 40+2\nq\n", timeout=GUARD_S)
        check(first.returncode == 0 and f"{guest.ip}=" in out and "Evaluate expression: 66" in out, f"the first one was disturbed: {first.returncode}\n{out}")
    finally:
        first.kill()
        first.wait()
    guest.kd("r")


@case("counter", alone=True)
def sigint_breaks_in(guest):
    process = subprocess.Popen([VMKD, "kd", guest.url, "-t", GUARD, "-c", "g; .echo stopped; r"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=guest.vm.env, cwd=ROOT)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=GUARD_S)
    check(process.returncode == 0 and "stopped" in out, f"{process.returncode}\n{out}")


# ---- a terminal --------------------------------------------------------------------------------------------------------------

class Terminal:
    """`vmkd kd` on a terminal of its own."""

    def __init__(self, guest, *options):
        self.state = tempfile.TemporaryDirectory()
        env = {**guest.vm.env, "TERM": "xterm", "XDG_STATE_HOME": self.state.name}
        need_terminal()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(VMKD, [str(VMKD), "kd", guest.url, *options], env)
        self.text = ""
        self.seen = 0

    def expect(self, pattern):
        """Waits for the pattern behind what was matched before."""
        end = time.monotonic() + GUARD_S
        while True:
            found = re.compile(pattern).search(self.text, self.seen)
            if found:
                self.seen = found.end()
                return found
            if time.monotonic() > end:
                raise Hang(f"no '{pattern}' in {self.text[-1500:]!r}")
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    raise AssertionError(f"the console ended before '{pattern}': {self.text[-1500:]!r}")
                self.text += data.decode(errors="replace")

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """The exit status."""
        while True:
            try:
                if not select.select([self.fd], [], [], GUARD_S)[0]:
                    raise Hang(f"the console does not end: {self.text[-1500:]!r}")
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)
        self.state.cleanup()


@case("counter")
def a_terminal(guest):
    terminal = Terminal(guest)
    try:
        terminal.expect(r"kd> ")
        terminal.type("r\n")
        terminal.expect("it is running|said nothing")
        terminal.type("\x03")  # Ctrl-C breaks in
        terminal.expect(r"0: kd> ")
        terminal.type("? 1+1\n")
        terminal.expect("Evaluate expression: 2")
        terminal.type("bp nt!TkTick\ng\n")
        terminal.expect("Breakpoint 0 hit")
        terminal.expect(r"0: kd> ")
        terminal.type("vert\tx\x7f\n")  # completion, and a key too much
        terminal.expect("Windows Kernel Version")
        terminal.type("db 0 L1\n")
        terminal.expect(r"\?\?")
        terminal.type("bogus\n")
        terminal.expect("no command 'bogus'")
        terminal.type("bc *\ng\n")
        time.sleep(1)
        terminal.type("\x03")
        terminal.expect("Break instruction exception")
        terminal.expect(r"0: kd> ")
        terminal.type("\x1b[A\x1b[A\n")  # history: bc *
        terminal.expect(r"0: kd> ")
        terminal.type("q\n")
        check(terminal.end() == 0, "q did not end well")
    finally:
        terminal.close()


@case("later", set_words=("later=4",), alone=True)
def prints_do_not_spoil_the_line(guest):
    terminal = Terminal(guest)
    try:
        terminal.expect(r"kd> ")
        terminal.type("? 20+")
        terminal.expect("TK: later")
        terminal.expect(r"kd> \? 20\+")  # drawn again
        terminal.type("2\n")
        terminal.expect("Evaluate expression: 34")
        terminal.type("\x04")  # at once, while the terminal may not be the editor's yet: the key must not be lost
        check(terminal.end() == 0, "Ctrl-D did not end well")
    finally:
        terminal.close()


@case("prompt", set_words=("break",), alone=True)
def prompts_on_a_terminal(guest):
    terminal = Terminal(guest, "-b")
    try:
        terminal.expect(r"0: kd> ")
        terminal.type("g\n")
        terminal.expect("Break instruction|TK: your name")
        if "TK: your name" not in terminal.text:  # that was the kernel's own, behind ours
            terminal.type("g\n")
        terminal.expect("answer> ")
        terminal.type("Grace\n")
        terminal.expect(r"you said 'Grace'")
    finally:
        terminal.close()


# ---- the run -----------------------------------------------------------------------------------------------------------------

def run_case(entry, link, arch):
    _, function, scenarios, cpus, words, more, _ = entry
    arguments = ["--arch", arch, "--cpus", cpus, "--link", link, *more]
    for scenario in scenarios:
        arguments += ["--scenario", scenario]
    for word in words:
        arguments += ["--set", word]
    with Vm("c", *arguments) as vm:
        vm.kd_socket()
        if scenarios and not EARLY & set(scenarios):
            wait_for("the kernel's start", lambda: "TK: scenario" in vm.output(), alive=vm.process)
        function(Guest(vm, link, arch))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--link", choices=("serial", "debugcon", "both"), default="both")
    parser.add_argument("--arch", choices=("x64", "x86", "both"), default="both")
    parser.add_argument("--trace", action="store_true", help="print the stack of failures")
    parser.add_argument("patterns", nargs="*", help="only cases whose name contains one of these")
    options = parser.parse_args()
    links = ("serial", "debugcon") if options.link == "both" else (options.link,)
    arches = ("x64", "x86") if options.arch == "both" else (options.arch,)
    report = Report()
    for link in links:
        for arch in arches:
            for entry in CASES:
                if options.patterns and not any(p in entry[0] for p in options.patterns):
                    continue
                if entry[6] and (link, arch) != (links[0], arches[0]):
                    continue
                name = f"{link} {arch} {entry[0]}"
                try:
                    run_case(entry, link, arch)
                    report.ok(name)
                except Skip as why:
                    report.skip(name, why)
                except (AssertionError, Hang, OSError, ValueError, TypeError, KeyError, subprocess.TimeoutExpired) as error:
                    report.fail(name, f"{type(error).__name__}: {error}")
                    if options.trace:
                        traceback.print_exc()
    finish_ram(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
