"""Take-overs with more of something than usual: open files, threads and pairs."""

import contextlib
import os
import resource
import shutil
import signal

from stillfs import wait_for
from test_takeover import assert_nothing_left


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
