# SPDX-License-Identifier: MIT
"""The debugger's end of a KDCOM wire for tests/conformance: frame by frame, with nothing done behind the case's back except where a function
says so. Written from the KD reference, section 1; shares no code with wire/."""
import select
import socket
import struct
import time

from kdclient import (ACK, API, BREAKPOINT, CONTEXT32, CONTEXT32_SIZE, CONTEXT64, DBG_CONTINUE, DEBUG_IO, HEADER_SIZE, INITIAL_ID, MANIPULATE,
                      PACKET_MAX, RESEND, RESET, STATE_CHANGE, SYNC, Registers, Stop, Symbols, control_frame, decode_event, frame)

LEADERS = {b"0000": "data", b"iiii": "control"}
NAMES = {MANIPULATE: "MANIPULATE", DEBUG_IO: "DEBUG_IO", ACK: "ACK", RESEND: "RESEND", RESET: "RESET", STATE_CHANGE: "STATE_CHANGE64"}
PRINT, PROMPT = 0x3230, 0x3231
FIRST, SECOND = INITIAL_ID, INITIAL_ID ^ 1


class Wrong(Exception):
    """The target does what the reference excludes."""


class Unable(Exception):
    """The case cannot be had with this target; the text says why."""


class Ended(Wrong):
    """The target has closed the stream."""


class Frame:
    """One frame of the target, whole and undamaged."""

    def __init__(self, raw):
        self.raw = raw
        self.kind = LEADERS[raw[:4]]
        self.type, self.count, self.id, self.checksum = struct.unpack_from("<HHII", raw, 4)
        self.body = raw[16:-1] if self.kind == "data" else b""

    def is_control(self, packet_type):
        return self.kind == "control" and self.type == packet_type

    def __str__(self):
        what = NAMES.get(self.type, f"type {self.type}")
        if self.kind == "control":
            return f"{what} {self.id:#x}"
        return f"{what} {struct.unpack_from('<I', self.body.ljust(4, bytes(1)))[0]:#x} id {self.id:#x}, {self.count} bytes"


def judge(raw):
    """What is wrong with a frame, or None (sections 1.1 to 1.4)."""
    packet_type, count, packet_id, checksum = struct.unpack_from("<HHII", raw, 4)
    if raw[:4] == b"iiii":
        if packet_type not in (ACK, RESEND, RESET):
            return f"a control packet of type {packet_type}"
        return f"a control packet with length {count}, checksum {checksum:#x}: both are 0" if count or checksum else None
    if packet_type not in HEADER_SIZE:
        return f"a data packet of type {packet_type}"
    if not HEADER_SIZE[packet_type] <= count <= PACKET_MAX:
        return f"a data packet of type {packet_type} with {count} bytes"
    if packet_id & ~(SYNC | 1) != INITIAL_ID:
        return f"a packet id {packet_id:#x}: only bit 0 toggles, and SYNC may be set"
    if raw[-1] != 0xAA:
        return f"a trailing byte {raw[-1]:#x}"
    return None if sum(raw[16:-1]) & 0xFFFFFFFF == checksum else "a wrong checksum"


