"""MariaDB on the mount: its engines, page compression, asynchronous I/O, flush methods, mariadb-backup; each crash by
kill -9 with every acknowledged commit there afterwards."""

import os
import shutil

import pytest

from commits import Commits
from mariadb import MariaDB
from procfs import asynchronous_io, open_flags_below
from stillfs import Mount, Scratch, run

FLUSH = {"O_DIRECT": os.O_DIRECT, "fsync": 0, "O_DSYNC": os.O_DIRECT, "O_DIRECT_NO_FSYNC": os.O_DIRECT, "littlesync": 0}
AIO = {"io_uring": ["--innodb-linux-aio=io_uring"], "libaio": ["--innodb-linux-aio=aio"],
       None: ["--skip-innodb-use-native-aio"]}


@pytest.fixture(scope="module")
def site(later):
    """One server on one mount for the module; tests restart it with options of their own."""
    scratch = Scratch(size_mb=1500)
    later(scratch.close)
    m = Mount(scratch, start=False)
    later(m.close)
    m.start()
    (m.mnt / "data").mkdir()
    db = MariaDB(scratch.dir / "db", m.mnt / "data")
    later(db.close)
    db.start().query("CREATE DATABASE t")
    return m, db


@pytest.fixture(scope="module")
def native(site, later):
    """A server in a native directory of the same filesystem; not running between tests."""
    m, _ = site
    directory = m.scratch.fs / "native"
    directory.mkdir()
    db = MariaDB(m.dir / "db-native", directory, server_id=2)
    later(db.close)
    db.start().query("CREATE DATABASE t")
    db.stop()
    return db


@pytest.fixture
def server(site):
    """The server, as it is by default before and after the test."""
    m, db = site
    if not db.process:
        db.start()
    yield db
    db.stop()


def crash(db, *loads):
    """kill -9 under load; what each load's clients had acknowledged."""
    for load in loads:
        load.wait(40)
    db.kill()
    return [load.stop() for load in loads]


def test_each_engine_keeps_every_acknowledged_commit_over_kill_9(server):
    db = server
    loads = [Commits(db, f"t.e_{engine}", clients=2, engine=engine) for engine in ("InnoDB", "Aria", "MyISAM")]
    acked = crash(db, *loads)
    before = len(db.log())
    db.start()
    assert "Starting crash recovery from checkpoint" in db.log()[before:]
    assert "Aria engine: starting recovery" in db.log()[before:]
    db.query("REPAIR TABLE t.e_MyISAM")  # natively too, its index is behind the rows after a crash
    for load, last in zip(loads, acked):
        load.check(db, last)
        assert db.query(f"CHECK TABLE {load.table} EXTENDED")[-1][3] == "OK"
    db.query("DROP TABLE t.e_InnoDB, t.e_Aria, t.e_MyISAM")


@pytest.mark.parametrize("kind", AIO)
def test_asynchronous_io_of_each_kind_really_runs_and_recovers(server, kind):
    db = server
    db.restart(*AIO[kind])
    load = Commits(db, f"t.aio_{kind}", clients=2)
    load.wait(20)
    db.query(f"FLUSH TABLES {load.table} FOR EXPORT")  # pages written
    seen = asynchronous_io(db.process.pid)
    assert set(seen) == ({kind} if kind else set()), seen
    assert all(n > 0 for n in seen.values()), "set up and not used"
    acked = crash(db, load)
    db.start(*AIO[kind])
    load.check(db, acked[0])
    assert db.query(f"CHECK TABLE {load.table}")[0][3] == "OK"


@pytest.mark.parametrize("method", FLUSH)
def test_each_flush_method_opens_files_as_natively_and_recovers(server, native, method):
    db, option = server, f"--innodb-flush-method={method}"
    db.restart(option)
    load = Commits(db, f"t.f_{method}", clients=2, pad=2000)
    acked = crash(db, load)
    db.start(option)
    load.check(db, acked[0])
    assert db.query("SELECT @@innodb_flush_method")[0][0] == method
    assert db.query(f"CHECK TABLE {load.table}")[0][3] == "OK"
    native.start(option)
    flags, expected = (open_flags_below(s.process.pid, s.datadir) for s in (db, native))
    native.stop()
    assert flags["ibdata1"] == expected["ibdata1"] and {f & os.O_DIRECT for f in flags["ibdata1"]} == {FLUSH[method]}
    # MariaDB writes its log past the page cache only where it finds a block device of the file's st_dev: docs/limits.md
    assert [f & ~os.O_DIRECT for f in expected["ib_logfile0"]] == flags["ib_logfile0"]
    assert "Buffered log writes" in db.log() and "Buffered log writes" not in native.log()


