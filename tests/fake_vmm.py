# SPDX-License-Identifier: MIT
"""The VMM side of the hook's link (wire/link.h) in Python, with a guest that is stopped and refuses every request: what a broker does with RAM
shows by which requests reach that guest. The messages' layout is written down here once more, so that neither side can change it unseen."""
import array
import mmap
import os
import socket
import struct
import threading

HELLO, PACKET, WAIT, STATS, MEMORY = 1, 4, 5, 7, 9
ATTACH, DELIVER, STATS_GET = 32, 33, 36
F_WAITS, F_NESTED = 1, 8
REMOTE = 0xFFFFFFFF
HEAD = struct.Struct("<HHIIHHHHIII4Q")
LINK_VERSION = 4
LONG_MODE = (0x80000011, 0x1000, 0x20, 0xD00)
UNSUCCESSFUL = 0xC0000001
RAM_SIZE = 1 << 20
BASE, BASE_GPA = 0xFFFFF80000000000, 0x80000  # 64 pages are mapped there
assert HEAD.size == 64


class FakeRam:
    """A megabyte of guest RAM in a memfd, with page tables in its first pages."""

    def __init__(self):
        self.fd = os.memfd_create("guest-ram")
        os.ftruncate(self.fd, RAM_SIZE)
        self.bytes = mmap.mmap(self.fd, RAM_SIZE)
        table = 0x1000
        for shift in (39, 30, 21):
            self.entry(table, shift, table + 0x1000)
            table += 0x1000
        for page in range(64):
            struct.pack_into("<Q", self.bytes, table + 8 * page, BASE_GPA + page * 4096 | 3)

    def entry(self, table, shift, value):
        struct.pack_into("<Q", self.bytes, table + (BASE >> shift & 511) * 8, value | 3)

    def piece(self, gpa=0, size=RAM_SIZE, at=0, file=0):
        return struct.pack("<QQQII", gpa, size, at, file, 0)


class FakeVmm:
    """Listens on vmm.sock of a VM named `name` below `runtime`; a broker may come. with FakeVmm(...) as vmm: …"""

    def __init__(self, runtime, name):
        self.name = name
        self.path = runtime / name / "vmm.sock"
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.peer = None
        self.seq = 0
        self.registers, self.flags = LONG_MODE, 0
        self.delivered = []  # API numbers that have reached the guest
        self.on_deliver = None  # called with a request's body before the guest answers
        self.is_greeted = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        for sock in (self.listener, self.peer):
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self.thread.join()

    def serve(self):
        try:
            self.peer, _ = self.listener.accept()
            while True:
                message = self.peer.recv(1 << 16)
                if not message:
                    return
                kind = struct.unpack_from("<H", message)[0]
                if kind == ATTACH:
                    self.greet()
                elif kind == DELIVER:
                    self.answer(message[HEAD.size:])
                elif kind == STATS_GET:  # so whoever has asked for stats knows that what was sent before has arrived
                    self.send(STATS, bytes(104))
        except OSError:
            pass  # the test or the broker has ended

    def send(self, kind, body=b"", fds=(), seq=0, kd_type=0, hdr_len=0, want=0):
        flags = (F_WAITS | self.flags) if want else 0
        head = HEAD.pack(kind, flags, len(body), seq, kd_type, hdr_len, want, 0, 0, 0, 0, *(self.registers if want else (0, 0, 0, 0)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.peer.sendmsg([head, body], rights)

    def greet(self):
        guest = struct.pack("<IIIIQQII", 0x10000, 0, 0x8664, 8, BASE, 0, 0, 0)
        self.send(HELLO, struct.pack("<IIII", LINK_VERSION, os.getpid(), 1, 0) + guest +
                  self.name.encode().ljust(64, b"\0") + bytes(24))
        self.is_greeted.set()

    def packet(self, kd_type, hdr_len, body):
        self.seq += 1
        self.send(PACKET, body, seq=self.seq, kd_type=kd_type, hdr_len=hdr_len, want=2)

    def stop(self):
        """An exception; the guest waits."""
        body = bytearray(240)
        struct.pack_into("<IHHIIQQI", body, 0, 0x3030, 6, 0, 1, 0, 0, BASE, 0x80000003)
        struct.pack_into("<H", body, 0xE8, 0x10)  # a kernel's code selector
        self.packet(7, 240, bytes(body))

    def memory(self, pieces, fds=(), pid=0, generation=1):
        """Where RAM is; pid: whose memory REMOTE pieces are said to be in."""
        self.send(MEMORY, struct.pack("<IIIIII", generation, pid, len(pieces), len(fds), 0, 1) + b"".join(pieces), fds)

    def wait(self):
        """The guest has come back to its wait without a word."""
        self.send(WAIT, want=2)

    def answer(self, request):
        if len(request) < 56:
            return
        self.delivered.append(struct.unpack_from("<I", request)[0])
        if self.on_deliver:
            self.on_deliver(request)
        reply = bytearray(request[:56])
        struct.pack_into("<I", reply, 8, UNSUCCESSFUL)
        self.packet(2, 56, bytes(reply))
