# SPDX-License-Identifier: MIT
"""Test-kernel cases: the link itself, and the transport module as NT treats it."""
import struct
import time

from kdclient import API, BREAKPOINT, DATA_MAX, MANIPULATE, RESEND, control_frame, frame
from tk_harness import case, check, equal, pump_to_end, verdict_case


@case()
def resend_repeats_the_state_change(m):
    kd = m.kd
    first = kd.stop
    kd.expect_refresh()
    kd.link.write(control_frame(RESEND))
    again = kd.wait_stop()
    equal((again.code, again.pc, again.body), (first.code, first.pc, first.body), "the same state change")
    again = kd.attach()
    equal(again.body, first.body, "and again after a RESET")


@case()
def damaged_requests(m):
    kd = m.kd
    body = struct.pack("<IHHII", API["GetVersion"], 0, 0, 0, 0) + bytes(40)
    good = frame(MANIPULATE, kd.link.next_id, body)
    wrong_sum = bytearray(good)
    wrong_sum[12] ^= 1
    for name, bad in (("checksum", bytes(wrong_sum)), ("trailer", good[:-1] + b"\x00"),
                      ("short header", frame(MANIPULATE, kd.link.next_id, body[:20]))):
        kd.link.write(bad)
        deadline = time.monotonic() + 10
        while (got := kd.link.pump(deadline)) is not None and got[:2] != ("control", RESEND):
            pass
        check(got is not None, f"a damaged {name} is answered with RESEND")
    equal(kd.version().protocol, 6, "a good request afterwards")


@case()
def repeated_request(m):
    """The debugger did not see the ACK and repeats: acknowledged again, executed once."""
    kd, bench = m.kd, m.symbols()["TkBench"]
    counter = bench + 0x20 + 8 * (API["QueryMemory"] - 0x3130)
    before = kd.read_u64(counter)
    body = struct.pack("<IHHII", API["QueryMemory"], 0, 0, 0, 0) + bytes(40)
    kd.link.write(frame(MANIPULATE, kd.link.next_id, body) * 3)
    kd.request_raw(API["QueryMemory"])
    equal(kd.read_u64(counter), before + 1, "requests executed")


@case(link="serial")
def break_in_while_stopped(m):
    """A break-in byte that meets a stopped target's UART is remembered. A broker may know better: the target is stopped."""
    m.run_to_ready()
    kd = m.kd
    kd.link.write(b"b")
    equal(kd.version().protocol, 6, "a request behind it")
    kd.resume()
    equal(kd.wait_stop().code, BREAKPOINT, "stopped again")


@case()
def noise_between_frames(m):
    for noise in (b"\x00", b"00", b"iii", b"0i0i0i", bytes(range(256)).replace(b"b", b"")):
        m.kd.link.write(noise)
        equal(m.kd.version().protocol, 6, f"a request behind {noise[:8]!r}")


@case()
def biggest_request(m):
    where = m.symbols()["TkBench"] + 0x40
    old = m.kd.read_virtual(where, 256)
    m.kd.fill(where, 256, b"x" * DATA_MAX)
    equal(m.kd.read_virtual(where, 256), b"x" * 256, "a request of 4000 bytes")
    m.kd.write_virtual(where, old)


verdict_case("relocate", "relocate", "poweroff")
verdict_case("power_transitions", "d3d0")
verdict_case("user_mode_port_call", "cpl3")
verdict_case("no_global_data", "noglobaldata", "poweroff")


@case("hibernate")
def hibernate(m):
    kd, notices = m.kd, []
    kd.resume()
    kd.wait_print("resumed, line 5 of 5")
    kd.on_event = notices.append
    lines = [t for t in kd.prints if "resumed, line" in t]
    equal(lines, [f"TK: resumed, line {i} of 5\n" for i in range(1, 6)], "every line after the resume")
    equal(m.vm.wait(), 0, "exit status")


@case("readonlyshared", "poweroff", link="debugcon hook")
def read_only_shared_data(m):
    """A kernel whose KUSER_SHARED_DATA is read-only: the module must use RtlSetSystemGlobalData."""
    m.kd.resume()
    pump_to_end(m)
    equal(m.vm.wait(), 0, "exit status")


@case("relocate", set_words=("break",))
def debug_after_relocation(m):
    stop = m.run_to_ready()
    check(stop.code == BREAKPOINT, "broken in")
    equal(m.kd.read_virtual(m.kd.modules()[2].base, 2), b"MZ", "the moved transport")
    m.kd.resume()
    m.kd.wait_print("relocated, line 20")
    check("verdict failed" not in m.vm.output(), "the old pages stay untouched")
