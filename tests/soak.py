#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Campaigns: everything at once, for long. What a debugger may rely on is judged at every step; how long things took is only stated, but for
the one figure that is promised.

    tests/soak.py [--seconds N] [--kills N] [--resets N] [--clients N] [--seed S] [WORD…]     WORD: of a campaign's title

crowd   16 clients of all kinds come, go, are killed, break in, read, step and continue, pass control on, reset the machine. Two witnesses stay
        attached all the time. Each client: a print is seen once and in order, a byte that is read is right, a request has an answer.
        The broker's memory does not grow.
kills   the broker dies by SIGKILL in the middle of transfers and is started again: the next client finds a valid target.
resets  the machine is reset in the middle of transfers: the same.

A run is repeatable as far as the host's scheduling is: the decisions come from the seed.
"""
import argparse
import collections
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import e2e
from e2e import BOTH, HOOK, KVM, Skip, attach, client_of, expect, test
from kdclient import KdClient, KdClosed, KdError, KdRefused, Print, StateChange
from vm import BUILD, GUARD_S, wait_for

BIG_MIB = 4
BIG = BIG_MIB << 20
LINE = re.compile(r"TK: ticker (\d+)\n")
VALID_S = 2.0  # promised: how long until the next client has a valid target
# Pages of a broker's heap come and go with the clients of the moment; a leak of one small thing a client comes to more than this in a long run.
FLAT_KB = 1024
OPTIONS = argparse.Namespace(seconds=30.0, kills=20, resets=6, clients=16, seed=1)


def pattern(base, offset, count):
    """TkBigMap's bytes (testkernel/nt/mappings.h): every 8 bytes hold their address."""
    start = base + offset & ~7
    words = b"".join(struct.pack("<Q", a) for a in range(start, base + offset + count + 8, 8))
    skip = base + offset - start
    return words[skip:skip + count]


def go_on(kd):
    """As a debugger does it, past the int3 of a break-in; who only observes may not move the processor."""
    try:
        kd.step_off_int3()
    except KdRefused:
        pass
    kd.go()


class Known:
    """Where things are: in a kernel that is loaded at the same place at every boot."""

    def __init__(self, kd):
        exports = kd.exports(kd.version().kern_base)
        self.base = kd.version().kern_base
        self.tick = exports["TkTick"]
        self.big = kd.read_u64(exports["TkBigMap"])


def check_bytes(kd, known, dice):
    offset = dice.randrange(BIG - 9000)
    count = dice.choice((1, 8, 100, 3944, 3945, 8192))
    got = kd.read_virtual(known.big + offset, count)
    expect(got == pattern(known.big, offset, count), f"wrong bytes at {known.big + offset:#x}+{count}")


# ---- prints: once, and in order --------------------------------------------------------------------------------

class Lines:
    """The numbered lines that one client sees while it is attached."""

    def __init__(self, who):
        self.who, self.last, self.seen, self.faults, self.restarts = who, None, 0, [], 0
        self.text, self.may_repeat = None, 0  # the last print; how many more may be its repetition

    def resynchronised(self):
        """A print that was on its way, and its ACK, cross our RESET: it comes once more, as from every KDCOM target. We may have read it before our
        RESET, or afterwards: then it is the second one that comes."""
        self.may_repeat = 2

    def take(self, event):
        if not isinstance(event, Print):
            return
        is_repeated = self.may_repeat > 0 and event.text == self.text
        self.text, self.may_repeat = event.text, max(self.may_repeat - 1, 0)
        for number in () if is_repeated else map(int, LINE.findall(event.text)):
            self.seen += 1
            if number == 1 and self.last is not None:
                self.restarts += 1
            elif self.last is not None and number != self.last + 1:
                self.faults.append(f"{self.who}: line {number} behind {self.last}")
            self.last = number


# ---- the clients of a crowd ----------------------------------------------------------------------------------------

class Member(threading.Thread):
    """One client, again and again. What it did is in `did`; what went wrong in `faults`."""

    def __init__(self, crowd, index):
        super().__init__(name=f"{self.kind} {index}", daemon=True)
        self.crowd, self.dice = crowd, random.Random(f"{OPTIONS.seed}.{index}")
        self.did, self.faults = collections.Counter(), []

    def run(self):
        while not self.crowd.is_over():
            try:
                self.once()
            except (KdRefused, KdClosed, ConnectionError) as ended:
                self.did[type(ended).__name__] += 1  # no control; a connection that somebody has killed
            except Exception as error:
                self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
                return
            time.sleep(self.dice.random() * 0.3)


