# SPDX-License-Identifier: MIT
"""What ./bench has measured: figures with their spread, lines that judge them, and the forms they are shown in."""
import csv
import statistics


class Figure:
    """One measured quantity: every single value, in `unit`."""

    def __init__(self, name, values, unit):
        self.name, self.unit = name, unit
        self.values = [float(v) for v in values]
        if not self.values:
            raise RuntimeError(f"nothing was measured: {name}")

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def low(self):
        return min(self.values)

    @property
    def high(self):
        return max(self.values)

    def scaled(self, factor, unit, name=None):
        return Figure(name or self.name, [v * factor for v in self.values], unit)

    def text(self):
        return f"{number(self.median)} {self.unit}".rstrip()

    def spread(self):
        return "" if len(self.values) == 1 else f"{number(self.low)} .. {number(self.high)}"


def number(value):
    """Three digits that mean something."""
    size = abs(value)
    if size == 0 or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def us(name, nanoseconds):
    return Figure(name, [v / 1e3 for v in nanoseconds], "us")


def ms(name, nanoseconds):
    return Figure(name, [v / 1e6 for v in nanoseconds], "ms")


def rate(name, size, nanoseconds, unit="KB/s"):
    """Bytes in each of so many nanoseconds."""
    scale = {"KB/s": 1 << 10, "MB/s": 1 << 20, "GB/s": 1 << 30}[unit]
    return Figure(name, [size / scale / (v / 1e9) for v in nanoseconds], unit)


def per_second(name, nanoseconds, unit):
    return Figure(name, [1e9 / v for v in nanoseconds], unit)


def total(name, *figures):
    """Sums of figures of one unit, run by run (a figure with fewer runs stands with its median)."""
    runs = max(len(f.values) for f in figures)
    columns = [f.values if len(f.values) == runs else [f.median] * runs for f in figures]
    return Figure(name, [sum(row) for row in zip(*columns)], figures[0].unit)


def quotient(name, over, under):
    """over / under: run by run where both were measured in turn, so that a slow moment hits both; else of the medians."""
    if len(over.values) == len(under.values):
        return Figure(name, [a / b for a, b in zip(over.values, under.values)], "x")
    return Figure(name, [over.median / under.median], "x")


class Line:
    """One line of the table: what was measured, beside what, and whether the aim is reached.

    row: number in docs/performance.md. ratio: a Figure in "x", or None. aim: words; met: True, False, None (stated only).
    kind: "floor", "serial" or "bound", what the aim is about, which is `limit`. shown: may stand in the README, which nothing may that a software
    KVM has had a part in. is_guests: the guest executes something meanwhile. is_worst: the aim is about every single value.
    """

    def __init__(self, row, what, config, value, reference=None, ratio=None, aim="stated", met=None, kind="", remark="", shown=True, limit=None,
                 is_guests=True, is_worst=False):
        self.row, self.what, self.config, self.value = row, what, config, value
        self.reference, self.ratio, self.aim, self.met = reference, ratio, aim, met
        self.kind, self.remark, self.shown, self.limit = kind, remark, shown, limit
        self.is_guests, self.is_worst = is_guests, is_worst
        if not shown and is_guests and kind in ("floor", "serial"):
            self.met = None  # a software KVM interprets the guest: its times are stated, its counts are judged

    def verdict(self):
        return "stated" if self.met is None else "met" if self.met else "NOT MET"


def beside_floor(row, what, config, value, floor, at_most=None, **more):
    """A time beside its floor: ratio = value / floor, `at_most` is the aim."""
    ratio = quotient(f"{what}, {config}: times {floor.name}", value, floor)
    aim = f"<= {at_most:g}x" if at_most else "stated"
    return Line(row, what, config, value, floor, ratio, aim, ratio.median <= at_most if at_most else None, "floor", limit=at_most, **more)


def beside_serial(row, what, config, value, serial, at_least=None, **more):
    """Beside the yardstick: ratio = how many times faster, for times and for rates."""
    is_time = value.unit in ("us", "ms", "ns")
    over, under = (serial, value) if is_time else (value, serial)
    ratio = Figure(f"{what}, {config}: times faster than serial", [over.median / under.median], "x")
    aim = f">= {at_least:g}x serial" if at_least else "stated"
    return Line(row, what, config, value, serial, ratio, aim, ratio.median >= at_least if at_least else None, "serial", limit=at_least, **more)


def bounded(row, what, config, value, limit, words=None, worst=False, **more):
    """A count or a time with a limit. worst: every single value has to keep it, not only the median."""
    reached = value.high if worst else value.median
    return Line(row, what, config, value, aim=words or f"<= {limit:g} {value.unit}".rstrip(), met=reached <= limit, kind="bound", limit=limit, is_worst=worst, **more)


def stated(row, what, config, value, reference=None, ratio=None, **more):
    return Line(row, what, config, value, reference, ratio, kind="stated", **more)


class Results:
    """Everything of one run: the lines, and every figure for the CSV."""

    def __init__(self):
        self.lines, self.figures, self.missing, self.has_failed = [], [], [], False

    def add(self, *lines):
        for line in lines:
            self.lines.append(line)
            for figure in (line.value, line.reference, line.ratio):
                if figure is not None:
                    self.keep(line.row, line.config, figure)

    def keep(self, row, config, figure):
        if not any(f is figure for _, _, f in self.figures):
            self.figures.append((row, config, figure))

    def lacks(self, row, why, is_failure=False):
        """A row that cannot be measured here, or whose measurement has failed, is said, too."""
        self.missing.append((row, why))
        self.has_failed |= is_failure

    def write_csv(self, path, facts):
        with open(path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["row", "config", "metric", "unit", "run", "value"])
            for name, value in facts:
                rows.writerow(["", "host", name, "", "", value])
            for row, config, figure in self.figures:
                for run, value in enumerate(figure.values, 1):
                    rows.writerow([row, config, figure.name, figure.unit, run, f"{value:.6g}"])
