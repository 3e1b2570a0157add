"""tests/bench/lib/plot.py - ratios to native as a picture: bars with their range, by gnuplot."""

import pathlib
import shutil
import subprocess

from command import Failed
from rounds import median, ratios

SETTINGS = """\
set terminal pngcairo size {width},480 font 'sans,10'
set output '{out}'
set title '{title}'
set style data histogram
set style histogram errorbars gap 1 lw 1
set style fill solid 0.7 border -1
set boxwidth 0.9
set ylabel 'ratio to the native directory'
set yrange [0:*<1.5]
set grid ytics
set key outside top center horizontal
set xtics rotate by -35
set arrow from graph 0, first 1 to graph 1, first 1 nohead dt 2 lw 1
plot {curves}
"""


def quoted(text):
    return text.replace("\\", "").replace("'", "").replace("_", " ")


def script(out, title, results, names, cell="cell", key="iops"):
    """gnuplot's commands: one group of bars for each cell, one bar for each of `names` but native."""
    cells = list(dict.fromkeys(r[cell] for r in results))
    others = [n for n in names if n != "native"]
    blocks = []
    for n in others:
        lines = []
        for c in cells:
            v = ratios([r for r in results if r[cell] == c], n, key)
            lines.append(f'"{quoted(str(c))}" {median(v):.3f} {min(v):.3f} {max(v):.3f}' if v else f'"{quoted(str(c))}" - - -')
        blocks.append(f"$d{len(blocks)} << EOD\n" + "\n".join(lines) + "\nEOD\n")
    curves = ", ".join(f"$d{i} using 2:3:4:xtic(1) title '{quoted(n)}'" for i, n in enumerate(others))
    return "set datafile missing '-'\n" + "".join(blocks) + SETTINGS.format(
        width=max(640, 60 * len(cells) * max(1, len(others) // 2)), out=quoted_path(out), title=quoted(title), curves=curves)


def draw(out, *a, **kw):
    """As script(); the picture is written to out."""
    if not shutil.which("gnuplot"):
        raise Failed("gnuplot is missing: tools/install-deps bench")
    out = pathlib.Path(out)
    r = subprocess.run(["gnuplot"], input=script(out, *a, **kw), text=True, capture_output=True, errors="replace")
    if r.returncode or not out.exists():
        raise Failed(f"gnuplot: {r.stderr.strip()[-500:]}")


def quoted_path(path):
    if "'" in str(path):
        raise Failed(f"a name with a quote cannot be drawn to: {path}")
    return str(path)
