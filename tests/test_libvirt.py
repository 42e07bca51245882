#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`vmkd libvirt` with libvirt's own daemon, a test kernel as the domain, and what an administrator would have to allow.

The daemon is a real one, and nobody's: everything runs in namespaces of its own (mounts, processes, network), with empty folders in place of
libvirt's, so that no domain, no file and no process of this machine's libvirt is touched, and nothing is left when the test ends.

    tests/test_libvirt.py [WORD…]      the tests whose titles contain one of the words
"""
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from e2e import KVM, KVM_REMARK, attach, expect, main, refused, test, Skip
from kdclient import KdClient
from vm import BUILD, GUARD_S, wait_for

INSIDE = "VMKD_TEST_LIBVIRT_INSIDE"
FOLDERS = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
SITE = Path("/run/site")  # in a /run of our own
VMKD = SITE / "bin/vmkd"
LIBRARY = SITE / "lib/vmkd/libvmkd-vmm.so"
RUNTIME = Path("/run/vmkd")
DEBUGGER, STRANGER = 61001, 61003  # users that exist nowhere else
GROUP = 61010
GROUPS, USERS = Path("/etc/group"), Path("/etc/passwd")
QEMU_USER = "libvirt-qemu"
ENVIRONMENT = {"VMKD_RUNTIME_DIR": str(RUNTIME)}
LIBRARY_ENV = b"LD_PRELOAD="


# ---- the machine of its own -----------------------------------------------------------------------------------------

def missing():
    if os.geteuid() != 0:
        return "root, for a libvirtd of its own"
    for tool in ("libvirtd", "virtlogd", "virsh", "unshare", "setpriv", "qemu-system-x86_64"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            return tool
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True).returncode:
        return "namespaces (unshare)"
    return None


def go_inside():
    """This program once more, as the first process of namespaces that end with it."""
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                          sys.executable, __file__, *sys.argv[1:]])


def be_init():
    """The first process there: buries whoever has no parent (QEMU is a daemon's child's child), and ends as the test does."""
    child = os.fork()
    if not child:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def run(*command, user=None, env=None, **more):
    """(status, stdout + stderr), as root or as a user with the groups that the database gives him."""
    words = [str(c) for c in command]
    if user is not None:
        words = ["setpriv", "--reuid", str(user), "--regid", str(user), "--init-groups", "--inh-caps=-all", "--bounding-set=-all", *words]
    done = subprocess.run(words, env=environment(user, env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=GUARD_S, **more)
    return done.returncode, done.stdout


def environment(user, more):
    """VMKD_RUNTIME_DIR as the messages tell users to set it: not for `vmkd libvirt`, for everything else."""
    home = Path(f"/run/user/{user}") if user else Path("/run/home")
    return {"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), **(more or {})}


def must(*command, **more):
    status, text = run(*command, **more)
    expect(status == 0, f"{' '.join(map(str, command))}: status {status}: {text}")
    return text


def set_members(*members):
    """The line that `usermod -aG vmkd …` writes."""
    lines = [line for line in GROUPS.read_text().splitlines() if not line.startswith("vmkd:")]
    GROUPS.write_text("\n".join([*lines, f"vmkd:x:{GROUP}:{','.join(members)}", ""]))


def mount_copy(path, more):
    copy = SITE / path.name
    copy.write_text(path.read_text() + more)
    must("mount", "--bind", copy, path)


def make_site():
    """What `make install` would make, where QEMU's user may read it; and the test kernel."""
    for path in (VMKD, LIBRARY):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUILD / path.name, path)
    for path in (BUILD / "testkernel/x64/boot.elf", BUILD / "testkernel/x64/ntoskrnl.exe", BUILD / "guest/x64/kdvmkd.dll"):
        shutil.copy(path, SITE)
    must("tar", "--format=ustar", "-cf", "archive.tar", "ntoskrnl.exe", "kdvmkd.dll", cwd=SITE)
    must("chmod", "-R", "u=rwX,go=rX", SITE)


