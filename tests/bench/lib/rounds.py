"""tests/bench/lib/rounds.py - interleaved rounds, ratios with their spread, tables and JSON."""

import json
import math
import os
import platform
import statistics
import time


def interleave(names, rounds):
    """The names once a round, every second round the one before backwards, and each pair of rounds rotated, so that drift of
    the machine and what the one before leaves behind meet each alike."""
    for n in range(rounds):
        k = (n - n % 2) % len(names)
        order = [*names[k:], *names[:k]]
        for name in reversed(order) if n % 2 else order:
            yield n, name


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


def busy_jiffies():
    """(busy, all) of the machine since it started."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return sum(v) - v[3] - v[4], sum(v)


def write_json(path, what, results, **more):
    """A result a line: quickly written, as it may be after each round, beside what is measured."""
    head = json.dumps({"bench": what, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "kernel": platform.release(),
                       "cpus": os.cpu_count(), **more})
    new = f"{path}.new"  # who is ended while it writes leaves the one before
    with open(new, "w") as f:
        f.write(f'{head[:-1]}, "results": [\n' + ",\n".join(json.dumps(r) for r in results) + "\n]}\n")
    os.replace(new, path)
