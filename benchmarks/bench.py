#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures every row of docs/performance.md beside its floor in one run. Called by ./bench."""
import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import rows_memory
import rows_packets
import rows_running
import show
from figures import Results
from machines import BUILD, ROOT, kvm
from vm import Hang

# Rows that are measured together, in the order in which they are run.
PARTS = [
    ((1, 2, 3, 4), rows_packets.measure),
    ((5, 6), rows_memory.measure_reads),
    ((7,), rows_running.measure_idle),
    ((8,), rows_running.measure_prints),
    ((9, 10), rows_running.measure_stopped),
    ((11,), rows_running.measure_break_in),
    ((12,), rows_running.measure_bystander),
    ((13,), rows_memory.measure_clients),
    ((14,), rows_memory.measure_shared),
]
ALL_ROWS = [row for rows, _ in PARTS for row in rows]


class Bench:
    """What the parts need to know of this run."""

    def __init__(self, quick, rows, kvm_kind):
        self.quick, self.rows, self.kvm = quick, rows, kvm_kind
        self.runs = 3 if quick else 7

    def wants(self, *rows):
        return any(row in self.rows for row in rows)

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def row_list(text):
    rows = [int(word) if word.isdigit() else 0 for word in text.split(",")]
    if not all(row in ALL_ROWS for row in rows):
        raise argparse.ArgumentTypeError(f"rows are numbers from {ALL_ROWS[0]} to {ALL_ROWS[-1]} with commas between, got '{text}'")
    return rows


def options():
    parser = argparse.ArgumentParser(prog="./bench", description="measures vmkd beside floors and the serial yardstick; rows: docs/performance.md")
    parser.add_argument("--quick", action="store_true", help="fewer runs and less data: for a look, not for figures")
    parser.add_argument("--tcg", action="store_true", help="leave out what needs KVM")
    parser.add_argument("--rows", type=row_list, default=ALL_ROWS, metavar="N,M", help="these rows only")
    parser.add_argument("--readme", action="store_true", help="renew the figures in README.md and docs/performance.md and the picture docs/bench.svg")
    parser.add_argument("--out", type=Path, default=BUILD / "bench", metavar="FOLDER", help="where the table, the CSV and the picture go (build/bench)")
    given = parser.parse_args()
    if given.readme and (given.rows != ALL_ROWS or given.tcg or given.quick):
        parser.error("--readme needs every row, measured properly: without --quick, --tcg, --rows")
    return given


def host_facts(kind, remark):
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    private, shared = rows_memory.huge_pages()
    return [("cpu", cpu.group(1).strip() if cpu else platform.machine()), ("cpus", os.cpu_count()), ("kernel", platform.release()),
            ("kvm", f"{kind} {remark}".strip()), ("huge pages, private", private), ("huge pages, shared", shared)]


def measure(bench):
    results = Results()
    for rows, part in PARTS:
        if not bench.wants(*rows):
            continue
        try:
            part(bench, results)
        except (Hang, RuntimeError, OSError, KeyError, subprocess.TimeoutExpired) as problem:
            # The other rows are still worth having, and this one says why it is missing.
            results.lacks(", ".join(str(row) for row in rows if row in bench.rows), f"{type(problem).__name__}: {problem}", is_failure=True)
    results.lines = [line for line in results.lines if int(line.row) in bench.rows]
    return results


def renew_pages(results, facts, bench):
    known = dict(facts)
    text = (f"Medians of {bench.runs} runs; test kernel x64, one vCPU unless stated; {known['cpus']} host CPUs ({known['cpu']}), Linux {known['kernel']}, "
            f"{datetime.date.today().isoformat()}. `./bench` measures it again; spreads and every single value are in its table and its CSV.")
    for page in ("README.md", "docs/performance.md"):
        show.renew(ROOT / page, show.markdown(results, text, is_brief=page == "README.md"))
        print(f"renewed {page}")
    if show.plot(results, ROOT / "docs" / "bench.svg"):
        print("renewed docs/bench.svg")


def main():
    given = options()
    given.out.mkdir(parents=True, exist_ok=True)
    kind, remark = ("missing", "left out") if given.tcg else kvm()
    bench = Bench(given.quick, given.rows, kind)
    facts = host_facts(kind, remark)
    results = measure(bench)
    text = "\n".join([*(f"{name}: {value}" for name, value in facts), show.table(results, kind == "software")])
    (given.out / "bench.txt").write_text(text + "\n")
    results.write_csv(given.out / "bench.csv", facts)
    print(text)
    drawn = show.plot(results, given.out / "bench.svg")
    print(f"{given.out}: bench.txt, bench.csv{', bench.svg' if drawn else ''}")
    if given.readme:
        if results.has_failed:
            print("./bench: a measurement failed (above); README.md and docs/performance.md stay as they were", file=sys.stderr)
            return 1
        renew_pages(results, facts, bench)
    return 1 if results.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