def make_machine():
    run("umount", "--recursive", "--lazy", "/sys/fs/cgroup")  # libvirt goes without, and leaves no groups behind
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        must("mount", "-t", "tmpfs", "-o", "mode=755", "none", folder)
    for folder in ("/run/lock", "/run/home", f"/run/user/{DEBUGGER}", "/etc/libvirt/qemu", str(SITE)):
        Path(folder).mkdir(parents=True)
    os.chown(f"/run/user/{DEBUGGER}", DEBUGGER, DEBUGGER)
    mount_copy(USERS, f"debugger:x:{DEBUGGER}:{DEBUGGER}::/run/user/{DEBUGGER}:/bin/sh\nstranger:x:{STRANGER}:{STRANGER}::/nonexistent:/bin/sh\n")
    mount_copy(GROUPS, f"debugger:x:{DEBUGGER}:\n")
    make_site()
    must("virtlogd", "-d")
    must("libvirtd", "-d")
    wait_for("libvirtd", lambda: run("virsh", "-c", "qemu:///system", "uri")[0] == 0)


# ---- a domain -------------------------------------------------------------------------------------------------------

class Domain:
    """with Domain("kvm") as d: a test kernel, defined and shut off; gone afterwards. The runtime folder is as an administrator would make it."""

    def __init__(self, kind, name="tk", more="", user=None, devices=""):
        if kind == "kvm" and KVM == "missing":
            raise Skip(f"KVM ({KVM_REMARK})")
        self.kind, self.name, self.more, self.user, self.devices = kind, name, more, user, devices
        self.uri = "qemu:///session" if user else "qemu:///system"
        self.runtime = Path(f"/run/user/{user}/vmkd") if user else RUNTIME
        self.folder = Path(f"/run/user/{user}") if user else Path("/var/log/libvirt")
        self.processes = []

    def __enter__(self):
        if not self.user:
            set_members(QEMU_USER, "debugger")
            must("install", "-d", "-o", "root", "-g", "vmkd", "-m", "2770", RUNTIME)
        self.define(self.xml())
        self.before = self.definition()
        return self

    def __exit__(self, kind, error, trace):
        for process in self.processes:
            process.kill()
            process.wait()
        if error is not None:
            log = self.folder / ("cache/libvirt/qemu/log" if self.user else "qemu") / f"{self.name}.log"
            log = log if log.exists() else self.folder / f".cache/libvirt/qemu/log/{self.name}.log"
            print(f"---- QEMU of {self.name} said:\n{log.read_text(errors='replace')[-3000:] if log.exists() else 'nothing'}\n----", flush=True)
        self.virsh("destroy", self.name)
        self.virsh("managedsave-remove", self.name)
        self.virsh("undefine", self.name)
        shutil.rmtree(self.runtime, ignore_errors=True)
        return False

    def xml(self):
        cpu = "<cpu mode='host-passthrough'/>" if self.kind == "kvm" else ""
        loader = "<loader readonly='yes' type='rom'>/usr/share/qemu/qboot.rom</loader>" if self.kind == "kvm" else ""
        return f"""<domain type='{self.kind}'>
  <name>{self.name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    {loader}
    <kernel>{SITE}/boot.elf</kernel>
    <initrd>{SITE}/archive.tar</initrd>
    <cmdline>kernel=ntoskrnl.exe transport=kdvmkd.dll scenario=counter</cmdline>
  </os>
  {cpu}
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {self.devices}
  </devices>
  {self.more}
</domain>"""

    def virsh(self, *words):
        return run("virsh", "-q", "-c", self.uri, *words, user=self.user)

    def ask(self, *words):
        status, text = self.virsh(*words)
        expect(status == 0, f"virsh {' '.join(words)}: {text}")
        return text

    def define(self, xml):
        path = (self.folder if self.user else SITE) / "domain.xml"
        path.write_text(xml)
        path.chmod(0o644)
        self.ask("define", str(path))

    def definition(self, *more):
        return self.ask("dumpxml", "--inactive", "--security-info", self.name, *more)

    def vmkd(self, verb, *words, **more):
        """`vmkd libvirt VERB DOMAIN …`."""
        return run(VMKD, "libvirt", verb, self.name, "--connect", self.uri, *words, user=self.user, **more)

    def enable(self, *words):
        status, text = self.vmkd("enable", *words)
        expect(status == 0, f"enable: {status}: {text}")
        return text

    def disable(self):
        status, text = self.vmkd("disable")
        expect(status == 0, f"disable: {status}: {text}")
        return text

    def pid(self):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"qemu-system-x86_64") and any(w.startswith(f"guest={self.name},".encode()) for w in words):
                return int(path.parent.name)
        return None

    def variables(self):
        return Path(f"/proc/{self.pid()}/environ").read_bytes().split(b"\0")

    def start(self):
        self.ask("start", self.name)

    def serve(self, *options, user=None):
        log = self.folder / "serve.log"
        words = [str(VMKD), "serve", self.name, *options]
        if user:
            words = ["setpriv", "--reuid", str(user), "--regid", str(user), "--init-groups", "--inh-caps=-all", "--bounding-set=-all", *words]
        with open(log, "wb") as out:
            process = subprocess.Popen(words, env=environment(user, {"VMKD_RUNTIME_DIR": str(self.runtime)}), stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT)
        self.processes.append(process)
        self.log = log
        wait_for(f"the broker ({log})", (self.runtime / self.name / "kd.sock").exists, alive=process)
        return process

    def kd(self, commands, user=None, status=0):
        """The console's output."""
        got, text = run(VMKD, "kd", f"vm:{self.name}", "-b", "-t", str(int(GUARD_S)), "-c", commands, user=user,
                        env={"VMKD_RUNTIME_DIR": str(self.runtime)})
        expect(got == status, f"vmkd kd '{commands}': status {got}: {text}")
        return text

    def reads_memory(self, user=None):
        """The whole way: break in, registers, the kernel's first bytes from the VM's RAM, and go on."""
        text = self.kd("vertarget; r; db nt L20; qs", user)
        expect("4d 5a" in text and re.search(r"\brip=", text), f"what a debugger sees: {text}")
        expect("from the VM's RAM (mapped)" in text, f"how memory is read: {text}")