def open_stream(where):
    """where: unix:PATH or tcp:HOST:PORT."""
    kind, _, rest = where.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(rest)
        return sock
    host, _, port = rest.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Talk:
    """One conversation. next_id: of our next packet; expected: of the target's next one; last: the data frame taken last."""

    REMEMBERED_MAX = 3  # stops in a row that break-ins of before may cost: one that was stopped keeps one or two

    def __init__(self, opener, patience, quiet):
        """opener(): a new connected socket. patience: seconds to wait for what must come. quiet: seconds in which nothing may."""
        self.opener, self.patience, self.quiet = opener, patience, quiet
        self.remarks = []
        self.has_broken_in = False  # a break-in was sent by itself
        self.is_new = False  # nobody has talked to this target before, the case is told
        self.sock = None
        self.connect()

    def connect(self):
        """A new connection, whatever went before on another one."""
        self.close()
        self.sock = self.opener()
        self.buf = bytearray()
        self.frames_seen = 0
        self.noise = 0
        self.next_id, self.expected, self.last, self.stop = FIRST, None, None, None
        self.may_stop_again = False  # a break-in was sent to a target that may have been stopped, and may remember it
        self.acks_due = {FIRST: 0, SECOND: 0}  # of requests that were sent more often than once

    def close(self):
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def remark(self, text):
        if text not in self.remarks:
            self.remarks.append(text)

    # -- bytes and frames --

    def write(self, *parts):
        self.has_broken_in |= b"b" in parts
        try:
            self.sock.sendall(b"".join(parts))
        except OSError as error:
            raise Ended(f"the target has closed the stream: {error}") from None

    def read(self, seconds):
        """More bytes into the buffer. False: none came in time."""
        if not select.select([self.sock], [], [], max(0, seconds))[0]:
            return False
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise Ended(f"the target has closed the stream: {error}") from None
        if not data:
            raise Ended("the target has closed the stream")
        self.buf += data
        return True

    def take_frame(self):
        """The next whole frame of the buffer, or None."""
        found = [i for i in (self.buf.find(leader) for leader in LEADERS) if i >= 0]
        start = min(found) if found else max(0, len(self.buf) - 3)
        self.noise += start
        del self.buf[:start]
        if not found or len(self.buf) < 16:
            return None
        count = struct.unpack_from("<H", self.buf, 6)[0]
        size = 16 if self.buf[:4] == b"iiii" else 17 + count
        if size > 17 + PACKET_MAX:
            raise Wrong(f"the target sends a packet of {count} bytes, the largest is {PACKET_MAX} (1.1)")
        if len(self.buf) < size:
            return None
        raw = bytes(self.buf[:size])
        del self.buf[:size]
        fault = judge(raw)
        if fault:
            raise Wrong(f"the target sends {fault} (1.2 to 1.4): {raw[:16].hex(' ')}")
        self.frames_seen += 1
        return Frame(raw)

    def raw(self, seconds=None):
        """The next frame of any kind, nothing done about it; None: none came in time (default: patience)."""
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            got = self.take_frame()
            if got is not None:
                return got
            if not self.read(deadline - time.monotonic()):
                return None

    def acknowledge(self, got):
        """ACK a data frame and count it as taken. The ACK of a SYNC packet goes without the SYNC bit (1.4)."""
        plain = got.id & ~SYNC
        self.write(control_frame(ACK, plain))
        if got.id & SYNC:
            self.next_id = FIRST
        self.expected, self.last = plain ^ 1, got
        return got

    def is_repetition(self, got):
        """The frame that was acknowledged last, once more: the target has not seen the ACK yet."""
        return got.kind == "data" and self.last is not None and got.id == self.last.id and got.body == self.last.body

    def frame(self, seconds=None):
        """The next frame that is not the repetition of the last one taken, which is acknowledged again, as a debugger must, nor the ACK of a
        repetition of ours."""
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            got = self.raw(deadline - time.monotonic())
            if got is None:
                return None
            if self.is_repetition(got):
                self.write(control_frame(ACK, got.id & ~SYNC))
            elif got.is_control(ACK) and got.id == self.next_id ^ 1 and self.acks_due[got.id]:
                self.acks_due[got.id] -= 1
            else:
                return got

    def must(self, got, what):
        if got is None:
            raise Wrong(f"{what} expected, nothing came within {self.patience:g} s")
        return got

    def control(self, packet_type, packet_id=None):
        """The next frame must be this control packet."""
        what = NAMES[packet_type] + ("" if packet_id is None else f" {packet_id:#x}")
        got = self.must(self.frame(), what)
        if not got.is_control(packet_type) or packet_id is not None and got.id != packet_id:
            raise Wrong(f"{what} expected, got {got}")
        return got

    def data(self, packet_type, packet_id=None):
        """The next frame must be a data packet of this type, and of the expected id (or the given one). It is not acknowledged."""
        wanted = self.expected if packet_id is None else packet_id
        got = self.must(self.frame(), f"{NAMES[packet_type]} id {wanted:#x}")
        if got.kind != "data" or got.type != packet_type or got.id != wanted:
            raise Wrong(f"{NAMES[packet_type]} id {wanted:#x} expected, got {got}")
        return got

    def until(self, condition, what, seconds=None):
        """Reads past everything else, without a word to it."""
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            got = self.must(self.raw(deadline - time.monotonic()), what)
            if condition(got):
                return got

    def again(self, got):
        """The same frame must come again by itself: it was not acknowledged."""
        more = self.must(self.raw(), f"{got} again")
        if more.raw != got.raw:
            raise Wrong(f"{got} again expected, got {more}")

    def nothing(self, why, seconds=None):
        """No frame may come for a while."""
        got = self.frame(self.quiet if seconds is None else seconds)
        if got is not None:
            raise Wrong(f"{why}, but {got} came")

    def resets(self):
        """Both ids as after a RESET; nothing that comes now repeats what came before."""
        self.next_id = self.expected = FIRST
        self.last = None

    def reset(self):
        """A RESET until it is answered, as debuggers do it: once a second. The state change is still to come."""
        deadline = time.monotonic() + self.patience
        for turn in range(1000):
            self.write(control_frame(RESET))
            answer_until = min(deadline, time.monotonic() + 1.0)
            while (got := self.raw(answer_until - time.monotonic())) is not None:
                if got.is_control(RESET):
                    if turn:
                        self.remark(f"RESET number {turn + 1} in a row is answered")
                    self.resets()
                    return
            if time.monotonic() >= deadline:
                break
        raise Wrong(f"no answer to RESETs within {self.patience:g} s (1.5)")

    # -- requests --

    def request(self, api, union=b"", data=b"", packet_id=None, processor=None):
        """A request's frame, under our next id."""
        cpu = processor if processor is not None else self.stop.processor if self.stop else 0
        body = struct.pack("<IHHII", API.get(api, api), 0, cpu, 0, 0) + union.ljust(40, b"\0") + data
        return frame(MANIPULATE, self.next_id if packet_id is None else packet_id, body)

    def acknowledged(self, packet_id=None):
        """The ACK of our packet comes next."""
        self.control(ACK, self.next_id if packet_id is None else packet_id)
        self.next_id ^= 1

    def reply(self, api):
        """The reply to a request comes next; it is not acknowledged."""
        got = self.data(MANIPULATE)
        answered = struct.unpack_from("<I", got.body)[0]
        if answered != API.get(api, api):
            raise Wrong(f"an answer to {API.get(api, api):#x} expected, got one to {answered:#x}: executed out of turn")
        return got

    def strict(self, api, union=b"", data=b""):
        """Request, ACK, reply, ACK, exactly so. Returns the reply."""
        self.write(self.request(api, union, data))
        self.acknowledged()
        return self.acknowledge(self.reply(api))

    def exchange(self, api, union=b"", data=b""):
        """The same as a patient debugger does it: repeats on RESEND and after a silence. Any other frame than ACK, RESEND and the reply is wrong."""
        packet = self.request(api, union, data)
        deadline = time.monotonic() + self.patience
        repetition = min(2.0, self.patience / 3)
        sent_id = self.next_id
        self.write(packet)
        while time.monotonic() < deadline:
            got = self.frame(min(repetition, deadline - time.monotonic()))
            if got is None or got.is_control(RESEND):
                self.write(packet)
                self.acks_due[sent_id] += 1
            elif got.is_control(ACK):
                if got.id != sent_id:
                    raise Wrong(f"ACK {sent_id:#x} expected, got {got}")
            elif got.kind == "data" and got.type == MANIPULATE and got.id == self.expected and got.body[:4] == packet[16:20]:
                self.next_id = sent_id ^ 1
                return self.acknowledge(got)
            else:
                raise Wrong(f"while a request waits for its answer: {got}")
        raise Wrong(f"no answer to request {API.get(api, api):#x} within {self.patience:g} s")

    def works(self):
        """Ids agree, nothing else is on its way: two exchanges with different APIs."""
        self.version()
        reply = self.exchange("GetContext")
        if struct.unpack_from("<I", reply.body, 8)[0] & 0x80000000:
            self.remark("GetContext fails")

    def version(self):
        reply = self.exchange("GetVersion")
        status, kern_base = struct.unpack_from("<I", reply.body, 8)[0], struct.unpack_from("<Q", reply.body, 32)[0]
        if status:
            raise Wrong(f"GetVersion fails with status {status:#x}")
        return kern_base

    # -- states --

    def resync(self):
        """Whatever state the target is in: stopped in an exception, its state change acknowledged, ids in step, nothing on its way."""
        deadline = time.monotonic() + 3 * self.patience
        breaks = False
        while time.monotonic() < deadline:
            self.stop, self.last = None, None
            self.write(control_frame(RESET), b"b" if breaks else b"")
            self.may_stop_again |= breaks
            if self._await_stop(min(deadline, time.monotonic() + min(1.5, self.patience / 2))):
                return
            breaks = self.stop is None and not breaks
        raise Wrong("the target answers neither RESET nor break-in with a stop (1.5, 1.6)")

    def _await_stop(self, deadline):
        """-> True: stopped and in step."""
        in_step, stop = False, None
        while True:
            # With the stop known, a moment of silence says that no answer to an earlier RESET follows.
            left = deadline - time.monotonic() if stop is None else min(self.quiet, deadline - time.monotonic())
            got = self.raw(left)
            if got is None:
                break
            if got.is_control(RESET):
                in_step, stop = True, None
                self.resets()
            elif got.kind == "data":
                if in_step and got.id != self.expected and not got.id & SYNC:
                    self.write(control_frame(ACK, got.id))
                    continue
                self.acknowledge(got)
                event = decode_event(got.type, got.body)
                if isinstance(event, Symbols):
                    self.write(self.request("Continue2", self.continue_union(event)))
                    self.next_id ^= 1
                elif isinstance(event, Stop):
                    stop = event
        self.stop = stop
        return in_step and stop is not None

    def take_state_change(self, packet_id):
        """The next frame must be the present stop's state change under this id. Not acknowledged."""
        got = self.data(STATE_CHANGE, packet_id)
        if self.stop is not None and got.body[:0x20] != self.stop.body[:0x20]:
            raise Wrong("the state change comes again with another content")
        return got

    @staticmethod
    def continue_union(stop, status=DBG_CONTINUE):
        if stop.is64:
            return struct.pack("<IIQQQ", status, 0, stop.dr7, 0, 0)
        return struct.pack("<IIIII", status, 0, stop.dr7 & 0xFFFFFFFF, 0, 0)

    def step_over_int3(self):
        """A debugger moves the program counter behind a hard-coded int3 (6.5)."""
        if self.stop.code != BREAKPOINT or self.stop.instructions[:1] != b"\xcc":
            return
        context = self.exchange("GetContext").body[56:]
        layout = CONTEXT32 if len(context) == CONTEXT32_SIZE else CONTEXT64
        if len(context) < CONTEXT32_SIZE:
            raise Unable("GetContext fails, so the target cannot be moved over its int3")
        registers = Registers(layout, context)
        registers.pc += 1
        self.exchange("SetContext", struct.pack("<I", registers["contextflags"]), bytes(registers.raw))

    def go(self):
        """Over the int3 and on: the target runs."""
        self.step_over_int3()
        self.write(self.request("Continue2", self.continue_union(self.stop)))
        self.acknowledged()
        self.stop = None

    def run(self):
        """The target runs, and no break-in of ours is left that could stop it."""
        self.go()
        for _ in range(self.REMEMBERED_MAX):
            if not self.may_stop_again:
                return
            try:
                self.stays_running(max(self.quiet, 0.5))
                self.may_stop_again = False
            except Wrong:
                self.go()

    def until_stop(self, what="a stop"):
        """A running target's packets are acknowledged, modules continued, until an exception; returns it, acknowledged."""
        deadline = time.monotonic() + self.patience
        while True:
            got = self.must(self.frame(deadline - time.monotonic()), what)
            if got.is_control(RESET):
                self.resets()
            elif got.kind == "data" and got.id != self.expected and not got.id & SYNC:
                raise Wrong(f"id {self.expected:#x} expected, got {got}")
            elif got.kind == "data":
                self.acknowledge(got)
                event = decode_event(got.type, got.body)
                if isinstance(event, Stop):
                    self.stop = event
                    return event
                if isinstance(event, Symbols):
                    self.write(self.request("Continue2", self.continue_union(event)))
                    self.next_id ^= 1

    def break_in(self):
        self.write(b"b")
        return self.until_stop("a state change after the break-in")

    def stays_running(self, seconds):
        """No stop for a while; prints and modules are seen to."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            got = self.frame(left)
            if got is None:
                return
            if got.kind == "data":
                self.acknowledge(got)
                event = decode_event(got.type, got.body)
                if isinstance(event, Stop):
                    self.stop = event
                    raise Wrong(f"the target has stopped: {event}")
                if isinstance(event, Symbols):
                    self.write(self.request("Continue2", self.continue_union(event)))
                    self.next_id ^= 1
