"""A mapping shows every acknowledged direct write: no page stays behind that was read before it, whatever is in flight."""

import mmap
import os
import random
import struct
import threading
import time

import pytest

PAGE, PAGES = 4096, 64
LONG = bool(os.environ.get("STILLFS_ALL"))


class Versions:
    """Writers of whole pages, each page one writer's at a time; .acked[page]: the version last acknowledged."""

    def __init__(self, path, sizes):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.acked, self.sizes = [0] * PAGES, sizes
        self.stop, self.failures, self.writes = threading.Event(), [], 0

    def write(self, k, n):
        """The k-th of n writers: random runs of pages of its own part."""
        buf, rng = mmap.mmap(-1, 16 * PAGE), random.Random(k)
        first, last = k * PAGES // n, (k + 1) * PAGES // n
        try:
            while not self.stop.is_set():
                count = rng.choice(self.sizes)
                at = rng.randrange(first, last - count + 1)
                for i in range(count):
                    buf[i * PAGE:i * PAGE + 8] = struct.pack("<Q", self.acked[at + i] + 1)
                assert os.pwritev(self.fd, [memoryview(buf)[:count * PAGE]], at * PAGE) == count * PAGE
                for i in range(count):
                    self.acked[at + i] += 1
                self.writes += 1
        except BaseException as e:
            self.failures.append(e)


@pytest.mark.parametrize("where", ["native", "mount"])
@pytest.mark.parametrize("writable", [False, True], ids=["read-only", "read-write"])
def test_a_mapping_never_shows_what_an_acknowledged_direct_write_has_replaced(mount, where, writable):
    directory = mount.mnt if where == "mount" else mount.scratch.fs
    path = directory / "pages"
    path.write_bytes(bytes(PAGE * PAGES))
    v = Versions(path, [1, 2, 8])
    fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    area = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    threads = [threading.Thread(target=v.write, args=(k, 4)) for k in range(4)]
    for t in threads:
        t.start()
    looks, stale, end = 0, [], time.monotonic() + (30 if LONG else 3)
    try:
        while time.monotonic() < end and not v.failures:
            page = random.randrange(PAGES)
            least = v.acked[page]
            seen = struct.unpack_from("<Q", area, page * PAGE)[0]
            looks += 1
            if seen < least:
                stale.append((page, seen, least))
            got = struct.unpack("<Q", os.pread(fd, 8, page * PAGE))[0]
            if got < least:
                stale.append((page, got, least, "pread"))
    finally:
        v.stop.set()
        for t in threads:
            t.join(20)
        for f in (fd, v.fd):
            os.close(f)
    assert not v.failures and not stale, (v.failures, stale[:5], len(stale), looks)
    assert v.writes > 100 and looks > 100
