"""Deaths under loads that are told apart by what could go wrong with them: many more with `tests/run --all`."""

import errno
import mmap
import os
import pathlib
import random
import re
import signal
import struct
import subprocess
import threading
import time

import pytest

from mariadb import MariaDB
from stillfs import is_gone, process_state, stop_process, wait_for
from test_takeover import DEATHS, LONG, assert_nothing_left, children, deaths, descriptors, kill_daemon, with_error


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
    stop_process(mount.daemon)
    t = threading.Thread(target=write)
    t.start()
    t.join(1.0)  # three missed heartbeats are 300 ms
    assert t.is_alive() and not done
    os.kill(mount.daemon, signal.SIGCONT)
    t.join(20)
    assert done == [16384] * 50
    assert mount.status()["restarts"] == "0"
    stop_process(mount.daemon)
    done.clear()
    t = threading.Thread(target=write)
    t.start()
    time.sleep(0.8)
    os.kill(mount.daemon, signal.SIGKILL)
    t.join(20)
    assert done == [16384] * 50
    s = mount.status()
    mount.daemon = int(s["pid"])
    assert s["restarts"] == "1"
    wait_for("the last close to be over", lambda: mount.status()["inflight"] == "0")


def memory_kb(m):
    """(of the tables that daemons share, the keeper's own). Without the requests' slots: a new daemon may take others than the
    one before it, so their pages come to be there as they are used, up to as many as there are: that all are free again says that
    none is lost (slots_left)."""
    fds = pathlib.Path(f"/proc/{m.keeper}/fd")
    tables = [fd for fd in fds.iterdir() if os.readlink(fd).startswith("/memfd:") and "-requests" not in os.readlink(fd)]
    assert len(tables) > 5
    shared = sum(os.stat(fd).st_blocks // 2 for fd in tables)
    own = re.search(r"^RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{m.keeper}/status").read_text(), re.M)
    return shared, int(own.group(1))


def park_and_die(m, fd, n):
    """n writers are parked, through two deaths; what memory that took."""
    assert m.write("gate", "close timeout=50\n") == 0
    threads = [threading.Thread(target=os.pwrite, args=(fd, struct.pack("<H", k) * 256, k * 512)) for k in range(n)]
    for t in threads:
        t.start()
    wait_for("all to be parked", lambda: m.status()["parked"] == str(n))
    for _ in range(2):
        kill_daemon(m)
        wait_for("all to be parked again", lambda: m.status()["parked"] == str(n))
    used = memory_kb(m)
    assert m.write("gate", "open\n") == 0
    for t in threads:
        t.join(20)
        assert not t.is_alive()
    return used


def test_a_thousand_parked_writers_go_on_and_nothing_is_left_of_them(mount):
    n, path, before, used = 1000, mount.mnt / "f", descriptors(mount), []
    free = mount.status()["slots_left"]
    for _ in range(3):
        path.write_bytes(bytes(n * 512))
        fd = os.open(path, os.O_WRONLY)
        used.append(park_and_die(mount, fd, n))
        os.close(fd)
        data = path.read_bytes()
        assert all(data[k * 512:(k + 1) * 512] == struct.pack("<H", k) * 256 for k in range(n))
        path.unlink()
        time.sleep(1.05)  # no crash loop
    assert_nothing_left(mount, before)
    wait_for("all slots", lambda: mount.status()["slots_left"] == free)
    first, last = used[0], used[-1]
    assert last[0] <= first[0] + 64 and last[1] <= first[1] + 64, used


@pytest.fixture
def hopeless(mount):
    """No daemon can start any more."""
    state = mount.dir / "state"
    time.sleep(1.05)  # the one that serves is old
    state.rename(mount.dir / "away")
    state.write_text("no directory")
    yield mount
    state.unlink()
    (mount.dir / "away").rename(state)


def test_daemons_that_cannot_start_end_cleanly(hopeless):
    """They say why and exit, one after the other: callers have an error, not a hang."""
    f = open(hopeless.mnt / "f", "wb", buffering=0)
    os.kill(hopeless.daemon, signal.SIGKILL)
    wait_for("the keeper's end", lambda: is_gone(hopeless.keeper))
    with pytest.raises(OSError) as e:
        f.write(b"x")
    assert e.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with_error(f.close)
    assert hopeless.log().count("the daemon died: ") == 6 and hopeless.log().count("exited with code 1") == 5


def test_daemons_that_take_long_to_fail_end_cleanly_too(hopeless):
    """A start that takes longer than a second and fails is as hopeless as a quick one."""
    seen, begun = set(), time.monotonic()
    while not is_gone(hopeless.keeper):
        for pid in set(children(hopeless.keeper)) - seen:
            seen.add(pid)
            with_error(os.kill, pid, signal.SIGSTOP)
            wait_for("its stop", lambda pid=pid: process_state(pid) in ("T", "Z", ""))
            time.sleep(1.05)
            with_error(os.kill, pid, signal.SIGKILL)
        assert time.monotonic() - begun < 60, "it goes on for ever"
        time.sleep(0.001)
    assert hopeless.log().count("the daemon died: ") == 6
    assert "5 daemons in a row died within 1000 ms or before they served: given up" in hopeless.log()


@pytest.mark.limit(90 + 3 * DEATHS)
def test_sysbench_goes_on_over_deaths(make_mount, scratch):
    """Its read-write mix by 8 sessions: none is cut off, none gets an error, the server is the same one at the end."""
    m = make_mount(db="mysql", db__socket=scratch.dir / "db" / "sock")
    db = MariaDB(scratch.dir / "db", m.mnt).start()
    seconds = int(DEATHS * 1.6) + 3
    argv = ["sysbench", "/usr/share/sysbench/oltp_read_write.lua", f"--mysql-socket={db.socket}", "--mysql-user=root",
            "--mysql-db=sbtest", "--db-driver=mysql", "--tables=2", "--table-size=2000", "--threads=8",
            f"--time={seconds}", "--mysql-ignore-errors=1213"]  # a deadlock is the mix's own: it rolls back, goes on
    if LONG:
        argv.append("--rate=60")  # 200 deaths long: the filesystem has 400 MB
    try:
        server = db.process.pid
        db.query("CREATE DATABASE sbtest")
        subprocess.run([*argv, "prepare"], check=True, capture_output=True, timeout=60)
        p = subprocess.Popen([*argv, "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deaths(m)
        out = p.communicate(timeout=seconds + 60)[0]
        assert p.returncode == 0, out[-3000:]
        assert "FATAL" not in out and re.search(r"reconnects:\s+0 ", out), out[-3000:]
        assert int(re.search(r"transactions:\s+(\d+)", out).group(1)) > DEATHS
        assert int(m.status()["restarts"]) == DEATHS
        assert db.process.pid == server and db.process.poll() is None
        assert db.log().count("ready for connections") == 1, "the server was restarted"
        for table in ("sbtest1", "sbtest2"):
            assert db.query(f"CHECK TABLE sbtest.{table}")[0][3] == "OK"
            assert db.query(f"SELECT COUNT(*) FROM sbtest.{table}")[0][0] == 2000
    finally:
        db.close()
