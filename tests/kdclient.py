# SPDX-License-Identifier: MIT
"""A KD client in pure Python: KDCOM framing over a Unix or TCP socket, and every request of the protocol.

It is written from the KD reference (sections 1 and 3 to 7) and shares nothing with the project's C code, so that each
can find the other's mistakes. System tests use it as a library:

    kd = KdClient()
    kd.connect("/run/.../kd.sock")          # or "127.0.0.1:4444"
    stop = kd.attach()                      # resynchronises; breaks in when the target runs
    print(hex(stop.pc), kd.version().kern_base)
    kd.read_virtual(stop.pc, 16)
    kd.go()
    event = kd.wait_event(timeout=5)        # Stop, Symbols, Print, Prompt, Command, FileRequest

Every wait ends: with a result, with KdTimeout, or with KdClosed. A request that the target refuses raises KdRefused,
which carries the status. Numbers are ints, memory is bytes. Not safe for several threads.
"""
import collections
import select
import socket
import struct
import time

LEADER_DATA = b"0000"
LEADER_CONTROL = b"iiii"
BREAK_IN = b"b"
TRAILER = b"\xaa"
INITIAL_ID = 0x80800000
SYNC = 0x800
PACKET_MAX = 4000
DATA_MAX = PACKET_MAX - 56

MANIPULATE, DEBUG_IO, ACK, RESEND, RESET, STATE_CHANGE, TRACE_IO, CONTROL_REQUEST, FILE_IO = (
    2, 3, 4, 5, 6, 7, 9, 10, 11)

# Message-header sizes by packet type; the rest of a body is data.
HEADER_SIZE = {MANIPULATE: 56, DEBUG_IO: 16, STATE_CHANGE: 240, TRACE_IO: 64, CONTROL_REQUEST: 12, FILE_IO: 64}

API = {
    "ReadVirtual": 0x3130, "WriteVirtual": 0x3131, "GetContext": 0x3132, "SetContext": 0x3133,
    "WriteBreakPoint": 0x3134, "RestoreBreakPoint": 0x3135, "Continue": 0x3136, "ReadControlSpace": 0x3137,
    "WriteControlSpace": 0x3138, "ReadIo": 0x3139, "WriteIo": 0x313A, "Reboot": 0x313B, "Continue2": 0x313C,
    "ReadPhysical": 0x313D, "WritePhysical": 0x313E, "QuerySpecialCalls": 0x313F, "SetSpecialCall": 0x3140,
    "ClearSpecialCalls": 0x3141, "SetInternalBreakPoint": 0x3142, "GetInternalBreakPoint": 0x3143,
    "ReadIoExtended": 0x3144, "WriteIoExtended": 0x3145, "GetVersion": 0x3146, "WriteBreakPointEx": 0x3147,
    "RestoreBreakPointEx": 0x3148, "CauseBugCheck": 0x3149, "SwitchProcessor": 0x3150, "PageIn": 0x3151,
    "ReadMsr": 0x3152, "WriteMsr": 0x3153, "SearchMemory": 0x3156, "GetBusData": 0x3157, "SetBusData": 0x3158,
    "CheckLowMemory": 0x3159, "ClearInternalBreakPoints": 0x315A, "FillMemory": 0x315B, "QueryMemory": 0x315C,
    "SwitchPartition": 0x315D, "WriteCustomBreakPoint": 0x315E, "GetContextEx": 0x315F, "SetContextEx": 0x3160,
}
NO_REPLY = {API[n] for n in ("Continue", "Continue2", "Reboot", "CauseBugCheck", "SwitchProcessor",
                             "ClearInternalBreakPoints")}

DBG_CONTINUE = 0x00010002
DBG_EXCEPTION_NOT_HANDLED = 0x80010001
BREAKPOINT, SINGLE_STEP, WAKE_DEBUGGER = 0x80000003, 0x80000004, 0x80000007
ACCESS_VIOLATION, DIVIDE_BY_ZERO, ASSERTION = 0xC0000005, 0xC0000094, 0xC0000420
UNSUCCESSFUL = 0xC0000001


class KdError(Exception):
    """Anything that went wrong between this client and the target."""


class KdTimeout(KdError):
    """What was waited for did not come in time."""


class KdClosed(KdError):
    """The peer closed the connection."""


class KdRefused(KdError):
    """The target answered a request with a failure status."""

    def __init__(self, what, status, reply=None):
        super().__init__(f"{what}: status {status:#010x}")
        self.status = status
        self.reply = reply


def pointer_mask(is64):
    return (1 << 64) - 1 if is64 else (1 << 32) - 1


# ---- register layouts (KD reference, section 6) ---------------------------------------------------------------

def _fields(names, start, size):
    return {name: (start + i * size, size) for i, name in enumerate(names.split())}


