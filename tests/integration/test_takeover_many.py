"""Take-overs with more of something than usual: open files, threads and pairs."""

import contextlib
import os
import resource
import shutil
import signal
import threading
import time

from stillfs import wait_for
from test_takeover import assert_nothing_left, descriptors, kill_daemon


def few_files(m):
    """Started as from a shell: a limit of 1024 open files, which the daemon may raise."""
    plain = m.argv
    m.argv = lambda: ["prlimit", "--nofile=1024:20000", *plain()]
    m.start()


def open_many(m, stack, n=1500):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return [stack.enter_context(open(m.mnt / f"many{i}", "w+b", buffering=0)) for i in range(n)]


def test_more_open_files_than_the_caller_of_stillfs_may_have(make_mount):
    m = make_mount(start=False)
    few_files(m)
    with contextlib.ExitStack() as stack:
        files = open_many(m, stack)
        with m.closed(50):
            os.kill(m.daemon, signal.SIGKILL)
            wait_for("the take-over", lambda: m.status()["restarts"] != "0")
            assert m.status()["restarts"] == "1"
            assert "did not end within" not in m.log() and m.gate() == "closed"
        for f in files:
            assert f.write(b"x") == 1
    shutil.rmtree(m.mnt, ignore_errors=True)
    assert_nothing_left(m)


def test_two_pairs_with_as_many_threads_as_there_may_be(make_mount, scratch):
    """A clone of each connection for each thread: all of them live on, and the control tree's."""
    m = make_mount(start=False, threads=64)
    (scratch.fs / "back2").mkdir()
    (scratch.dir / "mnt2").mkdir()
    m.more_pairs = [(scratch.fs / "back2", scratch.dir / "mnt2")]
    m.start()

    def clones():
        return descriptors(m).count("/dev/fuse")
    before, failures, stop = clones(), [], threading.Event()

    def write(top, k):
        try:
            with open(top / f"w{k}", "wb", buffering=0) as f:
                while not stop.is_set():
                    assert f.write(b"x" * 4096) == 4096
                    f.seek(0)
        except (OSError, AssertionError) as e:
            failures.append(e)
    threads = [threading.Thread(target=write, args=(top, k), daemon=True) for top in (m.mnt, scratch.dir / "mnt2") for k in range(8)]
    for t in threads:
        t.start()
    time.sleep(0.3)
    kill_daemon(m)
    time.sleep(0.3)
    stop.set()
    for t in threads:
        t.join(20)
    assert not failures and not any(t.is_alive() for t in threads)
    assert clones() == before
