# SPDX-License-Identifier: MIT
"""Test-kernel cases: prints, prompts, modules, files, the ends and beginnings of a kernel."""
import struct

from kdclient import BREAKPOINT, RESEND, Command, Print, Prompt, Symbols, control_frame
from tk_harness import case, check, equal, pump_to_end


@case("print=60", "poweroff")
def prints_in_order(m):
    m.kd.resume()
    m.kd.wait_print("line 60 of 60")
    lines = [t for t in m.kd.prints if t.startswith("TK: line")]
    equal(lines, [f"TK: line {i} of 60\n" for i in range(1, 61)], "all lines, once, in order")
    equal(m.vm.wait(), 0, "exit status")


@case("printflood=400")
def break_into_prints(m):
    m.kd.resume()
    m.kd.wait_print("flood 5 ")
    m.kd.break_in()
    if m.options.link == "serial":  # the other links carry prints by the hundred
        check("flood 400 " not in "".join(m.kd.prints), "broken in before the end")
    m.kd.resume()
    m.kd.wait_print("flood done")
    numbers = [int(t.split()[2]) for t in m.kd.prints if t.startswith("TK: flood ") and t.split()[2].isdigit()]
    equal(numbers, list(range(1, 401)), "no line lost or doubled")


@case("flood")
def flood_on_request(m):
    kd = m.kd
    m.run_to_ready()
    flood = m.symbols()["TkFlood"]
    for total, lines in ((150, 150), (153, 3)):
        kd.write_virtual(flood, struct.pack("<Q", lines))
        kd.resume()
        for number in range(1, lines + 1):
            text = kd.wait_print("TK: flood")
            check(text.startswith(f"TK: flood {number} .") and len(text) == 64, f"line {number} is {text!r}")
        kd.wait_print("TK: flood done")
        kd.break_in()
        wanted, done, ticks = struct.unpack("<3Q", kd.read_virtual(flood, 24))
        equal((wanted, done), (0, total), "lines wanted and printed")
        check(ticks > 0, "no time was taken")


@case("prompt")
def prompt(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Prompt):
        if isinstance(event, Symbols):
            kd.go()
    equal(event.text, "TK: your name? ", "the question")
    equal(event.max_answer, 79, "room for the answer")
    kd.link.write(control_frame(RESEND))
    equal(kd.wait_event().text, "TK: your name? ", "the question again after a RESEND")
    kd.answer_prompt(event, "Ada")
    kd.wait_print("you said 'Ada' (3 characters)")


@case("prompt")
def prompt_answer_too_long(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Prompt):
        if isinstance(event, Symbols):
            kd.go()
    kd.answer_prompt(event, "x" * 3000)
    kd.wait_print("(79 characters)")


@case("command")
def command_string(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Command):
        if isinstance(event, Symbols):
            kd.go()
    equal((event.name, event.command), ("TK", ".echo hello!"), "name and command")
    check(kd.version().protocol == 6, "requests are served meanwhile")
    kd.go()


@case("loadunload=2", "poweroff")
def load_and_unload(m):
    kd, seen = m.kd, []
    kd.resume()
    while True:
        event = kd.wait_event()
        if isinstance(event, Symbols):
            seen.append(event)
            if not event.is_unload:
                names = [x.name for x in kd.modules()]
                equal(names[-1], "tkdriver.sys", "the list's last module")
                equal(kd.read_virtual(event.base, 2), b"MZ", "its header")
            kd.go()
        elif isinstance(event, Print) and "tkdriver.sys unloaded" in event.text:
            break
    equal([(e.is_unload, e.name.split("\\")[-1]) for e in seen], [(False, "tkdriver.sys"), (True, "tkdriver.sys")] * 2,
          "events")
    equal(m.vm.wait(), 0, "exit status")


def kdfile_content(size):
    return bytes((i * 7 + i // 251) & 0xFF for i in range(size))


@case("kdfiles")
def kdfiles(m):
    m.kd.files["tkfile.sys"] = kdfile_content(10000)
    m.kd.resume()
    pump_to_end(m)
    equal(m.vm.wait(), 0, "exit status")


@case("kdfiles")
def kdfiles_refused(m):
    m.kd.files["other.sys"] = b"x"
    m.kd.resume()
    pump_to_end(m)
    equal(m.vm.wait(), 1, "exit status")
    check("c000000f" in m.vm.output(), "the status arrived")


@case("reboot")
def shutdown_notice(m):
    kd = m.kd
    kd.resume()
    while not isinstance(event := kd.wait_event(), Symbols):
        pass
    equal((event.is_unload, event.base, event.name_length, len(event.body)), (True, 2**64 - 1, 0, 240), "the notice")
    kd.go()
    equal(m.vm.wait(), 0, "exit status")


@case()
def reboot_by_request(m):
    m.kd.reboot()
    equal(m.vm.wait(), 0, "exit status")


@case(more=("--reboot",), attach=True)
def reconnect_after_reboot(m):
    syncs = m.kd.link.syncs_seen
    m.kd.reboot()
    stop = m.kd.wait_stop()
    equal(stop.code, BREAKPOINT, "the initial break of the second boot")
    check(m.kd.link.syncs_seen > syncs, "ids started anew")
    equal(m.kd.read_virtual(m.kd.version().kern_base, 2), b"MZ", "requests after the reboot")


@case(set_words=())
def attach_late(m):
    """Nobody listened at boot; a break-in finds the kernel all the same."""
    m.kd.version()
    _block, raw = m.kd.kdbg()
    start = int.from_bytes(raw[0x1E0:0x1E8], "little")
    check(b"TK: up" in m.kd.read_virtual(start, 1024), "the prints are in KdPrintCircularBuffer")
    m.kd.resume()
    for _ in range(3):
        equal(m.kd.break_in().code, BREAKPOINT, "broken in")
        m.kd.resume()
