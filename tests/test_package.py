#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is installed: help, man pages and completions say the same; make install, and a broker, a VM and a program that work from there; make uninstall;
the Debian packages.

    tests/test_package.py [PATTERN…]
"""
import contextlib
import filecmp
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("VMKD_BUILD", ROOT / "build")).resolve()
from package_words import SHELLS, Help, Page, output  # noqa: E402
from report import Report  # noqa: E402
from tree import files  # noqa: E402
import vm  # noqa: E402

GUARD_S = 900  # building the packages, on a machine that does other things
CASES = []


def case(function):
    CASES.append(function)
    return function


def expect(condition, text):
    if not condition:
        raise AssertionError(text)


def same(what, got, wanted):
    got, wanted = set(got), set(wanted)
    expect(got == wanted, f"{what}: " + "; ".join(f"{word} {', '.join(sorted(map(str, part)))}" for word, part in
                                                  (("missing:", wanted - got), ("too many:", got - wanted)) if part))


def run(*command, **more):
    """Its output; an assertion with the last lines when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=GUARD_S, **more)
    expect(done.returncode == 0, f"{' '.join(map(str, command[:4]))} ends with status {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout


# ---- words: help, pages, completions ----------------------------------------------------------------------------------------------


@case
def a_command_that_is_not_there_has_no_help(tmp):
    expect(output(BUILD / "vmkd", "frob", "--help").returncode == 2, "vmkd frob --help")


@case
def each_command_has_its_page_and_each_page_its_command(tmp):
    commands = Help(BUILD / "vmkd").commands
    expect(len(commands) > 5, f"only {len(commands)} commands; is vmkd's help read as it should be?")
    pages = {p.name.removesuffix(".1.scd").removeprefix("vmkd-") for p in (ROOT / "docs/man").glob("vmkd-*.1.scd")}
    same("pages in docs/man", pages, commands)
    listed = re.findall(r"^\\fB([a-z]+)\\fR$", (BUILD / "man/vmkd.1").read_text(), re.M)
    same("commands in vmkd(1)", set(listed) - {"help"}, commands)


@case
def pages_have_the_options_of_help(tmp):
    said = Help(BUILD / "vmkd")
    for command in said.commands:
        page = Page(f"vmkd-{command}.1")
        same(f"OPTIONS of vmkd-{command}(1)", page.described(), said.options(command))
        same(f"SYNOPSIS of vmkd-{command}(1)", page.in_synopsis(), said.options(command))
        for option, values in said.values(command).items():
            for value in values:
                expect(re.search(rf"^\*{option}\*.*\b{value}\b", page.section("OPTIONS"), re.M), f"vmkd-{command}(1): {option} lacks {value}")


@case
def pages_can_be_read(tmp):
    for page in sorted((BUILD / "man").glob("*.[13]")):
        done = output("man", "--warnings", "-l", page, env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"})
        expect(done.returncode == 0 and not done.stderr, f"{page.name}: {done.stderr.strip()}")
        for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"):
            expect(re.search(rf"^{title}$", done.stdout, re.M), f"{page.name} has no {title}")
        for name, section in re.findall(r"\b(vmkd[a-z-]*|libvmkd)\((\d)\)", done.stdout):
            expect((BUILD / "man" / f"{name}.{section}").exists(), f"{page.name} refers to {name}({section}), which is not there")


@case
def the_console_s_page_has_its_commands(tmp):
    table = re.findall(r'^\t\{ "([^"]+)", ', (ROOT / "console/commands.c").read_text(), re.M)
    heads = [line for line in Page("vmkd-kd.1").section("COMMANDS").splitlines() if line.startswith("*")]
    same("commands in vmkd-kd(1)", {name for line in heads for name in re.findall(r"\*([^*]+)\*", line)}, table)


@case
def the_library_s_page_has_its_functions(tmp):
    header = re.findall(r"^VMKD_API[^;]*?\b(vmkd_\w+)\(", (ROOT / "include/vmkd/vmkd.h").read_text(), re.M)
    page = re.findall(r"\*(vmkd_\w+)\*", Page("libvmkd.3").section("FUNCTIONS").replace("\\", ""))
    same("functions in libvmkd(3)", page, header)
    exported = re.findall(r" T (\w+)(?:@|$)", run("nm", "-D", "--defined-only", BUILD / "libvmkd.so"), re.M)
    same("functions that libvmkd.so exports", exported, header)
    packaged = re.findall(r"^ (\w+)@", (ROOT / "debian/libvmkd0.symbols").read_text(), re.M)
    same("functions in debian/libvmkd0.symbols", packaged, header)


@case
def the_manual_uses_what_there_is(tmp):
    """Commands and options in the code of the README and the manual."""
    said = Help(BUILD / "vmkd")
    seen = 0
    for page in [ROOT / "README.md", *(ROOT / "docs/manual").glob("*.md")]:
        text = page.read_text()
        blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
        spans = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S))
        for span in spans:
            for command, rest in re.findall(r"(?<![\w./-])vmkd ([a-z]+)((?: \S+)*)", re.split(r"\s{3,}", span)[0]):
                expect(command in said.commands, f"{page.name}: `{span}`: there is no such command")
                options = set(re.findall(r" (--[a-z][a-z-]*)", rest.split(" -- ")[0]))
                expect(options <= said.options(command), f"{page.name}: `{span}`: vmkd {command} has no {', '.join(options - said.options(command))}")
                seen += 1
    expect(seen > 30, f"only {seen} uses found; are the pages read as they should be?")


