# SPDX-License-Identifier: MIT
"""Rows 5, 6, 13 and 14: reads of guest memory by libvmkd, many readers at once, and what shared memory costs the guest."""
import os
import subprocess
from pathlib import Path

from figures import Figure, beside_floor, ms, quotient, rate, stated, us
from machines import ADDRESS, CLIENT, GUARD_S, MARKS, MEMORY_MIB, TOUCHES, FloorGuest, KdClient, Stop, client, exports, test_kernel
from rows_packets import configs
from rows_running import alternate

MIB = 1 << 20
WAYS = {0: "packets", 1: "mapped", 2: "process_vm_readv"}  # enum vmkd_memory_way
THP = Path("/sys/kernel/mm/transparent_hugepage")


def big_kernel(link, accelerator, mib, *options):
    """A kernel with a mapping of its own of so many MiB, in 4 KiB and in 2 MiB pages."""
    return test_kernel(link, accelerator, *options, "--bigmap", mib)


def big_map(vm):
    """The address of that mapping."""
    names = exports(vm)
    with KdClient(timeout=GUARD_S) as kd:
        kd.connect(str(vm.kd_socket()))
        while not isinstance(kd.attach(), Stop):
            kd.go()
        address = kd.read_u64(names["TkBigMap"])
        kd.resume()
    return address


def read_rows(results, name, runs, size, shown):
    """Rows 5 and 6 of one VM."""
    way = WAYS.get(runs["way"][0], "?")
    what = f"{size // MIB} MiB read through libvmkd, {way}"
    copy, bulk = ms("memcpy", runs["copy"]), ms("read", runs["bulk"])
    page = us("4 KiB read", runs["page4k"])
    remark = "" if way == "mapped" else f"RAM was not mapped: {way}"
    if way == "process_vm_readv":
        results.add(beside_floor("5", what, name, bulk, copy, shown=shown, is_guests=False),
                    beside_floor("5", what, name, bulk, ms("process_vm_readv", runs["vmread"]), shown=shown, is_guests=False),
                    beside_floor("6", f"4 KiB read through libvmkd, {way}", name, page, us("process_vm_readv of 4 KiB", runs["vmread4k"]), 3,
                                 shown=shown, is_guests=False))
        return
    lines = [beside_floor("5", what, name, bulk, copy, 2, shown=shown, is_guests=False),
             beside_floor("5", what + ", the first time", name, ms("first read", runs["cold"]), copy, shown=shown, is_guests=False),
             beside_floor("6", f"4 KiB read through libvmkd, {way}", name, page, us("memcpy of 4 KiB", runs["copy4k"]), 3, shown=shown, is_guests=False)]
    for line in lines:
        line.remark = remark
        line.met = line.met and way == "mapped" if line.met is not None else None
    results.add(*lines)
    results.keep("5", name, rate("read", size, runs["bulk"], "GB/s"))


def bare_rows(bench, results, size):
    """process_vm_readv without vmkd: the batch that serves best."""
    runs = client("vmread", bench.runs, size)
    batches = {int(k.split("_")[1]): ms(f"process_vm_readv in calls of {int(k.split('_')[1]) >> 10} KiB", v) for k, v in runs.items() if "_" in k}
    for figure in batches.values():
        results.keep("5", "host", figure)
    best = min(batches, key=lambda batch: batches[batch].median)
    whole = batches[max(batches)]
    results.add(stated("5", f"bare process_vm_readv of {size // MIB} MiB, best: calls of {best >> 10} KiB", "host", batches[best], whole,
                       quotient("best batch / one call", batches[best], whole), remark=f"beside one call of {max(batches) // MIB} MiB"))


