#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs every unit test program of one build folder: tests/units.py build [VARIABLE=VALUE of make…] [NAME…], or -NAME: all but that. The tests of cmocka and lines
`ok NAME`, `not ok NAME` are counted one by one; a program that prints neither counts as one test by its exit status."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from report import Report

ROOT = Path(__file__).resolve().parent.parent
HANG_GUARD_S = 300  # several hundred times what a test takes
SAID_OK = re.compile(r"^(?:\[       OK \]|ok) (.+)$", re.M)
SAID_FAILED = re.compile(r"^(?:\[  FAILED  \] ([A-Za-z_]\w*)$|not ok (.+)$)", re.M)
SAID_SKIPPED = re.compile(r"^\[  SKIPPED \] (\S+)$", re.M)
SKIPPED = 77  # exit status of a program that can test nothing here
SANITIZER = re.compile(r"(ERROR: \w+Sanitizer|runtime error:).*")


def programs(out, variables, names):
    listed = subprocess.run(["make", "--no-print-directory", "-s", f"O={out}", *variables, "list-tests"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split()
    wanted = [n for n in names if not n.startswith("-")]
    return [ROOT / p for p in listed if (not wanted or Path(p).name in wanted) and f"-{Path(p).name}" not in names]


def run(program):
    """(exit status, output); the status is negative for a signal, None for a hang."""
    env = {**os.environ, "CMOCKA_MESSAGE_OUTPUT": "STDOUT", "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
           "UBSAN_OPTIONS": "print_stacktrace=1"}
    process = subprocess.Popen([program], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True, env=env)
    try:
        text, _ = process.communicate(timeout=HANG_GUARD_S)
        return process.returncode, text.decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return None, text.decode(errors="replace")


def why(status, text):
    sanitizer = SANITIZER.search(text)
    if status is None:
        return f"hung for {HANG_GUARD_S} s"
    if sanitizer:
        return sanitizer.group()[:160]
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def one(program, report):
    name = program.name
    if not program.is_file():
        report.fail(name, f"{program.relative_to(ROOT)} was not built")
        return
    status, text = run(program)
    print(f"---- {name}\n{text}")
    for test in SAID_OK.findall(text):
        report.ok(f"{name}/{test}")
    for test in set(SAID_SKIPPED.findall(text)):
        report.skip(f"{name}/{test}", "see its output")
    failed = sorted({a or b for a, b in SAID_FAILED.findall(text)})
    for test in failed:
        report.fail(f"{name}/{test}", "see its output")
    if status == SKIPPED:
        report.skip(name, text.strip().splitlines()[-1] if text.strip() else "it says not why")
    elif status != 0 and not failed:
        report.fail(name, why(status, text))
    elif status == 0 and not SAID_OK.search(text):
        report.ok(name)


def main():
    out, variables, names = sys.argv[1], [a for a in sys.argv[2:] if "=" in a], [a for a in sys.argv[2:] if "=" not in a]
    report = Report()
    found = programs(out, variables, names)
    if not found:
        report.fail("unit tests", f"no test program in {out}/tests")
    for program in found:
        one(program, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
