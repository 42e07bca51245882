#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Proves that the tests notice small faults: applies each one of tests/mutants/*.txt alone to a copy of the tree in build/mutants/,
rebuilds, and expects one of the named unit tests to fail.

    ./check --mutants            all
    tests/mutants.py WORD…       those whose names contain one of the words

A mutant that no test notices is a failure, and so is one that no longer applies or does not compile. Format of an entry:

    [name]                       one line of what goes wrong, as the name
    file wire/kdcom.c
    test kdcom_test              unit test programs of `make tests` (several allowed), or scripts with a pattern for their
                                 cases: tests/test_package.py:pages
    - the line(s) as they stand  must stand exactly once; leading blanks do not count
    + what replaces them         nothing = the lines go
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from report import Report
from tree import files

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutants"
LISTS = ROOT / "tests" / "mutants"
AT_LEAST = 25
HANG_GUARD_S = 120  # a mutant may hang a test: that is noticed too


class Mutant:
    def __init__(self, name, where):
        self.name, self.where = name, where
        self.file, self.tests, self.old, self.new = None, [], [], []


def parse(path):
    mutants, current = [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        heading = re.fullmatch(r"\[(.+)\]", line)
        if heading:
            current = Mutant(heading.group(1), f"{path.name}:{number}")
            mutants.append(current)
        elif line.startswith("file "):
            current.file = line[5:].strip()
        elif line.startswith("test "):
            current.tests += line[5:].split()
        elif line[0] in "-+":
            (current.old if line[0] == "-" else current.new).append(line[1:].strip())
        else:
            sys.exit(f"{path.name}:{number}: cannot read '{line}'")
    return mutants


def apply(mutant, text):
    """The text with the fault in it, or None when the old lines do not stand there exactly once."""
    lines = text.split("\n")
    bare = [l.strip() for l in lines]
    size = len(mutant.old)
    places = [i for i in range(len(bare) - size + 1) if bare[i:i + size] == mutant.old]
    if size == 0 or len(places) != 1:
        return None
    indent = re.match(r"\s*", lines[places[0]]).group()
    return "\n".join(lines[:places[0]] + [indent + l for l in mutant.new] + lines[places[0] + size:])


def copy_tree():
    """Brings the copy in line with the tree; unchanged files keep their time, so objects stay valid."""
    names = {str(path) for path in files()}
    COPY.mkdir(parents=True, exist_ok=True)
    for name in names:
        source, target = ROOT / name, COPY / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for path in [p for p in COPY.rglob("*") if p.is_file()]:
        relative = path.relative_to(COPY)
        if relative.parts[0] != "build" and str(relative) not in names:
            path.unlink()


def make(targets):
    result = subprocess.run(["make", "--no-print-directory", f"-j{os.cpu_count() or 2}", "OPT=-O1", "WARN=-w", *targets], cwd=COPY,
                            capture_output=True, text=True)
    return result.returncode == 0, result.stdout + result.stderr


SKIPPED = 77  # what a test returns that could test nothing here (no KVM)


def targets_of(tests):
    """What make has to build for them; scripts use what a user runs."""
    programs = [f"build/tests/{t}" for t in tests if not t.startswith("tests/")]
    return programs + (["all", "man", "guest-iso", "build/tests/medium-stub.exe"] if len(programs) < len(tests) else [])


def command(test):
    return [sys.executable, *test.split(":")] if test.startswith("tests/") else [COPY / "build" / "tests" / test]


def result(test):
    """"passed", "failed" or "skipped"; a hang is a failure."""
    process = subprocess.Popen(command(test), cwd=COPY, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return {0: "passed", SKIPPED: "skipped"}.get(process.wait(HANG_GUARD_S), "failed")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "failed"


def write(path, text):
    """Writes and makes sure that make sees a newer file, whatever the clock's grain."""
    path.write_text(text)
    now = time.time() + 1
    os.utime(path, (now, now))


def try_mutant(mutant, report):
    path = COPY / mutant.file
    name = f"mutant {mutant.name}"
    if not path.is_file():
        report.fail(name, f"{mutant.where}: no file {mutant.file}")
        return
    original = path.read_text()
    changed = apply(mutant, original)
    if changed is None:
        report.fail(name, f"{mutant.where}: does not apply to {mutant.file}: bring it up to date")
        return
    try:
        write(path, changed)
        built, output = make(targets_of(mutant.tests))
        if not built:
            print(output[-2000:])
            report.fail(name, f"{mutant.where}: does not compile, which proves nothing")
            return
        results = [result(t) for t in mutant.tests]
        if "failed" in results:
            report.ok(name)
        elif "skipped" in results:
            report.skip(name, f"{' '.join(mutant.tests)} can test nothing here (KVM?)")
        else:
            report.fail(name, f"{mutant.where}: SURVIVED {' '.join(mutant.tests)}")
    finally:
        write(path, original)


def main():
    report = Report()
    mutants = [m for path in sorted(LISTS.glob("*.txt")) for m in parse(path)]
    report.check(f"{len(mutants)} mutants, at least {AT_LEAST}", len(mutants) >= AT_LEAST, "too few")
    wanted = [m for m in mutants if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    copy_tree()
    tests = sorted({t for m in wanted for t in m.tests})
    built, output = make(targets_of(tests))
    if not built:
        print(output[-4000:])
        report.fail("mutants", "the unmodified copy does not build")
        return report.finish()
    red = [t for t in tests if result(t) == "failed"]
    if red:
        report.fail("mutants", f"without any fault these fail already: {' '.join(red)}")
        return report.finish()
    for mutant in wanted:
        try_mutant(mutant, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
