#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Traces: the decoder of `vmkd trace show` and the dissector for tshark held against each other and against packets made here, sessions of a
real kernel played as targets, and recordings of the test kernel with everything that can happen to them.

    tests/test_trace.py [WORD...]
"""
import json
import os
import re
import signal
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pcapng
from e2e import BOTH, DEBUGCON, Folder, attach, client_of, expect, main, refused, test
from vm import GUARD_S, ROOT, VMKD, wait_for

LUA = ROOT / "trace" / "wireshark" / "vmkd.lua"
TESTDATA = ROOT / "wire" / "testdata"
SESSIONS = ("x64-attached", "x64-boot", "i386-boot")
X64, X86 = 0x8664, 0x014C
OF_LUA_ALONE = {"kd.reply_in", "kd.request_in"}  # what a single packet cannot tell


# ---- both decoders ---------------------------------------------------------------------------------------------------------------------

def run(*command, **more):
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=GUARD_S, **more)


def tshark(path, *arguments):
    """Its output; anything it complains of is a failure, but for who it runs as."""
    done = run("tshark", "-X", f"lua_script:{LUA}", "-r", path, *arguments)
    complaints = [line for line in done.stderr.decode().splitlines() if "could be dangerous" not in line]
    expect(done.returncode == 0 and not complaints, f"tshark {done.returncode}: {complaints[:3]}")
    return done.stdout.decode(errors="replace")


def shown(path):
    """vmkd's view: for each packet (title, [(name, value)...]), numbers as int, everything else as text."""
    done = run(VMKD, "trace", "show", "--json", path)
    expect(done.returncode == 0, f"vmkd trace show: {done.stderr.decode()}")
    packets = [json.loads(line) for line in done.stdout.splitlines()]
    return [(p["title"], [(name, value) for name, value in p["fields"]]) for p in packets]


def dissected(path, numbers):
    """tshark's view in the same form; `numbers`: the names whose values are numbers."""
    packets = []
    for packet in ElementTree.fromstring(tshark(path, "-T", "pdml")).iter("packet"):
        fields, named = [], {}
        for f in packet.iter("field"):
            name = f.get("name")
            if not name.startswith("kd.") or name in OF_LUA_ALONE or f.get("size") is None or "expert" in name or name == "kd.status.failed":
                continue
            show = f.get("show")
            fields.append((name, int(show, 0) if name in numbers else show.replace(":", "") if name in ("kd.data", "kd.raw", "kd.report.instructions") else show))
            named[name] = f.get("showname")
        packets.append((named, fields))
    return packets


def in_order(fields):
    return sorted(fields, key=lambda f: f[0])  # stable: repeated ones keep their order


def compare(path, least):
    ours = shown(path)
    numbers = {name for _, fields in ours for name, value in fields if isinstance(value, int)}
    theirs = dissected(path, numbers)
    expect(len(ours) == len(theirs) and len(ours) >= least, f"{len(ours)} packets here, {len(theirs)} in tshark, expected {least} or more")
    seen = set()
    for at, ((title, mine), (named, its)) in enumerate(zip(ours, theirs), 1):
        expect(in_order(mine) == in_order(its), f"packet {at} ({title}):\n  vmkd   {sorted(set(mine) - set(its))}\n  tshark {sorted(set(its) - set(mine))}")
        word = named.get("kd.api") or named.get("kd.state") or named.get("kd.type")
        if word and "kd.malformed" not in dict(mine) and "kd.damage" not in dict(mine) and title != "unknown" and dict(mine).get("kd.type") != 1:
            expect(f": {title} (" in word, f"packet {at}: '{title}' here, '{word}' in tshark")
        seen |= {name for name, _ in mine}
    return seen


# ---- packets made here -----------------------------------------------------------------------------------------------------------------

def frame(kind, body, identity=0x80800000):
    return struct.pack("<IHHII", 0x30303030, kind, len(body), identity, sum(body)) + body + b"\xAA"


def pattern(length, start):
    return bytes((start + 7 * i) & 0xFF for i in range(length))


def apis():
    """Number and name of every API in wire/kdapi.h."""
    text = (ROOT / "wire" / "kdapi.h").read_text()
    found = re.findall(r"X\((0x31[0-9A-F]{2}), KD_API_(\w+), KD_LAYOUT_\w+, [01]\)", text)
    expect(len(found) == 43, f"only {len(found)} APIs found in wire/kdapi.h")
    return [(int(number, 16), name) for number, name in found]


