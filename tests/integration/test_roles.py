"""A set of each server in each role: taken under load, started, equal to its record, and a replica from its position.

`tests/run --all` (STILLFS_ALL) runs every role and the matrix of flush and sync settings; else one of each kind.
"""

import contextlib
import os
import random
import shutil
import threading

import pytest

import replication
from mariadb import MariaDB
from mysql import MySQL, mysql_root
from stillfs import Mount, Scratch, run, wait_for

ALL = bool(os.environ.get("STILLFS_ALL"))
ROLES = [(k, r) for k in (MariaDB, MySQL) for r in ("primary", "replica", "master-master", "read-only replica")] if ALL else \
    [(MariaDB, "primary"), (MySQL, "replica")]
MATRIX = [(f, s, where) for f in (0, 1, 2) for s in (0, 1) for where in ("inside", "outside")]
MATRIX = [(k, *row) for k in (MariaDB, MySQL) for row in MATRIX] if ALL else [(MariaDB, 0, 0, "outside")]


class Load:
    """Autoincrement inserts, deletes and counter updates."""

    def __init__(self, server, threads=3):
        self.server, self.ended, self.error, self.n = server, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(threads)]
        for t in self.threads:
            t.start()

    def _work(self, i):
        rnd = random.Random(i)
        try:
            c = self.server.connect("t")
            with c.cursor() as cursor:
                while not self.ended.is_set():
                    cursor.execute("INSERT INTO a (v) VALUES (%s)", (rnd.randrange(1000),))
                    cursor.execute("UPDATE counters SET n = n + 1 WHERE id = %s", (i,))
                    if rnd.random() < 0.3:
                        cursor.execute("DELETE FROM a WHERE id = %s", (cursor.lastrowid,))
                    self.n += 1
            c.close()
        except Exception as e:  # noqa: BLE001 - raised by stop()
            self.error.append(e)

    def run_for(self, more, within_s=20):
        goal = self.n + more
        wait_for("load", lambda: self.n >= goal or self.error, within_s)

    def stop(self):
        self.ended.set()
        for t in self.threads:
            t.join(20)
        if self.error:
            raise self.error[0]


def schema(server, offset=0):
    server.query("CREATE DATABASE t")
    server.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    server.query("CREATE TABLE t.counters (id INT PRIMARY KEY, n INT)")
    server.query("INSERT INTO t.counters VALUES (0,0),(1,0),(2,0)")


@contextlib.contextmanager
def site(kind, extra=(), **options):
    """A mount, and a function that makes servers that all end before it does."""
    if kind is MySQL:
        mysql_root()
    scratch = Scratch(size_mb=1500)
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.close)
        m = Mount(scratch, start=False, db="mysql", db__socket=scratch.dir / "a" / "sock", db__blocker_age=60, **options)
        stack.callback(m.close)
        m.start()

        def make(name, datadir, server_id, install=True, more=()):
            port = replication.free_port()
            datadir.mkdir(exist_ok=True)
            s = kind(scratch.dir / name, datadir, server_id, install=install,
                     options=[*replication.options(kind, port), *extra, *more])
            s.port = port
            stack.callback(s.close)
            s.start()
            return s
        yield m, make, scratch


def take(m, name="one"):
    assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
    m.wait_state(name, "complete", 40)
    return dict(line.split(" ", 1) for line in m.read(f"snapshots/{name}/position").splitlines())


def clone_of(m, scratch, sub):
    clone = scratch.fs / "restored"
    run("cp", "-a", "--reflink=always", os.readlink(m.control / "snapshots" / "one" / "data"), clone)
    data = clone / sub
    with contextlib.suppress(FileNotFoundError):
        (data / "auto.cnf").unlink()  # a server of its own
    return data


def assert_equals_the_record(clone, position, outside=False):
    mysql = isinstance(clone, MySQL)
    if not outside:
        # the restarted server begins another file; the last before it ends where the record says
        sizes = {row[0]: int(row[1]) for row in clone.query("SHOW BINARY LOGS")}
        assert sizes[position["binlog_file"]] == int(position["binlog_pos"])
        assert max(f for f in sizes if sizes[f] and f <= position["binlog_file"]) == position["binlog_file"]
    if mysql and not outside:
        assert replication.executed(clone).replace("\n", "") == position["gtid_executed"]
    elif not outside:
        assert clone.query("SELECT @@gtid_binlog_pos")[0][0] == position["gtid_binlog_pos"]


