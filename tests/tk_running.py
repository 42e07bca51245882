# SPDX-License-Identifier: MIT
"""Test-kernel cases: breakpoints, steps, exceptions."""
import struct
import time

from kdclient import (ACCESS_VIOLATION, ASSERTION, BREAKPOINT, DBG_EXCEPTION_NOT_HANDLED, DIVIDE_BY_ZERO, SINGLE_STEP,
                      Symbols)
from tk_harness import case, check, equal, refused


@case("counter")
def breakpoint_hit_and_removed(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    tick = sym["TkTick"]
    original = kd.read_virtual(tick, 16)
    counts = []
    for _ in range(3):
        handle = kd.write_breakpoint(tick)
        check(1 <= handle <= 32, f"handle {handle}")
        equal(kd.read_virtual(tick, 1), b"\xcc", "the int3 in memory")
        kd.resume()
        stop = kd.wait_stop()
        equal((stop.code, stop.pc), (BREAKPOINT, tick), "where it stopped")
        equal(stop.instructions, original, "the report shows the original code")
        equal(kd.read_virtual(tick, 16), original, "and so does memory")
        refused(lambda: kd.restore_breakpoint(handle), "the handle of a deleted breakpoint")
        counts.append(kd.read_u64(sym["TkCounter"]))
        step = kd.step()
        equal(step.code, SINGLE_STEP, "the step off the breakpoint")
        check(tick < step.pc <= tick + 16, "one instruction further")
        check(step.dr6 & 0x4000, "Dr6.BS")
        check(not step.eflags & 0x100, "TF is not left on")
    equal(counts[1:], [counts[0] + 1, counts[0] + 2], "every call stops once")


@case()
def breakpoint_table(m):
    kd, base = m.kd, m.symbols()["TkCpuCounters"]  # 64 bytes that nobody writes in this scenario
    old = kd.read_virtual(base, 40)
    handles = [kd.write_breakpoint(base + i) for i in range(32)]
    equal(sorted(handles), list(range(1, 33)), "32 handles")
    reply = refused(lambda: kd.write_breakpoint(base + 32), "the 33rd breakpoint")
    equal(struct.unpack_from("<I", reply.union, 8)[0], 0, "its handle")
    equal(kd.read_virtual(base, 40), b"\xcc" * 32 + old[32:], "memory")
    for handle in handles:
        kd.restore_breakpoint(handle)
    equal(kd.read_virtual(base, 40), old, "memory restored")
    first = kd.write_breakpoint(base)
    refused(lambda: kd.write_breakpoint(base), "a second breakpoint at the same address")
    kd.restore_breakpoint(first)
    for handle in (0, 33, 0xFFFFFFFF, first):
        refused(lambda: kd.restore_breakpoint(handle), f"handle {handle}")
    pending = kd.write_breakpoint(0x10000)
    check(pending, "a breakpoint on an absent page is accepted")
    refused(lambda: kd.write_breakpoint(0x10000), "a second pending one")
    kd.restore_breakpoint(pending)
    for handle in range(1, 33):
        refused(lambda: kd.restore_breakpoint(handle), f"handle {handle} when there are none")


@case("counter")
def step_into_and_over(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkOuter"])
    kd.resume()
    equal(kd.wait_stop().pc, sym["TkOuter"], "in TkOuter")
    seen = set()
    for _ in range(40):
        seen.add(kd.step().pc)
    check(sym["TkMiddle"] in seen and sym["TkInner"] in seen, "stepping enters the calls")
    stack = "rsp" if m.is64 else "esp"
    kd.write_breakpoint(sym["TkInner"])
    kd.resume()
    equal(kd.wait_stop().pc, sym["TkInner"], "in TkInner")
    back = kd.read_pointer(kd.extend(kd.get_context()[stack]))
    kd.write_breakpoint(back)
    kd.go()
    equal(kd.wait_stop().pc, back, "a temporary breakpoint at the return address")


@case("counter")
def trace_range(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkInner"])
    kd.resume()
    stop = kd.wait_stop()
    kd.go(trace=True, first=stop.pc & (2**64 - 1 if m.is64 else 0xFFFFFFFF),
          last=(stop.pc + 8) & (2**64 - 1 if m.is64 else 0xFFFFFFFF))
    out = kd.wait_stop()
    equal(out.code, SINGLE_STEP, "a step")
    check(not stop.pc <= out.pc <= stop.pc + 8, "outside the range")


@case("counter")
def hardware_breakpoints(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    special = kd.special_registers()
    special["kdr0"] = sym["TkWatched"]
    special["kdr1"] = sym["TkInner"]
    kd.set_special_registers(special)
    kd.step_off_int3()
    kd.go(dr7=0x400 | 1 | 0xD << 16)  # DR0: write, 4 bytes
    stop = kd.wait_stop()
    equal((stop.code, stop.dr6 & 0xF), (SINGLE_STEP, 1), "the data breakpoint")
    check(sym["TkTick"] < stop.pc < sym["TkTick"] + 64, "behind the write")
    equal(stop.dr7 & 0xFFFFFFFF, 0x400 | 1 | 0xD << 16, "Dr7 in the report")
    kd.go(dr7=0x400 | 1 << 2)  # DR1: execute
    stop = kd.wait_stop()
    equal((stop.code, stop.dr6 & 0xF, stop.pc), (SINGLE_STEP, 2, sym["TkInner"]), "the execution breakpoint")
    before = kd.read_u64(sym["TkCounter"])
    kd.go(dr7=0)
    time.sleep(0.2)
    stop = kd.break_in()
    equal(stop.code, BREAKPOINT, "nothing but the break-in once Dr7 is 0")
    check(kd.read_u64(sym["TkCounter"]) > before, "it ran")


@case("counter")
def changed_registers_take_effect(m):
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    kd.write_breakpoint(sym["TkTick"])
    kd.resume()
    kd.wait_stop()
    before = kd.read_u64(sym["TkCounter"])
    registers = kd.get_context()
    if m.is64:
        registers["rcx"] = 1000
        kd.set_context(registers)
    else:
        kd.write_virtual(kd.extend(registers["esp"]) + 4, struct.pack("<I", 1000))
    kd.write_breakpoint(sym["TkOuter"])
    kd.go()
    kd.wait_stop()
    equal(kd.read_u64(sym["TkCounter"]), before + 1000, "TkCounter after TkTick(1000)")
    registers = kd.get_context()
    registers.pc = sym["TkInner"] & 0xFFFFFFFFFFFFFFFF
    kd.set_context(registers)
    stop = kd.step()
    check(sym["TkInner"] < stop.pc < sym["TkInner"] + 16, "a moved PC")


@case("exception")
def exceptions(m):
    kd, sym = m.kd, m.symbols()
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.pc, stop.first_chance), (ACCESS_VIOLATION, sym["TkFaultRead"], 1), "the read")
    equal((stop.parameter_count, stop.information[:2]), (2, (0, 0x1234)), "its parameters")
    kd.go(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal((stop.code, stop.pc), (ACCESS_VIOLATION, sym["TkFaultWrite"]), "the write")
    equal(stop.information[:2], (1, 0x1234), "its parameters")
    kd.go_old(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal((stop.code, stop.pc), (DIVIDE_BY_ZERO, sym["TkFaultDivide"]), "the division")
    registers = kd.get_context()
    registers["rcx" if m.is64 else "ecx"] = 1  # repaired, so it is executed again
    kd.set_context(registers)
    kd.go()
    stop = kd.wait_stop()
    equal((stop.code, stop.instructions[:1]), (BREAKPOINT, b"\xcc"), "no first chance, then the int3")
    check(sym["DbgBreakPoint"] <= stop.pc < sym["DbgBreakPoint"] + 64, "in DbgBreakPoint")
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.instructions[:2]), (ASSERTION, b"\xcd\x2c"), "the assertion")
    kd.go()
    kd.wait_print("exceptions survived")


@case("secondchance", set_words=("break", "bugcheck=exit"))
def second_chance(m):
    kd = m.kd
    kd.resume()
    stop = kd.wait_stop()
    equal((stop.code, stop.first_chance), (ACCESS_VIOLATION, 0), "second chance at once")
    kd.go(status=DBG_EXCEPTION_NOT_HANDLED)
    stop = kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the bug check's break")
    code = struct.unpack("<Q" if m.is64 else "<I", kd.read_virtual(m.symbols()["KiBugCheckData"], 8 if m.is64 else 4))[0]
    equal(code, 0x1E, "KMODE_EXCEPTION_NOT_HANDLED")
    kd.resume()
    kd.wait_stop()
    kd.resume()
    equal(m.vm.wait(), 1, "exit status")


@case("bugcheck", set_words=("break", "bugcheck=exit"))
def bugcheck(m):
    kd, data = m.kd, m.symbols()["KiBugCheckData"]
    kd.resume()
    kd.wait_print("Fatal System Error: 0xdeaddead")
    for status in (3, 4):
        stop = kd.wait_stop()
        equal(stop.code, BREAKPOINT, "a break")
        equal(kd.get_context()["rcx" if m.is64 else "eax"] & 0xFFFFFFFF, status, "its status")
        words = struct.unpack("<5Q" if m.is64 else "<5I", kd.read_virtual(data, 40 if m.is64 else 20))
        equal(words, (0xDEADDEAD, 1, 2, 3, 4), "KiBugCheckData")
        kd.resume()
    equal(m.vm.wait(), 1, "exit status")


@case("loadunload", set_words=("break", "bugcheck=exit"))
def crash_at_a_module_notice(m):
    kd = m.kd
    kd.resume()
    while not isinstance(kd.wait_event(), Symbols):
        pass
    kd.cause_bugcheck()
    equal(kd.wait_stop().code, BREAKPOINT, "the bug check's break")
    width = 8 if m.is64 else 4
    equal(int.from_bytes(kd.read_virtual(m.symbols()["KiBugCheckData"], width), "little"), 0xE2, "its code")


@case(cpus=2, set_words=("break", "bugcheck=exit"))
def crash_by_request(m):
    kd = m.kd
    m.run_to_ready()
    data = m.symbols()["KiBugCheckData"]
    kd.switch_processor(1)
    kd.cause_bugcheck()
    stop = kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the bug check's break")
    width = 8 if m.is64 else 4
    equal(int.from_bytes(kd.read_virtual(data, width), "little"), 0xE2, "MANUALLY_INITIATED_CRASH")
    kd.resume()
    kd.wait_stop()
    kd.resume()
    equal(m.vm.wait(), 1, "exit status")
