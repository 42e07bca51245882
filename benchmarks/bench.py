#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs benchmarks/kdbench against the test kernel in each configuration and writes medians, spreads and ratios. Called by ./bench."""
import csv
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from vm import BUILD, Hang, Vm, kvm, wait_for  # noqa: E402

OUT = BUILD / "bench"
CLIENT = BUILD / "benchmarks" / "kdbench"
ADDRESS = 0xFFFF800000200000  # the test kernel's direct map of RAM, at 2 MiB
RUNS = 5
MIB = 1 << 20


class Figure:
    """One measured quantity of one configuration: its runs in nanoseconds, shown in `unit`."""

    def __init__(self, config, metric, runs_ns, unit, convert):
        self.config, self.metric, self.unit = config, metric, unit
        self.values = [convert(ns) for ns in runs_ns]
        self.median = statistics.median(self.values)

    def text(self):
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.1f} {self.unit} ({low:,.1f} .. {high:,.1f})"


def client(*arguments):
    """Runs kdbench; {metric: [nanoseconds of each run]}."""
    done = subprocess.run([CLIENT, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kdbench {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    result = {}
    for line in done.stdout.splitlines():
        metric, value = line.split()
        result.setdefault(metric, []).append(int(value))
    return result


def target(config, accelerator, link, rounds, size):
    """Boots the test kernel and measures it through its KDCOM socket."""
    print(f"measuring {config} ...", file=sys.stderr, flush=True)
    with Vm(f"bench-{link}", "--arch", "x64", "--cpus", "1", "--accel", accelerator, "--link", link) as vm:
        runs = client("kd", f"unix:{vm.kd_socket()}", f"{ADDRESS:x}", RUNS, rounds, size)
    return [Figure(config, "4-byte read", runs["read4"], "us", lambda ns: ns / 1e3),
            Figure(config, "bulk read", runs["bulk"], "KB/s", lambda ns: size / 1024 / (ns / 1e9))]


def floor_guest(letter, accelerator, *devices, environment=None, name="floor"):
    """The floor guest's QEMU, as a context: its folder has chardev.sock and ram."""
    return FloorGuest(letter, accelerator, devices, environment or {}, name)


class FloorGuest:
    def __init__(self, letter, accelerator, devices, environment, name):
        import tempfile
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-bench-"))
        ram = self.folder / "ram"
        with open(ram, "wb") as file:
            file.truncate(64 << 20)
        self.command = ["qemu-system-x86_64", "-machine", "pc,memory-backend=ram", "-m", "64M", "-object",
                        f"memory-backend-file,id=ram,size=64M,mem-path={ram},share=on", "-accel", accelerator,
                        "-kernel", BUILD / "benchmarks" / "floor.elf", "-append", letter, "-bios", "qboot.rom",
                        "-display", "none", "-nodefaults", "-chardev",
                        f"socket,id=c,path={self.folder}/chardev.sock,server=on,wait=on", *devices]
        self.env = {**os.environ, "VMKD_RUNTIME_DIR": str(self.folder), "VMKD_NAME": name, **environment}

    def __enter__(self):
        self.process = subprocess.Popen(list(map(str, self.command)), env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for("the floor guest", (self.folder / "chardev.sock").exists, 60, self.process)
        return self.folder

    def __exit__(self, *ignored):
        import shutil
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def echo_floor(rounds):
    return Figure("floor", "bare echo, Unix socket", client("echo", RUNS, rounds)["echo"], "us", lambda ns: ns / 1e3)


def doorbell_floor(rounds):
    devices = ["-device", "isa-debugcon,iobase=0x565a,readback=0x4b,chardev=c"]
    with floor_guest("d", "tcg", *devices) as folder:
        runs = client("doorbell", folder / "chardev.sock", folder / "ram", RUNS, rounds)["doorbell"]
    return Figure("floor", "bare doorbell, TCG", runs, "us", lambda ns: ns / 1e3)


def port_floor():
    devices = ["-device", "isa-debugcon,iobase=0xe9,chardev=c"]
    with floor_guest("p", "kvm", *devices, environment={"LD_PRELOAD": str(BUILD / "libvmkd-vmm.so")}) as folder:
        (folder / "floor").mkdir(mode=0o700, exist_ok=True)
        runs = client("port", folder / "chardev.sock", RUNS, 5)["port"]
    return Figure("floor", "bare port call, KVM hook", runs, "us", lambda ns: ns / 1e3)


def ratio(serial, fast):
    return serial.median / fast.median if fast.unit == "us" else fast.median / serial.median


def measure(quick, kvm_kind):
    figures = [echo_floor(2000 if quick else 20000), doorbell_floor(2000 if quick else 20000)]
    rounds = 50 if quick else 300
    figures += target("TCG, serial", "tcg", "serial", min(rounds, 100), MIB // 8 if quick else MIB)
    figures += target("TCG, vmkd debugcon", "tcg", "debugcon", rounds, MIB)
    if kvm_kind != "missing":
        # An interpreted UART moves about 10 KB/s: 1 MiB five times over would take ten minutes and say the same.
        size = 32 << 10 if kvm_kind == "software" or quick else MIB
        figures.append(port_floor())
        figures += target("KVM, serial", "kvm", "serial", 20 if kvm_kind == "software" else rounds, size)
        figures += target("KVM, vmkd hook", "kvm", "hook", rounds, MIB)
    return figures


def find(figures, config, metric):
    return next((f for f in figures if f.config == config and f.metric == metric), None)


def pairs(figures):
    """(title, serial, vmkd) of each accelerator that was measured."""
    for accelerator, link in (("TCG", "debugcon"), ("KVM", "hook")):
        for metric in ("4-byte read", "bulk read"):
            serial, fast = find(figures, f"{accelerator}, serial", metric), find(figures, f"{accelerator}, vmkd {link}", metric)
            if serial and fast:
                yield accelerator, link, metric, serial, fast


def table(figures, kvm_kind):
    lines = [f"{'':6}{'':14}{'ratio':>8}   {'vmkd':38}{'serial'}"]
    for accelerator, link, metric, serial, fast in pairs(figures):
        remark = " (software KVM: says nothing about real hardware)" if accelerator == "KVM" and kvm_kind == "software" else ""
        lines.append(f"{accelerator:6}{metric:14}{ratio(serial, fast):7.1f}x   {fast.text():38}{serial.text()}{remark}")
    lines.append("floors, medians of the same run:")
    for figure in figures:
        if figure.config == "floor":
            remark = " (software KVM)" if "KVM" in figure.metric and kvm_kind == "software" else ""
            lines.append(f"  {figure.metric:28}{figure.text()}{remark}")
    return "\n".join(lines)


def write_csv(figures, kvm_kind):
    with open(OUT / "bench.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["config", "metric", "unit", "run", "value", "kvm"])
        for figure in figures:
            for run, value in enumerate(figure.values, 1):
                rows.writerow([figure.config, figure.metric, figure.unit, run, f"{value:.3f}", kvm_kind])


def markdown(figures, kvm_kind):
    """The figures that may be shown: nothing of a software KVM."""
    lines = ["| accelerator | what | vmkd | serial | ratio |", "|---|---|--:|--:|--:|"]
    for accelerator, link, metric, serial, fast in pairs(figures):
        if accelerator == "KVM" and kvm_kind == "software":
            continue
        lines.append(f"| {accelerator} ({link}) | {metric} | {fast.median:,.1f} {fast.unit} | {serial.median:,.1f} {serial.unit} "
                     f"| {ratio(serial, fast):.1f}x |")
    floors = [f for f in figures if f.config == "floor" and not ("KVM" in f.metric and kvm_kind == "software")]
    lines += ["", "Floors of the same run: " + "; ".join(f"{f.metric} {f.median:,.1f} {f.unit}" for f in floors) + "."]
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    lines += ["", f"Medians of {RUNS} runs, test kernel x64 with one vCPU, {os.cpu_count()} host CPUs ({cpu.group(1).strip() if cpu else platform.machine()}), "
              f"{datetime.date.today().isoformat()}. `./bench` measures it again; spreads are in its table."]
    return "\n".join(lines)


def renew(path, text):
    """Puts the text between the page's marks."""
    page = path.read_text()
    new, count = re.subn(r"(<!-- bench -->\n).*?(<!-- /bench -->)", lambda m: m.group(1) + text + "\n" + m.group(2), page, flags=re.S)
    if count != 1:
        raise RuntimeError(f"{path.name} has no place for figures (<!-- bench --> ... <!-- /bench -->)")
    path.write_text(new)


def main():
    known = {"--quick", "--readme"}
    options = set(sys.argv[1:])
    if options - known:
        print(f"./bench: unknown option {' '.join(sorted(options - known))}; there are --quick and --readme", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    kind, remark = kvm()
    print(f"KVM: {kind} ({remark}{' ns an instruction' if kind != 'missing' else ''})")
    figures = measure("--quick" in options, kind)
    text = table(figures, kind)
    (OUT / "bench.txt").write_text(text + "\n")
    write_csv(figures, kind)
    print(text)
    print("build/bench/bench.txt, build/bench/bench.csv")
    if "--readme" in options:
        for page in ("README.md", "docs/performance.md"):
            renew(ROOT / page, markdown(figures, kind))
            print(f"renewed {page}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Hang, RuntimeError, OSError) as problem:
        print(f"./bench: {problem}", file=sys.stderr)
        sys.exit(1)