def env_of(domain, name):
    return [v for v in domain.variables() if v.startswith(name)]


# ---- refusals -------------------------------------------------------------------------------------------------------

@test("what is wrong with the words is said")
def words():
    for arguments, part in (((), "enable, disable or status"), (("make", "x"), "got make"), (("enable",), "name is missing"),
                            (("enable", "a", "b"), "a and b"),
                            (("enable", "a", "--link"), "--link needs a value"), (("enable", "a", "--link", "serial"), "hook or debugcon"),
                            (("enable", "a", "--what"), "--what"), (("disable", "a", "--link", "hook"), "not for disable"),
                            (("status", "a", "--force"), "enable only"), (("disable", "a", "--private-ram"), "enable only"),
                            (("status", "a", "--dry-run"), "changes nothing")):
        refused(run(VMKD, "libvirt", *arguments), 2, part)


@test("no virsh, no libvirtd, no domain, a libvirtd elsewhere")
def nobody_there():
    system = ("--connect", "qemu:///system")
    refused(run(VMKD, "libvirt", "status", "x", *system, env={"PATH": "/nonexistent"}), 1, "libvirt-clients")
    refused(run(VMKD, "libvirt", "status", "nosuch", *system), 1, "virsh", "nosuch")
    refused(run(VMKD, "libvirt", "status", "--", *system), 2, "--")
    refused(run(VMKD, "libvirt", "status", "test", "--connect", "test:///default"), 1, "of this machine")
    refused(run(VMKD, "libvirt", "status", "x", "--connect", "qemu+ssh://elsewhere/system"), 1, "of this machine")
    refused(run(VMKD, "libvirt", "status", "x", "--connect", "qemu:///system?socket=/nonexistent"), 1, "virsh")


@test("a transient domain, one with a saved state, a name that cannot be the VM's")
def not_now():
    with Domain("qemu", "with blank") as d:
        refused(d.vmkd("enable"), 1, "--name", "with blank")
        expect(d.definition() == d.before, "a refused enable has changed the domain")
        d.enable("--name", "plain")
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")
    with Domain("qemu") as d:
        d.start()
        d.ask("managedsave", d.name)
        refused(d.vmkd("enable"), 1, "managedsave-remove")
        expect(d.definition() == d.before, "a refused enable has changed the domain")
        d.ask("managedsave-remove", d.name)
        d.start()
        d.ask("undefine", d.name)
        refused(d.vmkd("enable"), 1, "transient")
        d.ask("destroy", d.name)
        d.define(d.xml())


