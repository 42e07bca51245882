# SPDX-License-Identifier: MIT
"""Test-kernel cases: boot, and what a debugger finds by looking."""
import struct

from kdclient import BREAKPOINT, Print, Stop, Symbols
from tk_harness import MACHINE, case, check, equal, refused


@case(attach=False)
def boot_in_nt_order(m):
    """Banner with the SYNC id, symbols of kernel, hal and transport, the initial break."""
    seen = []
    while True:
        event = m.kd.wait_event()
        seen.append(event)
        if isinstance(event, Stop):
            break
        if isinstance(event, Symbols):
            m.kd.go()
    symbols = [e for e in seen if isinstance(e, Symbols)]
    names = [e.name.split("\\")[-1] for e in symbols]
    check(isinstance(seen[0], Print), f"the first packet is {seen[0]}, not a print")
    check(m.kd.link.syncs_seen >= 1, "no packet with the SYNC id")
    check("test kernel" in seen[0].text, f"banner: {seen[0].text!r}")
    equal(names, ["ntoskrnl.exe", "hal.dll", "KDCOM.dll"], "modules announced")
    for e in symbols:
        check(not e.is_unload and e.size > 0 and e.name_length == len(e.name) + 1, f"{e}")
        equal(e.data[-1:], b"\0", "the name's end")
        equal(e.process_id, 2**64 - 1, "ProcessId")
    stop = seen[-1]
    equal(stop.code, BREAKPOINT, "code of the initial break")
    equal(stop.first_chance, 1, "FirstChance")
    equal(stop.address, stop.pc, "ExceptionAddress")
    equal(stop.instructions[:1], b"\xcc", "PC points at the int3")
    equal(stop.data, struct.pack("<I", 1), "trace data")
    equal(len(stop.body), 244, "size of the state change")
    equal(stop.report_flags, 3, "ReportFlags")
    equal(stop.cs, 0x10 if m.is64 else 0x08, "SegCs")
    equal(len(stop.instructions), 16, "InstructionCount")
    equal(stop.is64, m.is64, "64-bit addresses")
    status = m.kd.get_context()["rcx" if m.is64 else "eax"]
    equal(status & 0xFFFFFFFF, 1, "status of DbgBreakPointWithStatus")


@case()
def version(m):
    v = m.kd.version()
    equal(v.protocol, 6, "ProtocolVersion")
    equal(v.secondary, 2 if m.is64 else 0, "KdSecondaryVersion")
    equal(v.flags, 7 if m.is64 else 3, "Flags")
    equal(v.machine, MACHINE[m.arch], "MachineType")
    equal((v.max_packet, v.max_state, v.max_manipulate), (12, 3, 0x31), "limits")
    equal((v.simulation, v.unused), (0, 0), "reserved fields")
    equal(v.major & 0xFF, 0x0F, "free build")
    if not m.is64:
        for address in (v.kern_base, v.loaded_modules, v.debugger_data):
            equal(address >> 32, 0xFFFFFFFF, "upper half of a 32-bit address")
    equal(m.kd.read_virtual(v.kern_base, 2), b"MZ", "the kernel's header")
    pe = v.kern_base + m.kd.read_u32(v.kern_base + 0x3C)
    equal(m.kd.read_virtual(pe, 6), b"PE\0\0" + struct.pack("<H", MACHINE[m.arch]), "PE signature and machine")


@case(cpus=2)
def kdbg(m):
    m.run_to_ready()
    kd, v = m.kd, m.kd.version()
    block, raw = kd.kdbg()
    check(len(raw) >= 0x340, f"Size {len(raw):#x}")

    def field(offset, size=8):
        return int.from_bytes(raw[offset:offset + size], "little")
    equal(field(0x18), v.kern_base, "KernBase")
    equal(field(0x48), v.loaded_modules, "PsLoadedModuleList")
    for offset in [*range(0x48, 0x290, 8), 0x2C8, 0x2D0, 0x2D8]:
        if offset not in (0x138, 0x210):  # MmPageSize is a value; there are no system calls
            kd.read_virtual(field(offset), 4)
    equal(field(0x138), 4096, "MmPageSize")
    routine = kd.exports(v.kern_base)["DbgBreakPointWithStatus"]
    check(routine <= field(0x20) < routine + 64, "BreakpointWithStatus lies in DbgBreakPointWithStatus")
    equal(kd.read_virtual(field(0x20), 1), b"\xcc", "and is an int3")
    check(kd.read_string(field(0x208)).startswith("7601."), "NtBuildLab")
    width = 8 if m.is64 else 4
    for cpu in range(2):
        prcb = kd.read_pointer(field(0x218) + cpu * width)
        check(prcb != 0, f"KiProcessorBlock[{cpu}]")
        equal(kd.read_u32(prcb + field(0x2BE, 2)) & 0xFF, cpu, f"Number of PRCB {cpu}")
        thread = kd.read_pointer(prcb + field(0x2B4, 2))
        kd.read_virtual(thread, 0x20)
        context = kd.read_virtual(prcb + field(0x2BC, 2), 0x4D0 if m.is64 else 0x2CC)
        equal(context, kd.request("GetContext", processor=cpu).data, f"CONTEXT in PRCB {cpu}")
        special = kd.read_virtual(prcb + field(0x2F2, 2), 0xE0 if m.is64 else 0x54)
        equal(special, bytes(kd.special_registers(cpu).raw), f"KSPECIAL_REGISTERS in PRCB {cpu}")
    equal(kd.read_pointer(field(0x218) + 2 * width), 0, "the end of KiProcessorBlock")
    head = field(0x50)
    process = kd.read_pointer(head)
    equal(kd.read_pointer(process), head, "the process list's end")
    check(b"System" in kd.read_virtual(process, 0x200), "the System process")
    buffer = kd.read_virtual(field(0x1E0), 256)
    check(b"test kernel" in buffer, "KdPrintCircularBuffer has the banner")
    equal(kd.read_pointer(field(0x2C8)), field(0x1E0), "KdPrintCircularBufferPtr")
    runs = kd.read_pointer(field(0x270))
    check(1 <= kd.read_u32(runs) <= 16, "MmPhysicalMemoryBlock.NumberOfRuns")


