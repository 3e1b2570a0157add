"""Buffered writes: writeback that begins with the write where an fsync follows, and writes that are made at once beside
other requests: which way they went, that it costs the device nothing, and that no error is lost by it."""

import contextlib
import ctypes
import itertools
import mmap
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from stillfs import BUILD, Mount, Scratch, errno_of, process_state, run, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "bench" / "lib"))

BLOCK = b"w" * 4096
MSYNC = ctypes.CDLL(None).msync


def counter(m, name):
    return int(m.status()[name])


@contextlib.contextmanager
def opened(path, flags=os.O_WRONLY):
    fd = os.open(path, flags | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def log_some(path, n, writes=1):
    """What a redo log does: n times a write, or some to the same block, and an fsync."""
    with opened(path) as fd:
        for i in range(n):
            for _ in range(writes):
                os.pwrite(fd, BLOCK, i * 4096)
            os.fdatasync(fd)


def laid_out(path, blocks=1024):
    """Written once, so that no extent has to be made any more."""
    path.write_bytes(BLOCK * blocks)
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def device_writes(scratch):
    """Requests that the scratch filesystem's device has written."""
    source = run("findmnt", "-n", "-o", "SOURCE", scratch.fs).strip()
    return int(pathlib.Path(f"/sys/block/{os.path.basename(source)}/stat").read_text().split()[4])


@contextlib.contextmanager
def company(m):
    """Somebody else, so that nobody is alone: two who read from the device. They pause: without that no CPU would be idle, and
    something always at the backing."""
    stop = threading.Event()
    busy = m.mnt / "busy"
    laid_out(busy, 256)

    def read():
        buf, i = mmap.mmap(-1, 4096), 0
        with opened(busy, os.O_RDONLY | os.O_DIRECT) as fd:
            while not stop.is_set():
                os.preadv(fd, [buf], i % 256 * 4096)
                i += 1
                time.sleep(0.0005)
    threads = [threading.Thread(target=read) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        stop.set()
        for t in threads:
            t.join()


def spare_cpu(m, is_there):
    """Wait for that to be known. A mount that nobody uses does not look."""

    def known():
        os.listdir(m.mnt)
        return m.status()["spare_cpu"] == is_there
    wait_for(f"spare_cpu {is_there}", known, 20)


@contextlib.contextmanager
def volume_mount(tmp_path, monkeypatch, options=""):
    """A mount over a volume with a latency of 400 us."""
    monkeypatch.setenv("STILLFS_BENCH_TMP", str(tmp_path))
    import views
    from device import Volume
    with Volume(BUILD, "lat400", size_mb=512) as volume, views.opened(volume, ["mount"], options) as got:
        volume.arm()
        yield got["mount"].mount


@contextlib.contextmanager
def busy_cpus():
    """Every CPU has more to do than it can."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * os.cpu_count())]
    try:
        yield
    finally:
        for p in busy:
            p.kill()
            p.wait()


@pytest.mark.parametrize("way", ["alone", "with-others", "by-the-ring"])
def test_a_logs_writeback_begins_with_its_write(make_mount, way):
    mount = make_mount(**({"threads": 1} if way == "by-the-ring" else {}))  # a single lane makes no call itself
    log = mount.mnt / "log"
    laid_out(log)
    before = counter(mount, "early_writebacks")
    with company(mount) if way == "with-others" else contextlib.nullcontext():
        log_some(log, 10)
        spare_cpu(mount, "yes")
        log_some(log, 100)
        assert counter(mount, "early_writebacks") - before >= 90
        written = device_writes(mount.scratch)
        with opened(log) as fd:
            os.pwrite(fd, BLOCK, 0)  # and no fsync: the kernel's own writeback would begin after some 30 s
            wait_for("the write to be at the device", lambda: device_writes(mount.scratch) > written, 10)
    assert (counter(mount, "inplace_calls") > 0) == (way != "by-the-ring")


def test_on_a_volume_nothing_begins_early_while_no_cpu_is_idle(tmp_path, monkeypatch):
    """It would make group commits smaller and more, for CPU that somebody waits for. The volume's latency is 400 us."""
    with volume_mount(tmp_path, monkeypatch) as mount:
        laid_out(mount.mnt / "log")
        log_some(mount.mnt / "log", 20)
        spare_cpu(mount, "yes")
        log_some(mount.mnt / "log", 20)
        known = counter(mount, "early_writebacks")
        assert known >= 18  # so it is known as a log
        with busy_cpus():
            spare_cpu(mount, "no")
            before = counter(mount, "early_writebacks")
            log_some(mount.mnt / "log", 100)
            assert counter(mount, "early_writebacks") == before
        log_some(mount.mnt / "log", 1)

        def again():
            log_some(mount.mnt / "log", 10)
            return counter(mount, "early_writebacks") > before
        wait_for("writeback to begin early again", again, 20)


def test_what_nobody_syncs_is_not_begun(mount):
    spare_cpu(mount, "yes")
    with opened(mount.mnt / "data") as fd:
        for i in range(300):
            os.pwrite(fd, BLOCK, i * 4096)
        for n in (1, 2, 3, 9, 1, 4) * 20:  # nor where nobody can tell which write is the last
            for i in range(n):
                os.pwrite(fd, BLOCK, i * 4096)
            os.fdatasync(fd)
    with opened(mount.mnt / "through", os.O_WRONLY | os.O_DSYNC) as fd:
        for i in range(20):
            os.pwrite(fd, BLOCK, i * 4096)
            os.fdatasync(fd)
    assert counter(mount, "early_writebacks") == 0


@pytest.mark.parametrize("writes", [1, 3])
def test_it_costs_the_device_no_write(mount, writes):
    """Only the last write of a group begins it: what is written again meanwhile would be written twice."""
    (mount.scratch.fs / "native").mkdir()
    made = []
    for where in (mount.scratch.fs / "native", mount.mnt):
        laid_out(where / "log")
        if where == mount.mnt:
            spare_cpu(mount, "yes")
        before = device_writes(mount.scratch)
        log_some(where / "log", 300, writes)
        made.append(device_writes(mount.scratch) - before)
    assert counter(mount, "early_writebacks") >= 290
    assert made[0] >= 300 and made[1] <= made[0] * 1.1 + 10, made


@pytest.mark.parametrize("way", ["alone", "with-others", "by-the-ring"])
def test_an_error_of_the_writeback_is_the_fsyncs(way, tmp_path, monkeypatch):
    """The device fails once its image has no room left: the fsync says so, as natively, and says it once."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", tmp_path], check=True)
    monkeypatch.setenv("STILLFS_TEST_TMP", str(tmp_path))
    s = m = None
    try:
        s = Scratch("ext4", 400)  # whose journal is not hurt: it was written when the filesystem was made
        m = Mount(s, **({"threads": 1} if way == "by-the-ring" else {}))
        (s.fs / "native").mkdir()
        got = []
        for where in (s.fs / "native", m.mnt):
            log = where / "log"
            laid_out(log, 256)
            with opened(log, os.O_RDWR) as fd, company(m) if way == "with-others" and where == m.mnt else contextlib.nullcontext():
                log_some(log, 50)
                os.posix_fallocate(fd, 0, 64 << 20)  # extents, with no room behind them
                os.fsync(fd)
                fill = tmp_path / "fill"
                with contextlib.suppress(OSError), open(fill, "wb", 0) as f:
                    while True:
                        f.write(BLOCK)
                if where == m.mnt:
                    spare_cpu(m, "yes")
                before = counter(m, "early_writebacks")
                for i in range(2000, 2008):
                    got.append(errno_of(os.pwrite, fd, BLOCK, (8 << 20) + i * 65536))
                    got.append(errno_of(os.fdatasync, fd))
                early = counter(m, "early_writebacks") - before
                fill.unlink()
            got.append("|")
        native, mounted = got[:got.index("|")], got[got.index("|") + 1:-1]
        assert native == mounted and native.count("ENOSPC") >= 4 and early >= 1, (native, mounted, early)
    finally:
        if m:
            m.close()
        if s:
            s.close()
        run("umount", tmp_path)


def test_buffered_writes_beside_others_are_made_at_once(mount):
    """No other thread has to be woken for them, also where the file's time changes, with each tick of the clock."""
    log = mount.mnt / "log"
    laid_out(log)
    with opened(log) as fd, company(mount):
        before = counter(mount, "inplace_beside")

        def some():
            for i in range(50):  # each in a tick of its own, most of them
                os.pwrite(fd, BLOCK, i * 4096)
                time.sleep(0.005)
            return counter(mount, "inplace_beside") - before >= 100
        wait_for("writes beside others", some, 20)


def test_fsyncs_beside_others_are_made_at_once_where_they_are_over_in_moments(scratch):
    """Memory answers them sooner than a worker would wake."""
    back = scratch.fs / "back"
    back.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "none", back], check=True)
    m = None
    try:
        m = Mount(scratch)
        logs = [m.mnt / f"log{i}" for i in range(3)]
        for log in logs:
            laid_out(log, 64)
            log_some(log, 30)  # known by then as a log, and how long its fsyncs take
        before = counter(m, "inplace_beside_syncs"), counter(m, "inplace_beside")

        def some():
            log_some(logs[0], 30)  # alone: on a busy machine others' fsyncs may have taken long
            threads = [threading.Thread(target=log_some, args=(log, 60)) for log in logs]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            return counter(m, "inplace_beside_syncs") - before[0] >= 100
        wait_for("fsyncs beside others", some, 30)
        assert counter(m, "inplace_beside") - before[1] > counter(m, "inplace_beside_syncs") - before[0]  # writes as well
    finally:
        if m:
            m.close()
        run("umount", back)


