# SPDX-License-Identifier: MIT
"""Rows 7 to 12: what vmkd costs a guest that runs, prints, is stopped, or has nothing to do with it."""
import statistics
import time

from figures import Figure, beside_serial, bounded, ms, per_second, quotient, stated, us
from machines import CALLS, GUARD_S, MARKS, Boots, FloorGuest, KdClient, Stop, broker_pid, client, cpu_ns, exports, qemu_pid, test_kernel
from rows_packets import configs


def calls(stats):
    """What the guest did to reach the host: port calls of the hook; of the debugcon way, doorbells."""
    return stats["doorbells"] if stats["link"] == "debugcon" else stats["port_calls"]


# ---- row 7 ---------------------------------------------------------------------------------------------------------

def measure_idle(bench, results):
    seconds = 5 if bench.quick else 10
    for name, accelerator, link, _ in configs(bench):
        bench.say(f"an idle guest, {name} ...")
        with test_kernel(link, accelerator, "--hz", 1000, cpus=4, scenario="idle") as vm:
            exports(vm)
            time.sleep(1)
            values = []
            for _ in range(3):
                before, start = calls(vm.stats()), time.monotonic()
                time.sleep(seconds / 3)
                values.append((calls(vm.stats()) - before) / (time.monotonic() - start))
        results.add(bounded("7", "calls of an idle guest, 4 vCPUs, 1000 Hz", f"{name} {link}", Figure("calls", values, "a second"), 2))


# ---- row 8 ---------------------------------------------------------------------------------------------------------

def flood(link, accelerator, runs, lines):
    """(figures of kdbench, calls for each 100 lines). The calls of asking for lines and of stopping again are those of a session for two lines; they
    are left out."""
    with test_kernel(link, accelerator, scenario="flood") as vm:
        mailbox = exports(vm)["TkFlood"]
        counts = [calls(vm.stats()) if link != "serial" else 0]
        for wanted in (2, lines):
            printed = client("prints", vm.kd_socket(), f"{mailbox:x}", runs, wanted)
            counts.append(calls(vm.stats()) if link != "serial" else 0)
    own = counts[2] - counts[1] - (counts[1] - counts[0])
    return printed, Figure("calls for each 100 lines", [max(0, own) * 100 / sum(printed["lines"])], "")


def measure_prints(bench, results):
    for name, accelerator, link, shown in configs(bench):
        bench.say(f"prints, {name} ...")
        slow = accelerator == "kvm" and bench.kvm == "software"
        runs = 3 if slow else bench.runs
        yard, _ = flood("serial", accelerator, runs, 50 if slow or bench.quick else 300)
        fast, per_100 = flood(link, accelerator, runs, (300 if bench.quick else 1000) if slow else 2000 if bench.quick else 20000)
        title = f"{name} {link}"
        results.add(beside_serial("8", "DbgPrint, 64-byte lines, a client attached", title, per_second("lines", fast["prints"], "lines/s"),
                                  per_second("lines, serial", yard["prints"], "lines/s"), 100, shown=shown),
                    bounded("8", "calls for each 100 lines", title, per_100, 1),
                    bounded("8", "lines lost, and out of order", title, Figure("lost or out of order",
                            [a + b for a, b in zip(fast["lost"], fast["disordered"])], "lines"), 0, "none", worst=True))


# ---- rows 9 and 10 -------------------------------------------------------------------------------------------------

def stopped(vm):
    """A client that holds the guest stopped."""
    kd = KdClient(timeout=GUARD_S)
    kd.connect(str(vm.kd_socket()))
    while not isinstance(kd.attach(), Stop):
        kd.go()
    return kd