CONTEXT64_SIZE, CONTEXT32_SIZE = 0x4D0, 0x2CC
CONTEXT64 = {
    "contextflags": (0x30, 4), "mxcsr": (0x34, 4), "efl": (0x44, 4), "rip": (0xF8, 8),
    **_fields("cs ds es fs gs ss", 0x38, 2), **_fields("dr0 dr1 dr2 dr3 dr6 dr7", 0x48, 8),
    **_fields("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15", 0x78, 8),
}
CONTEXT32 = {
    "contextflags": (0, 4), "efl": (0xC0, 4), **_fields("dr0 dr1 dr2 dr3 dr6 dr7", 4, 4),
    **_fields("gs fs es ds edi esi ebx edx ecx eax ebp eip cs", 0x8C, 4), **_fields("esp ss", 0xC4, 4),
}
SPECIAL64_SIZE, SPECIAL32_SIZE = 0xE0, 0x54
SPECIAL64 = {
    **_fields("cr0 cr2 cr3 cr4 kdr0 kdr1 kdr2 kdr3 kdr6 kdr7", 0, 8), "gdtl": (0x56, 2), "gdtr": (0x58, 8),
    "idtl": (0x66, 2), "idtr": (0x68, 8), "tr": (0x70, 2), "ldtr": (0x72, 2), "cr8": (0xA0, 8),
    "gsbase": (0xA8, 8), "gsswap": (0xB0, 8),
}
SPECIAL32 = {
    **_fields("cr0 cr2 cr3 cr4 kdr0 kdr1 kdr2 kdr3 kdr6 kdr7", 0, 4), "gdtl": (0x2A, 2), "gdtr": (0x2C, 4),
    "idtl": (0x32, 2), "idtr": (0x34, 4), "tr": (0x38, 2), "ldtr": (0x3A, 2),
}