@test("a domain that the link cannot work in stays as it is")
def unsuitable():
    with Domain("qemu") as d:
        refused(d.vmkd("enable", "--link", "hook"), 1, "needs KVM")
        refused(d.vmkd("disable"), 1, "no link")
    with Domain("qemu", more="<memoryBacking><access mode='private'/></memoryBacking>") as d:
        refused(d.vmkd("enable"), 1, "access private")
        expect(d.definition() == d.before, "a refused enable has changed the domain")


# ---- what an administrator must allow ---------------------------------------------------------------------------------

def failures(text):
    return [line for line in text.splitlines() if line.startswith("FAILED")]


@test("the runtime folder and its group: what is missing is said, and what was said helps")
def folder_and_group():
    with Domain("qemu") as d:
        shutil.rmtree(RUNTIME)
        set_members()
        status, text = d.vmkd("status")
        found = failures(text)
        expect(status == 1 and len(found) == 1 and "QEMU does not start without it" in found[0], f"without a folder: {status}: {text}")
        status, text = d.vmkd("enable")
        refused((status, text), 1, "nothing was changed")
        expect(d.definition() == d.before, "a refused enable has changed the domain")
        command = re.search(r"install -d -o root -g vmkd -m 2770 /run/vmkd", found[0])
        must(*command.group().split())
        found = failures(d.vmkd("status")[1])
        expect(len(found) == 1 and f"usermod -aG vmkd {QEMU_USER}" in found[0], f"with a folder, without a member: {found}")
        set_members(QEMU_USER)
        status, text = d.vmkd("status")
        expect(status == 0 and not failures(text), f"with a member: {status}: {text}")
        RUNTIME.chmod(0o777)
        expect(any("mode 0777" in line for line in failures(d.vmkd("status")[1])), "a folder for everybody")
        d.enable("--force")


@test("a library that QEMU's user cannot reach, or anybody can replace")
def library():
    with Domain("kvm") as d:
        LIBRARY.parent.chmod(0o700)
        found = failures(d.vmkd("status")[1])
        expect(len(found) == 1 and f"may not read {LIBRARY}" in found[0] and f"o+rX {LIBRARY.parent}" in found[0], f"a closed folder: {found}")
        refused(d.vmkd("enable"), 1, "nothing was changed")
        LIBRARY.parent.chmod(0o777)
        found = failures(d.vmkd("status")[1])
        expect(len(found) == 1 and "anybody may replace" in found[0], f"an open folder: {found}")
        LIBRARY.parent.chmod(0o755)
        expect(d.vmkd("status")[0] == 0, "put right")


@test("--dry-run changes nothing and shows no password; what is written back has it")
def secrets():
    with Domain("qemu", devices="<graphics type='vnc' port='-1' passwd='geheim'/>") as d:
        expect("geheim" in d.before, f"the test's password is not there: {d.before}")
        status, text = d.vmkd("enable", "--dry-run")
        expect(status == 0 and "isa-debugcon" in text and "geheim" not in text, f"--dry-run: {status}: {text}")
        expect(d.definition() == d.before, "--dry-run has changed the domain")
        d.enable()
        expect("geheim" in d.definition(), "enable has lost the password")
        status, text = d.vmkd("disable", "--dry-run")
        expect(status == 0 and "isa-debugcon" not in text and "isa-debugcon" in d.definition(), f"disable --dry-run: {status}: {text}")
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")


# ---- the whole way ----------------------------------------------------------------------------------------------------

def runs_like(domain, link):
    return domain.vmkd("status")[1].splitlines()[0].endswith("running like that") if link is None else \
        f"running with the link {link} until" in domain.vmkd("status")[1]


@test("hook: enable, start, serve and debug as a member of the group, disable, start again")
def hook():
    with Domain("kvm") as d:
        d.enable()
        d.start()
        expect(env_of(d, LIBRARY_ENV) == [LIBRARY_ENV + str(LIBRARY).encode()], f"QEMU's environment: {d.variables()}")
        expect(Path(f"/proc/{d.pid()}").stat().st_uid != 0, "QEMU runs as root")
        expect(runs_like(d, None), d.vmkd("status")[1])
        d.serve(user=DEBUGGER)
        d.reads_memory(DEBUGGER)
        d.reads_memory()
        refused(run(VMKD, "list", user=STRANGER, env=ENVIRONMENT), 1, "join the group")
        d.disable()
        expect(d.definition() == d.before, f"the definition after disable is not that of before:\n{d.before}\n{d.definition()}")
        expect(runs_like(d, "hook"), d.vmkd("status")[1])
        d.ask("destroy", d.name)
        d.start()
        expect(not env_of(d, LIBRARY_ENV) and not env_of(d, b"VMKD_"), f"QEMU's environment: {d.variables()}")
        expect("no link; running like that" in d.vmkd("status")[1], d.vmkd("status")[1])