def every_api():
    """A request and a reply of each, every field with bytes of its own; then numbers that nobody knows."""
    for number in [n for n, _ in apis()] + [0x3130 - 1, 0x3161, 0x314A, 0xFFFFFFFF]:
        for way in (pcapng.TO_TARGET, pcapng.FROM_TARGET):
            body = struct.pack("<IHHII", number, number & 0xFF, 0x1234, 0xC0000001 if way == pcapng.FROM_TARGET else 0, 0) + pattern(40, number & 0xFF)
            if number == 0x3146:  # the machine must be one that there is
                body = body[:24] + struct.pack("<H", X64) + body[26:]
            yield frame(2, body + (b"data of " + bytes([number & 0xFF]) if number % 3 else b"")), way


def state_change(state, union=b"", data=b"", machine=X64, count=5, thread=0xFFFFF800003C2A40):
    report = struct.pack("<QQIHH", 0xFFFF0FF0, 0x400, 0x246, count, 3) + pattern(16, 0x90) + struct.pack("<HHHH", 0x10, 0x2B, 0x2B, 0x53)
    if machine == X86:
        report = struct.pack("<IIHH", 0xFFFF0FF0, 0x400, count, 3) + pattern(16, 0x90) + struct.pack("<HHHHI", 8, 0x23, 0x23, 0x30, 0x246)
        thread = 0xFFFFFFFF80551920
    pc = thread - 0x1000
    body = struct.pack("<IHHIIQQ", state, 6, 1, 2, 0, thread, pc) + union.ljust(0xA0, b"\0") + report.ljust(48, b"\0")
    return frame(7, body + data)


def exception(parameters, count=None, **more):
    union = struct.pack("<IIQQII", 0xC0000005, 1, 0x1122334455667788, 0xFFFFF80000251230, len(parameters) if count is None else count, 0)
    union += b"".join(struct.pack("<Q", p) for p in parameters).ljust(120, b"\0") + struct.pack("<I", 1)
    return state_change(0x3030, union, b"\1\0\0\0", **more)


def load(path, unload=0, length=None, **more):
    union = struct.pack("<IIQQIIB", len(path) if length is None else length, 0, 0xFFFFF80000400000, 0x1234, 0xBADA, 0x480000, unload)
    return state_change(0x3031, union, path, **more)


def debug_io(api, text, length=None, read=0):
    return frame(3, struct.pack("<IHHII", api, 6, 1, len(text) if length is None else length, read) + text)


def file_io(api, union, data=b"", status=0):
    return frame(11, struct.pack("<II", api, status) + union.ljust(56, b"\0") + data)


def other_packets():
    """Everything else there is, from the target."""
    for machine in (X64, X86, X64):
        yield exception([1, 2, 0xFFFFFFFFFFFFFFFF], machine=machine)
        yield exception(range(15), machine=machine)
        yield load(b"\\SystemRoot\\system32\\nt.exe\0", machine=machine)
        yield load(b"", unload=1, machine=machine)
        yield state_change(0x3032, struct.pack("<I", 7), b"windbg\0.echo \"hi\"\0", machine=machine)
        yield state_change(0x13030, struct.pack("<I", 7), machine=machine)
        for number in (0x313C, 0x3146):  # the two that depend on the machine, or decide it
            body = struct.pack("<IHHII", number, 6, 0, 0, 0) + pattern(40, 0x85)
            yield frame(2, body[:24] + struct.pack("<H", machine) + body[26:])
    yield debug_io(0x3230, b"tab\t quote\" back\\slash \r\n\x00\x01\x7f\x80\xff end")
    yield debug_io(0x3230, b"")
    yield debug_io(0x3231, b"Break repeatedly (boi)? ", read=2)
    yield file_io(0x3430, struct.pack("<IIIIIIQQ", 0x80100000, 1, 2, 3, 4, 0, 5, 6), "\\System\u00e4\u20ac\n\\x.sys\0".encode("utf-16-le"))
    yield file_io(0x3431, struct.pack("<QQI", 0x1122334455667788, 0x99, 3936), pattern(60, 3))
    yield file_io(0x3432, struct.pack("<QQI", 1, 2, 3), b"abc", status=0xC0000022)
    yield file_io(0x3433, struct.pack("<Q", 9))
    yield frame(9, struct.pack("<IHHI", 0x3330, 6, 1, 5).ljust(64, b"\0") + b"trace")
    yield frame(10, struct.pack("<III", 0x4300, 2, 1))
    yield frame(10, struct.pack("<III", 0x4301, 2, 0))
    yield frame(1, bytes(0x68))
    yield frame(8, b"what is that")


