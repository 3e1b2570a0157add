"""SQLite in WAL mode on the mount: locks between processes, shared memory and mmap, crash and recovery."""

import contextlib
import pathlib
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from stillfs import run, wait_for

WRITER = pathlib.Path(__file__).parents[1] / "harness" / "litedb.py"


class Writer:
    """litedb.py; .acked: the last n that it said was committed."""

    def __init__(self, path, number, *pragmas):
        self.acked = 0
        self.process = subprocess.Popen([sys.executable, str(WRITER), str(path), str(number), *pragmas], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.acked = int(line)

    def end(self, kill=False):
        if kill:
            self.process.kill()
        else:
            self.process.stdin.close()
        assert self.process.wait(40) == (-9 if kill else 0), self.process.stderr.read()
        self.reader.join(10)
        return self.acked


@pytest.fixture
def database(mount):
    """The path of an empty database in WAL mode."""
    path = mount.mnt / "lite.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        db.execute("CREATE TABLE t (w INT, n INT, v BLOB, PRIMARY KEY (w, n)) WITHOUT ROWID")
        db.execute("CREATE TABLE total (n INT)")
        db.execute("INSERT INTO total VALUES (0)")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the database itself has pages to be mapped
    return path


@pytest.fixture
def writers():
    """A function that starts one; all end with the test."""
    made = []

    def make(*args):
        made.append(Writer(*args))
        return made[-1]
    yield make
    for w in made:
        if w.process.poll() is None:
            w.end(kill=True)


def check(path, acked):
    """Every acknowledged row, no gap, every byte, and a counter that no two processes changed at once."""
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        total = 0
        for w, at_least in enumerate(acked):
            rows = db.execute("SELECT n, v FROM t WHERE w=? ORDER BY n", (w,)).fetchall()
            assert [n for n, _ in rows] == list(range(1, len(rows) + 1)) and len(rows) >= at_least, (len(rows), at_least)
            assert all(v == bytes([n % 251]) * (100 + n * 37 % 3000) for n, v in rows)
            total += len(rows)
        assert db.execute("SELECT n FROM total").fetchone() == (total,)


def busy(of, each=40, within_s=40):
    wait_for(f"{each} commits of each process", lambda: all(w.acked >= each for w in of), within_s)


@pytest.mark.parametrize("mmap", [0, 1 << 28])
def test_processes_take_turns_and_readers_see_whole_transactions(database, writers, mmap):
    of = [writers(database, n, "synchronous=FULL", f"mmap_size={mmap}") for n in range(3)]
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as db:
        assert db.execute(f"PRAGMA mmap_size={mmap}").fetchone() == (mmap,)
        while min(w.acked for w in of) < 30:
            assert all(w.process.poll() is None for w in of)
            db.execute("BEGIN")
            assert db.execute("SELECT (SELECT COUNT(*) FROM t), n FROM total").fetchone()[0] == \
                db.execute("SELECT n FROM total").fetchone()[0]
            db.execute("COMMIT")
        maps = pathlib.Path(f"/proc/{of[0].process.pid}/maps")
        assert f"{database}-shm" in maps.read_text(), "the index of the log is shared memory"
        if mmap:  # mapped anew whenever the database has grown
            wait_for("the database to be mapped", lambda: f"{database}\n" in maps.read_text())
        else:
            assert f"{database}\n" not in maps.read_text()
    check(database, [w.end() for w in of])


def test_killed_writers_leave_every_acknowledged_commit_and_no_lock(database, writers):
    of = [writers(database, n, "synchronous=FULL") for n in range(3)]
    busy(of)
    acked = [of[0].end(kill=True)]
    before = of[1].acked
    wait_for("the others to go on", lambda: of[1].acked > before + 5, 20)
    acked += [w.end(kill=True) for w in of[1:]]
    assert (database.parent / "lite.db-wal").stat().st_size > 0
    check(database, acked)  # recovers


def test_a_checkpoint_truncates_the_log_under_load(database, writers):
    of = [writers(database, n, "synchronous=NORMAL") for n in range(2)]
    busy(of, 30)
    with contextlib.closing(sqlite3.connect(database, timeout=40)) as db:
        for _ in range(5):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            time.sleep(0.05)
    check(database, [w.end() for w in of])


def test_a_gate_only_snapshot_holds_every_acknowledged_commit(mount, database, writers):
    of = [writers(database, n, "synchronous=FULL") for n in range(2)]
    busy(of)
    acked = [w.acked for w in of]
    assert mount.write("snapshot", "lite\n") == 0, mount.last_error()
    mount.wait_state("lite", "complete", 40)
    copy = mount.scratch.fs / "copy"
    run("cp", "-a", "--reflink=always", (mount.control / "snapshots" / "lite" / "data").readlink(), copy)
    check(copy / "lite.db", acked)
    check(database, [w.end() for w in of])


def test_a_writer_that_waits_at_the_gate_goes_on_and_readers_do_not_wait(mount, database, writers):
    w = writers(database, 0, "synchronous=FULL")
    busy([w], 20)
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("SELECT n FROM total").fetchone()  # as root, opening it is a chown of the log, which would wait
        with mount.closed():
            wait_for("a parked commit", lambda: mount.status()["parked"] != "0")
            time.sleep(0.2)
            stuck = w.acked
            assert db.execute("SELECT COUNT(*) FROM t").fetchone()[0] >= stuck
            assert mount.gate() == "closed" and w.acked == stuck
    wait_for("the writer", lambda: w.acked > stuck + 5, 20)
    check(database, [w.end()])
