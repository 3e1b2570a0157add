"""tests/bench/lib/rounds.py - interleaved rounds, ratios with their spread, tables and JSON."""

import json
import math
import os
import platform
import statistics
import time


def interleave(names, rounds, cells=None):
    """The names once a round, every second round the one before backwards, and each pair of rounds rotated, so that drift of
    the machine and what the one before leaves behind meet each alike. With cells: (round, cell, name), in each round all
    cells, and the names of each one after the other."""
    for n in range(rounds):
        k = (n - n % 2) % len(names)
        order = [*names[k:], *names[:k]]
        if n % 2:
            order.reverse()
        yield from ((n, name) for name in order) if cells is None else ((n, c, name) for c in cells for name in order)


def ratios(results, name, key="iops", base="native"):
    """name : native of each round, in rounds' order."""
    a = {r["round"]: r[key] for r in results if r["view"] == name}
    b = {r["round"]: r[key] for r in results if r["view"] == base}
    return [a[n] / b[n] for n in sorted(a) if n in b and b[n] > 0]


def median(values):
    return statistics.median(values) if values else math.nan


def geometric_mean(values):
    values = [v for v in values if v > 0]
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else math.nan


def percentile(values, p):
    """Nearest rank."""
    values = sorted(values)
    return values[max(0, math.ceil(len(values) * p / 100) - 1)] if values else math.nan


def spread(values):
    """median [lowest .. highest]"""
    return f"{median(values):.2f} [{min(values):.2f} {max(values):.2f}]" if values else "-"


def table(head, rows):
    """First column left, others right."""
    rows = [[str(c) for c in r] for r in rows]
    width = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * w for w in width], *rows]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, width))).rstrip()
                     for r in lines)


def busy_s():
    """(busy, all) CPU seconds of the machine since some time. By what its CPUs slept, which the kernel measures: what they
    did it samples with its tick, and who is woken and sleeps between two ticks is in none."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    every = os.cpu_count() * time.monotonic()
    return every - (v[3] + v[4]) / os.sysconf("SC_CLK_TCK"), every


class Record(list):
    """What was measured so far. Written to `path`, where there is one, after each run, so that a measurement that is cut off
    leaves what it has; `spent` is true when there is something and `within_s` seconds have passed since it was made."""

    def __init__(self, path, what, within_s=None):
        super().__init__()
        self.path, self.what = path, what
        self.end = time.monotonic() + within_s if within_s else math.inf

    @property
    def spent(self):
        return len(self) > 0 and time.monotonic() >= self.end

    def append(self, result):
        super().append(result)
        if self.path:
            write_json(self.path, self.what, self)


def write_json(path, what, results, **more):
    """A result a line: quickly written, as it may be after each round, beside what is measured."""
    head = json.dumps({"bench": what, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "kernel": platform.release(),
                       "cpus": os.cpu_count(), **more})
    new = f"{path}.new"  # who is ended while it writes leaves the one before
    with open(new, "w") as f:
        f.write(f'{head[:-1]}, "results": [\n' + ",\n".join(json.dumps(r) for r in results) + "\n]}\n")
    os.replace(new, path)