def refused_packets():
    """Whole frames whose bodies cannot be, and frames that are none."""
    for body in (bytes(55), b"", b"\x30\x31\0\0"):
        yield frame(2, body)
    yield frame(7, bytes(239))
    yield exception([], count=16)
    yield exception([], count=0, machine=X86)[:-1] + b"\xAA"
    yield state_change(0x3030, count=17)
    yield load(b"abc\0", length=5)
    yield state_change(0x3033)
    for api, text, length in ((0x3230, b"abc", 4), (0x3232, b"abc", 3), (0x3231, b"", 99)):
        yield debug_io(api, text, length)
    yield frame(3, bytes(15))
    yield file_io(0x3434, b"")
    yield file_io(0x3430, b"", b"odd")
    yield frame(11, bytes(63))
    yield frame(9, struct.pack("<IHHI", 0x3330, 0, 0, 6).ljust(64, b"\0") + b"trace")
    yield frame(9, bytes(63))
    yield frame(10, struct.pack("<III", 0x4302, 0, 0))
    yield frame(10, bytes(11))
    whole = debug_io(0x3230, b"damaged")
    yield whole[:-1] + b"\xAB"
    yield whole[:-2] + b"X\xAA"
    yield whole[:12] + b"\1\2\3\4" + whole[16:]
    for length in (4, 15, 16, 17, 20, len(whole) - 1):
        yield whole[:length]
    yield struct.pack("<IHHII", 0x30303030, 2, 4001, 0x80800000, 0)
    yield struct.pack("<IHHII", 0x69696969, 6, 0, 0, 0)
    yield struct.pack("<IHHII", 0x69696969, 77, 0, 0, 0)
    yield b"\x62"
    yield b"\x62\x62"
    yield b"\x30\x30\x30"
    yield b"noise"
    yield b""


def vectors():
    """The worked examples of the KD reference, as wire/ is tested with them."""
    text = (ROOT / "wire" / "selftest_vectors.inc").read_text()
    for block in re.findall(r"\{\n(.*?)\n\},", text, re.S):
        strings = re.findall(r'"([^"]*)"', block)
        yield bytes.fromhex("".join(s for s in strings[1:] if re.fullmatch(r"[0-9A-F]+", s))), ", true," in block


def write(folder, name, packets, order="<"):
    """packets: frames from the target, or (frame, way)."""
    writer = pcapng.Writer(order)
    writer.interface("client 1")
    for at, packet in enumerate(packets):
        data, way = packet if isinstance(packet, tuple) else (packet, pcapng.FROM_TARGET)
        writer.packet(0, 1_700_000_000_000_000_000 + at * 1000, data, way)
    path = folder.path / name
    path.write_bytes(writer.data)
    return path


@test("every field of every API: vmkd and tshark say the same")
def every_field():
    with Folder() as folder:
        seen = compare(write(folder, "apis.pcapng", every_api()), 2 * 47)
        seen |= compare(write(folder, "others.pcapng", other_packets()), 30)
    defined = set(re.findall(r'"(kd\.[a-z0-9_.]+)"', (ROOT / "trace" / "decode.c").read_text())) - {"kd.damage", "kd.malformed", "kd.breakin"}
    missing = defined - seen
    expect(not missing - {"kd."}, f"fields that no packet of this test has: {sorted(missing)}")


@test("packets that cannot be, and frames that are none: vmkd and tshark say the same")
def what_cannot_be():
    with Folder() as folder:
        seen = compare(write(folder, "refused.pcapng", refused_packets()), 37)
        expect({"kd.damage", "kd.malformed", "kd.breakin"} <= seen, f"not all kinds: {seen}")


@test("the reference's byte examples: vmkd and tshark say the same")
def examples():
    with Folder() as folder:
        frames = [(data, pcapng.FROM_TARGET if is_from else pcapng.TO_TARGET) for data, is_from in vectors()]
        compare(write(folder, "vectors.pcapng", frames), 20)


@test("sessions of a real kernel: vmkd and tshark say the same, in both byte orders")
def sessions():
    with Folder() as folder:
        for name in SESSIONS:
            for order in "<>":
                path = folder.path / f"{name}.pcapng"
                path.write_bytes(pcapng.session(TESTDATA / f"{name}.txt", order))
                compare(path, 250)


