"""The daemon dies at each step of a snapshot of a MariaDB under load (points hold.* and run.* of base/fault.h): no caller
sees an error, and lock, gate, freeze, position file, set and provider are as if the step had never been, or the set goes
on when its point was recorded. The points need a build with -Dfault_points=true."""

import errno
import json
import mmap
import os
import pathlib
import re
import signal
import threading
import time

import pytest

from mariadb import MariaDB
from stillfs import STILLFS, Mount, Scratch, process_state, run, wait_for
from test_takeover_faults import Faults
from test_takeover_slow import Writer

SOURCES = pathlib.Path(__file__).parents[2] / "snapshot"
POINTS = sorted({p for f in SOURCES.glob("run*.c") for p in re.findall(r'FAULT\("([a-z_.]+)"\)', f.read_text())})
CLOSING = ["gate.deadline", "gate.state"]  # the gate's own stores, met with the database's lock held
RECORDED = ("run.fixed", "run.told")  # from here on the set is pending, and is completed
GATE_TIMEOUT_S = 10

needs_points = pytest.mark.skipif(b"journal.valid" not in STILLFS.read_bytes(), reason="a build without fault points")


class Load:
    """One session inserts, one thread appends to a file on the mount; each checks its own."""

    def __init__(self, m, db):
        self.m, self.db, self.stop, self.failures = m, db, threading.Event(), []
        self.rows = self.bytes = 0
        self.threads = [threading.Thread(target=self.guarded, args=(f,)) for f in (self.insert, self.append)]
        for t in self.threads:
            t.start()

    def guarded(self, call):
        try:
            call()
        except Exception as e:  # noqa: BLE001 - told by the test
            self.failures.append(e)

    def insert(self):
        with self.db.connect("t") as c, c.cursor() as cursor:
            self.session = c.thread_id()
            while not self.stop.is_set():
                cursor.execute(f"INSERT INTO a (n) VALUES ({self.rows})")
                self.rows += 1
                time.sleep(0.002)

    def append(self):
        with open(self.m.mnt / "appended", "ab", buffering=0) as f:
            while not self.stop.is_set():
                assert f.write(b"x" * 100) == 100
                self.bytes += 100
                time.sleep(0.002)

    def goes_on(self):
        rows, size = self.rows, self.bytes
        wait_for("the load", lambda: self.failures or (self.rows > rows and self.bytes > size), GATE_TIMEOUT_S + 5)
        assert not self.failures

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(30)
            assert not t.is_alive()
        assert not self.failures
        assert [r[0] for r in self.db.query("SELECT n FROM t.a ORDER BY id")] == list(range(self.rows))
        assert (self.m.mnt / "appended").read_bytes() == b"x" * self.bytes


@pytest.fixture(scope="module")
def site(later):
    """One server with its load on one mount for the module, and a second pair whose filesystem can be frozen."""
    scratch, other = Scratch(size_mb=600), Scratch(size_mb=330)
    later(scratch.close)
    later(other.close)
    faults = Faults(scratch.dir / "faults")
    m = Mount(scratch, start=False, env={"STILLFS_FAULTS": str(faults.path)}, provider="null", db="mysql",
              db__socket=scratch.dir / "db" / "sock", freeze="yes", gate_timeout=GATE_TIMEOUT_S, drain_timeout=5)
    (other.dir / "mnt").mkdir()
    (other.fs / "back").mkdir()
    m.more_pairs = [(other.fs / "back", other.dir / "mnt")]
    later(m.close)
    m.start()
    db = MariaDB(scratch.dir / "db", m.mnt)
    later(db.close)
    db.start()
    db.query("CREATE DATABASE t")
    db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, n INT) ENGINE=InnoDB")
    server = db.process.pid
    load = Load(m, db)
    later(load.stop.set)
    yield m, db, load, faults, other
    load.end()
    assert db.process.pid == server and db.process.poll() is None
    assert db.log().count("ready for connections") == 1, "the server was restarted"
    assert db.query("CHECK TABLE t.a")[0][3] == "OK"


def lock_is_free(db):
    """Another session gets the lock that a snapshot takes."""
    c = db.connect()
    try:
        with c.cursor() as cursor:
            cursor.execute("SET SESSION lock_wait_timeout=5")
            for stage in ("START", "BLOCK_COMMIT", "END"):
                cursor.execute(f"BACKUP STAGE {stage}")
    finally:
        c.close()


def start_snapshot(m, name):
    result = []

    def take():
        result.append(m.write("snapshot", f"{name}\n"))
    t = threading.Thread(target=take)
    t.start()
    return t, result


def record(m, name):
    return next(s for s in map(json.loads, m.read("list.json").splitlines()) if s["name"] == name)


def assert_unwound(site, name, complete=False):
    """All that the dead daemon held is free, what it made is gone, and the next snapshot works."""
    m, db, load, _, other = site
    wait_for("the gate", lambda: m.gate() == "open", GATE_TIMEOUT_S)
    assert m.status()["freeze"] == "thawed"
    lock_is_free(db)
    load.goes_on()
    m.wait_state(name, "complete" if complete else "failed")
    if complete:
        assert m.read(f"snapshots/{name}/last_error") == "none\n"
        assert (name not in [c[2] for c in m.null_calls() if c[1] in ("remove", "discard")])
    else:
        assert "stillfs ended before the consistency point was fixed" in m.read(f"snapshots/{name}/last_error")
        wait_for("the removal", lambda: ("remove", name) in [c[1:] for c in m.null_calls()])
        wait_for("its record", lambda: not record(m, name)["leftover"])
    for back in (m.back, other.fs / "back"):
        assert not (back / ".stillfs-position").exists()
    assert m.write("snapshot", f"{name}-next\n") == 0, m.last_error()
    m.wait_state(f"{name}-next", "complete")
    lock_is_free(db)


