"""What a server under the mount may be doing or going through: logging each statement, being killed, being slow to come."""

import contextlib
import errno
import threading

import pytest

from mariadb import MariaDB
from mysql import MySQL, mysql_root
from stillfs import Mount, Scratch, wait_for


@pytest.fixture(scope="module", params=[MariaDB, MySQL], ids=["mariadb", "mysql"])
def site(request):
    if request.param is MySQL:
        mysql_root()
    with contextlib.ExitStack() as stack:
        scratch = Scratch()
        stack.callback(scratch.close)
        m = Mount(scratch, provider="null", db="mysql", db__socket=scratch.dir / "db" / "sock", db__blocker_age=60,
                  gate_timeout=50)
        stack.callback(m.close)
        (m.mnt / "d").mkdir()
        db = request.param(scratch.dir / "db", m.mnt / "d")
        stack.callback(db.close)
        db.start()
        db.query("CREATE DATABASE t")
        db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
        yield m, db


def figure(m, name, what):
    return float(m.read(f"snapshots/{name}/{what}"))


def test_logs_of_every_statement_on_the_mount_do_not_hold_the_unlock(site):
    """UNLOCK itself would be logged, into a file behind the closed gate."""
    m, db = site
    db.query("SET GLOBAL slow_query_log=1")
    db.query("SET GLOBAL general_log=1")
    db.query("SET GLOBAL long_query_time=0")
    m.null("trigger delay_ms 4000\n")
    try:
        assert m.write("snapshot", "logs\n") == 0, m.last_error()
    finally:
        m.null("")
        for name in ("slow_query_log=0", "general_log=0", "long_query_time=10"):
            db.query(f"SET GLOBAL {name}")
    logs = [p.read_text(errors="replace") for p in (m.mnt / "d").glob("*.log")]
    assert any("long_query_time=0" in text for text in logs), "they are on the mount, and written"
    assert not any("UNLOCK" in text or "BACKUP STAGE" in text for text in logs)
    assert figure(m, "logs", "hold_ms") >= 4000
    assert figure(m, "logs", "lock_ms") < figure(m, "logs", "hold_ms") / 2
    assert "binlog_file" in m.read("snapshots/logs/position")


def test_a_server_that_is_killed_and_starts_again_during_the_hold_spoils_nothing(site):
    """Its position was read and its lock given back before; it comes up when the gate opens, and the next set is taken."""
    m, db = site
    m.null("trigger hang\n")
    results = []
    t = threading.Thread(target=lambda: results.append(m.write("snapshot", "killed\n")))
    t.start()
    try:
        wait_for("the provider", lambda: ("trigger", "killed") in [c[1:] for c in m.null_calls()])
        db.kill()
        db.launch()
        wait_for("its first write at the gate", lambda: int(m.status()["parked"]) > 0)
    finally:
        m.null("")
        t.join(60)
    assert results == [0], m.last_error()
    wait_for("the server", db._answers)
    m.wait_state("killed", "complete")
    assert "binlog_file" in m.read("snapshots/killed/position")
    db.query("INSERT INTO t.a (v) VALUES (1)")
    assert m.write("snapshot", "after\n") == 0, m.last_error()
    assert "binlog_file" in m.read("snapshots/after/position")


def test_a_server_that_is_restarted_is_connected_to_again(site):
    m, db = site
    assert m.write("snapshot", "first\n") == 0, m.last_error()
    db.stop()
    assert m.write("snapshot", "down\n") == errno.ECONNREFUSED
    assert m.gate() == "open"
    db.start()
    assert m.write("snapshot", "up\n") == 0, m.last_error()