class Debugger(Member):
    """A KDCOM client of its own kind: comes, does some things, goes in one of several ways."""
    kind = "unix"

    def where(self):
        return str(self.crowd.vm.runtime / "kd.sock")

    def once(self):
        self.lines = Lines(self.name)
        with KdClient(timeout=GUARD_S).connect(self.where()) as kd:
            kd.on_event = self.lines.take
            self.use(kd)
            self.leave(kd)
        self.faults += self.lines.faults
        self.did["lines"] += self.lines.seen

    def use(self, kd):
        for _ in range(self.dice.randrange(1, 8)):
            self.dice.choice((self.look, self.read, self.read, self.step, self.run_on, self.breakpoint, self.listen))(kd)

    def look(self, kd):
        """What there is: a stop, if there is one or comes soon."""
        self.did["look"] += 1
        if kd.stop is None:
            kd.link.send_reset()
            kd.expect_refresh()
            self.lines.resynchronised()
            self.until_stop(kd, 0.5)

    def until_stop(self, kd, seconds):
        end = time.monotonic() + seconds
        while kd.stop is None and time.monotonic() < end:
            kd._next_event(min(end, time.monotonic() + 0.2))

    def read(self, kd):
        if kd.stop is None:
            self.ask_for_stop(kd)
        if kd.stop is None:
            return
        try:
            check_bytes(kd, self.crowd.known, self.dice)
            self.did["read"] += 1
        except KdRefused:
            self.did["read while it runs"] += 1

    def ask_for_stop(self, kd):
        kd.link.write(b"b")
        self.until_stop(kd, 1.0)
        self.did["break" if kd.stop else "break in vain"] += 1

    def step(self, kd):
        if kd.stop is None:
            return
        kd.go(trace=True)
        self.until_stop(kd, 1.0)
        self.did["step"] += 1

    def run_on(self, kd):
        if kd.stop is not None:
            go_on(kd)
            self.did["go"] += 1
        self.until_stop(kd, self.dice.random())

    def breakpoint(self, kd):
        if kd.stop is None or not self.crowd.can_int3:
            return
        handle = kd.write_breakpoint(self.crowd.known.tick)
        go_on(kd)
        self.until_stop(kd, 1.0)
        if kd.stop is not None:
            kd.restore_breakpoint(handle)
            self.did["breakpoint"] += 1

    def listen(self, kd):
        self.run_on(kd)

    def leave(self, kd):
        way = self.dice.randrange(4)
        if way == 0 and kd.stop is not None:
            go_on(kd)
        elif way == 1:  # in the middle of a packet
            kd.link.sock.sendall(b"0000\x02\0\x38\0" + bytes(self.dice.randrange(0, 40)))
        elif way == 2:  # with a request whose answer nobody will read
            kd.link.sock.sendall(b"b")
        self.did[f"left {way}"] += 1


class OverTcp(Debugger):
    kind = "tcp"

    def where(self):
        return f"127.0.0.1:{self.crowd.port}"