def test_a_frozen_pair_holds_back_no_other_pairs_logs(scratch):
    """More of its files wait than the ring would have workers without a word (four for each CPU). The log is written past
    the cache: of buffered writes a few share a queue of the kernel's, whichever pair their files are of (docs/limits.md)."""

    def log(path):
        buf = mmap.mmap(-1, 4096)
        with opened(path, os.O_WRONLY | os.O_DIRECT) as fd:
            for i in range(20):
                os.pwritev(fd, [buf], i * 4096)
                os.fdatasync(fd)
    with contextlib.ExitStack() as stack:
        other = Scratch(size_mb=330)
        stack.callback(other.close)
        (other.dir / "mnt").mkdir()
        (other.fs / "back").mkdir()
        m = Mount(scratch, start=False)
        m.more_pairs = [(other.fs / "back", other.dir / "mnt")]
        stack.callback(m.close)
        m.start()
        laid_out(m.mnt / "log")
        fds = [stack.enter_context(opened(other.dir / "mnt" / f"f{i}")) for i in range(4 * os.cpu_count() + 4)]
        threads = [threading.Thread(target=os.pwrite, args=(fd, BLOCK, 0)) for fd in fds]
        logger = threading.Thread(target=log, args=(m.mnt / "log",))
        subprocess.run(["fsfreeze", "-f", other.fs], check=True)
        try:
            for t in threads:
                t.start()
            time.sleep(0.5)  # they reach the frozen filesystem
            logger.start()
            logger.join(30)
            held_back = logger.is_alive()
            assert all(t.is_alive() for t in threads)
        finally:
            subprocess.run(["fsfreeze", "-u", other.fs], check=True)
        for t in (*threads, logger):
            t.join(30)
            assert not t.is_alive()
        assert not held_back