def with_shells(check):
    missing = [name for name in SHELLS if not shutil.which(name)]
    expect(not missing, f"not installed: {', '.join(missing)}")
    for name, shell in SHELLS.items():
        check(name, shell)


@case
def completions_offer_what_help_says(tmp):
    said = Help(BUILD / "vmkd")
    (tmp / "vmkd").symlink_to(BUILD / "vmkd")

    lines = {"vmkd ": set(said.commands) | {"help", "--version"}}
    for command in said.commands:
        lines[f"vmkd {command} -"] = said.options(command) | {"--help"}
        lines |= {f"vmkd {command} {option} ": values for option, values in said.values(command).items()}

    def check(name, shell):
        for line, offered in shell(tmp, list(lines)).items():
            same(f"{name}: '{line}'", offered, lines[line])

    with_shells(check)


def fake_vmkd(folder, listed=""):
    """A vmkd with a command of every kind of word."""
    text = """#!/bin/sh
case "$*" in
help) printf '  vmkd frob [--way up|down] [--key FILE] NAME DOMAIN [on|off] [-q]\\n      does it\\n  vmkd see TARGET\\n      sees\\n  vmkd help | --version\\n' ;;
"frob --help") printf 'usage: vmkd frob [--way up|down] [--key FILE] NAME DOMAIN [on|off] [-q]\\n       does it (--never)\\n  --way up|down   where to\\n  --key FILE   a key\\n  --deep   deeper\\n' ;;
"see --help") printf 'usage: vmkd see TARGET\\n       sees\\n' ;;
list) printf 'NAME STATE\\n%s\\n    a remark\\n' ' ' && cat "$(dirname "$0")/listed" ;;
*) exit 2 ;;
esac
"""
    (folder / "vmkd").write_text(text)
    (folder / "vmkd").chmod(0o755)
    (folder / "listed").write_text(listed)
    (folder / "virsh").write_text("#!/bin/sh\nprintf 'win10\\n'\n")
    (folder / "virsh").chmod(0o755)
    (folder / "a-file").touch()


@case
def completions_run_nothing_that_a_name_contains(tmp):
    fake_vmkd(tmp, "a$(touch${IFS}pwned) running\nb`touch${IFS}pwned` running\n'c running\n*d running\n")

    def check(name, shell):
        shell(tmp, ["vmkd frob ", "vmkd see vm:"])
        expect(not (tmp / "pwned").exists(), f"{name} has run a VM's name")

    with_shells(check)


