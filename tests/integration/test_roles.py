"""A set of each server in each role: taken under load, started, equal to its record, and a replica from its position.

`tests/run --all` (STILLFS_ALL) runs every role and the matrix of flush and sync settings; else one of each kind.
"""

import os
import shutil
import threading

import pytest

import replication
from mariadb import MariaDB
from mysql import MySQL
from roles import Load, assert_equals_the_record, clone_of, follow, schema, site, take
from stillfs import wait_for

ALL = bool(os.environ.get("STILLFS_ALL"))
ROLES = [(k, r) for k in (MariaDB, MySQL) for r in ("primary", "replica", "master-master", "read-only replica")] if ALL else \
    [(MariaDB, "primary"), (MySQL, "replica")]
MATRIX = [(f, s, where) for f in (0, 1, 2) for s in (0, 1) for where in ("inside", "outside")]
MATRIX = [(k, *row) for k in (MariaDB, MySQL) for row in MATRIX] if ALL else [(MariaDB, 0, 0, "outside")]


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