# ---- what tshark alone can do ----------------------------------------------------------------------------------------------------------

def columns(path, filter_, *names, two_passes=False):
    """The values of fields in the packets that pass the filter, as rows of text."""
    arguments = (["-2"] if two_passes else []) + (["-Y", filter_] if filter_ else []) + ["-T", "fields"]
    text = tshark(path, *arguments, *(word for name in names for word in ("-e", name)))
    return [line.split("\t") for line in text.splitlines()]


@test("tshark: requests and replies find each other")
def requests_and_replies():
    with Folder() as folder:
        path = folder.path / "session.pcapng"
        path.write_bytes(pcapng.session(TESTDATA / "x64-boot.txt"))
        rows = {int(row[0]): row[1:] for row in columns(path, "kd.type == 2", "frame.number", "frame.p2p_dir", "kd.api", "kd.request_in", "kd.reply_in", two_passes=True)}
        replies = {number: int(row[2]) for number, row in rows.items() if row[2]}
        expect(len(replies) == 149, f"{len(replies)} replies have a request, the session has 149")
        for number, request in replies.items():
            expect(request < number and rows[request][1] == rows[number][1] and int(rows[request][3]) == number, f"packet {number}: {rows[number]}, {request}: {rows[request]}")
        expect(len(set(replies.values())) == len(replies), "two replies of one request")


@test("tshark: filters and expert information")
def filters():
    with Folder() as folder:
        made = list(every_api()) + [(frame, pcapng.FROM_TARGET) for frame in [*other_packets(), *refused_packets()]]
        path = write(folder, "made.pcapng", made)
        shown_packets = [dict(fields) for _, fields in shown(path)]
        for filter_, wanted in (("kd.api == 0x3130", lambda f: f.get("kd.api") == 0x3130),
                                ("kd.status >= 0x80000000", lambda f: f.get("kd.status", 0) >= 0x80000000),
                                ("kd.type == 7 && kd.load.path contains \"nt.exe\"", lambda f: "nt.exe" in f.get("kd.load.path", "")),
                                ("kd.address > 0x8000000000000000", lambda f: f.get("kd.address", 0) > 0x8000000000000000),
                                ("kd.damage.expert", lambda f: "kd.damage" in f),
                                ("kd.damage == \"checksum\"", lambda f: f.get("kd.damage") == "checksum"),
                                ("kd.malformed", lambda f: "kd.malformed" in f), ("kd.breakin", lambda f: "kd.breakin" in f)):
            found = [int(row[0]) for row in columns(path, filter_, "frame.number")]
            expected = [at for at, fields in enumerate(shown_packets, 1) if wanted(fields)]
            expect(expected and found == expected, f"{filter_}: {found} instead of {expected}")


def tcp_file(segments):
    """A classic pcap of one TCP connection: (from target?, bytes) each; IPv4 without a link layer, checksums left out."""
    data, sequence = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101), [1000, 5000]
    for at, (is_target, part) in enumerate(segments):
        ports = (4711, 33333) if is_target else (33333, 4711)
        tcp = struct.pack(">HHIIBBHHH", *ports, sequence[is_target], sequence[not is_target], 0x50, 0x18, 65535, 0, 0) + part
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), at & 0xFFFF, 0, 64, 6, 0, bytes((10, 0, 0, 1 + is_target)), bytes((10, 0, 0, 2 - is_target))) + tcp
        sequence[is_target] += len(part)
        data += struct.pack("<IIII", 1_700_000_000 + at, 0, len(packet), len(packet)) + packet
    return data