@case
def completions_know_vms_domains_files(tmp):
    fake_vmkd(tmp, "winxp running\n    12 controller somebody\nwin-11 stopped\n")

    def check(name, shell):
        lines = shell(tmp, ["vmkd ", "vmkd frob ", "vmkd frob -", "vmkd frob --way ", "vmkd frob --key a-", "vmkd see "])
        same(f"{name}: commands", lines["vmkd "], {"frob", "see", "help", "--version"})
        same(f"{name}: words", lines["vmkd frob "], {"winxp", "win-11", "win10", "on", "off"})
        same(f"{name}: options", lines["vmkd frob -"], {"--way", "--key", "-q", "--deep", "--help"})
        same(f"{name}: values", lines["vmkd frob --way "], {"up", "down"})
        same(f"{name}: targets", lines["vmkd see "], {"vm:winxp", "vm:win-11", "unix:", "tcp:", "serial:", "trace:"})
        if name != "bash":  # bash leaves files to readline
            expect("a-file" in lines["vmkd frob --key a-"], f"{name} offers no file for --key FILE: {lines['vmkd frob --key a-']}")

    with_shells(check)


@contextlib.contextmanager
def build_folder(folder):
    """The test kernel's VMs with another vmkd than the build's."""
    before = vm.BUILD, vm.VMKD, os.environ.get("VMKD_BUILD")
    vm.BUILD, vm.VMKD, os.environ["VMKD_BUILD"] = folder, folder / "vmkd", str(folder)
    try:
        yield
    finally:
        vm.BUILD, vm.VMKD, was = before
        os.environ.pop("VMKD_BUILD") if was is None else os.environ.update(VMKD_BUILD=was)


# ---- make install ------------------------------------------------------------------------------------------------------------------


def make(*words):
    """make on this build folder, with no more to do than it has."""
    return run("make", "-s", "-C", ROOT, f"O={os.path.relpath(BUILD, ROOT) if BUILD.is_relative_to(ROOT) else BUILD}", *words)


def tree(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}


@case
def install_puts_everything_below_destdir(tmp):
    dest = tmp / "dest"
    make("install", f"DESTDIR={dest}", "prefix=/opt/vmkd", "libdir=/opt/vmkd/lib/here")
    expect({p.name for p in dest.iterdir()} == {"opt"}, f"outside of the prefix: {sorted(p.name for p in dest.iterdir())}")
    got = tree(dest / "opt/vmkd")
    for wanted in ("bin/vmkd", "lib/vmkd/libvmkd-vmm.so", "lib/here/libvmkd.so.0", "lib/here/libvmkd.so", "lib/here/pkgconfig/vmkd.pc", "include/vmkd/vmkd.h",
                   "share/man/man1/vmkd.1", "share/man/man1/vmkd-run.1", "share/man/man3/libvmkd.3", "share/bash-completion/completions/vmkd",
                   "share/zsh/site-functions/_vmkd", "share/fish/vendor_completions.d/vmkd.fish", "lib/systemd/user/vmkd@.service",
                   "share/vmkd/wireshark/vmkd.lua", "share/vmkd/guest/x64/kdvmkd.dll", "share/vmkd/guest/x86/vmkd.sys", "share/vmkd/vmkd-guest.iso", "share/doc/vmkd/README.md",
                   "share/doc/vmkd/docs/manual/README.md"):
        expect(wanted in got, f"{wanted} is not installed")
    for name in got:
        path = dest / "opt/vmkd" / name
        expect(path.is_symlink() or path.stat().st_mode & 0o777 == (0o755 if name == "bin/vmkd" else 0o644), f"mode of {name}")
    for name in ("lib/here/pkgconfig/vmkd.pc", "lib/systemd/user/vmkd@.service"):
        text = (dest / "opt/vmkd" / name).read_text()
        expect("/opt/vmkd" in text and str(tmp) not in text and "@" not in text.replace("vmkd@", ""), f"folders in {name}: {text}")
    make("install", f"DESTDIR={dest}", "prefix=/opt/vmkd", "libdir=/opt/vmkd/lib/here")
    same("installed twice", tree(dest / "opt/vmkd"), got)