@test("debugcon: enable, start, serve as root, debug as a member of the group, disable, start again")
def debugcon():
    with Domain("qemu") as d:
        d.enable()
        d.start()
        expect(not env_of(d, LIBRARY_ENV), "something was preloaded")
        status, text = run(VMKD, "list", "--json", env=ENVIRONMENT)
        expect(status == 0 and '"tk"' in text, f"list before a broker: {text}")
        d.serve()
        d.reads_memory(DEBUGGER)
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")
        d.ask("destroy", d.name)
        d.start()
        expect(b"isa-debugcon" not in Path(f"/proc/{d.pid()}/cmdline").read_bytes(), "the doorbell is still there")


@test("debugcon with KVM, and the link changed from the other one")
def debugcon_with_kvm():
    with Domain("kvm") as d:
        d.enable("--link", "hook")
        d.enable("--link", "debugcon")
        d.start()
        expect(not env_of(d, LIBRARY_ENV), "something was preloaded")
        d.serve()
        d.reads_memory()
        d.enable("--link", "hook")
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")


@test("a user's own libvirtd: nothing to allow, and nobody but him", None)
def session():
    with Domain("qemu", user=DEBUGGER) as d:
        found = failures(d.vmkd("status")[1])
        expect(len(found) == 1 and f"install -d -m 700 {d.runtime}" in found[0], f"debugcon without a folder: {found}")
        must("install", "-d", "-m", "700", d.runtime, user=DEBUGGER)
        d.enable()
        d.start()
        d.serve(user=DEBUGGER)
        d.reads_memory(DEBUGGER)
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")


@test("a user's own libvirtd with the hook")
def session_hook():
    with Domain("kvm", user=DEBUGGER) as d:
        if run("test", "-w", "/dev/kvm", user=DEBUGGER)[0]:
            raise Skip("a /dev/kvm that is open to ordinary users")
        d.enable()
        d.start()
        wait_for("the library", (d.runtime / d.name / "vmm.sock").exists)
        d.serve(user=DEBUGGER)
        d.reads_memory(DEBUGGER)
        d.disable()
        expect(d.definition() == d.before, "the definition after disable is not that of before")


@test("vmkd attach: the library into a domain that runs without it, its monitor asked through virsh")
def late():
    with Domain("kvm") as d:
        d.start()
        words = [VMKD, "attach", d.pid(), d.name, "--libvirt", d.name, "--connect", d.uri]
        refused(run(*words[:5], "no-such-domain", *words[6:], env=ENVIRONMENT), 1, "no-such-domain")
        for said in ("2 of 2 vCPUs come through", "nothing was changed"):
            status, text = run(*words, env=ENVIRONMENT)
            expect(status == 0 and said in text, f"attach ended with {status}: {text}")
        expect(Path(f"/proc/{d.pid()}").stat().st_uid != 0, "QEMU runs as root")
        d.serve()
        text = d.kd("vertarget; db nt L20; qs")
        expect("4d 5a" in text and "from the VM's RAM" in text, f"what a debugger sees: {text}")


# ---- living with it ---------------------------------------------------------------------------------------------------

def stays_through(d, user):
    """A broker from before the first start to after the second, and one debugger that sees both."""
    broker = d.serve("--stay", user=user)
    kd = KdClient(timeout=GUARD_S).connect(str(d.runtime / d.name / "kd.sock"))
    try:
        for _ in range(2):
            d.start()
            attach(kd)
            expect(kd.read_virtual(kd.version().kern_base, 2) == b"MZ", "the kernel's first bytes")
            kd.go()
            wait_for("the broker's following the process", lambda: f"serving {d.name} (pid {d.pid()})" in d.log.read_text(), alive=broker)
            d.ask("destroy", d.name)
            wait_for("the end of the VM", lambda: d.pid() is None)
    finally:
        kd.close()
    expect(broker.poll() is None, f"the broker has ended: {d.log.read_text()}")


