"""The data path allocates nothing, frees nothing and logs nothing between a request and its reply. Counted in the
running daemon, by a library that is preloaded into it and knows the threads by their names."""

import mmap
import os
import pathlib
import struct
import subprocess
import threading

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
    return {k: int(s[f"ops_{k}"]) for k in ("read", "write", "fsync", "fallocate", "direct", "buffered")}


def use(m, name, flags, n):
    """n writes, reads, and some fsyncs and fallocates of one file."""
    page = mmap.mmap(-1, 4096)
    fd = os.open(m.mnt / name, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        for i in range(n):
            page[:8] = struct.pack("Q", i)
            assert os.pwrite(fd, page, i % 64 * 4096) == 4096
            assert os.preadv(fd, [page], i % 64 * 4096) == 4096
            assert page[:8] == struct.pack("Q", i)
            if i % 100 == 0:
                os.fsync(fd)
                os.fdatasync(fd)
                os.posix_fallocate(fd, 0, (64 + i) * 4096)
    finally:
        os.close(fd)


def use_all(m, n):
    """From several threads, with and without O_DIRECT."""
    errors = []

    def one(name, flags):
        try:
            use(m, name, flags, n)
        except BaseException as e:
            errors.append(e)
    threads = [threading.Thread(target=one, args=(f"f{i}", os.O_DIRECT if i % 2 else 0)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


def test_reads_writes_syncs_and_fallocates_allocate_and_log_nothing(counted):
    use_all(counted, 50)  # descriptors are opened by workers, once a file
    before, done = counted.counts.of(LANE), ops(counted)
    assert before[THREADS] > 0, "no thread of the data path was seen"
    use_all(counted, 2500)
    after, now = counted.counts.of(LANE), ops(counted)
    assert now["read"] - done["read"] >= 10_000 and now["write"] - done["write"] >= 10_000
    assert now["fsync"] - done["fsync"] >= 200 and now["fallocate"] - done["fallocate"] >= 100
    assert now["direct"] - done["direct"] >= 10_000 and now["buffered"] - done["buffered"] >= 10_000
    assert after == before


def test_parking_and_resubmitting_allocate_and_log_nothing(counted):
    use_all(counted, 50)
    fds = [os.open(counted.mnt / f"f{i}", os.O_WRONLY) for i in range(4)]
    before = counted.counts.of(LANE)
    for _ in range(5):
        with counted.closed():
            threads = [threading.Thread(target=os.pwrite, args=(fds[i % 4], b"x" * 4096, i * 4096)) for i in range(64)]
            for t in threads:
                t.start()
            wait_for("writes to park", lambda: int(counted.status()["parked"]) >= 4)
        for t in threads:
            t.join()
    for fd in fds:
        os.close(fd)
    assert int(counted.status()["parked_total"]) >= 20
    assert counted.counts.of(LANE) == before


def test_the_counter_counts(counted):
    """A metadata operation goes through libfuse, which allocates for each request: on a worker, not on a lane."""
    (counted.mnt / "first").write_bytes(b"")
    worker, lane = counted.counts.of(WORKER), counted.counts.of(LANE)
    for i in range(100):
        (counted.mnt / f"n{i}").touch()
    now = counted.counts.of(WORKER)
    assert now[ALLOC] - worker[ALLOC] >= 100
    assert now[FREE] - worker[FREE] >= 100
    assert counted.counts.of(LANE) == lane
    assert counted.counts.of(OTHER)[FORMAT] > 0  # the log's own lines, and the control files
