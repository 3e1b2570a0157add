"""MySQL 9.7 on the mount: how it opens its files, crash and recovery, LOCK INSTANCE, clone."""

import pwd

import pytest

from commits import Commits
from mysql import MySQL
from procfs import status
from stillfs import Mount, Scratch


@pytest.fixture(scope="module")
def site(later):
    """One server on one mount for the module."""
    scratch = Scratch(size_mb=1500)
    later(scratch.close)
    m = Mount(scratch, start=False)
    later(m.close)
    m.start()
    (m.mnt / "data").mkdir()
    db = MySQL(scratch.dir / "db", m.mnt / "data")
    later(db.close)
    db.start().query("CREATE DATABASE t")
    return m, db


def test_it_runs_as_its_own_user_with_its_defaults(site):
    m, db = site
    process, uid = status(db.process.pid), pwd.getpwnam("mysql").pw_uid
    assert process["Name"] == "mysqld"
    assert process["Uid"].split() == [str(uid)] * 4 and int(process["CapEff"], 16) == 0
    assert db.query("SELECT @@version")[0][0].startswith("9.")
    assert db.query("SELECT @@innodb_flush_method, @@innodb_doublewrite, @@log_bin, @@sync_binlog,"
                    " @@innodb_flush_log_at_trx_commit") == (("O_DIRECT", "ON", 1, 1, 1),)
    owners = {p.stat().st_uid for p in db.datadir.rglob("*")}
    assert owners == {uid}


def test_every_acknowledged_commit_survives_kill_9(site):
    m, db = site
    load = Commits(db, "t.killed")
    load.wait(100)
    acked = load.now()
    db.kill()
    last = load.stop()
    assert all(b >= a for a, b in zip(acked, last))
    before = len(db.log())
    db.start("--log-error-verbosity=3")
    assert "redo log records" in db.log()[before:], "nothing was recovered"
    load.check(db, last)
    assert db.query("CHECK TABLE t.killed")[0][3] == "OK"
