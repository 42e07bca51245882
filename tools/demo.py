#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""./demo after the build: the serial yardstick for a moment, then the same kernel through vmkd, a look around, a breakpoint, the figures
side by side, and with a terminal the prompt."""
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from vm import BUILD, VMKD, Hang, Vm, kvm  # noqa: E402

DIRECT_MAP = 0xFFFF800000000000  # all RAM of the test kernel, read-only use
BULK = 1 << 20


def say(text=""):
    print(text, flush=True)


def headline(text):
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}\n{'-' * len(text)}")


def choose():
    """(accelerator, link): KVM only at hardware speed, because a software KVM is slower than TCG and knows less."""
    kind, remark = kvm()
    if kind == "hardware":
        say(f"KVM runs at hardware speed here ({remark} ns an instruction): using KVM, and the hook libvmkd-vmm.so in QEMU.")
        return "kvm", "hook"
    why = f"interprets instructions one by one ({remark} ns each)" if kind == "software" else f"is not usable ({remark})"
    say(f"KVM {why}: using TCG, and stock QEMU's isa-debugcon as the doorbell.")
    return "tcg", "debugcon"


def measure(vm, rounds, size):
    """(us of a 4-byte read, KB/s): medians of three runs through the VM's KDCOM socket."""
    done = subprocess.run([BUILD / "benchmarks" / "kdbench", "kd", f"unix:{vm.kd_socket()}", f"{DIRECT_MAP + (2 << 20):x}",
                           "3", str(rounds), str(size)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring failed: {done.stderr.strip()}")
    rows = [line.split() for line in done.stdout.splitlines()]
    read4 = statistics.median(int(v) for k, v in rows if k == "read4")
    bulk = statistics.median(int(v) for k, v in rows if k == "bulk")
    return read4 / 1000, size / 1024 / (bulk / 1e9)


def yardstick(accelerator):
    """The same kernel with a stock-like KDCOM over QEMU's serial port."""
    with Vm("demo-serial", "--accel", accelerator, "--link", "serial") as vm:
        return measure(vm, 40, BULK // 8)


def tour(vm):
    """One console session, as one would type it; .echo puts the headings in."""
    tick, counter = "nt!TkTick", "nt!TkCounter"
    steps = [
        ("What is this machine: vertarget, ~", "vertarget; ~"),
        ("Registers: r", "r"),
        ("Modules: lm", "lm"),
        (f"Memory: the kernel's header (db nt) and the counter of TkTick (dq {counter})", f"db nt L40; dq {counter} L1"),
        (f"Code: u {tick}", f"u {tick} L4"),
        (f"A breakpoint in TkTick, hit twice: bp {tick}", f"bp {tick}; bl; g; dq {counter} L1; g; dq {counter} L1; r rip; bc *"),
        ("And on it runs: q", "q"),
    ]
    status, text = vm.kd("; ".join(f".echo; .echo ==== {title}; {commands}" for title, commands in steps))
    say(text.rstrip())
    if status:
        raise RuntimeError(f"vmkd kd ended with status {status}")
    if "Breakpoint 0 hit" not in text:
        raise RuntimeError("the breakpoint was not hit")


def figures(serial, fast, accelerator, link):
    headline(f"Measured just now ({accelerator}, {link}; medians of three short runs, ./bench does it properly)")
    say(f"  {'':22}{'serial':>12}{'vmkd':>12}{'ratio':>10}")
    say(f"  {'4-byte read':22}{serial[0]:9.0f} us{fast[0]:9.0f} us{serial[0] / fast[0]:9.1f}x")
    say(f"  {'1 MiB of memory':22}{serial[1]:7.0f} KB/s{fast[1]:7.0f} KB/s{fast[1] / serial[1]:9.1f}x")


def main():
    accelerator, link = choose()
    say("Booting the test kernel with a plain serial port, for comparison ...")
    serial = yardstick(accelerator)
    say("Booting it again through vmkd ...")
    with Vm("demo", "--accel", accelerator, "--link", link, "--scenario", "counter") as vm:
        headline("A console session: breaks in, looks around, sets a breakpoint")
        tour(vm)
        fast = measure(vm, 200, BULK)
        figures(serial, fast, accelerator, link)
        headline("vmkd list")
        say(vm.run("list")[1].rstrip())
        if sys.stdin.isatty() and sys.stdout.isatty():
            say("\nYour turn. The kernel will be stopped: look around; g goes on, Ctrl-C stops it, ? helps, q leaves (and ends the demo's VM).")
            subprocess.run([VMKD, "kd", "-b", "vm:demo"], env=vm.env)
    say("\nDone. The VM is gone; build/vmkd is yours: see README.md.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Hang, RuntimeError, OSError) as problem:
        print(f"./demo: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
