# SPDX-License-Identifier: MIT
"""Rows 1 to 4: reads through the KDCOM socket, answered by the guest and from RAM, beside echoes and the serial yardstick."""
from figures import beside_floor, beside_serial, rate, stated, total, us
from machines import ADDRESS, CALLS, DEBUGCON, MARKS, FloorGuest, client, exports, test_kernel

MIB = 1 << 20
SILENT_MS = 50
NOT_FROM_RAM = "the guest answered, not the broker"


def label(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


class Machine:
    """One VM's reads: {metric: nanoseconds of each run}, and who answered."""

    def __init__(self, config, link, accelerator, rounds, sizes, bench, *run_options):
        arguments = [a for option in run_options for a in ("--run", option)]
        with test_kernel(link, accelerator, *arguments, "--ram", "256M") as vm:
            mailbox = exports(vm)["TkBench"]
            before = vm.stats()["answers_from_ram"] if link != "serial" else 0
            self.runs = client("packets", vm.kd_socket(), f"{ADDRESS:x}", f"{mailbox:x}", bench.runs, rounds, *sizes)
            if link != "serial":
                self.from_ram = vm.stats()["answers_from_ram"] - before >= bench.runs * rounds
                self.libvmkd = client("kd", f"unix:{vm.kd_socket()}", f"{ADDRESS:x}", bench.runs, rounds, sizes[0])
        self.config = config

    def us(self, metric, name):
        return us(name, self.runs[metric])

    def kbs(self, size, metric="bulk", name=None):
        return rate(name or f"{label(size)} read", size, self.runs[f"{metric}_{size}"])


def way_floor(bench, accelerator):
    """The floor of one way to the guest: a doorbell answered through shared RAM, or a port call."""
    if accelerator == "tcg":
        rounds = 2000 if bench.quick else 20000
        with FloorGuest("d", "tcg", *DEBUGCON) as folder:
            return us("bare doorbell", client("doorbell", folder / "chardev.sock", folder / "ram", bench.runs, rounds)["doorbell"])
    with FloorGuest("p", "kvm", *MARKS, preload=True) as folder:
        return us("bare port call", client("marks", folder / "chardev.sock", bench.runs, 5)["mark"]).scaled(1 / CALLS, "us")


def configs(bench):
    """(label, accelerator, link, may the README show it)."""
    yield "TCG", "tcg", "debugcon", True
    if bench.kvm != "missing":
        yield "KVM", "kvm", "hook", bench.kvm == "hardware"


def serial_machine(bench, accelerator):
    """The yardstick. It moves some hundred KB/s, interpreted some ten: more of it would take minutes and say the same."""
    slow = accelerator == "kvm" and bench.kvm == "software"
    size = (16 << 10 if slow else 128 << 10) if bench.quick else (32 << 10 if slow else 256 << 10)
    return Machine(f"{accelerator.upper()} serial", "serial", accelerator, 10 if slow or bench.quick else 60, [size], bench), size


def guest_rows(bench, results, name, machine, serial, serial_size, sizes, way, shown):
    """Rows 1 and 4: the broker was told not to answer from RAM."""
    floor = total(f"{way.name.removeprefix('bare ')} + forwarder + guest", way, machine.us("forward", "echo, forwarder"), machine.us("guest4", "guest's own"))
    results.keep("1", name, way)
    results.keep("1", name, machine.us("forward", "echo through a forwarder"))
    results.keep("1", name, machine.us("guest4", "guest's own time"))
    value = machine.us("read4", "4-byte read")
    what = "4-byte read, the guest answers"
    results.add(beside_floor("1", what, name, value, floor, 1.25, shown=shown),
                beside_floor("1", what + ", ACK at once", name, machine.us("read4ack", "4-byte read, ACK at once"), floor, shown=shown),
                beside_floor("1", what + ", through libvmkd", name, us("4-byte read, libvmkd", machine.libvmkd["read4"]), floor, shown=shown),
                beside_serial("1", what, name, value, serial.us("read4", "4-byte read, serial"), shown=shown))
    slow = serial.kbs(serial_size, name=f"{label(serial_size)} read, serial")
    for size in sizes:
        results.add(beside_serial("4", f"{label(size)} read, the guest answers", name, machine.kbs(size), slow, 40, shown=shown))
        results.add(beside_floor("4", f"{label(size)} read, the guest answers", name, machine.us(f"bulk_{size}", "all requests"),
                                 machine.us(f"echo_{size}", "bare echo"), shown=shown))


def ram_rows(bench, results, name, machine, serial, serial_size, sizes, alone, shown):
    """Rows 2 and 3: answered from RAM; a machine whose broker did not do so has not reached the aim."""
    remark = "" if machine.from_ram else NOT_FROM_RAM
    what = "4-byte read, from RAM"
    value = machine.us("read4", "4-byte read")
    lines = [beside_floor("2", what, name, value, machine.us("echo", "bare echo beside the VM"), 1.0, shown=shown),
             beside_floor("2", what, name, value, alone, shown=shown),
             beside_floor("2", what + ", ACK at once", name, machine.us("read4ack", "4-byte read, ACK at once"),
                          machine.us("echo", "bare echo beside the VM"), shown=shown),
             beside_floor("2", what + ", through libvmkd", name, us("4-byte read, libvmkd", machine.libvmkd["read4"]),
                          machine.us("echo", "bare echo beside the VM"), shown=shown),
             beside_serial("2", what, name, value, serial.us("read4", "4-byte read, serial"), shown=shown)]
    slow = serial.kbs(serial_size, name=f"{label(serial_size)} read, serial")
    for size in sizes:
        lines.append(beside_floor("3", f"{label(size)} read, from RAM", name, machine.us(f"bulk_{size}", "all requests"),
                                  machine.us(f"echo_{size}", "bare echo"), round(1 / 0.9, 3), shown=shown))
        lines.append(beside_serial("3", f"{label(size)} read, from RAM", name, machine.kbs(size), slow, 100, shown=shown))
    for line in lines:
        line.remark = remark
        line.met = line.met and machine.from_ram if line.met is not None else None
    results.add(*lines)


def measure(bench, results):
    rounds = 300 if bench.quick else 2000
    sizes = [MIB, 4 * MIB] if bench.quick else [MIB, 8 * MIB, 64 * MIB]
    alone = client("echo", bench.runs, 2000 if bench.quick else 20000)
    lone = us("bare echo alone", alone["echo"])
    results.keep("floor", "host", us("bare echo through a forwarder, alone", alone["forward"]))
    results.keep("floor", "host", us("bare echo 73/4017 bytes, alone", alone["echo_chunk"]))
    for name, accelerator, link, shown in configs(bench):
        bench.say(f"reads, {name} ...")
        slow = accelerator == "kvm" and bench.kvm == "software"  # a millisecond for each request that the guest answers
        serial, serial_size = serial_machine(bench, accelerator)
        results.add(stated("1", "4-byte read, serial", f"{name} serial", serial.us("read4", "4-byte read"), shown=shown),
                    stated("3", f"{label(serial_size)} read, serial", f"{name} serial", serial.kbs(serial_size), shown=shown))
        title = f"{name} {link}"
        if bench.wants(1, 4):
            machine = Machine(title, link, accelerator, 60 if slow else rounds, sizes[:1] if slow else sizes, bench, "--no-ram")
            guest_rows(bench, results, title, machine, serial, serial_size, sizes[:1] if slow else sizes, way_floor(bench, accelerator), shown)
        if bench.wants(2, 3):
            ram_rows(bench, results, title, Machine(title, link, accelerator, rounds, sizes, bench), serial, serial_size, sizes, lone, shown)
            if link == "debugcon":  # a guest that waits by debugcon spins, on one of the host's processors
                title += ", paused"
                machine = Machine(title, link, accelerator, rounds, sizes, bench, f"--pause-when-silent={SILENT_MS}")
                ram_rows(bench, results, title, machine, serial, serial_size, sizes, lone, shown)