@test("tshark: KDCOM on TCP, however it was cut into segments")
def on_tcp():
    streams, segments, step = [], [], 0
    for line in (TESTDATA / "x64-attached.txt").read_text().splitlines():
        if line[:2] in ("T ", "D "):
            streams.append((line[0] == "T", bytes.fromhex(line[2:])))
    for is_target, data in streams:
        while data:
            step = (step * 7 + 13) % 61
            cut = len(data) if step < 20 else 16 + step  # a first segment must be long enough to be known as KDCOM
            segments.append((is_target, data[:cut]))
            data = data[cut:]
    with Folder() as folder:
        tcp, plain = folder.path / "tcp.pcap", folder.path / "plain.pcapng"
        tcp.write_bytes(tcp_file(segments))
        plain.write_bytes(pcapng.session(TESTDATA / "x64-attached.txt"))
        ours = [fields for _, fields in shown(plain)]
        numbers = {name for fields in ours for name, value in fields if isinstance(value, int)}
        theirs = [field for _, fields in dissected(tcp, numbers) for field in fields]
        prints = [row[0] for row in columns(tcp, "kd.text", "frame.number")]
        told = tshark(tcp, "-d", "tcp.port==4711,kdcom", "--disable-heuristic", "kdcom_tcp", "-Y", "kd.text", "-T", "fields", "-e", "frame.number").split()
        expect(prints and prints == told, f"{len(prints)} packets with prints by themselves, {len(told)} with Decode As")
        for names in ({"kd.api", "kd.state"}, {"kd.text"}, {"kd.address", "kd.pc"}, {"kd.type"}):
            mine = sorted(repr(f) for fields in ours for f in fields if f[0] in names)
            its = sorted(repr(f) for f in theirs if f[0] in names)
            expect(mine and mine == its, f"{names}: {len(mine)} in the trace, {len(its)} on TCP")


# ---- files that are none, and replays ------------------------------------------------------------------------------------------------------

def show(folder, name, data=None):
    path = folder.path / name
    if data is not None:
        path.write_bytes(data)
    return folder.run("trace", "show", path)


@test("vmkd trace show: what is no trace is one clear line")
def no_traces():
    with Folder() as folder:
        refused(show(folder, "none"), 1, "No such file")
        refused(show(folder, "empty", b""), 1, "empty")
        refused(show(folder, "text", b"this is a text and no trace of anything"), 1, "expected a pcapng file", "at byte 0")
        refused(show(folder, "pcap", tcp_file([])), 1, "expected a pcapng file")
        other = pcapng.Writer()
        other.interface("eth0", link=1)
        other.packet(0, 1, b"ethernet")
        refused(show(folder, "ethernet", other.data), 1, "link type 1", "147")
        good = pcapng.session(TESTDATA / "x64-attached.txt")
        refused(show(folder, "bad", good[:5000] + b"\0" * 64), 1, "expected a pcapng file", "at byte")
        status, text = show(folder, "cut", good[:5001])
        expect(status == 0 and "ends in the middle of a packet" in text and text.count("PRINT") > 3, f"{status}: {text[-300:]}")
        refused(folder.run("trace"), 2, "the VM's name is missing")
        refused(folder.run("trace", "x"), 2, "the file to write is missing")
        refused(folder.run("trace", "show", "a", "b"), 2, "unexpected argument b")
        refused(folder.run("trace", "x", "y", "--loud"), 2, "unexpected argument --loud")
        refused(folder.run("trace", "nobody", folder.path / "new.pcapng"), 1, "no VM named nobody")
        expect(not (folder.path / "new.pcapng").exists(), "a file was made for nothing")


def replay(folder, path, commands, status=0):
    got, text = folder.run("kd", f"trace:{path}", "-t", int(GUARD_S), "-c", commands)
    expect(got == status, f"'{commands}' ended with {got} instead of {status}:\n{text[-800:]}")
    return text


@test("trace:FILE: what is no trace, and what was not recorded, is one clear line")
def replay_refusals():
    with Folder() as folder:
        refused(folder.run("kd", "trace:"), 1, "expected trace:FILE")
        refused(folder.run("kd", "trace:/nowhere/at/all"), 1, "cannot open the trace", "No such file")
        (folder.path / "junk").write_bytes(b"junk of twelve bytes and more")
        refused(folder.run("kd", f"trace:{folder.path}/junk"), 1, "expected a trace of vmkd")
        refused(folder.run("kd", f"trace:{folder.path}"), 1, "expected a trace")
        path = write(folder, "acks.pcapng", [(struct.pack("<IHHII", 0x69696969, 4, 0, 0x80800000, 0), pcapng.TO_TARGET)])
        refused(folder.run("kd", f"trace:{path}"), 1, "nothing that a target said")
        path = folder.path / "session.pcapng"
        path.write_bytes(pcapng.session(TESTDATA / "x64-boot.txt"))
        for command, why in (("r; r rax=1", "a trace cannot do this"), ("bp @rip", "a trace cannot do this"), ("eb @rip 90", "a trace cannot do this"), ("rdmsr c0000080", "not in the trace")):
            refused(folder.run("kd", f"trace:{path}", "-c", command), 1, why)
        refused(folder.run("kd", f"trace:{path}", "-c", "db 1000 L10"), 1, "memory at 1000 is not in the trace: nobody read it at this stop")
        refused(folder.run("kd", f"trace:{path}", "-c", "g; g; g; g; g"), 1, "the trace ends here")


