"""tests/bench/lib/fiorun.py - fio: the cells, files for them, one run with its figures."""

import json
import os
import subprocess

from command import Failed
from rounds import busy_s

SIZE_MB, LOG_MB, LOGS = 1024, 64, 4
DIRECT = ["--direct=1", "--bs=16k"]
BUFFERED = ["--direct=0", "--bs=16k", "--ioengine=psync"]


def _cells():
    modes = {"r": ["--rw=randread"], "w": ["--rw=randwrite"], "rw": ["--rw=randrw", "--rwmixread=70"]}
    engines = {"psync1": ["--ioengine=psync"], "psync8": ["--ioengine=psync", "--numjobs=8"],
               "aio16": ["--ioengine=libaio", "--iodepth=16"], "uring16": ["--ioengine=io_uring", "--iodepth=16"],
               "uring64x2": ["--ioengine=io_uring", "--iodepth=64", "--numjobs=2"]}
    cells = {f"{m}.{e}": [*DIRECT, *margs, *eargs] for e, eargs in engines.items() for m, margs in modes.items()}
    log = ["--ioengine=psync", "--rw=write", "--bs=4k", "--fdatasync=1", f"--size={LOG_MB}m", "--filename_format=log.$jobnum"]
    cells["log1"] = log
    cells["log4"] = [*log, "--numjobs=4"]
    cells["seq.r"] = ["--direct=1", "--bs=1m", "--rw=read", "--ioengine=libaio", "--iodepth=4"]
    cells["seq.w"] = ["--direct=1", "--bs=1m", "--rw=write", "--ioengine=libaio", "--iodepth=4"]
    # buffered: "hit" is warm before it starts and fits in memory; "miss" starts cold and meets each block once
    cells["buf.hit.r"] = [*BUFFERED, "--rw=randread", "--invalidate=0", "--size=256m"]
    cells["buf.hit.rw"] = [*BUFFERED, "--rw=randrw", "--rwmixread=70", "--invalidate=0", "--size=256m"]
    cells["buf.hit.w"] = [*BUFFERED, "--rw=randwrite", "--invalidate=0", "--size=256m"]
    cells["buf.miss.r"] = [*BUFFERED, "--rw=randread", "--norandommap=0"]
    cells["buf.append"] = ["--ioengine=psync", "--rw=write", "--bs=4k", "--fdatasync=1", "--filename=append",
                           "--fallocate=none", "--create_on_open=1", "--file_append=1"]
    cells["mmap.r"] = ["--ioengine=mmap", "--rw=randread", "--bs=16k", "--invalidate=0", "--size=256m"]
    cells["mmap.w"] = ["--ioengine=mmap", "--rw=randwrite", "--bs=16k", "--invalidate=0", "--size=256m"]
    cells["buf.seq.r"] = ["--direct=0", "--ioengine=psync", "--rw=read", "--bs=128k"]
    return cells


CELLS = _cells()
NOT_ON_FLOOR = ("buf.append",)  # it has no names of its own


def lay_out(directory):
    """Files with data in them, written natively: extents are allocated and initialised, as a database's are."""
    for name, size in [("data", SIZE_MB), *((f"log.{i}", LOG_MB) for i in range(LOGS))]:
        r = subprocess.run(["fio", "--name=x", f"--filename={directory / name}", f"--size={size}m", "--rw=write",
                            "--bs=1m", "--direct=1", "--refill_buffers", "--thread"], capture_output=True, text=True)
        if r.returncode:
            raise Failed(f"fio: {r.stderr.strip()}")


def _drop(path):
    """Forget the cached pages of a file, if it is there."""
    if path.exists():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _warm(path, size_mb=256):
    with open(path, "rb") as f:
        for _ in range(size_mb):
            f.read(1 << 20)


def prepare(cell, view):
    """The state of caches and files that the cell is about; the same for every view."""
    if cell == "buf.append" and (view.path / "append").exists():
        (view.path / "append").unlink()
    for directory in (view.path, view.back):  # both caches: the mount's and the backing's
        _drop(directory / "data")
    if "hit" in cell or cell.startswith("mmap"):
        _warm(view.path / "data")


def argv(cell, directory, seconds):
    args = CELLS[cell]
    line = ["fio", "--name=x", f"--directory={directory}", f"--runtime={max(1, round(seconds * 1000))}ms", "--time_based", "--group_reporting",
            "--output-format=json", "--randrepeat=0", "--thread"]
    if not any(a.startswith("--filename") for a in args):
        line.append("--filename=data")
    if not any(a.startswith("--size") for a in args):
        line.append(f"--size={SIZE_MB}m")
    return [*line, *args]


def run(cell, view, volume, seconds, more=()):
    """One run: a dictionary of figures."""
    prepare(cell, view)
    view.begin()
    threads, device, busy, ours = view.threads(), volume.cpu_ns(), busy_s(), view.cpu_s()
    r = subprocess.run([*argv(cell, view.path, seconds), *more], capture_output=True, text=True, start_new_session=True)
    after, busy_after, ours = view.threads(), busy_s(), view.cpu_s() - ours
    if r.returncode:
        raise Failed(f"fio {cell}: {(r.stderr or r.stdout).strip()[-1000:]}")
    job = json.loads(r.stdout[r.stdout.index("{"):])["jobs"][0]
    if job["error"]:
        raise Failed(f"fio {cell}: error {job['error']}")
    halves = [job["read"], job["write"]]
    main_half = max(halves, key=lambda h: h["total_ios"])
    ops = sum(h["total_ios"] for h in halves)
    pct = main_half["clat_ns"].get("percentile", {})
    by_thread = {n: (ns - threads.get(n, 0)) / 1e9 for n, ns in after.items()}
    return {
        "cell": cell, "iops": sum(h["iops"] for h in halves), "mbps": sum(h["bw_bytes"] for h in halves) / 1e6,
        "p50_us": pct.get("50.000000", 0) / 1000, "p99_us": pct.get("99.000000", 0) / 1000,
        "sync_p50_us": job.get("sync", {}).get("lat_ns", {}).get("percentile", {}).get("50.000000", 0) / 1000,
        "ops": ops, "fio_cpu_s": (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000,
        "threads_cpu_s": {n: round(s, 4) for n, s in by_thread.items() if s > 0.0005}, "ours_cpu_s": ours,
        "device_cpu_s": (volume.cpu_ns() - device) / 1e9,
        "machine_cpu_s": busy_after[0] - busy[0],
        "machine_busy": (busy_after[0] - busy[0]) / max(1e-9, busy_after[1] - busy[1]),
    }
