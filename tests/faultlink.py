#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A KDCOM stream on which things go wrong, in real time: stands between a debugger and a target and loses, damages, doubles, delays or cuts off whole
frames by dice, or ends the stream at a byte. The same seed makes the same faults in the same frames.

    tests/faultlink.py unix:KD_SOCKET LISTEN_PATH [--seed N] [--per-mille N] [--kinds drop,body,double,delay,cut] [--end-at BYTE]
"""
import argparse
import os
import random
import select
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance_talk import open_stream  # noqa: E402

KINDS = ("drop", "body", "double", "delay", "cut")


class Direction:
    """Frames of one direction."""

    def __init__(self, seed, per_mille, kinds):
        self.dice, self.per_mille, self.kinds = random.Random(seed), per_mille, kinds
        self.buf, self.held, self.faults = bytearray(), b"", 0

    def frames(self, data):
        """What becomes of the frames that these bytes complete."""
        self.buf += data
        out = bytearray()
        while (size := self.frame_size()) and size <= len(self.buf):
            frame = bytes(self.buf[:size])
            del self.buf[:size]
            out += self.pass_on(frame)
        return bytes(out)

    def frame_size(self):
        """Of the frame at the start, as far as one can tell; 0: more bytes are needed."""
        if self.buf[:4] == b"iiii":
            return 16
        if self.buf[:4] == b"0000":
            return 17 + struct.unpack_from("<H", self.buf, 6)[0] if len(self.buf) > 7 else 0
        may_be_leader = self.buf[:1] in (b"i", b"0") and len(self.buf) < 4
        return 1 if self.buf and not may_be_leader else 0

    def pass_on(self, frame):
        released, self.held = self.held, b""
        if len(frame) > 1 and self.dice.randrange(1000) < self.per_mille:
            self.faults += 1
            kind = self.dice.choice(self.kinds)
            if kind == "delay":  # the next one overtakes it
                self.held = frame
                return released
            frame = self.damage(kind, frame)
        return frame + released

    def damage(self, kind, frame):
        if kind == "double":
            return frame + frame
        if kind == "cut":
            return frame[:self.dice.randrange(1, len(frame))]
        if kind == "drop" or len(frame) <= 16:
            return b""
        at = self.dice.randrange(16, len(frame))
        return frame[:at] + bytes([frame[at] ^ self.dice.randrange(1, 256)]) + frame[at + 1:]

    def release(self):
        """Nothing overtakes it any more."""
        released, self.held = self.held, b""
        return released


class FaultLink:
    """with FaultLink("unix:…/kd.sock", path, seed) as link: … One debugger after the other on link.path; link.faults counts."""

    RELEASE_S = 0.3

    def __init__(self, where, path, seed, per_mille=30, kinds=KINDS, end_at=None):
        self.where, self.path, self.end_at = where, path, end_at
        self.to_target, self.to_debugger = Direction(2 * seed, per_mille, kinds), Direction(2 * seed + 1, per_mille, kinds)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(4)
        self.is_ended = False
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.is_ended = True
        self.thread.join()
        self.listener.close()
        os.unlink(self.path)

    @property
    def faults(self):
        return self.to_target.faults + self.to_debugger.faults

    def serve(self):
        while not self.is_ended:
            if select.select([self.listener], [], [], 0.1)[0]:
                debugger = self.listener.accept()[0]
                with debugger, open_stream(self.where) as target:
                    self.relay(debugger, target)

    def relay(self, debugger, target):
        """Until either end closes, or `end_at` bytes have passed."""
        ways = {debugger: (target, self.to_target), target: (debugger, self.to_debugger)}
        for _, direction in ways.values():
            direction.buf.clear()
            direction.held = b""
        passed = 0
        while not self.is_ended:
            ready = select.select(list(ways), [], [], self.RELEASE_S)[0]
            try:
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    passed += len(data)
                    to, direction = ways[source]
                    to.sendall(direction.frames(data))
                if not ready:
                    for to, direction in ways.values():
                        to.sendall(direction.release())
            except OSError:
                return
            if self.end_at is not None and passed >= self.end_at:
                return


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target", help="unix:PATH or tcp:HOST:PORT")
    parser.add_argument("path", help="of the socket that debuggers connect to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-mille", type=int, default=30, help="of the frames that meet a fault")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--end-at", type=int, help="end the stream after so many bytes")
    options = parser.parse_args()
    with FaultLink(options.target, options.path, options.seed, options.per_mille, options.kinds.split(","), options.end_at) as link:
        try:
            link.thread.join()
        except KeyboardInterrupt:
            print(f"{link.faults} faults")


if __name__ == "__main__":
    main()
