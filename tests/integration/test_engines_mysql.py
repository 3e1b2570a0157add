"""MySQL 9.7 on the mount: how it opens its files, asynchronous I/O, page compression, its redo log, LOCK INSTANCE, clone;
crash and recovery with every acknowledged commit there afterwards."""

import os
import pathlib
import pwd
import shutil
import threading

import pymysql
import pytest

from commits import Commits
from mysql import MySQL
from procfs import asynchronous_io, open_flags_below, status
from stillfs import Mount, Scratch, run, wait_for

LONG = bool(os.environ.get("STILLFS_ALL"))
RECOVERED = "redo log records"  # "Applying a batch of N redo log records", at verbosity 3


@pytest.fixture(scope="module")
def site(later):
    """One server on one mount for the module; tests restart it with options of their own."""
    scratch = Scratch(size_mb=2500)
    later(scratch.close)
    m = Mount(scratch, start=False)
    later(m.close)
    m.start()
    (m.mnt / "data").mkdir()
    db = MySQL(scratch.dir / "db", m.mnt / "data")
    later(db.close)
    db.start().query("CREATE DATABASE t")
    return m, db


@pytest.fixture
def server(site):
    """The server, as it is by default before the test."""
    return site[1] if site[1].process else site[1].start()


@pytest.fixture(scope="module")
def native(site, later):
    """A server on a native copy of the datadir; neither it nor the module's runs after this."""
    m, db = site
    db.stop()
    run("cp", "-a", m.back / "data", m.scratch.fs / "native")
    (m.scratch.fs / "native" / "auto.cnf").unlink()
    other = MySQL(m.dir / "db-native", m.scratch.fs / "native", server_id=2, install=False)
    later(other.close)
    return other


def another(m, datadir, later_):
    """A server on a copy of the datadir, running."""
    db = MySQL(m.dir / f"db-{datadir.name}", datadir, server_id=3, install=False)
    later_.append(db)
    return db.start()


@pytest.fixture
def copies(site):
    """Servers on copies: appended to it, ended, and their datadirs removed."""
    made = []
    yield made
    for db in made:
        db.close()
        shutil.rmtree(db.datadir)


def crash(db, load, *options):
    """kill -9 under load, start again, and what was acknowledged is there."""
    load.wait(40)
    db.kill()
    last = load.stop()
    before = len(db.log())
    db.start("--log-error-verbosity=3", *options)
    assert RECOVERED in db.log()[before:], "nothing was recovered"
    load.check(db, last)
    assert db.query(f"CHECK TABLE {load.table}")[0][3] == "OK"


def test_it_runs_as_its_own_user_with_its_defaults(server):
    process, uid = status(server.process.pid), pwd.getpwnam("mysql").pw_uid
    assert process["Name"] == "mysqld"
    assert process["Uid"].split() == [str(uid)] * 4 and int(process["CapEff"], 16) == 0
    assert server.query("SELECT @@version")[0][0].startswith("9.")
    assert server.query("SELECT @@innodb_flush_method, @@innodb_doublewrite, @@log_bin, @@sync_binlog,"
                        " @@innodb_flush_log_at_trx_commit") == (("O_DIRECT", "ON", 1, 1, 1),)
    assert {p.stat().st_uid for p in server.datadir.rglob("*")} == {uid}


def test_it_opens_each_file_as_in_the_native_directory(native, server):
    flags = open_flags_below(server.process.pid, server.datadir)
    server.stop()
    expected = open_flags_below(native.start().process.pid, native.datadir)
    native.stop()
    assert flags["ibdata1"] == expected["ibdata1"] and all(f & os.O_DIRECT for f in flags["ibdata1"])

    def stable(of):  # redo (its directory, too, for moments) and binary logs have numbers of their own
        return {name: f for name, f in of.items() if not name.startswith(("#innodb_redo", "binlog.", "#innodb_temp/"))}
    assert stable(flags) == stable(expected)
    assert {f for name, v in flags.items() if name.startswith("#innodb_redo/") for f in v} == \
        {f for name, v in expected.items() if name.startswith("#innodb_redo/") for f in v}


def test_every_acknowledged_commit_survives_kill_9_with_libaio(server):
    load = Commits(server, "t.killed").wait(20)
    server.query("FLUSH TABLES t.killed FOR EXPORT")  # pages written
    seen = asynchronous_io(server.process.pid)
    assert set(seen) == {"libaio"} and seen["libaio"] > 0, seen
    crash(server, load)


@pytest.mark.parametrize("options", [["--skip-innodb-use-native-aio", "--innodb-flush-method=fsync"],
                                     *([[f"--innodb-flush-method={m}"] for m in ("O_DSYNC", "O_DIRECT_NO_FSYNC", "littlesync")]
                                       if LONG else [])], ids=" ".join)
