"""The data path allocates nothing, frees nothing and logs nothing between a request and its reply. Counted in the
running daemon, by a library that is preloaded into it and knows the threads by their names."""

import mmap
import os
import pathlib
import struct
import subprocess
import threading
import time

import pytest

from stillfs import STILLFS, run, wait_for

SOURCE = pathlib.Path(__file__).parents[1] / "harness" / "count_alloc.c"
OTHER, LANE, WORKER = range(3)
ALLOC, FREE, FORMAT, THREADS = range(4)


class Counts:
    def __init__(self, path):
        self.path = path

    def of(self, kind):
        n = struct.unpack("12Q", self.path.read_bytes())
        return n[kind * 4:kind * 4 + 4]


@pytest.fixture
def counted(scratch, make_mount):
    """A mount whose daemon counts. Every level is logged, so that no log line stays unformatted."""
    if "san.so" in run("ldd", STILLFS):
        pytest.skip("a sanitizer has an allocator of its own")
    library, counts = scratch.dir / "count_alloc.so", scratch.dir / "counts"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE],
                   check=True)
    counts.write_bytes(bytes(12 * 8))
    m = make_mount(env={"LD_PRELOAD": str(library), "COUNT_ALLOC_FILE": str(counts)}, log_level="debug")
    m.counts = Counts(counts)
    return m


def ops(m):
    s = m.status()
    return {k: int(s[f"ops_{k}"]) for k in ("read", "write", "fsync", "fallocate", "direct", "buffered")} | {
        "inplace": int(s["inplace_calls"]), "meta": int(s["ops_meta"])}


def settled(counts):
    """The lanes' counts, once nothing changes them any more: a release goes on after close(2)."""
    seen = [None]

    def same():
        time.sleep(0.3)
        seen.append(counts.of(LANE))
        return seen[-1] == seen[-2]
    wait_for("the end of what was asked before", same)
    return seen[-1]


def use(fd, n):
    """n writes, reads, and some fsyncs and fallocates of one file."""
    page = mmap.mmap(-1, 4096)
    for i in range(n):
        page[:8] = struct.pack("Q", i)
        assert os.pwrite(fd, page, i % 64 * 4096) == 4096
        assert os.preadv(fd, [page], i % 64 * 4096) == 4096
        assert page[:8] == struct.pack("Q", i)
        if i % 100 == 0:
            os.fsync(fd)
            os.fdatasync(fd)
            os.posix_fallocate(fd, 0, (64 + i) * 4096)


def use_all(m, n, threads=4):
    """From several threads, with and without O_DIRECT. The counts of the lanes before and after: opening and closing,
    which libfuse serves and allocates for, perhaps on a lane, are outside."""
    errors, seen = [], []
    barrier = threading.Barrier(threads, action=lambda: seen.append(m.counts.of(LANE)), timeout=60)

    def one(name, flags):
        fd = os.open(m.mnt / name, os.O_RDWR | os.O_CREAT | flags, 0o600)
        try:
            use(fd, 4)  # each descriptor is opened by a worker, once
            barrier.wait()
            use(fd, n)
            barrier.wait()
        except BaseException as e:
            errors.append(e)
            barrier.abort()
        finally:
            os.close(fd)
    running = [threading.Thread(target=one, args=(f"f{i}", os.O_DIRECT if i % 2 else 0)) for i in range(threads)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    assert not errors, errors
    return seen


@pytest.mark.parametrize("threads", [4, 2, 1])
def test_reads_writes_syncs_and_fallocates_allocate_and_log_nothing(counted, threads):
    done = ops(counted)
    before, after = use_all(counted, 10_000 // threads, threads)
    assert before[THREADS] > 0, "no thread of the data path was seen"
    now = ops(counted)
    assert now["read"] - done["read"] >= 10_000 and now["write"] - done["write"] >= 10_000
    assert now["fsync"] - done["fsync"] >= 200 and now["fallocate"] - done["fallocate"] >= 100
    if threads > 1:
        assert now["direct"] - done["direct"] >= 10_000 and now["buffered"] - done["buffered"] >= 10_000
    else:
        assert now["inplace"] - done["inplace"] >= 100  # one caller: by the lane itself
    # the kernel asks for an attribute now and then (security.capability, before a buffered write): libfuse's, and
    # perhaps in place; two allocations each at the most
    meta = now["meta"] - done["meta"]
    assert meta * 40 < now["read"] - done["read"]
    assert after[ALLOC] - before[ALLOC] <= 2 * meta and after[FREE] - before[FREE] <= 2 * meta
    assert after[FORMAT:] == before[FORMAT:]


def test_parking_and_resubmitting_allocate_and_log_nothing(counted):
    use_all(counted, 50)
    fds = [os.open(counted.mnt / f"f{i}", os.O_WRONLY) for i in range(4)]
    before = settled(counted.counts)
    meta = ops(counted)["meta"]
    for _ in range(5):
        with counted.closed():
            threads = [threading.Thread(target=os.pwrite, args=(fds[i % 4], b"x" * 4096, i * 4096)) for i in range(64)]
            for t in threads:
                t.start()
            wait_for("writes to park", lambda: int(counted.status()["parked"]) >= 4)
        for t in threads:
            t.join()
    assert int(counted.status()["parked_total"]) >= 20
    after, meta = settled(counted.counts), ops(counted)["meta"] - meta
    assert after[ALLOC] - before[ALLOC] <= 2 * meta < 20 and after[FREE] - before[FREE] <= 2 * meta
    assert after[FORMAT:] == before[FORMAT:]
    for fd in fds:
        os.close(fd)


def test_the_counter_counts(counted):
    """A metadata operation goes through libfuse, which allocates for each request: on a worker, or on a lane
    that serves its only caller in place."""
    (counted.mnt / "first").write_bytes(b"")
    def both(what):
        return counted.counts.of(WORKER)[what] + counted.counts.of(LANE)[what]
    allocated, freed = both(ALLOC), both(FREE)
    for i in range(100):
        (counted.mnt / f"n{i}").touch()
    assert both(ALLOC) - allocated >= 100
    assert both(FREE) - freed >= 100
    assert counted.counts.of(OTHER)[FORMAT] > 0  # the log's own lines, and the control files
