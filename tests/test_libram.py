#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""libvmkd's own way to RAM, through `vmkd kd`: the same bytes and the same errors as from the guest, no packets for what is read, and
nothing stale when the broker dies.

    tests/test_libram.py             all
    tests/test_libram.py WORD…       the tests whose names contain one of the words
"""
import os
import re
import signal
import subprocess

os.environ.pop("VMKD_TEST_RAM", None)  # these tests say themselves what a broker does with RAM

from e2e import DEBUGCON, DEBUGCON_X86, HOOK, expect, main, test  # noqa: E402
from vm import GUARD_S, ROOT, VMKD, wait_for  # noqa: E402

MAPPED, PROCESS, PACKETS = "from the VM's RAM (mapped)", "from the VM's RAM (process_vm_readv)", "in packets"

# A debugger that comes early meets the kernel's last line of the boot, a later one is told of it.
SAID = re.compile("^vmkd: what the guest printed before:\n.*?^vmkd: and from now on:\n|^TK: [^\n]*\n", re.M | re.S)


def console(vm, commands, *options, status=0):
    """What `vmkd kd` shows of these commands, without what the kernel prints and has printed; the target stays stopped."""
    vm.kd_socket()
    got, text = vm.run("kd", f"vm:{vm.name}", "-t", int(GUARD_S), *options, "-c", f"{commands}; qs")
    expect(got == status, f"'{commands}' ended with {got}, expected {status}:\n{text}")
    return SAID.sub("", text)


def saved(vm, where, *options, status=0):
    """(the bytes that .writemem saved, what it said from its own first line on)."""
    path = vm.folder / "saved"
    text = console(vm, f".writemem {path} {where}", *options, status=status)
    return path.read_bytes(), text[text.index("Writing "):]


def how(vm, *options):
    return re.search("^Memory is read (.*)$", console(vm, "vertarget", *options), re.M)[1]


def number(vm, expression):
    return int(re.search("Evaluate expression: .* = ([0-9a-f`]+)", console(vm, f"? {expression}"))[1].replace("`", ""), 16)


def words(address, count, is64):
    """What the first `count` bytes at an address of TkBigMap or of an even page of TkMixed are (testkernel/nt/mappings.h)."""
    start = address & ~7
    some = b"".join((at if is64 else at & 0xFFFFFFFF).to_bytes(8, "little") for at in range(start, address + count + 8, 8))
    return some[address - start:address - start + count]


# ---- the same ------------------------------------------------------------------------------------------------

READS = ("poi(nt!TkBigMap) L?400000", "poi(nt!TkBigMap)+fff L?3001", "poi(nt!TkBigMap)+1ffffd L?7", "nt L?1000", "poi(nt!TkMixed) L?1000")
FAULTS = ("poi(nt!TkMixed)+ff0 L?2000", "poi(nt!TkBigMap)+3fffff L?2", "poi(nt!TkMixed)+2001 L?1000")
SHOWN = ("db poi(nt!TkMixed)+ff0 L20", "dd poi(nt!TkMixed)+2ff0 L20", "dq poi(nt!TkMixed)+6ff8 L4",
         "u nt!DbgBreakPointWithStatus L4", "lm", "s poi(nt!TkBigMap) L?3000 08 10", "s poi(nt!TkMixed) L?2000 08 10", "lmv m nt")


ROM = "db poi(nt!TkMixed)+4fff L2"  # where a machine without firmware, as software KVM has it, has RAM that only the kernel takes for ROM


def look(vm, *more):
    """Everything that is compared."""
    return ([saved(vm, read) for read in READS] + [saved(vm, fault, status=1) for fault in FAULTS] + [console(vm, shown) for shown in (*SHOWN, *more)])


@test("the same bytes and errors as from the guest", (HOOK, DEBUGCON, DEBUGCON_X86))
def same(way):
    with way.vm("lib", "--bigmap", 4, "--scenario", "counter") as vm:
        console(vm, "r")  # the notices of the boot come here
        expect(how(vm) == MAPPED, f"read {how(vm)}")
        big = number(vm, "poi(nt!TkBigMap)")
        more = () if way == HOOK else (ROM,)
        from_ram = look(vm, *more)
        expect(from_ram[0][0] == words(big, 0x400000, way != DEBUGCON_X86), "the big mapping")
        expect(len(from_ram[len(READS)][0]) == 16 and "cannot read memory at" in from_ram[len(READS)][1], "the absent page")
        os.kill(vm.listed()["broker_pid"], signal.SIGKILL)
        (vm.runtime / "kd.sock").unlink(missing_ok=True)
        successor = vm.start("serve", vm.name, "--no-ram")
        try:
            wait_for("the successor", (vm.runtime / "kd.sock").exists, alive=successor)
            expect(how(vm) == PACKETS, f"with --no-ram read {how(vm)}")
            for mine, guests in zip(from_ram, look(vm, *more)):
                expect(mine == guests, f"from RAM {str(mine)[:500]}\nfrom the guest {str(guests)[:500]}")
            expect(vm.stats()["answers_from_ram"] == 0, f"{vm.stats()}")
        finally:
            successor.terminate()
            successor.wait()


def requests_for(vm, length, *options):
    before = vm.stats()["requests"]
    path = vm.folder / "saved"
    console(vm, f".writemem {path} poi(nt!TkBigMap) L?{length:x}", *options)
    expect(path.stat().st_size == length, f"{path.stat().st_size} bytes")
    return vm.stats()["requests"] - before


@test("64 MiB without a packet more than for 4 KiB", (DEBUGCON,))
def packets(way):
    with way.vm("lib", "--bigmap", 64, "--scenario", "counter") as vm:
        console(vm, "r")
        few = requests_for(vm, 4096)
        many = requests_for(vm, 64 << 20)
        expect(many == few, f"{few} requests for 4 KiB, {many} for 64 MiB")
        asked = requests_for(vm, 64 << 20, "--no-ram")
        expect(asked >= (64 << 20) // 3944, f"--no-ram: {asked} requests")


# ---- which way -----------------------------------------------------------------------------------------------

@test("--no-ram, --check-ram", (DEBUGCON,))
def ways(way):
    with way.vm("lib", "--scenario", "counter") as vm:
        console(vm, "r")
        expect(how(vm) == MAPPED and how(vm, "--no-ram") == PACKETS, f"{how(vm)}, {how(vm, '--no-ram')}")
    with way.vm("lib", "--scenario", "counter", "--run", "--check-ram") as vm:
        console(vm, "r")
        expect(how(vm) == PACKETS, how(vm))


@test("private memory", (HOOK,))
def private(way):
    with way.vm("lib", "--bigmap", 4, "--scenario", "counter", "--run", "--private-ram") as vm:
        console(vm, "r")
        # The VMM permits its broker alone; who may look at any process needs no permission.
        expect(how(vm) in (PROCESS, PACKETS) and (os.geteuid() != 0 or how(vm) == PROCESS), how(vm))
        big = number(vm, "poi(nt!TkBigMap)")
        expect(saved(vm, "poi(nt!TkBigMap) L?400000")[0] == words(big, 0x400000, True), "the big mapping")
        expect(saved(vm, "poi(nt!TkMixed)+ff0 L?2000", status=1)[0] == words(number(vm, "poi(nt!TkMixed)") + 0xFF0, 16, True), "the mixed pages")


# ---- when it ends --------------------------------------------------------------------------------------------

@test("Ctrl-C stops .writemem, which says how far it came", (DEBUGCON,))
def interrupted(way):
    with way.vm("lib", "--bigmap", 64, "--scenario", "counter") as vm:
        console(vm, "r")
        path = vm.folder / "saved"
        process = subprocess.Popen([VMKD, "kd", f"vm:{vm.name}", "--no-ram", "-c", f".writemem {path} poi(nt!TkBigMap) L?4000000; .echo never; qs"],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=vm.env, cwd=ROOT)
        wait_for("the first bytes", lambda: path.exists() and path.stat().st_size > 0, alive=process)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=GUARD_S)[0]
        written = int(re.search("Writing 4000000 bytes; ([0-9a-f]+) written", text)[1], 16)
        expect(process.returncode == 1 and "interrupted" in text and "never" not in text, text)
        expect(0 < written < 64 << 20 and path.stat().st_size == written, f"{written} told, {path.stat().st_size} in the file")
        expect(path.read_bytes() == words(number(vm, "poi(nt!TkBigMap)"), written, True), "the bytes")


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@test("a dead broker's page is not believed", (DEBUGCON,))
def dead(way):
    with way.vm("lib", "--bigmap", 4, "--scenario", "counter") as vm:
        console(vm, "r")
        process = subprocess.Popen([VMKD, "kd", f"vm:{vm.name}", "-b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env=vm.env, cwd=ROOT)
        try:
            process.stdin.write("dq poi(nt!TkBigMap)\n.echo ready\n")
            process.stdin.flush()
            lines = iter(process.stdout.readline, "")
            expect(any("ready" in line for line in lines), "the console ended")
            broker = vm.listed()["broker_pid"]
            os.kill(broker, signal.SIGKILL)
            wait_for("its end", lambda: has_ended(broker))
            text, _ = process.communicate("dq poi(nt!TkBigMap)\n.echo never\n", timeout=GUARD_S)
            expect(process.returncode == 1 and "never" not in text and not re.search("^[0-9a-f`]+  ", text, re.M), text)
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
