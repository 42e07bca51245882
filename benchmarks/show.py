# SPDX-License-Identifier: MIT
"""The forms of a run's results: the table, the README's figures, the picture."""
import re
import subprocess
import tempfile
from pathlib import Path

from figures import number

ROWS = {
    "1": "4-byte read answered by the guest, KDCOM socket", "2": "the same, answered from RAM",
    "3": "1 to 64 MiB in requests of 3944 bytes, from RAM", "4": "the same, answered by the guest",
    "5": "bulk read through libvmkd", "6": "4 KiB read through libvmkd", "7": "an idle guest", "8": "DbgPrint flat out",
    "9": "broken in, hook", "10": "broken in, debugcon", "11": "break-in request to stopped", "12": "library without a guest module",
    "13": "one more client, and the 16th", "14": "what shared memory costs the guest",
}


def order(row):
    return int(row) if row.isdigit() else 0


def ratio_text(line):
    if line.ratio is None:
        return ""
    return number(line.ratio.median) + "x"


def cells(line):
    spread = line.value.spread()
    reference = f"{line.reference.name} {line.reference.text()}" + (f" ({line.reference.spread()})" if line.reference.spread() else "") if line.reference else ""
    return (ratio_text(line), f"({line.ratio.spread()})" if line.ratio and line.ratio.spread() else "", line.verdict(), line.aim,
            f"{line.what} [{line.config}]", line.value.text() + (f" ({spread})" if spread else ""), reference, line.remark)


def table(results, software_kvm):
    """Text: under each row's title its lines, ratios first."""
    lines = []
    by_row = {}
    for line in results.lines:
        by_row.setdefault(line.row, []).append(line)
    for row in sorted(by_row, key=order):
        lines.append(f"{row}. {ROWS.get(row, row)}")
        for line in by_row[row]:
            ratio, spread, verdict, aim, what, value, reference, remark = cells(line)
            if software_kvm and not line.shown:
                note = "software KVM: says nothing about real hardware" if line.is_guests else "software KVM, which has no part in this"
                remark = "; ".join(filter(None, (remark, note)))
            lines.append(f"  {ratio:>8} {spread:20} {verdict:8} {what}: {value}")
            detail = "; ".join(filter(None, (f"aim {aim}" if aim != "stated" else "", f"beside {reference}" if reference else "", remark)))
            if detail:
                lines.append(f"  {'':38} {detail}")
    for row, why in results.missing:
        lines.append(f"{row}. not measured: {why}")
    judged = [line for line in results.lines if line.met is not None]
    lines.append(f"{sum(line.met for line in judged)} of {len(judged)} aims met" +
                 "".join(f"\n  NOT MET: {line.row}. {line.what} [{line.config}]" for line in judged if not line.met))
    return "\n".join(lines)


def markdown(results, facts, is_brief=False):
    """The figures that may be shown: nothing that a software KVM has executed. Brief: what has an aim."""
    rows = ["| | what | where | measured | beside | ratio | aim | |", "|--:|---|---|--:|--:|--:|---|---|"]
    lines = [line for line in results.lines if line.shown and not (is_brief and line.met is None)]
    for line in sorted(lines, key=lambda l: order(l.row)):
        reference = f"{line.reference.name} {line.reference.text()}" if line.reference else ""
        value = line.value.text() + (f", at most {number(line.value.high)}" if line.is_worst else "")
        rows.append(f"| {line.row} | {line.what} | {line.config} | {value} | {reference} | {ratio_text(line)} | "
                    f"{line.aim if line.met is not None else ''} | {line.verdict()} |")
    return "\n".join(rows + ["", facts])


def renew(path, text):
    """Puts the text between the page's marks."""
    page = path.read_text()
    new, count = re.subn(r"(<!-- bench -->\n).*?(<!-- /bench -->)", lambda m: m.group(1) + text + "\n" + m.group(2), page, flags=re.S)
    if count != 1:
        raise RuntimeError(f"{path.name} has no place for figures (<!-- bench --> ... <!-- /bench -->)")
    path.write_text(new)


# ---- the picture ---------------------------------------------------------------------------------------------------

GNUPLOT = """set terminal {terminal}
set output '{output}'
set multiplot
set border 1 lc rgb '#767676'
set style fill solid 1.0 noborder
set logscale x
set grid xtics lc rgb '#d8d8d8' lt 1 lw 0.5
set ytics nomirror scale 0 textcolor rgb '#1a1a1a'
set xtics nomirror textcolor rgb '#1a1a1a'
unset key
set lmargin at screen 0.36
set rmargin at screen 0.90
{panels}
unset multiplot
"""

# A bar from the axis to the ratio, a black mark for the aim, the ratio in a column of its own at the right.
PANEL = """set title '{title}' textcolor rgb '#1a1a1a'
set xrange [{low}:{high}]
set yrange [{bottom}:-0.6]
set tmargin at screen {upper}
set bmargin at screen {lower}
$bars << END
{bars}
END
plot $bars using ({low}):0:({low}):($2):($0-0.31):($0+0.31):ytic(1) with boxxyerror lc rgb '{color}', \\
     $bars using ($3 > 0 ? $3 : NaN):($0-0.42):(0):(0.84) with vectors nohead lc rgb '#1a1a1a' lw 2.5, \\
     $bars using ({high}):0:4 with labels left offset 1,0 textcolor rgb '#1a1a1a'
"""
BAR_PIXELS, PANEL_PIXELS = 30, 90


def panel(title, lines, color, from_top, height, least):
    """One group of bars, from_top pixels below the picture's upper edge."""
    ratios = [line.ratio.median for line in lines] + [line.limit for line in lines if line.limit]
    bars = [f'"{line.what}" {line.ratio.median:.4g} {line.limit or 0:.4g} "{ratio_text(line)}"' for line in lines]
    upper = 1 - (from_top + 40) / height
    return PANEL.format(title=title, low=f"{min(least, min(ratios) / 1.5):.4g}", high=f"{max(ratios) * 1.5:.4g}", bottom=len(lines) - 0.4,
                        upper=f"{upper:.4f}", lower=f"{upper - len(lines) * BAR_PIXELS / height:.4f}", bars="\n".join(bars), color=color)


def chosen(results, kind):
    """What the picture shows: what a README may show, one line for each measure; of the floors those with an aim."""
    picked = {}
    for line in results.lines:
        if line.kind == kind and line.shown and line.ratio and (kind == "serial" or line.limit):
            picked.setdefault(line.what, line)
    return list(picked.values())


def plot(results, path, terminal=None):
    """Writes the picture with gnuplot. -> False when there is nothing to draw."""
    faster, floors = chosen(results, "serial"), chosen(results, "floor")
    if not faster or not floors:
        return False
    first = PANEL_PIXELS + BAR_PIXELS * len(faster)
    height = first + PANEL_PIXELS + BAR_PIXELS * len(floors)
    panels = panel("times faster than the serial port, under TCG with one vCPU (mark: aim, at least)", faster, "#2a78b5", 0, height, 1) + \
        panel("times its floor, measured in the same run (mark: aim, at most)", floors, "#c96a1f", first, height, 0.5)
    terminal = (terminal or "svg size 960,{height} font 'Helvetica,13' background rgb '#ffffff'").format(height=height)
    script = GNUPLOT.format(terminal=terminal, output=path, panels=panels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.gp"
        file.write_text(script)
        done = subprocess.run(["gnuplot", file], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gnuplot: {done.stderr.strip()}")
    return True
