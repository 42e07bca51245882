# SPDX-License-Identifier: MIT
"""Test-kernel cases: several processors."""
import struct
import time

from kdclient import BREAKPOINT, SINGLE_STEP, WAKE_DEBUGGER
from tk_harness import case, check, equal


@case("later", cpus=2)
def switch_processor(m):
    first = m.run_to_ready()
    kd = m.kd
    equal(first.processor, 0, "the clock's CPU breaks in")
    other = kd.switch_processor(1)
    equal((other.code, other.processor, other.processor_count), (WAKE_DEBUGGER, 1, 2), "the other CPU reports")
    equal(other.pc & 0xFFFFFFFF, kd.get_context(1).pc & 0xFFFFFFFF, "with its own PC")
    equal(kd.read_virtual(kd.version().kern_base, 2), b"MZ", "requests on the other CPU")
    same = kd.switch_processor(1)
    equal((same.code, same.processor), (WAKE_DEBUGGER, 1), "switching to the same CPU")
    for cpu in (2, 31, 0xFFFF):
        same = kd.switch_processor(cpu)
        equal((same.code, same.processor), (WAKE_DEBUGGER, 1), f"switching to CPU {cpu}")
    back = kd.switch_processor(0)
    equal((back.code, back.processor, back.pc), (first.code, 0, first.pc), "back to the first stop")
    kd.switch_processor(1)
    kd.resume()
    kd.wait_print("TK: later")
    stop = kd.break_in()
    equal((stop.code, stop.processor), (BREAKPOINT, 0), "continued from the other CPU, broken in again")


@case("smp", cpus=3)
def all_cpus_stop_together(m):
    m.run_to_ready()
    kd = m.kd
    counters = m.symbols()["TkCpuCounters"]

    def read():
        return struct.unpack("<3Q", kd.read_virtual(counters, 24))
    m.run_until(lambda: all(read()), "every CPU counts")
    equal(kd.stop.processor_count, 3, "NumberProcessors")
    before = read()
    spin = m.symbols()["TkSpin"]
    for cpu in range(1, 3):
        pc = kd.extend(kd.get_context(cpu).pc)
        check(spin <= pc < spin + 256, f"CPU {cpu} is at {pc:#x}, not in TkSpin")
    time.sleep(0.2)
    equal(read(), before, "nobody counts while stopped")
    for cpu in (1, 2, 0, 2):
        equal(kd.switch_processor(cpu).processor, cpu, "switch")
    m.run_until(lambda: all(b > a for a, b in zip(before, read())), "every CPU counts again")


@case("smp", cpus=3)
def breakpoints_on_all_cpus(m):
    """Several CPUs run into one breakpoint at once; each stop is consistent and none is lost."""
    m.run_to_ready()
    kd = m.kd
    spin = m.symbols()["TkSpin"]  # the first CPU runs TkSpinBoot
    m.run_until(lambda: all(spin <= kd.extend(kd.get_context(cpu).pc) < spin + 256 for cpu in (1, 2)), "both in TkSpin")
    for i in range(12):
        pc = kd.extend(kd.get_context(1 + i % 2).pc)
        kd.write_breakpoint(pc)
        kd.resume()
        stop = kd.wait_stop()
        equal((stop.code, stop.pc), (BREAKPOINT, pc), "the breakpoint")
        check(stop.instructions[:1] != b"\xcc", "the original code in the report")
        check(stop.processor in (1, 2), f"CPU {stop.processor} ran into a breakpoint in TkSpin")


@case("smpprint=40", cpus=3)
def prints_of_all_cpus(m):
    m.kd.resume()
    m.kd.wait_print("all CPUs have spoken")
    for cpu in range(3):
        lines = [t for t in m.kd.prints if t.startswith(f"TK: CPU {cpu} ")]
        equal(lines, [f"TK: CPU {cpu} says line {i}\n" for i in range(1, 41)], f"the lines of CPU {cpu}")


@case("counter", cpus=2)
def hardware_breakpoint_leaves_others(m):
    """Dr7 of Continue2 goes to every CPU; an address that only one CPU touches stops that one."""
    m.run_to_ready()
    kd, sym = m.kd, m.symbols()
    for cpu in range(2):
        special = kd.special_registers(cpu)
        special["kdr0"] = sym["TkInner"]
        kd.set_special_registers(special, cpu)
    kd.step_off_int3()
    kd.go(dr7=0x401)
    stop = kd.wait_stop()
    equal((stop.code, stop.processor, stop.pc), (SINGLE_STEP, 0, sym["TkInner"]), "the stop")
    equal(kd.special_registers(1)["kdr7"] & 0xFF, 1, "Dr7 of the other CPU")