@pytest.mark.parametrize("where", ["apart", "together"])
def test_lookups_that_wait_for_the_device_do_not_wait_for_each_other(tmp_path, monkeypatch, where):
    """A lane that made such a call itself, and finds that others have come meanwhile, gives the next ones to the workers. Of one
    directory they come only if the kernel was told that they may (FUSE_PARALLEL_DIROPS)."""
    with volume_mount(tmp_path, monkeypatch) as m:
        dirs = [m.mnt / ("d" if where == "together" else f"d{i}") for i in range(8)]
        for d in dirs:
            d.mkdir(exist_ok=True)
            for i in range(300):
                (d / f"f{i}").write_bytes(b"")
        os.sync()

        def found():
            m.close()
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
            m.start()
            threads = [threading.Thread(target=lambda k=k, d=d: [os.stat(d / f"f{(i + 37 * k) % 300}") for i in range(300)]) for k, d in enumerate(dirs)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert m.status()["parallel_dirops"] == "yes"
            return counter(m, "inplace_calls") > 0 and counter(m, "inplace_waited") > 0
        wait_for("somebody who has waited", found)


def waiting_threads(daemon):
    """What is in state D of its lanes and of the ring's workers, one word each."""
    for task in pathlib.Path(f"/proc/{daemon}/task").iterdir():
        name = ""
        with contextlib.suppress(OSError):  # a worker that has gone
            name = (task / "comm").read_text()
        kind = "lane" if name.startswith("lane-") else "worker" if name.startswith("iou-wrk") else None
        if kind and process_state(f"{daemon}/task/{task.name}") == "D":
            yield kind


def write_through(path, by, stop):
    with opened(path, os.O_RDWR | os.O_DSYNC) as fd, mmap.mmap(fd, 4096) as pages:
        for i in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            if by == "write":
                os.pwrite(fd, BLOCK, 0)
            else:
                pages[0] = i % 256
                MSYNC(ctypes.byref(ctypes.c_char.from_buffer(pages)), 4096, 4)  # MS_SYNC; mmap's own would stop our other threads


@pytest.mark.parametrize("by", ["write", "mapping"])
def test_what_is_written_through_waits_on_a_worker(tmp_path, monkeypatch, by):
    """O_DSYNC: the write waits for the device, which a lane must not do. The ring itself would let it (seen on Linux 6.18)."""
    with volume_mount(tmp_path, monkeypatch, "threads=1") as m:  # no call in place
        stop, waits = threading.Event(), {"lane": 0, "worker": 0}
        laid_out(m.mnt / "through", 64)

        def look():
            for kind in waiting_threads(m.daemon):
                waits[kind] += 1
            return sum(waits.values()) >= 40
        writer = threading.Thread(target=write_through, args=(m.mnt / "through", by, stop))
        writer.start()
        try:
            wait_for("waits for the device", look)
        finally:
            stop.set()
            writer.join()
        assert counter(m, "inplace_calls") == 0
        assert waits["lane"] <= 4, waits


def test_a_write_that_stalls_holds_back_nobody_else(mount):
    """The backing frozen by somebody else: writers wait, as natively, and whoever reads goes on, also whose reads were on
    their way. Direct writes on their way are what the freeze itself waits for: it ends, too."""
    laid_out(mount.mnt / "there", 256)
    logs, pages = [mount.mnt / f"log{i}" for i in range(4)], [mount.mnt / f"pages{i}" for i in range(2)]
    for f in logs + pages:
        laid_out(f, 64)
    stop, reads = threading.Event(), [0] * 3

    def log(path):
        i = 0
        with opened(path) as fd:
            while not stop.is_set():
                os.pwrite(fd, BLOCK, i % 64 * 4096)
                os.fdatasync(fd)
                i += 1

    def page(path):
        buf, i = mmap.mmap(-1, 4096), 0
        with opened(path, os.O_WRONLY | os.O_DIRECT) as fd:
            while not stop.is_set():
                os.pwritev(fd, [buf], i % 64 * 4096)
                i += 1

    def read(k):
        buf = mmap.mmap(-1, 4096)
        with opened(mount.mnt / "there", os.O_RDONLY | os.O_DIRECT) as fd:
            while not stop.is_set():
                os.preadv(fd, [buf], reads[k] % 256 * 4096)
                reads[k] += 1
    threads = [threading.Thread(target=f, args=(a,), daemon=True)
               for f, of in ((log, logs), (page, pages), (read, range(len(reads)))) for a in of]
    for t in threads:
        t.start()
    try:
        for _ in range(20):
            wait_for("writes", lambda n=counter(mount, "ops_write"): counter(mount, "ops_write") > n + 50)
            subprocess.run(["fsfreeze", "-f", mount.scratch.fs], check=True, timeout=60)
            try:
                time.sleep(0.1)
                held, before = counter(mount, "ops_write"), list(reads)
                reader = subprocess.run(["timeout", "15", "cat", mount.mnt / "there"], capture_output=True)
                assert (reader.returncode, reader.stdout) == (0, BLOCK * 256)
                assert counter(mount, "ops_write") <= held + 1
                wait_for("reads while it is frozen", lambda: all(n > b + 3 for n, b in zip(reads, before)))
            finally:
                subprocess.run(["fsfreeze", "-u", mount.scratch.fs], check=True, timeout=60)
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert not any(t.is_alive() for t in threads)