def compressed(db, table):
    """A table of compressible rows, flushed; (bytes allocated, size) of its file."""
    db.query(f"CREATE TABLE {table} (id INT PRIMARY KEY, a VARCHAR(8000)) ENGINE=InnoDB PAGE_COMPRESSED=1"
             " DEFAULT CHARSET latin1")
    db.query(f"INSERT INTO {table} SELECT seq, REPEAT(CHAR(65 + seq % 20), 7000) FROM seq_1_to_1500", "t")
    db.query(f"FLUSH TABLES {table} FOR EXPORT")
    st = os.stat(db.datadir / (table.replace(".", "/") + ".ibd"))
    return st.st_blocks * 512, st.st_size


def test_page_compression_punches_holes_as_in_the_native_directory(site, server, native):
    m, db = site[0], server
    expected = compressed(native.start(), "t.holes")
    native.stop()
    allocated, size = compressed(db, "t.holes")
    assert size == expected[1]
    assert allocated < size // 2, "no block was given back"
    assert abs(allocated - expected[0]) < size // 20, (allocated, expected)
    back = m.back / "data" / "t" / "holes.ibd"
    assert os.stat(back).st_blocks * 512 == allocated
    with open(db.datadir / "t" / "holes.ibd", "rb") as f:
        hole = os.lseek(f.fileno(), 0, os.SEEK_HOLE)
    assert hole < size, "the mount shows no hole"
    db.kill()
    db.start()
    assert db.query("SELECT COUNT(*), MIN(LENGTH(a)) FROM t.holes") == ((1500, 7000),)
    assert db.query("CHECK TABLE t.holes")[0][3] == "OK"
    db.stop()  # recovery may have made all of them anew from the log, without reading one
    db.start()
    assert db.query("SELECT COUNT(*), MIN(LENGTH(a)) FROM t.holes") == ((1500, 7000),)
    assert db.query("SHOW GLOBAL STATUS LIKE 'Innodb_num_pages_page_decompressed'")[0][1] != "0"


def test_mariadb_backup_of_the_mount_restores_on_the_mount(site, server):
    m, db = site[0], server
    load = Commits(db, "t.backup", clients=2).wait(40)
    before, target = load.now(), m.scratch.fs / "backup"
    tool = ["mariadb-backup", "--no-defaults"]
    run(*tool, "--backup", f"--socket={db.socket}", "--user=root", f"--datadir={db.datadir}", f"--target-dir={target}")
    load.wait(30)
    end = load.stop()
    run(*tool, "--prepare", f"--target-dir={target}")
    restored = m.mnt / "restored"
    restored.mkdir()
    run(*tool, "--copy-back", f"--target-dir={target}", f"--datadir={restored}")
    run("chown", "-R", "mysql:mysql", restored)
    second = MariaDB(m.dir / "db2", restored, server_id=2, install=False)
    try:
        second.start()
        there = load.check(second, before)
        assert all(a <= b + 1 for a, b in zip(there, end)), "rows that nobody committed"
        assert second.query("CHECK TABLE t.backup")[0][3] == "OK"
    finally:
        second.close()
        shutil.rmtree(restored)
        shutil.rmtree(target)


def test_temporary_files_and_the_socket_live_on_the_mount(site, server):
    m, db = site[0], server
    temporary = m.mnt / "tmp"
    temporary.mkdir()
    shutil.chown(temporary, "mysql", "mysql")
    db.socket = m.mnt / "data" / "sock"
    try:
        db.restart(f"--tmpdir={temporary}", f"--socket={db.socket}")
        assert db.query("SELECT @@tmpdir")[0][0] == str(temporary)
        # sorted on disk, in a file that has no name
        rows = db.query("SELECT SQL_BIG_RESULT REPEAT(MD5(seq), 20) AS k, COUNT(*) FROM seq_1_to_20000 GROUP BY k", "t")
        assert len(rows) == 20000
        assert int(db.query("SHOW GLOBAL STATUS LIKE 'Created_tmp_files'")[0][1]) > 0
        outfile = m.mnt / "tmp" / "out"
        db.query(f"SELECT seq FROM seq_1_to_1000 INTO OUTFILE '{outfile}'", "t")
        db.query("CREATE TABLE t.loaded (a INT)")
        db.query(f"LOAD DATA INFILE '{outfile}' INTO TABLE t.loaded")
        assert db.query("SELECT COUNT(*), SUM(a) FROM t.loaded")[0] == (1000, 500500)
    finally:
        db.stop()
        db.socket = db.dir / "sock"
        shutil.rmtree(temporary)