@test("trace:FILE: sessions of a real kernel play: version, registers, going on")
def replay_sessions():
    with Folder() as folder:
        for name, base, register in (("x64-boot", "fffff800`00400000", "rip=fffff80000587d12"), ("i386-boot", "80400000", "eip=8059cece")):
            path = folder.path / f"{name}.pcapng"
            path.write_bytes(pcapng.session(TESTDATA / f"{name}.txt"))
            text = replay(folder, path, "vertarget; r")
            expect(base in text and register in text and "code 80000003" in text, text[-1500:])
            # The two clients of the session are two endpoints; the first one's two stops are what the target did.
            text = folder.run("kd", f"trace:{path}", "-c", "g; .echo between; g")[1]
            expect(text.count("ends here") == 1, text[-800:])


# ---- recordings ----------------------------------------------------------------------------------------------------------------------------

class Recording:
    """`vmkd trace` of a VM into FILE, from its first block on until stop()."""

    def __init__(self, vm, path, *options):
        self.path, self.log = path, path.with_suffix(".log")
        vm.kd_socket()  # the broker's last socket
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([VMKD, "trace", vm.name, path, *options], env=vm.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self):
        wait_for("the recording", lambda: "recording" in self.said() and self.path.exists() and self.path.stat().st_size > 0, alive=self.process)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def said(self):
        return self.log.read_text(errors="replace")

    def stop(self, how=signal.SIGINT, status=0):
        self.process.send_signal(how)
        got = self.process.wait(GUARD_S)
        expect(got == status, f"vmkd trace ended with {got} instead of {status}: {self.said()}")
        return pcapng.read(self.path.read_bytes())


def by_name(file):
    return {i[2].decode(): number for number, i in enumerate(file.interfaces)}


def packets_of(file, name):
    endpoints = by_name(file)
    expect(name in endpoints, f"no endpoint {name}: {sorted(endpoints)}")
    return [p for p in file.packets if p.interface == endpoints[name]]


def kinds(packets):
    """(direction, packet type) of each, None for what is no frame."""
    return [(p.direction, struct.unpack_from("<H", p.data, 4)[0] if len(p.data) >= 16 else None) for p in packets]


def without_names(text):
    """What a console prints from its first answer on, without what names the way to the target."""
    lines = text[text.index("Windows Kernel Version"):].splitlines()
    return [line for line in lines if not line.startswith(("Connected through", "Memory is read"))]


@test("a session with two clients: recorded, shown by both, played with the same bytes", BOTH)
def two_clients(way):
    commands = "vertarget; lm; r; db @$ip L40; u @$ip L4; qs"
    with way.vm("traced", "--scenario", "counter") as vm, client_of(vm) as kd:
        with Recording(vm, vm.folder / "two.pcapng") as recording:
            attach(kd)
            expect("recorded" in str(vm.listed()["remarks"]), f"vmkd list does not say it: {vm.listed()}")
            base = kd.version().kern_base
            memory = kd.read_virtual(base, 0x1200)
            status, text = vm.run("kd", f"vm:{vm.name}", "-c", commands)  # looks on; reads in packets, because of the recording
            expect(status == 0 and "Memory is read in packets" in text, text)
            kd.resume()
            attach(kd)
            second = kd.read_virtual(base + 0x40, 0x40)
            file = recording.stop()
        expect(sorted(by_name(file)) == ["client 1", "client 2", "guest"], f"endpoints: {by_name(file)}")
        compare(recording.path, 40)
        check_recording(file)
        expect(f"{len(file.packets)} packets of 3 endpoints in {recording.path}\n" in recording.said(), recording.said())
        info = subprocess.run(["capinfos", recording.path], capture_output=True, text=True, timeout=GUARD_S)
        expect(info.returncode == 0 and not info.stderr and f"Number of packets:   {len(file.packets)}" in info.stdout, info.stderr + info.stdout)
        status, again = vm.run("kd", f"trace:{recording.path}", "-c", commands)
        expect(status == 0 and without_names(text) == without_names(again), f"the console saw:\n{text}\nand in the replay:\n{again}")
        played(vm, recording.path, base, memory, second)