@case
def uninstall_takes_back_what_was_installed_and_nothing_else(tmp):
    words = (f"DESTDIR={tmp}", "prefix=/usr")
    others = [tmp / "usr/bin/other", tmp / "usr/share/vmkd/guest/mine.txt", tmp / "usr/share/man/man1/other.1"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.touch()
    make("uninstall", *words)  # nothing there yet: no complaint
    make("install", *words)
    make("uninstall", *words)
    same("left behind", tree(tmp), {str(o.relative_to(tmp)) for o in others})
    for folder in ("usr/lib/vmkd", "usr/include/vmkd", "usr/share/doc/vmkd", "usr/share/vmkd/wireshark"):
        expect(not (tmp / folder).exists(), f"{folder} is still there")


@case
def a_program_builds_against_what_is_installed(tmp):
    make("install-host", f"prefix={tmp}")
    env = {**os.environ, "PKG_CONFIG_PATH": str(tmp / "lib/pkgconfig")}
    expect(run("pkg-config", "--modversion", "vmkd", env=env).strip() == run(tmp / "bin/vmkd", "--version").split()[1], "vmkd.pc's version")
    flags = run("pkg-config", "--cflags", "--libs", "vmkd", env=env).split()
    run("gcc", "-std=c17", "-Wall", "-Wextra", "-Werror", "-o", tmp / "read", ROOT / "examples/read.c", *flags)
    needed = re.findall(r"NEEDED.*\[(libvmkd[^]]*)\]", run("readelf", "-d", tmp / "read"))
    expect(needed == ["libvmkd.so.0"], f"the program wants {needed}")
    done = output(tmp / "read", f"unix:{tmp}/nothing", env={**os.environ, "LD_LIBRARY_PATH": str(tmp / "lib")})
    expect(done.returncode == 1 and "cannot connect" in done.stderr, f"it says {done.stderr}")


@case
def the_unit_and_a_moved_tree_work(tmp):
    """The VM by the installed `vmkd run`, its broker by the unit's own command line; the tree is moved after it was installed."""
    make("install", f"prefix={tmp}/first")
    unit = tmp / "first/lib/systemd/user/vmkd@.service"
    done = output("systemd-analyze", "--user", "--man=no", "--recursive-errors=no", "verify", unit, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp)})
    expect(done.returncode == 0 and "vmkd@" not in done.stderr, f"systemd-analyze verify: {done.stderr.strip()}")
    command = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.M).group(1)
    (tmp / "first").rename(tmp / "second")
    command = command.replace(f"{tmp}/first", f"{tmp}/second").replace("%i", "package").split()
    parts = tmp / "build"  # a build folder whose vmkd is the installed one
    parts.mkdir()
    for part in ("testkernel", "guest", "tools"):
        (parts / part).symlink_to(BUILD / part)
    (parts / "vmkd").symlink_to(tmp / "second/bin/vmkd")
    with build_folder(parts), vm.Vm("package", "--link", "debugcon", "--run", "--no-serve", "--scenario", "counter") as machine:
        broker = subprocess.Popen(command, env=machine.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            status, text = machine.kd("vertarget; q")
        finally:
            broker.send_signal(signal.SIGTERM)
            said = broker.communicate(timeout=GUARD_S)[1]
    expect(status == 0 and "Kernel" in text, f"vmkd kd: {text[-400:]}; the broker: {said}")
    expect(broker.returncode in (0, -signal.SIGTERM), f"the unit's broker ends with {broker.returncode} when it is stopped: {said}")


@case
def gdb_beside_vmkd(tmp):
    """What docs/manual/gdb.md says: QEMU's own stub and a debugger of vmkd on one VM."""
    stub = tmp / "gdb.sock"

    def gdb():
        words = ["set architecture i386:x86-64", f"target remote {stub}", "info registers rip", "detach"]
        return run("gdb", "-nx", "-batch", *[word for command in words for word in ("-ex", command)])

    with vm.Vm("gdb", "--link", "debugcon", "--scenario", "counter", "--", "-gdb", f"unix:{stub},server=on,wait=off") as machine:
        # Running, then stopped in vmkd's debugger: gdb sees the transport's wait, vmkd the kernel's registers.
        machine.kd("vertarget; q")  # it has booted
        expect(re.search(r"^rip +0xffff", gdb(), re.M), "gdb sees no kernel while it runs")
        status, text = machine.kd("r rip; qs")
        at = re.search(r"rip=([0-9a-f]{16})", text)
        expect(status == 0 and at, f"vmkd kd after gdb: {text[-300:]}")
        seen = re.search(r"^rip +0x([0-9a-f]+)", gdb(), re.M)
        expect(seen and seen.group(1) != at.group(1), "the manual says that gdb sees another place, and it does not")
        status, text = machine.kd("r rip; q")
        expect(status == 0 and f"rip={at.group(1)}" in text, f"the stop is not what it was before gdb: {text[-300:]}")


# ---- Debian ------------------------------------------------------------------------------------------------------------------------


def copy_of_tree(folder):
    for path in files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)