def queries(vm, seconds):
    """Nanoseconds of each QMP query in that time."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic_ns()
        vm.qmp().call("query-status")
        taken.append(time.monotonic_ns() - start)
        time.sleep(0.05)
    return taken


def rest(vm, seconds, settle):
    """(CPU of the VMM in percent of a core, of the broker, QMP answers) of a VM that is broken in. QMP is asked after the CPU time was taken."""
    with stopped(vm) as kd:
        time.sleep(settle)
        vmm, broker = qemu_pid(vm), broker_pid(vm)
        vm.qmp().call("query-status")
        start, cpu, own = time.monotonic_ns(), cpu_ns(vmm), cpu_ns(broker)
        time.sleep(seconds)
        span = time.monotonic_ns() - start
        shares = (cpu_ns(vmm) - cpu) / span * 100, (cpu_ns(broker) - own) / span * 100
        answers = queries(vm, seconds / 2)
        kd.resume()
    return Figure("CPU of the VMM", [shares[0]], "% of a core"), Figure("CPU of the broker", [shares[1]], "% of a core"), ms("QMP answer", answers)


def measure_stopped(bench, results):
    if bench.kvm == "missing":
        results.lacks("9", "needs KVM, as the hook does")
    seconds = 2 if bench.quick else 5
    for name, accelerator, link, _ in configs(bench):
        ways = [("9", f"{name} {link}", ())] if link == "hook" else [("10", f"{name} {link}", ())]
        if link == "debugcon":
            ways.append(("10", f"{name} {link}, paused when silent", ("--run", "--pause-when-silent")))
        for row, title, options in ways:
            bench.say(f"broken in, {title} ...")
            with test_kernel(link, accelerator, *options, cpus=4, scenario="smp") as vm:
                exports(vm)
                cpu, own, answer = rest(vm, seconds, 2 if options else 0.5)
            if row == "9":
                results.add(bounded(row, f"CPU of the VMM, broken in, 4 vCPUs, {seconds} s", title, cpu, 1))
            else:
                results.add(stated(row, f"CPU of the VMM, broken in, 4 vCPUs, {seconds} s", title, cpu))
            results.add(bounded(row, "QMP query meanwhile", title, answer, 50, worst=True) if row == "9" else
                        stated(row, "QMP query meanwhile", title, answer),
                        stated(row, "CPU of the broker meanwhile", title, own))


# ---- row 11 --------------------------------------------------------------------------------------------------------

def measure_break_in(bench, results):
    for hz in (64, 1000):
        bench.say(f"break-ins at {hz} Hz ...")
        with test_kernel("debugcon", "tcg", "--hz", hz) as vm:
            mailbox = exports(vm)["TkBench"]
            time.sleep(0.5)  # the scenario measures the TSC first
            runs = client("breakins", vm.kd_socket(), f"{mailbox:x}", 10 if bench.quick else 60, hz)
        value, entry = ms("break-in", runs["breakin"]), us("guest's own entry", runs["entry"])
        limit = 1000 / hz + entry.median / 1000 + 1
        results.keep("11", "TCG debugcon", entry)
        late = sum(v > limit for v in value.values)
        results.add(bounded("11", f"break-in to stopped, {hz} Hz", "TCG debugcon", value, limit,
                            f"each <= tick {1000 / hz:g} + entry {entry.median / 1000:.2f} + 1 ms", worst=True,
                            remark=f"{late} of {len(value.values)} were later"))


# ---- row 12 --------------------------------------------------------------------------------------------------------

def interval(differences):
    """Where the true median lies with 95 % (sign test): (low, high)."""
    ordered = sorted(differences)
    n, tail, k = len(ordered), 0.0, 0
    chance = 0.5 ** n
    while k < n // 2 and tail + chance <= 0.025:
        tail += chance
        k += 1
        chance = chance * (n - k + 1) / k
    return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]


def compare(row, what, config, plain, loaded, remark=""):
    """Paired runs with and without the library: no difference is measurable when 0 lies where the median of the differences may be."""
    difference = Figure(f"{what}: difference", [(b - a) / a * 100 for a, b in zip(plain.values, loaded.values)], "%")
    low, high = interval(difference.values)
    line = stated(row, what, config, loaded, plain, quotient(f"{what}: with / without", loaded, plain))
    line.aim, line.met = "no measurable difference", low <= 0 <= high
    line.remark = f"difference {statistics.median(difference.values):+.2f} %, 95 %: {low:+.2f} .. {high:+.2f} %{remark}"
    return line, difference


def port_loop(bench, preload):
    with FloorGuest("i", "kvm", *MARKS, preload=preload) as folder:
        marks = client("marks", folder / "chardev.sock", 1, 10 if bench.quick else 20)["mark"]
    return marks[0] / CALLS


def alternate(pairs, once):
    """Values without and with, in turn, each first every other time."""
    plain, loaded = [], []
    for i in range(pairs):
        for preload in ((False, True) if i % 2 == 0 else (True, False)):
            (loaded if preload else plain).append(once(preload))
    return plain, loaded


def measure_bystander(bench, results):
    if bench.kvm == "missing":
        return results.lacks("12", "needs KVM: under another accelerator the library does nothing")
    bench.say("the library in a VM without a guest module ...")
    plain, loaded = alternate(7 if bench.quick else 16, lambda preload: port_loop(bench, preload))
    lines = [compare("12", "port input, library preloaded, no guest module", "KVM", us("port input", plain), us("port input, preloaded", loaded))]
    with Boots() as boots:
        boots.once(False)
        plain, loaded = alternate(7 if bench.quick else 16, boots.once)
    lines.append(compare("12", "boot to power-off, library preloaded, no guest module", "KVM", ms("boot", plain), ms("boot, preloaded", loaded)))
    for line, difference in lines:
        line.shown = bench.kvm == "hardware"
        results.add(line)
        results.keep("12", "KVM", difference)