def check_recording(file):
    """The guest's stop is the clients' stop, byte for byte; every reply has been asked for; nothing is missing, and the sums say so."""
    stops = [p.data[16:-1] for p in packets_of(file, "guest") if kinds([p]) == [(pcapng.FROM_TARGET, 7)]]
    expect(len(set(stops)) >= 2, f"{len(stops)} stops")
    told = {p.data[16:256] for p in file.packets if kinds([p]) == [(pcapng.FROM_TARGET, 7)] and p.interface != by_name(file)["guest"]}
    expect({stop[:240] for stop in stops} >= told and told, "a client was told a stop that the guest has not said")
    for name in by_name(file):
        requests = replies = 0
        for way, kind in kinds(packets_of(file, name)):
            requests += (way, kind) == (pcapng.TO_TARGET, 2)
            replies += (way, kind) == (pcapng.FROM_TARGET, 2)
            expect(replies <= requests, f"{name}: a reply before its request")
    expect(set(file.statistics) == set(range(len(file.interfaces))), f"statistics of {sorted(file.statistics)}")
    for number, (received, dropped) in file.statistics.items():
        expect((received, dropped) == (sum(p.interface == number for p in file.packets), 0), f"endpoint {number}: {received}, {dropped}")
    times = [p.time for p in file.packets]
    expect(times == sorted(times), "times go back")


def played(vm, path, base, memory, second):
    """The recording as a target has what the client saw, at the stop at which it saw it, and nothing else."""
    got, text = vm.run("kd", f"trace:{path}", "-c", f".writemem {path}.first {base:x} L{len(memory):x}; g; .writemem {path}.second {base + 0x40:x} L40")
    expect(got == 0, text)
    expect(Path(f"{path}.first").read_bytes() == memory, "other bytes at the first stop")
    expect(Path(f"{path}.second").read_bytes() == second, "other bytes at the second stop")
    refused(vm.run("kd", f"trace:{path}", "-c", f"db {base + 0x3000:x} L10"), 1, "not in the trace")
    refused(vm.run("kd", f"trace:{path}", "-c", f"? @$ip; g; db {base:x} L10"), 1, "not in the trace")
    refused(vm.run("kd", f"trace:{path}", "-c", "g; g; g; g; g; g; g"), 1, "the trace ends here")


