#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""./bench itself: what it refuses, how it judges, and that a short run of it has its rows, its CSV and its picture. No figure is judged here."""
import csv
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

from report import Report
from vm import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import show  # noqa: E402
from figures import Figure, Results, beside_floor, beside_serial, bounded, quotient, total  # noqa: E402
from rows_running import compare, interval  # noqa: E402

REPORT = Report()
ROWS = {"2", "6", "7", "8"}  # every way of measuring: packets, libvmkd, counters, prints


def bench(*arguments):
    return subprocess.run([sys.executable, ROOT / "benchmarks" / "bench.py", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def refusals(folder):
    for words in (["--rows", "0"], ["--rows", "1,x"], ["--readme", "--quick"], ["--readme", "--rows", "7"], ["--fast"]):
        done = bench(*words, "--out", folder)
        REPORT.check(f"refused: {' '.join(words)}", done.returncode == 2 and "./bench: error: " in done.stderr, done.stderr[-300:])
    page = folder / "page.md"
    page.write_text("no place for figures\n")
    try:
        show.renew(page, "figures")
        REPORT.fail("refused: a page without marks", page.read_text())
    except RuntimeError:
        REPORT.check("refused: a page without marks", page.read_text() == "no place for figures\n")


def judgements():
    floor, value = Figure("floor", [10, 10, 40], "us"), Figure("value", [12, 13, 44], "us")
    REPORT.check("a ratio is of the runs that belong together", quotient("r", value, floor).median == 1.2)
    REPORT.check("a floor kept", beside_floor("1", "w", "c", value, floor, 1.25).met is True)
    REPORT.check("a floor missed", beside_floor("1", "w", "c", value, floor, 1.1).met is False)
    REPORT.check("no aim, no verdict", beside_floor("1", "w", "c", value, floor).verdict() == "stated")
    REPORT.check("an interpreted guest's time is not judged", beside_floor("1", "w", "c", value, floor, 1.1, shown=False).met is None)
    REPORT.check("its counts are", bounded("7", "w", "c", Figure("calls", [3], "a second"), 2, shown=False).met is False)
    serial = Figure("serial", [1000], "us")
    REPORT.check("faster than serial, a time", beside_serial("1", "w", "c", value, serial, 70).met is True)
    REPORT.check("not fast enough, a rate", beside_serial("3", "w", "c", Figure("v", [99], "KB/s"), Figure("s", [1], "KB/s"), 100).met is False)
    REPORT.check("the worst counts where each must keep the limit", bounded("11", "w", "c", Figure("v", [1, 1, 9], "ms"), 8, worst=True).met is False)
    REPORT.check("sums run by run, a single figure by its median", total("t", floor, Figure("x", [1, 3, 2, 2, 2], "us")).values == [11, 13, 12, 12, 12])


def differences():
    plain = Figure("plain", [100] * 12, "us")
    slower = Figure("loaded", [101, 102, 103, 101, 102, 104, 101, 102, 103, 101, 102, 101], "us")
    noisy = Figure("loaded", [99, 102, 98, 101, 97, 104, 99, 102, 98, 101, 97, 103], "us")
    REPORT.check("a small steady difference is found", compare("12", "w", "c", plain, slower)[0].met is False)
    REPORT.check("noise is no difference", compare("12", "w", "c", plain, noisy)[0].met is True)
    low, high = interval([float(n) for n in range(1, 13)])
    REPORT.check("the interval of twelve runs is their third to tenth", (low, high) == (3, 10), f"{low} .. {high}")


def nothing_hidden():
    results = Results()
    value = Figure("reads", [5, 6], "us")
    results.add(beside_floor("2", "a read", "KVM hook", value, Figure("echo", [5, 5], "us"), 1, shown=False))
    results.lacks("9", "no KVM")
    REPORT.check("the README shows nothing of a software KVM", "a read" not in show.markdown(results, "facts"))
    REPORT.check("the table shows it, with the remark", "software KVM" in show.table(results, True))
    REPORT.check("a row that is missing is named", "9. not measured: no KVM" in show.table(results, True))


def short_run(folder):
    done = bench("--quick", "--tcg", "--rows", ",".join(sorted(ROWS)), "--out", folder)
    if not REPORT.check("a short run", done.returncode == 0, (done.stdout + done.stderr)[-1500:]):
        return
    REPORT.check("the table is printed and kept", (folder / "bench.txt").read_text() in done.stdout)
    with open(folder / "bench.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["row"] for row in rows}
    REPORT.check("every row has values", ROWS <= found, f"rows {sorted(found)}")
    REPORT.check("every value is a number", all(float(row["value"]) >= 0 for row in rows if row["row"]))
    picture = xml.etree.ElementTree.parse(folder / "bench.svg").getroot()
    REPORT.check("the picture is a picture", picture.tag.endswith("svg"))
    text = "".join(picture.itertext())
    REPORT.check("the picture names what it shows", "4-byte read, from RAM" in text and "DbgPrint" in text, text[:500])


def main():
    with tempfile.TemporaryDirectory(prefix="vmkd-test-") as folder:
        refusals(Path(folder))
        judgements()
        differences()
        nothing_hidden()
        short_run(Path(folder))
    REPORT.exit()


if __name__ == "__main__":
    main()