def test_other_ways_of_writing_recover_too(server, options):
    server.restart(*options)
    pid = server.process.pid
    direct = "O_DIRECT" in options[-1]
    assert {bool(f & os.O_DIRECT) for f in open_flags_below(pid, server.datadir)["ibdata1"]} == {direct}
    if "--skip-innodb-use-native-aio" in options:
        assert asynchronous_io(pid) == {}
    crash(server, Commits(server, f"t.w{abs(hash(options[-1]))}", clients=2), *options)
    server.stop()


def compressed(db):
    """A table of compressible rows, flushed; the state of its file."""
    db.query("CREATE TABLE t.holes (id INT PRIMARY KEY, a VARCHAR(8000)) COMPRESSION='zlib' CHARSET latin1")
    with db.connect("t") as c, c.cursor() as cursor:
        cursor.execute("SET cte_max_recursion_depth=2000")
        cursor.execute("INSERT INTO holes WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)"
                       " SELECT i, REPEAT(CHAR(65 + i % 20), 7000) FROM n")
    db.query("FLUSH TABLES t.holes FOR EXPORT")
    return (db.datadir / "t" / "holes.ibd").stat()


def test_page_compression_punches_holes_as_in_the_native_directory(site, native, server):
    m = site[0]
    expected = compressed(native.start())
    native.stop()
    st, back = compressed(server), m.back / "data" / "t" / "holes.ibd"
    assert st.st_size == expected.st_size
    assert st.st_size - st.st_blocks * 512 > 3 << 20, "no block was given back"  # 350 pages, 12 KiB of each
    assert abs(st.st_blocks - expected.st_blocks) * 512 < st.st_size // 20, (st, expected)
    assert back.stat().st_blocks == st.st_blocks
    server.kill()
    server.start()
    assert server.query("SELECT COUNT(*), MIN(LENGTH(a)) FROM t.holes") == ((700, 7000),)
    assert server.query("CHECK TABLE t.holes")[0][3] == "OK"


def test_the_redo_log_turns_over_is_resized_and_recovers(server):
    def files():
        return {p.name for p in (server.datadir / "#innodb_redo").iterdir()}
    server.query("SET GLOBAL innodb_redo_log_capacity=8388608")
    first = files()
    load = Commits(server, "t.redo", clients=2, pad=4000)
    wait_for("every file of the redo log to be a later one", lambda: not files() & first, 40)
    server.query("SET GLOBAL innodb_redo_log_capacity=16777216")
    crash(server, load)
    assert server.query("SELECT @@innodb_redo_log_capacity")[0][0] == 104857600


def test_lock_instance_holds_ddl_and_a_gate_only_snapshot_under_it_recovers(site, server, copies):
    m = site[0]
    load = Commits(server, "t.locked", clients=2)
    holder = server.connect()
    with holder.cursor() as cursor:
        cursor.execute("LOCK INSTANCE FOR BACKUP")
        ddl = threading.Thread(target=server.query, args=("CREATE TABLE t.late (a INT)",), daemon=True)
        ddl.start()
        wait_for("the DDL to wait", lambda: server.query(
            "SELECT COUNT(*) FROM performance_schema.processlist WHERE state = 'Waiting for backup lock'")[0][0] == 1)
        asked = load.wait(20).now()  # commits go on
        assert m.write("snapshot", "lockinstance\n") == 0, m.last_error()
        cursor.execute("UNLOCK INSTANCE")
    holder.close()
    ddl.join(20)
    assert not ddl.is_alive() and server.query("SELECT COUNT(*) FROM t.late") == ((0,),)
    load.stop()
    m.wait_state("lockinstance", "complete", 40)
    copy = m.scratch.fs / "lockinstance"
    data = pathlib.Path(os.readlink(m.control / "snapshots" / "lockinstance" / "data"))
    run("cp", "-a", "--reflink=always", data / "data", copy)
    db = another(m, copy, copies)
    load.check(db, asked)
    with pytest.raises(pymysql.err.ProgrammingError):
        db.query("SELECT * FROM t.late")


def test_a_local_clone_of_the_clone_plugin_starts_with_every_commit(site, server, copies):
    m = site[0]
    server.query("INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
    load = Commits(server, "t.cloned", clients=2).wait(20)
    asked, target = load.now(), m.mnt / "clones"
    target.mkdir()
    shutil.chown(target, "mysql", "mysql")
    server.query(f"CLONE LOCAL DATA DIRECTORY = '{target}/one'")
    load.wait(30)
    end = load.stop()
    db = another(m, target / "one", copies)
    there = load.check(db, asked)
    assert all(a <= b for a, b in zip(there, end)), "rows that nobody committed"
    assert server.query("SELECT STATE FROM performance_schema.clone_status") == (("Completed",),)


def test_a_second_server_on_the_bare_backing_gets_no_lock(site, server):
    m = site[0]
    second = MySQL(m.dir / "db-second", m.back / "data", server_id=4, install=False)
    try:
        second.launch()  # it goes on trying for 100 s
        wait_for("its word", lambda: "Unable to lock ./ibdata1 error: 11" in second.log(), 30)
    finally:
        second.kill()
        second.close()
    assert server.query("SELECT 1") == ((1,),)