@test("a recording that begins at a stop begins with it, and plays")
def begins_at_a_stop():
    with DEBUGCON.vm("late", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        base = kd.version().kern_base
        with Recording(vm, vm.folder / "late.pcapng") as recording:
            memory = kd.read_virtual(base, 0x80)
            file = recording.stop()
        first = packets_of(file, "guest")[:3]
        expect(kinds(first) == [(pcapng.FROM_TARGET, 7), (pcapng.TO_TARGET, 2), (pcapng.FROM_TARGET, 2)], f"it begins with {kinds(first)}")
        expect(all("before" in p.comment for p in first), f"not marked: {[p.comment for p in first]}")
        status, text = vm.run("kd", f"trace:{recording.path}", "-c", f"vertarget; .writemem {recording.path}.bytes {base:x} L80")
        expect(status == 0 and Path(f"{recording.path}.bytes").read_bytes() == memory, text)


@test("resets, a client that leaves, damaged frames and break-ins are in the recording")
def everything_else():
    with DEBUGCON.vm("odd", "--scenario", "counter", "--reboot") as vm:
        with Recording(vm, vm.folder / "odd.pcapng") as recording:
            with client_of(vm) as kd:
                attach(kd)
                kd.link.sock.sendall(frame(2, bytes(56))[:-3] + b"\1\2\xAA")
                kd.version()
                kd.resume()
            vm.qmp().call("system_reset")
            with client_of(vm) as kd:
                attach(kd)
            file = recording.stop(signal.SIGTERM)
        notes = [p.comment for p in file.packets if not p.data]
        expect(any(n.startswith("gone") for n in notes) and "registered" in notes, f"comments: {notes}")
        expect(any(p.flags >> 24 == 1 for p in packets_of(file, "client 1")), "the damaged frame is not marked")
        expect((pcapng.TO_TARGET, 6) in kinds(packets_of(file, "client 1")) and (pcapng.FROM_TARGET, 6) in kinds(packets_of(file, "client 1")), "no RESETs")
        expect(any(p.data == b"\x62" for p in packets_of(file, "client 2") + packets_of(file, "guest")), "no break-in")
        compare(recording.path, 20)
        text = vm.run("kd", f"trace:{recording.path}", "-c", "g; g; g; g; g; g")[1]
        expect("started over" in text, f"the reset is not in the replay:\n{text[-1500:]}")


@test("a recorder that does not read loses its own packets, and its file says how many; the other one has them all")
def slow_recorder():
    with DEBUGCON.vm("slow", "--scenario", "counter") as vm, client_of(vm) as kd:
        with Recording(vm, vm.folder / "slow.pcapng") as slow, Recording(vm, vm.folder / "quick.pcapng") as quick:
            attach(kd)
            base = kd.version().kern_base
            os.kill(slow.process.pid, signal.SIGSTOP)
            for _ in range(2500):  # 10 MB: the buffer holds 4
                kd.read_virtual_once(base, 3900)
            os.kill(slow.process.pid, signal.SIGCONT)
            wait_for("room in the buffer", lambda: slow.path.stat().st_size > 4_000_000)
            kd.version()
            lost, whole = slow.stop(), quick.stop()
        expect(not any(dropped for _, dropped in whole.statistics.values()), f"the quick one lost some: {whole.statistics}")
        for number, (received, dropped) in lost.statistics.items():
            there = [p for p in lost.packets if p.interface == number]
            expect(received == len(there) + dropped, f"endpoint {number}: {len(there)} there, {dropped} dropped, {received} in all")
            expect(sum(p.dropped for p in there) <= dropped, "more are said to be missing than are")
        dropped = sum(d for _, d in lost.statistics.values())
        expect(dropped > 500 and len(lost.packets) + dropped <= len(whole.packets) + 4, f"{len(lost.packets)} and {dropped} of {len(whole.packets)}")
        expect(f"; {dropped} more came too fast" in slow.said(), f"{dropped}: {slow.said()}")
        expect("more came" not in quick.said(), quick.said())
        expect(f"{max(p.dropped for p in lost.packets)} packets of" in vm.run("trace", "show", slow.path)[1], "trace show does not say it")


@test("no broker, a file that is there, too many recorders, a full disk, a killed broker: one clear line each")
def recording_refusals():
    with DEBUGCON.vm("refused", "--scenario", "counter") as vm, client_of(vm) as kd:
        attach(kd)
        there = vm.folder / "there.pcapng"
        there.write_bytes(b"mine")
        refused(vm.run("trace", vm.name, there), 1, "is there already; --force")
        expect(there.read_bytes() == b"mine", "the file was written to")
        refused(vm.run("trace", vm.name, vm.folder / "no" / "folder"), 1, "No such file")
        with Recording(vm, there, "--force"):
            pass
        recordings = [Recording(vm, vm.folder / f"{i}.pcapng").__enter__() for i in range(8)]
        refused(vm.run("trace", vm.name, vm.folder / "nine.pcapng"), 1, "sent no trace")
        for recording in recordings:
            recording.stop()
        full = subprocess.Popen([VMKD, "trace", vm.name, "/dev/full", "--force"], env=vm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = full.communicate(timeout=GUARD_S)[0].decode()
        lines = said.strip().splitlines()
        expect(full.returncode == 1 and sum("No space left" in line for line in lines) == 1 and lines[-1].startswith("vmkd trace: cannot write /dev/full"), said)
        appended = vm.folder / "appended"
        appended.write_bytes(bytes(100000))
        with open(appended, "ab") as out:
            onto = subprocess.Popen([VMKD, "trace", vm.name, "-"], env=vm.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE)
        wait_for("something of a trace", lambda: appended.stat().st_size > 100000)
        onto.send_signal(signal.SIGINT)
        expect(onto.wait(GUARD_S) == 0 and appended.read_bytes()[:100004] == bytes(100000) + b"\n\r\r\n", "what stood in the file before is gone")
        onto.stderr.close()
        pipe = subprocess.Popen([VMKD, "trace", vm.name, "-"], env=vm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        expect(pipe.stdout.read(4) == b"\n\r\r\n", "no trace on stdout")
        pipe.stdout.close()  # nobody reads it any more
        kd.read_virtual(kd.version().kern_base, 0x20000)
        expect(pipe.wait(GUARD_S) == 1 and b"Broken pipe" in pipe.stderr.read(), "a pipe that nobody reads")
        pipe.stderr.close()
        with Recording(vm, vm.folder / "killed.pcapng") as recording:
            kd.version()
            os.kill(vm.listed()["broker_pid"], signal.SIGKILL)
            expect(recording.process.wait(GUARD_S) in (0, 1), recording.said())
            pcapng.read(recording.path.read_bytes())  # whole blocks only


if __name__ == "__main__":
    main()