@case("later")
def kuser_shared_data(m):
    base = 0xFFFFF78000000000 if m.is64 else 0xFFFFFFFFFFDF0000
    equal(m.kd.read_u32(base + 0x260) & 0xFFFF, 7601, "NtBuildNumber")
    equal((m.kd.read_u32(base + 0x26C), m.kd.read_u32(base + 0x270)), (6, 1), "version")
    equal(m.kd.read_virtual(base + 0x2D4, 1)[0] & 3, 3, "KdDebuggerEnabled: enabled and present")
    before = m.kd.read_u64(base + 0x14)
    m.kd.resume()
    m.kd.wait_print("TK: later")
    m.kd.break_in()
    check(m.kd.read_u64(base + 0x14) > before, "SystemTime moves")


@case()
def modules(m):
    found = m.kd.modules()
    equal([x.name for x in found], ["ntoskrnl.exe", "hal.dll", "KDCOM.dll"], "names")
    for x in found:
        check(x.path.endswith("\\" + x.name) and x.path.startswith("\\SystemRoot"), f"path {x.path}")
        equal(m.kd.read_virtual(x.base, 2), b"MZ", f"header of {x.name}")
        pe = x.base + m.kd.read_u32(x.base + 0x3C)
        equal(m.kd.read_u32(pe + 24 + 56), x.size, f"SizeOfImage of {x.name}")
    equal(found[0].base, m.kd.version().kern_base, "the kernel's base")


@case(more=("--kernel-name", "mykrnl.exe"))
def other_kernel_name(m):
    equal(m.kd.modules()[0].name, "mykrnl.exe", "the kernel's name")


@case(cpus=2)
def registers_of_all_cpus(m):
    stop = m.run_to_ready()
    equal(stop.processor_count, 2, "NumberProcessors")
    pages = set()
    for cpu in range(2):
        r, s = m.kd.get_context(cpu), m.kd.special_registers(cpu)
        equal(r["contextflags"], 0x10001F if m.is64 else 0x1003F, "ContextFlags")
        equal(r["cs"], 0x10 if m.is64 else 0x08, "cs")
        check(s["cr0"] & 0x80000001 == 0x80000001, "paging and protection are on")
        check(s["cr3"] != 0 and s["idtr"] != 0 and s["gdtr"] != 0, "cr3, idt, gdt")
        kpcr = s["gsbase"] if m.is64 else 0
        if m.is64:
            equal(int.from_bytes(m.kd.read_control_space(0, 8, cpu), "little"), kpcr, "KPCR by control space")
            prcb = int.from_bytes(m.kd.read_control_space(1, 8, cpu), "little")
            equal(m.kd.read_pointer(kpcr + 0x18), kpcr, "KPCR.Self")
            equal(m.kd.read_pointer(kpcr + 0x20), prcb, "KPCR.CurrentPrcb")
            thread = int.from_bytes(m.kd.read_control_space(3, 8, cpu), "little")
            equal(m.kd.read_pointer(prcb + 8), thread, "CurrentThread")
            equal(m.kd.read_pointer(kpcr + 0x38), s["idtr"], "KPCR.IdtBase")
            check(m.kd.read_pointer(kpcr + 0x108) != 0, "KdVersionBlock")
        pages.add(kpcr or s["gdtr"])
        check(0 < m.kd.read_virtual(r.pc | (0 if m.is64 else 0xFFFFFFFF00000000), 1)[0] < 256, "code at PC")
    equal(len(pages), 2, "each CPU has tables of its own")
    equal(m.kd.get_context(0).pc & 0xFFFFFFFF, stop.pc & 0xFFFFFFFF, "PC of the reporting CPU")
    for cpu in (2, 7, 32, 0xFFFF):
        refused(lambda: m.kd.get_context(cpu), f"GetContext of CPU {cpu}")
        refused(lambda: m.kd.read_control_space(0, 8, cpu), f"ReadControlSpace of CPU {cpu}")


@case()
def control_space(m):
    if m.is64:
        equal(len(m.kd.read_control_space(2, 0xE0)), 0xE0, "special registers")
        equal(len(m.kd.read_control_space(2, 0x100)), 0xE0, "clipped to their size")
        equal(len(m.kd.read_control_space(2, 0xD8)), 0xD8, "an older debugger's size")
        refused(lambda: m.kd.read_control_space(4, 8), "index 4")
        refused(lambda: m.kd.read_control_space(2**63, 8), "a wild index")
        refused(lambda: m.kd.write_control_space(0, bytes(8)), "writing the KPCR's address")
        raw = m.kd.read_control_space(2, 0xE0)
        reply = m.kd.write_control_space(2, raw)
        equal(reply.data, raw, "the echo")
    else:
        whole = m.kd.read_control_space(0, 0x320)
        equal(len(whole), 0x320, "KPROCESSOR_STATE")
        equal(whole[:0x2CC], m.kd.request("GetContext").data, "CONTEXT first")
        equal(len(m.kd.read_control_space(0x31C, 0x100)), 4, "clipped at the end")
        refused(lambda: m.kd.read_control_space(0x320, 4), "behind the end")
        refused(lambda: m.kd.read_control_space(2**40, 4), "a wild offset")
