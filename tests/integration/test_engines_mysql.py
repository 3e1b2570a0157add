"""MySQL 9.7 on the mount: how it opens its files, crash and recovery, LOCK INSTANCE, clone."""

import pathlib
import pwd

import pytest

from commits import Commits
from mysql import MySQL, mysql_root
from stillfs import Mount, Scratch


@pytest.fixture(scope="module")
def site():
    """One server on one mount for the module."""
    mysql_root()
    scratch = Scratch(size_mb=1500)
    m = Mount(scratch)
    db = MySQL(scratch.dir / "db", m.mnt).start()
    yield m, db
    db.stop()
    m.close()
    scratch.close()


def flags(pid, name):
    """The open flags of the process's descriptors on files of that name."""
    found = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if fd.is_symlink() and fd.readlink().name == name:
            text = (fd.parents[1] / "fdinfo" / fd.name).read_text()
            found.append(int(dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)["flags"], 8))
    return found


def test_it_runs_as_its_own_user_with_its_defaults(site):
    m, db = site
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{db.process.pid}/status").read_text().splitlines())
    uid = pwd.getpwnam("mysql").pw_uid
    assert status["Name"] == "mysqld"
    assert status["Uid"].split() == [str(uid)] * 4 and int(status["CapEff"], 16) == 0
    assert db.query("SELECT @@version")[0][0].startswith("9.")
    assert db.query("SELECT @@innodb_flush_method, @@innodb_doublewrite, @@log_bin, @@sync_binlog,"
                    " @@innodb_flush_log_at_trx_commit") == (("O_DIRECT", "ON", 1, 1, 1),)
    owners = {p.stat().st_uid for p in m.mnt.rglob("*")}
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