@needs_points
@pytest.mark.parametrize("point", POINTS + CLOSING)
def test_death_at_each_step_of_a_snapshot(site, point):
    m, _, _, faults, _ = site
    time.sleep(1.05)  # no crash loop
    name, restarts = point.replace(".", "-"), int(m.status()["restarts"])
    faults.arm(point)
    t, result = start_snapshot(m, name)
    wait_for(f"death at {point}", faults.killed)
    wait_for("the take-over", lambda: int(m.status()["restarts"]) == restarts + 1)
    m.daemon = int(m.status()["pid"])
    t.join(GATE_TIMEOUT_S + 5)
    assert not t.is_alive(), "the writer of `snapshot` hangs"
    assert result == [errno.ESHUTDOWN], m.last_error()
    assert "the daemon died while it was taken" in m.last_error()["message"]
    assert_unwound(site, name, complete=point in RECORDED)


@needs_points
@pytest.mark.parametrize("point", ["run.presync", "run.synced", "hold.trigger", "hold.triggered", "run.point"])
def test_death_up_to_the_point_leaves_nothing_of_a_local_set(make_mount, scratch, point):
    """As above for a provider that has made something on the disk by then: from the step that writes out before the hold, with
    pages dirty in a mapping, to the clone that is whole and not recorded."""
    faults = Faults(scratch.dir / "faults")
    m = make_mount(env={"STILLFS_FAULTS": str(faults.path)})
    sets = scratch.fs / "back.snapshots"
    (m.mnt / "mapped").write_bytes(bytes(1 << 20))
    writer = Writer(m, "appended")
    with open(m.mnt / "mapped", "r+b") as f, mmap.mmap(f.fileno(), 0) as area:
        area[:] = b"y" * len(area)
        faults.arm(point)
        t, result = start_snapshot(m, "one")
        wait_for(f"death at {point}", faults.killed)
        wait_for("the take-over", lambda: m.status()["restarts"] == "1")
        m.daemon = int(m.status()["pid"])
        t.join(30)
        assert not t.is_alive() and result == [errno.ESHUTDOWN], m.last_error()
        assert m.gate() == "open" and m.state("one") == "failed"
        writer.goes_on()
        wait_for("the removal", lambda: not record(m, "one")["leftover"])
        assert not sets.exists() or os.listdir(sets) == []
        area[:1] = b"z"
        area.flush()  # syncfs of the mount begins to write it out and does not wait (docs/limits.md)
        assert m.write("snapshot", "two\n") == 0, m.last_error()
    writer.end()
    m.wait_state("two", "complete")
    data = m.control / "snapshots" / "two" / "data"
    assert (data / "mapped").read_bytes() == b"z" + b"y" * ((1 << 20) - 1)
    assert set((data / "appended").read_bytes()) == set(b"x") and os.listdir(sets) == ["two"]


@needs_points
def test_death_in_the_drain_lets_go_of_the_lock_also_when_the_daemon_cannot_end(site):
    """Somebody froze the second pair's filesystem with a write of ours in it: the drain waits, and the killed daemon does
    not end before the thaw, its connections open. The server ends the lock by itself."""
    m, db, load, _, other = site
    time.sleep(1.05)
    restarts = int(m.status()["restarts"])
    fd = os.open(other.dir / "mnt" / "f", os.O_CREAT | os.O_WRONLY)
    written = []
    writer = threading.Thread(target=lambda: written.append(os.write(fd, b"x" * 100)), daemon=True)
    with db.connect() as watch, watch.cursor() as c:
        def locker():
            c.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'root' AND ID NOT IN "
                      f"(CONNECTION_ID(), {load.session})")
            return [r[0] for r in c.fetchall()]
        run("fsfreeze", "-f", other.fs)
        try:
            writer.start()
            wait_for("the write to be stuck", lambda: any(stuck(t) for t in tasks(m.daemon)))
            t, result = start_snapshot(m, "drain")
            wait_for("the drain", lambda: m.gate() == "closing")
            assert len(locker()) == 2  # one never holds anything: db.lock_patience
            os.kill(m.daemon, signal.SIGKILL)
            wait_for("the server's end of the lock", lambda: len(locker()) == 1, 20)
            assert any(stuck(t) for t in tasks(m.daemon)), "it has ended: nothing was shown"
        finally:
            run("fsfreeze", "-u", other.fs)
    wait_for("the take-over", lambda: int(m.status()["restarts"]) == restarts + 1)
    m.daemon = int(m.status()["pid"])
    t.join(GATE_TIMEOUT_S + 5)
    writer.join(20)
    os.close(fd)
    assert written == [100] and (other.fs / "back" / "f").read_bytes() == b"x" * 100
    assert result == [errno.ESHUTDOWN], m.last_error()
    assert_unwound(site, "drain")


def tasks(pid):
    return [f"{pid}/task/{t}" for t in os.listdir(f"/proc/{pid}/task")]


def stuck(task):
    return process_state(task) == "D"
