#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the libFuzzer targets and runs each one from its seeds: `--runs N` executions each, or `--seconds S` shared out among them.
What a fuzzer finds is kept in build/fuzz/found/; put it into the folder of seeds with the fix."""
import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path

from report import Report

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "fuzz"
INPUT_TIMEOUT_S = 60  # libFuzzer's own: an input that takes so long is a hang


def seeds_of(name):
    """<folder>/fuzz/NAME/ of whichever folder the target belongs to."""
    return [p for p in ROOT.glob(f"*/fuzz/{name}") if p.is_dir()] + [p for p in ROOT.glob(f"*/*/fuzz/{name}") if p.is_dir()]


def run(program, limit):
    corpus, found = WORK / "corpus" / program.name, WORK / "found" / program.name
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    seeds = seeds_of(program.name)
    command = [program, *limit, f"-timeout={INPUT_TIMEOUT_S}", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1",
               f"-artifact_prefix={found}/", corpus, *seeds]
    result = subprocess.run([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            errors="replace", env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"})
    return result.returncode, result.stdout + result.stderr, len(seeds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20000)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    report = Report()
    build = subprocess.run(["make", "--no-print-directory", f"-j{os.cpu_count() or 2}", "fuzz"], cwd=ROOT)
    if build.returncode:
        report.fail("fuzz", "the targets do not build")
        return report.finish()
    listed = subprocess.run(["make", "--no-print-directory", "-s", "list-fuzzers"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split()
    programs = [ROOT / p for p in listed if not args.names or Path(p).name in args.names]
    if not programs:
        report.fail("fuzz", "there is no target")
    workers = os.cpu_count() or 2
    limit = [f"-max_total_time={max(1, args.seconds * workers // max(1, len(programs)))}"] if args.seconds else [f"-runs={args.runs}"]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda program: (program, *run(program, limit)), programs)
    for program, status, text, seed_folders in results:
        print(f"---- {program.name}\n{text}")
        executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
        report.check(f"{program.name}: seeds", seed_folders > 0, f"no folder */fuzz/{program.name}/")
        report.check(f"{program.name}: {executed.group(1) if executed else '?'} inputs", status == 0 and executed is not None,
                     f"exit status {status}, input kept in build/fuzz/found/{program.name}/")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
