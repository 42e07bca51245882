# SPDX-License-Identifier: MIT
"""What every test script of ours prints: `ok NAME`, `FAIL NAME: why`, `skip NAME: what was missing`, and at the end
`N passed, N failed, N skipped`, which ./check adds up."""
import sys


class Report:
    """Counts results while printing them. finish() gives the exit status."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def ok(self, name):
        self.passed += 1
        print(f"ok {name}", flush=True)

    def fail(self, name, why):
        self.failed += 1
        print(f"FAIL {name}: {why}", flush=True)

    def skip(self, name, missing):
        self.skipped += 1
        print(f"skip {name}: {missing}", flush=True)

    def check(self, name, condition, why=""):
        """ok or FAIL by condition; returns it."""
        if condition:
            self.ok(name)
        else:
            self.fail(name, why or "condition does not hold")
        return condition

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed else 0

    def exit(self):
        sys.exit(self.finish())
