#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""wire/ and its self tests as a 32-bit Linux program (SysV ABI: 64-bit fields align to 4 there, unlike in mingw), by gcc -m32."""
import subprocess
import sys
from pathlib import Path

from report import Report

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "m32"
MAIN = """// SPDX-License-Identifier: MIT
#include <stdio.h>
#include "wire/selftest.h"
static void log_line(const char *line) { puts(line); }
int main(void) { return wire_selftest(log_line) != 0; }
"""


def main():
    report = Report()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "main.c").write_text(MAIN)
    probe = subprocess.run(["gcc", "-m32", "-x", "c", "-o", OUT / "probe", "-"], input="#include <stdio.h>\nint main(void) { return 0; }",
                           text=True, capture_output=True)
    if probe.returncode:
        report.skip("wire as a 32-bit program", "gcc cannot make 32-bit programs here (package gcc-multilib)")
        return report.finish()
    sources = [p for p in sorted((ROOT / "wire").glob("*.c")) if not p.stem.endswith(("_test", "_dll", "_fuzz"))]
    build = subprocess.run(["gcc", "-m32", "-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wsign-conversion", "-I.",
                            "-o", OUT / "wire", OUT / "main.c", *sources], cwd=ROOT)
    if build.returncode:
        report.fail("wire as a 32-bit program", "does not build")
        return report.finish()
    run = subprocess.run([OUT / "wire"], capture_output=True, text=True, timeout=600)
    for line in run.stdout.splitlines():
        if line.startswith("ok "):
            report.ok(f"m32: {line[3:]}")
        elif line.startswith("not ok "):
            report.fail("m32", line[7:])
    report.check("m32: exit status", run.returncode == 0, f"{run.returncode}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
