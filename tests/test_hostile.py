#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tests/hostile's kdhostile.dll, a transport that attacks its host, through `vmkd run` by both ways: VMM, broker and QMP live on, nothing outside of the
module's pages was written, and what was refused was counted. (vmm/qemu_test.py does it without a broker of ours.)"""
import sys

from report import Report
from vm import BUILD, Hang, Vm, kvm, wait_for

REPORT = Report()
KVM, KVM_REMARK = kvm()
WAYS = [("hook", "x64", ("--accel", "kvm", "--link", "hook", "--cpus", "2")),
        ("debugcon", "x64", ("--accel", "tcg", "--link", "debugcon", "--cpus", "2"))]


def attack(name, arch, arguments):
    module = BUILD / arch / "kdhostile.dll"
    if not module.is_file():
        REPORT.fail(f"hostile {name}", f"{module} was not built")
        return
    with Vm("hostile", "--arch", arch, *arguments, "--transport", module) as vm:
        wait_for("the attacks' end", lambda: "hostile: verdict" in vm.output(), alive=vm.process)
        log = vm.output()
        print(log[-800:])
        REPORT.check(f"hostile {name}: nothing was written outside of the module's pages", "hostile: verdict passed" in log, log[-300:])
        REPORT.check(f"hostile {name}: QMP answers", vm.qmp().call("query-status")["running"], "the VM does not run")
        stats = vm.stats()
        REPORT.check(f"hostile {name}: refusals were counted", stats["refused"] > 0, f"{stats}")
        REPORT.check(f"hostile {name}: the broker lists the VM", vm.listed() is not None, "it does not")
        vm.qmp().call("quit")
        REPORT.check(f"hostile {name}: quit", vm.wait() == 0, f"exit status {vm.process.returncode}")


def main():
    for name, arch, arguments in WAYS:
        if "kvm" in arguments and KVM == "missing":
            REPORT.skip(f"hostile {name}", f"KVM: {KVM_REMARK}")
            continue
        try:
            attack(name, arch, arguments)
        except (Hang, RuntimeError, OSError, KeyError) as problem:
            REPORT.fail(f"hostile {name}", f"{type(problem).__name__}: {problem}")
    return REPORT.finish()


if __name__ == "__main__":
    sys.exit(main())
