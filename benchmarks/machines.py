# SPDX-License-Identifier: MIT
"""The machines that ./bench measures, and what is asked of them."""
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from kdclient import KdClient, Stop  # noqa: E402
from vm import BUILD, GUARD_S, Vm, die_with_parent, kvm, wait_for  # noqa: E402,F401

CLIENT = BUILD / "benchmarks" / "kdbench"
ADDRESS = 0xFFFF800000200000  # the test kernel's direct map of RAM, at 2 MiB
# benchmarks/floor.S
CALLS, TOUCHES, MEMORY_MIB = 2000, 1 << 20, 16 + 512


def parse(text):
    """{metric: [value of each run]} of what kdbench prints."""
    result = {}
    for line in text.splitlines():
        metric, value = line.split()
        result.setdefault(metric, []).append(int(value))
    return result


def client(*arguments, environment=None):
    """Runs kdbench."""
    done = subprocess.run([CLIENT, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=4 * GUARD_S)
    if done.returncode:
        raise RuntimeError(f"kdbench {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return parse(done.stdout)


def exports(vm):
    """The kernel's exported names, from the kernel itself; it runs on afterwards."""
    with KdClient(timeout=GUARD_S) as kd:
        kd.connect(str(vm.kd_socket()))
        stop = kd.attach()
        while not isinstance(stop, Stop):
            kd.go()
            stop = kd.attach()
        names = kd.exports(kd.version().kern_base)
        kd.resume()
    return names


def test_kernel(link, accelerator, *more, cpus=1, scenario="bench"):
    """with test_kernel(...) as vm: the kernel, x64."""
    return Vm(f"bench-{link}", "--arch", "x64", "--cpus", cpus, "--accel", accelerator, "--link", link, "--scenario", scenario, *more)


class FloorGuest:
    """with FloorGuest("d", "tcg", devices…) as folder: benchmarks/floor.S in a QEMU with nothing else; folder has chardev.sock and ram."""

    def __init__(self, letter, accelerator, *devices, preload=False, mib=64, backend=None):
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-bench-"))
        if backend is None:
            with open(self.folder / "ram", "wb") as file:
                file.truncate(mib << 20)
            backend = f"memory-backend-file,id=ram,size={mib}M,mem-path={self.folder}/ram,share=on"
        self.command = ["qemu-system-x86_64", "-machine", "pc,memory-backend=ram", "-m", f"{mib}M", "-object", backend, "-accel", accelerator,
                        "-kernel", BUILD / "benchmarks" / "floor.elf", "-append", letter, "-bios", "qboot.rom", "-display", "none", "-nodefaults",
                        "-chardev", f"socket,id=c,path={self.folder}/chardev.sock,server=on,wait=on", *devices]
        self.env = preloaded(self.folder, "floor") if preload else dict(os.environ)

    def __enter__(self):
        self.process = subprocess.Popen(list(map(str, self.command)), env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, preexec_fn=die_with_parent)
        wait_for("the floor guest", (self.folder / "chardev.sock").exists, 60, self.process)
        return self.folder

    def __exit__(self, *ignored):
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


DEBUGCON = ("-device", "isa-debugcon,iobase=0x565a,readback=0x4b,chardev=c")
MARKS = ("-device", "isa-debugcon,iobase=0xe9,chardev=c")


def preloaded(folder, name):
    """The environment of a VMM with the hook, and the folder it wants."""
    (folder / name).mkdir(mode=0o700, exist_ok=True)
    return {**os.environ, "LD_PRELOAD": str(BUILD / "libvmkd-vmm.so"), "VMKD_RUNTIME_DIR": str(folder), "VMKD_NAME": name}


class Boots:
    """Boots of the test kernel without debugging and without a guest module, up to its power-off."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vmkd-bench-"))
        parts = BUILD / "testkernel" / "x64"
        with tarfile.open(self.folder / "archive.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in ("ntoskrnl.exe", "kduart.dll"):
                data = (parts / name).read_bytes()
                head = tarfile.TarInfo(name)
                head.size = len(data)
                tar.addfile(head, io.BytesIO(data))
        self.command = ["qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "host", "-m", "256M", "-bios", "qboot.rom", "-nodefaults", "-display",
                        "none", "-kernel", parts / "boot.elf", "-initrd", self.folder / "archive.tar", "-append",
                        "kernel=ntoskrnl.exe transport=kduart.dll nokd scenario=wait=8,poweroff", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                        "-no-reboot"]

    def __enter__(self):
        return self

    def once(self, preload):
        """Nanoseconds from QEMU's start to its end."""
        env = preloaded(self.folder, "boot") if preload else dict(os.environ)
        start = time.monotonic_ns()
        done = subprocess.run(list(map(str, self.command)), env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=GUARD_S,
                              preexec_fn=die_with_parent)
        taken = time.monotonic_ns() - start
        if done.returncode != 65:  # the kernel's verdict 0 through isa-debug-exit
            raise RuntimeError(f"the boot ended with status {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
        return taken

    def __exit__(self, *ignored):
        shutil.rmtree(self.folder, ignore_errors=True)


def cpu_ns(pid):
    """CPU time of all threads of a process, by the scheduler's own account."""
    taken = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            taken += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return taken


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return found


def qemu_pid(vm):
    """The VMM's process below tools/testkernel."""
    queue = [vm.process.pid]
    while queue:
        pid = queue.pop()
        if Path(f"/proc/{pid}/comm").read_text().startswith("qemu"):
            return pid
        queue += children(pid)
    raise RuntimeError("no QEMU below tools/testkernel")


def broker_pid(vm):
    """The broker's process: QEMU's parent."""
    return int(Path(f"/proc/{qemu_pid(vm)}/stat").read_text().rsplit(")", 1)[1].split()[1])
