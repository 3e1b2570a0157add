"""Deaths under loads that are told apart by what could go wrong with them: many more with `tests/run --all`."""

import mmap
import os
import random
import signal
import threading
import time

import pytest

from stillfs import wait_for
from test_takeover import LONG


def quick_deaths(m, n, progress):
    """Deaths of daemons that have just begun: so many in a row as are no crash loop, each after some progress."""
    for i in range(n):
        s = m.status()
        before = progress()
        wait_for("progress", lambda: progress() > before)
        time.sleep(random.random() * 0.003)
        os.kill(int(s["pid"]), signal.SIGKILL)
        wait_for("the take-over", lambda: int(m.status()["restarts"]) > int(s["restarts"]), 20)
        m.daemon = int(m.status()["pid"])
        if i % 4 == 3:
            time.sleep(1.1)


@pytest.mark.limit(300)
@pytest.mark.parametrize("size", [16384, 1 << 20])
def test_a_write_that_a_dying_daemon_reads_does_not_fail(mount, size):
    """A new daemon has used no memory yet, and a dying thread cannot bring a page in: the kernel would answer EIO."""
    stop, failures, count = threading.Event(), [], [0] * 8

    def write(k):
        buf = mmap.mmap(-1, size)
        buf.write(b"x" * size)
        fd = os.open(mount.mnt / f"f{k}", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        try:
            while not stop.is_set():
                assert os.pwrite(fd, buf, count[k] % 16 * size) == size
                count[k] += 1
        except (OSError, AssertionError) as e:
            failures.append(e)
        finally:
            os.close(fd)
    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    try:
        quick_deaths(mount, 200 if LONG else 8, lambda: sum(count))
    finally:
        stop.set()
        for t in threads:
            t.join(20)
    assert not failures


def test_a_daemon_that_was_stopped_is_replaced_once_it_dies(mount):
    """SIGSTOP for longer than the heartbeat may miss: nobody takes over from a daemon that lives, however silent; callers
    wait. When it is killed then, the successor finds the requests that it had read."""
    done = []

    def write():
        with open(mount.mnt / "f", "wb", buffering=0) as f:
            for i in range(50):
                done.append(f.write(b"x" * 16384))
    os.kill(mount.daemon, signal.SIGSTOP)
    t = threading.Thread(target=write)
    t.start()
    t.join(1.0)  # three missed heartbeats are 300 ms
    assert t.is_alive() and not done
    os.kill(mount.daemon, signal.SIGCONT)
    t.join(20)
    assert done == [16384] * 50
    assert mount.status()["restarts"] == "0"
    os.kill(mount.daemon, signal.SIGSTOP)
    done.clear()
    t = threading.Thread(target=write)
    t.start()
    time.sleep(0.8)
    os.kill(mount.daemon, signal.SIGKILL)
    t.join(20)
    assert done == [16384] * 50
    s = mount.status()
    mount.daemon = int(s["pid"])
    assert s["restarts"] == "1" and s["inflight"] == "0"
