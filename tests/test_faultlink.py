#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real debuggers through a stream on which things go wrong (faultlink.py): what they read are the target's bytes, or they say cleanly that they cannot.

    tests/test_faultlink.py [WORD…]
"""
import os
import re
import tempfile

from e2e import BOTH, attach, client_of, expect, main, test
from faultlink import FaultLink
from kdclient import KdClient, KdError
from vm import GUARD_S

ROUNDS = 20 if os.environ.get("VMKD_CHECK_LONG") else 2
BYTES = 1024


def dumped(text):
    """The bytes of a `db`."""
    rows = re.findall(r"^[0-9a-f`]{8,17}\s+((?:[0-9a-f]{2}[ -]){16})", text, re.M)
    return bytes.fromhex("".join(rows).replace("-", " "))


def truth(vm):
    """(address, bytes) of a piece of the kernel's code, read without faults."""
    with client_of(vm) as kd:
        attach(kd)
        base = kd.version().kern_base
        return base, kd.read_virtual(base, BYTES)


@test("vmkd kd through a faulty stream reads the right bytes", BOTH)
def console(way):
    with way.vm("faults", "--scenario", "counter") as vm, tempfile.TemporaryDirectory(prefix="vmkd-f-") as folder:
        base, wanted = truth(vm)
        faults = 0
        for seed in range(1, ROUNDS + 1):
            with FaultLink(f"unix:{vm.kd_socket()}", f"{folder}/s", seed, per_mille=100) as link:
                status, text = vm.run("kd", f"unix:{folder}/s", "-b", "-c", f"db {base:x} L{BYTES:x}; q")
            faults += link.faults
            got = dumped(text)
            expect(status == 0 and got == wanted, f"seed {seed}, {link.faults} faults, status {status}: {len(got)} bytes\n{text[-600:]}")
        expect(faults > 0, "nothing went wrong")


@test("a client through a faulty stream reads the right bytes", BOTH)
def independent_client(way):
    with way.vm("faults", "--scenario", "counter") as vm, tempfile.TemporaryDirectory(prefix="vmkd-f-") as folder:
        base, wanted = truth(vm)
        faults = 0
        for seed in range(1, ROUNDS + 1):
            with FaultLink(f"unix:{vm.kd_socket()}", f"{folder}/s", seed) as link, KdClient(timeout=GUARD_S) as kd:
                kd.connect(f"{folder}/s")
                attach(kd)
                for at in range(0, BYTES, 128):
                    expect(kd.read_virtual(base + at, 128) == wanted[at:at + 128], f"seed {seed}: other bytes at {base + at:x}")
            faults += link.faults
        expect(faults > 0, "nothing went wrong")


@test("a stream that ends at any byte costs the next debugger nothing", BOTH)
def cut_at_a_byte(way):
    with way.vm("faults", "--scenario", "counter") as vm, tempfile.TemporaryDirectory(prefix="vmkd-f-") as folder:
        base, wanted = truth(vm)
        for end in range(1, 1200, 20 if ROUNDS > 2 else 90):
            with FaultLink(f"unix:{vm.kd_socket()}", f"{folder}/s", 1, per_mille=0, end_at=end), KdClient(timeout=GUARD_S) as kd:
                kd.connect(f"{folder}/s")
                try:
                    attach(kd)
                    kd.read_virtual(base, BYTES)
                except KdError:
                    pass  # that it ends is what is asked for
            with client_of(vm) as kd:
                attach(kd)
                expect(kd.read_virtual(base, BYTES) == wanted, f"after a stream that ended at byte {end}")


if __name__ == "__main__":
    main()