class Program(Member):
    """A process: the console, or a program on libvmkd. It may be killed."""
    kind = "console"

    def command(self):
        commands = ["vertarget", "db nt L40", "lm", "r", f"dq {self.crowd.known.big:x} L8"]
        self.dice.shuffle(commands)
        return [e2e.VMKD, "kd", f"vm:{self.crowd.vm.name}", "-b", "-t", "30", "-c", "; ".join(commands[:3] + ["q"])]

    def once(self):
        process = subprocess.Popen(self.command(), env=self.crowd.vm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace")
        try:
            is_killed = self.dice.randrange(3) == 0
            text, _ = process.communicate(timeout=self.dice.random() * 2 if is_killed else GUARD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            expect(is_killed, f"hangs: {text[-500:]}")
            self.did["killed"] += 1
            return
        self.did[f"status {process.returncode}"] += 1
        self.judge(text)

    def judge(self, text):
        words = re.search(f"^{self.crowd.known.big >> 32:08x}`{self.crowd.known.big & 0xFFFFFFFF:08x}  ([0-9a-f]+)`([0-9a-f]+)", text, re.M)
        if words:
            expect(int(words[1] + words[2], 16) == self.crowd.known.big, f"wrong bytes: {words[0]}")
            self.did["read"] += 1


class Library(Program):
    kind = "libvmkd"

    def command(self):
        return [BUILD / "examples" / "read", f"vm:{self.crowd.vm.name}"]

    def judge(self, text):
        expect(not re.match("[0-9a-f]{2} ", text) or text.startswith("4d 5a "), f"wrong bytes: {text}")
        self.did["read"] += text.startswith("4d 5a ")


class Governor(Member):
    """Passes control on, asks for figures, and resets the machine now and then."""
    kind = "governor"

    def once(self):
        vm = self.crowd.vm
        clients = (vm.listed() or {}).get("clients", [])
        roll = self.dice.randrange(10)
        if roll == 0 and time.monotonic() > self.crowd.next_reset:
            self.crowd.next_reset = time.monotonic() + 15
            self.crowd.qmp.call("system_reset")
            self.did["reset"] += 1
        elif roll < 4 and clients:
            command = self.dice.choice((["take", str(self.dice.choice(clients)["id"])], ["give"],
                                        ["take", "--force", str(self.dice.choice(clients)["id"])]))
            status, _ = vm.run("control", vm.name, *command)
            self.did[f"control {command[0]} -> {status}"] += 1
        else:
            vm.stats()
            self.did["stats"] += 1
        time.sleep(self.dice.random())


class Witness(Member):
    """Is there all the time and goes on from every stop: it must see every line."""
    kind = "witness"

    def __init__(self, crowd, index):
        super().__init__(crowd, index)
        self.lines = Lines(self.name)

    def run(self):
        try:
            with KdClient(timeout=GUARD_S).connect(str(self.crowd.vm.runtime / "kd.sock")) as kd:
                kd.on_event = self.lines.take
                kd.link.send_reset()
                while not self.crowd.is_over():
                    event = kd._next_event(time.monotonic() + 0.5)
                    if isinstance(event, StateChange):
                        self.did[type(event).__name__] += 1
                        go_on(kd)
        except Exception as error:
            self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
        self.faults += self.lines.faults


class Crowd:
    def __init__(self, vm, port, can_int3):
        self.vm, self.port, self.can_int3 = vm, port, can_int3
        self.qmp, self.end, self.next_reset = vm.qmp(), 0.0, 0.0
        self.anonymous = []

    def is_over(self):
        return time.monotonic() > self.end

    def broker_kb(self):
        text = open(f"/proc/{self.vm.listed()['broker_pid']}/smaps_rollup", encoding="ascii").read()
        return int(re.search(r"^Anonymous:\s+(\d+) kB", text, re.M)[1])

    def gather(self):
        kinds = [Debugger, OverTcp, Program, Library, Debugger, OverTcp]
        members = [kinds[i % len(kinds)](self, i) for i in range(OPTIONS.clients - 2)]
        return members + [Witness(self, 100), Witness(self, 101), Governor(self, 200)]

    def go(self, seconds):
        self.end = time.monotonic() + seconds
        members = self.gather()
        for member in members:
            member.start()
        while not self.is_over():
            time.sleep(min(5.0, seconds / 10))
            self.anonymous.append(self.broker_kb())
        for member in members:
            member.join(GUARD_S * 2)
        return members


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def judge_memory(samples):
    """Flat: the last third of the run is not above the second."""
    third = len(samples) // 3
    middle, late = max(samples[third:2 * third]), max(samples[2 * third:])
    print(f"note the broker's own memory: {samples[0]} kB at first, {middle} kB at most in the second third, {late} kB in the last", flush=True)
    expect(late <= middle + FLAT_KB, f"the broker grows: {samples}")


@test("crowd", BOTH)
def crowd(way):
    # Whoever loses control between two packets may go on without having moved the processor past its break instruction.
    if way == HOOK and KVM == "software":
        raise Skip("a KVM that survives a break instruction in long mode")
    port = free_port()
    with way.vm("soak", "--reboot", "--bigmap", BIG_MIB, "--scenario", "ticker=4", "--run", "--tcp", "--run", str(port)) as vm:
        c = Crowd(vm, port, way != HOOK)
        with client_of(vm) as kd:
            attach(kd)
            c.known = Known(kd)
            kd.resume()
        members = c.go(OPTIONS.seconds)
        faults = [fault for member in members for fault in member.faults]
        for member in members:
            print(f"{member.name}: {dict(member.did)}{' ' + str(member.lines.seen) + ' lines' if isinstance(member, Witness) else ''}", flush=True)
        hung = [member.name for member in members if member.is_alive()]
        expect(not hung, f"never came back: {hung}")
        expect(not faults, f"{len(faults)} faults, seed {OPTIONS.seed}: " + "; ".join(faults[:5]))
        expect(all(m.lines.seen > OPTIONS.seconds / 10 for m in members if isinstance(m, Witness)), "the witnesses saw next to nothing")
        expect(sum(m.did["read"] for m in members) > OPTIONS.seconds, "next to nothing was read")
        judge_memory(c.anonymous)


# ---- deaths ------------------------------------------------------------------------------------------------------------

class Transfer(threading.Thread):
    """A debugger that reads as fast as it can until its connection or its target ends."""

    def __init__(self, vm, known, dice):
        super().__init__(daemon=True)
        self.vm, self.known, self.dice, self.fault, self.requests = vm, known, dice, None, 0
        self.kd = client_of(vm)

    def run(self):
        try:
            attach(self.kd)
            while True:
                check_bytes(self.kd, self.known, self.dice)
                self.requests += 1
        except (KdError, OSError):
            pass  # that is what happens to it
        except Exception as error:
            self.fault = error

    def end(self):
        self.kd.link.sock.shutdown(socket.SHUT_RDWR)
        self.join(GUARD_S)
        self.kd.close()
        if self.fault:
            raise self.fault


def valid_target(vm, known, dice):
    """Seconds until a client that comes now has read the right bytes of a stopped target, wherever that was before."""
    begun = time.monotonic()
    with client_of(vm) as kd:
        attach(kd)
        check_bytes(kd, known, dice)
        seconds = time.monotonic() - begun
        kd.resume()
    return seconds


def state_times(what, seconds):
    seconds = sorted(seconds)
    late = sum(s > VALID_S for s in seconds)
    print(f"note {what}: {len(seconds)} times, median {seconds[len(seconds) // 2]:.3f} s, worst {seconds[-1]:.3f} s, {late} beyond {VALID_S} s", flush=True)
    return late


def learn(vm):
    with client_of(vm) as kd:
        attach(kd)
        known = Known(kd)
        kd.resume()
    return known


def deaths(way, count, strike):
    dice = random.Random(f"{OPTIONS.seed}.{way}")
    with way.vm("soak", "--reboot", "--bigmap", BIG_MIB, "--scenario", "ticker=4") as vm:
        known = learn(vm)
        seconds, requests, brokers = [], 0, []
        try:
            for _ in range(count):
                transfer = Transfer(vm, known, dice)
                transfer.start()
                time.sleep(dice.random() * 1.2)  # from its attaching on
                strike(vm, brokers)
                transfer.end()
                seconds.append(valid_target(vm, known, dice))
                requests += transfer.requests
        finally:
            for broker in brokers:
                broker.kill()
                broker.wait()
        print(f"{way}: {requests} requests in between", flush=True)
        expect(requests > count, "hardly anything was going on")
        late = state_times(str(way), seconds)
        expect(late == 0 or OPTIONS.is_loaded, f"{late} of {count} had to wait longer than {VALID_S} s, seed {OPTIONS.seed}")


def kill_broker(vm, brokers):
    pid = vm.listed()["broker_pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for("its death", lambda: has_ended(pid))
    while brokers:
        brokers.pop().wait()
    brokers.append(vm.start("serve", vm.name))
    wait_for("the next broker", lambda: can_connect(vm), alive=brokers[0])


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(") ", 1)[1][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def can_connect(vm):
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(vm.runtime / "ctl.sock"))
            return True
        except OSError:
            return False


@test("kills", BOTH)
def kills(way):
    deaths(way, OPTIONS.kills, kill_broker)


@test("resets", BOTH)
def resets(way):
    deaths(way, OPTIONS.resets, lambda vm, _brokers: vm.qmp().call("system_reset"))


def main():
    parser = argparse.ArgumentParser(description="campaigns against one VM")
    parser.add_argument("--seconds", type=float, default=OPTIONS.seconds)
    parser.add_argument("--kills", type=int, default=OPTIONS.kills)
    parser.add_argument("--resets", type=int, default=OPTIONS.resets)
    parser.add_argument("--clients", type=int, default=OPTIONS.clients)
    parser.add_argument("--seed", type=int, default=OPTIONS.seed)
    parser.add_argument("--is-loaded", action="store_true", help="this machine does other things besides: times are stated, not judged")
    parser.add_argument("words", nargs="*")
    parser.parse_args(namespace=OPTIONS)
    sys.argv[1:] = OPTIONS.words
    e2e.main()


if __name__ == "__main__":
    main()