class Registers:
    """A block of registers by name: regs["rip"], regs["rax"] = 1. raw is what goes back to the target."""

    def __init__(self, layout, raw):
        self.layout, self.raw = layout, bytearray(raw)

    def __getitem__(self, name):
        offset, size = self.layout[name]
        return int.from_bytes(self.raw[offset:offset + size], "little")

    def __setitem__(self, name, value):
        offset, size = self.layout[name]
        self.raw[offset:offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def __contains__(self, name):
        return name in self.layout

    def as_dict(self):
        return {name: self[name] for name in self.layout}

    @property
    def pc(self):
        return self["rip" if "rip" in self.layout else "eip"]

    @pc.setter
    def pc(self, value):
        self["rip" if "rip" in self.layout else "eip"] = value


# ---- events ---------------------------------------------------------------------------------------------------

class StateChange:
    """Common part of everything the target waits in (KD reference, section 3.1)."""

    def __init__(self, body):
        self.body = body
        (self.new_state, self.level, self.processor, self.processor_count, _pad, self.thread,
         self.pc) = struct.unpack_from("<IHHIIQQ", body)
        self.data = body[240:]
        self.is64 = self.pc >> 32 != 0xFFFFFFFF
        report = body[0xC0:0xF0]
        if self.is64:
            self.dr6, self.dr7, self.eflags, count, self.report_flags = struct.unpack_from("<QQIHH", report)
            self.instructions = report[0x18:0x28][:count]
            self.cs, self.ds, self.es, self.fs = struct.unpack_from("<4H", report, 0x28)
        else:
            self.dr6, self.dr7, count, self.report_flags = struct.unpack_from("<IIHH", report)
            self.instructions = report[0x0C:0x1C][:count]
            self.cs, self.ds, self.es, self.fs, self.eflags = struct.unpack_from("<4HI", report, 0x1C)


class Stop(StateChange):
    """An exception."""

    def __init__(self, body):
        super().__init__(body)
        self.code, self.flags, self.record, self.address, self.parameter_count = struct.unpack_from(
            "<IIQQI", body, 0x20)
        self.information = struct.unpack_from("<15Q", body, 0x40)
        self.first_chance = struct.unpack_from("<I", body, 0xB8)[0]

    def __repr__(self):
        return f"<Stop {self.code:#010x} at {self.pc:#x} CPU {self.processor}/{self.processor_count}>"


class Symbols(StateChange):
    """Load or unload of a module; base -1 is a shutdown, -2 a hibernation."""

    def __init__(self, body):
        super().__init__(body)
        (length, _pad, self.base, self.process_id, self.checksum, self.size, unload) = struct.unpack_from(
            "<IIQQIIB", body, 0x20)
        self.is_unload = unload != 0
        self.name = self.data[:length].rstrip(b"\0").decode("latin-1")
        self.name_length = length

    def __repr__(self):
        return f"<Symbols {'un' if self.is_unload else ''}load {self.name!r} at {self.base:#x}>"


class Command(StateChange):
    def __init__(self, body):
        super().__init__(body)
        parts = self.data.split(b"\0")
        self.name, self.command = parts[0].decode("latin-1"), parts[1].decode("latin-1")


class Print:
    def __init__(self, body):
        self.api, self.level, self.processor, self.length = struct.unpack_from("<IHHI", body)
        self.text = body[16:].decode("latin-1")

    def __repr__(self):
        return f"<Print {self.text!r}>"


class Prompt(Print):
    def __init__(self, body):
        super().__init__(body)
        self.max_answer = struct.unpack_from("<I", body, 12)[0]


class FileRequest:
    """.kdfiles: api 0x3430 create (name), 0x3431 read, 0x3432 write, 0x3433 close."""

    def __init__(self, body):
        self.body = body
        self.api = struct.unpack_from("<I", body)[0]
        self.name = body[64:].decode("utf-16-le").rstrip("\0") if self.api == 0x3430 else None
        self.handle, self.offset, self.length = struct.unpack_from("<QQI", body, 8)


class Other:
    def __init__(self, packet_type, body):
        self.type, self.body = packet_type, body


def decode_event(packet_type, body):
    if packet_type == STATE_CHANGE:
        kinds = {0x3030: Stop, 0x3031: Symbols, 0x3032: Command}
        return kinds[struct.unpack_from("<I", body)[0] & 0xFFFF](body)
    if packet_type == DEBUG_IO:
        return Prompt(body) if struct.unpack_from("<I", body)[0] == 0x3231 else Print(body)
    return FileRequest(body) if packet_type == FILE_IO else Other(packet_type, body)


Version = collections.namedtuple(
    "Version", "major minor protocol secondary flags machine max_packet max_state max_manipulate simulation unused "
    "kern_base loaded_modules debugger_data")
Module = collections.namedtuple("Module", "name path base size entry checksum")
Reply = collections.namedtuple("Reply", "api level processor status union data")


# ---- framing (KD reference, section 1.8) ----------------------------------------------------------------------

def frame(packet_type, packet_id, body):
    head = struct.pack("<HHII", packet_type, len(body), packet_id, sum(body) & 0xFFFFFFFF)
    return LEADER_DATA + head + body + TRAILER


def control_frame(packet_type, packet_id=0):
    return LEADER_CONTROL + struct.pack("<HHII", packet_type, 0, packet_id, 0)


class FrameReader:
    """Bytes in, frames out: ("control", type, id, b"") or ("data", type, id, body) or ("bad", type, id, b"")."""

    def __init__(self):
        self.buf = bytearray()

    def feed(self, data):
        self.buf += data

    def clear(self):
        self.buf.clear()

    def next(self):
        while True:
            start = self._leader()
            if start is None:
                return None
            del self.buf[:start]
            if len(self.buf) < 16:
                return None
            packet_type, count, packet_id, checksum = struct.unpack_from("<HHII", self.buf, 4)
            if self.buf[:4] == LEADER_CONTROL:
                del self.buf[:16]
                return ("control", packet_type, packet_id, b"")
            if count > PACKET_MAX or packet_type not in HEADER_SIZE or count < HEADER_SIZE[packet_type]:
                del self.buf[:4]
                return ("bad", packet_type, packet_id, b"")
            if len(self.buf) < 17 + count:
                return None
            body = bytes(self.buf[16:16 + count])
            is_good = self.buf[16 + count] == 0xAA and sum(body) & 0xFFFFFFFF == checksum
            del self.buf[:17 + count]
            return ("data" if is_good else "bad", packet_type, packet_id, body if is_good else b"")

    def _leader(self):
        found = [i for i in (self.buf.find(LEADER_DATA), self.buf.find(LEADER_CONTROL)) if i >= 0]
        if found:
            return min(found)
        if len(self.buf) > 3:
            del self.buf[:-3]
        return None


class KdLink:
    """Reliable packets in both directions over a byte stream."""

    ACK_SECONDS = 1.0
    ATTEMPTS = 20      # times that nothing came
    REPETITIONS = 500  # of one packet, asked for or not

    def __init__(self, sock):
        self.sock = sock
        self.reader = FrameReader()
        self.next_id, self.expected = INITIAL_ID, None
        self.received = collections.deque()  # (type, body), acknowledged and new
        self.resets_open = 0  # RESETs of ours that were not answered yet
        self.resets_seen = self.resends_sent = self.retransmissions = self.syncs_seen = self.repeats_asked = 0
        self._last_sync = None

    def write(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise KdClosed(f"the connection is gone: {error}") from None

    def send_reset(self):
        self.resets_open += 1
        self.next_id = self.expected = INITIAL_ID
        self.write(control_frame(RESET))

    def drain(self):
        """Throws away what is already buffered: the answers of an earlier session."""
        self.reader.clear()
        while select.select([self.sock], [], [], 0)[0]:
            if not self.sock.recv(65536):
                raise KdClosed("the peer closed the connection")

    def pump(self, deadline):
        """Handles one frame. Returns it as (kind, type, id, is_new), or None at the deadline."""
        while True:
            item = self.reader.next()
            if item is not None:
                return self._handle(*item)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            try:
                data = self.sock.recv(65536)
            except OSError as error:
                raise KdClosed(f"the connection is gone: {error}") from None
            if not data:
                raise KdClosed("the peer closed the connection")
            self.reader.feed(data)

    def _handle(self, kind, packet_type, packet_id, body):
        is_new = False
        if kind == "bad":
            self.resends_sent += 1
            self.write(control_frame(RESEND))
        elif kind == "data":
            is_new = self._accept(packet_type, packet_id, body)
        elif packet_type == RESET:
            self._reset_received()
        return (kind, packet_type, packet_id, is_new)

    def _reset_received(self):
        self.resets_seen += 1
        self.next_id = self.expected = INITIAL_ID
        # An answer is not answered, else both ends go on for ever (section 1.5). A slow target answers several at once.
        if self.resets_open > 0:
            self.resets_open -= 1
        else:
            self.write(control_frame(RESET))

    def _accept(self, packet_type, packet_id, body):
        plain = packet_id & ~SYNC
        self.write(control_frame(ACK, plain))
        if packet_id & SYNC:
            if self._last_sync == body:
                return False  # our ACK was lost
            self._last_sync = body
            self.syncs_seen += 1
            self.next_id = INITIAL_ID
        elif self.expected is not None and packet_id != self.expected:
            return False
        else:
            self._last_sync = None
        self.expected = plain ^ 1
        self.received.append((packet_type, body))
        return True

    def send(self, packet_type, body, attempts=None):
        """Sends one packet and waits for its acknowledgement. Returns False when none came."""
        silences = 0
        for attempt in range(self.REPETITIONS):
            self.retransmissions += attempt > 0
            packet_id, asked = self.next_id, self.repeats_asked
            self.write(frame(packet_type, packet_id, body))
            self._last_sync = None
            if self._acknowledged(packet_id):
                return True
            # A RESEND is no silence: a UART on a busy machine loses its patience in the middle of a long frame, many times over.
            silences += self.repeats_asked == asked
            if silences >= (attempts or self.ATTEMPTS):
                break
        return False

    def _acknowledged(self, packet_id):
        deadline = time.monotonic() + self.ACK_SECONDS
        while True:
            got = self.pump(deadline)
            if got is None:
                return False
            kind, packet_type, got_id, is_new = got
            if kind == "control" and packet_type == ACK and got_id == packet_id:
                self.next_id ^= 1
                return True
            if kind == "control" and packet_type in (RESEND, RESET):
                self.repeats_asked += 1
                return False  # the caller repeats, with the id that holds now
            if is_new and packet_type in (MANIPULATE, DEBUG_IO, FILE_IO):
                self.next_id = packet_id ^ 1  # an answer acknowledges the question
                return True


# ---- the client -----------------------------------------------------------------------------------------------

class KdClient:
    """One debugger. Its methods speak for themselves; see the module's text for the contract."""

    ASK_AGAIN_SECONDS = 2.0  # for the answer to a question that the target's state has overtaken

    def __init__(self, timeout=20.0):
        self.timeout = timeout
        self.link = None
        self.stop = None        # the state change the target waits in, None while it runs
        self.prints = []        # texts of all prints so far
        self.is64 = True
        self.answers = {}       # prompt text -> answer, used by the waits below
        self.files = {}         # .kdfiles: last component of the name, lower case -> bytes
        self.on_event = None    # called with every event
        self._version = None
        self._stop_syncs = 0    # a SYNC id since then: the target has started anew
        self._wants_refresh = False  # the same state change once more is an event, not a repetition
        self._int3 = None       # (processor, pc) of the hard-coded int3 that the present stop began with

    # -- connection --

    def connect(self, where, timeout=None):
        """where: path of a Unix socket, or HOST:PORT. Retries until the timeout: the target may be starting."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            try:
                self.link = KdLink(self._open(where))
                return self
            except OSError as error:
                if time.monotonic() > deadline:
                    raise KdTimeout(f"no connection to {where}: {error}") from None
                time.sleep(0.05)

    @staticmethod
    def _open(where):
        if "/" in where or ":" not in where:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(where)
            except OSError:
                sock.close()
                raise
            return sock
        host, port = where.rsplit(":", 1)
        sock = socket.create_connection((host.strip("[]"), int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def close(self):
        if self.link is not None:
            self.link.sock.close()
            self.link = None

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()

    def attach(self, timeout=None, break_in=True):
        """Resynchronises and returns the stop (of any kind) in which the target waits; breaks in if it runs.

        A target that is only slow remembers the break-in and stops once more after it was continued. break_in=False is
        for a target that is known to stop by itself.
        """
        deadline = time.monotonic() + (timeout or self.timeout)
        while time.monotonic() < deadline:
            self.link.send_reset()
            self._wants_refresh = True
            event = self._wait_state(min(deadline, time.monotonic() + (0.5 if break_in else 2.0)))
            if event is None and break_in:
                self.link.write(BREAK_IN)
                event = self._wait_state(min(deadline, time.monotonic() + 1.0))
            if event is not None:
                return event
        raise KdTimeout("the target answers neither RESET nor break-in")

    def break_in(self, timeout=None):
        """Stops a running target and returns the Stop. Module notices on the way are continued."""
        self.link.write(BREAK_IN)
        return self.wait_stop(timeout)

    # -- events --

    def wait_event(self, timeout=None):
        """The next event. Prompts and file requests with a known answer are answered first."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            event = self._next_event(deadline)
            if event is None:
                raise KdTimeout("no event from the target")
            return event

    def _next_event(self, deadline):
        while True:
            while self.link.received:
                packet_type, body = self.link.received.popleft()
                if packet_type == STATE_CHANGE and self._is_refresh(body):
                    continue
                if packet_type != MANIPULATE:
                    return self._note(decode_event(packet_type, body))
            if self.link.pump(deadline) is None and not self.link.received:
                return None

    def _is_refresh(self, body):
        """The state change of the present stop once more: a slow target answers several RESETs, each with one."""
        is_same = self.stop is not None and self.stop.body == body and self._stop_syncs == self.link.syncs_seen
        return is_same and not self._wants_refresh

    def expect_refresh(self):
        """The next state change is an event even if it repeats the present one (after a RESEND, for instance)."""
        self._wants_refresh = True

    def _note(self, event):
        if isinstance(event, StateChange):
            self._wants_refresh, self._stop_syncs = False, self.link.syncs_seen
            self.stop, self.is64 = event, event.is64
            if isinstance(event, Stop) and event.code == BREAKPOINT and event.instructions[:1] == b"\xcc":
                self._int3 = (event.processor, event.pc)
            elif not isinstance(event, Stop) or event.code != WAKE_DEBUGGER:
                self._int3 = None
        elif isinstance(event, Prompt):
            if event.text in self.answers:
                self.answer_prompt(event, self.answers[event.text])
        elif isinstance(event, Print):
            self.prints.append(event.text)
        elif isinstance(event, FileRequest) and self.files:
            self.answer_file(event)
        if self.on_event is not None:
            self.on_event(event)
        return event

    def _wait_state(self, deadline):
        while True:
            event = self._next_event(deadline)
            if event is None or isinstance(event, StateChange):
                return event

    def wait_stop(self, timeout=None, on_symbols=None):
        """The next Stop; module notices are continued (on_symbols sees them first)."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            event = self._wait_state(deadline)
            if event is None:
                raise KdTimeout("the target does not stop")
            if isinstance(event, Stop):
                return event
            if isinstance(event, Symbols) and on_symbols is not None:
                on_symbols(event)
            self.go()

    def wait_print(self, text, timeout=None):
        """Waits until a print contains text; module notices are continued, a Stop is an error."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            event = self._next_event(deadline)
            if event is None:
                raise KdTimeout(f"no print with {text!r}; last: {self.prints[-3:]}")
            if isinstance(event, Print) and text in event.text:
                return event.text
            if isinstance(event, Stop):
                raise KdError(f"stopped instead of printing {text!r}: {event}")
            if isinstance(event, StateChange):
                self.go()

    def answer_prompt(self, prompt, text):
        data = text.encode("latin-1")
        head = struct.pack("<IHHII", 0x3231, prompt.level, prompt.processor, prompt.length, len(data))
        if not self.link.send(DEBUG_IO, head + data):
            raise KdTimeout("the prompt's answer was not acknowledged")

    def answer_file(self, request):
        """Serves self.files; 0xC000000F for everything else."""
        status, union, data = 0, bytearray(request.body[8:64]), b""
        handles = sorted(self.files)
        if request.api == 0x3430:
            name = request.name.replace("\\", "/").split("/")[-1].lower()
            if name in self.files:
                struct.pack_into("<QQ", union, 0x18, handles.index(name) + 1, len(self.files[name]))
            else:
                status = 0xC000000F
        elif request.api == 0x3431 and 0 < request.handle <= len(handles):
            content = self.files[handles[request.handle - 1]]
            data = content[request.offset:request.offset + min(request.length, PACKET_MAX - 64)]
            struct.pack_into("<I", union, 0x10, len(data))
        elif request.api != 0x3433:
            status = UNSUCCESSFUL
        if not self.link.send(FILE_IO, struct.pack("<II", request.api, status) + bytes(union) + data):
            raise KdTimeout("the file answer was not acknowledged")

    # -- requests --

    def request_raw(self, api, union=b"", data=b"", processor=0, timeout=None):
        """One request as it is. Returns the Reply, whatever its status, or None where the API has no reply."""
        if self.stop is None:
            raise KdError("the target runs; requests need a stopped target")
        body = struct.pack("<IHHII", api, 0, processor, 0, 0) + union.ljust(40, b"\0") + data
        if len(body) > PACKET_MAX:
            raise KdError(f"a request of {len(body)} bytes does not fit a packet")
        if not self.link.send(MANIPULATE, body):
            raise KdTimeout(f"request {api:#x} was not acknowledged")
        return None if api in NO_REPLY else self._wait_reply(api, body, timeout)

    def _wait_reply(self, api, body, timeout):
        deadline = time.monotonic() + (timeout or self.timeout)
        again_at = deadline
        while True:
            for i, (packet_type, reply) in enumerate(self.link.received):
                if packet_type == MANIPULATE:
                    del self.link.received[i]
                    got, level, cpu, status = struct.unpack_from("<IHHI", reply)
                    if got == api:
                        return Reply(got, level, cpu, status, reply[16:56], reply[56:])
                    break
                if packet_type == STATE_CHANGE:
                    # The target had a reason to start over. It may know our question all the same: asking again at once would
                    # bring two answers, and the second one would be taken for the acknowledgement of the next question.
                    del self.link.received[i]
                    self._note(decode_event(packet_type, reply))
                    again_at = min(deadline, time.monotonic() + self.ASK_AGAIN_SECONDS)
                    break
            else:
                if self.link.pump(again_at) is not None:
                    continue
                if time.monotonic() >= deadline:
                    raise KdTimeout(f"no reply to request {api:#x}")
                again_at = deadline
                if not self.link.send(MANIPULATE, body):
                    raise KdTimeout(f"request {api:#x} was not acknowledged")

    def request(self, name, union=b"", data=b"", processor=None, timeout=None):
        """A request by name that must succeed."""
        cpu = self.stop.processor if processor is None and self.stop is not None else processor or 0
        reply = self.request_raw(API[name], union, data, cpu, timeout)
        if reply is not None and reply.status & 0x80000000:
            raise KdRefused(name, reply.status, reply)
        return reply

    def version(self):
        self._version = Version(*struct.unpack("<HHBBHHBBBBHQQQ", self.request("GetVersion").union))
        self.is64 = bool(self._version.flags & 4)
        return self._version

    # -- memory --

    def _memory(self, name, address, count, data=b"", processor=None):
        union = struct.pack("<QII", address & (1 << 64) - 1, count, 0)
        reply = self.request(name, union, data, processor)
        return reply, struct.unpack_from("<I", reply.union, 12)[0]

    def read_virtual_once(self, address, count):
        """One request: (bytes that came, status)."""
        union = struct.pack("<QII", address & (1 << 64) - 1, count, 0)
        reply = self.request_raw(API["ReadVirtual"], union, processor=self.stop.processor)
        actual = struct.unpack_from("<I", reply.union, 12)[0]
        if actual != len(reply.data):
            raise KdError(f"ReadVirtual: ActualBytes {actual}, but {len(reply.data)} bytes of data")
        return reply.data, reply.status

    def _read_all(self, name, address, count):
        parts = []
        while count > 0:
            reply, actual = self._memory(name, address, min(count, DATA_MAX))
            if actual == 0 or actual != len(reply.data):
                raise KdError(f"{name} at {address:#x}: {actual} bytes announced, {len(reply.data)} came")
            parts.append(reply.data)
            address, count = address + actual, count - actual
        return b"".join(parts)

    def read_virtual(self, address, count):
        return self._read_all("ReadVirtual", address, count)

    def read_physical(self, address, count):
        return self._read_all("ReadPhysical", address, count)

    def write_virtual(self, address, data):
        for at in range(0, len(data), DATA_MAX):
            part = data[at:at + DATA_MAX]
            self._memory("WriteVirtual", address + at, len(part), part)

    def write_physical(self, address, data):
        for at in range(0, len(data), DATA_MAX):
            part = data[at:at + DATA_MAX]
            self._memory("WritePhysical", address + at, len(part), part)

    def read_u16(self, address):
        return int.from_bytes(self.read_virtual(address, 2), "little")

    def read_u32(self, address):
        return int.from_bytes(self.read_virtual(address, 4), "little")

    def read_u64(self, address):
        return int.from_bytes(self.read_virtual(address, 8), "little")

    def read_pointer(self, address):
        value = int.from_bytes(self.read_virtual(address, 8 if self.is64 else 4), "little")
        return self.extend(value)

    def extend(self, value):
        """A pointer of the target as KD carries it."""
        return value | 0xFFFFFFFF00000000 if not self.is64 and value & 0x80000000 else value

    def search(self, address, length, pattern):
        reply = self.request("SearchMemory", struct.pack("<QQI", address, length, len(pattern)), pattern)
        return struct.unpack_from("<Q", reply.union)[0]

    def fill(self, address, length, pattern, physical=False):
        union = struct.pack("<QIHH", address, length, 2 if physical else 1, len(pattern))
        return struct.unpack_from("<I", self.request("FillMemory", union, pattern).union, 8)[0]

    def query_memory(self, address):
        reply = self.request("QueryMemory", struct.pack("<QQII", address, 0, 0, 0))
        return struct.unpack_from("<II", reply.union, 16)

    # -- processors --

    def get_context(self, processor=None):
        data = self.request("GetContext", processor=processor).data
        return Registers(CONTEXT64 if self.is64 else CONTEXT32, data)

    def set_context(self, registers, processor=None):
        self.request("SetContext", struct.pack("<I", registers["contextflags"]), bytes(registers.raw), processor)

    def get_context_ex(self, offset, count, processor=None):
        reply = self.request("GetContextEx", struct.pack("<III", offset, count, 0), processor=processor)
        return reply.data, struct.unpack_from("<I", reply.union, 8)[0]

    def set_context_ex(self, offset, data, processor=None):
        reply = self.request("SetContextEx", struct.pack("<III", offset, len(data), 0), data, processor)
        return struct.unpack_from("<I", reply.union, 8)[0]

    def read_control_space(self, index, count, processor=None):
        reply, actual = self._memory("ReadControlSpace", index, count, processor=processor)
        return reply.data[:actual]

    def write_control_space(self, index, data, processor=None):
        return self._memory("WriteControlSpace", index, len(data), data, processor)[0]

    def special_registers(self, processor=None):
        if self.is64:
            return Registers(SPECIAL64, self.read_control_space(2, SPECIAL64_SIZE, processor))
        return Registers(SPECIAL32, self.read_control_space(CONTEXT32_SIZE, SPECIAL32_SIZE, processor))

    def set_special_registers(self, registers, processor=None):
        self.write_control_space(2 if self.is64 else CONTEXT32_SIZE, bytes(registers.raw), processor)

    def switch_processor(self, processor, timeout=None):
        self.expect_refresh()
        self.request_raw(API["SwitchProcessor"], processor=processor)
        return self.wait_stop(timeout)

    def read_msr(self, msr):
        reply = self.request("ReadMsr", struct.pack("<III", msr, 0, 0))
        low, high = struct.unpack_from("<II", reply.union, 4)
        return high << 32 | low

    def write_msr(self, msr, value):
        self.request("WriteMsr", struct.pack("<III", msr, value & 0xFFFFFFFF, value >> 32))

    # -- ports and buses --

    def read_io(self, port, size):
        return struct.unpack_from("<QII", self.request("ReadIo", struct.pack("<QII", port, size, 0)).union)[2]

    def write_io(self, port, size, value):
        self.request("WriteIo", struct.pack("<QII", port, size, value))

    def read_io_extended(self, port, size, interface=1, bus=0, space=1):
        union = struct.pack("<IIIIQI", size, interface, bus, space, port, 0)
        return struct.unpack_from("<I", self.request("ReadIoExtended", union).union, 0x18)[0]

    def get_bus_data(self, bus, slot, offset, length, bus_type=4):
        return self.request("GetBusData", struct.pack("<IIIII", bus_type, bus, slot, offset, length)).data

    def set_bus_data(self, bus, slot, offset, data, bus_type=4):
        reply = self.request("SetBusData", struct.pack("<IIIII", bus_type, bus, slot, offset, len(data)), data)
        return struct.unpack_from("<I", reply.union, 16)[0]

    # -- breakpoints and running --

    def write_breakpoint(self, address):
        reply = self.request("WriteBreakPoint", struct.pack("<QI", address, 0))
        return struct.unpack_from("<I", reply.union, 8)[0]

    def restore_breakpoint(self, handle):
        self.request("RestoreBreakPoint", struct.pack("<I", handle))

    def _continue_sent(self, api, union):
        if self.stop is None:
            raise KdError("the target runs already")
        body = struct.pack("<IHHII", api, 0, self.stop.processor, 0, 0) + union.ljust(40, b"\0")
        # A running target does not answer repetitions; what it sends next tells that it runs.
        acknowledged = self.link.send(MANIPULATE, body, attempts=3)
        if acknowledged:  # what came before the acknowledgement was the present stop's
            self.link.received = collections.deque(p for p in self.link.received if p[0] != STATE_CHANGE)
        self.stop = self._int3 = None
        return acknowledged

    def go(self, status=DBG_CONTINUE, trace=False, dr7=None, first=0, last=0):
        """Continue2. Dr7 stays as the stop's control report showed it unless another is given."""
        dr7 = self.stop.dr7 if dr7 is None and self.stop is not None else dr7 or 0
        if self.is64:
            union = struct.pack("<IIQQQ", status, int(trace), dr7, first, last)
        else:
            union = struct.pack("<IIIII", status, int(trace), dr7, first, last)
        return self._continue_sent(API["Continue2"], union)

    def go_old(self, status=DBG_CONTINUE):
        return self._continue_sent(API["Continue"], struct.pack("<I", status))

    def step(self, timeout=None):
        self.go(trace=True)
        return self.wait_stop(timeout)

    def step_off_int3(self):
        """Moves PC behind the hard-coded int3 that the present stop began with, as every debugger must (section 6.5)."""
        if self._int3 is not None:
            processor, pc = self._int3
            registers = self.get_context(processor)
            if self.extend(registers.pc) == pc:
                registers.pc += 1
                self.set_context(registers, processor)
            self._int3 = None

    def resume(self):
        """go(), and over the int3 first on the CPU that stands at one, whichever CPU is selected now."""
        self.step_off_int3()
        return self.go()

    def reboot(self):
        self.request_raw(API["Reboot"])
        self.stop = None

    def cause_bugcheck(self):
        self.request_raw(API["CauseBugCheck"])
        self.stop = None

    # -- what a debugger finds by walking (KD reference, section 7) --

    def kdbg(self):
        """(address, bytes) of KDDEBUGGER_DATA64, found through the version's list head."""
        head = (self._version or self.version()).debugger_data
        block = self.read_pointer(head)
        while block != head:
            raw = self.read_virtual(block, 0x18)
            if raw[0x10:0x14] == b"KDBG":
                return block, self.read_virtual(block, struct.unpack_from("<I", raw, 0x14)[0])
            block = self.read_pointer(block)
        raise KdError("no block with the tag KDBG in the list")

    def modules(self):
        head = (self._version or self.version()).loaded_modules
        found, entry = [], self.read_pointer(head)
        while entry != head:
            if len(found) > 1000:
                raise KdError("the loaded-module list does not end")
            found.append(self._module(entry))
            entry = self.read_pointer(entry)
        return found

    def _module(self, entry):
        if self.is64:
            raw = self.read_virtual(entry, 0x80)
            base, start, size = struct.unpack_from("<QQI", raw, 0x30)
            names, checksum = (0x48, 0x58), struct.unpack_from("<I", raw, 0x78)[0]
            text = [struct.unpack_from("<HHIQ", raw, at)[::3] for at in names]
        else:
            raw = self.read_virtual(entry, 0x44)
            base, start, size = struct.unpack_from("<III", raw, 0x18)
            names, checksum = (0x24, 0x2C), struct.unpack_from("<I", raw, 0x40)[0]
            text = [struct.unpack_from("<HHI", raw, at)[::2] for at in names]
        path, name = (self.read_virtual(self.extend(at), length).decode("utf-16-le") for length, at in text)
        return Module(name, path, self.extend(base), size, self.extend(start), checksum)

    def exports(self, base):
        """Export name -> address of an image in memory."""
        pe = base + self.read_u32(base + 0x3C)
        magic = self.read_u16(pe + 24)
        rva = self.read_u32(pe + 24 + (112 if magic == 0x20B else 96))
        directory = self.read_virtual(base + rva, 40)
        function_count, count, functions, names, ordinals = struct.unpack_from("<5I", directory, 20)
        name_rvas = struct.unpack(f"<{count}I", self.read_virtual(base + names, 4 * count))
        indexes = struct.unpack(f"<{count}H", self.read_virtual(base + ordinals, 2 * count))
        addresses = struct.unpack(f"<{function_count}I", self.read_virtual(base + functions, 4 * function_count))
        # The names stand together: one big read instead of one per name.
        first, last = min(name_rvas), max(name_rvas)
        text = self.read_virtual(base + first, last - first) + self.read_string(base + last).encode() + b"\0"
        return {text[at - first:text.index(b"\0", at - first)].decode("latin-1"): base + addresses[i]
                for at, i in zip(name_rvas, indexes)}

    def read_string(self, address, limit=256):
        text = b""
        while b"\0" not in text and len(text) < limit:
            piece = min(64, 4096 - (address + len(text)) % 4096)
            text += self.read_virtual(address + len(text), piece)
        return text.split(b"\0")[0].decode("latin-1")
