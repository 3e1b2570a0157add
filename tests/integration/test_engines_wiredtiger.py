"""libwiredtiger, MongoDB's storage engine, on the mount: crash and recovery with mmap and direct I/O on and off, log,
checkpoints, compaction, its lock; what a snapshot holds, with and without a backup cursor; the closed gate."""

import os
import pathlib
import queue
import subprocess
import time

import pytest

from procfs import open_flags_below
from stillfs import Mount, Scratch, process_state, run, wait_for
from wiredtiger import CONFIG, WiredTiger, build

MODES = {"mmap": "mmap=true", "no mmap": "mmap=false", "direct data": "mmap=false,direct_io=[data],buffer_alignment=4KB",
         "direct all": "mmap=false,direct_io=[data,checkpoint,log],buffer_alignment=4KB",
         "log by dsync": "mmap=true,transaction_sync=(enabled=true,method=dsync)"}


@pytest.fixture(scope="module")
def site(later):
    """A mount with the provider `local`, and the program."""
    scratch = Scratch(size_mb=1500)
    later(scratch.close)
    m = Mount(scratch, start=False)
    later(m.close)
    m.start()
    return m, build(scratch.dir)


@pytest.fixture
def database(site):
    """A function that makes databases, each in a directory of its own; all end with the test."""
    m, program = site
    made = []

    def make(**kw):
        made.append(WiredTiger(program, m.mnt / f"wt-{len(list(m.mnt.iterdir()))}", **kw))
        return made[-1]
    yield make
    for db in made:
        if db.process.poll() is None:
            db.kill()


def mapped(pid, path):
    return str(path) in pathlib.Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("mode", MODES)
def test_every_acknowledged_commit_survives_kill_9(database, mode):
    db = database(config=MODES[mode])
    db.wait(20)
    db.do("checkpoint")
    assert db.do("read") >= 4 * 20
    flags = open_flags_below(db.process.pid, db.home)
    assert {bool(f & os.O_DIRECT) for f in flags["t.wt"]} == {"direct" in mode}, flags
    logs = [f for name in flags if name.startswith("WiredTigerLog.") for f in flags[name]]
    assert logs and all(bool(f & os.O_DIRECT) == (mode == "direct all") for f in logs), flags
    assert any(f & os.O_DSYNC for f in logs) == (mode == "log by dsync"), flags
    assert mapped(db.process.pid, db.home / "t.wt") == MODES[mode].startswith("mmap=true")
    db.wait(20)
    db.check(db.kill())


@pytest.mark.parametrize("what", ["checkpoint", "compact"])
def test_a_crash_in_the_midst_of_a_checkpoint_or_a_compaction_loses_nothing(database, what):
    for delay_s in (0, 0.004, 0.03):
        db = database(config="mmap=true").wait(20)
        if what == "compact":
            db.do("checkpoint")
            db.wait(10)
        db.send(what)
        time.sleep(delay_s)
        db.check(db.kill())


def test_compaction_gives_blocks_back_and_keeps_the_rest(database):
    db = database(config="mmap=true")
    db.wait(200)
    db.do("quiet")
    db.do("checkpoint")
    size = (db.home / "t.wt").stat().st_size
    deleted = db.do("thin")
    db.do("checkpoint")
    for _ in range(5):  # which blocks one pass can move depends on when the last checkpoint ended
        db.do("compact")
        db.do("checkpoint")
        if (db.home / "t.wt").stat().st_size < size // 2:
            break
    acked = db.kill()
    after = (db.home / "t.wt").stat().st_size
    assert after < size // 2, (size, after)
    rows = db.rows()
    assert sum(count for count, _ in rows.values()) == sum(acked) - deleted
    assert all(last == n for (_, last), n in zip(rows.values(), acked))


def test_a_second_process_does_not_get_the_lock(site, database):
    db = database(writers=1)
    r = subprocess.run([str(db.program), "verify", str(db.home), CONFIG], capture_output=True, text=True, timeout=20)
    assert r.returncode == 1 and "already being managed by another process" in r.stderr, r.stderr
    db.end()
    assert db.rows()


def data_of(m, name):
    return pathlib.Path(os.readlink(m.control / "snapshots" / name / "data"))


def clone(m, name, home):
    """The set's copy of `home`, as a directory that can be written to."""
    to = m.scratch.fs / f"clone-{name}"
    m.wait_state(name, "complete", 40)
    run("cp", "-a", "--reflink=always", data_of(m, name) / home.relative_to(m.mnt), to)
    return to


@pytest.mark.parametrize("mode", ["mmap", "direct data"])
def test_a_gate_only_snapshot_recovers_with_every_acknowledged_commit(site, database, mode):
    m, _ = site
    db = database(config=MODES[mode])
    for n in range(2):
        name = f"{mode.replace(' ', '')}{n}"
        db.wait(20)
        if n:
            db.send("checkpoint")
        asked = db.now()
        assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
        returned = [a + 1 for a in db.now()]
        if n:
            db.answer("checkpoint")
        there = db.check(asked, clone(m, name, db.home))
        assert all(t <= r for t, r in zip(there, returned)), "a commit later than the snapshot's return"
    db.check(db.kill())


def test_a_snapshot_under_an_open_backup_cursor_recovers_too(site, database):
    m, _ = site
    db = database(config="mmap=true")
    db.wait(20)
    assert db.do("backup") > 3
    db.wait(20)
    asked = db.now()
    assert m.write("snapshot", "cursor\n") == 0, m.last_error()
    home = clone(m, "cursor", db.home)
    assert (home / "WiredTiger.backup").exists()
    db.check(asked, home)
    db.do("backup-end")
    assert not (db.home / "WiredTiger.backup").exists()
    db.check(db.kill())


def test_a_backup_cursor_closes_when_the_gate_opens_and_not_before(site, database):
    m, _ = site
    db = database(config="mmap=true", writers=2)
    db.wait(20)
    db.do("quiet")
    time.sleep(0.2)
    assert db.do("backup") > 3
    with m.closed():
        db.send("backup-end")
        wait_for("the parked removal", lambda: m.status()["parked"] != "0")
        with pytest.raises(queue.Empty):
            db.answers.get(timeout=1.0)
        assert (db.home / "WiredTiger.backup").read_bytes(), "a read waits too"
        assert process_state(db.process.pid) == "S"
    assert db.answer("backup-end", 10) == 0
    assert not (db.home / "WiredTiger.backup").exists()
    db.check(db.kill())


def test_a_backup_cursor_does_not_open_at_a_closed_gate_and_commits_wait(site, database):
    m, _ = site
    db = database(config="log=(enabled=true,file_max=50MB)")  # a new log file would wait too
    db.wait(20)
    with m.closed():
        wait_for("parked commits", lambda: m.status()["parked"] != "0")
        db.send("backup")
        time.sleep(0.3)
        stuck = db.now()
        with pytest.raises(queue.Empty):
            db.answers.get(timeout=0.7)
        assert db.now() == stuck, "a commit was acknowledged at a closed gate"
    assert db.answer("backup", 10) > 3
    db.do("backup-end")
    db.wait(10)
    db.check(db.kill())