def offline():
    """A prefix without a network, where that is allowed."""
    return ["unshare", "-n"] if output("unshare", "-n", "true").returncode == 0 else []


@case
def debian_packages(tmp):
    source = tmp / "vmkd"
    copy_of_tree(source)
    env = {**os.environ, "DEB_BUILD_OPTIONS": f"parallel={os.cpu_count()}", "LC_ALL": "C.UTF-8"}
    for word in ("O", "VMKD_BUILD", "CFLAGS", "CC", "SAN", "MAKEFLAGS"):
        env.pop(word, None)
    run(*offline(), "dpkg-buildpackage", "-us", "-uc", "-b", cwd=source, env=env)
    expect(not (source / "build").exists(), "the package was built in build/, which is the developer's")
    changes = next(tmp.glob("*.changes"))
    done = output("lintian", "--allow-root", "--display-info", "--pedantic", "--no-tag-display-limit", changes, env={**os.environ, "LC_ALL": "C.UTF-8"})
    said = [line for line in done.stdout.splitlines() if re.match(r"[EWIPX]:", line)]
    expect(done.returncode == 0 and not said, "lintian: " + "; ".join(said[:10]) + done.stderr[-300:])
    version = run(BUILD / "vmkd", "--version").split()[1]
    contents = {}
    for package in tmp.glob("*.deb"):
        name = package.name.split("_")[0]
        if name.endswith("-dbgsym"):
            continue
        expect(package.name.split("_")[1] == version, f"{package.name}: vmkd is {version}")
        listing = run("dpkg-deb", "-c", package)
        contents[name] = {line.split(" -> ")[0].split(None, 5)[5].removeprefix("./") for line in listing.splitlines() if not line.startswith("d")}
    same("packages", contents, {"vmkd", "libvmkd0", "libvmkd-dev", "vmkd-guest"})
    packaged_once(contents, tree(source / "debian/tmp"))
    before = {p: (ROOT / p).read_bytes() for p in files()}
    run("debian/rules", "clean", cwd=source, env=env)
    same("files after `debian/rules clean`", {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}, map(str, before))
    expect(all(filecmp.cmp(ROOT / p, source / p, shallow=False) for p in before), "`debian/rules clean` changed a file")


def packaged_once(contents, installed):
    """Every file that make install makes is in exactly one package."""
    def uncompressed(name):
        return name.removesuffix(".gz")

    for name in sorted(installed):
        owners = [package for package, names in contents.items() if name in {uncompressed(n) for n in names}]
        expect(len(owners) == 1, f"{name} is in {owners or 'no package'}")


def main():
    report = Report()
    patterns = sys.argv[1:]
    for function in CASES:
        name = function.__name__
        if patterns and not any(p in name for p in patterns):
            continue
        with tempfile.TemporaryDirectory(prefix="vmkd-test-") as folder:
            try:
                function(Path(folder))
                report.ok(name)
            except (AssertionError, OSError, subprocess.TimeoutExpired, ValueError, RuntimeError, vm.Hang) as problem:
                report.fail(name, str(problem).replace("\n", " | "))
    report.exit()


if __name__ == "__main__":
    main()