def measure_reads(bench, results):
    full = 64 * MIB if bench.quick else 256 * MIB
    bench.say("process_vm_readv ...")
    bare_rows(bench, results, full)
    ways = [(f"{name} {link}", link, accelerator, (), shown) for name, accelerator, link, shown in configs(bench)]
    if bench.kvm != "missing":
        ways.append(("KVM hook, private RAM", "hook", "kvm", ("--run", "--private-ram"), bench.kvm == "hardware"))
    for name, link, accelerator, options, shown in ways:
        bench.say(f"libvmkd's reads, {name} ...")
        # An interpreted kernel fills its mapping with some MiB a second.
        size = (16 if bench.quick else 64) * MIB if accelerator == "kvm" and bench.kvm == "software" else full
        with big_kernel(link, accelerator, size // MIB, *options) as vm:
            address = big_map(vm)
            runs = client("memory", f"vm:{vm.name}", f"{address:x}", bench.runs, size, environment=vm.env)
        read_rows(results, name, runs, size, shown)


# ---- row 13 --------------------------------------------------------------------------------------------------------

class Readers:
    """with Readers(vm, count): so many programs hold the guest's memory; as many of them as there are cores to spare read all the time."""

    def __init__(self, vm, count, busy):
        self.vm, self.count, self.busy = vm, count, busy

    def __enter__(self):
        self.process = None
        if self.count:
            self.process = subprocess.Popen([CLIENT, "readers", self.vm.runtime / "ram.sock", str(self.count), str(self.busy)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
            if self.process.stdout.readline().strip() != "ready":
                self.process.wait()
                raise RuntimeError("the readers of ram.sock did not start")
        return self

    def __exit__(self, *ignored):
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def measure_clients(bench, results):
    name, accelerator, link, shown = list(configs(bench))[0]
    spare = max(0, (os.cpu_count() or 1) - 3)  # the client, the broker and the VM have theirs
    counts, reads, pages = (0, 1, 15), {}, {}
    bench.say("more readers ...")
    with test_kernel(link, accelerator) as vm:
        mailbox = exports(vm)["TkBench"]
        for _ in range(1 if bench.quick else 3):
            for count in counts:
                with Readers(vm, count, min(count, spare)):
                    runs = client("packets", vm.kd_socket(), f"{ADDRESS:x}", f"{mailbox:x}", 2, 300 if bench.quick else 2000)
                    reads.setdefault(count, []).extend(runs["read4"])
                    runs = client("memory", f"vm:{vm.name}", f"{ADDRESS:x}", 2, 16 * MIB, environment=vm.env)
                    pages.setdefault(count, []).extend(runs["page4k"])
    remark = f"{spare} of them busy" if spare else "they are idle: no core to spare"
    for what, figures in (("4-byte read of the debugger", reads), ("4 KiB read of one reader", pages)):
        for count, others in ((1, "1 more reader"), (15, "15 more readers")):
            value, first = us(f"{what}, {others}", figures[count]), us(f"{what}, alone", figures[0])
            results.add(stated("13", f"{what}, {others}", f"{name} {link}", value, first, quotient(f"{what}, {others}: with / without", value, first),
                               remark=remark, shown=shown))


# ---- row 14 --------------------------------------------------------------------------------------------------------

def huge_pages():
    """What this host does: (for private memory, for shared memory)."""
    def chosen(file):
        try:
            return (THP / file).read_text().split("[")[1].split("]")[0]
        except (OSError, IndexError):
            return "unknown"
    return chosen("enabled"), chosen("shmem_enabled")


def touches(bench, accelerator, is_shared):
    backend = f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on" if is_shared else f"memory-backend-ram,id=ram,size={MEMORY_MIB}M"
    with FloorGuest("m", accelerator, *MARKS, mib=MEMORY_MIB, backend=backend) as folder:
        marks = client("marks", folder / "chardev.sock", 1, 3)["mark"]
    return marks[0] / TOUCHES


def measure_shared(bench, results):
    private_thp, shared_thp = huge_pages()
    for name, accelerator, _, shown in configs(bench):
        if accelerator == "kvm" and bench.kvm == "software":
            continue  # it interprets each instruction: the host's page tables do not show
        bench.say(f"shared memory, {name} ...")
        private, shared = alternate(3 if bench.quick else 5, lambda is_shared: touches(bench, accelerator, is_shared))
        before, after = us("random touch, private memory", private).scaled(1000, "ns"), us("random touch, memfd", shared).scaled(1000, "ns")
        results.add(stated("14", "a guest's touch of a random page of 512 MiB, memfd", name, after, before, quotient("memfd / private", after, before),
                           remark=f"huge pages of this host: private '{private_thp}', shared '{shared_thp}'", shown=shown))