def follow(clone, source, gtid):
    """Make the clone a strict replica from the recorded position, and let it catch up."""
    mysql = isinstance(clone, MySQL)
    clone.query("STOP REPLICA" if mysql else "STOP ALL SLAVES")
    clone.query("RESET REPLICA ALL" if mysql else "RESET SLAVE ALL")
    if not mysql:
        clone.query(f"SET GLOBAL gtid_slave_pos='{gtid}'")
    replication.attach(clone, source.port)
    replication.catch_up(source, clone)


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind,role", ROLES)
def test_a_set_taken_under_load_starts_and_follows_from_its_record(kind, role):
    with site(kind) as (m, make, scratch):
        # two writable MariaDBs need a domain each: the numbers of one domain are one sequence
        domain = [f"--gtid-domain-id={n}" if role == "master-master" and kind is MariaDB else "--auto-increment-increment=2" for n in (1, 2)]
        a = make("a", m.mnt / "d", 1, more=["--auto-increment-increment=2", domain[0]])
        source = a
        loads = []
        if role != "primary":
            source = make("s", scratch.dir / "s-data", 2,
                          more=["--auto-increment-increment=2", "--auto-increment-offset=2", domain[1]])
            replication.account(source)
            replication.attach(a, source.port)
        else:
            replication.account(a)
        schema(source)
        if role == "master-master":
            replication.catch_up(source, a)
            replication.account(a)
            replication.attach(source, a.port)
        if role == "read-only replica":
            a.query("SET GLOBAL read_only=1")
        loads.append(Load(source, 2 if role == "master-master" else 3))
        loads[0].run_for(30)
        if role == "master-master":
            c = a.connect("t")
            mine = threading.Event()

            def other():
                with c.cursor() as cursor:
                    while not mine.is_set():
                        cursor.execute("INSERT INTO a (v) VALUES (7)")
            t = threading.Thread(target=other, daemon=True)
            t.start()
        position = take(m)
        loads[0].run_for(20)
        loads[0].stop()
        if role == "master-master":
            mine.set()
            t.join(20)
            c.close()
        data = clone_of(m, scratch, "d")
        clone = make("c", data, 3, install=False, more=["--skip-replica-start" if kind is MySQL else "--skip-slave-start"])
        assert_equals_the_record(clone, position)
        if role == "master-master":
            replication.catch_up(a, source)  # both ways are through
            replication.catch_up(source, a)
        gtid = position.get("gtid_current_pos", "")
        follow(clone, source, gtid)
        sums = replication.checksums(source, "t")
        wait_for("equal tables", lambda: replication.checksums(clone, "t") == sums)
        if source is not a:
            replication.catch_up(source, a)
            assert replication.checksums(a, "t") == sums
        assert replication.runs(clone)


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind,flush,sync,where", MATRIX)
def test_no_setting_of_flush_or_sync_lets_the_record_be_wrong(kind, flush, sync, where):
    outside = where == "outside"
    with site(kind, [f"--innodb-flush-log-at-trx-commit={flush}"], db__binlog_outside="yes" if outside else "no") as (m, make, scratch):
        logs = scratch.dir / "logs"
        logs.mkdir()
        shutil.chown(logs, "mysql", "mysql")
        more = [f"--log-bin={logs}/binlog" if outside else "--log-bin=binlog", f"--relay-log={logs}/relay",
                f"--sync-binlog={sync}"] if outside else [f"--sync-binlog={sync}"]
        a = make("a", m.mnt / "d", 1, more=more)
        replication.account(a)
        schema(a)
        load = Load(a)
        load.run_for(30)
        position = take(m)
        load.run_for(20)
        load.stop()
        data = clone_of(m, scratch, "d")
        clone = make("c", data, 3, install=False, more=["--skip-replica-start" if kind is MySQL else "--skip-slave-start",
                                                        "--log-bin=fresh" if outside else "--log-bin=binlog"])
        assert_equals_the_record(clone, position, outside)
        if kind is MySQL and outside:  # GTIDs after the last rotation were in the log that the set has not
            clone.query("RESET BINARY LOGS AND GTIDS")
            clone.query(f"SET GLOBAL gtid_purged='{position['gtid_executed']}'")
        if kind is MariaDB and outside:
            clone.query("RESET MASTER")
        follow(clone, a, position.get("gtid_binlog_pos", ""))
        sums = replication.checksums(a, "t")
        wait_for("equal tables", lambda: replication.checksums(clone, "t") == sums)