@test("vmkd serve --stay as a member of the group, through two lives of a domain with the hook")
def stay_hook():
    with Domain("kvm") as d:
        d.enable()
        stays_through(d, DEBUGGER)


@test("vmkd serve --stay through two lives of a domain with debugcon")
def stay_debugcon():
    with Domain("qemu") as d:
        d.enable()
        stays_through(d, None)


@test("virsh managedsave and start: the saved guest is there again, with both links", ("kvm", "qemu"))
def saved(kind):
    with Domain(kind) as d:
        d.enable()
        d.start()
        user = DEBUGGER if kind == "kvm" else None
        d.serve("--stay", user=user)
        d.reads_memory()
        d.ask("managedsave", d.name)
        refused(d.vmkd("disable"), 1, "managedsave-remove")
        d.start()
        d.reads_memory()


@test("what a user changes in between stays, what enable added goes")
def changed():
    with Domain("qemu") as d:
        d.enable()
        text = d.definition()
        text = text.replace("<description>", "").replace("</name>", "</name>\n  <description>mine</description>", 1)
        text = text.replace("<qemu:commandline>", "<qemu:commandline>\n    <qemu:arg value='-name'/>\n    <qemu:arg value='debug-threads=off'/>", 1)
        text = re.sub(r"(<vcpu[^>]*>)2<", r"\g<1>1<", text)
        d.define(text)
        d.disable()
        after = d.definition()
        expect("mine" in after and "debug-threads=off" in after and not re.search(r"isa-debugcon|vmkd[:-]|memfd", after), f"after disable: {after}")
        expect(re.search(r"<vcpu[^>]*>1<", after), f"after disable: {after}")


@test("debugcon without shared RAM: the broker says what is missing")
def no_shared_ram():
    with Domain("qemu") as d:
        d.enable()
        d.define(re.sub(r"<memoryBacking>.*?</memoryBacking>", "", d.definition(), flags=re.S))
        d.start()
        d.serve()
        listed = wait_for("the remark", lambda: re.search("not one memory backend that is shared", run(VMKD, "list", env=ENVIRONMENT)[1]))
        expect(listed, "list")
        status, text = d.vmkd("disable")
        expect(status == 0 and "2 of the things" in text, f"disable: {status}: {text}")
        expect(d.definition() == d.before, "the definition after disable is not that of before")


@test("a QEMU that is killed leaves nothing, and the next one starts")
def killed():
    with Domain("qemu") as d:
        d.enable()
        d.start()
        broker = d.serve()
        os.kill(d.pid(), signal.SIGKILL)
        expect(broker.wait(GUARD_S) == 0, f"the broker: {d.log.read_text()}")
        expect(not list(RUNTIME.iterdir()), f"left: {list(RUNTIME.iterdir())}")
        wait_for("libvirt's view", lambda: d.ask("domstate", d.name).strip() == "shut off")
        d.start()
        d.serve()
        d.reads_memory()


@test("enabled while it runs: from the next start, and said so")
def running():
    with Domain("qemu") as d:
        d.start()
        text = d.enable()
        expect("shut off and started again" in text, text)
        expect(runs_like(d, "none"), d.vmkd("status")[1])
        d.ask("destroy", d.name)
        d.start()
        expect(runs_like(d, None), d.vmkd("status")[1])


@test("libvirt's own suspend, resume, reset and shutdown go on working with a debugger attached")
def libvirts_own():
    with Domain("kvm") as d:
        d.enable()
        d.start()
        d.serve(user=DEBUGGER)
        d.kd("q", DEBUGGER)  # left stopped: QEMU must answer all the same
        for verb, state in (("suspend", "paused"), ("resume", "running"), ("reset", "running")):
            d.ask(verb, d.name)
            expect(d.ask("domstate", d.name).strip() == state, f"after {verb}: {d.ask('domstate', d.name)}")
        d.reads_memory(DEBUGGER)
        d.ask("destroy", d.name)
        expect(d.ask("domstate", d.name).strip() == "shut off", "destroy")


if __name__ == "__main__":
    if os.environ.get(INSIDE):
        be_init()
        make_machine()
        main()
    reason = missing()
    if reason:
        from e2e import REPORT
        REPORT.skip("vmkd libvirt", reason)
        REPORT.exit()
    go_inside()
